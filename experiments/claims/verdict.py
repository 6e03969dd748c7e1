"""Do the claims hold? Verdicts of C1 to C13 and C17 from the runs: verdicts.json, and figures in the folders of the claims.

.venv/bin/python -m experiments.claims.verdict        (after any of the sweeps; `make claim` ends with it)

Finished runs of outputs/ are first kept as items/<arm> <seed>.npz (a value per metric and question, and the training curves), so that the
verdicts can be computed again from a clone. A claim whose runs are not there is `not run`.
"""

import json
import subprocess
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from experiments.claims.figures import draw_arms, draw_ladder
from focus.dependence import load
from focus.report.run import read_history

HERE = Path(__file__).parent
ITEMS = HERE / "items"
SEEDS = range(5)
RESAMPLES = 2000
METRICS = ("own", "noise", "gt", "tool_free", "called", "agrees", "coverage", "iou", "l1", "area", "visual_tokens")
CURVES = ("reward/accuracy", "crop/rate", "crop/iou", "crop/coverage", "crop/area_p50", "group/zero_variance", "group/all_unpaid")
VIEWS = {"own view": "own", "common view": "common"}
ARMS = {
    "gap, bonus": "claims/gap=fixed,reward=stage1,seed={}",
    "gap, no bonus": "claims/gap=fixed,reward=no_bonus,seed={}",
    "no gap, bonus": "claims/gap=off,reward=stage1,seed={}",
    "no gap, no bonus": "claims/gap=off,reward=no_bonus,seed={}",
    "fixed crops": "claims_fixed_crops/seed={}",
    "stage 2": "claims_stage2/reward=stage2,seed={}",
    "no coverage gate": "claims_stage2/reward=stage2_no_gate,seed={}",
    "IoU only": "claims_stage2/reward=stage2_iou_only,seed={}",
    "L1 only": "claims_stage2/reward=stage2_l1_only,seed={}",
    "solved data": "claims_solved/reward=stage2,seed={}",
    "base, stage 2": "claims_poor/reward=stage2,seed={}",
    "base, IoU only": "claims_poor/reward=stage2_iou_only,seed={}",
    "calibrated": "gap_sweep_calibrated/seed={}",
    **{f"trained at {tokens}": f"gap_sweep/gap.view_tokens={tokens},seed={{}}" for tokens in (16, 32, 64, 128, 256)},
    "stage 1 on harder scenes": "claims_solved/reward=stage2,seed={}",
}
MEASURED = {"stage 1 on harder scenes": "base"}  # of a run the policy that it started from; elsewhere the trained one
# The same settings under another name: 256 tokens are the native size, where a fixed view is no gap
SAME_AS = {"trained at 16": "gap, bonus", "trained at 256": "no gap, bonus"}
Interval = tuple[float, float, float]


def collect() -> None:
    """Keep every finished run of outputs/, and the rows of all runs, crashed ones too."""
    ITEMS.mkdir(exist_ok=True)
    measured = Path("outputs/claims/base/probe.json")
    if measured.is_file():
        (HERE / "base.json").write_text(measured.read_text())
    rows = Path("outputs/claims/runs.csv")
    if rows.is_file():
        kept_rows = (HERE / "runs.csv").read_text().splitlines() if (HERE / "runs.csv").is_file() else []
        every = dict.fromkeys([*kept_rows, *rows.read_text().splitlines()])
        (HERE / "runs.csv").write_text("\n".join(every) + "\n")
    for arm, pattern in ARMS.items():
        for seed in SEEDS:
            folder = Path("outputs") / pattern.format(seed)
            measured = folder / f"evaluation_{MEASURED.get(arm, 'trained')}_t1.json"
            if not measured.is_file():
                continue
            arrays = {
                f"{VIEWS[view]} {metric}": np.array(outcome.values[metric], dtype=np.float16)
                for view, outcome in load(measured).items()
                for metric in METRICS
            }
            history = read_history(folder / "history.jsonl")
            arrays |= {key: np.array([row.get(key, np.nan) for row in history], dtype=np.float16) for key in CURVES}
            np.savez_compressed(_kept(arm, seed), **arrays)


def _kept(arm: str, seed: int) -> Path:
    return ITEMS / f"{arm} {seed}.npz"


