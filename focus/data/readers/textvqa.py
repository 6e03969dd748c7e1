"""TextVQA as published (0.5.1), with boxes from the OCR that was published beside it (Rosetta).

Ten people answered each question; all ten answers are kept, with repeats, because `vqa10` counts them. Nobody drew a box: the box of a
question is where the OCR read the answer that most people gave, or else the next one that it read at all. Its words must follow each
other in the OCR's order, and in one place only; case and punctuation at the ends do not count. It is marked `ocr`.

The OCR's boxes are fractions of the image, left, top, width, height. Words with a rotation are not used: their boxes turn about a corner.
"""

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from focus.data.boxes import Box
from focus.data.readers.draft import Draft, Place, Published
from focus.data.readers.tables import find, rows_of
from focus.data.readers.text import from_corner, native, text_of
from focus.data.text import normalise

NOT_READ = "the OCR did not read its answer in one place only: the row is used without a box"
UPRIGHT_DEGREES = 5.0
Read = tuple[tuple[str, ...], array]  # words as `normalise` leaves them, and four fractions for each


def rows(root: Path) -> Iterator[tuple[Place, dict]]:
    """The questions of the training split, or of what else is there with answers, each with its split and the OCR of its image."""
    found = find(root, "**/TextVQA_0.5.1_train.json", "**/TextVQA_0.5.1_val.json", "**/TextVQA_0.5.1_*.json")
    for path in found:
        split = path.stem.rpartition("_")[2]
        read = _read(find(root, f"**/*Rosetta*_{split}.json", "**/*Rosetta*.json"))
        for place, row in rows_of(path):
            yield place, row | {"split": split, "ocr": read.get(str(row.get("image_id")))}


def draft(row: Mapping) -> Draft:
    """The box is in pixels by the stored width and height of the image."""
    answers = tuple(text_of(answer).strip() for answer in row["answers"])
    size = (row["image_width"], row["image_height"])
    words, fractions = row["ocr"] or ((), array("d"))
    box, label = None, ""
    for label, _ in Counter(filter(None, answers)).most_common():
        spans = _spans(words, [normalise(word) for word in label.split()])
        if spans:
            box = _union(fractions, spans[0], size) if len(spans) == 1 else None
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
        meta=native(row, "image_classes"),
        notes=() if box else (NOT_READ,),
    )


def _read(paths: Sequence[Path]) -> dict[str, Read]:
    """What the OCR read in each image. Raises ValueError, with file and row, if it is laid out otherwise."""
    read: dict[str, Read] = {}
    for path in paths:
        for place, row in rows_of(path):
            try:
                read[str(row["image_id"])] = _upright_words(row["ocr_info"])
            except (KeyError, TypeError, AttributeError, OverflowError) as error:
                raise ValueError(
                    f"{path}, row {place.row}: not image_id and ocr_info with word and bounding_box "
                    f"(top_left_x, top_left_y, width, height, rotation) ({error!r})"
                ) from error
    return read


def _upright_words(entries: Sequence[Mapping]) -> Read:
    words, fractions = [], array("d")
    for entry in entries:
        box = entry["bounding_box"]
        turned = abs(box["rotation"] or 0) > UPRIGHT_DEGREES  # stays as a word that nothing equals: its neighbours don't follow each other
        words.append("" if turned else normalise(entry["word"]))
        fractions.extend(from_corner((box["top_left_x"], box["top_left_y"], box["width"], box["height"])))
    return tuple(words), fractions


def _spans(words: Sequence[str], wanted: Sequence[str]) -> list[tuple[int, int]]:
    """First and behind-last index of every place where the wanted words follow each other."""
    count = len(wanted)
    return [(at, at + count) for at in range(len(words) - count + 1) if list(words[at : at + count]) == list(wanted)]


def _union(fractions: array, span: tuple[int, int], size: tuple[int, int]) -> Box:
    chosen = fractions[4 * span[0] : 4 * span[1]]
    width, height = size
    return min(chosen[0::4]) * width, min(chosen[1::4]) * height, max(chosen[2::4]) * width, max(chosen[3::4]) * height


SETS: tuple[Published, ...] = (
    Published(
        source="textvqa_ocr",
        about="TextVQA_0.5.1_train.json, or else _val.json (question_id, question, image_id, answers, image_width, image_height), "
        "TextVQA_Rosetta_OCR_v0.2_<split>.json, and train_images/<image_id>.jpg",
        licence="CC BY 4.0 (not confirmed)",
        counts="not stated here",
        rows=rows,
        draft=draft,
        ids=("question_id",),
    ),
)
