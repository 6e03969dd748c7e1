"""What the crop loop needs: a model, which has the tokenizer and the dialect, and an engine, which samples from it."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
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

    @property
    def has_idle_processors(self) -> bool:
        """Whether this machine has idle processors while the model generates; crops are cut on them."""
        ...

    def image_cache(self) -> AbstractContextManager[None]:
        """A block in which features of images are cached."""
        ...

    def prepare(self, image: Image.Image) -> None:
        """Preprocess an image that a later request will contain. Called from worker threads."""
        ...

    def weights_hash(self) -> str:
        """Identifies the weights."""
        ...


class Engine(Protocol):
    """Anything that samples turns. `shares_weights`: `generate` computes with the policy's own weights, not with a copy."""

    shares_weights: bool

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[tuple[int, Completion]]:
        """Yields (index of the request, completion), each as soon as it is complete, in any order."""
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
