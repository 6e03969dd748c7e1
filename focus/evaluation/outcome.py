"""Outcome of a measurement: one value per question and metric, kept as JSON."""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

from focus.evaluation.bootstrap import bootstrap, wilson
from focus.grading.answers import RIGHT_FROM
from focus.rollout.substitutes import SUBSTITUTES
from focus.runtime import files

ONE_OF_TWO = ("noise_first", "noise_second")  # one crop is replaced and the other stays: of conversations with two crops or more
OPENINGS = ("tool_free", "forced")  # the first turn is prefilled: with the opening of an answer, or of a call
# Arms with an accuracy. In the arm `conflict` two answers are right, that of the crop and that of the whole image
ARMS = ("own", *(name for name in SUBSTITUTES if name not in ("conflict", *ONE_OF_TWO)), *OPENINGS)
# Arms that only some policies or questions have: `no_tool` needs a prompt that offers no tool, `conflict` drawn images, the last two a
# second crop
PLAYABLE = (*ARMS, "conflict", "no_tool", *ONE_OF_TWO)
# Accuracy of the first arm minus that of the second. D_noise, U_GT and S are E10's; `tool_effect` is gain minus harm
DIFFERENCES = {
    "D_noise": ("own", "noise"),
    "U_GT": ("gt", "own"),
    "S": ("gt", "noise"),
    "D_first": ("own", "noise_first"),
    "D_second": ("own", "noise_second"),
    "D_blank": ("own", "blank"),
    "D_mean_colour": ("own", "mean_colour"),
    "D_elsewhere": ("own", "elsewhere"),
    "D_additive": ("own", "additive"),
    "D_format_only": ("own", "format_only"),
    "tool_effect": ("own", "tool_free"),
    "no_tool_effect": ("own", "no_tool"),
}
# Accuracies and differences of the questions in which something held: (metric, condition). `reads`: right where the
# crop hit. `reliance`: S where there was a crop
GIVEN = {"reads": ("own", "hit"), "reliance": ("S", "called")}
# What the answer says in the arm `conflict`, where the policy's own crop hit
SAYS = ("conflict_crop", "conflict_whole", "conflict_neither")
# Why a policy with a crop tool is right, step by step. `hit`, `chance`, `reliance`: of questions with a crop; `reads` and
# what it says in conflict: of those whose crop hit
DECOMPOSITION = ("called", "hit", "chance", *GIVEN, *SAYS)
# Metrics beside the accuracy of each arm. `agrees`: the answer forced before any crop equals the final
# one (claim C11). `gain` and `harm` (MED, arXiv 2602.01334): right with the tool and wrong without it,
# and the reverse. Boxes are those of the last crop, but `hit` is about all crops: the share of targets that one of them
# covers, and `chance` what crops of their size cover at random places. `called_twice`: at least two crops, where an arm of
# `ONE_OF_TWO` is played. `refused`: the share of arms in which a server refused the question.
OTHERS = (
    *("called", "answered", "agrees", "gain", "harm", "coverage", "iou", "l1", "area", "visual_tokens", "sampled_tokens", "refused"),
    *("called_twice", "hit", "chance", *SAYS),
)
METRICS = (*ARMS, "no_tool", *ONE_OF_TWO, *OTHERS)
COUNTS = ("visual_tokens", "sampled_tokens")  # all other metrics lie between 0 and 1


@dataclass
class Outcome:
    """One policy at one view: per metric, a value for every question (NaN where it does not apply)."""

    view_tokens: int
    groups: list[str] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=lambda: {metric: [] for metric in METRICS})
    seconds: float = 0.0  # spent on the `own` arm
    broken: list[str] = field(default_factory=list)  # one message for each question whose image can't be read
    unannotated: list[str] = field(default_factory=list)  # ids of questions without boxes, to which the arm `gt` does not apply

    def of(self, metric: str, before: "Outcome | None" = None) -> list[float]:
        """The values of a metric, or of one of `DIFFERENCES` or `GIVEN`, one for each question.

        With `before`, minus those of that outcome.
        """
        if before is not None:
            return [a - b for a, b in zip(self.of(metric), before.of(metric), strict=True)]
        if metric in GIVEN:
            metric, condition = GIVEN[metric]
            return [value if held == 1 else math.nan for value, held in zip(self.of(metric), self.values[condition], strict=True)]
        if metric not in DIFFERENCES:
            return self.values[metric]
        first, second = (self.values[arm] for arm in DIFFERENCES[metric])
        return [a - b for a, b in zip(first, second, strict=True)]

    def mean(self, metric: str) -> float:
        """The mean over the questions to which the metric applies; NaN if there are none."""
        return bootstrap(self.of(metric), self.groups, resamples=1)[0]

    def interval(self, metric: str, resamples: int = 2000, before: "Outcome | None" = None) -> tuple[float, float, float]:
        """Mean and 95 % interval, resampled by image; Wilson's for the shares of the arm `conflict`.

        With `before`, of the difference to that outcome, paired by question.
        """
        if metric in SAYS and before is None:
            return wilson(self.of(metric), self.groups)
        low, high = (-1.0, 1.0) if GIVEN.get(metric, (metric,))[0] in DIFFERENCES else (0.0, 1.0)
        bounds = (low, high) if before is None else (low - high, high - low)
        return bootstrap(self.of(metric, before), self.groups, resamples, bounds=None if metric in COUNTS else bounds)


