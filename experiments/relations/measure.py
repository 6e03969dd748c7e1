"""Is the second of two crops used? Per-question results of every policy that is there, in items/.

.venv/bin/python -m experiments.relations.measure        (after any of the runs, see README.md; what is measured already is skipped)

200 held-out relations, greedy. The base's first turn is opened with a call: greedily it may make none by itself.
"""

import numpy as np

from experiments.relations.record import ITEMS, METRICS, POLICIES, VIEWS
from focus.data.relations import CROP_TOKENS, DIFFICULTY, Relations
from focus.evaluation.arms import Evaluator
from focus.evaluation.measure import measure
from focus.gap import Gap, Mode
from focus.model import loading
from focus.rollout.engine import Sampling
from focus.rollout.kv import KVEngine
from focus.rollout.loop import RolloutLimits
from focus.runtime.files import atomic_write

COUNT, AT_ONCE = 200, 50
LIMITS = RolloutLimits(2, CROP_TOKENS, Sampling(0.0, 40))
ARMS = ("noise", "noise_first", "noise_second", "gt", "tool_free")


def main() -> None:
    ITEMS.mkdir(exist_ok=True)
    samples = Relations(DIFFICULTY[1], "eval", COUNT)
    for name, folder in POLICIES.items():
        kept = ITEMS / f"{name}.npz"
        if kept.is_file() or not (folder / "config.json").is_file():
            continue
        policy = loading.load_model(folder, "tiny")
        opening = policy.dialect.call[0] if name == "base" else ""
        values = {}
        for view_tokens in VIEWS:
            gap = Gap(Mode.FIXED, view_tokens, policy.token_px)
            outcome, _ = measure(Evaluator(policy, KVEngine(policy), gap, LIMITS, 0, ARMS, AT_ONCE, opening=opening), samples, None)
            values |= {f"{view_tokens} {metric}": np.array(outcome.of(metric), np.float16) for metric in METRICS}
        with atomic_write(kept) as partial, partial.open("wb") as file:
            np.savez_compressed(file, weights=policy.weights_hash(), **values)
        print(f"{name}: {kept}", flush=True)


if __name__ == "__main__":
    main()
