"""Agents with a known conduct, as functions from messages to a turn, in the dialect mini_o3.

An agent recognises a question by the pixels of its view, and a crop by the pixels that its own box cuts: what it does with a crop that was
replaced is what a policy would do that can't read it.
"""

import base64
import hashlib
import io
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from focus.data.boxes import Box, settle
from focus.data.drawn import twin_of
from focus.data.sample import Sample
from focus.gap import Gap, Mode, cut

# Settings of an audit of six questions
SMALL_AUDIT = (
    *("audit.made=[scenes]", "audit.sides_px=[224]", "audit.letter_px=null", "audit.published=[]", "audit.samples=6"),
    *("audit.views=[16,64]", "audit.repeated=2", "evaluation.resamples=50", "threads=1", "evaluation.arms=[own,noise,gt]"),
)
Agent = Callable[[Sequence[Mapping[str, Any]]], str]
TOKEN_PX, CROP_TOKENS = 28, 1024


@dataclass(frozen=True)
class Truth:
    """What an agent may know of a question. `sharp`: it is shown at its largest view. `twin`: its image with another answer."""

    answer: str
    box: Box  # in fractions of the image
    crop: bytes  # pixels of that box
    coin: bool  # the same for a question at every view
    sharp: bool
    twin_answer: str
    twin_crop: bytes  # pixels of that box


def truths(samples: Sequence[Sample], views: Sequence[int]) -> dict[bytes, Truth]:
    """By the pixels of a view."""
    known = {}
    for sample in samples:
        box_px = settle(sample.boxes[0][0], sample.size, TOKEN_PX)
        assert box_px is not None
        coin = hashlib.blake2b(sample.id.encode()).digest()[0] % 2 == 0
        sides = (*sample.size, *sample.size)
        inset = (0.25, 0.25, -0.25, -0.25)  # of a pixel, so that rounding outward gives these pixels again
        box = tuple((value + add) / side for value, add, side in zip(box_px, inset, sides, strict=True))
        other = twin_of(sample)
        assert other is not None
        twin = other.answers[0], pixels(cut(other.open(), box_px, other.size, CROP_TOKENS, TOKEN_PX).image)
        for tokens in views:
            view, source = Gap(Mode.FIXED, tokens, TOKEN_PX).view_of(sample, sample.open())
            crop = cut(source, box_px, sample.size, CROP_TOKENS, TOKEN_PX)
            sharp = tokens == max(views)
            known[pixels(view.image)] = Truth(sample.answers[0], box, pixels(crop.image), coin, sharp, *twin)  # type: ignore[arg-type]
    return known


def pixels(image: Image.Image) -> bytes:
    return image.convert("RGB").tobytes()


def data_url(image: Image.Image) -> str:
    """An image as a part of a message has it."""
    out = io.BytesIO()
    image.save(out, "png")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def image_of(part: Mapping[str, Any]) -> Image.Image:
    """The image of a part of a message."""
    return Image.open(io.BytesIO(base64.b64decode(part["image_url"]["url"].partition(",")[2]))).convert("RGB")


def images(messages: Sequence[Mapping[str, Any]]) -> list[bytes]:
    """The pixels of every image of a conversation, in order."""
    parts = [part for m in messages if not isinstance(m["content"], str) for part in m["content"] if part["type"] == "image_url"]
    return [pixels(image_of(part)) for part in parts]


def agent(
    known: Mapping[bytes, Truth], calls: Callable[[Truth], bool], answers: Callable[[Truth, bool], bool], believes: Callable[[Truth], bool]
) -> Agent:
    """An agent that calls once where `calls`, and is right where `answers`, which is told whether it sees its crop.

    Where `believes`, it gives the answer of the twin's crop if it is shown that.
    """

    def say(messages: Sequence[Mapping[str, Any]]) -> str:
        view, *crops = images(messages) or [b""]
        if view not in known:  # as the check of the view asks, without an image
            return "<answer>no idea</answer>"
        truth = known[view]
        if "<grounding>" in messages[0]["content"] and len(messages) == 2 and calls(truth):
            return f'<think>closer</think><grounding>{{"bbox_2d": {list(truth.box)}, "source": "original_image"}}</grounding>'
        if crops and crops[-1] == truth.twin_crop and believes(truth):
            return f"<answer>{truth.twin_answer}</answer>"
        right = answers(truth, bool(crops) and crops[-1] == truth.crop)
        return f"<answer>{truth.answer if right else 'no idea'}</answer>"

    return say


def speaking(agent: Agent) -> Callable[[dict[str, Any]], tuple[str, str, int]]:
    """The agent behind a `Server`, which stops before the text that ends a call."""
    lock = threading.Lock()

    def respond(request: dict[str, Any]) -> tuple[str, str, int]:
        with lock:
            text = agent(request["messages"])
        for stop in request.get("stop") or ():
            text = text.removesuffix(stop)
        return text, "stop", 5

    return respond


def conducts(known: Mapping[bytes, Truth]) -> dict[str, Agent]:
    """The agents by their conduct."""
    return {
        "looks": agent(known, lambda truth: True, lambda truth, sees: sees, lambda truth: True),
        "never looks": agent(known, lambda truth: False, lambda truth, sees: truth.coin, lambda truth: False),
        "looks when needed": agent(known, lambda truth: not truth.sharp, lambda truth, sees: sees or truth.sharp, lambda truth: True),
        "crops for show": agent(known, lambda truth: True, lambda truth, sees: truth.coin, lambda truth: False),
        "reads what it is shown": agent(known, lambda truth: False, lambda truth, sees: sees, lambda truth: True),
        "guesses": agent(known, lambda truth: True, lambda truth, sees: False, lambda truth: False),
        "believes some crops": agent(known, lambda truth: True, lambda truth, sees: True, lambda truth: truth.coin),
    }
