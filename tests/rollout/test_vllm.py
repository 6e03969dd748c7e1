"""The engine over vLLM where no vLLM is: in its place our own engine samples, from a copy of the weights as they were published.

vLLM itself is met in tests/vllm (`make test-vllm`).
"""

import json
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import pytorch_lightning as pl
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from focus.config import problems_of
from focus.config.identity import learned_settings, sampler_dtype
from focus.config.schema import TrainConfig
from focus.config.validate import plain
from focus.model import loading
from focus.model.policy_model import PolicyModel
from focus.rollout.data_urls import DataURLs
from focus.rollout.engine import Request, Requests, Sampling
from focus.rollout.kv import KVEngine
from focus.rollout.loop import RolloutLimits, play, request_for
from focus.rollout.vllm import BAN, Colocated, Prompt, VLLMEngine, VLLMOptions, VLLMOutput
from focus.runtime import distributed
from focus.runtime.strategies import FullyShardedStrategy
from focus.training.logprobs import sampled_logprobs
from tests.support.policies import FAMILIES, random_qwen2_5_vl, random_qwen3_vl
from tests.support.ranks import in_ranks
from tests.support.reference import Shape, made
from tests.support.runs import composed
from tests.support.scripted import completions, opened
from tests.support.updates import Rows, module_of, overlapped, questions, trainer

CLOSE = 2e-5


