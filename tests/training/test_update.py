"""The update: what must not change it, on both families, in one process and in two."""

from dataclasses import replace
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from focus.data.questions import Broken, Question
from focus.model.policy_model import PolicyModel
from focus.rewards import RewardCallback, Scores
from focus.rollout.engine import Sampling
from focus.rollout.kv import KVEngine
from focus.rollout.loop import RolloutLimits
from focus.training.batch import load
from focus.training.logprobs import logprobs_and_entropy, micro_batches, sampled_logprobs
from focus.training.metrics import update_metrics
from focus.training.objective import group_advantage, policy_loss
from tests.support.policies import FAMILIES, random_qwen3_vl
from tests.support.ranks import in_ranks
from tests.support.reference import plain_logprobs, towers
from tests.support.scripted import Scripted, boxes_of, call_of, playing, steer
from tests.support.updates import BLUE, assert_close, module_of, questions, trainer, weights


def gradients_of(policy: PolicyModel, trajectories, advantage, tokens_per_forward: int) -> dict[str, torch.Tensor]:
    policy.model.zero_grad()
    tokens = sum(sum(t.sampled_mask) for t in trajectories)
    for rows in micro_batches(trajectories, tokens_per_forward):
        logprobs = sampled_logprobs(policy, [trajectories[i] for i in rows], 1.0)
        each = torch.cat([torch.full_like(lp, advantage[i]) for i, lp in zip(rows, logprobs, strict=True)])
        flat = torch.cat(logprobs)
        policy_loss(flat, flat.detach(), each, tokens).backward()
    return {name: p.grad.clone() for name, p in policy.model.named_parameters() if p.grad is not None}


def trajectories_of(policy: PolicyModel):
    return [
        playing(policy, call_of(policy, (0, 0, 20 * k, 30)), BLUE, index=k) if k % 2 else playing(policy, BLUE, index=k)
        for k in range(1, 7)
    ]


def test_accumulated_micro_batches_have_the_gradients_of_one_batch(policy):
    trajectories, advantage = trajectories_of(policy), [1.0, -0.5, 2.0, -2.0, 0.3, 0.7]
    whole = gradients_of(policy, trajectories, advantage, 10**6)
    parts = gradients_of(policy, trajectories, advantage, 1)
    assert_close(whole, parts, 1e-5)


def test_the_order_of_rollouts_makes_no_difference(policy):
    trajectories, advantage = trajectories_of(policy), [1.0, -0.5, 2.0, -2.0, 0.3, 0.7]
    assert_close(gradients_of(policy, trajectories, advantage, 500), gradients_of(policy, trajectories[::-1], advantage[::-1], 500), 1e-5)


def test_only_sampled_tokens_have_a_log_probability(policy):
    trajectories = trajectories_of(policy)
    for t, logprob in zip(trajectories, sampled_logprobs(policy, trajectories, 1.0), strict=True):
        assert len(logprob) == sum(len(turn.ids) for turn in t.turns)


def test_the_sampler_and_the_trainer_agree_on_every_token(qwen3_vl):
    module = module_of(random_qwen3_vl(seed=1))
    seen = {}
    module._log_update = lambda *args, **_: seen.update(args[3])
    trainer().fit(module, questions())
    assert seen["objective/mismatch_max"] < 2e-5


@pytest.mark.parametrize("cap", [2.0, None])
def test_tokens_of_a_stale_sampler_are_weighed_by_the_truncated_ratio(cap):
    """The sampler's weights are older than the trainer's; the gradient is minus the mean of min(pi_train / pi_sampler, 2) A grad log pi."""
    module = module_of(random_qwen3_vl(seed=1), sampler_ratio_cap=cap)
    module.engine = KVEngine(random_qwen3_vl(seed=2))
    rolled, made, gradient = {}, {}, {}
    update = module.update
    module.update = lambda ts, a: rolled.update(ts=ts, a=a) or made.update(update(ts, a)) or made
    module._warm_up = lambda *_: gradient.update({name: p.grad.clone() for name, p in module.model.named_parameters()})
    trainer().fit(module, questions())

    by_hand = random_qwen3_vl(seed=1)
    by_hand.model.train(module.model.training)
    total, apart = torch.zeros(()), []
    for t, a in zip(rolled["ts"], rolled["a"][:, 0].tolist(), strict=True):
        logprob = plain_logprobs(by_hand, t)
        ratio = (logprob.detach() - torch.tensor(t.sampler_logprobs)).exp()
        total = total - (a * (ratio.clamp(max=2.0) if cap else 1.0) * logprob).sum()
        apart += ratio.tolist() if a else []
    (total / made["tokens/trained"]).backward()
    assert_close(gradient, {name: p.grad for name, p in by_hand.model.named_parameters()}, 1e-5)
    above = sum(ratio > 2 for ratio in apart) / len(apart)
    assert made["objective/mismatch_mean"] > 0.1 and 0 < above < 1
    assert made["objective/sampler_truncated"] == pytest.approx(above if cap else 0.0)


