"""From runs to items/ (a value for each question and metric, and curves), and from items/ to verdicts of C14, C15, L1 to L3, A1 to A3.

.venv/bin/python -m experiments.beyond.record        (after any of the sweeps)

A claim is measured (intervals of experiments/claims: over seeds and questions) and then judged by the thresholds of README.md. Runs that
were kept before and are not in outputs/ stay. A claim whose runs are not there is `not run`. `greedy` is the same of items/greedy, which
measure.py writes.
"""

import json
import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from experiments.claims import runs as claimed
from experiments.claims.runs import LADDER, SEEDS, NotRun
from experiments.claims.verdict import MANY, Found, Interval, change, decide, mean, ratio, seeds_above, up
from experiments.conflict.record import rounded
from experiments.controls import record as controls
from focus.evaluation.hits import COVERED
from focus.evaluation.outcome import Outcome, load_outcomes
from focus.training.history import read_history

HERE = Path(__file__).parent
ITEMS = HERE / "items"
GREEDY = ITEMS / "greedy"
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
GREEDY_ARMS = tuple(arm for arm in ARMS if not arm.startswith("gap"))
METRICS = (
    *("own", "gt", "noise", "tool_free", "called", "agrees", "hit", "chance", "coverage", "iou", "area", "visual_tokens"),
    *("conflict_crop", "conflict_whole"),
)
PARTS = ("own", "tool_free", "called", "hit", "chance", "reads", "reliance", "D_noise", "conflict_crop", "conflict_whole", "area")
SECONDS = ("seconds/rollout", "seconds/reward", "seconds/update")
CURVES = ("group/zero_variance", "gap/view_tokens", *SECONDS)


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
def read(kept: Path) -> dict[str, np.ndarray]:
    """What was kept of one run."""
    if not kept.is_file():
        raise NotRun(kept.stem)
    return claimed.read(kept)


@dataclass(frozen=True)
class Kept:
    """What was kept of all runs, measured at one temperature."""

    folder: Path

    def runs(self, arm: str) -> list[dict[str, np.ndarray]]:
        return [read(self.folder / f"{arm} {seed}.npz") for seed in SEEDS]

    def values(self, arm: str, metric: str, view: str = "own") -> np.ndarray:
        """[seed, question], NaN where the metric does not apply; `a - b` as in experiments/claims."""
        return np.stack([claimed.metric_of(run, metric, view) for run in self.runs(arm)])

    def apart(self, first: str, second: str, metric: str, view: str = "own", factor: float = 100) -> Interval:
        """The first arm minus the second, in points with the factor 100; NaN where no question has the metric in both."""
        a, b = self.values(first, metric, view), self.values(second, metric, view)
        return (math.nan,) * 3 if np.isnan(a - b).all() else change(a, b, factor)

    def curve(self, arm: str, key: str) -> np.ndarray:
        """A training curve, [seed, update]."""
        return np.stack([run[key] for run in self.runs(arm)])


def hits(coverage: np.ndarray) -> np.ndarray:
    """Whether the last crop shows the text; a question without a crop is a miss."""
    return (np.nan_to_num(coverage) > COVERED).astype(float)


def questions_of_both(kept: Kept, first: str, second: str, metric: str) -> list[int]:
    """By seed, the questions to which a metric applies in both arms."""
    known = ~(np.isnan(kept.values(first, metric)) | np.isnan(kept.values(second, metric)))
    return [int(of_seed.sum()) for of_seed in known]


def measure_c14(kept: Kept) -> Found:
    return {
        "D_noise": kept.apart("gain", "accuracy", "own - noise", "common"),
        "seeds": seeds_above(kept.values("gain", "own - noise", "common"), kept.values("accuracy", "own - noise", "common")),
        "conflict": kept.apart("gain", "accuracy", "conflict_crop"),
        # Beside it, not judged: the questions in which the crops of both hit
        "conflict, questions of each seed": questions_of_both(kept, "gain", "accuracy", "conflict_crop"),
        "tool-free": kept.apart("gain", "accuracy", "tool_free"),
    }


