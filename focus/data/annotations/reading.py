"""Boxes that people drew for questions: exports of Label Studio, CVAT and COCO, and how they come onto records.

A question has one chain of boxes for each of its targets, smallest first. Which box is inside which is read by the first rule that applies:
1. level: each box says its place, by a label `B1`, `B2`, ... or an attribute `level`; 1 is the smallest.
2. link: a relation from the inner to the outer box, a parent in the region tree, `parent_id`, or a common `group_id`; each tree is a chain.
3. containment: sorted by area; boxes that lie beside each other are chains of their own.

Drawn boxes are never exact, so under every rule an inner box may stick out by 2 px or 1 % of the outer one's side; the outer one grows.
What is not used is counted by reason, with the place where that reason was first met. Nothing is skipped in silence.
"""

import json
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from focus.data.annotations.chains import annotate, size_of
from focus.data.annotations.coco import read_coco
from focus.data.annotations.cvat import parse_xml, read_cvat, unzipped
from focus.data.annotations.faults import FORMATS, BadAnnotation, Fault, Tally, counting
from focus.data.annotations.label_studio import read_label_studio
from focus.data.annotations.regions import Annotated, Key, Question, Unread, key_of
from focus.data.boxes import Size


def read_annotations(path: Path, repair: bool = False) -> tuple[list[Annotated], Counter[str], dict[str, str]]:
    """The annotated questions of an export; faults by number; of every fault, the file, the place and the key where it was first met.

    The format is recognised by content. With `repair` a box that does not contain the one before it is replaced by the union of both.
    Raises ValueError if the file is none of the formats, or leaves nothing.
    """
    tally = Tally(path.name)
    annotated = _usable(_read(path, tally), {}, repair, tally)
    if not annotated:
        raise ValueError(f"{path} has no annotation that can be used. {_told(tally)}")
    return list(annotated.values()), tally.counted, tally.first


def _read(path: Path, tally: Tally) -> list[Question]:
    """The questions of an export as it has them."""
    questions = []
    for place, read in _questions(path, tally):
        with counting(tally, place):
            question = read()
            if question is not None:
                questions.append(question)
    return questions


def _usable(questions: Iterable[Question], sizes: Mapping[Key, set[Size]], repair: bool, tally: Tally) -> dict[Key, Annotated]:
    """The annotated questions by what they call their record. `sizes` are those of the records; what is not used is counted."""
    annotated: dict[Key, Annotated] = {}
    for question in questions:
        with counting(tally, question.place):
            key = key_of(question)
            found, notes = annotate(question, size_of(question, sizes.get(key, set())), repair)
            if key in annotated:
                raise BadAnnotation(Fault.REPEATED, "question id", found.question_id or found.image)
            annotated[key] = found
            for note in notes:
                tally.add(note.fault, question.place, note.key, note.seen)
    return annotated


def _told(tally: Tally) -> str:
    return "; ".join(f"{count} x {fault} (first: {tally.first[fault]})" for fault, count in tally.counted.items()) or "It is empty"


def _questions(path: Path, tally: Tally) -> Iterator[Unread]:
    """What the file holds, not yet read. Raises ValueError, with what was seen, if it is none of the formats."""
    if not path.is_file():
        raise ValueError(f"annotations {path} do not exist; give an export: {FORMATS}")
    content = unzipped(path) if zipfile.is_zipfile(path) else path.read_bytes()
    bare = content.replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n")  # ASCII is left of UTF-16, too
    if bare.startswith(b"<"):
        return read_cvat(parse_xml(content, bare, path), tally)
    try:
        export = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} begins with {bare[:40]!r} and is neither JSON nor XML ({error}); it may be {FORMATS}") from error
    if isinstance(export, list):
        tasks = [task for task in export if isinstance(task, dict)]
        if any("data" in task or "annotations" in task for task in tasks):
            return read_label_studio(export, tally)
        if any("annotation_id" in task or "annotator" in task or _flat(task) for task in tasks):
            raise ValueError(f"{path} is Label Studio's JSON-MIN, which has lost relations and ids; export again, as JSON")
    if isinstance(export, dict) and isinstance(export.get("images"), list) and isinstance(export.get("annotations"), list):
        return read_coco(export, tally)
    seen = f"an object with the keys {', '.join(export)[:200] or '(none)'}" if isinstance(export, dict) else f"{export!r:.80}"
    raise ValueError(f"{path} is JSON, but holds {seen}; it may be {FORMATS}")


def _flat(task: Mapping) -> bool:
    """JSON-MIN: regions stand right in the task."""
    return any(isinstance(each, dict) and "original_width" in each for value in task.values() if isinstance(value, list) for each in value)
