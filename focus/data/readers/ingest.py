"""Converts the published files of a set to canonical records, and caches the result.

Image files beside the table stay where they are. Images inside the table are written to files that
are named by the hash of their bytes; they are not re-encoded. Every row that is not used is counted
by its reason, with the location of the first such row. The result is cached with the identity of
the published files. It is made again when the files change or when a missing image appears.
"""

import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from focus.data.boxes import FORGIVEN_PX, LEAST_SIDE_PX, area, clamp, shorter_side
from focus.data.images.header import BadImage, image_orientation, image_size
from focus.data.images.original import read
from focus.data.names import other_spelling
from focus.data.readers.draft import LAYOUT, NOT_STATED, UNREAD, Bad, Draft, Location, Published, Reason
from focus.data.readers.text import answer_type, first_of, path_inside_root, question_of
from focus.data.sample import HALF_CHARACTER, MARKUP, SCHEMA, Records, read_records
from focus.runtime.files import atomic_write, json_text
from focus.runtime.text import replace_surrogates, replace_surrogates_in

SUFFIXES = {b"\xff\xd8\xff": "jpg", b"\x89PNG": "png", b"RIFF": "webp", b"II*": "tif", b"MM\0*": "tif", b"BM": "bmp", b"GIF8": "gif"}
# The last bytes of a complete file; a few files have more behind them
ENDS = {"jpg": b"\xff\xd9", "png": b"IEND\xaeB`\x82"}
COLUMNAR = (".csv", ".tsv", ".parquet")  # all rows of these have the same columns
SHOWN = 80  # characters of a value that a message quotes
REASON = 300  # characters of the reason why an image can't be used


@dataclass(frozen=True)
class Reading:
    """The result of reading a set.

    `first`: id, file, row and key of the first row for each reason.
    """

    samples: Records
    dropped: Counter[str]
    first: Mapping[str, str]
    notes: Counter[str]  # about rows that are used: boxes that were clamped, dropped or missing


def ingest(published: Published, root: Path, kept: Path) -> Reading:
    """The canonical records of a published set under `root`, cached in the folder `kept`.

    Raises ValueError if files are missing or malformed, if no row is usable, or if `kept` lies
    inside `root`.
    """
    if not published.identity and kept.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"data.cache_dir is {kept}, inside data.root ({root}), whose files are read as published; choose another folder")
    manifest = kept / "reading.json"
    identity = _identity(published, root)
    cached = _read_manifest(manifest)
    if cached.get("identity") != identity or any(_image_path(root, image) for image in cached["missing"]):
        kept.mkdir(parents=True, exist_ok=True)
        cached = {"identity": identity} | _write(published, root, kept)
        with atomic_write(manifest) as partial:
            partial.write_text(json_text(cached, indent=1) + "\n")
    samples, _ = read_records(kept / "records.jsonl", Path(cached["root"]))
    return Reading(samples, Counter(cached["dropped"]), cached["first"], Counter(cached["notes"]))


def _read_manifest(manifest: Path) -> dict:
    """The manifest of an earlier conversion; empty if it or its records are missing or damaged."""
    if not manifest.with_name("records.jsonl").is_file():
        return {}
    try:
        return json.loads(manifest.read_text())
    except (OSError, ValueError):
        return {}


