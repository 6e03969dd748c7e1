"""What is a crop paid for information gain, before and after its margin? Writes crops_paid.json.

.venv/bin/python -m experiments.beyond.crops_paid        (some minutes of one thread)

Calls of known boxes are put into the base's mouth: the asked text, its sign, a box twice as large as the board, nearly the whole
image, a corner without any of the sign, the whole image. `before` is the term as it was: the own crop minus one placebo that
avoids the annotated text, not below 0. `after` is the term as it is: minus the best of no crop and one placebo that avoids the own crop.
"""

import json
import math
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch

from focus.data.boxes import Box, intersection, settle, to_view
from focus.data.sample import Sample
from focus.data.scenes import DIFFICULTY, Scenes
from focus.evaluation.bootstrap import bootstrap
from focus.gap import Gap, Mode
from focus.model import loading
from focus.model.policy_model import PolicyModel
from focus.model.prompts import ANSWER_OPEN, call_text, encode
from focus.rewards import CropOnly, InformationGain
from focus.rollout.engine import Sampling
from focus.rollout.kv import KVEngine
from focus.rollout.loop import RolloutLimits, begin, reopen, replay, request_for
from focus.rollout.substitutes import elsewhere
from focus.rollout.trajectory import Alter, Trajectory

QUESTIONS, VIEWS = 12, (16, 256)
LIMITS = RolloutLimits(1, 64, Sampling(1.0, 40))


def boxes_of(sample: Sample) -> dict[str, Box]:
    """The boxes by name, in pixels of the image. The corner is that which is farthest from the board, as large as the sign."""
    text, sign, board = sample.boxes[0]
    width, height = float(sample.width), float(sample.height)
    x, y = (board[0] + board[2]) / 2, (board[1] + board[3]) / 2
    w, h = board[2] - board[0], board[3] - board[1]
    image = (0.0, 0.0, width, height)
    side = math.sqrt(0.95)
    a, b = sign[2] - sign[0], sign[3] - sign[1]
    left, top = 0.0 if x > width / 2 else width - a, 0.0 if y > height / 2 else height - b
    return {
        "text (B1)": text,
        "sign (B2)": sign,
        "twice the board": intersection((x - w, y - h, x + w, y + h), image),
        "95 % of the image": (0.0, 0.0, side * width, side * height),
        "empty corner": (left, top, left + a, top + b),
        "whole image": image,
    }


def called(policy: PolicyModel, sample: Sample, tokens: int) -> dict[str, Trajectory]:
    """Conversations that end with the crop of each box. They are siblings."""
    view, source = Gap(Mode.FIXED, tokens, policy.token_px).view_of(sample, sample.open())
    [opened] = begin(policy, sample, view, source, [0])
    found = {}
    for name, box in boxes_of(sample).items():
        box_px = settle(box, sample.size, policy.token_px)
        assert box_px is not None
        ids = encode(policy.tokenizer, call_text(to_view(box_px, policy.dialect.frame, view.size, sample.size)))
        [found[name]] = replay(policy, [opened], {0: [(ids, [0.0] * len(ids))]}, LIMITS, policy.stop_ids)
    return found


def likely(policy: PolicyModel, engine: KVEngine, played: Sequence[Trajectory], alter: Alter) -> list[float]:
    """The label's probability after the calls, with their crops replaced."""
    asked, lengths = [], []
    for t in played:
        label = encode(policy.tokenizer, t.sample.answers[0])
        asked.append(request_for(reopen(policy, t, alter), -1, [*encode(policy.tokenizer, ANSWER_OPEN), *label]))
        lengths.append(len(label))
    with policy.image_cache():
        return [math.exp(sum(values) / len(values)) for values in engine.logprobs(asked, lengths)]


def rows(policy: PolicyModel, tokens: int) -> list[dict[str, object]]:
    """A row for each box: what it is paid, and the area that it takes."""
    engine, gain, alone = KVEngine(policy), InformationGain(1.0), CropOnly(1.0)
    for term in (gain, alone):
        term.attach(policy, engine, LIMITS)
    paid: dict[str, dict[str, list[float]]] = {}
    for sample in Scenes(DIFFICULTY[1], "eval", QUESTIONS):
        by_name = called(policy, sample, tokens)
        played = list(by_name.values())
        own = likely(policy, engine, played, lambda crop, *_: crop)
        placebo = likely(policy, engine, played, elsewhere(LIMITS, policy.token_px))
        values = {
            "before": [max(0.0, a - b) for a, b in zip(own, placebo, strict=True)],
            "after": gain.score(played),
            "crop alone": alone.score(played),
            "own": own,
        }
        engine.clear_cache()
        for n, name in enumerate(by_name):
            kept = paid.setdefault(name, {key: [] for key in values})
            for key, each in values.items():
                kept[key].append(each[n])
    return [
        {"view_tokens": tokens, "crop": name}
        | {key: [round(x, 4) for x in bootstrap(each, range(QUESTIONS))] for key, each in kept.items()}
        for name, kept in paid.items()
    ]


def main() -> None:
    torch.set_num_threads(1)
    policy = loading.load_model(loading.EMBEDDED, "tiny")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    found = [row for tokens in VIEWS for row in rows(policy, tokens)]
    record = {"commit": commit, "weights": policy.weights_hash(), "questions": QUESTIONS, "rows": found}
    (Path(__file__).parent / "crops_paid.json").write_text(json.dumps(record, indent=1) + "\n")
    for row in found:
        print(*(f"{key}: {value}" for key, value in row.items()), sep="; ")


if __name__ == "__main__":
    main()
