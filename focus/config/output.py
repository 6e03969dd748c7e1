"""The output folder of a command: made, written to, and held by one job at a time."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from focus.runtime import files
from focus.runtime.processes import RESUMES


@contextmanager
def writable(folder: str | Path) -> Iterator[None]:
    """Make the folder, and turn what the file system refuses inside the block into a ValueError that names the setting."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        yield
    except FileExistsError as error:
        raise ValueError(f"output is {folder}, which is a file or lies in one; name a folder: output=FOLDER") from error
    except OSError as error:
        raise ValueError(f"the output folder {folder} can't be written ({error}); choose another with output=FOLDER") from error


@contextmanager
def alone(folder: str | Path) -> Iterator[None]:
    """Make an output folder, and let no other job work in it within the block. What is interrupted there can go on.

    A block that leaves nothing in it, such as one that refuses its input, leaves no folder.

    Raises ValueError where it can't be written, and where another job holds it.
    """
    with ExitStack() as held:
        held.callback(_remove_empty, Path(folder))
        with writable(folder):
            held.enter_context(files.folder_lock(Path(folder)))
        try:
            yield
        except KeyboardInterrupt as error:
            error.add_note(RESUMES)
            raise


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
