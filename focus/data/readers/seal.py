"""The VQA data of SEAL (`craigwu/seal_vqa_data`): LLaVA conversations about COCO and GQA images.

Records with the key `search` have `target_instances`, up to three of `{name, bbox: [x, y, width, height]}` in pixels of the original: each
is a target of its own. SEAL's model was taught to say which objects it lacks; such an answer is none to the question, and its row is
dropped. What the first human turn says about crops ("Additional visual information to focus on: <object>") is cut off. A later turn leans
on the first, so it is not used, and that is noted.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from focus.data.readers.draft import Bad, Draft, Place, Published, Reason
from focus.data.readers.tables import find
from focus.data.readers.text import from_corner, native, numbers
from focus.data.readers.training import answered, only_image, parted, rows_with_ids

CROPS = re.compile(r"Additional visual information to focus on:[^\n]*\n?|<object>")
REFUSAL = "Sorry, I can not answer the question."
LATER_TURNS = "later turns of its conversation are not used"


def rows(root: Path) -> Iterator[tuple[Place, Mapping]]:
    """The records of every list."""
    yield from rows_with_ids(find(root, "*.json", "**/*.json"), own="id")


def draft(row: Mapping) -> Draft:
    """The records' own ids may repeat. Raises Bad for an answer that says what is missing."""
    turns = row["conversations"]
    stored, answer = turns[0]["value"], turns[1]["value"]
    if answer.lstrip().startswith(REFUSAL):
        raise Bad(Reason.NO_ANSWER, "conversations", answer)
    question, options = parted(CROPS.sub("", stored))
    answers, scorer = answered([answer], options, "conversations")
    if not row.get("image"):  # LLaVA has records without one
        raise Bad(Reason.SEVERAL_IMAGES, "image", "none")
    targets = row.get("target_instances") or []
    return Draft(
        split="train",
        image=only_image(row["image"], "image"),
        question=question,
        answers=answers,
        scorer=scorer,
        options=options,
        boxes=tuple(from_corner(numbers(target["bbox"], "target_instances.bbox")) for target in targets),
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
        rows=rows,
        draft=draft,
    ),
)
