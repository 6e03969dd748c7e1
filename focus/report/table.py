"""Results with intervals, as a table on the terminal and in Markdown. A page shows the same cells."""

import math
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

NOT_RUN = "not run"
NOT_APPLICABLE = "n/a"


@dataclass(frozen=True)
class Cell:
    """A mean and its interval, in the unit of the row. A mean of NaN: it applied to no question; bounds of NaN: no interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """One metric over all columns; None stands for what was not run."""

    metric: str
    unit: str
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True)
class Results:
    """A table. Raises ValueError where a row has not exactly one cell for each column."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row.cells) != len(self.columns):
                raise ValueError(
                    f"the row {row.metric!r} has {len(row.cells)} cells for {len(self.columns)} columns "
                    f"({', '.join(self.columns)}); write None for what was not run"
                )


def cell_text(row: Row, cell: Cell | None) -> str:
    """`71.2 [67.4, 75.0] %`; a row has one number of decimals, so that its cells can be compared at a glance."""
    mean, interval = cell_parts(row, cell)
    unit = f" {row.unit}" if row.unit and mean not in (NOT_RUN, NOT_APPLICABLE) else ""
    return f"{mean} {interval}".rstrip() + unit


def cell_parts(row: Row, cell: Cell | None) -> tuple[str, str]:
    """The mean and the interval, without the unit; the interval is empty where there is none."""
    if cell is None:
        return NOT_RUN, ""
    if math.isnan(cell.mean):
        return NOT_APPLICABLE, ""
    decimals = _decimals(row)
    known = math.isfinite(cell.low) and math.isfinite(cell.high)
    return f"{cell.mean:.{decimals}f}", f"[{cell.low:.{decimals}f}, {cell.high:.{decimals}f}]" if known else ""


def _decimals(row: Row) -> int:
    """Three digits of the row's largest mean; per cent and points have one decimal always."""
    means = [abs(cell.mean) for cell in row.cells if cell and math.isfinite(cell.mean)]
    largest = max(means, default=0.0)
    return 1 if row.unit in ("%", "pt") or largest >= 10 else 2 if largest >= 1 else 3


def print_table(results: Results, console: Console) -> None:
    """The table on a terminal, notes beneath it. One that is too wide with its intervals is shown without them."""
    table = _rich_table(results, intervals=True)
    whole = console.measure(table, options=console.options.update(max_width=10_000)).maximum <= console.width
    console.print(table if whole else _rich_table(results, intervals=False))
    for note in (*results.notes, *(() if whole else ("this terminal is too narrow for the intervals",))):
        console.print(Text(note, style="dim"))


def _rich_table(results: Results, intervals: bool) -> Table:
    table = Table(
        title=Text(results.title, style="bold"), title_justify="left", header_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    table.add_column("", min_width=12)
    for column in results.columns:
        table.add_column(Text(column), justify="right", no_wrap=True, overflow="fold")
    for row in results.rows:
        texts = [cell_text(row, cell if intervals or cell is None else Cell(cell.mean, math.nan, math.nan)) for cell in row.cells]
        table.add_row(Text(row.metric), *(Text(text, style="" if cell else "dim") for text, cell in zip(texts, row.cells, strict=True)))
    return table


def markdown_table(results: Results) -> str:
    """The table in Markdown, title above and notes below, closed by a line break."""
    lines = [f"**{results.title}**", "", _markdown_row(["", *results.columns]), "|---|" + "---:|" * len(results.columns)]
    lines += [_markdown_row([row.metric, *(cell_text(row, cell) for cell in row.cells)]) for row in results.rows]
    for note in results.notes:
        lines += ["", note]
    return "\n".join(lines) + "\n"


def _markdown_row(cells: list[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"
