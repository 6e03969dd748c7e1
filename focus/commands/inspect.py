"""Show what a data set holds: `python -m focus.inspect data=vstar`."""

import hydra
from omegaconf import DictConfig

from focus import config


def run(cfg: DictConfig) -> None:
    from focus.runs import inspect

    inspect.run(cfg)


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="inspect")
def main(cfg: DictConfig) -> None:
    config.guarded(run, cfg)


if __name__ == "__main__":
    config.start(main, "inspect")
