"""A page as a reader saw it: words, the lines and blocks that they form, and nested boxes around them.

Lines and blocks follow from where the words stand, not from the order in which a file lists them: a
table is often written column by column, and OCR sorts by its own rule.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from focus.data.boxes import Box, Size, area, enclosing, intersection
from focus.documents.spelling import bare, is_word, key

# In heights of the text (ascent to descent). Spaces between words of a justified line stay below
# it, gaps between the columns of a table do not
WIDEST_SPACE = 1.0
LINE_GAP = 0.6  # of lines that belong to one block: a blank line is wider
SAME_HEIGHT = 1.35  # ratio of the heights of two texts of one block; a heading is larger than its text
ANCHOR_WORDS = 3  # words of the longest anchor
HYPHENS = ("-", "\u00ad", "\u2010", "\u2011")
HYPHENATED = "hyphenated at a line's end"


@dataclass(frozen=True)
class Word:
    """One word of a page.

    `box_px` is around its ink. `height_px` is the height of its text line, ascent to descent, which
    is the same for `sea` and `Lady`. `flaw` says why it can be neither answer nor anchor; "" if it
    can. Colours are names (`colours.py`), several where the colour is between two, none for greys.
    """

    text: str
    box_px: Box
    height_px: float
    flaw: str = ""
    confidence: float = 1.0
    upright: bool = True
    ink: tuple[str, ...] = ()
    ground: tuple[str, ...] = ()


@dataclass(frozen=True)
class Page:
    """The words of one picture or page, with their lines (words from left to right) and blocks.

    `kind` is what a question calls it: page or picture. `frames_px` are boxes that are drawn around
    parts of it.
    """

    size: Size
    kind: str
    words: tuple[Word, ...]
    lines: tuple[tuple[int, ...], ...]
    blocks: tuple[tuple[int, ...], ...]
    frames_px: tuple[Box, ...] = field(default=(), repr=False)

    @cached_property
    def line_of(self) -> dict[int, int]:
        """The line of every word."""
        return {word: number for number, line in enumerate(self.lines) for word in line}

    @cached_property
    def block_of(self) -> dict[int, int]:
        """The block of every line."""
        return {line: number for number, block in enumerate(self.blocks) for line in block}

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """Every word without the punctuation around it."""
        return tuple(bare(word.text) for word in self.words)

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The key of every word (`spelling.key`)."""
        return tuple(key(word.text) for word in self.words)

    @cached_property
    def sound(self) -> tuple[bool, ...]:
        """Whether each word can be an answer."""
        return tuple(not word.flaw and is_word(text) for word, text in zip(self.words, self.texts, strict=True))

    @cached_property
    def runs(self) -> Counter[tuple[str, ...]]:
        """How often every run of one to three words of a line stands on the page, by their keys."""
        lines = [[self.keys[word] for word in line] for line in self.lines]
        return Counter(
            tuple(line[start : start + length])
            for line in lines
            for length in range(1, ANCHOR_WORDS + 1)
            for start in range(len(line) - length + 1)
        )

    def box_of(self, words: Iterable[int]) -> Box:
        """The box around words, in pixels of the page."""
        return enclosing(self.words[word].box_px for word in words)

    def chain(self, evidence: Sequence[int]) -> tuple[Box, ...]:
        """Nested boxes: the words, their line, its block, the smallest drawn frame around that.

        Whole pixels. A box that is not larger than the one inside it is left out, for example that
        of a line of one word. Words of several lines have no box of one line.
        """
        lines = {self.line_of[word] for word in evidence}
        blocks = {self.block_of[line] for line in lines}
        boxes = [self.box_of(evidence)]
        if len(lines) == 1:
            boxes.append(self.box_of(self.lines[lines.pop()]))
        if len(blocks) == 1:
            block = self.box_of(word for line in self.blocks[blocks.pop()] for word in self.lines[line])
            boxes.append(block)
            around = [frame for frame in self.frames_px if intersection(block, frame) == block]
            boxes += [min(around, key=area)] if around else []
        chain: list[Box] = []
        for box in (whole_pixels(box, self.size) for box in boxes):
            if not chain or area(box) > area(chain[-1]):
                chain.append(box)
        return tuple(chain)


