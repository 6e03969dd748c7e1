"""The parts of scenes: colours, shapes, levels of difficulty, and the material of each split."""

from collections.abc import Sequence
from dataclasses import dataclass

from focus.data.boxes import Box
from focus.data.drawn import sized

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (205, 35, 40),
    "green": (30, 140, 60),
    "blue": (35, 80, 200),
    "yellow": (240, 205, 40),
    "white": (240, 240, 240),
    "black": (25, 25, 28),
}
DARK_INK, LIGHT_INK = (15, 15, 15), (250, 250, 250)
SHAPES = ("square", "round", "diamond")
ASKS = ("colour", "shape", "place", "relation")


@dataclass(frozen=True)
class Split:
    """The material that only one split, training or evaluation, may use."""

    code: int
    photographs: tuple[str, ...]  # package:path inside the package
    fonts: tuple[str, ...]  # files of matplotlib's font folder
    words: tuple[str, ...]


SPLITS = {
    "train": Split(
        code=1,
        photographs=(
            "skimage:data/astronaut.png",
            "skimage:data/coffee.png",
            "skimage:data/brick.png",
            "skimage:data/grass.png",
            "skimage:data/motorcycle_left.png",
            "skimage:data/rocket.jpg",
            "skimage:data/hubble_deep_field.jpg",
            "sklearn:datasets/images/flower.jpg",
        ),
        fonts=(
            "DejaVuSans.ttf",
            "DejaVuSans-Bold.ttf",
            "DejaVuSans-Oblique.ttf",
            "DejaVuSansMono.ttf",
            "DejaVuSerif-Bold.ttf",
            "STIXGeneralBol.ttf",
            "cmss10.ttf",
            "cmb10.ttf",
        ),
        words=(
            "bread",
            "river",
            "north",
            "garden",
            "market",
            "silver",
            "castle",
            "window",
            "oyster",
            "winter",
            "music",
            "harbour",
            "museum",
            "bridge",
            "candle",
            "forest",
            "island",
            "kitchen",
            "ladder",
            "mirror",
            "needle",
            "ocean",
            "pepper",
            "rabbit",
            "saddle",
            "temple",
            "valley",
            "wagon",
            "velvet",
            "anchor",
            "basket",
            "copper",
        ),
    ),
    "eval": Split(
        code=2,
        photographs=(
            "skimage:data/chelsea.png",
            "skimage:data/gravel.png",
            "sklearn:datasets/images/china.jpg",
            "matplotlib:mpl-data/sample_data/grace_hopper.jpg",
        ),
        fonts=("DejaVuSansMono-Bold.ttf", "DejaVuSerif.ttf", "DejaVuSans-BoldOblique.ttf", "cmtt10.ttf"),
        words=(
            "south",
            "station",
            "flower",
            "doctor",
            "butter",
            "summer",
            "planet",
            "school",
            "ticket",
            "engine",
            "feather",
            "hotel",
            "jacket",
            "lemon",
            "office",
            "pillow",
        ),
    ),
}


@dataclass(frozen=True)
class SceneSpec:
    """How a scene is made.

    Lengths are native pixels; `sign_side` is a share of the image's side.

    `letter_px` is the range of the NOMINAL height of a digit; hinting and digits other than 8 add
    up to 2 px. The drawn height is lowered inside the range if a text is too wide for its sign. A
    number has fewer digits than `digits` if even the smallest letters are too wide.
    """

    side_px: int = 448
    signs: int = 2
    asks: tuple[str, ...] = ("colour",)
    words: bool = False
    digits: tuple[int, int] = (2, 2)
    letter_px: tuple[int, int] = (10, 16)
    sign_side: tuple[float, float] = (0.19, 0.32)
    clutter: int = 0


# Level 1 is what the embedded base policy was trained on; every level adds a distinction to make.
DIFFICULTY: dict[int, SceneSpec] = {
    1: SceneSpec(),
    2: SceneSpec(signs=3, asks=("colour", "place"), sign_side=(0.17, 0.27)),
    3: SceneSpec(signs=4, asks=("colour", "shape", "place"), digits=(2, 3), sign_side=(0.16, 0.23)),
    4: SceneSpec(signs=5, asks=ASKS, digits=(2, 4), words=True, sign_side=(0.13, 0.20), clutter=8),
    5: SceneSpec(signs=8, asks=ASKS, digits=(3, 5), words=True, sign_side=(0.09, 0.14), letter_px=(9, 14), clutter=24),
}


def scene_spec(difficulty: int, letter_px: Sequence[int] | None, side_px: int) -> SceneSpec:
    """The spec of a level of difficulty, with `letter_px` and `side_px` replaced."""
    return sized(DIFFICULTY[difficulty], letter_px, side_px)


@dataclass(frozen=True)
class Sign:
    """One sign of a scene; boxes in pixels of the original."""

    colour: str
    shape: str
    text: str
    font: str
    letter_px: int
    fill: tuple[int, ...]  # red, green, blue
    board: tuple[int, ...]
    text_origin: tuple[float, float]  # where drawing of the text starts
    text_px: Box  # B1, exactly the ink
    sign_px: Box  # B2
    board_px: Box  # B3

    @property
    def ink(self) -> tuple[int, int, int]:
        return DARK_INK if self.colour in ("yellow", "white") else LIGHT_INK
