"""TreeVGR-RL-37K: V*-like questions and counting in drone photographs, every row with boxes.

`target_instances` is a list of `{bbox: [x1, y1, x2, y2], label, name}` in pixels of the original, in which entries may be null: these are
skipped. Each box is a target of its own, labelled with its name (its label where it has none). The V*-like rows have free answers, the
VisDrone rows options. No width and height are stored.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from focus.data.readers.draft import Draft, Place, Published
from focus.data.readers.tables import find
from focus.data.readers.text import listed, numbers
from focus.data.readers.training import answered, only_image, parted, rows_with_ids


def rows(root: Path) -> Iterator[tuple[Place, Mapping]]:
    """The rows of its one table."""
    yield from rows_with_ids(find(root, "vstar30k_visdrone6k_x1y1x2y2.parquet", "**/*.parquet"))


def draft(row: Mapping) -> Draft:
    """Raises Bad for a box that is not four numbers."""
    question, options = parted(row["problem"])
    answers, scorer = answered([row["answer"]], options, "answer")
    stored = row["target_instances"]
    targets = [target for target in listed([] if stored is None else stored, "target_instances") if target and target["bbox"]]
    return Draft(
        split="train",
        image=only_image(row["images"], "images"),
        question=question,
        answers=answers,
        scorer=scorer,
        options=options,
        boxes=tuple(numbers(target["bbox"], "target_instances.bbox") for target in targets),
        box_labels=tuple(str(target.get("name") or target.get("label") or "") for target in targets),
        box_origin="dataset",
        raw=row["problem"],
    )


SETS: tuple[Published, ...] = (
    Published(
        source="treevgr_rl",
        about="vstar30k_visdrone6k_x1y1x2y2.parquet (images, problem, answer, target_instances), and images.tar.gz unpacked to images/",
        licence="Apache-2.0",
        counts="about 37,000 rows: about 30,000 like V*, about 6,000 of VisDrone",
        rows=rows,
        draft=draft,
    ),
)
