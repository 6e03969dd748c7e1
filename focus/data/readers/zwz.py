"""ZwZ-RL-VQA (`inclusionAI/ZwZ-RL-VQA`), the training set of Zooming-without-Zooming.

The published images have the box of the answer drawn on them: whoever sees one is told where to look. `meta.box_is_drawn` says so in every
record. `bbox` is x1, y1, x2, y2 in pixels of the original.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from focus.data.readers.draft import Draft, Place, Published
from focus.data.readers.tables import find
from focus.data.readers.text import native, numbers
from focus.data.readers.training import answered, only_image, parted, rows_with_ids


def rows(root: Path) -> Iterator[tuple[Place, Mapping]]:
    """The rows of every table."""
    yield from rows_with_ids(find(root, "*.parquet", "**/*.parquet"))


def draft(row: Mapping) -> Draft:
    """Raises Bad for a box that is not four numbers; a null is no box."""
    question, options = parted(row["problem"])
    answers, scorer = answered([row["answer"]], options, "answer")
    boxes = (numbers(row["bbox"], "bbox"),) if row["bbox"] else ()
    return Draft(
        split="train",
        image=only_image(row["images"], "images"),
        question=question,
        answers=answers,
        scorer=scorer,
        options=options,
        boxes=boxes,
        box_origin="dataset",
        meta=native(row, "status") | {"box_is_drawn": True},
        raw=row["problem"],
    )


SETS: tuple[Published, ...] = (
    Published(
        source="zwz_rl",
        about="*.parquet (images, problem, answer, bbox, status), and the images its paths name",
        licence="Apache-2.0",
        counts="37,000 rows by the README, 74,000 in an older copy",
        rows=rows,
        draft=draft,
    ),
)
