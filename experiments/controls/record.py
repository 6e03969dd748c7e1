"""From items/ (per question, policy, setting and metric) to record.json: shares with intervals, and verdicts.

.venv/bin/python -m experiments.controls.record        (after measure.py)

Means over seeds have the claims' interval over seeds and scenes. Claims of the paper are judged by their own rules, those of this page
by the thresholds of README.md.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.claims import verdict
from experiments.claims.decomposition import Events, events, split
from experiments.claims.verdict import MANY, Found, Interval, change, decide, down, interval, mean, ratio, seeds_above, up
from experiments.conflict.record import load, rounded
from focus.model import loading

HERE = Path(__file__).parent
ITEMS = HERE / "items"
SEEDS = range(5)
STAGE1, CONTROL = "outputs/conflict/gap={},seed={}/policy", "outputs/controls/reward={},seed={}/policy"
ARMS = {
    "gap": (STAGE1, "fixed"),
    "no gap": (STAGE1, "off"),
    "stage 2": (CONTROL, "stage2"),
    "control": (CONTROL, "stage1"),
}
POLICIES = {"base": loading.EMBEDDED} | {
    f"{arm} {seed}": Path(pattern.format(name, seed)) for seed in SEEDS for arm, (pattern, name) in ARMS.items()
}
METRICS = ("own", "gt", "noise", "tool_free", "called", "agrees", "hit", "chance", "coverage", "iou", "area", "visual_tokens")
DEFAULT, HARDER = "default", "harder"  # scenes of stage 1, and those of stage 2: smaller text, three signs


@dataclass(frozen=True)
class Setting:
    """Scenes, visual tokens of the view, and temperature of one measurement."""

    scenes: str
    view_tokens: int
    temperature: float

    @property
    def name(self) -> str:
        return f"{self.scenes} {self.view_tokens} {'greedy' if self.temperature == 0 else 'sampled'}"


GREEDY = {tokens: Setting(DEFAULT, tokens, 0.0) for tokens in (16, 64, 256)}
HARD_GREEDY, HARD_SAMPLED = Setting(HARDER, 16, 0.0), Setting(HARDER, 16, 1.0)
SETTINGS = {
    "base": (*GREEDY.values(), *(Setting(DEFAULT, tokens, 1.0) for tokens in (16, 64, 256)), HARD_GREEDY, HARD_SAMPLED),
    "gap": (*GREEDY.values(), HARD_GREEDY, HARD_SAMPLED),
    "no gap": (GREEDY[64], GREEDY[256]),
    "stage 2": (GREEDY[16], HARD_GREEDY, HARD_SAMPLED),
    "control": (GREEDY[16], HARD_GREEDY, HARD_SAMPLED),
}
Items = Mapping[str, Mapping[str, np.ndarray]]  # by policy, then by setting and metric: a value for every scene


@dataclass(frozen=True)
class Tables:
    """The kept values as tables, of the seeds of which every arm is there."""

    items: Items

    @property
    def seeds(self) -> list[int]:
        return [seed for seed in SEEDS if all(f"{arm} {seed}" in self.items for arm in ARMS)]

    def of(self, arm: str, setting: Setting, metric: str) -> np.ndarray:
        """[seed, scene], NaN where a metric does not apply; `a - b` is a difference. The base is repeated for every seed."""
        first, _, second = metric.partition(" - ")
        rows = [self.items["base" if arm == "base" else f"{arm} {seed}"] for seed in self.seeds]
        value = np.stack([row[f"{setting.name} {first}"] for row in rows])
        return value - np.stack([row[f"{setting.name} {second}"] for row in rows]) if second else value

    def differ(self, first: str, second: str, setting: Setting, metric: str, factor: float = 100) -> Found:
        """First arm minus second: the interval, and in how many seeds it is above 0."""
        a, b = self.of(first, setting, metric), self.of(second, setting, metric)
        return {"difference": change(a, b, factor), "seeds above": seeds_above(a, b)}


def paper(t: Tables) -> dict[str, Found]:
    """C1, C2, C4, C5, C11, C12, C17 measured greedily, each judged by its own rule. C17: after both stages, as in the paper."""
    gap64, none64 = (t.of(arm, GREEDY[64], "own - noise") for arm in ("gap", "no gap"))
    none = {metric: t.of("no gap", GREEDY[256], metric) for metric in ("own - noise", "called", "own", "visual_tokens", "agrees")}
    area, first = t.of("gap", GREEDY[16], "area"), t.of("base", GREEDY[16], "area")
    hard = {arm: {m: t.of(arm, HARD_GREEDY, m) for m in ("area", "iou", "own", "gt - own")} for arm in ("gap", "stage 2")}
    both = {metric: t.of("stage 2", GREEDY[16], metric) for metric in ("own", "visual_tokens")}
    found: dict[str, Found] = {
        "C1": {"D_noise": mean(none["own - noise"]), "crop rate": mean(none["called"])},
        "C2": {
            "D_noise, gap": mean(gap64),
            "D_noise, no gap": mean(none64),
            "gap over no gap": ratio(gap64, none64),
            "gap - 3 x no gap": interval(lambda a, b: 100 * (a - 3 * b), gap64, none64),
            "gap - 1.5 x no gap": interval(lambda a, b: 100 * (a - 1.5 * b), gap64, none64),
            "seeds": seeds_above(gap64, 3 * none64),
        },
        "C5": {
            "area over stage 1's": ratio(hard["stage 2"]["area"], hard["gap"]["area"]),
            "IoU": change(hard["stage 2"]["iou"], hard["gap"]["iou"], 1),
            "accuracy": change(hard["stage 2"]["own"], hard["gap"]["own"]),
            "seeds": seeds_above(hard["stage 2"]["iou"], hard["gap"]["iou"]),
        },
        "C11": {"no gap, bonus": mean(none["agrees"]), "gap, bonus": mean(t.of("gap", GREEDY[16], "agrees"))},
        "C12": {
            "stage 1": mean(hard["gap"]["gt - own"]),
            "change": change(hard["stage 2"]["gt - own"], hard["gap"]["gt - own"]),
            "seeds": seeds_above(hard["gap"]["gt - own"], hard["stage 2"]["gt - own"]),
        },
        "C17": {
            "visual tokens over no gap's": ratio(both["visual_tokens"], none["visual_tokens"]),
            "difference": change(both["own"], none["own"]),
        },
    }
    for name, claim in found.items():
        claim["verdict"] = verdict.CLAIMS[name].judge(claim)
    return found | {"C4, area over the base's forced": {"ratio": ratio(area, first), "seeds": seeds_above(area, first)}}


def judge_g1(calls: Interval, points: Interval) -> str:
    """Held: at least 50 points over the base, at most 10 over the base with a forced crop. Refuted: more than 15 over that."""
    return decide(calls[0] >= 50 and points[0] <= 10, points[0] > 15)


def judge_g2(loss: Interval, seeds_above: int) -> str:
    """Held: at least 5 points below the base, interval below 0, in `MANY` seeds. Refuted: less than 2 points."""
    return decide(loss[0] <= -5 and down(loss) and len(SEEDS) - seeds_above >= MANY, loss[0] > -2)


def judge_s1(iou: Interval, area: Interval, seeds_above: int) -> str:
    """Held: IoU at least 0.015 up, area smaller, both intervals off 0, IoU up in `MANY` seeds. Refuted: IoU's interval is not above 0."""
    return decide(iou[0] >= 0.015 and up(iou) and down(area) and seeds_above >= MANY, not up(iou))


