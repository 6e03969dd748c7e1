"""What becomes of a run folder that two starts want at once, that is carried elsewhere, or whose disk refuses. Writes folders.json.

`python -m experiments.faults.folders starts` makes one table, without a name all of them: starts, carried, disk.

Every trial ends with the plain command in that folder, and the folder must then hold what an undisturbed run left, byte for byte but for
seconds on a clock (checkpoints: value by value). A command that is refused must end with a status other than 0 and one sentence, never
with a traceback.

How a disk refuses: `refused` and `full` raise EROFS and ENOSPC in the n-th change of the folder (a file opened to write, renamed,
removed, a folder made) and in all that follow, for n over the whole run. `small` is a real file system in memory of so many KiB, on
which writes themselves fail half-way, and which is enlarged before the second start; `read-only` is mounted so. Both need root.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from experiments.faults import children
from experiments.faults.children import Child, Fault
from experiments.faults.kills import CASES, Killer, commit, write

KEPT = Path(__file__).parent / "folders.json"
ENTRIES = ("train", "calibrate", "evaluate", "probe")
SECOND_START = (0.0, 0.5)  # share of the undisturbed run after which the second one starts
CARRIED_AFTER = 0.6  # share of the changes of an undisturbed run
CARRIED = ("copied", "moved", "dated 1970", "dated 2096")
MOST_CHANGES = 6  # of a run, at which the disk begins to refuse
SMALL_DISK = (0.05, 0.3, 0.8)  # share of what an undisturbed run leaves


class Trials:
    """The trials of one entry, in the working folder of this process."""

    def __init__(self, name: str, policy: Path) -> None:
        self.name, self.case, self.home = name, CASES[name], Path.cwd()
        self.killer = Killer(self.case, policy)
        self.size = sum(path.stat().st_size for path in self.killer.folder.rglob("*"))

    def start(self, fault: Fault | None = None) -> Child:
        """The command in the working folder."""
        return children.start(self.case.module, self.killer.words, Path.cwd() / "run", fault)

    def plain(self) -> list[str]:
        """The command once more, to its end; what the folder then lacks."""
        child = self.start()
        ended = child.wait(600)
        child.close()
        lost = children.differences(self.killer.reference, self.killer.contents(Path.cwd() / "run"))
        if child.status or not ended:
            return [f"the plain command ended with status {child.status}: {_last(child)}", *lost]
        return lost

    def starts(self) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
        for share in SECOND_START:
            yield f"after {share:.0%}", lambda share=share: self._two(share)

    def _two(self, share: float) -> dict[str, Any]:
        first = self.start()
        first.wait(share * self.killer.seconds)
        second = self.start()
        for child in (first, second):
            child.wait(600)
        for child in (first, second):
            child.close()
        refused = [child for child in (first, second) if child.status]
        seen = {"statuses": [first.status, second.status], "said": [_last(child) for child in refused]}
        seen["traceback"] = any("Traceback" in child.text for child in (first, second))
        return seen | {"lost": self.plain()}

    def carried(self) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
        for how in CARRIED:
            yield how, lambda how=how: self._carried(how)

    def _carried(self, how: str) -> dict[str, Any]:
        child = self.start()
        while not child.poll() and child.operations < CARRIED_AFTER * self.killer.operations:
            pass
        child.signal(signal.SIGKILL)
        child.close()
        elsewhere = self.home / "elsewhere"
        elsewhere.mkdir()
        if how == "copied":
            shutil.copytree("run", elsewhere / "run")
        elif how == "moved":
            shutil.move("run", elsewhere / "run")
        else:
            at = time.mktime((int(how.split()[1]), 6, 1, 0, 0, 0, 0, 0, 0))
            for path in Path("run").rglob("*"):
                os.utime(path, (at, at))
        if how in ("copied", "moved"):
            os.chdir(elsewhere)
        return {"lost": self.plain()}

    def disk(self) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
        changes = self.killer.operations
        some = sorted({round(1 + i * (changes - 1) / (MOST_CHANGES - 1)) for i in range(MOST_CHANGES)})
        for place, n in enumerate(some):
            kind, code = (("refused", "EROFS"), ("full", "ENOSPC"))[place % 2]
            yield f"{kind} from change {n} of {changes} on", lambda n=n, code=code: self._then(self._disk(Fault(n, code)))
        if os.geteuid() == 0:
            for share in SMALL_DISK:
                kib = round(share * self.size / 1024)
                yield f"small: {kib} KiB", lambda kib=kib: self._small(kib)
            yield "read-only", self._read_only

    def _disk(self, fault: Fault | None) -> dict[str, Any]:
        child = self.start(fault)
        child.wait(600)
        child.close()
        sentences = [line for line in child.text.splitlines() if line.startswith("focus: ")]
        return {"status": child.status, "said": " / ".join(sentences), "traceback": "Traceback" in child.text or not sentences} | (
            {"last": _last(child)} if not sentences or "Traceback" in child.text else {}
        )

    def _then(self, seen: dict[str, Any]) -> dict[str, Any]:
        return seen | {"lost": self.plain()}

    def _small(self, kib: int) -> dict[str, Any]:
        with _mounted(self.home / "disk", f"size={kib}k") as disk:
            os.chdir(disk)
            seen = self._disk(None)
            subprocess.run(["mount", "-o", "remount,size=1g", disk], check=True)
            return self._then(seen)

    def _read_only(self) -> dict[str, Any]:
        with _mounted(self.home / "disk", "size=1g,ro") as disk:
            os.chdir(disk)
            seen = self._disk(None)
            subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
            return self._then(seen)


@contextmanager
def _mounted(place: Path, options: str) -> Iterator[Path]:
    """A file system in memory. The working folder must have left it when the block ends, so that is seen to."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], check=True)
    home = Path.cwd()
    try:
        yield place
    finally:
        os.chdir(home)
        subprocess.run(["umount", place], check=True)
        place.rmdir()


