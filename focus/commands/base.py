"""Train the embedded base policy from nothing (hours): `python -m focus.base`."""

import hydra
from omegaconf import DictConfig

from focus import config


def run(cfg: DictConfig) -> None:
    from focus.runs import base

    base.run(cfg)


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="base")
def main(cfg: DictConfig) -> None:
    config.guarded(run, cfg)


if __name__ == "__main__":
    config.start(main, "base")