def decompose_tool_effect(outcome: Outcome) -> dict[str, dict[str, float]]:
    """MED's gain and harm as shares of all questions, and their factors.

    gain = mass (wrong without the tool) x policy (calls the tool there) x quality (is then right)
    + schema (becomes right without a call, because the tool is offered). harm: the same from right to
    wrong. A factor to which no question applies is NaN.
    """
    without, own, called = (outcome.values[metric] for metric in ("tool_free", "own", "called"))
    rows = [row for row in zip(without, own, called, strict=True) if not any(map(math.isnan, row))]
    effects = {}
    for name, before in (("gain", False), ("harm", True)):
        start = [row for row in rows if (row[0] >= RIGHT_FROM) == before]
        calls = [row for row in start if row[2]]
        uncalled = [row for row in start if not row[2]]
        changed, schema = ([(row[1] >= RIGHT_FROM) != before for row in part] for part in (calls, uncalled))
        effects[name] = {
            "total": _share(sum(changed) + sum(schema), len(rows)),
            "mass": _share(len(start), len(rows)),
            "policy": _share(len(calls), len(start)),
            "quality": _share(sum(changed), len(calls)),
            "schema": _share(sum(schema), len(rows)),
        }
    return effects


def _share(part: float, whole: int) -> float:
    return part / whole if whole else math.nan


def save_outcomes(outcomes: dict[str, Outcome], path: Path, identity: str) -> None:
    """Write per-question outcomes as JSON; the file appears whole or not at all."""
    content = {"identity": identity, "outcomes": {name: asdict(outcome) for name, outcome in outcomes.items()}}
    with files.atomic_write(path) as partial:
        partial.write_text(files.json_text(content))


def load_outcomes(path: Path, identity: str | None = None) -> dict[str, Outcome]:
    """The outcomes that `save_outcomes` wrote. Empty without a file, or where it has another `identity` (None accepts any).

    Values of null, and metrics that an earlier version did not know, are NaN. Files of earlier versions hold NaN itself.
    """
    kept = files.read_json(path) if path.is_file() else {"identity": identity, "outcomes": {}}
    if identity not in (None, kept["identity"]):
        return {}
    outcomes = {name: Outcome(**fields) for name, fields in kept["outcomes"].items()}
    for outcome in outcomes.values():
        kept_values = {metric: outcome.values.get(metric, [math.nan] * len(outcome.groups)) for metric in METRICS}
        outcome.values = {name: [math.nan if value is None else value for value in values] for name, values in kept_values.items()}
    return outcomes


def refuse_other_measurement(path: Path, identity: str, kind: str, asked: str) -> None:
    """Raises ValueError where the file holds outcomes of another `identity`, which would be overwritten; the message says what differs.

    `kind`: what it holds, for example `a probe`. `asked`: what the last part of an identity is about.
    """
    if not path.is_file():
        return
    before, now = (_identity_parts(each) for each in (str(files.read_json(path).get("identity")), identity))
    policies = " (then {}, now {})".format(*(each[1] for each in (before, now))) if len(before) == len(now) else ""
    parts = ("another judge", f"another policy{policies}", "other settings", f"other {asked}")
    differ = [part for part, a, b in zip(parts, before, now, strict=False) if a != b]
    if len(before) != len(now):
        differ = ["another version of this package"]
    if differ:
        raise ValueError(
            f"{path} holds {kind} with {' and '.join(differ)}; give this one a folder of its own (output=FOLDER), or remove that one"
        )


def _identity_parts(identity: str) -> list[str]:
    """The parts of an identity: judge (empty without one), policy, settings, questions."""
    measured, _, judge = identity.partition(" judge ")
    return [judge, *measured.rsplit(" ", 2)]
