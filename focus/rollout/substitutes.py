"""What a delivered crop may be replaced by (E10): the policy's own words stay, only what it is shown changes.

Each substitute takes the crop as it was cut, what was asked for, and the conversation before that turn, so that any number of crops is
replaced, each by its own. All are fixed by the trajectory's seed.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image

from focus.data.boxes import Box, area, intersection, settle
from focus.gap import View
from focus.rollout.loop import RolloutLimits, seed_of
from focus.rollout.trajectory import Alter, Crop, Trajectory

GREY = 128
TRIES = 64  # places that `elsewhere` chooses among


def _random(kind: str, before: Trajectory) -> np.random.Generator:
    return np.random.default_rng(seed_of(kind, before.seed, len(before.turns)))


def _pixels(crop: View, values: np.ndarray) -> View:
    return View(Image.fromarray(values.astype(np.uint8)), crop.tokens, crop.original_size)


def noise(crop: View, asked: Crop, before: Trajectory) -> View:
    """Uniform RGB noise in every pixel, of the crop's size: the paper's probe."""
    return _pixels(crop, _random("noise", before).integers(0, 256, (crop.size[1], crop.size[0], 3)))


def blank(crop: View, asked: Crop, before: Trajectory) -> View:
    """Mid-grey, of the crop's size."""
    return _pixels(crop, np.full((crop.size[1], crop.size[0], 3), GREY))


def mean_colour(crop: View, asked: Crop, before: Trajectory) -> View:
    """The crop's own mean colour, of the crop's size."""
    values = np.asarray(crop.image.convert("RGB"), dtype=np.float64)
    return _pixels(crop, np.broadcast_to(values.mean((0, 1)).round(), values.shape))


def additive(sigma: float) -> Alter:
    """The crop plus Gaussian noise of `sigma` (of 255), clipped: the probe as the paper's conference abstract words it."""

    def noisy(crop: View, asked: Crop, before: Trajectory) -> View:
        values = np.asarray(crop.image.convert("RGB"), dtype=np.float64)
        return _pixels(crop, (values + _random("additive", before).normal(0, sigma, values.shape)).clip(0, 255).round())

    return noisy


def annotated(limits: RolloutLimits, token_px: int) -> Alter:
    """The crop of B1, cut and sized like any other; with several targets the n-th crop shows the n-th one, then the first again."""

    def evidence(crop: View, asked: Crop, before: Trajectory) -> View:
        targets = before.sample.boxes
        box_px = settle(targets[len(before.crops) % len(targets)][0], before.sample.size, token_px)
        assert box_px is not None, before.sample.id  # annotated boxes lie inside the image
        return limits.cut(before, box_px, token_px)

    return evidence


def elsewhere(limits: RolloutLimits, token_px: int, draw: int = 0) -> Alter:
    """A crop of the asked size from another place: of some random ones, the one that shows least of the asked box and of every B1.

    A box as large as the image has no elsewhere and stays what it is. `draw` tells several of them apart.
    """

    def other(crop: View, asked: Crop, before: Trajectory) -> View:
        return limits.cut(before, _away(asked.box_px, before, draw), token_px)

    return other


def _away(box_px: Box, before: Trajectory, draw: int) -> Box:
    width, height = box_px[2] - box_px[0], box_px[3] - box_px[1]
    random = _random(f"elsewhere {draw}", before)
    left = random.integers(0, int(before.sample.width - width) + 1, TRIES)
    top = random.integers(0, int(before.sample.height - height) + 1, TRIES)
    avoided = [box_px, *(chain[0] for chain in before.sample.boxes)]

    def shown(place: Box) -> float:
        return sum(area(intersection(place, box)) / area(box) for box in avoided)

    return min(((float(x), float(y), x + width, y + height) for x, y in zip(left, top, strict=True)), key=shown)


def nothing(crop: View, asked: Crop, before: Trajectory) -> None:
    """No image at all: the tool says that it is unavailable (the format of a call without its use)."""


SUBSTITUTES: dict[str, Callable[[RolloutLimits, int, float], Alter]] = {
    "gt": lambda limits, token_px, sigma: annotated(limits, token_px),
    "noise": lambda limits, token_px, sigma: noise,
    "blank": lambda limits, token_px, sigma: blank,
    "mean_colour": lambda limits, token_px, sigma: mean_colour,
    "elsewhere": lambda limits, token_px, sigma: elsewhere(limits, token_px),
    "additive": lambda limits, token_px, sigma: additive(sigma),
    "format_only": lambda limits, token_px, sigma: nothing,
}
