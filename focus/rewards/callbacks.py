"""Reward terms as Lightning callbacks: a name, a weight, an optional gate. `training_step` scores them in config order.

To add a term: subclass `RewardCallback`, give it a `name`, implement `score`, and put it under
`reward.terms` by `_target_`. It is a callback, so it may use any hook and log any metric.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from numbers import Real
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from pytorch_lightning import Callback
from torch import Tensor

from focus.grading.answers import RIGHT_FROM
from focus.grading.grader import Grader, case_of
from focus.model.policy_model import PolicyModel
from focus.model.prompts import Malformed
from focus.rewards import terms
from focus.rollout.engine import Engine
from focus.rollout.loop import RolloutLimits
from focus.rollout.trajectory import Status, Trajectory

# float32 has seven digits: a larger term would swallow the others, and the squares of much larger ones overflow
LARGEST_REWARD = 1e6


class RewardCallback(Callback):
    """One reward term. `gate` names a term that must be above 0; otherwise this one adds 0."""

    name: str
    needs_boxes = False  # True: a sample without annotated boxes can't be graded

    def __init__(self, weight: float, gate: str | None = None) -> None:
        self.weight, self.gate = weight, gate

    @property
    def reads_policy(self) -> bool:
        """Whether `score` computes with the policy's weights in this update, which are then gathered on every rank."""
        return False

    def attach(self, policy: PolicyModel, engine: Engine, limits: RolloutLimits) -> None:
        """Receive the policy in training and the engine that samples from it, for terms that run the model. Called once."""

    def score(self, trajectories: Sequence[Trajectory]) -> list[float]:
        """The raw term of each trajectory; NaN where it could not be graded."""
        raise NotImplementedError(f"{type(self).__name__} must implement score")

    def begin(self, trajectories: Sequence[Trajectory]) -> Callable[[], list[float]]:
        """Start to score trajectories right after they were played; returns a function that gives their `score`.

        A term that waits for a server sends its requests here, and the returned function, called after
        all rollouts of the update, waits for the replies. All other terms score here, while the engine
        still holds the caches of these trajectories.
        """
        values = self.score(trajectories)
        return lambda: values

    def metrics(self) -> dict[str, float]:
        """More metrics of this update, by logged name, beside the mean of the raw term. The names must not change between updates."""
        return {}


class Accuracy(RewardCallback):
    """Is the final answer right, by the rules and then the judge (`grading.grader`)? NaN where the judge gave no verdict.

    `grader` has no judge unless the run sets one. `Grader.end_update` ends a training whose judge fails.
    """

    name = "accuracy"

    def __init__(self, weight: float, gate: str | None = None) -> None:
        super().__init__(weight, gate)
        self.grader = Grader()

    def begin(self, trajectories: Sequence[Trajectory]) -> Callable[[], list[float]]:
        self.grader.submit([case_of(t.sample, t.answer) for t in trajectories])
        return partial(self.score, trajectories)

    def score(self, trajectories: Sequence[Trajectory]) -> list[float]:
        grades = self.grader.grade_all([case_of(t.sample, t.answer) for t in trajectories])
        return [grade.right if math.isnan(grade.right) else terms.accuracy(grade.right >= RIGHT_FROM) for grade in grades]

    def metrics(self) -> dict[str, float]:
        return self.grader.metrics()

    def on_train_batch_start(self, *_: Any) -> None:
        self.grader.begin_update()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.grader.end_update(int(pl_module.updates_done))  # type: ignore[arg-type]


class Format(RewardCallback):
    """Could every turn be parsed, and did the conversation end with an answer?"""

    name = "format"

    def score(self, trajectories: Sequence[Trajectory]) -> list[float]:
        return [
            terms.format_penalty(sum(isinstance(turn.action, Malformed) for turn in t.turns), t.status is Status.ANSWERED)
            for t in trajectories
        ]


class Tool(RewardCallback):
    """Was a crop delivered? The paper gates it on a right answer (`gate: accuracy`)."""

    name = "tool"

    def score(self, trajectories: Sequence[Trajectory]) -> list[float]:
        return [terms.tool_bonus(len(t.crops)) for t in trajectories]