def judge_c14(f: Found) -> str:
    looks = f["D_noise"][0] >= 5 and up(f["D_noise"]) and f["seeds"] >= MANY and f["conflict"][0] >= 10
    return decide(looks and f["tool-free"][0] >= -2, f["D_noise"][0] < 2 or f["tool-free"][0] < -5)


def measure_c14b(kept: Kept) -> Found:
    return {"D_noise": kept.apart("gap, gain", "gap, accuracy", "own - noise", "common")}


def judge_c14b(f: Found) -> str:
    return decide(abs(f["D_noise"][0]) <= 5, abs(f["D_noise"][0]) > 10)


def measure_c15(kept: Kept) -> Found:
    calls = {arm: np.where(kept.values(arm, "tool_free") == 1, kept.values(arm, "called"), np.nan) for arm in ("gain", "gain, no placebo")}
    return {arm: mean(table) for arm, table in calls.items()} | {
        "fewer, of the questions that both answer": change(calls["gain, no placebo"], calls["gain"]),
        "accuracy": kept.apart("gain", "gain, no placebo", "own"),
    }


def judge_c15(f: Found) -> str:
    fewer = f["gain, no placebo"][0] - f["gain"][0]
    return decide(fewer >= 5 and abs(f["accuracy"][0]) <= 2, fewer <= 0)


STAGE2 = ("control", "label-free", "16 annotated", "64 annotated", "256 annotated")
SHAPE = (("accuracy", "own", 100.0), ("IoU", "iou", 1.0), ("coverage", "coverage", 100.0), ("area", "area", 100.0))


def measure_l1(kept: Kept) -> Found:
    area, before = kept.values("label-free", "area"), kept.values("control", "area")
    return {
        "area over the control's": ratio(area, before),
        "seeds": seeds_above(before, area),
        "accuracy": kept.apart("label-free", "control", "own"),
        "coverage": kept.apart("label-free", "control", "coverage"),
        # Beside them, not judged
        "hits": change(*(hits(kept.values(arm, "coverage")) for arm in ("label-free", "control"))),
        "IoU": kept.apart("label-free", "control", "iou", factor=1),
        "arms": {arm: {name: mean(kept.values(arm, metric), factor) for name, metric, factor in SHAPE} for arm in STAGE2},
    }


def judge_l1(f: Found) -> str:
    area, accuracy = f["area over the control's"], f["accuracy"][0]
    held = area[0] <= 0.85 and area[2] < 1 and f["seeds"] >= MANY and accuracy >= -2
    return decide(held, area[0] >= 1 or accuracy < -5)


def measure_l2(kept: Kept) -> Found:
    iou = {f"IoU - {n} annotated": kept.apart("label-free", f"{n} annotated", "iou", factor=1) for n in (16, 64, 256)}
    return iou | {
        f"accuracy - {n} annotated": kept.apart("label-free", f"{n} annotated", "own") for n in (16, 64, 256)
    }  # the latter not judged


def judge_l2(f: Found) -> str:
    few, all_ = f["IoU - 16 annotated"][0], f["IoU - 256 annotated"][0]
    return decide(few >= 0 and all_ >= -0.03, few < -0.02)


def measure_l3(kept: Kept) -> Found:
    iou = {f"IoU, {n} annotated": kept.apart(f"{n} annotated", "control", "iou", factor=1) for n in (16, 64, 256)}
    return iou | {
        f"accuracy, {n} annotated": kept.apart(f"{n} annotated", "control", "own") for n in (16, 64, 256)
    }  # the latter not judged


def judge_l3(f: Found) -> str:
    few, all_ = f["IoU, 16 annotated"], f["IoU, 256 annotated"]
    return decide(all_[0] >= 0.01 and up(all_) and 0 <= few[0] <= all_[0], all_[0] <= 0)


