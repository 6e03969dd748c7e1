"""Files that appear whole or not at all, and the lock of an output folder."""

import fcntl
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from pytorch_lightning.utilities import rank_zero_only


def is_first_rank() -> bool:
    """Whether this process is the one that prints and writes. Known before a process group exists, from the launcher's environment."""
    return not getattr(rank_zero_only, "rank", 0)


def write_atomically(path: Path, text: str) -> None:
    """The first rank writes a file that the others may be reading: they see what was there before, or all of this."""
    if is_first_rank():
        partial = partial_path(path)
        partial.write_text(text)
        replace_atomically(partial, path)


def json_text(content: Any, indent: int | None = None) -> str:
    """Content as JSON that every parser reads: NaN and infinities, which JSON does not have, become null."""
    return json.dumps(_without_nan(content), indent=indent, allow_nan=False)


def _without_nan(content: Any) -> Any:
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {key: _without_nan(value) for key, value in content.items()}
    return [_without_nan(value) for value in content] if isinstance(content, list | tuple) else content


PARTIAL = ".partial"


def partial_path(path: Path) -> Path:
    """Where a file or folder is written before it gets its own name: in the same folder, so that the renaming is one step."""
    return path.with_name(path.name + PARTIAL)


def replace_atomically(partial: Path, path: Path) -> None:
    """Give what was written in `partial` its own name, once all of it is on the disk. A file takes the place of an older one."""
    files = [each for each in partial.rglob("*") if each.is_file()] if partial.is_dir() else [partial]
    for each in files:
        with each.open("rb") as written:
            os.fsync(written.fileno())
    if path.is_dir():
        remove(path)
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    except OSError:  # some network file systems do not sync folders
        pass
    finally:
        os.close(folder)


def remove(path: Path) -> None:
    """Remove a file or a folder; what an interruption leaves of a folder no longer has its name."""
    if path.is_dir():
        gone = path if path.name.endswith(PARTIAL) else path.rename(path.with_name(f"{path.name}.gone{PARTIAL}"))
        shutil.rmtree(gone)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Within the block no other job works in this folder, on whatever node. The first rank asks for all.

    The lock belongs to the process, not to its children, and ends with it, however it ends; its file is removed at the end of the
    block. Raises ValueError where another job holds it.
    """
    if not is_first_rank():
        yield
        return
    path = folder / "running.lock"
    while True:
        with path.open("w") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError) as error:
                raise ValueError(
                    f"another job is working in {folder} (it holds {file.name}); let it go on, or end it before this one is started. "
                    "On Slurm: squeue --me, scancel"
                ) from error
            except OSError:  # a file system without locks: as if there were none
                pass
            if _is_at(file, path):
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
                return
            # The job that held this file has just ended and removed it: another one gets its name


def _is_at(file: TextIO, path: Path) -> bool:
    """Whether an open file is still the one with this name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
