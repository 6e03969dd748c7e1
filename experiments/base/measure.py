"""What a base policy can do before any RL, on held-out questions. `python -m experiments.base.measure [FOLDER [WORLD ...]]`.

Without a folder it measures the embedded policy on scenes and writes results.json. With a folder it measures scenes and pages, or the
worlds that are named (scenes, streets, pages), and writes measured.json beside it.

Reading: the policy is handed a crop of the asked text (tight: the text and a little air; or a larger box of its chain) and
answers. Pointing and formats: sampled at temperature 1. Tool-free accuracy: forced to answer from the view, per level of the
ladder, greedily.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from focus.data.boxes import Box, area, coverage, intersection, settle, to_view
from focus.data.pages import Page, page_spec
from focus.data.sample import Sample
from focus.data.scenes import DIFFICULTY, Scene
from focus.data.streets import Street, street_spec
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
QUESTIONS = 200


class Handed(KVEngine):
    """The policy's engine, but the first turn is a call with a given box."""

    def __init__(self, policy: PolicyModel, calls: Sequence[str]) -> None:
        super().__init__(policy)
        self.calls = [tuple(policy.tokenizer.encode(text, add_special_tokens=False)) for text in calls]

    def generate_turn(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[tuple[Request, Completion]]:
        if requests[0].id.endswith("turn 0"):
            return iter([(request, Completion(ids, (0.0,) * len(ids), True)) for request, ids in zip(requests, self.calls, strict=True)])
        return super().generate_turn(requests, sampling)


def reading(policy: PolicyModel, samples: Sequence[Sample], box_of: Callable[[Sample], Box]) -> list[float]:
    """1 for each question whose crop at the given box is answered rightly, greedily."""
    right: list[float] = []
    gap = Gap(Mode.FIXED, 16, policy.token_px)
    for start in range(0, len(samples), 50):
        opened, calls = [], []
        for sample in samples[start : start + 50]:
            view, source = gap.view_of(sample, sample.open())
            opened += begin(policy, sample, view, source, [0])
            calls.append(call_text(to_view(box_of(sample), policy.dialect.frame, view.size, sample.size)))
        played = play(policy, Handed(policy, calls), opened, RolloutLimits(1, 64, Sampling(0.0, 40)))
        right += [grade(t.answer, t.sample.answers, t.sample.scorer) for t in played]
    return right


def tight(sample: Sample) -> Box:
    x1, y1, x2, y2 = sample.boxes[0][0]
    box = settle((x1 - 6, y1 - 6, x2 + 6, y2 + 6), sample.size, 28)
    assert box is not None
    return box


class Asked(NamedTuple):
    """Where a question leads: the signs of a scene or the panels of a page, and which of them is asked about."""

    boxes_px: Sequence[Box]
    index: int

    def is_hit(self, box_px: Box) -> bool:
        """Whether the asked one is the one that the crop shows most of."""
        shared = [area(intersection(box_px, other)) for other in self.boxes_px]
        return max(shared) > 0 and shared.index(max(shared)) == self.index


class World(NamedTuple):
    """Held-out questions, and what the levels of their boxes are called."""

    samples: Sequence[Sample]
    asked: Sequence[Asked]
    part: str  # what `asked` lists
    levels: Sequence[tuple[str, int]]  # crops to be read, with their level in the chain of boxes
    views: Sequence[int] = ladder((448, 448), 28)  # in visual tokens
    sampled: Sequence[int] = (16, 256)  # of them those in which it chooses itself whether and where to crop


def scenes(difficulty: int) -> World:
    drawn = [Scene(DIFFICULTY[difficulty], "eval", i) for i in range(QUESTIONS)]
    asked = [Asked([sign.sign_px for sign in scene.signs], scene.question[1]) for scene in drawn]
    return World([scene.sample() for scene in drawn], asked, "sign", [("sign", 1)])


def pages(difficulty: int) -> World:
    drawn = [Page(page_spec(difficulty, None, 448), "eval", i) for i in range(QUESTIONS)]
    asked = [Asked([panel.box_px for panel in page.panels], page.asked[0]) for page in drawn]
    return World([page.sample() for page in drawn], asked, "panel", [("line", 1), ("block", 2), ("panel", 3)])


def streets(difficulty: int) -> World:
    drawn = [Street(street_spec(difficulty, None, 896), "eval", i) for i in range(QUESTIONS)]
    asked = [Asked([sign.sign_px for sign in street.signs], street.question[1]) for street in drawn]
    return World([street.sample() for street in drawn], asked, "sign", [("label", 1), ("sign", 2)], (16, 64, 1024), (16, 64))


WORLDS = {"scenes": scenes, "streets": streets, "pages": pages}


def measure(folder: Path, world: World) -> dict[str, object]:
    policy = loading.load_model(folder, "tiny")
    samples, part = world.samples, world.part
    groups = list(range(len(samples)))
    found: dict[str, object] = {}

    def keep(name: str, values: Sequence[float]) -> None:
        mean, low, high = bootstrap(values, groups[: len(values)], bounds=(0.0, 1.0))
        found[name] = {"mean": round(100 * mean, 1), "low": round(100 * low, 1), "high": round(100 * high, 1)}

    keep("reads a tight crop", reading(policy, samples, tight))
    for name, level in world.levels:
        keep(f"reads a crop of the {name}", reading(policy, samples, lambda sample, level=level: sample.boxes[0][level]))
    for tokens in world.views:
        gap = Gap(Mode.FIXED, tokens, policy.token_px)
        evaluator = Evaluator(policy, KVEngine(policy), gap, RolloutLimits(1, 64, Sampling(0.0, 40)), 0, ("tool_free",), 50)
        outcome, _ = measure_arms(evaluator, samples, None)
        keep(f"tool-free accuracy at {tokens} tokens", outcome.values["tool_free"])
        if tokens in world.sampled:
            evaluator = Evaluator(policy, KVEngine(policy), gap, RolloutLimits(1, 64, Sampling(1.0, 40)), 0, ("own", "forced"), 50)
            sampled, played = measure_arms(evaluator, samples, None)
            keep(f"format-valid at {tokens} tokens", sampled.values["answered"])
            keep(f"crop rate at {tokens} tokens", sampled.values["called"])
            keep(f"accuracy at {tokens} tokens", sampled.values["own"])
            keep(f"accuracy, forced crop, at {tokens} tokens", sampled.values["forced"])
            keep(f"coverage of B1 at {tokens} tokens", sampled.values["coverage"])
            cropped = [(t.crops[0].box_px, t.sample, asked) for t, asked in zip(played, world.asked, strict=True) if t.crops]
            keep(f"crop is nearest to the asked {part} at {tokens} tokens", [float(asked.is_hit(box)) for box, _, asked in cropped])
            shares = [area(box) / area(asked.boxes_px[asked.index]) for box, _, asked in cropped if asked.is_hit(box)]
            found[f"median crop area over {part} area at {tokens} tokens"] = round(float(torch.tensor(shares).median()), 3)
            found[f"crop covers all of B1 at {tokens} tokens"] = round(
                100 * sum(coverage(box, sample.boxes[0][0]) == 1 for box, sample, _ in cropped) / max(1, len(cropped)), 1
            )
    return found


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else loading.EMBEDDED
    began = time.time()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    record: dict[str, object] = {"commit": commit, "weights": loading.load_model(folder, "tiny").weights_hash()}
    for name in sys.argv[2:] or (["scenes"] if folder == loading.EMBEDDED else ["scenes", "pages"]):
        record |= {name: QUESTIONS, "difficulty" if name == "scenes" else f"difficulty of {name}": {"1": measure(folder, WORLDS[name](1))}}
    record["seconds"] = round(time.time() - began)
    written = HERE / "results.json" if folder == loading.EMBEDDED else folder.parent / "measured.json"
    written.write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
