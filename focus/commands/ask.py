"""Ask a policy one question about one picture: `python -m focus.ask image=photo.jpg question="What does the sign say?"`."""

import hydra
from omegaconf import DictConfig

from focus import config


def run(cfg: DictConfig) -> None:
    from focus.runs import ask

    ask.run(cfg)


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="ask")
def main(cfg: DictConfig) -> None:
    config.guarded(run, cfg)


if __name__ == "__main__":
    config.start(main, "ask")
