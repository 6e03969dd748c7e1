"""What the pixels say about a word: whether ink lies under its box, and the colours of ink and ground."""

import colorsys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from focus.data.boxes import Box
from focus.documents.page import Word

NO_INK = "no ink under its box: the text layer lies there"
CONTRAST = 40  # grey levels (of 255) between ink and ground
REACH = 0.25  # of a box: ink begins no farther from each edge
# Share of the words of a page without ink, above which its whole text layer is not believed. A layer that is shifted by one letter
# has more (tests/documents/test_pdf.py), a true one has hardly any
LYING = 0.1
# Hue in degrees of a clear colour, with its name. Between two ranges a colour has both names
HUES = (
    (0, 12, "red"),
    (22, 40, "orange"),
    (48, 66, "yellow"),
    (85, 165, "green"),
    (200, 255, "blue"),
    (270, 295, "purple"),
    (348, 360, "red"),
)
SATURATED, BRIGHT = 0.45, 0.3  # below, a colour is grey or black
PALE = 0.15  # between the two it may have a name for some people


def look(words: Sequence[Word], pixels: np.ndarray, believed: bool = False) -> list[Word]:
    """The words with the names of their colours. `pixels`: height x width x RGB.

    Words without ink get a flaw, unless they are `believed`: OCR has seen what it read.
    """
    looked = [_looked(word, pixels) for word in words]
    return [replace(new, flaw=old.flaw) for old, new in zip(words, looked, strict=True)] if believed else looked


def lies(words: Sequence[Word]) -> bool:
    """Whether so many words of a text layer have no ink that none of it is believed."""
    return bool(words) and sum(word.flaw == NO_INK for word in words) > LYING * len(words)


def _looked(word: Word, pixels: np.ndarray) -> Word:
    x1, y1, x2, y2 = _inside(word.box_px, pixels)
    margin = max(2, round(0.15 * (y2 - y1)))
    if x2 <= x1 or y2 <= y1:
        return replace(word, flaw=word.flaw or NO_INK)
    top, left = max(0, y1 - margin), max(0, x1 - margin)
    around = pixels[top : y2 + margin, left : x2 + margin].astype(np.int16)
    ring = np.ones(around.shape[:2], dtype=bool)
    ring[y1 - top : y2 - top, x1 - left : x2 - left] = False
    ground = np.median(around[ring] if ring.any() else around.reshape(-1, 3), axis=0)
    box = around[y1 - top : y2 - top, x1 - left : x2 - left]
    apart = np.abs(box - ground).max(axis=2)
    if not _reaches(apart > CONTRAST):
        return replace(word, flaw=word.flaw or NO_INK)
    ink = np.median(box[apart >= 0.8 * apart.max()], axis=0)
    return replace(word, ink=colours(ink), ground=colours(ground))


def _inside(box_px: Box, pixels: np.ndarray) -> tuple[int, int, int, int]:
    height, width = pixels.shape[:2]
    x1, y1, x2, y2 = box_px
    return max(0, int(x1)), max(0, int(y1)), min(width, int(-(-x2 // 1))), min(height, int(-(-y2 // 1)))


def _reaches(ink: np.ndarray) -> bool:
    """Whether ink begins near all four edges of a box. Ink that is shifted against its box does not."""
    for axis in (0, 1):
        marked = np.asarray(ink.any(axis=axis))
        near = max(1.0, REACH * len(marked))
        if not marked.any() or marked.argmax() > near or marked[::-1].argmax() > near:
            return False
    return True


def colours(rgb: np.ndarray) -> tuple[str, ...]:
    """The names of a colour: one if it is clear, two if it lies between them, none for black, white and grey."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(float(level) / 255 for level in rgb))
    if value < BRIGHT or saturation < PALE:
        return ()
    hue *= 360
    named = next((name for low, high, name in HUES if low <= hue <= high), None)
    if named and saturation >= SATURATED:
        return (named,)
    below = max((h for h in HUES if h[0] <= hue), key=lambda h: h[0])[2]
    above = min((h for h in HUES if h[1] >= hue), key=lambda h: h[1])[2]
    return tuple(sorted({named or below, named or above, "grey"} if saturation < SATURATED else {below, above}))
