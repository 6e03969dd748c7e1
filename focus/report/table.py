"""Results with intervals: a short table on the terminal, the whole table in Markdown.

A page shows the same cells.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

NOT_RUN = "not run"
NOT_APPLICABLE = "n/a"


@dataclass(frozen=True)
class Cell:
    """A mean and its interval.

    The mean is NaN if the metric applied to no question, the bounds are NaN without an interval.

    `unit` is set if it differs from the row's: a difference of percentages is in points.
    """

    mean: float
    low: float
    high: float
    unit: str | None = None


@dataclass(frozen=True)
class Row:
    """One metric over all columns.

    A cell of None was not run. The terminal shows the `main` rows.
    """

    metric: str
    unit: str
    cells: tuple[Cell | None, ...]
    main: bool = False


@dataclass(frozen=True)
class Results:
    """A table, the sentences that say what it means, and notes. The terminal does not show `details`.

    Raises ValueError if a row lacks a cell for a column.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    verdicts: tuple[str, ...] = ()
    details: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row.cells) != len(self.columns):
                raise ValueError(
                    f"the row {row.metric!r} has {len(row.cells)} cells for {len(self.columns)} columns "
                    f"({', '.join(self.columns)}); use None for a column that was not run"
                )


def cell_text(row: Row, cell: Cell | None) -> str:
    """`71.2 [67.4, 75.0] %`. All cells of a row have the same number of decimals."""
    mean, interval = cell_parts(row, cell)
    return f"{mean} {interval}".rstrip() + unit_text(row, cell)


def unit_text(row: Row, cell: Cell | None) -> str:
    """The unit with a space before it; empty for a cell without a number."""
    unit = row.unit if cell is None or cell.unit is None else cell.unit
    return f" {unit}" if unit and cell_parts(row, cell)[0] not in (NOT_RUN, NOT_APPLICABLE) else ""


def cell_parts(row: Row, cell: Cell | None) -> tuple[str, str]:
    """The mean and the interval, without the unit. The interval is empty where there is none."""
    if cell is None:
        return NOT_RUN, ""
    if math.isnan(cell.mean):
        return NOT_APPLICABLE, ""
    decimals = _decimals(row)
    bounded = math.isfinite(cell.low) and math.isfinite(cell.high)
    return f"{cell.mean:.{decimals}f}", f"[{cell.low:.{decimals}f}, {cell.high:.{decimals}f}]" if bounded else ""


def _decimals(row: Row) -> int:
    """Three digits of the row's largest mean. Per cent and points always have one decimal."""
    means = [abs(cell.mean) for cell in row.cells if cell and math.isfinite(cell.mean)]
    largest = max(means, default=0.0)
    return 1 if row.unit in ("%", "pt") or largest >= 10 else 2 if largest >= 1 else 3


def print_table(results: Results, console: Console) -> None:
    """Print the main rows (all rows if none is), then the notes and the verdicts.

    Intervals are always shown. In a narrow terminal they stand below the means, and columns that do
    not fit beside the others follow in a second table.
    """
    rows = [row for row in results.rows if row.main] or list(results.rows)
    columns = range(len(results.columns))
    layouts = ((list(columns), False), (list(columns), True))
    chosen, below = next((layout for layout in layouts if _fits(_rich_table(results, rows, *layout), console)), ([], True))
    blocks = [chosen] if chosen else _blocks(results, rows, console)
    for number, block in enumerate(blocks):
        console.print(_rich_table(results, rows, block, below, title=number == 0), soft_wrap=False)
    for note in results.notes:
        console.print(Text(note, style="dim"))
    for verdict in results.verdicts:
        console.print(Text(verdict, style="bold"))


def _blocks(results: Results, rows: Sequence[Row], console: Console) -> list[list[int]]:
    """The columns in groups that fit side by side. A column that is too wide is a group alone."""
    blocks: list[list[int]] = [[]]
    for column in range(len(results.columns)):
        if blocks[-1] and not _fits(_rich_table(results, rows, [*blocks[-1], column], below=True), console):
            blocks.append([])
        blocks[-1].append(column)
    return blocks


def _fits(table: Table, console: Console) -> bool:
    return console.measure(table, options=console.options.update(max_width=10_000)).maximum <= console.width


def _rich_table(results: Results, rows: Sequence[Row], columns: Sequence[int], below: bool, title: bool = True) -> Table:
    """The table of some columns. `below` puts the interval under the mean."""
    table = Table(
        title=Text(results.title, style="bold") if title else None,
        title_justify="left",
        header_style="bold",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    table.add_column("", min_width=12)
    for column in columns:
        table.add_column(Text(results.columns[column]), justify="right", no_wrap=True, overflow="fold")
    for row in rows:
        cells = [row.cells[column] for column in columns]
        texts = [_below(row, cell) if below else cell_text(row, cell) for cell in cells]
        table.add_row(Text(row.metric), *(Text(text, style="" if cell else "dim") for text, cell in zip(texts, cells, strict=True)))
    return table


def _below(row: Row, cell: Cell | None) -> str:
    mean, interval = cell_parts(row, cell)
    return f"{mean}{unit_text(row, cell)}\n{interval}".rstrip()


def markdown_table(results: Results) -> str:
    """The whole table in Markdown: title, verdicts, rows, notes, details, and a line break at the end."""
    lines = [f"**{results.title}**", ""]
    for verdict in results.verdicts:
        lines += [verdict, ""]
    lines += [_markdown_row(["", *results.columns]), "|---|" + "---:|" * len(results.columns)]
    lines += [_markdown_row([row.metric, *(cell_text(row, cell) for cell in row.cells)]) for row in results.rows]
    for note in (*results.notes, *results.details):
        lines += ["", note]
    return "\n".join(lines) + "\n"


def _markdown_row(cells: list[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"
