"""File names that a table spells otherwise than the disk does.

A Mac unpacks `café.jpg` with a decomposed é, a camera writes `a.JPG`, Windows writes `images\\a.jpg`. Each shows the same name, and none
is found. A file is taken for the one that is meant only where no file has the exact name and no other file has an equal one.
"""

import os
import unicodedata
from functools import lru_cache
from pathlib import Path


def other_spelling(root: Path, stored: str) -> str | None:
    """The path, relative to `root`, of the one file whose name equals `stored` but for Unicode form, case, and back slashes.

    None where there is none, or several. A folder is listed once, however many names are looked for in it, until it changes.
    """
    place, parts = root, []
    for part in stored.replace("\\", "/").split("/"):
        if part in ("", "."):
            continue
        if part == "..":
            return None
        try:
            names = _names(place, place.stat().st_mtime_ns)
        except (OSError, ValueError):  # it is no folder, may not be read, or has a name that no file can have
            return None
        found = names.get(folded(part))
        if found is None:
            return None
        parts.append(found)
        place /= found
    return "/".join(parts) if place.is_file() else None


def folded(name: str) -> str:
    """A name without what file systems do not agree on: Unicode form and case."""
    return unicodedata.normalize("NFC", name).casefold()


@lru_cache(maxsize=256)
def _names(folder: Path, changed_ns: int) -> dict[str, str | None]:
    """What lies in a folder, by its folded name; None for names that only spelling tells apart. `changed_ns` makes the cache forget."""
    names: dict[str, str | None] = {}
    for name in os.listdir(folder):
        names[folded(name)] = None if folded(name) in names else name
    return names
