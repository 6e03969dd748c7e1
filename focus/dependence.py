"""Does a policy look at what it zooms into, and how good is it? Measured on held-out questions, paired by question. E10.

Every arm sees the same questions with the same noise. Arms of `substitutes` replay the policy's own turns and replace only what its crops
show; `tool_free` and `forced` put the first words into its mouth. Whatever can't be read or is never answered is wrong and stays in the
denominator.
"""

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

import pytorch_lightning as pl
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from focus import ranks
from focus.answers import RIGHT_FROM, normalise
from focus.boxes import area, coverage, iou
from focus.data.sample import Sample
from focus.endpoint import Outage
from focus.extraction import read_answer
from focus.gap import Gap
from focus.grading import Grader, case_of
from focus.judge import NoVerdict
from focus.policy import FocusPolicy
from focus.prompts import ANSWER_OPEN, Model
from focus.rewards.terms import l1_reward
from focus.rollout.engine import Engine
from focus.rollout.loop import Rules, begin, opened, play, reopen, seed_of
from focus.rollout.trajectory import Status, Trajectory
from focus.statistics import bootstrap
from focus.substitutes import SUBSTITUTES, nothing

Item = TypeVar("Item")
OPENINGS = ("tool_free", "forced")  # an answer without a crop, and a crop, put into its mouth
ARMS = ("own", *SUBSTITUTES, *OPENINGS)
PLAYABLE = (*ARMS, "no_tool")  # that one asks without offering a tool; the embedded policy knows no such prompt
# Accuracy of `first` minus accuracy of `second`. D_noise, U_GT and S are E10's; `tool_effect` is gain minus harm
DIFFERENCES = {
    "D_noise": ("own", "noise"),
    "U_GT": ("gt", "own"),
    "S": ("gt", "noise"),
    "D_blank": ("own", "blank"),
    "D_mean_colour": ("own", "mean_colour"),
    "D_elsewhere": ("own", "elsewhere"),
    "D_additive": ("own", "additive"),
    "D_format_only": ("own", "format_only"),
    "tool_effect": ("own", "tool_free"),
    "no_tool_effect": ("own", "no_tool"),
}
# Beside the accuracy of each arm. `agrees`: the answer forced before any crop equals the final one (claim C11). `gain` and `harm` (MED,
# arXiv 2602.01334): right with the tool and wrong without it, and the reverse. Boxes are those of the last crop. `refused`: the share of
# the arms in which a server refused the question
OTHERS = ("called", "answered", "agrees", "gain", "harm", "coverage", "iou", "l1", "area", "visual_tokens", "sampled_tokens", "refused")
METRICS = (*PLAYABLE, *OTHERS)


@dataclass
class Outcome:
    """One policy at one view: per metric, a value for every question (NaN where it does not apply)."""

    view_tokens: int
    groups: list[str] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=lambda: {metric: [] for metric in METRICS})
    seconds: float = 0.0  # of the `own` arm alone
    broken: list[str] = field(default_factory=list)  # what could not be read, one message each
    unannotated: list[str] = field(default_factory=list)  # ids of questions without boxes: the arm `gt` does not apply to them

    def of(self, metric: str) -> list[float]:
        """The values of a metric or of one of `DIFFERENCES`, one for each question."""
        if metric not in DIFFERENCES:
            return self.values[metric]
        first, second = (self.values[arm] for arm in DIFFERENCES[metric])
        return [a - b for a, b in zip(first, second, strict=True)]

    def interval(self, metric: str, resamples: int = 2000) -> tuple[float, float, float]:
        """Mean and 95 % interval, resampled by image."""
        return bootstrap(self.of(metric), self.groups, resamples)


def check_arms(arms: Sequence[str]) -> None:
    """Raises ValueError for an arm that does not exist."""
    if unknown := [arm for arm in arms if arm not in PLAYABLE]:
        raise ValueError(f"evaluation.arms names {', '.join(unknown)}; there are {', '.join(PLAYABLE)}")


@dataclass(frozen=True)
class Asked:
    """What became of some questions: by sample id, the trajectory of every arm, or why its image could not be read."""

    played: dict[str, dict[str, Trajectory]]
    broken: dict[str, str]
    seconds: float  # of the `own` arm alone


