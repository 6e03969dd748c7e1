"""From items/ (per question, policy, setting and metric) to record.json: shares with intervals, and verdicts.

.venv/bin/python -m experiments.binds.record        (after measure.py)

Means over seeds have the claims' interval over seeds and scenes. Claims are judged by the thresholds of README.md.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from experiments.claims.verdict import Found, change, decide, mean, up
from experiments.conflict.record import load, rounded
from focus.model import loading

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
        found[name]["sampled"] = differ(items, first, second, metric, SAMPLED)["difference"]  # beside it, not judged
        found[name]["verdict"] = judge(name, found[name]) if min(there) == len(SEEDS) else f"not run: {min(there)} of {len(SEEDS)} seeds"
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
    return {"policies": sorted(items), "arms": arms, "claims": claims(items)}


def main() -> None:
    found = record(load(ITEMS, POLICIES))
    (HERE / "record.json").write_text(json.dumps(rounded(found), indent=1) + "\n")
    print(json.dumps(rounded(found["claims"]), indent=1))


if __name__ == "__main__":
    main()
