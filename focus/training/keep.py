"""Keeps the trajectories of some updates in the folder of the run."""

from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from focus.evaluation.kept import About, Kept
from focus.training.policy import FocusPolicy


class KeepTrajectories(Callback):
    """Write the rollouts of every `every`-th update, with their rewards and advantages, as a table of `evaluation.kept`.

    Every rank writes its own rollouts. A table adds at most `mib` of pictures.
    """

    def __init__(self, folder: Path, every: int, mib: float) -> None:
        self.folder, self.every, self.mib = folder, every, mib

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object) -> None:
        assert isinstance(pl_module, FocusPolicy)
        if pl_module.updates_done % self.every == 0:
            kept = Kept(self.folder, About("update", pl_module.updates_done, "", ""), self.mib)
            kept.add_update(pl_module.last_examples, pl_module.last_advantages)
            kept.write()
