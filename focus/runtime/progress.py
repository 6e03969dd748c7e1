"""The progress of a command: one line redrawn on a terminal, or a line every 30 s in a log."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.live import Live
from rich.text import Text

Advance = Callable[[int, int], None]  # called with the number of finished units and the number of all units
Item = TypeVar("Item")


def chunks(items: Sequence[Item], size: int, advance: Advance | None) -> Iterator[list[Item]]:
    """Items in order, `size` at a time. `advance` is called after each chunk."""
    for start in range(0, len(items), size):
        end = min(len(items), start + size)
        yield [items[i] for i in range(start, end)]
        if advance is not None:
            advance(end, len(items))


class Progress:
    """The progress line of a command: phase, finished units, and time until the command ends.

    `measurements` is the number of measurement phases; a training may come before them. `live`
    redraws one line on a terminal; otherwise a line is printed at most every `every_s` seconds,
    without carriage returns. The last line of a phase stays in both cases. As a context manager it
    restores the terminal, also after an error.
    """

    def __init__(
        self,
        console: Console,
        *,
        measurements: int = 0,
        live: bool = True,
        every_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console, self.every_s, self.clock = console, every_s, clock
        drawn = live and console.is_terminal and not console.quiet
        self._live = Live(console=console, auto_refresh=False, transient=True) if drawn else None
        self.measurements = self.left = measurements
        self.measurement_s: float | None = None  # expected seconds of a measurement; None: not known yet
        self._phase = self._unit = self._line = ""
        self._first = self._done = self._total = 0
        self._start, self._printed = 0.0, -math.inf

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.end()

    def begin(self, phase: str, unit: str, done: int = 0) -> Advance:
        """Begin a phase that counts `unit`s; an earlier start finished `done` of them.

        Returns its `advance`.
        """
        self.end()
        self._phase, self._unit, self._first, self._done = phase, unit, done, done
        self._start, self._printed = self.clock(), -math.inf
        return self.advance

    def advance(self, done: int, total: int, *details: str) -> None:
        """Show that `done` of `total` units of the phase are finished.

        `details` follow the count.
        """
        self._done, self._total = done, total
        self._line = " · ".join([f"{self._phase} {done:,}/{total:,}", *details, *self._times()])
        if self._live is not None:
            self._live.start()
            self._live.update(Text(self._line, no_wrap=True, overflow="ellipsis"), refresh=True)
        elif self.clock() - self._printed >= self.every_s or done >= total:
            self._print()

    def end(self) -> None:
        """End the phase, if there is one."""
        if self._live is not None:
            self._live.stop()
            if self._line:
                self._print()
        self._line = ""

    @contextmanager
    def measurement(self, label: str) -> Iterator[Advance]:
        """One of several measurements, counted in questions.

        The rest is expected to take as long as this one.
        """
        self.left -= 1
        yield self.begin(f"measure {self.measurements - self.left}/{self.measurements} {label}:", "question")
        self.end()
        self.measurement_s = self.clock() - self._start

    def skip(self, measurements: int) -> None:
        """Count measurements that an earlier start has made."""
        self.left -= measurements

    def left_s(self) -> float | None:
        """Seconds until the end of the last phase; None while nothing has been measured."""
        finished = self._done - self._first
        if finished <= 0 or (self.left and self.measurement_s is None):
            return None
        here = (self.clock() - self._start) / finished * (self._total - self._done)
        return here + self.left * (self.measurement_s or 0.0)

    def _times(self) -> list[str]:
        finished, left = self._done - self._first, self.left_s()
        rate = (self.clock() - self._start) / finished if finished > 0 else None
        speed = [] if rate is None else [f"{rate:.1f} s/{self._unit}" if rate >= 0.1 else f"{1 / max(rate, 1e-9):.0f} {self._unit}s/s"]
        return [*speed, *([] if left is None else [f"{duration(left)} left"])]

    def _print(self) -> None:
        self._printed = self.clock()
        self.console.print(Text(self._line), soft_wrap=True)


def duration(seconds: float) -> str:
    """`1:40`, `2:01:40` or `3 days 4 h`."""
    whole = round(seconds)
    if whole >= 48 * 3600:
        return f"{whole // 86400} days {whole % 86400 // 3600} h"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
