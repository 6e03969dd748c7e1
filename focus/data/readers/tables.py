"""Rows of published files of any size, one at a time: CSV, TSV, parquet, JSON lines, JSON lists and JSON
mappings.
"""

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

from focus.data.readers.draft import ROW_ID, UNREAD, Location, Rows

# Some sets have parquet files with row groups of 1 to 2 GB when decompressed. With both settings
# and `pre_buffer=False`, pyarrow decodes pages and rows one by one. Without any one of the three it
# holds the whole row group.
ROWS_AT_ONCE = 8
READ_AT_ONCE = 1 << 18  # bytes
csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a TSV cell holds a whole 8K image
# Bytes of a row of JSON, which holds no image. Parsed, its lists and texts take some twenty times
# as much memory.
LARGEST_ROW = 16 << 20
# Levels of lists and mappings in a row of JSON; the memory of `ijson` grows with their square
DEEPEST = 500
# Instead of an image: the index of the row that has the image
INDEX = re.compile(r"\s*\d{1,18}\s*")


class NoFiles(ValueError):
    """The folder of a set has none of its tables."""


def find(root: Path, *patterns: str) -> list[Path]:
    """The files below `root` that match the first pattern that has matches, sorted.

    Raises NoFiles, with the patterns and the files in `root`, if no pattern has a match.
    """
    if not root.is_dir():
        raise NoFiles(f"data.root is {root}, which is not a folder; give the folder with the downloaded set")
    for pattern in patterns:
        if files := sorted(path for path in root.glob(pattern) if path.is_file()):
            return files
    there = sorted(path.name for path in root.iterdir())[:12]
    raise NoFiles(
        f"{root} holds none of {', '.join(patterns)}; it holds {', '.join(there) or 'nothing'}. Set data.root to the folder of the download"
    )


def rows_of(path: Path, spare: bool = False) -> Iterator[tuple[Location, dict]]:
    """Every row of a table, as a mapping from its columns. Memory does not grow with the file.

    With `spare`, a row that is not a record and a line that is not JSON become a mapping from
    UNREAD to the reason, and reading continues. Raises ValueError, with file and row, for a file
    that does not have the format of its suffix.
    """
    readers = {".csv": _csv, ".tsv": _tsv, ".parquet": _parquet, ".jsonl": _json_lines, ".json": _json_list}
    if path.suffix not in readers:
        raise ValueError(f"{path} can't be read as a table; allowed are {', '.join(readers)}: save it as one of these")
    if path.suffix != ".parquet":
        with path.open("rb") as file:
            if b"\0" in (head := file.read(4)) or head[:2] in (b"\xff\xfe", b"\xfe\xff"):
                raise ValueError(f"{path} is UTF-16 or no text at all; save it as UTF-8")
    for location, _, content in _located(path, ((None, content) for content in readers[path.suffix](path)), spare):
        yield location, content


def entries_of(path: Path) -> Iterator[tuple[Location, str, dict]]:
    """Key and value of every entry of a JSON mapping of records.

    Raises ValueError like `rows_of`.
    """
    yield from _located(path, _json_mapping(path), spare=False)


def rows_in(*patterns: str) -> Rows:
    """A function that iterates over the rows of the files that `find` finds below a root."""

    def walk(root: Path) -> Iterator[tuple[Location, dict]]:
        for path in find(root, *patterns):
            yield from rows_of(path, spare=True)

    return walk


def rows_with_ids(*patterns: str, own: str = "") -> Rows:
    """Like `rows_in`, with a `row id` in each row: for sets whose rows have no unique id.

    It joins the name of the file, the row's number, and its id in the column `own` if it has one.
    """

    def walk(root: Path) -> Iterator[tuple[Location, dict]]:
        for location, row in rows_in(*patterns)(root):
            parts = (location.file.stem, location.row, row.get(own))
            yield location, row | {ROW_ID: "-".join(str(part) for part in parts if part is not None)}

    return walk


def _located(path: Path, contents: Iterable[tuple[Any, object]], spare: bool) -> Iterator[tuple[Location, Any, dict]]:
    row = 0
    try:
        for row, (key, content) in enumerate(contents, start=1):
            if not isinstance(content, dict):
                content = {UNREAD: str(content) if isinstance(content, ValueError) else f"a {type(content).__name__} is not a record"}
                if not spare:
                    row -= 1
                    raise ValueError(content[UNREAD])
            yield Location(path, row), key, content
    except (ValueError, OSError, RecursionError, csv.Error, pa.ArrowException, ijson.JSONError) as error:
        raise ValueError(f"{path}, row {row + 1}: the file can't be read ({_why(error)}); correct it, or download it again") from error


def _why(error: Exception) -> str:
    """What is wrong with a file, in one line."""
    if isinstance(error, UnicodeDecodeError):
        return f"{error.reason} at byte {error.start}: it is not UTF-8"
    reason = error.args[0] if isinstance(error, ijson.JSONError) and error.args else str(error)
    if isinstance(reason, bytes):
        reason = reason.decode(errors="replace")
    if "trailing garbage" in reason:
        return "it holds more than one JSON value; a file of one object per line is named .jsonl"
    return " ".join(reason.partition("(right here)")[0].split())


