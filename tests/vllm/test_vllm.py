"""vLLM against our own engine, on tiny policies of both families, on CPU. Run by `make test-vllm`; `make test` needs no vLLM."""

import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from peft import LoraConfig, get_peft_model

os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # it would bind itself to the cores that the tests compute on

from focus.model.policy_model import PolicyModel
from focus.rollout.engine import Requests, Sampling
from focus.rollout.kv import KVEngine
from focus.rollout.loop import RolloutLimits, request_for, seed_of
from focus.rollout.trajectory import Status, Trajectory
from focus.rollout.vllm import Remote, Sampler, VLLMEngine, VLLMOptions
from focus.runtime.endpoint import Endpoint, Outage
from tests.support.policies import random_qwen2_5_vl, random_qwen3_vl
from tests.support.scripted import boxes_of, call, completions, playing
from tests.support.updates import module_of, questions, trainer
from tests.vllm.cpu_transfer import OnCPU

CLOSE = 1e-4  # nats; what is measured lies near 1e-6
ROOM = VLLMOptions("float32", 0.1, 0.5, 2048, 32, enforce_eager=True, images=4, lora_rank=8)


def tied_qwen2_5_vl(seed: int) -> PolicyModel:
    """As the 3B is: the head is the embedding."""
    return random_qwen2_5_vl(seed, tied=True)


FAMILIES: dict[str, Callable[[int], PolicyModel]] = {
    "qwen2_5_vl": random_qwen2_5_vl,
    "qwen2_5_vl, tied": tied_qwen2_5_vl,
    "qwen3_vl": random_qwen3_vl,
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request) -> str:
    return request.param


def started_from(family: str, folder: Path) -> str:
    """The weights that a vLLM starts with; no test samples from them."""
    FAMILIES[family](0).save(folder / "policy", "float32")
    return str(folder / "policy")


@pytest.fixture(scope="module")
def sampler(family, tmp_path_factory) -> Iterator[Sampler]:
    """One vLLM for each family; every test gives weights of its own to it."""
    made = OnCPU(started_from(family, tmp_path_factory.mktemp("colocated")), ROOM)
    yield made
    made.llm.llm_engine.engine_core.shutdown()


def random_policy(family: str, seed: int) -> PolicyModel:
    policy = FAMILIES[family](seed)
    policy.model.eval()
    return policy


def engine(policy: PolicyModel, sampler: Sampler, folder: Path) -> VLLMEngine:
    made = VLLMEngine(policy, sampler, folder / "weights", "float32")
    made.sync_weights()
    return made


def looked(policy: PolicyModel, crops: int, index: int = 0, seed: int = 0) -> Trajectory:
    """A conversation that is about to go on after some crops."""
    calls = [call(*box) for box in boxes_of(policy)[:crops]]
    played = playing(policy, *calls, "<answer>1</answer>", max_crops=crops, index=index)
    return replace(played, turns=played.turns[:crops], status=Status.OPEN, seed=seed)


def some(policy: PolicyModel) -> list[Trajectory]:
    return [looked(policy, crops, index, seed=index) for crops in (0, 1, 3) for index in range(2)]


def apart(policy: PolicyModel, made: VLLMEngine, open_ones: list[Trajectory], temperature: float = 1.0) -> float:
    """The largest difference between what vLLM says of its own draws and what our engine says of them, at temperature 1."""
    asked = [request_for(t, -1) for t in open_ones]
    drawn = completions(made, asked, Sampling(temperature, 24))
    words = [said.ids for said in drawn]
    assert all(words) and not {i for ids in words for i in ids} & set(policy.banned_ids)
    kv = KVEngine(policy)
    ours = kv.logprobs([request_for(t, -1, ids) for t, ids in zip(open_ones, words, strict=True)], [len(ids) for ids in words])
    return max(abs(a - b) for i, row in enumerate(ours) for a, b in zip(row, drawn[i].logprobs, strict=True))


def move(policy: PolicyModel, part: str) -> None:
    """Other weights, in that part of the model alone, by about a tenth of their size."""
    torch.manual_seed(5)
    found = [p for name, p in policy.model.named_parameters() if part in name]
    assert found
    with torch.no_grad():
        for p in found:
            p += 0.1 * p.abs().mean() * torch.randn_like(p)


