"""The arms of the probe (E10): every held-out question as the policy plays it, and with its crops replaced.

Each arm sees the same questions with the same noise. An arm of `substitutes` replays the policy's own
turns and replaces only the pixels of its crops. `tool_free` and `forced` prefill the first turn.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from focus.data.drawn import DrawnImage
from focus.data.sample import Sample
from focus.evaluation.outcome import ONE_OF_TWO, OPENINGS, PLAYABLE
from focus.gap import Gap
from focus.grading.grader import Grader
from focus.rollout.engine import Engine, Model
from focus.rollout.loop import RolloutLimits, begin, play, reopen, seed_of, with_prefill
from focus.rollout.substitutes import SUBSTITUTES, nothing
from focus.rollout.trajectory import Trajectory


def check_arms(arms: Sequence[str]) -> None:
    """Raises ValueError for an arm that does not exist."""
    if unknown := [arm for arm in arms if arm not in PLAYABLE]:
        raise ValueError(f"evaluation.arms names {', '.join(unknown)}; there are {', '.join(PLAYABLE)}")


def can_play(arm: str, sample: Sample, crops: int = 2) -> bool:
    """Whether an arm applies to a question: `gt` needs boxes, `conflict` an image that is drawn here, which has a twin.

    `crops` are those of its own conversation: where there is one, `noise_second` would be `own`.
    """
    if arm in ONE_OF_TWO:
        return crops >= 2
    return bool(sample.boxes) if arm == "gt" else arm != "conflict" or isinstance(sample.image, DrawnImage)


def left_out(arms: Sequence[str], samples: Sequence[Sample]) -> list[str]:
    """A sentence if the arm `conflict` was asked for and these questions don't have it."""
    if "conflict" not in arms or can_play("conflict", samples[0]):
        return []
    return [
        "the arm conflict was left out: it needs a twin of the image with another answer, which only drawn images have "
        "(data=scenes, data=pages); a photograph can't be rewritten exactly"
    ]


@dataclass(frozen=True)
class EvaluatedBatch:
    """The trajectories of some questions. A question is in `trajectories` or in `unreadable`.

    One with fewer than two crops has none in the arms of `ONE_OF_TWO`.
    """

    trajectories: dict[str, dict[str, Trajectory]]  # by sample id, then by arm
    unreadable: dict[str, str]  # by sample id, why its image can't be read
    own_seconds: float  # spent on the `own` arm


@dataclass(frozen=True)
class Evaluator:
    """Plays questions with one policy, at one view, in some arms. The arm `own` is always played.

    `sigma` is the standard deviation of the noise in the arm `additive`, in grey levels (0 to 255).
    `grader` grades the answers. `opening` is text that the first turn of the arm `own` starts with: the
    opening of a call makes a policy crop that would not do so by itself. Raises ValueError for an arm that does not exist.
    """

    model: Model
    engine: Engine
    gap: Gap
    limits: RolloutLimits
    seed: int
    arms: Sequence[str]
    questions_per_forward: int
    sigma: float = 64.0
    grader: Grader = field(default_factory=Grader)
    opening: str = ""

    def __post_init__(self) -> None:
        check_arms(self.arms)

    def play_arms(self, samples: Sequence[Sample], repeat: int = 0) -> EvaluatedBatch:
        """Play these questions side by side in every arm. Each `repeat` samples other tokens."""
        views, readable, unreadable = [], [], {}
        for sample in samples:
            try:
                views.append(self.gap.view_of(sample, sample.open()))
                readable.append(sample)
            except ValueError as error:
                unreadable[sample.id] = str(error)
        with self.model.image_cache():
            start = time.perf_counter()
            openings = [
                begin(self.model, sample, view, source, [seed_of(self.seed, sample.id, *([repeat] if repeat else []))], self.opening)[0]
                for sample, (view, source) in zip(readable, views, strict=True)
            ]
            own = play(self.model, self.engine, openings, self.limits)
            own_seconds = time.perf_counter() - start
            others = self._other_arms(openings, own)
            # All other arms are played at once, so that they share the prompt's cache
            played = iter(play(self.model, self.engine, [t for arm in others.values() for t in arm], self.limits))
            by_arm = {"own": own} | {arm: list(islice(played, len(own))) for arm in others}
        for t in own:
            t.source.release()
        trajectories = {
            sample.id: {arm: rows[i] for arm, rows in by_arm.items() if arm not in ONE_OF_TWO or len(own[i].crops) >= 2}
            for i, sample in enumerate(readable)
        }
        return EvaluatedBatch(trajectories, unreadable, own_seconds)

    def _other_arms(self, openings: Sequence[Trajectory], own: Sequence[Trajectory]) -> dict[str, list[Trajectory]]:
        """The trajectories to play in every arm but `own`, in the order of `own`."""
        others: dict[str, list[Trajectory]] = {}
        for arm in self.arms:
            if arm in SUBSTITUTES:  # a trajectory without a crop stays as it is: there is nothing to replace
                alter = SUBSTITUTES[arm](self.limits, self.model.token_px, self.sigma)
                applies = [bool(t.crops) and can_play(arm, t.sample, len(t.crops)) for t in own]
                others[arm] = [reopen(self.model, t, alter) if a else t for t, a in zip(own, applies, strict=True)]
            elif arm in OPENINGS:
                prefill = self.model.dialect.answer[0] if arm == "tool_free" else self.model.dialect.call[0]
                others[arm] = [with_prefill(self.model, t, prefill) for t in openings]
            elif arm == "no_tool":
                others[arm] = [begin(self.model, t.sample, t.view, t.source, [t.seed], tool=False)[0] for t in openings]
        for arm in {"tool_free", "no_tool"} & others.keys():  # a call in these arms gets the reply that there is no tool
            others[arm] = [replace(t, alter=nothing) for t in others[arm]]
        return others
