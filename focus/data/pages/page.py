"""One page by its seed, and a range of pages as a sequence of samples."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
from PIL import Image, ImageDraw

from focus.data.boxes import Box, area, intersection
from focus.data.drawn import Drawn, fingerprint
from focus.data.images.original import Decoded, Original
from focus.data.pages import layout
from focus.data.pages.spec import CELL_PX, KINDS, WORDS, Field, PageSpec, Panel, Word
from focus.data.sample import Sample
from focus.data.scenes.drawing import load_font, text_extent
from focus.data.scenes.spec import SPLITS

MARGIN = 10.0
FILLERS = {"invoice": layout.invoice, "departures": layout.departures, "card": layout.card, "plan": layout.plan}


@dataclass(frozen=True)
class Page:
    """A page by its seed: equal arguments give equal layouts and equal pixels.

    `written` replaces the text of the asked number and nothing else.
    """

    spec: PageSpec
    split: str
    index: int
    written: str | None = None

    def _random(self, purpose: int) -> np.random.Generator:
        return np.random.default_rng([SPLITS[self.split].code, self.index, 10 + purpose])  # scenes have the purposes below 10

    @cached_property
    def style(self) -> layout.Style:
        return layout.Style.draw(self._random(0), SPLITS[self.split].fonts)

    @cached_property
    def _cells(self) -> tuple[Box, list[tuple[str, Box]]]:
        """The box of the letterhead, and kind and box of every panel; panels of text have no kind."""
        random, side = self._random(1), float(self.spec.side_px)
        head = (MARGIN, MARGIN, side - MARGIN, MARGIN + float(random.integers(32, 44)))
        count = max(1, round(side / CELL_PX))
        boxes = layout.cells(random, (MARGIN, head[3] + 10, side - MARGIN, side - MARGIN), count, count, float(random.integers(8, 15)))
        kinds = [*random.permutation(KINDS), *[""] * max(0, len(boxes) - len(KINDS))][: len(boxes)]
        if len(boxes) > 1 and random.random() < 0.6:  # a panel of text in place of one with numbers
            kinds[int(random.integers(len(kinds)))] = ""
        return head, [(str(kind), box) for kind, box in zip(random.permutation(kinds), boxes, strict=True)]

    @cached_property
    def panels(self) -> tuple[Panel, ...]:
        """All panels with numbers, as they were before `written`.

        Raises ValueError if letters of `spec.letter_px` do not fit.
        """
        random = self._random(2)
        values = self._values(random)
        panels = []
        for kind, box in self._cells[1]:
            if kind:
                letter_px = int(random.integers(self.spec.letter_px[0], self.spec.letter_px[1] + 1))
                draft = layout.Draft(random, self.spec, self.style, WORDS[self.split], values, kind, box, letter_px)
                FILLERS[kind](draft)
                panels.append(draft.finish())
        for panel in panels:
            for field in panel.fields:
                box = field.word.text_px
                if intersection(box, field.line_px) != box or any(area(intersection(box, word.text_px)) > 0 for word in panel.words):
                    raise ValueError(
                        f"letters of {field.word.letter_px} px do not fit into a {panel.kind} of a page of {self.spec.side_px} px; "
                        "lower data.letter_px or raise data.side_px"
                    )
        return tuple(panels)

    def _values(self, random: np.random.Generator) -> Iterator[str]:
        """Numbers that differ from each other."""
        seen: set[str] = set()
        while True:
            digits = int(random.integers(self.spec.digits[0], self.spec.digits[1] + 1))
            value = str(int(random.integers(10 ** (digits - 1), 10**digits)))
            if value not in seen:
                seen.add(value)
                yield value

    @cached_property
    def asked(self) -> tuple[int, int]:
        """Panel and field that the question is about."""
        random = self._random(3)
        panel = int(random.integers(len(self.panels)))
        return panel, int(random.integers(len(self.panels[panel].fields)))

    @cached_property
    def field(self) -> Field:
        """The asked field, with `written` in it."""
        panel, field = self.asked
        return self.panels[panel].fields[field] if self.written is None else _rewritten(self.panels[panel].fields[field], self.written)

    def twin(self) -> "Page":
        """This page with another number of the same form in place of the asked one, which stands nowhere else on it."""
        random, text = self._random(4), self.field.word.text
        taken = {field.word.text for panel in self.panels for field in panel.fields} | {text}
        while True:
            other = "".join(str(random.integers(1, 10)) if letter.isdigit() else letter for letter in text)
            if other not in taken:
                return replace(self, written=other)

    def sample(self) -> Sample:
        """The canonical record of this page."""
        panel, field = self.panels[self.asked[0]], self.field
        return Sample(
            id=f"pages/{self.split}/{fingerprint(self.spec)}/{self.index}" + (f"/{self.written}" if self.written else ""),
            source="pages",
            split=self.split,
            image=self,
            width=self.spec.side_px,
            height=self.spec.side_px,
            question=field.question,
            answers=(field.word.text,),
            scorer="exact",
            boxes=((field.word.text_px, field.line_px, field.block_px, panel.box_px),),
            group=str(self.index),
            meta={"category": panel.kind},
        )

    def open(self) -> Original:
        """The drawn page."""
        image = Image.new("RGB", (self.spec.side_px,) * 2, self.style.paper)
        draw = ImageDraw.Draw(image)
        head, boxes = self._cells
        random = self._random(5)
        _draw(draw, layout.letterhead(random, self.style, head, WORDS[self.split]), self.style)
        for kind, box in boxes:
            if not kind:
                draft = layout.Draft(random, self.spec, self.style, WORDS[self.split], iter(()), "", box, int(random.integers(9, 13)))
                layout.note(draft)
                _draw(draw, draft.finish(), self.style)
        for i, panel in enumerate(self.panels):
            numbers = [self.field.word if (i, k) == self.asked else field.word for k, field in enumerate(panel.fields)]
            _draw(draw, panel, self.style, numbers)
        return Decoded(image)


def _rewritten(field: Field, text: str) -> Field:
    """A field with another text, aligned as the first one."""
    x1, _, x2, _ = field.word.text_px
    x = {"left": x1, "centre": (x1 + x2) / 2, "right": x2}[field.anchor]
    word = layout.set_word(text, field.word.font, field.word.letter_px, field.word.ink, (x, 0.0), field.anchor)
    shift = field.word.origin[1] - word.origin[1]
    a, b, c, d = word.text_px
    word = replace(word, origin=(word.origin[0], field.word.origin[1]), text_px=(a, b + shift, c, d + shift))
    if intersection(word.text_px, field.line_px) != word.text_px:
        raise ValueError(f"{text!r} does not fit into the line of {field.word.text!r}; write a shorter text")
    return replace(field, word=word)


def _draw(draw: ImageDraw.ImageDraw, panel: Panel, style: layout.Style, numbers: Sequence[Word] = ()) -> None:
    for shape in panel.shapes:
        x1, y1, x2, y2 = shape.box_px
        if area(shape.box_px) >= 1:
            draw.rectangle((x1, y1, x2 - 1, y2 - 1), fill=shape.fill, outline=shape.frame)  # Pillow includes the right and bottom pixel
    texts = [word for text in panel.texts for word in layout.set_text(text, style.font)]
    for word in (*panel.words, *texts, *numbers):
        mask, (left, top) = _inked(word.text, word.font, word.letter_px)
        draw.bitmap((int(word.origin[0]) + left, int(word.origin[1]) + top), mask, fill=word.ink)


@lru_cache(maxsize=8192)
def _inked(text: str, font: str, letter_px: int) -> tuple[Image.Image, tuple[int, int]]:
    """A word as a mask of its ink, and the left upper corner of the mask from the drawing origin, in pixels.

    Kept, because a page of 8,192 px has 50,000 words of which 200 are different.
    """
    left, top, width, height = text_extent(text, font, letter_px)
    mask = Image.new("L", (width, height))
    ImageDraw.Draw(mask).text((-left, -top), text, font=load_font(font, letter_px), fill=255)
    return mask, (left, top)


class Pages(Drawn):
    """`count` pages from `start` on, as a sequence of samples."""

    def __init__(self, spec: PageSpec, split: str, count: int, start: int = 0) -> None:
        super().__init__(Page, spec, split, count, start)
