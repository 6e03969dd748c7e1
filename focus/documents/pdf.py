"""The text layer of a PDF: its words with the exact boxes of their letters, and the rendered page.

The layer is not believed: a word under whose box the rendered page has no ink is flawed, and a
layer with many of them lies (`ink.py`).
"""

import ctypes
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pypdfium2 as pdfium
import pypdfium2.raw as raw

from focus.data.boxes import Box, Size, area, enclosing
from focus.documents.page import HYPHENATED, SAME_HEIGHT, Word
from focus.documents.spelling import flaw_of

TURNED = "turned or vertical text"
MOST_TURNED = math.radians(3)
LEAST_SPACE = 0.1  # heights between the advance of a letter and the next one, from which the gap is a space
# A gap below both, in heights and in the widest space of its line, may be a space or not: code whose letters stand apart
UNSURE_SPACE, UNSURE_SHARE = 0.25, 1 / 3
UNSURE = "beside a gap that may be no space"
JUMP = 1.0  # heights between two letters without a space between them, which are two words all the same
ERRORS = {4: "it is encrypted and needs a password", 3: "it is no PDF, or is damaged", 2: "it can't be read"}
FRAMES = (0.002, 0.9)  # the least and largest share of a page that a drawn frame encloses


class BadDocument(ValueError):
    """A PDF, or a page of one, that can't be read. The text says why, without the name of the file."""


@dataclass
class _Letters:
    """The letters of one word, collected."""

    texts: list[str] = field(default_factory=list)
    ink: list[Box] = field(default_factory=list)
    loose: list[Box] = field(default_factory=list)
    flaw: str = ""
    upright: bool = True


@contextmanager
def open_pdf(path: Path) -> Iterator[pdfium.PdfDocument]:
    """The opened document. Raises BadDocument if it is damaged or encrypted."""
    try:
        document = pdfium.PdfDocument(path)
    except pdfium.PdfiumError as error:
        raise BadDocument(ERRORS.get(error.err_code, str(error))) from error
    except OSError as error:
        raise BadDocument(f"it can't be read: {error.strerror}") from error
    with document:
        yield document


def render(document: pdfium.PdfDocument, number: int, long_side_px: int) -> tuple[np.ndarray, list[Word], list[Box]]:
    """One page: its pixels (height x width x RGB), its words, and the frames drawn on it.

    `number` counts from 0. The longer side has `long_side_px` pixels. Raises BadDocument.
    """
    try:
        page = document[number]
        if not min(page.get_size()) > 0:
            raise BadDocument("a page has no area")
        scale = long_side_px / max(page.get_size())
        pixels = page.render(scale=scale, rev_byteorder=True, prefer_bgrx=True).to_numpy()[:, :, :3]
        size = (pixels.shape[1], pixels.shape[0])
        to_px = _affine(page, size)
        return np.ascontiguousarray(pixels), _words(page.get_textpage(), to_px, page.get_rotation()), _frames(page, to_px, size)
    except pdfium.PdfiumError as error:
        raise BadDocument(f"a page can't be read ({error})") from error


class _Affine:
    """From the coordinates of a page (points, y upward, unrotated) to pixels of its picture."""

    def __init__(self, origin: tuple[float, float], x_axis: tuple[float, float], y_axis: tuple[float, float]) -> None:
        self.origin, self.x_axis, self.y_axis = origin, x_axis, y_axis

    def box(self, left: float, bottom: float, right: float, top: float) -> Box:
        corners = [
            (self.origin[0] + x * self.x_axis[0] + y * self.y_axis[0], self.origin[1] + x * self.x_axis[1] + y * self.y_axis[1])
            for x, y in ((left, bottom), (right, top))
        ]
        (x1, x2), (y1, y2) = (sorted(values) for values in zip(*corners, strict=True))
        return (x1, y1, x2, y2)


def _affine(page: pdfium.PdfPage, size: Size) -> _Affine:
    """The map of this page. PDFium rounds to whole pixels, so it is asked for a larger picture."""
    finer, far = 1000, 1000.0  # `far`: points from the origin to a second and a third point

    def device(x: float, y: float) -> tuple[float, float]:
        to_x, to_y = ctypes.c_int(), ctypes.c_int()
        raw.FPDF_PageToDevice(page, 0, 0, size[0] * finer, size[1] * finer, 0, x, y, to_x, to_y)
        return to_x.value / finer, to_y.value / finer

    origin, along_x, along_y = device(0, 0), device(far, 0), device(0, far)
    return _Affine(
        origin,
        ((along_x[0] - origin[0]) / far, (along_x[1] - origin[1]) / far),
        ((along_y[0] - origin[0]) / far, (along_y[1] - origin[1]) / far),
    )


