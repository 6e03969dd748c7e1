"""Why the policies of the 2 x 2 and of stage 2 are right, step by step: decomposition.json, from the same runs as verdicts.json.

.venv/bin/python -m experiments.claims.decomposition

The steps are those of the probe (docs/probe.md). What these runs did not keep is not here: the sizes of crops' sides, from which
the chance of a hit follows, and the arm `conflict`. Both need the policies again.
"""

import json
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.claims.runs import BASE_VIEWS, HERE, ITEMS, SEEDS, STAGE1_ON_HARDER, read, run, values
from experiments.claims.verdict import TWO_BY_TWO, Interval, interval, mean, rounded
from focus.evaluation.hits import COVERED
from focus.evaluation.outcome import Outcome

PARTS = ("own", "D_noise", "called", "hit", "reads", "reliance")
STAGE2 = (STAGE1_ON_HARDER, "stage 2", "solved data")  # measured on harder scenes, at 16 tokens
STEPS = ("calls", "hits", "reads", "other")
Arrays = Mapping[str, np.ndarray]
Events = tuple[np.ndarray, ...]  # tables [seed, question] of 0 and 1: right; called; hit; right and hit; right and missed


def outcome(arrays: Arrays, view: str) -> Outcome:
    """What was kept of a run at one view. It made at most one crop, so a hit is a crop that covers the text."""
    if f"{view} own" not in arrays:
        view = "own"  # a run whose own view is the common one is measured once
    values = {metric: list(arrays[f"{view} {metric}"]) for metric in ("own", "noise", "gt", "called")}
    coverage = arrays[f"{view} coverage"]
    hit = np.where(np.isnan(coverage), np.nan, coverage > COVERED)
    return Outcome(0, [str(i) for i in range(len(hit))], values | {"hit": list(hit)})


def parts(runs: Sequence[Arrays], view: str) -> dict[str, Interval]:
    """Every part in per cent or points, with 95 % intervals over seeds and questions."""
    outcomes = [outcome(arrays, view) for arrays in runs]
    return {part: mean(np.array([each.of(part) for each in outcomes])) for part in PARTS}


def events(right: np.ndarray, called: np.ndarray, hit: np.ndarray) -> Events:
    """What happened in every question. `hit` is NaN without a crop."""
    return right, called, (hit == 1) * 1.0, right * (hit == 1), right * (hit == 0)


def split(after: Events, before: Events) -> dict[str, Interval]:
    """By how many points of accuracy more calls, more hits and better reading changed it, with 95 % intervals.

    accuracy = calls x (hits x reads + misses x right where missed) + no call x right there. A step counts with the mean of both sides
    in all others, so the order does not matter; `other` is right where missed and right without a call. The four add up to the change.
    """

    def part(name: str) -> Interval:
        return interval(lambda *means: 100 * _steps(means[:5], means[5:])[name], *after, *before)

    return {name: part(name) for name in STEPS}


def _steps(after: Sequence[float], before: Sequence[float]) -> dict[str, float]:
    """The parts of a difference of two accuracies, from the shares of all questions in which each event happened."""

    def rates(right: float, called: float, hit: float, read: float, missed: float) -> np.ndarray:
        per = [(called, 1), (hit, called), (read, hit), (missed, called - hit), (right - read - missed, 1 - called)]
        return np.array([share / of if of > 0 else 0.0 for share, of in per])

    (calls, hits, reads, luck, alone), (calls0, hits0, reads0, luck0, alone0) = rates(*after), rates(*before)
    with_crop, with_crop0 = hits * reads + (1 - hits) * luck, hits0 * reads0 + (1 - hits0) * luck0
    found = {
        "calls": (calls - calls0) * (with_crop + with_crop0 - alone - alone0) / 2,
        "hits": (calls + calls0) / 2 * (hits - hits0) * (reads + reads0 - luck - luck0) / 2,
        "reads": (calls + calls0) / 2 * (hits + hits0) / 2 * (reads - reads0),
    }
    return found | {"other": float(after[0] - before[0]) - sum(found.values())}


def kept_events(arm: str) -> Events:
    """Of an arm of the claims, at its own view."""
    coverage = values(arm, "coverage")
    return events(values(arm, "own"), values(arm, "called"), np.where(np.isnan(coverage), np.nan, coverage > COVERED))


def record() -> dict[str, dict[str, Interval]]:
    """By arm and view."""
    found = {f"base, {tokens} tokens": parts([read(ITEMS / f"base at {tokens}.npz")], "own") for tokens in BASE_VIEWS}
    for arm in TWO_BY_TWO:
        runs = [arrays for seed in SEEDS if (arrays := run(arm, seed)) is not None]
        found |= {f"{arm}, {view} view": parts(runs, view) for view in ("own", "common")}
    for arm in STAGE2:
        found[arm] = parts([arrays for seed in SEEDS if (arrays := run(arm, seed)) is not None], "own")
    return found


def changes() -> dict[str, dict[str, Interval]]:
    """Accuracy over stage 1, split into its steps."""
    return {f"{arm} - stage 1": split(kept_events(arm), kept_events(STAGE1_ON_HARDER)) for arm in STAGE2[1:]}


def main() -> None:
    kept = {
        table: {row: {part: rounded(value) for part, value in of.items()} for row, of in rows.items()}
        for table, rows in (("arms", record()), ("changes", changes()))
    }
    (HERE / "decomposition.json").write_text(json.dumps(kept, indent=1) + "\n")
    for row, of in (kept["arms"] | kept["changes"]).items():
        print(f"| {row} | " + " | ".join(f"{m:.1f} [{low:.1f}, {high:.1f}]" for m, low, high in of.values()) + " |")


if __name__ == "__main__":
    main()
