"""The gap follows the policy's own success (`gap=adaptive`, beyond the paper)."""

import math
from dataclasses import replace
from typing import Any

import pytorch_lightning as pl

from focus.gap import adapted
from focus.training.policy import FocusPolicy


class AdaptGap(pl.Callback):
    """Every `window` updates: a view one level coarser if the policy was right often enough, one level sharper if too rarely.

    It starts with views of `start_tokens` merged tokens and stays between `gap.view_tokens` of the policy and
    `start_tokens`. Success is the mean of `reward/accuracy` over the window, in [0, 1]; an update without a grade is
    left out, and a window without one changes nothing. Every update logs the budget that it was played with as
    `gap/view_tokens`. A resumed run goes on as an uninterrupted one.
    """

    def __init__(self, *, start_tokens: int, window: int, sharper_below: float, coarser_from: float) -> None:
        self.start_tokens, self.window, self.sharper_below, self.coarser_from = start_tokens, window, sharper_below, coarser_from
        self._tokens, self._seen = start_tokens, list[float]()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, FocusPolicy)
        pl_module.gap = replace(pl_module.gap, now=self._tokens)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object) -> None:
        assert isinstance(pl_module, FocusPolicy)
        pl_module.log_dict({"gap/view_tokens": float(self._tokens)})
        self._seen.append(float(trainer.logged_metrics["reward/accuracy"]))
        if len(self._seen) < self.window:
            return
        graded = [value for value in self._seen if not math.isnan(value)]
        self._seen = []
        if graded:
            success = sum(graded) / len(graded)
            least = pl_module.gap.view_tokens
            self._tokens = adapted(self._tokens, success, self.sharper_below, self.coarser_from, least, self.start_tokens)
            pl_module.gap = replace(pl_module.gap, now=self._tokens)

    def state_dict(self) -> dict[str, Any]:
        return {"tokens": self._tokens, "seen": list(self._seen)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._tokens, self._seen = state_dict["tokens"], list(state_dict["seen"])
