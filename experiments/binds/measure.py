"""Policies on scenes of 896 px with 64 crop tokens: per-question results of every finished run, in items/.

.venv/bin/python -m experiments.binds.measure        (after any of the runs, see README.md; what is measured already is skipped)

200 held-out scenes, whatever a policy was trained on. The base's first turn is opened with a call: greedily it makes none by itself.
"""

import numpy as np

from experiments.binds.record import ITEMS, METRICS, POLICIES, SETTINGS
from focus.data.scenes import Scenes, scene_spec
from focus.evaluation.arms import Evaluator
from focus.evaluation.measure import measure
from focus.gap import Gap, Mode
from focus.model import loading
from focus.rollout.engine import Sampling
from focus.rollout.kv import KVEngine
from focus.rollout.loop import RolloutLimits
from focus.runtime.files import atomic_write

COUNT, AT_ONCE, CROP_TOKENS = 200, 25, 64


def main() -> None:
    ITEMS.mkdir(exist_ok=True)
    samples = Scenes(scene_spec(1, None, 896), "eval", COUNT)
    for name, folder in POLICIES.items():
        kept = ITEMS / f"{name}.npz"
        if kept.is_file() or not (folder / "config.json").is_file():
            continue
        policy = loading.load_model(folder, "tiny")
        opening = policy.dialect.call[0] if name == "base" else ""
        values = {}
        for setting, (view_tokens, temperature) in SETTINGS.items():
            limits, gap = RolloutLimits(1, CROP_TOKENS, Sampling(temperature, 40)), Gap(Mode.FIXED, view_tokens, policy.token_px)
            arms = ("gt", "noise", "tool_free")
            outcome, _ = measure(Evaluator(policy, KVEngine(policy), gap, limits, 0, arms, AT_ONCE, opening=opening), samples, None)
            values |= {f"{setting} {metric}": np.array(outcome.of(metric), np.float16) for metric in METRICS}
        with atomic_write(kept) as partial, partial.open("wb") as file:
            np.savez_compressed(file, weights=policy.weights_hash(), **values)
        print(f"{name}: {kept}", flush=True)


if __name__ == "__main__":
    main()
