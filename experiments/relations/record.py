"""From items/ (per question, policy, view and metric) to record.json: shares with intervals, what was predicted, and verdicts.

.venv/bin/python -m experiments.relations.record        (after measure.py)

A share of one policy has Wilson's interval over questions, a difference a bootstrap's. Judged by the thresholds of README.md.
"""

import csv
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from experiments.claims.verdict import Found, Interval, change, decide, up
from experiments.conflict.record import load, rounded, share
from focus.training.history import read_history

HERE = Path(__file__).parent
ITEMS = HERE / "items"
RUN = "outputs/relations/gap={},seed=0/policy"
POLICIES = {"base": Path("outputs/base_relations/policy"), "gap": Path(RUN.format("fixed")), "no gap": Path(RUN.format("off"))}
VIEWS = (16, 256)
CURVES = ("reward/accuracy", "crop/rate", "group/all_wrong")
END = 20  # updates at either end of a training, whose means stand in record.json
METRICS = (
    *("own", "noise", "noise_first", "noise_second", "gt", "tool_free", "D_noise", "D_first", "D_second"),
    *("called", "called_twice", "answered", "hit", "chance", "visual_tokens"),
)
COMPARED = ("own", "tool_free", "gt", "hit")  # stage 1's policy against the base
Items = Mapping[str, Mapping[str, np.ndarray]]  # by policy, then by view and metric: a value for every question, NaN where none applies


def policies(items: Items) -> dict[str, dict[str, Interval | None]]:
    """Every share of every policy at every view, in per cent; visual tokens are in the items alone."""
    return {
        f"{name}, {view} tokens": {metric: share(metric, of[f"{view} {metric}"]) for metric in METRICS if metric != "visual_tokens"}
        for name, of in items.items()
        for view in VIEWS
    }


def predictions(items: Items) -> dict[str, dict[str, object]]:
    """What was predicted of the base, and whether it was met."""
    if "base" not in items:
        return {}
    found = policies(items)
    far, near = found["base, 16 tokens"], found["base, 256 tokens"]

    def met(value: Interval | None, least: float = -100, most: float = 100, above_0: bool = False) -> dict[str, object]:
        return {"found": value, "met": value is not None and least <= value[0] <= most and (not above_0 or up(value))}

    return {
        "two crops, 16 tokens": met(far["called_twice"], least=90),
        "accuracy, 16 tokens": met(far["own"], least=30),
        "D_second, 16 tokens": met(far["D_second"], least=25, above_0=True),
        "accuracy, tool-free, 16 tokens": met(far["tool_free"], most=2),
        "D_second, 256 tokens": met(near["D_second"], most=10),
    }


def differ(items: Items, metric: str, second: str = "no gap") -> Interval:
    """The gap's policy minus another, in points, of the questions to which the metric applies in both."""
    return change(*(items[name][metric][None] for name in ("gap", second)))


def changes(items: Items) -> dict[str, Interval]:
    """What stage 1 with the gap changed: its policy minus the base, in points."""
    there = {"base", "gap"} <= items.keys()
    return {f"{view} {metric}": differ(items, f"{view} {metric}", "base") for view in VIEWS for metric in COMPARED} if there else {}


def without_hits(items: Items) -> dict[str, Interval | None]:
    """D_first of the questions in which no crop shows a text: there noise takes nothing from the crop that it could have told."""
    return {
        f"{name}, {view} tokens": share("D_first", np.where(of[f"{view} hit"] == 0, of[f"{view} D_first"], np.nan))
        for name, of in items.items()
        for view in VIEWS
    }


def keep_curves() -> None:
    """Write gap.csv and so on of every finished training: CURVES, a row for every update."""
    for name, policy in POLICIES.items():
        if policy.is_dir() and (rows := read_history(policy.parent / "history.jsonl")):
            lines = [",".join(("update", *CURVES)), *(",".join(f"{row[key]:g}" for key in ("update", *CURVES)) for row in rows)]
            curves_of(name).write_text("\n".join(lines) + "\n")


def curves_of(name: str) -> Path:
    return HERE / f"{name.replace(' ', '_')}.csv"


def training() -> dict[str, dict[str, list[float]]]:
    """Of the sampled rollouts of every training, in per cent: over the first and last updates, and over all."""
    found = {}
    for name in ("gap", "no gap"):
        if curves_of(name).is_file():
            with curves_of(name).open(newline="") as file:
                rows = list(csv.DictReader(file))
            table = {key: np.array([float(row[key]) for row in rows]) for key in CURVES}
            found[name] = {key: [100 * float(part.mean()) for part in (of[:END], of[-END:], of)] for key, of in table.items()}
    return found


def claims(items: Items) -> dict[str, Found]:
    """R1 to R4: measured and judged; `not run` where a policy is not there."""
    found, shares = {}, policies(items)
    if "gap" in items:
        far = shares["gap, 16 tokens"]
        found["R1"] = {metric: far[metric] for metric in ("D_first", "D_second", "called_twice")}
    if {"gap", "no gap"} <= items.keys():
        found["R2"] = {"difference": differ(items, "16 D_second")}
        found["R3"] = {name: shares[f"{name}, 256 tokens"]["D_second"] for name in ("gap", "no gap")}
        found["R4"] = {"difference": differ(items, "256 called_twice")}
    return {name: found[name] | {"verdict": judge(name, found[name])} if name in found else {"verdict": "not run"} for name in RULES}


RULES = {
    "R1": lambda f: decide(
        all(f[name][0] >= 25 and up(f[name]) for name in ("D_first", "D_second")) and f["called_twice"][0] >= 80, f["D_second"][0] < 10
    ),
    "R2": lambda f: decide(f["difference"][0] >= 10 and up(f["difference"]), f["difference"][0] < 3),
    "R3": lambda f: decide(all(abs(f[name][0]) <= 8 for name in ("gap", "no gap")), any(f[name][0] > 15 for name in ("gap", "no gap"))),
    "R4": lambda f: decide(f["difference"][0] >= 20, f["difference"][0] < 5),
}


def judge(name: str, found: Found) -> str:
    """The thresholds of README.md, of means in points. Undecided where no question had a second crop."""
    return "undecided" if any(value is None or value[0] != value[0] for value in found.values()) else RULES[name](found)


def record(items: Items) -> dict[str, object]:
    """What stands in record.json."""
    return {
        "policies": policies(items),
        "predictions": predictions(items),
        "claims": claims(items),
        "gap - base": changes(items),
        "D_first where no crop hit": without_hits(items),
        "training, first and last 20 updates, all": training(),
    }


def main() -> None:
    found = rounded(record(load(ITEMS, POLICIES)))
    (HERE / "record.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
