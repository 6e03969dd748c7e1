"""The sections of the check. Each yields names and what was found, and raises where the code is wrong on this machine."""

import importlib.util
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning
import torch
import transformers
from torch.distributed.fsdp import FSDPModule
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from experiments.gpu.bench import Bench
from experiments.gpu.policies import random_policy
from focus.config import CONF
from focus.model.attention import PackedGroups
from focus.model.policy_model import PolicyModel
from focus.planning.hardware import DEVICES, GIB
from focus.rollout.engine import Completion, Request, Sampling
from focus.rollout.kv import KVEngine
from focus.rollout.loop import request_for
from focus.rollout.trajectory import Status, Trajectory
from focus.training.logprobs import sampled_logprobs
from tests.support.reference import RAGGED, Shape, made, plain_logprobs
from tests.support.updates import loss_and_gradients

Found = Iterator[tuple[str, Any]]
FAMILIES = ("Qwen/Qwen2.5-VL-7B-Instruct", "Qwen/Qwen3-VL-8B-Instruct", "Qwen/Qwen3.5-9B")
# Largest difference of a log-probability between sampler and trainer, in nats
APART = {"float32": 1e-3, "bfloat16": 0.2}
TRAINING_S = 120  # most seconds of one small training


def tried(work: Callable[[], Any]) -> Any:
    """Its result, or why PyTorch refused: no kernel, no memory."""
    try:
        return work()
    except RuntimeError as error:
        return f"{type(error).__name__}: {str(error)[:200]}"


