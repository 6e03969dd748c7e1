"""A batch that is sampled in a thread while the one before trains (`rollout.overlap`)."""

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import Event, Thread

from focus.rollout.trajectory import Trajectory

END_S = 30.0  # a thread that is to end is waited for so long: a turn of `kv`, or a reply of a server


class Ahead:
    """The rollouts of at most one batch: being sampled, or waiting to be taken.

    `updates` says which weights sample them: those after so many updates. `seconds`: how long they were
    sampled, NaN for rollouts that were `put`.
    """

    def __init__(self) -> None:
        self.updates, self.seconds = 0, 0.0
        self._played: Future[list[Trajectory]] | None = None
        self._stop = Event()
        self._thread: Thread | None = None

    @property
    def begun(self) -> bool:
        """Whether there is a batch."""
        return self._played is not None

    def begin(self, play: Callable[[Event], list[Trajectory]], updates: int) -> None:
        """Call `play` in a thread. It returns early when the event that it gets is set."""
        assert self._played is None
        played = self._played = Future[list[Trajectory]]()
        stop = self._stop = Event()
        self.updates = updates

        def run() -> None:
            began = time.perf_counter()
            try:
                rollouts = play(stop)
            except BaseException as error:  # raised again where the rollouts are waited for
                played.set_exception(error)
            else:
                self.seconds = time.perf_counter() - began
                played.set_result(rollouts)

        # A daemon: a process that ends does not wait for the open requests of a server
        self._thread = Thread(target=run, name="sampler", daemon=True)
        self._thread.start()

    def put(self, rollouts: Sequence[Trajectory], updates: int) -> None:
        """Keep rollouts that were sampled in an earlier start of the run."""
        assert self._played is None
        self._played, self.updates, self.seconds = Future(), updates, math.nan
        self._played.set_result(list(rollouts))

    def wait(self) -> list[Trajectory]:
        """The rollouts, none without a batch. They stay here. Raises what ended the sampling."""
        return self._played.result() if self._played else []

    def take(self) -> list[Trajectory]:
        """The rollouts. There is no batch afterwards. Raises what ended the sampling."""
        rollouts = self.wait()
        self._played = None
        return rollouts

    def end(self) -> None:
        """End the sampling and drop the batch."""
        self._stop.set()
        if self._thread:
            self._thread.join(END_S)
        self._played = None