def _identity(published: Published, root: Path) -> str:
    """A hash of the published tables' names, sizes and times, and of the readers' code.

    Image files are not included: a set may have a million.
    """
    code = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    if published.identity:
        return hashlib.sha256(f"{published.identity} {root.resolve()}".encode() + code).hexdigest()
    files = ((folder, name) for folder, _, names in os.walk(root) for name in names)
    named = (Path(folder, name) for folder, name in files if name.endswith((".tsv", ".parquet", ".json", ".jsonl")))
    tables = sorted(path for path in named if path.is_file())  # a link may be broken
    stamps = [f"{path.relative_to(root)} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in tables]
    return hashlib.sha256("\n".join([published.source, str(root.resolve()), *stamps]).encode() + code).hexdigest()


def _write(published: Published, root: Path, kept: Path) -> dict:
    """Write the usable records; returns the content of the manifest without the identity."""
    with atomic_write(kept / "records.jsonl") as partial:
        return _write_rows(published, root, kept, partial)


def _write_rows(published: Published, root: Path, kept: Path, partial: Path) -> dict:
    dropped: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    first: dict[str, str] = {}
    missing: dict[str, None] = {}  # images that do not exist
    seen: set[bytes] = set()
    written = 0
    odd = Path()  # a file whose first row lacks a column
    remedy = "" if published.identity else f"; if many rows are like it, download the release that conf/data/{published.source}.yaml names"
    embedded = False
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), TextColumn("{task.fields[counted]}"))
    with partial.open("w") as out, Progress(*columns, transient=True) as progress:
        task = progress.add_task(f"reading {published.source}", total=None, counted="")
        for location, row in published.rows(root):
            row = _Row(row)
            native_id = "?"
            try:
                if UNREAD in row:
                    raise Bad(Reason.BAD_LINE, "line", row[UNREAD])
                native_id = _native_id(published, row)
                draft = _draft(published, row)
                name = replace_surrogates(f"{published.source}/{draft.split}/{native_id}")
                digest = hashlib.blake2b(name.encode(), digest_size=12).digest()
                if digest in seen:
                    raise Bad(Reason.REPEATED, "id", native_id)
                record, own_notes = _record(published, draft, name, root, kept)
                line = _line(record)
                seen.add(digest)
            except Bad as bad:
                dropped[bad.reason] += 1
                if bad.reason is Reason.NO_IMAGE:
                    missing[str(bad.seen)] = None
                excerpt = str(bad.seen)[: REASON if bad.reason is Reason.BAD_IMAGE else SHOWN]
                message = f"{_place(native_id, location, root)}, {bad.key}: {excerpt!r}"
                first.setdefault(bad.reason, replace_surrogates(message) + (remedy if bad.reason in LAYOUT else ""))
                continue
            except KeyError as error:
                # A missing column ends the reading if the file is a table, or if two rows of a JSON
                # file lack it. A missing key inside a value drops its row.
                column = error.args[0] == row.last
                if column and ((location.row == 1 and location.file.suffix in COLUMNAR) or location == Location(odd, 2)):
                    raise ValueError(
                        f"{_describe(location, root)} has no column {error}; its columns are {', '.join(map(str, row))}. "
                        f"data.source={published.source} reads: {published.about}"
                    ) from error
                odd = location.file if column and location.row == 1 else odd
                dropped[Reason.LACKS_KEY] += 1
                first.setdefault(
                    Reason.LACKS_KEY, replace_surrogates(f"{_place(native_id, location, root)}, {row.last}: no {error}{remedy}")
                )
                continue
            embedded |= isinstance(draft.image, bytes)
            for note in own_notes:
                notes[note] += 1
                first.setdefault(note, replace_surrogates(_place(native_id, location, root)))
            out.write(line)
            written += 1
            if written % 50 == 0:
                progress.update(task, counted=f"{written} rows, {dropped.total()} dropped")
    if not written and not dropped:
        raise ValueError(f"the files of {published.source} in {root} have no rows; download them again. Expected: {published.about}")
    if not written:
        raise ValueError(
            f"{root} holds no usable row of {published.source} ({dropped.total()} dropped): "
            + "; ".join(f"{count} x {reason} (first: {first[reason]})" for reason, count in dropped.items())
            + f". What is read: {published.about}"
        )
    image_folder = kept if embedded else root
    images = {"root": str(image_folder.resolve()), "missing": list(missing)}
    return images | {"dropped": dropped, "first": first, "notes": notes, "rows": written}


class _Row(dict):
    """A row that remembers the last column that was read, so that an error can name it."""

    last = ""

    def __getitem__(self, key: str) -> Any:
        self.last = key
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.last = key
        return super().get(key, default)


