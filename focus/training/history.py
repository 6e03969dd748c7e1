"""History of a run: one JSON line per update."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from focus.runtime import files

FINISHED = "finished"
STOPPED = "stopped by an alarm"  # of earlier versions, whose alarms could end a training; their records are still read


class History(Callback):
    """One JSON line per update, cut back to the checkpoint when a run resumes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        done = int(pl_module.updates_done)
        rows = {int(row["update"]): row for row in read_history(self.path) if row["update"] <= done}
        if missing := [update for update in range(1, done + 1) if update not in rows]:
            shown = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
            if trainer.is_global_zero:
                print(f"focus: {self.path} lacks {len(missing)} of the {done} finished updates ({shown}); curves lack them too")
        files.write_on_first_rank(self.path, "".join(files.json_text(row) + "\n" for row in rows.values()))

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        row = {name: float(value) for name, value in trainer.logged_metrics.items()}
        if trainer.is_global_zero:
            with self.path.open("a") as out:
                out.write(files.json_text(row) + "\n")


def read_history(path: Path) -> list[dict[str, float]]:
    """The rows that `History` wrote. Lines that an interruption or a full disk has cut are left out.

    null is read as NaN. Files of earlier versions hold NaN itself.
    """
    rows = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    complete = [row for row in rows if isinstance(row, dict) and "update" in row]
    return [{name: math.nan if value is None else value for name, value in row.items()} for row in complete]


def run_status(history: Sequence[Mapping[str, float]], updates: int) -> str:
    """The status of a run that exported its policy, as a results file states it. A run without a history counts as finished."""
    last = max(history, key=lambda row: row["update"], default=None)
    if last is None or last["update"] >= updates:
        return FINISHED
    done = int(last["update"])
    stopped = any(name.startswith("alarm/") and value == 1 for name, value in last.items())
    return f"{STOPPED} after {done} updates" if stopped else f"{done} of {updates} updates"
