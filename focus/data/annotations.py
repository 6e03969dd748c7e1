"""Boxes that people drew for questions: exports of Label Studio, CVAT and COCO, and how they come onto records.

A question has one chain of boxes for each of its targets, smallest first. Which box is inside which is read by the first rule that applies:
1. level: each box says its place, by a label `B1`, `B2`, ... or an attribute `level`; 1 is the smallest.
2. link: a relation from the inner to the outer box, a parent in the region tree, `parent_id`, or a common `group_id`; each tree is a chain.
3. containment: sorted by area; boxes that lie beside each other are chains of their own.

Drawn boxes are never exact, so under every rule an inner box may stick out by 2 px or 1 % of the outer one's side; the outer one grows.
What is not used is counted by reason, with the place where that reason was first met. Nothing is skipped in silence.
"""

import json
import math
import re
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from itertools import pairwise
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree

from focus.boxes import Box, Size, area, intersection
from focus.data.readers.tables import rows_of
from focus.data.sample import LEAST_SIDE_PX, mended

FORGIVEN_PX = 2.0  # a box that leaves the image by no more is clamped
SIDE_TOLERANCE = 0.01  # of the outer box's side: how far an inner box may stick out, where that is more than FORGIVEN_PX
ROUNDING_PX = 1e-6  # what computing pixels from percent may move an edge; not worth a word
LARGEST_BYTES = 1 << 30  # of an annotations.xml once unpacked
LEVEL_LABEL = re.compile(r"B\d+", re.IGNORECASE)
LEVEL = re.compile(r"B?([1-9][0-9]?)(?:\.0)?", re.IGNORECASE)
UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")  # what Label Studio puts before the name of an uploaded file
ROBOFLOW = re.compile(r"(.+)_(?:jpe?g|png|webp|bmp|tiff?)\.rf\.\w+")  # a stem as Roboflow exports it: `photo_jpg.rf.0a1b2c`
SAID = re.compile(r"\s*(chain|level)\s*[=:]\s*(.+?)\s*", re.IGNORECASE)  # as a label or a region's note: "chain=left"
NO_BOXES = ("polygon", "ellipse", "brush", "keypoint", "bitmask", "vector")  # Label Studio's other shapes; types begin like this
NOT_SHAPES = ("box", "tag")  # children of a CVAT image that are no shapes, apart from the boxes
FORMATS = "Label Studio JSON (the full export), CVAT for images 1.1 (XML, or the zip with annotations.xml), COCO detection JSON"


class Fault(StrEnum):
    """Why an annotation is not used, or a part of it is not. Without another word the whole question is dropped."""

    BAD_VALUE = "it is not built as the format says: export it again"
    NOT_ANNOTATED = "it has no annotation: submit one, or leave it out of the export"
    CANCELLED = "an annotation was cancelled; that annotation alone is skipped"
    SUPERSEDED = "the task has a ground truth or a newer annotation; the other annotation alone is skipped"
    NO_BOX = "it has no box: draw one"
    NO_IMAGE = "it names no image: the task needs data.image, one path or URL"
    BAD_BOX = "a box is not built as the format says; that box alone is dropped: export it again"
    NO_SUCH_IMAGE = "a box belongs to an image that is not in the file; that box alone is dropped: export again"
    BAD_QUESTION_ID = "its question id is neither a text nor a whole number"
    LACKS_QID = "other boxes of its image have a qid and these have none: give every box of the image one"
    NO_SIZE = "the size of its image is stated nowhere, not by a record of that image either: write it into the export, or correct the name"
    BAD_SIZE = "the size of its image is not two whole numbers, or differs between its boxes: draw them again on the image as it is"
    TURNED_SIZE = (
        "its width and height are exchanged against the record's: the exporter ignored that EXIF turns the image, so the frame of its "
        "boxes can't be told. Annotate a copy that lies upright without EXIF (`mogrify -auto-orient`)"
    )
    NOT_RECTANGULAR = "a shape is no rectangle; that shape alone is dropped: draw rectangles"
    BAD_NUMBER = "a box lacks a coordinate, or one is no number: export again"
    ROTATED = "a box or the image is rotated: draw upright rectangles (Label Studio: canRotate=false)"
    NO_AREA = "a box has no area: draw it again"
    FRACTION = "a box has a side below 1 px, as fractions of the image's sides have: give pixels (Label Studio: percent), or draw it again"
    OUTSIDE = f"a box leaves the image by more than {FORGIVEN_PX:g} px: draw it again"
    CLAMPED = f"a box left the image by at most {FORGIVEN_PX:g} px and was clamped; nothing is dropped"
    BAD_LEVEL = "a level is none of 1, 2, ... (or B1, B2, ...), or a box says two: correct it"
    LACKS_LEVEL = "some of its boxes have a level and others none: give every box one"
    REPEATED_LEVEL = "two boxes of one chain have the same level: give the boxes of each target a chain of their own (attribute `chain`)"
    GAP = "the levels of a chain are not 1, 2, ... without a gap: number them from the smallest box outward"
    DANGLING = "a link leads to a box that is not there: draw the link between two boxes of the question"
    NO_CHAIN = "its links form no chains (a box has two inner or two outer ones, or they lead back): link each inner box to one outer box"
    UNLINKED = "a box has no link, but lies in or around boxes that have: link it"
    SEVERAL_INSIDE = "a box contains several boxes that lie beside each other: give the boxes of each target levels and a chain, or links"
    NOT_NESTED = "a box does not lie inside the next, or is not smaller: draw it again, or set repair=true to grow the outer one"
    GREW = "an inner box stuck out a little and its outer box grew; nothing is dropped"
    REPAIRED = "a box did not lie inside the next, which was replaced by the union of both; nothing is dropped"
    REPEATED = "another annotation is for the same question; this one is dropped: delete one of them"
    NO_RECORD = "no record has its question id; or, where it has none, its image: check the id, or annotate the images of these records"
    SEVERAL_RECORDS = "several records have its question id: write the whole id, as in <source>/<split>/<id>"
    SEVERAL_QUESTIONS = "several records ask about its image: write the question's id (data.question_id, or the box attribute `qid`)"
    OTHER_SIZE = "its image has another size than the record's: annotate the file itself, upright and not resized"
    RENAMED = "its image is that of a record but for what an upload or an exporter made of the name; nothing is dropped: compare the two"
    OTHER_NAME = "the record with its question id has an image of another name, of the same size; nothing is dropped: compare the two"


