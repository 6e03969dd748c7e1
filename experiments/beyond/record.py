"""Verdicts of C14, C15, L1 to L3 and A1 to A3 from finished runs: record.json. Thresholds are those of README.md.

.venv/bin/python -m experiments.beyond.record        (after any of the sweeps)

A claim is measured (intervals of experiments/claims: over seeds and questions) and then judged. A claim whose runs are not there is
`not run`.
"""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from experiments.claims import runs as claimed
from experiments.claims.runs import LADDER, SEEDS, NotRun
from experiments.claims.verdict import MANY, Found, Interval, change, decide, mean, ratio, seeds_above, up
from focus.evaluation.outcome import Outcome, load_outcomes
from focus.training.history import read_history

HERE = Path(__file__).parent
OUTPUTS = Path("outputs")
ARMS = {
    "accuracy": "information_gain/gap=off,reward=no_bonus,seed={}",
    "gain": "information_gain/gap=off,reward=information_gain,seed={}",
    "gap, accuracy": "information_gain/gap=fixed,reward=no_bonus,seed={}",
    "gap, gain": "information_gain/gap=fixed,reward=information_gain,seed={}",
    "gain, no placebo": "information_gain/gap=off,reward.terms.information_gain.placebos=0,reward=information_gain,seed={}",
    "label-free": "label_free/reward=label_free,seed={}",
    "control": "label_free/reward=stage1,seed={}",
    **{f"{n} annotated": f"label_free/data.scenes={n},reward=stage2,seed={{}}" for n in (16, 64, 256)},
    "adaptive": "adaptive_gap/seed={}",
}


@cache
def outcomes(arm: str, seed: int) -> dict[str, Outcome]:
    found = load_outcomes(OUTPUTS / ARMS[arm].format(seed) / "evaluation_trained_t1.json")
    if not found:
        raise NotRun(f"{arm}, seed {seed}")
    return found


def values(arm: str, metric: str, view: str = "own view") -> np.ndarray:
    """[seed, question], NaN where the metric does not apply."""
    rows = [outcomes(arm, seed) for seed in SEEDS]
    return np.stack([np.array((row.get(view) or row["own view"]).of(metric), np.float64) for row in rows])


def apart(first: str, second: str, metric: str, view: str = "own view", factor: float = 100) -> Interval:
    """The first arm minus the second, in points with the factor 100."""
    return change(values(first, metric, view), values(second, metric, view), factor)


def curve(arm: str, key: str) -> np.ndarray:
    """A training curve, [seed, update]."""
    rows = [read_history(OUTPUTS / ARMS[arm].format(seed) / "history.jsonl") for seed in SEEDS]
    if not all(rows):
        raise NotRun(arm)
    return np.array([[row.get(key, np.nan) for row in history] for history in rows])


def measure_c14() -> Found:
    return {
        "D_noise": apart("gain", "accuracy", "D_noise", "common view"),
        "seeds": seeds_above(values("gain", "D_noise", "common view"), values("accuracy", "D_noise", "common view")),
        "conflict": apart("gain", "accuracy", "conflict_crop"),
        "tool-free": apart("gain", "accuracy", "tool_free"),
    }


def judge_c14(f: Found) -> str:
    looks = f["D_noise"][0] >= 5 and up(f["D_noise"]) and f["seeds"] >= MANY and f["conflict"][0] >= 10
    return decide(looks and f["tool-free"][0] >= -2, f["D_noise"][0] < 2 or f["tool-free"][0] < -5)


def measure_c14b() -> Found:
    return {"D_noise": apart("gap, gain", "gap, accuracy", "D_noise", "common view")}


def judge_c14b(f: Found) -> str:
    return decide(abs(f["D_noise"][0]) <= 5, abs(f["D_noise"][0]) > 10)


def measure_c15() -> Found:
    calls = {arm: np.where(values(arm, "tool_free") == 1, values(arm, "called"), np.nan) for arm in ("gain", "gain, no placebo")}
    return {arm: mean(table) for arm, table in calls.items()} | {"accuracy": apart("gain", "gain, no placebo", "own")}


