"""The faults of annotations, and the tally that counts them."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

from focus.data.boxes import FORGIVEN_PX
from focus.runtime.text import replace_surrogates

FORMATS = "Label Studio JSON (the full export), CVAT for images 1.1 (XML, or the zip with annotations.xml), COCO detection JSON"


class Fault(StrEnum):
    """Why an annotation, or a part of it, is not used.

    The whole question is dropped unless the text says otherwise.
    """

    BAD_VALUE = "it does not have the structure of its format: export it again"
    NOT_ANNOTATED = "it has no annotation: submit one, or leave it out of the export"
    CANCELLED = "an annotation was cancelled; that annotation alone is skipped"
    SUPERSEDED = "the task has a ground truth or a newer annotation; the other annotation alone is skipped"
    NO_BOX = "it has no box: draw one"
    NO_IMAGE = "it names no image: the task needs data.image, one path or URL"
    BAD_BOX = "a box does not have the structure of its format; that box alone is dropped: export it again"
    NO_SUCH_IMAGE = "a box belongs to an image that is not in the file; that box alone is dropped: export again"
    BAD_QUESTION_ID = "its question id is neither text nor a whole number"
    LACKS_QID = "other boxes of its image have a qid and these have none: give every box of the image one"
    NO_SIZE = "neither the export nor a record states the size of its image: write it into the export, or correct the name"
    BAD_SIZE = "the size of its image is not two whole numbers, or differs between its boxes: draw them again on the image as it is"
    TURNED_SIZE = (
        "its width and height are those of the record, exchanged: the exporter ignored the EXIF rotation, so the frame of its boxes is "
        "unknown. Annotate a copy that is upright without EXIF (`mogrify -auto-orient`)"
    )
    NOT_RECTANGULAR = "a shape is not a rectangle; that shape alone is dropped: draw rectangles"
    BAD_NUMBER = "a box lacks a coordinate, or one is no number: export again"
    ROTATED = "a box or the image is rotated: draw upright rectangles (Label Studio: canRotate=false)"
    NO_AREA = "a box has no area: draw it again"
    FRACTION = "a box has a side below 1 px: give pixels (Label Studio: percent), not fractions of the image's sides, or draw it again"
    OUTSIDE = f"a box leaves the image by more than {FORGIVEN_PX:g} px: draw it again"
    CLAMPED = f"a box left the image by at most {FORGIVEN_PX:g} px and was clamped; nothing is dropped"
    BAD_LEVEL = "a level is not 1, 2, ... (or B1, B2, ...), or a box has two levels: correct it"
    LACKS_LEVEL = "some of its boxes have a level and others none: give every box one"
    REPEATED_LEVEL = "two boxes of one chain have the same level: give the boxes of each target a chain of their own (attribute `chain`)"
    GAP = "the levels of a chain have a gap: number them 1, 2, ... from the smallest box outward"
    DANGLING = "a link leads to a box that does not exist: draw the link between two boxes of the question"
    NO_CHAIN = "its links are not chains (a box has two inner or two outer boxes, or a circle): link each inner box to one outer box"
    UNLINKED = "a box without a link lies in or around linked boxes: link it"
    SEVERAL_INSIDE = "a box contains several separate boxes: give the boxes of each target levels and a chain, or links"
    NOT_NESTED = "a box does not lie inside the next, or is not smaller: draw it again, or set repair=true to grow the outer one"
    GREW = "an inner box stuck out a little and its outer box grew; nothing is dropped"
    REPAIRED = "a box did not lie inside the next box, which was replaced by the union of both; nothing is dropped"
    REPEATED = "another annotation is for the same question; this one is dropped: delete one of them"
    NO_RECORD = "no record has its question id (or its image, if it has no id): check the id, or annotate the images of these records"
    SEVERAL_RECORDS = "several records have its question id: write the whole id, <source>/<split>/<id>"
    SEVERAL_QUESTIONS = "several records ask about its image: write the question's id (data.question_id, or the box attribute `qid`)"
    OTHER_SIZE = "its image has another size than the record's: annotate the file itself, upright and not resized"
    RENAMED = "its image name equals a record's except for changes by an upload or exporter; nothing is dropped: compare the two"
    OTHER_NAME = "the record with its question id has an image of another name, of the same size; nothing is dropped: compare the two"


class BadAnnotation(ValueError):
    """One question that can't be used. `key` is the field, `seen` its value."""

    def __init__(self, fault: Fault, key: str, seen: object) -> None:
        super().__init__(f"{fault} ({key}: {seen!r})")
        self.fault, self.key, self.seen = fault, key, seen


@dataclass
class Tally:
    """The number of each fault, and the location of the first one."""

    file: str
    counted: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, fault: Fault, location: str, key: str, seen: object) -> None:
        self.counted[fault] += 1
        self.first.setdefault(fault, replace_surrogates(f"{self.file}, {location}, {key}: {str(seen)[:80]!r}"))

    def summary(self) -> str:
        """All faults with number and first location, for an error message."""
        return "; ".join(f"{count} x {fault} (first: {self.first[fault]})" for fault, count in self.counted.items()) or "It is empty"


@contextmanager
def counting(tally: Tally, location: str) -> Iterator[None]:
    """Counts an error inside the block as a fault of the question at `location`."""
    try:
        yield
    except BadAnnotation as bad:
        tally.add(bad.fault, location, bad.key, bad.seen)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        tally.add(Fault.BAD_VALUE, location, type(error).__name__, error)
