"""The page of a run: results, curves, trajectories and settings in one HTML file."""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import nonsingular

from focus.data.boxes import Box, coverage
from focus.model.prompts import IMAGE_PAD, Malformed
from focus.report.glossary import meanings
from focus.report.html import data_url, write_html
from focus.report.picture import CROP_COLOURS, accepted_text, delivered, is_right, size_text
from focus.report.table import Results, Row, cell_parts, unit_text
from focus.rewards import Example
from focus.rollout.trajectory import Observation, Trajectory, Turn

QUANTILE = re.compile(r"(.+)_p(\d+)$")
GROUPS = ("reward", "crop", "ending", "objective", "seconds", "tokens", "group", "probe", "alarm", "data")  # in this order, then the others
WIDTH, LEFT, RIGHT, TOP, BOTTOM = 250, 46, 236, 8, 122  # of a chart, which is 144 high
# The curves that are shown first, if they were measured; the others are folded
FIRST = ("reward/total", "reward/accuracy", "crop/rate", "probe/D_noise", "crop/coverage", "crop/area")
TILES = 4  # numbers above the table
MOST_POINTS = 400  # of a curve, that can be read out
SEEN = 0.5  # share of B1 inside the last crop from which the evidence counts as seen
AT_VIEW = re.compile(r"@\d+ ")
KINDS = {"best": "The highest total reward", "worst": "The lowest total reward", "random": "Drawn at random"}


def write_page(
    path: Path,
    title: str,
    history: Sequence[Mapping[str, float]] | None,
    results: Results | None,
    examples: Mapping[str, Sequence[Example]],
    settings: str,
    facts: str = "",
) -> None:
    """Write the page of a run, a probe or an evaluation.

    An older page stays until the new one is complete.

    `history` holds one row per update, in order; None if nothing was trained. Keys may be missing
    and values NaN. `examples` maps a kind (`best`, `worst`, `random`, ...) to trajectories;
    `settings` is the resolved config as text, `facts` says when and how it was made.
    """
    kinds = [
        {"key": f"examples-{number}", "name": kind, "about": KINDS.get(kind), "examples": [_example(example) for example in of_kind]}
        for number, (kind, of_kind) in enumerate(examples.items())
    ]
    sections = [
        {"key": "results", "name": "Results"},
        *([{"key": "curves", "name": "Curves"}] if history is not None else []),
        *({"key": kind["key"], "name": f"Trajectories: {kind['name']}"} for kind in kinds),
        {"key": "settings", "name": "Settings"},
    ]
    write_html(
        path,
        "page.html",
        title=title,
        updates=None if history is None else len(history),
        sections=sections,
        results=_results(results) if results else None,
        curves=None if history is None else _curves(history),
        facts=facts,
        kinds=kinds,
        settings=settings,
    )


def _results(results: Results) -> dict[str, Any]:
    rows = []
    for row in results.rows:
        cells = []
        for cell in row.cells:
            mean, interval = cell_parts(row, cell)
            unit = unit_text(row, cell) if cell and cell.unit else ""
            cells.append({"mean": mean + unit, "interval": interval, "known": cell is not None and not math.isnan(cell.mean)})
        meaning = meanings().get(AT_VIEW.sub("", row.metric))
        rows.append({"metric": row.metric, "unit": row.unit, "cells": cells, "meaning": meaning})
    main = [row for row in results.rows if row.main] or results.rows
    tiles = [_tile(results.columns, row) for row in main[:TILES]]
    return {
        "title": results.title,
        "columns": results.columns,
        "rows": rows,
        "tiles": tiles,
        "notes": (*results.notes, *results.details),
        "verdicts": results.verdicts,
    }


def _tile(columns: Sequence[str], row: Row) -> dict[str, Any]:
    """A main row as one large line: its means from column to column, without differences of columns."""
    shown = [(column, cell) for column, cell in zip(columns, row.cells, strict=True) if " - " not in column]
    means = [cell_parts(row, cell)[0] for _, cell in shown]
    return {
        "metric": row.metric,
        "means": " → ".join(means),
        "unit": row.unit,
        "columns": " → ".join(column for column, _ in shown),
        "meaning": meanings().get(row.metric),
    }


