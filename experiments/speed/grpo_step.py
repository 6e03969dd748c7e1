"""A whole GRPO step with one crop per rollout: rollout, reward and update, ours against TRL's GRPOTrainer.

`python -m experiments.speed.grpo_step` measures the cells that grpo_step.json lacks, `--cells 256x8` that one anew. TRL runs in an
environment of its own, which the first call installs; ours and TRL's steps alternate, and the ratio is taken pair by pair.

Both sides train one random checkpoint (the embedded policy's architecture, float32) on the same prompts, token for token, laid out by the
chat template that TRL ships. Random weights write no calls, so what a turn is taken to say is fixed, on both sides: a crop, then an answer.
The sampled ids stay as they are, and every turn has the same length. A row whose work differs between the sides is void.
"""

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch.utils.data import DataLoader
from transformers.utils.chat_template_utils import render_jinja_template

from experiments.speed.peer import Peer, environment
from experiments.speed.timing import HERE, REPEATS, compared, spread, write
from experiments.speed.trl_peer import Job, Passed, digest, rewards, zoom_tool
from focus.build import build_policy
from focus.config import CONF
from focus.data.images.original import Decoded
from focus.data.questions import Question
from focus.data.sample import Sample
from focus.model.dialect import Dialect, read_dialect
from focus.model.policy_model import PolicyModel
from focus.model.prompts import CALL_CLOSE, END_TOKENS, IMAGE_PAD, VISION_TOKENS, Answer, Call, question_text
from focus.pretraining.architecture import build_model
from focus.pretraining.tokenizer import build_tokenizer
from focus.rewards import RewardCallback
from focus.rollout import loop
from focus.rollout.engine import Completion, Request, Sampling
from focus.rollout.kv import KVEngine
from focus.rollout.trajectory import Trajectory
from focus.training.policy import PHASES, FocusPolicy

CELLS = tuple((visual, group) for visual in (64, 256, 1024) for group in (8, 16))
QUESTIONS = {64: 4, 256: 4, 1024: 1}  # of one optimiser step, by visual tokens: TRL's step at 1,024 takes a minute as it is
TURN_TOKENS = 32
ORIGINAL_PX = 1120
BOX = (250, 250, 375, 375)  # per mille: 140 x 140 px of the original, 25 visual tokens
SPLITS = (4, 8, 16)  # rollouts per forward and backward that TRL is tried with
TOLERANCE = 0.02
THREADS = 2


class Endless(PolicyModel):
    """A policy that can't stop: stops are banned like vision tokens, so that every turn is as long as every other."""

    @property
    def banned_ids(self) -> list[int]:
        return self.ids_of((*VISION_TOKENS, CALL_CLOSE, *END_TOKENS))


class Forced(KVEngine):
    """Our engine; it notes which turn is being sampled, since the words of a random policy don't say."""

    first_turn = True

    def generate_turn(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[tuple[Request, Completion]]:
        self.first_turn = len(requests[0].images) == 1
        return super().generate_turn(requests, sampling)

    def parse(self, text: str, dialect: Dialect) -> Call | Answer:
        """In place of the loop's parse."""
        x1, y1, x2, y2 = map(float, BOX)
        return Call((x1, y1, x2, y2)) if self.first_turn else Answer("done")


class Drawn(RewardCallback):
    """The reward that TRL's side gets for the same step and rollout."""

    name = "drawn"
    step = 0

    def score(self, trajectories: Sequence[Trajectory]) -> list[float]:
        self.step += 1
        return rewards(self.step - 1, len(trajectories))


class InMemory:
    """Where a question's image comes from."""

    def __init__(self, image: Image.Image) -> None:
        self.image = image

    def open(self) -> Decoded:
        return Decoded(self.image)


def dialect_of_trl(python: Path) -> Dialect:
    """Our dialect with the system prompt that the chat template of TRL (in the environment of `python`) makes of its tool."""
    [template] = python.parents[1].glob("lib/python*/site-packages/trl/chat_templates/qwen3_vl.jinja")
    asked = [[{"role": "user", "content": ""}]]
    [[text], _] = render_jinja_template(asked, tools=[zoom_tool(list)], chat_template=template.read_text())
    system = text.removeprefix("<|im_start|>system\n").partition("<|im_end|>")[0]
    return read_dialect("qwen3_vl").model_copy(update={"name": "trl", "system": system})


def questions(count: int) -> list[Question]:
    """Noise: what is in an image does not change what it costs. Every question has the same number of tokens."""
    asked = []
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (ORIGINAL_PX, ORIGINAL_PX, 3), dtype=np.uint8)
        image = InMemory(Image.fromarray(pixels))
        text = f"What is on sign {i}, the small red one in the lower left corner?"
        asked.append(Question(i, Sample(str(i), "speed", "train", image, ORIGINAL_PX, ORIGINAL_PX, text, ("done",)), image.open()))
    return asked


