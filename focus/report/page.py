"""The page of a run: results, curves, trajectories and settings in one HTML file."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import nonsingular

from focus.model.prompts import IMAGE_PAD, Malformed
from focus.report.html import data_url, write_html
from focus.report.picture import draw_trajectory
from focus.report.table import Results, cell_parts, unit_text
from focus.rewards import Example
from focus.rollout.trajectory import Observation, Turn

QUANTILE = re.compile(r"(.+)_p(\d+)$")
GROUPS = ("reward", "crop", "ending", "objective", "seconds", "tokens", "group", "probe", "alarm", "data")  # in this order, then the others
LEFT, RIGHT, TOP, BOTTOM = AXES = 46, 236, 8, 122  # of a chart, which is 250 x 144
KINDS = {"best": "The highest total reward", "worst": "The lowest total reward", "random": "Drawn at random"}


def write_page(
    path: Path,
    title: str,
    history: Sequence[Mapping[str, float]] | None,
    results: Results | None,
    examples: Mapping[str, Sequence[Example]],
    settings: str,
) -> None:
    """Write the page of a run, a probe or an evaluation.

    An older page stays until the new one is complete.

    `history` holds one row per update, in order; None if nothing was trained. Keys may be missing
    and values NaN. `examples` maps a kind (`best`, `worst`, `random`, ...) to trajectories;
    `settings` is the resolved config as text.
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
        groups=None if history is None else _curves(history),
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
        rows.append({"metric": row.metric, "unit": row.unit, "cells": cells})
    notes = (*results.notes, *results.details)
    return {"title": results.title, "columns": results.columns, "rows": rows, "notes": notes, "verdicts": results.verdicts}


def _curves(history: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    """Small charts, one per key, grouped by the part of the key before its slash.

    Quantiles of one value share a chart.
    """
    charts: dict[str, dict[str, list[str]]] = {}
    for key in dict.fromkeys(key for row in history for key in row if key != "update"):
        group, _, name = key.rpartition("/")
        quantile = QUANTILE.match(name)
        charts.setdefault(group or "other", {}).setdefault(quantile[1] if quantile else name, []).append(key)
    update = np.array([row.get("update", math.nan) for row in history], dtype=float)
    update = np.where(np.isfinite(update), update, np.arange(1, len(history) + 1))
    order = sorted(charts, key=lambda group: GROUPS.index(group) if group in GROUPS else len(GROUPS))
    return [
        {"name": group, "charts": [_chart(group, name, keys, update, history) for name, keys in charts[group].items()]} for group in order
    ]


def _chart(group: str, name: str, keys: Sequence[str], update: np.ndarray, history: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    quantiles = {key: int(match[2]) for key in keys if (match := QUANTILE.match(key))}
    keys = sorted(keys, key=lambda key: quantiles.get(key, 0))
    values = np.array([[row.get(key, math.nan) for row in history] for key in keys], dtype=float)
    values[~np.isfinite(values)] = math.nan
    measured = ~np.isnan(values).all(0)  # some values are measured only every few updates
    values, update = values[:, measured], update[measured]
    chart: dict[str, Any] = {"name": name, "quantiles": ", ".join(f"p{q}" for q in sorted(quantiles.values())), "drawing": None}
    if not measured.any():
        return chart
    smooth = np.stack([_running_mean(row) for row in values])
    middle = smooth[len(smooth) // 2]
    last = _brief(middle[~np.isnan(middle)][-1])
    title = f"{group}/{name} over updates {_brief(update[0])} to {_brief(update[-1])}; it ends at {last}"
    return chart | {"last": last, "title": title, "drawing": _drawing(values, smooth, update)}


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
        "axes": AXES,
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
    return {
        "card": data_url(draw_trajectory(example, 1400)),
        "summary": f"{sample.question} Answer: {trajectory.answer}. Accepted: {' | '.join(sample.answers)}.",
        "question": sample.question,
        "options": sample.options,
        "turns": [_turn(turn, trajectory.prefill if number == 0 else "") for number, turn in enumerate(trajectory.turns)],
        **_terms(example),
        "total": _graded(example.total),
        "facts": f"{sample.id}: {trajectory.status}, {sampled} sampled tokens, {trajectory.visual_tokens} visual tokens, "
        f"seed {trajectory.seed}",
    }


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
        return {"tokens": tokens, "text": observation.content, "image": None}
    return {
        "tokens": f"{tokens}, {crop.tokens} of them visual",
        "text": observation.content.replace(IMAGE_PAD, f"{IMAGE_PAD} × {crop.tokens}"),
        "image": data_url(crop.image),
        "alt": f"the crop, {crop.size[0]} × {crop.size[1]} px",
    }
