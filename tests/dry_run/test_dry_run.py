"""One whole training step at the widths and the vocabulary of a published model, with few layers, on the CPU: `make dry-run`.

Weights are random and float32: many CPUs have no fast products of bfloat16. It takes minutes, and at most 16 GB of memory.
"""

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from focus import config
from focus.build import build_policy, build_trainer, load_policy, training_samples
from focus.config.schema import TrainConfig
from focus.data.questions import Questions
from focus.model import loading
from focus.model.dialect import read_dialect
from focus.model.policy_model import PolicyModel
from focus.model.saving import DTYPES
from tests.gpu.measure import config_of
from tests.support.qwen_vocabulary import tokenizer_of
from tests.support.runs import composed
from tests.support.scripted import boxes_of, steer
from tests.support.updates import Rows

GB = 10**9
SMALL = (
    "trainer=cpu", "rollout=kv", "gap=fixed", "data=scenes", "data.side_px=1120", "data.workers=0", "gap.view_tokens=256",
    "rollout.crop_tokens=256", "rollout.questions_per_update=2", "rollout.rollouts_per_question=4", "rollout.max_crops=1",
    "rollout.tokens_per_turn=48", "evaluation.records=null", "judge.model=null", "objective.updates=1",
    "+reward.terms.parity={_target_: tests.support.updates.Parity, weight: 1.0}",  # a reward that a random policy earns sometimes
)  # fmt: skip
STEPS = {
    "Qwen/Qwen2.5-VL-3B-Instruct": ("experiment=stage1_7b", "policy=qwen2_5_vl_3b"),
    "Qwen/Qwen3-VL-4B-Instruct": ("experiment=stage1_7b_lora", "policy=qwen3_vl_4b", "policy.dtype=float32"),
}


def random_policy(name: str, dialect: str, dtype: str, *unused: Any) -> PolicyModel:
    """A policy of real width with two layers and two blocks of the tower, in place of the published one."""
    architecture = config_of(str(name), layers=2)
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(architecture, dtype=DTYPES[dtype], attn_implementation="sdpa").eval()
    vision = architecture.vision_config
    processor = Qwen2VLImageProcessorPil(
        patch_size=vision.patch_size, merge_size=vision.spatial_merge_size, temporal_patch_size=vision.temporal_patch_size
    )
    return PolicyModel(model, tokenizer_of(dialect), processor, read_dialect(dialect))


class Phases:
    """Prints seconds and the largest resident memory of every block, and keeps the largest of all."""

    def __init__(self) -> None:
        self.peak = 0

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        start = time.monotonic()
        yield
        [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
        peak = 1024 * int(line.split()[1])
        self.peak = max(self.peak, peak)
        print(f"  {name:<24} {time.monotonic() - start:6.1f} s, at most {peak / GB:4.1f} GB", flush=True)

    def of(self, name: str, function: Any) -> Any:
        """The function, with every call as a phase."""

        def call(*args: Any) -> Any:
            with self(name):
                return function(*args)

        return call


@pytest.mark.parametrize("name", STEPS)
def test_one_step_at_real_widths_moves_every_weight_that_learns_within_16_gb(name, monkeypatch, capsys, tmp_path):
    cfg = config.validated(composed(*STEPS[name], *SMALL), TrainConfig)
    torch.set_num_threads(cfg.threads)
    monkeypatch.setattr(loading, "load_model", random_policy)
    phase, rows = Phases(), Rows()
    with capsys.disabled():
        print(f"\n{name}, {f'LoRA of rank {cfg.policy.lora_rank}' if cfg.policy.lora_rank else 'all weights'}")
        with phase("policy"):
            loaded = load_policy(cfg.policy)
            module = build_policy(cfg, loaded)
        module.engine = steer(loaded, boxes_of(loaded), 1)
        learning = {name: weight for name, weight in module.model.named_parameters() if weight.requires_grad}
        of, learn = (sum(weight.numel() for weight in weights) for weights in (module.model.parameters(), learning.values()))
        print(f"  {learn:,} of {of:,} weights learn")
        for method, does in (("roll_out_and_score", "rollouts and rewards"), ("update", "update and optimiser")):
            monkeypatch.setattr(module, method, phase.of(does, getattr(module, method)))
        trainer = build_trainer(
            cfg.trainer, [rows], max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, use_distributed_sampler=False, default_root_dir=str(tmp_path),
        )  # fmt: skip
        trainer.fit(module, Questions(training_samples(cfg.data), 1, cfg.rollout.questions_per_update, 0, cfg.seed))
    [row] = rows.rows
    assert row["crop/rate"] == 1 and row["objective/grad_norm"] > 0
    [optimizer] = trainer.optimizers
    still = [name for name, weight in learning.items() if not optimizer.state[weight]["exp_avg"].any()]
    assert all("lora_A" in name for name in still)  # B is zero before its first step, and so is the gradient of A
    assert phase.peak < 16 * GB
