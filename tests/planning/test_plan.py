"""A plan says before a model loads what a run takes; its parts are worked by hand, its record is checked against its README."""

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from experiments.plan import measure, peer
from experiments.scale import table as scale
from focus import config
from focus.config import ConfigError
from focus.config.schema import PlanConfig
from focus.planning import advice, answer, architecture, estimate
from focus.planning.bounds import Bounds, total
from focus.planning.lengths import Lengths, lengths
from focus.planning.setup import setup_of
from focus.runs import plan
from tests.support.ranks import forked

ROOT = Path(__file__).parents[2]
SEVEN_B = (
    "policy.checkpoint=Qwen/Qwen2.5-VL-7B-Instruct", "policy.dialect=qwen2_5_vl", "policy.train_vision=false", "trainer=ddp", "devices=8",
    "rollout.questions_per_update=256", "rollout.rollouts_per_question=16", "rollout.tokens_per_turn=2048", "rollout.max_crops=5",
    "gap.view_tokens=1024", "rollout.crop_tokens=1024", "objective.tokens_per_forward=65536",
)  # fmt: skip


def composed(*overrides: str):
    with initialize_config_dir(version_base="1.3", config_dir=str(config.CONF)):
        return compose("plan", ["experiment=stage1", *overrides])


def settings(*overrides: str) -> PlanConfig:
    return config.validated(composed(*overrides), PlanConfig)


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
    assert sum(one.phases["update"][key] for key in ("weights", "gradients", "moments")) == 16 * one.parameters.total


def test_what_each_strategy_divides_among_eight_devices():
    whole, shared = made("devices=1"), made("devices=8", "trainer=fsdp")
    zero, ddp = made("devices=8", "trainer=deepspeed"), made("devices=8", "trainer=ddp")
    assert (shared.sharding.kind, zero.sharding.kind, ddp.sharding.kind, whole.sharding.kind) == ("fsdp", "zero2", "ddp", "one")
    for key in ("weights", "gradients", "moments"):
        assert shared.phases["update"][key] == whole.phases["update"][key] / 8
    whole, zero, ddp = (each.phases["update"] for each in (whole, zero, ddp))
    assert zero["weights"] == whole["weights"] and zero["moments"] == whole["moments"] / 8
    assert ddp["moments"] == whole["moments"] and ddp["gradients"] == 2 * whole["gradients"]  # its buckets


def test_a_frozen_tower_stays_whole_under_fsdp():
    fsdp = "trainer.strategy={_target_:focus.runtime.strategies.FullyShardedStrategy,arithmetic:bfloat16}"
    counted = (found := made("devices=8", fsdp, "policy.train_vision=false")).parameters
    assert found.phases["rollout"]["weights"] == 4 * (counted.visual + (counted.total - counted.visual) / 8)
    assert found.phases["rollout"]["gathered weights"] == 2 * (counted.total - counted.visual)


def test_tokens_of_a_rollout_are_its_prompt_turns_replies_and_crops():
    lengths = Lengths(prompt=100, view=64, turns=3, turn=10, reply=5, crop=20)
    assert (lengths.sampled, lengths.suffix, lengths.visual, lengths.before(3)) == (30, 80, 104, 70)


def test_more_nodes_hold_no_smaller_share_and_a_plan_that_does_not_fit_says_so():
    """Two devices in each of four nodes: a half of everything on each device, as on one node of two."""
    small = ("experiment=stage1_7b", "devices=2")
    one, four = made(*small), made(*small, "trainer.num_nodes=4")
    for key in ("weights", "gradients", "moments"):
        assert four.phases["update"][key] == one.phases["update"][key] == 4 * four.parameters.total * (1 + (key == "moments")) / 2
    assert not four.fits and "Each of the 4 nodes holds all weights" in answer.over_nodes(four)[0]
    assert answer.over_nodes(one) == answer.over_nodes(made("experiment=stage1_7b", "devices=8", "trainer.num_nodes=4")) == []


def test_half_the_questions_side_by_side_take_half_the_cache():
    whole, half = made("rollout.questions_per_forward=8"), made("rollout.questions_per_forward=4")
    for key in ("cache, prompts", "cache, the turn"):
        assert half.phases["rollout"][key] == whole.phases["rollout"][key] / 2


