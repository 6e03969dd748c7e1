"""HR-Bench 4K and 8K (`DreamMr/HR-Bench`): 200 questions each, every question four times with
rotated options.

Parquet and TSV hold the same 800 rows; the parquet file is a quarter the size and is preferred.
Images are base64 text; those of 8K reach tens of Mpx. No boxes are published. The 4K images are cut
from the 8K images around the object in question: never train on one and test on the other.

`group` is a hash of the text and the image, which the four rotations of a question share.
Byte-equal images come in groups of exactly four. The order of the rows and `cycle_category` are not
used for it.
"""

import hashlib
from collections.abc import Mapping

from focus.data.readers.draft import Bad, Draft, Published, Reason
from focus.data.readers.tables import rows_in
from focus.data.readers.text import image_bytes, letter_options, meta_fields, right_option


def draft(row: Mapping) -> Draft:
    """One rotation of a question.

    Raises Bad if an option is empty or the answer is not an option.
    """
    options = letter_options(row, "ABCD")
    if len(options) < 4:
        raise Bad(Reason.BAD_VALUE, "A, B, C, D", options)
    image = image_bytes(row["image"], "image")
    return Draft(
        split="test",
        image=image,
        question=row["question"],
        answers=right_option(options, row["answer"], "answer"),
        scorer="letter",
        options=options,
        group=hashlib.sha256(row["question"].strip().encode() + image).hexdigest(),
        meta=meta_fields(row, "category", "cycle_category"),
    )


PUBLISHED: tuple[Published, ...] = tuple(
    Published(
        source=f"hrbench{size}",
        about=f"hr_bench_{size}.parquet, else hr_bench_{size}.tsv (index, question, A, B, C, D, answer, category, cycle_category, image)",
        licence="other (the LICENSE file is empty)",
        counts="800 rows: 200 questions (100 single, 100 cross) in four rotations of their options",
        rows=rows_in(f"**/hr_bench_{size}*.parquet", f"**/hr_bench_{size}.tsv"),
        draft=draft,
        ids=("index",),
        hub=(f"DreamMr/HR-Bench hr_bench_{size}.parquet",),
        size=gigabytes,
    )
    for size, gigabytes in (("4k", "0.43 GB"), ("8k", "2.8 GB"))
)
