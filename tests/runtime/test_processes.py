"""How a process ends with the one that started it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from focus.runtime.processes import PARENT, started_by_this_process

WAITS = "import time; from focus.runtime.processes import end_with_parent; end_with_parent(); time.sleep(60)"


def rank(parent: int) -> subprocess.Popen:
    """A process that waits, as rank 1 of a run that the process `parent` started."""
    variables = os.environ | {"LOCAL_RANK": "1", PARENT: str(parent)}
    return subprocess.Popen([sys.executable, "-c", WAITS], env=variables, cwd=Path(__file__).parents[2])


@pytest.mark.processes
def test_a_rank_ends_even_if_its_parent_was_gone_before_it_could_look():
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    orphan, kept = rank(gone.pid), rank(os.getpid())
    try:
        assert orphan.wait(timeout=600) == -signal.SIGTERM
        assert kept.poll() is None
    finally:
        kept.kill()
        kept.wait()


def test_only_what_is_started_inside_the_block_knows_this_process():
    with started_by_this_process():
        assert os.environ[PARENT] == str(os.getpid())
    assert PARENT not in os.environ
