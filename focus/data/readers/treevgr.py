"""TreeVGR-RL-37K: V*-like questions and counting in drone photographs, every row with boxes.

`target_instances` is a list of `{bbox: [x1, y1, x2, y2], label, name}` in pixels of the original, in which entries may be null: these are
counted and left out. Each box is a target of its own, labelled with its name (its label where it has none). The V*-like rows have free
answers, the VisDrone rows options. No width and height are stored.
"""

from collections.abc import Mapping
from dataclasses import replace

from focus.data.readers.draft import Draft, Published
from focus.data.readers.tables import rows_with_ids
from focus.data.readers.text import box_of, listed
from focus.data.readers.training import asked, only_image


def draft(row: Mapping) -> Draft:
    """Raises Bad for targets that are no list."""
    stored = row["target_instances"]
    targets = [target or {} for target in listed([] if stored is None else stored, "target_instances")]
    return replace(
        asked(row["problem"], [row["answer"]], only_image(row["images"], "images")),
        boxes=tuple(box_of(target.get("bbox"), "target_instances.bbox") for target in targets),
        box_labels=tuple(str(target.get("name") or target.get("label") or "") for target in targets),
        box_origin="dataset",
    )


SETS: tuple[Published, ...] = (
    Published(
        source="treevgr_rl",
        about="vstar30k_visdrone6k_x1y1x2y2.parquet (images, problem, answer, target_instances), and images.tar.gz unpacked to images/",
        licence="Apache-2.0",
        counts="about 37,000 rows: about 30,000 like V*, about 6,000 of VisDrone",
        rows=rows_with_ids("vstar30k_visdrone6k_x1y1x2y2.parquet", "**/*.parquet"),
        draft=draft,
    ),
)
