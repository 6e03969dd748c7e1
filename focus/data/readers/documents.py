"""InfographicVQA, DocVQA and TextVQA, validation parts, as lmms-eval repackages them: parquet files
with an encoded image in every row.

Several rows may have the same image; it is written once. The first two sets are folders of one
repository; their scorer is ANLS. TextVQA has ten answers per question, with repeats, because its
scorer counts how many people gave an answer. The test parts have no answers and are not read.
"""

from collections.abc import Mapping
from functools import partial

from focus.data.readers.draft import Bad, Draft, Published, Reason
from focus.data.readers.tables import rows_in
from focus.data.readers.text import image_bytes, meta_fields, text_of


def draft(row: Mapping, scorer: str) -> Draft:
    """All accepted answers, in order and with repeats. Raises Bad if there are none."""
    if not isinstance(row["answers"], list):
        raise Bad(Reason.NO_ANSWER if row["answers"] is None else Reason.BAD_VALUE, "answers", row["answers"])
    return Draft(
        split="val",
        image=image_bytes(row["image"], "image"),
        question=row["question"],
        answers=tuple(map(text_of, row["answers"])),
        scorer=scorer,
        meta=meta_fields(row, "question_types", "answer_type", "docId", "image_id", "image_classes", "set_name"),
    )


PUBLISHED: tuple[Published, ...] = (
    Published(
        source="infovqa",
        about="InfographicVQA/validation-*.parquet (image, question, answers, questionId)",
        licence=None,
        counts="the validation part of InfographicVQA",
        hub=("lmms-lab-encoder/DocVQA --include 'InfographicVQA/validation-*'",),
        rows=rows_in("InfographicVQA/val*.parquet", "val*.parquet"),
        draft=partial(draft, scorer="anls"),
        ids=("questionId",),
    ),
    Published(
        source="docvqa",
        about="DocVQA/validation-*.parquet (image, question, answers, questionId)",
        licence=None,
        counts="the validation part of DocVQA",
        hub=("lmms-lab-encoder/DocVQA --include 'DocVQA/validation-*'",),
        rows=rows_in("DocVQA/val*.parquet", "val*.parquet"),
        draft=partial(draft, scorer="anls"),
        ids=("questionId",),
    ),
    Published(
        source="textvqa",
        about="data/validation-*.parquet (image, question, answers, question_id)",
        licence="CC BY 4.0 (not confirmed)",
        counts="5,000 rows",
        hub=("lmms-lab-encoder/textvqa --include 'data/validation-*'",),
        rows=rows_in("data/val*.parquet", "val*.parquet"),
        draft=partial(draft, scorer="vqa10"),
        ids=("question_id",),
    ),
)
