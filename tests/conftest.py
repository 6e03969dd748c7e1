"""What several tests share: random tiny policies of both families, made once."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")

from tests import shapes

shapes.enforce()

import pytest
import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from focus.model.policy_model import PolicyModel
from focus.model.prompts import DIALECTS
from focus.pretraining.architecture import build_model
from focus.pretraining.tokenizer import build_tokenizer

torch.set_num_threads(1)


build_tokenizer = cache(build_tokenizer)  # two seconds each


def random_qwen2_5_vl(seed: int = 0, tied: bool = False) -> PolicyModel:
    """The other family at its smallest: windowed vision attention, absolute boxes."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    ids = {
        name: tokenizer.convert_tokens_to_ids(token)
        for name, token in (
            ("image_token_id", "<|image_pad|>"),
            ("video_token_id", "<|video_pad|>"),
            ("vision_start_token_id", "<|vision_start|>"),
            ("vision_end_token_id", "<|vision_end|>"),
        )
    }
    config = Qwen2_5_VLConfig(
        **ids,
        tie_word_embeddings=tied,
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "initializer_range": 0.1,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10.0, "mrope_section": [4, 6, 6]},
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": 64,
            "window_size": 56,
            "fullatt_block_indexes": [1],
            "initializer_range": 0.1,
        },
    )
    processor = Qwen2VLImageProcessorPil(
        patch_size=14, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 28 * 28, "longest_edge": 16384 * 28 * 28}
    )
    return PolicyModel(Qwen2_5_VLForConditionalGeneration(config).eval(), tokenizer, processor, DIALECTS["qwen2_5_vl"])


def random_qwen3_vl(seed: int = 0) -> PolicyModel:
    """The embedded policy's architecture with other weights, at half its width."""
    return build_model(build_tokenizer(), seed, width=64, layers=2, vision_layers=2)


@pytest.fixture(scope="session")
def qwen2_5_vl() -> PolicyModel:
    return random_qwen2_5_vl()


@pytest.fixture(scope="session")
def qwen3_vl() -> PolicyModel:
    checkpoint = random_qwen3_vl()
    checkpoint.model.eval()
    return checkpoint


@pytest.fixture(params=["qwen2_5_vl", "qwen3_vl"])
def policy(request) -> PolicyModel:
    """Every engine and update test runs on both families."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def random_policy(tmp_path_factory) -> Path:
    """A random policy as a folder, for whole runs."""
    folder = tmp_path_factory.mktemp("random") / "policy"
    random_qwen3_vl(seed=7).save(folder)
    return folder


HOLD = """
import fcntl, sys, time
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(600)
"""


@contextmanager
def another_job(folder: Path) -> Iterator[subprocess.Popen]:
    """Within the block another process works in this folder; it may be killed there."""
    folder.mkdir(parents=True, exist_ok=True)
    with subprocess.Popen([sys.executable, "-c", HOLD, folder / "running.lock"], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        yield other
        other.kill()
