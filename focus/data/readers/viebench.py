"""ViEBench (arXiv 2601.11633): 200 questions with options about high-resolution photographs, each
with the box of the evidence.

**The format is not verified.** The paper names a repository (`Xuchen-Li/ViEBench`), of which no file
was found. What the paper says: 200 images, one multiple-choice question each, half of them
perception and half reasoning, and one gold box per question, drawn in Label Studio; plain models are
evaluated in VLMEvalKit. So the reader takes VLMEvalKit's form of a multiple-choice set (TreeBench
has it too): a table with the columns index, image (base64), question, A, B, ..., answer and
category, and a column `bbox` with x1, y1, x2, y2 in pixels of the image. A table with other columns
is refused with the columns that it has. A row is left out, with its value, if its category is not
`perception` or `reasoning`, or if its box is not four numbers in that order.

A box in percent, as Label Studio exports it, can't be told from one in pixels: look at the sheet of
`make inspect` before you trust it. Some images come from VisualProbe.
"""

from collections.abc import Mapping

from focus.data.boxes import Box
from focus.data.readers.draft import Bad, Draft, Published, Reason
from focus.data.readers.tables import rows_in
from focus.data.readers.text import four_numbers, image_bytes, letter_options, right_option

CATEGORIES = ("perception", "reasoning")


def draft(row: Mapping) -> Draft:
    """Raises Bad for an unknown category and for a box of another form."""
    options = letter_options(row)
    category = str(row["category"]).strip().lower()
    if category not in CATEGORIES:
        raise Bad(Reason.BAD_VALUE, "category", row["category"])
    return Draft(
        split="test",
        image=image_bytes(row["image"], "image"),
        question=row["question"],
        answers=right_option(options, row["answer"], "answer"),
        scorer="letter",
        options=options,
        boxes=(_box(row["bbox"]),),
        box_origin="dataset",
        meta={"category": category},
    )


def _box(stored: object) -> Box:
    x1, y1, x2, y2 = four_numbers(stored, "bbox")
    if not (x1 < x2 and y1 < y2):
        raise Bad(Reason.BAD_VALUE, "bbox", stored)
    return x1, y1, x2, y2


PUBLISHED: tuple[Published, ...] = (
    Published(
        source="viebench",
        about=(
            "ViEBench.tsv or another table (index, image, question, A, B, ..., answer, category, bbox); "
            "no published file was found, so the form is not verified"
        ),
        licence=None,
        counts="200 rows: 100 perception, 100 reasoning",
        home="https://github.com/Xuchen-Li/ViEBench",
        rows=rows_in("**/ViEBench*.tsv", "**/*.tsv", "**/*.parquet"),
        draft=draft,
        ids=("index",),
    ),
)
