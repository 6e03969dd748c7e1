"""From the published files of a set to canonical records: read once, checked, counted, kept.

Images that lie beside the table stay where they are; images inside it are written out under the hash of their bytes, never re-encoded.
Every row that is not used is counted with its reason and the place where that reason was first met. The result is kept beside the identity
of the published files, so that it is made once; and again when an image turns up that was missing.
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

from focus.data.boxes import area, intersection
from focus.data.names import other_spelling
from focus.data.original import BadImage, measured, orientation, read
from focus.data.readers.draft import LAYOUT, UNREAD, Bad, Draft, Place, Published, Reason
from focus.data.readers.text import answer_type, first_of, inside, question_of
from focus.data.sample import LEAST_SIDE_PX, MARKUP, MENDED, SCHEMA, Records, mended, read_records
from focus.runtime.files import atomic_write

FORGIVEN_PX = 2.0  # a box that leaves the image by no more is clamped
SUFFIXES = {b"\xff\xd8\xff": "jpg", b"\x89PNG": "png", b"RIFF": "webp", b"II*": "tif", b"MM\0*": "tif", b"BM": "bmp", b"GIF8": "gif"}
ENDS = {"jpg": b"\xff\xd9", "png": b"IEND\xaeB`\x82"}  # of a file that is whole; a few have more behind it
COLUMNAR = (".tsv", ".parquet")  # every row of these has the same columns
SHOWN = 80  # characters of what is told of a value
REASON = 300  # and of why an image can't be used


@dataclass(frozen=True)
class Reading:
    """What became of a set. `first` says, of every reason, where it was first met: id, file, row and key."""

    samples: Records
    dropped: Counter[str]
    first: Mapping[str, str]
    notes: Counter[str]  # of rows that are used: boxes that were clamped, dropped or missing


def ingest(published: Published, root: Path, kept: Path) -> Reading:
    """The canonical records of a published set that lies under `root`; they are written to the folder `kept`, once.

    Raises ValueError if the files are not there, are not what they should be, or leave no usable row, and if `kept` lies among them.
    """
    if kept.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"data.cache_dir is {kept}, inside data.root ({root}), where it would be read as published files; choose another")
    manifest = kept / "reading.json"
    identity = _identity(published, root)
    known = _known(manifest)
    if known.get("identity") != identity or any(_found(root, image) for image in known["missing"]):
        kept.mkdir(parents=True, exist_ok=True)
        known = {"identity": identity} | _write(published, root, kept)
        with atomic_write(manifest) as partial:
            partial.write_text(json.dumps(known, indent=1) + "\n")
    samples, _ = read_records(kept / "records.jsonl", Path(known["root"]))
    return Reading(samples, Counter(known["dropped"]), known["first"], Counter(known["notes"]))


def _known(manifest: Path) -> dict:
    """What was written before; empty if that is not there or not whole."""
    if not manifest.with_name("records.jsonl").is_file():
        return {}
    try:
        return json.loads(manifest.read_text())
    except (OSError, ValueError):
        return {}


def _identity(published: Published, root: Path) -> str:
    """Changes with the published tables (not with each of a million images), and with the readers themselves."""
    code = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    files = ((folder, name) for folder, _, names in os.walk(root) for name in names)
    named = (Path(folder, name) for folder, name in files if name.endswith((".tsv", ".parquet", ".json", ".jsonl")))
    tables = sorted(path for path in named if path.is_file())  # a link may lead nowhere
    stamps = [f"{path.relative_to(root)} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in tables]
    return hashlib.sha256("\n".join([published.source, str(root.resolve()), *stamps]).encode() + code).hexdigest()


def _write(published: Published, root: Path, kept: Path) -> dict:
    """Write the records that can be used and return what was dropped, with the first place of each reason."""
    with atomic_write(kept / "records.jsonl") as partial:
        return _write_rows(published, root, kept, partial)


def _write_rows(published: Published, root: Path, kept: Path, partial: Path) -> dict:
    dropped: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    first: dict[str, str] = {}
    missing: dict[str, None] = {}  # images that are not there
    seen: set[bytes] = set()
    written = 0
    odd = Path()  # a file whose first row lacks a column
    remedy = f"; if many rows are like it, get the release that conf/data/{published.source}.yaml names"
    embedded = False
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), TextColumn("{task.fields[counted]}"))
    with partial.open("w") as out, Progress(*columns, transient=True) as progress:
        task = progress.add_task(f"reading {published.source}", total=None, counted="")
        for place, row in published.rows(root):
            row = _Row(row)
            native_id = "?"
            try:
                if UNREAD in row:
                    raise Bad(Reason.BAD_LINE, "line", row[UNREAD])
                native_id = _native_id(published, row)
                draft = _draft(published, row)
                name = mended(f"{published.source}/{draft.split}/{native_id}")
                digest = hashlib.blake2b(name.encode(), digest_size=12).digest()
                if digest in seen:
                    raise Bad(Reason.REPEATED, "id", native_id)
                record, noted = _record(published, draft, name, root, kept)
                line = _line(record)
                seen.add(digest)
            except Bad as bad:
                dropped[bad.reason] += 1
                if bad.reason is Reason.NO_IMAGE:
                    missing[str(bad.seen)] = None
                seen_there = str(bad.seen)[: REASON if bad.reason is Reason.BAD_IMAGE else SHOWN]
                told = f"{native_id}: {_said(place, root)}, {bad.key}: {seen_there!r}"
                first.setdefault(bad.reason, mended(told) + (remedy if bad.reason in LAYOUT else ""))
                continue
            except KeyError as error:
                column = error.args[0] == row.last  # what lies deeper costs its own row; so does the first row of a JSON file alone
                if column and ((place.row == 1 and place.file.suffix in COLUMNAR) or place == Place(odd, 2)):
                    raise ValueError(
                        f"{_said(place, root)} has no column {error}; there is {', '.join(map(str, row))}. "
                        f"data.source={published.source} reads: {published.about}"
                    ) from error
                odd = place.file if column and place.row == 1 else odd
                dropped[Reason.LACKS_KEY] += 1
                first.setdefault(Reason.LACKS_KEY, mended(f"{native_id}: {_said(place, root)}, {row.last}: no {error}{remedy}"))
                continue
            embedded |= isinstance(draft.image, bytes)
            for note in noted:
                notes[note] += 1
                first.setdefault(note, mended(f"{native_id}: {_said(place, root)}"))
            out.write(line)
            written += 1
            if written % 50 == 0:
                progress.update(task, counted=f"{written} rows, {dropped.total()} dropped")
    if not written and not dropped:
        raise ValueError(f"the files of {published.source} in {root} have no row at all; download them again. They are: {published.about}")
    if not written:
        raise ValueError(
            f"{root} holds no usable row of {published.source} ({dropped.total()} dropped): "
            + "; ".join(f"{count} x {reason} (first: {first[reason]})" for reason, count in dropped.items())
            + f". data.source={published.source} reads: {published.about}"
        )
    place_of_images = kept if embedded else root
    images = {"root": str(place_of_images.resolve()), "missing": list(missing)}
    return images | {"dropped": dropped, "first": first, "notes": notes, "rows": written}


class _Row(dict):
    """A row that knows which of its columns was read last: where a reader stumbles over a value, that one is named."""

    last = ""

    def __getitem__(self, key: str) -> Any:
        self.last = key
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.last = key
        return super().get(key, default)


def _line(record: dict) -> str:
    """A record as it is written. Raises Bad for one that JSON can't hold."""
    try:
        return json.dumps(record) + "\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise Bad(Reason.BAD_VALUE, "meta", error) from error


