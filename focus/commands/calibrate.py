"""Choose the view of each question by its answers (E2): `python -m focus.calibrate`."""

import hydra
from omegaconf import DictConfig

from focus import config


def run(cfg: DictConfig) -> None:
    from focus.runs import calibrate

    calibrate.run(cfg)


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="calibrate")
def main(cfg: DictConfig) -> None:
    config.guarded(run, cfg)


if __name__ == "__main__":
    config.start(main, "calibrate")
