"""What can be wrong with an annotation, and how often it was."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

from focus.data.sample import mended

FORMATS = "Label Studio JSON (the full export), CVAT for images 1.1 (XML, or the zip with annotations.xml), COCO detection JSON"

FORGIVEN_PX = 2.0  # a box that leaves the image by no more is clamped


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


class BadAnnotation(ValueError):
    """One question that can't be used. `key` is where in it, `seen` what stood there."""

    def __init__(self, fault: Fault, key: str, seen: object) -> None:
        super().__init__(f"{fault} ({key}: {seen!r})")
        self.fault, self.key, self.seen = fault, key, seen


@dataclass
class Tally:
    """Faults by number, and where each was first met."""

    file: str
    counted: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, fault: Fault, place: str, key: str, seen: object) -> None:
        self.counted[fault] += 1
        self.first.setdefault(fault, mended(f"{self.file}, {place}, {key}: {str(seen)[:80]!r}"))


@contextmanager
def counting(tally: Tally, place: str) -> Iterator[None]:
    """One question that can't be used is counted, whatever it stumbles over."""
    try:
        yield
    except BadAnnotation as bad:
        tally.add(bad.fault, place, bad.key, bad.seen)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        tally.add(Fault.BAD_VALUE, place, type(error).__name__, error)
