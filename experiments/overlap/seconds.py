"""Seconds of an update with and without overlap, in turns, into seconds.json beside this file. Keep the machine quiet.

    .venv/bin/python -m experiments.overlap.seconds

Both get two processor cores: without overlap PyTorch has two threads, with it sampler and update have one each.
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from focus.training.history import read_history

HERE = Path(__file__).parent
REPEATS, UPDATES = 3, 12
ARMS = {
    "off, 2 threads": ("threads=2",),
    "off, 1 thread": ("threads=1",),
    "overlap, 1 thread each": ("threads=1", "rollout.overlap=true", "rollout.sampler_ratio_cap=2.0"),
}
PHASES = ("seconds/view", "seconds/rollout", "seconds/reward", "seconds/update", "seconds/publish", "seconds/sampling")


def measured(settings: tuple[str, ...]) -> dict[str, float]:
    """Mean seconds of updates 3 to 12 of a short run: whole, and by phase."""
    with TemporaryDirectory() as output:
        common = ("experiment=stage1", f"output={output}", f"objective.updates={UPDATES}", "evaluation.samples=0")
        end = ("report.checkpoint_every=100", "+trainer.enable_progress_bar=false")
        subprocess.run([sys.executable, "-m", "focus.train", *common, *end, *settings], check=True, stdout=subprocess.DEVNULL)
        rows = read_history(Path(output) / "history.jsonl")[2:]
    whole = [row["tokens/sampled"] / row["tokens/per_second"] for row in rows]
    phases = {name.partition("/")[2]: statistics.fmean(row[name] for row in rows) for name in PHASES if name in rows[0]}
    return {"update, whole": round(statistics.fmean(whole), 3), **{name: round(value, 3) for name, value in phases.items()}}


def main() -> None:
    rounds = [{name: measured(settings) for name, settings in ARMS.items()} for _ in range(REPEATS)]
    ratios = {
        f"overlap / {name}": sorted(
            round(each["overlap, 1 thread each"]["update, whole"] / each[name]["update, whole"], 3) for each in rounds
        )
        for name in list(ARMS)[:2]
    }
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    record = {"commit": commit, "cores": os.cpu_count(), "ratios": ratios, "rounds": rounds}
    (HERE / "seconds.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(ratios, indent=1))


if __name__ == "__main__":
    main()
