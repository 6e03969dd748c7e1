"""VisualProbe (`Mini-o3/VisualProbe_{Easy,Medium,Hard}`), its training part, and DeepEyes_train_4K, which has the same records.

Answers are free text, so they are judged; a final full stop, which some have, is left out. No boxes are published.

The image paths of the tests begin with the name of their repository: `data.root` is the folder that holds the three downloads. Those of the
training parts are read as `data/<file>` beside `train.json`, whatever folder they name.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from focus.data.readers.draft import Bad, Draft, Place, Published, Reason
from focus.data.readers.tables import find, rows_of
from focus.data.readers.text import native

RECORD = "images, doc_id, problem, solution, data_source"


def rows_of_tests(root: Path) -> Iterator[tuple[Place, Mapping]]:
    """The rows of every tier that lies under `root`, in the order easy, hard, medium."""
    for path in find(root, "VisualProbe_[EHM]*/val.json"):
        split = path.parent.name.removeprefix("VisualProbe_").lower()
        for place, row in rows_of(path):
            yield place, row | {"split": split}


def rows_of_training(root: Path) -> Iterator[tuple[Place, Mapping]]:
    """The rows of a training part."""
    for path in find(root, "train.json"):
        for place, row in rows_of(path):
            yield place, row | {"split": "train"}


def draft(row: Mapping) -> Draft:
    """A row of either part. Raises Bad if it has not exactly one image."""
    images = row["images"]
    if not isinstance(images, list) or len(images) != 1:
        raise Bad(Reason.SEVERAL_IMAGES, "images", images)
    image = images[0]
    return Draft(
        split=row["split"],
        image=f"data/{PurePosixPath(image).name}" if row["split"] == "train" else image,
        question=row["problem"],
        answers=(row["solution"].strip().removesuffix(".").strip(),),
        scorer="judge",
        meta=native(row, "data_source"),
    )


SETS: tuple[Published, ...] = (
    Published(
        source="visualprobe",
        about=f"VisualProbe_Easy, VisualProbe_Medium and VisualProbe_Hard side by side, of each val.json ({RECORD}) and data/",
        licence="CC BY-NC 4.0",
        counts="515 rows: 141 easy, 268 medium, 106 hard (the shares are not confirmed)",
        rows=rows_of_tests,
        draft=draft,
        ids=("doc_id",),
    ),
    Published(
        source="visualprobe_train",
        about=f"train.json ({RECORD}) and data/",
        licence="CC BY-NC 4.0",
        counts="4,000 rows by the paper, 5,729 by others' registries",
        rows=rows_of_training,
        draft=draft,
        ids=("doc_id",),
    ),
    Published(
        source="deepeyes4k",
        about=f"DeepEyes_train_4K: train.json ({RECORD}) and data/",
        licence="CC BY-NC 4.0",
        counts="4,000 rows",
        rows=rows_of_training,
        draft=draft,
        ids=("doc_id",),
    ),
)
