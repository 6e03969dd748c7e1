"""Lays out the signs of a street; nothing is drawn here."""

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from focus.data.boxes import Box, intersection
from focus.data.scenes.drawing import load_font
from focus.data.scenes.layout import are_apart, number
from focus.data.scenes.spec import COLOURS
from focus.data.streets.drawing import text_box
from focus.data.streets.spec import Area, Colour, Point, StreetSign, StreetSpec, Type

TRIES = 400
AIR_PX = 3.0  # least distance of a number from the edge of its label
ROUND = tuple((0.5 + 0.5 * float(np.cos(a)), 0.5 + 0.5 * float(np.sin(a))) for a in np.linspace(0, 2 * np.pi, 24, endpoint=False))
FORMS: tuple[tuple[Point, ...], ...] = (  # in a square of side 1
    ((0, 0), (1, 0), (1, 1), (0, 1)),
    ((0, 0), (1, 0), (1, 1), (0, 1)),  # twice: most signs are oblong
    ROUND,
    ((0.5, 0), (1, 0.5), (0.5, 1), (0, 0.5)),
    ((0.5, 0), (1, 1), (0, 1)),
    ((0, 0), (1, 0), (0.5, 1)),
    ((0, 0), (0.75, 0), (1, 0.5), (0.75, 1), (0, 1)),
    ((0.25, 0), (1, 0), (1, 1), (0.25, 1), (0, 0.5)),
    ((0.3, 0), (0.7, 0), (1, 0.3), (1, 0.7), (0.7, 1), (0.3, 1), (0, 0.7), (0, 0.3)),
    ((0.25, 0), (0.75, 0), (1, 0.5), (0.75, 1), (0.25, 1), (0, 0.5)),
    ((0.5, 0), (1, 0.35), (1, 1), (0, 1), (0, 0.35)),
    ((0, 0), (1, 0), (0.8, 0.5), (1, 1), (0, 1)),
    ((0, 0), (1, 0), (1, 0.6), (0.5, 1), (0, 0.6)),
    ((0.15, 0), (1, 0), (0.85, 1), (0, 1)),
    ((0.3, 0), (0.7, 0), (0.7, 0.3), (1, 0.3), (1, 0.7), (0.7, 0.7), (0.7, 1), (0.3, 1), (0.3, 0.7), (0, 0.7), (0, 0.3), (0.3, 0.3)),
)  # fmt: skip


def place_signs(random: np.random.Generator, spec: StreetSpec, fonts: Sequence[str]) -> tuple[StreetSign, ...]:
    """Signs inside the image that do not touch, each with a number of its own. Raises ValueError if they do not fit."""
    count = int(random.integers(spec.signs[0], spec.signs[1] + 1))
    colours = random.permutation(list(COLOURS))
    signs: list[StreetSign] = []
    for _ in range(TRIES * count):
        if len(signs) == count:
            return tuple(signs)
        sign = _sign(random, spec, fonts, str(colours[len(signs) % len(colours)]), {sign.text for sign in signs})
        if sign is not None and _inside(sign.sign_px, spec.side_px) and all(_clear(sign.sign_px, other.sign_px) for other in signs):
            signs.append(sign)
    raise ValueError(
        f"{count} signs of {spec.sign_side} of a side with letters of {spec.letter_px} px do not fit into {spec.side_px} px; "
        "raise data.side_px, or lower data.difficulty or data.letter_px"
    )


def _inside(box: Box, side_px: int) -> bool:
    return min(box[:2]) >= 2 and max(box[2:]) <= side_px - 2


def _clear(a: Box, b: Box) -> bool:
    return are_apart((a[0] - 12, a[1] - 12, a[2] + 12, a[3] + 12), b)