@pytest.mark.parametrize("change", ["rollout.tokens_per_turn=80", "rollout.max_crops=2", "gap.view_tokens=64", "rollout.crop_tokens=128"])
def test_longer_rollouts_need_more(change):
    assert made(change).peaks["rollout"] > made().peaks["rollout"]


def test_checkpointing_trades_memory_for_a_forward():
    kept, again = made(), made("policy.activation_checkpointing=true")
    assert again.phases["update"]["activations, text"] < kept.phases["update"]["activations, text"] / 2
    assert again.flops["update"] > kept.flops["update"] and again.flops["decoding"] == kept.flops["decoding"]


def test_logits_in_chunks_cost_the_head_once_more(monkeypatch):
    """At 7B each of 8 devices weighs 32 x 16 rollouts of 200 tokens."""
    chunked = made(*SEVEN_B)
    monkeypatch.setattr("focus.planning.work.LOGITS_BYTES", 10**15)
    whole = made(*SEVEN_B)
    assert chunked.flops["update"] - whole.flops["update"] == pytest.approx(2 * 32 * 16 * 200 * 3584 * 152064, rel=1e-6)


def test_gradients_travel_twice_under_ddp_and_once_for_each_forward_under_fsdp():
    ddp = made("devices=8", "trainer.strategy=ddp")
    assert ddp.network["gradients"] == 2 * 7 / 8 * 4 * ddp.parameters.trainable and ddp.network["weights, rollout"] == 0
    assert sum(made("devices=1").network.values()) == 0
    fsdp = made("devices=8", "trainer.strategy={_target_:focus.runtime.strategies.FullyShardedStrategy,arithmetic:float32}")
    assert fsdp.network["weights, rollout"] == 7 / 8 * 4 * fsdp.parameters.total
    assert fsdp.network["weights, update"] == 2 * fsdp.micro_batches * fsdp.network["weights, rollout"]


def test_every_piece_of_advice_lowers_the_peak_and_is_true_when_followed():
    cfg = settings(*SEVEN_B)
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
    done = forked("-m", "focus.plan", "experiment=stage1", *SEVEN_B, f"output={tmp_path}").ended()
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
        plan.run(composed(*overrides, f"output={tmp_path}"))


def test_a_plan_asks_for_no_data_and_no_engine(monkeypatch):
    settings("data=pixelreasoner")
    monkeypatch.setattr("focus.config.section_checks.find_spec", lambda name: None)
    settings("rollout=vllm", "rollout.vllm.weights=/nowhere")


def test_the_table_of_the_measurement_is_that_of_its_record_and_every_quantity_is_within_15_percent():
    record = json.loads((ROOT / "experiments/plan/results.json").read_text())
    assert measure.table(record["rows"]) in (ROOT / "experiments/plan/README.md").read_text()
    assert record["within"] == record["of"] == len(record["rows"])
    assert all(abs(row["off"]) <= measure.WITHIN for row in record["rows"])


def test_the_table_beside_published_steps_is_what_the_plan_says_now():
    record = json.loads((ROOT / "experiments/plan/peer.json").read_text())
    assert peer.table(record["rows"]) in (ROOT / "experiments/plan/README.md").read_text()
    assert peer.rows() == record["rows"]


def test_the_table_of_scale_is_what_the_plan_says_now():
    record = json.loads((ROOT / "experiments/scale/results.json").read_text())
    assert scale.table(record["rows"]) in (ROOT / "experiments/scale/README.md").read_text()
    assert scale.row("8 GPUs, FSDP", "h200", "vllm") in record["rows"]
    assert all(row["measured"] == "*not run*" for row in record["rows"])


# -- the answer in words


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(20, 90, "20 to 90 seconds"), (150, 300, "2.5 to 5.0 minutes"), (5400, 9000, "1.5 to 2.5 hours"), (86400, 864000, "1.0 to 10 days")],
)
def test_a_duration_is_said_in_the_unit_of_its_upper_bound(low, high, said):
    assert answer.duration(Bounds(low, high)) == said


def test_the_first_sentence_says_whether_it_fits_and_how_long_the_whole_run_takes():
    cfg = settings("experiment=stage1_7b", "devices=8", "device=h100_80gb", "lengths.view=1024")
    plan_ = estimate.make_plan(cfg)
    first = answer.sentences(cfg, plan_, [], 14400)[0]
    assert first.startswith("It fits" if plan_.fits else "It does not fit")
    assert f"The whole run takes {answer.duration(plan_.of_the_run)}: 80 updates of" in first