class _Bad(ValueError):
    """One question that can't be used. `key` is where in it, `seen` what stood there."""

    def __init__(self, fault: Fault, key: str, seen: object) -> None:
        super().__init__(f"{fault} ({key}: {seen!r})")
        self.fault, self.key, self.seen = fault, key, seen


@dataclass
class _Tally:
    """Faults by number, and where each was first met."""

    file: str
    counted: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, fault: Fault, place: str, key: str, seen: object) -> None:
        self.counted[fault] += 1
        self.first.setdefault(fault, mended(f"{self.file}, {place}, {key}: {str(seen)[:80]!r}"))


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
class Written:
    """What became of an export. `counted` and `first` are those of `read_annotations`, and what was found when joining."""

    annotated: int  # records that were written
    without: int  # records that have no annotation and were left out
    rules: Counter[str]
    counted: Counter[str]
    first: Mapping[str, str]


@dataclass(frozen=True)
class _Region:
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
class _Question:
    place: str
    question_id: str | None
    image: str
    size: Size | None  # as the export states it
    regions: Sequence[_Region]
    links: Sequence[tuple[str, str]] = ()  # names of regions: inner, outer
    in_percent: bool = False


_Key = tuple[str, str]  # `id` or `image`, and which
_Unread = tuple[str, Callable[[], _Question | None]]  # its place, and what reads it


def read_annotations(path: Path, repair: bool = False) -> tuple[list[Annotated], Counter[str], dict[str, str]]:
    """The annotated questions of an export; faults by number; of every fault, the file, the place and the key where it was first met.

    The format is recognised by content. With `repair` a box that does not contain the one before it is replaced by the union of both.
    Raises ValueError if the file is none of the formats, or leaves nothing.
    """
    tally = _Tally(path.name)
    annotated = _usable(_read(path, tally), {}, repair, tally)
    if not annotated:
        raise ValueError(f"{path} has no annotation that can be used. {_told(tally)}")
    return list(annotated.values()), tally.counted, tally.first


def _read(path: Path, tally: _Tally) -> list[_Question]:
    """The questions of an export as it has them."""
    questions = []
    for place, read in _questions(path, tally):
        with _counting(tally, place):
            question = read()
            if question is not None:
                questions.append(question)
    return questions


def _usable(questions: Iterable[_Question], sizes: Mapping[_Key, set[Size]], repair: bool, tally: _Tally) -> dict[_Key, Annotated]:
    """The annotated questions by what they call their record. `sizes` are those of the records; what is not used is counted."""
    annotated: dict[_Key, Annotated] = {}
    for question in questions:
        with _counting(tally, question.place):
            key = _key(question)
            found, notes = _annotated(question, _size_of(question, sizes.get(key, set())), repair)
            if key in annotated:
                raise _Bad(Fault.REPEATED, "question id", found.question_id or found.image)
            annotated[key] = found
            for note in notes:
                tally.add(note.fault, question.place, note.key, note.seen)
    return annotated


@contextmanager
def _counting(tally: _Tally, place: str) -> Iterator[None]:
    """One question that can't be used is counted, whatever it stumbles over."""
    try:
        yield
    except _Bad as bad:
        tally.add(bad.fault, place, bad.key, bad.seen)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        tally.add(Fault.BAD_VALUE, place, type(error).__name__, error)


