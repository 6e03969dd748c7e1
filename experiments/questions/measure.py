"""How well OCR reads pages whose text layer is the truth, and below which height it fails.

`python -m experiments.questions.measure FOLDER PAGES` reads PAGES pages of the PDFs of a folder, spread evenly, and writes results.json.
It needs `make env-questions`.
"""

import json
import random
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from focus.asking.audit import SAME_BOX
from focus.asking.folder import Dropped, files
from focus.asking.ink import lies, look
from focus.asking.ocr import OCR
from focus.asking.page import Page, Word, lay_out
from focus.asking.pdf import open_pdf, render
from focus.asking.spelling import bare, is_word
from focus.asking.views import critical_by_height, lost_words, reads, views_of
from focus.data.boxes import iou

HERE = Path(__file__).parent
PAGE_PX, TOKEN_PX, FLOOR = 2048, 28, 16
CONFIDENCES = (0.0, 0.8, 0.9, 0.95, 0.98, 0.99)


def pages(folder: Path, count: int) -> list[tuple[str, Page, np.ndarray]]:
    """Pages with a text layer, the same number of each document."""
    documents = [(path, name) for path, name in files(folder, folder / "out", Dropped()) if path.suffix.lower() == ".pdf"]
    found = []
    for path, name in documents:
        with open_pdf(path) as document:
            numbers = sorted(random.Random(0).sample(range(len(document)), min(len(document), -(-count // len(documents)))))
            for number in numbers:
                pixels, layer, frames = render(document, number, PAGE_PX)
                words = look(layer, pixels)
                if words and not lies(words):
                    found.append((f"{name} page {number + 1}", lay_out(words, (pixels.shape[1], pixels.shape[0]), "page", frames), pixels))
    return found[:count]


class Once:
    """A reader that reads every size of one picture once."""

    def __init__(self, ocr: OCR) -> None:
        self.ocr = ocr
        self.kept: dict[tuple[int, ...], list[Word]] = {}

    def read(self, pixels: np.ndarray) -> list[Word]:
        if pixels.shape not in self.kept:
            self.kept[pixels.shape] = self.ocr.read(pixels)
        return self.kept[pixels.shape]


def precision(seen: list[Word], page: Page) -> dict[float, Counter[str]]:
    """By least confidence: words that OCR gives, those that stand there, those of them with their box."""
    counts: dict[float, Counter[str]] = {least: Counter() for least in CONFIDENCES}
    for word in seen:
        if word.flaw or not is_word(bare(word.text)):
            continue
        here = [each for each in page.words if reads(word, [each], page.size, page.size)]
        box = any(iou(word.box_px, each.box_px) >= SAME_BOX for each in here)
        for least in CONFIDENCES:
            if word.confidence >= least:
                counts[least].update(words=1, right=bool(here), boxes=box)
    return counts


def main(folder: Path, count: int) -> None:
    ocr = OCR(1)
    sure: dict[float, Counter[str]] = {least: Counter() for least in CONFIDENCES}
    heights: dict[int, Counter[str]] = defaultdict(Counter)
    apart: Counter[str] = Counter()
    wrong, seconds, start = [], [], time.monotonic()
    for place, page, pixels in pages(folder, count):
        began = time.monotonic()
        seen = ocr.read(pixels)
        seconds.append(time.monotonic() - began)
        for least, counts in precision(seen, page).items():
            sure[least].update(counts)
        wrong += [
            [place, word.text, round(word.confidence, 3)]
            for word in seen
            if word.confidence >= 0.95 and not word.flaw and is_word(bare(word.text))
            and not any(reads(word, [each], page.size, page.size) for each in page.words)
        ]  # fmt: skip
        views = views_of(page.size, TOKEN_PX, FLOOR)
        once = Once(ocr)
        lost = lost_words(page, once, pixels, views)
        for index in (index for index, sound in enumerate(page.sound) if sound):
            by_height = critical_by_height(page.words[index].height_px, page.size, views)
            if isinstance(by_height, int) and index in lost:
                levels = [tokens for tokens, _ in views]
                apart[str(levels.index(lost[index]) - levels.index(by_height))] += 1
        for _, view in views[1:]:
            read = once.read(np.asarray(Image.fromarray(pixels).resize(view, Image.Resampling.BICUBIC)))
            for index in (index for index, sound in enumerate(page.sound) if sound):
                word = page.words[index]
                heights[round(word.height_px * view[1] / page.size[1])].update(words=1, read=reads(word, read, page.size, view))
        print(f"{place}: {len(page.words)} words, {time.monotonic() - start:.0f} s", flush=True)
    results: dict[str, Any] = {
        "pages": len(seconds),
        "page_px": PAGE_PX,
        "seconds_a_page": round(sum(seconds) / len(seconds), 2),
        "by_confidence": {str(least): dict(counts) for least, counts in sure.items()},
        "by_height": {str(height): dict(counts) for height, counts in sorted(heights.items())},
        "levels_from_height_to_ocr": dict(sorted(apart.items(), key=lambda item: int(item[0]))),
        "wrong_above_095": wrong,
    }
    (HERE / "results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
