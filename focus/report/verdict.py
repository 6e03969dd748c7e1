"""The answer to "does the policy look at its crops?" in one sentence."""

import math
from collections.abc import Sequence
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
        f"{crop[2]:.0f}] are the crop's and {whole[0]:.0f} % [{whole[1]:.0f}, {whole[2]:.0f}] the whole's {view} ({_hits_text(hits)} "
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
        if questions < LEAST_QUESTIONS:
            return f"{Verdict.UNDECIDED}: it made no crop in {questions:,} questions {view}, which are too few."
        return f"{Verdict.DOES_NOT}: it made no crop in {questions:,} questions {view}."
    verdict = judge_dependence(points, low, high, questions)
    more = f"; {questions:,} questions are too few" if verdict is Verdict.UNDECIDED else ""
    return (
        f"{verdict}: replacing its crop by noise costs {points:.0f} points [{low:.0f}, {high:.0f}] {view} "
        f"({100 * crop_rate:.0f} % of answers used a crop){more}."
    )


def verdict_of(outcome: Outcome, resamples: int) -> str:
    """The sentence of a measurement: by the arm `conflict` where a crop hit in it, else by D_noise."""

    view, questions, crop_rate = f"at {outcome.view_tokens:,} tokens", len(outcome.groups), outcome.mean("called")
    if hits := _contradicting(outcome):
        crop, whole = (_percent(outcome, metric, resamples) for metric in ("conflict_crop", "conflict_whole"))
        return conflict_sentence(crop, whole, hits, crop_rate, view, questions)
    return dependence_sentence(_percent(outcome, "D_noise", resamples), crop_rate, view, questions)


def _percent(outcome: Outcome, metric: str, resamples: int) -> Interval:
    mean, low, high = outcome.interval(metric, resamples)
    return 100 * mean, 100 * low, 100 * high


def _contradicting(outcome: Outcome) -> int:
    """Crops that hit and contradict the whole image."""
    return sum(value == value for value in outcome.of("conflict_crop"))


class Conduct(StrEnum):
    """What an agent does with its crop tool, over all views."""

    NEVER = "never crops"
    LOOKS = "looks"
    WHEN_NEEDED = "looks when needed"
    FOR_SHOW = "crops for show"
    GUESSES = "is right too rarely to tell"
    UNDECIDED = "undecided"
    NONE = "no verdict"  # the server refused too many questions


# Below this call rate, in percent, an agent counts as one that never crops; below this accuracy, one has nothing to lose
RARE_POINTS = 5.0
LEAST_RIGHT_POINTS = 10.0
CONDUCT_RULE = (
    f"At the smallest view: never crops if the interval of its call rate lies below {RARE_POINTS:.0f} %; is right too rarely to tell if "
    f"that of its accuracy lies below {LEAST_RIGHT_POINTS:.0f} %; looks if noise in place of its crops costs at least {SMALL_POINTS:.0f} "
    f"points and the interval lies above 0; crops for show if the whole interval lies below {SMALL_POINTS:.0f} points, with at least "
    f"{LEAST_QUESTIONS} questions; else undecided. Looks when needed: it looks, and at the largest view it calls at most half as often."
)


def judge_conduct(views: Sequence[Outcome], resamples: int) -> Conduct:
    """The conduct by `CONDUCT_RULE`. `views` are the measurements of the same questions, from the smallest view to the largest."""
    first, last = views[0], views[-1]
    if 100 * first.interval("called", resamples)[2] < RARE_POINTS:
        return Conduct.NEVER
    if 100 * first.interval("own", resamples)[2] < LEAST_RIGHT_POINTS:
        return Conduct.GUESSES
    points, low, high = (100 * value for value in first.interval("D_noise", resamples))
    verdict = judge_dependence(points, low, high, len(first.groups))
    if verdict is not Verdict.LOOKS:
        return Conduct.FOR_SHOW if verdict is Verdict.DOES_NOT else Conduct.UNDECIDED
    return Conduct.WHEN_NEEDED if 2 * last.mean("called") <= first.mean("called") else Conduct.LOOKS


def conduct_sentence(conduct: Conduct, views: Sequence[Outcome], resamples: int) -> str:
    """The conduct with the numbers it rests on, as a sentence."""
    first, last = views[0], views[-1]
    right, called = 100 * first.mean("own"), 100 * first.mean("called")
    loss, low, high = (100 * value for value in first.interval("D_noise", resamples))
    numbers = f"it is right in {right:.0f} % of {len(first.groups):,} questions"
    rate, a, b = _percent(first, "called", resamples)
    crops = f"it made a crop in {rate:.0f} % [{a:.0f}, {b:.0f}] of the questions"
    if conduct is Conduct.NEVER or (conduct is Conduct.UNDECIDED and not called):
        made = f"at {first.view_tokens:,} tokens {crops}"
        few = ", too few to say that it never does" if conduct is Conduct.UNDECIDED else ""
        return f"{'It never crops' if conduct is Conduct.NEVER else 'Undecided'}: {made}; {numbers}{few}."
    if conduct is Conduct.GUESSES:
        return f"It is right too rarely to tell: at {first.view_tokens:,} tokens {numbers}, so it has little to lose; {crops}."
    noise = f"noise in place of its crops costs {loss:.0f} points [{low:.0f}, {high:.0f}] at {first.view_tokens:,} tokens"
    called_too = f"it crops in {called:.0f} % of the questions and is right in {right:.0f} %"
    if conduct is Conduct.WHEN_NEEDED:
        later = f"{100 * last.mean('called'):.0f} % at {last.view_tokens:,}"
        return f"It looks when needed: {noise}; it crops in {called:.0f} % there and in {later}."
    named = {Conduct.LOOKS: "It looks", Conduct.FOR_SHOW: "It crops for show"}.get(conduct, "Undecided")
    more = "; more questions may decide it" if conduct is Conduct.UNDECIDED else ""
    return f"{named}: {noise}; {called_too}{more}."


def contradicted_sentence(views: Sequence[Outcome], resamples: int) -> str | None:
    """Whose answer an agent gives where its crop contradicts the view, at the largest view; None if no crop did."""
    last = views[-1]
    if not (hits := _contradicting(last)):
        return None
    (crop, a, b), (whole, c, d) = (_percent(last, metric, resamples) for metric in ("conflict_crop", "conflict_whole"))
    return (
        f"Where its crop contradicts the view, {crop:.0f} % [{a:.0f}, {b:.0f}] of its answers are the crop's and {whole:.0f} % "
        f"[{c:.0f}, {d:.0f}] the view's, at {last.view_tokens:,} tokens ({_hits_text(hits)})."
    )


def _hits_text(hits: int) -> str:
    return f"{hits:,} crop{'s' * (hits != 1)} that hit"
