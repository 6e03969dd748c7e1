"""Boxes and questions as an export holds them, and what its labels and notes mean."""

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

from focus.data.annotations.faults import BadAnnotation, Fault
from focus.data.boxes import Box, Size, area

UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")  # what Label Studio puts before the name of an uploaded file

ROUNDING_PX = 1e-6  # what computing pixels from percent may move an edge; not worth a word
LEVEL_LABEL = re.compile(r"B\d+", re.IGNORECASE)
LEVEL = re.compile(r"B?([1-9][0-9]?)(?:\.0)?", re.IGNORECASE)
SAID = re.compile(r"\s*(chain|level)\s*[=:]\s*(.+?)\s*", re.IGNORECASE)  # as a label or a region's note: "chain=left"


@dataclass(frozen=True)
class Annotated:
    """The boxes of one question: chains of (x1, y1, x2, y2) in pixels of the original, smallest first, each inside the next.

    `question_id` is the native id of a record, or its whole id; None means that question which alone asks about the image. `image` is a
    file name without its folder, `size` its width and height where it was annotated. `labels` are parallel to `chains`. `rule` is level,
    link or containment.
    """

    question_id: str | None
    image: str
    size: Size
    chains: tuple[tuple[Box, ...], ...]
    labels: tuple[tuple[str, ...], ...]
    rule: str
    place: str  # in the export, to be told to people


@dataclass(frozen=True)
class Region:
    """A box as the export has it: NaN where a number was missing; of Label Studio left, top, width and height in percent, until the size
    of the image is known.
    """

    name: str
    box_px: Box
    labels: tuple[str, ...]
    said: Mapping[str, str]  # level, chain, qid
    rotation: float
    group: str = ""


@dataclass(frozen=True)
class Question:
    """A question as an export holds it: its boxes are not ordered and not checked yet."""

    place: str
    question_id: str | None
    image: str
    size: Size | None  # as the export states it
    regions: Sequence[Region]
    links: Sequence[tuple[str, str]] = ()  # names of regions: inner, outer
    in_percent: bool = False


Key = tuple[str, str]  # `id` or `image`, and which
Unread = tuple[str, Callable[[], Question | None]]  # its place, and what reads it


def percent_to_px(x: float, y: float, width: float, height: float, size: Size) -> Box:
    """A box of Label Studio, in percent of the image's sides, as (x1, y1, x2, y2) in its pixels. Nothing is rounded or clamped."""
    return (x * size[0] / 100, y * size[1] / 100, (x + width) * size[0] / 100, (y + height) * size[1] / 100)


def group_by_question(
    place: str, name: str, width: object, height: object, regions: list[Region], parents: Mapping[str, str]
) -> Iterator[Unread]:
    """The questions of one image: each is the boxes with one `qid` (or `question_id`), or all boxes if none has any."""
    by_qid: dict[str, list[Region]] = {}
    for region in regions:
        by_qid.setdefault(region.said.get("qid", ""), []).append(region)

    def read(here: str, qid: str, own: list[Region]) -> Question:
        if not name:
            raise BadAnnotation(Fault.NO_IMAGE, "name or file_name", name)
        if not own:
            raise BadAnnotation(Fault.NO_BOX, "boxes", "none")
        if not qid and len(by_qid) > 1:
            raise BadAnnotation(Fault.LACKS_QID, f"{own[0].name}.qid", sorted(by_qid))
        links = [(region.name, parents[region.name]) for region in own if region.name in parents]
        return Question(here, qid or None, _file_name(name), read_size(width, height, "image"), own, links)

    for qid, own in (by_qid or {"": []}).items():
        here = f"{place}, qid {qid}" if qid else place
        yield here, partial(read, here, qid, own)


def make_region(name: str, box_px: Box, labels: Iterable[str], said: Mapping[str, str], rotation: object, group: str = "") -> Region:
    """`said` without what says nothing (CVAT's unset attributes), with what labels say, and `question_id` under its short name."""
    labels = [str(label).strip() for label in labels]
    stated = {key: value for key, value in said.items() if value and value != "__undefined__"} | read_notes(labels)
    if "question_id" in stated:
        stated.setdefault("qid", stated["question_id"])
    return Region(
        name=name,
        box_px=box_px,
        labels=tuple(label for label in labels if label and not SAID.fullmatch(label)),
        said=stated,
        rotation=0.0 if rotation is None else read_number(rotation),
        group=group,
    )


def read_notes(texts: Iterable[object]) -> dict[str, str]:
    """What labels or notes such as `chain=left` and `level: 2` state, by key."""
    matches = [SAID.fullmatch(str(text)) for text in texts]
    return {match[1].lower(): match[2] for match in matches if match}


def read_number(value: object) -> float:
    """NaN for whatever is no number, so that the box is refused where boxes are checked."""
    if not isinstance(value, int | float | str) or isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan


def read_text(value: object) -> str:
    """A text, or a whole number as text; empty for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else ""
    return str(value).strip()


def read_size(width: object, height: object, name: str) -> Size | None:
    """None where a side is missing, which the record may state."""
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
    """What the box is called: its labels other than the level, if there are such."""
    return " ".join([label for label in region.labels if not LEVEL_LABEL.fullmatch(label)] or region.labels)


def _file_name(image: str) -> str:
    """The name of the image's file, from a path, a URL, a local-files address or an upload, which puts eight digits before it."""
    if image.startswith("data:"):
        return ""
    address = urlsplit(image)
    place = parse_qs(address.query).get("d", [unquote(address.path)])[0] if "://" in image or address.query else image
    place = place.replace("\\", "/")
    name = PurePosixPath(place).name
    return UPLOADED.sub("", name, count=1) if "/upload/" in place else name


def key_of(annotated: Annotated | Question) -> Key:
    """What joins an annotation to its record: the id of the question, or the stem of its image file."""
    return ("image", _stem(annotated.image)) if annotated.question_id is None else ("id", annotated.question_id)


def _said_size(size: Size) -> str:
    return f"{size[0]}x{size[1]} px"


def _stem(image: str) -> str:
    """The name of an image's file without its suffix, composed: a Mac writes an é as two letters."""
    return unicodedata.normalize("NFC", PurePosixPath(image.replace("\\", "/")).stem)


def _rewritten(stem: str) -> str:
    """A stem as an upload to Label Studio rewrites it: without blanks and marks. In small letters, to be compared."""
    return re.sub(r"[^\w.-]", "", stem.strip().replace(" ", "_")).casefold()
