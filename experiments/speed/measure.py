"""Where the seconds of a default step go, and what the cache buys. `make speed` writes results.json beside this file.

The peer is transformers' own `generate`, which encodes the whole conversation again at every turn and every sibling's image again; it
plays the same questions with the same policy, temperature, limits and ban, in turns with our engine (median of `REPEATS` after a warm-up).
"""

import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir

from focus import checkpoint as checkpoints
from focus.config import CONF
from focus.data.questions import Question
from focus.objective import group_advantage
from focus.policy import FocusPolicy
from focus.rollout.engine import Completion, Conversation, Engine, Sampling
from focus.rollout.loop import begin, play, seed_of
from focus.train import build_policy, load_policy, training_samples

REPEATS = 5
HERE = Path(__file__).parent


class GenerateEngine:
    """transformers' `generate` behind our engine interface: nothing is kept between turns or shared between siblings."""

    def __init__(self, checkpoint: checkpoints.Checkpoint) -> None:
        self.checkpoint = checkpoint

    def generate(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Completion]:
        c = self.checkpoint
        longest = max(len(conversation.ids) for conversation in conversations)
        ids = torch.full((len(conversations), longest), c.pad_id)
        mask = torch.zeros_like(ids)
        for row, conversation in enumerate(conversations):
            ids[row, longest - len(conversation.ids) :] = torch.tensor(conversation.ids)
            mask[row, longest - len(conversation.ids) :] = 1
        pixels = c.pack([image for conversation in conversations for image in conversation.images])
        out = c.model.generate(
            input_ids=ids,
            attention_mask=mask,
            pixel_values=pixels.values,
            image_grid_thw=pixels.grids,
            mm_token_type_ids=(ids == c.image_pad_id).int(),
            do_sample=True,
            temperature=sampling.temperature,
            top_k=0,
            top_p=1.0,
            max_new_tokens=sampling.tokens_per_turn,
            eos_token_id=c.stop_ids,
            pad_token_id=c.pad_id,
            suppress_tokens=c.banned_ids,
        )
        done = []
        for row in out[:, longest:].tolist():
            end = next((i + 1 for i, token in enumerate(row) if token in c.stop_ids), len(row))
            done.append(Completion(tuple(row[:end]), (0.0,) * end, row[end - 1] in c.stop_ids))
        return done

    def forget(self) -> None:
        pass


def rollouts(policy: FocusPolicy, engine: Engine, questions: Sequence[Question], seed: int) -> dict[str, float]:
    """Play the default step's rollouts once; seconds and tokens."""
    began = time.perf_counter()
    opened = []
    for question in questions:
        view, source = policy.gap.see(question.sample, question.original)
        seeds = [seed_of(seed, question.draw, k) for k in range(policy.settings.rollouts_per_question)]
        opened += begin(policy.checkpoint, question.sample, view, source, seeds, "<tool_call>")  # every rollout crops: two turns
    viewed = time.perf_counter()
    with torch.no_grad():
        played = play(policy.checkpoint, engine, opened, policy.rules)
    ended = time.perf_counter()
    return {
        "view": viewed - began,
        "rollout": ended - viewed,
        "sampled": float(sum(sum(t.sampled_mask) for t in played)),
        "trajectories": played,
    }  # type: ignore[dict-item]


def updates(policy: FocusPolicy, trajectories: list) -> float:
    """Seconds of one forward and backward over all rollouts, every one with an advantage."""
    from focus.objective import policy_loss
    from focus.policy import micro_batches, sampled_logprobs

    advantage = group_advantage(torch.randn(len(trajectories) // 8, 8, generator=torch.Generator().manual_seed(0))).flatten()
    began = time.perf_counter()
    for rows in micro_batches([len(t.ids) for t in trajectories], policy.settings.tokens_per_forward):
        logprobs = sampled_logprobs(policy.checkpoint, [trajectories[i] for i in rows], 1.0)
        flat = torch.cat(logprobs)
        each = torch.cat([torch.full_like(lp, float(advantage[i])) for i, lp in zip(rows, logprobs, strict=True)])
        policy_loss(flat, flat.detach(), each, len(flat)).backward()
    policy.model.zero_grad()
    return time.perf_counter() - began


def measure(threads: int) -> dict[str, object]:
    torch.set_num_threads(threads)
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = compose("train", ["experiment=stage1", "output=unused"])
    policy = build_policy(cfg, load_policy(cfg.policy))
    samples = training_samples(cfg.data)
    questions = [Question(i, samples[i], samples[i].open()) for i in range(cfg.rollout.questions_per_update)]
    ours, theirs, update = [], [], []
    for repeat in range(REPEATS + 1):  # the first is the warm-up
        torch.manual_seed(repeat)
        a = rollouts(policy, policy.engine, questions, repeat)
        b = rollouts(policy, GenerateEngine(policy.checkpoint), questions, repeat)
        seconds = updates(policy, a.pop("trajectories"))  # type: ignore[arg-type]
        b.pop("trajectories")
        if repeat:
            ours.append(a)
            theirs.append(b)
            update.append(seconds)
    ratios = [(b["rollout"] / b["sampled"]) / (a["rollout"] / a["sampled"]) for a, b in zip(ours, theirs, strict=True)]

    def median(values: Sequence[float]) -> float:
        return round(statistics.median(values), 4)

    return {
        "threads": threads,
        "rollouts": cfg.rollout.questions_per_update * cfg.rollout.rollouts_per_question,
        "repeats": REPEATS,
        "seconds_view": median([a["view"] for a in ours]),
        "seconds_rollout": median([a["rollout"] for a in ours]),
        "seconds_update": median(update),
        "tokens_per_second_kv": median([a["sampled"] / a["rollout"] for a in ours]),
        "tokens_per_second_generate": median([b["sampled"] / b["rollout"] for b in theirs]),
        "generate_over_kv_seconds_per_token": {"median": median(ratios), "min": round(min(ratios), 2), "max": round(max(ratios), 2)},
        "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def main() -> None:
    if len(sys.argv) == 2:  # one process per thread count, so that peak memory is its own
        print(json.dumps(measure(int(sys.argv[1]))))
        return
    results = [
        json.loads(
            subprocess.run(
                [sys.executable, "-m", "experiments.speed.measure", str(threads)], capture_output=True, text=True, check=True
            ).stdout.splitlines()[-1]
        )
        for threads in (1, 2)
    ]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    record = {"commit": commit, "python": platform.python_version(), "torch": torch.__version__, "cores": 2, "results": results}
    (HERE / "results.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
