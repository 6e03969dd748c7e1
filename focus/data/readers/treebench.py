"""TreeBench (`HaochenWang/TreeBench`): 405 questions about SA-1B photographs, with the boxes of the
objects that the answer depends on.

One TSV with base64 images. Options are in the columns A, B, ...; the columns that a question does
not need are empty. `target_instances` is the text of a list of x1, y1, x2, y2 in pixels of the
original, without names; each box is one target. The published split is called `train` although the
set is for evaluation; that name is kept. OCR questions (`Perception/OCR`) have options like the
others.
"""

from collections.abc import Mapping

from focus.data.boxes import Box
from focus.data.readers.draft import Draft, Published
from focus.data.readers.tables import rows_in
from focus.data.readers.text import box_of, image_bytes, letter_options, meta_fields, parse_list, right_option

NO_LIST = "its target_instances is an empty cell: the row is used without boxes"


def draft(row: Mapping) -> Draft:
    """One target per box. Raises Bad for a list that can't be read."""
    options = letter_options(row)
    boxes, notes = _boxes(row["target_instances"])
    return Draft(
        split="train",
        image=image_bytes(row["image"], "image"),
        question=row["question"],
        answers=right_option(options, row["answer"], "answer"),
        scorer="letter",
        options=options,
        boxes=boxes,
        box_origin="dataset",
        meta=meta_fields(row, "category", "l2-category", "hint"),
        notes=notes,
    )


def _boxes(stored: str | None) -> tuple[tuple[Box | None, ...], tuple[str, ...]]:
    """The boxes and notes. An empty list means no boxes; an empty cell is noted."""
    if stored is None or stored.strip().lower() in ("", "nan"):
        return (), (NO_LIST,)
    return tuple(box_of(box, "target_instances") for box in parse_list(stored, "target_instances")), ()


PUBLISHED: tuple[Published, ...] = (
    Published(
        source="treebench",
        about="TreeBench.tsv (index, image, question, A, B, ..., answer, category, target_instances)",
        licence="Apache-2.0",
        counts=(
            "405 rows: Perception: Attributes 29, Material 13, Physical State 23, Object Retrieval 16, OCR 68; Reasoning: Perspective "
            "Transform 85, Ordering 57, Contact and Occlusion 41, Spatial Containment 29, Comparison 44"
        ),
        hub=("HaochenWang/TreeBench",),
        rows=rows_in("TreeBench.tsv", "**/*.tsv"),
        draft=draft,
        ids=("index",),
    ),
)