def judge_s2(accuracy: Interval) -> str:
    """Held: within 2 points of the control. Refuted: further away with an interval off 0."""
    return decide(abs(accuracy[0]) <= 2, abs(accuracy[0]) > 2 and (up(accuracy) or down(accuracy)))


def judge_s3(accuracy: Interval, gain: Interval) -> str:
    """Held: the control gains at least half of what stage 2 gains, interval above 0. Refuted: less than a quarter."""
    return decide(accuracy[0] >= gain[0] / 2 and up(accuracy), accuracy[0] < gain[0] / 4)


def own(t: Tables) -> dict[str, Found]:
    """G1, G2 (greedy), S1 to S3 (sampled, on harder scenes): measured and judged."""
    base_alone = change(t.of("gap", GREEDY[16], "own"), t.of("base", GREEDY[16], "tool_free"))
    forced = t.differ("gap", "base", GREEDY[16], "own")
    full = t.of("gap", GREEDY[256], "own"), t.of("base", GREEDY[256], "tool_free")
    loss, above = change(*full), seeds_above(*full)
    control = {m: t.differ("stage 2", "control", HARD_SAMPLED, m, 1 if m == "iou" else 100) for m in ("iou", "area", "own", "gt - own")}
    iou, area, accuracy = (control[metric]["difference"] for metric in ("iou", "area", "own"))
    more, gain = (t.differ(arm, "gap", HARD_SAMPLED, "own")["difference"] for arm in ("control", "stage 2"))
    return {
        "G1": {
            "gap - base": base_alone,
            "gap - base with a forced crop": forced["difference"],
            "hits, gap - base with a forced crop": t.differ("gap", "base", GREEDY[16], "hit")["difference"],
            "verdict": judge_g1(base_alone, forced["difference"]),
        },
        "G2": {"gap - base, 256 tokens": loss, "seeds above": above, "verdict": judge_g2(loss, above)},
        "S1": {"IoU": iou, "area": area, "seeds above": control["iou"]["seeds above"]}
        | {"verdict": judge_s1(iou, area, control["iou"]["seeds above"])},
        "S2": {"accuracy": accuracy, "U_GT": control["gt - own"]["difference"], "verdict": judge_s2(accuracy)},
        "S3": {"control - stage 1": more, "stage 2 - stage 1": gain, "verdict": judge_s3(more, gain)},
    }


