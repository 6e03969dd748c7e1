"""MME-RealWorld, its Lite part, and its Chinese part: five options each; the last option always
says that the image does not show the answer.

Three forms on disk. (a) A JSON list with image paths, to be unpacked beside it, and capitalised
keys with spaces. (b) Parquet files whose column `bytes` holds base64 *text*. (c) A TSV whose
options are the text of a Python list and whose image column is `image`. Options begin with their
letter, in the Chinese part sometimes in full-width brackets. Not every image is a JPEG: the format
is recognised by content. The tables call their split `train` although the set is for evaluation;
that name is kept. The JSON names no split; its split is `test`.

`meta` has Task, Subtask and Category in every form. In (a) they are columns, or else parts of
`Question_id`; in (b) and (c) they are the two parts of `category`, and `l2-category`. Their case
varies, so each gets one spelling; `category` is `<Task>/<Subtask>`. Avg-C in publications is the
mean over the values of Subtask.
"""

from collections.abc import Mapping

from focus.data.readers.draft import Draft, Published
from focus.data.readers.tables import rows_in
from focus.data.readers.text import image_bytes, meta_fields, option_of, parse_list, right_option

TABLE = "index, question, multi-choice options, answer, category, l2-category, and the image as base64 in bytes (parquet) or image (TSV)"
GROUPS = ("Task", "Subtask", "Category")
# Other groups have one capital, at the start
SPELT = ("OCR with Complex Context", "Diagram and Table", "Remote Sensing", "OCR CN")
LIST = "Question_id, Image (a path beside the list), Text, Answer choices, Ground truth, Task, Subtask, Category"


def draft(row: Mapping) -> Draft:
    """A row of any of the three forms.

    Raises Bad for options without letters, and for an answer that is not an option.
    """
    if "Question_id" in row:
        split, image, question = "test", row["Image"], row["Text"]
        choices, answer = "Answer choices", "Ground truth"
        parts = str(row["Question_id"]).split("/")
        groups = [row.get(name) or part for name, part in zip(GROUPS, parts if len(parts) > 3 else ("", "", ""), strict=False)]
        extra = meta_fields(row, "Question Type", "Dataset")
    else:
        column = "bytes" if "bytes" in row else "image"
        split, image, question = "train", image_bytes(row[column], column), row["question"]
        choices, answer = "multi-choice options", "answer"
        task, _, subtask = row["category"].partition("/")
        groups = [task, subtask, row.get("l2-category")]
        extra = meta_fields(row, "l2-category")
    options = tuple(option_of(option, choices) for option in parse_list(row[choices], choices))
    named = {name: _spelt(group) for name, group in zip(GROUPS, groups, strict=True) if group}
    return Draft(
        split=split,
        image=image,
        question=question,
        answers=right_option(options, row[answer], answer),
        scorer="letter",
        options=options,
        meta=extra | named | {"category": "/".join(named[name] for name in GROUPS[:2] if name in named)},
    )


def _spelt(stored: str) -> str:
    """The one spelling of a group; its case and spaces vary between the forms."""
    words = " ".join(stored.replace("_", " ").split())
    return next((name for name in SPELT if name.casefold() == words.casefold()), words[:1].upper() + words[1:].lower())


IDS = ("Question_id", "index")
LICENCE = "no commercial use, no redistribution"
PUBLISHED: tuple[Published, ...] = (
    Published(
        source="mme_rw_lite",
        about=f"data/train-*.parquet, else mme_realworld_lite.tsv: {TABLE}",
        licence=LICENCE,
        counts="1,919 rows: 50 of each task, or all where there are fewer",
        hub=("yifanzhang114/MME-RealWorld-lite-lmms-eval",),
        rows=rows_in("data/train-*.parquet", "**/*.parquet", "**/mme_realworld_lite.tsv", "**/*.tsv"),
        draft=draft,
        ids=IDS,
    ),
    Published(
        source="mme_rw",
        about=f"MME_RealWorld.json: {LIST}; else data/train-*.parquet: {TABLE}",
        licence=LICENCE,
        counts="23,609 rows in English",
        hub=("yifanzhang114/MME-RealWorld",),
        rows=rows_in("MME_RealWorld.json", "data/train-*.parquet", "**/*.parquet"),
        draft=draft,
        ids=IDS,
    ),
    Published(
        source="mme_rw_cn",
        about=f"MME_RealWorld_CN.json: {LIST}",
        licence=LICENCE,
        counts="5,462 rows in Chinese",
        hub=("yifanzhang114/MME-RealWorld",),
        rows=rows_in("MME_RealWorld_CN.json"),
        draft=draft,
        ids=IDS,
    ),
)