def test_log_probabilities_equal_those_of_kv_after_no_one_and_three_crops(family, sampler, tmp_path):
    policy = random_policy(family, 1)
    made = engine(policy, sampler, tmp_path)
    assert apart(policy, made, some(policy)) < CLOSE
    assert apart(policy, made, some(policy), temperature=0) < CLOSE  # greedy; told at temperature 1, as kv does


@pytest.mark.parametrize("part", ["embed_tokens", "self_attn", "mlp", "layernorm", "visual.patch_embed", "visual.blocks", "visual.merger"])
@pytest.mark.parametrize("in_memory", [False, True], ids=["folder", "in memory"])
def test_every_part_of_the_weights_is_renewed(family, sampler, tmp_path, part, in_memory, monkeypatch):
    """A tied head too: vLLM's own reload leaves the copy that its CPU build packed of it."""
    monkeypatch.setattr(sampler, "takes_tensors", in_memory)
    policy = random_policy(family, 1)
    made = engine(policy, sampler, tmp_path)
    asked = some(policy)
    before = apart(policy, made, asked)
    move(policy, part)
    stale = apart(policy, made, asked)
    made.sync_weights()
    assert before < CLOSE < stale
    assert apart(policy, made, asked) < CLOSE
    assert not made.folder.exists()  # the copy took memory only while it was read


def test_a_training_step_renews_the_weights_once_and_the_next_rollout_samples_from_them(family, sampler, tmp_path):
    policy = random_policy(family, 2)
    module = module_of(policy, sampler_ratio_cap=2.0, learning_rate=3e-3)
    module.limits = RolloutLimits(
        1, 64, Sampling(0.7, 6)
    )  # log-probabilities are those of the distribution drawn from, temperature included
    module.engine = made = VLLMEngine(policy, sampler, tmp_path / "weights", "float32")
    seen = []
    module._log_update = lambda *args, **_: seen.append(
        (args[3]["objective/mismatch_max"], args[3]["objective/sampler_truncated"], made.syncs)
    )
    trainer().fit(module, questions(updates=3))
    assert [syncs for *_, syncs in seen] == [2, 3, 4]  # at the start, then after every update
    assert all(mismatch < CLOSE and truncated == 0 for mismatch, truncated, _ in seen)


def test_a_resumed_run_samples_from_the_weights_that_it_stopped_with(family, sampler, tmp_path):
    def run(resume: Path | None = None, **more) -> list[float]:
        policy = random_policy(family, 2)
        module = module_of(policy, learning_rate=3e-3)
        module.engine = VLLMEngine(policy, sampler, tmp_path / "weights", "float32")
        seen: list[float] = []
        module._log_update = lambda *args, **_: seen.append(args[3]["objective/mismatch_max"])
        trainer(**more).fit(module, questions(updates=3), ckpt_path=resume)
        return seen

    kept = pl.callbacks.ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1, save_on_train_epoch_end=False)
    run(enable_checkpointing=True, callbacks=[kept])
    later = run(tmp_path / "step=1.ckpt")
    assert len(later) == 2 and max(later) < CLOSE


def test_a_later_turn_finds_the_earlier_ones_and_a_sibling_its_prompt_in_the_cache(family, sampler, tmp_path):
    policy = random_policy(family, 1)
    made = engine(policy, sampler, tmp_path)
    settings = {"max_tokens": 4, "logprobs": 0}

    def cached(t: Trajectory) -> tuple[int, int]:
        asked, said = next(sampler.complete(Requests([request_for(t, -1)]), made._prompt_of, settings))
        return said.cached, len(asked.ids)

    first, second = looked(policy, 0), looked(policy, 1)
    assert cached(first)[0] == 0
    prompt = cached(first)[1]
    assert cached(first)[0] >= prompt - 32  # whole blocks alone
    assert prompt - 32 <= cached(second)[0] < cached(second)[1]
    made.sync_weights()
    assert cached(first)[0] == 0  # nothing that the old weights computed


def test_a_draw_is_fixed_by_its_seed(family, sampler, tmp_path):
    policy = random_policy(family, 1)
    made = engine(policy, sampler, tmp_path)
    asked = [request_for(looked(policy, 1, index % 2, seed=seed_of(index)), -1) for index in range(6)]
    first, again = (completions(made, asked, Sampling(1.0, 12)) for _ in range(2))
    assert [said.ids for said in first] == [said.ids for said in again]
    assert len({first[i].ids for i in range(0, 6, 2)}) == 3  # siblings of one question differ