def test_a_rollout_without_advantage_is_not_passed_forward_but_stays_in_the_denominator(monkeypatch):
    passed = []
    monkeypatch.setattr("focus.training.policy.logprobs_and_entropy", lambda c, ts, T: passed.extend(ts) or logprobs_and_entropy(c, ts, T))

    class FirstRollout(RewardCallback):
        name = "first"

        def score(self, trajectories):  # only the first question's siblings differ
            return [float(i == 0) for i in range(len(trajectories))]

    module = module_of(random_qwen3_vl(seed=1))
    module.rewards = [FirstRollout(1.0)]
    rolled = {}
    update = module.update
    module.update = lambda ts, a: rolled.update(all=ts) or rolled.update(made=update(ts, a)) or rolled["made"]
    trainer().fit(module, questions())
    assert len(passed) == 4 and len(rolled["all"]) == 16
    assert rolled["made"]["tokens/sampled"] == sum(sum(t.sampled_mask) for t in rolled["all"])


def test_a_broken_image_costs_one_question_and_not_the_run():
    module = module_of(random_qwen3_vl(seed=1))
    module.trainer = trainer()
    [first] = next(iter(questions(per_update=1).train_dataloader()))
    assert isinstance(first, Question)
    assert [len(part) for part in module.roll_out([first, Broken(1, "b", "it is cut off")])] == [4]
    assert list(module.roll_out([Broken(1, "b", "it is cut off")])) == []


def test_only_ten_updates_in_a_row_without_any_readable_question_end_a_run():
    module = module_of(random_qwen3_vl(seed=1))
    module.trainer = trainer()
    [first] = next(iter(questions(per_update=1).train_dataloader()))
    broken = [Broken(1, "b", "it is cut off")]
    module.engine = Scripted(module.policy, BLUE)
    for asked in [*[broken] * 9, [first], *[broken] * 9]:
        list(module.roll_out(asked))
    with pytest.raises(ValueError, match=r"no question of the last 10 updates could be read; look .*it is cut off"):
        list(module.roll_out(broken))


def test_an_image_that_no_view_can_hold_costs_one_question_and_not_the_run(monkeypatch):
    module = module_of(random_qwen3_vl(seed=1))
    module.trainer = trainer()
    first, second = next(iter(questions(per_update=2).train_dataloader()))
    strip = replace(second.sample, width=5600, height=28)
    narrow = replace(second, sample=strip, original=type(second.original)(Image.new("RGB", strip.size)))
    [rolled] = module.roll_out([first, narrow])
    assert len(rolled) == 4 and {t.sample.id for t in rolled} == {first.sample.id}


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_tower_sees_every_image_once_in_a_whole_step(frozen, monkeypatch):
    """Views once per question, crops once per rollout; a tower that learns passes them once more, with gradients."""
    policy = random_qwen3_vl(seed=1)
    policy.backbone.visual.requires_grad_(not frozen)
    module = module_of(policy)
    module.engine = steer(policy, boxes_of(policy), 1)
    module.limits = RolloutLimits(1, 64, Sampling(1.0, 60))

    class First(RewardCallback):
        name = "first"

        def score(self, trajectories):
            return [float(i % 4 == 0) for i in range(len(trajectories))]

    module.rewards = [First(1.0)]
    images = towers(policy, monkeypatch)
    trainer().fit(module, questions())
    assert sum(images) == (4 + 16) * (1 if frozen else 2)


