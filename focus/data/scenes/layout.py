"""Lays out the signs of a scene and describes them; nothing is drawn here."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from focus.data.boxes import Box, intersection
from focus.data.scenes.drawing import ink_box, text_extent
from focus.data.scenes.spec import COLOURS, SHAPES, SceneSpec, Sign, Split

WIDEST = 0.62  # of a sign's width: a text as wide as that is inside every shape
PLACES = {"left": (0, -1), "right": (0, 1), "top": (1, -1), "bottom": (1, 1)}


def scatter_boards(random: np.random.Generator, spec: SceneSpec) -> list[Box]:
    """Boards inside the image that do not touch; fewer than `spec.signs` if the draws leave no
    room.
    """
    boards: list[Box] = []
    for _ in range(40 * spec.signs):
        width, height = spec.side_px * random.uniform(*spec.sign_side, 2) * random.uniform(1.1, 1.3)
        x, y = random.uniform(2, spec.side_px - 2 - width), random.uniform(2, spec.side_px - 2 - height)
        board = (float(round(x)), float(round(y)), float(round(x + width)), float(round(y + height)))
        gap = spec.side_px * 0.02
        grown = (board[0] - gap, board[1] - gap, board[2] + gap, board[3] + gap)
        if all(are_apart(grown, other) for other in boards):
            boards.append(board)
        if len(boards) == spec.signs:
            break
    return boards


def are_apart(a: Box, b: Box) -> bool:
    """Whether two boxes share no pixel."""
    x1, y1, x2, y2 = intersection(a, b)
    return x2 <= x1 or y2 <= y1


def _texts(random: np.random.Generator, spec: SceneSpec, split: Split) -> Iterator[str]:
    """Texts to try on one sign: twenty by the spec, then numbers with fewer and fewer digits."""
    for _ in range(20):
        if spec.words and random.random() < 0.5:
            yield str(random.choice(split.words))
        else:
            yield number(random, int(random.integers(spec.digits[0], spec.digits[1] + 1)))
    for digits in range(spec.digits[0] - 1, 0, -1):
        yield number(random, digits)


def number(random: np.random.Generator, digits: int) -> str:
    """A number with so many digits, which does not begin with 0."""
    return str(int(random.integers(10 ** (digits - 1), 10**digits)))


def make_sign(random: np.random.Generator, spec: SceneSpec, split: Split, board: Box, colour: str) -> Sign:
    """A sign on a board, with a text that fits. Raises ValueError if no text fits."""
    margin = [round((board[2 + axis] - board[axis]) * random.uniform(0.05, 0.10)) + 1 for axis in (0, 1)]
    sign = (board[0] + margin[0], board[1] + margin[1], board[2] - margin[0], board[3] - margin[1])
    texts = _texts(random, spec, split)
    text, font = next(texts), str(random.choice(split.fonts))
    max_width = WIDEST * (sign[2] - sign[0])
    while text_extent(text, font, spec.letter_px[0])[2] > max_width:
        text = next(texts, "")
    if not text:
        raise ValueError(f"no text of {spec.letter_px[0]} px letters fits on a sign {sign[2] - sign[0]:.0f} px wide; raise data.side_px")
    letter_px = int(random.integers(spec.letter_px[0], spec.letter_px[1] + 1))
    while text_extent(text, font, letter_px)[2] > max_width:
        letter_px -= 1
    left, top, width, height = text_extent(text, font, letter_px)
    centre_x = (sign[0] + sign[2]) / 2 + random.uniform(-0.05, 0.05) * (sign[2] - sign[0])
    centre_y = (sign[1] + sign[3]) / 2 + random.uniform(-0.10, 0.10) * (sign[3] - sign[1])
    x, y = float(round(centre_x - width / 2) - left), float(round(centre_y - height / 2) - top)
    ink = ink_box(text, font, letter_px)
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


def place_signs(random: np.random.Generator, spec: SceneSpec, split: Split) -> tuple[Sign, ...]:
    """The signs of a scene. Raises ValueError if `spec` asks for more signs than fit, or for signs that no text fits."""
    for _ in range(200):
        boards = scatter_boards(random, spec)
        if len(boards) == spec.signs:
            colours = random.permutation(list(COLOURS))
            return tuple(make_sign(random, spec, split, board, str(colours[i % len(colours)])) for i, board in enumerate(boards))
    raise ValueError(f"{spec.signs} signs of {spec.sign_side} of a side do not fit into a scene; lower data.difficulty")


def another_text(random: np.random.Generator, split: Split, sign: Sign, taken: Collection[str]) -> str:
    """A text for this sign that is not in `taken`: as many digits for a number; for a word another word that fits, else two digits."""
    if not sign.text.isdigit():
        widest = WIDEST * (sign.sign_px[2] - sign.sign_px[0])
        words = [word for word in split.words if word not in taken and text_extent(word, sign.font, sign.letter_px)[2] <= widest]
        if words:
            return str(random.choice(words))
    while (text := number(random, len(sign.text) if sign.text.isdigit() else 2)) in taken:
        pass
    return text


def rewritten(sign: Sign, text: str) -> Sign:
    """The sign with another text, centred where the first one was, on the same line."""
    left, _, width, _ = text_extent(sign.text, sign.font, sign.letter_px)
    other_left, _, other_width, _ = text_extent(text, sign.font, sign.letter_px)
    x, y = sign.text_origin[0] + left - other_left + (width - other_width) // 2, sign.text_origin[1]
    ink = ink_box(text, sign.font, sign.letter_px)
    return replace(sign, text=text, text_origin=(x, y), text_px=(x + ink[0], y + ink[1], x + ink[2], y + ink[3]))


class Described(Protocol):
    """A sign that a question can name."""

    @property
    def colour(self) -> str: ...

    @property
    def sign_px(self) -> Box: ...


def choose(random: np.random.Generator, asks: Sequence[str], signs: Sequence[Described]) -> tuple[str, int]:
    """A question and the index of the sign that it names; no other sign fits the description.

    Raises ValueError if no description of the kinds in `asks` fits one sign alone.
    """
    by_kind = {kind: descriptions(kind, signs) for kind in asks}
    kinds = [kind for kind, candidates in by_kind.items() if candidates]
    if not kinds:
        raise ValueError(
            f"no description by {' or '.join(asks)} fits just one of the {len(signs)} signs; add 'colour' or 'place' to the spec's asks, "
            "or lower its signs"
        )
    candidates = by_kind[kinds[int(random.integers(len(kinds)))]]
    description, target = candidates[int(random.integers(len(candidates)))]
    return f"What is on the {description}?", target


def descriptions(kind: str, signs: Sequence[Described]) -> list[tuple[str, int]]:
    """Every description of this kind that fits exactly one sign, with the index of that sign."""
    if kind in ("colour", "shape"):
        named = [getattr(sign, kind) for sign in signs]
        return [(f"{name} sign", i) for i, name in enumerate(named) if named.count(name) == 1]
    centres = [((s.sign_px[0] + s.sign_px[2]) / 2, (s.sign_px[1] + s.sign_px[3]) / 2) for s in signs]
    side = max(max(s.sign_px[2] - s.sign_px[0], s.sign_px[3] - s.sign_px[1]) for s in signs)
    if kind == "place":
        named_by_place = []
        for name, (axis, direction) in PLACES.items():
            order = sorted(range(len(signs)), key=lambda i: -direction * centres[i][axis])
            if len(order) == 1 or abs(centres[order[0]][axis] - centres[order[1]][axis]) > 0.4 * side:
                named_by_place.append((f"{name} sign", order[0]))
        return named_by_place
    related = []
    # relation: the sign nearest to a sign with a unique colour
    for anchor, sign in enumerate(signs):
        if [s.colour for s in signs].count(sign.colour) == 1 and len(signs) > 2:
            distance = {i: float(np.hypot(*np.subtract(centres[i], centres[anchor]))) for i in range(len(signs)) if i != anchor}
            near, second = sorted(distance, key=distance.__getitem__)[:2]
            if distance[second] - distance[near] > 0.4 * side:
                related.append((f"sign nearest to the {sign.colour} one", near))
    return related
