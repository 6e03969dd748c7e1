"""HR-Bench 4K and 8K (`DreamMr/HR-Bench`): 200 questions each, every one asked four times with its options rotated.

Parquet and TSV hold the same 800 rows; the parquet file is a quarter the size and is preferred. Images are base64 text; those of 8K reach
tens of Mpx. No boxes are published. The 4K images are cut from the 8K ones around what is asked for: never train on one and test on the
other.

`group` is what the four rotations of a question share: its text and its image. The order of the rows and `cycle_category` are not relied
on; byte-equal images come in groups of exactly four.
"""

import hashlib
from collections.abc import Mapping

from focus.data.readers.draft import Bad, Draft, Published, Reason
from focus.data.readers.tables import rows_in
from focus.data.readers.text import chosen, image_bytes, letter_options, native


def draft(row: Mapping) -> Draft:
    """One rotation of a question. Raises Bad if an option is empty or the answer is none of them."""
    options = letter_options(row, "ABCD")
    if len(options) < 4:
        raise Bad(Reason.BAD_VALUE, "A, B, C, D", options)
    image = image_bytes(row["image"], "image")
    return Draft(
        split="test",
        image=image,
        question=row["question"],
        answers=chosen(options, row["answer"], "answer"),
        scorer="letter",
        options=options,
        group=hashlib.sha256(row["question"].strip().encode() + image).hexdigest(),
        meta=native(row, "category", "cycle_category"),
    )


SETS: tuple[Published, ...] = tuple(
    Published(
        source=f"hrbench{size}",
        about=f"hr_bench_{size}.parquet, else hr_bench_{size}.tsv (index, question, A, B, C, D, answer, category, cycle_category, image)",
        licence="other (the LICENSE file is empty)",
        counts="800 rows: 200 questions (100 single, 100 cross) in four rotations of their options",
        rows=rows_in(f"**/hr_bench_{size}*.parquet", f"**/hr_bench_{size}.tsv"),
        draft=draft,
        ids=("index",),
    )
    for size in ("4k", "8k")
)
