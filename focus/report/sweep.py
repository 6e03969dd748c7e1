"""One table, one figure and one page of a sweep, whatever of it has run so far. `make report SWEEP=gap_sweep`.

What was launched stands in the sweep's multirun.yaml, what became of each point in the point's own folder.
"""

import base64
import csv
import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf

from focus import config
from focus.evaluation.bootstrap import bootstrap
from focus.evaluation.outcome import Outcome, load_outcomes
from focus.report.page import STYLE
from focus.report.run import ROWS, cell, last_status
from focus.training.history import FINISHED, STOPPED, read_history, run_status

FACTORS = {metric: (f"{label}{', ' + unit if unit else ''}", factor) for label, unit, metric, factor in ROWS}
COLOUR, PALE = "#1f6f8b", "#1f6f8b66"
MISSING = "missing"


@dataclass(frozen=True)
class Point:
    """One point: what was swept, where it lies, what became of it, and its trained policy's outcome by view (`own`, `common`)."""

    values: Mapping[str, str]
    folder: Path
    status: str
    outcomes: Mapping[str, Outcome]

    def mean(self, metric: str, view: str) -> float:
        """In the unit of the table; NaN where it was not measured."""
        outcome = self.outcomes.get(view)
        return cell(outcome.of(metric), outcome.groups, FACTORS[metric][1], 1).mean if outcome else math.nan


def launched(folder: Path) -> list[tuple[dict[str, str], str]]:
    """What every point of a sweep goes by and the name of its folder, in their order, from the record that Hydra leaves of the sweep.

    Raises ValueError for a folder without one, where nothing was launched, and for a sweep of one point.
    """
    record = folder / "multirun.yaml"
    if not record.is_file():
        there = sorted(path.parent.name for path in folder.parent.glob("*/multirun.yaml"))
        others = ", ".join(there) or "none yet; make sweep-gap makes one"
        raise ValueError(f"{folder} holds no sweep (no multirun.yaml); sweeps of {folder.parent}: {others}")
    hydra_cfg = OmegaConf.load(record).hydra
    unnamed = hydra_cfg.job.config.override_dirname.exclude_keys
    given = config.values_of(hydra_cfg.sweeper.params or {}, hydra_cfg.overrides.task)
    shown = [key for key, values in given.items() if len(values) > 1]
    if not shown:
        raise ValueError(f"{folder} holds one point and no sweep; its page is {folder / 'report.html'}")
    found = []
    for values in itertools.product(*given.values()):
        point = dict(zip(given, values, strict=True))
        found.append(({key: point[key] for key in shown}, config.name_of(point, unnamed)))
    return found


def points_of(folder: Path) -> list[Point]:
    """Every point of the sweep, in its order, those that have not begun included."""
    return [Point(values, folder / name, *_state(folder / name)) for values, name in launched(folder)]


def _state(folder: Path) -> tuple[str, dict[str, Outcome]]:
    if not (folder / "settings.yaml").is_file():
        return MISSING, {}
    settings = OmegaConf.load(folder / "settings.yaml")
    assert isinstance(settings, DictConfig)
    history, length = read_history(folder / "history.jsonl"), settings.objective.updates
    if (folder / "policy/config.json").is_file():
        measured = load_outcomes(folder / f"evaluation_trained_t{settings.evaluation.temperature:g}.json")
        outcomes = {name.split()[0]: outcome for name, outcome in measured.items()}
        if outcomes:
            outcomes.setdefault("common", outcomes["own"])  # measured once, where both are the same
        return run_status(history, length), outcomes
    crash = last_status(Path(settings.results), settings) if settings.results else ""
    done = int(max((row["update"] for row in history), default=0))
    return f"{done} of {length} updates" + (f", {crash.splitlines()[0]:.120}" if crash.startswith("crashed") else ""), {}