def _last(child: Child) -> str:
    return " / ".join([line.strip() for line in child.text.splitlines() if line.strip()][-2:])[-500:]


def _anywhere(trial: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """A trial's record without the name of the folder that it was made in."""
    return json.loads(json.dumps(trial).replace(str(scratch), "SCRATCH"))


TABLES = ("starts", "carried", "disk")


def table(record: dict[str, Any]) -> str:
    """A line for each kind of trouble and command: trials, and those that went wrong."""
    lines = [
        "| trouble | command | trials | not refused by one sentence | folder other than undisturbed afterwards |",
        "|---|---|---|---|---|",
    ]
    for kind, entries in record.items():
        for name, entry in entries.items():
            trials = entry["trials"]
            tracebacks, lost = sum(trial.get("traceback", False) for trial in trials), sum(bool(trial["lost"]) for trial in trials)
            lines.append(f"| {kind} | {name} | {len(trials)} | {'–' if kind == 'carried' else tracebacks} | {lost} |")
    return "\n".join(lines) + "\n"


def main(names: Sequence[str]) -> None:
    if unknown := set(names) - set(TABLES):
        raise SystemExit(f"there is no table {', '.join(sorted(unknown))}; there are {', '.join(TABLES)}")
    children.imported()
    record = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with children.scratch() as scratch:
        policy = children.policy(scratch)
        for name in ENTRIES:
            trials = None
            for kind in names or TABLES:
                entry = record.setdefault(kind, {}).setdefault(name, {})
                if entry.get("commit") != commit() or not entry.get("whole"):
                    record[kind][name] = entry = {"commit": commit(), "whole": False, "trials": []}
                    trials = trials or Trials(name, policy)
                    todo = list(getattr(trials, kind)())
                    with Progress(*columns, auto_refresh=False) as progress:
                        task = progress.add_task(f"{kind} {name}", total=len(todo))
                        for what, trial in todo:
                            os.chdir(scratch)
                            for left in ("run", "elsewhere"):
                                children.remove(Path(left))
                            seen = trial()
                            entry["trials"].append(_anywhere({"trial": what, **seen}, scratch))
                            progress.update(task, advance=1, refresh=True)
                            if seen["lost"] or seen.get("traceback"):
                                progress.console.print(f"{kind}, {name}, {what}: {json.dumps(seen)}", markup=False)
                    entry["whole"] = True
                    write(KEPT, record)
            os.chdir(scratch)
    print(table(record))


if __name__ == "__main__":
    main(sys.argv[1:])
