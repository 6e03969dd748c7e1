"""TreeBench (`HaochenWang/TreeBench`): 405 questions about SA-1B photographs, with the boxes of what their answers rest on.

One TSV with base64 images. Options stand in single-capital columns, as many as a question has; the others are empty. `target_instances` is
the text of a list of x1, y1, x2, y2 in pixels of the original, without names: each box is a target of its own. The published split is
called `train` although the set is for evaluation; it keeps that name here. OCR questions (`Perception/OCR`) have options like the others.
"""

from collections.abc import Mapping

from focus.data.boxes import Box
from focus.data.readers.draft import Draft, Published
from focus.data.readers.tables import rows_in
from focus.data.readers.text import box_of, chosen, image_bytes, letter_options, listed, native

NO_LIST = "its target_instances is an empty cell: the row is used without boxes"


def draft(row: Mapping) -> Draft:
    """A target for each box. Raises Bad for a list that can't be read."""
    options = letter_options(row)
    boxes, notes = _boxes(row["target_instances"])
    return Draft(
        split="train",
        image=image_bytes(row["image"], "image"),
        question=row["question"],
        answers=chosen(options, row["answer"], "answer"),
        scorer="letter",
        options=options,
        boxes=boxes,
        box_origin="dataset",
        meta=native(row, "category", "l2-category", "hint"),
        notes=notes,
    )


def _boxes(stored: str | None) -> tuple[tuple[Box | None, ...], tuple[str, ...]]:
    """The boxes, and what is to be noted: an empty list says that there are none, an empty cell says nothing."""
    if stored is None or stored.strip().lower() in ("", "nan"):
        return (), (NO_LIST,)
    return tuple(box_of(box, "target_instances") for box in listed(stored, "target_instances")), ()


SETS: tuple[Published, ...] = (
    Published(
        source="treebench",
        about="TreeBench.tsv (index, image, question, A, B, ..., answer, category, target_instances)",
        licence="Apache-2.0",
        counts=(
            "405 rows: Perception: Attributes 29, Material 13, Physical State 23, Object Retrieval 16, OCR 68; Reasoning: Perspective "
            "Transform 85, Ordering 57, Contact and Occlusion 41, Spatial Containment 29, Comparison 44"
        ),
        rows=rows_in("TreeBench.tsv", "**/*.tsv"),
        draft=draft,
        ids=("index",),
    ),
)
