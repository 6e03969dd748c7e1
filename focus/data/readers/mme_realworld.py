"""MME-RealWorld, its Lite part, and its Chinese part: five options each, the last of which always says that the image does not tell.

Three forms on disk. (a) A JSON list with image paths, to be unpacked beside it, and capitalised keys with spaces. (b) Parquet files whose
column `bytes` holds base64 *text*. (c) A TSV whose options are the text of a Python list and whose image column is `image`. Options begin
with their letter, in the Chinese part maybe in full-width brackets. Not every image is a JPEG: images are told by content. The tables call
their split `train` although the set is for evaluation; it keeps that name here, and the JSON, which names none, is `test`.

`meta` has Task and Subtask in every form; in (b) and (c) they are the two parts of `category`, whose case varies.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from focus.data.readers.draft import Draft, Place, Published
from focus.data.readers.tables import find, rows_of
from focus.data.readers.text import chosen, image_bytes, listed, native, option_of

TABLE = "index, question, multi-choice options, answer, category, l2-category, and the image as base64 in bytes (parquet) or image (TSV)"
LIST = "Question_id, Image (a path beside the list), Text, Answer choices, Ground truth, Task, Subtask, Category"


def rows(*patterns: str) -> Callable[[Path], Iterator[tuple[Place, Mapping]]]:
    """The rows of the files that match the first of these patterns that matches any."""

    def walk(root: Path) -> Iterator[tuple[Place, Mapping]]:
        for path in find(root, *patterns):
            yield from rows_of(path)

    return walk


def draft(row: Mapping) -> Draft:
    """A row of any of the three forms. Raises Bad for options without letters, and for an answer that is none of them."""
    return _listed(row) if "Question_id" in row else _tabled(row)


def _tabled(row: Mapping) -> Draft:
    """Forms b and c."""
    options = _options(row["multi-choice options"], "multi-choice options")
    task, _, subtask = row["category"].partition("/")
    image = "bytes" if "bytes" in row else "image"
    return Draft(
        split="train",
        image=image_bytes(row[image], image),
        question=row["question"],
        answers=chosen(options, row["answer"], "answer"),
        scorer="letter",
        options=options,
        meta=native(row, "category", "l2-category") | {"Task": task, "Subtask": subtask},
    )


def _listed(row: Mapping) -> Draft:
    """Form a."""
    options = _options(row["Answer choices"], "Answer choices")
    return Draft(
        split="test",
        image=row["Image"],
        question=row["Text"],
        answers=chosen(options, row["Ground truth"], "Ground truth"),
        scorer="letter",
        options=options,
        meta=native(row, "Task", "Subtask", "Category", "Question Type", "Dataset"),
    )


def _options(stored: object, key: str) -> tuple[tuple[str, str], ...]:
    return tuple(option_of(option, key) for option in listed(stored, key))


IDS = ("Question_id", "index")
LICENCE = "no commercial use, no redistribution"
SETS: tuple[Published, ...] = (
    Published(
        source="mme_rw_lite",
        about=f"data/train-*.parquet, else mme_realworld_lite.tsv: {TABLE}",
        licence=LICENCE,
        counts="1,919 rows: 50 of each task, or all where there are fewer",
        rows=rows("data/train-*.parquet", "**/*.parquet", "**/mme_realworld_lite.tsv", "**/*.tsv"),
        draft=draft,
        ids=IDS,
    ),
    Published(
        source="mme_rw",
        about=f"MME_RealWorld.json: {LIST}; else data/train-*.parquet: {TABLE}",
        licence=LICENCE,
        counts="23,609 rows in English",
        rows=rows("MME_RealWorld.json", "data/train-*.parquet", "**/*.parquet"),
        draft=draft,
        ids=IDS,
    ),
    Published(
        source="mme_rw_cn",
        about=f"MME_RealWorld_CN.json: {LIST}",
        licence=LICENCE,
        counts="5,462 rows in Chinese",
        rows=rows("MME_RealWorld_CN.json"),
        draft=draft,
        ids=IDS,
    ),
)