def write_annotated(records: Path, annotations: Path, out: Path, repair: bool = False) -> Written:
    """Write to `out` those records of a `records.jsonl` that the export annotates, with its boxes in place of any they had.

    A record is found by the question's id (the record's whole id, or what follows `<source>/<split>/`); without an id by the name of its
    image, if it alone asks about that image; else by that name without what an upload or an exporter makes of it. A size that the export
    lacks is the record's. Image paths are kept as they are: where `out` is in another folder, data.root must name the folder they are
    relative to. `out` appears when it is complete.
    Raises ValueError if a file can't be read, `out` is one of them, or no record is annotated.
    """
    if out.resolve() in (records.resolve(), annotations.resolve()):
        raise ValueError(f"{out} would be overwritten by its own annotated part; give another file to write to")
    if not records.is_file():
        raise ValueError(f"data file {records} does not exist; write the records first")
    tally = _Tally(annotations.name)
    questions = _read(annotations, tally)
    matches = _Matches(questions, _records(records))
    by_key = _usable(questions, matches.sizes, repair, tally)
    if not by_key:
        raise ValueError(f"{annotations} has no annotation that can be used. {_told(tally)}")
    used: set[_Key] = set()
    rules: Counter[str] = Counter()
    total = 0
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f"{out.name}.partial")
    with part.open("w") as lines:
        for record in _records(records):
            total += 1
            key = next((key for key in matches.of(record) if key in by_key), None)
            if key is None:
                continue
            used.add(key)
            each, size = by_key[key], (record["width"], record["height"])
            if each.size != size:
                tally.add(Fault.OTHER_SIZE, each.place, record["id"], f"{_said_size(each.size)}, the record says {_said_size(size)}")
                continue
            if _stem(each.image) != _stem(record["image"]):
                fault = Fault.RENAMED if _rewritten(_stem(record["image"])) in _likely(each.image) else Fault.OTHER_NAME
                tally.add(fault, each.place, record["id"], f"{each.image}, the record says {record['image']}")
            rules[each.rule] += 1
            boxes = {"boxes": each.chains, "box_labels": each.labels, "box_origin": "human", "box_rule": each.rule}
            lines.write(json.dumps(record | boxes) + "\n")
    for key, each in by_key.items():
        if key not in used:
            several = Fault.SEVERAL_RECORDS if key[0] == "id" else Fault.SEVERAL_QUESTIONS
            holders = matches.holders(each)
            fault = Fault.NO_RECORD if not holders else Fault.REPEATED if holders == 1 else several
            tally.add(fault, each.place, "question id" if key[0] == "id" else "image", key[1])
    if not rules:
        part.unlink()
        raise ValueError(f"{annotations} annotates none of the {total} records of {records}. {_told(tally)}")
    part.replace(out)
    return Written(rules.total(), total - rules.total(), rules, tally.counted, tally.first)


class _Matches:
    """Which annotation is for which record, by one look at all records."""

    def __init__(self, questions: Sequence[_Question], records: Iterable[dict]) -> None:
        self.sizes: dict[_Key, set[Size]] = {_key(each): set() for each in questions}
        self._holders: Counter[_Key] = Counter()
        self._likely = {_key(each): _likely(each.image) for each in questions if each.question_id is None}
        claims = Counter(name for names in self._likely.values() for name in names)
        likely_sizes: dict[str, set[Size]] = {}
        self._likely_holders: Counter[str] = Counter()
        for record in records:
            size, name = (record["width"], record["height"]), _rewritten(_stem(record["image"]))
            for key in _keys(record):
                if key in self.sizes:
                    self._holders[key] += 1
                    self.sizes[key].add(size)
            if name in claims:
                self._likely_holders[name] += 1
                likely_sizes.setdefault(name, set()).add(size)
        self._aliases: dict[str, _Key] = {}  # by the name of a record's image: the one annotation that has no other record
        for key, names in self._likely.items():
            alone = (name for name in names if claims[name] == 1 and self._likely_holders[name] == 1)
            found = None if self._holders[key] else next(alone, None)
            if found is not None:
                self._aliases[found] = key
                self.sizes[key] = likely_sizes[found]

    def of(self, record: Mapping) -> list[_Key]:
        """What annotations of this record alone are called, the surest first."""
        alias = self._aliases.get(_rewritten(_stem(record["image"])))
        return [key for key in _keys(record) if self._holders[key] == 1] + ([alias] if alias else [])

    def holders(self, annotated: Annotated) -> int:
        """How many records an annotation may be for."""
        key = _key(annotated)
        return self._holders[key] or max((self._likely_holders[name] for name in self._likely.get(key, ())), default=0)


def percent_to_px(x: float, y: float, width: float, height: float, size: Size) -> Box:
    """A box of Label Studio, in percent of the image's sides, as (x1, y1, x2, y2) in its pixels. Nothing is rounded or clamped."""
    return (x * size[0] / 100, y * size[1] / 100, (x + width) * size[0] / 100, (y + height) * size[1] / 100)


# ------------------------------------------------------------------------------------------------------------ the records


def _records(path: Path) -> Iterator[dict]:
    for place, record in rows_of(path):
        kinds = {"id": str, "image": str, "width": int, "height": int}
        if wrong := [key for key, kind in kinds.items() if type(record.get(key)) is not kind]:
            raise ValueError(f"{path}, row {place.row}: not a canonical record, its {wrong[0]} is {record.get(wrong[0])!r}")
        yield record


def _keys(record: Mapping) -> list[_Key]:
    """What an annotation may call this record by, the surest first."""
    native = record["id"].split("/", 2)[2:]
    return [*(("id", each) for each in [record["id"], *native]), ("image", _stem(record["image"]))]


