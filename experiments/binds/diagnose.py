"""What growing a box pays and costs, before any training: diagnosis.json.

.venv/bin/python -m experiments.binds.diagnose NAME=FOLDER ...        (policies; `base` is always measured)

Held-out scenes of two sizes with equally tall letters and 64 crop tokens: at 448 px these are a quarter of the image, at 896 px a
sixteenth. A larger crop is shrunk. Of each policy: its own boxes (16 tokens, first turn opened with a call); how well it reads, greedily,
a square crop of a given share of the image somewhere about the text; and what its sampled boxes would cover and earn if they had that
share, about their own centres and in their own shape.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from experiments.base.measure import reading
from focus.data.boxes import Box, area, coverage, settle
from focus.data.sample import Sample
from focus.data.scenes import Scenes, SceneSpec
from focus.evaluation.arms import Evaluator
from focus.evaluation.measure import measure
from focus.gap import Gap, Mode
from focus.model import loading
from focus.model.policy_model import PolicyModel
from focus.rewards.terms import grounding
from focus.rollout.engine import Sampling
from focus.rollout.kv import KVEngine
from focus.rollout.loop import RolloutLimits

HERE = Path(__file__).parent
QUESTIONS, SIDES, VIEW, CROP_TOKENS = 100, (448, 896), 16, 64
SHARES = (0.01, 0.02, 0.04, 0.0625, 0.09, 0.16, 0.25)
PAID = 2.0  # what stage 1 pays a right answer with a crop: accuracy 0.8 and bonus 1.2
OMEGA, TAU = 0.5, 0.9  # of stage 2


def about_the_text(share: float, sample: Sample) -> Box:
    """A square of this share of the image that shows the text, at a place drawn by the sample's id."""
    random = np.random.default_rng([int(sample.group), round(share * 10_000)])
    (x1, y1, x2, y2), side = sample.boxes[0][0], share**0.5 * sample.width
    x, y = random.uniform(min(x2 - side, x1), x1), random.uniform(min(y2 - side, y1), y1)
    x, y = (min(max(0.0, at), sample.width - side) for at in (x, y))
    box = settle((x, y, x + side, y + side), sample.size, 28)
    assert box is not None
    return box


def resized(box_px: Box, share: float, sample: Sample) -> Box:
    """A box with another area, about its centre and in its shape, moved into the image."""
    (width, height), (x1, y1, x2, y2) = sample.size, box_px
    times = (share * width * height / area(box_px)) ** 0.5
    w, h = min(width, (x2 - x1) * times), min(height, (y2 - y1) * times)
    x, y = min(max(0.0, (x1 + x2 - w) / 2), width - w), min(max(0.0, (y1 + y2 - h) / 2), height - h)
    return (x, y, x + w, y + h)


def own_boxes(policy: PolicyModel, samples: Sequence[Sample], temperature: float) -> tuple[dict[str, float], list[tuple[Box, Sample]]]:
    """Shares of the policy's own boxes, and the boxes."""
    limits = RolloutLimits(1, CROP_TOKENS, Sampling(temperature, 40))
    gap, opening = Gap(Mode.FIXED, VIEW, policy.token_px), policy.dialect.call[0]
    outcome, played = measure(Evaluator(policy, KVEngine(policy), gap, limits, 0, ("own",), 50, opening=opening), samples, None)
    right = np.array(outcome.of("own"))
    boxes = [(t.crops[0].box_px, t.sample) for t in played if t.crops]
    covers = np.array([bool(t.crops) and coverage(t.crops[0].box_px, t.sample.boxes[0][0]) == 1 for t in played])
    found = {
        "right": right.mean(),
        "covers": covers.mean(),
        "right where it covers": right[covers].mean(),
        "median area": np.median([area(box) / area((0, 0, *sample.size)) for box, sample in boxes]),
    }
    return {name: round(100 * float(value), 1) for name, value in found.items()}, boxes


def by_share(policy: PolicyModel, samples: Sequence[Sample], boxes: Sequence[tuple[Box, Sample]]) -> list[dict[str, float]]:
    """For each share of the image: reading, coverage, and what stage 1 and the grounding term pay."""
    rows = []
    for share in SHARES:
        reads = float(np.mean(reading(policy, samples, partial(about_the_text, share))))
        grown = [(resized(box, share, sample), sample) for box, sample in boxes]
        covers = float(np.mean([coverage(box, sample.boxes[0][0]) == 1 for box, sample in grown]))
        geo = float(np.mean([grounding(box, sample.boxes[0], sample.size, OMEGA, TAU) for box, sample in grown]))
        row = {"area": 100 * share, "reads": 100 * reads, "covers": 100 * covers, "paid": PAID * covers * reads, "grounding": geo}
        rows.append({name: round(value, 3 if name in ("paid", "grounding") else 1) for name, value in row.items()})
    return rows


def main() -> None:
    folders = {"base": loading.EMBEDDED} | {name: Path(folder) for name, _, folder in (each.partition("=") for each in sys.argv[1:])}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    record: dict[str, object] = {"commit": commit, "questions": QUESTIONS}
    for name, folder in folders.items():
        policy = loading.load_model(folder, "tiny")
        for side_px in SIDES:
            samples = list(Scenes(SceneSpec(side_px=side_px), "eval", QUESTIONS))
            greedy, _ = own_boxes(policy, samples, 0.0)
            sampled, boxes = own_boxes(policy, samples, 1.0)
            found = {"greedy": greedy, "sampled": sampled, "by share": by_share(policy, samples, boxes)}
            record[f"{name} at {side_px} px"] = found
            print(name, side_px, json.dumps(found), flush=True)
    (HERE / "diagnosis.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