@dataclass(frozen=True)
class Examiner:
    """Who is asked, what it is shown, and in which arms (`own` is always played). `sigma` is that of the arm `additive`, of 255.

    `grader` grades the answers.

    Raises ValueError for an arm that does not exist.
    """

    model: Model
    engine: Engine
    gap: Gap
    rules: Rules
    seed: int
    arms: Sequence[str]
    questions_per_forward: int
    sigma: float = 64.0
    grader: Grader = field(default_factory=Grader)

    def __post_init__(self) -> None:
        check_arms(self.arms)

    def ask(self, chunk: Sequence[Sample], repeat: int = 0) -> Asked:
        """Play these questions side by side. Another `repeat` samples other answers to them."""
        seen, readable, broken = [], [], {}
        for sample in chunk:
            try:
                seen.append(self.gap.see(sample, sample.open()))
                readable.append(sample)
            except ValueError as error:
                broken[sample.id] = str(error)
        with self.model.remembering():
            start = time.perf_counter()
            asked = [
                begin(self.model, sample, view, source, [seed_of(self.seed, sample.id, *([repeat] if repeat else []))])[0]
                for sample, (view, source) in zip(readable, seen, strict=True)
            ]
            own = play(self.model, self.engine, asked, self.rules)
            seconds = time.perf_counter() - start
            others = self._others(asked, own)  # together: they share the prompt
            together = iter(play(self.model, self.engine, [t for each in others.values() for t in each], self.rules))
            played = {"own": own} | {arm: list(islice(together, len(own))) for arm in others}
        for t in own:
            t.source.release()
        by_id = {sample.id: {arm: each[i] for arm, each in played.items()} for i, sample in enumerate(readable)}
        return Asked(by_id, broken, seconds)

    def _others(self, asked: Sequence[Trajectory], own: Sequence[Trajectory]) -> dict[str, list[Trajectory]]:
        others: dict[str, list[Trajectory]] = {}
        for arm in self.arms:
            if arm in SUBSTITUTES:  # without a crop there is nothing to replace
                alter = SUBSTITUTES[arm](self.rules, self.model.token_px, self.sigma)
                applies = [bool(t.crops) and (arm != "gt" or bool(t.sample.boxes)) for t in own]
                others[arm] = [reopen(self.model, t, alter) if a else t for t, a in zip(own, applies, strict=True)]
            elif arm in OPENINGS:
                opening = ANSWER_OPEN if arm == "tool_free" else self.model.dialect.call[0]
                others[arm] = [opened(self.model, t, opening) for t in asked]
            elif arm == "no_tool":
                others[arm] = [begin(self.model, t.sample, t.view, t.source, [t.seed], tool=False)[0] for t in asked]
        for arm in {"tool_free", "no_tool"} & others.keys():  # a call all the same is told that there is no tool
            others[arm] = [replace(t, alter=nothing) for t in others[arm]]
        return others


def measure(examiner: Examiner, samples: Sequence[Sample], label: str | None) -> tuple[Outcome, list[Trajectory]]:
    """Measure one policy at one view; `label` names the progress bar, None shows none.

    Also returns the trajectories of the `own` arm, in the order of the samples. Raises Outage if a server fails.
    """
    outcome = Outcome(examiner.gap.view_tokens)
    shown: list[Trajectory] = []
    for chunk in chunks(samples, examiner.questions_per_forward, label):
        asked = examiner.ask(chunk)
        outcome.seconds += asked.seconds
        outcome.broken += asked.broken.values()
        outcome.unannotated += [sample.id for sample in chunk if not sample.boxes]
        rows = _rows(examiner.grader, [sample for sample in chunk if sample.id in asked.played], asked.played)
        for sample in chunk:
            outcome.groups.append(sample.group or sample.id)
            row = rows.get(sample.id) or _wrong(sample, examiner.arms)
            for metric in METRICS:
                outcome.values[metric].append(row.get(metric, math.nan))
        shown += [arms["own"] for arms in asked.played.values()]
    return outcome, shown