class Area(RewardCallback):
    """The share of the image that all crops take together (E16): a cost, with a negative weight. 0 without a crop.

    Gated on a right answer (`gate: accuracy`), of two crops that sufficed the smaller one earns more.
    """

    name = "area"

    def score(self, trajectories: Sequence[Trajectory]) -> list[float]:
        return [terms.area_share([crop.box_px for crop in t.crops], t.sample.size) for t in trajectories]


class Grounding(RewardCallback):
    """How tightly do crops enclose their targets? E8, added to E3 with its weight (E11).

    The mean over a question's targets; 0 without a crop, NaN without an annotation. A crop belongs to the
    target that it is nearest to by L1. A target is graded by the last of its crops, so a crop that the policy
    corrected counts as corrected and more crops earn no more; by the last crop of all where none is its own.
    With one target, or one crop, the last crop is graded.

    `omega` is the weight of the conditional IoU, 1 - `omega` that of L1. `tau` is the coverage that a crop
    must exceed to earn its IoU (None: no gate). The paper does not gate the term on a right answer (which
    `gate: accuracy` would do): L1 is meant for hard questions, whose answers are wrong.
    """

    name = "grounding"
    needs_boxes = True

    def __init__(self, weight: float, omega: float = 0.5, tau: float | None = 0.9, gate: str | None = None) -> None:
        super().__init__(weight, gate)
        if not 0 <= omega <= 1:
            raise ValueError(f"omega of the grounding reward is {omega}; it must be in [0, 1]")
        if tau is not None and not 0 <= tau < 1:
            raise ValueError(f"tau of the grounding reward is {tau}; it must be in [0, 1), or null for no gate (coverage must exceed it)")
        self.omega, self.tau = omega, tau

    def score(self, trajectories: Sequence[Trajectory]) -> list[float]:
        return [self._reward(t) for t in trajectories]

    def _reward(self, t: Trajectory) -> float:
        if not t.sample.boxes:
            return math.nan
        if not t.crops:
            return 0.0
        boxes, size = [crop.box_px for crop in t.crops], t.sample.size
        graded = terms.match(boxes, t.sample.boxes, size)
        values = [terms.grounding(box, chain, size, self.omega, self.tau) for box, chain in zip(graded, t.sample.boxes, strict=True)]
        return sum(values) / len(values)


