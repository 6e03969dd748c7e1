"""What a crop tells about the answer, by the probability of the label: information gain (E9), and the crop alone.

Beyond the paper. Information gain: the label is appended to the policy's own turns, with its own crop, with
placebo crops of equal size, and before any crop. The gain is the rise of the label's probability with the own
crop over the best of the others. So a placebo that misleads pays nothing, and neither does a crop that shows
nothing.

Whoever predicts the label could also raise the gain by predicting WORSE without the crop. A paid gain is
therefore computed by a frozen reader, and the policy's own tool-free accuracy is logged and watched
(`alarm/tool_free`). Judge a policy trained on it by substitutes that the reward never used: `noise`, `conflict`.
"""

import json
import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace

import pytorch_lightning as pl
from PIL import Image

from focus.gap import View
from focus.model import loading
from focus.model.policy_model import PolicyModel
from focus.model.prompts import ANSWER_OPEN, TOOL, call_body, call_text, encode
from focus.rewards import terms
from focus.rewards.callbacks import RewardCallback
from focus.rollout.engine import Engine, Request
from focus.rollout.kv import KVEngine
from focus.rollout.loop import RolloutLimits, reopen, request_for
from focus.rollout.substitutes import GREY, elsewhere
from focus.rollout.trajectory import Alter, Crop, Trajectory, Turn

Asked = tuple[Request, int]  # a request that ends with the label, and the label's number of tokens


class LabelReader(RewardCallback):
    """A term that is computed from the probability of the label, as a `reader` predicts it.

    `start` is a frozen copy of the policy as this training began, `policy` the policy in training; else a
    folder, or `embedded`. None: `start` where the term is paid, `policy` where it is only logged.
    """

    def __init__(self, weight: float, reader: str | None, gate: str | None) -> None:
        super().__init__(weight, gate)
        if not isinstance(reader, str | None):
            raise ValueError(f"the reader is {reader!r}; name a folder, a hub name, embedded, start or policy, or write null")
        self.reader = reader or ("start" if weight else "policy")

    def attach(self, policy: PolicyModel, engine: Engine, limits: RolloutLimits) -> None:
        self._policy, self._policy_engine, self._limits = policy, engine, limits
        self._reader, self._engine = policy, engine
        if self.reader != "policy":
            self._reader = _frozen(policy) if self.reader == "start" else _loaded(self.reader, policy)
            self._engine = KVEngine(self._reader)

    @property
    def reads_policy(self) -> bool:
        return self.reader == "policy"

    def _with_label(self, history: Trajectory, kept_turn: int) -> Asked:
        label = encode(self._policy.tokenizer, history.sample.answers[0])
        return request_for(history, kept_turn, [*encode(self._policy.tokenizer, ANSWER_OPEN), *label]), len(label)

    def _mean_logprobs(self, asked: Sequence[Asked]) -> list[float]:
        self._reader.model.to(self._policy.model.device)  # type: ignore[arg-type]
        return [sum(values) / len(values) for values in _logprobs(self._reader, self._engine, asked)]

    def _clear(self) -> None:
        """Drop the caches of a reader. The training step clears those of the policy."""
        if self._engine is not self._policy_engine:
            self._engine.clear_cache()


class CropOnly(LabelReader):
    """E15: the label's probability from the crops alone: the view is grey, and of the policy's turns only bare calls are left.

    0 without a crop. It needs no boxes. Text in which the policy says what it saw in the view pays nothing.
    """

    name = "crop_only"

    def __init__(self, weight: float, reader: str | None = None, gate: str | None = None) -> None:
        super().__init__(weight, reader, gate)

    def score(self, trajectories: Sequence[Trajectory]) -> list[float]:
        with_crop = [t for t in trajectories if t.crops]
        likely = map(math.exp, self._mean_logprobs([self._alone(t) for t in with_crop]))
        self._clear()
        value_of = dict(zip(map(id, with_crop), likely, strict=True))
        return [value_of.get(id(t), 0.0) for t in trajectories]

    def _alone(self, t: Trajectory) -> Asked:
        """Calls and crops after a grey picture of the view's size, as a group of its own: no cache knows it."""
        grey = View(Image.new("RGB", t.view.size, (GREY, GREY, GREY)), t.view.tokens, t.view.original_size)
        shown = (turn for turn in t.turns if turn.observation and turn.observation.crop)
        calls = tuple(self._bare(turn, turn.action) for turn in shown if isinstance(turn.action, Crop))
        bare = replace(t, view=grey, group=-1 - t.group, prefill="", prefill_ids=(), turns=calls)
        return self._with_label(reopen(self._policy, bare, lambda crop, *_: crop), -1)

    def _bare(self, turn: Turn, call: Crop) -> Turn:
        """The call without the words around it."""
        dialect = self._policy.dialect
        arguments = json.dumps({dialect.box_argument: [round(value) for value in call.box_view]})
        opening, closing = dialect.call
        is_json = dialect.call_format == "json"
        text = call_text(call.box_view) if is_json else opening + call_body(dialect, dialect.tool or TOOL, arguments) + closing
        return replace(turn, ids=tuple(encode(self._policy.tokenizer, text)), sampler_logprobs=(), text=text)


