"""Show the state and the results of a sweep: table, curves, one page."""

from collections import Counter
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from focus import config
from focus.config.schema import SweepConfig
from focus.report.sweep import FACTORS, draw, number_text, panels_of, points_of, status_kind, write_sweep_page, write_table


def run(composed: DictConfig) -> None:
    """Write `sweep.csv`, `sweep.png` and `sweep.html` into the sweep's folder.

    The table of its points is printed.
    """
    cfg = config.validated(composed, SweepConfig)
    if unknown := [metric for metric in cfg.metrics if metric not in FACTORS]:
        raise ValueError(f"metrics names {', '.join(unknown)}; there are {', '.join(FACTORS)}")
    folder, metrics = Path(cfg.sweep), list(cfg.metrics)
    points = points_of(folder)
    states = Counter(status_kind(point.status) for point in points)
    counted = f"{len(points)} points: " + ", ".join(f"{n} {status}" for status, n in states.items())
    table = Table(title=f"{folder.name}, {counted}", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in (*points[0].values, "status", *metrics):
        table.add_column(name)
    for point in points:
        table.add_row(*point.values.values(), point.status, *(number_text(point.mean(metric, "own")) for metric in metrics))
    Console(markup=False).print(table)
    figure = draw(points, panels_of(points, metrics))
    with config.writable(cfg.sweep):
        write_table(points, metrics, cfg.resamples, folder / "sweep.csv")
        figure.savefig(folder / "sweep.png", dpi=110)
        write_sweep_page(folder / "sweep.html", folder.name, points, metrics, counted)
    print(f"table: {folder / 'sweep.csv'}\nfigure: {folder / 'sweep.png'}\npage: {folder / 'sweep.html'}")
