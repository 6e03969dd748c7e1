"""VisualNeedle (arXiv 2605.26380): 300 questions in English about a detail of its image, each with
the box of the answer.

The box covers 0.1 % of the image (median). The set's crop-black setting shows a black image of the
crop's size in place of the crop; the arm `blank` of the probe does the same in mid-grey. Answers are
free text, some in Chinese, so they are judged.

File names, keys, categories and the frame of `bbox` (x1, y1, x2, y2 in pixels of the image, the
second corner exclusive) are those of the README that comes with the files. Its list of keys has
`image_url`; its example also has `image_path`, which is used if a row has it. `images_bbox/` holds
the same images with the box drawn on them, which shows the model where to look, and is never read.
How the paper grades answers was not found.
"""

from collections.abc import Mapping
from pathlib import PurePosixPath

from focus.data.readers.draft import Bad, Draft, Published, Reason
from focus.data.readers.tables import rows_in
from focus.data.readers.text import box_of, meta_fields, path_inside_root, text_of


def draft(row: Mapping) -> Draft:
    """Raises Bad for an image outside `images/`."""
    image = path_inside_root(row.get("image_path") or f"images/{PurePosixPath(row['image_url']).name}", "image_path")
    if not image.startswith("images/"):
        raise Bad(Reason.BAD_VALUE, "image_path", image)
    return Draft(
        split="test",
        image=image,
        question=row["question"],
        answers=(text_of(row["answer"]),),
        scorer="judge",
        boxes=(box_of(row["bbox"], "bbox"),),
        box_origin="dataset",
        meta=meta_fields(row, "category"),
    )


PUBLISHED: tuple[Published, ...] = (
    Published(
        source="visualneedle",
        about="visualneedle_300en.jsonl (id, category, question, answer, image_path or image_url, bbox) and images/",
        licence=None,
        counts="300 rows: Color Recognition 73, OCR Recognition 71, Entity Recognition 64, Spatial Relationship 58, "
        "Occluded Object Recognition 34",
        home="https://visualneedle2-1311238981.cos.ap-guangzhou.myqcloud.com/datasets/visualneedle_300en/",
        size="0.74 GB of images",
        rows=rows_in("visualneedle_300en.jsonl", "**/visualneedle_*.jsonl"),
        draft=draft,
        ids=("id",),
    ),
)
