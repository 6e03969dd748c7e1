"""TextVQA as published (0.5.1), with boxes from the published OCR (Rosetta).

Ten people answered each question; all ten answers are kept, with repeats, because `vqa10` counts
them. No box was drawn by a person. The box of a question is where the OCR read the most frequent
answer that it read at all. The words of the answer must be consecutive in the OCR's order, and
occur only once; case and punctuation at the ends are ignored. The box is marked `ocr`.

The OCR's boxes are fractions of the image, left, top, width, height. Words with a rotation are not
used: their boxes turn about a corner.
"""

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from focus.data.boxes import Box, enclosing
from focus.data.readers.draft import Draft, Location, Published
from focus.data.readers.tables import find, rows_of
from focus.data.readers.text import from_corner, meta_fields, text_of
from focus.data.text import normalise

NOT_READ = "the OCR did not read its answer exactly once: the row is used without a box"
UPRIGHT_DEGREES = 5.0
# Normalised words, and four fractions (x1, y1, x2, y2) for each
Words = tuple[tuple[str, ...], array]


def rows(root: Path) -> Iterator[tuple[Location, dict]]:
    """The questions of the training split, or of another split with answers, each with its split
    and its image's OCR.
    """
    paths = find(root, "**/TextVQA_0.5.1_train.json", "**/TextVQA_0.5.1_val.json", "**/TextVQA_0.5.1_*.json")
    for path in paths:
        split = path.stem.rpartition("_")[2]
        words_by_image = _read_ocr(find(root, f"**/*Rosetta*_{split}.json", "**/*Rosetta*.json"))
        for location, row in rows_of(path):
            yield location, row | {"split": split, "ocr": words_by_image.get(str(row.get("image_id")))}


def draft(row: Mapping) -> Draft:
    """The box is in pixels by the stored width and height of the image."""
    answers = tuple(text_of(answer).strip() for answer in row["answers"])
    size = (row["image_width"], row["image_height"])
    words, fractions = row["ocr"] or ((), array("d"))
    box, label = None, ""
    for label, _ in Counter(filter(None, answers)).most_common():
        spans = _spans(words, [normalise(word) for word in label.split()])
        if spans:
            box = _box_of_words(fractions, spans[0], size) if len(spans) == 1 else None
            break
    return Draft(
        split=row["split"],
        image=f"train_images/{row['image_id']}.jpg" if row["split"] != "test" else f"test_images/{row['image_id']}.jpg",
        question=row["question"],
        answers=answers,
        scorer="vqa10",
        boxes=(box,) if box else (),
        box_labels=(label,) if box else (),
        box_origin="ocr",
        size=size,
        meta=meta_fields(row, "image_classes"),
        notes=() if box else (NOT_READ,),
    )


def _read_ocr(paths: Sequence[Path]) -> dict[str, Words]:
    """The words of each image. Raises ValueError, with file and row, for another format."""
    words: dict[str, Words] = {}
    for path in paths:
        for location, row in rows_of(path):
            try:
                words[str(row["image_id"])] = _upright_words(row["ocr_info"])
            except (KeyError, TypeError, AttributeError, OverflowError) as error:
                raise ValueError(
                    f"{path}, row {location.row}: not image_id and ocr_info with word and bounding_box "
                    f"(top_left_x, top_left_y, width, height, rotation) ({error!r})"
                ) from error
    return words


def _upright_words(entries: Sequence[Mapping]) -> Words:
    words, fractions = [], array("d")
    for entry in entries:
        box = entry["bounding_box"]
        # Kept as an empty word, so that its neighbours are not consecutive
        turned = abs(box["rotation"] or 0) > UPRIGHT_DEGREES
        words.append("" if turned else normalise(entry["word"]))
        fractions.extend(from_corner((box["top_left_x"], box["top_left_y"], box["width"], box["height"])))
    return tuple(words), fractions


def _spans(words: Sequence[str], wanted: Sequence[str]) -> list[tuple[int, int]]:
    """First and end (excluded) index of every occurrence of the wanted words in a row."""
    count = len(wanted)
    return [(at, at + count) for at in range(len(words) - count + 1) if list(words[at : at + count]) == list(wanted)]


def _box_of_words(fractions: array, span: tuple[int, int], size: tuple[int, int]) -> Box:
    """The box around the words of a span, in pixels of an image of `size`."""
    x1, y1, x2, y2 = enclosing(tuple(fractions[4 * at : 4 * at + 4]) for at in range(*span))
    width, height = size
    return x1 * width, y1 * height, x2 * width, y2 * height


PUBLISHED: tuple[Published, ...] = (
    Published(
        source="textvqa_ocr",
        about="TextVQA_0.5.1_train.json, or else _val.json (question_id, question, image_id, answers, image_width, image_height), "
        "TextVQA_Rosetta_OCR_v0.2_<split>.json, and train_images/<image_id>.jpg",
        licence="CC BY 4.0 (not confirmed)",
        counts="not stated here",
        home="https://textvqa.org/dataset",
        rows=rows,
        draft=draft,
        ids=("question_id",),
    ),
)
