"""Visual-CoT in its three published forms. Boxes are x1, y1, x2, y2 in pixels of the original in all of them.

1. `viscot`: `metadata/<set>_cot_train.jsonl`, with every box of a question in `bboxs`. `image` is a bare name that repeats across sets; it
   lies in `cot/<set>/`, except that textcap uses the images of textvqa, and visual7w lies in `v7w`.
2. `viscot_chat`: a conversation of four turns. The second entry of `image` ends with `###[x1, y1, x2, y2]`, the union of the boxes. The
   numbers from 0 to 1 in the second turn are relative to the image padded to a square, and are not used.
3. `viscot_det`: `expression` and `bbox`. What is to be answered is the place: the accepted answer is the text of the box, in pixels of the
   original. No rule can compare that with what a model says about its view, so these rows are marked `judge`.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from focus.data.readers.draft import Bad, Draft, Place, Published, Reason
from focus.data.readers.tables import find
from focus.data.readers.text import listed, native, numbers
from focus.data.readers.training import answered, only_image, parted, rows_with_ids

FOLDERS = {"textcap": "textvqa", "visual7w": "v7w"}
ENDING = "_cot_train"
LICENCE = "Apache-2.0; the images have their own terms"


def rows(root: Path) -> Iterator[tuple[Place, Mapping]]:
    """The rows of every set's metadata, each with the folder of its images."""
    for path in find(root, f"metadata/*{ENDING}.jsonl", f"**/*{ENDING}.jsonl"):
        name = path.stem.removesuffix(ENDING)
        for place, row in rows_with_ids([path]):
            yield place, row | {"folder": f"cot/{FOLDERS.get(name, name)}"}


def draft(row: Mapping) -> Draft:
    """One target for each of `bboxs`."""
    question, options = parted(row["question"])
    answers, scorer = answered([row["answer"]], options, "answer")
    boxes = tuple(numbers(box, "bboxs") for box in listed(row["bboxs"], "bboxs"))
    return Draft(
        split=row["split"],
        image=only_image(f"{row['folder']}/{row['image']}", "image"),
        question=question,
        answers=answers,
        scorer=scorer,
        options=options,
        boxes=boxes,
        size=(row["width"], row["height"]),
        box_origin="dataset",
        meta=native(row, "dataset"),
        raw=row["question"],
    )


def chat_rows(root: Path) -> Iterator[tuple[Place, Mapping]]:
    """The conversations of the training list, or of the benchmark where only that is there."""
    yield from rows_with_ids(find(root, "viscot_363k.json", "**/viscot_363k.json", "**/benchmark/*.json", "*.json"), own="question_id")


def chat_draft(row: Mapping) -> Draft:
    """The first turn asks, the last one answers. Raises Bad if the second image entry has no box."""
    whole, focus = row["image"]
    _, mark, box = focus.rpartition("###")
    if not mark:
        raise Bad(Reason.BAD_VALUE, "image", focus)
    turns = row["conversations"]
    question, options = parted(turns[0]["value"])
    answers, scorer = answered([turns[-1]["value"]], options, "conversations")
    return Draft(
        split=row["split"],
        image=only_image(whole, "image"),
        question=question,
        answers=answers,
        scorer=scorer,
        options=options,
        boxes=(numbers(box, "image"),),
        box_origin="dataset",
        meta=native(row, "dataset", "question_id"),
        raw=turns[0]["value"],
    )


def det_rows(root: Path) -> Iterator[tuple[Place, Mapping]]:
    """The rows of every set's detection table."""
    yield from rows_with_ids(find(root, "**/benchmark_det/*.jsonl", "*.jsonl"), own="question_id")


def det_draft(row: Mapping) -> Draft:
    """The expression is the question, its box both evidence and answer."""
    box = numbers(row["bbox"], "bbox")
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
        meta=native(row, "question_id"),
    )


SETS: tuple[Published, ...] = (
    Published(
        source="viscot",
        about="metadata/<set>_cot_train.jsonl (question, answer, image, bboxs, split), and the images in cot/<set>/",
        licence=LICENCE,
        counts="about 363,000 rows by the name of viscot_363k.json, in 12 tables",
        rows=rows,
        draft=draft,
    ),
    Published(
        source="viscot_chat",
        about="viscot_363k.json or else benchmark/*.json (image, conversations, split), and the images its paths name",
        licence=LICENCE,
        counts="about 363,000 rows; 9,937 of the benchmark",
        rows=chat_rows,
        draft=chat_draft,
    ),
    Published(
        source="viscot_det",
        about="benchmark_det/*.jsonl (img_path, expression, bbox, split), and the images its paths name",
        licence=LICENCE,
        counts="not published for this form; the benchmark has 9,937 rows",
        rows=det_rows,
        draft=det_draft,
    ),
)
