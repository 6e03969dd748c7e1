"""One rollout: prompt, sampled turns and the tool's observations.

Sampled ids are stored and never encoded again.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import count

from PIL import Image

from focus.data.boxes import Box, Size
from focus.data.images.original import Original
from focus.data.sample import Sample
from focus.gap import View
from focus.model.prompts import Answer, Malformed


class Status(StrEnum):
    """How a trajectory ended. Truncated and malformed are not the same as a wrong answer."""

    OPEN = "open"
    ANSWERED = "answered"
    OUT_OF_TURNS = "out of turns"
    OUT_OF_TOKENS = "out of tokens"
    MALFORMED = "malformed"
    REFUSED = "refused"  # the server refused the request; the turn is empty


@dataclass(frozen=True)
class Crop:
    """A valid call: the box as the model wrote it, in the dialect's frame, and the box in pixels of
    the original.
    """

    box_view: Box
    box_px: Box


Action = Crop | Answer | Malformed
# Replaces a crop. Arguments: the crop, the call, and the trajectory before the turn with the call.
# None: the tool returns no image.
Alter = Callable[[View, Crop, "Trajectory"], View | None]


@dataclass(frozen=True)
class Observation:
    """The tool's reply to a call. Its ids are not sampled and carry no loss."""

    ids: tuple[int, ...]
    crop: View | None  # None: the reply is an error
    content: str  # the placeholder of the crop, or the error text


@dataclass(frozen=True)
class Turn:
    """One sampled turn, its parsed action and the tool's observation."""

    ids: tuple[int, ...]
    sampler_logprobs: tuple[float, ...]  # one for each id, recorded while sampling
    text: str
    action: Action
    observation: Observation | None = None
    request_id: str = field(default="", repr=False, compare=False)  # of the request that sampled it; an engine may still cache it


_groups = count()


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """A rollout: the sample, the view of its image, the prompt and the turns."""

    sample: Sample
    source: Original = field(repr=False)  # image that crops are cut from: the original, or the view with gap=off
    view: View = field(repr=False)
    prompt_ids: tuple[int, ...] = field(repr=False)
    seed: int  # of the sampling noise; a pure function of run, question and rollout
    prefill: str = ""  # text that the first turn starts with and that is not sampled (a forced crop, a forced answer)
    prefill_ids: tuple[int, ...] = ()
    alter: "Alter | None" = field(default=None, repr=False)
    tool_offered: bool = True
    turns: tuple[Turn, ...] = ()
    status: Status = Status.OPEN
    # Siblings (rollouts of one question, with one prompt and one view) share this number. It is
    # unique in a process; copies keep it.
    group: int = field(default_factory=lambda: next(_groups), compare=False)

    def with_turn(self, turn: Turn, status: Status) -> "Trajectory":
        """A copy with one more turn."""
        return replace(self, turns=(*self.turns, turn), status=status)

    @property
    def ids(self) -> list[int]:
        """The whole sequence in order: prompt, prefill, sampled turns and observations."""
        return [*self.prompt_ids, *self.suffix_ids]

    @property
    def suffix_ids(self) -> list[int]:
        """What follows the prompt."""
        ids = list(self.prefill_ids)
        for turn in self.turns:
            ids += turn.ids
            ids += turn.observation.ids if turn.observation else ()
        return ids

    @property
    def sampled_mask(self) -> list[bool]:
        """True where `ids` holds a sampled token. Only these tokens carry loss."""
        mask = [False] * (len(self.prompt_ids) + len(self.prefill_ids))
        for turn in self.turns:
            mask += [True] * len(turn.ids)
            mask += [False] * (len(turn.observation.ids) if turn.observation else 0)
        return mask

    @property
    def sampler_logprobs(self) -> list[float]:
        """One value for each sampled token, in order."""
        return [value for turn in self.turns for value in turn.sampler_logprobs]

    @property
    def images(self) -> list[Image.Image]:
        """The view, then every crop, in the order of their placeholders in `ids`."""
        return [self.view.image, *(turn.observation.crop.image for turn in self.turns if turn.observation and turn.observation.crop)]

    @property
    def shown(self) -> list[tuple[Box, Size]]:
        """For every image in `images`: the region of the original that it shows (`box_px`), and its
        size in pixels.
        """
        sizes = [image.size for image in self.images]
        return list(zip([(0.0, 0.0, *self.sample.size), *(crop.box_px for crop in self.crops)], sizes, strict=True))

    @property
    def crops(self) -> list[Crop]:
        """The calls that returned a crop. A call that returned an error is not one."""
        return [t.action for t in self.turns if isinstance(t.action, Crop) and t.observation and t.observation.crop]

    @property
    def answer(self) -> str | None:
        """The final answer, or None if there is none."""
        last = self.turns[-1].action if self.turns else None
        return last.text if isinstance(last, Answer) else None

    @property
    def visual_tokens(self) -> int:
        """Merged visual tokens of the view and of all crops."""
        crops = (turn.observation.crop for turn in self.turns if turn.observation)
        return self.view.tokens + sum(crop.tokens for crop in crops if crop)
