r"""V*Bench (`craigwu/vstar_bench`): 191 questions about small details of SA-1B photographs, with the boxes of their targets.

Two files speak of every question. `test_questions.jsonl` has the options shuffled, the right letter in `label`: it alone decides question,
options and answer. The JSON beside each image lists the right option first, always; it is read for its boxes only, which are left, top,
width, height in pixels. `text` is read line by line: the question, the options, an instruction. The folders GPT4V-hard and OCR are not part
of the set. Repackagings (parquet, TSV) carry no boxes and are not read.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from focus.data.boxes import Box
from focus.data.names import other_spelling
from focus.data.readers.draft import Draft, Place, Published
from focus.data.readers.tables import rows_in
from focus.data.readers.text import OPTION, box_of, chosen, inside, native, options_among

UNREADABLE = "the JSON with the boxes can't be read: the row is used without boxes; download it again"
NO_BOXES = "the JSON with the boxes does not lie beside the image: the row is used without boxes"
BOXES_UNNAMED = "its JSON has not one box per target: the row is used without boxes"


def rows(root: Path) -> Iterator[tuple[Place, dict]]:
    """The questions, each with the content of its per-image JSON as `beside`; None where that file is missing, UNREADABLE where it is
    no JSON.
    """
    for place, row in rows_in("test_questions.jsonl")(root):
        yield place, row | {"beside": _beside(root, row.get("image"))}


def _beside(root: Path, image: object) -> object:
    try:
        place = Path(inside(str(image), "image")).with_suffix(".json")
        if not (root / place).is_file():
            place = Path(other_spelling(root, str(place)) or place)
        content = (root / place).read_bytes()
    except (OSError, ValueError):  # it is not there, or lies outside, or has a name that no file can have
        return None
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return UNREADABLE


def draft(row: Mapping) -> Draft:
    """Question, options and letter from the row, the targets from its image's JSON. Raises Bad for a letter without an option."""
    lines = [line for line in row["text"].split("\n") if line.strip()]
    if len(lines) > 1 and not OPTION.match(lines[-1]):
        lines.pop()  # "Answer with the option's letter from the given choices directly."
    asked, options = options_among(lines)
    names, boxes, notes = _targets(row["beside"])
    return Draft(
        split="test",
        image=row["image"],
        question="\n".join(asked),
        answers=chosen(options, row["label"], "label"),
        scorer="letter",
        options=options,
        boxes=boxes,
        box_labels=names,
        box_origin="human",
        meta=native(row, "category"),
        raw=row["text"],
        notes=notes,
    )


def _targets(beside: object) -> tuple[tuple[str, ...], tuple[Box | None, ...], tuple[str, ...]]:
    """Names and boxes of the targets, and what is to be noted where there are none."""
    if beside is None or beside == UNREADABLE:
        return (), (), (UNREADABLE if beside else NO_BOXES,)
    names, boxes = (beside.get(key) for key in ("target_object", "bbox")) if isinstance(beside, Mapping) else (None, None)
    if not isinstance(names, list) or not isinstance(boxes, list) or len(names) != len(boxes):
        return (), (), (BOXES_UNNAMED,)
    return tuple(map(str, names)), tuple(box_of(box, "bbox", corner=True) for box in boxes), ()


SETS: tuple[Published, ...] = (
    Published(
        source="vstar",
        about=(
            "test_questions.jsonl (image, text, category, label, question_id), with the folders direct_attributes and relative_position "
            "beside it; of the JSON beside each image target_object and bbox"
        ),
        licence="unstated",
        counts="191 rows: 115 direct_attributes, 76 relative_position",
        rows=rows,
        draft=draft,
        ids=("question_id",),
    ),
)