def test_a_turn_ends_with_the_stop_token_or_at_the_limit(family, sampler, tmp_path):
    policy = random_policy(family, 1)
    made = engine(policy, sampler, tmp_path)
    seen = set()
    for said in completions(made, [request_for(looked(policy, 0, seed=seed), -1) for seed in range(40)], Sampling(1.0, 60)):
        stops = [place for place, token in enumerate(said.ids) if token in policy.stop_ids]
        assert said.stopped == bool(stops) and stops in ([], [len(said.ids) - 1])
        assert said.stopped or len(said.ids) == 60
        seen.add(said.stopped)
    assert seen == {True, False}


def adapted(family: str, seed: int) -> PolicyModel:
    """The weights that vLLM was started with, and an adapter that matters."""
    policy = random_policy(family, 0)
    layers = [f"{kind}_proj" for kind in ("q", "k", "v", "o", "gate", "up", "down")]
    names = [name for name, _ in policy.model.named_modules() if "language_model" in name and name.rpartition(".")[2] in layers]
    policy.model = get_peft_model(policy.model, LoraConfig(r=4, lora_alpha=8, target_modules=names))
    torch.manual_seed(seed)
    for name, p in policy.model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(p, std=0.1)
    return policy


def test_an_adapter_is_published_as_such_and_a_changed_one_replaces_it(family, sampler, tmp_path):
    plain = random_policy(family, 1)
    assert apart(plain, engine(plain, sampler, tmp_path), some(plain)) < CLOSE  # others than those that the adapter belongs to
    policy = adapted(family, 3)
    made = engine(policy, sampler, tmp_path)
    assert apart(policy, made, some(policy)) < CLOSE
    move(policy, "lora_B")
    assert apart(policy, made, some(policy)) > CLOSE
    made.sync_weights()
    assert apart(policy, made, some(policy)) < CLOSE


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[tuple[str, str]]:
    """The command of docs/train-7b.md, with what a CPU needs."""
    said = (Path(__file__).parents[2] / "docs/train-7b.md").read_text().replace("\\\n", " ")
    [line] = re.findall(r"^ *VLLM_SERVER_DEV_MODE.*$", said, flags=re.MULTILINE)
    words = shlex.split(line)
    at = words.index("vllm")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = started_from("qwen3_vl", tmp_path_factory.mktemp("served"))
    setting = dict(word.split("=", 1) for word in words[:at]) | {"PYTHONPATH": str(Path(__file__).parents[2])}
    assert words[at + 1 : at + 3] == ["serve", "FOLDER"]  # the CPU wheel is not named vllm, which that command stumbles over
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", folder, *words[at + 3 :]]
    command += ["--port", str(port), "--dtype", "float32", "--enforce-eager", "--block-size", "32", "--max-model-len", "2048"]
    command += ["--kv-cache-memory-bytes", str(2**29)]
    with (Path(folder) / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=os.environ | setting, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}/v1"
    for _ in range(180):
        assert process.poll() is None, (Path(folder) / "server.log").read_text()[-3000:]
        try:
            Endpoint(url, folder, "NO_KEY", 60, 0, 1).models()
            break
        except Outage:
            time.sleep(1)
    yield url, folder
    process.terminate()
    process.wait()


def test_a_served_vllm_takes_adapters_and_weights_and_equals_kv_with_each(server, tmp_path):
    remote = Remote(Endpoint(*server, "NO_KEY", 60, 0, 8))
    policy = adapted("qwen3_vl", 3)
    made = engine(policy, remote, tmp_path)
    assert apart(policy, made, some(policy)) < CLOSE
    move(policy, "lora_B")
    made.sync_weights()
    assert apart(policy, made, some(policy)) < CLOSE
    plain = random_policy("qwen3_vl", 1)
    made = engine(plain, remote, tmp_path)
    assert apart(plain, made, some(plain)) < CLOSE
    move(plain, "embed_tokens")
    made.sync_weights()
    assert apart(plain, made, some(plain)) < CLOSE