def _key(annotated: Annotated | _Question) -> _Key:
    return ("image", _stem(annotated.image)) if annotated.question_id is None else ("id", annotated.question_id)


def _stem(image: str) -> str:
    """The name of an image's file without its suffix, composed: a Mac writes an é as two letters."""
    return unicodedata.normalize("NFC", PurePosixPath(image.replace("\\", "/")).stem)


def _likely(image: str) -> list[str]:
    """What the stem of an annotated image may have been before it was uploaded and exported, the least changed first; `_rewritten`."""
    names = [_stem(image)]
    for undone in (unquote, lambda name: ROBOFLOW.sub(r"\1", name), lambda name: UPLOADED.sub("", name, count=1)):
        names += [undone(name) for name in names]
    return list(dict.fromkeys(map(_rewritten, names)))


def _rewritten(stem: str) -> str:
    """A stem as an upload to Label Studio rewrites it: without blanks and marks. In small letters, to be compared."""
    return re.sub(r"[^\w.-]", "", stem.strip().replace(" ", "_")).casefold()


def _said_size(size: Size) -> str:
    return f"{size[0]}x{size[1]} px"


def _told(tally: _Tally) -> str:
    return "; ".join(f"{count} x {fault} (first: {tally.first[fault]})" for fault, count in tally.counted.items()) or "It is empty"


# ----------------------------------------------------------------------------------------------------------- recognition


def _questions(path: Path, tally: _Tally) -> Iterator[_Unread]:
    """What the file holds, not yet read. Raises ValueError, with what was seen, if it is none of the formats."""
    if not path.is_file():
        raise ValueError(f"annotations {path} do not exist; give an export: {FORMATS}")
    content = _unzipped(path) if zipfile.is_zipfile(path) else path.read_bytes()
    bare = content.replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n")  # ASCII is left of UTF-16, too
    if bare.startswith(b"<"):
        return _cvat(_xml(content, bare, path), tally)
    try:
        export = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} begins with {bare[:40]!r} and is neither JSON nor XML ({error}); it may be {FORMATS}") from error
    if isinstance(export, list):
        tasks = [task for task in export if isinstance(task, dict)]
        if any("data" in task or "annotations" in task for task in tasks):
            return _label_studio(export, tally)
        if any("annotation_id" in task or "annotator" in task or _flat(task) for task in tasks):
            raise ValueError(f"{path} is Label Studio's JSON-MIN, which has lost relations and ids; export again, as JSON")
    if isinstance(export, dict) and isinstance(export.get("images"), list) and isinstance(export.get("annotations"), list):
        return _coco(export, tally)
    seen = f"an object with the keys {', '.join(export)[:200] or '(none)'}" if isinstance(export, dict) else f"{export!r:.80}"
    raise ValueError(f"{path} is JSON, but holds {seen}; it may be {FORMATS}")


def _flat(task: Mapping) -> bool:
    """JSON-MIN: regions stand right in the task."""
    return any(isinstance(each, dict) and "original_width" in each for value in task.values() if isinstance(value, list) for each in value)


def _unzipped(path: Path) -> bytes:
    try:
        with zipfile.ZipFile(path) as archive:
            found = [each for each in archive.infolist() if PurePosixPath(each.filename).name == "annotations.xml"]
            if len(found) != 1:
                names = ", ".join(archive.namelist()[:8]) or "nothing"
                raise ValueError(
                    f"{path} holds {len(found)} files annotations.xml ({names}); export a task, or unpack it and give the file"
                )
            if found[0].file_size > LARGEST_BYTES:
                raise ValueError(
                    f"{path}: annotations.xml has {found[0].file_size} bytes unpacked, above {LARGEST_BYTES}; export fewer images"
                )
            return archive.read(found[0])
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError) as error:  # RuntimeError: a password
        raise ValueError(f"{path} can't be unpacked ({error}); export it again") from error


def _xml(content: bytes, bare: bytes, path: Path) -> ElementTree.Element:
    if b"<!DOCTYPE" in bare or b"<!ENTITY" in bare:  # before any parser sees it: entities can grow without limit or read other files
        raise ValueError(f"{path} declares a DOCTYPE or entities, which CVAT never writes; it is not read. Export it again")
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise ValueError(f"{path} is not XML to its end ({error}); export it again") from error
    if root.find("track") is not None:
        raise ValueError(f"{path} is CVAT for video; export it as CVAT for images 1.1")
    if root.tag != "annotations" or root.find("image") is None:
        children = ", ".join(dict.fromkeys(child.tag for child in root)) or "nothing"
        raise ValueError(f"{path} is XML, but <{root.tag}> with {children} in it, without <image>; it may be {FORMATS}")
    return root


# ---------------------------------------------------------------------------------------------------------- Label Studio


def _label_studio(tasks: list, tally: _Tally) -> Iterator[_Unread]:
    for number, task in enumerate(tasks, start=1):
        name = task.get("id", f"number {number}") if isinstance(task, dict) else f"number {number}"
        yield f"task {name}", partial(_task, task, f"task {name}", tally)


