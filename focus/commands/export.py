"""Write embedded scenes to disk as records: `python -m focus.export`."""

import hydra
from omegaconf import DictConfig

from focus import config


def run(cfg: DictConfig) -> None:
    from focus.runs import export

    export.run(cfg)


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="export")
def main(cfg: DictConfig) -> None:
    config.guarded(run, cfg)


if __name__ == "__main__":
    config.start(main, "export")
