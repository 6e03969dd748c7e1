"""What one conversation consists of. Sampled token ids are kept as they were sampled and never encoded again."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import count

from PIL import Image

from focus.data.boxes import Box, Size
from focus.data.original import Original
from focus.data.sample import Sample
from focus.gap import View
from focus.model.prompts import Answer, Malformed


class Status(StrEnum):
    """How a trajectory ended. Truncation is not a wrong answer, and neither is a turn that could not be read."""

    OPEN = "open"
    ANSWERED = "answered"
    OUT_OF_TURNS = "out of turns"
    OUT_OF_TOKENS = "out of tokens"
    MALFORMED = "malformed"
    REFUSED = "refused"  # by a server: its turn is empty


@dataclass(frozen=True)
class Crop:
    """A crop that was delivered: what the model spoke, and the pixels of the original that it got."""

    box_view: Box
    box_px: Box


TRUNCATED = (Status.OUT_OF_TURNS, Status.OUT_OF_TOKENS)
Action = Crop | Answer | Malformed
# What is shown in place of a crop (None: no image), given the crop, what was asked for and the conversation before that turn
Alter = Callable[[View, Crop, "Trajectory"], View | None]


@dataclass(frozen=True)
class Observation:
    """What the tool said: token ids that nobody sampled and that carry no loss, and a crop unless there was none to show."""

    ids: tuple[int, ...]
    crop: View | None
    content: str  # the crop's place in the text, or the error


@dataclass(frozen=True)
class Turn:
    """One sampled turn and what came of it."""

    ids: tuple[int, ...]
    sampler_logprobs: tuple[float, ...]  # one for each id, written down while sampling
    text: str
    action: Action
    observation: Observation | None = None
    request_id: str = field(default="", repr=False, compare=False)  # under which the engine may still hold what it computed


_groups = count()


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """A question, the view of its image, and the turns that followed."""

    sample: Sample
    source: Original = field(repr=False)  # what crops are cut from: the original, but with gap=off the view
    view: View = field(repr=False)
    prompt_ids: tuple[int, ...] = field(repr=False)
    seed: int  # of its sampling noise; a pure function of run, question and rollout
    prefill: str = ""  # text that the first turn starts with and that was not sampled (a forced crop, a forced answer)
    prefill_ids: tuple[int, ...] = ()
    alter: "Alter | None" = field(default=None, repr=False)
    tool_offered: bool = True
    turns: tuple[Turn, ...] = ()
    status: Status = Status.OPEN
    # Siblings, which have one prompt and one view, have one number. No two groups of a process have the same; copies keep it
    group: int = field(default_factory=lambda: next(_groups), compare=False)

    def with_turn(self, turn: Turn, status: Status) -> "Trajectory":
        return replace(self, turns=(*self.turns, turn), status=status)

    @property
    def ids(self) -> list[int]:
        """The whole sequence: prompt, sampled turns and observations, in order."""
        return [*self.prompt_ids, *self.suffix_ids]

    @property
    def suffix_ids(self) -> list[int]:
        """What follows the prompt that siblings share."""
        ids = list(self.prefill_ids)
        for turn in self.turns:
            ids += turn.ids
            ids += turn.observation.ids if turn.observation else ()
        return ids

    @property
    def sampled_mask(self) -> list[bool]:
        """True exactly where `ids` holds a sampled token: the only places that carry loss."""
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
        """The view, then every delivered crop, in the order of their places in `ids`."""
        return [self.view.image, *(turn.observation.crop.image for turn in self.turns if turn.observation and turn.observation.crop)]

    @property
    def shown(self) -> list[tuple[Box, Size]]:
        """Of every image that was shown, the view first: its place in the original (`box_px`), and its size in pixels."""
        sizes = [image.size for image in self.images]
        return list(zip([(0.0, 0.0, *self.sample.size), *(crop.box_px for crop in self.crops)], sizes, strict=True))

    @property
    def crops(self) -> list[Crop]:
        """The crops that were delivered; a call that returned only text is none."""
        return [t.action for t in self.turns if isinstance(t.action, Crop) and t.observation and t.observation.crop]

    @property
    def answer(self) -> str | None:
        """The final answer, or None where there is none."""
        last = self.turns[-1].action if self.turns else None
        return last.text if isinstance(last, Answer) else None

    @property
    def visual_tokens(self) -> int:
        """Merged visual tokens that this conversation cost: the view and every crop."""
        crops = (turn.observation.crop for turn in self.turns if turn.observation)
        return self.view.tokens + sum(crop.tokens for crop in crops if crop)