def measure_together(examiner: Examiner, samples: Sequence[Sample], label: str | None) -> Outcome:
    """`measure`, the questions divided among the ranks of a run; every rank gets the whole outcome, in the order of the samples.

    Raises Outage on all ranks if a server fails for one of them: alone it would leave the others waiting.
    """
    mine: Outcome | Outage
    try:
        mine, _ = measure(examiner, ranks.share(samples), label if ranks.is_first() else None)
    except Outage as outage:
        mine = outage
    parts: list[Outcome] = []
    for part in ranks.collect(mine):
        if isinstance(part, Outage):
            raise part
        parts.append(part)
    outcome = Outcome(parts[0].view_tokens, seconds=max(part.seconds for part in parts))
    for i in range(len(samples)):
        rank, place = i % len(parts), i // len(parts)
        outcome.groups.append(parts[rank].groups[place])
        for metric in METRICS:
            outcome.values[metric].append(parts[rank].values[metric][place])
    for part in parts:
        outcome.broken += part.broken
        outcome.unannotated += part.unannotated
    return outcome


def chunks(samples: Sequence[Item], size: int, label: str | None) -> Iterator[list[Item]]:
    """Samples in order, `size` at a time, beneath a progress bar with rate and ETA; `label` None shows none."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=label is None) as progress:
        task = progress.add_task(label or "", total=len(samples))
        for start in range(0, len(samples), size):
            chunk = [samples[i] for i in range(start, min(len(samples), start + size))]
            yield chunk
            progress.advance(task, len(chunk))


def _wrong(sample: Sample, arms: Sequence[str]) -> dict[str, float]:
    """The metrics of a question whose image can't be read: wrong in every arm that applies to it."""
    wrong = ["own", *arms, "called", "answered", *(("agrees", "gain", "harm") if "tool_free" in arms else ())]
    return {metric: 0.0 for metric in wrong if metric != "gt" or sample.boxes}


def _rows(grader: Grader, samples: Sequence[Sample], played: Mapping[str, dict[str, Trajectory]]) -> dict[str, dict[str, float]]:
    """By id every metric that applies to a question. Its answers in all arms are graded together."""
    said = {sample.id: {arm: _answer(each) for arm, each in played[sample.id].items()} for sample in samples}
    grades = iter(grader.measure([case_of(sample, answer) for sample in samples for answer in said[sample.id].values()]))
    right = {sample.id: {arm: next(grades).right for arm in said[sample.id]} for sample in samples}
    return {sample.id: _values(sample, played[sample.id], said[sample.id], right[sample.id]) for sample in samples}


def _values(
    sample: Sample, played: dict[str, Trajectory], said: Mapping[str, str | None], right_in: Mapping[str, float]
) -> dict[str, float]:
    """Every metric that applies to one question, given by arm what was said and how right that is."""
    t, row = played["own"], dict(right_in)
    if not sample.boxes:
        row.pop("gt", None)
    row |= {
        "called": float(bool(t.crops)),
        "answered": float(t.answer is not None),
        "visual_tokens": float(t.visual_tokens),
        "sampled_tokens": float(sum(t.sampled_mask)),
        "refused": sum(each.status is Status.REFUSED for each in played.values()) / len(played),
    }
    if "tool_free" in played:
        first, last, right, right_without = said["tool_free"], said["own"], row["own"] >= RIGHT_FROM, row["tool_free"] >= RIGHT_FROM
        row["agrees"] = float(first is not None and last is not None and normalise(first) == normalise(last))
        row |= {"gain": float(right and not right_without), "harm": float(right_without and not right)}
    if t.crops:
        box = t.crops[-1].box_px
        row["area"] = area(box) / (sample.width * sample.height)
        if sample.boxes:
            chains = sample.boxes
            row["coverage"] = sum(coverage(box, chain[0]) for chain in chains) / len(chains)
            row["iou"] = sum(max(iou(box, level) for level in chain) for chain in chains) / len(chains)
            row["l1"] = sum(l1_reward(box, chain, sample.size) for chain in chains) / len(chains)
    return row


def _answer(t: Trajectory) -> str | None:
    """What a conversation answers, read as evaluations read it: agents whose prompt asks for no tag are not mute."""
    if t.status in (Status.OUT_OF_TURNS, Status.REFUSED):
        return None
    return read_answer(t.turns[-1].text, t.answer, t.status is Status.OUT_OF_TOKENS, t.sample.options, "strict")


