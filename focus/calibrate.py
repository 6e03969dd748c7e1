"""Offline resolution selection (E2): per question, the first view whose answer leaves the native one. `make calibrate`.

The policy about to be trained answers without the tool, at the native size and then level by level. A question leaves as soon as its
level is found, so coarse levels are asked for few. An interrupted calibration goes on where it stopped.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import hydra
import matplotlib
import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from focus import config
from focus.answers import is_correct
from focus.checkpoint import Checkpoint
from focus.data.sample import Sample
from focus.gap import diverges, ladder, levels_identity, look, write_levels
from focus.prompts import ANSWER_OPEN
from focus.rollout.engine import Engine, Sampling
from focus.rollout.kv import KVEngine
from focus.rollout.loop import Rules, begin, play, seed_of
from focus.train import load_policy, training_samples

DROPPED_NATIVE, DROPPED_NEVER = "wrong at native", "never diverges"


def choose(
    checkpoint: Checkpoint, engine: Engine, samples: Sequence[Sample], settings: DictConfig, tokens_per_turn: int, seed: int
) -> dict[str, int | str]:
    """For each sample id the chosen view tokens, or why it is dropped. Levels are asked in turn, each for the open questions only."""
    votes, temperature = (settings.votes, settings.vote_temperature) if settings.decoding == "vote" else (1, 0.0)
    rules = Rules(0, 1, Sampling(temperature, tokens_per_turn))
    originals = {sample.id: sample.open() for sample in samples}
    ladders = {s.id: ladder(s.size, checkpoint.token_px, settings.floor_tokens) for s in samples}

    def ask(open_samples: Sequence[Sample], level: int) -> dict[str, list[str]]:
        opened = []
        for s in open_samples:
            view = look(originals[s.id], ladders[s.id][level], checkpoint.token_px)
            opened += begin(checkpoint, s, view, originals[s.id], [seed_of(seed, s.id, level, v) for v in range(votes)], ANSWER_OPEN)
        played = play(checkpoint, engine, opened, rules)
        return {s.id: [t.answer or "" for t in played[i * votes : (i + 1) * votes]] for i, s in enumerate(open_samples)}

    native = ask(samples, 0)
    chosen: dict[str, int | str] = {}
    open_samples = []
    for s in samples:
        right = is_correct(Counter(native[s.id]).most_common(1)[0][0] or None, s.answers, s.scorer, s.options)
        if settings.require_correct_at_native and not right:
            chosen[s.id] = DROPPED_NATIVE
        else:
            open_samples.append(s)
    level = 1
    while open_samples := [s for s in open_samples if level < len(ladders[s.id])]:
        answers = ask(open_samples, level)
        for s in open_samples:
            if diverges(answers[s.id], native[s.id], settings.agree_below):
                chosen[s.id] = ladders[s.id][level]
        open_samples = [s for s in open_samples if s.id not in chosen]
        level += 1
    for s in samples:
        if s.id not in chosen:
            chosen[s.id] = ladders[s.id][-1] if settings.never_diverges == "floor" else DROPPED_NEVER
    return chosen


def identity(cfg: DictConfig, checkpoint: Checkpoint, samples: Sequence[Sample]) -> str:
    """A hash of everything that the choice depends on: weights, questions, ladder and decoding."""
    digest = hashlib.blake2b(checkpoint.weights_hash().encode(), digest_size=12)
    digest.update(json.dumps([[s.id, s.question, s.answers] for s in samples]).encode())
    digest.update(json.dumps([OmegaConf.to_container(cfg.calibration), cfg.tokens_per_turn, cfg.seed]).encode())
    return digest.hexdigest()


def run(cfg: DictConfig) -> None:
    """Calibrate, or say that this table stands already; write the table, the curve and the histogram."""
    console = Console()
    config.check(cfg, "calibrate")
    torch.set_num_threads(cfg.threads)
    output = Path(cfg.output)
    samples = training_samples(cfg.data)
    checkpoint = load_policy(cfg.policy)
    table, key = output / "levels.parquet", identity(cfg, checkpoint, samples)
    if levels_identity(table) == key:
        console.print(f"{table} stands already for this policy, data and ladder")
        return
    with config.writable(cfg.output):
        kept = output / f"levels-{key}.jsonl"
        done: dict[str, int | str] = dict(json.loads(line) for line in kept.read_text().splitlines()) if kept.exists() else {}
        engine = KVEngine(checkpoint)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as progress, kept.open("a") as out:
            task = progress.add_task("calibrate", total=len(samples), completed=len(done))
            todo = [i for i in range(len(samples)) if not done or samples[i].id not in done]
            for start in range(0, len(todo), cfg.questions_per_forward):
                chunk = [samples[i] for i in todo[start : start + cfg.questions_per_forward]]
                found = choose(checkpoint, engine, chunk, cfg.calibration, cfg.tokens_per_turn, cfg.seed)
                out.writelines(json.dumps(item) + "\n" for item in found.items())
                out.flush()
                done |= found
                progress.advance(task, len(chunk))
        levels = {sample: level for sample, level in done.items() if isinstance(level, int)}
        if not levels:
            raise ValueError(
                f"no question was given a level ({Counter(map(str, done.values()))}); a policy that is wrong at native has no gap to "
                "choose. Train the base further, or set calibration.require_correct_at_native=false"
            )
        write_levels(table, levels, key)
        draw(done, output / "levels.png")
        kept.unlink()
    counts = Counter(done.values())
    for level in sorted(levels_seen := {v for v in counts if isinstance(v, int)}, reverse=True):
        console.print(f"{level:>6} tokens  {counts[level]:>6} questions")
    for reason in sorted(v for v in counts if v not in levels_seen):
        console.print(f"dropped: {reason:<16} {counts[reason]:>6} questions")
    console.print(
        f"table: {table}   picture: {output / 'levels.png'}\n"
        f"train on it: python -m focus.train experiment=stage1_calibrated gap.table={table}"
    )


def draw(chosen: dict[str, int | str], path: Path) -> None:
    """The histogram of chosen budgets, and the curve tokens -> share of questions that still agree with native."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    levels = sorted((v for v in chosen.values() if isinstance(v, int)), reverse=True)
    entered = len(levels) + sum(v == DROPPED_NEVER for v in chosen.values())
    ticks = sorted(set(levels), reverse=True)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    left.bar([str(t) for t in ticks], [levels.count(t) for t in ticks], color="#3b6ea5")
    left.set(xlabel="chosen view, tokens", ylabel="questions", title="first view whose answer leaves the native one")
    right.plot([str(t) for t in ticks], [1 - sum(v >= t for v in levels) / entered for t in ticks], marker="o", color="#3b6ea5")
    right.set(xlabel="view, tokens", ylabel="share that agrees with native", ylim=(0, 1.02), title="agreement")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


@hydra.main(version_base="1.3", config_path="../conf", config_name="calibrate")
def main(cfg: DictConfig) -> None:
    config.guarded(run, cfg)


if __name__ == "__main__":
    config.start(main, "calibrate")
