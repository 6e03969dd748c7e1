"""Whom does a policy believe, its crop or the whole image? Per-question results of every finished run, in items/.

.venv/bin/python -m experiments.conflict.measure        (after any of the runs, see README.md; what is measured already is skipped)

Greedy, 256 tokens, where both can be read, 300 held-out scenes. Twice: with the policy's own crops, and with one crop for all
policies, that of the asked sign (B2), whose call is put into the policy's mouth. The base's own first turn is opened with a
call, because greedily it makes none.
"""

from collections.abc import Sequence
from dataclasses import replace

from experiments.base.measure import Handed
from experiments.conflict.record import ITEMS, POLICIES
from experiments.items import keep
from focus.data.boxes import settle, to_view
from focus.data.drawn import twin_of
from focus.data.sample import Sample
from focus.data.scenes import DIFFICULTY, Scenes
from focus.evaluation.arms import Evaluator
from focus.evaluation.measure import measure, said
from focus.evaluation.outcome import DECOMPOSITION, SAYS
from focus.gap import Gap, Mode
from focus.grading.answers import grade
from focus.model.policy_model import PolicyModel
from focus.model.prompts import call_text
from focus.rollout.engine import Sampling
from focus.rollout.kv import KVEngine
from focus.rollout.loop import RolloutLimits, begin, play
from focus.rollout.substitutes import conflict
from focus.rollout.trajectory import Alter, Trajectory
from focus.runtime.progress import chunks

SCENES, AT_ONCE, VIEW = 300, 50, 256
LIMITS = RolloutLimits(1, 64, Sampling(0.0, 40))


def on_the_sign(policy: PolicyModel, samples: Sequence[Sample], alter: Alter | None) -> list[Trajectory]:
    """Conversations whose first turn is a call of the asked sign."""
    gap, played = Gap(Mode.FIXED, VIEW, policy.token_px), []
    for chunk in chunks(samples, AT_ONCE, None):
        opened, calls = [], []
        for sample in chunk:
            view, source = gap.view_of(sample, sample.open())
            opened += [replace(t, alter=alter) for t in begin(policy, sample, view, source, [0])]
            box_px = settle(sample.boxes[0][1], sample.size, policy.token_px)
            assert box_px is not None
            calls.append(call_text(to_view(box_px, policy.dialect.frame, view.size, sample.size)))
        played += play(policy, Handed(policy, calls), opened, LIMITS)
    return played


def score(t: Trajectory, sample: Sample) -> float:
    """Whether the answer is right for this sample: that of the conversation, or its twin."""
    return grade(t.answer, sample.answers, sample.scorer)


def main() -> None:
    samples = Scenes(DIFFICULTY[1], "eval", SCENES)

    def measured(name: str, policy: PolicyModel, opening: str) -> dict[str, list[float]]:
        """Every part of the decomposition with its own crops, and what it says with that of the sign; NaN where it does not apply."""
        gap, arms = Gap(Mode.FIXED, VIEW, policy.token_px), ("gt", "noise", "tool_free", "conflict")
        outcome, _ = measure(Evaluator(policy, KVEngine(policy), gap, LIMITS, 0, arms, AT_ONCE, opening=opening), samples, None)
        values = {metric: outcome.of(metric) for metric in ("own", "noise", "gt", "tool_free", "D_noise", "area", *DECOMPOSITION)}
        values["sign reads"] = [score(t, t.sample) for t in on_the_sign(policy, samples, None)]
        against = on_the_sign(policy, samples, conflict(LIMITS, policy.token_px))
        says = [said(score(t, twin), score(t, t.sample)) for t in against if (twin := twin_of(t.sample))]
        return values | {f"sign {each}": [answer[each] for answer in says] for each in SAYS}

    keep(ITEMS, POLICIES, measured)


if __name__ == "__main__":
    main()
