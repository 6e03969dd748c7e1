"""Kill a command at random moments, give it again, and compare the end with an uninterrupted run. Writes kills.json.

`python -m experiments.faults.kills train` makes one table, without a name all of them. Interrupted, it goes on with the next series.

A series is: start the command, kill it, start it again, kill it, ..., at most five kills, then let it end. Its folder must then hold what
the uninterrupted run left, byte for byte but for seconds on a clock; checkpoints are compared value by value, to the bit. Every choice
follows from the number of the series.

A kill is one of three kinds. `time`: SIGKILL, SIGTERM or SIGINT (ctrl-C) at a moment drawn evenly over the length of the uninterrupted
run. `operation`: SIGKILL before a change of the folder drawn evenly over those of that run (a file opened to write, renamed, removed, a
folder made). `write`: SIGKILL in the middle of a write, where a file outgrows a length that is drawn.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from experiments.faults import children
from experiments.faults.children import Child, Fault

HERE = Path(__file__).parent
KEPT = HERE / "kills.json"
IN_A_SERIES = 5  # kills at most; then the command is left alone
KINDS = {"time": 0.6, "operation": 0.25, "write": 0.15}
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
LAUNCHER_WAITS_S = 10.0  # until a launcher ends the ranks that are left when one has died
RANK_ENDS_WITHIN_S = 30.0  # of SIGTERM; then Slurm and torchrun kill

SMALL = (
    "experiment=smoke",
    "data.side_px=224",
    "data.workers=0",
    "rollout.tokens_per_turn=8",
    "report.trajectories=1",
    "threads=1",
    "evaluation.common_view_tokens=16",
    "evaluation.arms=[own,noise]",
    "evaluation.resamples=50",
    "+reward.terms.parity={_target_: tests.support.updates.Parity, weight: 1.0}",
)
ASKED = ("output=run", "data.side_px=224", "threads=1", "rollout.tokens_per_turn=16", "evaluation.resamples=50", "evaluation.samples=8")


@dataclass(frozen=True)
class Case:
    """One command: its settings, how often it is to be killed, and what tells how far it had come.

    `marks` are patterns of files with what the command does after the first such file is there, in order. Files of `other` differ from
    start to start by design.
    """

    module: str
    words: tuple[str, ...]
    kills: int
    marks: tuple[tuple[str, str], ...]
    other: tuple[str, ...] = ("*running.lock", "*csv/*", "*.hydra/hydra.yaml")
    ranks: int = 1
    forked: bool = True  # else a new interpreter, as a shell starts it


TRAINED = (
    ("settings.yaml", "loading the policy"),
    ("checkpoints/*.ckpt", "training"),
    ("policy*/config.json", "exporting"),
    ("policy/config.json", "measuring"),
    ("evaluation_trained*.json", "drawing the page"),
    ("report.html", "after the page"),
)
TRAIN = (*SMALL, "objective.updates=4", "evaluation.samples=2", "hydra.run.dir=run")
CASES = {
    "train": Case("focus.train", TRAIN, 60, TRAINED),
    "ranks": Case("focus.train", (*TRAIN, "trainer.strategy=ddp", "trainer.devices=2"), 50, TRAINED, ranks=2),
    "calibrate": Case(
        "focus.calibrate",
        (
            "output=run",
            "data.scenes=24",
            "data.side_px=224",
            "questions_per_forward=3",
            "tokens_per_turn=6",
            "threads=1",
            "calibration.require_correct_at_native=false",
            "calibration.never_diverges=floor",
        ),
        45,
        (("levels-*.jsonl", "asking"), ("levels.json", "writing"), ("levels.parquet", "after the table")),
    ),
    "evaluate": Case(
        "focus.evaluate",
        (*ASKED, "evaluation.questions_per_forward=2", "pictures=1"),
        45,
        (("played.measured", "playing"), ("predictions.jsonl", "writing"), ("report.html", "after the page")),
    ),
    "probe": Case(
        "focus.probe",
        (*ASKED, "evaluation.questions_per_forward=4", "views=[16,32,64]", "evaluation.arms=[own,gt,noise,tool_free]"),
        40,
        (("outcomes.json", "playing"), ("probe.json", "writing"), ("probe.png", "after the figure")),
    ),
    "sweep": Case(
        "focus.train",
        (
            "--multirun",
            *SMALL,
            "objective.updates=2",
            "evaluation.samples=1",
            "evaluation.base=false",
            "hydra.sweep.dir=run",
            "hydra.sweep.subdir=point-${hydra:job.num}",
            "results=run/results.csv",
            "seed=0,1",
        ),
        16,
        (
            ("multirun.yaml", "loading the policy"),
            ("point-0/checkpoints/*.ckpt", "first point"),
            ("point-1/settings.yaml", "second point, loading"),
            ("point-1/checkpoints/*.ckpt", "second point"),
            ("point-1/report.html", "after the last page"),
        ),
    ),
    "command": Case("focus.train", TRAIN, 8, TRAINED, forked=False),
}


class Killer:
    """Runs series of one case in a working folder."""

    def __init__(self, case: Case, policy: Path) -> None:
        self.case, self.words = case, (*case.words, f"policy.checkpoint={policy}")
        self.folder = Path.cwd() / "run"
        children.remove(self.folder)
        began = time.monotonic()
        child = self._start(None)
        child.wait(600)
        child.close()
        self.seconds, self.operations = time.monotonic() - began, child.operations
        if child.status:
            raise SystemExit(f"the uninterrupted run ended with status {child.status}:\n{child.text[-3000:]}")
        self.reference = self.contents(self.folder)
        self.sizes = sorted(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def contents(self, folder: Path) -> dict[str, str]:
        """What a run folder holds, without what differs by design."""
        return children.contents(folder, lambda name: any(fnmatch(name, pattern) for pattern in self.case.other))

    def _start(self, fault: Fault | None) -> Child:
        return children.start(self.case.module, self.words, self.folder, fault, self.case.ranks, self.case.forked)

    def series(self, number: int, name: str) -> dict[str, Any]:
        """One series, from an empty folder to the comparison."""
        chance = random.Random(f"{name} {number}")
        children.remove(self.folder)
        kills: list[dict[str, Any]] = []
        while True:
            wanted = len(kills) < IN_A_SERIES
            kill = self._once(chance) if wanted else None
            if kill is None:
                break  # it ended before its moment came
            kills.append(kill)
        child = self._start(None)
        ended = child.wait(600)
        child.close()
        lost = children.differences(self.reference, self.contents(self.folder))
        if child.status or not ended:
            last = [line for line in child.text.splitlines() if line.strip()][-3:]
            lost = [f"the last start ended with status {child.status}: {' / '.join(last)[-600:]}", *lost]
        return {"series": number, "kills": kills, "lost": lost}

    def _once(self, chance: random.Random) -> dict[str, Any] | None:
        """Start the command and kill it; None if it had ended before."""
        kinds = list(KINDS) if self.case.forked else ["time"]
        kind = chance.choices(kinds, [KINDS[each] for each in kinds])[0]
        moment, operation = chance.uniform(0, self.seconds), chance.randint(1, self.operations or 1)
        longest = int(chance.choice(self.sizes) * chance.random())
        which, target = chance.choice(SIGNALS), chance.randrange(-1, self.case.ranks)
        fault = {"time": None, "operation": Fault(operation=operation), "write": Fault(longest=longest)}[kind]
        child = self._start(fault)
        if kind == "time":
            if child.wait(moment):
                child.close()
                return None
            hit = child.pids if target < 0 or self.case.ranks == 1 else [child.pids[target]]
            child.signal(which, hit)
        else:
            which = signal.SIGKILL if kind == "operation" else signal.SIGXFSZ
            while not child.poll() and not any(os.WIFSIGNALED(status) for status in child.ended.values()):
                pass
            if not any(os.WIFSIGNALED(status) for status in child.ended.values()):
                child.close()
                return None
        if not child.wait(children.ENDS_WITHIN_S if self.case.ranks == 1 else LAUNCHER_WAITS_S) and self.case.ranks > 1:
            child.signal(signal.SIGTERM)
        ended = child.wait(children.ENDS_WITHIN_S if self.case.ranks == 1 else RANK_ENDS_WITHIN_S)
        child.close()
        said = child.text
        return {
            "kind": kind,
            "signal": which.name,
            "at": {"time": round(moment, 3), "operation": operation, "write": longest}[kind],
            "ranks": "all" if target < 0 or self.case.ranks == 1 or kind != "time" else target,
            "phase": self._phase(),
            "status": child.status,
            "hung": not ended,
            "traceback": "Traceback" in said,
        }

    def _phase(self) -> str:
        phase = "before its first file"
        for pattern, then in self.case.marks:
            if any(self.folder.glob(pattern)):
                phase = then
        return phase


def commit() -> str:
    """The last commit that changed the code that runs (focus/, conf/), marked where files have been changed since."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words, "--", "focus", "conf"], cwd=HERE.parents[1], capture_output=True, text=True).stdout.strip()

    at, changed = git("log", "-1", "--format=%h"), git("status", "--porcelain")
    return f"{at} with changes" if changed else at


