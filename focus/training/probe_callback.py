"""The probe inside training, as a Lightning callback."""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import pytorch_lightning as pl

from focus.data.sample import Sample
from focus.evaluation.arms import Evaluator
from focus.evaluation.kept import Kept
from focus.evaluation.measure import measure_on_all_ranks
from focus.evaluation.outcome import DECOMPOSITION
from focus.gap import Gap
from focus.grading.grader import Grader
from focus.grading.judge import NoVerdict
from focus.rollout.loop import RolloutLimits
from focus.runtime import distributed, files
from focus.training.policy import FocusPolicy


class ProbeCallback(pl.Callback):
    """Probes the policy every `every` updates (0: never) on the same held-out questions; the curves are `probe/...`.

    `kept` gives the table that keeps the trajectories of the probe after an update; None keeps none.
    The samples are divided among the ranks and played with `limits`, those of the measurement after the
    training. Between two probes the values are NaN. They are NaN too if the judge fails during a probe,
    which does not end the training.
    """

    ARMS = ("own", "gt", "noise", "tool_free", "conflict")
    METRICS = ("own", "D_noise", "U_GT", "tool_free", "agrees", *DECOMPOSITION)

    def __init__(
        self,
        samples: Sequence[Sample],
        gap: Gap,
        limits: RolloutLimits,
        every: int,
        questions_per_forward: int,
        grader: Grader | None = None,
        kept: Callable[[int], Kept] | None = None,
    ) -> None:
        self.samples, self.gap, self.limits, self.every, self.questions_per_forward = samples, gap, limits, every, questions_per_forward
        self.grader, self.kept = grader or Grader(), kept

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: object) -> None:
        assert isinstance(pl_module, FocusPolicy)
        if not self.every:
            return
        values = dict.fromkeys(self.METRICS, math.nan)
        if pl_module.updates_done % self.every == 0:
            m = pl_module
            m.settle_engine()
            evaluator = Evaluator(
                m.policy, m.engine, self.gap, self.limits, m.seed, self.ARMS, self.questions_per_forward, grader=self.grader
            )
            try:
                with distributed.unsharded(m.model) if m.engine.shares_weights else nullcontext():
                    outcome = measure_on_all_ranks(evaluator, self.samples, None, self.kept(m.updates_done) if self.kept else None)
                values = {metric: outcome.mean(metric) for metric in self.METRICS}
            except NoVerdict as outage:
                if files.is_first_rank():
                    print(f"no probe at update {m.updates_done}: {outage}")
        pl_module.log_dict({f"probe/{metric}": value for metric, value in values.items()})
