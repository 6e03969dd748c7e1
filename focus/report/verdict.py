"""The answer to "does the policy look at its crops?" in one sentence."""

import math
from enum import StrEnum

from focus.evaluation.outcome import Outcome

# A loss of accuracy below this, in points, counts as none: the paper's baseline without a gap loses 0.5 to 4.5 points to
# noise (arXiv 2603.27494, Table 5)
SMALL_POINTS = 5.0
# Where none of n answers changes, up to 3.84 / (n + 3.84) of all may (Wilson's interval, 95 %): 5 points need 73 questions
LEAST_QUESTIONS = 73


class Verdict(StrEnum):
    """Whether answers depend on what the crops show."""

    LOOKS = "It looks"
    UNDECIDED = "Undecided"
    DOES_NOT = "It does not"


def judge_dependence(points: float, low: float, high: float, questions: int) -> Verdict:
    """The verdict from D_noise and its 95 % interval, in points of accuracy, and the number of questions.

    It looks: the interval lies above 0 and the loss is at least `SMALL_POINTS`. It does not: the whole interval lies
    below `SMALL_POINTS`, and there are at least `LEAST_QUESTIONS`. Everything else is undecided, also NaN.
    """
    if low > 0 and points >= SMALL_POINTS:
        return Verdict.LOOKS
    return Verdict.DOES_NOT if high < SMALL_POINTS and questions >= LEAST_QUESTIONS else Verdict.UNDECIDED


def dependence_sentence(loss: tuple[float, float, float], crop_rate: float, view: str, questions: int) -> str:
    """The verdict with the numbers it rests on.

    `loss` is D_noise with its interval, in points; NaN if the arm noise was not played. `crop_rate` is in [0, 1].
    `view` says how large the view is, for example `at 16 tokens`.
    """
    points, low, high = loss
    if math.isnan(points):
        return f"No verdict {view}: the arm noise was not played (evaluation.arms)."
    if crop_rate == 0:
        return f"{Verdict.DOES_NOT}: it made no crop in {questions:,} questions {view}."
    verdict = judge_dependence(points, low, high, questions)
    more = f"; {questions:,} questions are too few" if verdict is Verdict.UNDECIDED else ""
    return (
        f"{verdict}: replacing its crop by noise costs {points:.0f} points [{low:.0f}, {high:.0f}] {view} "
        f"({100 * crop_rate:.0f} % of answers used a crop){more}."
    )


def verdict_of(outcome: Outcome, resamples: int) -> str:
    """The sentence of a measurement."""
    points, low, high = outcome.interval("D_noise", resamples)
    return dependence_sentence(
        (100 * points, 100 * low, 100 * high), outcome.mean("called"), f"at {outcome.view_tokens:,} tokens", len(outcome.groups)
    )
