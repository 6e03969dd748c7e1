"""The next batch is sampled while this one trains: which weights sample it, and how such a run ends and goes on."""

import json
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from focus import config
from focus.config.schema import TrainConfig
from focus.rollout.engine import Sampling
from focus.rollout.kv import CopiedKVEngine, KVEngine
from focus.rollout.loop import RolloutLimits, play, replay, sampled_turns
from focus.rollout.trajectory import Status
from focus.training.overlap import OverlappedPolicy
from focus.training.policy import FocusPolicy
from tests.support.policies import random_qwen3_vl
from tests.support.ranks import in_ranks
from tests.support.runs import composed
from tests.support.scripted import Scripted, boxes_of, opened, steer
from tests.support.updates import BLUE, Rows, assert_close, module_of, overlapped, questions, trainer, weights


class Sampled(pl.Callback):
    """The sampled ids of every update."""

    def __init__(self) -> None:
        self.ids: list[list[list[int]]] = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.ids.append([[i for turn in e.trajectory.turns for i in turn.ids] for e in pl_module.last_examples])


def fitted(module: FocusPolicy, updates: int = 4, *callbacks: pl.Callback, resume=None, **more):
    """What is logged, but for times, and the sampled ids."""
    rows, sampled = Rows(), Sampled()
    made = trainer(callbacks=[rows, sampled, *callbacks], **more)
    made.fit(module, questions(updates, ahead=isinstance(module, OverlappedPolicy)), ckpt_path=resume, weights_only=True)
    timed = ("seconds/", "memory/", "tokens/per_second")
    return [{name: value for name, value in row.items() if not name.startswith(timed)} for row in rows.rows], sampled.ids


# ------------------------------------------------------------------------------------------------------------- which weights sample


def test_where_no_weight_moves_the_rollouts_and_the_loss_are_those_without_overlap():
    plain, ids = fitted(module_of(random_qwen3_vl(seed=4), learning_rate=0.0))
    rows, overlapped_ids = fitted(overlapped(random_qwen3_vl(seed=4), learning_rate=0.0))
    assert [row.pop("objective/staleness") for row in rows] == [0, 1, 1, 1]
    assert overlapped_ids == ids
    assert [json.dumps(row) for row in rows] == [json.dumps(row) for row in plain]


class Watched(Scripted):
    """An engine that notes the number of updates in its weights, and for each batch the weights that sample it."""

    def __init__(self, policy) -> None:
        super().__init__(policy, BLUE)
        self.trained: FocusPolicy | None = None
        self.weights, self.batches = -1, []

    def sync_weights(self):
        self.weights = self.trained.updates_done

    def generate(self, requests, sampling):
        self.batches.append(self.weights)
        yield from super().generate(requests, sampling)


def watched(**changes) -> OverlappedPolicy:
    policy = random_qwen3_vl(seed=4)
    module = overlapped(policy, Watched(policy), **changes)
    module.engine.trained = module
    return module


class Settles(pl.Callback):
    """Measures after the second update, as the probe inside training does."""

    weights = -1

    def on_train_batch_end(self, trainer, pl_module, *_):
        if pl_module.updates_done == 2:
            pl_module.settle_engine()
            self.weights = pl_module.engine.weights


def test_every_batch_but_the_first_is_sampled_from_the_weights_of_one_update_before():
    module, probe = watched(), Settles()
    rows, _ = fitted(module, 4, probe)
    assert module.engine.batches == [0, 0, 1, 2]
    assert [row["objective/staleness"] for row in rows] == [0, 1, 1, 1]
    assert probe.weights == 2  # a measurement gets the weights of now, whatever was begun before


def test_a_batch_is_sampled_while_the_one_before_trains():
    module = watched()
    sampling, training = threading.Event(), threading.Event()
    generate, update = module.engine.generate, module.update

    def waits_for_update(requests, sampling_):
        if module.engine.batches:
            sampling.set()
            assert training.wait(10)
        yield from generate(requests, sampling_)

    def waits_for_sampling(*batch):
        training.set()
        assert sampling.wait(10)
        return update(*batch)

    module.engine.generate, module.update = waits_for_update, waits_for_sampling
    fitted(module, 2)
    assert module.updates_done == 2


