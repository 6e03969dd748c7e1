"""The warning that a job of submitit gets before Slurm ends it."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

# Between the last moment at which the job is requeued and its end: the requeueing itself
RESERVE_S = 30.0
# A warning of time-out comes this long before the end at most (hydra.launcher.signal_delay_s). An earlier one is pre-emption
LONGEST_DELAY_S = 3600.0


class RequeueWarning:
    """Lets the update of a warned job end before submitit requeues the job, if its time suffices.

    submitit's handler requeues the job at once, and all since the last checkpoint is lost. Within `awaited`
    the signal sets `given` instead; `pass_on`, called between two updates, then calls submitit's handler.
    It is called at the latest RESERVE_S before the end of the job (SLURM_JOB_END_TIME), and at once where
    that is not known or the job is pre-empted, since pre-emption leaves an unknown time.
    """

    def __init__(self) -> None:
        self.given = False
        self._number = getattr(signal, "SIG" + os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2"))
        self._handler = signal.getsignal(self._number)

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """A block in which the warning waits for `pass_on`. Without submitit it changes nothing."""
        if "SUBMITIT_EXECUTOR" not in os.environ or not callable(self._handler):
            yield
            return
        before = {self._number: self._handler, signal.SIGALRM: signal.getsignal(signal.SIGALRM)}
        signal.signal(self._number, self._warned)
        signal.signal(signal.SIGALRM, lambda *_: self._requeue())
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in before.items():
                signal.signal(number, handler)

    def pass_on(self) -> None:
        """Hand a warning that was given to submitit. On the first rank this requeues the job and ends the process."""
        if self.given:
            self._requeue()

    def _warned(self, *_: object) -> None:
        left = float(os.environ.get("SLURM_JOB_END_TIME", 0)) - time.time()
        self.given = True
        if RESERVE_S < left <= LONGEST_DELAY_S:
            signal.setitimer(signal.ITIMER_REAL, left - RESERVE_S)
        else:
            self._requeue()

    def _requeue(self) -> None:
        self.given = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert callable(self._handler)
        self._handler(self._number, None)