class InformationGain(LabelReader):
    """E9: the label's probability after the rollout's own crop minus the best of that before any crop and with placebos, not below 0.

    0 without a crop. Only the label's tokens count, not the closing tag of the answer.

    - `placebos`: crops of equal size from elsewhere, which avoid the own crop as far as they can. They need no
      annotated boxes: a placebo that shows the answer can only take a gain away, and shows it only where the own
      crop does not, or where the crop is so large or the answer so frequent that the gain is not due.
    - `reader`: see `LabelReader`.
    - With weight 0 the gain is computed every `every` updates for the log (0: never), and is NaN between.
      A paid gain logs `gain/tool_free` as well.
    """

    name = "information_gain"

    def __init__(self, weight: float, placebos: int = 1, every: int = 20, reader: str | None = None, gate: str | None = None) -> None:
        super().__init__(weight, reader, gate)
        if not all(isinstance(count, int) and count >= 0 for count in (placebos, every)):
            raise ValueError(f"the information gain has placebos={placebos} and every={every}; both are whole numbers, 0 or more")
        self.placebos, self.every = placebos, every
        self._due = weight != 0 or every > 0
        self._tool_free: list[float] = []  # of the questions of this update

    def attach(self, policy: PolicyModel, engine: Engine, limits: RolloutLimits) -> None:
        super().attach(policy, engine, limits)
        if isinstance(engine, KVEngine):
            # Paid for in memory where it is asked in every update. An engine that samples ahead has other weights by then
            engine.keep_all_turns = engine.shares_weights and self.weight != 0 and self.reader == "policy"

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object) -> None:
        self._due = self.weight != 0 or (self.every > 0 and int(pl_module.updates_done) % self.every == 0)  # type: ignore[arg-type]
        self._tool_free = []

    @property
    def reads_policy(self) -> bool:
        return self._due and (self.weight != 0 or self.reader == "policy")

    def score(self, trajectories: Sequence[Trajectory]) -> list[float]:
        if not self._due:
            return [math.nan] * len(trajectories)
        with_crop = [t for t in trajectories if t.crops]
        own, others = self._mean_logprobs([self._own(t) for t in with_crop]), self._counterfactuals(with_crop)
        self._clear()
        if self.weight:
            asked = [self._before(t) for t in {t.group: t for t in trajectories}.values()]
            self._tool_free += [math.exp(sum(values)) for values in _logprobs(self._policy, self._policy_engine, asked)]
        gains = [terms.information_gain(a, b) for a, b in zip(own, others, strict=True)]
        gain_of = dict(zip(map(id, with_crop), gains, strict=True))
        return [gain_of.get(id(t), 0.0) for t in trajectories]

    def metrics(self) -> dict[str, float]:
        """`gain/tool_free`: the probability that the policy in training gives the label if it must answer before any crop."""
        if not self.weight:
            return {}
        return {"gain/tool_free": sum(self._tool_free) / len(self._tool_free) if self._tool_free else math.nan}

    def _counterfactuals(self, with_crop: Sequence[Trajectory]) -> list[list[float]]:
        """Per trajectory, the mean log-probability of its label before any crop, the same for siblings, and with every placebo."""
        firsts = {t.group: t for t in with_crop}
        before = dict(zip(firsts, self._mean_logprobs([self._before(t) for t in firsts.values()]), strict=True))
        alters = [elsewhere(self._limits, self._policy.token_px, draw, avoid_targets=False) for draw in range(self.placebos)]
        by_placebo = [self._mean_logprobs([self._placebo(t, alter) for t in with_crop]) for alter in alters]
        return [list(values) for values in zip([before[t.group] for t in with_crop], *by_placebo, strict=True)]

    def _own(self, t: Trajectory) -> Asked:
        history = reopen(self._policy, t, lambda crop, *_: crop)
        return self._with_label(history, len(history.turns) - 1)

    def _before(self, t: Trajectory) -> Asked:
        return self._with_label(replace(t, prefill="", prefill_ids=(), turns=()), -1)

    def _placebo(self, t: Trajectory, alter: Alter) -> Asked:
        first = next(i for i, turn in enumerate(t.turns) if isinstance(turn.action, Crop))
        return self._with_label(reopen(self._policy, t, alter), first)


def _logprobs(model: PolicyModel, engine: Engine, asked: Sequence[Asked]) -> list[list[float]]:
    """Log-probabilities (nats) of the tokens of every label."""
    with model.image_cache():
        return engine.logprobs([request for request, _ in asked], [tokens for _, tokens in asked])


def _frozen(policy: PolicyModel) -> PolicyModel:
    """A copy of the policy that does not learn; weights that are frozen already are shared."""
    shared = {id(p): p for p in policy.model.parameters() if not p.requires_grad}
    copy = replace(policy, model=deepcopy(policy.model, shared))
    copy.model.requires_grad_(False)
    return copy


def _loaded(name: str, policy: PolicyModel) -> PolicyModel:
    """The policy in a folder. Raises ValueError if it can't read the conversations of this policy."""
    dtype, dialect = str(policy.model.dtype).removeprefix("torch."), policy.dialect
    try:
        reader = loading.load_model(loading.checkpoint_path(name), dialect.name, dtype, prompts=dialect.prompts)
    except ValueError as error:
        raise ValueError(f"the setting reader={name} of a reward term names no policy that can be loaded: {error}") from error
    if reader.tokenizer.get_vocab() != policy.tokenizer.get_vocab() or reader.token_px != policy.token_px:
        raise ValueError(f"the reader {name} has other tokens or another patch size than the policy; choose one of its family")
    return reader
