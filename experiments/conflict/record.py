"""From items/ (per question, policy and metric) to record.json: shares, intervals, verdicts.

.venv/bin/python -m experiments.conflict.record        (after measure.py)

A share of one policy has Wilson's interval over scenes. A mean over seeds has Student's t over the seeds' shares, so the same scenes
for all seeds do no harm. Judged by the thresholds of README.md.
"""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from focus.evaluation.bootstrap import bootstrap, wilson
from focus.evaluation.outcome import DECOMPOSITION, SAYS
from focus.model import loading

HERE = Path(__file__).parent
ITEMS = HERE / "items"
SEEDS = range(5)
ARMS = {"gap": "fixed", "no gap": "off"}
POLICIES = {"base": loading.EMBEDDED} | {
    f"{arm} {seed}": f"outputs/conflict/gap={gap},seed={seed}/policy" for seed in SEEDS for arm, gap in ARMS.items()
}
METRICS = ("own", "tool_free", "area", *DECOMPOSITION, "sign reads", *(f"sign {each}" for each in SAYS))
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # 97.5 % quantile of Student's t by the number of seeds
TRUST, SMALL, MANY = 15.0, 5.0, 4  # points, points, of five seeds (README.md)

Interval = list[float]  # mean, low, high, in per cent or points
Items = Mapping[str, np.ndarray]


def share(metric: str, values: Sequence[float]) -> Interval | None:
    """Of one policy: the mean and Wilson's interval over scenes, of the signed `reliance` a bootstrap's. None if no scene applies."""
    known = [float(value) for value in values if value == value]
    interval = bootstrap if metric == "reliance" else wilson
    return [100 * value for value in interval(known, range(len(known)))] if known else None


def over_seeds(each: Sequence[float]) -> Interval:
    """The mean of one number a seed with its 95 % interval; of one seed without."""
    mean = statistics.fmean(each)
    half = STUDENT[len(each)] * statistics.stdev(each) / math.sqrt(len(each)) if len(each) > 1 else math.nan
    return [mean, mean - half, mean + half]


def below(base: Interval, each: Sequence[float]) -> Interval:
    """How far the seeds' mean lies below the base's share: both uncertainties add in squares."""
    mean, low, high = over_seeds(each)
    half = math.hypot((high - low) / 2, (base[2] - base[1]) / 2)
    return [base[0] - mean, base[0] - mean - half, base[0] - mean + half]


def judge(difference: Interval, above: int, seeds: int) -> str:
    """Held: at least `TRUST` points, the interval above 0, the sign in `MANY` of five seeds. Refuted: below `SMALL` points."""
    if seeds < len(SEEDS):
        return "not run"
    if difference[0] >= TRUST and difference[1] > 0 and above >= MANY:
        return "held"
    return "refuted" if difference[0] < SMALL else "undecided"


def record_of(items: Mapping[str, Items]) -> dict[str, object]:
    """The record from per-question results, by policy. The base must be there; a seed counts if both arms have run."""
    policies = {name: {metric: share(metric, of[metric]) for metric in METRICS} for name, of in items.items()}
    seeds = [seed for seed in SEEDS if all(f"{arm} {seed}" in items for arm in ARMS)]
    record: dict[str, object] = {"policies": policies, "seeds": seeds}
    if not seeds:
        return record

    def of(arm: str, metric: str) -> list[float]:
        shares = [policies[f"{arm} {seed}"][metric] for seed in seeds]
        return [found[0] if found else math.nan for found in shares]

    record["arms"] = {arm: {metric: over_seeds(of(arm, metric)) for metric in METRICS} for arm in ARMS}
    claims = {}
    for name, metric in (("K1", "sign conflict_crop"), ("K2", "conflict_crop")):
        gap, none = of("gap", metric), of("no gap", metric)
        difference = over_seeds([a - b for a, b in zip(gap, none, strict=True)])
        above = sum(a > b for a, b in zip(gap, none, strict=True))
        claims[name] = {"gap - no gap": difference, "seeds above": above, "verdict": judge(difference, above, len(seeds))}
    base, none = policies["base"]["sign conflict_crop"], of("no gap", "sign conflict_crop")
    assert base  # its crop is given, so every scene applies
    difference, under = below(base, none), sum(each < base[0] for each in none)
    claims["K3"] = {"base - no gap": difference, "seeds below": under, "verdict": judge(difference, under, len(seeds))}
    record["claims"] = claims
    return record


def load() -> dict[str, Items]:
    """What was measured, by policy, in the order of POLICIES."""
    found = {}
    for name in POLICIES:
        if (ITEMS / f"{name}.npz").is_file():
            with np.load(ITEMS / f"{name}.npz") as arrays:
                found[name] = {key: arrays[key].astype(np.float64) for key in arrays.files if key != "weights"}
    return found


def rounded(value: object) -> object:
    """Numbers with two decimals; NaN becomes null."""
    if isinstance(value, Mapping):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 2)
    return value


def main() -> None:
    record = rounded(record_of(load()))
    (HERE / "record.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