def kept() -> dict[str, Any]:
    """What was recorded."""
    return json.loads(KEPT.read_text()) if KEPT.exists() else {}


def table(record: dict[str, Any]) -> str:
    """A line for each command: how often it was killed and how, and what was lost."""
    lines = [
        "| command | series | kills | SIGKILL / SIGTERM / SIGINT at a random moment | before a change of a file | in the middle of a write "
        "| series that ended otherwise | hung | tracebacks |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, case in record.items():
        kills = [kill for series in case["series"] for kill in series["kills"]]
        by_time = Counter(kill["signal"] for kill in kills if kill["kind"] == "time")
        kinds = Counter(kill["kind"] for kill in kills)
        signals = " / ".join(str(by_time[each.name]) for each in SIGNALS)
        other, hung, tracebacks = (
            sum(bool(series["lost"]) for series in case["series"]),
            sum(kill["hung"] for kill in kills),
            sum(kill["traceback"] for kill in kills),
        )
        lines.append(
            f"| {name} | {len(case['series'])} | {len(kills)} | {signals} | {kinds['operation']} | {kinds['write']} | {other} | {hung} "
            f"| {tracebacks} |"
        )
    return "\n".join(lines) + "\n"


def phases(record: dict[str, Any]) -> str:
    """How far the folder had come when the kills came, of every command."""
    lines = []
    for name, case in record.items():
        found = Counter(kill["phase"] for series in case["series"] for kill in series["kills"])
        order = ["before its first file", *(phase for _, phase in CASES[name].marks)]
        lines.append(f"- {name}: " + ", ".join(f"{phase} {found[phase]}" for phase in order if found[phase]))
    return "\n".join(lines) + "\n"


def main(names: Sequence[str]) -> None:
    if unknown := set(names) - set(CASES):
        raise SystemExit(f"there is no table {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    children.imported()
    record = kept()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("kills"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with children.scratch() as scratch:
        policy = children.policy(scratch)
        for name in names or CASES:
            case, here = CASES[name], commit()
            if record.get(name, {}).get("commit") != here:
                record[name] = {"commit": here, "series": []}  # numbers of two versions are not added up
            rows = record[name]["series"]
            if sum(len(row["kills"]) for row in rows) < case.kills:
                killer = Killer(case, policy)
                with Progress(*columns, auto_refresh=False) as progress:
                    task = progress.add_task(name, total=case.kills, completed=sum(len(row["kills"]) for row in rows))
                    while sum(len(row["kills"]) for row in rows) < case.kills:
                        rows.append(killer.series(len(rows), name))
                        record[name] |= {"seconds_uninterrupted": round(killer.seconds, 2), "operations": killer.operations}
                        write(KEPT, {each: record[each] for each in CASES if each in record})
                        progress.update(task, completed=sum(len(row["kills"]) for row in rows), refresh=True)
                        for line in rows[-1]["lost"]:
                            progress.console.print(f"{name}, series {rows[-1]['series']}: {line}", markup=False)
    print(table({each: record[each] for each in CASES if each in record}))


def write(path: Path, record: dict[str, Any]) -> None:
    """Keep a record; the file appears whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=1) + "\n")
    partial.replace(path)


if __name__ == "__main__":
    main(sys.argv[1:])
