"""Opens the questions that the settings name: a published set or own records, with annotated or
derived boxes.

Converted files are cached in one folder (`kept`). Left-out questions are reported at every start.
"""

import json
import os
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import MappingProxyType

from focus.data.annotations.join import write_annotated
from focus.data.readers import SETS, ingest
from focus.data.readers.derive import write_derived
from focus.data.readers.own import cache_folder, is_canonical, own_set
from focus.data.readers.tables import NoFiles
from focus.data.sample import UNLIMITED, ImageFile, Limits, Records, read_records
from focus.runtime.files import json_text, read_json, replace_atomically

LOOKED_FOR = 20  # images that are looked for before records of your own are used


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
    columns: Mapping[str, str] = MappingProxyType({}),
) -> Records:
    """The questions of a published set (`source` is its name), of several (`mix`), or of a file of
    your own (`source` is `records`): canonical records, or a table with the columns image, question
    and answers, whose other names `columns` gives.

    With `annotations` (an export of Label Studio, CVAT or COCO) only annotated questions stay, with
    their drawn boxes. `derive_px` above 0 grows every flat box into a chain of three, the first at
    least that wide and high. Questions longer than `limits` are left out. Prints the number of used
    and unused questions. Raises ValueError for missing or malformed files, or if no question is
    usable.
    """
    own = source == "records" and not mix and not is_canonical(Path(records or ""))
    if source in SETS or mix or annotations or derive_px or own:
        try:
            kept.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"data.cache_dir is {kept}, which can't be created or written ({error}); choose another folder") from error
    if source in SETS:
        published = _read_published(source, Path(root or ""), kept)
        path, root = published.path, str(published.root)
    elif mix:
        path, root = _join([_read_published(name, Path(root or "", name), kept.parent / name) for name in mix], kept), "/"
    elif own:
        path, root = _read_own(Path(records or ""), columns, root, kept)
    else:
        path = Path(records or "")
        root = root or _image_root(path)
    if annotations:
        if not Path(annotations).is_file():
            raise ValueError(f"data.annotations is {annotations}, which does not exist; give an export of Label Studio, CVAT or COCO")
        written = write_annotated(path, Path(annotations), kept / "annotated.jsonl", repair)
        rules = ", ".join(f"{count} nested by {rule}" for rule, count in written.rules.items())
        print(f"{annotations}: {written.annotated} questions annotated ({rules}); {written.without} without boxes are left out")
        _print_counts(annotations, "annotation", "", written.counted, written.first)
        path = kept / "annotated.jsonl"
    if derive_px:
        derived = write_derived(path, kept / "derived.jsonl", derive_px)
        print(f"{path.name}: {derived} flat boxes grown into chains, the smallest at least {derive_px} px wide and high")
        path = kept / "derived.jsonl"
    samples, dropped = read_records(path, Path(root) if root else None, limits)
    _print_counts(str(path), "record", " dropped", dropped, samples.first_met)
    _print_counts(str(path), "record", " used although", samples.notes, samples.first_met)
    if source == "records" and not mix:
        _check_images(samples)
    return samples


def _read_own(path: Path, columns: Mapping[str, str], root: str | None, kept: Path) -> tuple[Path, str]:
    """The records of a table of your own and the folder of their images. Prints the dropped rows."""
    folder = Path(root) if root else path.parent
    reading = ingest(own_set(path, columns), folder, cache_folder(path, columns, folder, kept.parent))
    _print_counts(str(path), "row", " dropped", reading.dropped, reading.first)
    _print_counts(str(path), "row", " used although", reading.notes, reading.first)
    return reading.samples.path, str(reading.samples.root)


def _check_images(samples: Records) -> None:
    """Raises ValueError if none of the first images exists: then the folder is wrong, not one image."""
    first = [sample.image.path for sample in islice(samples, LOOKED_FOR) if isinstance(sample.image, ImageFile)]
    if first and not any(path.is_file() for path in first):
        raise ValueError(
            f"none of the first {len(first)} images of {samples.path} exists (first: {first[0]}); image paths are relative to "
            f"{samples.root}, set data.root to their folder"
        )


def _read_published(name: str, root: Path, kept: Path) -> Records:
    """The records of a published set, from the cache or its files. Prints the dropped rows.

    Raises ValueError, with a command that downloads them, if the files are missing.
    """
    kept.mkdir(parents=True, exist_ok=True)
    try:
        reading = ingest(SETS[name], root, kept)
    except NoFiles as error:
        raise ValueError(f"{error}. {SETS[name].download(root)}") from error
    print(f"{name}: {len(reading.samples)} questions; published: {SETS[name].counts}")
    _print_counts(name, "row", " dropped", reading.dropped, reading.first)
    _print_counts(name, "row", " used although", reading.notes, reading.first)
    return reading.samples


def _join(parts: Sequence[Records], kept: Path) -> Path:
    """One file with the records of all parts, with absolute image paths and without boxes.

    Ids begin with the set's name, so they stay unique. The file is written at every start and
    appears when it is complete; several processes may write it at the same time.
    """
    partial = kept / f"records.jsonl.{os.getpid()}.partial"
    with partial.open("w") as out:
        for part in parts:
            with part.path.open("rb") as lines:
                for start in part.starts:
                    lines.seek(int(start))
                    record = json.loads(lines.readline())
                    out.write(json_text(record | {"image": os.path.realpath(part.root / record["image"]), "boxes": []}) + "\n")
    replace_atomically(partial, kept / "records.jsonl")
    return kept / "records.jsonl"


def _image_root(records: Path) -> str | None:
    """The folder of the images of records that `ingest` wrote; None: the folder of the records."""
    manifest = records.parent / "reading.json"
    return read_json(manifest).get("root") if manifest.is_file() else None


def _print_counts(name: str, one: str, what: str, counted: Mapping[str, int], first: Mapping[str, str]) -> None:
    for reason, count in counted.items():
        print(f"{name}: {count} {one}{'s' * (count > 1)}{what}: {reason} (first: {first[reason]})")
