"""What a reader of a published set hands over: one row in the terms of the canonical record, before its image is opened.

A reader is two small functions: `rows` walks the files of a set as they were published, `draft` reads one row. A row that can't be used
raises `Bad` with its reason; `ingest` counts it under that reason with file, row and key. Nothing is skipped in silence.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from focus.data.boxes import Box

ROW_ID = "row id"  # the column that `rows_with_ids` makes
UNREAD = "unread"  # the only column of a row that its file has but that can't be read: why not
Rows = Callable[[Path], Iterator[tuple["Place", dict]]]


class Reason(StrEnum):
    """Why a row is not used, or a box of it is not. The text says what to do where there is something to do."""

    VIDEO = "it is about a video"
    SEVERAL_IMAGES = "it has not exactly one image"
    NO_IMAGE = "its image file does not exist: unpack the images beside the table, or set data.root to their folder"
    OUTSIDE_ROOT = "its image path leads out of data.root: set data.root to the folder that the paths are relative to"
    MARKUP = "its question or an option holds what only prompts may contain"
    BAD_IMAGE = "its image can't be used, for the reason behind its place: where the file is damaged, download it again"
    BAD_BASE64 = "its image is neither base64 nor the index of another row with one: download the file again"
    BAD_LINE = "its line can't be read: download the file again"
    BAD_LIST = "a list that is stored as text can't be read"
    BAD_VALUE = "a value has another type than the published format"
    LACKS_KEY = "it lacks a key of the published format"
    NO_QUESTION = "nothing is left of its question"
    NO_ANSWER = "it has no answer"
    NOT_AN_OPTION = "its answer is none of its options"
    LONE_LETTER = "its answer is a letter, but its question lists no options that can be read"
    REPEATED = "another row has the same id"
    KNOWN_WRONG_LABEL = "its published answer is known to be wrong"
    OTHER_FRAME = "its boxes are in another frame: the published width and height are not those of its image; the boxes are dropped"
    BOX_OUTSIDE = "a box leaves the image by more than 2 px or has no area; the box alone is dropped"
    BOX_BELOW_PX = "a box has a side below 1 px, as fractions of the image's sides have: pixels are expected; the box alone is dropped"
    BOX_UNREADABLE = "where a box should stand is nothing or something else than four numbers; the box alone is dropped"
    OTHER_NAME = "its image was found under a name of another Unicode form, another case, or with other slashes"
    TURNED = "its image lies on its side by EXIF; its boxes are taken as upright"


# A few such rows are the publisher's. Many of them are another release, for which there is a remedy
LAYOUT = (Reason.BAD_VALUE, Reason.LACKS_KEY, Reason.NO_ANSWER, Reason.NOT_AN_OPTION, Reason.LONE_LETTER)


class Bad(ValueError):
    """One row that can't be used. `key` is where in the row, `seen` what stood there."""

    def __init__(self, reason: Reason, key: str, seen: object = "") -> None:
        super().__init__(f"{reason} ({key}: {str(seen)[:80]!r})" if seen != "" else f"{reason} ({key})")
        self.reason, self.key, self.seen = reason, key, seen


@dataclass(frozen=True)
class Place:
    """Where a row stands: its file, and its number from 1 (of a TSV or JSON lines file the header does not count)."""

    file: Path
    row: int


@dataclass(frozen=True)
class Draft:
    """One question as published.

    `image` is a path relative to the root of the set, or the encoded bytes of the image file. `question` is as stored: `ingest` strips
    image tags, tool prompts and trailers from it. `boxes` are (x1, y1, x2, y2) in pixels of the original, one for each target (None: what
    stands there is no box): nobody publishes nested ones.
    """

    split: str
    image: str | bytes
    question: str
    answers: tuple[str, ...]
    scorer: str  # letter, number, exact, anls, vqa10, judge
    options: tuple[tuple[str, str], ...] = ()
    boxes: tuple[Box | None, ...] = ()
    box_labels: tuple[str, ...] = ()  # of each box, or none at all
    box_origin: str | None = None  # human, dataset, ocr, derived
    size: tuple[object, object] | None = None  # width and height as published, if they are: the frame of the boxes
    answer_type: str = ""  # mcq, short_text, number, yes_no, sentence, bbox; default: as options and answers look
    group: str = ""  # rows that must be averaged together; default: the image
    meta: Mapping[str, object] = field(default_factory=dict)
    more_images: Mapping[str, bytes] = field(default_factory=dict)  # encoded; `meta` says under the same name where each lies
    raw: str = ""  # the stored text where `question` is only a part of it
    notes: tuple[str, ...] = ()  # what is to be counted although the row is used


@dataclass(frozen=True)
class Published:
    """A published set: its name in `data.source`, what it is, and how its files are read.

    `ids` are the names of the column that holds a row's id: the first one that a row has. Sets without such a column have `ROW_ID`.
    """

    source: str
    about: str
    licence: str
    counts: str  # the published row counts, as one would say them
    rows: Rows
    draft: Callable[[Mapping], Draft]
    ids: tuple[str, ...] = (ROW_ID,)
