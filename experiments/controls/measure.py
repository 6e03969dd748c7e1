"""Policies of both stages, their control and the base, greedy and at temperature 1: per-question results in items/.

.venv/bin/python -m experiments.controls.measure [SEED ...]        (without a seed: base and all; what is measured already is skipped)

500 held-out scenes. The base's first turn is opened with a call: greedily it makes none by itself.
"""

import sys

import numpy as np

from experiments.controls.record import DEFAULT, HARDER, ITEMS, METRICS, POLICIES, SETTINGS, Setting
from focus.data.scenes import Scenes, scene_spec
from focus.evaluation.arms import Evaluator
from focus.evaluation.measure import measure
from focus.gap import Gap, Mode
from focus.model import loading
from focus.model.policy_model import PolicyModel
from focus.rollout.engine import Sampling
from focus.rollout.kv import KVEngine
from focus.rollout.loop import RolloutLimits
from focus.runtime.files import atomic_write

COUNT, AT_ONCE = 500, 100
SCENES = {DEFAULT: scene_spec(1, None, 448), HARDER: scene_spec(2, (9, 13), 448)}


def measured(policy: PolicyModel, setting: Setting, opening: str) -> dict[str, list[float]]:
    """The metrics of a policy under one setting, a value for each scene; NaN where one does not apply."""
    limits = RolloutLimits(1, 64, Sampling(setting.temperature, 40))
    gap = Gap(Mode.FIXED, setting.view_tokens, policy.token_px)
    evaluator = Evaluator(policy, KVEngine(policy), gap, limits, 0, ("gt", "noise", "tool_free"), AT_ONCE, opening=opening)
    outcome, _ = measure(evaluator, Scenes(SCENES[setting.scenes], "eval", COUNT), None)
    return {metric: outcome.of(metric) for metric in METRICS}


def main(seeds: list[str]) -> None:
    ITEMS.mkdir(exist_ok=True)
    for name, folder in POLICIES.items():
        arm, _, seed = name.rpartition(" ")
        kept = ITEMS / f"{name}.npz"
        if kept.is_file() or not (folder / "config.json").is_file() or (seeds and seed not in seeds):
            continue
        policy = loading.load_model(folder, "tiny")
        opening = policy.dialect.call[0] if name == "base" else ""
        found = {
            f"{setting.name} {metric}": np.array(values, np.float16)
            for setting in SETTINGS[arm or name]
            for metric, values in measured(policy, setting, opening).items()
        }
        with atomic_write(kept) as partial, partial.open("wb") as file:
            np.savez_compressed(file, weights=policy.weights_hash(), **found)
        print(f"{name}: {kept}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
