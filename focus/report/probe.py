"""The probe as a table and a figure: accuracy with the policy's own crops and with substitutes."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from focus.data.sample import Sample
from focus.evaluation.outcome import ARMS, DECOMPOSITION, ONE_OF_TWO, Outcome, decompose_tool_effect
from focus.evaluation.predictions import conversation_json
from focus.grading.answers import RIGHT_FROM
from focus.report.run import NO_TOOL, TABLE, cell, played
from focus.report.table import Cell, Results, Row
from focus.report.verdict import verdict_of
from focus.rollout.trajectory import Trajectory

MAIN = ("own", "noise", "D_noise", "D_first", "D_second", "called_twice", *DECOMPOSITION)  # on the terminal
COLOURS = ("#1f6f8b", "#c06c3e", "#6b4f9a", "#3f7d4a", "#8a8a8a")


def probe_table(title: str, outcomes: Mapping[str, Outcome], resamples: int, temperature: float, more: Sequence[str] = ()) -> Results:
    """One column per view. Arms that were not played have no row. `more` are notes below the table."""
    rows = [
        Row(
            label,
            unit,
            tuple(cell(outcome, metric, factor, resamples) for outcome in outcomes.values()),
            main=metric in MAIN,
        )
        for label, unit, metric, factor in (*TABLE, *NO_TOOL)
        if played(metric, *outcomes.values())
    ]
    if played("tool_free", *outcomes.values()):
        parts = [decompose_tool_effect(outcome) for outcome in outcomes.values()]
        for name in parts[0]:
            for factor_name in ("mass", "policy", "quality", "schema"):
                values = (Cell(100 * part[name][factor_name], math.nan, math.nan) for part in parts)
                rows.append(Row(f"MED {name}: {factor_name}", "%", tuple(values)))
    first = next(iter(outcomes.values()))
    notes = [f"{len(first.groups)} held-out questions, 95 % intervals over images; temperature {temperature:g}"]
    if first.broken:
        notes.append(f"{len(first.broken)} questions could not be read and count as wrong: {first.broken[0]}")
    verdicts = tuple(verdict_of(outcome, resamples) for outcome in outcomes.values())
    return Results(f"crop dependence of {title}", tuple(f"{view} tokens" for view in outcomes), tuple(rows), (*notes, *more), verdicts)


def conversations_by_kind(
    outcome: Outcome, samples: Sequence[Sample], trajectories: Sequence[Trajectory], count: int
) -> dict[str, list[dict[str, Any]]]:
    """Conversations with the policy's own crops as rows for the page, up to `count` of each kind.

    `trajectories` are those of the arm `own`; a question whose image can't be read has none.
    `place` in a row is the index of the question in `samples`.
    """
    by_id = {t.sample.id: t for t in trajectories}
    by_index = {i: by_id[samples[i].id] for i in range(len(samples)) if samples[i].id in by_id}
    own, noise, called = (outcome.values[metric] for metric in ("own", "noise", "called"))
    kinds = {
        "right with its own crops, wrong with noise": [i for i in by_index if own[i] >= RIGHT_FROM > noise[i]],
        "right with its own crops and with noise": [i for i in by_index if called[i] and own[i] >= RIGHT_FROM and noise[i] >= RIGHT_FROM],
        "right after a crop": [i for i in by_index if called[i] and own[i] >= RIGHT_FROM and math.isnan(noise[i])],  # without that arm
        "wrong after a crop": [i for i in by_index if called[i] and own[i] < RIGHT_FROM],
        "answered without a crop": [i for i in by_index if not called[i]],
    }
    chosen = {}
    for kind, of_kind in kinds.items():
        rows = [{"place": i, "right": own[i], "caption": _caption(by_index[i]), **conversation_json(by_index[i])} for i in of_kind[:count]]
        if rows:
            chosen[kind] = rows
    return chosen


def _caption(t: Trajectory) -> str:
    return f"{t.sample.id}: " + (t.status if t.answer is None else f"answers {t.answer!r}")


def draw_probe(outcomes: Mapping[str, Outcome], path: Path, resamples: int) -> None:
    """Accuracy of every arm at every view, and paired differences and shares, with intervals."""
    shown = [row for row in TABLE if played(row[2], *outcomes.values())]
    panels = (
        ("accuracy, %", [row for row in shown if row[2] in (*ARMS, *ONE_OF_TWO)]),
        (
            "paired differences and shares, points",
            [row for row in shown if row[2] in ("D_noise", "D_first", "D_second", "U_GT", "S", "gain", "harm", "agrees", *DECOMPOSITION)],
        ),
    )
    height = 0.9 + 0.36 * max(len(rows) for _, rows in panels)
    figure = Figure(figsize=(11, height), layout="constrained")
    for axis, (title, rows) in zip(figure.subplots(1, 2), panels, strict=True):
        for number, (view, outcome) in enumerate(outcomes.items()):
            cells = [cell(outcome, metric, factor, resamples) for _, _, metric, factor in rows]
            heights = [i + 0.16 * (number - (len(outcomes) - 1) / 2) for i in range(len(rows))]
            # with few resamples the mean may lie outside the interval
            spread = [[max(0.0, c.mean - c.low) for c in cells], [max(0.0, c.high - c.mean) for c in cells]]
            axis.errorbar(
                [c.mean for c in cells],
                heights,
                xerr=spread,
                fmt="o",
                ms=4,
                lw=1.3,
                color=COLOURS[number % len(COLOURS)],
                label=f"{view} tokens",
            )
        axis.set_yticks(range(len(rows)), [label.removeprefix("accuracy, ") for label, *_ in rows])
        axis.invert_yaxis()
        axis.axvline(0, color="#8a8a8a", lw=0.6)
        axis.grid(axis="x", alpha=0.25, lw=0.5)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_title(title, fontsize=10)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(outcomes), frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)