@cache
def run(arm: str, seed: int) -> dict[str, np.ndarray] | None:
    """What was kept of one run; None if it is not there."""
    if not _kept(arm, seed).is_file():
        return run(SAME_AS[arm], seed) if arm in SAME_AS else None
    with np.load(_kept(arm, seed)) as arrays:
        return {name: arrays[name].astype(np.float64) for name in arrays.files}


class NotRun(Exception):
    """Some run of a claim is not there."""


def values(arm: str, metric: str, view: str = "own") -> np.ndarray:
    """[seed, question], NaN where the metric does not apply; `a - b` is the paired difference of two metrics."""
    first, _, second = metric.partition(" - ")
    runs = [run(arm, seed) for seed in SEEDS]
    if missing := [seed for seed, each in zip(SEEDS, runs, strict=True) if each is None]:
        raise NotRun(f"{arm}, seeds {missing}")
    table = np.stack([each[f"{view} {first}"] - (each[f"{view} {second}"] if second else 0) for each in runs if each is not None])
    return table


def interval(of: Callable[..., float], *tables: np.ndarray) -> Interval:
    """A function of the tables' means and its 95 % interval; seeds and questions are resampled, the same of each in every table."""
    random = np.random.default_rng(0)
    seeds, questions = tables[0].shape
    found = []
    for _ in range(RESAMPLES):
        s, q = random.integers(seeds, size=seeds), random.integers(questions, size=questions)
        found.append(of(*(np.nanmean(table[s][:, q]) for table in tables)))
    low, high = np.nanquantile(found, (0.025, 0.975))
    return float(of(*(np.nanmean(table) for table in tables))), float(low), float(high)


def mean(table: np.ndarray, factor: float = 100) -> Interval:
    return interval(lambda m: factor * m, table)


def change(after: np.ndarray, before: np.ndarray, factor: float = 100) -> Interval:
    return interval(lambda a, b: factor * (a - b), after, before)


def signs(after: np.ndarray, before: np.ndarray) -> int:
    """In how many of the seeds the first mean is above the second."""
    return int((np.nanmean(after, 1) > np.nanmean(before, 1)).sum())


def verdict(held: bool, refuted: bool) -> str:
    return "held" if held else "refuted" if refuted else "undecided"


def c1() -> dict[str, object]:
    d, calls = mean(values("no gap, bonus", "own - noise")), mean(values("no gap, bonus", "called"))
    return {"D_noise, own view": d, "crop rate": calls, "verdict": verdict(d[0] <= 5 and calls[0] >= 80, d[0] > 10)}


def c2() -> dict[str, object]:
    gap, none = (values(arm, "own - noise", "common") for arm in ("gap, bonus", "no gap, bonus"))
    ratio = interval(lambda a, b: a / b, gap, none)
    return {
        "D_noise at 64 tokens, gap": mean(gap),
        "D_noise at 64 tokens, no gap": mean(none),
        "ratio": ratio,
        "D_noise at own view, gap": mean(values("gap, bonus", "own - noise")),
        "seeds with the sign": signs(gap, none),
        "verdict": verdict(mean(gap)[0] >= 15 and ratio[0] >= 3, ratio[0] < 1.5),
    }


def c3() -> dict[str, object]:
    found: dict[str, object] = {"base: crop rate at 16 and 256 tokens": [base(16, "called"), base(256, "called")]}
    for arm in ("no gap, no bonus", "no gap, bonus", "gap, no bonus", "gap, bonus"):
        found |= {f"{arm}: {name}": mean(values(arm, metric)) for name, metric in (("crop rate", "called"), ("D_noise", "own - noise"))}
    low, bonus, gap = (found[f"{arm}: crop rate"][0] for arm in ("no gap, no bonus", "no gap, bonus", "gap, no bonus"))  # type: ignore[index]
    d_bonus, d_gap = (found[f"{arm}: D_noise"][0] for arm in ("no gap, bonus", "gap, no bonus"))  # type: ignore[index]
    held = low <= base(256, "called") and bonus >= 80 and d_bonus <= 5 and gap >= 80 and d_gap >= 15
    return found | {"verdict": verdict(held, d_bonus > 10 or gap < base(16, "called"))}


def base(tokens: int, metric: str) -> float:
    """A metric of the frozen base at a view, from base.json (see README.md)."""
    if not (HERE / "base.json").is_file():
        raise NotRun("the base")
    record = json.loads((HERE / "base.json").read_text())
    factor = 1 if metric in ("coverage", "iou") else 100
    return factor * record["views"][str(tokens)]["metrics"][metric][0]