def distance(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> float:
    """Norm of the difference over the norm of what is expected, over all tensors."""
    apart = sum(float((a.float() - b.float()).square().sum()) for a, b in zip(found, expected, strict=True))
    return (apart / sum(float(b.float().square().sum()) for b in expected)) ** 0.5


def versions(bench: Bench) -> Found:
    """What is installed, and which of the parts that this project can do without."""
    yield "python", sys.version.split()[0]
    for module in (torch, transformers, pytorch_lightning):
        yield module.__name__, module.__version__
    if bench.cuda:
        card = torch.cuda.get_device_properties(0)
        yield "card", {"name": card.name, "gib": card.total_memory / GIB, "capability": f"{card.major}.{card.minor}"}
        yield "cuda", torch.version.cuda
        yield "cudnn", torch.backends.cudnn.version()
    for name in ("torch.nn.attention.varlen", "fla", "causal_conv1d"):
        yield name, importlib.util.find_spec(name) is not None
    yield "FSDPModule.reset_iter_state", hasattr(FSDPModule, "reset_iter_state")
    layer, x = torch.nn.Linear(8, 8, device=bench.device), torch.randn(2, 8, device=bench.device)
    with torch.autocast(bench.device.type, torch.bfloat16):
        with torch.no_grad():
            layer(x)  # autocast keeps this cast of the weight
        learns = layer(x).requires_grad
    yield "autocast keeps gradients after no_grad", learns
    assert learns, "autocast reuses a cast that it made without gradients: weights would not learn after a rollout"


def kernels(bench: Bench) -> Found:
    """Which kernel PyTorch's SDPA chooses for the attention calls of a 7B policy, with seconds and GiB.

    Without cuDNN: the choice of an A100, where cuDNN is not preferred.
    """
    work, vision = bench.work, (16, 16, 80)
    view, crop = work.views[0] ** 2, work.crop**2
    prompt, suffix = view + work.text, crop + 2 * work.turn
    calls = {
        "prompt": (1, prompt, prompt, work.heads),
        "crops of a turn": (work.siblings, crop, prompt + suffix, work.heads),
        "suffixes of an update": (work.learned, suffix, prompt + suffix, work.heads),
        "windows of an image": (view // 16, 64, 64, vision),
        "whole image": (1, 4 * view, 4 * view, vision),
    }
    plain = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    for name, (rows, queries, keys, (heads, key_heads, width)) in calls.items():
        shapes = ((heads, queries), (key_heads, keys), (key_heads, keys))
        q, k, v = (torch.randn(rows, *shape, width, device=bench.device, dtype=torch.bfloat16, requires_grad=True) for shape in shapes)
        masked = queries != keys
        mask = torch.ones(rows, 1, queries, keys, dtype=torch.bool, device=bench.device).tril(keys - queries) if masked else None
        options = {"attn_mask": mask, "is_causal": name == "prompt", "enable_gqa": heads != key_heads}

        def forward(qkv=(q, k, v), options=options) -> torch.Tensor:
            return scaled_dot_product_attention(*qkv, **options)

        def all_of_it(forward=forward) -> dict[str, Any]:
            first, again = bench.measured(forward), bench.measured(forward)
            backward = bench.measured(lambda: forward().sum().backward())
            return {"first_s": first["s"], **again, "with_backward": backward, **bench.profiled(forward)}

        yield name, tried(all_of_it)
        if bench.cuda:
            with sdpa_kernel(plain):
                yield f"{name}, without cuDNN", tried(all_of_it)


def ragged(bench: Bench) -> Found:
    """Attention of an update's packed prompts and suffixes in bfloat16 (on a GPU the flash-attention kernel) against SDPA in float32."""
    (heads, key_heads, width), work = bench.work.heads, bench.work
    prompts, suffixes = [work.views[0] ** 2, 7], [work.crop**2 + work.turn, work.turn, 1]
    layout, tokens = PackedGroups(prompts, suffixes, [0, 0, 1], bench.device), sum(prompts) + sum(suffixes)
    packed = [torch.randn(count, tokens, width, device=bench.device, dtype=torch.bfloat16) for count in (heads, key_heads, key_heads)]
    weight = torch.randn_like(packed[0], dtype=torch.float32)

    def attended(dtype: torch.dtype) -> list[torch.Tensor]:
        """The output, and the gradients of queries, keys and values."""
        leaves = [x.to(dtype).requires_grad_() for x in packed]
        out = layout.attend(0, *leaves, width**-0.5)
        return [out.detach(), *torch.autograd.grad((out.float() * weight).sum(), leaves)]

    expected, found = attended(torch.float32), attended(torch.bfloat16)
    apart = {"output": distance(found[:1], expected[:1]), "gradient": distance(found[1:], expected[1:])}
    yield "packed groups", apart
    yield "operators", bench.profiled(lambda: attended(torch.bfloat16))["attention"]
    assert max(apart.values()) < 0.02, apart


def in_both_dtypes(bench: Bench, family: str) -> dict[str, PolicyModel]:
    """One random policy in float32 and in bfloat16."""
    policies = {dtype: random_policy(family, bench.work.compared, bench.device, dtype) for dtype in ("float32", "bfloat16")}
    policies["bfloat16"].model.load_state_dict(policies["float32"].model.state_dict())
    return policies


def equality(bench: Bench) -> Found:
    """Distance of the whole gradient, with shared prompts and naive, from the naive one in float32."""
    for family in FAMILIES:
        exact: list[torch.Tensor] = []
        for dtype, policy in in_both_dtypes(bench, family).items():
            rollouts = made(policy, RAGGED)
            advantage = [(-1.0) ** i * (1 + 0.3 * i) for i in range(len(rollouts))]
            _, naive = loss_and_gradients(policy, [plain_logprobs(policy, t) for t in rollouts], advantage)
            _, shared = loss_and_gradients(policy, sampled_logprobs(policy, rollouts, 1.0), advantage)
            assert naive.keys() == shared.keys(), f"only one way gives gradients to {sorted(naive.keys() ^ shared.keys())}"
            exact = exact or [*naive.values()]
            apart = {way: distance([each[name] for name in naive], exact) for way, each in (("shared", shared), ("naive", naive))}
            yield f"{family}, {dtype}", apart
            assert apart["shared"] <= max(1e-3, 2 * apart["naive"]), apart


def opened(rollouts: Sequence[Trajectory], turns: int) -> list[Trajectory]:
    """The rollouts as they were after so many turns."""
    return [replace(t, turns=t.turns[:turns], status=Status.OPEN) for t in rollouts]


def sample(engine: KVEngine, requests: Sequence[Request], tokens: int) -> list[Completion]:
    """One turn of at most so many tokens for every request."""
    said = {request.id: completion for request, completion in engine.generate_turn(requests, Sampling(1.0, tokens))}
    return [said[request.id] for request in requests]


def played(engine: KVEngine, shapes: Sequence[Trajectory], tokens: int) -> list[Trajectory]:
    """The same rollouts, crops included, with turns that the engine sampled."""
    done = opened(shapes, 0)
    for number in range(max(len(t.turns) for t in shapes)):
        live = [i for i, t in enumerate(shapes) if number < len(t.turns)]
        requests = [request_for(done[i], number - 1) for i in live]
        for i, request, said in zip(live, requests, sample(engine, requests, tokens), strict=True):
            turn = replace(shapes[i].turns[number], ids=said.ids, sampler_logprobs=said.logprobs, request_id=request.id)
            done[i] = done[i].with_turn(turn, Status.OPEN)
    return done


def sampler(bench: Bench) -> Found:
    """Largest difference between log-probabilities of sampler and trainer, over turns, crops and siblings."""
    for family in FAMILIES:
        for dtype, policy in in_both_dtypes(bench, family).items():
            with policy.image_cache(), torch.no_grad():
                rollouts = played(KVEngine(policy), made(policy, RAGGED), tokens=8)
                again = sampled_logprobs(policy, rollouts, 1.0)
            sampled = [torch.tensor(t.sampler_logprobs) for t in rollouts]
            apart = max(float((a.float().cpu() - b).abs().max()) for a, b in zip(again, sampled, strict=True))
            yield f"{family}, {dtype}", apart
            assert apart <= APART[dtype], apart


def trained(folder: Path, *settings: str, status: int = 0) -> dict[str, Any]:
    """A small training in a process of its own. Raises AssertionError, with what it printed, if it ends with another exit status."""
    command = [sys.executable, "-m", "focus.train", "experiment=smoke", f"output={folder}", *settings]
    began = time.monotonic()
    done = subprocess.run(command, cwd=CONF.parent, capture_output=True, text=True, timeout=TRAINING_S)
    assert done.returncode == status, f"exit status {done.returncode}, not {status}: {(done.stdout + done.stderr)[-2000:]}"
    return {"status": status, "s": time.monotonic() - began}


def smoke(bench: Bench) -> Found:
    """A whole training that stops after its first update, and the same command again, which resumes it."""
    folder, trainer = bench.output / "smoke", f"trainer={'gpu' if bench.cuda else 'cpu'}"
    shutil.rmtree(folder, ignore_errors=True)
    yield "begun", trained(folder, trainer, "+trainer.max_steps=1", status=1)
    yield "resumed", trained(folder, trainer)
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    yield "history", history
    assert [row["update"] for row in history] == [1, 2, 3]


def sharded(bench: Bench) -> Found:
    """An update with FSDP2 on one rank: what this project calls of it is there, and NCCL starts."""
    folder, trainer = bench.output / "sharded", ["trainer=fsdp", "trainer.devices=1"]
    shutil.rmtree(folder, ignore_errors=True)
    on_cpu = [] if bench.cuda else ["trainer.accelerator=cpu", "trainer.strategy.arithmetic=float32"]
    yield "one update", trained(folder, *trainer, *on_cpu, "objective.updates=1", "evaluation.samples=0")


def read_in_a_step(policy: PolicyModel, rollouts: Sequence[Trajectory]) -> float:
    """Bytes that a decoding step reads at least: text layers, head, prompts once for their siblings, and half of every suffix."""
    text, config = policy.backbone.language_model, policy.backbone.language_model.config
    weights = sum(p.nbytes for p in [*text.layers.parameters(), policy.unwrapped.lm_head.weight])
    tokens = sum(len(t.prompt_ids) for t in {t.group: t for t in rollouts}.values()) + sum(len(t.suffix_ids) for t in rollouts) / 2
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return weights + tokens * 2 * config.num_hidden_layers * config.num_key_value_heads * head * text.dtype.itemsize


def decoding(bench: Bench) -> Found:
    """A decoding step: milliseconds, how much of that is kernels, how many there are, and its share of the memory bandwidth."""
    work = bench.work
    for rows in work.rows:
        rollouts = bench.rollouts(work.views[0], work.siblings, [Shape(work.steps)], rows // work.siblings)
        engine, requests = KVEngine(bench.policy), [request_for(t, -1) for t in opened(rollouts, 0)]
        with bench.policy.image_cache():
            cold, warm, whole = (bench.measured(partial(sample, engine, requests, tokens)) for tokens in (1, 1, 1 + work.steps))
            one, two = (bench.profiled(partial(sample, engine, requests, tokens)) for tokens in (1, 2))
        step_s = (whole["s"] - warm["s"]) / work.steps
        yield f"{rows} rows", {
            "prompts_s": cold["s"] - warm["s"], "first_token_s": warm["s"], "step_ms": 1e3 * step_s, "tokens_per_s": rows / step_s,
            "gib": whole["gib"], "kernels": two["kernels"] - one["kernels"], "kernel_ms": two["kernel_ms"] - one["kernel_ms"],
            "bandwidth_share": read_in_a_step(bench.policy, rollouts) / step_s / DEVICES[bench.card].bandwidth,
        }  # fmt: skip


def second_turn(bench: Bench) -> Found:
    """A turn that begins with a crop for each sibling, up to its first token: seconds, GiB, attention; beside the plan."""
    for view in bench.work.views:
        rollouts = bench.rollouts(view, bench.work.siblings, bench.with_crop)
        engine, crops = KVEngine(bench.policy), [image for t in rollouts for image in t.images[1:]]
        first, second = ([request_for(t, -1) for t in opened(rollouts, turns)] for turns in (0, 1))
        with bench.policy.image_cache():
            prompt, turn = (bench.measured(partial(sample, engine, requests, 1)) for requests in (first, second))
            attention = bench.profiled(partial(sample, engine, second, 1))["attention"]
        with bench.policy.image_cache(), torch.no_grad():
            tower = bench.measured(partial(bench.policy.encode_images, crops))
        rollout = bench.plan(rollouts, "rollout.tokens_per_turn=1").phases["rollout"]
        planned_gib = sum(value for name, value in rollout.items() if name not in ("weights", "moments")) / GIB
        yield f"view of {view**2}", {"prompt": prompt, "turn": turn, "tower": tower, "attention": attention, "planned_gib": planned_gib}


def update(bench: Bench) -> Found:
    """Forward and backward of one group with a crop for each rollout, beside the plan and the naive way."""
    policy, rollouts = bench.policy, bench.rollouts(bench.work.views[0], bench.work.learned, bench.with_crop)
    tokens = len(rollouts[0].prompt_ids) + sum(len(t.suffix_ids) for t in rollouts)
    crops = [image for t in rollouts for image in t.images[1:]]
    policy.recompute_activations()

    def shared() -> None:
        torch.cat(sampled_logprobs(policy, rollouts, 1.0)).sum().backward()

    def tower() -> None:
        torch.cat([features.tokens for features in policy.encode_images(crops)]).sum().backward()

    with bench.policy.image_cache():
        first, again = bench.measured(shared), bench.measured(shared)  # the first allocates gradients and chooses kernels
        yield "shared", {"first_s": first["s"], **again, "tokens_per_s": tokens / again["s"]}
        yield "attention", bench.profiled(lambda: sampled_logprobs(policy, rollouts, 1.0))["attention"]
        yield "tower on the crops", bench.measured(tower)
    naive = bench.measured(lambda: plain_logprobs(policy, rollouts[0]).sum().backward())
    yield "naive, one rollout", naive
    yield "naive over shared", len(rollouts) * naive["s"] / again["s"]
    plan = bench.plan(rollouts)
    state = ("weights", "moments", "gradients")
    yield "planned_gib", sum(value for name, value in plan.phases["update"].items() if name not in state) / GIB
    flops = plan.flops["update"] + plan.flops["vision tower, update"]
    yield "compute_share", flops / again["s"] / DEVICES[bench.card].bfloat16


def optimiser(bench: Bench) -> Found:
    """Clipping and a step of AdamW on all weights, fused and not."""
    weights = [*bench.policy.model.parameters()]
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    yield "clip", bench.measured(lambda: torch.nn.utils.clip_grad_norm_(weights, 1.0))

    def stepped(fused: bool) -> dict[str, Any]:
        step = torch.optim.AdamW(weights, lr=1e-6, fused=fused).step
        step()  # allocates the moments
        return bench.measured(step)

    yield "fused", tried(lambda: stepped(True))
    yield "not fused", tried(lambda: stepped(False))


def patches(bench: Bench) -> Found:
    """An image into patches on the device, and sixteen."""
    for side in bench.work.views:
        images = [bench.rollouts(side, 1, [Shape(1)])[0].view.image]
        one = bench.measured(partial(bench.policy.pack, images))
        many = bench.measured(partial(bench.policy.pack, images * 16))
        yield f"{side**2} tokens", {"one_s": one["s"], "sixteen_s": many["s"]}


SECTIONS = {each.__name__: each for each in (
    versions, kernels, ragged, equality, sampler, smoke, decoding, second_turn, update, optimiser, patches, sharded,
)}  # fmt: skip
