r"""O3-Bench (`m-Just/O3-Bench`, arXiv 2512.18745): 345 questions about 204 composite charts and maps,
whose answers need several regions of the image.

`options` is a text with one option per line, `A. ...` to `F. ...`; its line breaks may be stored as
the two characters `\n`. `layout_infos` maps the ids of all regions of the image to `bbox` (x1, y1,
x2, y2 in pixels of the image), and `target_layouts` lists the ids of those that the answer needs:
each is one target. The chart images come from MME-RealWorld and the Internet.

Files, keys and the frame of the boxes were read in the owners' repository `m-Just/InSight-o3`
(`insight_o3/scripts/evaluate.py` at 10b0226, `notebooks/visualize_o3_bench.ipynb` at 8de3aa9), the
stored line breaks in their `create_parquet_dataset.py`, the counts in the paper. The `category` of a
record is the `subset`, as there. Rows have no id.
"""

import re
from collections.abc import Mapping

from focus.data.boxes import Box
from focus.data.readers.draft import Bad, Draft, Published, Reason
from focus.data.readers.tables import rows_with_ids
from focus.data.readers.text import box_of, right_option, trailing_options

LINE_BREAK = re.compile(r"\n|\\n")


def draft(row: Mapping) -> Draft:
    """Raises Bad for options that are not one per line, each with its letter."""
    rest, options = trailing_options([line for line in LINE_BREAK.split(row["options"]) if line.strip()])
    if rest or len(options) < 2:
        raise Bad(Reason.BAD_VALUE, "options", row["options"])
    return Draft(
        split="test",
        image=f"test/{row['file_name']}",
        question=LINE_BREAK.sub("\n", row["question"]),
        answers=right_option(options, row["answer"].strip(), "answer"),
        scorer="letter",
        options=options,
        boxes=tuple(_box(row["layout_infos"], target) for target in row["target_layouts"]),
        box_origin="dataset",
        size=(row["img_width"], row["img_height"]),
        meta={"category": row["subset"]},
        raw=row["question"],
    )


def _box(layouts: Mapping, target: object) -> Box | None:
    layout = layouts.get(str(target))
    return box_of(layout.get("bbox"), "layout_infos.bbox") if isinstance(layout, Mapping) else None


PUBLISHED: tuple[Published, ...] = (
    Published(
        source="o3bench",
        about=(
            "test/metadata.jsonl (file_name, subset, question, options, answer, target_layouts, layout_infos, img_width, img_height), "
            "and the images its paths name, relative to test/"
        ),
        licence=None,
        counts="345 rows: 163 about charts, 182 about maps",
        hub=("m-Just/O3-Bench",),
        rows=rows_with_ids("test/metadata.jsonl"),
        draft=draft,
    ),
)