def c4() -> dict[str, object]:
    grown = {arm: mean(values(arm, "area"))[0] / base(16, "area") for arm in ("gap, bonus", "fixed crops")}
    iou, cover = mean(values("gap, bonus", "iou"), 1), mean(values("gap, bonus", "coverage"), 1)
    held = grown["gap, bonus"] >= 1.3 and cover[0] > base(16, "coverage") and iou[0] < base(16, "iou") + 0.05
    return {
        "area over the base's, native crops": grown["gap, bonus"],
        "area over the base's, fixed crops": grown["fixed crops"],
        "coverage": cover,
        "IoU": iou,
        "base: area, coverage, IoU": [base(16, metric) for metric in ("area", "coverage", "iou")],
        "verdict": verdict(held and grown["fixed crops"] < grown["gap, bonus"], grown["gap, bonus"] < 1.05),
    }


def against(arm: str, before: str, metrics: Sequence[tuple[str, str, float]]) -> dict[str, Interval]:
    return {name: change(values(arm, metric), values(before, metric), factor) for name, metric, factor in metrics}


SHAPE = (("accuracy", "own", 100.0), ("area", "area", 100.0), ("IoU", "iou", 1.0), ("coverage", "coverage", 100.0))
BEFORE = "stage 1 on harder scenes"


def c5() -> dict[str, object]:
    after, before = values("stage 2", "area"), values(BEFORE, "area")
    shrunk = interval(lambda a, b: 100 * (a / b - 1), after, before)
    found = against("stage 2", BEFORE, SHAPE)
    held = shrunk[0] <= -30 and found["IoU"][0] >= 0.05 and found["accuracy"][1] >= -2
    return {
        "area, per cent": shrunk,
        **found,
        "seeds with the sign": signs(before, after),
        "verdict": verdict(held, found["IoU"][1] <= 0 or found["accuracy"][0] < -3),
    }


def c6() -> dict[str, object]:
    found = against("no coverage gate", "stage 2", SHAPE)
    held = found["coverage"][0] <= -5 and found["accuracy"][0] <= 0
    fewer = signs(values("stage 2", "coverage"), values("no coverage gate", "coverage"))
    return {**found, "seeds with the sign": fewer, "verdict": verdict(held, found["coverage"][2] >= 0)}


def updates_to(arm: str, threshold: float, seed: int) -> float:
    """Updates until the running mean (of 5) of the training IoU first reaches a value; infinite where it never does."""
    each = run(arm, seed)
    assert each is not None
    smooth = np.convolve(each["crop/iou"], np.ones(5) / 5, mode="valid")
    reached = np.nonzero(smooth >= threshold)[0]
    return float(reached[0] + 5) if len(reached) else float("inf")


def c7() -> dict[str, object]:
    found: dict[str, object] = {}
    final = change(values("base, stage 2", "iou"), values("base, IoU only", "iou"), 1)
    ratios = []
    for seed in SEEDS:
        each = run("base, IoU only", seed)
        assert each is not None
        end = float(np.convolve(each["crop/iou"], np.ones(5) / 5, mode="valid")[-1])
        ratios.append(updates_to("base, stage 2", end, seed) / updates_to("base, IoU only", end, seed))
    found["updates, omega 0.5 over omega 1, from the base (per seed)"] = ratios
    middle = float(np.median(ratios))
    found |= {f"from the base, omega 0.5 - 1: {k}": v for k, v in against("base, stage 2", "base, IoU only", SHAPE).items()}
    found |= {f"from stage 1, omega 0.5 - 1: {k}": v for k, v in against("stage 2", "IoU only", SHAPE).items()}
    return found | {"median ratio": middle, "verdict": verdict(middle <= 0.8 and final[2] >= 0, middle >= 1)}


def c8() -> dict[str, object]:
    found = against("L1 only", "stage 2", (*SHAPE, ("r_l1", "l1", 1.0)))
    held = found["accuracy"][0] <= -3 and found["coverage"][0] < 0
    fewer = signs(values("stage 2", "own"), values("L1 only", "own"))
    return {**found, "seeds with the sign": fewer, "verdict": verdict(held, found["accuracy"][2] >= 0 or found["accuracy"][0] >= 0)}


LADDER = (16, 32, 64, 128, 256)