def beside(t: Tables) -> dict[str, Found]:
    """What the claims do not ask: stage 2 beside its control at both temperatures, and what else could explain G2, C11 and C17."""
    full, far = GREEDY[256], GREEDY[16]
    none, all_seen = t.of("no gap", full, "own"), t.of("base", full, "tool_free")
    found: dict[str, Found] = {}
    for setting in (HARD_SAMPLED, HARD_GREEDY):
        found[f"stage 2 - control, {setting.name}"] = {
            **{metric: t.differ("stage 2", "control", setting, metric) for metric in ("own", "hit", "coverage", "area", "gt - own")},
            "iou": t.differ("stage 2", "control", setting, "iou", 1),
        }
        found[f"U_GT over stage 1, {setting.name}"] = {
            arm: t.differ(arm, "gap", setting, "gt - own")["difference"] for arm in ("stage 2", "control")
        }
    found["price at 256 tokens, greedy"] = {
        "no gap - base": change(none, all_seen),
        "gap - no gap": change(t.of("gap", full, "own"), none),
        **{f"tool-free, {arm} - base": change(t.of(arm, full, "tool_free"), all_seen) for arm in ("gap", "no gap")},
    }
    found["16 tokens over no gap at 256, greedy"] = {arm: change(t.of(arm, far, "own"), none) for arm in ("gap", "stage 2", "control")}
    found["16 tokens over base without a tool at 256, greedy"] = {
        arm: change(t.of(arm, far, "own"), all_seen) for arm in ("gap", "stage 2", "control")
    }
    found["answers before looking at 64 tokens, greedy"] = {
        f"{first} - {second}": t.differ(first, second, GREEDY[64], "agrees")["difference"]
        for first, second in (("no gap", "gap"), ("no gap", "base"))
    }
    return found


def splits(t: Tables) -> dict[str, dict[str, Interval]]:
    """Differences of accuracy on harder scenes, in points, split into more calls, more hits and better reading."""

    def happened(arm: str, setting: Setting) -> Events:
        return events(*(t.of(arm, setting, metric) for metric in ("own", "called", "hit")))

    return {
        f"{first} - {second}, {setting.name}": split(happened(first, setting), happened(second, setting))
        for setting in (HARD_SAMPLED, HARD_GREEDY)
        for first, second in (("stage 2", "gap"), ("control", "gap"), ("stage 2", "control"))
    }


SHOWN = {"own": 100, "gt": 100, "tool_free": 100, "own - noise": 100, "gt - noise": 100, "called": 100, "agrees": 100, "hit": 100}
SHOWN |= {"chance": 100, "coverage": 100, "iou": 1, "area": 100, "visual_tokens": 1}


def record(items: Items) -> dict[str, object]:
    """What stands in record.json: means of every arm and setting, both kinds of claims, and what neither asks."""
    t = Tables(items)
    arms = {
        f"{arm}, {setting.name}": {metric: mean(t.of(arm, setting, metric), factor) for metric, factor in SHOWN.items()}
        for arm, settings in SETTINGS.items()
        for setting in settings
    }
    return {"seeds": t.seeds, "arms": arms, "paper, greedy": paper(t), "own": own(t), "beside": beside(t), "splits": splits(t)}


def main() -> None:
    items = load(ITEMS, POLICIES)
    if Tables(items).seeds != list(SEEDS) or "base" not in items:
        raise SystemExit(f"seeds {Tables(items).seeds} are measured in every arm, all five and the base are needed; see README.md")
    found = rounded(record(items))
    (HERE / "record.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
