"""vLLM against our own engine, on tiny policies of both families, on CPU. `make test-vllm`: not part of `make test`, which needs no vLLM."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # it would bind itself to cores that the tests compute on

from focus.checkpoint import Checkpoint
from focus.rollout.engine import Conversation, Sampling
from focus.rollout.kv import KVEngine
from focus.rollout.loop import asking
from focus.rollout.trajectory import Status, Trajectory
from focus.rollout.vllm import Room, Sampler, VLLMEngine, colocated
from tests.conftest import random_qwen2_5_vl, random_qwen3_vl
from tests.scripted import call, playing
from tests.test_engine import boxes_of
from tests.test_update import policy_of, questions, trainer

CLOSE = 1e-4
ROOM = Room("float32", 0.1, 0.5, 2048, 32, enforce_eager=True, images=4, lora_rank=8)
FAMILIES = {"qwen2_5_vl": random_qwen2_5_vl, "qwen3_vl": random_qwen3_vl}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def sampler(family, tmp_path_factory) -> Sampler:
    """One vLLM for each family; every test publishes its own weights to it."""
    folder = tmp_path_factory.mktemp(family) / "policy"
    FAMILIES[family](seed=0).save(folder)
    return colocated(str(folder), ROOM)


def policy(family: str, seed: int) -> Checkpoint:
    checkpoint = FAMILIES[family](seed=seed)
    checkpoint.model.eval()
    return checkpoint


def engine(checkpoint: Checkpoint, sampler: Sampler, folder: Path) -> VLLMEngine:
    made = VLLMEngine(checkpoint, sampler, folder / "weights", "float32")
    made.renew()
    return made


def looked(checkpoint: Checkpoint, crops: int, index: int = 0, seed: int = 0) -> Trajectory:
    """A conversation about to go on after some crops."""
    calls = [call(*box) for box in boxes_of(checkpoint)[:crops]]
    played = playing(checkpoint, *calls, "<answer>1</answer>", max_crops=crops, index=index)
    return replace(played, turns=played.turns[:crops], status=Status.OPEN, seed=seed)


def apart(checkpoint: Checkpoint, made: VLLMEngine, open_ones: list[Trajectory], temperature: float = 1.0) -> float:
    """Largest difference between what vLLM says of its own draws and what our engine says of them."""
    asked = [asking(t, -1) for t in open_ones]
    drawn = dict(made.generate(asked, Sampling(temperature, 24)))
    assert sorted(drawn) == list(range(len(asked)))
    words = [drawn[i].ids for i in range(len(asked))]
    assert all(words) and not {i for ids in words for i in ids} & set(checkpoint.banned_ids)
    kv = KVEngine(checkpoint)
    kv.forget()
    ours = kv.weigh([asking(t, -1, ids) for t, ids in zip(open_ones, words, strict=True)], [len(ids) for ids in words])
    return max(abs(a - b) for i, row in enumerate(ours) for a, b in zip(row, drawn[i].logprobs, strict=True))


def test_log_probabilities_equal_those_of_kv_after_no_one_and_three_crops(family, sampler, tmp_path):
    checkpoint = policy(family, 1)
    made = engine(checkpoint, sampler, tmp_path)
    assert apart(checkpoint, made, [looked(checkpoint, crops, index, seed=index) for crops in (0, 1, 3) for index in range(3)]) < CLOSE
