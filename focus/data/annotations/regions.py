"""Boxes and questions as an export has them, and the meaning of its labels and notes."""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from focus.data.annotations.faults import BadAnnotation, Fault
from focus.data.annotations.image_names import file_name, stem
from focus.data.boxes import Box, Size, area

LEVEL_LABEL = re.compile(r"B\d+", re.IGNORECASE)
LEVEL = re.compile(r"B?([1-9][0-9]?)(?:\.0)?", re.IGNORECASE)
# A label or a region's note such as "chain=left"
NOTE = re.compile(r"\s*(chain|level)\s*[=:]\s*(.+?)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Annotated:
    """The boxes of one question: chains of (x1, y1, x2, y2) in pixels of the original, smallest
    first, each inside the next.

    `question_id` is the native id of a record, or its whole id; None means the only question about
    the image. `image` is a file name without folder, `size` its width and height in the annotation
    tool. `labels` are parallel to `chains`. `rule` is level, link or containment. `location` in the
    export is for messages.
    """

    question_id: str | None
    image: str
    size: Size
    chains: tuple[tuple[Box, ...], ...]
    labels: tuple[tuple[str, ...], ...]
    rule: str
    location: str


@dataclass(frozen=True)
class Region:
    """A box as the export has it; missing numbers are NaN.

    For Label Studio `box_px` is left, top, width and height in percent until the image's size is
    known. `stated` holds level, chain and qid.
    """

    name: str
    box_px: Box
    labels: tuple[str, ...]
    stated: Mapping[str, str]
    rotation: float
    group: str = ""


@dataclass(frozen=True)
class Question:
    """A question as an export has it: its boxes are not ordered and not checked yet."""

    location: str
    question_id: str | None
    image: str
    size: Size | None  # as the export states it
    regions: Sequence[Region]
    links: Sequence[tuple[str, str]] = ()  # names of regions: inner, outer
    in_percent: bool = False


Key = tuple[str, str]  # (`id`, question id) or (`image`, stem)
# location, and the function that reads the question
Unread = tuple[str, Callable[[], Question | None]]


def percent_to_px(x: float, y: float, width: float, height: float, size: Size) -> Box:
    """A box of Label Studio, in percent of the image's sides, as (x1, y1, x2, y2) in its pixels.

    Nothing is rounded or clamped.
    """
    return (x * size[0] / 100, y * size[1] / 100, (x + width) * size[0] / 100, (y + height) * size[1] / 100)


def group_by_question(
    location: str, name: str, width: object, height: object, regions: list[Region], parents: Mapping[str, str]
) -> Iterator[Unread]:
    """The questions of one image: one for the boxes of each `qid` (or `question_id`), or one for
    all boxes.
    """
    by_qid: dict[str, list[Region]] = {}
    for region in regions:
        by_qid.setdefault(region.stated.get("qid", ""), []).append(region)

    def read(here: str, qid: str, own: list[Region]) -> Question:
        if not name:
            raise BadAnnotation(Fault.NO_IMAGE, "name or file_name", name)
        if not own:
            raise BadAnnotation(Fault.NO_BOX, "boxes", "none")
        if not qid and len(by_qid) > 1:
            raise BadAnnotation(Fault.LACKS_QID, f"{own[0].name}.qid", sorted(by_qid))
        links = [(region.name, parents[region.name]) for region in own if region.name in parents]
        return Question(here, qid or None, file_name(name), read_size(width, height, "image"), own, links)

    for qid, own in (by_qid or {"": []}).items():
        here = f"{location}, qid {qid}" if qid else location
        yield here, partial(read, here, qid, own)


def make_region(name: str, box_px: Box, labels: Iterable[str], stated: Mapping[str, str], rotation: object, group: str = "") -> Region:
    """A region with cleaned attributes.

    Empty attributes and CVAT's unset ones are removed, notes in labels are added, and `question_id`
    also gets its short name `qid`.
    """
    labels = [str(label).strip() for label in labels]
    attributes = {key: value for key, value in stated.items() if value and value != "__undefined__"} | read_notes(labels)
    if "question_id" in attributes:
        attributes.setdefault("qid", attributes["question_id"])
    return Region(
        name=name,
        box_px=box_px,
        labels=tuple(label for label in labels if label and not NOTE.fullmatch(label)),
        stated=attributes,
        rotation=0.0 if rotation is None else read_number(rotation),
        group=group,
    )


def read_notes(texts: Iterable[object]) -> dict[str, str]:
    """Values by key from labels or notes such as `chain=left` and `level: 2`."""
    matches = [NOTE.fullmatch(str(text)) for text in texts]
    return {match[1].lower(): match[2] for match in matches if match}


def read_number(value: object) -> float:
    """A number or its text; NaN for anything else, so that the check of boxes refuses the box."""
    if not isinstance(value, int | float | str) or isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan


def read_text(value: object) -> str:
    """Text, or a whole number as text; empty for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else ""
    return str(value).strip()


def read_size(width: object, height: object, name: str) -> Size | None:
    """Width and height; None if a side is missing, because the record may state the size."""
    sides = (read_number(width), read_number(height))
    if any(map(math.isnan, sides)):
        return None
    if not all(side.is_integer() and side > 0 for side in sides):
        raise BadAnnotation(Fault.BAD_SIZE, f"{name}: width x height", f"{width} x {height}")
    return (int(sides[0]), int(sides[1]))


def area_of(region: Region) -> float:
    """Area of a region, in its own unit squared."""
    return area(region.box_px)


def label_of(region: Region) -> str:
    """The name of the box: its labels without the level, or with it if there is no other."""
    return " ".join([label for label in region.labels if not LEVEL_LABEL.fullmatch(label)] or region.labels)


def key_of(annotated: Annotated | Question) -> Key:
    """The key that joins an annotation to its record: the question's id, or the stem of its image
    file.
    """
    return ("image", stem(annotated.image)) if annotated.question_id is None else ("id", annotated.question_id)
