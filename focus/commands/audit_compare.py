"""Two cards of audits side by side: `python -m focus.audit_compare cards=[a/card.json,b/card.json]`."""

import hydra
from omegaconf import DictConfig

from focus import config


def run(cfg: DictConfig) -> None:
    from focus.runs import audit_compare

    audit_compare.run(cfg)


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="audit_compare")
def main(cfg: DictConfig) -> None:
    config.guarded(run, cfg)


if __name__ == "__main__":
    config.start(main, "audit_compare")
