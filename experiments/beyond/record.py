"""From runs to items/ (a value for each question and metric, and curves), and from items/ to verdicts of C14, C15, L1 to L3, A1 to A3.

.venv/bin/python -m experiments.beyond.record        (after any of the sweeps)

A claim is measured (intervals of experiments/claims: over seeds and questions) and then judged by the thresholds of README.md. Runs that
were kept before and are not in outputs/ stay. A claim whose runs are not there is `not run`.
"""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from experiments.claims import runs as claimed
from experiments.claims.runs import LADDER, SEEDS, NotRun
from experiments.claims.verdict import MANY, Found, Interval, change, decide, mean, ratio, seeds_above, up
from focus.evaluation.hits import COVERED
from focus.evaluation.outcome import load_outcomes
from focus.training.history import read_history

HERE = Path(__file__).parent
ITEMS = HERE / "items"
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


METRICS = ("own", "noise", "tool_free", "called", "coverage", "iou", "area", "conflict_crop")
CURVES = ("group/zero_variance", "gap/view_tokens")


def collect() -> None:
    """Keep every finished run of outputs/."""
    ITEMS.mkdir(exist_ok=True)
    for arm, pattern in ARMS.items():
        for seed in SEEDS:
            folder = OUTPUTS / pattern.format(seed)
            if (folder / "results.json").is_file():
                outcomes = load_outcomes(folder / "evaluation_trained_t1.json")
                kept = claimed.arrays_of(outcomes, read_history(folder / "history.jsonl"), METRICS, CURVES)
                np.savez_compressed(ITEMS / f"{arm} {seed}.npz", **kept)


@cache
def run(arm: str, seed: int) -> dict[str, np.ndarray]:
    """What was kept of one run."""
    kept = ITEMS / f"{arm} {seed}.npz"
    if not kept.is_file():
        raise NotRun(f"{arm}, seed {seed}")
    return claimed.read(kept)


def values(arm: str, metric: str, view: str = "own") -> np.ndarray:
    """[seed, question], NaN where the metric does not apply; `a - b` as in experiments/claims."""
    return np.stack([claimed.metric_of(run(arm, seed), metric, view) for seed in SEEDS])


def apart(first: str, second: str, metric: str, view: str = "own", factor: float = 100) -> Interval:
    """The first arm minus the second, in points with the factor 100."""
    return change(values(first, metric, view), values(second, metric, view), factor)


def curve(arm: str, key: str) -> np.ndarray:
    """A training curve, [seed, update]."""
    return np.stack([run(arm, seed)[key] for seed in SEEDS])


def hits(coverage: np.ndarray) -> np.ndarray:
    """Whether the last crop shows the text; a question without a crop is a miss."""
    return (np.nan_to_num(coverage) > COVERED).astype(float)


def measure_c14() -> Found:
    return {
        "D_noise": apart("gain", "accuracy", "own - noise", "common"),
        "seeds": seeds_above(values("gain", "own - noise", "common"), values("accuracy", "own - noise", "common")),
        "conflict": apart("gain", "accuracy", "conflict_crop"),
        "tool-free": apart("gain", "accuracy", "tool_free"),
    }


def judge_c14(f: Found) -> str:
    looks = f["D_noise"][0] >= 5 and up(f["D_noise"]) and f["seeds"] >= MANY and f["conflict"][0] >= 10
    return decide(looks and f["tool-free"][0] >= -2, f["D_noise"][0] < 2 or f["tool-free"][0] < -5)


def measure_c14b() -> Found:
    return {"D_noise": apart("gap, gain", "gap, accuracy", "own - noise", "common")}


def judge_c14b(f: Found) -> str:
    return decide(abs(f["D_noise"][0]) <= 5, abs(f["D_noise"][0]) > 10)


def measure_c15() -> Found:
    calls = {arm: np.where(values(arm, "tool_free") == 1, values(arm, "called"), np.nan) for arm in ("gain", "gain, no placebo")}
    return {arm: mean(table) for arm, table in calls.items()} | {"accuracy": apart("gain", "gain, no placebo", "own")}


def judge_c15(f: Found) -> str:
    fewer = f["gain, no placebo"][0] - f["gain"][0]
    return decide(fewer >= 5 and abs(f["accuracy"][0]) <= 2, fewer <= 0)


STAGE2 = ("control", "label-free", "16 annotated", "64 annotated", "256 annotated")
SHAPE = (("accuracy", "own", 100.0), ("IoU", "iou", 1.0), ("coverage", "coverage", 100.0), ("area", "area", 100.0))


