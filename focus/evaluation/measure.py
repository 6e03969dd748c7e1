"""Measure a policy on held-out questions, paired by question (E10).

A question whose image can't be read, or that gets no answer, counts as wrong and stays in the denominator.
"""

import math
from collections.abc import Mapping, Sequence

from focus.data.boxes import area, coverage, iou
from focus.data.drawn import twin_of
from focus.data.sample import Sample
from focus.evaluation.arms import Evaluator, can_play
from focus.evaluation.hits import hits
from focus.evaluation.kept import Kept
from focus.evaluation.outcome import METRICS, ONE_OF_TWO, SAYS, Outcome
from focus.grading.answers import RIGHT_FROM, normalise
from focus.grading.extraction import read_answer
from focus.grading.grader import Grader, case_of
from focus.rewards.terms import l1_reward
from focus.rollout.trajectory import Status, Trajectory
from focus.runtime import distributed, files
from focus.runtime.endpoint import Outage
from focus.runtime.progress import Advance, chunks


def measure(
    evaluator: Evaluator, samples: Sequence[Sample], advance: Advance | None, kept: Kept | None = None
) -> tuple[Outcome, list[Trajectory]]:
    """Measure one policy at one view. `advance` is called with the number of questions that are done.

    The trajectories of all arms go to the table `kept`, if there is one.

    Also returns the trajectories of the `own` arm, in the order of the samples. Raises Outage if a
    server fails.
    """
    outcome = Outcome(evaluator.gap.view_tokens)
    own: list[Trajectory] = []
    for chunk in chunks(samples, evaluator.questions_per_forward, advance):
        batch = evaluator.play_arms(chunk)
        outcome.seconds += batch.own_seconds
        outcome.broken += batch.unreadable.values()
        outcome.unannotated += [sample.id for sample in chunk if not sample.boxes]
        readable = [sample for sample in chunk if sample.id in batch.trajectories]
        metrics = _metrics_by_id(evaluator.grader, readable, batch.trajectories, kept)
        if {*ONE_OF_TWO} & {*evaluator.arms}:
            for id, arms in batch.trajectories.items():
                metrics[id]["called_twice"] = float(len(arms["own"].crops) >= 2)
        for sample in chunk:
            outcome.groups.append(sample.group or sample.id)
            values = metrics.get(sample.id) or _metrics_of_unreadable(sample, evaluator.arms)
            for metric in METRICS:
                outcome.values[metric].append(values.get(metric, math.nan))
        own += [arms["own"] for arms in batch.trajectories.values()]
    if kept:
        kept.write()
    return outcome, own


def measure_on_all_ranks(evaluator: Evaluator, samples: Sequence[Sample], advance: Advance | None, kept: Kept | None = None) -> Outcome:
    """`measure` with the questions divided among the ranks of a run.

    Every rank gets the whole outcome, in the order of the samples. If a server fails for one rank, all
    ranks raise Outage: a rank that raised alone would leave the others waiting.
    """
    own_part: Outcome | Outage
    try:
        own_part, _ = measure(evaluator, distributed.shard(samples), advance if files.is_first_rank() else None, kept)
    except Outage as outage:
        own_part = outage
    parts: list[Outcome] = []
    for part in distributed.all_gather(own_part):
        if isinstance(part, Outage):
            raise part
        parts.append(part)
    outcome = Outcome(parts[0].view_tokens, seconds=max(part.seconds for part in parts))
    for i in range(len(samples)):
        rank, index = i % len(parts), i // len(parts)
        outcome.groups.append(parts[rank].groups[index])
        for metric in METRICS:
            outcome.values[metric].append(parts[rank].values[metric][index])
    for part in parts:
        outcome.broken += part.broken
        outcome.unannotated += part.unannotated
    return outcome


def _metrics_of_unreadable(sample: Sample, arms: Sequence[str]) -> dict[str, float]:
    """The metrics of a question whose image can't be read: wrong in every arm that applies to it."""
    wrong = ["own", *arms, "called", "answered", *(("agrees", "gain", "harm") if "tool_free" in arms else ())]
    wrong += ["called_twice"] if {*ONE_OF_TWO} & {*arms} else []
    return {metric: 0.0 for metric in wrong if metric in METRICS and can_play(metric, sample, crops=0)}


