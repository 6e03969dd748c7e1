"""Does an agent look at its crops? One protocol, one card. `python -m focus.audit policy.checkpoint=NAME policy.dialect=deepeyes`."""

import hydra
from omegaconf import DictConfig

from focus import config


def run(cfg: DictConfig) -> None:
    from focus.runs import audit

    audit.run(cfg)


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="audit")
def main(cfg: DictConfig) -> None:
    config.guarded(run, cfg)


if __name__ == "__main__":
    config.start(main, "audit")
