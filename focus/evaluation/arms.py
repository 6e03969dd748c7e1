"""Does a policy look at what it zooms into, and how good is it? Measured on held-out questions, paired by question. E10.

Every arm sees the same questions with the same noise. Arms of `substitutes` replay the policy's own turns and replace only what its crops
show; `tool_free` and `forced` put the first words into its mouth. Whatever can't be read or is never answered is wrong and stays in the
denominator.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from focus.data.boxes import area, coverage, iou
from focus.data.sample import Sample
from focus.evaluation.outcome import METRICS, OPENINGS, PLAYABLE, Outcome
from focus.gap import Gap
from focus.grading.answers import RIGHT_FROM, normalise
from focus.grading.extraction import read_answer
from focus.grading.grader import Grader, case_of
from focus.model.prompts import ANSWER_OPEN, Model
from focus.rewards.terms import l1_reward
from focus.rollout.engine import Engine
from focus.rollout.loop import RolloutLimits, begin, play, reopen, seed_of, with_prefill
from focus.rollout.substitutes import SUBSTITUTES, nothing
from focus.rollout.trajectory import Status, Trajectory
from focus.runtime import distributed, files
from focus.runtime.endpoint import Outage

Item = TypeVar("Item")


def check_arms(arms: Sequence[str]) -> None:
    """Raises ValueError for an arm that does not exist."""
    if unknown := [arm for arm in arms if arm not in PLAYABLE]:
        raise ValueError(f"evaluation.arms names {', '.join(unknown)}; there are {', '.join(PLAYABLE)}")


@dataclass(frozen=True)
class EvaluatedBatch:
    """What became of some questions: by sample id, the trajectory of every arm, or why its image could not be read."""

    played: dict[str, dict[str, Trajectory]]
    broken: dict[str, str]
    seconds: float  # of the `own` arm alone


@dataclass(frozen=True)
class Evaluator:
    """Who is asked, what it is shown, and in which arms (`own` is always played). `sigma` is that of the arm `additive`, of 255.

    `grader` grades the answers.

    Raises ValueError for an arm that does not exist.
    """

    model: Model
    engine: Engine
    gap: Gap
    rules: RolloutLimits
    seed: int
    arms: Sequence[str]
    questions_per_forward: int
    sigma: float = 64.0
    grader: Grader = field(default_factory=Grader)

    def __post_init__(self) -> None:
        check_arms(self.arms)

    def ask(self, chunk: Sequence[Sample], repeat: int = 0) -> EvaluatedBatch:
        """Play these questions side by side. Another `repeat` samples other answers to them."""
        seen, readable, broken = [], [], {}
        for sample in chunk:
            try:
                seen.append(self.gap.view_of(sample, sample.open()))
                readable.append(sample)
            except ValueError as error:
                broken[sample.id] = str(error)
        with self.model.image_cache():
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
        return EvaluatedBatch(by_id, broken, seconds)

    def _others(self, asked: Sequence[Trajectory], own: Sequence[Trajectory]) -> dict[str, list[Trajectory]]:
        others: dict[str, list[Trajectory]] = {}
        for arm in self.arms:
            if arm in SUBSTITUTES:  # without a crop there is nothing to replace
                alter = SUBSTITUTES[arm](self.rules, self.model.token_px, self.sigma)
                applies = [bool(t.crops) and (arm != "gt" or bool(t.sample.boxes)) for t in own]
                others[arm] = [reopen(self.model, t, alter) if a else t for t, a in zip(own, applies, strict=True)]
            elif arm in OPENINGS:
                opening = ANSWER_OPEN if arm == "tool_free" else self.model.dialect.call[0]
                others[arm] = [with_prefill(self.model, t, opening) for t in asked]
            elif arm == "no_tool":
                others[arm] = [begin(self.model, t.sample, t.view, t.source, [t.seed], tool=False)[0] for t in asked]
        for arm in {"tool_free", "no_tool"} & others.keys():  # a call all the same is told that there is no tool
            others[arm] = [replace(t, alter=nothing) for t in others[arm]]
        return others


def measure(examiner: Evaluator, samples: Sequence[Sample], label: str | None) -> tuple[Outcome, list[Trajectory]]:
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


def measure_on_all_ranks(examiner: Evaluator, samples: Sequence[Sample], label: str | None) -> Outcome:
    """`measure`, the questions divided among the ranks of a run; every rank gets the whole outcome, in the order of the samples.

    Raises Outage on all ranks if a server fails for one of them: alone it would leave the others waiting.
    """
    mine: Outcome | Outage
    try:
        mine, _ = measure(examiner, distributed.shard(samples), label if files.is_first_rank() else None)
    except Outage as outage:
        mine = outage
    parts: list[Outcome] = []
    for part in distributed.all_gather(mine):
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
