"""The canonical record, one question about one image, and its file of JSON lines."""

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, overload

import numpy as np

from focus.data.boxes import LEAST_SIDE_PX, Box, area, intersection
from focus.data.images.original import Original, read
from focus.runtime.files import atomic_write, json_text
from focus.runtime.text import replace_surrogates_in

SCHEMA = 1
SCORERS = ("letter", "number", "exact", "anls", "vqa10", "judge")
MARKUP = ("<image>", "<|", "image_zoom_in_tool")
HALF_CHARACTER = "it contains half a character (a surrogate), which is replaced by U+FFFD"
TYPES = {
    "id": str,
    "source": str,
    "split": str,
    "image": str,
    "width": int,
    "height": int,
    "question": str,
    "answers": list,
    "scorer": str,
    "options": list,
    "boxes": list,
    "group": str,
    "meta": dict,
}
KINDS = {str: "a text", int: "a whole number", list: "a list", dict: "an object"}
SHOWN = 80  # characters of a value that a message quotes


class ImageSource(Protocol):
    """An image that is opened when its pixels are needed, once per group of rollouts."""

    def open(self) -> Original:
        """The original image.

        Raises ValueError, with the file and the remedy, if it cannot be read.
        """
        ...


@dataclass(frozen=True)
class ImageFile:
    """An image file on disk."""

    path: Path

    def open(self) -> Original:
        return read(self.path)


@dataclass(frozen=True)
class Sample:
    """One question about one image.

    `boxes` holds one chain per target: boxes in pixels of the original (`box_px`), smallest first,
    each inside the next (B1, B2, B3). Samples of one `group` (usually the image) stay together when
    the bootstrap resamples.
    """

    id: str
    source: str
    split: str
    image: ImageSource
    width: int
    height: int
    question: str
    answers: tuple[str, ...]
    scorer: str = "exact"
    options: tuple[tuple[str, str], ...] = ()
    boxes: tuple[tuple[Box, ...], ...] = ()
    group: str = ""
    meta: dict[str, object] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the original, in pixels."""
        return (self.width, self.height)

    def open(self) -> Original:
        """The original. Raises ValueError if it cannot be read or is not of the stated size."""
        original = self.image.open()
        if original.size != self.size:
            raise ValueError(
                f"sample {self.id}: the image is {original.size[0]}x{original.size[1]} px but the record says "
                f"{self.width}x{self.height}; sizes are those after EXIF rotation: rewrite the record"
            )
        return original


@dataclass(frozen=True)
class Limits:
    """The longest question that is used: characters (options included) and number of options.

    None: no limit.
    """

    chars: int | None = None
    options: int | None = None


UNLIMITED = Limits()


def problems_of(sample: Sample, limits: Limits = UNLIMITED) -> list[str]:
    """What is wrong with a record, one line per kind of fault.

    A record without problems can be used.
    """
    problems = []
    if limits.options is not None and len(sample.options) > limits.options:
        problems.append(f"it has more than {limits.options} options; data.max_options allows more")
    chars = len(sample.question) + sum(len(key) + len(text) for key, text in sample.options)
    if limits.chars is not None and chars > limits.chars:
        problems.append(f"its question and options have more than {limits.chars} characters; data.max_question_chars allows more")
    if sample.width < 1 or sample.height < 1:
        problems.append("its width or height is below 1 px")
    if not sample.answers or not all(answer.strip() for answer in sample.answers):
        problems.append("it has no accepted answer, or an empty one")
    if sample.scorer not in SCORERS:
        problems.append(f"its scorer is {sample.scorer!r}; choose one of {', '.join(SCORERS)}")
    if sample.scorer == "letter" and (not sample.answers or sample.answers[0] not in dict(sample.options)):
        problems.append("its first answer is not the key of one of its options")
    shown = " ".join([sample.question, *(text for option in sample.options for text in option)])
    if marks := [mark for mark in MARKUP if mark in shown]:
        problems.append(f"its question or an option contains {marks[0]!r}, which only prompts may contain")
    if not all(sample.boxes):
        problems.append("a target has no box")
    pairs = [pair for chain in sample.boxes for pair in pairwise(chain)]
    if any(area(inner) >= area(outer) or intersection(inner, outer) != inner for inner, outer in pairs):
        problems.append("a box does not lie inside the next; chains go from the smallest box outward")
    image_px = (0, 0, sample.width, sample.height)
    if any(area(box_px) <= 0 or intersection(box_px, image_px) != box_px for chain in sample.boxes for box_px in chain):
        problems.append("a box has no area or leaves the image")
    elif any(min(x2 - x1, y2 - y1) < LEAST_SIDE_PX for chain in sample.boxes for x1, y1, x2, y2 in chain):
        problems.append("a box has a side below 1 px; boxes are in pixels of the image, not in fractions of its sides")
    return problems


def write_records(samples: Iterable[Sample], folder: Path) -> Path:
    """Write images (PNG, named by their hash) and `records.jsonl` into `folder`; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    records = folder / "records.jsonl"
    with atomic_write(records) as partial, partial.open("w") as out:
        for sample in samples:
            original = sample.open()
            scratch = folder / "image.png.partial"
            original.reduced(original.size).save(scratch, format="PNG")
            digest = hashlib.sha256(scratch.read_bytes()).hexdigest()
            name = f"{digest}.png"
            scratch.rename(folder / name)
            record = asdict(sample) | {
                "schema": SCHEMA,
                "image": name,
                "image_sha256": digest,
                "options": [{"key": key, "text": text} for key, text in sample.options],
            }
            out.write(json_text(record) + "\n")
    return records


