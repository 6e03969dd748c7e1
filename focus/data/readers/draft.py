"""The output of a reader of a published set: one row as a draft of the canonical record, its image
unopened.

A reader is two small functions: `rows` iterates over the published files of a set, `draft` reads
one row. A row that can't be used raises `Bad` with its reason; `ingest` counts it under that reason
with file, row and key. No row is skipped silently.
"""

import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from focus.data.boxes import Box

ROW_ID = "row id"  # the column that `rows_with_ids` adds
NOT_STATED = "not stated"  # a licence or size
UNREAD = "unread"  # the only column of a row that can't be read; it holds the reason
Rows = Callable[[Path], Iterator[tuple["Location", dict]]]


class Reason(StrEnum):
    """Why a row, or a box of it, is not used. The text says what to do if there is a remedy."""

    VIDEO = "it is about a video"
    SEVERAL_IMAGES = "it has not exactly one image"
    NO_IMAGE = "its image file does not exist: unpack the images beside the table, or set data.root to their folder"
    OUTSIDE_ROOT = "its image path leads out of data.root: set data.root to the folder that the paths are relative to"
    MARKUP = "its question or an option contains markup that only prompts may contain"
    BAD_IMAGE = "its image can't be used, for the reason given below: replace a damaged file"
    BAD_BASE64 = "its image is neither base64 nor the index of another row with one: correct the file, or download it again"
    BAD_LINE = "its line can't be read: correct the file, or download it again"
    BAD_LIST = "a list is expected, or a text that holds one"
    BAD_VALUE = "a value is not one that the format has"
    LACKS_KEY = "it lacks a key of the format"
    NO_QUESTION = "its question is empty, or empty without its wrapping"
    NO_ANSWER = "it has no answer"
    NOT_AN_OPTION = "its answer is none of its options"
    LONE_LETTER = "its answer is a letter, but its question lists no options that can be read"
    REPEATED = "another row has the same id"
    KNOWN_WRONG_LABEL = "its published answer is known to be wrong"
    OTHER_FRAME = "its boxes are in another frame: the published width and height are not those of its image; the boxes are dropped"
    BOX_OUTSIDE = "a box leaves the image by more than 2 px or has no area; the box alone is dropped"
    BOX_BELOW_PX = (
        "a box has a side below 1 px, so it may be in fractions of the image's sides: pixels are expected; the box alone is dropped"
    )
    BOX_UNREADABLE = "a box is missing or is not four numbers; the box alone is dropped"
    OTHER_NAME = "the name of its image file differs in Unicode form, case or slashes"
    TURNED = "its image is rotated by EXIF; its boxes are read as upright"


# A few such rows are faults of the publisher. Many such rows mean another release, and there is a
# remedy
LAYOUT = (Reason.BAD_VALUE, Reason.LACKS_KEY, Reason.NO_ANSWER, Reason.NOT_AN_OPTION, Reason.LONE_LETTER)


class Bad(ValueError):
    """One row that can't be used. `key` is the column or key in the row, `seen` its value."""

    def __init__(self, reason: Reason, key: str, seen: object = "") -> None:
        super().__init__(f"{reason} ({key}: {str(seen)[:80]!r})" if seen != "" else f"{reason} ({key})")
        self.reason, self.key, self.seen = reason, key, seen


@dataclass(frozen=True)
class Location:
    """The location of a row: its file, and its number from 1, not counting a header."""

    file: Path
    row: int


@dataclass(frozen=True)
class Draft:
    """One question as published.

    `image` is a path relative to the root of the set, or the encoded bytes of the image file.
    `question` is as stored: `ingest` strips image tags, tool prompts and trailers from it. `boxes`
    are (x1, y1, x2, y2) in pixels of the original, one per target; None is a malformed box. No
    published set has nested boxes (`chains`).
    """

    split: str
    image: str | bytes
    question: str
    answers: tuple[str, ...]
    scorer: str  # letter, number, exact, anls, vqa10, judge
    options: tuple[tuple[str, str], ...] = ()
    boxes: tuple[Box | None, ...] = ()
    # Nested boxes instead of `boxes`: one chain per target, smallest first
    chains: tuple[tuple[Box | None, ...], ...] = ()
    box_labels: tuple[str, ...] = ()  # one per target, or none
    box_origin: str | None = None  # human, dataset, ocr, derived
    # Published width and height, if any: the frame of the boxes
    size: tuple[object, object] | None = None
    # mcq, short_text, number, yes_no, sentence, bbox; default: derived from options and answers
    answer_type: str = ""
    group: str = ""  # rows that must be averaged together; default: the image
    meta: Mapping[str, object] = field(default_factory=dict)
    # encoded; `meta` has the path of each under the same name
    more_images: Mapping[str, bytes] = field(default_factory=dict)
    raw: str = ""  # the stored text if `question` is only a part of it
    notes: tuple[str, ...] = ()  # counted, although the row is used


@dataclass(frozen=True)
class Published:
    """A published set: its name in `data.source`, what it is, and how its files are read.

    `ids` are possible names of the column with a row's id; the first that a row has is used. Sets
    without such a column use `ROW_ID`. `size` and `licence` are those that the owner states.
    """

    source: str
    about: str
    licence: str | None  # None: the owner states none, or the statement was not found
    counts: str  # the published row counts, in words
    rows: Rows
    draft: Callable[[Mapping], Draft]
    ids: tuple[str, ...] = (ROW_ID,)
    identity: str = ""  # of the one table that is read; empty: all tables under the root are read
    # What `hf download` takes: a repository of the hub, and its files if not all are read. Several
    # repositories lie side by side, each in a folder of its name
    hub: tuple[str, ...] = ()
    home: str = ""  # where the files are if they are not on the hub
    size: str | None = None  # of the download

    @property
    def origin(self) -> str:
        """Where the files are, how large and under which licence, in one sentence."""
        names = ", ".join(name.split()[0] for name in self.hub)
        place = f"Hub: {names or f'no name known; files: {self.home}'}"
        return f"{place}; size: {self.size or NOT_STATED}; licence: {self.licence or NOT_STATED}"

    def download(self, root: Path) -> str:
        """What to do to have the files in `root`: the origin, then one command per line."""
        folders = [root / name.split()[0].rpartition("/")[2] if len(self.hub) > 1 else root for name in self.hub]
        commands = [
            f"hf download {name} --repo-type dataset --local-dir {shlex.quote(str(folder))}"
            for name, folder in zip(self.hub, folders, strict=True)
        ]
        return "\n      ".join([f"{self.origin}. Put the files into {root}" + (":" if commands else ""), *commands])
