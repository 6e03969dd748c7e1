"""Does stage 1 do on pages what it does on scenes? From outputs/pages to items/ (per question) and results.json.

.venv/bin/python -m experiments.pages.verdict        (after any of the runs)

Intervals are over seeds and questions, as in experiments/claims; with one seed they are over questions alone. Judged by the thresholds of
README.md.
"""

import json
from pathlib import Path

import numpy as np

from experiments.claims.verdict import Found, Interval, change, interval, mean
from focus.evaluation.hits import COVERED
from focus.evaluation.outcome import Outcome, load_outcomes

HERE = Path(__file__).parent
ITEMS = HERE / "items"  # by run: a value for every question, view and metric, NaN where it does not apply
RUNS = Path("outputs/pages")
ARMS = {"gap": "gap=fixed,seed={}", "no gap": "gap=off,seed={}"}
SEEDS = range(5)
BASE_VIEWS = (16, 64, 256)
METRICS = ("own", "gt", "noise", "tool_free", "called", "coverage", "area")
SHOWN = {
    "accuracy": "own",
    "accuracy, annotated crop": "gt",
    "accuracy, tool-free": "tool_free",
    "D_noise": "own - noise",
    "crop rate": "called",
    "coverage of B1": "coverage",
    "crop area": "area",
}


def collect() -> None:
    """Keep every finished run of outputs/pages, and the base."""
    ITEMS.mkdir(exist_ok=True)
    found = {"base": load_outcomes(RUNS / "base/outcomes.json")}
    for arm, folder in ARMS.items():
        found |= {f"{arm} {seed}": load_outcomes(RUNS / folder.format(seed) / "evaluation_trained_t1.json") for seed in SEEDS}
    for name, outcomes in found.items():
        if outcomes:
            arrays = {f"{view.split()[0]} {metric}": array(outcome, metric) for view, outcome in outcomes.items() for metric in METRICS}
            np.savez_compressed(ITEMS / f"{name}.npz", allow_pickle=False, **arrays)


def array(outcome: Outcome, metric: str) -> np.ndarray:
    return np.array(outcome.values[metric], dtype=np.float16)


def load() -> dict[str, dict[str, np.ndarray]]:
    """What was kept, by run."""
    found = {}
    for path in sorted(ITEMS.glob("*.npz")):
        with np.load(path) as arrays:
            found[path.stem] = {name: arrays[name].astype(np.float64) for name in arrays.files}
    return found


def results(kept: dict[str, dict[str, np.ndarray]]) -> Found:
    """Means with intervals, of the seeds of which both arms have run."""
    seeds = [seed for seed in SEEDS if all(f"{arm} {seed}" in kept for arm in ARMS)]

    def table(names: list[str], view: str, metric: str) -> np.ndarray:
        """[run, question]; `a - b` is the difference of two metrics, question by question."""
        first, _, second = metric.partition(" - ")
        return np.stack([kept[name][f"{view} {first}"] - (kept[name][f"{view} {second}"] if second else 0) for name in names])

    def of(arm: str, view: str, metric: str) -> np.ndarray:
        return table([f"{arm} {seed}" for seed in seeds], view, metric)

    def over_base(metric: str) -> Interval:
        return change(of("gap", "own", metric), np.tile(table(["base"], "16", metric), (len(seeds), 1)))

    found: Found = {"seeds": seeds}
    for arm, view in (("gap", 16), ("no gap", 256)):
        for name, metric in SHOWN.items():
            found[f"base at {view}: {name}"] = mean(table(["base"], str(view), metric))
            found[f"{arm}: {name}"] = mean(of(arm, "own", metric))
    for name, coverage in (("base", table(["base"], "64", "coverage")), *((arm, of(arm, "common", "coverage")) for arm in ARMS)):
        found[f"common view, {name}: hits"] = mean(np.where(np.isnan(coverage), np.nan, coverage > COVERED))
    gap, none = (of(arm, "common", "own - noise") for arm in ARMS)
    return found | {
        "common view, base: D_noise": mean(table(["base"], "64", "own - noise")),
        "gap: accuracy over the base": over_base("own"),
        "gap: coverage over the base": interval(
            lambda a, b: 100 * (a - b), of("gap", "own", "coverage"), np.tile(table(["base"], "16", "coverage"), (len(seeds), 1))
        ),
        "common view, gap: D_noise": mean(gap),
        "common view, no gap: D_noise": mean(none),
        "common view: D_noise, gap - no gap": change(gap, none),
    }


def met(found: Found) -> dict[str, bool]:
    """Which predictions of README.md the means meet, by name."""
    at_least = {"gap: accuracy over the base": 20, "gap: crop rate": 90, "gap: D_noise": 15, "gap: coverage over the base": 20}
    at_most = {"gap: accuracy, tool-free": 3, "no gap: D_noise": 5}
    means = {name: value[0] for name, value in found.items() if isinstance(value, tuple | list) and name != "seeds"}
    lower = {name: means[name] >= threshold for name, threshold in at_least.items()}
    upper = {name: means[name] <= threshold for name, threshold in at_most.items()}
    return lower | upper | {"common view: D_noise, gap - no gap": found["common view: D_noise, gap - no gap"][1] > 0}


def judge(found: Found) -> str:
    """Held if all predictions are met; refuted by the last row of README.md's head; undecided otherwise."""
    if found["gap: D_noise"][0] < 5 or found["gap: accuracy over the base"][0] < 5:
        return "refuted"
    return "held" if all(met(found).values()) else "undecided"


def rounded(found: Found) -> Found:
    return {name: [round(x, 1) for x in value] if isinstance(value, tuple) else value for name, value in found.items()}


def main() -> None:
    collect()
    kept = load()
    if not any(all(f"{arm} {seed}" in kept for arm in ARMS) for seed in SEEDS):
        raise SystemExit("no seed has run with and without the gap: python -m focus.train --multirun experiment=pages seed=0")
    found = results(kept)
    found = rounded(found) | {"met": met(found), "verdict": judge(found)}
    (HERE / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    for name, value in found.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
