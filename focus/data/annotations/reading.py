"""Reads the annotated questions of an export: recognises its format, builds chains of boxes, counts
faults.

A question has one chain of boxes per target, smallest first. The first rule that applies decides
which box is inside which:
1. level: each box has a level, by a label `B1`, `B2`, ... or an attribute `level`; 1 is the
smallest.
2. link: a relation from the inner to the outer box, a parent in the region tree, `parent_id`, or a
common `group_id`; each tree is a chain.
3. containment: boxes are sorted by area; separate boxes are separate chains.

Drawn boxes are not exact, so under every rule an inner box may stick out by 2 px or 1 % of the
outer box's side; the outer box then grows. Unused annotations are counted by reason, with the
location of the first one. None is skipped silently.
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
    """The annotated questions of an export, the number of each fault, and the location of the first
    of each.

    The format is recognised by content. With `repair`, a box that does not contain the one before
    it is replaced by the union of both. Raises ValueError for another format, or if no annotation
    is usable.
    """
    tally = Tally(path.name)
    annotated = usable_annotations(read_questions(path, tally), {}, repair, tally)
    if not annotated:
        raise ValueError(f"{path} has no annotation that can be used. {tally.summary()}")
    return list(annotated.values()), tally.counted, tally.first


def read_questions(path: Path, tally: Tally) -> list[Question]:
    """The questions of an export, their boxes not yet ordered or checked.

    Raises ValueError for another format.
    """
    questions = []
    for location, read in _unread_questions(path, tally):
        with counting(tally, location):
            question = read()
            if question is not None:
                questions.append(question)
    return questions


def usable_annotations(questions: Iterable[Question], sizes: Mapping[Key, set[Size]], repair: bool, tally: Tally) -> dict[Key, Annotated]:
    """The annotated questions by the key of their record.

    Unused questions are counted in `tally`.

    `sizes` are the image sizes of the records by key.
    """
    annotated: dict[Key, Annotated] = {}
    for question in questions:
        with counting(tally, question.location):
            key = key_of(question)
            annotation, notes = annotate(question, size_of(question, sizes.get(key, set())), repair)
            if key in annotated:
                raise BadAnnotation(Fault.REPEATED, "question id", annotation.question_id or annotation.image)
            annotated[key] = annotation
            for note in notes:
                tally.add(note.fault, question.location, note.key, note.seen)
    return annotated


def _unread_questions(path: Path, tally: Tally) -> Iterator[Unread]:
    """The questions of the file, not yet read.

    Raises ValueError, with what was seen, for another format.
    """
    if not path.is_file():
        raise ValueError(f"annotations {path} do not exist; give an export: {FORMATS}")
    content = unzipped(path) if zipfile.is_zipfile(path) else path.read_bytes()
    # Also turns UTF-16 of ASCII text into ASCII
    bare = content.replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n")
    if bare.startswith(b"<"):
        return read_cvat(parse_xml(content, bare, path), tally)
    try:
        export = json.loads(content)
    except (ValueError, RecursionError) as error:
        seen = bare[:40].decode(errors="replace")
        raise ValueError(f"{path} begins with {seen!r} and is neither JSON nor XML ({error}); it may be {FORMATS}") from error
    if isinstance(export, list):
        tasks = [task for task in export if isinstance(task, dict)]
        if any("data" in task or "annotations" in task for task in tasks):
            return read_label_studio(export, tally)
        if any("annotation_id" in task or "annotator" in task or _is_json_min(task) for task in tasks):
            raise ValueError(f"{path} is Label Studio's JSON-MIN, which has lost relations and ids; export again, as JSON")
    if isinstance(export, dict) and isinstance(export.get("images"), list) and isinstance(export.get("annotations"), list):
        return read_coco(export, tally)
    seen = f"an object with the keys {', '.join(export)[:200] or '(none)'}" if isinstance(export, dict) else f"{export!r:.80}"
    raise ValueError(f"{path} is JSON, but holds {seen}; it may be {FORMATS}")


def _is_json_min(task: Mapping) -> bool:
    """Whether a task is JSON-MIN, where regions are directly in the task."""
    return any(isinstance(item, dict) and "original_width" in item for value in task.values() if isinstance(value, list) for item in value)
