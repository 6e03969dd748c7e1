"""Why the policies of the 2 x 2 are right, step by step: decomposition.json, from the same runs as verdicts.json.

.venv/bin/python -m experiments.claims.decomposition

The steps are those of the probe (docs/probe.md). What these runs did not keep is not here: the sizes of crops' sides, from which
the chance of a hit follows, and the arm `conflict`. Both need the policies again.
"""

import json
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.claims.runs import BASE_VIEWS, HERE, ITEMS, SEEDS, read, run
from experiments.claims.verdict import TWO_BY_TWO, Interval, mean, rounded
from focus.evaluation.hits import COVERED
from focus.evaluation.outcome import Outcome

PARTS = ("own", "D_noise", "called", "hit", "reads", "reliance")
Arrays = Mapping[str, np.ndarray]


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


def record() -> dict[str, dict[str, Interval]]:
    """By arm and view."""
    found = {f"base, {tokens} tokens": parts([read(ITEMS / f"base at {tokens}.npz")], "own") for tokens in BASE_VIEWS}
    for arm in TWO_BY_TWO:
        runs = [arrays for seed in SEEDS if (arrays := run(arm, seed)) is not None]
        found |= {f"{arm}, {view} view": parts(runs, view) for view in ("own", "common")}
    return found


def main() -> None:
    kept = {row: {part: rounded(value) for part, value in of.items()} for row, of in record().items()}
    (HERE / "decomposition.json").write_text(json.dumps(kept, indent=1) + "\n")
    for row, of in kept.items():
        print(f"| {row} | " + " | ".join(f"{m:.1f} [{low:.1f}, {high:.1f}]" for m, low, high in of.values()) + " |")


if __name__ == "__main__":
    main()