def measure_a1(kept: Kept) -> Found:
    fixed = {tokens: claimed.values(f"trained at {tokens}", "own", "common") for tokens in LADDER}
    best = max(fixed, key=lambda tokens: float(fixed[tokens].mean()))
    shown = hits(kept.values("adaptive", "coverage", "common"))
    return {
        "best level": best,
        "adaptive - best": change(kept.values("adaptive", "own", "common"), fixed[best]),
        "adaptive - 16": change(kept.values("adaptive", "own", "common"), fixed[16]),
        **{f"hits, adaptive - {n}": change(shown, hits(claimed.values(f"trained at {n}", "coverage", "common"))) for n in (16, 64)},
    }


def judge_a1(f: Found) -> str:
    return decide(f["adaptive - best"][0] >= -2, f["adaptive - best"][0] < -5)


def measure_a2(kept: Kept) -> Found:
    fixed, middle = (
        np.array([each["group/zero_variance"] for seed in SEEDS if (each := claimed.run(f"trained at {n}", seed))]) for n in (16, 64)
    )
    equal = kept.curve("adaptive", "group/zero_variance")
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


def measure_a3(kept: Kept) -> Found:
    return {"last level": kept.curve("adaptive", "gap/view_tokens")[:, -1].tolist()}


def judge_a3(f: Found) -> str:
    last = f["last level"]
    return decide(sum(tokens <= 32 for tokens in last) >= MANY, max(last) >= 128)


