"""Rows of the files that sets are published in, one at a time: TSV, parquet, JSON lines, JSON lists and JSON mappings of any size."""

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import ijson
import pyarrow as pa
import pyarrow.parquet as pq

from focus.data.readers.draft import ROW_ID, Place, Rows

# Of a parquet file some sets have row groups of 1 to 2 GB once decompressed. With both settings and `pre_buffer=False`, pages and rows are
# decoded as they are asked for; without any one of them pyarrow holds the whole row group.
ROWS_AT_ONCE = 8
READ_AT_ONCE = 1 << 18  # bytes
csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a TSV cell holds a whole 8K image


def find(root: Path, *patterns: str) -> list[Path]:
    """The files below `root` that match the first of these patterns that matches any, sorted.

    Raises ValueError, naming what was looked for and what is there, if none does.
    """
    if not root.is_dir():
        raise ValueError(f"data.root is {root}, which is no folder; give the folder that the set was downloaded into")
    for pattern in patterns:
        if found := sorted(path for path in root.glob(pattern) if path.is_file()):
            return found
    there = sorted(path.name for path in root.iterdir())[:12]
    raise ValueError(f"{root} holds none of {', '.join(patterns)}; there is {', '.join(there) or 'nothing'}. Set data.root to the download")


def rows_of(path: Path) -> Iterator[tuple[Place, dict]]:
    """Every row of a table, as a mapping from its columns. Memory does not grow with the file.

    Raises ValueError, with file and row, for a file that is not what its name says.
    """
    readers = {".tsv": _tsv, ".parquet": _parquet, ".jsonl": _json_lines, ".json": _json_list}
    if path.suffix not in readers:
        raise ValueError(f"{path} is no table that can be read; there are {', '.join(readers)}")
    for place, _, content in _placed(path, ((None, content) for content in readers[path.suffix](path))):
        yield place, content


def entries_of(path: Path) -> Iterator[tuple[Place, str, dict]]:
    """Key and value of every entry of a JSON mapping of records. Raises ValueError like `rows_of`."""
    yield from _placed(path, _json_mapping(path))


def rows_in(*patterns: str) -> Rows:
    """What walks a set below its root: the rows of the files that match the first of these patterns that matches any."""

    def walk(root: Path) -> Iterator[tuple[Place, dict]]:
        for path in find(root, *patterns):
            yield from rows_of(path)

    return walk


def rows_with_ids(*patterns: str, own: str = "") -> Rows:
    """Like `rows_in`, each row with a `row id`: for sets whose rows have no id, or none that is unique.

    It is the name of the file, the row's number, and its id in the column `own` where it has one.
    """

    def walk(root: Path) -> Iterator[tuple[Place, dict]]:
        for place, row in rows_in(*patterns)(root):
            parts = (place.file.stem, place.row, row.get(own))
            yield place, row | {ROW_ID: "-".join(str(part) for part in parts if part is not None)}

    return walk


def _placed(path: Path, contents: Iterable[tuple[Any, object]]) -> Iterator[tuple[Place, Any, dict]]:
    row = 0
    try:
        for row, (key, content) in enumerate(contents, start=1):
            if not isinstance(content, dict):
                row -= 1
                raise ValueError(f"{content!r:.60} is not a record")
            yield Place(path, row), key, content
    except (ValueError, OSError, RecursionError, csv.Error, pa.ArrowException, ijson.JSONError) as error:
        raise ValueError(f"{path}, row {row + 1}: the file can't be read ({error}); download it again") from error


def _tsv(path: Path) -> Iterator[dict]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", strict=True):  # strict: a quote that is never closed swallows rows
            if None in row or None in row.values():
                raise ValueError("it has more or fewer cells than the header has columns")
            yield row


def _parquet(path: Path) -> Iterator[dict]:
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=READ_AT_ONCE) as table:
        for some in table.iter_batches(batch_size=ROWS_AT_ONCE):
            yield from some.to_pylist()


def _json_lines(path: Path) -> Iterator[dict]:
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                yield json.loads(line)


def _json_list(path: Path) -> Iterator[dict]:
    """The items of a list; `{"data": [...]}` (TextVQA) is read as that list."""
    with path.open("rb") as file:
        begin = _skip_mark(file)
        first = next((byte for byte in iter(lambda: file.read(1), b"") if not byte.isspace()), b"")
        file.seek(begin)
        item = None
        for item in ijson.items(file, "item" if first == b"[" else "data.item", use_float=True):
            yield item
        if item is None:
            raise ValueError('it is neither a list of records nor {"data": [...]}, or an empty one')


def _json_mapping(path: Path) -> Iterator[tuple[str, object]]:
    with path.open("rb") as file:
        _skip_mark(file)
        yield from ijson.kvitems(file, "", use_float=True)


def _skip_mark(file: BinaryIO) -> int:
    """Go behind a byte order mark, if the file has one, and say where that is."""
    return file.seek(3 if file.read(3) == b"\xef\xbb\xbf" else 0)
