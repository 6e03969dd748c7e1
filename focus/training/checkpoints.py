"""What a run goes on from: checkpoints that appear whole, and the one before the last.

A checkpoint is a file, or a folder with files of every rank where weights are divided (focus/runtime/strategies.py).
"""

import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io import TorchCheckpointIO
from pytorch_lightning.callbacks import Checkpoint
from torch.distributed.checkpoint import FileSystemReader

from focus.runtime import files

KEPT = 2  # checkpoints: the last one, and the one before it in case the last can't be read
UNREADABLE = (EOFError, OSError, RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile)


class _Sink:
    """What PyTorch writes a checkpoint to. A failure waits in `error`.

    After an interruption its writer writes once more, when it is dropped; what fails there aborts the process.
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
        """The file is flushed when it is closed."""


class AtomicFiles(TorchCheckpointIO):
    """Writes a checkpoint beside its final name, waits until it is on the disk, and renames it.

    Lightning's own way holds a second copy in memory, writes to the system's temporary folder, and copies from there to outputs/ where
    that is another file system: an interruption would leave half a file under the final name.
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
                if isinstance(error.__context__, KeyboardInterrupt):  # it could not end what ctrl-C or SIGTERM interrupted
                    raise error.__context__ from None
                raise
        if sink.error is not None:
            raise sink.error
        files.replace_atomically(partial, path)

    def load_checkpoint(
        self, path: Any, map_location: Callable | None = lambda storage, _: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Raises ValueError, with the name of the file, where it can't be read or holds more than tensors and plain values."""
        try:
            return super().load_checkpoint(path, map_location, weights_only)
        except UNREADABLE as error:
            raise ValueError(
                f"checkpoint {path} can't be read ({_first_line(error)}). Remove it, and the run goes on from the one before, or "
                "starts anew"
            ) from error


class SaveCheckpoints(Checkpoint):
    """Every so many updates a checkpoint; the last two stay. A training that ends early leaves one of its last update.

    `every` and `updates`, the length of the whole run, are counted in updates. Files are named by optimiser steps.
    """

    def __init__(self, folder: Path, every: int, updates: int) -> None:
        self.folder, self.every, self.updates = folder, every, updates

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: object) -> None:
        done = pl_module.updates_done
        ends_early = done < self.updates and (trainer.should_stop or trainer.fit_loop.epoch_loop._is_training_done)
        if done % self.every and not ends_early:
            return
        trainer.save_checkpoint(self.folder / f"update-step={trainer.global_step}.ckpt")
        if trainer.is_global_zero:
            for old in [*all_checkpoints(self.folder)[KEPT:], *self.folder.glob("update-*" + files.PARTIAL)]:
                files.remove(old)

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """What was the last update of another limit, or of a shorter run, need not be the last one now."""
        checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False


def all_checkpoints(folder: Path) -> list[Path]:
    """All checkpoints, that of the last update first. Not the newest by time: one that was being removed is newer."""
    return sorted(folder.glob("update-*.ckpt"), key=lambda path: int(re.findall(r"step=(\d+)", path.name)[0]), reverse=True)


def latest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the last update, whole or not; None where there is none yet."""
    return next(iter(all_checkpoints(folder)), None)


def latest_readable(folder: Path) -> Path | None:
    """The last checkpoint that is whole, or None where there is none yet. Later ones that are cut are told and set aside as `*.cut`.

    Raises ValueError where all are cut.
    """
    cut: list[tuple[Path, str]] = []
    for path in all_checkpoints(folder):
        if not (reason := damage(path)):
            for each, told in cut:
                if files.is_first_rank():
                    print(f"focus: {each} can't be read ({told}); the run goes on from {path.name}. The file is kept as {each.name}.cut")
                    each.rename(each.with_name(each.name + ".cut"))
            return path
        cut.append((path, reason))
    if cut:
        said = "; ".join(f"{path.name}: {reason}" for path, reason in cut)
        raise ValueError(f"no checkpoint in {folder} can be read ({said}); copy one back, or remove that folder and the run starts anew")
    return None


def damage(checkpoint: Path) -> str:
    """Why a checkpoint is not whole, from its size and its table of contents; empty if it is."""
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
