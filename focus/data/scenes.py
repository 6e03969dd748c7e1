"""The embedded data: signs in a scene, whose text is unreadable from afar and whose boxes are exact.

A scene is a pure function of (spec, split, index): laid out at once, drawn only when its pixels are asked for.
The question names one sign by what is visible from afar (colour, shape, place, relation to another); the answer is
its text, a few native pixels tall. B1 is the ink of the text, B2 the sign, B3 the board that holds it.

Training and evaluation share no photograph, no font, no word and no seed (`SPLITS`).
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from importlib.resources import files

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from focus.data.boxes import Box, intersection
from focus.data.original import Decoded, Original
from focus.data.sample import Sample

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
PLACES = {"left": (0, -1), "right": (0, 1), "top": (1, -1), "bottom": (1, 1)}
ASKS = ("colour", "shape", "place", "relation")


@dataclass(frozen=True)
class Split:
    """What only one side of the train/evaluation border may use."""

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
    """How a scene is made. Lengths are native pixels; `sign_side` is a share of the image's side.

    `letter_px` is the NOMINAL height of a digit, drawn from this range and lowered inside it where a text is too wide for its sign:
    hinting and digits other than 8 add up to 2 px. A number has fewer digits than `digits` where even the smallest letters are too
    wide.
    """

    side_px: int = 448
    signs: int = 2
    asks: tuple[str, ...] = ("colour",)
    words: bool = False
    digits: tuple[int, int] = (2, 2)
    letter_px: tuple[int, int] = (10, 16)
    sign_side: tuple[float, float] = (0.19, 0.32)
    clutter: int = 0


# One dial. Level 1 is what the embedded base policy learned; every step up adds one more thing to tell apart.
DIFFICULTY: dict[int, SceneSpec] = {
    1: SceneSpec(),
    2: SceneSpec(signs=3, asks=("colour", "place"), sign_side=(0.17, 0.27)),
    3: SceneSpec(signs=4, asks=("colour", "shape", "place"), digits=(2, 3), sign_side=(0.16, 0.23)),
    4: SceneSpec(signs=5, asks=ASKS, digits=(2, 4), words=True, sign_side=(0.13, 0.20), clutter=8),
    5: SceneSpec(signs=8, asks=ASKS, digits=(3, 5), words=True, sign_side=(0.09, 0.14), letter_px=(9, 14), clutter=24),
}


def scene_spec(difficulty: int, letter_px: Sequence[int] | None, side_px: int) -> SceneSpec:
    """How scenes are made: the dial's level, with other letters where they are given."""
    spec = replace(DIFFICULTY[difficulty], side_px=side_px)
    return replace(spec, letter_px=(letter_px[0], letter_px[1])) if letter_px else spec


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
    text_origin: tuple[float, float]  # where the drawing of the text starts
    text_px: Box  # B1, exactly the ink
    sign_px: Box  # B2
    board_px: Box  # B3

    @property
    def ink(self) -> tuple[int, int, int]:
        return DARK_INK if self.colour in ("yellow", "white") else LIGHT_INK


