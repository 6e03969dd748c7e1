"""Finds files whose names differ from a table's in spelling only.

A Mac unpacks `café.jpg` with a decomposed é, a camera writes `a.JPG`, Windows writes
`images\\a.jpg`. A file with another spelling is used only if no file has the exact name and no
other file matches.
"""

import os
import unicodedata
from functools import lru_cache
from pathlib import Path


def other_spelling(root: Path, stored: str) -> str | None:
    """The path, relative to `root`, of the one file that equals `stored` except for Unicode form,
    case and backslashes.

    None if there is none, or several. The listing of a folder is cached until the folder changes.
    """
    path, parts = root, []
    for part in stored.replace("\\", "/").split("/"):
        if part in ("", "."):
            continue
        if part == "..":
            return None
        try:
            names = _names(path, path.stat().st_mtime_ns)
        except (OSError, ValueError):  # not a folder, not readable, or an impossible name
            return None
        name = names.get(folded(part))
        if name is None:
            return None
        parts.append(name)
        path /= name
    return "/".join(parts) if path.is_file() else None


def folded(name: str) -> str:
    """A name without differences of Unicode form and case, which file systems treat differently."""
    return unicodedata.normalize("NFC", name).casefold()


@lru_cache(maxsize=256)
def _names(folder: Path, changed_ns: int) -> dict[str, str | None]:
    """The names in a folder by folded name; None if several names fold to the same.

    `changed_ns` is a cache key.
    """
    names: dict[str, str | None] = {}
    for name in os.listdir(folder):
        names[folded(name)] = None if folded(name) in names else name
    return names
