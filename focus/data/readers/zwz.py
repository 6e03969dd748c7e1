"""ZwZ-RL-VQA (`inclusionAI/ZwZ-RL-VQA`), the training set of Zooming-without-Zooming.

The published images have the box of the answer drawn on them: whoever sees one is told where to look. `meta.box_is_drawn` says so in every
record. `bbox` is x1, y1, x2, y2 in pixels of the original.
"""

from collections.abc import Mapping
from dataclasses import replace

from focus.data.readers.draft import Draft, Published
from focus.data.readers.tables import rows_with_ids
from focus.data.readers.text import box_of, native
from focus.data.readers.training import asked, only_image


def draft(row: Mapping) -> Draft:
    """A null is no box."""
    return replace(
        asked(row["problem"], [row["answer"]], only_image(row["images"], "images")),
        boxes=(box_of(row["bbox"], "bbox"),) if row["bbox"] else (),
        box_origin="dataset",
        meta=native(row, "status") | {"box_is_drawn": True},
    )


SETS: tuple[Published, ...] = (
    Published(
        source="zwz_rl",
        about="*.parquet (images, problem, answer, bbox, status), and the images its paths name",
        licence="Apache-2.0",
        counts="37,000 rows by the README, 74,000 in an older copy",
        rows=rows_with_ids("*.parquet", "**/*.parquet"),
        draft=draft,
    ),
)