@dataclass(frozen=True)
class Scene:
    """A scene by its seed. Equal arguments give equal layouts and equal pixels."""

    spec: SceneSpec
    split: str
    index: int

    def _random(self, purpose: int) -> np.random.Generator:
        return np.random.default_rng([SPLITS[self.split].code, self.index, purpose])

    @cached_property
    def signs(self) -> tuple[Sign, ...]:
        """All signs of the scene. Raises ValueError if `spec` asks for more signs than fit, or for signs that no text fits."""
        random = self._random(0)
        for _ in range(200):
            boards = _scatter(random, self.spec)
            if len(boards) == self.spec.signs:
                colours = random.permutation(list(COLOURS))
                return tuple(
                    _sign(random, self.spec, SPLITS[self.split], board, str(colours[i % len(colours)])) for i, board in enumerate(boards)
                )
        raise ValueError(f"{self.spec.signs} signs of {self.spec.sign_side} of a side do not fit into a scene; lower data.difficulty")

    @cached_property
    def question(self) -> tuple[str, int]:
        """The question and the index of the sign that it names; no other sign fits the description.

        Raises ValueError if no description of the kinds in `spec.asks` fits one sign alone.
        """
        random = self._random(1)
        by_kind = {kind: _descriptions(kind, self.signs) for kind in self.spec.asks}
        kinds = [kind for kind, found in by_kind.items() if found]
        if not kinds:
            raise ValueError(
                f"no description by {' or '.join(self.spec.asks)} fits just one of the {len(self.signs)} signs of scene "
                f"{self.index}; add 'colour' or 'place' to SceneSpec.asks, or lower SceneSpec.signs"
            )
        found = by_kind[kinds[int(random.integers(len(kinds)))]]
        description, target = found[int(random.integers(len(found)))]
        return f"What is on the {description}?", target

    def sample(self) -> Sample:
        """The canonical record of this scene."""
        text, target = self.question
        sign = self.signs[target]
        return Sample(
            id=f"synthetic/{self.split}/{_fingerprint(self.spec)}/{self.index}",
            source="synthetic",
            split=self.split,
            image=self,
            width=self.spec.side_px,
            height=self.spec.side_px,
            question=text,
            answers=(sign.text,),
            scorer="exact",
            boxes=((sign.text_px, sign.sign_px, sign.board_px),),
            group=str(self.index),
        )

    @property
    def on_photograph(self) -> bool:
        """Whether the ground is somebody's photograph; a procedural one is ours to show anywhere."""
        return _is_photograph(self._random(2))

    def open(self) -> Original:
        """The scene, drawn now."""
        random = self._random(2)
        image = _ground(random, SPLITS[self.split], self.spec.side_px)
        draw = ImageDraw.Draw(image)
        for _ in range(self.spec.clutter):
            side = self.spec.side_px * random.uniform(0.02, 0.06)
            x, y = random.uniform(0, self.spec.side_px - side, 2)
            draw.rectangle((x, y, x + side, y + side), fill=tuple(int(v) for v in random.integers(40, 215, 3)))
        for sign in self.signs:
            _draw(draw, sign)
        return Decoded(image)


@lru_cache(maxsize=64)
def _fingerprint(spec: SceneSpec) -> str:
    """Scenes of one index but of different specs are different scenes, and so are their ids."""
    return hashlib.blake2b(repr(spec).encode(), digest_size=4).hexdigest()


class Scenes(Sequence[Sample]):
    """`count` scenes from `start` on, as a sequence of samples."""

    def __init__(self, spec: SceneSpec, split: str, count: int, start: int = 0) -> None:
        self.spec, self.split, self._count, self.start = spec, split, count, start

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index):
        if not 0 <= index < self._count:
            raise IndexError(index)
        return Scene(self.spec, self.split, self.start + index).sample()


def _scatter(random: np.random.Generator, spec: SceneSpec) -> list[Box]:
    """Boards that neither meet nor leave the image; fewer than asked for where the draw was unlucky."""
    boards: list[Box] = []
    for _ in range(40 * spec.signs):
        width, height = spec.side_px * random.uniform(*spec.sign_side, 2) * random.uniform(1.1, 1.3)
        x, y = random.uniform(2, spec.side_px - 2 - width), random.uniform(2, spec.side_px - 2 - height)
        board = (float(round(x)), float(round(y)), float(round(x + width)), float(round(y + height)))
        apart = spec.side_px * 0.02
        grown = (board[0] - apart, board[1] - apart, board[2] + apart, board[3] + apart)
        if all(_apart(grown, other) for other in boards):
            boards.append(board)
        if len(boards) == spec.signs:
            break
    return boards


def _apart(a: Box, b: Box) -> bool:
    x1, y1, x2, y2 = intersection(a, b)
    return x2 <= x1 or y2 <= y1


