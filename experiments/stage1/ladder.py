"""Crop dependence of both arms at every view of the ladder, on the same held-out scenes. Writes ladder.json beside this file.

.venv/bin/python -m experiments.stage1.ladder        (after both arms, see record.py)
"""

import json
from pathlib import Path

from focus.data.scenes import DIFFICULTY, Scenes
from focus.evaluation.arms import Evaluator
from focus.evaluation.measure import measure
from focus.gap import Gap, Mode, ladder
from focus.model import loading
from focus.rollout.engine import Sampling
from focus.rollout.kv import KVEngine
from focus.rollout.loop import RolloutLimits

SCENES = 200
ARMS = ("stage1", "stage1_no_gap")


def main() -> None:
    record: dict[str, dict[str, dict[str, list[float]]]] = {}
    for name in ARMS:
        policy = loading.load_model(Path("outputs") / name / "policy", "tiny")
        record[name] = {}
        for tokens in ladder((448, 448), policy.token_px):
            gap, limits = Gap(Mode.FIXED, tokens, policy.token_px), RolloutLimits(1, 64, Sampling(1.0, 40))
            samples = Scenes(DIFFICULTY[1], "eval", SCENES)
            evaluator = Evaluator(policy, KVEngine(policy), gap, limits, 0, ("own", "noise", "tool_free"), 50)
            outcome, _ = measure(evaluator, samples, None)
            shown = ("own", "noise", "tool_free", "called", "D_noise")
            record[name][str(tokens)] = {metric: [round(100 * v, 1) for v in outcome.interval(metric)] for metric in shown}
    (Path(__file__).parent / "ladder.json").write_text(json.dumps(record, indent=1) + "\n")
    for name, views in record.items():
        for tokens, row in views.items():
            print(name, tokens, row)


if __name__ == "__main__":
    main()
