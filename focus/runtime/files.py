"""Files and folders that appear whole or not at all, and the lock of an output folder."""

import fcntl
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

PARTIAL = ".partial"


def is_first_rank() -> bool:
    """Whether this process prints and writes for all ranks.

    Lightning reads the rank from the launcher's environment, so it is known before a process
    group exists.
    """
    from pytorch_lightning.utilities import rank_zero_only  # slow to import, and not needed to refuse a setting

    return not getattr(rank_zero_only, "rank", 0)


@contextmanager
def atomic_write(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield the path to write a file or a folder to. It becomes `path` when the block ends.

    Readers see the older content or all of the new one. `durable` waits until the disk holds the
    content; without it a power cut may leave an empty file. An error removes what was written.
    """
    partial = partial_path(path)
    remove(partial)
    try:
        yield partial
        replace_atomically(partial, path, durable)
    except BaseException:
        remove(partial)
        raise


def write_on_first_rank(path: Path, text: str) -> None:
    """Write a text file on the first rank; the other ranks may be reading it."""
    if is_first_rank():
        with atomic_write(path) as partial:
            partial.write_text(text)


def partial_path(path: Path) -> Path:
    """Where a file or folder is written before it is renamed to `path`: in the same folder, so that renaming is one step."""
    return path.with_name(path.name + PARTIAL)


def replace_atomically(partial: Path, path: Path, durable: bool = True) -> None:
    """Rename the file or folder `partial` to `path` and replace what had that name."""
    if durable:
        for each in partial.rglob("*") if partial.is_dir() else [partial]:
            if each.is_file():
                with each.open("rb") as file:
                    os.fsync(file.fileno())
    if path.is_dir():
        remove(path)
    partial.replace(path)
    if durable:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        except OSError:  # some network file systems do not sync folders
            pass
        finally:
            os.close(folder)


def remove(path: Path) -> None:
    """Remove a file or a folder. A folder is renamed first, so an interruption leaves no half of it under its name."""
    if path.is_dir():
        gone = path if path.name.endswith(PARTIAL) else path.rename(path.with_name(f"{path.name}.gone{PARTIAL}"))
        shutil.rmtree(gone)
    else:
        path.unlink(missing_ok=True)


def json_text(content: Any, indent: int | None = None, ensure_ascii: bool = True) -> str:
    """Content as JSON that every parser reads: NaN and infinities, which JSON does not have, become null.

    All JSON files are written with it.
    """
    try:
        return json.dumps(content, indent=indent, ensure_ascii=ensure_ascii, allow_nan=False)
    except ValueError:  # NaN or an infinity
        return json.dumps(_without_nan(content), indent=indent, ensure_ascii=ensure_ascii, allow_nan=False)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file that an earlier command wrote. Raises ValueError, with the file and the remedy, if it is damaged."""
    try:
        content = json.loads(path.read_text())
        if isinstance(content, dict):
            return content
        problem = f"it holds a {type(content).__name__}"
    except (ValueError, RecursionError) as error:
        problem = str(error)
    raise ValueError(f"{path} is damaged ({problem}); copy it back, or remove it: what it holds is then made again")


def _without_nan(content: Any) -> Any:
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {key: _without_nan(value) for key, value in content.items()}
    return [_without_nan(value) for value in content] if isinstance(content, list | tuple) else content


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold a folder within the block, against other jobs on any node. The first rank holds it for all ranks.

    The lock belongs to the process, not to its children, and ends with the process. Its file is
    removed when the block ends. Raises ValueError if another job holds the lock.
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
                    f"another job is working in {folder} (it holds {file.name}); wait for it, or end it first "
                    "(on Slurm: squeue --me, scancel)"
                ) from error
            except OSError:  # this file system has no locks: run without one
                pass
            if _is_at(file, path):
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
                return
            # The job that held this file has just ended and removed it: open the new file of this name


def _is_at(file: TextIO, path: Path) -> bool:
    """Whether an open file is still the one with this name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