def _task(task: Mapping, place: str, tally: _Tally) -> _Question | None:
    annotation = _chosen(task.get("annotations") or [], place, tally)
    if annotation is None:
        return None
    place = f"{place}, annotation {annotation.get('id', '?')}"
    image, question_id = task["data"].get("image"), task["data"].get("question_id")
    if not isinstance(image, str) or not image:
        raise _Bad(Fault.NO_IMAGE, "data.image", image)
    if question_id is not None and not _text(question_id):
        raise _Bad(Fault.BAD_QUESTION_ID, "data.question_id", question_id)
    results: dict[str, list[Mapping]] = {}
    links: list[tuple[str, str]] = []
    sizes: dict[Size | None, str] = {}
    for result in annotation["result"]:
        if result["type"] == "relation":
            links += _relation(result)
        elif "id" in result:
            results.setdefault(str(result["id"]), []).append(result)
    regions = []
    for name, parts in results.items():
        drawn = next((part for part in parts if {"x", "y", "width", "height"} <= part["value"].keys()), None)
        if drawn is not None:
            sizes[_size(drawn.get("original_width"), drawn.get("original_height"), name)] = name
            regions.append(_label_studio_box(name, drawn, parts))
            links += [(name, str(parent)) for parent in {part["parentID"] for part in parts if part.get("parentID")}]
        elif any(part["type"].startswith(NO_BOXES) for part in parts):
            tally.add(Fault.NOT_RECTANGULAR, place, name, parts[0]["type"])
    if not regions:
        raise _Bad(Fault.NO_BOX, f"annotation {annotation.get('id', '?')}", "result")
    sizes.pop(None, None)  # boxes that a program uploaded state none
    if len(sizes) > 1:
        raise _Bad(Fault.BAD_SIZE, "original_width", sizes)
    return _Question(place, _text(question_id) or None, _file_name(image), next(iter(sizes), None), regions, links, in_percent=True)


def _chosen(annotations: list[Mapping], place: str, tally: _Tally) -> Mapping | None:
    """The ground truth, else the newest that was not cancelled; None if all were."""
    if not annotations:
        raise _Bad(Fault.NOT_ANNOTATED, "annotations", annotations)
    usable: list[tuple[bool, str, int, Mapping]] = []
    for annotation in annotations:
        if annotation.get("was_cancelled"):
            tally.add(Fault.CANCELLED, f"{place}, annotation {annotation.get('id', '?')}", "was_cancelled", True)
        else:
            when = annotation.get("updated_at") or annotation.get("created_at") or ""
            usable.append((bool(annotation.get("ground_truth")), str(when), len(usable), annotation))
    usable.sort(key=lambda each: each[:3])
    for *_, annotation in usable[:-1]:
        tally.add(Fault.SUPERSEDED, f"{place}, annotation {annotation.get('id', '?')}", "used", usable[-1][-1].get("id", "?"))
    return usable[-1][-1] if usable else None


def _relation(result: Mapping) -> list[tuple[str, str]]:
    """Inner and outer: the arrow points outward, and `direction` says which end its head is at. Two heads lead back, which is no chain."""
    ends, direction = (str(result["from_id"]), str(result["to_id"])), result.get("direction", "right")
    return {"right": [ends], "left": [ends[::-1]]}.get(direction, [ends, ends[::-1]])


def _label_studio_box(name: str, drawn: Mapping, parts: Sequence[Mapping]) -> _Region:
    """Several results share a region's id: its rectangle, its labels, and answers that are given for each region."""
    value, said, labels = drawn["value"], {}, []
    for part in parts:
        for key in ("rectanglelabels", "labels"):
            labels += part["value"].get(key, [])
        answer = next((part["value"][key] for key in ("choices", "text", "number") if key in part["value"]), None)
        if part.get("from_name") in ("level", "chain") and answer is not None:
            said[part["from_name"]] = " ".join(map(_text, answer)) if isinstance(answer, list) else _text(answer)
        meta = part.get("meta") or {}
        said |= {key: _text(meta[key]) for key in ("level", "chain") if key in meta}
        said |= _said(meta["text"] if isinstance(meta.get("text"), list) else [meta.get("text", "")])
    x, y, width, height = (_number(value[key]) for key in ("x", "y", "width", "height"))
    if _number(drawn.get("image_rotation") or 0) != 0:
        raise _Bad(Fault.ROTATED, f"{name}.image_rotation", drawn["image_rotation"])
    return _region(name, (x, y, width, height), labels, said, value.get("rotation"))


def _file_name(image: str) -> str:
    """The name of the image's file, from a path, a URL, a local-files address or an upload, which puts eight digits before it."""
    if image.startswith("data:"):
        return ""
    address = urlsplit(image)
    place = parse_qs(address.query).get("d", [unquote(address.path)])[0] if "://" in image or address.query else image
    place = place.replace("\\", "/")
    name = PurePosixPath(place).name
    return UPLOADED.sub("", name, count=1) if "/upload/" in place else name


# --------------------------------------------------------------------------------------------------------- CVAT and COCO


