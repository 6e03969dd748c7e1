"""From items/ (per question, policy and metric) to record.json: shares, intervals, verdicts.

.venv/bin/python -m experiments.conflict.record        (after measure.py)

A share of one policy has Wilson's interval over scenes, a mean of other values a bootstrap's, a mean over seeds the claims' interval over
seeds and scenes. Judged by the thresholds of README.md.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.claims.runs import read
from experiments.claims.verdict import MANY, Interval, change, interval, mean, seeds_above
from focus.evaluation.bootstrap import bootstrap, wilson
from focus.evaluation.outcome import DECOMPOSITION, SAYS
from focus.model import loading

HERE = Path(__file__).parent
ITEMS = HERE / "items"
SEEDS = range(5)
ARMS = {"gap": "fixed", "no gap": "off"}
POLICIES = {"base": loading.EMBEDDED} | {
    f"{arm} {seed}": Path(f"outputs/conflict/gap={gap},seed={seed}/policy") for seed in SEEDS for arm, gap in ARMS.items()
}
SIGNED = ("D_noise", "D_first", "D_second", "reliance")
METRICS = ("own", "tool_free", "D_noise", "area", *DECOMPOSITION, "sign reads", *(f"sign {each}" for each in SAYS))
TRUST, SMALL = 15.0, 5.0  # points (README.md)

Items = Mapping[str, Mapping[str, np.ndarray]]  # by policy and metric: a value for every scene, NaN where it does not apply


def share(metric: str, values: Sequence[float]) -> Interval | None:
    """Of one policy, in per cent: the mean and Wilson's interval over scenes, a bootstrap's of what is no count: signed values, areas.

    None if no scene applies.
    """
    known = [float(value) for value in values if value == value]
    if not known:
        return None
    counted = metric not in SIGNED and set(known) <= {0.0, 1.0}
    middle, low, high = (wilson if counted else bootstrap)(known, range(len(known)))
    return 100 * middle, 100 * low, 100 * high


def policies(items: Items) -> dict[str, dict[str, Interval | None]]:
    """Every share of every policy."""
    return {name: {metric: share(metric, of[metric]) for metric in METRICS} for name, of in items.items()}


def finished(items: Items) -> list[int]:
    """The seeds of which both arms have run."""
    return [seed for seed in SEEDS if all(f"{arm} {seed}" in items for arm in ARMS)]


def table(items: Items, arm: str, metric: str) -> np.ndarray:
    """[seed, scene]; the base, which has one seed, as often as there are seeds."""
    return np.stack([items["base" if arm == "base" else f"{arm} {seed}"][metric] for seed in finished(items)])


def judge(difference: Interval, seeds_above: int, seeds: int) -> str:
    """Held: at least `TRUST` points, the interval above 0, the sign in `MANY` of five seeds. Refuted: below `SMALL` points."""
    if seeds < len(SEEDS):
        return "not run"
    if difference[0] >= TRUST and difference[1] > 0 and seeds_above >= MANY:
        return "held"
    return "refuted" if difference[0] < SMALL else "undecided"


def claims(items: Items) -> dict[str, dict[str, object]]:
    """K1 to K3: by how many points the first arm believes the crop more often than the second, and the verdict.

    Beside it the same on the scenes to which both apply, which the verdict does not use: own crops hit in other scenes in every arm.
    """
    found = {}
    for name, first, second, metric in (
        ("K1", "gap", "no gap", "sign conflict_crop"),
        ("K2", "gap", "no gap", "conflict_crop"),
        ("K3", "base", "no gap", "sign conflict_crop"),
    ):
        a, b = table(items, first, metric), table(items, second, metric)
        difference = interval(lambda x, y: 100 * (x - y), a, b)
        above = int((np.nanmean(a, 1) > np.nanmean(b, 1)).sum())
        found[name] = {f"{first} - {second}": difference, "seeds above": above, "verdict": judge(difference, above, len(a))}
        both = (~np.isnan(a - b)).sum(1).tolist()
        found[name] |= {"on scenes of both": change(a, b), "seeds above on them": seeds_above(a, b), "scenes of both": both}
    return found


def load(folder: Path = ITEMS, policies: Iterable[str] = POLICIES) -> Items:
    """What was measured and kept in a folder, by policy, in their order."""
    return {name: read(kept) for name in policies if (kept := folder / f"{name}.npz").is_file()}


def rounded(value: object) -> object:
    """Numbers with three decimals; NaN becomes null."""
    if isinstance(value, Mapping):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(each) for each in value]
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 3)
    return value


def main() -> None:
    items = load()
    if not finished(items) or "base" not in items:
        raise SystemExit("no seed is measured in both arms beside the base; the commands are in README.md")
    over_seeds = {arm: {metric: mean(table(items, arm, metric)) for metric in METRICS} for arm in ARMS}
    record = rounded({"seeds": finished(items), "policies": policies(items), "arms": over_seeds, "claims": claims(items)})
    (HERE / "record.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