def test_the_run_is_its_updates_and_all_that_stands_around_them():
    short, long = made("objective.updates=20"), made("objective.updates=40")
    assert short.run["updates"].low == pytest.approx(20 * short.of_an_update.low)
    assert long.run["probes inside training"].high == pytest.approx(2 * short.run["probes inside training"].high)  # every 20 updates
    assert (
        long.run["checkpoints"].high == pytest.approx(2 * short.run["checkpoints"].high)
        and long.run["evaluation"] == short.run["evaluation"]
    )
    assert made("evaluation.base=false").run["evaluation"].high == pytest.approx(short.run["evaluation"].high / 2)
    assert "evaluation" not in made("evaluation.samples=0").run


def test_a_prompt_beside_which_no_two_siblings_fit_is_a_caution_with_the_budget_that_holds_the_group():
    """16,384 tokens of view and 16 crops of 1,024, with a word each, are just above 32,768: 36,864 is the next of 4,096."""
    no_gap = settings("experiment=stage1_7b", "devices=8", "objective.tokens_per_forward=16384")
    [said] = config.cautions(no_gap)
    assert "passes the network 16 times" in said and "objective.tokens_per_forward=36864" in said
    assert config.cautions(settings("experiment=stage1_7b", "devices=8", "objective.tokens_per_forward=32768")) == []
    assert config.cautions(settings()) == []


def test_without_a_gap_a_drawn_picture_is_planned_at_the_tokens_that_it_has():
    """A scene of 448 pixels is 16 x 16 tokens of 28 pixels; photographs may fill the whole budget of 16,384."""
    scenes = settings("experiment=stage1", "gap=off")
    assert lengths(scenes)[0].view == 256 and config.cautions(scenes) == []
    as_fixed = estimate.make_plan(settings("experiment=stage1", "gap=fixed", "gap.view_tokens=256"))
    assert estimate.make_plan(scenes).of_an_update == as_fixed.of_an_update
    assert lengths(settings("experiment=stage1_7b", "gap=off"))[0].view == 16384


def test_a_family_that_no_test_runs_under_vllm_is_a_caution():
    [said] = config.cautions(settings("policy=qwen3_5_9b", "rollout=vllm"))
    assert "No test has run Qwen3.5 under vLLM. rollout=kv is tested" in said
    assert (
        config.cautions(settings("policy=qwen3_5_9b", "rollout=kv"))
        == config.cautions(settings("policy=qwen3_vl_8b", "rollout=vllm"))
        == []
    )


@pytest.mark.parametrize("recipe", ["stage1_7b devices=8 gap.view_tokens=1024", "stage1_7b_lora devices=1"])
def test_no_rollouts_that_the_settings_allow_need_more_than_the_plan_says(recipe):
    """Of the longest ones few fill a forward of the update, and a part of it stays empty: shorter ones with many crops take more."""
    cfg = settings(*f"experiment={recipe}".split())
    plan_ = estimate.make_plan(cfg)
    for turns, turn in product((1, 3, 6), (50, 500)):
        for each in (plan_.longest, plan_.mean):
            assert estimate.make_plan(cfg, replace(each, turns=turns, turn=turn)).peak <= 1.02 * plan_.peak, (turns, turn)
    assert estimate.make_plan(cfg, plan_.mean).peak <= plan_.peak


@pytest.mark.parametrize(
    ("recipe", "devices"),
    [("stage1_7b", 8), ("stage1_7b gap.view_tokens=1024", 8), ("stage1_7b policy=qwen3_vl_8b", 8), ("stage1_7b_lora", 1)],
)
def test_in_a_7b_recipe_a_prompt_passes_once_for_its_rollouts_of_mean_length_and_that_fits(recipe, devices):
    cfg = settings(*f"experiment={recipe} devices={devices} device=a100_80gb".split())
    plan_ = estimate.make_plan(cfg)
    assert plan_.fits and plan_.passes == cfg.rollout.questions_per_update / devices


def test_engines_that_differ_by_less_than_a_tenth_are_about_as_fast(monkeypatch):
    cfg, plan_ = settings("rollout=kv"), made("rollout=kv")
    for factor, said in ((1.05, "about as fast"), (1.2, "Faster: rollout=kv."), (0.5, "Faster: rollout=vllm.")):
        other = replace(plan_, seconds={part: bounds * factor for part, bounds in plan_.seconds.items()})
        monkeypatch.setattr(answer, "make_plan", lambda _, other=other: other)
        assert said in answer.engines(cfg, plan_)


