"""Substitutes for a crop (E10). The sampled turns stay, only the pixels of the crop change.

A substitute takes the crop, the call and the trajectory before that turn, so it can replace every
crop of a rollout. Its randomness comes from the trajectory's seed.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from focus.data.boxes import Box, area, intersection, settle
from focus.data.drawn import twin_of
from focus.data.images.original import Decoded
from focus.gap import View
from focus.rollout.loop import RolloutLimits, seed_of
from focus.rollout.trajectory import Alter, Crop, Trajectory

GREY = 128
CANDIDATES = 64  # random boxes that `elsewhere` chooses from


def _generator(kind: str, before: Trajectory) -> np.random.Generator:
    return np.random.default_rng(seed_of(kind, before.seed, len(before.turns)))


def _with_pixels(crop: View, values: np.ndarray) -> View:
    return View(Image.fromarray(values.astype(np.uint8)), crop.tokens, crop.original_size)


def noise(crop: View, call: Crop, before: Trajectory) -> View:
    """Uniform RGB noise of the crop's size: the paper's probe."""
    return _with_pixels(crop, _generator("noise", before).integers(0, 256, (crop.size[1], crop.size[0], 3)))


def only(number: int, alter: Alter) -> Alter:
    """`alter` for one crop of a conversation, counted from 0; all others stay as they are."""

    def one(crop: View, call: Crop, before: Trajectory) -> View | None:
        return alter(crop, call, before) if len(before.crops) == number else crop

    return one


def blank(crop: View, call: Crop, before: Trajectory) -> View:
    """Mid-grey, of the crop's size."""
    return _with_pixels(crop, np.full((crop.size[1], crop.size[0], 3), GREY))


def mean_colour(crop: View, call: Crop, before: Trajectory) -> View:
    """The crop's own mean colour, of the crop's size."""
    values = np.asarray(crop.image.convert("RGB"), dtype=np.float64)
    return _with_pixels(crop, np.broadcast_to(values.mean((0, 1)).round(), values.shape))


def additive(sigma: float) -> Alter:
    """The crop plus Gaussian noise of standard deviation `sigma` (pixel values 0 to 255), clipped.

    This is the probe as the paper's conference abstract describes it.
    """

    def noisy(crop: View, call: Crop, before: Trajectory) -> View:
        values = np.asarray(crop.image.convert("RGB"), dtype=np.float64)
        return _with_pixels(crop, (values + _generator("additive", before).normal(0, sigma, values.shape)).clip(0, 255).round())

    return noisy


def annotated(limits: RolloutLimits, token_px: int) -> Alter:
    """The crop of the annotated box B1, cut and resized as any crop.

    With several targets crop n shows target n, cyclically.
    """

    def evidence(crop: View, call: Crop, before: Trajectory) -> View:
        targets = before.sample.boxes
        box_px = settle(targets[len(before.crops) % len(targets)][0], before.sample.size, token_px)
        assert box_px is not None, before.sample.id  # annotated boxes lie inside the image
        return limits.cut(before, box_px, token_px)

    return evidence


def elsewhere(limits: RolloutLimits, token_px: int, draw: int = 0, avoid_targets: bool = True) -> Alter:
    """A crop of the same size from another region: the random box that overlaps least with the
    called box and, with `avoid_targets`, every B1.

    A box as large as the image is returned unchanged. Different values of `draw` give different
    boxes.
    """

    def other(crop: View, call: Crop, before: Trajectory) -> View:
        avoided = [call.box_px, *(chain[0] for chain in before.sample.boxes if avoid_targets)]
        return limits.cut(before, _distant_box(call.box_px, avoided, before, draw), token_px)

    return other


def _distant_box(box_px: Box, avoided: Sequence[Box], before: Trajectory, draw: int) -> Box:
    width, height = box_px[2] - box_px[0], box_px[3] - box_px[1]
    generator = _generator(f"elsewhere {draw}", before)
    left = generator.integers(0, int(before.sample.width - width) + 1, CANDIDATES)
    top = generator.integers(0, int(before.sample.height - height) + 1, CANDIDATES)

    def overlap(candidate: Box) -> float:
        return sum(area(intersection(candidate, box)) / area(box) for box in avoided)

    return min(((float(x), float(y), x + width, y + height) for x, y in zip(left, top, strict=True)), key=overlap)


def conflict(limits: RolloutLimits, token_px: int) -> Alter:
    """The same crop of the image's twin, which shows another answer: the crop contradicts the view.

    A crop that shows nothing of the asked text is the same crop. The image must have a twin (`twin_of`).
    """

    def other(crop: View, call: Crop, before: Trajectory) -> View:
        twin = twin_of(before.sample)
        assert twin is not None, before.sample.id  # the arm is not played without one
        source = twin.open()
        if before.source.size != source.size:  # with gap=off crops are cut from the view
            source = Decoded(source.reduced(before.source.size))
        return limits.cut(replace(before, source=source), call.box_px, token_px)

    return other


def nothing(crop: View, call: Crop, before: Trajectory) -> None:
    """No image: the tool replies that it is unavailable.

    Keeps the format of a call without its benefit.
    """


SUBSTITUTES: dict[str, Callable[[RolloutLimits, int, float], Alter]] = {
    "gt": lambda limits, token_px, sigma: annotated(limits, token_px),
    "noise": lambda limits, token_px, sigma: noise,
    "noise_first": lambda limits, token_px, sigma: only(0, noise),
    "noise_second": lambda limits, token_px, sigma: only(1, noise),
    "blank": lambda limits, token_px, sigma: blank,
    "mean_colour": lambda limits, token_px, sigma: mean_colour,
    "elsewhere": lambda limits, token_px, sigma: elsewhere(limits, token_px),
    "additive": lambda limits, token_px, sigma: additive(sigma),
    "conflict": lambda limits, token_px, sigma: conflict(limits, token_px),
    "format_only": lambda limits, token_px, sigma: nothing,
}
