r"""V*Bench (`craigwu/vstar_bench`): 191 questions about small details of SA-1B photographs, with the
boxes of their targets.

Every question is in two files. `test_questions.jsonl` has shuffled options and the right letter in
`label`; question, options and answer come from this file. The JSON beside each image always lists
the right option first; only its boxes are read, which are left, top, width, height in pixels.
`text` has the question, the options and an instruction, one per line. The folders GPT4V-hard and
OCR are not part of the set. Repackagings (parquet, TSV) carry no boxes and are not read.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from focus.data.boxes import Box
from focus.data.names import other_spelling
from focus.data.readers.draft import Draft, Location, Published
from focus.data.readers.tables import rows_in
from focus.data.readers.text import OPTION, box_of, meta_fields, path_inside_root, right_option, trailing_options

UNREADABLE = "the JSON with the boxes can't be read: the row is used without boxes; download it again"
NO_BOXES = "there is no JSON with boxes beside the image: the row is used without boxes"
BOXES_UNNAMED = "its JSON does not have one box per target: the row is used without boxes"


def rows(root: Path) -> Iterator[tuple[Location, dict]]:
    """The questions, each with the content of its image's JSON as `boxes`.

    None if that file is missing, UNREADABLE if it is not JSON.
    """
    for location, row in rows_in("test_questions.jsonl")(root):
        yield location, row | {"boxes": _boxes_file(root, row.get("image"))}


def _boxes_file(root: Path, image: object) -> object:
    try:
        path = Path(path_inside_root(str(image), "image")).with_suffix(".json")
        if not (root / path).is_file():
            path = Path(other_spelling(root, str(path)) or path)
        content = (root / path).read_bytes()
    except (OSError, ValueError):  # it is missing, outside the root, or its name is impossible
        return None
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return UNREADABLE


def draft(row: Mapping) -> Draft:
    """Question, options and letter from the row, the targets from its image's JSON.

    Raises Bad for a letter without an option.
    """
    lines = [line for line in row["text"].split("\n") if line.strip()]
    if len(lines) > 1 and not OPTION.match(lines[-1]):
        lines.pop()  # "Answer with the option's letter from the given choices directly."
    question, options = trailing_options(lines)
    names, boxes, notes = _targets(row["boxes"])
    return Draft(
        split="test",
        image=row["image"],
        question="\n".join(question),
        answers=right_option(options, row["label"], "label"),
        scorer="letter",
        options=options,
        boxes=boxes,
        box_labels=names,
        box_origin="human",
        meta=meta_fields(row, "category"),
        raw=row["text"],
        notes=notes,
    )


def _targets(content: object) -> tuple[tuple[str, ...], tuple[Box | None, ...], tuple[str, ...]]:
    """Names and boxes of the targets in the JSON of an image, and a note if there are none."""
    if content is None or content == UNREADABLE:
        return (), (), (UNREADABLE if content else NO_BOXES,)
    names, boxes = (content.get(key) for key in ("target_object", "bbox")) if isinstance(content, Mapping) else (None, None)
    if not isinstance(names, list) or not isinstance(boxes, list) or len(names) != len(boxes):
        return (), (), (BOXES_UNNAMED,)
    return tuple(map(str, names)), tuple(box_of(box, "bbox", corner=True) for box in boxes), ()


PUBLISHED: tuple[Published, ...] = (
    Published(
        source="vstar",
        about=(
            "test_questions.jsonl (image, text, category, label, question_id), with the folders direct_attributes and relative_position "
            "beside it; of the JSON beside each image target_object and bbox"
        ),
        licence=None,
        counts="191 rows: 115 direct_attributes, 76 relative_position",
        hub=("craigwu/vstar_bench",),
        rows=rows,
        draft=draft,
        ids=("question_id",),
    ),
)
