"""Visual-CoT in its three published forms.

Boxes are x1, y1, x2, y2 in pixels of the original in all of them.

1. `viscot`: `metadata/<set>_cot_train.jsonl`, with every box of a question in `bboxs`. `image` is a
file name that repeats across sets; the file is in `cot/<set>/`, except that textcap uses the images
of textvqa, and the folder of visual7w is `v7w`.
2. `viscot_chat`: a conversation of four turns. The second entry of `image` ends with `###[x1, y1,
x2, y2]`, the union of the boxes. The numbers from 0 to 1 in the second turn are relative to the
image padded to a square, and are not used.
3. `viscot_det`: `expression` and `bbox`. The question asks for a box: the accepted answer is the
text of the box, in pixels of the original. No rule can compare it with coordinates in a model's
view, so these rows are marked `judge`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from focus.data.readers.draft import Bad, Draft, Location, Published, Reason
from focus.data.readers.tables import rows_with_ids
from focus.data.readers.text import box_of, four_numbers, meta_fields, parse_list
from focus.data.readers.training import only_image, training_draft

FOLDERS = {"textcap": "textvqa", "visual7w": "v7w"}
ENDING = "_cot_train"
LICENCE = "Apache-2.0; the images have their own terms"


def rows(root: Path) -> Iterator[tuple[Location, dict]]:
    """The rows of every set's metadata, each with the folder of its images."""
    for location, row in rows_with_ids(f"metadata/*{ENDING}.jsonl", f"**/*{ENDING}.jsonl")(root):
        name = location.file.stem.removesuffix(ENDING)
        yield location, row | {"folder": f"cot/{FOLDERS.get(name, name)}"}


def draft(row: Mapping) -> Draft:
    """One target per box in `bboxs`."""
    return replace(
        training_draft(row["question"], [row["answer"]], f"{row['folder']}/{row['image']}"),
        split=row["split"],
        boxes=tuple(box_of(box, "bboxs") for box in parse_list(row["bboxs"], "bboxs")),
        box_origin="dataset",
        size=(row["width"], row["height"]),
        meta=meta_fields(row, "dataset"),
    )


def chat_draft(row: Mapping) -> Draft:
    """The first turn is the question, the last one the answer.

    Raises Bad if the second image entry has no box.
    """
    whole, focus = row["image"]
    _, mark, box = focus.rpartition("###")
    if not mark:
        raise Bad(Reason.BAD_VALUE, "image", focus)
    turns = row["conversations"]
    return replace(
        training_draft(turns[0]["value"], [turns[-1]["value"]], only_image(whole, "image"), "conversations"),
        split=row["split"],
        boxes=(box_of(box, "image"),),
        box_origin="dataset",
        meta=meta_fields(row, "dataset", "question_id"),
    )


def det_draft(row: Mapping) -> Draft:
    """The expression is the question; its box is both evidence and answer."""
    box = four_numbers(row["bbox"], "bbox")
    return Draft(
        split=row["split"],
        image=only_image(row["img_path"], "img_path"),
        question=row["expression"],
        answers=(f"[{', '.join(f'{value:g}' for value in box)}]",),
        scorer="judge",
        boxes=(box,),
        size=(row["width"], row["height"]),
        box_labels=(row["expression"],),
        box_origin="dataset",
        answer_type="bbox",
        meta=meta_fields(row, "question_id"),
    )


PUBLISHED: tuple[Published, ...] = (
    Published(
        source="viscot",
        about="metadata/<set>_cot_train.jsonl (question, answer, image, bboxs, split), and the images in cot/<set>/",
        licence=LICENCE,
        hub=("deepcs233/Visual-CoT",),
        size="143 GB of images",
        counts="about 363,000 rows by the name of viscot_363k.json, in 12 tables",
        rows=rows,
        draft=draft,
    ),
    Published(
        source="viscot_chat",
        about="viscot_363k.json or else benchmark/*.json (image, conversations, split), and the images its paths name",
        licence=LICENCE,
        hub=("deepcs233/Visual-CoT",),
        size="143 GB of images",
        counts="about 363,000 rows; 9,937 of the benchmark",
        rows=rows_with_ids("viscot_363k.json", "**/viscot_363k.json", "**/benchmark/*.json", "*.json", own="question_id"),
        draft=chat_draft,
    ),
    Published(
        source="viscot_det",
        about="benchmark_det/*.jsonl (img_path, expression, bbox, split), and the images its paths name",
        licence=LICENCE,
        hub=("deepcs233/Visual-CoT",),
        size="143 GB of images",
        counts="not published for this form; the benchmark has 9,937 rows",
        rows=rows_with_ids("**/benchmark_det/*.jsonl", "*.jsonl", own="question_id"),
        draft=det_draft,
    ),
)