def test_resuming_gives_the_same_next_steps_and_the_same_sampled_tokens(tmp_path):
    """Killed after 2 of 4 updates, at an epoch border of the data (12 scenes, 4 per update: update 3 ends the epoch)."""

    def run(updates: int, resume: Path | None, keep: bool):
        module = module_of(random_qwen3_vl(seed=2))
        sampled = []
        module._log_update = lambda trajectories, *_, **__: sampled.append([t.ids for t in trajectories])
        save = pl.callbacks.ModelCheckpoint(
            tmp_path, filename="at-{step}", every_n_train_steps=1, save_top_k=-1, save_on_train_epoch_end=False
        )
        trainer(enable_checkpointing=keep, callbacks=[save] if keep else []).fit(module, questions(updates), ckpt_path=resume)
        return module, sampled

    straight, tokens = run(5, None, keep=True)
    for stopped in (1, 2, 3):
        resumed, later = run(5, tmp_path / f"at-step={stopped}.ckpt", keep=False)
        assert later == tokens[stopped:]
        assert resumed.updates_done == 5
        assert all(torch.equal(a, b) for a, b in zip(weights(straight).values(), weights(resumed).values(), strict=True))


def test_resuming_with_another_gap_is_refused(tmp_path):
    module = module_of(random_qwen3_vl(seed=2))
    save = pl.callbacks.ModelCheckpoint(tmp_path, filename="at", every_n_train_steps=1, save_on_train_epoch_end=False)
    trainer(enable_checkpointing=True, callbacks=[save]).fit(module, questions(1))
    other = module_of(random_qwen3_vl(seed=2))
    other.gap = replace(other.gap, view_tokens=9)
    with pytest.raises(ValueError, match="started with another gap"):
        trainer().fit(other, questions(2), ckpt_path=tmp_path / "at.ckpt")


@pytest.mark.parametrize("family", FAMILIES)
def test_in_mixed_precision_rollouts_and_updates_compute_in_bfloat16_and_agree(family):
    """Crops are asked for, so that a second turn goes on from caches of the first."""
    policy = FAMILIES[family](seed=4)
    module = module_of(policy)
    module.engine, module.limits = steer(policy, boxes_of(policy), 1), RolloutLimits(1, 64, Sampling(1.0, 60))
    held: set[torch.dtype] = set()
    clear = module.engine.clear_cache

    def looking() -> None:
        if module.engine._prompts:
            held.update(store.dtype for kept in module.engine._cached.values() for store in (*kept.rows.keys, *kept.rows.values))
        clear()

    module.engine.clear_cache = looking
    seen = {}
    module._log_update = lambda trajectories, scores, reward, update, broken: seen.update(
        update, crops=sum(bool(t.crops) for t in trajectories)
    )
    trainer(precision="bf16-mixed").fit(module, questions())
    assert seen["crops"] == 16 and seen["objective/mismatch_mean"] < 0.02
    assert held == {torch.bfloat16}
    assert {p.dtype for p in policy.model.parameters()} == {torch.float32}


WORKER = """
import sys, torch
from tests.support.policies import FAMILIES
from tests.support.updates import module_of, questions, trainer, weights
torch.set_num_threads(1)
module = module_of(FAMILIES[sys.argv[1]](seed=4), tokens_per_forward=int(sys.argv[3]))
module._log_update = lambda *args, **_: None
trainer(devices=2, strategy="ddp", accelerator="cpu").fit(module, questions(2))
if module.global_rank == 0:
    torch.save(weights(module), sys.argv[2])
"""


@pytest.mark.processes
@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl"])
def test_two_processes_make_the_step_of_one(family, tmp_path):
    """Ranks have unequal numbers of micro-batches (one row per forward), and rollouts with and without a crop."""
    one = module_of(FAMILIES[family](seed=4))
    one._log_update = lambda *args, **_: None
    trainer().fit(one, questions(2))
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    done = in_ranks(2, str(script), family, str(tmp_path / "two.pt"), "1")
    assert done.returncode == 0, done.stderr[-2000:]
    # AdamW turns rounding of a near-zero gradient into a visible step, hence the tolerance of a tenth of one step
    assert_close(weights(one), torch.load(tmp_path / "two.pt"), 1e-4)


