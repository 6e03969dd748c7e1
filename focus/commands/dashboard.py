"""Save the views of a W&B project: `python -m focus.dashboard project=ENTITY/PROJECT`."""

import hydra
from omegaconf import DictConfig

from focus import config


def run(cfg: DictConfig) -> None:
    from focus.runs import dashboard

    dashboard.run(cfg)


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="dashboard")
def main(cfg: DictConfig) -> None:
    config.guarded(run, cfg)


if __name__ == "__main__":
    config.start(main, "dashboard")