class Records(Sequence[Sample]):
    """Records of a JSON-lines file, parsed on access.

    Memory holds only the offset of each usable line (8 bytes).
    """

    def __init__(
        self,
        path: Path,
        root: Path,
        starts: np.ndarray,
        first_met: Mapping[str, str] = MappingProxyType({}),
        notes: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self.path, self.root, self.starts = path, root, starts
        # By reason for dropping or noting a record: the id of the first such record
        self.first_met = first_met
        self.notes = notes  # number of used records by note

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> "Records": ...

    def __getitem__(self, index: int | slice) -> "Sample | Records":
        if isinstance(index, slice):
            return Records(self.path, self.root, self.starts[index])
        with self.path.open("rb") as lines:
            lines.seek(int(self.starts[index]))
            return _sample(_parsed(lines.readline())[0], self.root)

    def __iter__(self) -> Iterator[Sample]:
        """All records in order; the file is opened once."""
        with self.path.open("rb") as lines:
            for start in self.starts:
                lines.seek(int(start))
                yield _sample(_parsed(lines.readline())[0], self.root)


def read_records(records: Path, root: Path | None = None, limits: Limits = UNLIMITED) -> tuple[Records, Counter[str]]:
    """The checked samples of a `records.jsonl`, and the number of dropped records by their first
    problem.

    Images are not opened. Image paths are relative to `root` (default: the folder of the file).
    Questions longer than `limits` are dropped. Raises ValueError if the file is missing, is not
    JSON lines, repeats an id, or has no usable record.
    """
    if not records.is_file():
        raise ValueError(f"data file {records} does not exist; write one with `make scenes`, or set data.records")
    root = root or records.parent
    starts = array("q")
    dropped: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    first: dict[str, str] = {}  # by reason: the id of the first such record
    seen: set[bytes] = set()  # digests of ids, which may be long
    for number, start, record, replaced in _lines(records):
        try:
            sample = _sample(record, root)
        except (KeyError, ValueError) as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else error
            raise ValueError(f"{records}, line {number}: not a record of schema {SCHEMA} ({reason}); docs/data.md has all keys") from error
        digest = hashlib.blake2b(sample.id.encode(), digest_size=12).digest()
        if digest in seen:
            raise ValueError(f"{records}, line {number}: the id {sample.id!r} occurs twice; ids must be unique")
        seen.add(digest)
        if problems := problems_of(sample, limits):
            dropped[problems[0]] += 1
            first.setdefault(problems[0], sample.id)
            continue
        starts.append(start)
        if replaced:
            notes[HALF_CHARACTER] += 1
            first.setdefault(HALF_CHARACTER, sample.id)
    if not starts:
        reasons = "; ".join(f"{count} dropped: {reason} (first: {first[reason]})" for reason, count in dropped.items())
        raise ValueError(f"{records} holds no usable record: {reasons or 'it is empty'}")
    return Records(records, root, np.array(starts), first, notes), dropped


def _lines(records: Path) -> Iterator[tuple[int, int, dict, bool]]:
    """Of every line that is not blank: number (from 1), offset, content, and whether a surrogate
    was replaced.
    """
    with records.open("rb") as lines:
        start = 0
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield number, start, *_parsed(line)
                except (ValueError, RecursionError) as error:  # ValueError includes bytes that are not UTF-8, and endless numbers
                    if isinstance(error, UnicodeDecodeError):
                        raise ValueError(f"{records}, line {number}: not UTF-8 ({error.reason}); save the file as UTF-8") from error
                    raise ValueError(
                        f"{records}, line {number}: not JSON ({error}); a .jsonl holds one object per line, a .json one list of them"
                    ) from error
            start += len(line)


def _parsed(line: bytes) -> tuple[Any, bool]:
    """The content of a line of JSON, and whether a surrogate in it was replaced.

    Raises ValueError or RecursionError.
    """
    content = json.loads(line)
    if line.isascii() and b"\\u" not in line:
        return content, False
    cleaned = replace_surrogates_in(content)
    return cleaned, cleaned != content


def _sample(record: dict, root: Path) -> Sample:
    def chain(boxes: Sequence[Sequence[float]]) -> tuple[Box, ...]:
        try:
            return tuple((float(x1), float(y1), float(x2), float(y2)) for x1, y1, x2, y2 in boxes)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"the boxes of a target are {str(boxes)[:SHOWN]}, not a list of [x1, y1, x2, y2]") from error

    if not isinstance(record, dict):
        raise ValueError(f"it is {str(record)[:SHOWN]}, not an object; a list of records is named .json")
    if record["schema"] != SCHEMA:
        raise ValueError(f"schema is {record['schema']}, this version reads {SCHEMA}")
    for name, kind in TYPES.items():
        if name in record and type(record[name]) is not kind:
            raise ValueError(f"{name} is {str(record[name])[:SHOWN]!r}, not {KINDS[kind]}")
    if not all(isinstance(answer, str) for answer in record["answers"]):
        raise ValueError(f"answers are {str(record['answers'])[:SHOWN]}, not a list of texts")
    stored = record.get("options", ())
    if not all(isinstance(each, dict) and all(isinstance(each.get(name), str) for name in ("key", "text")) for each in stored):
        raise ValueError(f'options are {str(stored)[:SHOWN]}, not a list of {{"key": "A", "text": "red"}}')
    options = tuple((option["key"], option["text"]) for option in stored)
    return Sample(
        id=record["id"],
        source=record["source"],
        split=record["split"],
        image=ImageFile(root / record["image"]),
        width=record["width"],
        height=record["height"],
        question=record["question"],
        answers=tuple(record["answers"]),
        scorer=record.get("scorer", "exact"),
        options=options,
        boxes=tuple(chain(boxes) for boxes in record.get("boxes", ())),
        group=record.get("group") or record["image"],
        meta=record.get("meta", {}),
    )
