"""Measure accuracy, cost and boxes of a policy.

`python -m focus.evaluate policy.checkpoint=FOLDER data=vstar`
"""

import hydra
from omegaconf import DictConfig

from focus import config


def run(cfg: DictConfig) -> None:
    from focus.runs import evaluate

    evaluate.run(cfg)


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="evaluate")
def main(cfg: DictConfig) -> None:
    config.guarded(run, cfg)


if __name__ == "__main__":
    config.start(main, "evaluate")
