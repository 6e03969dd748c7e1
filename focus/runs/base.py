"""Rebuild the embedded base policy from nothing (hours)."""

from pathlib import Path

import torch
from omegaconf import DictConfig

from focus import config
from focus.config.schema import BaseConfig
from focus.pretraining.train import train


def run(composed: DictConfig) -> None:
    """Train the base and write it in the Hugging Face layout."""
    cfg = config.validated(composed, BaseConfig)
    torch.set_num_threads(cfg.threads)
    output = Path(cfg.output)
    with config.alone(cfg.output):
        train(cfg, output).save(output / "policy")
    print(f"base policy: {output / 'policy'}   record: {output / 'record.csv'}")
