"""What a long training keeps: memory, open files, threads, disk. `python -m experiments.faults.growth` writes growth.json.

500 updates of `experiment=smoke` with the embedded policy, in a process of its own that is watched from outside five times a second.
Memory is the process's own (anonymous pages that are resident, RssAnon of the kernel). Of every 50 updates its least, mean and most are
kept. The least is what stays when an update has ended and its free memory has gone back. Linux only.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import fmean, linear_regression
from tempfile import TemporaryDirectory
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from experiments.faults.children import ENVIRONMENT, ROOT
from experiments.faults.kills import commit, write

KEPT = Path(__file__).parent / "growth.json"
UPDATES, EVERY = 500, 50
SETTLED = 100  # updates after which memory should stay: by then every kind of view, crop and answer has been met
WORDS = ("experiment=smoke", f"objective.updates={UPDATES}", "evaluation.samples=0", "data.workers=0", "threads=1", "hydra.run.dir=run")
WATCH_S = 0.2


def own_mib(pid: int) -> float:
    """Anonymous memory of a process that is resident, MiB."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("RssAnon:")]
    return int(line.split()[1]) / 1024


def seen(pid: int, run: Path) -> dict[str, float]:
    """What the process and its folder hold now."""
    return {
        "own_mib": own_mib(pid),
        "files": len(list(Path(f"/proc/{pid}/fd").iterdir())),
        "threads": len(list(Path(f"/proc/{pid}/task").iterdir())),
        "disk_mib": sum(path.stat().st_size for path in run.rglob("*") if path.is_file()) / 2**20,
    }


def watch(running: subprocess.Popen[bytes], run: Path, progress: Progress) -> list[dict[str, Any]]:
    """A row for every 50 updates, until the last one is made or the process ends."""
    rows: list[dict[str, Any]] = []
    looks: list[dict[str, float]] = []
    task = progress.add_task("updates", total=UPDATES)
    history = run / "history.jsonl"
    while len(rows) < UPDATES // EVERY and running.poll() is None:
        lines = history.read_bytes().count(b"\n") if history.exists() else 0
        progress.update(task, completed=lines)
        try:
            looks.append(seen(running.pid, run))
        except (FileNotFoundError, ValueError):  # a file of the run has been replaced meanwhile, or the process has just ended
            continue
        if lines >= EVERY * (len(rows) + 1):
            own = [look["own_mib"] for look in looks]
            row = {"updates": lines} | {f"own_mib_{which.__name__}": round(which(own), 1) for which in (min, fmean, max)}
            rows.append(row | {key: round(max(look[key] for look in looks), 2) for key in ("files", "threads", "disk_mib")})
            looks = []
        time.sleep(WATCH_S)
    return rows


def rise(rows: list[dict[str, Any]], which: str) -> float:
    """MiB that a process gains with every update, once it has settled, by the column `which`."""
    settled = [row for row in rows if row["updates"] > SETTLED]
    return linear_regression([row["updates"] for row in settled], [row[which] for row in settled]).slope


def table(record: dict[str, Any]) -> str:
    """A line for every 50 updates."""
    lines = [
        "| after updates | own memory, MiB: least | mean | most | open files | threads | run folder, MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in record["rows"]:
        memory = " | ".join(f"{row[f'own_mib_{which}']:.0f}" for which in ("min", "fmean", "max"))
        lines.append(f"| {row['updates']} | {memory} | {row['files']:.0f} | {row['threads']:.0f} | {row['disk_mib']:.1f} |")
    least, mean = (rise(record["rows"], f"own_mib_{which}") for which in ("min", "fmean"))
    return "\n".join(lines) + f"\n\nAfter {SETTLED} updates the least rises by {least:.3f} MiB an update, the mean by {mean:.3f}.\n"


def main() -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with TemporaryDirectory(prefix="focus-growth-") as scratch, Progress(*columns) as progress, open(f"{scratch}/said", "wb") as said:
        command = [sys.executable, "-m", "focus.train", *WORDS]
        running = subprocess.Popen(command, cwd=scratch, env=os.environ | ENVIRONMENT | {"PYTHONPATH": str(ROOT)}, stdout=said, stderr=said)
        try:
            rows = watch(running, Path(scratch) / "run", progress)
            if running.wait() or len(rows) < UPDATES // EVERY:
                raise SystemExit(f"the training ended with status {running.returncode}: {Path(said.name).read_text()[-2000:]}")
        finally:
            running.kill()
    record = {"commit": commit(), "command": f"python -m focus.train {' '.join(WORDS)}", "rows": rows}
    write(KEPT, record)
    print(table(record))


if __name__ == "__main__":
    main()