def _words(text: pdfium.PdfTextPage, to_px: _Affine, rotation: int) -> list[Word]:
    """The words of a text layer in its own order: letters between spaces, line ends and jumps."""
    words: list[Word] = []
    letters = _Letters()
    left, bottom, right, top = (ctypes.c_double() for _ in range(4))
    loose = raw.FS_RECTF()
    guessed = False  # PDFium guessed a space before this letter
    gaps: list[tuple[float, int]] = []  # of the spaces that PDFium guessed in this line: heights, and the place of the next word in `words`
    halved = False  # the last word was the first half of a hyphenated one

    def flush() -> None:
        nonlocal letters, halved
        if letters.ink:
            spelt = "".join(letters.texts)
            flaw = letters.flaw or (HYPHENATED if halved else "") or flaw_of(spelt)
            height = max((y2 - y1 if letters.upright else x2 - x1) for x1, y1, x2, y2 in letters.loose)
            words.append(Word(spelt, enclosing(letters.ink), max(height, 1e-3), flaw, upright=letters.upright))
            halved = letters.flaw == HYPHENATED
        letters = _Letters()

    def end_line() -> None:
        flush()
        widest = max((gap for gap, _ in gaps if gap < JUMP), default=0.0)
        for beside in (at for gap, after in gaps if gap < min(UNSURE_SPACE, UNSURE_SHARE * widest) for at in (after - 1, after)):
            if 0 <= beside < len(words):
                words[beside] = replace(words[beside], flaw=words[beside].flaw or UNSURE)
        gaps.clear()

    for index in range(text.count_chars()):
        code = raw.FPDFText_GetUnicode(text, index)
        if raw.FPDFText_IsHyphen(text, index) == 1 or code in (0x2, 0xFFFE):
            letters.flaw = HYPHENATED
            flush()
            continue
        unknown = code == 0 or raw.FPDFText_HasUnicodeMapError(text, index) == 1
        if not unknown and chr(code).isspace():
            if raw.FPDFText_IsGenerated(text, index) == 1 and code == 0x20:
                guessed = True  # PDFium found a gap of the ink; in a font of one width that need not be a space
            elif chr(code) in "\r\n":
                end_line()
            else:
                flush()
            continue
        raw.FPDFText_GetLooseCharBox(text, index, loose)
        if not raw.FPDFText_GetCharBox(text, index, left, right, bottom, top):
            continue
        ink = to_px.box(left.value, bottom.value, right.value, top.value)
        around = to_px.box(loose.left, loose.bottom, loose.right, loose.top)
        angle = (raw.FPDFText_GetCharAngle(text, index) + math.radians(rotation)) % (2 * math.pi)
        upright = min(angle, 2 * math.pi - angle) <= MOST_TURNED
        if guessed and letters.loose and (gap := (around[0] - letters.loose[-1][2]) / max(around[3] - around[1], 1e-3)) > LEAST_SPACE:
            flush()
            gaps.append((gap, len(words)))
        guessed = False
        if letters.loose and (upright != letters.upright or _parts(letters.loose[-1], around, upright)):
            flush()
        if not upright:
            letters.upright, letters.flaw = False, letters.flaw or TURNED
        letters.texts.append("\ufffd" if unknown else chr(code))  # `flaw_of` finds it
        letters.loose.append(around)
        if area(ink) > 0:
            letters.ink.append(ink)
    end_line()
    return words


def _parts(last: Box, here: Box, upright: bool) -> bool:
    """Whether a letter belongs to another word than the last one: it stands elsewhere, or is of another size (the mark of a footnote)."""
    low, high = sorted((last[3] - last[1], here[3] - here[1]))
    apart = max(here[0] - last[2], last[0] - here[2], 0.0)
    return apart > JUMP * high or here[1] > last[3] or here[3] < last[1] or (upright and high > SAME_HEIGHT * low)


def _frames(page: pdfium.PdfPage, to_px: _Affine, size: Size) -> list[Box]:
    """Boxes of pictures and of drawn paths that are large enough to frame a text."""
    frames = []
    for item in page.get_objects(filter=[raw.FPDF_PAGEOBJ_PATH, raw.FPDF_PAGEOBJ_IMAGE], max_depth=1):
        left, bottom, right, top = item.get_bounds()
        x1, y1, x2, y2 = to_px.box(left, bottom, right, top)
        box = (max(0.0, x1), max(0.0, y1), min(float(size[0]), x2), min(float(size[1]), y2))
        if FRAMES[0] < area(box) / (size[0] * size[1]) < FRAMES[1]:
            frames.append(box)
    return frames