def _curves(history: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Small charts, one per key: the first ones, then all others by the part of the key before its
    slash. Quantiles of one value share a chart. Keys that are always 0, or have no value, are only
    named.
    """
    charts: dict[str, dict[str, list[str]]] = {}
    for key in dict.fromkeys(key for row in history for key in row if key != "update"):
        group, _, name = key.rpartition("/")
        quantile = QUANTILE.match(name)
        charts.setdefault(group or "other", {}).setdefault(quantile[1] if quantile else name, []).append(key)
    update = np.array([row.get("update", math.nan) for row in history], dtype=float)
    update = np.where(np.isfinite(update), update, np.arange(1, len(history) + 1))
    order = sorted(charts, key=lambda group: GROUPS.index(group) if group in GROUPS else len(GROUPS))
    drawn = {f"{group}/{name}": _chart(group, name, keys, update, history) for group in order for name, keys in charts[group].items()}
    first = [drawn[key] for key in FIRST if key in drawn and drawn[key]["drawing"]]
    rest = [chart for chart in drawn.values() if chart["drawing"] and chart not in first]
    groups = [{"name": group, "charts": [chart for chart in rest if chart["group"] == group]} for group in order]
    return {
        "first": first,
        "groups": [group for group in groups if group["charts"]],
        "folded": len(rest),
        "zero": [key for key, chart in drawn.items() if chart["zero"]],
        "missing": [key for key, chart in drawn.items() if chart["missing"]],
    }


def _chart(group: str, name: str, keys: Sequence[str], update: np.ndarray, history: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    quantiles = {key: int(match[2]) for key in keys if (match := QUANTILE.match(key))}
    keys = sorted(keys, key=lambda key: quantiles.get(key, 0))
    values = np.array([[row.get(key, math.nan) for row in history] for key in keys], dtype=float)
    values[~np.isfinite(values)] = math.nan
    measured = ~np.isnan(values).all(0)  # some values are measured only every few updates
    values, update = values[:, measured], update[measured]
    chart: dict[str, Any] = {"group": group, "name": name, "drawing": None, "zero": False, "missing": not measured.any()}
    if not measured.any() or not np.nan_to_num(values).any():
        return chart | {"zero": bool(measured.any())}
    smooth = np.stack([_running_mean(row) for row in values])
    middle = smooth[len(smooth) // 2]
    last = _brief(middle[~np.isnan(middle)][-1])
    title = f"{group}/{name} over updates {_brief(update[0])} to {_brief(update[-1])}; it ends at {last}"
    of_middle = list(zip(update, values[len(values) // 2], strict=True))[:: -(-len(update) // MOST_POINTS)]
    return chart | {
        "quantiles": ", ".join(f"p{q}" for q in sorted(quantiles.values())),
        "meaning": meanings().get(keys[0]),
        "last": last,
        "points": json.dumps([[float(f"{at:.6g}"), float(f"{value:.4g}")] for at, value in of_middle if not math.isnan(value)]),
        "title": title,
        "drawing": _drawing(values, smooth, update),
    }


def _brief(value: float) -> str:
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def _drawing(values: np.ndarray, smooth: np.ndarray, update: np.ndarray) -> dict[str, Any]:
    """A chart of `values` and their running means, both [key, update]: SVG paths, and places and texts of the ticks.

    The template draws them. With matplotlib the charts took two seconds, half of a small run.
    """
    drawn = smooth if len(values) > 1 else np.concatenate([values, smooth])
    low, high = nonsingular(np.nanmin(drawn), np.nanmax(drawn), expander=0.05)
    low, high = low - 0.05 * (high - low), high + 0.05 * (high - low)
    first, last = nonsingular(update.min(), update.max(), expander=0.05)

    def x(at: np.ndarray) -> np.ndarray:
        return LEFT + (at - first) / (last - first) * (RIGHT - LEFT)

    def y(value: np.ndarray) -> np.ndarray:
        return BOTTOM - (value - low) / (high - low) * (BOTTOM - TOP)

    def points(row: np.ndarray) -> list[str]:
        return [f"{a:.1f} {b:.1f}" for a, b in zip(x(update), y(row), strict=True) if not math.isnan(b)]

    def ticks(place: Callable[[np.ndarray], np.ndarray], start: float, end: float, **kind: bool) -> list[tuple[float, str]]:
        at = np.asarray(MaxNLocator(4, **kind).tick_values(start, end))
        at = at[(start <= at) & (at <= end)]
        return [(round(float(a), 1), _brief(b)) for a, b in zip(place(at), at, strict=True)]

    means = [("mean" if number == len(smooth) // 2 else "side", points(row)) for number, row in enumerate(smooth)]
    lines = [*([("each", points(values[0]))] if len(values) == 1 else []), *means]
    edges = points(np.fmin.reduce(smooth)), points(np.fmax.reduce(smooth))
    dotted = values if len(update) < (30 if len(values) == 1 else 2) else ()
    return {
        "axes": (LEFT, RIGHT, TOP, BOTTOM),
        "plot": json.dumps([LEFT / WIDTH, (RIGHT - LEFT) / WIDTH, float(first), float(last)]),  # where updates lie, for the pointer
        "rows": ticks(y, low, high),
        "columns": ticks(x, first, last, integer=True),
        "band": "M" + "L".join([*edges[0], *reversed(edges[1])]) if len(values) > 1 else "",
        "lines": [(kind, "M" + "L".join(each)) for kind, each in lines if each],
        "dots": "".join(f"M{point}h0" for row in dotted for point in points(row)),
    }


def _running_mean(row: np.ndarray) -> np.ndarray:
    """Centred mean over about a twelfth of the updates.

    NaN values are left out; a window of NaN alone gives NaN.
    """
    reach = len(row) // 24
    window = np.ones(2 * reach + 1)
    measured = ~np.isnan(row)
    count = np.convolve(measured, window)[reach : reach + len(row)]
    sums = np.convolve(np.where(measured, row, 0.0), window)[reach : reach + len(row)]
    return np.where(count > 0, sums / np.maximum(count, 1), math.nan)


def _example(example: Example) -> dict[str, Any]:
    trajectory = example.trajectory
    sample = trajectory.sample
    sampled = sum(len(turn.ids) for turn in trajectory.turns)
    right, view = is_right(example), trajectory.view
    return {
        "tags": _tags(trajectory, right),
        "right": right,
        "answer": trajectory.answer if trajectory.answer is not None else f"no answer ({trajectory.status})",
        "accepted": accepted_text(sample),
        "view": {
            "image": data_url(view.image),
            "size": size_text(view.size),
            "tokens": view.tokens,
            "ratio": f"{view.size[0]} / {view.size[1]}",
        },
        "original": {"size": size_text(sample.size), "width": sample.size[0], "height": sample.size[1]},
        "evidence": [_rectangle(box_px) for chain in sample.boxes for box_px in chain[:2]],
        "crops": [
            {
                "image": data_url(crop.image),
                "size": size_text(crop.size),
                "tokens": crop.tokens,
                "colour": CROP_COLOURS[number % len(CROP_COLOURS)],
                "box": _rectangle(action.box_px),
            }
            for number, (action, crop) in enumerate(delivered(trajectory))
        ],
        "question": sample.question,
        "options": sample.options,
        "turns": [_turn(turn, trajectory.prefill if number == 0 else "") for number, turn in enumerate(trajectory.turns)],
        **_terms(example),
        "total": _graded(example.total),
        "caption": example.caption,
        "facts": f"{sample.id}: {trajectory.status}, {sampled} sampled tokens, {trajectory.visual_tokens} visual tokens, "
        f"seed {trajectory.seed}",
    }


def _tags(trajectory: Trajectory, right: bool | None) -> list[str]:
    """What the filter of the page can choose by."""
    tags = [] if right is None else ["right" if right else "wrong"]
    tags.append("with a crop" if trajectory.crops else "without a crop")
    if trajectory.crops and trajectory.sample.boxes:
        last, chains = trajectory.crops[-1].box_px, trajectory.sample.boxes
        seen = sum(coverage(last, chain[0]) for chain in chains) / len(chains) >= SEEN
        tags.append("evidence in its crop" if seen else "evidence missed")
    return tags


def _rectangle(box_px: Box) -> dict[str, str]:
    """A box of the original as attributes of an SVG rectangle."""
    x1, y1, x2, y2 = box_px
    return {name: f"{value:g}" for name, value in (("x", x1), ("y", y1), ("width", x2 - x1), ("height", y2 - y1))}


def _terms(example: Example) -> dict[str, Any]:
    """The rows of the table of terms.

    If a reward was computed, the last column adds up to the total.
    """
    if not example.payments:
        return {"columns": ["value"], "terms": [{"name": n, "cells": [_graded(v)], "logged": False} for n, v in example.terms.items()]}
    rows = []
    for name, raw in example.terms.items():
        payment = example.payments.get(name)
        if payment is None:
            rows.append({"name": name, "cells": [_graded(raw), "logged only", ""], "logged": True})
        else:
            gate = f", gate closed ({payment.closed_gate})" if payment.closed_gate else ""
            rows.append({"name": name, "cells": [_graded(raw), f"{payment.weight:g}{gate}", _graded(payment.amount)], "logged": False})
    return {"columns": ["raw", "weight", "contribution"], "terms": rows}


def _graded(value: float) -> str:
    return "not graded" if math.isnan(value) else f"{value:.3f}"


def _turn(turn: Turn, prefill: str) -> dict[str, Any]:
    """The sampled text of a turn, its prefill (not sampled), and the tool's observation."""
    fault = turn.action.fault if isinstance(turn.action, Malformed) else None
    return {
        "tokens": len(turn.ids),
        "given": prefill,
        "text": turn.text.removeprefix(prefill),
        "fault": fault,
        "tool": _tool(turn.observation) if turn.observation else None,
    }


def _tool(observation: Observation) -> dict[str, Any]:
    tokens, crop = f"{len(observation.ids)} tokens", observation.crop
    if crop is None:
        return {"tokens": tokens, "text": observation.content}
    return {
        "tokens": f"{tokens}, {crop.tokens} of them visual",
        "text": observation.content.replace(IMAGE_PAD, f"{IMAGE_PAD} × {crop.tokens}"),
    }
