"""Is the plan right? `python -m experiments.plan.measure` (about a minute) plays and trains tiny policies and counts.

Bytes are those of tensors that are really held, FLOP those of PyTorch's counter (SDPA in its plain form, which alone it sees on a CPU).
The plan is asked for the same settings and the mean lengths that were observed.
"""

import json
import subprocess
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from focus import build, config
from focus.config.schema import PlanConfig
from focus.data.scenes import Scenes, scene_spec
from focus.gap import Gap, Mode
from focus.model.policy_model import PolicyModel
from focus.model.prompts import CALL_OPEN
from focus.planning import estimate, setup
from focus.planning.lengths import Lengths, lengths
from focus.rollout.engine import Sampling
from focus.rollout.kv import KVEngine
from focus.rollout.loop import RolloutLimits, begin, play, seed_of
from focus.rollout.trajectory import Trajectory
from focus.training.logprobs import micro_batches, sampled_logprobs
from tests.support.policies import random_qwen2_5_vl, random_qwen3_vl

warnings.filterwarnings("ignore", message=".*checkpointing.*")
HERE = Path(__file__).parent
SEED, QUESTIONS, ROLLOUTS, WITHIN = 0, 4, 4, 0.15
HEAD = ("case", "quantity", "planned", "measured", "difference")
CASES: dict[str, tuple[str, ...]] = {
    "embedded": (),
    "embedded, checkpointed": ("policy.activation_checkpointing=true",),
    "embedded, frozen tower": ("policy.train_vision=false",),
    "qwen2_5_vl": (),
    "qwen2_5_vl, frozen tower": ("policy.train_vision=false",),
    "qwen2_5_vl, LoRA": ("policy.lora_rank=4",),
    "qwen3_vl": (),
    "qwen3_vl, bf16-mixed": ("trainer.precision=bf16-mixed", "policy.train_vision=false"),
    "qwen3_vl, bfloat16": ("policy.dtype=bfloat16", "policy.train_vision=false"),
}


class Counter(FlopCounterMode):
    """Counts without asking which module it was: the hooks for that can't stand our rollout, which is a generator without gradients."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.mod_tracker = Nowhere()


class Nowhere(nullcontext):
    """In place of a module tracker."""

    parents = frozenset({"Global"})


def settings(checkpoint: str, dialect: str, overrides: Sequence[str]) -> PlanConfig:
    """A plan's settings for a small run of this policy on a CPU."""
    fixed = [
        "experiment=stage1", f"policy.checkpoint='{checkpoint}'", f"policy.dialect={dialect}", "device=cpu", "gap.view_tokens=64",
        f"rollout.questions_per_update={QUESTIONS}", f"rollout.rollouts_per_question={ROLLOUTS}", "objective.tokens_per_forward=100000",
    ]  # fmt: skip
    with initialize_config_dir(version_base="1.3", config_dir=str(config.CONF)):
        return config.validated(compose("plan", [*fixed, *overrides]), PlanConfig)


def rollout(loaded: PolicyModel, cfg: PlanConfig, engine: KVEngine) -> list[Trajectory]:
    """Siblings of the first training questions."""
    gap = Gap(Mode.FIXED, cfg.gap.view_tokens, loaded.token_px)
    limits = RolloutLimits(cfg.rollout.max_crops, cfg.rollout.crop_tokens, Sampling(1.0, cfg.rollout.tokens_per_turn))
    scenes = Scenes(scene_spec(cfg.data.difficulty, cfg.data.letter_px, cfg.data.side_px), "train", QUESTIONS, build.FIRST_TRAINING_SCENE)
    opened: list[Trajectory] = []
    for question in range(QUESTIONS):
        sample = scenes[question]
        view, source = gap.view_of(sample, sample.open())
        opening = CALL_OPEN if cfg.rollout.force_first_crop else ""
        opened += begin(loaded, sample, view, source, [seed_of(SEED, question, k) for k in range(ROLLOUTS)], opening)
    return play(loaded, engine, opened, limits)


def observed(done: Sequence[Trajectory]) -> Lengths:
    """Their mean lengths."""
    turns, crops = sum(len(t.turns) for t in done), sum(len(t.crops) for t in done)
    said = sum(len(turn.ids) for t in done for turn in t.turns)
    told = sum(len(turn.observation.ids) for t in done for turn in t.turns if turn.observation)
    seen = sum(t.visual_tokens - t.view.tokens for t in done)
    replies = max(1, turns - len(done))
    return Lengths(
        sum(len(t.prompt_ids) for t in done) / len(done), sum(t.view.tokens for t in done) / len(done), turns / len(done), said / turns,
        (told - seen) / replies, seen / max(1, crops) * crops / replies,
    )  # fmt: skip