def whole_pixels(box_px: Box, size: Size) -> Box:
    """The whole pixels that a box touches, inside the image."""
    x1, y1, x2, y2 = box_px
    return (float(max(0, x1 // 1)), float(max(0, y1 // 1)), float(min(size[0], -(-x2 // 1))), float(min(size[1], -(-y2 // 1))))


def lay_out(words: Sequence[Word], size: Size, kind: str, frames_px: Sequence[Box] = ()) -> Page:
    """The page of these words: words of one row form a line, lines close together form a block.

    The last word of a line that ends with a hyphen and the first one of the next line are flawed:
    they are halves of a word.
    """
    lines = _lines(words)
    boxes = np.array([enclosing(words[word].box_px for word in line) for line in lines]).reshape(-1, 4)
    heights = np.array([max(words[word].height_px for word in line) for line in lines])
    blocks = _blocks(boxes, heights, [words[line[0]].upright for line in lines])
    marked = list(words)
    for block in blocks:
        for upper, lower in zip(block, [*block[1:], None], strict=True):
            last = lines[upper][-1]
            if words[last].text.endswith(HYPHENS) and len(words[last].text) > 1:
                halves = [last] if lower is None else [last, lines[lower][0]]
                for half in halves:
                    marked[half] = replace(marked[half], flaw=marked[half].flaw or HYPHENATED)
    return Page(size, kind, tuple(marked), tuple(lines), tuple(blocks), tuple(frames_px))


def _lines(words: Sequence[Word]) -> list[tuple[int, ...]]:
    """Words of one row with no wide gap between them, from left to right. Turned words stand alone."""
    if not words:
        return []
    x1, y1, x2, y2 = np.array([word.box_px for word in words]).T
    height = np.array([word.height_px for word in words])
    upright = np.array([word.upright for word in words])
    least = np.minimum(height[:, None], height[None, :])
    # The centres of `sea` and `Lady` differ by a quarter of the height; a superscript and its word by more
    shared = np.minimum(y2[:, None], y2[None, :]) - np.maximum(y1[:, None], y1[None, :])
    shorter = np.minimum((y2 - y1)[:, None], (y2 - y1)[None, :])
    gap = x1[None, :] - x2[:, None]  # from word i to word j
    alike = np.maximum(height[:, None], height[None, :]) < SAME_HEIGHT * least
    beside = (shared > 0.5 * shorter) & (gap > -0.25 * least) & (gap < WIDEST_SPACE * least) & (x1[None, :] > x1[:, None])
    gap = np.where(beside & alike & upright[:, None] & upright[None, :], gap, np.inf)
    after, before = gap.argmin(axis=1), gap.argmin(axis=0)
    follows = {i: int(j) for i, j in enumerate(after) if np.isfinite(gap[i, j]) and before[j] == i}
    first = sorted(set(range(len(words))) - set(follows.values()), key=lambda i: (y1[i], x1[i]))
    lines = []
    for word in first:
        line = [word]
        while line[-1] in follows:
            line.append(follows[line[-1]])
        lines.append(tuple(line))
    return lines


def _blocks(boxes: np.ndarray, heights: np.ndarray, upright: Sequence[bool]) -> list[tuple[int, ...]]:
    """Lines that follow each other closely, one under the other, from top to bottom."""
    if not len(boxes):
        return []
    x1, y1, x2, y2 = boxes.T
    least = np.minimum(heights[:, None], heights[None, :])
    apart = y1[None, :] - y2[:, None]
    shared = np.minimum(x2[:, None], x2[None, :]) - np.maximum(x1[:, None], x1[None, :])
    under = (apart < LINE_GAP * least) & (apart > -0.5 * least) & (shared > 0) & (y1[None, :] > y1[:, None])
    under &= np.maximum(heights[:, None], heights[None, :]) < SAME_HEIGHT * least
    belongs = list(range(len(boxes)))

    def root(line: int) -> int:
        while belongs[line] != line:
            belongs[line] = belongs[belongs[line]]
            line = belongs[line]
        return line

    for upper, lower in np.argwhere(under):
        if upright[upper] and upright[lower]:
            belongs[root(int(lower))] = root(int(upper))
    blocks: dict[int, list[int]] = {}
    for line in sorted(range(len(boxes)), key=lambda line: (y1[line], x1[line])):
        blocks.setdefault(root(line), []).append(line)
    return [tuple(block) for block in blocks.values()]