def _metrics_by_id(
    grader: Grader, samples: Sequence[Sample], trajectories: Mapping[str, dict[str, Trajectory]], kept: Kept | None
) -> dict[str, dict[str, float]]:
    """By sample id, every metric that applies. The answers of all arms are graded together."""
    answers = {sample.id: {arm: _answer(t) for arm, t in trajectories[sample.id].items()} for sample in samples}
    grades = iter(grader.measure([case_of(sample, answer) for sample in samples for answer in answers[sample.id].values()]))
    right = {sample.id: {arm: next(grades).right for arm in answers[sample.id]} for sample in samples}
    twins = {sample.id: twin for sample in samples if "conflict" in answers[sample.id] and (twin := twin_of(sample))}
    of_crop = iter(grader.measure([case_of(twin, answers[id]["conflict"]) for id, twin in twins.items()]))
    says = {id: said(of_crop=next(of_crop).right, of_whole=right[id].pop("conflict")) for id in twins}
    if kept:
        for sample in samples:
            kept.add(kept.rows_of(trajectories[sample.id]), answers[sample.id], right[sample.id])
    return {
        sample.id: _metrics(sample, trajectories[sample.id], answers[sample.id], right[sample.id], says.get(sample.id, {}))
        for sample in samples
    }


def said(of_crop: float, of_whole: float) -> dict[str, float]:
    """What an answer says whose crop contradicts the view, from its grades by the answer of either: one of `SAYS` is 1."""
    crop, whole = of_crop >= RIGHT_FROM > of_whole, of_whole >= RIGHT_FROM > of_crop
    return dict(zip(SAYS, map(float, (crop, whole, not crop and not whole)), strict=True))


def _metrics(
    sample: Sample,
    trajectories: Mapping[str, Trajectory],
    answers: Mapping[str, str | None],
    right_in: Mapping[str, float],
    says: Mapping[str, float],
) -> dict[str, float]:
    """Every metric that applies to one question, from its trajectory, its answer and its grade in each arm.

    `says`: what it says in the arm `conflict`.
    """
    own, values = trajectories["own"], dict(right_in)
    if not sample.boxes:
        values.pop("gt", None)
    values |= {
        "called": float(bool(own.crops)),
        "answered": float(own.answer is not None),
        "visual_tokens": float(own.visual_tokens),
        "sampled_tokens": float(sum(own.sampled_mask)),
        "refused": sum(t.status is Status.REFUSED for t in trajectories.values()) / len(trajectories),
    }
    if "tool_free" in trajectories:
        first, last = answers["tool_free"], answers["own"]
        right, right_without = values["own"] >= RIGHT_FROM, values["tool_free"] >= RIGHT_FROM
        values["agrees"] = float(first is not None and last is not None and normalise(first) == normalise(last))
        values |= {"gain": float(right and not right_without), "harm": float(right_without and not right)}
    if own.crops:
        box = own.crops[-1].box_px
        values["area"] = area(box) / (sample.width * sample.height)
        if sample.boxes:
            chains = sample.boxes
            values["coverage"] = sum(coverage(box, chain[0]) for chain in chains) / len(chains)
            values["iou"] = sum(max(iou(box, level) for level in chain) for chain in chains) / len(chains)
            values["l1"] = sum(l1_reward(box, chain, sample.size) for chain in chains) / len(chains)
            values["hit"], values["chance"] = hits([crop.box_px for crop in own.crops], [chain[0] for chain in chains], sample.size)
            if values["hit"] == 1:
                values |= says
    return values


def _answer(t: Trajectory) -> str | None:
    """The answer of a conversation, read by the rule `strict`: an agent whose prompt asks for no answer tag is read too."""
    if t.status in (Status.OUT_OF_TURNS, Status.REFUSED):
        return None
    return read_answer(t.turns[-1].text, t.answer, t.status is Status.OUT_OF_TOKENS, t.sample.options, "strict")