def size(tensors: Sequence[torch.Tensor]) -> int:
    """Bytes of the storages behind these tensors, each counted once."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def measured(loaded: PolicyModel, cfg: PlanConfig) -> tuple[Lengths, dict[str, float]]:
    """One rollout and one update, counted."""
    engine, model = KVEngine(loaded), loaded.model
    numbers = list(model.parameters())
    mixed = torch.autocast("cpu", torch.bfloat16) if cfg.trainer["precision"] == "bf16-mixed" else nullcontext()
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with loaded.image_cache(), mixed:
        model.eval()
        with Counter(display=False) as asked, sdpa_kernel(SDPBackend.MATH):
            done = rollout(loaded, cfg, engine)
        engine.clear_cache()
        model.train()
        [lot] = micro_batches(done, cfg.objective.tokens_per_forward)
        with Counter(display=False) as learned, sdpa_kernel(SDPBackend.MATH):
            torch.cat(sampled_logprobs(loaded, [done[i] for i in lot], 1.0)).sum().backward()
        model.zero_grad()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = torch.cat(sampled_logprobs(loaded, [done[i] for i in lot], 1.0)).sum()
        weights = {p.untyped_storage().data_ptr() for p in numbers}
        activations = size([t for t in kept if t.untyped_storage().data_ptr() not in weights])
        loss.backward()
        optimizer = torch.optim.AdamW([p for p in numbers if p.requires_grad], lr=1e-6)
        optimizer.step()
    return observed(done), {
        "weights": size(numbers),
        "gradients": size([p.grad for p in numbers if p.grad is not None]),
        "moments": size([state[key] for state in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")]),
        "kept for the backward": activations,
        "FLOP of the rollout": asked.get_total_flops(),
        "FLOP of the update": learned.get_total_flops(),
        "tokens of a question": sum(len(loaded.tokenizer.encode(t.sample.question)) for t in done) / len(done),
        "sampled tokens": sum(len(turn.ids) for t in done for turn in t.turns),
        "visual tokens": sum(t.visual_tokens for t in done) - (ROLLOUTS - 1) * sum(t.view.tokens for t in done[::ROLLOUTS]),
        "tokens of a prompt": sum(len(t.prompt_ids) for t in done) / len(done),
    }


def planned(cfg: PlanConfig, seen: Lengths, question: float) -> dict[str, float]:
    """The same quantities by the plan. Of the head, a backward needs the weighed words: one float32 for each."""
    made, shape = estimate.make_plan(cfg, seen), setup.setup_of(cfg, seen).shape
    words = QUESTIONS * ROLLOUTS * seen.sampled * 4 * shape.words
    _, mean, _ = lengths(cfg.model_copy(update={"lengths": cfg.lengths.model_copy(update={"question": question})}))
    rollout, update = made.phases["rollout"], made.phases["update"]
    return {
        "weights": rollout["weights"],
        "gradients": update["gradients"],
        "moments": rollout["moments"],
        "kept for the backward": update["activations, text"] + (update["activations, tower"] if cfg.policy.train_vision else 0) + words,
        "FLOP of the rollout": made.flops["vision tower, rollout"] + made.flops["prefill"] + made.flops["decoding"],
        "FLOP of the update": made.flops["update"] + made.flops["vision tower, update"],
        "sampled tokens": made.tokens["sampled, of an update"],
        "visual tokens": made.tokens["visual, of an update"],
        "tokens of a prompt": mean.prompt,
    }


def case(name: str, folder: Path, overrides: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each quantity of one case."""
    family = name.partition(",")[0]
    checkpoint, dialect = ("embedded", "tiny") if family == "embedded" else (str(folder / family), {"qwen3_vl": "tiny"}.get(family, family))
    talk = "rollout.force_first_crop=true" if family == "embedded" else "rollout.max_crops=0"  # random policies call for nothing
    cfg = settings(checkpoint, dialect, [talk, *overrides])
    torch.manual_seed(SEED)
    loaded = build.load_policy(cfg.policy)
    seen, found = measured(loaded, cfg)
    told = planned(cfg, seen, found.pop("tokens of a question"))
    return [
        {"case": name, "quantity": key, "planned": round(told[key]), "measured": round(found[key]),
         "off": round(told[key] / found[key] - 1, 4)}
        for key in found
    ]  # fmt: skip


def table(rows: Sequence[dict[str, Any]]) -> str:
    """One line for each comparison; a miss is bold."""
    lines = [f"| {' | '.join(HEAD)} |", f"|{' --- |' * len(HEAD)}"]
    for row in rows:
        off = f"{100 * row['off']:+.1f} %"
        shown = off if abs(row["off"]) <= WITHIN else f"**{off}**"
        lines.append(f"| {row['case']} | {row['quantity']} | {row['planned']:,} | {row['measured']:,} | {shown} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for name, make in (("qwen2_5_vl", random_qwen2_5_vl), ("qwen3_vl", random_qwen3_vl)):
            make(SEED).save(Path(folder) / name, "float32")
        rows = [row for name, overrides in CASES.items() for row in case(name, Path(folder), overrides)]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    within = sum(abs(row["off"]) <= WITHIN for row in rows)
    record = {"commit": commit, "seed": SEED, "torch": torch.__version__, "within": within, "of": len(rows), "rows": rows}
    (HERE / "results.json").write_text(json.dumps(record, indent=1) + "\n")
    readme = HERE / "README.md"
    if readme.is_file():
        shown = readme.read_text()
        readme.write_text(shown[: shown.index(f"| {HEAD[0]} |")] + table(rows) + "\n</details>\n")
    print(table(rows), f"{within} of {len(rows)} within {WITHIN:.0%}")


if __name__ == "__main__":
    main()
