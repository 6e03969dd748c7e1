"""Show what has run of a sweep: `python -m focus.sweep sweep=outputs/gap_sweep`."""

import hydra
from omegaconf import DictConfig

from focus import config


def run(cfg: DictConfig) -> None:
    from focus.runs import sweep

    sweep.run(cfg)


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="sweep")
def main(cfg: DictConfig) -> None:
    config.guarded(run, cfg)


if __name__ == "__main__":
    config.start(main, "sweep")