def _tsv(path: Path) -> Iterator[dict]:
    """The rows.

    A cell `image` that holds the index of another row is replaced by that row's image.
    """
    images = None
    for row in _separated(path, "\t"):
        if "index" in row and INDEX.fullmatch(row.get("image", "")):
            images = images or _Images(path)
            row["image"] = images.image_of(row["image"].strip())
        yield row


def _csv(path: Path) -> Iterator[dict]:
    return _separated(path, ",")


def _separated(path: Path, delimiter: str) -> Iterator[dict]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        # strict: an unclosed quote would swallow rows
        for row in csv.DictReader(file, delimiter=delimiter, strict=True):
            if None in row or None in row.values():
                raise ValueError("it has more or fewer cells than the header has columns")
            yield row


class _Images:
    """The images of a TSV by the index of their row.

    Memory holds the offset of each row and the last image.
    """

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

    def image_of(self, index: str) -> str:
        """The image of the row with this index; the index itself if there is no such row with an
        image.
        """
        if index != self._last[0] and index in self._starts:
            with self._path.open("rb") as file:
                file.seek(self._starts[index])
                self._last = (index, dict(zip(self._columns, next(_tsv_rows(file)), strict=False))["image"])
        return self._last[1] if index == self._last[0] else index


def _tsv_rows(file: BinaryIO) -> Iterator[list[str]]:
    """Rows from the file's position on. After each row, the position is the start of the next."""
    return csv.reader((line.decode("utf-8-sig") for line in iter(file.readline, b"")), delimiter="\t", strict=True)


def _parquet(path: Path) -> Iterator[dict]:
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=READ_AT_ONCE) as table:
        for batch in table.iter_batches(batch_size=ROWS_AT_ONCE):
            yield from batch.to_pylist()


def _json_lines(path: Path) -> Iterator[object]:
    """The content of every line that is not blank, or a ValueError with the reason if it can't be
    read.

    Raises that error for a last line that was cut off.
    """
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
                    # The download was cut off: later lines are missing too
                    if not line.endswith(b"\n"):
                        raise
                    yield ValueError(str(error))


def _no_number(name: str) -> None:
    """NaN and Infinity are read as null: they are not JSON, but Python writes them."""


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
            raise ValueError('it is neither a list of records nor {"data": [...]}, or it is empty')


def _json_mapping(path: Path) -> Iterator[tuple[str, object]]:
    with path.open("rb") as file:
        _skip_mark(file)
        stream = _Json(file)
        for entry in ijson.kvitems(stream, "", use_float=True):
            yield entry
            stream.row = 0


class _Json:
    """A JSON file for `ijson`, in which NaN and Infinity, which Python writes, become null.

    Raises ValueError for a row that is too long or nested too deeply, before `ijson` allocates
    memory for it.
    """

    MARKS = re.compile(rb'\\.|"|NaN|-?Infinity', re.DOTALL)
    LONGEST = len(b"-Infinity")
    ESCAPES = re.compile(rb"\\.", re.DOTALL)
    NO_BRACKETS = bytes(set(range(256)) - set(b'"[]{}'))
    STEPS = np.array([(byte in b"[{") - (byte in b"]}") for byte in range(256)])

    def __init__(self, file: BinaryIO) -> None:
        self.row = 0  # bytes since the last row; the caller sets it to 0 after each row
        self._file, self._pending, self._in_text = file, b"", False
        self._depth, self._quotes, self._escape = 0, 0, b""
        self._odd = _has_names_of_numbers(file)

    def read(self, size: int) -> bytes:
        """The next bytes; none at the end of the file, or if `size` is 0."""
        output, block = b"", b"."
        while size and block and not output:
            block = self._file.read(size)
            self.row += len(block)
            if self.row > LARGEST_ROW + size:
                raise ValueError(f"it has more than {LARGEST_ROW} bytes")
            self._check_depth(block)
            output = self._with_nulls(block) if self._odd else block
        return output

    def _check_depth(self, block: bytes) -> None:
        text = self._escape + block
        # A pair that the end of the block cuts
        self._escape = b"\\" * ((len(text) - len(text.rstrip(b"\\"))) % 2)
        text = self.ESCAPES.sub(b"", text[: len(text) - len(self._escape)])
        marks = np.frombuffer(text.translate(None, self.NO_BRACKETS), np.uint8)
        if marks.size:
            quotes = self._quotes + np.cumsum(marks == ord('"'))
            # Brackets inside strings do not count
            depths = self._depth + np.cumsum(self.STEPS[marks] * (quotes % 2 == 0))
            self._depth, self._quotes = int(depths[-1]), int(quotes[-1])
            if depths.max() > DEEPEST:
                raise ValueError(f"it is nested more than {DEEPEST} deep")

    def _with_nulls(self, block: bytes) -> bytes:
        """The block with `null` for NaN and Infinity outside strings.

        The end of the block, which may cut such a name, is kept for the next call.
        """
        data, at, parts = self._pending + block, 0, []
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
        self._pending = data[last:]
        return b"".join([*parts, data[at:last]])


def _has_names_of_numbers(file: BinaryIO) -> bool:
    """Whether a file contains NaN or Infinity, also inside a string."""
    if not os.fstat(file.fileno()).st_size:
        return False
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        return any(whole.find(name) >= 0 for name in (b"NaN", b"Infinity"))


def _skip_mark(file: BinaryIO) -> int:
    """Seek behind the byte order mark, if the file has one; returns that position."""
    return file.seek(3 if file.read(3) == b"\xef\xbb\xbf" else 0)
