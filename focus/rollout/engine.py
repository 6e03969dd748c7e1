"""What a rollout engine must answer, whatever runs behind it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from focus.rollout.trajectory import Trajectory


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. `temperature` 0 takes the most probable token."""

    temperature: float
    tokens_per_turn: int


@dataclass(frozen=True)
class Request:
    """A sequence to continue.

    `id` is unique; `parent` names the earlier conversation that this one continues, if any. `prompt` names the prompt that siblings
    share: the first `prompt_tokens` of `ids`, and the first of `images` (the view). An engine may keep what it computed for both.
    `seed` fixes the sampling noise of this turn, so a draw depends neither on the neighbours in the batch nor on the rank.
    `trajectory` is the same as turns, for an engine that is spoken to in words.
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
    """One sampled turn. The last id is the stop token where `stopped`; otherwise the token limit cut the turn.

    An engine that hears words instead of ids gives `text`; each id is then -1 and only their number is known. `refused`: not even those.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    stopped: bool
    text: str | None = None
    refused: bool = False


class Engine(Protocol):
    """Anything that samples turns."""

    def generate(self, conversations: Sequence[Request], sampling: Sampling) -> Iterator[tuple[int, Completion]]:
        """The completion of every conversation beside its index, each as soon as it is known, in any order."""
        ...

    def logprobs(self, conversations: Sequence[Request], tails: Sequence[int]) -> list[list[float]]:
        """Log-probability, at temperature 1, of the last `tails[i]` tokens of every conversation, given all before them."""
        ...

    def clear_cache(self) -> None:
        """Drop everything kept for parents and prompts; called when a batch of questions is done."""
        ...

    def sync_weights(self) -> None:
        """The policy's weights are new, or have changed: sample from them from now on. All ranks call it together."""
        ...
