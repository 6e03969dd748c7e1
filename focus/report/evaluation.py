"""The tables of an evaluation, and failures as pictures.

Differences to published scores: a row that fails counts as wrong. Intervals are resampled by image,
for HR-Bench by question, because its four rotations are not independent. Strict-circular, where all
rotations of a question must be right, is an additional metric.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from focus.data.sample import Sample
from focus.evaluation.arms import Evaluator
from focus.evaluation.bootstrap import bootstrap
from focus.evaluation.outcome import DECOMPOSITION, DIFFERENCES, Outcome
from focus.evaluation.outcome import METRICS as MEASURED
from focus.evaluation.predictions import replay_conversation
from focus.grading.answers import RIGHT_FROM
from focus.report.results_file import Metrics, interval
from focus.report.run import PARTS
from focus.report.table import Cell, Results, Row
from focus.report.verdict import conflict_sentence, dependence_sentence
from focus.rewards import Example
from focus.rollout.trajectory import Status

Rows = Sequence[Mapping[str, Any]]

# field of a row of predictions -> label, unit, factor. `right` is the accuracy
METRICS = {
    "right": ("accuracy", "%", 100.0),
    "unparsed": ("no answer could be read", "%", 100.0),
    "truncated": ("cut by the limit of turns or tokens", "%", 100.0),
    "refused": ("refused by the server", "%", 100.0),
    "called": ("crop rate", "%", 100.0),
    "crops": ("crops/question", "", 1.0),
    "visual_tokens": ("visual tokens/question", "", 1.0),
    "sampled_tokens": ("sampled tokens/question", "", 1.0),
    "seconds": ("seconds/question", "s", 1.0),
    "iou_recall": ("IoU, every target's best crop", "", 1.0),
    "iou_precision": ("IoU, every crop's best target", "", 1.0),
}
FIELDS = ("split", "category", "l2-category", "Task", "Subtask", "Category", "question_type", "cycle_category")
MAIN = ("right", "unparsed", "called", "visual_tokens", "iou_recall")  # on the terminal, with strict-circular for HR-Bench
COUNTS = ("crops", "visual_tokens", "sampled_tokens", "seconds")  # all other metrics lie between 0 and 1
SHARE, DIFFERENCE = (0.0, 1.0), (-1.0, 1.0)
NAMES = {
    "own": "own crops",
    "tool_free": "tool-free",
    "format_only": "format only",
    "gt": "annotated crop",
    "no_tool": "no tool offered",
    "noise_first": "first crop noise",
    "noise_second": "second crop noise",
}


def summary(rows: Rows, arms: Sequence[str], resamples: int) -> dict[str, Any]:
    """All numbers of an evaluation as `[mean, low, high]`, with 95 % intervals.

    Repeats of a question are averaged first.
    """
    by_arm: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        by_arm[row["arm"]].append(row)
    played = {arm: by_arm[arm] for arm in dict.fromkeys(["own", *arms]) if arm in by_arm and arm != "conflict"}
    own = played["own"]
    numbers: dict[str, Any] = {
        "questions": len({row["id"] for row in own}),
        "images": len({row["group"] for row in own}),
        "repeats": len({row["repeat"] for row in own}),
        "metrics": {arm: _metrics(of_arm, resamples) for arm, of_arm in played.items()},
        "n": {
            arm: {metric: len(values) for metric in METRICS if (values := _by_question(of_arm, metric))} for arm, of_arm in played.items()
        },
        "differences": {},
        "decomposition": {},
        "by": {},
        "unweighted": {},
        "broken": list({row["id"]: row["broken"] for row in own if row["broken"]}.values()),
        "graded_by": {name: sum(row["graded_by"] == name for row in own) for name in {row["graded_by"] for row in own}},
    }
    for name, (first, second) in DIFFERENCES.items():
        if first in played and second in played:
            there = {(row["id"], row["repeat"]) for row in played[second]}  # with one crop there is no second to replace
            both = [row for row in played[first] if (row["id"], row["repeat"]) in there]
            before, after = _by_question(played[second], "right"), _by_question(both, "right")
            paired = {key: v - before[key] for key, v in after.items() if key in before}
            numbers["differences"][name] = _interval(paired, own, resamples, DIFFERENCE)
    outcome = outcome_of([row for arm in ("own", *arms) for row in by_arm[arm]])
    applies = {part: sum(value == value for value in outcome.of(part)) for part in DECOMPOSITION}
    numbers["n"]["decomposition"] = {part: n for part, n in applies.items() if n}
    numbers["decomposition"] = {part: [round(v, 5) for v in outcome.interval(part, resamples)] for part, n in applies.items() if n}
    for name in FIELDS:
        parts = _by_category(played, name, resamples)
        if len(parts) > 1:
            numbers["by"][name] = parts
            everywhere = [arm for arm in played if all(arm in part for part in parts.values())]
            numbers["unweighted"][name] = {arm: round(sum(p[arm][0] for p in parts.values()) / len(parts), 5) for arm in everywhere}
    if any("cycle_category" in row["meta"] for row in own):
        numbers["strict_circular"] = {arm: _circular(of_arm, resamples) for arm, of_arm in played.items()}
    return numbers


def outcome_of(rows: Rows) -> Outcome:
    """The rows of a probe's arms as its outcome: every repeat is a question of the same image."""
    by_question: dict[tuple[str, int], dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for row in rows:
        by_question[row["id"], row["repeat"]][row["arm"]] = row
    outcome = Outcome(view_tokens=0)
    for of_arm in by_question.values():
        own, conflict = of_arm["own"], of_arm.get("conflict")
        values = {arm: row["right"] for arm, row in of_arm.items() if arm in MEASURED}
        values |= {"called": float(own["crops"] > 0), "hit": own["hit"], "chance": own["chance"]}
        if conflict and own["hit"] == 1:
            values |= conflict["says"] or {}
        outcome.groups.append(own["group"])
        for metric in MEASURED:
            value = values.get(metric)
            outcome.values[metric].append(math.nan if value is None else value)
    return outcome


def _by_category(played: Mapping[str, Rows], name: str, resamples: int) -> dict[str, dict[str, list[float]]]:
    """Accuracy by value of the field `name`, then by arm."""
    labels: dict[str, str] = {}  # a set may spell one category in several ways
    for row in played["own"]:
        if (value := _field(row, name)) is not None:
            labels.setdefault(str(value).casefold(), str(value))
    parts = {}
    for key, label in sorted(labels.items()):
        selected = {arm: [r for r in of_arm if str(_field(r, name)).casefold() == key] for arm, of_arm in played.items()}
        parts[label] = {arm: _accuracy(of_arm, resamples) for arm, of_arm in selected.items() if of_arm}
    return parts


def interval_metrics(numbers: Mapping[str, Any]) -> dict[str, Metrics]:
    """The metrics of every arm, and the differences between arms, as `results.json` has them."""
    metrics = {
        arm: {name: interval(mean, low, high, numbers["n"][arm][name]) for name, (mean, low, high) in of_arm.items()}
        for arm, of_arm in numbers["metrics"].items()
    }
    differences = {name: interval(mean, low, high, numbers["questions"]) for name, (mean, low, high) in numbers["differences"].items()}
    applies = numbers["n"]["decomposition"]
    parts = {name: interval(mean, low, high, applies[name]) for name, (mean, low, high) in numbers["decomposition"].items()}
    return metrics | {"differences": differences, "decomposition": parts}


def _field(row: Mapping[str, Any], name: str) -> Any:
    return row["split"] if name == "split" else row["meta"].get(name)


def _metrics(rows: Rows, resamples: int) -> dict[str, list[float]]:
    metrics = {}
    for metric in METRICS:
        values = _by_question(rows, metric)
        if values:
            metrics[metric] = _interval(values, rows, resamples, None if metric in COUNTS else SHARE)
    return metrics


def _by_question(rows: Rows, metric: str) -> dict[str, float]:
    """Mean over the repeats of each question to which the metric applies."""
    values: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        value = _value(row, metric)
        if value is not None:
            values[row["id"]].append(value)
    return {key: sum(repeats) / len(repeats) for key, repeats in values.items()}


def _value(row: Mapping[str, Any], metric: str) -> float | None:
    if metric == "unparsed":
        return float(row["extracted"] is None)
    if metric == "refused":
        return float(row["status"] == Status.REFUSED)
    if metric == "truncated":
        return float(row["status"] in (Status.OUT_OF_TURNS, Status.OUT_OF_TOKENS))
    if metric == "called":
        return float(row["crops"] > 0)
    return None if row[metric] is None else float(row[metric])


def _interval(values: Mapping[str, float], rows: Rows, resamples: int, bounds: tuple[float, float] | None) -> list[float]:
    groups = {row["id"]: row["group"] for row in rows}
    return [round(v, 5) for v in bootstrap(list(values.values()), [groups[key] for key in values], resamples, bounds=bounds)]


def _accuracy(rows: Rows, resamples: int) -> list[float]:
    """Mean, low, high, and the number of questions."""
    values = _by_question(rows, "right")
    return [*_interval(values, rows, resamples, SHARE), len(values)]


def _circular(rows: Rows, resamples: int) -> list[float]:
    """Share of questions whose rotations are all right, in every repeat."""
    by_group: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        by_group[row["group"]].append(row["right"])
    values = [float(min(rotations) >= RIGHT_FROM) for rotations in by_group.values()]
    return [round(v, 5) for v in bootstrap(values, list(by_group), resamples, bounds=SHARE)]


def evaluation_table(numbers: Mapping[str, Any]) -> Results:
    """One column for each arm."""
    arms = list(numbers["metrics"])
    rows = []
    for metric, (label, unit, factor) in METRICS.items():
        cells = [interval_cell(numbers["metrics"][arm].get(metric), factor) for arm in arms]
        if metric == "seconds":  # measured per forward, so there is no time per question and no interval
            cells = [Cell(cell.mean, math.nan, math.nan) for cell in cells]
        if any(cell.mean == cell.mean for cell in cells) and not (metric == "refused" and all(cell.mean == 0 for cell in cells)):
            rows.append(Row(label, unit, tuple(cells), main=metric in MAIN))
    for label, unit, part, factor in PARTS:
        if part in numbers["decomposition"]:
            others = [Cell(math.nan, math.nan, math.nan)] * (len(arms) - 1)
            rows.append(Row(label, unit, (interval_cell(numbers["decomposition"][part], factor), *others), main=True))
    if "strict_circular" in numbers:
        circular = (interval_cell(numbers["strict_circular"][arm], 100.0) for arm in arms)
        rows.append(Row("accuracy, all rotations right", "%", tuple(circular), main=True))
    for name, parts in numbers["by"].items():
        for value, part in parts.items():
            n = part["own"][3]
            cells = [interval_cell(part[arm][:3] if arm in part else None, 100.0) for arm in arms]
            rows.append(Row(f"{name} {value} ({n})", "%", tuple(cells)))
        unweighted = tuple(Cell(100 * numbers["unweighted"][name].get(arm, math.nan), math.nan, math.nan) for arm in arms)
        rows.append(Row(f"{name}: mean over its {len(parts)} values", "%", unweighted))
    s = numbers["settings"]
    notes, details = _notes(numbers), _details(numbers)
    columns = tuple(NAMES.get(arm, arm) for arm in arms)
    return Results(f"{s['policy']} on {s['data']}", columns, tuple(rows), tuple(notes), _sentences(numbers), tuple(details))


def _notes(numbers: Mapping[str, Any]) -> list[str]:
    """How the questions were asked, and what is wrong with the result."""
    s = numbers["settings"]
    least, most = s["view_tokens"]
    crop_least, crop_most = s["crop_tokens"]
    repeats = f", {numbers['repeats']} answers to each (Avg@{numbers['repeats']})" if numbers["repeats"] > 1 else ""
    clusters = "groups of rotations" if "strict_circular" in numbers else "images"
    first = f", the first {s['samples']:,} of the set" if s["samples"] else ""
    notes = [
        f"questions: {numbers['questions']:,}{first}, in {numbers['images']:,} {clusters}{repeats}; 95 % intervals over {clusters}",
        f"view: {least} to {most} visual tokens; up to {s['max_crops']} crops of {crop_least} to {crop_most}; "
        f"temperature {s['temperature']:g}",
        (f"options in an order drawn by seed {s['seed']}" if s["options"] == "shuffled" else "options in published order")
        + ("; rotations as published" if "strict_circular" in numbers else "")
        + f"; answers read by the rule {s['extraction']}; "
        + (f"free answers graded by {s['judge']}" if s["judge"] else "free answers graded by rules alone, a lower bound"),
    ]
    for arm, share in numbers.get("refusals", {}).items():
        number = "its numbers are not this model's" if arm == "own" else "so it has no numbers"
        notes.append(f"the server refused {100 * share:.0f} % of the questions of the arm {arm}: {number}")
    notes += [*s["prompts"]["notes"], *numbers.get("left_out", ())]
    if numbers["broken"]:
        notes.append(f"{len(numbers['broken'])} questions could not be read and count as wrong: {numbers['broken'][0]}")
    return notes


def _details(numbers: Mapping[str, Any]) -> list[str]:
    """What the terminal leaves to the files."""
    s = numbers["settings"]
    details = ["in brackets behind a category: its number of questions"] if numbers["by"] else []
    details += [f"{s['engine']} on {s['device']}; seconds: {s['side_by_side']} conversations side by side, without opening images"]
    if s["derived_boxes"]:
        details.append("boxes of more than one level are derived; IoU is that of the smallest box")
    if "view_seen" in s:
        details.append(_view_note(s["view_seen"]))
    return details + [f"{name}: {_percent(interval)} points" for name, interval in numbers["differences"].items()]


def _sentences(numbers: Mapping[str, Any]) -> tuple[str, ...]:
    """The result in words: the accuracy, what crops change of it, and the verdict if the arm conflict or noise was played."""
    view, own, differences = f"at {numbers['settings']['view_tokens'][1]:,} tokens", numbers["metrics"]["own"], numbers["differences"]
    mean, low, high = (100 * value for value in own["right"])
    sentence = f"Right in {mean:.0f} % of {numbers['questions']:,} questions [{low:.0f}, {high:.0f}] {view}"
    if "tool_effect" in differences:
        points, low, high = (100 * value for value in differences["tool_effect"])
        sentence += f", {points:+.0f} points [{low:.0f}, {high:.0f}] against the tool-free answers"
    if "conflict_crop" in numbers["decomposition"]:
        crop, whole = ([100 * value for value in numbers["decomposition"][part]] for part in ("conflict_crop", "conflict_whole"))
        hits = numbers["n"]["decomposition"]["conflict_crop"]
        return f"{sentence}.", conflict_sentence(tuple(crop), tuple(whole), hits, own["called"][0], view, numbers["questions"])
    if "D_noise" not in differences:
        return (f"{sentence}.",)
    points, low, high = (100 * value for value in differences["D_noise"])
    return f"{sentence}.", dependence_sentence((points, low, high), own["called"][0], view, numbers["questions"])


def _view_note(seen: Mapping[str, int | None]) -> str:
    if seen.get("counted") is None:
        return "the server does not count the tokens of images: whether it resizes the view is not known"
    return f"the server counts {seen['counted']} tokens for a view of {seen['expected']} visual tokens, separators included"


def interval_cell(interval: Sequence[float] | None, factor: float) -> Cell:
    """`[mean, low, high]` in the unit of a row; None was not measured."""
    mean, low, high = interval or (math.nan,) * 3
    return Cell(mean * factor, low * factor, high * factor)


def _percent(interval: Sequence[float]) -> str:
    mean, low, high = (100 * value for value in interval)
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]"