def c9() -> dict[str, object]:
    arms = [f"trained at {tokens}" for tokens in LADDER]
    accuracy = [values(arm, "own", "common") for arm in arms]
    dependence = [values(arm, "own - noise", "common") for arm in arms]
    found: dict[str, object] = {
        "accuracy at 64 tokens": [mean(table) for table in accuracy],
        "D_noise at 64 tokens": [mean(table) for table in dependence],
        "D_noise at own view": [mean(values(arm, "own - noise")) for arm in arms],
        "coverage of B1, own view": [mean(values(arm, "coverage")) for arm in arms],
    }
    means = [float(table.mean()) for table in accuracy]
    best = int(np.argmax(means))
    inside = 0 < best < len(LADDER) - 1 and all(change(accuracy[best], accuracy[end])[1] > 0 for end in (0, -1))
    rises = all(a[0] >= b[0] for a, b in zip(found["D_noise at 64 tokens"], found["D_noise at 64 tokens"][1:], strict=False))  # type: ignore
    return found | {"peak": LADDER[best], "verdict": verdict(inside and rises, best in (0, len(LADDER) - 1))}


def c10() -> dict[str, object]:
    levels = {tokens: values(f"trained at {tokens}", "own", "common") for tokens in LADDER}
    chosen = values("calibrated", "own", "common")
    best = max(levels, key=lambda tokens: float(levels[tokens].mean()))
    against_best, overall = change(chosen, levels[best]), float(np.mean([table.mean() for table in levels.values()]))
    held = against_best[0] >= -1 and float(chosen.mean()) > overall
    return {
        "accuracy at 64 tokens, calibrated": mean(chosen),
        "best single level": best,
        "against it": against_best,
        "mean level": 100 * overall,
        "verdict": verdict(held, against_best[0] < -3),
    }


def c11() -> dict[str, object]:
    none, gap = (mean(values(arm, "agrees")) for arm in ("no gap, bonus", "gap, bonus"))
    return {"no gap": none, "gap": gap, "verdict": verdict(none[0] >= 80 and gap[0] <= 50, none[0] - gap[0] < 20)}


def c12() -> dict[str, object]:
    after, before = values("stage 2", "gt - own"), values(BEFORE, "gt - own")
    moved = change(after, before)
    return {
        "U_GT after stage 1": mean(before),
        "U_GT after stage 2": mean(after),
        "change": moved,
        "seeds with the sign": signs(before, after),
        "verdict": verdict(mean(before)[1] > 0 and moved[2] < 0, moved[0] > 0),
    }


def c13() -> dict[str, object]:
    solved, hard = (change(values(arm, "own"), values(BEFORE, "own")) for arm in ("solved data", "stage 2"))
    more = change(values("stage 2", "own"), values("solved data", "own"))
    return {
        "solved - stage 1": solved,
        "harder - stage 1": hard,
        "harder - solved": more,
        "verdict": verdict(solved[0] <= 1 and more[1] > 0, more[0] <= 0),
    }


def c17() -> dict[str, object]:
    gap, none = values("gap, bonus", "own"), values("no gap, bonus", "own")
    share = interval(lambda a, b: 100 * a / b, values("gap, bonus", "visual_tokens"), values("no gap, bonus", "visual_tokens"))
    moved = change(gap, none)
    return {
        "visual tokens, per cent of no gap": share,
        "accuracy, gap": mean(gap),
        "accuracy, no gap": mean(none),
        "difference": moved,
        "verdict": verdict(share[0] <= 35 and moved[0] >= -2, moved[2] < -2),
    }


CLAIMS = {f.__name__.upper(): f for f in (c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12, c13, c17)}


def rounded(value: object) -> object:
    if isinstance(value, float | np.floating):
        return round(float(value), 3)
    return [rounded(each) for each in value] if isinstance(value, list | tuple) else value


def main() -> None:
    collect()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    record: dict[str, object] = {"commit": commit, "seeds": list(SEEDS), "claims": {}}
    for name, claim in CLAIMS.items():
        try:
            found = {key: rounded(value) for key, value in claim().items()}
        except NotRun as error:
            found = {"verdict": "not run", "missing": str(error)}
        record["claims"][name] = found  # type: ignore[index]
        print(name, *(f"\n    {key}: {value}" for key, value in found.items()))
    (HERE / "verdicts.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    draw_arms(values, NotRun, HERE.parent)
    draw_ladder(values, NotRun, LADDER, HERE.parent)


if __name__ == "__main__":
    main()
