"""VisualProbe (`Mini-o3/VisualProbe_{Easy,Medium,Hard}`), its training part, and DeepEyes_train_4K,
with the same record format.

Answers are free text, so they are judged. A final full stop is removed. No boxes are published.

The image paths of the tests begin with the name of their repository: `data.root` is the folder that
holds the three downloads. The image paths of the training parts are read as `data/<file>` beside
`train.json`, without the folder that they name.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath

from focus.data.readers.draft import Draft, Location, Published
from focus.data.readers.tables import rows_in
from focus.data.readers.text import meta_fields, text_of
from focus.data.readers.training import only_image

RECORD = "images, doc_id, problem, solution, data_source"
TIERS = ("VisualProbe_Easy", "VisualProbe_Medium", "VisualProbe_Hard")


def rows(root: Path) -> Iterator[tuple[Location, dict]]:
    """The rows of every tier under `root`, in the order easy, hard, medium, each with its tier and
    the missing tiers.

    Raises ValueError if `root` is one tier.
    """
    if (root / "val.json").is_file():
        raise ValueError(f"data.root is {root}, which is one tier of VisualProbe; give its parent folder, {root.resolve().parent}")
    missing = [tier for tier in TIERS if not any(root.glob(f"{tier}*/val.json"))]
    for location, row in rows_in("VisualProbe_[EHM]*/val.json")(root):
        yield location, row | {"split": location.file.parent.name.removeprefix("VisualProbe_").lower(), "missing": missing}


def draft(row: Mapping, split: str = "") -> Draft:
    """A row of a training part, or of the tests if `split` is empty.

    Raises Bad for none or several images.
    """
    image = only_image(row["images"], "images")
    return Draft(
        split=split or row["split"],
        image=f"data/{PurePosixPath(str(image)).name}" if split else image,
        question=row["problem"],
        answers=(text_of(row["solution"]).strip().removesuffix(".").strip(),),
        scorer="judge",
        meta=meta_fields(row, "data_source"),
        notes=tuple(f"{tier} is not beside it: download it, or its questions are missing" for tier in row.get("missing", ())),
    )


PUBLISHED: tuple[Published, ...] = (
    Published(
        source="visualprobe",
        about=f"VisualProbe_Easy, VisualProbe_Medium and VisualProbe_Hard side by side, of each val.json ({RECORD}) and data/",
        licence="CC BY-NC 4.0",
        counts="515 rows: 141 easy, 268 medium, 106 hard (the shares are not confirmed)",
        hub=tuple(f"Mini-o3/{tier}" for tier in TIERS),
        size="0.8 GB (Medium), 0.3 GB (Hard)",
        rows=rows,
        draft=draft,
        ids=("doc_id",),
    ),
    Published(
        source="visualprobe_train",
        about=f"train.json ({RECORD}) and data/",
        licence="CC BY-NC 4.0",
        counts="4,000 rows by the paper, 5,729 by others' registries",
        hub=("Mini-o3/VisualProbe_train",),
        size="12.6 GB",
        rows=rows_in("train.json"),
        draft=partial(draft, split="train"),
        ids=("doc_id",),
    ),
    Published(
        source="deepeyes4k",
        about=f"DeepEyes_train_4K: train.json ({RECORD}) and data/",
        licence="CC BY-NC 4.0",
        counts="4,000 rows",
        hub=("Mini-o3/DeepEyes_train_4K",),
        rows=rows_in("train.json"),
        draft=partial(draft, split="train"),
        ids=("doc_id",),
    ),
)
