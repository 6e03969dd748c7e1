"""Estimate the memory and time of a run: `python -m focus.plan experiment=stage1_7b devices=8`."""

import hydra
from omegaconf import DictConfig

from focus import config


def run(cfg: DictConfig) -> None:
    from focus.runs import plan

    plan.run(cfg)


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="plan")
def main(cfg: DictConfig) -> None:
    config.guarded(run, cfg)


if __name__ == "__main__":
    config.start(main, "plan")