def write_table(points: Sequence[Point], metrics: Sequence[str], resamples: int, path: Path) -> None:
    """One row for each point: status, and mean and interval of every metric at both views."""
    columns = [f"{view} {metric}" for view in ("own", "common") for metric in metrics]
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow([*points[0].values, "status", "folder", *(f"{name} {part}" for name in columns for part in ("mean", "low", "high"))])
        for point in points:
            cells: list[object] = []
            for view in ("own", "common"):
                for metric in metrics:
                    outcome = point.outcomes.get(view)
                    known = cell(outcome.of(metric), outcome.groups, FACTORS[metric][1], resamples) if outcome else None
                    cells += (
                        [f"{value:.4f}" if value == value else "" for value in (known.mean, known.low, known.high)] if known else [""] * 3
                    )
            out.writerow([*point.values.values(), point.status, point.folder.name, *cells])


def draw(points: Sequence[Point], metrics: Sequence[str]) -> Figure:
    """A row of panels for each swept key but the seed: a dot for every point, a line through their means, with intervals."""
    keys = [key for key in points[0].values if key != "seed"] or ["seed"]
    shown = [
        (metric, view)
        for metric in metrics
        for view in ("own", "common")
        if any(p.mean(metric, view) == p.mean(metric, view) for p in points)
    ]
    figure = Figure(figsize=(2.9 * max(1, len(shown)), 2.7 * len(keys)), layout="constrained")
    if not shown:
        figure.text(0.5, 0.5, "no point is finished yet", ha="center")
        return figure
    for row, key in zip(figure.subplots(len(keys), len(shown), squeeze=False), keys, strict=True):
        values = list(dict.fromkeys(point.values[key] for point in points))
        numbers = [_number(value) for value in values]
        places = numbers if all(n == n for n in numbers) else [*range(len(values))]
        for axis, (metric, view) in zip(row, shown, strict=True):
            means = defaultdict(list)
            for point in points:
                if (mean := point.mean(metric, view)) == mean:
                    means[places[values.index(point.values[key])]].append(mean)
            for place, each in means.items():
                axis.plot([place] * len(each), each, "o", ms=4, color=PALE, mec="none")
                axis.vlines(place, *bootstrap(each, range(len(each)))[1:], color=COLOUR, lw=1)
            line = sorted((place, sum(each) / len(each)) for place, each in means.items())
            axis.plot([x for x, _ in line], [y for _, y in line], color=COLOUR, lw=1.8)
            if min(places) > 0 and max(places) >= 8 * min(places):
                axis.set_xscale("log", base=2)
                axis.minorticks_off()
            axis.set_xticks(places, values, fontsize=8)
            axis.set_xlabel(key, fontsize=8)
            axis.set_title(f"{FACTORS[metric][0]}\n{view} view", fontsize=8)
            axis.grid(alpha=0.25, lw=0.5)
            axis.spines[["top", "right"]].set_visible(False)
    return figure


def _number(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        return math.nan


def _page(title: str, points: Sequence[Point], metrics: Sequence[str], picture: bytes, counted: str) -> str:
    heads = "".join(f"<th>{escape(name)}</th>" for name in (*points[0].values, "status", *metrics))
    rows = ""
    for point in points:
        page = point.folder / "report.html"
        status = f'<a href="{escape(point.folder.name)}/report.html">{escape(point.status)}</a>' if page.is_file() else escape(point.status)
        numbers = "".join(f"<td>{_shown(point.mean(metric, 'own'))}</td>" for metric in metrics)
        rows += f"<tr>{''.join(f'<th>{escape(v)}</th>' for v in point.values.values())}<td>{status}</td>{numbers}</tr>"
    image = base64.b64encode(picture).decode()
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style></head><body>'
        f"<header><h1>{escape(title)}</h1><p>{escape(counted)}</p></header>"
        f'<img src="data:image/png;base64,{image}" alt="curves over what was swept" style="max-width:100%;background:#fff">'
        "<p>A dot for every point, a line through their means, 95 % intervals of the means from a bootstrap over points.</p>"
        f'<div class="wide"><table class="results"><caption>own view; means</caption><tr>{heads}</tr>{rows}</table></div></body></html>\n'
    )


def _kind(status: str) -> str:
    if status in (FINISHED, MISSING):
        return status
    return "stopped" if status.startswith(STOPPED) else "crashed" if ", crashed" in status else "unfinished"


def _shown(value: float) -> str:
    return "" if value != value else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
