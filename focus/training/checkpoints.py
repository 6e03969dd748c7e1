"""Checkpoints that a run resumes from. They appear whole or not at all, and the last two are kept.

A checkpoint is a file. Where weights are sharded it is a folder with files of every rank
(focus/runtime/strategies.py).
"""

import pickle
import re
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io import TorchCheckpointIO
from pytorch_lightning.callbacks import Checkpoint
from torch.distributed.checkpoint import FileSystemReader

from focus.runtime import distributed, files
from focus.runtime.requeue import RequeueWarning

KEPT = 2  # checkpoints: the last, and the one before it in case the last can't be read
UNREADABLE = (EOFError, OSError, RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile)


class _Sink:
    """The file object that PyTorch writes a checkpoint to. It keeps an error in `error` and does not raise it.

    PyTorch's writer writes once more when it is garbage-collected after an interruption. An exception
    there would abort the process.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        if self.error is None and not self.file.closed:
            try:
                self.file.write(data)
            except OSError as error:
                self.error = error
        return len(data)

    def flush(self) -> None:
        """Does nothing: the file is flushed when it is closed."""


class AtomicFiles(TorchCheckpointIO):
    """Writes a checkpoint beside its final name, waits until it is on the disk, and renames it.

    Lightning's own writer holds a second copy in memory and writes to the system's temporary folder. If
    outputs/ is on another file system, it then copies the file there, and an interruption would leave half
    a file under the final name.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = files.partial_path(path)
        with partial.open("wb") as file:
            sink = _Sink(file)
            try:
                torch.save(checkpoint, cast(BinaryIO, sink))
            except RuntimeError as error:
                if isinstance(error.__context__, KeyboardInterrupt):  # the writer could not finish after ctrl-C or SIGTERM
                    raise error.__context__ from None
                raise
        if sink.error is not None:
            raise sink.error
        files.replace_atomically(partial, path)

    def load_checkpoint(
        self, path: Any, map_location: Callable | None = lambda storage, _: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Raises ValueError, with the file's name, where it can't be read or holds more than tensors and plain values."""
        try:
            return super().load_checkpoint(path, map_location, weights_only)
        except UNREADABLE as error:
            raise ValueError(
                f"checkpoint {path} can't be read ({_first_line(error)}). Remove it, and the run resumes from the one before, or "
                "starts anew"
            ) from error


class SaveCheckpoints(Checkpoint):
    """Writes a checkpoint every `every` updates or `minutes` minutes, whichever comes first, and keeps the last two.

    A training that ends early saves its last update too, and so does a job that was warned (`warning`),
    before it is requeued. `every` and `updates` (the length of the whole run) count updates. Files are
    named by optimiser steps.
    """

    def __init__(self, folder: Path, every: int, minutes: float, updates: int, warning: RequeueWarning) -> None:
        self.folder, self.every, self.minutes, self.updates, self.warning = folder, every, minutes, updates, warning
        self._saved_at = time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: object) -> None:
        done = pl_module.updates_done
        ends_early = done < self.updates and (trainer.should_stop or trainer.fit_loop.epoch_loop._is_training_done)
        late = self.warning.given or time.monotonic() - self._saved_at >= 60 * self.minutes
        if any(distributed.all_gather(late)) or done % self.every == 0 or ends_early:
            self._save(trainer)
        self.warning.pass_on()

    def _save(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.folder / f"update-step={trainer.global_step}.ckpt")
        self._saved_at = time.monotonic()
        if trainer.is_global_zero:
            for old in [*all_checkpoints(self.folder)[KEPT:], *self.folder.glob("update-*" + files.PARTIAL)]:
                files.remove(old)

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Clears the mark of the last batch: the run may have been given more updates since."""
        checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False


def all_checkpoints(folder: Path) -> list[Path]:
    """All checkpoints, the last update first. Sorted by step, not by time: one that was being removed has a newer time."""
    return sorted(folder.glob("update-*.ckpt"), key=lambda path: int(re.findall(r"step=(\d+)", path.name)[0]), reverse=True)


def latest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the last update, readable or not; None if there is none."""
    return next(iter(all_checkpoints(folder)), None)


def latest_readable(folder: Path) -> Path | None:
    """The last readable checkpoint, or None if there is none. Later ones that are cut are reported and renamed to `*.cut`.

    Raises ValueError where checkpoints exist and all are cut.
    """
    unreadable: list[tuple[Path, str]] = []
    for path in all_checkpoints(folder):
        if not (reason := damage(path)):
            for cut, why in unreadable:
                if files.is_first_rank():
                    print(f"focus: {cut} can't be read ({why}); the run resumes from {path.name}. The file is kept as {cut.name}.cut")
                    cut.rename(cut.with_name(cut.name + ".cut"))
            return path
        unreadable.append((path, reason))
    if unreadable:
        reasons = "; ".join(f"{path.name}: {reason}" for path, reason in unreadable)
        raise ValueError(f"no checkpoint in {folder} can be read ({reasons}); copy one back, or remove that folder and the run starts anew")
    return None


def damage(checkpoint: Path) -> str:
    """Why a checkpoint is incomplete, by its size and its table of contents; empty if it is complete."""
    try:
        if not checkpoint.is_dir():
            zipfile.ZipFile(checkpoint).close()
            return ""
        for part in checkpoint.rglob("*.pt"):
            zipfile.ZipFile(part).close()
        if (checkpoint / ".metadata").is_file():
            for info in FileSystemReader(checkpoint).read_metadata().storage_data.values():
                if (checkpoint / info.relative_path).stat().st_size < info.offset + info.length:
                    return f"{info.relative_path} is cut"
        return "" if any(checkpoint.iterdir()) else "the folder is empty"
    except UNREADABLE as error:
        return _first_line(error)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