def measure_l1() -> Found:
    area, before = values("label-free", "area"), values("control", "area")
    return {
        "area over the control's": ratio(area, before),
        "seeds": seeds_above(before, area),
        "accuracy": apart("label-free", "control", "own"),
        "coverage": apart("label-free", "control", "coverage"),
        # Beside them, not judged
        "hits": change(*(hits(values(arm, "coverage")) for arm in ("label-free", "control"))),
        "IoU": apart("label-free", "control", "iou", factor=1),
        "arms": {arm: {name: mean(values(arm, metric), factor) for name, metric, factor in SHAPE} for arm in STAGE2},
    }


def judge_l1(f: Found) -> str:
    area, accuracy = f["area over the control's"], f["accuracy"][0]
    held = area[0] <= 0.85 and area[2] < 1 and f["seeds"] >= MANY and accuracy >= -2
    return decide(held, area[0] >= 1 or accuracy < -5)


def measure_l2() -> Found:
    iou = {f"IoU - {n} annotated": apart("label-free", f"{n} annotated", "iou", factor=1) for n in (16, 64, 256)}
    return iou | {f"accuracy - {n} annotated": apart("label-free", f"{n} annotated", "own") for n in (16, 64, 256)}  # the latter not judged


def judge_l2(f: Found) -> str:
    few, all_ = f["IoU - 16 annotated"][0], f["IoU - 256 annotated"][0]
    return decide(few >= 0 and all_ >= -0.03, few < -0.02)


def measure_l3() -> Found:
    iou = {f"IoU, {n} annotated": apart(f"{n} annotated", "control", "iou", factor=1) for n in (16, 64, 256)}
    return iou | {f"accuracy, {n} annotated": apart(f"{n} annotated", "control", "own") for n in (16, 64, 256)}  # the latter not judged


def judge_l3(f: Found) -> str:
    few, all_ = f["IoU, 16 annotated"], f["IoU, 256 annotated"]
    return decide(all_[0] >= 0.01 and up(all_) and 0 <= few[0] <= all_[0], all_[0] <= 0)


def measure_a1() -> Found:
    fixed = {tokens: claimed.values(f"trained at {tokens}", "own", "common") for tokens in LADDER}
    best = max(fixed, key=lambda tokens: float(fixed[tokens].mean()))
    shown = hits(values("adaptive", "coverage", "common"))
    return {
        "best level": best,
        "adaptive - best": change(values("adaptive", "own", "common"), fixed[best]),
        "adaptive - 16": change(values("adaptive", "own", "common"), fixed[16]),
        **{f"hits, adaptive - {n}": change(shown, hits(claimed.values(f"trained at {n}", "coverage", "common"))) for n in (16, 64)},
    }


def judge_a1(f: Found) -> str:
    return decide(f["adaptive - best"][0] >= -2, f["adaptive - best"][0] < -5)


def measure_a2() -> Found:
    fixed, middle = (
        np.array([kept["group/zero_variance"] for seed in SEEDS if (kept := claimed.run(f"trained at {n}", seed))]) for n in (16, 64)
    )
    equal = curve("adaptive", "group/zero_variance")
    return {
        "equal": mean(equal),
        "equal, 16 tokens": mean(fixed),
        "seeds": seeds_above(fixed, equal),
        # Beside them, not judged: the fixed gap of 64 tokens, and where the difference to 16 is made
        "equal, 64 tokens": mean(middle),
        "equal - 64 tokens": change(equal, middle),
        "equal, updates 1 to 10": mean(equal[:, :10]),
        "equal, 16 tokens, updates 1 to 10": mean(fixed[:, :10]),
        "equal - 16 tokens, from update 11": change(equal[:, 10:], fixed[:, 10:]),
    }


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


def record() -> dict[str, Found]:
    """What stands in record.json: each claim, measured and judged."""
    found: dict[str, Found] = {}
    for name, (measure, judge) in CLAIMS.items():
        try:
            of_claim = measure()
            found[name] = of_claim | {"verdict": judge(of_claim)}
        except NotRun as missing:
            found[name] = {"verdict": "not run", "missing": str(missing)}
    return found


def main() -> None:
    collect()
    (HERE / "record.json").write_text(text := json.dumps(record(), indent=1) + "\n")
    print(text, end="")


if __name__ == "__main__":
    main()
