"""The critical view of a word: the largest view of the ladder in which a reader no longer reads it.

Two readers say it. For a text layer it is the height of the text: below `READ_PX` in the view a
reader fails. For OCR it is OCR itself, on every view.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from PIL import Image

from focus.data.boxes import Size
from focus.documents.page import Page, Word
from focus.documents.spelling import key
from focus.gap import fit, ladder

# Height of a line, ascent to descent, in px of the view. OCR reads 29 % of the words of 5 px and 65 % of
# those of 6 px (experiments/questions)
READ_PX = 6.0
SHARP = 1.5  # a word is asked for if it is this much higher than READ_PX in the original
TOO_SMALL = "too small to read in the original"
ALWAYS_READ = "readable in the smallest view"

Views = Sequence[tuple[int, Size]]  # merged visual tokens and size in px, from sharp to coarse


class Reader(Protocol):
    """What reads the words of a picture (height x width x RGB)."""

    def read(self, pixels: np.ndarray) -> list[Word]: ...


def views_of(size: Size, token_px: int, floor_tokens: int) -> Views:
    """The ladder of a picture: budget in merged visual tokens and size in px of each view, the native one first."""
    return [(tokens, fit(size, tokens, token_px)) for tokens in ladder(size, token_px, floor_tokens)]


def critical_by_height(height_px: float, size: Size, views: Views) -> int | str:
    """E18: the critical view of a text of this height in the original, in tokens, or why it has none."""
    if height_px < SHARP * READ_PX:
        return TOO_SMALL
    return next((tokens for tokens, view in views[1:] if height_px * view[1] / size[1] < READ_PX), ALWAYS_READ)


def lost_words(page: Page, reader: Reader, pixels: np.ndarray, views: Views) -> dict[int, int]:
    """The critical view of every word, in tokens, by a reader that is shown the views; words that it never loses are left out."""
    image = Image.fromarray(pixels)
    kept, lost = set(range(len(page.words))), {}
    for tokens, view in views[1:]:
        seen = reader.read(np.asarray(image.resize(view, Image.Resampling.BICUBIC))) if kept else []
        for word in sorted(kept):
            if not reads(page.words[word], seen, page.size, view):
                lost[word] = tokens
                kept.remove(word)
    return lost


def reads(word: Word, seen: Sequence[Word], size: Size, view: Size) -> bool:
    """Whether a word of the original is among the words of a view: one with its key stands at its place."""
    x1, y1, x2, y2 = word.box_px
    x, y = (x1 + x2) / 2 * view[0] / size[0], (y1 + y2) / 2 * view[1] / size[1]
    slack = word.height_px * view[1] / size[1]
    return any(
        other.box_px[0] - slack <= x <= other.box_px[2] + slack
        and other.box_px[1] - slack <= y <= other.box_px[3] + slack
        and key(other.text) == key(word.text)
        for other in seen
    )