def _line(record: dict) -> str:
    """A record as a line of JSON. Raises Bad if it can't be written as JSON."""
    try:
        return json_text(record) + "\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise Bad(Reason.BAD_VALUE, "meta", error) from error


def _native_id(published: Published, row: Mapping) -> str:
    stored = first_of(row, *published.ids)
    if isinstance(stored, bool) or not isinstance(stored, str | int) or stored == "":
        raise Bad(Reason.BAD_VALUE, published.ids[0], stored)
    return str(stored)


def _draft(published: Published, row: _Row) -> Draft:
    """The reader's draft of a row.

    Raises Bad also for values of another type than the format says.
    """
    try:
        draft = published.draft(row)
    except Bad:
        raise
    except RecursionError as error:
        raise Bad(Reason.BAD_VALUE, row.last, "a value that is nested too deeply") from error
    except (TypeError, AttributeError, IndexError, ValueError, OverflowError) as error:
        raise Bad(Reason.BAD_VALUE, row.last, dict.get(row, row.last)) from error
    for key, value, kind in (("split", draft.split, str), ("question", draft.question, str), ("image", draft.image, str | bytes)):
        if not isinstance(value, kind):
            raise Bad(Reason.BAD_VALUE, key, value)
    if not all(isinstance(answer, str) for answer in draft.answers):
        raise Bad(Reason.BAD_VALUE, "answers", draft.answers)
    return draft


def _describe(location: Location, root: Path) -> str:
    name = location.file.relative_to(root) if location.file.is_relative_to(root) else location.file
    return f"{name}, row {location.row}"


def _place(native_id: str, location: Location, root: Path) -> str:
    """The id of a row, unless it is only its number or can't be read, and where the row stands."""
    place = _describe(location, root)
    return place if native_id in ("?", str(location.row)) else f"{native_id}: {place}"


def _record(published: Published, draft: Draft, name: str, root: Path, kept: Path) -> tuple[dict, list[str]]:
    """The canonical record of a row, and notes about it. Raises Bad."""
    question = question_of(draft.question)
    if not question:
        raise Bad(Reason.NO_QUESTION, "question", draft.question)
    answers = [answer for answer in draft.answers if answer.strip()]
    if not answers:
        raise Bad(Reason.NO_ANSWER, "answer", draft.answers)
    if marks := [mark for mark in MARKUP for text in (question, *(text for _, text in draft.options)) if mark in text]:
        raise Bad(Reason.MARKUP, "question", marks[0])
    if draft.scorer == "letter" and draft.answers[0] not in dict(draft.options):
        raise Bad(Reason.NOT_AN_OPTION, "answer", draft.answers[0])
    image, digest, (width, height) = _image(draft.image, "image", root, kept)
    more = {key: _image(blob, key, root, kept)[0] for key, blob in draft.more_images.items()}
    boxes, labels, notes = _boxes(draft, width, height)
    if boxes and image_orientation(io.BytesIO(draft.image) if isinstance(draft.image, bytes) else root / image) > 1:
        notes.append(Reason.TURNED)
    if isinstance(draft.image, str) and image != path_inside_root(draft.image, "image"):
        notes.append(Reason.OTHER_NAME)
    record = {
        "schema": SCHEMA,
        "id": name,
        "source": published.source,
        "split": draft.split,
        "image": image,
        "width": width,
        "height": height,
        "image_sha256": digest,
        "question": question,
        "raw_question": draft.raw or draft.question,
        "options": [{"key": key, "text": text} for key, text in draft.options],
        "answers": answers,
        "answer_type": draft.answer_type or answer_type(answers, draft.options),
        "scorer": draft.scorer,
        "boxes": boxes,
        "box_labels": labels,
        "box_origin": draft.box_origin if boxes else None,
        "group": draft.group or digest,
        "meta": dict(draft.meta) | more,
        "licence": published.licence or NOT_STATED,
    }
    blank = ["one of several answers is empty and is left out"] * (len(answers) < len(draft.answers))
    cleaned = _without_surrogates(record)
    replaced = [HALF_CHARACTER] * (cleaned != record)
    return cleaned, [*draft.notes, *notes, *blank, *replaced]