def _texts(random: np.random.Generator, spec: SceneSpec, split: Split) -> Iterator[str]:
    """Texts to try on one sign: twenty as the spec says, then numbers of ever fewer digits."""
    for _ in range(20):
        if spec.words and random.random() < 0.5:
            yield str(random.choice(split.words))
        else:
            yield _number(random, int(random.integers(spec.digits[0], spec.digits[1] + 1)))
    for digits in range(spec.digits[0] - 1, 0, -1):
        yield _number(random, digits)


def _number(random: np.random.Generator, digits: int) -> str:
    return str(int(random.integers(10 ** (digits - 1), 10**digits)))


def _sign(random: np.random.Generator, spec: SceneSpec, split: Split, board: Box, colour: str) -> Sign:
    margin = [round((board[2 + axis] - board[axis]) * random.uniform(0.05, 0.10)) + 1 for axis in (0, 1)]
    sign = (board[0] + margin[0], board[1] + margin[1], board[2] - margin[0], board[3] - margin[1])
    texts = _texts(random, spec, split)
    text, font = next(texts), str(random.choice(split.fonts))
    room = 0.62 * (sign[2] - sign[0])  # the widest text that lies inside every shape
    while _extent(text, font, spec.letter_px[0])[2] > room:
        text = next(texts, "")
    if not text:
        raise ValueError(f"no text of {spec.letter_px[0]} px letters fits on a sign {sign[2] - sign[0]:.0f} px wide; raise data.side_px")
    letter_px = int(random.integers(spec.letter_px[0], spec.letter_px[1] + 1))
    while _extent(text, font, letter_px)[2] > room:
        letter_px -= 1
    left, top, width, height = _extent(text, font, letter_px)
    centre_x = (sign[0] + sign[2]) / 2 + random.uniform(-0.05, 0.05) * (sign[2] - sign[0])
    centre_y = (sign[1] + sign[3]) / 2 + random.uniform(-0.10, 0.10) * (sign[3] - sign[1])
    x, y = float(round(centre_x - width / 2) - left), float(round(centre_y - height / 2) - top)
    ink = _ink(text, font, letter_px)
    tint = random.integers(-12, 13, 3)
    fill = tuple(int(np.clip(v + t, 0, 255)) for v, t in zip(COLOURS[colour], tint, strict=True))
    board_fill = tuple(int(v) for v in random.integers(95, 165) + random.integers(-18, 19, 3))
    return Sign(
        colour=colour,
        shape=str(random.choice(SHAPES)),
        text=text,
        font=font,
        letter_px=letter_px,
        fill=fill,
        board=board_fill,
        text_origin=(x, y),
        text_px=(x + ink[0], y + ink[1], x + ink[2], y + ink[3]),
        sign_px=sign,
        board_px=board,
    )


def _descriptions(kind: str, signs: Sequence[Sign]) -> list[tuple[str, int]]:
    """Every description of this kind that fits exactly one sign, with the index of that sign."""
    if kind in ("colour", "shape"):
        named = [getattr(sign, kind) for sign in signs]
        return [(f"{name} sign", i) for i, name in enumerate(named) if named.count(name) == 1]
    centres = [((s.sign_px[0] + s.sign_px[2]) / 2, (s.sign_px[1] + s.sign_px[3]) / 2) for s in signs]
    side = max(max(s.sign_px[2] - s.sign_px[0], s.sign_px[3] - s.sign_px[1]) for s in signs)
    if kind == "place":
        found = []
        for name, (axis, direction) in PLACES.items():
            order = sorted(range(len(signs)), key=lambda i: -direction * centres[i][axis])
            if len(order) == 1 or abs(centres[order[0]][axis] - centres[order[1]][axis]) > 0.4 * side:
                found.append((f"{name} sign", order[0]))
        return found
    found = []
    for anchor, sign in enumerate(signs):  # relation: the sign nearest to one that its colour names
        if [s.colour for s in signs].count(sign.colour) == 1 and len(signs) > 2:
            distance = {i: float(np.hypot(*np.subtract(centres[i], centres[anchor]))) for i in range(len(signs)) if i != anchor}
            near, second = sorted(distance, key=distance.__getitem__)[:2]
            if distance[second] - distance[near] > 0.4 * side:
                found.append((f"sign nearest to the {sign.colour} one", near))
    return found