def test_equal_rewards_leave_the_weights_alone():
    class Equal(RewardCallback):
        name = "equal"

        def score(self, trajectories):
            return [1.0] * len(trajectories)

    module = module_of(random_qwen3_vl(seed=1))
    module.rewards = [Equal(1.0)]
    before = weights(module)
    trainer().fit(module, questions())
    assert all(torch.equal(a, b) for a, b in zip(before.values(), weights(module).values(), strict=True))
    assert group_advantage(torch.ones(2, 4)).eq(0).all()


class Alike(RewardCallback):
    """Siblings differ in the first two updates and are paid alike after that."""

    name = "accuracy"
    updates = 0

    def score(self, trajectories):
        self.updates += 1
        return [float(i % 2) if self.updates <= 2 else 1.0 for i in range(len(trajectories))]


def test_an_update_in_which_all_are_paid_alike_leaves_weights_and_moments_exactly_and_is_counted(tmp_path):
    """Momentum and decay of the updates before it would move them."""
    module, seen = module_of(random_qwen3_vl(seed=1), weight_decay=0.1), []
    module.rewards = [Alike(1.0)]

    def watch(trajectories, scores, reward, update, broken):
        state = module.optimizers().optimizer.state_dict()["state"]
        moments = {f"{i} {name}": value.clone() for i, kept in state.items() for name, value in kept.items()}
        seen.append((weights(module) | moments, update))

    module._log_update = watch
    save = pl.callbacks.ModelCheckpoint(tmp_path, filename="at-{step}", every_n_train_steps=1, save_top_k=-1, save_on_train_epoch_end=False)
    run = trainer(enable_checkpointing=True, callbacks=[save])
    run.fit(module, questions(4))
    first, second, third, last = ({name: value for name, value in state.items()} for state, _ in seen)
    assert any(not torch.equal(first[name], second[name]) for name in first)
    for later in (third, last):
        assert second.keys() == later.keys() and all(torch.equal(second[name], later[name]) for name in second)
    assert [update["objective/grad_norm"] for _, update in seen][2:] == [0.0, 0.0]
    assert run.global_step == module.updates_done == 4
    assert {path.name for path in tmp_path.iterdir()} == {f"at-step={step}.ckpt" for step in (1, 2, 3, 4)}


def test_what_the_update_does_is_logged():
    """One optimiser step: the policy is its own old one. The entropy is the mean over the tokens of rollouts that teach."""
    module, seen = module_of(random_qwen3_vl(seed=1)), {}
    module.log_dict = lambda values, **_: seen.update(values)
    rolled = {}
    update = module.update
    module.update = lambda ts, a: rolled.update(ts=ts, a=a, **{"entropy": expected(ts, a)}) or update(ts, a)

    def expected(ts, a):
        with torch.no_grad():
            return float(
                torch.cat(logprobs_and_entropy(module.policy, [t for t, each in zip(ts, a, strict=True) if each.any()], 1.0)[1]).mean()
            )

    trainer().fit(module, questions())
    lengths = [sum(t.sampled_mask) for t in rolled["ts"]]
    assert seen["objective/entropy"] == pytest.approx(rolled["entropy"], rel=1e-5) and seen["objective/entropy"] > 1
    assert (seen["objective/clipped"], seen["objective/dual_clipped"], seen["objective/log_ratio_p50"]) == (0, 0, 0)
    assert seen["tokens/response_mean"] == pytest.approx(sum(lengths) / 16) and seen["tokens/response_max"] == max(lengths)


def test_a_second_step_on_the_same_rollouts_meets_the_clip():
    """At a learning rate of 0.1 a step leads far out of the trust region; the first step of the two has ratio 1."""
    module, seen = module_of(random_qwen3_vl(seed=1), updates_per_rollout=2, learning_rate=0.1), {}
    module._log_update = lambda *args, **_: seen.update(args[3])
    trainer().fit(module, questions())
    assert 0.05 < seen["objective/clipped"] <= 0.5
    assert seen["objective/log_ratio_p1"] < -0.2 and seen["objective/log_ratio_p99"] > 0.2


