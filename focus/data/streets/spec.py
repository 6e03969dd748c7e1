"""The parts of streets: levels of difficulty, fonts of each split, and signs."""

from collections.abc import Sequence
from dataclasses import dataclass

from focus.data.boxes import Box
from focus.data.drawn import sized
from focus.data.scenes.spec import SPLITS

Colour = tuple[int, ...]  # red, green, blue
Point = tuple[float, float]

FONTS = {
    "train": (
        *SPLITS["train"].fonts,
        "DejaVuSansMono-Oblique.ttf",
        "DejaVuSerif-BoldItalic.ttf",
        "STIXGeneral.ttf",
        "STIXGeneralBolIta.ttf",
        "STIXGeneralItalic.ttf",
        "cmr10.ttf",
        "cmti10.ttf",
    ),
    "eval": SPLITS["eval"].fonts,
}


@dataclass(frozen=True)
class StreetSpec:
    """How a street is made. Lengths are native pixels; `sign_side` is a share of the image's side, for the root of a sign's area.

    `letter_px` is the range of the nominal height of a digit. Ranges include both ends.
    """

    side_px: int = 896
    signs: tuple[int, int] = (2, 3)
    asks: tuple[str, ...] = ("colour",)
    digits: tuple[int, int] = (1, 4)
    letter_px: tuple[int, int] = (10, 18)
    sign_side: tuple[float, float] = (0.09, 0.22)
    clutter: tuple[int, int] = (0, 12)


# Level 1 is what an embedded policy can learn; every level adds a distinction to make.
DIFFICULTY: dict[int, StreetSpec] = {
    1: StreetSpec(),
    2: StreetSpec(signs=(2, 4), asks=("colour", "place")),
    3: StreetSpec(signs=(3, 5), asks=("colour", "place", "relation"), sign_side=(0.08, 0.18)),
    4: StreetSpec(signs=(4, 7), asks=("colour", "place", "relation"), letter_px=(9, 14), sign_side=(0.07, 0.15), clutter=(4, 20)),
    5: StreetSpec(
        signs=(6, 9), asks=("colour", "place", "relation"), digits=(2, 5), letter_px=(8, 12), sign_side=(0.06, 0.12), clutter=(10, 40)
    ),
}


def street_spec(difficulty: int, letter_px: Sequence[int] | None, side_px: int) -> StreetSpec:
    """The spec of a level of difficulty, with `letter_px` and `side_px` replaced."""
    return sized(DIFFICULTY[difficulty], letter_px, side_px)


@dataclass(frozen=True)
class Type:
    """How a number is set. `stretch` is the width over that of the font, `turn` the rotation in degrees against the clock."""

    font: str
    letter_px: int
    stretch: float
    turn: int


@dataclass(frozen=True)
class Area:
    """A filled polygon in pixels of the original, with a frame of `frame_px` pixels; 0 = none."""

    points: tuple[Point, ...]
    fill: Colour
    frame: Colour = (0, 0, 0)
    frame_px: int = 0


@dataclass(frozen=True)
class StreetSign:
    """One sign; boxes in pixels of the original."""

    colour: str
    text: str
    type: Type
    ink: Colour
    areas: tuple[Area, ...]  # in the order of drawing: shadow, post, body, stripe, label
    centre: Point  # of the number
    text_px: Box  # B1, exactly the ink
    label_px: Box  # B2
    sign_px: Box  # B3
