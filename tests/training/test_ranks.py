"""Several processes are one run: same loss, same weights, same figures, whatever is divided among them. gloo on the CPU."""

import importlib.util
import json
import math
import os
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import pytorch_lightning as pl
import torch
from torch.distributed.fsdp import FSDPModule

from focus import config
from focus.build import autocast_like_trainer, own_device, run_facts
from focus.config.schema import TrainConfig
from focus.data import questions as questions_
from focus.data.questions import Broken, Questions
from focus.data.scenes import DIFFICULTY, Scenes
from focus.evaluation.outcome import METRICS, load_outcomes
from focus.gap import Gap, Mode
from focus.model import loading, policy_model
from focus.rollout.engine import Sampling
from focus.runs import train
from focus.runtime import distributed, files, strategies
from focus.runtime.strategies import FullyShardedStrategy
from focus.training.policy import FocusPolicy
from focus.training.probe_callback import ProbeCallback
from tests.support.policies import FAMILIES
from tests.support.ranks import forked, in_ranks, invent_gpus
from tests.support.runs import SMALL, settings
from tests.support.updates import Rows, Seldom, assert_close, module_of, questions, trainer

HELD_OUT = Scenes(replace(DIFFICULTY[1], side_px=224), "eval", 3)


def unreadable(draws: list[int]) -> type:
    """A data set in which these questions of the run can't be read."""

    class Unreadable(questions_._Opened):
        def __getitem__(self, draw):
            return Broken(draw, f"number {draw}", "it is cut off") if draw in draws else super().__getitem__(draw)

    return Unreadable


def fitted(job: dict) -> tuple[FocusPolicy, list[dict[str, float]]]:
    """Train by `job`; the same function in one process and in each of several."""
    torch.set_num_threads(1)
    policy = FAMILIES[job["family"]](seed=4)
    if job.get("tied"):
        policy.unwrapped.lm_head.weight = policy.backbone.language_model.get_input_embeddings().weight
    policy.backbone.visual.requires_grad_(not job.get("frozen"))
    module = module_of(policy, tokens_per_forward=job.get("tokens_per_forward", 600), grad_clip=job.get("grad_clip", 1e9))
    if job.get("dead_groups"):
        module.settings = replace(module.settings, dead_groups=job["dead_groups"], answers_per_crop=2)
        module.rewards, module.limits = [Seldom(1.0)], replace(module.limits, force_first_crop=True)
    if job.get("uneven"):
        module.limits = replace(module.limits, sampling=Sampling(1.0, 3 + 20 * int(os.environ.get("LOCAL_RANK", 0))))
    rows = Rows()
    callbacks = [ProbeCallback(HELD_OUT, Gap(Mode.FIXED, 16, policy.token_px), module.limits, 1, 2), rows]
    if job.get("keep"):
        save = pl.callbacks.ModelCheckpoint(
            job["keep"], filename="at-{step}", every_n_train_steps=1, save_top_k=-1, save_on_train_epoch_end=False
        )
        callbacks.append(save)
    strategy = FullyShardedStrategy(job.get("arithmetic", "float32")) if job["strategy"] == "fsdp" else job["strategy"]
    data = questions(job["updates"])
    if job.get("other_data") and os.environ.get("LOCAL_RANK") == "1":
        data = Questions(Scenes(replace(DIFFICULTY[1], side_px=224), "train", 11), 1, 4, workers=0, seed=5)
    made = trainer(
        devices=job["devices"],
        num_nodes=job.get("nodes", 1),
        strategy=strategy,
        callbacks=callbacks,
        enable_checkpointing=bool(job.get("keep")),
        log_every_n_steps=1,
    )
    if job.get("torch") == "2.11":
        del FSDPModule.reset_iter_state
    logits = job.get("logits", policy_model.LOGITS_BYTES)
    with patch.object(questions_, "_Opened", unreadable(job.get("broken", []))), patch.object(policy_model, "LOGITS_BYTES", logits):
        made.fit(module, data, ckpt_path=job.get("resume"))
    return module, rows.rows


