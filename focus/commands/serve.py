"""Serve a policy with its crop loop behind an OpenAI-compatible endpoint: `python -m focus.serve policy.checkpoint=FOLDER`."""

import hydra
from omegaconf import DictConfig

from focus import config


def run(cfg: DictConfig) -> None:
    from focus.runs import serve

    serve.run(cfg)


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="serve")
def main(cfg: DictConfig) -> None:
    config.guarded(run, cfg)


if __name__ == "__main__":
    config.start(main, "serve")
