"""Supervised training of the embedded policy: a tiny Qwen3-VL instead of a pre-trained one.

It learns to read crops, to point roughly and to answer in both formats (directly; crop, then
answer), in equal shares over the whole ladder of views. RL starts from it, so it must not contain a
preference: the noise of its boxes is symmetric about the sign (B2) in centre and log-size, never
inflated, and half of its answers see no crop.

Two auxiliary losses are removed after training: a linear head that names the sign under each visual
token, and a loss that pulls two attention heads towards the evidence tokens. Without them it takes
hours to learn which sign is asked for.
"""

import time
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader

from focus.config.schema import BaseConfig
from focus.model.loading import checkpoint_path, load_model
from focus.model.policy_model import PolicyModel
from focus.pretraining.architecture import build_model, inherit
from focus.pretraining.losses import losses, optimisers, rate
from focus.pretraining.tokenizer import build_tokenizer
from focus.pretraining.transcripts import NAMES, Phase, Transcripts
from focus.runtime.files import atomic_write
from focus.runtime.progress import Progress


def train(cfg: BaseConfig, output: Path) -> PolicyModel:
    """Train from nothing or from `cfg.start`, or resume from `output/base.pt`. Writes the record to `output/record.csv`."""
    phases = tuple(Phase(**phase) for phase in cfg.phases)
    policy = build_model(build_tokenizer(cfg.vocabulary, any(phase.pages for phase in phases)), cfg.seed, deepstack=cfg.deepstack)
    if cfg.start:
        inherit(policy, load_model(checkpoint_path(cfg.start), "tiny"))
    model = policy.model
    head = torch.nn.Linear(model.config.text_config.hidden_size, NAMES)
    model.set_attn_implementation({"": "sdpa", "text_config": "eager", "vision_config": "sdpa"})  # eager gives attention weights
    optimizers = optimisers(policy, head, cfg.learning_rate)
    steps, start, kept, record = sum(p.samples for p in phases) // cfg.rows, 0, output / "base.pt", output / "record.csv"
    spent = 0.0  # seconds before an interruption
    if kept.exists():
        state = torch.load(kept, weights_only=True)
        model.load_state_dict(state["model"])
        head.load_state_dict(state["head"])
        for optimizer, values in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        start, spent = state["step"], state["seconds"]
    else:
        record.write_text("samples,seconds,kind,batches,answer_loss,look_loss,name_loss,hit\n")
    data = Transcripts(policy, cfg.difficulties, phases, cfg.rows, start)
    batches = iter(DataLoader(data, batch_size=None, num_workers=cfg.workers, prefetch_factor=8 if cfg.workers else None))
    seen: dict[str, list[dict[str, Tensor]]] = {}
    began = time.perf_counter()
    shown = ""
    with Progress(Console()) as progress:
        progress.begin("base", "step", start)
        for step in range(start, steps):
            for optimizer, factor in zip(optimizers, (10, 1), strict=True):
                for group in optimizer.param_groups:
                    group["lr"] = factor * cfg.learning_rate * rate(step, steps)
            batch = next(batches)
            parts = losses(policy, head, batch)
            weights = {"lm": 1.0, "look": 1.0, "name": 1.0 if batch.kind.endswith("glance") else 0.3}
            torch.stack([weights[name] * parts[name] for name in weights if name in parts]).sum().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            seen.setdefault(batch.kind, []).append({name: value.detach() for name, value in parts.items()})
            if (step + 1) % 250 == 0 or step + 1 == steps:
                _record(record, (step + 1) * cfg.rows, spent + time.perf_counter() - began, seen)
                state = {
                    "model": model.state_dict(),
                    "head": head.state_dict(),
                    "optimizers": [o.state_dict() for o in optimizers],
                    "step": step + 1,
                    "seconds": spent + time.perf_counter() - began,
                }
                with atomic_write(kept) as partial:
                    torch.save(state, partial)
                shown = "hits: " + ", ".join(f"{kind} {_average(rows, 'hit'):.2f}" for kind, rows in sorted(seen.items()))
                seen = {}
            progress.advance(step + 1, steps, *([shown] if shown else []))
    return policy


def _average(rows: list[dict[str, Tensor]], name: str) -> float:
    values = [float(row[name]) for row in rows if name in row]
    return sum(values) / len(values) if values else float("nan")


def _record(path: Path, samples: int, seconds: float, seen: dict[str, list[dict[str, Tensor]]]) -> None:
    with path.open("a") as out:
        for kind, rows in sorted(seen.items()):
            numbers = ",".join(f"{_average(rows, name):.4f}" for name in ("answer", "look", "name", "hit"))
            out.write(f"{samples},{seconds:.0f},{kind},{len(rows)},{numbers}\n")
