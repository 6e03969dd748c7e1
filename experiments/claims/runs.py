"""The runs behind the claims: where they lie, what is kept of them, and tables of their values.

Finished runs of outputs/ are kept as items/<arm> <seed>.npz (a value per metric and question, and training curves), so that verdicts can be
computed again from a clone.
"""

import csv
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from focus.evaluation.outcome import Outcome, load_outcomes
from focus.training.history import read_history

HERE = Path(__file__).parent
ITEMS = HERE / "items"
OUTPUTS = Path("outputs")
SEEDS = range(5)
LADDER = (16, 32, 64, 128, 256)
METRICS = ("own", "noise", "gt", "tool_free", "called", "agrees", "coverage", "iou", "l1", "area", "visual_tokens")
CURVES = ("crop/iou", "group/zero_variance", "group/all_unpaid", "group/mixed")
ARMS = {
    "gap, bonus": "claims/gap=fixed,reward=stage1,seed={}",
    "gap, no bonus": "claims/gap=fixed,reward=no_bonus,seed={}",
    "no gap, bonus": "claims/gap=off,reward=stage1,seed={}",
    "no gap, no bonus": "claims/gap=off,reward=no_bonus,seed={}",
    "fixed crops": "claims_fixed_crops/seed={}",
    "gap, bonus, accuracy teaches": "claims_teach_groups/seed={}",
    "stage 2": "claims_stage2/reward=stage2,seed={}",
    "no coverage gate": "claims_stage2/reward=stage2_no_gate,seed={}",
    "IoU only": "claims_stage2/reward=stage2_iou_only,seed={}",
    "L1 only": "claims_stage2/reward=stage2_l1_only,seed={}",
    "solved data": "claims_solved/reward=stage2,seed={}",
    "base, stage 2": "claims_poor/reward=stage2,seed={}",
    "base, IoU only": "claims_poor/reward=stage2_iou_only,seed={}",
    "calibrated": "gap_sweep_calibrated/seed={}",
    **{f"trained at {tokens}": f"gap_sweep/gap.view_tokens={tokens},seed={{}}" for tokens in LADDER},
}
# What stage 2 starts from, on the harder scenes: the first measurement of the runs on solved data
STAGE1_ON_HARDER = "stage 1 on harder scenes"
# The same settings under another name: 256 tokens are the native size, where a fixed view is no gap
SAME_AS = {"trained at 16": "gap, bonus", "trained at 256": "no gap, bonus"}
BASE_VIEWS = (16, 64, 256)


class NotRun(Exception):
    """Some run of a claim is not there."""


def collect() -> None:
    """Keep every finished run of outputs/, and the rows of all runs, crashed ones too."""
    ITEMS.mkdir(exist_ok=True)
    base = load_outcomes(OUTPUTS / "claims/base/outcomes.json")
    for tokens, outcome in base.items():
        np.savez_compressed(ITEMS / f"base at {tokens}.npz", **arrays_of({"own view": outcome}, [], METRICS, ()))
    for arm, pattern in (*ARMS.items(), (STAGE1_ON_HARDER, ARMS["solved data"])):
        for seed in SEEDS:
            folder = OUTPUTS / pattern.format(seed)
            outcomes = load_outcomes(folder / f"evaluation_{'base' if arm == STAGE1_ON_HARDER else 'trained'}_t1.json")
            if not outcomes:
                continue
            curves = () if arm == STAGE1_ON_HARDER else CURVES
            np.savez_compressed(ITEMS / f"{arm} {seed}.npz", **arrays_of(outcomes, read_history(folder / "history.jsonl"), METRICS, curves))
    _collect_rows(OUTPUTS / "claims/runs.csv", HERE / "runs.csv")


def arrays_of(
    outcomes: Mapping[str, Outcome], history: Sequence[Mapping[str, float]], metrics: Sequence[str], curves: Sequence[str]
) -> dict[str, np.ndarray]:
    """What is kept of a run: `own METRIC` and `common METRIC` with a value for each question, and curves with one for each update."""
    kept = {f"{view.split()[0]} {metric}": outcome.values[metric] for view, outcome in outcomes.items() for metric in metrics}
    kept |= {key: [row.get(key, np.nan) for row in history] for key in curves}
    return {name: np.array(values, dtype=np.float16) for name, values in kept.items()}


def _collect_rows(found: Path, kept: Path) -> None:
    """Add rows that are not kept yet; columns of both, in the order in which they were met."""
    rows: list[dict[str, str]] = []
    for path in (kept, found):
        if path.is_file():
            with path.open(newline="") as file:
                rows += [row for row in csv.DictReader(file) if row not in rows]
    if rows:
        columns = list(dict.fromkeys(column for row in rows for column in row))
        with kept.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(rows)


@cache
def run(arm: str, seed: int) -> dict[str, np.ndarray] | None:
    """What was kept of one run; None if it is not there."""
    kept = ITEMS / f"{arm} {seed}.npz"
    if not kept.is_file():
        return run(SAME_AS[arm], seed) if arm in SAME_AS else None
    return read(kept)


def read(path: Path) -> dict[str, np.ndarray]:
    """What was kept, as float64, without the hash of the weights."""
    with np.load(path) as arrays:
        return {name: arrays[name].astype(np.float64) for name in arrays.files if name != "weights"}


def values(arm: str, metric: str, view: str = "own") -> np.ndarray:
    """[seed, question], NaN where the metric does not apply; `a - b` is the difference of two metrics, question by question."""
    runs = [run(arm, seed) for seed in SEEDS]
    if missing := [seed for seed, each in zip(SEEDS, runs, strict=True) if each is None]:
        raise NotRun(f"{arm}, seeds {missing}")
    return np.stack([metric_of(each, metric, view) for each in runs if each is not None])


def base(tokens: int, metric: str) -> np.ndarray:
    """The same of the frozen base, which has one seed, as often as there are seeds."""
    kept = ITEMS / f"base at {tokens}.npz"
    if not kept.is_file():
        raise NotRun(f"the base at {tokens} tokens")
    return np.tile(metric_of(read(kept), metric, "own"), (len(SEEDS), 1))


def metric_of(arrays: dict[str, np.ndarray], metric: str, view: str) -> np.ndarray:
    """A value for each question; `a - b` is the difference of two metrics, question by question."""
    first, _, second = metric.partition(" - ")
    if view == "common" and f"common {first}" not in arrays:
        view = "own"  # a run whose own view is the common one is measured once
    return arrays[f"{view} {first}"] - (arrays[f"{view} {second}"] if second else 0)


def curve(arm: str, key: str, seed: int) -> np.ndarray:
    """A training curve, one value an update, as the mean over five updates that end there; NaN is left out."""
    each = run(arm, seed)
    if each is None:
        raise NotRun(f"{arm}, seed {seed}")
    row = each[key]
    return np.array([np.nan if np.isnan(row[at : at + 5]).all() else np.nanmean(row[at : at + 5]) for at in range(max(0, len(row) - 4))])