def test_a_stale_batch_is_weighed_by_the_ratio_of_its_two_policies():
    rows, _ = fitted(overlapped(random_qwen3_vl(seed=4), learning_rate=0.01, sampler_ratio_cap=1.01))
    assert rows[0]["objective/mismatch_max"] < 2e-5 < 1e-3 < rows[1]["objective/mismatch_max"]
    assert rows[0]["objective/sampler_truncated"] == 0 < rows[1]["objective/sampler_truncated"]


def test_the_copy_follows_the_weights_only_when_it_is_told_and_shares_what_is_frozen():
    policy = random_qwen3_vl(seed=4)
    policy.backbone.visual.requires_grad_(False)
    engine, limits = CopiedKVEngine(policy), RolloutLimits(1, 64, Sampling(1.0, 12))
    engine.sync_weights()

    def ids(by) -> list[list[int]]:
        return [t.ids for t in play(policy, by, opened(policy), limits)]

    before = ids(KVEngine(policy))
    with torch.no_grad():
        for weight in policy.backbone.language_model.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    after = ids(KVEngine(policy))
    assert ids(engine) == before != after
    engine.sync_weights()
    assert ids(engine) == after
    shared = {id(p) for p in policy.model.parameters()} & {id(p) for p in engine.policy.model.parameters()}
    assert shared == {id(p) for p in policy.model.parameters() if not p.requires_grad}


# ----------------------------------------------------------------------------------------------------------------- ends and goes on


class Saves(pl.Callback):
    """A checkpoint after the second update."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer, pl_module, *_):
        if pl_module.updates_done == 2:
            trainer.save_checkpoint(self.path)


def test_a_resumed_run_makes_the_updates_of_an_uninterrupted_one(tmp_path):
    straight = overlapped(random_qwen3_vl(seed=4), sampler_ratio_cap=2.0)
    rows, ids = fitted(straight, 4, Saves(tmp_path / "two.ckpt"))
    resumed = overlapped(random_qwen3_vl(seed=4), sampler_ratio_cap=2.0)
    again, ids_again = fitted(resumed, 4, resume=tmp_path / "two.ckpt")
    assert ids_again == ids[2:] and json.dumps(again) == json.dumps(rows[2:])
    assert all(torch.equal(a, b) for a, b in zip(weights(straight).values(), weights(resumed).values(), strict=True))


def test_what_was_sampled_makes_the_same_trajectories_again(policy):
    """Crops are cut again, errors of the tool are told again, a turn that was cut is cut again."""
    limits = RolloutLimits(2, 64, Sampling(1.0, 100))
    played = play(policy, steer(policy, boxes_of(policy), calls=2), opened(policy), replace(limits, sampling=Sampling(1.0, 40)))
    assert any(t.crops for t in played)
    bare = [replace(t, turns=(), status=Status.OPEN) for t in played]
    assert replay(policy, bare, sampled_turns(played), limits, policy.stop_ids) == played


def test_a_question_that_was_broken_when_its_batch_was_sampled_stays_out_of_it(qwen3_vl):
    played = play(qwen3_vl, Scripted(qwen3_vl, BLUE), opened(qwen3_vl), RolloutLimits(1, 64, Sampling(1.0, 40)))
    bare = [replace(t, turns=(), status=Status.OPEN) for t in played]
    assert replay(qwen3_vl, bare, sampled_turns(played[3:]), RolloutLimits(1, 64, Sampling(1.0, 40)), qwen3_vl.stop_ids) == played[3:]


def test_an_error_of_the_sampler_ends_the_training_as_the_error_that_it_was():
    module, gone = watched(), ConnectionError("the server is gone")
    generate = module.engine.generate

    def fails(requests, sampling):
        if len(module.engine.batches) == 2:
            raise gone
        yield from generate(requests, sampling)

    module.engine.generate = fails
    with pytest.raises(ConnectionError) as raised:
        fitted(module, 4)
    assert raised.value is gone and module.updates_done == 2
    assert "sampler" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_whatever_ends_the_training_ends_the_sampler_too(error):
    """The second batch is in the middle of its first turn then, and its other conversations are not sampled."""
    before = signal.getsignal(signal.SIGINT)
    module, sampling, turns = watched(), threading.Event(), []
    generate = module.engine.generate

    def goes_on(requests, sampling_):
        for turn in generate(requests, sampling_):
            if len(module.engine.batches) == 2:
                turns.append(turn)
                sampling.set()
                assert module.ahead._stop.wait(10)
            yield turn

    def interrupted(*_):
        assert sampling.wait(10)
        raise error

    module.engine.generate, module.update = goes_on, interrupted
    try:
        with pytest.raises(SystemExit if error is KeyboardInterrupt else error):
            fitted(module, 4)
    finally:
        signal.signal(signal.SIGINT, before)  # Lightning ignores it from then on
    assert len(turns) == 1 and "sampler" not in [thread.name for thread in threading.enumerate()]


WORKER = """
import sys, torch
from pathlib import Path
from tests.training.test_overlap import Saves, fitted, overlapped, random_qwen3_vl
torch.set_num_threads(1)
module = overlapped(random_qwen3_vl(seed=4), sampler_ratio_cap=2.0)
rows, ids = fitted(module, 3, Saves(Path(sys.argv[1]) / "two.ckpt"), devices=2, strategy="ddp")
if module.global_rank == 0:
    torch.save((dict(module.policy.plain_state()), rows), Path(sys.argv[1]) / "out.pt")
