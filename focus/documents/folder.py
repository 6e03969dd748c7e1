"""The pictures and documents of a folder, and the pages of them that are read."""

import os
import random
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from focus.runtime.text import replace_surrogates

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif")
DOCUMENTS = (".pdf",)
OTHER = "files that are neither pictures nor PDFs"
NO_FILE = "names that are no file: broken links, pipes"
SAME_NAME = "files whose name another file has in another Unicode form"
BEYOND = "pages beyond pages_per_file"


@dataclass
class Dropped:
    """What was left out: its number by reason, and the first place of each reason."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, place: str, number: int = 1) -> None:
        """Count what was left out at a place."""
        if number:
            self.counts[reason] += number
            self.first.setdefault(reason, place)

    def join(self, counts: dict[str, int], first: dict[str, str]) -> None:
        """Count what was left out elsewhere, too."""
        for reason, number in counts.items():
            self.add(reason, first[reason], number)


@dataclass(frozen=True)
class Piece:
    """A picture, or one page of a document.

    `name` is the path of the file below the folder, in one Unicode form. `page` counts from 0; None
    for a picture.
    """

    path: Path
    name: str
    page: int | None = None

    @property
    def place(self) -> str:
        """What a person looks it up by."""
        return self.name if self.page is None else f"{self.name} page {self.page + 1}"


def files(folder: Path, without: Path, dropped: Dropped) -> list[tuple[Path, str]]:
    """The pictures and PDFs below a folder with their names, sorted by name. `without` is the folder of results."""
    found: dict[str, Path] = {}
    for path in _walk(folder, without.resolve()):
        name = replace_surrogates(unicodedata.normalize("NFC", path.relative_to(folder).as_posix()))
        if path.suffix.lower() not in (*PICTURES, *DOCUMENTS):
            dropped.add(OTHER, name)
        elif not path.is_file():
            dropped.add(NO_FILE, name)
        elif name in found:
            dropped.add(SAME_NAME, name)
        else:
            found[name] = path
    return [(found[name], name) for name in sorted(found)]


def _walk(folder: Path, without: Path) -> Iterator[Path]:
    for here, inner, names in os.walk(folder):
        inner[:] = sorted(name for name in inner if Path(here, name).resolve() != without)
        yield from (Path(here, name) for name in sorted(names))


def chosen_pages(pages: int, most: int, seed: int, name: str) -> list[int]:
    """Which pages of a document are read: all, or `most` of them, spread evenly."""
    if pages <= most:
        return list(range(pages))
    start = random.Random(f"{seed} {name}").random()
    return [int((number + start) * pages / most) for number in range(most)]
