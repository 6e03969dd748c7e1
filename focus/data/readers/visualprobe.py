"""VisualProbe (`Mini-o3/VisualProbe_{Easy,Medium,Hard}`), its training part, and DeepEyes_train_4K, which has the same records.

Answers are free text, so they are judged; a final full stop, which some have, is left out. No boxes are published.

The image paths of the tests begin with the name of their repository: `data.root` is the folder that holds the three downloads. Those of the
training parts are read as `data/<file>` beside `train.json`, whatever folder they name.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath

from focus.data.readers.draft import Draft, Place, Published
from focus.data.readers.tables import rows_in
from focus.data.readers.text import native, text_of
from focus.data.readers.training import only_image

RECORD = "images, doc_id, problem, solution, data_source"
TIERS = ("VisualProbe_Easy", "VisualProbe_Medium", "VisualProbe_Hard")


def rows(root: Path) -> Iterator[tuple[Place, dict]]:
    """The rows of every tier that lies under `root`, in the order easy, hard, medium, each with its tier and the tiers that are missing.

    Raises ValueError if `root` is one tier.
    """
    if (root / "val.json").is_file():
        raise ValueError(f"data.root is {root}, which is one tier of VisualProbe; give its parent folder, {root.resolve().parent}")
    missing = [tier for tier in TIERS if not any(root.glob(f"{tier}*/val.json"))]
    for place, row in rows_in("VisualProbe_[EHM]*/val.json")(root):
        yield place, row | {"split": place.file.parent.name.removeprefix("VisualProbe_").lower(), "missing": missing}


def draft(row: Mapping, split: str = "") -> Draft:
    """A row of either part, of the tests where no `split` is given. Raises Bad if it has not exactly one image."""
    image = only_image(row["images"], "images")
    return Draft(
        split=split or row["split"],
        image=f"data/{PurePosixPath(str(image)).name}" if split else image,
        question=row["problem"],
        answers=(text_of(row["solution"]).strip().removesuffix(".").strip(),),
        scorer="judge",
        meta=native(row, "data_source"),
        notes=tuple(f"{tier} does not lie beside it: download it, or its questions are missing" for tier in row.get("missing", ())),
    )


SETS: tuple[Published, ...] = (
    Published(
        source="visualprobe",
        about=f"VisualProbe_Easy, VisualProbe_Medium and VisualProbe_Hard side by side, of each val.json ({RECORD}) and data/",
        licence="CC BY-NC 4.0",
        counts="515 rows: 141 easy, 268 medium, 106 hard (the shares are not confirmed)",
        rows=rows,
        draft=draft,
        ids=("doc_id",),
    ),
    Published(
        source="visualprobe_train",
        about=f"train.json ({RECORD}) and data/",
        licence="CC BY-NC 4.0",
        counts="4,000 rows by the paper, 5,729 by others' registries",
        rows=rows_in("train.json"),
        draft=partial(draft, split="train"),
        ids=("doc_id",),
    ),
    Published(
        source="deepeyes4k",
        about=f"DeepEyes_train_4K: train.json ({RECORD}) and data/",
        licence="CC BY-NC 4.0",
        counts="4,000 rows",
        rows=rows_in("train.json"),
        draft=partial(draft, split="train"),
        ids=("doc_id",),
    ),
)
