"""Train a policy, measure it, write the report: `python -m focus.train experiment=stage1`."""

import hydra
from omegaconf import DictConfig

from focus import config


def run(cfg: DictConfig) -> None:
    from focus.runs import train

    train.run(cfg)


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="train")
def main(cfg: DictConfig) -> None:
    config.guarded(run, cfg)


if __name__ == "__main__":
    config.start(main, "train")
