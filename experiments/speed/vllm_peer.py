"""Rollouts with one crop by vLLM on CPU, one batch per line on standard input. Runs in vLLM's own environment
(.venv-vllm); rollout.py starts it.

Both turns are sampled as an RL loop would: the n siblings of a prompt are one request (the prompt is encoded once), and the second turn
passes the whole conversation and both images again, of which the prefix cache keeps what it can. Every turn has the same length, since
stops are ignored and banned. Between batches all caches are emptied outside the clock, as new weights would force.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Job:
    """What both sides do. Paths are PNG files, one for each question; ids hold ONE image pad per image, which vLLM expands."""

    checkpoint: str  # folder in the Hugging Face layout, float32
    prompt_ids: list[list[int]]  # up to the first sampled token
    observation_ids: list[int]  # what stands between the two turns
    views: list[str]
    originals: list[str]
    box_px: list[int]  # of every crop, in pixels of the original; whole tokens, as it is not resized
    group: int  # rollouts per question
    turn_tokens: int  # sampled in each of the two turns, no more and no less
    banned_ids: list[int]  # tokens that are never sampled: vision tokens and stops
    vocabulary: int
    temperature: float
    threads: int
    block_size: int = 32  # of the prefix cache; the CPU default of 128 keeps nothing of a short prompt
    cache_gib: int = 4


def settings(job: Job) -> dict[str, tuple[Any, str]]:
    """Every argument of vllm.LLM that is not its default, with its reason."""
    return {
        "dtype": ("float32", "both sides compute in float32"),
        "enforce_eager": (False, "compiled, vLLM's default and its best: about 1.4 times as fast as eager here"),
        "block_size": (job.block_size, "the least that the CPU backend takes, so that the prefix cache keeps short prompts too"),
        "enable_prefix_caching": (True, "the first turn is not encoded again, vLLM's best"),
        "max_num_seqs": (len(job.prompt_ids) * job.group, "all rollouts in one batch, as ours"),
        "max_num_batched_tokens": (16384, "a prefill of several whole prompts at a time"),
        "max_model_len": (4096, "above every conversation of the table"),
        "limit_mm_per_prompt": ({"image": 2, "video": 0}, "a view and a crop"),
        "skip_mm_profiling": (True, "only shortens the start"),
        "mm_processor_cache_gb": (4, "an image is processed once (vLLM's default)"),
        "seed": (0, "fixed"),
    }


class Rollouts:
    """The engine and one batch of questions."""

    def __init__(self, job: Job) -> None:
        from PIL import Image
        from vllm import LLM, SamplingParams

        self.job = job
        self.llm = LLM(job.checkpoint, **{name: value for name, (value, _) in settings(job).items()})
        self.views = [Image.open(path).convert("RGB") for path in job.views]
        self.originals = [Image.open(path).convert("RGB") for path in job.originals]
        allowed = sorted(set(range(job.vocabulary)) - set(job.banned_ids))

        def sampling(n: int) -> SamplingParams:
            return SamplingParams(
                n=n,
                temperature=job.temperature,
                top_p=1.0,
                top_k=0,
                min_tokens=job.turn_tokens,
                max_tokens=job.turn_tokens,
                ignore_eos=True,
                allowed_token_ids=allowed,
                logprobs=0,  # of the sampled token, as ours
                detokenize=False,
            )

        self.siblings, self.single = sampling(job.group), sampling(1)

    def clear_cache(self) -> None:
        """Empty every cache, as after an update of the weights."""
        self.llm.reset_prefix_cache()
        self.llm.reset_mm_cache()
        self.llm.llm_engine.engine_core.reset_encoder_cache()

    def play(self) -> list[Any]:
        """One batch: both turns of every rollout; the outputs of both."""
        job = self.job
        first = self.llm.generate(
            [
                {"prompt_token_ids": ids, "multi_modal_data": {"image": [view]}, "multi_modal_uuids": {"image": [f"view {q}"]}}
                for q, (ids, view) in enumerate(zip(job.prompt_ids, self.views, strict=True))
            ],
            self.siblings,
            use_tqdm=False,
        )
        conversations = []
        for q, answers in enumerate(first):
            for k, answer in enumerate(answers.outputs):
                conversations.append(
                    {
                        "prompt_token_ids": [*job.prompt_ids[q], *answer.token_ids, *job.observation_ids],
                        "multi_modal_data": {"image": [self.views[q], self.originals[q].crop(tuple(job.box_px))]},
                        # names spare vLLM the hashing of pixels, and keep it from taking the equal crops of siblings for one image
                        "multi_modal_uuids": {"image": [f"view {q}", f"crop {q} {k}"]},
                    }
                )
        return [first, self.llm.generate(conversations, self.single, use_tqdm=False)]


def counted(first: Sequence[Any], second: Sequence[Any], pad: int) -> dict[str, int]:
    """What a batch consisted of; names that grpo_step.counts also has mean the same."""
    view_tokens = sum(o.prompt_token_ids.count(pad) for o in first)
    second_turn_tokens = sum(len(answer.token_ids) for o in second for answer in o.outputs)
    second_prompt_tokens = sum(len(o.prompt_token_ids) for o in second)
    return {
        "prompt_tokens": sum(len(o.prompt_token_ids) for o in first),
        "view_tokens": view_tokens,
        "first_turn_tokens": sum(len(answer.token_ids) for o in first for answer in o.outputs),
        "second_turn_tokens": second_turn_tokens,
        "crop_tokens": sum(o.prompt_token_ids.count(pad) for o in second) - view_tokens * len(second) // len(first),
        "images": len(first) + len(second),
        "sequence_tokens": second_prompt_tokens + second_turn_tokens,
        "second_prompt_tokens": second_prompt_tokens,
        "second_prompt_tokens_cached": sum(o.num_cached_tokens or 0 for o in second),
    }


def main() -> None:
    job = Job(**json.loads(sys.argv[1]))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # vLLM prints from C as well; the protocol is ours alone
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process, so that the caches can be emptied
        "VLLM_CPU_KVCACHE_SPACE": str(job.cache_gib),
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{job.threads - 1}",
    }
    import torch
    import transformers
    import vllm

    rollouts = Rollouts(job)
    versions = {"vllm": vllm.__version__, "transformers": transformers.__version__, "torch": torch.__version__}
    print(json.dumps({"versions": versions, "threads": torch.get_num_threads(), "settings": settings(job)}), file=answers, flush=True)
    pad = rollouts.llm.llm_engine.model_config.hf_config.image_token_id
    while sys.stdin.readline():
        rollouts.clear_cache()
        began = time.perf_counter()
        first, second = rollouts.play()
        taken = time.perf_counter() - began
        print(json.dumps({"seconds": taken, "counts": counted(first, second, pad)}), file=answers, flush=True)


if __name__ == "__main__":
    main()