def _sign(random: np.random.Generator, spec: StreetSpec, fonts: Sequence[str], colour: str, taken: Collection[str]) -> StreetSign | None:
    """A sign somewhere in the image; None if this draw has no room for its label."""
    side, aspect = spec.side_px * float(np.exp(random.uniform(*np.log(spec.sign_side)))), float(np.exp(random.uniform(-0.4, 0.4)))
    size = np.array([side * aspect, side / aspect])
    form = (np.asarray(FORMS[int(random.integers(len(FORMS)))]) - 0.5) * size
    text = number(random, int(random.integers(spec.digits[0], spec.digits[1] + 1)))
    type_ = Type(
        font=str(random.choice(fonts)),
        letter_px=int(random.integers(spec.letter_px[0], spec.letter_px[1] + 1)),
        stretch=float(random.choice((1.0, 1.0, 0.8, 0.9, 1.15, 1.3))),
        turn=int(random.integers(-14, 15)) if random.random() < 0.5 else 0,
    )
    slot = _slot(len(text), type_)
    label = slot * random.uniform(1.0, (2.4, 2.2)) + 2 * AIR_PX + random.uniform(0, 8, 2)
    middle = _off_centre(random, form, size, label)
    if text in taken or middle is None:
        return None
    frame = _Frame(random.uniform(0, spec.side_px, 2), type_.turn)
    body, ink, fill = _fills(random, colour)
    outline, plate = frame.placed(form), frame.oblong(middle, label)
    extras = _extras(random, frame, size)
    if random.random() < 0.3:
        extras.insert(0, Area(tuple((x + 4, y + 5) for x, y in outline), _near((40, 40, 40), random, 20)))  # a shadow
    extras.append(Area(outline, body, _near(body, random, 90), int(random.integers(2, 6)) if random.random() < 0.4 else 0))
    if random.random() < 0.3:  # a bar in a like tone
        extras.append(
            Area(frame.oblong(random.uniform(-0.15, 0.15, 2) * size, size * random.uniform(0.1, 0.5, 2)), _near(body, random, 25))
        )
    extras.append(Area(plate, fill, ink, int(random.integers(1, 3)) if fill == body or random.random() < 0.4 else 0))
    (centre,) = frame.placed([middle + (random.beta(0.6, 0.6, 2) - 0.5) * (label - slot - 2 * AIR_PX)])  # mostly near an edge
    sign = StreetSign(
        colour=colour,
        text=text,
        type=type_,
        ink=ink,
        areas=tuple(extras),
        centre=centre,
        text_px=text_box(text, type_, centre),
        label_px=_around(plate),
        sign_px=_around([*outline, *plate]),
    )
    return sign if _carries(sign, text) else None


class _Frame:
    """Turns and moves points of a sign, whose origin is its centre, to pixels of the original. `turn`: degrees against the clock."""

    def __init__(self, centre: np.ndarray, turn: int) -> None:
        cos, sin = np.cos(np.radians(turn)), np.sin(np.radians(turn))
        self.centre, self.matrix = centre, np.array([[cos, -sin], [sin, cos]])

    def placed(self, points: Sequence[Sequence[float]] | np.ndarray) -> tuple[Point, ...]:
        return tuple((float(x), float(y)) for x, y in np.asarray(points) @ self.matrix + self.centre)

    def oblong(self, middle: np.ndarray, size: np.ndarray) -> tuple[Point, ...]:
        return self.placed(middle + _CORNERS * size)


_CORNERS = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])


def _slot(digits: int, type_: Type) -> np.ndarray:
    """Width and height that a number of so many digits needs, before it is turned."""
    boxes = [load_font(type_.font, type_.letter_px).getbbox(digit * digits) for digit in "04"]
    return np.array([type_.stretch * max(x2 - x1 for x1, _, x2, _ in boxes), max(y2 - y1 for _, y1, _, y2 in boxes)])


