"""From runs to items/ (per question, probe and metric, and curves), and from items/ to record.json: ratios, intervals, verdicts.

.venv/bin/python -m experiments.fork_at_call.record        (after any of the runs, see README.md)

Runs that were kept before and are not in outputs/ stay. Judged by the thresholds of README.md.
"""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from experiments.claims.runs import SEEDS
from experiments.claims.verdict import MANY, T, change, decide
from focus.data.boxes import iou
from focus.evaluation.hits import COVERED
from focus.evaluation.kept import FOLDER
from focus.evaluation.outcome import load_outcomes
from focus.training.history import read_history

HERE = Path(__file__).parent
ITEMS = HERE / "items"
ARMS = {
    "plain": ("keep", 1),
    "refill": ("refill", 1),
    "fork": ("fork", 1),
    "turn": ("keep", 2),
    "refill, turn": ("refill", 2),
    "fork, turn": ("fork", 2),
}
PROBES = range(10, 81, 10)  # updates
LAST = 3  # probes that say where plain GRPO ends
REACHED = 0.9  # the target, as a share of that
EARLY = slice(0, 20)  # updates in which dead groups are counted
QUESTIONS = 8  # groups of an update
METRICS = ("right", "hit", "iou")
Run = Mapping[str, np.ndarray]
Runs = Mapping[str, Mapping[int, Run]]  # by arm and seed


def folder_of(arm: str, seed: int) -> Path:
    """Where the sweep writes a run."""
    groups, answers = ARMS[arm]
    return Path(f"outputs/fork_at_call/rollout.answers_per_crop={answers},rollout.dead_groups={groups},seed={seed}")


def probed(path: Path) -> dict[str, list[float]]:
    """Of every question in the arm `own` of a probe: was it right, did the crop hit, and its IoU. Without a crop both are 0."""
    rows = [row for row in pq.read_table(path).to_pylist() if row["arm"] == "own"]
    found: dict[str, list[float]] = {metric: [] for metric in METRICS}
    for row in sorted(rows, key=lambda row: row["id"]):
        boxes = [turn["box_px"] for turn in row["turns"] if turn["crop"]]
        found["right"].append(row["right"])
        found["hit"].append(float((row["coverage"] or 0) > COVERED))
        found["iou"].append(max((iou(boxes[-1], level) for level in row["boxes"][0]), default=0) if boxes else 0.0)
    return found


def collected(folder: Path) -> Run:
    """What is kept of a finished run: per probe and question, per held-out question, and the curves of its updates."""
    history = read_history(folder / "history.jsonl")
    probes = [probed(folder / FOLDER / f"probe_{update:06d}.0.parquet") for update in PROBES]
    [outcome] = load_outcomes(folder / "evaluation_trained_t1.json").values()
    return {
        **{metric: np.array([probe[metric] for probe in probes], np.float16) for metric in METRICS},
        **{
            f"final {metric}": np.array(outcome.values[metric], np.float16)
            for metric in ("own", "noise", "called", "coverage", "iou", "area")
        },
        "dead, drawn": np.array([row["group/zero_variance"] for row in history]),
        "dead, trained": np.array([row.get("group/dead", row["group/zero_variance"]) for row in history]),
        "tokens": np.array([row["tokens/sampled"] for row in history]),
        "tokens, trained": np.array([row["tokens/trained"] for row in history]),
    }


def crossing(curve: np.ndarray, target: float) -> float:
    """The update at which a curve over PROBES first reaches the target, on straight lines between probes.

    At the first probe if it is there by then; one probe after the last if it never is.
    """
    for k, value in enumerate(curve):
        if value >= target:
            before = curve[k - 1] if k else value
            return PROBES[k] if k == 0 else PROBES[k - 1] + PROBES.step * (target - before) / (value - before)
    return PROBES[-1] + PROBES.step


def tokens_until(run: Run, update: float, counted: Sequence[str] = ("tokens",)) -> float:
    """Tokens sampled in so many updates, or of the kinds named; what follows the last one costs as the mean of all."""
    each = np.sum([run[kind] for kind in counted], axis=0)
    spent = np.concatenate([[0.0], np.cumsum(each)])
    over = max(0.0, update - (len(spent) - 1))
    return float(np.interp(update, np.arange(len(spent)), spent) + over * each.mean())


