"""One table, one figure and one page of a sweep, finished or not. `make report SWEEP=gap_sweep`.

The sweep's multirun.yaml says which points were launched. The folder of each point has its state.
"""

import base64
import csv
import io
import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from focus.config.command_line import point_name, swept_values
from focus.config.identity import settings_hash
from focus.config.validate import plain, read_settings
from focus.evaluation.bootstrap import bootstrap
from focus.evaluation.outcome import Outcome, load_outcomes
from focus.report.html import write_html
from focus.report.run import ROWS, cell, last_status
from focus.training.history import FINISHED, STOPPED, read_history, run_status

FACTORS = {metric: (f"{label}{', ' + unit if unit else ''}", factor) for label, unit, metric, factor in ROWS}
COLOUR, PALE = "#1f6f8b", "#1f6f8b66"
MISSING = "missing"


@dataclass(frozen=True)
class Point:
    """A point: swept values, folder, status, and outcomes of its trained policy by view."""

    values: Mapping[str, str]
    folder: Path
    status: str
    outcomes: Mapping[str, Outcome]

    def mean(self, metric: str, view: str) -> float:
        """The mean of a metric, in the unit of the table; NaN if it was not measured."""
        outcome = self.outcomes.get(view)
        return outcome.mean(metric) * FACTORS[metric][1] if outcome else math.nan


def launched(folder: Path) -> list[tuple[dict[str, str], str]]:
    """The swept values and folder name of every point of a sweep: of Hydra's multirun.yaml, which knows the last command alone, and
    of earlier ones, by the names of their folders.

    Raises ValueError for a folder without that file, where nothing was launched, and for a sweep of
    one point.
    """
    record = folder / "multirun.yaml"
    if not record.is_file():
        sweeps = sorted(path.parent.name for path in folder.parent.glob("*/multirun.yaml"))
        others = ", ".join(sweeps) or "none yet; make sweep-gap starts one"
        raise ValueError(f"{folder} holds no sweep (no multirun.yaml); sweeps of {folder.parent}: {others}")
    hydra_cfg = read_settings(record, "hydra.job.config.override_dirname.exclude_keys", "hydra.sweeper", "hydra.overrides.task").hydra
    unnamed = hydra_cfg.job.config.override_dirname.exclude_keys
    given = swept_values(hydra_cfg.sweeper.params or {}, hydra_cfg.overrides.task)
    last = [dict(zip(given, values, strict=True)) for values in itertools.product(*given.values())]
    launched_last = {point_name(point, unnamed): point for point in last}
    named = {part.partition("=")[0] for part in next(iter(launched_last)).split(",")}
    points = {}
    for name in sorted(path.parent.name for path in folder.glob("*=*/settings.yaml")):
        values = dict(part.partition("=")[::2] for part in name.split(","))
        if values.keys() == named:
            points[name] = {**last[0], **values}
    points = {name: point for name, point in points.items() if name not in launched_last} | launched_last
    shown = [key for key in given if len({point[key] for point in points.values()}) > 1]
    if not shown:
        raise ValueError(f"{folder} holds one point and no sweep; its page is {folder / 'report.html'}")
    return [({key: point[key] for key in shown}, name) for name, point in points.items()]


def points_of(folder: Path) -> list[Point]:
    """Every point of the sweep in order, also those that have not started."""
    return [Point(values, folder / name, *_state(folder / name)) for values, name in launched(folder)]


def _state(folder: Path) -> tuple[str, dict[str, Outcome]]:
    if not (folder / "settings.yaml").is_file():
        return MISSING, {}
    settings = read_settings(folder / "settings.yaml", "objective.updates", "evaluation.temperature", "output")
    history, length = read_history(folder / "history.jsonl"), settings.objective.updates
    if (folder / "policy/config.json").is_file():
        measured = load_outcomes(folder / f"evaluation_trained_t{settings.evaluation.temperature:g}.json")
        outcomes = {name.split()[0]: outcome for name, outcome in measured.items()}
        if outcomes:
            outcomes.setdefault("common", outcomes["own"])  # measured once if both views are the same
        return run_status(history, length), outcomes
    crash = last_status(Path(settings.results), Path(settings.output).name, settings_hash(plain(settings))) if settings.results else ""
    done = int(max((row["update"] for row in history), default=0))
    return f"{done} of {length} updates" + (f", {crash.splitlines()[0]:.120}" if crash.startswith("crashed") else ""), {}


def write_table(points: Sequence[Point], metrics: Sequence[str], resamples: int, path: Path) -> None:
    """One row per point: status, and mean and interval of every metric at both views."""
    columns = [f"{view} {metric}" for view in ("own", "common") for metric in metrics]
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow([*points[0].values, "status", "folder", *(f"{name} {part}" for name in columns for part in ("mean", "low", "high"))])
        for point in points:
            cells: list[object] = []
            for view in ("own", "common"):
                for metric in metrics:
                    outcome = point.outcomes.get(view)
                    interval = cell(outcome, metric, FACTORS[metric][1], resamples) if outcome else None
                    numbers = (interval.mean, interval.low, interval.high) if interval else (math.nan,) * 3
                    cells += [f"{number:.4f}" if number == number else "" for number in numbers]
            out.writerow([*point.values.values(), point.status, point.folder.name, *cells])