def _off_centre(random: np.random.Generator, form: np.ndarray, size: np.ndarray, label: np.ndarray) -> np.ndarray | None:
    """The middle of a label beside the centre of its sign: all of it on the sign, or one in six over its edge. None if no draw fits."""
    middles = random.uniform(-0.5, 0.5, (8, 2)) * size
    over = random.random() < 1 / 6
    points = middles[:, None] if over else middles[:, None] + _CORNERS * label
    fits = _are_within(points, form).all(axis=1) & (np.abs(middles / size).max(axis=1) > 0.12)
    return middles[fits.argmax()] if fits.any() else None


def _are_within(points: np.ndarray, form: np.ndarray) -> np.ndarray:
    """Whether a ray from a point to the right crosses the outline an odd number of times, for points [..., 2]."""
    (x, y), (x1, y1), (x2, y2) = np.moveaxis(points, -1, 0)[..., None], form.T, np.roll(form, -1, axis=0).T
    crossed = (y1 > y) != (y2 > y)
    return (crossed & (x < x1 + (y - y1) * (x2 - x1) / np.where(crossed, y2 - y1, 1))).sum(axis=-1) % 2 == 1


def _fills(random: np.random.Generator, colour: str) -> tuple[Colour, Colour, Colour]:
    """Colours of a sign, of its ink and of its label, which is light, dark, or the sign's own or a like tone."""
    body = _near(COLOURS[colour], random, 12)
    label = (_near((232, 230, 222), random, 20), _near((30, 32, 40), random, 18), _near(body, random, 40), body)[int(random.integers(4))]
    dark = np.dot(label, (0.3, 0.59, 0.11)) > 120
    ink = np.array((12.0, 12.0, 12.0) if dark else (246.0, 246.0, 246.0))
    if random.random() < 0.3:  # coloured ink
        ink[int(random.integers(3))] += 90 if dark else -90
    return body, tuple(int(v) for v in ink), label


def _near(colour: Colour, random: np.random.Generator, most: float) -> Colour:
    """A colour up to `most` lighter or darker, with a tint of up to 8."""
    return tuple(int(v) for v in np.clip(np.asarray(colour) + random.uniform(-most, most) + random.uniform(-8, 8, 3), 0, 255))


def _extras(random: np.random.Generator, frame: _Frame, size: np.ndarray) -> list[Area]:
    """What a sign stands on or hangs from, in grey or brown: nothing, a post, an arm, or two wheels."""
    tone, (width, height) = _near((105, 95, 85), random, 55), size
    kind, thin = int(random.integers(6)), random.uniform(0.05, 0.12) * float(size.min())
    if kind == 0:
        return [Area(frame.oblong(np.array([0, height * 0.8]), np.array([thin, height])), tone)]
    if kind == 1:
        return [Area(frame.oblong(np.array([-width * 0.5, -height * 0.52]), np.array([width * 1.4, thin])), tone)]
    if kind == 2:
        return [Area(frame.oblong(np.array([x * width, height * 0.5]), np.array([0.2, 0.2]) * size), tone) for x in (-0.3, 0.3)]
    return []


def _around(points: Sequence[Point]) -> Box:
    """The box of whole pixels about some points."""
    low, high = np.floor(np.min(points, axis=0)), np.ceil(np.max(points, axis=0)) + 1  # a polygon fills its last pixel too
    return (float(low[0]), float(low[1]), float(high[0]), float(high[1]))


def _carries(sign: StreetSign, text: str) -> bool:
    """Whether a text fits on the label."""
    box = text_box(text, sign.type, sign.centre)
    return intersection(box, sign.label_px) == box


def rewritten(sign: StreetSign, text: str) -> StreetSign:
    """The sign with another text about the same centre."""
    return replace(sign, text=text, text_px=text_box(text, sign.type, sign.centre))


def another_number(random: np.random.Generator, sign: StreetSign, taken: Collection[str]) -> str:
    """A number with as many digits that is not in `taken` and fits on the label."""
    while True:
        text = number(random, len(sign.text))
        if text not in taken and _carries(sign, text):
            return text