def _cvat(root: ElementTree.Element, tally: _Tally) -> Iterator[_Unread]:
    for image in root.iter("image"):
        name = image.get("name", "")
        place = f"image {name!r}"
        for shape in image:
            if shape.tag not in NOT_SHAPES:
                tally.add(Fault.NOT_RECTANGULAR, place, f"label {shape.get('label')}", shape.tag)
        regions = [_cvat_box(number, box) for number, box in enumerate(image.findall("box"), start=1)]
        yield from _by_qid(place, name, image.get("width"), image.get("height"), regions, {})


def _cvat_box(number: int, box: ElementTree.Element) -> _Region:
    x1, y1, x2, y2 = (_number(box.get(key)) for key in ("xtl", "ytl", "xbr", "ybr"))
    said = {each.get("name", "").strip().lower(): (each.text or "").strip() for each in box.findall("attribute")}
    group = (box.get("group_id") or "").strip()
    return _region(f"box {number}", (x1, y1, x2, y2), [box.get("label", "")], said, box.get("rotation"), "" if group == "0" else group)


def _coco(export: Mapping, tally: _Tally) -> Iterator[_Unread]:
    """`bbox` is x, y, width, height in pixels; what COCO has no field for stands in `attributes`, where CVAT writes it."""
    labels = {each["id"]: str(each.get("name", "")) for each in export.get("categories") or [] if isinstance(each, dict) and "id" in each}
    images: dict[object, Mapping] = {}
    regions: dict[object, list[_Region]] = {}
    parents: dict[str, str] = {}
    for image in export["images"]:
        try:
            if image["id"] in images:
                raise ValueError("two images have this id")
            images[image["id"]], regions[image["id"]] = image, []
        except (KeyError, TypeError, ValueError) as error:
            tally.add(Fault.BAD_VALUE, "images", "id", f"{image!r:.40}: {error}")
    for annotation in export["annotations"]:
        place = f"annotation {annotation.get('id', '?') if isinstance(annotation, dict) else annotation!r:.40}"
        try:
            if annotation["image_id"] not in images:
                tally.add(Fault.NO_SUCH_IMAGE, place, "image_id", annotation["image_id"])
            elif annotation.get("iscrowd") or not annotation.get("bbox"):
                tally.add(Fault.NOT_RECTANGULAR, place, "iscrowd or no bbox", annotation.get("bbox"))
            else:
                region, parent = _coco_box(annotation, labels)
                regions[annotation["image_id"]].append(region)
                parents |= {region.name: parent} if parent else {}
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            tally.add(Fault.BAD_BOX, place, type(error).__name__, error)
    for key, image in images.items():
        name = str(image.get("file_name", ""))
        yield from _by_qid(f"image {name!r}", name, image.get("width"), image.get("height"), regions[key], parents)


def _coco_box(annotation: Mapping, labels: Mapping[object, str]) -> tuple[_Region, str]:
    """The box, and the id of the annotation around it, if it says one."""
    bbox = annotation["bbox"] if len(annotation["bbox"]) == 4 else [math.nan] * 4
    x, y, width, height = map(_number, bbox)
    attributes = annotation.get("attributes") or {}
    said = {key.strip().lower(): _text(value) for key, value in attributes.items()}
    label = labels.get(annotation.get("category_id"), "")
    group, parent = ("" if said.get(key) in (None, "0") else said[key] for key in ("group_id", "parent_id"))
    box_px = (x, y, x + width, y + height)
    return _region(str(annotation["id"]), box_px, [label], said, attributes.get("rotation"), group), parent


def _by_qid(place: str, name: str, width: object, height: object, regions: list[_Region], parents: Mapping[str, str]) -> Iterator[_Unread]:
    """The questions of one image: each is the boxes with one `qid` (or `question_id`), or all boxes if none has any."""
    by_qid: dict[str, list[_Region]] = {}
    for region in regions:
        by_qid.setdefault(region.said.get("qid", ""), []).append(region)

    def read(here: str, qid: str, own: list[_Region]) -> _Question:
        if not name:
            raise _Bad(Fault.NO_IMAGE, "name or file_name", name)
        if not own:
            raise _Bad(Fault.NO_BOX, "boxes", "none")
        if not qid and len(by_qid) > 1:
            raise _Bad(Fault.LACKS_QID, f"{own[0].name}.qid", sorted(by_qid))
        links = [(region.name, parents[region.name]) for region in own if region.name in parents]
        return _Question(here, qid or None, _file_name(name), _size(width, height, "image"), own, links)

    for qid, own in (by_qid or {"": []}).items():
        here = f"{place}, qid {qid}" if qid else place
        yield here, partial(read, here, qid, own)


# --------------------------------------------------------------------------------------------------- values of all formats


def _region(name: str, box_px: Box, labels: Iterable[str], said: Mapping[str, str], rotation: object, group: str = "") -> _Region:
    """`said` without what says nothing (CVAT's unset attributes), with what labels say, and `question_id` under its short name."""
    labels = [str(label).strip() for label in labels]
    stated = {key: value for key, value in said.items() if value and value != "__undefined__"} | _said(labels)
    if "question_id" in stated:
        stated.setdefault("qid", stated["question_id"])
    return _Region(
        name=name,
        box_px=box_px,
        labels=tuple(label for label in labels if label and not SAID.fullmatch(label)),
        said=stated,
        rotation=0.0 if rotation is None else _number(rotation),
        group=group,
    )


