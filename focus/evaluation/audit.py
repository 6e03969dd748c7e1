"""The audit of a crop agent: how many questions, what they cost, and what the measurement says step by step."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from focus.evaluation.bootstrap import bootstrap
from focus.evaluation.outcome import OPENINGS, Outcome
from focus.grading.answers import RIGHT_FROM
from focus.model.dialect import Dialect
from focus.model.prompts import Answer, Call, Fault, Malformed, parse
from focus.rollout.substitutes import SUBSTITUTES
from focus.rollout.trajectory import Crop, Trajectory

Interval = tuple[float, float, float]  # mean, and the ends of the 95 % interval
TEXT_TOKENS = 600  # of a prompt: tool, question and replies. A guess, for the estimate alone
TURN_TOKENS = 200  # sampled in a turn. A guess, for the estimate alone


def questions_needed(effect: float, discordant: float, power: float, alpha: float) -> int:
    """Questions that tell a loss of accuracy of `effect` from none with probability `power`.

    The test is paired and two-sided at level `alpha`. `discordant` is the share of questions whose answer
    turns from right to wrong or back (Connor 1987, for McNemar's test): a loss of 0.1 with 0.2 of the
    questions turning needs 155. Raises ValueError for an effect that so few turning questions can't have.
    """
    if not 0 < effect <= discordant:
        raise ValueError(
            f"audit.effect is {effect:g} and audit.discordant {discordant:g}: a loss needs at least so many questions that turn. Choose "
            "0 < audit.effect <= audit.discordant"
        )
    at_level, at_power = (NormalDist().inv_cdf(p) for p in (1 - alpha / 2, power))
    return math.ceil(((at_level * math.sqrt(discordant) + at_power * math.sqrt(discordant - effect**2)) / effect) ** 2)


@dataclass(frozen=True)
class Cost:
    """Requests to a server, and tokens in them."""

    requests: int
    prompt_tokens: int  # text and images
    sampled_tokens: int

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.requests + other.requests, self.prompt_tokens + other.prompt_tokens, self.sampled_tokens + other.sampled_tokens
        )  # fmt: skip


def expected_cost(
    questions: int, arms: Sequence[str], view_tokens: int, crop_tokens: int, crops: int, text_tokens: int = TEXT_TOKENS
) -> Cost:
    """The cost of `questions` at one view where every conversation makes `crops` crops of `crop_tokens`.

    A substitute replaces all crops and asks for the last turn. With 1 crop, the arms own, noise and
    tool_free are 2 + 1 + 1 requests a question.
    """

    def with_crops(count: int) -> int:
        return text_tokens + view_tokens + count * crop_tokens

    prompts = [with_crops(count) for count in range(crops + 1)]  # own
    for arm in {*arms} - {"own"}:
        prompts += [with_crops(crops)] if arm in SUBSTITUTES else [with_crops(0)] if arm in OPENINGS or arm == "no_tool" else []
    return Cost(questions * len(prompts), questions * sum(prompts), questions * len(prompts) * TURN_TOKENS)


def shown_tokens(view_tokens: int, sides_px: Sequence[int], token_px: int) -> int:
    """Mean visual tokens of a view of square images of these sides, in turn: a view is never larger than its image."""
    return round(sum(min(view_tokens, round(side / token_px) ** 2) for side in sides_px) / len(sides_px))


def chain(outcome: Outcome, resamples: int) -> dict[str, Interval]:
    """Calls, hits, reads and use on hit, each with its interval: the four steps from a question to a crop that mattered.

    calls: questions with a crop. hits: of those, the share of the targets that the crops cover (`hits.hits`). reads: right answers
    of questions whose crops cover all of them. uses: of these, answers that noise in place of the crops makes wrong. A step
    that no question reaches is left out. Questions without boxes count in `calls` alone.
    """
    own, noise, hit = (outcome.values[metric] for metric in ("own", "noise", "hit"))
    reads = [float(right >= RIGHT_FROM) if seen == 1 else math.nan for right, seen in zip(own, hit, strict=True)]
    uses = [
        float(without < RIGHT_FROM) if right == 1 and without == without else math.nan for right, without in zip(reads, noise, strict=True)
    ]
    steps = {"calls": outcome.values["called"], "hits": hit, "reads": reads, "uses": uses}
    intervals = {name: bootstrap(values, outcome.groups, resamples, bounds=(0.0, 1.0)) for name, values in steps.items()}
    return {name: interval for name, interval in intervals.items() if interval[0] == interval[0]}


def pooled(outcomes: Sequence[Outcome]) -> Outcome:
    """The questions of several measurements at one view, together."""
    together = Outcome(outcomes[0].view_tokens)
    for outcome in outcomes:
        together.groups += outcome.groups
        together.seconds += outcome.seconds
        together.broken += outcome.broken
        together.unannotated += outcome.unannotated
        for metric, values in outcome.values.items():
            together.values[metric] += values
    return together


def forms(trajectories: Iterable[Trajectory], own: Dialect, others: Sequence[Dialect]) -> Counter[str]:
    """How often turns had which form: `call`, `answer`, a fault of its own dialect, or `call of NAME`, the form of another one."""
    counted: Counter[str] = Counter()
    for t in trajectories:
        for turn in t.turns:
            if turn.text:  # of a turn that lists several boxes only the first has a text
                counted[_form(turn.text, turn.action, own, others)] += 1
    return counted


def _form(text: str, action: Crop | Answer | Malformed, own: Dialect, others: Sequence[Dialect]) -> str:
    if isinstance(action, Crop):
        return "call"
    if isinstance(action, Answer):
        return "answer"
    if action.fault in (Fault.OUTSIDE, Fault.NO_CROPS_LEFT):
        return f"call: {action.fault}"
    other = next((each.name for each in others if each.course != "two_roles" and isinstance(parse(text, each), Call)), None)
    return f"call of {other}" if other and other != own.name else str(action.fault)


def endings(trajectories: Iterable[Trajectory]) -> Mapping[str, int]:
    """How many conversations ended in which way."""
    return Counter(t.status.value for t in trajectories)
