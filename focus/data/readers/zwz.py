"""ZwZ-RL-VQA (`inclusionAI/ZwZ-RL-VQA`), the training set of Zooming-without-Zooming.

The published images have the box of the answer drawn on them, so they show the model where to look.
Every record has `meta.box_is_drawn`. `bbox` is x1, y1, x2, y2 in pixels of the original.
"""

from collections.abc import Mapping
from dataclasses import replace

from focus.data.readers.draft import Draft, Published
from focus.data.readers.tables import rows_with_ids
from focus.data.readers.text import box_of, meta_fields
from focus.data.readers.training import only_image, training_draft


def draft(row: Mapping) -> Draft:
    """A null `bbox` means that there is no box."""
    return replace(
        training_draft(row["problem"], [row["answer"]], only_image(row["images"], "images")),
        boxes=(box_of(row["bbox"], "bbox"),) if row["bbox"] else (),
        box_origin="dataset",
        meta=meta_fields(row, "status") | {"box_is_drawn": True},
    )


PUBLISHED: tuple[Published, ...] = (
    Published(
        source="zwz_rl",
        about="*.parquet (images, problem, answer, bbox, status), and the images its paths name",
        licence="Apache-2.0",
        counts="37,000 rows by the README, 74,000 in an older copy",
        hub=("inclusionAI/ZwZ-RL-VQA",),
        rows=rows_with_ids("*.parquet", "**/*.parquet"),
        draft=draft,
    ),
)
