"""The VQA data of SEAL (`craigwu/seal_vqa_data`): LLaVA conversations about COCO and GQA images.

Records with the key `search` have `target_instances`, up to three of `{name, bbox: [x, y, width, height]}` in pixels of the original: each
is a target of its own. SEAL's model was taught to say which objects it lacks; such an answer is none to the question, and its row is
dropped. What the first human turn says about crops ("Additional visual information to focus on: <object>") is cut off. A later turn leans
on the first, so it is not used, and that is noted.
"""

import re
from collections.abc import Mapping
from dataclasses import replace

from focus.data.readers.draft import Bad, Draft, Published, Reason
from focus.data.readers.tables import rows_with_ids
from focus.data.readers.text import box_of, native
from focus.data.readers.training import asked, only_image

CROPS = re.compile(r"Additional visual information to focus on:[^\n]*\n?|<object>")
REFUSAL = "Sorry, I can not answer the question."
LATER_TURNS = "later turns of its conversation are not used"


def draft(row: Mapping) -> Draft:
    """The records' own ids may repeat. Raises Bad for an answer that says what is missing."""
    turns = row["conversations"]
    stored, answer = turns[0]["value"], turns[1]["value"]
    if answer.lstrip().startswith(REFUSAL):
        raise Bad(Reason.NO_ANSWER, "conversations", answer)
    targets = row.get("target_instances") or []
    return replace(
        asked(CROPS.sub("", stored), [answer], only_image(row.get("image"), "image"), "conversations"),  # LLaVA has records without one
        boxes=tuple(box_of(target["bbox"], "target_instances.bbox", corner=True) for target in targets),
        box_labels=tuple(str(target["name"]) for target in targets),
        box_origin="dataset",
        meta=native(row, "id"),
        raw=stored,
        notes=(LATER_TURNS,) if len(turns) > 2 else (),
    )


SETS: tuple[Published, ...] = (
    Published(
        source="seal",
        about="*.json (id, image, conversations; target_instances where there are targets), and the COCO and GQA images its paths name",
        licence="see the dataset's card",
        counts="not published",
        rows=rows_with_ids("*.json", "**/*.json", own="id"),
        draft=draft,
    ),
)
