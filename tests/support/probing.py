"""Questions, policies and crops made by hand for tests of the probe, with every metric worked out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from focus.data.boxes import Box, Frame, to_view
from focus.data.images.original import Decoded
from focus.data.sample import Sample
from focus.evaluation.arms import Evaluator
from focus.evaluation.measure import measure
from focus.evaluation.outcome import (
    ARMS,
    SAYS,
    Outcome,
)
from focus.gap import Gap, Mode, View
from focus.model.policy_model import PolicyModel
from focus.model.prompts import ANSWER_OPEN, CALL_OPEN, call_text
from focus.rollout.engine import Completion, Sampling
from focus.rollout.loop import RolloutLimits
from focus.rollout.substitutes import additive, blank, mean_colour, noise
from focus.rollout.trajectory import Crop, Trajectory
from tests.support.scripted import call

NAN = math.nan
TOKEN_PX = 28
BLUE = "<answer>blue</answer><|im_end|>"
OUTSIDE = call(1100, 1100, 1200, 1200)
LIMITS = RolloutLimits(1, 64, Sampling(1.0, 60))
SIDE = 224  # of hand-made images: 28 px are 125 per mille, so a box of whole tokens can be spoken exactly
RED, BLUE_INK, GROUND = (200, 40, 60), (50, 60, 210), (90, 90, 90)  # no value at an end, where noise is clipped
B1: Box = (28.0, 28.0, 56.0, 56.0)  # left half red, right half blue
OFF: Box = (140.0, 140.0, 168.0, 168.0)  # shows nothing but ground


@dataclass(frozen=True)
class Drawn:
    """An image that a test has made."""

    image: Image.Image

    def open(self) -> Decoded:
        return Decoded(self.image)


def picture(evidence: Sequence[Box] = (B1,), side: int = SIDE) -> Image.Image:
    image = Image.new("RGB", (side, side), GROUND)
    for x1, y1, x2, y2 in evidence:
        image.paste(RED, (int(x1), int(y1), int(x1 + x2) // 2, int(y2)))
        image.paste(BLUE_INK, (int(x1 + x2) // 2, int(y1), int(x2), int(y2)))
    return image


def asked_about(number: int, boxes: tuple[tuple[Box, ...], ...] = ((B1,),), image: object = None, side: int = SIDE) -> Sample:
    return Sample(
        id=f"made/{number}",
        source="made",
        split="eval",
        image=image or Drawn(picture(side=side)),
        width=side,
        height=side,
        question=f"What is on sign {number}?",
        answers=("42",),
        boxes=boxes,
        group=f"image {number}",
    )


def before(sample: Sample, seed: int = 0, source: Image.Image | None = None) -> Trajectory:
    """A conversation of which nothing has been spoken yet."""
    view = View(Image.new("RGB", (112, 112)), 16, sample.size)
    return Trajectory(sample=sample, source=Decoded(source or Image.new("RGB", sample.size)), view=view, prompt_ids=(1, 2, 3), seed=seed)


def view_of(values: np.ndarray, tokens: int = 6) -> View:
    return View(Image.fromarray(values.astype(np.uint8)), tokens, (448, 448))


def pixels(view: View) -> np.ndarray:
    return np.asarray(view.image)


def random_crop(seed: int = 0) -> View:
    """84 x 56 px: 3 x 2 tokens."""
    return view_of(np.random.default_rng(seed).integers(0, 256, (56, 84, 3)))


ASKED = Crop((0, 0, 84, 56), (0.0, 0.0, 84.0, 56.0))
IN_PLACE = {"noise": noise, "blank": blank, "mean_colour": mean_colour, "additive": additive(64.0)}


@dataclass(frozen=True)
class Mind:
    """How a policy treats one question. It reads 42 off a crop that shows both red and blue."""

    box_px: Box
    guess: str = "7"  # without any crop
    blind: str = "8"  # after a crop that does not show it; empty: it says nothing that could be read
    calls: bool = True


class Minded:
    """An engine that has a mind for every question number, and looks at the last image it is shown."""

    def __init__(self, policy: PolicyModel, minds: Sequence[Mind]) -> None:
        self.policy, self.minds = policy, minds

    def generate(self, requests, sampling):
        decode = self.policy.tokenizer.decode
        for c in requests:
            number = int(decode(c.ids[: c.prompt_tokens]).split("on sign ")[1].split("?")[0])
            text = self._says(self.minds[number], decode(c.ids[c.prompt_tokens :]), c.images)
            ids = tuple(self.policy.tokenizer.encode(text, add_special_tokens=False))
            yield c, Completion(ids, (-0.5,) * len(ids), True)

    def _says(self, mind: Mind, said: str, images: Sequence[Image.Image]) -> str:
        if said == ANSWER_OPEN or (not said and not mind.calls):
            return f"{ANSWER_OPEN}{mind.guess}</answer><|im_end|>".removeprefix(said)
        if said in ("", CALL_OPEN):
            box_view = to_view(mind.box_px, Frame.PER_MILLE, (112, 112), (SIDE, SIDE))
            return call_text(box_view).removeprefix(said)
        seen = {colour for _, colour in images[-1].getcolors(10**6)} if len(images) > 1 else set()
        answer = "42" if {RED, BLUE_INK} <= seen else mind.blind
        return f"{ANSWER_OPEN}{answer}</answer><|im_end|>" if answer else "what a sign<|im_end|>"

    shares_weights = False

    def clear_cache(self) -> None:
        pass

    def sleep(self) -> None:
        pass

    def sync_weights(self) -> None:
        pass


def measured(
    policy: PolicyModel,
    engine,
    samples: Sequence[Sample],
    arms: Sequence[str] = ARMS,
    per_forward: int = 50,
    limits: RolloutLimits = LIMITS,
    sigma: float = 64.0,
) -> tuple[Outcome, list[Trajectory]]:
    gap = Gap(Mode.FIXED, 16, policy.token_px)
    return measure(Evaluator(policy, engine, gap, limits, 0, arms, per_forward, sigma), samples, None)


# Seven questions by hand, all with the answer 42
MINDS = (
    Mind(B1),  # 0 looks and reads
    Mind(OFF, guess="8"),  # 1 looks past it, and would have said the same before
    Mind(B1, guess="42", blind="42"),  # 2 knows it anyway
    Mind(OFF, guess="42"),  # 3 knows it, looks past it and is talked out of it
    Mind(OFF, guess="42", calls=False),  # 4 answers at once; forced to look, it is wrong
    Mind(B1),  # 5 looks and reads, but nobody has annotated where
    Mind(OFF, blind=""),  # 6 says nothing that could be read, unless it sees it
)
MADE = [asked_about(n, boxes=() if n == 5 else ((B1,),)) for n in range(7)]
BLINDED = [0, 0, 1, 0, 1, 0, 0]
BY_HAND = {
    "own": [1, 0, 1, 0, 1, 1, 0],
    "gt": [1, 1, 1, 1, 1, NAN, 1],
    **dict.fromkeys(("noise", "blank", "mean_colour", "elsewhere", "additive", "format_only"), BLINDED),
    "tool_free": [0, 0, 1, 1, 1, 0, 0],
    "forced": [1, 0, 1, 0, 0, 1, 0],
    "called": [1, 1, 1, 1, 0, 1, 1],
    "answered": [1, 1, 1, 1, 1, 1, 0],
    "agrees": [0, 1, 1, 0, 1, 0, 0],
    "gain": [1, 0, 0, 0, 0, 1, 0],
    "harm": [0, 0, 0, 1, 0, 0, 0],
    "coverage": [1, 0, 1, 0, NAN, NAN, 0],
    "iou": [1, 0, 1, 0, NAN, NAN, 0],
    "l1": [1, 0.5, 1, 0.5, NAN, NAN, 0.5],  # 112 of 224 px away on all four sides
    "hit": [1, 0, 1, 0, NAN, NAN, 0],
    "chance": [13 / 197**2] * 4 + [NAN, NAN] + [13 / 197**2],  # a crop of 28 of 224 px at 197 x 197 places: see test_hits.py
    "reads": [1, NAN, 1, NAN, NAN, NAN, NAN],
    "reliance": [1, 1, 0, 1, NAN, NAN, 1],
    **dict.fromkeys(SAYS, [NAN] * 7),  # their images have no twin
    "area": [1 / 64, 1 / 64, 1 / 64, 1 / 64, NAN, 1 / 64, 1 / 64],
    "visual_tokens": [17, 17, 17, 17, 16, 17, 17],
}


def seven(policy: PolicyModel) -> Outcome:
    """The outcome of the questions made by hand."""
    return measured(policy, Minded(policy, MINDS), MADE)[0]
