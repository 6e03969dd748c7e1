"""What the base policy can do before any RL, on held-out scenes. `python -m experiments.base.measure [FOLDER]` writes results.json.

Reading: the policy is handed a crop of the asked sign (tight: the text and a little air; sign: B2) and answers. Pointing and
formats: sampled at temperature 1. Tool-free accuracy: forced to answer from the view, per level of the ladder, greedily.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from focus.data.boxes import Box, area, coverage, intersection, settle, to_view
from focus.data.scenes import DIFFICULTY, Scene
from focus.evaluation.arms import Evaluator
from focus.evaluation.bootstrap import bootstrap
from focus.evaluation.measure import measure as measure_arms
from focus.gap import Gap, Mode, ladder
from focus.grading.answers import grade
from focus.model import loading
from focus.model.policy_model import PolicyModel
from focus.model.prompts import call_text
from focus.rollout.engine import Completion, Request, Sampling
from focus.rollout.kv import KVEngine
from focus.rollout.loop import RolloutLimits, begin, play

HERE = Path(__file__).parent
SCENES = 200


class Handed(KVEngine):
    """The policy's engine, but the first turn is a call with a given box."""

    def __init__(self, checkpoint: PolicyModel, calls: Sequence[str]) -> None:
        super().__init__(checkpoint)
        self.calls = [tuple(checkpoint.tokenizer.encode(text, add_special_tokens=False)) for text in calls]

    def generate_turn(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[tuple[Request, Completion]]:
        if requests[0].id.endswith("turn 0"):
            return iter([(request, Completion(ids, (0.0,) * len(ids), True)) for request, ids in zip(requests, self.calls, strict=True)])
        return super().generate_turn(requests, sampling)


def reading(checkpoint: PolicyModel, scenes: Sequence[Scene], box_of: Callable[[Scene], Box]) -> list[float]:
    """1 for each scene whose crop at the given box is answered rightly, greedily."""
    right: list[float] = []
    gap = Gap(Mode.FIXED, 16, checkpoint.token_px)
    for start in range(0, len(scenes), 50):
        chunk = scenes[start : start + 50]
        opened, calls = [], []
        for scene in chunk:
            sample = scene.sample()
            view, source = gap.view_of(sample, scene.open())
            opened += begin(checkpoint, sample, view, source, [0])
            calls.append(call_text(to_view(box_of(scene), checkpoint.dialect.frame, view.size, sample.size)))
        played = play(checkpoint, Handed(checkpoint, calls), opened, RolloutLimits(1, 64, Sampling(0.0, 40)))
        right += [grade(t.answer, t.sample.answers, t.sample.scorer) for t in played]
    return right


def tight(scene: Scene) -> Box:
    x1, y1, x2, y2 = scene.signs[scene.question[1]].text_px
    box = settle((x1 - 6, y1 - 6, x2 + 6, y2 + 6), (scene.spec.side_px,) * 2, 28)
    assert box is not None
    return box


def measure(folder: Path, difficulty: int) -> dict[str, object]:
    checkpoint = loading.load_model(folder, "tiny")
    scenes = [Scene(DIFFICULTY[difficulty], "eval", i) for i in range(SCENES)]
    groups = list(range(SCENES))
    samples = [scene.sample() for scene in scenes]
    found: dict[str, object] = {}

    def keep(name: str, values: Sequence[float]) -> None:
        mean, low, high = bootstrap(values, groups[: len(values)])
        found[name] = {"mean": round(100 * mean, 1), "low": round(100 * low, 1), "high": round(100 * high, 1)}

    keep("reads a tight crop", reading(checkpoint, scenes, tight))
    keep("reads a crop of the sign", reading(checkpoint, scenes, lambda scene: scene.signs[scene.question[1]].sign_px))
    for tokens in ladder((448, 448), checkpoint.token_px):
        gap = Gap(Mode.FIXED, tokens, checkpoint.token_px)
        evaluator = Evaluator(checkpoint, KVEngine(checkpoint), gap, RolloutLimits(1, 64, Sampling(0.0, 40)), 0, ("tool_free",), 50)
        outcome, _ = measure_arms(evaluator, samples, None)
        keep(f"tool-free accuracy at {tokens} tokens", outcome.values["tool_free"])
        if tokens in (16, 256):
            evaluator = Evaluator(checkpoint, KVEngine(checkpoint), gap, RolloutLimits(1, 64, Sampling(1.0, 40)), 0, ("own", "forced"), 50)
            sampled, played = measure_arms(evaluator, samples, None)
            keep(f"format-valid at {tokens} tokens", sampled.values["answered"])
            keep(f"crop rate at {tokens} tokens", sampled.values["called"])
            keep(f"accuracy at {tokens} tokens", sampled.values["own"])
            keep(f"accuracy, forced crop, at {tokens} tokens", sampled.values["forced"])
            keep(f"coverage of B1 at {tokens} tokens", sampled.values["coverage"])
            cropped = [(t.crops[0].box_px, scene) for t, scene in zip(played, scenes, strict=True) if t.crops]
            keep(f"crop is nearest to the asked sign at {tokens} tokens", [float(_asked_is_hit(box, scene)) for box, scene in cropped])
            logs = [area(box) / area(scene.signs[scene.question[1]].sign_px) for box, scene in cropped if _asked_is_hit(box, scene)]
            found[f"median crop area over sign area at {tokens} tokens"] = round(float(torch.tensor(logs).median()), 3)
            found[f"crop covers all of B1 at {tokens} tokens"] = round(
                100 * sum(coverage(box, s.signs[s.question[1]].text_px) == 1 for box, s in cropped) / max(1, len(cropped)), 1
            )
    return found


def _asked_is_hit(box: Box, scene: Scene) -> bool:
    """Whether the asked sign is the one that the crop shows most of."""
    shared = [area(intersection(box, sign.sign_px)) for sign in scene.signs]
    return max(shared) > 0 and shared.index(max(shared)) == scene.question[1]


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else loading.EMBEDDED
    began = time.time()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    record = {
        "commit": commit, "weights": loading.load_model(folder, "tiny").weights_hash(), "scenes": SCENES,
        "difficulty": {str(level): measure(folder, level) for level in (1,)}, "seconds": 0.0,
    }  # fmt: skip
    record["seconds"] = round(time.time() - began)
    if folder == loading.EMBEDDED:
        (HERE / "results.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