PANELS_A_ROW = 4


def swept_keys(points: Sequence[Point]) -> list[str]:
    """The swept keys without the seed; the seed if nothing else was swept."""
    return [key for key in points[0].values if key != "seed"] or ["seed"]


Panel = tuple[str, str, str]  # swept key, metric, view


def panels_of(points: Sequence[Point], metrics: Sequence[str]) -> list[Panel]:
    """Every panel of which something was measured."""
    return [
        (key, metric, view)
        for key in swept_keys(points)
        for metric in metrics
        for view in ("own", "common")
        if any(p.mean(metric, view) == p.mean(metric, view) for p in points)
    ]


def draw(points: Sequence[Point], shown: Sequence[Panel]) -> Figure:
    """The panels: dots for points, a line of means, intervals."""
    columns, rows = min(PANELS_A_ROW, max(1, len(shown))), math.ceil(max(1, len(shown)) / PANELS_A_ROW)
    figure = Figure(figsize=(3.1 * columns, 2.8 * rows), layout="constrained")
    if not shown:
        figure.text(0.5, 0.5, "no point is finished yet", ha="center")
        return figure
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, (key, metric, view) in zip(axes, shown, strict=False):
        _draw_panel(axis, points, key, metric, view)
    for axis in axes[len(shown) :]:
        axis.set_visible(False)
    return figure


def _draw_panel(axis: Axes, points: Sequence[Point], key: str, metric: str, view: str) -> None:
    values = list(dict.fromkeys(point.values[key] for point in points))
    numbers = [_float_or_nan(value) for value in values]
    positions = numbers if all(n == n for n in numbers) else [*range(len(values))]
    means = defaultdict(list)
    for point in points:
        if (mean := point.mean(metric, view)) == mean:
            means[positions[values.index(point.values[key])]].append(mean)
    for x, at_x in means.items():
        axis.plot([x] * len(at_x), at_x, "o", ms=4, color=PALE, mec="none")
        axis.vlines(x, *bootstrap(at_x, range(len(at_x)))[1:], color=COLOUR, lw=1)
    line = sorted((x, sum(at_x) / len(at_x)) for x, at_x in means.items())
    axis.plot([x for x, _ in line], [y for _, y in line], color=COLOUR, lw=1.8)
    if min(positions) > 0 and max(positions) >= 8 * min(positions):
        axis.set_xscale("log", base=2)
        axis.minorticks_off()
    axis.set_xticks(positions, values, fontsize=8)
    axis.set_xlabel(key, fontsize=9)
    axis.set_title(f"{FACTORS[metric][0]}\n{view} view", fontsize=9)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25, lw=0.5)
    axis.spines[["top", "right"]].set_visible(False)


def _float_or_nan(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        return math.nan


def write_sweep_page(path: Path, title: str, points: Sequence[Point], metrics: Sequence[str], counted: str) -> None:
    """Write the page of a sweep: its panels, and a row per point with a link to its page.

    Seeds of one setting stand together, under their mean.
    """
    shown = panels_of(points, metrics)
    groups: dict[tuple[str, ...], list[Point]] = defaultdict(list)
    for point in points:
        groups[tuple(value for key, value in point.values.items() if key != "seed")].append(point)
    rows = []
    for of_setting in groups.values():
        if len(of_setting) > 1 and len(groups) > 1:
            rows.append(
                _row({**of_setting[0].values, "seed": f"mean of {len(of_setting)}"}, "", [_mean(of_setting, name) for name in metrics])
            )
        for point in of_setting:
            page = f"{quote(point.folder.name)}/report.html" if (point.folder / "report.html").is_file() else None
            rows.append(_row(point.values, point.status, [point.mean(name, "own") for name in metrics], page))
    write_html(
        path,
        "sweep.html",
        title=title,
        counted=counted,
        panels=[(_svg(draw(points, [panel])), f"{FACTORS[panel[1]][0]}, {panel[2]} view, over {panel[0]}") for panel in shown],
        columns=[*points[0].values, "status", *(FACTORS[metric][0] for metric in metrics)],
        points=rows,
    )


def _row(values: Mapping[str, str], status: str, numbers: Sequence[float], page: str | None = None) -> dict[str, object]:
    return {"swept": list(values.values()), "status": status, "metrics": [*map(number_text, numbers)], "page": page}


def _mean(points: Sequence[Point], metric: str) -> float:
    """The mean of the points that are measured, at their own views."""
    means = [mean for point in points if (mean := point.mean(metric, "own")) == mean]
    return sum(means) / len(means) if means else math.nan


def _svg(figure: Figure) -> str:
    """A figure as a data URL."""
    picture = io.StringIO()
    figure.savefig(picture, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(picture.getvalue().encode()).decode()


def status_kind(status: str) -> str:
    """`finished`, `missing`, `stopped`, `crashed` or `unfinished`."""
    if status in (FINISHED, MISSING):
        return status
    return "stopped" if status.startswith(STOPPED) else "crashed" if ", crashed" in status else "unfinished"


def number_text(value: float) -> str:
    """A number for a table; empty for NaN."""
    return "" if value != value else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
