"""Conversations that wait for a slot, and are told turn by turn to the request that asked."""

import asyncio
from collections.abc import AsyncIterator, Callable
from queue import SimpleQueue
from threading import Event, Thread

from fastapi import Request

from focus.agent import Answer, OnTurn
from focus.rollout.trajectory import Trajectory

MOST_WAITING = 64  # conversations without a slot; each holds its picture in memory
JOIN_S = 20.0  # longest wait, at the end, for a turn that is being sampled

Ask = Callable[[OnTurn, Event], Answer]  # Plays a conversation; ends it with its next turn once the event is set


class Busy(Exception):
    """More than MOST_WAITING conversations are waiting."""


class Slots:
    """So many threads play one conversation each; the others wait in the order of their arrival.

    The threads are daemons: one that waits for a model server does not keep the process from ending.
    """

    def __init__(self, count: int) -> None:
        self._waiting: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads = [Thread(target=self._work, name="conversation", daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _work(self) -> None:
        while job := self._waiting.get():
            job()

    def close(self) -> None:
        """End the threads after the conversations that they play."""
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join(JOIN_S)

    async def play(self, request: Request, ask: Ask) -> AsyncIterator[Trajectory | Answer]:
        """The conversation as it begins and after each of its turns, then the answer; nothing more once the client is gone.

        A client that goes away frees its slot after the turn that is being sampled. Raises Busy, and
        what `ask` raises.
        """
        if self._waiting.qsize() >= MOST_WAITING:
            raise Busy
        loop, told, gone = asyncio.get_running_loop(), asyncio.Queue[Trajectory | Answer | Exception | None](), Event()

        def tell(item: Trajectory | Answer | Exception | None) -> None:
            if not gone.is_set():
                loop.call_soon_threadsafe(told.put_nowait, item)

        def job() -> None:
            if gone.is_set():
                return
            try:
                tell(ask(tell, gone))
            except Exception as error:  # raised again in the request that asked
                tell(error)

        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            gone.set()
            told.put_nowait(None)

        watching = asyncio.create_task(watch())
        self._waiting.put(job)
        try:
            while (item := await told.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item
                if isinstance(item, Answer):
                    return
        finally:
            gone.set()
            watching.cancel()
