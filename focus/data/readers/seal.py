"""The VQA data of SEAL (`craigwu/seal_vqa_data`): LLaVA conversations about COCO and GQA images.

Records with the key `search` have `target_instances`, up to three of `{name, bbox: [x, y, width,
height]}` in pixels of the original; each is one target. SEAL's model was trained to name the
objects that it lacks; such an answer does not answer the question, and its row is dropped. The text
about crops in the first human turn ("Additional visual information to focus on: <object>") is
removed. Later turns depend on the first, so they are not used, and a note is counted.
"""

import re
from collections.abc import Mapping
from dataclasses import replace

from focus.data.readers.draft import Bad, Draft, Published, Reason
from focus.data.readers.tables import rows_with_ids
from focus.data.readers.text import box_of, meta_fields
from focus.data.readers.training import only_image, training_draft

CROPS = re.compile(r"Additional visual information to focus on:[^\n]*\n?|<object>")
REFUSAL = "Sorry, I can not answer the question."
LATER_TURNS = "later turns of its conversation are not used"


def draft(row: Mapping) -> Draft:
    """The records' own ids may repeat. Raises Bad for an answer that names missing objects."""
    turns = row["conversations"]
    stored, answer = turns[0]["value"], turns[1]["value"]
    if answer.lstrip().startswith(REFUSAL):
        raise Bad(Reason.NO_ANSWER, "conversations", answer)
    targets = row.get("target_instances") or []
    return replace(
        # LLaVA has records without an image
        training_draft(CROPS.sub("", stored), [answer], only_image(row.get("image"), "image"), "conversations"),
        boxes=tuple(box_of(target["bbox"], "target_instances.bbox", corner=True) for target in targets),
        box_labels=tuple(str(target["name"]) for target in targets),
        box_origin="dataset",
        meta=meta_fields(row, "id"),
        raw=stored,
        notes=(LATER_TURNS,) if len(turns) > 2 else (),
    )


PUBLISHED: tuple[Published, ...] = (
    Published(
        source="seal",
        about="*.json (id, image, conversations; target_instances where there are targets), and the COCO and GQA images its paths name",
        licence=None,
        counts="not published",
        hub=("craigwu/seal_vqa_data",),
        rows=rows_with_ids("*.json", "**/*.json", own="id"),
        draft=draft,
    ),
)
