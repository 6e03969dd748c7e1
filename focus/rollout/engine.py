"""What the crop loop needs: a model, which has the tokenizer and the dialect, and an engine, which samples from it."""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Protocol

from PIL import Image

from focus.model.dialect import Dialect
from focus.model.prompts import Tokenizer
from focus.rollout.trajectory import Trajectory


@dataclass(frozen=True)
class Sampling:
    """How tokens are sampled. `temperature` 0 is greedy."""

    temperature: float
    tokens_per_turn: int


@dataclass(frozen=True)
class Request:
    """A sequence to continue, or to score.

    `id` is unique. `parent` is the id of the earlier request that this one continues, if any.
    `conversation` is the index of its conversation among those that are played together.
    `prompt` names the prompt that siblings share: the first `prompt_tokens` of `ids`, and the first
    of `images` (the view). An engine may cache what it computed for parent and prompt. `seed` fixes
    the sampling noise of this turn, so a completion depends neither on the rest of the batch nor on
    the rank. `trajectory` holds the same sequence as turns, for engines that send text.
    """

    id: str
    parent: str | None
    prompt: str
    prompt_tokens: int
    ids: tuple[int, ...]
    images: tuple[Image.Image, ...]
    seed: int
    trajectory: Trajectory | None = None
    conversation: int = 0


@dataclass(frozen=True)
class Completion:
    """One sampled turn.

    If `stopped`, the last id is the stop token; otherwise the token limit cut the turn.

    `text` is set by an engine that receives text instead of ids. Its ids are all -1, only their
    number is known, and the logprobs are NaN. `refused`: the server refused the request; there are
    no tokens.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    stopped: bool
    text: str | None = None
    refused: bool = False


class Requests:
    """The requests of conversations that are played together, for one engine.

    A conversation has one request at a time. Its completion leads to its next request, or ends it.
    An engine takes requests as they come (vLLM, servers), or waits until every open conversation
    has one (`kv`). Only one thread may take at a time; it may be another one than that which adds.
    """

    def __init__(self, first: Sequence[Request]) -> None:
        self._ready, self._open = list(first), len(first)  # _open: conversations that have not ended
        self._coming: SimpleQueue[Future[Request | None]] = SimpleQueue()  # futures that are done

    def add(self, following: Future[Request | None]) -> None:
        """What follows a completion: the conversation's next request, None if it has ended."""
        following.add_done_callback(self._coming.put)

    def take(self, at_least: float = math.inf) -> list[Request]:
        """Wait for `at_least` requests or one of every open conversation, and take all that are ready.

        They are in the order of their conversations. None are left after the last conversation has
        ended. With `at_least` 0 it does not wait. Raises what made a request fail.
        """
        while len(self._ready) < min(at_least, self._open) or not self._coming.empty():
            request = self._coming.get().result()
            if request is None:
                self._open -= 1
            else:
                self._ready.append(request)
        taken, self._ready = sorted(self._ready, key=lambda request: request.conversation), []
        return taken

    def __iter__(self) -> Iterator[Request]:
        """Every request as soon as it is ready; waits for the next one."""
        while taken := self.take(1):
            yield from taken

    def close(self) -> None:
        """End all conversations: a thread that waits for a request gets none."""
        self._open = 0
        ended: Future[Request | None] = Future()
        ended.set_result(None)
        self.add(ended)


class Model(Protocol):
    """A policy as the crop loop uses it: weights in this process (`PolicyModel`) or on a server (`Served`)."""

    @property
    def dialect(self) -> Dialect: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def token_px(self) -> int:
        """Side of one merged visual token, in pixels."""
        ...

    def image_cache(self) -> AbstractContextManager[None]:
        """A block in which features of images are cached."""
        ...

    def weights_hash(self) -> str:
        """Identifies the weights."""
        ...


class Engine(Protocol):
    """Anything that samples turns. `shares_weights`: `generate` computes with the policy's own weights, not with a copy."""

    shares_weights: bool

    def generate(self, requests: Requests, sampling: Sampling) -> Iterator[tuple[Request, Completion]]:
        """Yields requests with their completions, in any order, until all conversations have ended.

        The caller adds what follows a completion to `requests` before it asks for the next one.
        """
        ...

    def logprobs(self, requests: Sequence[Request], tails: Sequence[int]) -> list[list[float]]:
        """Log-probabilities, at temperature 1, of the last `tails[i]` tokens of request i."""
        ...

    def clear_cache(self) -> None:
        """Drop all caches of parents and prompts. Called when a batch of questions is done."""
        ...

    def sleep(self) -> None:
        """Give back the memory that sampling alone needs, until the next `sync_weights`."""
        ...

    def sync_weights(self) -> None:
        """Sample from the policy's current weights from now on. All ranks call it together."""
        ...