def _said(texts: Iterable[object]) -> dict[str, str]:
    matches = [SAID.fullmatch(str(text)) for text in texts]
    return {match[1].lower(): match[2] for match in matches if match}


def _number(value: object) -> float:
    """NaN for whatever is no number, so that the box is refused where boxes are checked."""
    if not isinstance(value, int | float | str) or isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan


def _text(value: object) -> str:
    """A text, or a whole number as text; empty for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else ""
    return str(value).strip()


def _size(width: object, height: object, name: str) -> Size | None:
    """None where a side is missing, which the record may state."""
    sides = (_number(width), _number(height))
    if any(map(math.isnan, sides)):
        return None
    if not all(side.is_integer() and side > 0 for side in sides):
        raise _Bad(Fault.BAD_SIZE, f"{name}: width x height", f"{width} x {height}")
    return (int(sides[0]), int(sides[1]))


def _size_of(question: _Question, known: set[Size]) -> Size:
    """The size of the image that a question's boxes are drawn on; `known` are those of the records that it may be for."""
    if question.size is None:
        if len(known) != 1:
            raise _Bad(Fault.NO_SIZE, "width x height", f"missing; records of {question.image or 'it'} have {len(known)} sizes")
        return next(iter(known))
    if question.size not in known and question.size[::-1] in known:
        raise _Bad(Fault.TURNED_SIZE, "width x height", _said_size(question.size))
    return question.size


# --------------------------------------------------------------------------------------------------- from boxes to chains


def _annotated(question: _Question, size: Size, repair: bool) -> tuple[Annotated, list[_Bad]]:
    """The chains of a question about an image of this size, and what had to be noted about them. Raises _Bad."""
    notes: list[_Bad] = []
    regions = list(question.regions)
    if question.in_percent:
        regions = [replace(region, box_px=percent_to_px(*region.box_px, size)) for region in regions]
    regions = [_inside(region, size, notes) for region in regions]
    rule, ordered = _ordered(regions, question.links, repair)
    chains = tuple(_grown(chain, repair, notes) for chain in ordered)
    labels = tuple(tuple(map(_label, chain)) for chain in ordered)
    return Annotated(question.question_id, question.image, size, chains, labels, rule, question.place), notes


def _inside(region: _Region, size: Size, notes: list[_Bad]) -> _Region:
    if not all(map(math.isfinite, region.box_px)):
        raise _Bad(Fault.BAD_NUMBER, region.name, region.box_px)
    if region.rotation % 360 != 0:  # NaN is refused as well
        raise _Bad(Fault.ROTATED, f"{region.name}.rotation", region.rotation)
    if area(region.box_px) <= 0:
        raise _Bad(Fault.NO_AREA, region.name, region.box_px)
    clamped = intersection(region.box_px, (0.0, 0.0, float(size[0]), float(size[1])))
    moved_px = max(abs(a - b) for a, b in zip(region.box_px, clamped, strict=True))
    if moved_px > FORGIVEN_PX or area(clamped) <= 0:
        raise _Bad(Fault.OUTSIDE, region.name, f"{region.box_px} in {_said_size(size)}")
    if min(clamped[2] - clamped[0], clamped[3] - clamped[1]) < LEAST_SIDE_PX:
        raise _Bad(Fault.FRACTION, region.name, f"{region.box_px} in {_said_size(size)}")
    if moved_px > ROUNDING_PX:
        notes.append(_Bad(Fault.CLAMPED, region.name, region.box_px))
    return replace(region, box_px=clamped)


def _ordered(regions: list[_Region], links: Sequence[tuple[str, str]], repair: bool) -> tuple[str, list[list[_Region]]]:
    """The rule that applies, and the boxes of each chain from the inside out."""
    levels = [_level(region) for region in regions]
    if any(level is not None for level in levels):
        return "level", _by_level(regions, levels)
    groups = [[each for each in regions if each.group == name] for name in dict.fromkeys(each.group for each in regions if each.group)]
    grouped = [(a.name, b.name) for group in groups for a, b in pairwise(sorted(group, key=_area))]
    if links or grouped:
        return "link", _by_link(regions, [*links, *grouped])
    targets: dict[str, list[_Region]] = {}
    for region in regions:
        targets.setdefault(region.said.get("chain", ""), []).append(region)
    chains = []
    for name, members in targets.items():
        chains += [sorted(members, key=_area)] if name else _by_containment(members, repair)
    return "containment", chains


def _level(region: _Region) -> int | None:
    stated = [label for label in region.labels if LEVEL_LABEL.fullmatch(label)]
    stated += [region.said["level"]] if "level" in region.said else []
    found = {match[1] if (match := LEVEL.fullmatch(text)) else None for text in stated}
    if None in found or len(found) > 1:
        raise _Bad(Fault.BAD_LEVEL, f"{region.name}.level", " and ".join(stated))
    return int(next(iter(found)) or 0) if found else None


