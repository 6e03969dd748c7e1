"""Does stage 1 do on pages what it does on scenes? `python -m experiments.pages.verdict` writes results.json from outputs/pages.

Intervals are over seeds and questions; with one seed they are over questions alone. Judged by the thresholds of README.md.
"""

import json
from pathlib import Path

import numpy as np

from experiments.claims.verdict import change, interval, mean
from focus.evaluation.outcome import load_outcomes

HERE = Path(__file__).parent
RUNS = Path("outputs/pages")
ARMS = {"gap": "gap=fixed,seed={}", "no gap": "gap=off,seed={}"}
SEEDS = range(5)


def values(seeds: list[int], arm: str, view: str, metric: str) -> np.ndarray:
    """[seed, question] of a metric, NaN where it does not apply; `a - b` is the difference, question by question."""
    first, _, second = metric.partition(" - ")
    rows = []
    for seed in seeds:
        outcomes = load_outcomes(RUNS / ARMS[arm].format(seed) / "evaluation_trained_t1.json")
        row = {name.split()[0]: outcome for name, outcome in outcomes.items()}[view].values
        rows.append(np.array(row[first], dtype=float) - (np.array(row[second], dtype=float) if second else 0))
    return np.stack(rows)


def base(view: int, metric: str) -> np.ndarray:
    """The same of the base, once."""
    first, _, second = metric.partition(" - ")
    row = load_outcomes(RUNS / "base/outcomes.json")[str(view)].values
    return (np.array(row[first], dtype=float) - (np.array(row[second], dtype=float) if second else 0))[None]


SHOWN = {
    "accuracy": "own",
    "accuracy, annotated crop": "gt",
    "accuracy, tool-free": "tool_free",
    "D_noise": "own - noise",
    "crop rate": "called",
    "coverage of B1": "coverage",
}


def main() -> None:
    finished = [seed for seed in SEEDS if all((RUNS / ARMS[arm].format(seed) / "evaluation_trained_t1.json").is_file() for arm in ARMS)]
    if not finished:
        raise SystemExit("no seed has run with and without the gap: python -m focus.train --multirun experiment=pages seed=0")
    found: dict[str, object] = {"seeds": finished}
    for arm, view in (("gap", 16), ("no gap", 256)):
        for name, metric in SHOWN.items():
            found[f"base at {view}: {name}"] = mean(base(view, metric))
            found[f"{arm}: {name}"] = mean(values(finished, arm, "own", metric))
    gain = change(values(finished, "gap", "own", "own"), np.tile(base(16, "own"), (len(finished), 1)))
    gap, none = (values(finished, arm, "common", "own - noise") for arm in ARMS)
    found |= {
        "gap: accuracy over the base": gain,
        "common view, gap: D_noise": mean(gap),
        "common view, no gap: D_noise": mean(none),
        "common view: D_noise, gap - no gap": interval(lambda a, b: 100 * (a - b), gap, none),
    }
    rounded = {name: [round(x, 1) for x in value] if isinstance(value, tuple) else value for name, value in found.items()}
    (HERE / "results.json").write_text(json.dumps(rounded, indent=1) + "\n")
    for name, value in rounded.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