@dataclass(frozen=True)
class Scores:
    """Raw terms and their weighted sum, one value per trajectory, and the weight and gate of each term."""

    raw: dict[str, list[float]]
    total: list[float]
    weights: Mapping[str, float] = field(default_factory=dict)
    gates: Mapping[str, str | None] = field(default_factory=dict)

    def __add__(self, later: "Scores") -> "Scores":
        raw = {name: self.raw.get(name, []) + values for name, values in later.raw.items()}
        return Scores(raw, self.total + later.total, later.weights, later.gates)

    def grouped(self, rollouts_per_question: int, term: str | None = None) -> Float[Tensor, "question rollout"]:
        """The totals by question, or one raw term."""
        values = self.total if term is None else self.raw[term]
        return torch.tensor(values, dtype=torch.float32).reshape(len(values) // rollouts_per_question, rollouts_per_question)

    def replaced(self, rows: Sequence[int], by: "Scores") -> "Scores":
        """With other trajectories in these rows."""

        def put(values: list[float], others: list[float]) -> list[float]:
            at = dict(zip(rows, others, strict=True))
            return [at.get(row, value) for row, value in enumerate(values)]

        raw = {name: put(values, by.raw[name]) for name, values in self.raw.items()}
        return Scores(raw, put(self.total, by.total), self.weights, self.gates)

    @property
    def ungraded(self) -> int:
        """The number of trajectories whose total is NaN, because a paid term could not grade them."""
        return sum(map(math.isnan, self.total))


class Payment(NamedTuple):
    """What a term added to a total: its weight, weight times raw term (0 behind a closed gate), and the gate if it is closed."""

    weight: float
    amount: float
    closed_gate: str | None


@dataclass(frozen=True)
class Example:
    """One trajectory with its reward, as reports and dashboards show it.

    `terms` are raw. `payments` has an entry for each term that is paid; they add up to `total`. A term without one is
    only logged. An example that no reward was computed for has no payments.
    """

    trajectory: Trajectory
    terms: Mapping[str, float]
    total: float
    caption: str = ""
    payments: Mapping[str, Payment] = field(default_factory=dict)


def examples(trajectories: Sequence[Trajectory], scores: Scores) -> list[Example]:
    """Trajectories with their raw terms, payments and totals."""
    return [
        _example(t, {name: values[i] for name, values in scores.raw.items()}, scores.total[i], scores) for i, t in enumerate(trajectories)
    ]


def _example(trajectory: Trajectory, raw: dict[str, float], total: float, scores: Scores) -> Example:
    added = terms.contributions(raw, scores.weights, scores.gates)
    closed = {name: gate for name, gate in scores.gates.items() if gate is not None and raw[gate] <= 0}
    payments = {name: Payment(scores.weights[name], amount, closed.get(name)) for name, amount in added.items()}
    return Example(trajectory, raw, total, payments=payments)


def _as_float(value: Any, callback: RewardCallback, t: Trajectory) -> float:
    """The value of a term as a float; NaN means not graded. Raises ValueError for anything but a number, and for too large a one."""
    is_number = isinstance(value, Real) or (isinstance(value, Tensor) and value.ndim == 0)
    if is_number and not max(abs(float(value)), abs(float(value) * callback.weight)) > LARGEST_REWARD:
        return float(value)
    raise ValueError(
        f"reward term {callback.name!r} gave {value!r} for sample {t.sample.id} (its weight is {callback.weight}); its score must give a "
        f"number whose size, with and without the weight, is at most {LARGEST_REWARD:,.0f}, or NaN where it can't grade"
    )


def score(callbacks: Sequence[RewardCallback], trajectories: Sequence[Trajectory]) -> Scores:
    """The raw terms and totals (E3) of these trajectories; see `begin_scoring` for what it raises."""
    return begin_scoring(callbacks, trajectories)()


def begin_scoring(callbacks: Sequence[RewardCallback], trajectories: Sequence[Trajectory]) -> Callable[[], Scores]:
    """Start every term, in order, on trajectories that were just played; returns a function that gives their scores (E3).

    Raises ValueError if two terms have one name, or a gate names no term. The returned function raises
    ValueError if a term does not give one number per trajectory (NaN where it can't grade), or one above
    `LARGEST_REWARD` in size, with or without its weight.
    """
    names = [callback.name for callback in callbacks]
    pending: dict[str, Callable[[], list[float]]] = {}
    for callback in callbacks:
        if callback.name in pending:
            raise ValueError(f"two reward terms are named {callback.name!r}, and only one could be paid; give each a name of its own")
        if callback.gate is not None and callback.gate not in names:
            raise ValueError(f"the gate of reward term {callback.name!r} is {callback.gate!r}; choose one of {', '.join(names)}, or none")
        pending[callback.name] = callback.begin(trajectories)
    weights = {callback.name: callback.weight for callback in callbacks}
    gates = {callback.name: callback.gate for callback in callbacks}

    def finish() -> Scores:
        raw: dict[str, list[float]] = {}
        for callback in callbacks:
            values = pending[callback.name]()
            if len(values) != len(trajectories):
                raise ValueError(
                    f"reward term {callback.name!r} gave {len(values)} values for {len(trajectories)} trajectories; "
                    "its score must give one for each, NaN where it can't grade"
                )
            raw[callback.name] = [_as_float(value, callback, t) for value, t in zip(values, trajectories, strict=True)]
        totals = [terms.total({name: values[i] for name, values in raw.items()}, weights, gates) for i in range(len(trajectories))]
        return Scores(raw, totals, weights, gates)

    return finish
