"""Do the claims hold? Verdicts of C1 to C13, C17 and teach_groups from the runs: verdicts.json, and figures in the claims' folders.

.venv/bin/python -m experiments.claims.verdict        (after any of the sweeps; `make claim` ends with it)

A claim is measured (intervals) and then judged (a pure function of what was measured), by the thresholds of README.md. A claim whose
runs are not there is `not run`.
"""

import json
import math
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from experiments.claims import figures
from experiments.claims.runs import ARMS, BASE_VIEWS, HERE, LADDER, SEEDS, STAGE1_ON_HARDER, NotRun, base, collect, curve, values
from focus.evaluation.bootstrap import Z

RESAMPLES = 2000
T = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # 97.5 % of Student's t lie below, by the number of seeds
Interval = tuple[float, float, float]  # mean, low, high
Found = dict  # what was measured of a claim: intervals (three numbers), counts of seeds, lists of them


def interval(of: Callable[..., float], *tables: np.ndarray) -> Interval:
    """A function of the tables' means, and its 95 % interval over seeds and questions.

    The two parts add up in squares: Student's t over the values of the seeds, and a bootstrap over the
    questions, which are the same for all seeds. Both hold the noise of single answers, so the interval is
    a little too wide where seeds hardly differ. A bootstrap over five seeds is too narrow: it covers
    89 % where they differ by 6 points (tests/test_claims.py). One seed has the second part alone.
    """
    random = np.random.default_rng(0)
    seeds, questions = tables[0].shape
    found = []
    for _ in range(RESAMPLES):
        drawn = random.integers(questions, size=questions)
        found.append(of(*(np.nanmean(table[:, drawn]) for table in tables)))
    half = Z * float(np.std(found))
    if seeds > 1:
        each = [of(*(np.nanmean(table[seed]) for table in tables)) for seed in range(seeds)]
        half = math.hypot(half, T[seeds] * float(np.std(each, ddof=1)) / math.sqrt(seeds))
    middle = float(of(*(np.nanmean(table) for table in tables)))
    return middle, middle - half, middle + half


def mean(table: np.ndarray, factor: float = 100) -> Interval:
    return interval(lambda m: factor * m, table)


