"""Policies of both stages, their control and the base, greedy and at temperature 1: per-question results in items/.

.venv/bin/python -m experiments.controls.measure [SEED ...]        (without a seed: base and all; what is measured already is skipped)

500 held-out scenes. The base's first turn is opened with a call: greedily it makes none by itself.
"""

import sys
from collections.abc import Sequence

from experiments.controls.record import DEFAULT, HARDER, ITEMS, METRICS, POLICIES, SETTINGS, Setting
from experiments.items import keep
from focus.data.scenes import Scenes, scene_spec
from focus.evaluation.arms import Evaluator
from focus.evaluation.measure import measure
from focus.gap import Gap, Mode
from focus.model.policy_model import PolicyModel
from focus.rollout.engine import Sampling
from focus.rollout.kv import KVEngine
from focus.rollout.loop import RolloutLimits

COUNT, AT_ONCE = 500, 100
SCENES = {DEFAULT: scene_spec(1, None, 448), HARDER: scene_spec(2, (9, 13), 448)}


def measured(
    policy: PolicyModel,
    setting: Setting,
    opening: str,
    arms: Sequence[str] = ("gt", "noise", "tool_free"),
    metrics: Sequence[str] = METRICS,
) -> dict[str, list[float]]:
    """The metrics of a policy under one setting, a value for each scene; NaN where one does not apply."""
    limits = RolloutLimits(1, 64, Sampling(setting.temperature, 40))
    gap = Gap(Mode.FIXED, setting.view_tokens, policy.token_px)
    evaluator = Evaluator(policy, KVEngine(policy), gap, limits, 0, arms, AT_ONCE, opening=opening)
    outcome, _ = measure(evaluator, Scenes(SCENES[setting.scenes], "eval", COUNT), None)
    return {metric: outcome.of(metric) for metric in metrics}


def main(seeds: list[str]) -> None:
    def all_settings(name: str, policy: PolicyModel, opening: str) -> dict[str, list[float]]:
        return {
            f"{setting.name} {metric}": values
            for setting in SETTINGS[name.rpartition(" ")[0] or name]
            for metric, values in measured(policy, setting, opening).items()
        }

    keep(ITEMS, {name: folder for name, folder in POLICIES.items() if not seeds or name.rpartition(" ")[2] in seeds}, all_settings)


if __name__ == "__main__":
    main(sys.argv[1:])
