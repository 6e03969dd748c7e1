"""Rows of the files that sets are published in, one at a time: TSV, parquet, JSON lines, JSON lists and JSON mappings of any size."""

import csv
import json
import mmap
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import ijson
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from focus.data.readers.draft import ROW_ID, UNREAD, Place, Rows

# Of a parquet file some sets have row groups of 1 to 2 GB once decompressed. With both settings and `pre_buffer=False`, pages and rows are
# decoded as they are asked for; without any one of them pyarrow holds the whole row group.
ROWS_AT_ONCE = 8
READ_AT_ONCE = 1 << 18  # bytes
csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a TSV cell holds a whole 8K image
LARGEST_ROW = 16 << 20  # bytes of a row of JSON, which holds no image; its lists and texts take some twenty times as much memory
DEEPEST = 500  # levels of lists and mappings in a row of JSON: `ijson` takes memory with the square of them
INDEX = re.compile(r"\s*\d{1,18}\s*")  # in place of an image: that of the row with this index


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


def rows_of(path: Path, spare: bool = False) -> Iterator[tuple[Place, dict]]:
    """Every row of a table, as a mapping from its columns. Memory does not grow with the file.

    With `spare`, a row that is no record, or a line that is no JSON, is a mapping from UNREAD to the reason, and the next one is read.
    Raises ValueError, with file and row, for a file that is not what its name says.
    """
    readers = {".tsv": _tsv, ".parquet": _parquet, ".jsonl": _json_lines, ".json": _json_list}
    if path.suffix not in readers:
        raise ValueError(f"{path} is no table that can be read; there are {', '.join(readers)}")
    for place, _, content in _placed(path, ((None, content) for content in readers[path.suffix](path)), spare):
        yield place, content


def entries_of(path: Path) -> Iterator[tuple[Place, str, dict]]:
    """Key and value of every entry of a JSON mapping of records. Raises ValueError like `rows_of`."""
    yield from _placed(path, _json_mapping(path), spare=False)


def rows_in(*patterns: str) -> Rows:
    """What walks a set below its root: the rows of the files that match the first of these patterns that matches any."""

    def walk(root: Path) -> Iterator[tuple[Place, dict]]:
        for path in find(root, *patterns):
            yield from rows_of(path, spare=True)

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


def _placed(path: Path, contents: Iterable[tuple[Any, object]], spare: bool) -> Iterator[tuple[Place, Any, dict]]:
    row = 0
    try:
        for row, (key, content) in enumerate(contents, start=1):
            if not isinstance(content, dict):
                content = {UNREAD: str(content) if isinstance(content, ValueError) else f"a {type(content).__name__} is not a record"}
                if not spare:
                    row -= 1
                    raise ValueError(content[UNREAD])
            yield Place(path, row), key, content
    except (ValueError, OSError, RecursionError, csv.Error, pa.ArrowException, ijson.JSONError) as error:
        raise ValueError(f"{path}, row {row + 1}: the file can't be read ({error}); download it again") from error


def _tsv(path: Path) -> Iterator[dict]:
    """The rows; a cell `image` that is the index of another row is the image of that row."""
    images = None
    with path.open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", strict=True):  # strict: a quote that is never closed swallows rows
            if None in row or None in row.values():
                raise ValueError("it has more or fewer cells than the header has columns")
            if "index" in row and INDEX.fullmatch(row.get("image", "")):
                images = images or _Images(path)
                row["image"] = images.of(row["image"].strip())
            yield row


class _Images:
    """The images of a TSV by the index of their row. In memory are where each row begins, and the image that was asked for last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._starts: dict[str, int] = {}
        self._last = ("", "")
        with path.open("rb") as file:
            self._columns = next(_tsv_rows(file))
            start = file.tell()
            for cells in _tsv_rows(file):
                row = dict(zip(self._columns, cells, strict=False))
                if not INDEX.fullmatch(row.get("image", "0")):
                    self._starts.setdefault(row["index"], start)
                start = file.tell()

    def of(self, index: str) -> str:
        """The image of the row with this index; the index itself where no row has both."""
        if index != self._last[0] and index in self._starts:
            with self._path.open("rb") as file:
                file.seek(self._starts[index])
                self._last = (index, dict(zip(self._columns, next(_tsv_rows(file)), strict=False))["image"])
        return self._last[1] if index == self._last[0] else index


def _tsv_rows(file: BinaryIO) -> Iterator[list[str]]:
    """Rows from where the file stands; behind each it stands where the next one begins."""
    return csv.reader((line.decode("utf-8-sig") for line in iter(file.readline, b"")), delimiter="\t", strict=True)


def _parquet(path: Path) -> Iterator[dict]:
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=READ_AT_ONCE) as table:
        for some in table.iter_batches(batch_size=ROWS_AT_ONCE):
            yield from some.to_pylist()


def _json_lines(path: Path) -> Iterator[object]:
    """The content of every line that is not blank, or the ValueError that says why it can't be read. Raises that of a torn last line."""
    with path.open("rb") as file:
        while line := file.readline(LARGEST_ROW + 1):
            if len(line) > LARGEST_ROW:
                while not line.endswith(b"\n") and (line := file.readline(LARGEST_ROW)):
                    pass
                yield ValueError(f"it has more than {LARGEST_ROW} bytes")
            elif line.strip():
                try:
                    yield json.loads(line, parse_constant=_no_number)
                except (ValueError, RecursionError) as error:
                    if not line.endswith(b"\n"):  # the download was cut off: more than this line is missing
                        raise
                    yield ValueError(str(error))


