"""Does a policy look at its crops? `python -m focus.probe policy.checkpoint=FOLDER`."""

import hydra
from omegaconf import DictConfig

from focus import config


def run(cfg: DictConfig) -> None:
    from focus.runs import probe

    probe.run(cfg)


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="probe")
def main(cfg: DictConfig) -> None:
    config.guarded(run, cfg)


if __name__ == "__main__":
    config.start(main, "probe")
