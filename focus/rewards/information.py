"""Information gain: how much does the crop help to predict the answer? E9, beyond the paper.

The label is appended to the policy's own turns, once with its own crop and once with placebo crops of equal
size. The gain is the rise of the label's probability with its own crop. A policy can also raise this reward
by predicting WORSE with a placebo. So judge a policy trained on it by a substitute that the reward never
used (`noise`), and by its tool-free accuracy.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytorch_lightning as pl

from focus.model import loading
from focus.model.policy_model import PolicyModel
from focus.model.prompts import ANSWER_OPEN, encode
from focus.rewards import terms
from focus.rewards.callbacks import RewardCallback
from focus.rollout.engine import Engine, Request
from focus.rollout.kv import KVEngine
from focus.rollout.loop import RolloutLimits, reopen, request_for
from focus.rollout.substitutes import elsewhere
from focus.rollout.trajectory import Alter, Crop, Trajectory


class InformationGain(RewardCallback):
    """E9': the label's probability after the rollout's own crop minus its mean over `placebos` crops from elsewhere, not below 0.

    0 without a crop. Only the label's tokens count, not the closing tag of the answer.

    - `placebos` 0 compares with the label before any crop instead. That probability is the same for all
      siblings, so E4 cancels it, except where the gain is clipped at 0.
    - `reader` names a frozen policy (a folder, or `embedded`) that predicts in place of the policy in
      training.
    - With weight 0 the gain is computed every `every` updates for the log (0: never), and is NaN between.
    """

    name = "information_gain"

    def __init__(self, weight: float, placebos: int = 1, every: int = 20, reader: str | None = None, gate: str | None = None) -> None:
        super().__init__(weight, gate)
        if placebos < 0 or every < 0:
            raise ValueError(f"the information gain has placebos={placebos} and every={every}; both are counts, 0 or more")
        self.placebos, self.every, self.reader = placebos, every, reader
        self._due = weight != 0 or every > 0

    def attach(self, policy: PolicyModel, engine: Engine, limits: RolloutLimits) -> None:
        self._policy, self._policy_engine, self._limits = policy, engine, limits
        self._reader, self._engine = policy, engine
        if isinstance(engine, KVEngine):
            # Paid for in memory where it is asked in every update. An engine that samples ahead has other weights by then
            engine.keep_all_turns = engine.shares_weights and self.weight != 0 and self.reader is None
        if self.reader is not None:
            dtype = str(policy.model.dtype).removeprefix("torch.")
            dialect = policy.dialect
            self._reader = loading.load_model(loading.checkpoint_path(self.reader), dialect.name, dtype, prompts=dialect.prompts)
            self._engine = KVEngine(self._reader)
            if self._reader.tokenizer.get_vocab() != policy.tokenizer.get_vocab() or self._reader.token_px != policy.token_px:
                raise ValueError(
                    f"the reader {self.reader} has other tokens or another patch size than the policy; choose one of its family"
                )

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object) -> None:
        self._due = self.weight != 0 or (self.every > 0 and int(pl_module.updates_done) % self.every == 0)  # type: ignore[arg-type]

    @property
    def reads_policy(self) -> bool:
        return self._due and self.reader is None

    def score(self, trajectories: Sequence[Trajectory]) -> list[float]:
        if not self._due:
            return [math.nan] * len(trajectories)
        self._reader.model.to(self._policy.model.device)  # type: ignore[arg-type]
        with_crop = [t for t in trajectories if t.crops]
        own, against = self._mean_logprobs([self._own(t) for t in with_crop]), self._counterfactuals(with_crop)
        if self._engine is not self._policy_engine:
            self._engine.clear_cache()  # the training step clears the policy's own engine
        gains = [terms.information_gain(a, b) for a, b in zip(own, against, strict=True)]
        gain_of = dict(zip(map(id, with_crop), gains, strict=True))
        return [gain_of.get(id(t), 0.0) for t in trajectories]

    def _counterfactuals(self, with_crop: Sequence[Trajectory]) -> list[list[float]]:
        """Per trajectory, the mean log-probability of its label with every placebo, or before any crop."""
        if not self.placebos:
            firsts = {t.group: replace(t, prefill="", prefill_ids=(), turns=()) for t in with_crop}
            before = self._mean_logprobs([self._with_label(t, -1) for t in firsts.values()])
            before_of = dict(zip(firsts, before, strict=True))
            return [[before_of[t.group]] for t in with_crop]
        alters = [elsewhere(self._limits, self._policy.token_px, draw) for draw in range(self.placebos)]
        by_placebo = (self._mean_logprobs([self._placebo(t, alter) for t in with_crop]) for alter in alters)
        return [list(values) for values in zip(*by_placebo, strict=True)]

    def _own(self, t: Trajectory) -> tuple[Request, int]:
        history = reopen(self._policy, t, lambda crop, *_: crop)
        return self._with_label(history, len(history.turns) - 1)

    def _placebo(self, t: Trajectory, alter: Alter) -> tuple[Request, int]:
        first = next(i for i, turn in enumerate(t.turns) if isinstance(turn.action, Crop))
        return self._with_label(reopen(self._policy, t, alter), first)

    def _with_label(self, history: Trajectory, kept_turn: int) -> tuple[Request, int]:
        """The request that ends with the label, and the label's number of tokens."""
        label = encode(self._policy.tokenizer, history.sample.answers[0])
        return request_for(history, kept_turn, [*encode(self._policy.tokenizer, ANSWER_OPEN), *label]), len(label)

    def _mean_logprobs(self, requests: Sequence[tuple[Request, int]]) -> list[float]:
        with self._reader.image_cache():
            logprobs = self._engine.logprobs([request for request, _ in requests], [tokens for _, tokens in requests])
        return [sum(values) / len(values) for values in logprobs]