def _native_id(published: Published, row: Mapping) -> str:
    stored = first_of(row, *published.ids)
    if isinstance(stored, bool) or not isinstance(stored, str | int) or stored == "":
        raise Bad(Reason.BAD_VALUE, published.ids[0], stored)
    return str(stored)


def _draft(published: Published, row: _Row) -> Draft:
    """Raises Bad also for values of other types than the format says, on which a reader stumbles."""
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


def _said(place: Place, root: Path) -> str:
    name = place.file.relative_to(root) if place.file.is_relative_to(root) else place.file
    return f"{name}, row {place.row}"


def _record(published: Published, draft: Draft, name: str, root: Path, kept: Path) -> tuple[dict, list[str]]:
    """The canonical record of a row, and what was noted about its boxes. Raises Bad."""
    question = question_of(draft.question)
    if not question:
        raise Bad(Reason.NO_QUESTION, "question", draft.question)
    answers = [answer for answer in draft.answers if answer.strip()]
    if not answers:
        raise Bad(Reason.NO_ANSWER, "answer", draft.answers)
    if found := [mark for mark in MARKUP for text in (question, *(text for _, text in draft.options)) if mark in text]:
        raise Bad(Reason.MARKUP, "question", found[0])
    if draft.scorer == "letter" and draft.answers[0] not in dict(draft.options):
        raise Bad(Reason.NOT_AN_OPTION, "answer", draft.answers[0])
    image, digest, (width, height) = _image(draft.image, "image", root, kept)
    more = {key: _image(blob, key, root, kept)[0] for key, blob in draft.more_images.items()}
    boxes, labels, noted = _boxes(draft, width, height)
    if boxes and orientation(io.BytesIO(draft.image) if isinstance(draft.image, bytes) else root / image) > 1:
        noted.append(Reason.TURNED)
    if isinstance(draft.image, str) and image != inside(draft.image, "image"):
        noted.append(Reason.OTHER_NAME)
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
        "licence": published.licence,
    }
    blank = ["one of several answers is empty and is left out"] * (len(answers) < len(draft.answers))
    whole = _mended(record)
    halved = [MENDED] * (whole != record)
    return whole, [*draft.notes, *noted, *blank, *halved]


