"""The progress line of a training, as a Lightning callback."""

import math
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from focus.runtime.progress import Progress


class TrainingProgress(Callback):
    """Show update, reward, right answers, crops and the time left, after every update.

    `rollouts_measured` is the number of rollouts in each measurement after the training. Until one
    measurement has run, its duration is estimated from the rollouts of the training.
    """

    def __init__(self, progress: Progress, updates: int, rollouts_measured: int) -> None:
        self.progress, self.updates, self.rollouts_measured = progress, updates, rollouts_measured
        self._rollout_s = self._rollouts = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        done = int(pl_module.updates_done)
        if done:
            self.progress.console.print(f"resumed at update {done}")
        self.progress.begin("train", "update", done)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: object) -> None:
        values = {name: float(value) for name, value in trainer.logged_metrics.items()}
        self._rollout_s += values["seconds/rollout"]
        self._rollouts += len(pl_module.last_examples)
        if self._rollouts:
            self.progress.measurement_s = self.rollouts_measured / trainer.world_size * self._rollout_s / self._rollouts
        self.progress.advance(
            int(pl_module.updates_done),
            self.updates,
            f"reward {_number(values['reward/total'])}",
            f"right {_percent(values.get('reward/accuracy', math.nan))}",
            f"crops {_percent(values['crop/rate'])}",
        )

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.progress.end()


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.0f} %"