@pytest.mark.parametrize(("minutes", "word"), [(0, "reaches"), (10**6, "does not reach")])
def test_a_job_that_ends_before_its_next_checkpoint_is_named(minutes, word):
    plan_ = made(
        "experiment=stage1_7b", "devices=8", "lengths.view=1024", f"report.checkpoint_minutes={minutes}", "report.checkpoint_every=1000"
    )
    said = answer.between_checkpoints(plan_, 14400)
    assert f"{word} its next checkpoint" in said and ("timeout_min" in said) == (minutes > 0)
    assert plan_.between_checkpoints == (1000 if minutes else 1)


def test_vllm_holds_a_copy_of_the_weights_in_its_own_dtype_within_its_share():
    bf16, f32 = (
        made("experiment=stage1_7b", "devices=8", "rollout=vllm", f"rollout.vllm.dtype={dtype}", "rollout.vllm.memory_share=0.4")
        for dtype in ("bfloat16", "float32")
    )
    assert (bf16.vllm["weights"], f32.vllm["weights"]) == (2 * bf16.parameters.total, 4 * bf16.parameters.total)
    assert f32.lacks_cache and not f32.fits and not bf16.lacks_cache
    assert sum(bf16.phases["rollout"][f"vLLM, {name}"] for name in ("weights", "beside", "cache")) == pytest.approx(0.4 * 80e9)
    assert "gathered weights" not in bf16.phases["rollout"] and bf16.network["weights, rollout"] == 0


def test_a_change_of_the_engine_is_planned_with_the_settings_of_its_file():
    cfg = settings("experiment=stage1_7b", "devices=8", "rollout=kv")
    other = advice.changed_by(cfg, "rollout=vllm")
    assert other.rollout == settings("experiment=stage1_7b", "devices=8", "rollout=vllm").rollout.model_copy(update={"endpoint": None})
    assert advice.changed_by(other, "rollout=kv").rollout == cfg.rollout


def test_what_is_said_to_be_faster_is_faster_and_fits():
    cfg = settings("experiment=stage1_7b", "devices=8", "device=h100_80gb")
    before = estimate.make_plan(cfg)
    found = advice.faster(cfg, before)
    assert any("no level table" in each.why for each in found)
    for each in found:
        after = estimate.make_plan(advice.changed_by(cfg, each.override))
        assert after.fits and after.of_the_run == each.run and each.run.middle < before.of_the_run.middle


def test_of_qwen3_5_only_every_fourth_layer_caches_keys_and_the_others_one_state_a_sequence():
    """32 layers, 4 key heads of width 256; 32 value heads of width 128 with 128 x 128 numbers each, in float32."""
    shape = setup_of(settings("policy=qwen3_5_4b", "trainer.precision=bf16-mixed")).shape
    assert shape.cached == 2 * 8 * 4 * 256 * 2
    assert shape.state == 24 * 32 * 128 * 128 * 4


def test_a_batch_that_a_server_samples_while_another_trains_costs_the_longer_of_the_two():
    served = ("experiment=stage1_7b", "devices=8", "rollout.vllm.mode=served", "rollout.endpoint.url=http://server:8000/v1")
    apart, together = made(*served), made(*served, "rollout.overlap=true")
    sampled = [apart.seconds[name] for name in ("prefill and vision tower", "decoding")]
    trained = [apart.seconds[name] for name in ("update", "optimiser")]
    longer = max((sampled, trained), key=lambda parts: total(parts).middle)
    assert together.of_an_update == total([*longer, apart.seconds["weights to vLLM"]])
    assert together.host["images of an update"] == 2 * apart.host["images of an update"]


def test_kv_that_samples_ahead_holds_a_copy_of_the_weights_that_learn():
    apart, together = made("device=cpu"), made("device=cpu", "rollout.overlap=true")
    copy = 4 * apart.parameters.trainable
    assert together.phases["update"] == apart.phases["update"] | {"weights that sample": copy}
    name = "weights, each process its own copy"
    assert together.host[name] == apart.host[name] + copy and together.of_an_update == apart.of_an_update