CLAIMS: dict[str, tuple[Callable[[Kept], Found], Callable[[Found], str]]] = {
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


# Claims about policies, not about their training, of arms that measure.py measures; A1 lacks the fixed levels greedily, but for 16 tokens
ALSO_GREEDY = ("C14", "C15", "L1", "L2", "L3")


def verdicts(claims: Iterable[str], kept: Kept) -> dict[str, Found]:
    """Each claim, measured and judged."""
    found: dict[str, Found] = {}
    for name in claims:
        measure, judge = CLAIMS[name]
        try:
            of_claim = measure(kept)
            found[name] = of_claim | {"verdict": judge(of_claim)}
        except NotRun as missing:
            found[name] = {"verdict": "not run", "missing": str(missing)}
    return found


def parts(kept: Kept, arm: str, view: str) -> Found:
    """Why an arm is right, step by step (docs/probe.md), in per cent or points."""
    outcomes = []
    for run in kept.runs(arm):
        values = {metric: list(run[f"{view} {metric}"]) for metric in METRICS}
        outcomes.append(Outcome(0, [str(question) for question in range(len(values["own"]))], values))
    tables = {part: np.array([each.of(part) for each in outcomes]) for part in PARTS}
    return {part: mean(table) for part, table in tables.items() if not np.isnan(table).all()}  # stage 2 was not asked about conflict


def all_parts(kept: Kept) -> dict[str, Found]:
    """By arm and view, of the runs that are there."""
    found = {}
    for arm in ARMS:
        for view in ("own", "common"):
            with suppress(NotRun, KeyError):  # stage 2 is measured at one view
                found[f"{arm}, {view} view"] = parts(kept, arm, view)
    return found


def paid_calls(arm: str, setting: str, metric: str) -> np.ndarray:
    """Policies that were paid for calls: `gap` and `no gap` of experiments/controls, or its base; [seed, question].

    `setting`: tokens of the view and decoding, for example `64 greedy`.
    """
    names = ["base"] * len(SEEDS) if arm == "base" else [f"{arm} {seed}" for seed in SEEDS]
    of_seeds = [{f"own {key.removeprefix(f'default {setting} ')}": row for key, row in controls_of(name).items()} for name in names]
    return np.stack([claimed.metric_of(each, metric, "own") for each in of_seeds])


@cache
def controls_of(name: str) -> dict[str, np.ndarray]:
    return read(controls.ITEMS / f"{name}.npz")


def beside_calls() -> Found:
    """Information gain without a gap beside policies that were paid for calls, with a gap and without; not predicted.

    Sampled: runs of experiments/claims, trained on another machine, and the base of experiments/controls, on its 500 scenes. Greedily:
    those of experiments/controls, and the base, whose first turn is opened with a call.
    """
    sampled, greedy, found = Kept(ITEMS), Kept(GREEDY), {}
    try:
        for metric in ("own", "own - noise"):
            of_gain = sampled.values("gain", metric, "common")
            for other in ("no gap", "gap"):
                found[f"sampled, 64 tokens: {metric}, over {other}"] = change(of_gain, claimed.values(f"{other}, bonus", metric, "common"))
        for metric in ("own", "own - noise", "hit - chance"):
            base = paid_calls("base", "64 sampled", metric)
            of_gain = sampled.values("gain", metric, "common")[:, : base.shape[1]]
            found[f"sampled, 64 tokens: {metric}, over base"] = change(of_gain, base)
        for other in ("no gap", "gap", "base"):
            for metric in ("own", "own - noise", "hit", "hit - chance"):
                of_gain = greedy.values("gain", metric, "common")
                found[f"greedy, 64 tokens: {metric}, over {other}"] = change(of_gain, paid_calls(other, "64 greedy", metric))
            for metric in ("own", "tool_free"):
                of_gain = greedy.values("gain", metric)
                found[f"greedy, 256 tokens: {metric}, over {other}"] = change(of_gain, paid_calls(other, "256 greedy", metric))
        found["greedy, 256 tokens: own, over the base without a call"] = change(
            greedy.values("gain", "own"), paid_calls("base", "256 greedy", "tool_free")
        )
        tool_free = {f"bonus, {arm}": paid_calls(arm, "256 greedy", "tool_free") for arm in ("no gap", "gap")}
        for arm, of_arm in ({"accuracy alone": greedy.values("accuracy", "tool_free")} | tool_free).items():
            found[f"greedy, 256 tokens: tool_free, {arm} over base"] = change(of_arm, paid_calls("base", "256 greedy", "tool_free"))
        for arm in ("accuracy", "gain"):
            lost = sampled.values(arm, "own - noise", "common")
            found[f"sampled, 64 tokens: points lost to noise by a call, {arm}"] = mean(
                np.where(sampled.values(arm, "called", "common") == 1, lost, np.nan)
            )
    except NotRun as missing:
        return {"missing": str(missing)}
    return found


def adaptive_greedy() -> Found:
    """At 64 tokens, greedily, against policies of 16 tokens: the same recipe, kept by experiments/controls."""
    try:
        return {"adaptive - 16": change(Kept(GREEDY).values("adaptive", "own", "common"), paid_calls("gap", "64 greedy", "own"))}
    except NotRun as missing:
        return {"missing": str(missing)}


def cost(kept: Kept) -> Found:
    """What an update of information gain takes, beside one of accuracy alone and beside the same without a placebo."""
    try:
        each = {arm: sum(kept.curve(arm, part) for part in SECONDS) for arm in ("gain", "accuracy", "gain, no placebo")}
        found = {f"gain over {other}": ratio(each["gain"], each[other]) for other in ("accuracy", "gain, no placebo")}
        return found | {"gain over gain without its reader": ratio(each["gain"], each["gain"] - kept.curve("gain", "seconds/reward"))}
    except NotRun as missing:
        return {"missing": str(missing)}


def record() -> Found:
    """What stands in record.json."""
    sampled, greedy = Kept(ITEMS), Kept(GREEDY)
    found = {
        "claims": verdicts(CLAIMS, sampled),
        "greedy": verdicts(ALSO_GREEDY, greedy) | {"A1": adaptive_greedy()},
        "information gain beside paid calls": beside_calls(),
        "seconds of an update": cost(sampled),
        "parts": all_parts(sampled),
        "parts, greedy": all_parts(greedy),
    }
    return {name: rounded(each) for name, each in found.items()}


def main() -> None:
    collect()
    (HERE / "record.json").write_text(text := json.dumps(record(), indent=1) + "\n")
    print(text, end="")


if __name__ == "__main__":
    main()