def _without_surrogates(record: dict) -> dict:
    try:
        return replace_surrogates_in(record)
    except RecursionError as error:
        raise Bad(Reason.BAD_VALUE, "meta", "a value that is nested too deeply") from error


def _image_path(root: Path, stored: str) -> str | None:
    """The path, relative to `root`, of the file that a table calls `stored`; None if there is none.

    Raises Bad for a path outside `root`.
    """
    if (root / stored).is_file():
        return stored
    return other_spelling(root, path_inside_root(stored.replace("\\", "/"), "image"))


def _image(stored: str | bytes, key: str, root: Path, kept: Path) -> tuple[str, str, tuple[int, int]]:
    """Path of an image, hash of its bytes, and its upright size. Raises Bad, at `key`.

    Bytes are written to a file that is named by their hash.
    """
    if isinstance(stored, str):
        named = path_inside_root(stored, key)
        try:
            if (existing := _image_path(root, named)) is None:
                raise Bad(Reason.NO_IMAGE, key, named)
            stored, path = existing, root / existing
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:  # the name is too long, or the file may not be read
            raise Bad(Reason.BAD_IMAGE, key, f"{named[:40]}: {error.strerror}") from error
        size = _size(path, key, stored)
        _check_end(path, key, stored)
        return stored, digest, size
    digest = hashlib.sha256(stored).hexdigest()
    size = _size(io.BytesIO(stored), key, "bytes")
    name = f"{digest}.{_suffix(stored)}"
    if not (kept / name).is_file():
        with atomic_write(kept / name, durable=False) as partial:
            partial.write_bytes(stored)
            _check_end(partial, key, "bytes")
    return name, digest, size


def _check_end(path: Path, key: str, name: str) -> None:
    """Raises Bad for an image file that ends too early.

    A file is decoded only if it lacks the mark at its end.
    """
    with path.open("rb") as file:
        mark = ENDS.get(_suffix(file.read(8)), b"")
        file.seek(max(0, file.seek(0, io.SEEK_END) - len(mark)))
        if file.read() == mark:
            return
    try:
        read(path).reduced((1, 1))
    except BadImage as error:
        raise Bad(Reason.BAD_IMAGE, key, f"{name}: {error.reason}") from error


def _suffix(blob: bytes) -> str:
    return next((suffix for head, suffix in SUFFIXES.items() if blob.startswith(head)), "image")


def _size(source: Path | io.BytesIO, key: str, name: str) -> tuple[int, int]:
    try:
        return image_size(source)
    except BadImage as error:
        raise Bad(Reason.BAD_IMAGE, key, f"{name}: {error.reason}") from error


def _boxes(draft: Draft, width: int, height: int) -> tuple[list, list, list[str]]:
    """Chains of boxes inside the image, the label of each chain, and notes about clamped and dropped
    boxes.
    """
    stored = draft.chains or tuple((box,) for box in draft.boxes)
    chains, labels = [], []
    notes: list[str] = []
    if stored and draft.size not in (None, (width, height)):
        return [], [], [Reason.OTHER_FRAME]
    for boxes, label in zip(stored, draft.box_labels or [""] * len(stored), strict=True):
        chain = []
        for box in boxes:
            if box is None:
                notes.append(Reason.BOX_UNREADABLE)
                continue
            clamped, moved_px = clamp(box, (width, height))
            if not moved_px <= FORGIVEN_PX or area(clamped) <= 0:  # `not <=` also refuses NaN
                notes.append(Reason.BOX_OUTSIDE)
                continue
            if shorter_side(clamped) < LEAST_SIDE_PX:
                notes.append(Reason.BOX_BELOW_PX)
                continue
            if moved_px:
                notes.append(f"a box left the image by at most {FORGIVEN_PX:g} px and was clamped")
            chain.append(list(clamped))
        if chain:
            chains.append(chain)
            labels.append([label] * len(chain))
    return chains, labels, notes