def decompose(outcome: Outcome) -> dict[str, dict[str, float]]:
    """MED's gain and harm as shares of all questions, and what they consist of.

    total gain = mass (wrong without the tool) x policy (calls it there) x quality (is then right) + schema (becomes right without a
    call, by the mere offer of the tool). harm likewise, from right to wrong. NaN where a factor has no question to be seen on.
    """
    without, own, called = (outcome.values[metric] for metric in ("tool_free", "own", "called"))
    rows = [row for row in zip(without, own, called, strict=True) if not any(map(math.isnan, row))]
    found = {}
    for name, before in (("gain", False), ("harm", True)):
        start = [row for row in rows if (row[0] >= RIGHT_FROM) == before]
        calls = [row for row in start if row[2]]
        uncalled = [row for row in start if not row[2]]
        changed, schema = ([(row[1] >= RIGHT_FROM) != before for row in part] for part in (calls, uncalled))
        found[name] = {
            "total": _share(sum(changed) + sum(schema), len(rows)),
            "mass": _share(len(start), len(rows)),
            "policy": _share(len(calls), len(start)),
            "quality": _share(sum(changed), len(calls)),
            "schema": _share(sum(schema), len(rows)),
        }
    return found


def _share(part: float, whole: int) -> float:
    return part / whole if whole else math.nan


class Probe(pl.Callback):
    """The probe inside training: every `every` updates, on the same held-out questions; the curves are `probe/...`.

    `samples` are divided among the ranks. They are played by `rules`, as held-out questions are when the training is over. Between two
    probes the values are NaN, and so are those of a probe during an outage of the judge, which does not end the training. 0 switches it
    off.
    """

    ARMS = ("own", "gt", "noise", "tool_free")
    SHOWN = ("own", "D_noise", "U_GT", "tool_free", "called", "agrees")

    def __init__(
        self, samples: Sequence[Sample], gap: Gap, rules: Rules, every: int, questions_per_forward: int, grader: Grader | None = None
    ) -> None:
        self.samples, self.gap, self.rules, self.every, self.questions_per_forward = samples, gap, rules, every, questions_per_forward
        self.grader = grader or Grader()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: object) -> None:
        assert isinstance(pl_module, FocusPolicy)
        if not self.every:
            return
        values = dict.fromkeys(self.SHOWN, math.nan)
        if pl_module.updates_done % self.every == 0:
            m = pl_module
            examiner = Examiner(
                m.checkpoint, m.engine, self.gap, self.rules, m.seed, self.ARMS, self.questions_per_forward, grader=self.grader
            )
            try:
                with ranks.gathered(m.model):
                    outcome = measure_together(examiner, self.samples, None)
                values = {metric: bootstrap(outcome.of(metric), outcome.groups, resamples=1)[0] for metric in self.SHOWN}
            except NoVerdict as outage:
                if ranks.is_first():
                    print(f"no probe at update {m.updates_done}: {outage}")
        pl_module.log_dict({f"probe/{metric}": value for metric, value in values.items()})


def save(outcomes: dict[str, Outcome], path: Path, identity: str) -> None:
    """Keep per-question outcomes as JSON; the file appears whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({"identity": identity, "outcomes": {name: asdict(outcome) for name, outcome in outcomes.items()}}))
    partial.rename(path)


def load(path: Path, identity: str | None = None) -> dict[str, Outcome]:
    """What `save` wrote; nothing if there is no file, or if it was measured for another `identity` (None takes any).

    Metrics that an earlier version did not know are NaN.
    """
    kept = json.loads(path.read_text()) if path.is_file() else {"identity": identity, "outcomes": {}}
    if identity not in (None, kept["identity"]):
        return {}
    outcomes = {name: Outcome(**fields) for name, fields in kept["outcomes"].items()}
    for outcome in outcomes.values():
        outcome.values = {metric: outcome.values.get(metric, [math.nan] * len(outcome.groups)) for metric in METRICS}
    return outcomes


def refuse_other(path: Path, identity: str) -> None:
    """Raises ValueError, with what differs, where the file holds outcomes of another `identity`: they would be overwritten."""
    if not path.is_file():
        return
    before, now = (_parts(each) for each in (json.loads(path.read_text())["identity"], identity))
    parts = ("another judge", "another policy", "other settings", "other questions")
    differ = [part for part, a, b in zip(parts, before, now, strict=False) if a != b]
    if len(before) != len(now):
        differ = ["another version of this package"]
    if differ:
        raise ValueError(
            f"{path} holds a probe with {' and '.join(differ)}; give this one a folder of its own (output=FOLDER), or remove that one"
        )


def _parts(identity: str) -> list[str]:
    """The judge (empty without one), the policy, the settings and the questions that an identity names."""
    measured, _, judge = identity.partition(" judge ")
    return [judge, *measured.rsplit(" ", 2)]
