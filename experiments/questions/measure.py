"""How well OCR reads pages whose text layer is the truth, and below which height it fails.

`python -m experiments.questions.measure FOLDER PAGES` reads PAGES pages of the PDFs of a folder, the same number of each, and writes
results.json. What was read is kept in outputs/questions/measure.jsonl, so that an interrupted start goes on. It needs `make env-questions`.
"""

import json
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from focus.data.boxes import area, intersection
from focus.documents.audit import compared
from focus.documents.folder import Dropped, files
from focus.documents.ink import lies, look
from focus.documents.ocr import OCR
from focus.documents.page import Page, Word, lay_out
from focus.documents.pdf import open_pdf, render
from focus.documents.spelling import bare, is_word
from focus.documents.views import critical_by_height, lost_words, reads, views_of

HERE = Path(__file__).parent
PAGE_PX, TOKEN_PX, FLOOR = 1200, 28, 16
SURE = 0.95
CONFIDENCES = (0.0, 0.8, 0.9, 0.95, 0.98, 0.99)


def pages(folder: Path, count: int, done: set[str]) -> Iterator[tuple[str, Page, np.ndarray]]:
    """Pages with a text layer, the same number of each document, without those that are done."""
    documents = [(path, name) for path, name in files(folder, folder / "out", Dropped()) if path.suffix.lower() == ".pdf"]
    for path, name in documents:
        with open_pdf(path) as document:
            for number in sorted(random.Random(0).sample(range(len(document)), min(len(document), -(-count // len(documents))))):
                place = f"{name} page {number + 1}"
                if place not in done:
                    pixels, layer, frames = render(document, number, PAGE_PX)
                    words = look(layer, pixels)
                    if words and not lies(words):
                        yield place, lay_out(words, (pixels.shape[1], pixels.shape[0]), "page", frames), pixels


class Once:
    """A reader that reads every size of one picture once."""

    def __init__(self, ocr: OCR) -> None:
        self.ocr = ocr
        self.kept: dict[tuple[int, ...], list[Word]] = {}

    def read(self, pixels: np.ndarray) -> list[Word]:
        if pixels.shape not in self.kept:
            self.kept[pixels.shape] = self.ocr.read(pixels)
        return self.kept[pixels.shape]


def counts_of(place: str, page: Page, pixels: np.ndarray, ocr: OCR) -> dict[str, Any]:
    """All counts of one page."""
    began = time.monotonic()
    seen = ocr.read(pixels)
    seconds = time.monotonic() - began
    sound = [index for index, is_sound in enumerate(page.sound) if is_sound]
    views, once = views_of(page.size, TOKEN_PX, FLOOR), Once(ocr)
    lost = lost_words(page, once, pixels, views)
    apart: Counter[str] = Counter()
    levels = [tokens for tokens, _ in views]
    for index in sound:
        by_height = critical_by_height(page.words[index].height_px, page.size, views)
        if isinstance(by_height, int) and index in lost:
            apart[str(levels.index(lost[index]) - levels.index(by_height))] += 1
    heights: dict[int, Counter[str]] = defaultdict(Counter)
    for _, view in views[1:]:
        read = once.read(np.asarray(Image.fromarray(pixels).resize(view, Image.Resampling.BICUBIC)))
        for index in sound:
            word = page.words[index]
            heights[round(word.height_px * view[1] / page.size[1])].update(words=1, read=reads(word, read, page.size, view))
    wrong = [
        [word.text, round(word.confidence, 3)]
        for word in seen
        if word.confidence >= SURE and not word.flaw and is_word(bare(word.text))
        and any(area(intersection(word.box_px, each.box_px)) > 0 for each in page.words)
        and not any(reads(word, [each], page.size, page.size) for each in page.words)
    ]  # fmt: skip
    return {
        "place": place,
        "seconds": round(seconds, 2),
        "sound": len(sound),
        "by_confidence": {str(least): compared(page.words, seen, page.size, least) for least in CONFIDENCES},
        "by_height": {str(height): dict(counts) for height, counts in sorted(heights.items())},
        "levels_from_height_to_ocr": dict(apart),
        "wrong": wrong,
    }


def added(parts: list[dict[str, dict[str, int]]]) -> dict[str, dict[str, int]]:
    """Counts of all pages by their key, sorted by it."""
    total: dict[str, Counter[str]] = defaultdict(Counter)
    for part in parts:
        for key, counts in part.items():
            total[key].update(counts)
    return {key: dict(total[key]) for key in sorted(total, key=float)}


def main(folder: Path, count: int) -> None:
    """Read what was not read before; results.json has what was read so far."""
    kept = Path("outputs/questions/measure.jsonl")
    kept.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in kept.read_text().splitlines()] if kept.is_file() else []
    ocr = OCR(1)
    for place, page, pixels in pages(folder, count, {each["place"] for each in done}):
        done.append(counts_of(place, page, pixels, ocr))
        with kept.open("a") as out:
            out.write(json.dumps(done[-1], ensure_ascii=False) + "\n")
        (HERE / "results.json").write_text(json.dumps(summary(done), indent=1, ensure_ascii=False) + "\n")
        print(f"{place}: {done[-1]['sound']} words", flush=True)


def summary(done: list[dict[str, Any]]) -> dict[str, Any]:
    """The counts of all pages."""
    return {
        "pages": len(done),
        "page_px": PAGE_PX,
        "words": sum(each["sound"] for each in done),
        "seconds_a_page": round(sum(each["seconds"] for each in done) / len(done), 2),
        "by_confidence": added([each["by_confidence"] for each in done]),
        "by_height": added([each["by_height"] for each in done]),
        "levels_from_height_to_ocr": dict(sum((Counter(each["levels_from_height_to_ocr"]) for each in done), Counter[str]())),
        "by_page": [
            {"place": each["place"], **each["by_confidence"][str(SURE)], "levels": each["levels_from_height_to_ocr"]} for each in done
        ],
        "wrong": [[each["place"], *wrong] for each in done for wrong in each["wrong"]],
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