def _mended(record: dict) -> dict:
    try:
        return mended(record)
    except RecursionError as error:
        raise Bad(Reason.BAD_VALUE, "meta", "a value that is nested too deeply") from error


def _found(root: Path, stored: str) -> str | None:
    """The path, relative to the root, of the file that a table calls `stored`; None where there is none. Raises Bad for one outside."""
    if (root / stored).is_file():
        return stored
    return other_spelling(root, inside(stored.replace("\\", "/"), "image"))


def _image(stored: str | bytes, key: str, root: Path, kept: Path) -> tuple[str, str, tuple[int, int]]:
    """Path of an image, hash of its bytes, and its upright size; bytes are written out under their hash. Raises Bad, at `key`."""
    if isinstance(stored, str):
        named = inside(stored, key)
        try:
            if (found := _found(root, named)) is None:
                raise Bad(Reason.NO_IMAGE, key, named)
            stored, path = found, root / found
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:  # a name that is too long, a file that may not be read
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


def _check_end(path: Path, key: str, said: str) -> None:
    """Raises Bad for an image that ends too early. To tell, a file that lacks the mark at its end is decoded; no other is."""
    with path.open("rb") as file:
        mark = ENDS.get(_suffix(file.read(8)), b"")
        file.seek(max(0, file.seek(0, io.SEEK_END) - len(mark)))
        if file.read() == mark:
            return
    try:
        read(path).reduced((1, 1))
    except BadImage as error:
        raise Bad(Reason.BAD_IMAGE, key, f"{said}: {error.reason}") from error


def _suffix(blob: bytes) -> str:
    return next((suffix for head, suffix in SUFFIXES.items() if blob.startswith(head)), "image")


def _size(source: Path | io.BytesIO, key: str, said: str) -> tuple[int, int]:
    try:
        return measured(source)
    except BadImage as error:
        raise Bad(Reason.BAD_IMAGE, key, f"{said}: {error.reason}") from error


def _boxes(draft: Draft, width: int, height: int) -> tuple[list, list, list[str]]:
    """Chains of one box each that lie in the image, their labels, and what had to be noted."""
    chains, labels = [], []
    noted: list[str] = []
    if draft.boxes and draft.size not in (None, (width, height)):
        return [], [], [Reason.OTHER_FRAME]
    for box, label in zip(draft.boxes, draft.box_labels or [""] * len(draft.boxes), strict=True):
        if box is None:
            noted.append(Reason.BOX_UNREADABLE)
            continue
        clamped = intersection(box, (0, 0, width, height))
        moved = max(abs(a - b) for a, b in zip(box, clamped, strict=True))
        if not moved <= FORGIVEN_PX or area(clamped) <= 0:  # not <=: a NaN is not forgiven
            noted.append(Reason.BOX_OUTSIDE)
            continue
        if min(clamped[2] - clamped[0], clamped[3] - clamped[1]) < LEAST_SIDE_PX:
            noted.append(Reason.BOX_BELOW_PX)
            continue
        if moved:
            noted.append(f"a box left the image by at most {FORGIVEN_PX:g} px and was clamped")
        chains.append([list(clamped)])
        labels.append([label])
    return chains, labels, noted
