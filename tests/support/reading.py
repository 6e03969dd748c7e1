"""One published set, written by tests/support/published.py and read through the public interface."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from focus.data.readers import SETS, ingest
from focus.data.sample import Sample
from tests.support.published import WRITERS, edit

PROPERTY = settings(deadline=None, database=None, max_examples=15)


class Read:
    """One set written under `folder`, changed where a test says so, and read through the public interface."""

    def __init__(self, folder: Path, name: str, change: Callable[[Path], object] | None = None, **form) -> None:
        self.name, self.root, self.kept = name, folder / "published", folder / "kept"
        self.root.mkdir(parents=True, exist_ok=True)
        WRITERS[name](self.root, **form)
        if change is not None:
            change(self.root)
        self.again()

    def again(self) -> None:
        self.reading = ingest(SETS[self.name], self.root, self.kept)
        self.samples, self.dropped = list(self.reading.samples), self.reading.dropped

    @property
    def lines(self) -> list[dict]:
        return [json.loads(line) for line in (self.kept / "records.jsonl").read_text().splitlines()]

    def __getitem__(self, native_id: str) -> Sample:
        [found] = [sample for sample in self.samples if native(sample) == native_id]
        return found

    def asking(self, question: str) -> Sample:
        [found] = [sample for sample in self.samples if sample.question == question]
        return found

    def line(self, sample: Sample) -> dict:
        [found] = [line for line in self.lines if line["id"] == sample.id]
        return found


@pytest.fixture
def read(tmp_path) -> Callable[..., Read]:
    return lambda name, change=None, **form: Read(tmp_path, name, change, **form)


def native(sample: Sample) -> str:
    return sample.id.removeprefix(f"{sample.source}/{sample.split}/")


def sha256(blob: bytes) -> str:
    return hashlib.sha256(blob).hexdigest()


def cell(row: int, key: str, value: object) -> Callable[[list[dict]], None]:
    """A change of one cell; `row` counts from 0."""
    return lambda rows: rows[row].__setitem__(key, value)


def changed(path: str, *changes: Callable[[list[dict]], object]) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        for each in changes:
            edit(root / path, each)

    return change