WORKER = """
import json, sys, torch
from tests.training.test_ranks import fitted
job = json.loads(sys.argv[1])
policy, rows = fitted(job)
state = dict(policy.policy.plain_state())
if policy.global_rank == 0:
    torch.save((state, rows, policy.updates_done), job["out"])
"""


def played_by(ranks_: int, folder: Path, worker: str = WORKER, **job) -> tuple[dict[str, torch.Tensor], list[dict[str, float]], int]:
    """Weights, log and number of updates of a run on so many processes."""
    nodes = job.get("nodes", 1)
    job = {"family": "qwen3_vl", "updates": 2, "devices": ranks_ // nodes, "strategy": "ddp", "out": str(folder / f"out{ranks_}.pt"), **job}
    script = folder / "worker.py"
    script.write_text(worker)
    done = in_ranks(ranks_, str(script), json.dumps(job), nodes=nodes)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(job["out"])


def alone(**job) -> tuple[dict[str, torch.Tensor], list[dict[str, float]], int]:
    policy, rows = fitted({"family": "qwen3_vl", "updates": 2, "devices": 1, "strategy": "auto", **job})
    return dict(policy.policy.plain_state()), rows, policy.updates_done


# Figures that are one number for the whole update, whoever played what; others are means over ranks
WHOLE = (
    "objective/loss",
    "objective/grad_norm",
    "tokens/sampled",
    "tokens/visual",
    "tokens/trained",
    "probe/own",
    "probe/called",
    "update",
)


@pytest.mark.processes
@pytest.mark.parametrize(
    "job",
    [{}, {"family": "qwen2_5_vl", "tied": True, "logits": 20_000}, {"family": "qwen3_5", "frozen": True, "torch": "2.11"}],
    ids=["deepstack", "tied, in chunks", "recurrent layers, frozen tower, without torch's own end of forwards"],
)
def test_two_processes_that_divide_the_weights_make_the_steps_of_one(job, tmp_path):
    """Unequal numbers of micro-batches (one row per forward), rollouts with and without a crop, the probe between updates."""
    weights, rows, _ = alone(**job)
    divided, logged, updates = played_by(2, tmp_path, strategy="fsdp", tokens_per_forward=1, **job)
    assert updates == 2
    assert_close(weights, divided, 1e-4)
    for mine, theirs in zip(rows, logged, strict=True):
        assert {name: theirs[name] for name in WHOLE} == pytest.approx({name: mine[name] for name in WHOLE}, rel=1e-3, abs=1e-5)


@pytest.mark.processes
@pytest.mark.parametrize(("strategy", "dead_groups"), [("ddp", "fork"), ("fsdp", "refill")])
def test_dead_groups_are_sampled_again_by_the_rank_that_holds_them(strategy, dead_groups, tmp_path):
    """Four groups in two updates; one rank may have dead groups while the other has none."""
    weights, rows, _ = alone(dead_groups=dead_groups)
    divided, logged, _ = played_by(2, tmp_path, strategy=strategy, dead_groups=dead_groups)
    assert_close(weights, divided, 1e-4)
    figures = (*WHOLE, "group/dead", "group/replaced")
    assert sum(row["group/replaced"] for row in rows) > 0
    for mine, theirs in zip(rows, logged, strict=True):
        assert {name: theirs[name] for name in figures} == pytest.approx({name: mine[name] for name in figures}, rel=1e-3, abs=1e-5)


PLACED = (
    WORKER
    + """
from torch.distributed.tensor import Replicate, Shard
for name, p in policy.model.named_parameters():
    assert p.placements == (Replicate(), Shard(0)) and p.device_mesh.shape == (2, 2), (name, p.placements)
"""
)


@pytest.mark.processes
def test_two_nodes_that_each_hold_all_shards_make_the_steps_of_one_process(tmp_path):
    """Two nodes of two processes: shards within a node, replicas between nodes."""
    weights, rows, _ = alone(updates=1)
    divided, logged, _ = played_by(4, tmp_path, worker=PLACED, strategy="fsdp", updates=1, nodes=2)
    assert_close(weights, divided, 1e-4)
    assert {name: logged[0][name] for name in WHOLE} == pytest.approx({name: rows[0][name] for name in WHOLE}, rel=1e-3, abs=1e-5)


@pytest.mark.processes
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_rank_without_a_readable_question_waits_for_nobody_and_adds_nothing(strategy, tmp_path):
    """Of two ranks the second reads no question in update 1, neither does in update 2, the first has none in update 3."""
    broken = [1, 3, 4, 5, 6, 7, 8, 10]
    weights, rows, _ = alone(updates=3, broken=broken)
    divided, logged, updates = played_by(2, tmp_path, strategy=strategy, updates=3, broken=broken, tokens_per_forward=1)
    assert updates == 3
    assert_close(weights, divided, 1e-4)
    assert all(math.isnan(row["crop/rate"]) for row in (rows[1], logged[1]))
    for mine, theirs in zip(rows, logged, strict=True):
        assert mine.keys() == theirs.keys()
        assert {name: theirs[name] for name in WHOLE} == pytest.approx({name: mine[name] for name in WHOLE}, rel=1e-3, abs=1e-5)


@pytest.mark.processes
def test_ranks_that_speak_at_different_lengths_wait_for_each_other_only_in_the_update(tmp_path):
    """Rank 0 stops every turn after 3 tokens, rank 1 after 23. In bfloat16 arithmetic what learns stays float32, and both agree."""
    weights, logged, updates = played_by(2, tmp_path, strategy="fsdp", uneven=True, arithmetic="bfloat16", frozen=True)
    dtypes = {("visual" in name, value.dtype) for name, value in weights.items()}
    assert updates == 2 and dtypes == {(True, torch.bfloat16), (False, torch.float32)}
    assert all(math.isfinite(row["objective/loss"]) and row["objective/mismatch_mean"] < 0.02 for row in logged)


@pytest.mark.processes
def test_divided_weights_resume_on_any_number_of_processes(tmp_path):
    weights, _, _ = played_by(2, tmp_path, strategy="fsdp", updates=3, keep=str(tmp_path / "kept"))
    for number in (2, 1):
        again, _, updates = played_by(number, tmp_path, strategy="fsdp", updates=3, resume=str(tmp_path / "kept/at-step=1.ckpt"))
        assert updates == 3
        assert_close(weights, again, 1e-4)


@pytest.mark.processes
def test_whole_weights_resume_on_any_number_of_processes(tmp_path):
    weights, _, _ = alone(updates=3, keep=str(tmp_path / "kept"))
    again, _, updates = played_by(2, tmp_path, updates=3, resume=str(tmp_path / "kept/at-step=1.ckpt"), keep=str(tmp_path / "later"))
    assert updates == 3
    assert_close(weights, again, 1e-4)
    back, _, updates = alone(updates=3, resume=str(tmp_path / "later/at-step=2.ckpt"))
    assert updates == 3
    assert_close(weights, back, 1e-4)


@pytest.mark.processes
def test_ranks_that_read_other_questions_all_say_so(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    job = {"family": "qwen3_vl", "updates": 1, "devices": 2, "strategy": "ddp", "other_data": True, "out": str(tmp_path / "out.pt")}
    done = in_ranks(2, str(script), json.dumps(job))
    assert done.returncode != 0
    assert "the ranks disagree on the training questions: rank 0 reads 12 questions" in done.stderr and "rank 1 reads 11" in done.stderr


PROBED = ("evaluation.probe_every=1", "evaluation.probe_samples=3", "objective.learning_rate=1e-3")


@pytest.fixture(scope="module")
def one(tmp_path_factory, random_policy) -> Path:
    """The folder of a whole run in one process."""
    folder = tmp_path_factory.mktemp("one") / "run"
    train.run(settings(folder, random_policy, *PROBED))
    return folder


@pytest.mark.processes
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_whole_run_on_two_processes_leaves_what_one_leaves(strategy, one, tmp_path, random_policy):
    """Settings, history, evaluation of both policies, page, export: written once, measured by both."""
    how = {
        "ddp": ["trainer.strategy=ddp"],
        "fsdp": ["trainer=fsdp", "trainer.accelerator=cpu", "trainer.strategy.arithmetic=float32"],
    }[strategy]
    two = tmp_path / "two"
    run = [*SMALL, f"output={two}", f"policy.checkpoint={random_policy}", *PROBED, *how, "trainer.devices=2"]
    # Lightning starts the second rank once, and finds both started once
    done = forked("-m", "focus.train", *run).ended() if strategy == "ddp" else in_ranks(2, "-m", "focus.train", *run)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("base against trained") == 1
    assert {path.name for path in one.iterdir()} <= {path.name for path in two.iterdir()}
    for label in ("base", "trained"):
        mine, theirs = (load_outcomes(folder / f"evaluation_{label}_t1.json") for folder in (one, two))
        assert mine.keys() == theirs.keys() and mine
        for view in mine:
            assert mine[view].groups == theirs[view].groups
            for metric in METRICS if label == "base" else ():  # the trained ones differ by rounding
                assert mine[view].values[metric] == pytest.approx(theirs[view].values[metric], abs=1e-6, nan_ok=True)
    histories = [[json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()] for folder in (one, two)]
    for mine, theirs in zip(*histories, strict=True):
        assert theirs["objective/loss"] == pytest.approx(mine["objective/loss"], rel=1e-3, abs=1e-5)
        assert theirs["reward/total"] == pytest.approx(mine["reward/total"], abs=1e-6)


def test_another_kind_of_trainer_cannot_take_up_a_checkpoint_and_says_why(tmp_path, random_policy):
    cfg = config.validated(settings(tmp_path / "run", random_policy, "evaluation.samples=0"), TrainConfig)
    (tmp_path / "run/checkpoints/update-step=1.ckpt").mkdir(parents=True)
    (tmp_path / "run/checkpoints/update-step=1.ckpt/.metadata").write_text("")
    (tmp_path / "run/settings.yaml").write_text("")
    with pytest.raises(ValueError, match=r"update-step=1.ckpt was written by trainer=fsdp; resume it with"):
        train._run(cfg, run_facts(cfg), tmp_path / "run", tmp_path / "run/policy")


def test_deepspeed_without_its_package_is_refused_in_one_line(tmp_path, random_policy):
    if importlib.util.find_spec("deepspeed"):
        pytest.skip("deepspeed is there")
    cfg = settings(tmp_path / "run", random_policy, "evaluation.samples=0", "trainer=deepspeed", "trainer.accelerator=cpu")
    with pytest.raises(ValueError, match=r"trainer can't be constructed: trainer=deepspeed needs the package deepspeed \(requirements-gpu"):
        train.run(cfg)


CPU_DEEPSPEED = """
import json, os, sys, torch
os.environ["DS_ACCELERATOR"] = "cpu"
import pytorch_lightning.strategies.deepspeed as lightning
from focus.runtime import strategies
from tests.training import test_ranks

lightning._validate_device_index_selection = lambda devices: None


class OnCPU(strategies.ZeroStrategy):  # Lightning wants CUDA; DeepSpeed does not
    root_device = torch.device("cpu", 0)

    def setup_environment(self):
        super(lightning.DeepSpeedStrategy, self).setup_environment()


test_ranks.FullyShardedStrategy = lambda arithmetic: OnCPU(0.5, process_group_backend="gloo")
job = json.loads(sys.argv[1])
policy, rows = test_ranks.fitted(job)
if policy.global_rank == 0:
    torch.save((dict(policy.policy.plain_state()), rows, policy.updates_done), job["out"])
"""


@pytest.mark.processes
def test_deepspeed_makes_the_steps_of_one_process_and_resumes(tmp_path):
    """Where the package is (requirements-gpu.txt): here on the CPU, which it can do but Lightning does not expect."""
    pytest.importorskip("deepspeed")
    one, rows, _ = alone(grad_clip=0.5)
    job = {"strategy": "fsdp", "tokens_per_forward": 1, "keep": str(tmp_path / "kept")}
    two, logged, updates = played_by(2, tmp_path, worker=CPU_DEEPSPEED, **job)
    assert updates == 2 and [row["objective/grad_norm"] for row in logged] == pytest.approx(
        [row["objective/grad_norm"] for row in rows], rel=1e-3
    )
    assert_close(one, two, 1e-4)
    again, _, updates = played_by(
        2, tmp_path, worker=CPU_DEEPSPEED, **job | {"keep": None, "resume": str(tmp_path / "kept/at-step=1.ckpt")}
    )
    assert updates == 2
    assert_close(two, again, 1e-4)


def test_in_one_process_sharing_and_collecting_change_nothing():
    assert files.is_first_rank() and distributed.shard([1, 2, 3]) == [1, 2, 3] and distributed.all_gather("a") == ["a"]
    averaged = distributed.mean_over_ranks({"a": 1.5, "b": math.nan})
    assert averaged["a"] == 1.5 and math.isnan(averaged["b"])


def test_figures_are_averaged_over_the_ranks_that_have_them(monkeypatch):
    """Two ranks made crops of area 0.2 and 0.4, the third none."""
    monkeypatch.setattr(distributed, "all_gather", lambda mine: [mine, {"area": 0.4, "rate": 1.0}, {"area": math.nan, "rate": 0.0}])
    assert distributed.mean_over_ranks({"area": 0.2, "rate": 0.5}) == pytest.approx({"area": 0.3, "rate": 0.5})


def test_of_memory_the_rank_that_held_most_is_logged(monkeypatch):
    monkeypatch.setattr(distributed, "all_gather", lambda mine: [mine, {"memory/peak_gib": 70.5}])
    assert distributed.mean_over_ranks({"memory/peak_gib": 31.0}) == {"memory/peak_gib": 70.5}


def test_the_largest_of_all_ranks_is_logged_and_a_figure_that_one_rank_lacks_is_not_measured_there(monkeypatch):
    monkeypatch.setattr(
        distributed, "all_gather", lambda mine: [mine, {"length_max": 9.0, "extra": 2.0}, {"rate": 1.0, "length_max": math.nan}]
    )
    assert distributed.mean_over_ranks({"rate": 0.5, "length_max": 4.0}) == pytest.approx({"rate": 0.75, "length_max": 9.0, "extra": 2.0})
    monkeypatch.setattr(distributed, "all_gather", lambda mine: [mine])
    assert math.isnan(distributed.mean_over_ranks({"length_max": math.nan})["length_max"])


@pytest.mark.parametrize("deepspeed", [False, True])
def test_a_step_at_rest_moves_no_weight_though_there_are_momentum_and_decay(deepspeed):
    """DeepSpeed steps on gradients of its own, here put back after `rest`."""
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.1)
    weight.grad = torch.ones(3)
    optimizer.step()
    weight.grad = torch.zeros(3)
    before = weight.detach().clone()
    strategies.skip_step(object.__new__(strategies.ZeroStrategy) if deepspeed else pl.strategies.SingleDeviceStrategy(), optimizer)
    weight.grad = torch.zeros(3) if deepspeed else weight.grad
    optimizer.step()
    assert torch.equal(weight, before)


def test_an_unknown_arithmetic_is_refused():
    with pytest.raises(ValueError, match="arithmetic is 'float16'; choose float32 or bfloat16"):
        FullyShardedStrategy("float16")


@pytest.mark.parametrize("devices", [[1, 3], "1,3"])
def test_every_rank_loads_its_policy_onto_the_gpu_that_trainer_devices_lists_for_it(devices, monkeypatch):
    """The GPUs are invented, and a launcher has started two ranks."""
    invent_gpus(monkeypatch, 4)
    listed = {"_target_": "pytorch_lightning.Trainer", "accelerator": "gpu", "devices": devices, "strategy": "ddp"}
    for rank, gpu in enumerate((1, 3)):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        assert own_device(listed, start_ranks=True) == loading.own_gpu() == torch.device("cuda", gpu)


def test_a_trainer_of_the_cpu_leaves_the_gpus_of_its_machine_alone(monkeypatch):
    """The policy is loaded, trained and measured on the CPU; what a reader of log-probabilities does is not asked here."""
    invent_gpus(monkeypatch, 2)
    cpu = {"_target_": "pytorch_lightning.Trainer", "accelerator": "cpu", "precision": "bf16-mixed"}
    device = own_device(cpu, start_ranks=True)
    assert device == loading.load_model(loading.EMBEDDED, "tiny", device=device).model.device == torch.device("cpu")
    with autocast_like_trainer(cpu):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is torch.bfloat16