def shared(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both, where both apply: boxes are compared on questions that both sides cropped."""
    known = ~(np.isnan(a) | np.isnan(b))
    return np.where(known, a, np.nan), np.where(known, b, np.nan)


def change(after: np.ndarray, before: np.ndarray, factor: float = 100) -> Interval:
    return interval(lambda a, b: factor * (a - b), *shared(after, before))


def ratio(after: np.ndarray, before: np.ndarray) -> Interval:
    """For positive quantities alone: areas, tokens."""
    return interval(lambda a, b: a / b, *shared(after, before))


def seeds_above(a: np.ndarray, b: np.ndarray) -> int:
    """In how many of the seeds the first mean is above the second."""
    a, b = shared(a, b)
    return int((np.nanmean(a, 1) > np.nanmean(b, 1)).sum())


def up(x: Interval) -> bool:
    return x[1] > 0


def down(x: Interval) -> bool:
    return x[2] < 0


def decide(held: bool, refuted: bool) -> str:
    """Neither, or both at once: undecided."""
    return "undecided" if held == refuted else "held" if held else "refuted"


MANY = 4  # of five seeds must show a sign


def measure_c1() -> Found:
    return {
        "D_noise": mean(values("no gap, bonus", "own - noise")),
        "crop rate": mean(values("no gap, bonus", "called")),
        "tool-free": mean(values("no gap, bonus", "tool_free")),
    }


def judge_c1(f: Found) -> str:
    return decide(f["D_noise"][0] <= 5 and f["crop rate"][0] >= 80, f["D_noise"][0] > 10)


def measure_c2() -> Found:
    gap, none = (values(arm, "own - noise", "common") for arm in ("gap, bonus", "no gap, bonus"))
    return {
        "D_noise, gap": mean(gap),
        "D_noise, no gap": mean(none),
        "gap - 3 x no gap": interval(lambda a, b: 100 * (a - 3 * b), gap, none),
        "gap - 1.5 x no gap": interval(lambda a, b: 100 * (a - 1.5 * b), gap, none),
        "seeds": seeds_above(gap, 3 * none),
        "tool-free, gap": mean(values("gap, bonus", "tool_free", "common")),
        "tool-free, no gap": mean(values("no gap, bonus", "tool_free", "common")),
    }


def judge_c2(f: Found) -> str:
    held = f["D_noise, gap"][0] >= 15 and f["gap - 3 x no gap"][0] >= 0 and f["seeds"] >= MANY
    return decide(held, f["gap - 1.5 x no gap"][0] < 0)


TWO_BY_TWO = ("no gap, no bonus", "no gap, bonus", "gap, no bonus", "gap, bonus")


def measure_c3() -> Found:
    found = {"base at 16: crop rate": mean(base(16, "called")), "base at 256: crop rate": mean(base(256, "called"))}
    for arm in TWO_BY_TWO:
        for name, metric in (("crop rate", "called"), ("D_noise", "own - noise"), ("accuracy", "own"), ("tool-free", "tool_free")):
            found[f"{arm}: {name}"] = mean(values(arm, metric))
    return found


def judge_c3(f: Found) -> str:
    silent = f["no gap, no bonus: crop rate"][0] <= f["base at 256: crop rate"][0]
    shows = f["no gap, bonus: crop rate"][0] >= 80 and f["no gap, bonus: D_noise"][0] <= 5
    looks = f["gap, no bonus: crop rate"][0] >= 80 and f["gap, no bonus: D_noise"][0] >= 15
    no_calls = f["gap, no bonus: crop rate"][0] <= f["base at 16: crop rate"][0]
    return decide(silent and shows and looks, f["no gap, bonus: D_noise"][0] > 10 or no_calls)


def measure_c4() -> Found:
    area, first = values("gap, bonus", "area"), base(16, "area")
    return {
        "area over the base's": ratio(area, first),
        "the same, crops of 16 tokens": ratio(values("fixed crops", "area"), first),
        "coverage": change(values("gap, bonus", "coverage"), base(16, "coverage")),
        "IoU": change(values("gap, bonus", "iou"), base(16, "iou"), 1),
        "seeds": seeds_above(area, first),
    }


def judge_c4(f: Found) -> str:
    grown = f["area over the base's"]
    less = f["the same, crops of 16 tokens"][0] < grown[0]
    held = grown[0] >= 1.3 and up(f["coverage"]) and f["IoU"][0] < 0.05 and less and f["seeds"] >= MANY
    return decide(held, grown[1] <= 1)


SHAPE = (("accuracy", "own", 100.0), ("area", "area", 100.0), ("IoU", "iou", 1.0), ("coverage", "coverage", 100.0))


def against(arm: str, before: str) -> Found:
    return {name: change(values(arm, metric), values(before, metric), factor) for name, metric, factor in SHAPE}


def measure_c5() -> Found:
    after, before = values("stage 2", "area"), values(STAGE1_ON_HARDER, "area")
    iou = seeds_above(values("stage 2", "iou"), values(STAGE1_ON_HARDER, "iou"))
    return {**against("stage 2", STAGE1_ON_HARDER), "area over stage 1's": ratio(after, before), "seeds": iou}


def judge_c5(f: Found) -> str:
    held = f["area over stage 1's"][0] <= 0.7 and f["IoU"][0] >= 0.05 and f["accuracy"][1] >= -2 and f["seeds"] >= MANY
    return decide(held, not up(f["IoU"]) or f["accuracy"][0] < -3)


def measure_c6() -> Found:
    fewer = seeds_above(values("stage 2", "coverage"), values("no coverage gate", "coverage"))
    return {**against("no coverage gate", "stage 2"), "seeds": fewer}


def judge_c6(f: Found) -> str:
    held = f["coverage"][0] <= -5 and down(f["coverage"]) and not up(f["accuracy"]) and f["seeds"] >= MANY
    return decide(held, not down(f["coverage"]))


def updates_to(arm: str, threshold: float, seed: int) -> float:
    """Updates until the training IoU, a mean over five updates, first reaches a value; infinite where it never does."""
    reached = np.nonzero(curve(arm, "crop/iou", seed) >= threshold)[0]
    return float(reached[0] + 5) if len(reached) else float("inf")


def measure_c7() -> Found:
    ratios = []
    for seed in SEEDS:
        end = float(curve("base, IoU only", "crop/iou", seed)[-1])
        ratios.append(updates_to("base, stage 2", end, seed) / updates_to("base, IoU only", end, seed))
    found: Found = {"updates, omega 0.5 over omega 1, by seed": ratios, "median": float(np.median(ratios))}
    found |= {f"from the base: {name}": each for name, each in against("base, stage 2", "base, IoU only").items()}
    return found | {f"from stage 1: {name}": each for name, each in against("stage 2", "IoU only").items()}


def judge_c7(f: Found) -> str:
    same = not any(up(f[f"from stage 1: {name}"]) or down(f[f"from stage 1: {name}"]) for name in ("accuracy", "IoU"))
    median = float("inf") if f["median"] is None else f["median"]
    return decide(median <= 0.8 and not down(f["from the base: IoU"]) and same, median >= 1)


def measure_c8() -> Found:
    fewer = seeds_above(values("stage 2", "own"), values("L1 only", "own"))
    return {**against("L1 only", "stage 2"), "r_l1": change(values("L1 only", "l1"), values("stage 2", "l1"), 1), "seeds": fewer}


def judge_c8(f: Found) -> str:
    held = f["accuracy"][0] <= -3 and down(f["accuracy"]) and down(f["coverage"]) and up(f["r_l1"]) and f["seeds"] >= MANY
    return decide(held, not down(f["accuracy"]))


def _unpaid(arm: str) -> float:
    """Per cent of the groups in which nobody was paid, over the first 20 updates; NaN where it was not logged."""
    shares = np.array([curve(arm, "group/all_unpaid", seed)[:16] for seed in SEEDS])
    return float("nan") if np.isnan(shares).all() else 100 * float(np.nanmean(shares))


def measure_c9() -> Found:
    arms = [f"trained at {tokens}" for tokens in LADDER]
    accuracy = [values(arm, "own", "common") for arm in arms]
    best = int(np.argmax([table.mean() for table in accuracy]))
    return {
        "accuracy at 64 tokens": [mean(table) for table in accuracy],
        "D_noise at 64 tokens": [mean(values(arm, "own - noise", "common")) for arm in arms],
        "D_noise at own view": [mean(values(arm, "own - noise")) for arm in arms],
        "coverage at own view": [mean(values(arm, "coverage")) for arm in arms],
        "all-unpaid groups, first 20 updates": [_unpaid(arm) for arm in arms],
        "best": LADDER[best],
        "best - ends": [change(accuracy[best], accuracy[end]) for end in (0, -1)],
    }


def judge_c9(f: Found) -> str:
    accuracy, dependence = ([each[0] for each in f[f"{name} at 64 tokens"]] for name in ("accuracy", "D_noise"))
    steps = np.diff(accuracy)
    inside = f["best"] not in (LADDER[0], LADDER[-1]) and all(up(each) for each in f["best - ends"])
    unpaid = f["all-unpaid groups, first 20 updates"]
    strong = unpaid[0] is None or unpaid[0] > unpaid[2]  # None: not logged when these runs were made
    return decide(inside and bool((np.diff(dependence) <= 0).all()) and strong, bool((steps >= 0).all() or (steps <= 0).all()))


def measure_c10() -> Found:
    levels = {tokens: values(f"trained at {tokens}", "own", "common") for tokens in LADDER}
    chosen = values("calibrated", "own", "common")
    best = max(levels, key=lambda tokens: float(levels[tokens].mean()))
    middle = np.mean(list(levels.values()), axis=0)
    return {
        "calibrated": mean(chosen),
        "best": best,
        "calibrated - best level": change(chosen, levels[best]),
        "calibrated - mean level": change(chosen, middle),
        "seeds": seeds_above(chosen, middle),
    }


def judge_c10(f: Found) -> str:
    below = f["calibrated - best level"][0]
    return decide(below >= -1 and f["calibrated - mean level"][0] > 0 and f["seeds"] >= MANY, below < -3)


def measure_c11() -> Found:
    return {arm: mean(values(arm, "agrees")) for arm in ("no gap, bonus", "gap, bonus")}


def judge_c11(f: Found) -> str:
    none, gap = f["no gap, bonus"][0], f["gap, bonus"][0]
    return decide(none >= 80 and gap <= 50, none - gap < 20)


def measure_c12() -> Found:
    after, before = values("stage 2", "gt - own"), values(STAGE1_ON_HARDER, "gt - own")
    return {"stage 1": mean(before), "stage 2": mean(after), "change": change(after, before), "seeds": seeds_above(before, after)}


def judge_c12(f: Found) -> str:
    return decide(up(f["stage 1"]) and down(f["change"]) and f["seeds"] >= MANY, f["change"][0] > 0)


def measure_c13() -> Found:
    first, solved, hard = (values(arm, "own") for arm in (STAGE1_ON_HARDER, "solved data", "stage 2"))
    return {
        "solved - stage 1": change(solved, first),
        "harder - stage 1": change(hard, first),
        "harder - solved": change(hard, solved),
        "seeds": seeds_above(hard, solved),
    }


def judge_c13(f: Found) -> str:
    return decide(f["solved - stage 1"][0] <= 1 and up(f["harder - solved"]) and f["seeds"] >= MANY, f["harder - solved"][0] <= 0)


def measure_c17() -> Found:
    gap, none = values("gap, bonus", "own"), values("no gap, bonus", "own")
    return {
        "visual tokens over no gap's": ratio(values("gap, bonus", "visual_tokens"), values("no gap, bonus", "visual_tokens")),
        "accuracy, gap": mean(gap),
        "accuracy, no gap": mean(none),
        "difference": change(gap, none),
    }


def judge_c17(f: Found) -> str:
    share, lost = f["visual tokens over no gap's"][0], f["difference"]
    return decide(share <= 0.35 and lost[0] >= -2, down(lost) and lost[0] < -2)


def measure_teach_groups() -> Found:
    arms = "gap, bonus, accuracy teaches", "gap, bonus"
    own, everything = (values(arm, "own") for arm in arms)
    return {
        "accuracy": change(own, everything),
        "crop rate": mean(values(arms[0], "called")),
        "D_noise": change(*(values(arm, "own - noise") for arm in arms)),
        "seeds": seeds_above(own, everything),
    }


def judge_teach_groups(f: Found) -> str:
    held = f["accuracy"][0] >= -2 and f["crop rate"][0] >= 90 and f["D_noise"][0] >= -5
    return decide(held, (f["accuracy"][0] < -3 and down(f["accuracy"])) or f["crop rate"][0] < 80)


@dataclass(frozen=True)
class Claim:
    """How it is measured, and how what was measured is judged."""

    measure: Callable[[], Found]
    judge: Callable[[Found], str]


CLAIMS = {
    "C1": Claim(measure_c1, judge_c1),
    "C2": Claim(measure_c2, judge_c2),
    "C3": Claim(measure_c3, judge_c3),
    "C4": Claim(measure_c4, judge_c4),
    "C5": Claim(measure_c5, judge_c5),
    "C6": Claim(measure_c6, judge_c6),
    "C7": Claim(measure_c7, judge_c7),
    "C8": Claim(measure_c8, judge_c8),
    "C9": Claim(measure_c9, judge_c9),
    "C10": Claim(measure_c10, judge_c10),
    "C11": Claim(measure_c11, judge_c11),
    "C12": Claim(measure_c12, judge_c12),
    "C13": Claim(measure_c13, judge_c13),
    "C17": Claim(measure_c17, judge_c17),
    "teach_groups": Claim(measure_teach_groups, judge_teach_groups),
}


# What the tables of the READMEs show of every arm, with the factor to their unit
TABLE = {
    "called": 100, "own": 100, "gt": 100, "noise": 100, "tool_free": 100, "own - noise": 100, "gt - own": 100, "agrees": 100,
    "coverage": 100, "iou": 1, "area": 100, "visual_tokens": 1,
}  # fmt: skip


def table() -> dict[str, dict[str, object]]:
    """Of every arm that was run the intervals of its metrics, at its own view and at 64 tokens, and its share of groups paid alike."""
    found: dict[str, dict[str, object]] = {}
    for tokens in BASE_VIEWS:
        with suppress(NotRun):
            found[f"base at {tokens}"] = {f"own {metric}": rounded(mean(base(tokens, metric), factor)) for metric, factor in TABLE.items()}
    for arm in (*ARMS, STAGE1_ON_HARDER):
        for view in ("own", "common"):
            with suppress(NotRun, KeyError):  # not every arm has a common view
                cells = {f"{view} {metric}": rounded(mean(values(arm, metric, view), factor)) for metric, factor in TABLE.items()}
                found.setdefault(arm, {}).update(cells)
        if arm in found and arm != STAGE1_ON_HARDER:
            alike = np.array([np.nanmean(curve(arm, "group/zero_variance", seed)) for seed in SEEDS])
            found[arm]["groups paid alike"] = rounded(100 * float(alike.mean()))
    return found


def rounded(value: object) -> object:
    """Three decimals; None for what is not finite, which JSON can't say."""
    if isinstance(value, float | np.floating):
        return round(float(value), 3) if np.isfinite(value) else None
    return [rounded(each) for each in value] if isinstance(value, list | tuple) else value


def main() -> None:
    collect()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    claims: dict[str, Found] = {}
    for name, claim in CLAIMS.items():
        try:
            found = {key: rounded(value) for key, value in claim.measure().items()}
            found["verdict"] = claim.judge(found)
        except NotRun as error:
            found = {"missing": str(error), "verdict": "not run"}
        claims[name] = found
        print(name, *(f"\n    {key}: {value}" for key, value in found.items()))
    record = {"commit": commit, "seeds": list(SEEDS), "resamples": RESAMPLES, "claims": claims, "arms": table()}
    (HERE / "verdicts.json").write_text(json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    figures.main()
    print(f"verdicts: {HERE / 'verdicts.json'}")


if __name__ == "__main__":
    main()
