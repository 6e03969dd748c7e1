"""The questions that settings name: of a published set, of your own records, with boxes that people drew or that are derived.

Everything that is made of published files is written to one folder (`kept`), once; what was left out is said every time.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from focus.data.annotations.join import write_annotated
from focus.data.readers import SETS, ingest
from focus.data.readers.derive import write_derived
from focus.data.sample import UNLIMITED, Limits, Records, read_records
from focus.runtime.files import replace_atomically


def open_source(
    source: str,
    records: str | None,
    root: str | None,
    kept: Path = Path(),
    annotations: str | None = None,
    repair: bool = False,
    derive_px: int = 0,
    mix: Sequence[str] = (),
    limits: Limits = UNLIMITED,
) -> Records:
    """The questions of a published set (`source` is its name), of several (`mix`), or of a `records.jsonl` (`source` is `records`).

    With `annotations` (an export of Label Studio, CVAT or COCO) only annotated questions stay, with their drawn boxes. `derive_px` above 0
    grows every flat box into a chain of three, the first at least that wide and high. Longer questions than `limits` allows are left out.
    Prints what was used and what was not.
    Raises ValueError for files that are not there or not what they should be, or that leave nothing.
    """
    if source in SETS or mix or annotations or derive_px:
        try:
            kept.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"data.cache_dir is {kept}, a folder that can't be written ({error}); choose another") from error
    if source in SETS:
        read = _read(source, Path(root or ""), kept)
        path, root = read.path, str(read.root)
    elif mix:
        path, root = _joined([_read(name, Path(root or "", name), kept.parent / name) for name in mix], kept), "/"
    else:
        path = Path(records or "")
        root = root or _root(path)
    if annotations:
        if not Path(annotations).is_file():
            raise ValueError(f"data.annotations is {annotations}, which does not exist; give an export of Label Studio, CVAT or COCO")
        written = write_annotated(path, Path(annotations), kept / "annotated.jsonl", repair)
        rules = ", ".join(f"{count} nested by {rule}" for rule, count in written.rules.items())
        print(f"{annotations}: {written.annotated} questions annotated ({rules}); {written.without} without boxes are left out")
        _say(annotations, "annotations", written.counted, written.first)
        path = kept / "annotated.jsonl"
    if derive_px:
        derived = write_derived(path, kept / "derived.jsonl", derive_px)
        print(f"{path.name}: {derived} flat boxes grown into chains, the smallest at least {derive_px} px wide and high")
        path = kept / "derived.jsonl"
    samples, dropped = read_records(path, Path(root) if root else None, limits)
    _say(str(path), "records dropped", dropped, samples.first_met)
    _say(str(path), "records used although", samples.notes, samples.first_met)
    return samples


def _read(name: str, root: Path, kept: Path) -> Records:
    """A published set, read once; what was dropped is said every time."""
    kept.mkdir(parents=True, exist_ok=True)
    reading = ingest(SETS[name], root, kept)
    print(f"{name}: {len(reading.samples)} questions; published: {SETS[name].counts}")
    _say(name, "rows dropped", reading.dropped, reading.first)
    _say(name, "rows used although", reading.notes, reading.first)
    return reading.samples


def _joined(parts: Sequence[Records], kept: Path) -> Path:
    """One file of the records of all parts: their images where they are, no boxes. Ids begin with the set's name, so they stay unique.

    It is written anew every time, whole or not at all; processes that start together may all write it.
    """
    partial = kept / f"records.jsonl.{os.getpid()}.partial"
    with partial.open("w") as out:
        for part in parts:
            with part.path.open("rb") as lines:
                for start in part.starts:
                    lines.seek(int(start))
                    record = json.loads(lines.readline())
                    out.write(json.dumps(record | {"image": os.path.realpath(part.root / record["image"]), "boxes": []}) + "\n")
    replace_atomically(partial, kept / "records.jsonl")
    return kept / "records.jsonl"


def _root(records: Path) -> str | None:
    """Where the images of records lie that `ingest` wrote; None: beside the file."""
    manifest = records.parent / "reading.json"
    return json.loads(manifest.read_text())["root"] if manifest.is_file() else None


def _say(name: str, what: str, counted: Mapping[str, int], first: Mapping[str, str]) -> None:
    for reason, count in counted.items():
        print(f"{name}: {count} {what}: {reason} (first: {first[reason]})")
