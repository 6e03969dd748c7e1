"""History of a run: one JSON line per update."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from focus.runtime import files

FINISHED, STOPPED = "finished", "stopped by an alarm"


class History(Callback):
    """One JSON line per update, cut back to the checkpoint when a run resumes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        done = int(pl_module.updates_done)
        kept = {int(row["update"]): row for row in read_history(self.path) if row["update"] <= done}
        if lost := [update for update in range(1, done + 1) if update not in kept]:
            shown = ", ".join(map(str, lost[:10])) + (", ..." if len(lost) > 10 else "")
            if trainer.is_global_zero:
                print(f"focus: {self.path} lacks {len(lost)} of the {done} updates that are made ({shown}); curves lack them too")
        files.write_on_first_rank(self.path, "".join(files.json_text(row) + "\n" for row in kept.values()))

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        row = {name: float(value) for name, value in trainer.logged_metrics.items()}
        if trainer.is_global_zero:
            with self.path.open("a") as out:
                out.write(files.json_text(row) + "\n")


def read_history(path: Path) -> list[dict[str, float]]:
    """Rows that `History` wrote; lines that an interruption or a full disk cut are left out.

    null is read as NaN. Files of earlier versions hold NaN itself.
    """
    rows = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    whole = [row for row in rows if isinstance(row, dict) and "update" in row]
    return [{name: math.nan if value is None else value for name, value in row.items()} for row in whole]


def run_status(history: Sequence[Mapping[str, float]], updates: int) -> str:
    """What became of a run that exported its policy, in the words of a results file. Without a history only finished runs do."""
    last = max(history, key=lambda row: row["update"], default=None)
    if last is None or last["update"] >= updates:
        return FINISHED
    done = int(last["update"])
    stopped = any(name.startswith("alarm/") and value == 1 for name, value in last.items())
    return f"{STOPPED} after {done} updates" if stopped else f"{done} of {updates} updates"
