"""TreeVGR-RL-37K: V*-like questions and counting in drone photographs, with boxes in every row.

`target_instances` is a list of `{bbox: [x1, y1, x2, y2], label, name}` in pixels of the original,
in which entries may be null; null entries are counted and left out. Each box is one target,
labelled with its name, or with its label if it has no name. The V*-like rows have free answers, the
VisDrone rows options. No width and height are stored.
"""

from collections.abc import Mapping
from dataclasses import replace

from focus.data.readers.draft import Draft, Published
from focus.data.readers.tables import rows_with_ids
from focus.data.readers.text import box_of, parse_list
from focus.data.readers.training import only_image, training_draft


def draft(row: Mapping) -> Draft:
    """Raises Bad if the targets are not a list."""
    stored = row["target_instances"]
    targets = [target or {} for target in parse_list([] if stored is None else stored, "target_instances")]
    return replace(
        training_draft(row["problem"], [row["answer"]], only_image(row["images"], "images")),
        boxes=tuple(box_of(target.get("bbox"), "target_instances.bbox") for target in targets),
        box_labels=tuple(str(target.get("name") or target.get("label") or "") for target in targets),
        box_origin="dataset",
    )


PUBLISHED: tuple[Published, ...] = (
    Published(
        source="treevgr_rl",
        about="vstar30k_visdrone6k_x1y1x2y2.parquet (images, problem, answer, target_instances), and images.tar.gz unpacked to images/",
        licence="Apache-2.0",
        counts="about 37,000 rows: about 30,000 like V*, about 6,000 of VisDrone",
        hub=("HaochenWang/TreeVGR-RL-37K",),
        size="6.1 GB",
        rows=rows_with_ids("vstar30k_visdrone6k_x1y1x2y2.parquet", "**/*.parquet"),
        draft=draft,
    ),
)
