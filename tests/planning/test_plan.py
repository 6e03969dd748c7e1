"""A plan says before a model loads what a run takes; its parts are worked by hand, its record is checked against its README."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from experiments.plan import measure
from experiments.scale import table as scale
from focus import config
from focus.config import ConfigError
from focus.config.schema import PlanConfig
from focus.planning import advice, architecture, estimate, hardware
from focus.rollout.kv import KVEngine
from focus.runs import plan

ROOT = Path(__file__).parents[2]
SEVEN_B = (
    "policy.checkpoint=Qwen/Qwen2.5-VL-7B-Instruct", "policy.dialect=qwen2_5_vl", "policy.train_vision=false", "trainer=ddp", "devices=8",
    "rollout.questions_per_update=256", "rollout.rollouts_per_question=16", "rollout.tokens_per_turn=2048", "rollout.max_crops=5",
    "gap.view_tokens=1024", "rollout.crop_tokens=1024", "objective.tokens_per_forward=65536",
)  # fmt: skip


def settings(*overrides: str):
    with initialize_config_dir(version_base="1.3", config_dir=str(config.CONF)):
        return compose("plan", ["experiment=stage1", *overrides])


def made(*overrides: str) -> estimate.Plan:
    return estimate.make_plan(settings(*overrides))


@pytest.mark.parametrize(
    ("name", "billions"),
    [("Qwen2.5-VL-3B", 3.755), ("Qwen2.5-VL-7B", 8.292), ("Qwen3-VL-4B", 4.438), ("Qwen3-VL-8B", 8.767)],
)
def test_published_models_have_the_parameters_that_are_known_of_them(name, billions):
    policy = settings(f"policy.checkpoint=Qwen/{name}-Instruct").policy
    assert architecture.parameters_of(policy).total == pytest.approx(billions * 1e9, rel=2e-4)


def test_parameters_of_a_policy_are_those_that_it_has(random_policy):
    from focus import build

    for changes in ((), ("policy.train_vision=false",), ("policy.lora_rank=4",), ("policy.lora_rank=4", "policy.train_vision=false")):
        policy = settings(f"policy.checkpoint={random_policy}", *changes).policy
        model, counted = build.load_policy(policy).model, architecture.parameters_of(policy)
        assert counted.total == sum(p.numel() for p in model.parameters())
        assert counted.trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_full_training_in_float32_holds_sixteen_bytes_of_a_parameter_on_one_device():
    one = made("trainer.devices=1")
    assert sum(one.memory[key] for key in ("weights", "gradients", "moments")) == 16 * one.parameters.total


def test_what_each_strategy_divides_among_eight_devices():
    fsdp = "trainer.strategy={_target_:pytorch_lightning.strategies.ModelParallelStrategy}"
    whole, shared = made("devices=1"), made("devices=8", fsdp)
    zero, ddp = made("devices=8", "trainer.strategy=deepspeed_stage_2"), made("devices=8", "trainer.strategy=ddp")
    assert (shared.sharding.kind, zero.sharding.kind, ddp.sharding.kind, whole.sharding.kind) == ("fsdp", "zero2", "ddp", "one")
    for key in ("weights", "gradients", "moments"):
        assert shared.memory[key] == whole.memory[key] / 8
    assert zero.memory["weights"] == whole.memory["weights"] and zero.memory["moments"] == whole.memory["moments"] / 8
    assert ddp.memory["moments"] == whole.memory["moments"] and ddp.memory["gradients"] == 2 * whole.memory["gradients"]  # its buckets


def test_a_frozen_tower_stays_whole_under_fsdp():
    fsdp = "trainer.strategy={_target_:focus.runtime.strategies.FullyShardedStrategy,arithmetic:bfloat16}"
    counted = (found := made("devices=8", fsdp, "policy.train_vision=false")).parameters
    assert found.memory["weights"] == 4 * (counted.visual + (counted.total - counted.visual) / 8)
    assert found.memory["gathered for the rollout"] == 2 * (counted.total - counted.visual)


def test_the_cache_is_what_the_engine_holds(qwen3_vl, tmp_path):
    """Rows of equal length: prompts of all but one token, and after the turn as many slots as the longest row."""
    qwen3_vl.save(tmp_path / "policy", "float32")
    cfg = measure.settings(str(tmp_path / "policy"), "tiny", ["rollout.max_crops=0", "rollout.tokens_per_turn=5"])
    engine = KVEngine(qwen3_vl)
    done = measure.rollout(qwen3_vl, cfg, engine)
    seen = measure.observed(done)
    held = estimate.Shape(qwen3_vl.model.config, estimate.sharding(cfg))
    cache = held.cache(replace(seen, turn=5), measure.QUESTIONS, measure.ROLLOUTS, 5)
    rows = {id(k.rows): k.rows for k in engine._cached.values()}.values()
    longest = max(len(t.prompt_ids) for t in done) - 1
    prompts = held.cache(replace(seen, prompt=longest), measure.QUESTIONS, measure.ROLLOUTS, 5).prompts
    assert engine._prompts is not None and prompts == measure.size(engine._prompts.keys + engine._prompts.values)
    assert sum(r.keys[0].shape[0] for r in rows) == measure.QUESTIONS * measure.ROLLOUTS
    assert max(r.keys[0].shape[2] for r in rows) == 5
    assert cache.kept == measure.QUESTIONS * measure.ROLLOUTS * 5 * 2 * 2 * 64 * 4  # rows, slots, layers, keys and values, width, float32


def test_tokens_of_a_rollout_are_its_prompt_turns_replies_and_crops():
    lengths = estimate.Lengths(prompt=100, view=64, turns=3, turn=10, reply=5, crop=20)
    assert (lengths.sampled, lengths.suffix, lengths.visual, lengths.before(3)) == (30, 80, 104, 70)


def test_half_the_questions_side_by_side_take_half_the_cache():
    whole, half = made(), made("rollout.questions_per_forward=4")
    for key in ("cache, prompts", "cache, a finished turn", "cache, the turn"):
        assert half.memory[key] == whole.memory[key] / 2


@pytest.mark.parametrize("change", ["rollout.tokens_per_turn=80", "rollout.max_crops=2", "gap.view_tokens=64", "rollout.crop_tokens=128"])
def test_longer_rollouts_need_more(change):
    assert made(change).phases["rollout"] > made().phases["rollout"]


def test_checkpointing_trades_memory_for_a_forward():
    kept, again = made(), made("policy.activation_checkpointing=true")
    assert again.memory["activations"] < kept.memory["activations"] / 2
    assert again.flops["update"] > kept.flops["update"] and again.flops["decoding"] == kept.flops["decoding"]


def test_logits_of_the_update_take_no_more_than_three_chunks_and_cost_the_head_once_more(monkeypatch):
    """16 rollouts of 2 x 40 tokens pass together, of a vocabulary of 512; at 7B each of 8 devices weighs 32 x 16 rollouts of 200 tokens."""
    assert made().memory["logits of the update"] == 12 * 512 * 16 * 80
    chunked = made(*SEVEN_B)
    assert chunked.memory["logits of the update"] == 3 * estimate.LOGITS_BYTES
    monkeypatch.setattr(estimate, "LOGITS_BYTES", 10**15)
    whole = made(*SEVEN_B)
    assert whole.memory["logits of the update"] > 20 * chunked.memory["logits of the update"]
    assert chunked.flops["update"] - whole.flops["update"] == pytest.approx(2 * 32 * 16 * 200 * 3584 * 152064, rel=1e-6)


def test_gradients_travel_twice_under_ddp_and_once_for_each_forward_under_fsdp():
    ddp = made("devices=8", "trainer.strategy=ddp")
    assert ddp.network["gradients"] == 2 * 7 / 8 * 4 * ddp.parameters.trainable and ddp.network["weights, rollout"] == 0
    assert sum(made("devices=1").network.values()) == 0
    fsdp = made("devices=8", "trainer.strategy={_target_:focus.runtime.strategies.FullyShardedStrategy,arithmetic:float32}")
    assert fsdp.network["weights, rollout"] == 7 / 8 * 4 * fsdp.parameters.total
    assert fsdp.network["weights, update"] == 2 * fsdp.micro_batches * fsdp.network["weights, rollout"]


def test_every_piece_of_advice_lowers_the_peak_and_is_true_when_followed():
    cfg = config.validated(settings(*SEVEN_B), PlanConfig)
    before = estimate.make_plan(cfg)
    found = advice.advice(cfg, before)
    peaks = [before.peak, *(each.peak for each in found)]
    assert not before.fits and peaks == sorted(peaks, reverse=True)
    assert found[-1].fits
    for each in found:
        changed = cfg
        for override in each.overrides:
            changed = advice.changed_by(changed, override)
        assert estimate.make_plan(changed).peak == each.peak


@pytest.mark.processes
def test_a_plan_that_does_not_fit_ends_with_the_changes_and_status_1(tmp_path):
    command = [sys.executable, "-m", "focus.plan", "experiment=stage1", *SEVEN_B, f"output={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "does not fit" in done.stderr and "policy.activation_checkpointing=true" in done.stderr
    assert json.loads((tmp_path / "plan.json").read_text())["advice"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["device=a100"], "a100_80gb, h100_80gb, h200, rtx_4090, cpu"),
        (["devices=3"], "choose a multiple"),
        (["trainer=ddp"], "devices=8"),
        (["policy.checkpoint=Nobody/Nothing"], "its config.json is enough"),
        (["devices=0"], "at least 1"),
    ],
)
def test_what_can_not_be_planned_is_said_in_one_message(overrides, said, tmp_path):
    with pytest.raises((ValueError, ConfigError), match=said):
        plan.run(settings(*overrides, f"output={tmp_path}"))


def test_a_plan_asks_for_no_data_and_no_engine(monkeypatch):
    config.validated(settings("data=pixelreasoner"), PlanConfig)
    monkeypatch.setattr("focus.config.checks.find_spec", lambda name: None)
    config.validated(settings("rollout=vllm", "rollout.vllm.weights=/nowhere"), PlanConfig)


def test_the_table_of_the_measurement_is_that_of_its_record_and_misses_are_those_it_names():
    record = json.loads((ROOT / "experiments/plan/results.json").read_text())
    assert measure.table(record["rows"]) in (ROOT / "experiments/plan/README.md").read_text()
    missed = {row["quantity"] for row in record["rows"] if abs(row["off"]) > measure.WITHIN}
    assert missed <= {"cache, a finished turn"} and record["within"] == record["of"] - sum(
        abs(row["off"]) > measure.WITHIN for row in record["rows"]
    )


def test_the_published_step_time_and_the_plan_beside_it_are_those_of_the_record():
    record = json.loads((ROOT / "experiments/plan/peer.json").read_text())
    shown = (ROOT / "experiments/plan/README.md").read_text()
    assert (record["compute share"], record["bandwidth share"]) == (hardware.COMPUTE_SHARE, hardware.BANDWIDTH_SHARE)
    for name, row in record["rows"].items():
        assert f"| plan, {name} | {row['tokens of a rollout']:,} |" in shown and f"| {row['in all']} |" in shown
        assert row["in all"] < record["peer"]["in all"]  # a lower bound


def test_the_table_of_scale_is_what_the_plan_says_now():
    record = json.loads((ROOT / "experiments/scale/results.json").read_text())
    assert scale.table(record["rows"]) in (ROOT / "experiments/scale/README.md").read_text()
    assert scale.row("8 GPUs, FSDP", "h200") in record["rows"]
    assert all(row["measured"] == "*not run*" for row in record["rows"])