def test_groups_are_counted_by_outcome_and_ungraded_rollouts_do_not_hide_it(qwen3_vl):
    right, wrong, unknown = 1.0, 0.0, float("nan")
    accuracy = [right, right, unknown, right, wrong, wrong, wrong, unknown, right, wrong, unknown, unknown, *[unknown] * 4]
    played = [playing(qwen3_vl, BLUE)] * 16
    scores = Scores({"accuracy": accuracy}, accuracy)
    found = update_metrics(played, scores, scores.grouped(4))
    assert [found[f"group/{kind}"] for kind in ("all_right", "all_wrong", "mixed")] == pytest.approx([1 / 3] * 3)
    assert found["group/all_unpaid"] == pytest.approx(1 / 3)  # the fourth group was not graded at all
    unnamed = update_metrics(played, Scores({"parity": accuracy}, accuracy), scores.grouped(4))
    assert all(unnamed[f"group/{kind}"] != unnamed[f"group/{kind}"] for kind in ("all_right", "all_wrong", "mixed"))


@pytest.mark.parametrize(("teach_groups", "passed"), [("all", 16), ("accuracy", 4)])
def test_groups_without_a_difference_in_accuracy_are_left_out_where_only_accuracy_teaches(teach_groups, passed, monkeypatch):
    """Four questions whose rollouts differ in parity; in accuracy only those of the first."""
    seen = []
    monkeypatch.setattr("focus.training.policy.logprobs_and_entropy", lambda c, ts, T: seen.extend(ts) or logprobs_and_entropy(c, ts, T))

    class Form(RewardCallback):
        name = "form"

        def score(self, trajectories):
            return [float(i % 2) for i in range(len(trajectories))]

    class First(RewardCallback):
        name = "accuracy"

        def score(self, trajectories):
            return [float(i == 0) for i in range(len(trajectories))]

    module = module_of(random_qwen3_vl(seed=1), teach_groups=teach_groups, tokens_per_forward=10**6)
    module.rewards = [First(1.0), Form(1.0)]
    trainer().fit(module, questions())
    assert len(seen) == passed


def test_updates_without_a_readable_question_are_passed_over_and_logged():
    module, rows = module_of(random_qwen3_vl(seed=1)), []
    module.rewards = [Alike(1.0)]
    module.log_dict = lambda values, **_: rows.append(values) if "update" in values else None
    data = questions(3, per_update=1)
    dealt = [Broken(0, "b", "it is cut off"), None, Broken(2, "b", "it is cut off")]
    step, kept = module.training_step, []

    def training_step(batch, batch_idx):
        step([dealt[batch_idx]] if dealt[batch_idx] else batch, batch_idx)
        kept.append(weights(module))

    module.training_step, before = training_step, weights(module)
    trainer().fit(module, data)
    assert [row["data/broken"] for row in rows] == [1.0, 0.0, 1.0] and [row["update"] for row in rows] == [1.0, 2.0, 3.0]
    assert rows[0].keys() == rows[1].keys() == rows[2].keys()
    assert rows[0]["reward/total"] != rows[0]["reward/total"] and rows[0]["objective/entropy"] != rows[0]["objective/entropy"]
    assert rows[0]["tokens/sampled"] == rows[0]["objective/loss"] == rows[0]["objective/grad_norm"] == 0
    same = [all(torch.equal(a[name], b[name]) for name in a) for a, b in zip([before, *kept], kept, strict=False)]
    assert same == [True, False, True]


def test_a_loss_that_is_no_number_names_the_samples_it_came_from(tmp_path):
    module = module_of(random_qwen3_vl(seed=1), sampler_ratio_cap=2.0, tokens_per_forward=1)
    update = module.update
    named = []

    def broken(trajectories, advantage):
        i = next(i for i in range(len(trajectories)) if advantage[i, 0] and trajectories[i].sample.id != trajectories[0].sample.id)
        t = trajectories[i]
        named.append(t.sample.id)
        turn = replace(t.turns[0], sampler_logprobs=(float("nan"),) * len(t.turns[0].ids))
        return update([*trajectories[:i], replace(t, turns=(turn,)), *trajectories[i + 1 :]], advantage)

    module.update = broken
    with pytest.raises(ValueError, match=r"the loss of update 1 is not finite \(gradient norm nan\), in rollouts of ") as told:
        trainer(default_root_dir=tmp_path).fit(module, questions())
    assert f"in rollouts of {named[0]}. Their rewards are finite" in str(told.value)
    assert f"They are kept: python -m focus.replay {tmp_path / 'not_finite_0'}" in str(told.value)
    assert {t.sample.id for t in load(tmp_path / "not_finite_0").rollouts} == {named[0]}
