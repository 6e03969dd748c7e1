"""The next batch is sampled while this one trains (`rollout.overlap`): one step off-policy, which E13 corrects.

Batch k + 1 begins after update k - 1 has reached the engine, and is played while update k runs. When it
trains, its weights are one update old; those of the first batch of a run are not.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from threading import Event
from typing import Any

from jaxtyping import Float
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from focus.data.questions import Broken, Question
from focus.rollout.ahead import Ahead
from focus.rollout.loop import play, replay, sampled_turns
from focus.rollout.trajectory import Trajectory
from focus.runtime import distributed
from focus.training.policy import FocusPolicy

Drawn = Sequence[Question | Broken]  # the questions of one rank in one update


class OverlappedPolicy(FocusPolicy):
    """A policy whose engine has weights of its own and samples in a thread, which calls no collective.

    A checkpoint waits for the batch that is being sampled and holds its tokens: the weights that sample it
    are gone when the run resumes.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.ahead = Ahead()
        self._thread_policy = replace(self.policy)  # has a cache of image features of its own
        self._following: Drawn = ()
        self._saved: dict[str, Any] | None = None  # the batch in the checkpoint that the run resumes from
        self._facts: dict[str, float] = {}  # metrics of the rollouts that train

    def training_step(self, batch: tuple[Drawn, Drawn], index: int) -> None:  # type: ignore[override]
        """`batch`: the questions of this update and those of the next one, which are none after the last."""
        questions, self._following = batch
        super().training_step(questions, index)

    def roll_out(self, questions: Drawn) -> Iterator[list[Trajectory]]:
        if not self.ahead.begun:  # the first update of a start
            self._begin(questions)
        self.settle_engine()
        self._facts = {"objective/staleness": float(self.updates_done - self.ahead.updates), "seconds/sampling": self.ahead.seconds}
        return self._score_then_begin(self.ahead.take())

    def _score_then_begin(self, played: list[Trajectory]) -> Iterator[list[Trajectory]]:
        yield played  # terms that ask the engine do so before it samples again
        if self._following:
            self._begin(self._following)

    def _begin(self, questions: Drawn) -> None:
        """Begin the rollouts of these questions with the weights that the engine has, or take them from the checkpoint."""
        opened, saved = self.open_trajectories(questions), self._saved
        if saved:
            self.ahead.put(replay(self.policy, opened, saved["turns"], self.limits, self.policy.stop_ids), saved["updates"])
            self._saved = None
        else:
            self.ahead.begin(partial(self._play, opened), self.updates_done)

    def _play(self, opened: Sequence[Trajectory], stop: Event) -> list[Trajectory]:
        """Runs in the thread. As many questions play at a time as without overlap."""
        at_once = max(1, self._questions_at_once(opened)) * self.settings.rollouts_per_question
        parts = [opened[i : i + at_once] for i in range(0, len(opened), at_once)]
        with self.trainer.precision_plugin.forward_context():
            return [t for part in parts for t in play(self._thread_policy, self.engine, part, self.limits, stop)]

    def update(self, trajectories: Sequence[Trajectory], advantage: Float[Tensor, "trajectory part"]) -> dict[str, float]:
        return super().update(trajectories, advantage) | self._facts

    def rest_engine(self) -> None:
        """It samples on."""

    def renew_engine(self) -> None:
        """It samples on. `settle_engine` renews it."""

    def settle_engine(self) -> None:
        """Wait for the rollouts of all ranks, one server may sample them all, and give the engine the weights of now."""
        with self._timed("rollout"):
            self.ahead.wait()
            distributed.all_gather(None)
        super().rest_engine()  # it drops the images of the batch
        super().renew_engine()

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.ahead.begun:
            turns: dict[int, Any] = {}
            for rank in distributed.all_gather(sampled_turns(self.ahead.wait())):
                turns |= rank
            checkpoint["focus"]["ahead"] = {"updates": self.ahead.updates, "turns": turns}

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        super().on_load_checkpoint(checkpoint)
        self._saved = checkpoint["focus"].get("ahead")

    def on_fit_end(self) -> None:
        self.ahead.end()
        super().on_fit_end()

    def configure_callbacks(self) -> list[Callback]:
        return [_EndsSampling()]


class _EndsSampling(Callback):
    """Ends the thread where the training ends by an error or by ctrl-C."""

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        assert isinstance(pl_module, OverlappedPolicy)
        pl_module.ahead.end()