def _by_level(regions: list[_Region], levels: list[int | None]) -> list[list[_Region]]:
    targets: dict[str, dict[int, _Region]] = {}
    for region, level in zip(regions, levels, strict=True):
        if level is None:
            raise _Bad(Fault.LACKS_LEVEL, f"{region.name}.level", " ".join(region.labels))
        chain = targets.setdefault(region.said.get("chain") or region.group, {})
        if level in chain:
            raise _Bad(Fault.REPEATED_LEVEL, f"{region.name}.level", level)
        chain[level] = region
    for name, chain in targets.items():
        if sorted(chain) != list(range(1, len(chain) + 1)):
            raise _Bad(Fault.GAP, f"level (chain {name})" if name else "level", sorted(chain))
    return [[chain[level] for level in sorted(chain)] for chain in targets.values()]


def _by_link(regions: list[_Region], links: Iterable[tuple[str, str]]) -> list[list[_Region]]:
    by_name = {region.name: region for region in regions}
    if len(by_name) < len(regions):
        raise _Bad(Fault.BAD_VALUE, "id", "two boxes have the same")
    outer_of: dict[str, str] = {}
    inner_of: dict[str, str] = {}
    for inner, outer in links:
        if inner not in by_name or outer not in by_name:
            raise _Bad(Fault.DANGLING, "link", f"{inner} in {outer}")
        if outer_of.setdefault(inner, outer) != outer or inner_of.setdefault(outer, inner) != inner:
            raise _Bad(Fault.NO_CHAIN, "link", f"{inner} in {outer}")
    chains = [[region] for region in regions if region.name not in inner_of]
    for chain in chains:
        while chain[-1].name in outer_of:
            chain.append(by_name[outer_of[chain[-1].name]])
    if sum(map(len, chains)) < len(regions):
        raise _Bad(Fault.NO_CHAIN, "link", "a circle")
    for lone in (chain[0] for chain in chains if len(chain) == 1):
        for other in regions:
            if other is not lone and (_contains(other.box_px, lone.box_px) or _contains(lone.box_px, other.box_px)):
                raise _Bad(Fault.UNLINKED, "link", f"{lone.name} and {other.name}")
    return chains


def _by_containment(regions: list[_Region], repair: bool) -> list[list[_Region]]:
    """Boxes lie beside each other or nest; those that do neither are refused, unless `repair`."""
    chains: list[list[_Region]] = []
    for region in sorted(regions, key=_area):
        overlapping = [chain for chain in chains if _overlapping(chain[-1].box_px, region.box_px)]
        within = [chain for chain in overlapping if repair or _contains(region.box_px, chain[-1].box_px)]
        if len(within) < len(overlapping):
            apart = next(chain for chain in overlapping if chain not in within)
            raise _Bad(Fault.NOT_NESTED, f"{apart[-1].name} in {region.name}", f"{apart[-1].box_px} in {region.box_px}")
        if len(within) > 1:
            raise _Bad(Fault.SEVERAL_INSIDE, region.name, " and ".join(chain[-1].name for chain in within))
        if within:
            within[0].append(region)
        else:
            chains.append([region])
    first = {region.name: number for number, region in enumerate(regions)}
    return sorted(chains, key=lambda chain: min(first[region.name] for region in chain))


def _grown(chain: list[_Region], repair: bool, notes: list[_Bad]) -> tuple[Box, ...]:
    """The boxes of a chain, each made to contain the one before it exactly. Raises _Bad where that is more than drawing by hand excuses."""
    boxes = [chain[0].box_px]
    for before, region in pairwise(chain):
        inner, outer = boxes[-1], region.box_px
        both = (min(inner[0], outer[0]), min(inner[1], outer[1]), max(inner[2], outer[2]), max(inner[3], outer[3]))
        within = _contains(outer, inner)
        if area(both) <= area(inner) or not (within or repair):
            raise _Bad(Fault.NOT_NESTED, f"{before.name} in {region.name}", f"{inner} in {outer}")
        if max(abs(a - b) for a, b in zip(outer, both, strict=True)) > ROUNDING_PX:
            notes.append(_Bad(Fault.GREW if within else Fault.REPAIRED, f"{before.name} in {region.name}", f"{inner} in {outer}"))
        boxes.append(both)
    return tuple(boxes)


def _contains(outer: Box, inner: Box) -> bool:
    """Inner lies in outer, give or take 2 px or 1 % of outer's side."""
    x, y = (max(FORGIVEN_PX, SIDE_TOLERANCE * (outer[axis + 2] - outer[axis])) for axis in (0, 1))
    return inner[0] >= outer[0] - x and inner[1] >= outer[1] - y and inner[2] <= outer[2] + x and inner[3] <= outer[3] + y


def _overlapping(smaller: Box, larger: Box) -> bool:
    """They share more than a seam of FORGIVEN_PX, or the smaller one is so thin that it lies in the larger one with less."""
    shared = intersection(smaller, larger)
    overlap_px = min(shared[2] - shared[0], shared[3] - shared[1])
    return overlap_px > FORGIVEN_PX or (overlap_px > 0 and _contains(larger, smaller))


def _area(region: _Region) -> float:
    return area(region.box_px)


def _label(region: _Region) -> str:
    """What the box is called: its labels other than the level, if there are such."""
    return " ".join([label for label in region.labels if not LEVEL_LABEL.fullmatch(label)] or region.labels)
