"""Turn finished runs into record.json beside this file: what the overlap costs, arm against arm, seed by seed.

The commands of the runs are in README.md. Runs that were recorded before and are not in outputs/ stay. Then
    .venv/bin/python -m experiments.overlap.record
"""

import json
import math
import statistics
from pathlib import Path

from focus.training.history import read_history

HERE = Path(__file__).parent
ARMS = ("off", "overlap", "uncorrected")
SEEDS = (0, 1, 2)
LAST = slice(40, 60)  # updates 41 to 60
CURVES = ("reward/total", "reward/accuracy", "crop/rate", "objective/mismatch_mean", "objective/sampler_truncated", "objective/entropy")
VIEWS = ("own view", "common view")
STUDENT = {2: 12.71, 3: 4.303}  # 97.5 % quantile of Student's t by the number of seeds


def run(folder: Path) -> dict[str, float | str | list[float]]:
    """Means over the last twenty updates, the reward of every ten, held-out accuracy, and the commit."""
    history = read_history(folder / "history.jsonl")
    results = json.loads((folder / "results.json").read_text())
    return {
        "commit": json.loads((folder / "trained_by.jsonl").read_text().splitlines()[-1])["commit"][:7],
        **{name: round(statistics.fmean(row[name] for row in history[LAST]), 4) for name in CURVES},
        "staleness": history[-1].get("objective/staleness", 0.0),
        "reward of every ten": [round(statistics.fmean(row["reward/total"] for row in history[i : i + 10]), 3) for i in range(0, 60, 10)],
        **{f"held-out accuracy, {view}": round(results["metrics"][f"trained {view}"]["own"]["mean"], 4) for view in VIEWS},
    }


def difference(arm: dict[str, dict], off: dict[str, dict], name: str) -> dict[str, object]:
    """Each seed's difference and their mean, of several seeds with its 95 % interval (Student's t)."""
    each = [arm[seed][name] - off[seed][name] for seed in sorted(arm.keys() & off.keys())]
    found: dict[str, object] = {"mean": round(statistics.fmean(each), 4), "seeds": [round(x, 4) for x in each]}
    if len(each) > 1:
        around = STUDENT[len(each)] * statistics.stdev(each) / math.sqrt(len(each))
        found["interval"] = [round(statistics.fmean(each) - around, 4), round(statistics.fmean(each) + around, 4)]
    return found


def main() -> None:
    kept = HERE / "record.json"
    runs: dict[str, dict[str, dict]] = {arm: {} for arm in ARMS}
    if kept.is_file():
        runs |= json.loads(kept.read_text())["runs"]
    for arm in ARMS:
        for seed in SEEDS:
            folder = Path(f"outputs/overlap_{arm}_{seed}")
            if (folder / "results.json").is_file():
                runs[arm][str(seed)] = run(folder)
    compared = ("reward/total", "reward/accuracy", "crop/rate", *(f"held-out accuracy, {view}" for view in VIEWS))
    record = {
        "runs": runs,
        "minus off": {arm: {name: difference(runs[arm], runs["off"], name) for name in compared} for arm in ARMS[1:] if runs[arm]},
    }
    kept.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record["minus off"], indent=1))


if __name__ == "__main__":
    main()
