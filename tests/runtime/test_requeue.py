"""The warning before Slurm ends a job: when it waits for the end of an update."""

import os
import signal
import time

import pytest

from focus.runtime.requeue import RESERVE_S, RequeueWarning


@pytest.fixture
def requeued(monkeypatch):
    """How often submitit was told to requeue the job."""
    told: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, _: told.append(number))
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    yield told
    signal.signal(signal.SIGUSR2, before)


def warn() -> None:
    os.kill(os.getpid(), signal.SIGUSR2)


def test_a_warning_of_time_out_waits_for_the_end_of_the_update(requeued, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(time.time() + 120))
    warning = RequeueWarning()
    with warning.awaited():
        warning.pass_on()
        assert not warning.given and not requeued
        warn()
        assert warning.given and not requeued
        warning.pass_on()
        assert requeued == [signal.SIGUSR2] and not warning.given
    warn()
    assert len(requeued) == 2  # outside of a training it is submitit's alone


def test_an_update_that_lasts_too_long_is_not_waited_for(requeued, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(time.time() + RESERVE_S + 0.05))
    with RequeueWarning().awaited():
        warn()
        until = time.monotonic() + 10
        while not requeued and time.monotonic() < until:
            time.sleep(0.01)
        assert requeued == [signal.SIGUSR2]


@pytest.mark.parametrize("left_s", [None, 20, 40_000], ids=["unknown", "too short", "pre-empted long before its end"])
def test_without_a_known_time_that_suffices_the_job_is_requeued_at_once(left_s, requeued, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    if left_s is not None:
        monkeypatch.setenv("SLURM_JOB_END_TIME", str(time.time() + left_s))
    with RequeueWarning().awaited():
        warn()
        assert requeued == [signal.SIGUSR2]


def test_without_submitit_no_handler_changes(requeued, monkeypatch):
    monkeypatch.delenv("SUBMITIT_EXECUTOR")
    before = signal.getsignal(signal.SIGUSR2)
    with RequeueWarning().awaited():
        assert signal.getsignal(signal.SIGUSR2) is before