def judge_c15(f: Found) -> str:
    fewer = f["gain, no placebo"][0] - f["gain"][0]
    return decide(fewer >= 5 and abs(f["accuracy"][0]) <= 2, fewer <= 0)


def measure_l1() -> Found:
    area, before = values("label-free", "area"), values("control", "area")
    return {
        "area over the control's": ratio(area, before),
        "seeds": seeds_above(before, area),
        "accuracy": apart("label-free", "control", "own"),
        "coverage": apart("label-free", "control", "coverage"),
    }


def judge_l1(f: Found) -> str:
    area, accuracy = f["area over the control's"], f["accuracy"][0]
    held = area[0] <= 0.85 and area[2] < 1 and f["seeds"] >= MANY and accuracy >= -2
    return decide(held, area[0] >= 1 or accuracy < -5)


def measure_l2() -> Found:
    return {f"IoU - {n} annotated": apart("label-free", f"{n} annotated", "iou", factor=1) for n in (16, 64, 256)}


def judge_l2(f: Found) -> str:
    few, all_ = f["IoU - 16 annotated"][0], f["IoU - 256 annotated"][0]
    return decide(few >= 0 and all_ >= -0.03, few < -0.02)


def measure_l3() -> Found:
    return {f"IoU, {n} annotated": apart(f"{n} annotated", "control", "iou", factor=1) for n in (16, 64, 256)}


def judge_l3(f: Found) -> str:
    few, all_ = f["IoU, 16 annotated"], f["IoU, 256 annotated"]
    return decide(all_[0] >= 0.01 and up(all_) and 0 <= few[0] <= all_[0], all_[0] <= 0)


def measure_a1() -> Found:
    fixed = {tokens: claimed.values(f"trained at {tokens}", "own", "common") for tokens in LADDER}
    best = max(fixed, key=lambda tokens: float(fixed[tokens].mean()))
    return {"best level": best, "adaptive - best": change(values("adaptive", "own", "common view"), fixed[best])}


def judge_a1(f: Found) -> str:
    return decide(f["adaptive - best"][0] >= -2, f["adaptive - best"][0] < -5)


def measure_a2() -> Found:
    fixed = []
    for seed in SEEDS:
        run = claimed.run("trained at 16", seed)
        if run is None:
            raise NotRun(f"trained at 16, seed {seed}")
        fixed.append(run["group/zero_variance"])
    equal = curve("adaptive", "group/zero_variance")
    return {"equal": mean(equal), "equal, 16 tokens": mean(np.array(fixed)), "seeds": seeds_above(np.array(fixed), equal)}


def judge_a2(f: Found) -> str:
    return decide(f["seeds"] >= MANY, f["equal"][0] >= f["equal, 16 tokens"][0])


def measure_a3() -> Found:
    return {"last level": curve("adaptive", "gap/view_tokens")[:, -1].tolist()}


def judge_a3(f: Found) -> str:
    last = f["last level"]
    return decide(sum(tokens <= 32 for tokens in last) >= MANY, max(last) >= 128)


CLAIMS: dict[str, tuple[Callable[[], Found], Callable[[Found], str]]] = {
    "C14": (measure_c14, judge_c14),
    "C14b": (measure_c14b, judge_c14b),
    "C15": (measure_c15, judge_c15),
    "L1": (measure_l1, judge_l1),
    "L2": (measure_l2, judge_l2),
    "L3": (measure_l3, judge_l3),
    "A1": (measure_a1, judge_a1),
    "A2": (measure_a2, judge_a2),
    "A3": (measure_a3, judge_a3),
}


def main() -> None:
    record: dict[str, Found] = {}
    for name, (measure, judge) in CLAIMS.items():
        try:
            found = measure()
            record[name] = found | {"verdict": judge(found)}
        except NotRun as missing:
            record[name] = {"verdict": "not run", "missing": str(missing)}
    (HERE / "record.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
