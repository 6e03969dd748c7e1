"""From items/ (per question, policy, setting and metric) and training.csv to record.json: shares with intervals, and verdicts.

.venv/bin/python -m experiments.binds.record        (after measure.py)

Means over seeds have the claims' interval over seeds and scenes. Claims are judged by the thresholds of README.md. training.csv keeps
the curves of finished runs: what is sampled in training, with the crop tokens that the arm is trained with.
"""

import csv
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from experiments.claims.verdict import Found, change, decide, mean, up
from experiments.conflict.record import load, rounded
from focus.model import loading
from focus.training.history import read_history

HERE = Path(__file__).parent
ITEMS = HERE / "items"
SEEDS = range(3)
RUN = "outputs/binds/reward={},rollout.crop_tokens={},seed={}/policy"
AFTER = "outputs/binds_after/reward={},seed={}/policy"
ARMS = {  # where the policies of an arm lie, by seed
    "448": "outputs/conflict/gap=fixed,seed={}/policy",
    "stage 1": RUN.format("stage1", 64, "{}"),
    "stage 2": RUN.format("stage2", 64, "{}"),
    "stage 1, free": RUN.format("stage1", 256, "{}"),
    "stage 2, free": RUN.format("stage2", 256, "{}"),
    "448, then stage 1": AFTER.format("stage1", "{}"),
    "448, then stage 2": AFTER.format("stage2", "{}"),
}
POLICIES = {"base": loading.EMBEDDED} | {f"{arm} {seed}": Path(folder.format(seed)) for seed in SEEDS for arm, folder in ARMS.items()}
METRICS = ("own", "gt", "noise", "tool_free", "called", "hit", "chance", "coverage", "iou", "area", "visual_tokens")
SETTINGS = {"16 greedy": (16, 0.0), "16 sampled": (16, 1.0), "64 greedy": (64, 0.0), "1024 greedy": (1024, 0.0)}
GREEDY, SAMPLED = "16 greedy", "16 sampled"  # the claims are judged by the first
CURVES = ("reward/accuracy", "crop/area_p50", "tokens/visual")
TRAINING, LAST = HERE / "training.csv", 10  # updates
Items = Mapping[str, Mapping[str, np.ndarray]]  # by policy, then by setting and metric: a value for every scene


def table(items: Items, arm: str, setting: str, metric: str) -> np.ndarray:
    """[seed, scene] of the seeds that are there; the base is its own only row. NaN where a metric does not apply."""
    names = ["base"] if arm == "base" else [f"{arm} {seed}" for seed in SEEDS if f"{arm} {seed}" in items]
    return np.stack([items[name][f"{setting} {metric}"] for name in names])


def differ(items: Items, first: str, second: str, metric: str, setting: str = GREEDY) -> Found:
    """First arm minus second, in points, over the seeds that both have; and in how many it is above 0."""
    a, b = (table(items, arm, setting, metric) for arm in (first, second))
    if second == "base":
        b = np.repeat(b, len(a), axis=0)
    seeds = min(len(a), len(b))
    return {"difference": change(a[:seeds], b[:seeds]), "above": int((np.nanmean(a, 1)[:seeds] > np.nanmean(b, 1)[:seeds]).sum())}


def judge(name: str, f: Found) -> str:
    """The thresholds of README.md, of means in points."""
    point = f["difference"][0]
    return {
        "B1": lambda: decide(point <= -30 and f["above"] == 0, point > -10),
        "B2": lambda: decide(point >= -5 and f["area"][0] <= 12, point < -20),
        "B3": lambda: decide(point >= 15 and f["above"] == len(SEEDS), point < 5),
        "B4": lambda: decide(point <= -0.5 and f["above"] == 0, point > 0),
        "B5": lambda: decide(point >= 25 and up(f["difference"]), point < 10),
    }[name]()


def claims(items: Items) -> dict[str, Found]:
    """B1 to B5: measured, and judged where all seeds are there."""
    compared = {
        "B1": ("448", "base", "own"),
        "B2": ("stage 1", "base", "own"),
        "B3": ("stage 1", "stage 1, free", "own"),
        "B4": ("stage 2", "stage 1", "area"),
        "B5": ("448, then stage 1", "448", "own"),
    }
    found: dict[str, Found] = {}
    for name, (first, second, metric) in compared.items():
        there = [sum(f"{arm} {seed}" in items for seed in SEEDS) for arm in (first, second) if arm != "base"]
        if not min(there):
            found[name] = {"verdict": "not run"}
            continue
        found[name] = differ(items, first, second, metric) | {"area": mean(table(items, first, GREEDY, "area"))}
        for beside, setting in (("sampled", SAMPLED), ("64 tokens", "64 greedy")):  # not judged
            found[name][beside] = differ(items, first, second, metric, setting)["difference"]
        found[name]["verdict"] = judge(name, found[name]) if min(there) == len(SEEDS) else f"not run: {min(there)} of {len(SEEDS)} seeds"
    return found


def keep_curves() -> None:
    """Write training.csv of the finished runs: CURVES of every policy, a row for every update."""
    rows = [
        [name, *(f"{row[key]:g}" for key in ("update", *CURVES))]
        for name, policy in POLICIES.items()
        if name != "base" and policy.is_dir()
        for row in read_history(policy.parent / "history.jsonl")
    ]
    if rows:
        with TRAINING.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([["policy", "update", *CURVES], *rows])


def training() -> dict[str, dict[str, list[float]]]:
    """Of every arm, seed by seed: the means of CURVES over the last updates of its training."""
    if not TRAINING.is_file():
        return {}
    with TRAINING.open(newline="") as file:
        rows = list(csv.DictReader(file))
    found: dict[str, dict[str, list[float]]] = {}
    for name in dict.fromkeys(row["policy"] for row in rows):
        last = [row for row in rows if row["policy"] == name][-LAST:]
        for key in CURVES:
            found.setdefault(name.rpartition(" ")[0], {}).setdefault(key, []).append(float(np.mean([float(row[key]) for row in last])))
    return found


def record(items: Items) -> dict[str, object]:
    """What stands in record.json: means of every arm and setting, and the claims."""
    factors = {metric: 1 if metric in ("iou", "visual_tokens") else 100 for metric in METRICS}
    arms = {
        f"{arm}, {setting}": {metric: mean(table(items, arm, setting, metric), factor) for metric, factor in factors.items()}
        for arm in ("base", *ARMS)
        if any(name == arm or name.rpartition(" ")[0] == arm for name in items)
        for setting in SETTINGS
    }
    found = {"policies": sorted(items), "arms": arms, "claims": claims(items), f"training, last {LAST} updates": training()}
    if all(f"{arm} {seed}" in items for arm in ("448, then stage 1", "stage 1") for seed in SEEDS):
        found["448, then stage 1 - stage 1"] = differ(items, "448, then stage 1", "stage 1", "own")["difference"]
    return found


def main() -> None:
    keep_curves()
    found = record(load(ITEMS, POLICIES))
    (HERE / "record.json").write_text(json.dumps(rounded(found), indent=1) + "\n")
    print(json.dumps(rounded(found["claims"]), indent=1))


if __name__ == "__main__":
    main()
