"""The progress line: honest about what is left, and readable in a log file."""

import io

import pytest
from rich.console import Console

from focus.runtime.progress import Progress, duration


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def started(terminal: bool, live: bool = True, measurements: int = 0) -> tuple[Progress, Clock, io.StringIO]:
    out, clock = io.StringIO(), Clock()
    return (
        Progress(Console(file=out, force_terminal=terminal, width=80), measurements=measurements, live=live, every_s=30, clock=clock),
        clock,
        out,
    )


def test_a_log_file_gets_whole_lines_every_so_often_and_the_last_one():
    progress, clock, out = started(terminal=False)
    with progress:
        advance = progress.begin("train", "update")
        for update in range(1, 121):
            clock.now += 2.0
            advance(update, 120, "reward 1.40")
    lines = out.getvalue().splitlines()
    assert "\r" not in out.getvalue() and "\x1b" not in out.getvalue()
    assert lines[0] == "train 1/120 · reward 1.40 · 2.0 s/update · 3:58 left"
    assert lines[-1] == "train 120/120 · reward 1.40 · 2.0 s/update · 0:00 left"
    assert len(lines) == 9  # the first, then one every 30 s of 240


def test_a_terminal_without_a_live_line_gets_lines_too():
    progress, clock, out = started(terminal=True, live=False)
    with progress:
        advance = progress.begin("measure 1/4", "question")
        clock.now += 0.5
        advance(50, 50)
    assert out.getvalue() == "measure 1/4 50/50 · 100 questions/s · 0:00 left\n"


def test_a_terminal_has_one_line_that_is_redrawn_and_that_stays_at_the_end():
    progress, clock, out = started(terminal=True)
    with progress:
        advance = progress.begin("train", "update")
        for update in (1, 2):
            clock.now += 1
            advance(update, 2)
    assert out.getvalue().rstrip().endswith("train 2/2 · 1.0 s/update · 0:00 left")


def test_the_time_left_covers_the_measurements_that_follow():
    progress, clock, out = started(terminal=False, measurements=4)
    progress.measurement_s = 30.0
    advance = progress.begin("train", "update")
    clock.now += 10
    advance(1, 3)
    assert progress.left_s() == 2 * 10 + 4 * 30
    progress.skip(1)  # its result is known from an earlier start
    with progress.measurement("base, own view") as advance:
        clock.now += 50
        advance(250, 500)
        assert progress.left_s() == 50 + 2 * 30
        clock.now += 50
        advance(500, 500)
    assert out.getvalue().splitlines()[-1] == "measure 2/4 base, own view: 500/500 · 0.2 s/question · 1:00 left"
    assert (progress.left, progress.measurement_s) == (2, 100)


def test_nothing_is_said_about_the_time_left_before_it_is_known():
    progress, clock, out = started(terminal=False, measurements=1)
    clock.now += 1
    progress.begin("train", "update")(1, 2)
    assert progress.left_s() is None and "left" not in out.getvalue()


def test_a_resumed_phase_counts_from_where_it_was_and_measures_only_what_it_does_itself():
    progress, clock, out = started(terminal=False)
    advance = progress.begin("train", "update", done=70)
    clock.now += 3
    advance(71, 120)
    assert out.getvalue() == "train 71/120 · 3.0 s/update · 2:27 left\n"


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (100, "1:40"), (7300, "2:01:40"), (3 * 86400 + 4 * 3600, "3 days 4 h")])
def test_durations_are_read_at_a_glance(seconds, text):
    assert duration(seconds) == text
