"""Policies on scenes of 896 px with 64 crop tokens: per-question results of every finished run, in items/.

.venv/bin/python -m experiments.binds.measure        (after any of the runs, see README.md; what is measured already is skipped)

200 held-out scenes, whatever a policy was trained on. The base's first turn is opened with a call: greedily it makes none by itself.
"""

from experiments.binds.record import ITEMS, METRICS, POLICIES, SETTINGS
from experiments.items import keep
from focus.data.scenes import Scenes, scene_spec
from focus.evaluation.arms import Evaluator
from focus.evaluation.measure import measure
from focus.gap import Gap, Mode
from focus.model.policy_model import PolicyModel
from focus.rollout.engine import Sampling
from focus.rollout.kv import KVEngine
from focus.rollout.loop import RolloutLimits

COUNT, AT_ONCE, CROP_TOKENS = 200, 25, 64


def main() -> None:
    samples = Scenes(scene_spec(1, None, 896), "eval", COUNT)

    def measured(name: str, policy: PolicyModel, opening: str) -> dict[str, list[float]]:
        values = {}
        for setting, (view_tokens, temperature) in SETTINGS.items():
            limits, gap = RolloutLimits(1, CROP_TOKENS, Sampling(temperature, 40)), Gap(Mode.FIXED, view_tokens, policy.token_px)
            arms = ("gt", "noise", "tool_free")
            outcome, _ = measure(Evaluator(policy, KVEngine(policy), gap, limits, 0, arms, AT_ONCE, opening=opening), samples, None)
            values |= {f"{setting} {metric}": outcome.of(metric) for metric in METRICS}
        return values

    keep(ITEMS, POLICIES, measured)


if __name__ == "__main__":
    main()
