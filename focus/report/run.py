"""The results of a run: its table, its page, and its row in the results file of a sweep."""

import csv
import fcntl
import io
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pytorch_lightning.utilities import rank_zero_only

from focus.evaluation.outcome import DECOMPOSITION, Outcome
from focus.report.page import write_page
from focus.report.table import Cell, Results, Row
from focus.report.verdict import verdict_of
from focus.rewards import Example
from focus.training.history import FINISHED, STOPPED, read_history

# label, unit, metric of an Outcome, factor from the stored value to the unit
ROWS = (
    ("accuracy, own crop", "%", "own", 100.0),
    ("accuracy, annotated crop", "%", "gt", 100.0),
    ("accuracy, noise crop", "%", "noise", 100.0),
    ("accuracy, blank crop", "%", "blank", 100.0),
    ("accuracy, mean-colour crop", "%", "mean_colour", 100.0),
    ("accuracy, crop from elsewhere", "%", "elsewhere", 100.0),
    ("accuracy, crop plus noise", "%", "additive", 100.0),
    ("accuracy, call without image", "%", "format_only", 100.0),
    ("accuracy, tool-free", "%", "tool_free", 100.0),
    ("accuracy, forced crop", "%", "forced", 100.0),
    ("D_noise, own - noise", "pt", "D_noise", 100.0),
    ("U_GT, annotated - own", "pt", "U_GT", 100.0),
    ("S, annotated - noise", "pt", "S", 100.0),
    ("gain, right only with the tool", "%", "gain", 100.0),
    ("harm, right only without", "%", "harm", 100.0),
    ("answers before looking", "%", "agrees", 100.0),
    ("crop rate", "%", "called", 100.0),
    ("coverage of B1", "", "coverage", 1.0),
    ("IoU, best of B1..B3", "", "iou", 1.0),
    ("L1 reward, r_l1", "", "l1", 1.0),
    ("crop area / image", "%", "area", 100.0),
    ("visual tokens/question", "", "visual_tokens", 1.0),
    ("sampled tokens/question", "", "sampled_tokens", 1.0),
)
NO_TOOL = (  # measured for agents that think; results files of sweeps have no such columns
    ("accuracy, no tool offered", "%", "no_tool", 100.0),
    ("own - no tool offered", "pt", "no_tool_effect", 100.0),
)
TWO_CROPS = (  # where one of two crops is replaced; results files of sweeps have no such columns
    ("accuracy, first crop noise", "%", "noise_first", 100.0),
    ("accuracy, second crop noise", "%", "noise_second", 100.0),
    ("D_first, own - first crop noise", "pt", "D_first", 100.0),
    ("D_second, own - second crop noise", "pt", "D_second", 100.0),
    ("crop rate, two or more", "%", "called_twice", 100.0),
)
PARTS = (  # the decomposition, below the crop rate; results files of sweeps have no such columns
    ("hits, crops that show the text", "%", "hit", 100.0),
    ("hits by chance, crops of that size", "%", "chance", 100.0),
    ("reads, right where it hit", "%", "reads", 100.0),
    ("reliance, S where it cropped", "pt", "reliance", 100.0),
    ("conflict, says the crop's answer", "%", "conflict_crop", 100.0),
    ("conflict, says the whole's answer", "%", "conflict_whole", 100.0),
    ("conflict, says neither", "%", "conflict_neither", 100.0),
)
TABLE = tuple(shown for row in ROWS for shown in ((row, *TWO_CROPS, *PARTS) if row[2] == "called" else (row,)))
AT_COMMON = ("own", "gt", "noise", "tool_free", "D_noise", "U_GT", *DECOMPOSITION)
MAIN = ("own", "called", "D_noise", "coverage")  # on the terminal, with `own` at the common view


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """The facts about a run that tables and results files state beside its numbers.

    `folder` is the name of its output folder, `point` the hash of its settings
    (`identity.settings_hash`). `view_tokens` and `common_view_tokens` are the budgets of both
    views, in merged visual tokens.
    """

    name: str
    folder: str
    point: str
    gap: str
    view_tokens: int
    common_view_tokens: int
    temperature: float
    seed: int
    updates: int
    samples: int | None
    resamples: int


def result_table(run: RunFacts, measured: Mapping[str, Outcome]) -> Results:
    """Base and trained policy at the run's own view and at the common one.

    The last column is their difference, paired by question.
    """
    rows: list[Row] = []
    first = next(iter(measured.values()))
    for view, prefix in (("own view", ""), ("common view", f"@{run.common_view_tokens} ")):
        base, trained = measured.get(f"base {view}"), measured.get(f"trained {view}")
        for label, unit, metric, factor in TABLE:
            if (prefix and metric not in AT_COMMON) or not played(metric, base, trained):
                continue
            cells = [cell(outcome, metric, factor, run.resamples) if outcome else None for outcome in (base, trained)]
            change = cell(trained, metric, factor, run.resamples, base) if base and trained else None
            if change and unit == "%":
                change = replace(change, unit="pt")
            rows.append(Row(prefix + label, unit, (*cells, change), main=metric in (("own",) if prefix else MAIN)))
        seconds = [Cell(o.seconds / len(o.groups), math.nan, math.nan) if o and o.groups else None for o in (base, trained)]
        rows.append(Row(prefix + "seconds/question", "s", (*seconds, Cell(math.nan, math.nan, math.nan))))
    notes = [
        f"{len(first.groups)} held-out questions, 95 % intervals over images; temperature {run.temperature}",
        f"own view: gap={run.gap}, at most {run.view_tokens} tokens; @{run.common_view_tokens}: the common view",
    ]
    if {"base own view", "trained own view"} <= measured.keys():
        notes.append("trained - base is paired by question; for boxes, only questions in which both cropped count")
    if first.broken:
        notes.append(f"{len(first.broken)} questions could not be read and count as wrong: {first.broken[0]}")
    columns = ("base", "trained", "trained - base")
    own = measured.get("trained own view")
    verdicts = (verdict_of(own, run.resamples),) if own else ()
    return Results(f"{run.name}: base against trained", columns, tuple(rows), tuple(notes), verdicts)


