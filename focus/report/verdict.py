"""The answer to "does the policy look at its crops?" in one sentence."""

import math
from enum import StrEnum

from focus.evaluation.outcome import Outcome

# A loss of accuracy below this, in points, counts as none: the paper's baseline without a gap loses 0.5 to 4.5 points to
# noise (arXiv 2603.27494, Table 5). So does a share of answers below it, in per cent
SMALL_POINTS = 5.0
MOST = 50.0  # per cent of the answers: a policy that looks gives the crop's answer in most cases
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


Interval = tuple[float, float, float]  # mean, low, high, in per cent or points


def judge_conflict(crop: Interval, whole: Interval) -> Verdict:
    """The verdict from the shares of answers that are the crop's and the whole's, where the crop hit and contradicts the whole.

    It looks: the interval of the crop's share lies above `MOST`. It does not: that interval lies below `MOST`, and at
    least `SMALL_POINTS` per cent give the whole's answer. Everything else is undecided: a policy that gives neither
    answer may look and misread.
    """
    if crop[1] > MOST:
        return Verdict.LOOKS
    return Verdict.DOES_NOT if crop[2] < MOST and whole[0] >= SMALL_POINTS else Verdict.UNDECIDED


def conflict_sentence(crop: Interval, whole: Interval, hits: int, crop_rate: float, view: str, questions: int) -> str:
    """The verdict of the arm `conflict` with the numbers it rests on. `hits`: crops that hit, of all questions."""
    return (
        f"{judge_conflict(crop, whole)}: where its crop contradicts the whole image, {crop[0]:.0f} % of answers [{crop[1]:.0f}, "
        f"{crop[2]:.0f}] are the crop's and {whole[0]:.0f} % [{whole[1]:.0f}, {whole[2]:.0f}] the whole's {view} ({hits:,} crops that hit "
        f"in {questions:,} questions; {100 * crop_rate:.0f} % of answers used a crop)."
    )


def dependence_sentence(loss: Interval, crop_rate: float, view: str, questions: int) -> str:
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
    """The sentence of a measurement: by the arm `conflict` where a crop hit in it, else by D_noise."""

    def percent(metric: str) -> Interval:
        mean, low, high = outcome.interval(metric, resamples)
        return 100 * mean, 100 * low, 100 * high

    view, questions, crop_rate = f"at {outcome.view_tokens:,} tokens", len(outcome.groups), outcome.mean("called")
    if hits := sum(value == value for value in outcome.of("conflict_crop")):
        return conflict_sentence(percent("conflict_crop"), percent("conflict_whole"), hits, crop_rate, view, questions)
    return dependence_sentence(percent("D_noise"), crop_rate, view, questions)