@dataclass
class StandIn:
    """A sampler as vLLM is one: it knows the weights that were published to it, and no others. `extra` tokens are read too many."""

    of: PolicyModel
    extra: int = 0
    takes_tensors: bool = False
    shared: bool = False
    copy: PolicyModel | None = None
    heard: list[tuple[Sequence[Prompt], Mapping[str, Any]]] = field(default_factory=list)
    published: list[str] = field(default_factory=list)

    def complete(
        self, requests: Requests, prompt_of: Callable[[Request], Prompt], settings: Mapping[str, Any]
    ) -> Iterator[tuple[Request, VLLMOutput]]:
        assert self.copy is not None
        while taken := requests.take():
            prompts = [prompt_of(request) for request in taken]
            self.heard.append((prompts, settings))
            asked = [self._expanded(i, prompt) for i, prompt in enumerate(prompts)]
            turn = completions(KVEngine(self.copy), asked, Sampling(settings["temperature"], settings["max_tokens"]))
            for request, expanded, said in zip(taken, asked, turn, strict=True):
                yield request, VLLMOutput(said.ids, said.logprobs, said.stopped, len(expanded.ids) + self.extra)

    def _expanded(self, number: int, prompt: Prompt) -> Request:
        pad, images, ids = self.of.image_pad_id, iter(prompt.images), []
        for token in prompt.ids:
            image = next(images) if token == pad else None
            ids += [token] * (image.width * image.height // self.of.token_px**2 if image else 1)
        first = ids.index(pad) + prompt.images[0].width * prompt.images[0].height // self.of.token_px**2 + 1
        return Request(f"{number}", None, f"{number}", first, tuple(ids), tuple(prompt.images), prompt.seed)

    def load(self, folder: Path) -> None:
        self.copy = loading.load_model(folder, self.of.dialect.name)
        self.published.append("weights")

    def adapt(self, folder: Path) -> None:
        assert self.copy is not None
        self.copy.model = PeftModel.from_pretrained(self.copy.unwrapped, folder)
        self.published.append("adapter")

    def transfer(self, weights: Iterable[tuple[str, Tensor]], largest: int) -> None:
        self.copy = self.copy or random_qwen3_vl(seed=9)
        arrived = dict(weights)
        assert max(value.nbytes for value in arrived.values()) == largest
        self.copy.unwrapped.load_state_dict(arrived)
        self.published.append("weights")

    def sleep(self) -> None:
        self.published.append("sleep")


def over(policy: PolicyModel, folder: Path, **more) -> VLLMEngine:
    return VLLMEngine(policy, StandIn(policy, **more), folder / "weights", "float32")


def test_a_conversation_is_sent_as_it_was_sampled_with_one_placeholder_for_each_image(policy, tmp_path):
    [t] = made(policy, [((4, 3), 5, [[Shape(6, (2, 2)), Shape(3, (1, 1)), Shape(2)]])])
    asked = request_for(t, -1)
    engine = over(policy, tmp_path)
    engine.sync_weights()
    completions(engine, [asked], Sampling(0.7, 9))
    [([prompt], settings)] = engine.sampler.heard
    others = [i for i in asked.ids if i != policy.image_pad_id]
    assert prompt.ids.count(policy.image_pad_id) == 3 and [i for i in prompt.ids if i != policy.image_pad_id] == others
    assert prompt.images == asked.images and [image.width // policy.token_px for image in prompt.images] == [4, 2, 1]
    assert prompt.seed == asked.seed
    assert settings["temperature"] == 0.7 and settings["max_tokens"] == 9
    assert settings["stop_token_ids"] == policy.stop_ids
    assert settings["logit_bias"] == dict.fromkeys(policy.banned_ids, BAN)


def test_a_prompt_that_vllm_reads_longer_than_it_is_names_the_sample(policy, tmp_path):
    engine = over(policy, tmp_path, extra=4)
    engine.sync_weights()
    [t] = opened(policy, questions=1, siblings=1)
    seen, there = len(t.ids) + 4, len(t.ids)
    with pytest.raises(ValueError, match=f"sample {t.sample.id}: vLLM counts {seen} prompt tokens, {there} were expected: .*do_resize"):
        completions(engine, [request_for(t, -1)], Sampling(1.0, 4))


@pytest.mark.parametrize(("steps", "takes_tensors"), [(1, False), (2, False), (1, True)], ids=["", "two steps", "in memory"])
def test_a_sampler_sleeps_during_every_update_and_gets_its_weights_once_after_it(steps, takes_tensors, tmp_path):
    policy = random_qwen3_vl(seed=1)
    module = module_of(policy, updates_per_rollout=steps, learning_rate=3e-3)
    module.engine = over(policy, tmp_path, takes_tensors=takes_tensors)
    seen = []
    module._log_update = lambda *args, **_: seen.append(args[3]["objective/mismatch_max"])
    trainer().fit(module, questions(updates=3))
    assert module.engine.sampler.published == ["weights", *3 * ["sleep", "weights"], "sleep"]
    assert len(seen) == 3 and all(mismatch < CLOSE for mismatch in seen)  # each rollout came from the weights of that moment
    assert not module.engine.folder.exists()  # the copy takes memory only while it is read


def test_a_served_sampler_that_samples_ahead_gets_its_weights_between_two_batches(tmp_path):
    policy, rows = random_qwen3_vl(seed=1), Rows()
    module = overlapped(policy, over(policy, tmp_path, shared=True), learning_rate=3e-3, sampler_ratio_cap=2.0)
    trainer(callbacks=[rows]).fit(module, questions(updates=3, ahead=True))
    assert module.engine.sampler.published == ["weights", *3 * ["sleep", "weights"], "sleep"]
    first, second, third = (row["objective/mismatch_max"] for row in rows.rows)
    assert first < CLOSE < 1e-3 < min(second, third)


class FakeVLLM:
    """Notes what a colocated vLLM is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.llm_engine = self

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **keywords: self.told.append(" ".join(map(str, (name, *args, *keywords.values()))))


@pytest.mark.parametrize(("lora_rank", "level"), [(0, 2), (8, 1)])
def test_a_sleeping_vllm_wakes_for_its_weights_first_and_for_its_cache_when_they_are_there(lora_rank, level, tmp_path):
    """Whole weights are dropped, since new ones come (level 2); those below an adapter wait on the host (level 1)."""
    sampler = Colocated("policy", VLLMOptions("bfloat16", 0.6, None, None, None, False, 6, lora_rank))
    sampler.sleep()  # there is none yet
    fake = sampler.__dict__["llm"] = FakeVLLM()
    sampler.load(tmp_path)
    renewed = ["reset_prefix_cache", "reset_mm_cache", "reset_encoder_cache"]
    load = f"collective_rpc load_policy ('{tmp_path}',)"
    assert fake.told == [load, *renewed]
    sampler.sleep()
    sampler.sleep()
    sampler.load(tmp_path)
    assert fake.told[4:] == [f"sleep {level}", "wake_up ['weights']", load, "wake_up ['kv_cache']", *renewed]


NODES = """
import sys
from tests.rollout.test_vllm import on_nodes
on_nodes(sys.argv[1])
"""


def on_nodes(folder: str) -> None:
    """Train on two nodes of one rank, each with a memory file system of its own, and note what happened on this one."""
    torch.set_num_threads(1)
    rank = os.environ["LOCAL_RANK"]
    node = f"node{rank}"
    policy = random_qwen3_vl(seed=1)
    module = module_of(policy, learning_rate=3e-3)
    module.engine = over(policy, Path(folder) / node)
    seen, gathered, written = [], [], []
    module._log_update = lambda *args, **_: seen.append(args[3]["objective/mismatch_max"])
    save, unsharded = policy.unwrapped.save_pretrained, distributed.unsharded
    policy.unwrapped.save_pretrained = lambda path, **more: (written.append(str(path)), save(path, **more))
    with (
        patch.object(socket, "gethostname", lambda: node),
        patch.object(distributed, "unsharded", lambda m: gathered.append(m) or unsharded(m)),
    ):
        trainer(devices=2, strategy=FullyShardedStrategy("float32")).fit(module, questions(updates=1, per_update=2))
    found = {"mismatch": seen, "gathered": len(gathered), "written": len(written), "left": module.engine.folder.exists()}
    (Path(folder) / f"{rank}.json").write_text(json.dumps(found))


@pytest.mark.processes
def test_every_node_gets_a_folder_of_its_own_and_no_rank_gathers_the_weights_for_the_rollout(tmp_path):
    for node in ("node0", "node1"):
        (tmp_path / node).mkdir()
    (tmp_path / "worker.py").write_text(NODES)
    done = in_ranks(2, str(tmp_path / "worker.py"), str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert [each["written"] for each in found] == [2, 2]  # at the start and after the update
    assert not any(each["gathered"] or each["left"] for each in found)
    assert all(mismatch < CLOSE for each in found for mismatch in each["mismatch"])


@pytest.mark.parametrize(("rank", "first"), enumerate([True, False, True, False]))
def test_the_first_rank_of_a_node_writes_for_the_others_on_it(rank, first, monkeypatch):
    monkeypatch.setattr(distributed, "all_gather", lambda part: ["node0", "node0", "node1", "node1"])
    monkeypatch.setattr(socket, "gethostname", lambda: f"node{rank // 2}")
    monkeypatch.setattr(distributed.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed.dist, "get_rank", lambda: rank)
    assert distributed.is_first_of_node() == first


def test_an_image_is_encoded_once_for_all_that_send_it_at_the_same_time():
    images, urls, saved = [Image.new("RGB", (28, 28), colour) for colour in ("red", "blue")], DataURLs(), []
    save = Image.Image.save
    noted = patch.object(Image.Image, "save", lambda image, *args, **more: (saved.append(id(image)), save(image, *args, **more)))
    with noted, ThreadPoolExecutor(8) as threads:
        found = list(threads.map(urls.of, 16 * images))
    assert sorted(saved) == sorted(map(id, images)) and len(set(found)) == 2 and found[0].startswith("data:image/png;base64,")


def test_images_that_were_not_asked_for_longest_leave_first():
    images = [Image.new("RGB", (28, 28), colour) for colour in ("red", "blue", "green")]
    size = len(DataURLs().of(images[0]))
    urls, saved = DataURLs(limit=2 * size + 10), []
    save = Image.Image.save
    with patch.object(Image.Image, "save", lambda image, *args, **more: (saved.append(images.index(image)), save(image, *args, **more))):
        for i in (0, 1, 0, 2, 0, 1):
            urls.of(images[i])
    assert saved == [0, 1, 2, 1]


def test_images_that_the_last_requests_had_are_not_encoded_again_and_older_ones_are_dropped():
    images = [Image.new("RGB", (28, 28), colour) for colour in ("red", "blue")]
    urls, saved = DataURLs(), []
    save = Image.Image.save
    with patch.object(Image.Image, "save", lambda image, *args, **more: (saved.append(images.index(image)), save(image, *args, **more))):
        for batch in ((0, 1), (0,), (0, 1)):
            urls.forget()
            for i in batch:
                urls.of(images[i])
    assert saved == [0, 1, 1]


@pytest.mark.parametrize(
    ("words", "dtype"),
    [
        ((), "float32"),
        (("trainer=fsdp",), "bfloat16"),
        (("trainer=gpu",), "bfloat16"),
        (("policy.dtype=bfloat16",), "bfloat16"),
        (("trainer=fsdp", "rollout.vllm.dtype=float32"), "float32"),
    ],
)
def test_vllm_computes_in_what_training_computes_in(words, dtype):
    assert sampler_dtype(plain(composed("experiment=smoke", "rollout=vllm", *words))) == dtype


def test_a_resumed_run_samples_from_the_weights_that_it_stopped_with(tmp_path):
    def run(resume: Path | None = None, **more) -> list[float]:
        policy = random_qwen3_vl(seed=1)
        module = module_of(policy, learning_rate=3e-3)
        module.engine = over(policy, tmp_path)
        seen: list[float] = []
        module._log_update = lambda *args, **_: seen.append(args[3]["objective/mismatch_max"])
        trainer(**more).fit(module, questions(updates=3), ckpt_path=resume)
        return seen

    kept = pl.callbacks.ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1, save_on_train_epoch_end=False)
    run(enable_checkpointing=True, callbacks=[kept])
    later = run(tmp_path / "step=1.ckpt")
    assert len(later) == 2 and max(later) < CLOSE


def test_of_an_adapted_policy_only_the_adapter_is_published(policy, tmp_path):
    plain = FAMILIES[policy.model.config.model_type](seed=1)
    names = [name for name, _ in plain.model.named_modules() if "language_model" in name and name.endswith(("q_proj", "down_proj"))]
    engine = over(plain, tmp_path)
    engine.sync_weights()
    plain.model = get_peft_model(plain.model, LoraConfig(r=4, target_modules=names))
    for name, p in plain.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.1)
    asked = [request_for(t, -1) for t in opened(plain)]

    def apart() -> float:
        said = completions(engine, asked, Sampling(1.0, 8))
        kv = KVEngine(plain)
        words = [Request(**{**vars(c), "ids": (*c.ids, *said[i].ids)}) for i, c in enumerate(asked)]
        ours = kv.logprobs(words, [len(said[i].ids) for i in range(len(asked))])
        return max(abs(a - b) for i, row in enumerate(ours) for a, b in zip(row, said[i].logprobs, strict=True))

    assert apart() > 1e-3
    engine.sync_weights()
    assert apart() < CLOSE and engine.sampler.published == ["weights", "adapter"]


def test_an_adapter_on_the_vision_tower_is_refused_before_anything_is_sampled(tmp_path):
    policy = random_qwen2_5_vl(seed=1)
    policy.model = get_peft_model(policy.model, LoraConfig(r=4, target_modules=["gate_proj"]))
    with pytest.raises(ValueError, match=r"lora_targets put 4 adapters into the vision tower .*visual.blocks.0.mlp.gate_proj"):
        over(policy, tmp_path)


def test_a_folder_that_cannot_be_written_is_named_with_its_setting(qwen3_vl, tmp_path):
    (tmp_path / "file").write_text("")
    engine = VLLMEngine(qwen3_vl, StandIn(qwen3_vl), tmp_path / "file" / "weights", "float32")
    with pytest.raises(ValueError, match=r"can't be written to .*/file/weights .*rollout.vllm.weights=FOLDER"):
        engine.sync_weights()


def test_a_full_memory_file_system_is_named_with_its_setting(qwen3_vl, tmp_path, monkeypatch):
    def full(partial: Path, state_dict) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(qwen3_vl.model, "save_pretrained", full)
    with pytest.raises(ValueError, match=r"can't be written to .*No space left.*rollout.vllm.weights=FOLDER"):
        over(qwen3_vl, tmp_path).sync_weights()


def test_a_sampler_in_bfloat16_stays_ten_times_below_the_alarm_and_other_weights_stand_above_it():
    limit = composed("experiment=smoke").alarms.mismatch
    trainer_ = loading.load_model(loading.EMBEDDED, "tiny")

    def mismatch(sampler: PolicyModel) -> float:
        played = play(sampler, KVEngine(sampler), opened(trainer_, questions=4, siblings=4), RolloutLimits(1, 64, Sampling(1.0, 40)))
        with torch.no_grad():
            ours = torch.cat(sampled_logprobs(trainer_, played, 1.0))
        return float((ours - torch.tensor([value for t in played for value in t.sampler_logprobs])).abs().mean())

    assert mismatch(loading.load_model(loading.EMBEDDED, "tiny", "bfloat16")) < limit / 10
    moved = loading.load_model(loading.EMBEDDED, "tiny")
    torch.manual_seed(0)
    with torch.no_grad():
        for p in moved.model.parameters():
            p += 0.1 * p.abs().mean() * torch.randn_like(p)
    assert mismatch(moved) > limit


def test_settings_that_vllm_cannot_run_are_refused_before_a_model_is_loaded(monkeypatch):
    def problems(*overrides: str) -> str:
        return "\n".join(problems_of(composed("experiment=smoke", "rollout=vllm", *overrides), TrainConfig))

    monkeypatch.setattr("focus.config.section_checks.find_spec", lambda name: None)
    assert "vllm, which is not installed here: `make env-vllm` does it" in problems()
    monkeypatch.setattr("focus.config.section_checks.find_spec", lambda name: name)
    assert problems() == ""
    assert "rollout.vllm.mode is 'remote'; choose colocated" in problems("rollout.vllm.mode=remote")
    assert "rollout.endpoint.url is null; write it in full" in problems("rollout.vllm.mode=served")
    assert problems("rollout.vllm.mode=served", "rollout.endpoint.url=http://gpu1:8000/v1") == ""
    assert "rollout.vllm.weights is /nowhere, which is no folder that can be written" in problems("rollout.vllm.weights=/nowhere")
    assert "rollout.vllm.dtype is 'float8'; choose auto, float32 or bfloat16" in problems("rollout.vllm.dtype=float8")
    assert "rollout.vllm.memory_share is 1.5; it is a share in (0, 1]" in problems("rollout.vllm.memory_share=1.5")
    assert "rollout.vllm.block_size is 0; it must be above 0, or null" in problems("rollout.vllm.block_size=0")
    assert "rollout.sampler_ratio_cap is 0.5; below 1 it would weigh down" in problems("rollout.sampler_ratio_cap=0.5")
    assert "policy.lora_rank is 513, but vLLM takes adapters up to 512" in problems("policy.lora_rank=513")
    assert "rollout.vllm holds no settings; choose rollout=vllm" in problems("rollout.vllm=null")


def test_a_run_resumes_though_its_server_has_moved_but_not_with_other_arithmetic():
    def learned(*overrides: str) -> dict[str, Any]:
        return learned_settings(plain(composed("experiment=smoke", "rollout=vllm", *overrides)))

    moved = (
        "rollout.vllm.mode=served",
        "rollout.endpoint.url=http://gpu2:8000/v1",
        "rollout.vllm.weights=/tmp",
        "rollout.vllm.memory_share=0.9",
    )
    assert learned() == learned(*moved)
    assert learned() == learned("rollout.vllm.dtype=float32")  # what auto means on the CPU
    assert learned() != learned("rollout.vllm.dtype=bfloat16")
    assert learned() != learned("rollout.sampler_ratio_cap=3")
