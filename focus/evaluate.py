"""How good is a policy, and does it look at what it zooms into? Measured on held-out questions, paired by question.

Every arm sees the same questions with the same noise. `noise` replays the policy's own turns and replaces only the pixels of its
crops (E10); `tool_free` and `forced` put the first words into its mouth. Whatever can't be read or is never answered is wrong and stays
in the denominator.
"""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from focus.answers import is_correct
from focus.boxes import area, coverage, iou
from focus.checkpoint import Checkpoint
from focus.data.sample import Sample
from focus.gap import Gap, View
from focus.prompts import ANSWER_OPEN, CALL_OPEN
from focus.rollout.engine import Engine
from focus.rollout.loop import Rules, begin, opened, play, reopen, seed_of
from focus.rollout.trajectory import Trajectory

ARMS = ("own", "noise", "tool_free", "forced")
METRICS = (*ARMS, "called", "answered", "coverage", "iou", "area", "visual_tokens", "sampled_tokens")


@dataclass
class Outcome:
    """One policy at one view: per metric, a value for every question (NaN where it does not apply)."""

    view_tokens: int
    groups: list[str] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=lambda: {metric: [] for metric in METRICS})
    seconds: float = 0.0  # of the `own` arm alone
    broken: list[str] = field(default_factory=list)


def noise_crop(crop: View, trajectory: Trajectory) -> View:
    """Uniform RGB noise in every pixel, of the crop's size, fixed by the trajectory's seed."""
    random = np.random.default_rng(seed_of("noise", trajectory.seed))
    pixels = random.integers(0, 256, (crop.size[1], crop.size[0], 3), dtype=np.uint8)
    return View(Image.fromarray(pixels), crop.tokens, crop.original_size)


def evaluate(
    checkpoint: Checkpoint,
    engine: Engine,
    samples: Sequence[Sample],
    gap: Gap,
    rules: Rules,
    seed: int,
    questions_per_forward: int,
    label: str,
    arms: Sequence[str] = ARMS,
) -> tuple[Outcome, list[Trajectory]]:
    """Measure one policy at one view, in these arms (`own` is always played).

    Also returns the trajectories of the `own` arm, in the order of the samples.
    """
    outcome = Outcome(gap.view_tokens)
    shown: list[Trajectory] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        for start in progress.track(range(0, len(samples), questions_per_forward), description=label):
            chunk = [samples[i] for i in range(start, min(len(samples), start + questions_per_forward))]
            shown += _measure(checkpoint, engine, chunk, gap, rules, seed, outcome, arms)
    return outcome, shown


def _measure(
    checkpoint: Checkpoint,
    engine: Engine,
    chunk: Sequence[Sample],
    gap: Gap,
    rules: Rules,
    seed: int,
    outcome: Outcome,
    arms: Sequence[str],
) -> list[Trajectory]:
    seen, readable = [], []
    for sample in chunk:
        try:
            seen.append(gap.see(sample, sample.open()))
            readable.append(sample)
        except ValueError as error:
            outcome.broken.append(str(error))
            outcome.groups.append(sample.group or sample.id)
            for metric in METRICS:
                outcome.values[metric].append(0.0 if metric in arms else math.nan)

    with checkpoint.remembering():
        start = time.perf_counter()
        asked = [
            begin(checkpoint, sample, view, source, [seed_of(seed, sample.id)])[0]
            for sample, (view, source) in zip(readable, seen, strict=True)
        ]
        own = play(checkpoint, engine, asked, rules)
        outcome.seconds += time.perf_counter() - start
        # The other arms go together: they share the prompt
        others: dict[str, list[Trajectory]] = {}
        if "noise" in arms:
            others["noise"] = [reopen(t, noise_crop) if t.crops else t for t in own]  # without a crop there is nothing to replace
        for arm, opening in (("tool_free", ANSWER_OPEN), ("forced", CALL_OPEN)):
            if arm in arms:
                others[arm] = [opened(checkpoint, t, opening) for t in asked]
        together = iter(play(checkpoint, engine, [t for each in others.values() for t in each], rules))
        played = {"own": own} | {arm: list(islice(together, len(own))) for arm in others}
    for t in own:
        t.source.release()
    for i, (sample, t) in enumerate(zip(readable, own, strict=True)):
        outcome.groups.append(sample.group or sample.id)
        row = {arm: float(is_correct(each[i].answer, sample.answers, sample.scorer, sample.options)) for arm, each in played.items()}
        row |= {
            "called": float(bool(t.crops)),
            "answered": float(t.answer is not None),
            "visual_tokens": float(t.visual_tokens),
            "sampled_tokens": float(sum(t.sampled_mask)),
        }
        if t.crops:
            box = t.crops[-1].box_px
            row["area"] = area(box) / (sample.width * sample.height)
            if sample.boxes:
                row |= {"coverage": coverage(box, sample.boxes[0][0]), "iou": max(iou(box, level) for level in sample.boxes[0])}
        for metric in METRICS:
            outcome.values[metric].append(row.get(metric, math.nan))
    return own


def save(outcomes: dict[str, Outcome], path: Path, identity: str) -> None:
    """Keep per-question outcomes as JSON; the file appears whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({"identity": identity, "outcomes": {name: asdict(outcome) for name, outcome in outcomes.items()}}))
    partial.rename(path)


def load(path: Path, identity: str | None = None) -> dict[str, Outcome]:
    """What `save` wrote; nothing if there is no file, or if it was measured for another `identity` (None takes any)."""
    kept = json.loads(path.read_text()) if path.is_file() else {"identity": identity, "outcomes": {}}
    return {name: Outcome(**values) for name, values in kept["outcomes"].items()} if identity in (None, kept["identity"]) else {}
