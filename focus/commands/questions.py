"""Make questions from your own photographs and PDFs: `python -m focus.questions folder=FOLDER`."""

import hydra
from omegaconf import DictConfig

from focus import config


def run(cfg: DictConfig) -> None:
    from focus.runs import questions

    questions.run(cfg)


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="questions")
def main(cfg: DictConfig) -> None:
    config.guarded(run, cfg)


if __name__ == "__main__":
    config.start(main, "questions")
