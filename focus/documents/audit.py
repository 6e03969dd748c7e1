"""How well OCR reads: pages whose text layer is the truth are read by both."""

from collections.abc import Mapping, Sequence

import numpy as np

from focus.data.boxes import Size, area, intersection, iou
from focus.documents.ocr import OCR
from focus.documents.page import Word
from focus.documents.spelling import bare, is_word
from focus.documents.views import reads

SAME_BOX = 0.5  # IoU


class Audit:
    """Reads the first pages with a text layer by OCR, too."""

    def __init__(self, pages: int, ocr: OCR | None) -> None:
        self.left, self.ocr = pages, ocr
        self._last: Mapping[str, int] | None = None

    def look(self, words: Sequence[Word], pixels: np.ndarray, least_confidence: float) -> None:
        """Compare a page, unless enough pages were."""
        if self.ocr is not None and self.left > 0:
            self.left -= 1
            self._last = compared(words, self.ocr.read(pixels), (pixels.shape[1], pixels.shape[0]), least_confidence)

    def taken(self) -> Mapping[str, int] | None:
        """The counts of the last page, once."""
        last, self._last = self._last, None
        return last


def compared(truth: Sequence[Word], seen: Sequence[Word], size: Size, least_confidence: float) -> dict[str, int]:
    """Of the usable words that OCR is sure of: how many lie on words of the layer, how many of them are right, and how many of
    these have the right box. `beside`: words where the layer has none, in pictures for example; nothing is known of them.
    """
    sure = [word for word in seen if word.confidence >= least_confidence and not word.flaw and is_word(bare(word.text))]
    on = [word for word in sure if any(area(intersection(word.box_px, each.box_px)) > 0 for each in truth)]
    right = [(word, [each for each in truth if reads(word, [each], size, size)]) for word in on]
    return {
        "pages": 1,
        "words": len(on),
        "right": sum(bool(found) for _, found in right),
        "boxes": sum(any(iou(word.box_px, each.box_px) >= SAME_BOX for each in found) for word, found in right),
        "beside": len(sure) - len(on),
    }
