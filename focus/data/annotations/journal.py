"""Boxes that people draw here, saved as they draw: an append-only file of JSON lines.

Every save is one line and is on the disk when `save` returns. The newest line of a question is its
state. Older lines stay, so nothing that was saved is lost. Several processes may write the file: each
save holds a lock, and a save that is not based on the newest state raises `Conflict`.
"""

import fcntl
import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from focus.data.boxes import Box
from focus.runtime.files import json_text
from focus.runtime.text import replace_surrogates

STATES = ("open", "done", "skipped")
Chains = tuple[tuple[Box, ...], ...]


@dataclass(frozen=True)
class Drawing:
    """What is drawn for one question.

    `version` counts the saves of the question; 0: nothing was saved. `chains` holds one chain per target:
    boxes in pixels of the original, smallest first. `seconds` is the time that was spent on the question.
    """

    id: str
    version: int = 0
    state: str = "open"
    chains: Chains = ()
    annotator: str = ""
    seconds: float = 0.0
    when: str = ""  # UTC, ISO 8601

    @property
    def content(self) -> tuple[str, Chains]:
        """What a person decided; two saves with the same content do not conflict."""
        return self.state, self.chains


class Conflict(ValueError):
    """A save that was based on an older state than the newest one, which `newest` holds."""

    def __init__(self, newest: Drawing) -> None:
        who = newest.annotator or "another tab or annotator"
        super().__init__(f"{who} saved this question at {newest.when[11:16]} UTC, after you opened it; keep your boxes, or take theirs")
        self.newest = newest


class Journal:
    """The drawings of a file. Threads and processes may use it at the same time."""

    def __init__(self, path: Path) -> None:
        """Raises ValueError, with the line, if a line of the file is damaged."""
        self.path = path
        self._newest: dict[str, Drawing] = {}
        self._read = 0  # bytes of the file
        self._lines = 0
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._held():
            pass

    @contextmanager
    def newest(self) -> Iterator[Mapping[str, Drawing]]:
        """The state of every question that was saved, by id. Nobody saves within the block."""
        with self._held():
            yield self._newest

    def of(self, name: str) -> Drawing:
        """The state of one question."""
        with self.newest() as drawings:
            return drawings.get(name, Drawing(name))

    def save(self, drawing: Drawing) -> Drawing:
        """Save what was drawn on top of `drawing.version`; returns the new state, with its version and time.

        A save that repeats the newest state returns that state, so a save can be tried again when
        its reply was lost. Raises Conflict, and saves nothing, if the newest state has another version.
        """
        with self._held() as file:
            newest = self._newest.get(drawing.id, Drawing(drawing.id))
            if newest.version == drawing.version:
                return self._append(file, [drawing])[0]
            if newest.content == drawing.content:
                return newest
            raise Conflict(newest)

    def add(self, drawings: Iterable[Drawing]) -> int:
        """Save drawings of questions that have none yet; returns their number. The others stay as they are."""
        with self._held() as file:
            return len(self._append(file, [drawing for drawing in drawings if drawing.id not in self._newest]))

    def _append(self, file: BinaryIO, drawings: list[Drawing]) -> list[Drawing]:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        saved = [replace(each, version=each.version + 1, annotator=replace_surrogates(each.annotator), when=now) for each in drawings]
        lines = b"".join(json_text(asdict(each)).encode() + b"\n" for each in saved)
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())
        self._newest |= {each.id: each for each in saved}
        self._read += len(lines)
        self._lines += len(saved)
        return saved

    @contextmanager
    def _held(self) -> Iterator[BinaryIO]:
        """The file, open at its end and locked, after reading what others added."""
        with self._lock, self.path.open("a+b") as file:
            with suppress(OSError):  # a file system without locks
                fcntl.lockf(file, fcntl.LOCK_EX)  # until the file is closed
            if file.seek(0, os.SEEK_END) < self._read:
                raise ValueError(f"{self.path} was shortened or removed while it was in use; put it back, or start again")
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):  # the last line of a process that was killed: it was never confirmed
                    file.truncate(self._read)
                    break
                self._lines += 1
                drawing = self._parsed(line)
                self._newest[drawing.id] = drawing
                self._read += len(line)
            file.seek(0, os.SEEK_END)
            yield file

    def _parsed(self, line: bytes) -> Drawing:
        try:
            stored: dict[str, Any] = json.loads(line)
            chains = tuple(tuple((float(x1), float(y1), float(x2), float(y2)) for x1, y1, x2, y2 in chain) for chain in stored["chains"])
            return Drawing(**stored | {"chains": chains})
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(
                f"{self.path}, line {self._lines}: damaged ({error}); remove that line: the drawing before it is then the newest"
            ) from error
