"""Is the second of two crops used? Per-question results of every policy that is there, in items/, and curves of its training, in *.csv.

.venv/bin/python -m experiments.relations.measure        (after any of the runs, see README.md; what is measured already is skipped)

200 held-out relations, greedy. The base's first turn is opened with a call: greedily it may make none by itself.
"""

from experiments.items import keep
from experiments.relations.record import ITEMS, METRICS, POLICIES, VIEWS, keep_curves
from focus.data.relations import CROP_TOKENS, DIFFICULTY, Relations
from focus.evaluation.arms import Evaluator
from focus.evaluation.measure import measure
from focus.gap import Gap, Mode
from focus.model.policy_model import PolicyModel
from focus.rollout.engine import Sampling
from focus.rollout.kv import KVEngine
from focus.rollout.loop import RolloutLimits

COUNT, AT_ONCE = 200, 50
LIMITS = RolloutLimits(2, CROP_TOKENS, Sampling(0.0, 40))
ARMS = ("noise", "noise_first", "noise_second", "gt", "tool_free")


def main() -> None:
    samples = Relations(DIFFICULTY[1], "eval", COUNT)

    def measured(name: str, policy: PolicyModel, opening: str) -> dict[str, list[float]]:
        values = {}
        for view_tokens in VIEWS:
            gap = Gap(Mode.FIXED, view_tokens, policy.token_px)
            outcome, _ = measure(Evaluator(policy, KVEngine(policy), gap, LIMITS, 0, ARMS, AT_ONCE, opening=opening), samples, None)
            values |= {f"{view_tokens} {metric}": outcome.of(metric) for metric in METRICS}
        return values

    keep(ITEMS, POLICIES, measured)
    keep_curves()


if __name__ == "__main__":
    main()
