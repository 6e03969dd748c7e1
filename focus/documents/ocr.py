"""Words of a photograph or a scan, read by RapidOCR (PP-OCRv6; its models come with the package).

It is an optional extra (requirements-questions.txt). OCR gives the place of a letter to about half
its width; the ink between two words tells where each ends.
"""

import itertools
import math
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np

from focus.data.boxes import Box
from focus.documents.page import Word
from focus.documents.pdf import TURNED
from focus.documents.spelling import flaw_of

SLANTED = 0.1  # rise of a line over its length
GROUND = 40  # grey levels: what differs less from the ground is no ink


def is_installed() -> bool:
    """Whether the optional packages are there."""
    return find_spec("rapidocr") is not None and find_spec("onnxruntime") is not None


class OCR:
    """A reader of pictures. One thread reads at a time."""

    def __init__(self, threads: int) -> None:
        from rapidocr import RapidOCR

        self.engine = RapidOCR(
            params={
                "Global.log_level": "error",
                "Global.text_score": 0.0,  # words that are not sure are counted later
                "Global.max_side_len": 20_000,  # small words of a large picture would be lost
                "EngineConfig.onnxruntime.intra_op_num_threads": threads,
            }
        )

    def read(self, pixels: np.ndarray) -> list[Word]:
        """The words of a picture (height x width x RGB), each with its line's confidence."""
        found = self.engine(np.ascontiguousarray(pixels[:, :, ::-1]), use_cls=False, return_word_box=True, return_single_char_box=True)
        words = []
        if getattr(found, "boxes", None) is not None and found.txts:
            for quad, text, score, letters in zip(found.boxes, found.txts, found.scores, found.word_results, strict=False):
                words += _words(np.asarray(quad, dtype=float), text, float(score), letters, pixels)
        return words


def _words(quad: np.ndarray, text: str, score: float, letters: Sequence, pixels: np.ndarray) -> list[Word]:
    """The words of one line, split where its text has spaces. None if letters and text do not agree."""
    cells = [np.asarray(cell, dtype=float) for _, _, cell in letters]
    spelt = text.split()
    if len(cells) != sum(map(len, spelt)):
        return []
    along = quad[1] - quad[0]
    height = float(np.linalg.norm(quad[3] - quad[0]))
    turned = abs(along[1]) > SLANTED * abs(along[0]) or (height > 1.5 * np.linalg.norm(along) and len(text) > 1)
    spans, start = [], 0
    for word in spelt:
        own = np.concatenate(cells[start : start + len(word)])
        spans.append((float(own[:, 0].min()), float(own[:, 0].max())))
        start += len(word)
    box = (float(quad[:, 0].min()), float(quad[:, 1].min()), float(quad[:, 0].max()), float(quad[:, 1].max()))
    boxes = _upright(spans, cells, spelt, box, pixels) if not turned else [(x1, box[1], x2, box[3]) for x1, x2 in spans]
    return [
        Word(word, word_box, height, TURNED if turned else flaw_of(word), score, not turned)
        for word, word_box in zip(spelt, boxes, strict=True)
    ]


def _upright(spans: Sequence[tuple[float, float]], cells: list[np.ndarray], spelt: list[str], line: Box, pixels: np.ndarray) -> list[Box]:
    """The boxes of the words of an upright line, cut at the widest gap of the ink between two words and drawn close about it."""
    x1, y1, x2, y2 = max(0, int(line[0])), max(0, int(line[1])), math.ceil(line[2]), math.ceil(line[3])
    part = pixels[y1:y2, x1:x2].astype(np.int16)
    ground = np.median(part.reshape(-1, 3), axis=0)
    ink = np.abs(part - ground).max(axis=2) > GROUND
    columns = ink.any(axis=0)
    centres = [float(cell[:, 0].mean()) for cell in cells]
    cuts, last = [float(x1)], -1
    for word in spelt[:-1]:
        last += len(word)
        cuts.append(x1 + _gap(columns, int(centres[last] - x1), math.ceil(centres[last + 1] - x1)))
    cuts.append(float(x2))
    return [_closer(ink, (left, float(y1), right, float(y2)), (x1, y1)) for left, right in itertools.pairwise(cuts)]


def _gap(columns: np.ndarray, low: int, high: int) -> float:
    """The middle of the longest run without ink between two columns; the middle of both if there is none."""
    best, start = (0, (low + high) / 2), max(0, low)
    for column in range(start, min(high, len(columns)) + 1):
        if column == min(high, len(columns)) or columns[column]:
            if column - start > best[0]:
                best = (column - start, (start + column) / 2)
            start = column + 1
    return best[1]


def _closer(ink: np.ndarray, box: Box, origin: tuple[int, int]) -> Box:
    """The box of the ink inside a box; the box itself if there is no ink."""
    left, top = int(box[0] - origin[0]), int(box[1] - origin[1])
    part = ink[top : math.ceil(box[3] - origin[1]), left : math.ceil(box[2] - origin[0])]
    rows, columns = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
    if not len(rows):
        return box
    x, y = origin[0] + left, origin[1] + top
    return (float(x + columns[0]), float(y + rows[0]), float(x + columns[-1] + 1), float(y + rows[-1] + 1))