def policy(visual: int, group: int, asked: Sequence[Question], dialect: Dialect) -> FocusPolicy:
    """The default trainer on a random policy, whose vocabulary gives the prompt the length that Qwen's own gives it (226 against 233)."""
    texts = [question_text(dialect, q.sample.question).replace(IMAGE_PAD, "") for q in asked]
    tokenizer = build_tokenizer().train_new_from_iterator(texts * 20, vocab_size=512, show_progress=False)
    built = build_model(tokenizer)
    loaded = Endless(built.model, built.tokenizer, built.image_processor, dialect)
    changes = [
        f"gap.view_tokens={visual}",
        f"rollout.rollouts_per_question={group}",
        f"rollout.tokens_per_turn={TURN_TOKENS}",
        "rollout.max_crops=1",
        "rollout.temperature=1.0",
    ]
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        made = build_policy(compose("train", ["experiment=stage1", "output=unused", *changes]), loaded)
    made.rewards = [Drawn(1.0)]
    made.engine = Forced(loaded)
    loop.parse = made.engine.parse  # type: ignore[assignment]
    return made


def counts(trajectories: Sequence[Trajectory], group: int, token_px: int) -> dict[str, Any]:
    """What a step consisted of; trl_peer writes down the same of TRL's."""
    opened = trajectories[::group]
    seen = [turn.observation for t in trajectories for turn in t.turns if turn.observation]
    crops = [o.crop for o in seen if o.crop]
    return {
        "prompts": digest([t.prompt_ids for t in opened]),
        "prompt_tokens": sum(len(t.prompt_ids) for t in opened),
        "view_tokens": sum(t.view.image.width * t.view.image.height // token_px**2 for t in opened),
        "first_turn_tokens": sum(len(t.turns[0].ids) for t in trajectories),
        "second_turn_tokens": sum(len(t.turns[1].ids) for t in trajectories if len(t.turns) == 2),
        "trained_tokens": sum(sum(t.sampled_mask) for t in trajectories),
        "crop_tokens": sum(crop.image.width * crop.image.height // token_px**2 for crop in crops),
        "images": len(opened) + len(crops),
        "sequence_tokens": sum(len(t.ids) for t in trajectories),
        "optimiser_steps": 1,
    }


def differing(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """What makes a row void: work that is not the same on both sides, and what each side did."""
    apart = []
    for name, a in ours.items():
        b = theirs[name]
        same = a == b if isinstance(a, str) else abs(a - b) <= TOLERANCE * max(a, b)
        if not same:
            apart.append(f"{name}: ours {a}, TRL {b}")
    return apart


class InTurns(pl.Callback):
    """Times our training steps, and asks for one of TRL's after each."""

    def __init__(self, peer: Peer, policy: FocusPolicy, tick: Callable[[], None]) -> None:
        self.peer, self.tick, self.passed = peer, tick, Passed(policy.model)
        self.ours: list[float] = []
        self.phases: list[dict[str, float]] = []
        self.theirs: list[dict[str, Any]] = []
        self.through: dict[str, int] = {}

    def on_train_batch_start(self, *_: Any) -> None:
        self.passed.take()
        self.began = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.ours.append(time.perf_counter() - self.began)
        self.phases.append({phase: float(trainer.logged_metrics[f"seconds/{phase}"]) for phase in PHASES})
        self.through = self.passed.take()
        self.tick()
        self.theirs.append(self.peer.step())
        self.tick()


def measure(visual: int, group: int, python: Path, threads: int, tick: Callable[[], None]) -> dict[str, Any]:
    """One row of the table."""
    torch.set_num_threads(threads)
    asked = questions(QUESTIONS[visual])
    ours = policy(visual, group, asked, dialect_of_trl(python))
    played: list[Trajectory] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        ours.policy.save(folder / "policy", dtype="float32")
        for q in asked:
            q.original.reduced(q.original.size).save(folder / f"original{q.draw}.png")
            ours.gap.view_of(q.sample, q.original)[0].image.save(folder / f"view{q.draw}.png")
        job = Job(
            checkpoint=str(folder / "policy"),
            views=[str(folder / f"view{q.draw}.png") for q in asked],
            originals=[str(folder / f"original{q.draw}.png") for q in asked],
            questions=[q.sample.question for q in asked],
            group=group,
            box=list(BOX),
            turn_tokens=TURN_TOKENS,
            suppressed=[*VISION_TOKENS, CALL_CLOSE, *END_TOKENS],
            learning_rate=ours.settings.learning_rate,
            weight_decay=ours.settings.weight_decay,
            grad_clip=ours.settings.grad_clip,
            clip=ours.settings.clip,
            temperature=ours.limits.sampling.temperature,
            threads=threads,
            steps=1 + REPEATS,
            splits=[split for split in SPLITS if len(asked) * group % split == 0],
        )
        with Peer(python, "trl_peer.py", asdict(job), threads, Path("outputs/trl_peer.log")) as peer:
            clock = InTurns(peer, ours, tick)
            roll_out = ours.roll_out

            def kept(batch: Sequence[Question]) -> Iterator[list[Trajectory]]:
                [played[:]] = roll_out(batch)
                yield list(played)

            ours.roll_out = kept  # type: ignore[method-assign]
            trainer = pl.Trainer(
                accelerator="cpu",
                devices=1,
                max_epochs=1,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                callbacks=[clock],
            )
            trainer.fit(ours, DataLoader([asked] * (1 + REPEATS), batch_size=None, collate_fn=list))
    mine, theirs = counts(played, group, ours.policy.token_px), clock.theirs[-1]
    void = differing(mine, theirs["counts"])
    short = 2 * TURN_TOKENS * len(asked) * group - mine["trained_tokens"]
    return {
        "visual_tokens": visual,
        "group": group,
        "questions": len(asked),
        "threads": threads,
        **compared(clock.ours[1:], [line["seconds"] for line in clock.theirs[1:]]),  # the first of each warms up
        "ours_phases_s": {phase: spread([step[phase] for step in clock.phases[1:]]) for phase in PHASES},
        "void": void + ([f"{short} tokens were not sampled"] if short else []),
        "work": {"ours": mine, "trl": theirs["counts"]},
        "through_the_network": {"ours": clock.through, "trl": theirs["passed"]},
        "trl_split": min(peer.ready["trials_s"], key=peer.ready["trials_s"].get),
        "trl_trials_s": peer.ready["trials_s"],
        "commit": commit(),
        "settings": peer.ready["settings"],
    }


def commit() -> str:
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()


def recorded() -> dict[str, dict[str, Any]]:
    """The rows of grpo_step.json by cell."""
    kept = HERE / "grpo_step.json"
    return json.loads(kept.read_text())["rows"]["cells"] if kept.exists() else {}


def main() -> None:
    names = [f"{visual}x{group}" for visual, group in CELLS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", choices=names, help="visual tokens x rollouts per question; default: those not yet recorded")
    parser.add_argument("--trl-venv", type=Path, default=Path("outputs/trl-venv"), help="TRL's environment; made where it is missing")
    parser.add_argument("--threads", type=int, default=THREADS, help="of both sides; with 2, anything else that runs ruins the figures")
    asked = parser.parse_args()
    python = environment(asked.trl_venv, "requirements-trl.txt")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("steps"), TimeElapsedColumn())
    for name in asked.cells or [name for name in names if name not in recorded()]:
        visual, group = map(int, name.split("x"))
        with Progress(*columns) as progress:
            task = progress.add_task(f"{name}, ours and TRL in turns", total=2 * (1 + REPEATS))
            row = measure(visual, group, python, asked.threads, lambda progress=progress, task=task: progress.advance(task))
        settings, cells = row.pop("settings"), recorded() | {name: row}
        write("grpo_step", {"trl_settings": settings, "cells": {n: cells[n] for n in names if n in cells}})


if __name__ == "__main__":
    main()
