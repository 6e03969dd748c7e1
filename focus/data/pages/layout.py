"""Lays out the panels of a page; nothing is drawn here."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from focus.data.boxes import Box
from focus.data.pages.spec import (
    BOXES,
    CELL_PX,
    FACTS,
    HEADINGS,
    NOTES,
    ROOMS,
    SUMS,
    Colour,
    Field,
    PageSpec,
    Panel,
    Shape,
    Text,
    Word,
    Words,
)
from focus.data.scenes.drawing import ink_box, text_extent

WHITE: Colour = (255, 255, 255)


@dataclass(frozen=True)
class Style:
    """The look of one page: fonts by their file names, colours, and how its panels are set off."""

    font: str
    bold: str
    paper: Colour
    ink: Colour
    muted: Colour
    accent: Colour
    tint: Colour
    frames: str  # box, tint or rule

    @property
    def darker(self) -> Colour:
        """The tint of lines that stand out."""
        return tuple(int(value * 0.88) for value in self.tint)

    @classmethod
    def draw(cls, random: np.random.Generator, fonts: Sequence[str]) -> "Style":
        dark = random.uniform(20, 120, 3)
        dark[int(random.integers(3))] = random.uniform(5, 40)
        paper = tuple(int(v) for v in random.integers(238, 256) - random.integers(0, 9, 3))
        tint = tuple(int(p - (p - d) * 0.13) for p, d in zip(paper, dark, strict=True))
        grey = int(random.integers(15, 50))
        return cls(
            font=str(random.choice(fonts)),
            bold=str(random.choice(fonts)),
            paper=paper,
            ink=(grey, grey, grey),
            muted=(grey + 65, grey + 65, grey + 70),
            accent=tuple(int(v) for v in dark),
            tint=tint,
            frames=str(random.choice(("box", "tint", "rule"))),
        )


def set_word(text: str, font: str, letter_px: int, ink: Colour, at: tuple[float, float], anchor: str = "left") -> Word:
    """A word whose ink is aligned at `at[0]` and vertically centred, as a digit would be, at `at[1]`."""
    x1, _, x2, _ = ink_box(text, font, letter_px)
    _, top, _, bottom = ink_box("8", font, letter_px)
    x = {"left": at[0] - x1, "centre": at[0] - (x1 + x2) / 2, "right": at[0] - x2}[anchor]
    origin = (float(round(x)), float(round(at[1] - (top + bottom) / 2)))
    x1, y1, x2, y2 = ink_box(text, font, letter_px)
    return Word(text, font, letter_px, ink, origin, (x1 + origin[0], y1 + origin[1], x2 + origin[0], y2 + origin[1]))


def set_text(text: Text, font: str) -> list[Word]:
    """Whole sentences in lines from the upper left of the box; one that does not fit any more is left out."""
    words: list[Word] = []
    box_px, letter_px, pitch = text.box_px, text.letter_px, text.pitch
    x, y = box_px[0], box_px[1] + pitch / 2
    space = max(3, round(0.6 * letter_px))
    for sentence in text.sentences:
        trial, x_then, y_then = [], x, y
        for part in sentence.split():
            width = text_extent(part, font, letter_px)[2]
            if x_then > box_px[0] and x_then + width > box_px[2]:
                x_then, y_then = box_px[0], y_then + pitch
            if x_then + width > box_px[2] or y_then + pitch / 2 > box_px[3]:
                break
            trial.append(set_word(part, font, letter_px, text.ink, (x_then, y_then)))
            x_then += width + space
        else:
            words, x, y = words + trial, x_then, y_then
    return words


def cells(random: np.random.Generator, box_px: Box, columns: int, rows: int, gap: float) -> list[Box]:
    """A box split into columns and rows of uneven sizes, with gaps, in whole pixels."""
    x1, y1, x2, y2 = box_px

    def edges(low: float, high: float, count: int) -> list[tuple[float, float]]:
        shares = np.cumsum([0.0, *(random.uniform(0.92, 1.08, count))])
        ends = low + (high + gap - low) * shares / shares[-1]
        return [(float(round(a)), float(round(b - gap))) for a, b in pairwise(ends)]

    return [(a, c, b, d) for c, d in edges(y1, y2, rows) for a, b in edges(x1, x2, columns)]


@dataclass
class Draft:
    """A panel while it is laid out: what is in it, and the part of its box that is still free."""

    random: np.random.Generator
    spec: PageSpec
    style: Style
    words_of: Words
    values: Iterator[str]
    kind: str
    box_px: Box
    letter_px: int
    fields: list[Field] = field(default_factory=list)
    shapes: list[Shape] = field(default_factory=list)
    words: list[Word] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.label_px = max(6, round(0.8 * self.letter_px))
        self.number_font = str(self.random.choice((self.style.font, self.style.bold)))

    def place(self, free: Box, height: float) -> Box:
        """Where a block of some height stands in the free part; text fills the rest below."""
        x1, y1, x2, y2 = free
        y1 = float(round(y1 + self.random.uniform(0, 0.5) * max(0.0, y2 - y1 - height)))
        self.fill((x1, y1 + height + 8, x2, y2), self.style.muted)
        return (x1, y1, x2, min(y1 + height, y2))

    def fill(self, box_px: Box, ink: Colour) -> None:
        """Fill a box with sentences."""
        pitch = self.label_px + float(self.random.uniform(5, 9))
        rounds = 1 + int(max(0.0, box_px[3] - box_px[1]) / CELL_PX)
        sentences = tuple(str(text) for _ in range(rounds) for text in self.random.permutation(self.words_of.sentences))
        self.texts.append(Text(sentences, box_px, self.label_px, pitch, ink))

    def head(self, text: str) -> Box:
        """Set the panel off and write its heading; returns the free part."""
        x1, y1, x2, y2 = self.box_px
        style, size = self.style, self.letter_px
        height = size + 12.0
        if style.frames == "box":
            self.shapes += [Shape(self.box_px, WHITE, style.muted), Shape((x1, y1, x2, y1 + height), style.accent)]
        elif style.frames == "tint":
            self.shapes += [Shape(self.box_px, style.tint)]
        else:
            self.shapes += [Shape((x1, y1 + height - 2, x2, y1 + height), style.accent)]
        ink = WHITE if style.frames == "box" else style.accent
        x = x1 + (0 if style.frames == "rule" else 8)
        for part in text.split():
            self.words.append(set_word(part, style.bold, size, ink, (x, y1 + height / 2)))
            x = self.words[-1].text_px[2] + 6
        side = 2.0 if style.frames == "rule" else 8.0
        return (x1 + side, y1 + height + 6, x2 - side, y2 - 8)

    def label(self, text: str, at: tuple[float, float], bold: bool = False, ink: Colour | None = None) -> float:
        """Write a label from the left; returns its right end."""
        x = at[0]
        for part in text.split():
            font = self.style.bold if bold else self.style.font
            self.words.append(set_word(part, font, self.label_px, ink or self.style.ink, (x, at[1])))
            x = self.words[-1].text_px[2] + 5
        return x

    def ask(self, question: str, value: str, at: tuple[float, float], anchor: str, line_px: Box, block_px: Box) -> None:
        """Write a number that can be asked for."""
        word = set_word(value, self.number_font, self.letter_px, self.style.ink, at, anchor)
        self.fields.append(Field(question, word, anchor, line_px, block_px))

    def finish(self) -> Panel:
        return Panel(self.kind, self.box_px, tuple(self.fields), tuple(self.shapes), tuple(self.words), tuple(self.texts))

    def order(self, texts: Sequence[str]) -> list[str]:
        return [str(text) for text in (self.random.permutation(texts) if self.spec.shuffled else texts)]


def invoice(d: Draft) -> None:
    """One fact, and a table of sums whose last line stands out."""
    free = d.head(HEADINGS["invoice"])
    pitch = min((free[3] - free[1]) / 4.3, d.letter_px + float(d.random.uniform(12, 17)))
    apart = float(d.random.uniform(0.1, 0.8)) * min(pitch, free[3] - free[1] - 4.2 * pitch)
    x1, y1, x2, _ = d.place(free, 4.1 * pitch + apart)
    fact = str(d.random.choice(FACTS))
    line = (x1, float(round(y1)) + 1, x2, float(round(y1 + pitch)) - 1)
    middle = (line[1] + line[3]) / 2
    end = d.label(fact, (x1, middle), ink=d.style.muted)
    whole = (x1 - 2, line[1] - 1, x2 + 2, float(round(y1 + 4 * pitch + apart)) + 1)
    d.ask(f"What stands after '{fact}'?", next(d.values), (end + 6, middle), "left", line, whole)
    y1 += pitch + apart
    block = (x1 - 2, float(round(y1)) - 1, x2 + 2, whole[3])
    d.shapes.append(Shape((block[0], block[1], block[2], block[1] + 1), d.style.muted))
    for i, name in enumerate([*d.order(SUMS[:-1]), SUMS[-1]]):
        line = (x1, float(round(y1 + i * pitch)) + 1, x2, float(round(y1 + (i + 1) * pitch)))
        if name == SUMS[-1]:
            d.shapes.append(Shape(line, d.style.darker))
        middle = (line[1] + line[3]) / 2
        d.label(name, (x1 + 4, middle), bold=name == SUMS[-1])
        value = next(d.values) + (f".{int(d.random.integers(10, 100))}" if d.spec.written and name == SUMS[-1] else "")
        question = "What is the total?" if name == SUMS[-1] else f"How many {name.lower()}?"
        d.ask(question, value, (x2 - 6, middle), "right", line, block)


def departures(d: Draft) -> None:
    """A table of lines, destinations and times, with a head and stripes."""
    free = d.head(HEADINGS["departures"])
    count = d.spec.lines
    pitch = min((free[3] - free[1]) / (count + 0.9), d.letter_px + float(d.random.uniform(13, 20)))
    x1, y1, x2, y2 = d.place(free, (count + 0.9) * pitch)
    block = (x1 - 1, y1 - 1, x2 + 1, float(round(y2)) + 1)
    d.label("Line", (x1 + 2, y1 + 0.4 * pitch), ink=d.style.muted)
    unit = "time" if d.spec.written else "min"
    d.words.append(set_word(unit, d.style.font, d.label_px, d.style.muted, (x2 - 4, y1 + 0.4 * pitch), "right"))
    y1 += 0.85 * pitch
    numbers = [str(number) for number in (sorted(d.random.choice(np.arange(1, 10), count, replace=False)) if count > 3 else (1, 2, 3))]
    minutes = np.sort(d.random.choice(np.arange(10 * 60, 24 * 60), count, replace=False))
    places = d.random.choice(d.words_of.places, count, replace=False)
    striped = int(d.random.integers(2))
    for i, number in enumerate(d.order(numbers)):
        line = (x1, float(round(y1 + i * pitch)), x2, float(round(y1 + (i + 1) * pitch)))
        if i % 2 == striped:
            d.shapes.append(Shape(line, d.style.darker))
        middle = (line[1] + line[3]) / 2
        end = d.label(number, (x1 + 6, middle), bold=True)
        value = f"{minutes[i] // 60}:{minutes[i] % 60:02}" if d.spec.written else next(d.values)
        d.ask(f"When does line {number} leave?", value, (x2 - 6, middle), "right", line, block)
        if end + 20 + text_extent(str(places[i]), d.style.font, d.label_px)[2] < d.fields[-1].word.text_px[0]:
            d.label(str(places[i]), (end + 12, middle))


def card(d: Draft) -> None:
    """Framed boxes, two by two, each with a small label above its number."""
    free = d.head(HEADINGS["card"])
    height = min(free[3] - free[1], 2 * (d.letter_px + d.label_px + float(d.random.uniform(24, 30))))
    x1, y1, x2, y2 = d.place(free, height)
    block = (x1 - 1, y1 - 1, x2 + 1, float(round(y2)) + 1)
    for name, box in zip(d.order(BOXES), cells(d.random, (x1, y1, x2, y2), 2, 2, float(d.random.integers(3, 9))), strict=True):
        d.shapes.append(Shape(box, WHITE, d.style.accent))
        d.label(name, (box[0] + 5, box[1] + 6 + d.label_px / 2), ink=d.style.muted)
        middle = (box[1] + 4 + d.label_px + box[3]) / 2
        d.ask(f"What stands under '{name}'?", next(d.values), ((box[0] + box[2]) / 2, middle), "centre", box, block)


def plan(d: Draft) -> None:
    """Coloured rooms between dark walls, each with its number."""
    x1, y1, x2, y2 = block = d.head(HEADINGS["plan"])
    d.shapes.append(Shape(block, d.style.ink))
    rooms = cells(d.random, (x1 + 3, y1 + 3, x2 - 3, y2 - 3), 2, 2, 3.0)
    for name, box in zip(d.random.permutation(list(ROOMS)), rooms, strict=True):
        d.shapes.append(Shape(box, ROOMS[str(name)]))
        x, y = ((box[k] + box[k + 2]) / 2 + float(d.random.uniform(-0.15, 0.15)) * (box[k + 2] - box[k]) for k in (0, 1))
        d.ask(f"What is the number of the {name} room?", next(d.values), (x, y), "centre", box, block)


def note(d: Draft) -> None:
    """A heading and lines of text."""
    d.fill(d.head(str(d.random.choice(NOTES))), d.style.ink)


def letterhead(random: np.random.Generator, style: Style, box_px: Box, words: Words) -> Panel:
    """The firm's name with a mark, on a band of colour or over a rule."""
    x1, y1, x2, y2 = box_px
    banded = bool(random.random() < 0.5)
    shapes = [Shape(box_px, style.accent)] if banded else [Shape((x1, y2 - 2, x2, y2), style.accent)]
    ink = WHITE if banded else style.accent
    middle, size = (y1 + y2) / 2, int(random.integers(13, 18))
    mark = (x1 + 10, middle - 9, x1 + 28, middle + 9)
    shapes += [Shape(mark, ink), Shape((mark[0] + 5, mark[1] + 5, mark[2] - 5, mark[3] - 5), style.accent if banded else style.paper)]
    firm: list[Word] = []
    x = x1 + 38
    for part in str(random.choice(words.firms)).split():
        firm.append(set_word(part, style.bold, size, ink, (x, middle)))
        x = firm[-1].text_px[2] + 8
    right = set_word("Booking", style.font, 9, ink, (x2 - 10, middle), "right")
    return Panel("", box_px, (), tuple(shapes), (*firm, *([right] if right.text_px[0] > x else [])))