"""


@pytest.mark.processes
def test_two_processes_that_sample_ahead_make_the_steps_of_one_and_one_goes_on_from_theirs(tmp_path):
    straight = overlapped(random_qwen3_vl(seed=4), sampler_ratio_cap=2.0)
    rows, _ = fitted(straight, 3)
    (tmp_path / "worker.py").write_text(WORKER)
    done = in_ranks(2, str(tmp_path / "worker.py"), str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    state, theirs = torch.load(tmp_path / "out.pt")
    alone = overlapped(random_qwen3_vl(seed=4), sampler_ratio_cap=2.0)
    last, _ = fitted(alone, 3, resume=tmp_path / "two.ckpt")
    names = ("objective/loss", "objective/staleness", "tokens/sampled", "tokens/trained", "update")
    for mine, other in [*zip(rows, theirs, strict=True), (rows[2], last[0])]:
        assert {n: other[n] for n in names} == pytest.approx({n: mine[n] for n in names}, rel=1e-3, abs=1e-5)
    for other in (state, dict(alone.policy.plain_state())):
        assert_close(dict(straight.policy.plain_state()), other, 1e-4)


# -------------------------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["rollout=vllm"],
            "rollout.overlap is true, but a colocated vLLM sleeps while the policy trains; use rollout=vllm rollout.vllm.mode",
        ),
        (["trainer=gpu"], "rollout.overlap is true with rollout=kv, which samples on the device that trains"),
        (["trainer=fsdp", "trainer.accelerator=cpu"], "rollout.overlap is true with rollout=kv"),
    ],
)
def test_an_engine_that_can_not_sample_meanwhile_is_refused_in_a_sentence(overrides, said):
    with pytest.raises(config.ConfigError, match=said):
        config.validated(composed("experiment=smoke", "rollout.overlap=true", *overrides), TrainConfig)


def test_overlap_without_a_correction_is_told():
    cfg = config.validated(composed("experiment=smoke", "rollout.overlap=true"), TrainConfig)
    assert "Set rollout.sampler_ratio_cap=2.0" in " ".join(config.cautions(cfg))
    corrected = config.validated(composed("experiment=smoke", "rollout.overlap=true", "rollout.sampler_ratio_cap=2.0"), TrainConfig)
    assert config.cautions(corrected) == []
