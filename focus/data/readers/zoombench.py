"""ZoomBench (`inclusionAI/ZoomBench`): questions about an image, some with a published crop that
shows the answer.

A record asks about the whole image; `meta.crop_image` is the path of the crop, relative to the same
root, or null. The set's dual-view gap is the accuracy on the crops minus the accuracy on the
images.

The columns have one of two sets of names (query, response; prompt or question, answer). The query
holds the options, one per line, after "Select from the following choices."; a query without options
is open, and judged. `bbox` (x1, y1, x2, y2 in pixels of the image) is not in every release.
"""

from collections.abc import Mapping

from focus.data.readers.draft import Draft, Published
from focus.data.readers.tables import rows_in
from focus.data.readers.text import box_of, first_of, image_bytes, meta_fields
from focus.data.readers.training import accepted_answers, split_options


def draft(row: Mapping) -> Draft:
    """A row with its crop. Raises Bad for a letter without an option, or without any options."""
    stored = first_of(row, "query", "prompt", "question")
    question, options = split_options(stored)
    answers, _ = accepted_answers([first_of(row, "response", "answer")], options, "response")
    bbox = row.get("bbox")
    return Draft(
        split="test",
        image=image_bytes(row["image"], "image"),
        question=question,
        answers=answers,
        scorer="letter" if options else "judge",
        options=options,
        boxes=(box_of(bbox, "bbox"),) if bbox else (),
        box_origin="dataset",
        meta=meta_fields(row, "question_type") | {"crop_image": None},
        more_images={"crop_image": image_bytes(row["crop_image"], "crop_image")} if _has_crop(row) else {},
        raw=stored,
    )


def _has_crop(row: Mapping) -> bool:
    """A null may be stored as null or as a struct of nulls."""
    crop = row.get("crop_image")
    return crop.get("bytes") is not None if isinstance(crop, Mapping) else crop is not None


PUBLISHED: tuple[Published, ...] = (
    Published(
        source="zoombench",
        about="data/test*.parquet (id, query, response, image, crop_image, question_type; bbox if there is one)",
        licence="Apache-2.0",
        counts="845 rows: 621 with options, 224 open",
        hub=("inclusionAI/ZoomBench",),
        size="4 GB",
        rows=rows_in("data/test*.parquet", "**/test*.parquet", "**/*.parquet"),
        draft=draft,
        ids=("id",),
    ),
)
