"""See what policies looked at, in a browser: `python -m focus.lightbox`."""

import hydra
from omegaconf import DictConfig

from focus import config


def run(cfg: DictConfig) -> None:
    from focus.runs import lightbox

    lightbox.run(cfg)


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="lightbox")
def main(cfg: DictConfig) -> None:
    config.guarded(run, cfg)


if __name__ == "__main__":
    config.start(main, "lightbox")
