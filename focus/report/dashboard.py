"""Trajectories on a live dashboard, every few updates: pictures and texts beside the curves."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger

from focus.report.picture import draw_trajectory, draw_view
from focus.rewards import Example
from focus.rollout.trajectory import Trajectory


class TrajectoryTable(pl.Callback):
    """Send some trajectories of every `every_updates`-th update to W&B (a table) or TensorBoard (pictures); CSV takes none.

    The policy exposes `updates_done` (from 1) and `last_examples`. They are spread over the update, so that they belong to
    different questions where there are several. Only rank zero sends. Raises ValueError where a number is below 1.
    """

    def __init__(self, every_updates: int = 20, rows: int = 4) -> None:
        for name, value in (("every_updates", every_updates), ("rows", rows)):
            if value < 1:
                raise ValueError(f"{name} of TrajectoryTable is {value}; it must be at least 1. To send nothing remove the callback.")
        self.every_updates, self.rows = every_updates, rows
        self._sent_update = 0

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: object, batch: object, batch_idx: int) -> None:
        update = int(pl_module.updates_done)
        if not trainer.is_global_zero or update % self.every_updates or update == self._sent_update:
            return
        self._sent_update = update
        examples = spread(pl_module.last_examples, self.rows)
        if not examples:
            return
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                _send_table(logger, examples, update)
            elif isinstance(logger, TensorBoardLogger):
                for number, example in enumerate(examples):
                    picture = np.asarray(draw_trajectory(example))
                    logger.experiment.add_image(f"trajectories/{number}", picture, global_step=update, dataformats="HWC")


def spread(examples: Sequence[Example], rows: int) -> list[Example]:
    """At most `rows` examples at equal distances, from the first on."""
    return [examples[i * len(examples) // rows] for i in range(rows)] if len(examples) > rows else list(examples)


def _send_table(logger: WandbLogger, examples: Sequence[Example], update: int) -> None:
    import wandb  # an optional dependency, needed only where there is a WandbLogger

    names = list(dict.fromkeys(name for example in examples for name in example.terms))
    table: Any = wandb.Table(columns=["update", "question", "view", "crops", "text", "answer", "accepted", *names, "total"])
    for example in examples:
        trajectory = example.trajectory
        strip = _crop_strip(trajectory)
        table.add_data(
            update,
            trajectory.sample.question,
            wandb.Image(draw_view(trajectory)),
            wandb.Image(strip) if strip else None,
            "\n".join(turn.text for turn in trajectory.turns),
            trajectory.answer,
            " | ".join(trajectory.sample.answers),
            *(example.terms.get(name, math.nan) for name in names),
            example.total,
        )
    logger.log_metrics({"trajectories": table}, step=update)  # Lightning speaks of numbers; W&B takes tables too


def _crop_strip(trajectory: Trajectory) -> Image.Image | None:
    """The delivered crops side by side at their own pixels, or None where there is none."""
    crops = trajectory.images[1:]
    if not crops:
        return None
    gap = 4
    strip = Image.new("RGB", (sum(crop.width for crop in crops) + gap * (len(crops) - 1), max(crop.height for crop in crops)), "white")
    x = 0
    for crop in crops:
        strip.paste(crop, (x, 0))
        x += crop.width + gap
    return strip