def to_target(
    runs: Runs, arm: str, metric: str, in_tokens: bool, target: tuple[float, int] = (REACHED, LAST), counted: Sequence[str] = ("tokens",)
) -> dict[int, float]:
    """By seed: updates or tokens until `metric` reaches the target of that seed: a share of plain GRPO's mean over its last probes."""
    (share, last), found = target, {}
    for seed, run in runs[arm].items():
        if seed in runs["plain"]:
            update = crossing(run[metric].mean(axis=1), share * float(runs["plain"][seed][metric][-last:].mean()))
            found[seed] = tokens_until(run, update, counted) if in_tokens else update
    return found


def dead_early(runs: Runs, arm: str) -> dict[int, float]:
    """By seed: the share of groups that train without a difference, in the first updates."""
    return {seed: float(run["dead, trained"][EARLY].mean()) for seed, run in runs[arm].items()}


def over_seeds(values: Sequence[float]) -> list[float]:
    """The mean of a value for each seed, and its 95 % interval (Student's t)."""
    middle = statistics.fmean(values)
    half = T[len(values)] * statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return [middle, middle - half, middle + half]


def ratio(first: Mapping[int, float], second: Mapping[int, float]) -> dict[str, object]:
    """Geometric mean of a ratio over the seeds of both, its 95 % interval (Student's t of the logarithms), and each seed's ratio."""
    each = {seed: first[seed] / second[seed] for seed in sorted(first.keys() & second.keys())}
    if not each:
        return {"seeds": {}}
    return {"seeds": each, "ratio": [math.exp(x) for x in over_seeds([math.log(max(value, 1e-3)) for value in each.values()])]}


# Name: what is compared, and the ratio at which it holds and from which on it is refuted (README.md)
CLAIMS = {
    "F1": ("fork", "plain", "dead", 0.7, 0.9),
    "F2": ("fork, turn", "plain", "updates, hit", 0.8, 1.0),
    "F3": ("fork, turn", "plain", "tokens, hit", 0.7, 1.0),
    "F4": ("fork, turn", "refill", "tokens, hit", 0.8, 1.0),
    "F5": ("fork, turn", "turn", "tokens, hit", 0.9, 1.0),
    "F6": ("turn", "plain", "updates, iou", 0.7, 1.0),
}


def judge(found: Mapping, holds: float, refuted: float) -> str:
    """Held: a ratio of at most `holds`, the interval below 1, below 1 in `MANY` of five seeds. Refuted: at least `refuted`."""
    if len(found["seeds"]) < len(SEEDS):
        return "not run"
    mean, _, high = found["ratio"]
    below = sum(value < 1 for value in found["seeds"].values())
    return decide(mean <= holds and high < 1 and below >= MANY, mean >= refuted)


def measured(runs: Runs, arm: str, what: str) -> dict[int, float]:
    """By seed, what a claim compares."""
    if what == "dead":
        return dead_early(runs, arm)
    unit, metric = what.split(", ")
    return to_target(runs, arm, metric, unit == "tokens")


def claims(runs: Runs) -> dict[str, dict[str, object]]:
    """F1 to F6: the ratio of the first arm to the second, and the verdict."""
    found = {}
    for name, (first, second, what, holds, refuted) in CLAIMS.items():
        compared = ratio(measured(runs, first, what), measured(runs, second, what))
        found[name] = {f"{first} / {second}, {what}": compared, "verdict": judge(compared, holds, refuted)}
    return found