# ------------------------------------------------------------------------------------------------------------- worst cases


def worst(rows: Rows, samples: Sequence[Sample], evaluator: Evaluator, count: int) -> dict[str, list[Example]]:
    """Wrong answers as trajectories for the page, up to `count` of each kind.

    A question is shown once.
    """
    first = [row for row in rows if row["repeat"] == 0 and not row["broken"]]
    own = [row for row in first if row["arm"] == "own" and row["right"] < RIGHT_FROM]
    without = {row["id"] for row in first if row["arm"] == "tool_free" and row["right"] >= RIGHT_FROM}
    kinds = {
        "right without the tool, wrong with it": [row for row in own if row["id"] in without],
        "no answer could be read": [row for row in own if row["extracted"] is None],
        "looked elsewhere": sorted(
            (row for row in own if row["crops"] and row["iou_recall"] is not None), key=lambda row: row["iou_recall"]
        ),
        "did not crop": [row for row in own if not row["crops"]],
        "wrong": own,
    }
    chosen: dict[str, list[Mapping[str, Any]]] = {}
    used: set[str] = set()
    for kind, of_kind in kinds.items():
        chosen[kind] = [row for row in of_kind if row["id"] not in used][:count]
        used |= {row["id"] for row in chosen[kind]}
    wanted = {sample.id: sample for sample in samples if sample.id in used} if used else {}
    return {kind: [_example(row, wanted[row["id"]], evaluator) for row in of_kind] for kind, of_kind in chosen.items() if of_kind}


def _example(row: Mapping[str, Any], sample: Sample, evaluator: Evaluator) -> Example:
    read = "no answer read" if row["extracted"] is None else f"read as {row['extracted']!r}"
    caption = f"{sample.id}: {read}" + (", graded by the judge" if row["graded_by"] == "judge" else "")
    return Example(replay_conversation(row, sample, evaluator), {"accuracy": row["right"]}, row["right"], caption)