def _no_number(name: str) -> None:
    """NaN and Infinity, which JSON has not but Python writes, are nothing."""


def _json_list(path: Path) -> Iterator[object]:
    """The items of a list; `{"data": [...]}` (TextVQA) is read as that list."""
    with path.open("rb") as file:
        begin = _skip_mark(file)
        first = next((byte for byte in iter(lambda: file.read(1), b"") if not byte.isspace()), b"")
        file.seek(begin)
        stream, item = _Json(file), None
        for item in ijson.items(stream, "item" if first == b"[" else "data.item", use_float=True):
            yield item
            stream.row = 0
        if item is None:
            raise ValueError('it is neither a list of records nor {"data": [...]}, or an empty one')


def _json_mapping(path: Path) -> Iterator[tuple[str, object]]:
    with path.open("rb") as file:
        _skip_mark(file)
        stream = _Json(file)
        for entry in ijson.kvitems(stream, "", use_float=True):
            yield entry
            stream.row = 0


class _Json:
    """A file of JSON as `ijson` reads it: NaN and Infinity, which Python writes, are null.

    Raises ValueError for a row that is too long or nested too deeply, before memory is taken for it.
    """

    MARKS = re.compile(rb'\\.|"|NaN|-?Infinity', re.DOTALL)
    LONGEST = len(b"-Infinity")
    ESCAPES = re.compile(rb"\\.", re.DOTALL)
    NO_BRACKETS = bytes(set(range(256)) - set(b'"[]{}'))
    STEPS = np.array([(each in b"[{") - (each in b"]}") for each in range(256)])

    def __init__(self, file: BinaryIO) -> None:
        self.row = 0  # bytes since the last row; to be set to 0 behind each
        self._file, self._held, self._in_text = file, b"", False
        self._depth, self._quotes, self._escape = 0, 0, b""
        self._odd = _has_names_of_numbers(file)

    def read(self, size: int) -> bytes:
        """The next bytes; none at the end of the file, or where none are asked for."""
        told, block = b"", b"."
        while size and block and not told:
            block = self._file.read(size)
            self.row += len(block)
            if self.row > LARGEST_ROW + size:
                raise ValueError(f"it has more than {LARGEST_ROW} bytes")
            self._check_depth(block)
            told = self._renamed(block) if self._odd else block
        return told

    def _check_depth(self, block: bytes) -> None:
        text = self._escape + block
        self._escape = b"\\" * ((len(text) - len(text.rstrip(b"\\"))) % 2)  # of a pair that the end of the block cuts
        text = self.ESCAPES.sub(b"", text[: len(text) - len(self._escape)])
        marks = np.frombuffer(text.translate(None, self.NO_BRACKETS), np.uint8)
        if marks.size:
            quotes = self._quotes + np.cumsum(marks == ord('"'))
            depths = self._depth + np.cumsum(self.STEPS[marks] * (quotes % 2 == 0))  # brackets inside texts are none
            self._depth, self._quotes = int(depths[-1]), int(quotes[-1])
            if depths.max() > DEEPEST:
                raise ValueError(f"it is nested more than {DEEPEST} deep")

    def _renamed(self, block: bytes) -> bytes:
        """The block with `null` for names of numbers outside texts. Its end, where a name may be cut, is held back until the file ends."""
        data, at, parts = self._held + block, 0, []
        last = max(0, len(data) - self.LONGEST) if block else len(data)
        for mark in self.MARKS.finditer(data):
            if mark.start() >= last:
                break
            if mark[0] == b'"':
                self._in_text = not self._in_text
            elif not self._in_text and mark[0][:1] != b"\\":
                parts += [data[at : mark.start()], b"null"]
                at = mark.end()
            last = max(last, mark.end())
        self._held = data[last:]
        return b"".join([*parts, data[at:last]])


def _has_names_of_numbers(file: BinaryIO) -> bool:
    """Whether a file holds NaN or Infinity, be it inside a text."""
    if not os.fstat(file.fileno()).st_size:
        return False
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        return any(whole.find(name) >= 0 for name in (b"NaN", b"Infinity"))


def _skip_mark(file: BinaryIO) -> int:
    """Go behind a byte order mark, if the file has one, and say where that is."""
    return file.seek(3 if file.read(3) == b"\xef\xbb\xbf" else 0)
