"""Where the seconds of a default step go, and what the settings of this machine are worth. `python -m experiments.speed.step`.

Writes step.json: 8 questions x 8 rollouts of the embedded policy, every rollout made to crop (two turns), first as shipped with one and
two threads, then, against the shipped setting and in turns with it, each alternative that was considered.
"""

import json
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from unittest.mock import patch

import torch
from hydra import compose, initialize_config_dir

from experiments.speed import update
from experiments.speed.timing import REPEATS, compared, seconds, spread, write
from focus.build import build_policy, load_policy, training_samples
from focus.config import CONF
from focus.data.questions import Question
from focus.rollout import kv
from focus.rollout.loop import begin, play, seed_of
from focus.rollout.trajectory import Trajectory
from focus.training.policy import FocusPolicy

ALTERNATIVE_REPEATS = 3  # bfloat16 is slow on a processor without instructions for it


def setting(*changes: str) -> tuple[FocusPolicy, list[Question]]:
    """A policy as `make stage1` builds it, and the questions of one step."""
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = compose("train", ["experiment=stage1", "output=unused", *changes])
    samples = training_samples(cfg.data)
    return build_policy(cfg, load_policy(cfg.policy)), [Question(i, samples[i], samples[i].open()) for i in range(8)]


def roll(policy: FocusPolicy, questions: Sequence[Question], seed: int) -> list[Trajectory]:
    """Rollouts of one step, their first crop forced."""
    opened = []
    for question in questions:
        view, source = policy.gap.view_of(question.sample, question.original)
        seeds = [seed_of(seed, question.draw, k) for k in range(policy.settings.rollouts_per_question)]
        opened += begin(policy.policy, question.sample, view, source, seeds, "<tool_call>")
    return play(policy.policy, policy.engine, opened, policy.limits)


def learn(policy: FocusPolicy, trajectories: Sequence[Trajectory]) -> None:
    """Forward and backward over all rollouts, every one with an advantage."""
    update.shared(policy.policy, trajectories, policy.settings.tokens_per_forward)


def phases(policy: FocusPolicy, questions: Sequence[Question], seed: int) -> dict[str, float]:
    """Seconds of one step by phase, and its tokens."""
    played: list[Trajectory] = []
    with policy.policy.image_cache():
        rollout = seconds(lambda: played.extend(roll(policy, questions, seed)))
        learning = seconds(lambda: learn(policy, played))
    return {"rollout": rollout, "update": learning, "sampled": float(sum(sum(t.sampled_mask) for t in played))}


def shipped(threads: int) -> dict[str, object]:
    torch.set_num_threads(threads)
    policy, questions = setting()
    rows = [phases(policy, questions, repeat) for repeat in range(1 + REPEATS)][1:]
    return {
        "threads": threads,
        "rollout_s": spread([row["rollout"] for row in rows]),
        "update_s": spread([row["update"] for row in rows]),
        "sampled_tokens_per_s": spread([row["sampled"] / row["rollout"] for row in rows]),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def compiled(policy: FocusPolicy) -> None:
    """The part of every text layer whose shape is the same from step to step."""
    for layer in policy.policy.backbone.language_model.layers:
        layer.mlp.compile(dynamic=True)


def alternative(
    name: str, *changes: str, prepare: Callable[[FocusPolicy], None] | None = None, never_leave: bool = False
) -> list[dict[str, object]]:
    """Both phases as shipped against the same under another setting; a ratio above 1 is a reason to keep what is shipped."""
    ours, questions = setting()
    other, _ = setting(*changes)
    if prepare:
        prepare(other)

    def changed(seed: int) -> dict[str, float]:
        with patch.object(kv, "LEAVE_AT", 0.0) if never_leave else nullcontext():
            return phases(other, questions, seed)

    pairs = [(phases(ours, questions, seed), changed(seed)) for seed in range(1 + ALTERNATIVE_REPEATS)][1:]
    return [
        {"alternative": name, "phase": phase, **compared([a[phase] for a, _ in pairs], [b[phase] for _, b in pairs])}
        for phase in ("rollout", "update")
    ]


def main() -> None:
    if len(sys.argv) == 2:  # one process per thread count, so that peak memory is its own
        print(json.dumps(shipped(int(sys.argv[1]))))
        return
    command = [sys.executable, "-m", "experiments.speed.step"]
    printed = [subprocess.run([*command, threads], capture_output=True, text=True, check=True).stdout for threads in ("1", "2")]
    torch.set_num_threads(2)
    rows = alternative("bfloat16", "policy.dtype=bfloat16")
    rows += alternative("torch.compile of the feed-forward parts", prepare=compiled)
    rows += alternative("finished rows stay in the batch", never_leave=True)[:1]
    write("step", {"shipped": [json.loads(out.splitlines()[-1]) for out in printed], "alternatives": rows})


if __name__ == "__main__":
    main()