@lru_cache(maxsize=512)
def _font(name: str, letter_px: int) -> ImageFont.FreeTypeFont:
    """A font whose digits are `letter_px` pixels tall."""
    path = files("matplotlib").joinpath("mpl-data/fonts/ttf").joinpath(name)
    font = ImageFont.truetype(str(path), 100)
    _, top, _, bottom = font.getbbox("8")
    return ImageFont.truetype(str(path), max(4, round(100 * letter_px / (bottom - top))))


@lru_cache(maxsize=65536)
def _extent(text: str, font: str, letter_px: int) -> tuple[int, int, int, int]:
    """Offset of the text from the drawing origin, and its width and height with the font's side bearings, in pixels."""
    x1, y1, x2, y2 = _font(font, letter_px).getbbox(text)
    return int(x1), int(y1), int(x2 - x1), int(y2 - y1)


@lru_cache(maxsize=65536)
def _ink(text: str, font: str, letter_px: int) -> Box:
    """The pixels that the text really marks, relative to the drawing origin."""
    mask, (left, top) = _font(font, letter_px).getmask2(text)
    x1, y1, x2, y2 = mask.getbbox()
    return (x1 + left, y1 + top, x2 + left, y2 + top)


def _draw(draw: ImageDraw.ImageDraw, sign: Sign) -> None:
    def inside(box: Box) -> tuple[float, float, float, float]:  # Pillow includes the right and bottom pixel
        return (box[0], box[1], box[2] - 1, box[3] - 1)

    draw.rectangle(inside(sign.board_px), fill=sign.board)
    x1, y1, x2, y2 = inside(sign.sign_px)
    if sign.shape == "round":
        draw.ellipse((x1, y1, x2, y2), fill=sign.fill)
    elif sign.shape == "diamond":
        draw.polygon([((x1 + x2) / 2, y1), (x2, (y1 + y2) / 2), ((x1 + x2) / 2, y2), (x1, (y1 + y2) / 2)], fill=sign.fill)
    else:
        draw.rectangle((x1, y1, x2, y2), fill=sign.fill)
    draw.text(sign.text_origin, sign.text, font=_font(sign.font, sign.letter_px), fill=sign.ink)


@lru_cache(maxsize=32)
def _photograph(place: str) -> Image.Image:
    package, path = place.split(":")
    with files(package).joinpath(path).open("rb") as file, Image.open(file) as image:
        return image.convert("RGB")


def _is_photograph(random: np.random.Generator) -> bool:
    """The first draw of a ground: photographs and procedural grounds in equal shares."""
    return bool(random.random() < 0.5)


def _ground(random: np.random.Generator, split: Split, side_px: int) -> Image.Image:
    """A square piece of a photograph, or a procedural ground, in equal shares; contrast lowered so that signs stand out."""
    if _is_photograph(random):
        photograph = _photograph(str(random.choice(split.photographs)))
        piece = random.uniform(0.5, 1.0) * min(photograph.size)
        x, y = random.uniform(0, photograph.width - piece), random.uniform(0, photograph.height - piece)
        ground = photograph.resize((side_px, side_px), Image.Resampling.BILINEAR, box=(x, y, x + piece, y + piece))
    else:
        cells = int(random.integers(2, 9))
        tone = random.uniform(50, 205, 3)
        noise = np.clip(tone + random.normal(0, random.uniform(5, 40), (cells, cells, 3)), 0, 255).astype(np.uint8)
        ground = Image.fromarray(noise).resize((side_px, side_px), Image.Resampling.BICUBIC)
    grey = Image.new("RGB", ground.size, (128, 128, 128))
    return Image.blend(ground, grey, float(random.uniform(0.1, 0.45)))
