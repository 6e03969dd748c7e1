"""Items in chunks, with a progress bar."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Item = TypeVar("Item")


def chunks(items: Sequence[Item], size: int, label: str | None) -> Iterator[list[Item]]:
    """Items in order, `size` at a time. The progress bar shows rate and ETA; `label` None shows no bar."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=label is None) as progress:
        task = progress.add_task(label or "", total=len(items))
        for start in range(0, len(items), size):
            chunk = [items[i] for i in range(start, min(len(items), start + size))]
            yield chunk
            progress.advance(task, len(chunk))
