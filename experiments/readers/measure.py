"""How fast every reader of a published set is, and how much memory it takes. `python -m experiments.readers.measure` writes results.json;
names of sets measure these alone and keep the others' rows.

Each set's fixture is blown up to two sizes. Every point is a process of its own on one core, so its peak memory is its own; the rows are
written by another process before. Before the clock starts the reader has read the plain fixture once. Linux only: the peak is the kernel's.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.progress import track

from focus.data.readers import SETS, ingest
from tests.support.published import WRITERS

HERE = Path(__file__).parent
ROWS = (10_000, 100_000)
TABLES = (".tsv", ".parquet", ".json", ".jsonl")
HEAD = ("set", "rows", "tables, MiB", "s", "processor, s", "rows / processor s", "memory, MiB", "at 10,000 rows, MiB", "records, MiB")


def write(name: str, root: Path, rows: int) -> None:
    """Lay the set out under `root` with at least so many rows, and print how many."""
    with tempfile.TemporaryDirectory() as once:
        WRITERS[name](Path(once))
        per_copy = sum(1 for _ in SETS[name].rows(Path(once)))
    copies = -(-rows // per_copy)
    WRITERS[name](root, copies=copies)
    print(json.dumps(copies * per_copy))


def read(name: str, root: Path, rows: int) -> None:
    """Read the set under `root`, which has so many rows, and print what it took."""
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder)
        WRITERS[name](kept / "once")
        ingest(SETS[name], kept / "once", kept / "read once")
        before = memory_mib("VmRSS")
        began, busy = time.perf_counter(), time.process_time()
        reading = ingest(SETS[name], root, kept / "read")
        seconds, busy = time.perf_counter() - began, time.process_time() - busy
        assert len(reading.samples) + reading.dropped.total() == rows, reading.first
        tables = sum(path.stat().st_size for path in root.rglob("*") if path.suffix in TABLES)
        measured = {
            "set": name,
            "rows": rows,
            "records": len(reading.samples),
            "tables_mib": round(tables / 2**20, 1),
            "seconds": round(seconds, 2),
            "processor_s": round(busy, 2),
            "rows_per_processor_s": round(rows / busy),
            "memory_mib": round(memory_mib("VmHWM") - before, 1),  # what it grew by at its peak
            "records_mib": round((kept / "read/records.jsonl").stat().st_size / 2**20, 1),
        }
    print(json.dumps(measured))


def memory_mib(field: str) -> float:
    """A field of this process's memory: VmRSS, what is resident now, or VmHWM, the most that ever was."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{field}:")]
    return int(line.split()[1]) / 1024


def child(task: str, name: str, root: Path, rows: int) -> Any:
    """What this task prints last, run by another process."""
    command = [sys.executable, "-m", "experiments.readers.measure", task, name, str(root), str(rows)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{task} {name}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def table(points: list[dict[str, Any]]) -> str:
    """A line for each set, with its larger size; of the smaller one the memory."""
    lines = [HEAD, ("---",) * len(HEAD)]
    for small, large in zip(points[::2], points[1::2], strict=True):
        assert small["set"] == large["set"]
        cells = [large[key] for key in ("tables_mib", "seconds", "processor_s")]
        cells += [f"{large['rows_per_processor_s']:,}", large["memory_mib"], small["memory_mib"], large["records_mib"]]
        lines.append((large["set"], f"{large['rows']:,}", *cells))
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def main() -> None:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # and every child's
    if sys.argv[1:2] in (["write"], ["read"]):
        task, name, folder, rows = sys.argv[1:]
        {"write": write, "read": read}[task](name, Path(folder), int(rows))
        return
    measured = sys.argv[1:] or list(WRITERS)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    points = []
    for name, least in track([(name, least) for name in measured for least in ROWS], "readers"):
        with tempfile.TemporaryDirectory() as scratch:
            written = child("write", name, Path(scratch), least)
            points.append(child("read", name, Path(scratch), written) | {"commit": commit})
    if sys.argv[1:]:
        points += [point for point in json.loads((HERE / "results.json").read_text())["rows"] if point["set"] not in measured]
    points.sort(key=lambda point: list(WRITERS).index(point["set"]))  # stable: the smaller size stays first
    record = {"cores": os.cpu_count(), "used": 1, "python": platform.python_version(), "rows": points}
    (HERE / "results.json").write_text(json.dumps(record, indent=1) + "\n")
    readme = HERE / "README.md"
    shown = readme.read_text()
    readme.write_text(shown[: shown.index(f"| {HEAD[0]} |")] + table(points))
    print(table(points))


if __name__ == "__main__":
    main()
