"""Embedded scenes with a critical view, for the agreement of `gap=reader` with E2.

`python -m experiments.questions.scenes ocr 300 OUTPUT` or `... height 300 OUTPUT` writes records whose critical view OCR found, or the
height of the text. Then `make calibrate` on these records prints the agreement (README.md has the commands).
"""

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from focus.build import FIRST_TRAINING_SCENE
from focus.data.sample import write_records
from focus.data.scenes import Scenes, scene_spec
from focus.documents.ocr import OCR
from focus.documents.page import Word, lay_out
from focus.documents.views import ALWAYS_READ, critical_by_height, lost_words, reads, views_of

TOKEN_PX, FLOOR = 28, 16
NOT_READ = "not read in the original"


def main(reader: str, count: int, output: Path) -> None:
    scenes = Scenes(scene_spec(1, None, 448), "train", count, FIRST_TRAINING_SCENE)
    records = [json.loads(line) for line in write_records(scenes, output).read_text().splitlines()]
    ocr, outcomes = OCR(1) if reader == "ocr" else None, Counter[str]()
    kept = []
    for scene, record in zip(scenes, records, strict=True):
        original = scene.open()
        pixels = np.asarray(original.reduced(original.size))
        text_px = scene.boxes[0][0]
        word = Word(scene.answers[0], text_px, text_px[3] - text_px[1])
        views = views_of(scene.size, TOKEN_PX, FLOOR)
        if ocr is None:
            critical = critical_by_height(word.height_px, scene.size, views)
        elif not reads(word, ocr.read(pixels), scene.size, scene.size):
            critical = NOT_READ
        else:
            critical = lost_words(lay_out([word], scene.size, "picture"), ocr, pixels, views).get(0, ALWAYS_READ)
        outcomes[str(critical)] += 1
        if isinstance(critical, int):
            kept.append(record | {"meta": {"critical_view": {"tokens": critical, "token_px": TOKEN_PX}}})
        else:
            kept.append(record)
    (output / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in kept))
    print(f"{reader}: critical views of {count} scenes: {dict(outcomes)}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