def played(metric: str, *outcomes: Outcome | None) -> bool:
    """Whether some outcome has a number for this metric. An arm that was not played has none."""
    return any(value == value for outcome in outcomes if outcome for value in outcome.of(metric))


def cell(outcome: Outcome, metric: str, factor: float, resamples: int, before: Outcome | None = None) -> Cell:
    """Mean and interval of a metric, in the unit of a row. With `before`, of the difference to that outcome."""
    mean, low, high = outcome.interval(metric, resamples, before)
    return Cell(mean * factor, low * factor, high * factor)


def report_run(
    run: RunFacts,
    output: Path,
    results: Results | None,
    examples: Sequence[Example],
    shown: int,
    settings: str,
    made: str,
) -> Path:
    """Write `report.html` into the output folder and return its path.

    The page shows the table `results` (None without evaluation) and `shown` trajectories of each
    kind. `settings` is the text of settings.yaml, `made` says when and how the run was made.
    """
    n, graded = shown, [example for example in examples if not math.isnan(example.total)]
    ranked = sorted(graded, key=lambda example: example.total)
    drawn = random.Random(run.seed).sample(list(examples), min(n, len(examples)))
    kinds = {"best": ranked[::-1][:n], "worst": ranked[:n], "random": drawn} if examples else {}
    page = output / "report.html"
    write_page(page, run.name, read_history(output / "history.jsonl"), results, kinds, settings, made)
    return page


def has_row(path: Path, settings: str, base: str) -> bool:
    """Whether the results file has a finished row of this point.

    `base` names the policy and the questions that it starts from.
    """
    if not path.is_file():
        return False
    return any((row["settings"], row["base"]) == (settings, base) and row["status"].startswith((FINISHED, STOPPED)) for row in _rows(path))


def _rows(path: Path) -> list[dict[str, str]]:
    """The complete rows of a results file. A kill or a full disk may have cut the last one."""
    with path.open(newline="") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        text = file.read()
    whole = text[: text.rfind("\n") + 1]
    return [row for row in csv.DictReader(io.StringIO(whole, newline="")) if None not in row.values()]


def last_status(path: Path, folder: str, point: str) -> str:
    """The status in the last row of this point; empty if it has no row."""
    if not path.is_file():
        return ""
    return next((row["status"] for row in _rows(path)[::-1] if (row["run"], row["settings"]) == (folder, point)), "")


@rank_zero_only
def write_row(path: Path, run: RunFacts, base: str, measured: Mapping[str, Outcome], status: str = FINISHED) -> None:
    """Append one point of a sweep.

    A crashed point has no numbers. A file lock makes parallel processes write one after the other.
    """
    row = _row(run, base, measured, status)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)  # otherwise a cut row would become the beginning of this one
        lines = io.StringIO(newline="")
        writer = csv.DictWriter(lines, list(row))
        if whole == 0:
            writer.writeheader()
        writer.writerow(row)
        file.write(lines.getvalue().encode())


def check_results(path: Path, run: RunFacts) -> None:
    """Raise ValueError if the results file has other columns, or can't be written or locked."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+", newline="") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            columns = next(csv.reader(file), None)
    except (UnicodeDecodeError, csv.Error):  # another kind of file
        columns = []
    except OSError as error:
        raise ValueError(
            f"results file {path} can't be written and locked ({error}), so parallel processes could damage it; set results=FILE to a path "
            "on another file system"
        ) from error
    if columns not in (None, list(_row(run, "", {}, ""))):
        raise ValueError(f"results file {path} has other columns than this version writes; name another with results=FILE")


def _row(run: RunFacts, base: str, measured: Mapping[str, Outcome], status: str) -> dict[str, object]:
    row: dict[str, object] = {
        "run": run.folder,
        "settings": run.point,
        "base": base,
        "status": " ".join(status.split()),  # a row is one line
        "gap": run.gap,
        "view_tokens": run.view_tokens,
        "seed": run.seed,
        "updates": run.updates,
        "samples": run.samples,
    }
    for view in ("own view", "common view"):
        outcome = measured.get(f"trained {view}")
        for _, _, metric, factor in ROWS:
            interval = cell(outcome, metric, factor, run.resamples) if outcome else None
            measurable = interval is not None and interval.mean == interval.mean
            name = f"{view.split()[0]} {metric} "
            row |= {name + part: round(getattr(interval, part), 4) if measurable else "" for part in ("mean", "low", "high")}
    return row