def beside(runs: Runs) -> dict[str, object]:
    """Not judged: what the claims would be with other targets, other costs and another zero, and the accuracy at the end beside plain's."""
    if any(len(runs[arm]) < len(SEEDS) for first, second, *_ in CLAIMS.values() for arm in (first, second)):
        return {}
    reached = {name: (first, second, *what.split(", ")) for name, (first, second, what, *_) in CLAIMS.items() if ", " in what}
    found: dict[str, object] = {}
    for share, last in ((0.7, LAST), (0.8, LAST), (REACHED, 1)):
        found[f"target: {share} of the last {last}"] = {
            name: ratio(*(to_target(runs, arm, metric, unit == "tokens", (share, last)) for arm in arms))["ratio"]
            for name, (*arms, unit, metric) in reached.items()
        }
    found["tokens sampled and trained"] = {
        name: ratio(*(to_target(runs, arm, metric, True, counted=("tokens", "tokens, trained")) for arm in arms))["ratio"]
        for name, (*arms, unit, metric) in reached.items()
        if unit == "tokens"
    }
    found["F6 in tokens sampled"] = ratio(*(to_target(runs, arm, "iou", True) for arm in ("turn", "plain")))["ratio"]
    dead, before = (dead_early(runs, arm) for arm in ("fork", "plain"))
    half = 0.5 / (runs["plain"][0]["dead, trained"][EARLY].size * QUESTIONS)  # half a group of those that are counted
    found["F1, half a group for none"] = ratio({seed: max(share, half) for seed, share in dead.items()}, before)["ratio"]
    found["F1, points"] = over_seeds([100 * (dead[seed] - before[seed]) for seed in SEEDS])
    right = {arm: np.stack([runs[arm][seed]["final own"] for seed in SEEDS]) for arm in ARMS if len(runs[arm]) == len(SEEDS)}
    found["accuracy at the end, points over plain"] = {
        arm: list(change(table, right["plain"])) for arm, table in right.items() if arm != "plain"
    }
    return found


def summary(runs: Runs) -> dict[str, dict[str, dict[str, float]]]:
    """By arm and seed: dead groups, tokens, updates and tokens to the targets, and the policy at the end."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for arm, by_seed in runs.items():
        for seed, run in by_seed.items():
            row = {
                "dead, drawn": float(run["dead, drawn"][EARLY].mean()),
                "dead, trained": float(run["dead, trained"][EARLY].mean()),
                "tokens of an update": float(run["tokens"].mean()),
                "tokens trained": float(run["tokens, trained"].mean()),
                **{f"{unit} to {metric}": to_target(runs, arm, metric, unit == "tokens").get(seed, math.nan)
                   for metric in ("hit", "iou") for unit in ("updates", "tokens")},
                "hit": float((np.nan_to_num(run["final coverage"]) > COVERED).mean()),
                "iou": float(np.nan_to_num(run["final iou"]).mean()),
                "accuracy": float(run["final own"].mean()),
                "D_noise": float((run["final own"] - run["final noise"]).mean()),
                "crop rate": float(run["final called"].mean()),
                "area": float(np.nanmean(run["final area"])),
            }  # fmt: skip
            found.setdefault(arm, {})[str(seed)] = row
    return found


def load() -> Runs:
    """What was kept, by arm and seed."""
    found: dict[str, dict[int, Run]] = {arm: {} for arm in ARMS}
    for arm in ARMS:
        for seed in SEEDS:
            if (ITEMS / f"{arm} {seed}.npz").is_file():
                with np.load(ITEMS / f"{arm} {seed}.npz") as arrays:
                    found[arm][seed] = {key: arrays[key].astype(np.float64) for key in arrays.files}
    return found


def rounded(value: object) -> object:
    """Numbers with four digits; NaN becomes null."""
    if isinstance(value, Mapping):
        return {str(key): rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    if isinstance(value, float):
        return None if math.isnan(value) else float(f"{value:.4g}")
    return value


def record(runs: Runs) -> object:
    """What stands in record.json."""
    return rounded({"runs": summary(runs), "claims": claims(runs), "beside": beside(runs)})


def main() -> None:
    ITEMS.mkdir(exist_ok=True)
    for arm in ARMS:
        for seed in SEEDS:
            folder = folder_of(arm, seed)
            if (folder / "results.json").is_file():
                np.savez_compressed(ITEMS / f"{arm} {seed}.npz", **collected(folder))
    found = record(load())
    (HERE / "record.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
