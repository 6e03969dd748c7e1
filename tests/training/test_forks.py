"""Rollouts that share a call or a crop: which groups are sampled again, what each turn is credited with, and that nothing else moves."""

import itertools
from dataclasses import replace

import pytest
import pytorch_lightning as pl
import torch

from focus.config import problems_of
from focus.config.schema import TrainConfig
from focus.data.questions import FIRST_SPARE
from focus.model.policy_model import PolicyModel
from focus.model.prompts import CALL_OPEN, encode
from focus.rewards import RewardCallback, Scores
from focus.rollout.engine import Completion, Request, Sampling
from focus.rollout.fork import after_the_first_turn, at_the_call, sampled_tokens
from focus.rollout.kv import KVEngine
from focus.rollout.loop import RolloutLimits, play, seed_of
from focus.rollout.trajectory import Status, Trajectory
from focus.training.logprobs import sampled_logprobs
from focus.training.objective import turn_advantage, turn_credit
from tests.support.policies import random_qwen3_vl
from tests.support.reference import plain_logprobs
from tests.support.runs import composed
from tests.support.scripted import Scripted, boxes_of, call, call_of, forwards, opened, playing, steer
from tests.support.updates import BLUE, Rows, Seldom, assert_close, module_of, questions, trainer, weights

NAN = float("nan")
RED = "<answer>red</answer><|im_end|>"
THOUGHT = "blue red "


# ------------------------------------------------------------------------------------------------------------------- credit (E14)


def credit(rewards, answers: int) -> tuple[list[float], list[float]]:
    first, later = turn_credit(torch.tensor([rewards], dtype=torch.float64), answers)[0].T.tolist()
    return first, later


def test_a_call_is_credited_with_what_its_crop_made_and_an_answer_with_what_it_made_of_the_crop():
    """Mean rewards behind the crops: 1, 0, 2, 0. The mean of the others: 2/3, 1, 1/3, 1."""
    call, answer = credit([2, 0, 0, 0, 2, 2, 0, 0], answers=2)
    assert call == pytest.approx([1 / 3, 1 / 3, -1, -1, 5 / 3, 5 / 3, -1, -1])
    assert answer == pytest.approx([2, -2, 0, 0, 0, 0, 0, 0])


def test_credit_is_given_in_the_deviations_of_the_group_as_in_e4():
    """Mean 3/4, mean square 3/2: the deviation is sqrt(15) / 4."""
    found = turn_advantage(torch.tensor([[2.0, 0, 0, 0, 2, 2, 0, 0]], dtype=torch.float64), answers=2)[0]
    assert found[0].tolist() == pytest.approx([4 / 3 / 15**0.5, 8 / 15**0.5], abs=1e-5)


def test_with_one_answer_to_each_crop_every_turn_has_the_advantage_of_its_rollout():
    assert turn_advantage(torch.tensor([[1.0, 0.0]]), answers=1)[0].tolist() == [
        pytest.approx([1, 1], abs=1e-5),
        pytest.approx([-1, -1], abs=1e-5),
    ]


def test_what_the_call_alone_decides_is_no_credit_of_the_answer():
    """A grounding term is the same for all answers to one crop."""
    _, plain = credit([2, 0, 2, 0], answers=2)
    _, grounded = credit([2.7, 0.7, 2.1, 0.1], answers=2)
    assert grounded == pytest.approx(plain)


def test_an_ungraded_rollout_gets_nothing_and_is_in_no_mean():
    call, answer = credit([2, NAN, 0, 0, NAN, NAN], answers=2)
    assert call == pytest.approx([2, 0, -2, -2, 0, 0]) and answer == pytest.approx([0] * 6)
    assert credit([2, 0, NAN, NAN], answers=2)[0] == [0, 0, 0, 0]  # nothing to compare the one graded crop with
    assert not turn_advantage(torch.full((1, 4), 0.8), answers=2).any()


def test_the_expected_gradient_is_that_of_the_expected_reward():
    """Two crops, two answers, all 256 groups of 2 crops with 2 answers each: the mean over groups of credit times score is exact."""
    call = torch.tensor([0.3, -0.4], dtype=torch.float64, requires_grad=True)
    answer = torch.tensor([[0.2, 0.5], [-0.7, 0.1]], dtype=torch.float64, requires_grad=True)
    reward = torch.tensor([[2.0, 0.0], [0.5, -0.2]], dtype=torch.float64)
    log_call, log_answer = torch.log_softmax(call, 0), torch.log_softmax(answer, 1)
    exact = torch.autograd.grad((log_call.exp()[:, None] * log_answer.exp() * reward).sum(), (call, answer), retain_graph=True)
    total = torch.zeros((), dtype=torch.float64)
    for c in itertools.product((0, 1), repeat=2):
        for a in itertools.product((0, 1), repeat=4):
            crops = [c[0], c[0], c[1], c[1]]
            parts = turn_credit(reward[crops, list(a)][None], answers=2)[0]
            chance = (log_call[list(c)].sum() + log_answer[crops, list(a)].sum()).exp().detach()
            total = total + chance * (parts[:, 0] * log_call[crops] + parts[:, 1] * log_answer[crops, list(a)]).sum() / 4
    for found, expected in zip(torch.autograd.grad(total, (call, answer)), exact, strict=True):
        assert torch.allclose(found, expected, atol=1e-12)


# --------------------------------------------------------------------------------------------------------------------------- forks


def assert_engine_equals_full_forward(policy: PolicyModel, played: list[Trajectory]) -> None:
    """The sampler's log-probabilities, those of the packed update, and those of one plain forward for each rollout."""
    with torch.no_grad():
        packed = sampled_logprobs(policy, played, 1.0)
        for t, shared in zip(played, packed, strict=True):
            naive = plain_logprobs(policy, t)
            tolerance = 1e-4 if policy.unwrapped.config.model_type == "qwen3_5" else 2e-5
            assert (naive - torch.tensor(t.sampler_logprobs)).abs().max() < tolerance and (naive - shared).abs().max() < tolerance


def test_a_fork_at_the_call_keeps_the_sampled_ids_up_to_it_and_nothing_of_the_box(policy):
    t = playing(policy, THOUGHT + call_of(policy, (100, 100, 400, 300)), BLUE)
    fork = at_the_call(policy, t, seed=7)
    kept = len(fork.prefill_ids)
    assert fork.prefill_ids == t.turns[0].ids[:kept] and fork.prefill == policy.tokenizer.decode(fork.prefill_ids)
    assert fork.prefill.startswith(THOUGHT) and policy.dialect.call[0] in fork.prefill
    assert policy.dialect.call[0] not in policy.tokenizer.decode(fork.prefill_ids[:-1])  # one token less has no call
    assert (fork.turns, fork.status, fork.seed, fork.group) == ((), Status.OPEN, 7, t.group)
    assert fork.suffix_ids == list(fork.prefill_ids) and not any(fork.sampled_mask)


def test_a_forced_call_is_forked_where_it_was_forced(qwen3_vl):
    forced = replace(opened(qwen3_vl, 1, 1)[0], prefill=CALL_OPEN, prefill_ids=tuple(encode(qwen3_vl.tokenizer, CALL_OPEN)))
    [t] = play(qwen3_vl, KVEngine(qwen3_vl), [forced], RolloutLimits(1, 64, Sampling(1.0, 8)))
    assert at_the_call(qwen3_vl, t, forced.seed) == forced


def test_forks_have_the_log_probabilities_of_a_full_forward_and_share_prompt_call_and_crop(policy, monkeypatch):
    limits = RolloutLimits(1, 64, Sampling(1.0, 60))
    engine = steer(policy, boxes_of(policy), calls=1)
    played = play(policy, engine, opened(policy, 1, 2), limits)
    again = [after_the_first_turn(t, seed_of(t.seed, "answer", 1)) for t in played]
    fed = forwards(policy, monkeypatch)
    answered = play(policy, engine, again, limits, keep_prompts=True)
    assert fed[0] == sum(1 + len(t.suffix_ids) for t in again)  # call, crop, and the last token of the prompt: it is not encoded again
    assert all(a.turns[0] is b.turns[0] and a.crops == b.crops for a, b in zip(played, answered, strict=True))
    assert [t.turns[1].ids for t in answered] != [t.turns[1].ids for t in played]
    later = [t.turns[1] for t in (*played, *answered)]
    assert sampled_tokens([*played, *answered]) == sum(len(turn.ids) for turn in (*(t.turns[0] for t in played), *later))

    called = play(policy, KVEngine(policy), [at_the_call(policy, t, t.seed + 50) for t in played], limits)
    assert {t.group for t in called} == {t.group for t in played}
    assert_engine_equals_full_forward(policy, [*played, *answered, *called])


def test_a_rollout_that_ended_with_its_first_turn_has_no_other_answer(qwen3_vl):
    direct = playing(qwen3_vl, BLUE)
    assert after_the_first_turn(direct, 1) is direct


# --------------------------------------------------------------------------------------------------------- which groups are replaced


class Right(RewardCallback):
    """Right is who says blue; the answer nothing is not graded."""

    name = "accuracy"

    def score(self, trajectories):
        return [NAN if t.answer == "nothing" else float(t.answer == "blue") for t in trajectories]


class Actor(Scripted):
    """Says in the first turn of question n what `first[n]` says, and answers red there; forks crop elsewhere, and every second is right."""

    def __init__(self, policy: PolicyModel, first: dict[int, list[str]]) -> None:
        super().__init__(policy)
        self.first, self.openings, self.forks = first, [], itertools.count()
        self.order: dict[int, int] = {}

    def says(self, request: Request, sampling: Sampling) -> Completion:
        t = request.trajectory
        number = self.order.setdefault(t.group, len(self.order))
        if t.turns:
            text = BLUE if t.prefill and t.seed % 2 else RED
        elif t.prefill:
            text = call(600, 600, 900, 900).removeprefix(CALL_OPEN)
        else:
            script = self.first.get(number, [BLUE, RED, BLUE, RED])
            text = script[request.conversation % 4]
        ids = tuple(self.policy.tokenizer.encode(text, add_special_tokens=False))
        return Completion(ids, (-0.5,) * len(ids), stopped=True)


CALLS = [THOUGHT + call(0, 0, 300, 300)] * 4
SILENT = "<answer>nothing</answer><|im_end|>"
# By question: all calls fail; two of them call; all wrong without a call; all right; no answer is graded. The sixth differs
SCRIPTS = {0: CALLS, 1: [CALLS[0], RED, CALLS[0], RED], 2: [RED] * 4, 3: [BLUE] * 4, 4: [SILENT] * 4}


def acted(**changes):
    """A module after one update on six questions, what was logged, and its rollouts by question."""
    policy = random_qwen3_vl(seed=1)
    module = module_of(policy, **changes)
    module.engine, module.rewards, module.limits = Actor(policy, SCRIPTS), [Right(1.0)], RolloutLimits(1, 64, Sampling(1.0, 80))
    rows = Rows()
    data = questions(per_update=6)
    trainer(callbacks=[rows]).fit(module, data)
    trained = [example.trajectory for example in module.last_examples]
    return module, rows.rows[0], [trained[i : i + 4] for i in range(0, 24, 4)], data


@pytest.fixture(scope="module")
def kept():
    return acted()


@pytest.fixture(scope="module")
def forked():
    return acted(dead_groups="fork")


def test_groups_whose_calls_all_failed_are_forked_and_all_others_stay(kept, forked):
    _, _, before, _ = kept
    _, logged, after, _ = forked
    assert [[t.prefill != "" for t in group] for group in after] == [[True] * 4, [True] * 4, *[[False] * 4] * 4]
    for group in after[:2]:
        assert all(t.prefill == THOUGHT + CALL_OPEN and t.group == group[0].group and len(t.crops) == 1 for t in group)
        assert len({t.seed for t in group}) == 4 and {t.answer for t in group} <= {"red", "blue"}
    assert [[t.ids for t in group] for group in after[2:]] == [[t.ids for t in group] for group in before[2:]]
    assert logged["group/replaced"] == pytest.approx(2 / 6)


def test_what_is_logged_is_what_the_policy_does_by_itself_and_all_that_was_sampled(kept, forked):
    _, plain, before, _ = kept
    module, logged, after, _ = forked
    same = ("reward/", "crop/", "group/zero_variance", "group/mixed", "tokens/response", "ending/")
    assert {k: v for k, v in plain.items() if k.startswith(same)} == {k: v for k, v in logged.items() if k.startswith(same)}
    length = [sum(sum(t.sampled_mask) for t in group) for group in before]
    again = sum(sum(t.sampled_mask) for group in after[:2] for t in group)
    assert plain["tokens/sampled"] == sum(length) and logged["tokens/sampled"] == sum(length) + again
    assert logged["tokens/trained"] == again + sum(length[2:])
    assert "group/dead" not in plain and logged["group/dead"] == logged["group/dead"]
    assert [a != 0 for a in module.last_advantages[8:20]] == [False] * 12  # groups that stayed dead


def test_a_refilled_group_asks_another_question_in_its_place(kept):
    _, logged, after, data = acted(dead_groups="refill")
    assert logged["group/replaced"] == pytest.approx(3 / 6)  # also the one without a call
    for number in (0, 1, 2):  # of the first update these are the draws of the run
        spare = data.spare(number)
        assert spare.draw == FIRST_SPARE + number
        assert [t.sample.id for t in after[number]] == [spare.sample.id] * 4
        assert [t.seed for t in after[number]] == [seed_of(3, spare.draw, k) for k in range(4)]
    assert [t.ids for t in after[5]] == [t.ids for t in kept[2][5]]


def test_scores_are_replaced_row_by_row():
    old, new = Scores({"a": [1, 2, 3, 4]}, [1, 2, 3, 4], {"a": 1.0}), Scores({"a": [8, 9]}, [8, 9])
    assert old.replaced([1, 3], new) == Scores({"a": [1, 8, 3, 9]}, [1, 8, 3, 9], {"a": 1.0})


# ------------------------------------------------------------------------------------------------------------------------- updates


def test_the_gradient_credits_first_turns_and_answers_with_what_each_added():
    """Of 4 rollouts 2 share a crop. By hand: minus the mean over sampled tokens of credit / deviation times grad log pi."""
    policy = random_qwen3_vl(seed=1)
    module = module_of(policy, answers_per_crop=2)
    module.engine, module.limits = steer(policy, boxes_of(policy), calls=1), RolloutLimits(1, 64, Sampling(1.0, 80))
    rolled, made, gradient = {}, {}, {}
    update = module.update
    module.update = lambda ts, a: rolled.update(ts=ts) or made.update(update(ts, a)) or made
    module._warm_up = lambda *_: gradient.update({name: p.grad.clone() for name, p in module.model.named_parameters()})
    trainer().fit(module, questions(per_update=2))

    by_hand = random_qwen3_vl(seed=1)
    by_hand.model.train(module.model.training)
    total = torch.zeros(())
    for group in (rolled["ts"][:4], rolled["ts"][4:]):
        assert [t.crops for t in group[::2]] == [t.crops for t in group[1::2]] and group[0].turns[0] is group[1].turns[0]
        r = [float(sum(i for turn in t.turns for i in turn.ids) % 2) for t in group]
        deviation = (sum((each - sum(r) / 4) ** 2 for each in r) / 4) ** 0.5 + 1e-6
        for i, t in enumerate(group):
            pair, others = (r[i], r[i ^ 1]), (r[i ^ 2], r[i ^ 3])
            of_call, of_answer = sum(pair) / 2 - sum(others) / 2, pair[0] - pair[1]
            logprob, first = plain_logprobs(by_hand, t), len(t.turns[0].ids)
            if any(each != r[0] for each in r):
                total = total - (of_call * logprob[:first].sum() + of_answer * logprob[first:].sum()) / deviation
    assert total != 0
    (total / made["tokens/trained"]).backward()
    assert_close(gradient, {name: p.grad for name, p in by_hand.model.named_parameters()}, 1e-5)


def test_a_resumed_run_with_forks_makes_the_updates_of_an_uninterrupted_one(tmp_path):
    class Saves(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            if pl_module.updates_done == 1:
                trainer.save_checkpoint(tmp_path / "one.ckpt")

    def fitted(*callbacks, resume=None):
        module, rows = module_of(random_qwen3_vl(seed=4), dead_groups="fork", answers_per_crop=2), Rows()
        module.rewards, module.limits = [Seldom(1.0)], RolloutLimits(1, 64, Sampling(1.0, 6), force_first_crop=True)
        trainer(callbacks=[rows, *callbacks]).fit(module, questions(2), ckpt_path=resume, weights_only=True)
        timed = ("seconds/", "memory/", "tokens/per_second")
        return module, [{name: value for name, value in row.items() if not name.startswith(timed)} for row in rows.rows]

    straight, rows = fitted(Saves())
    resumed, later = fitted(resume=tmp_path / "one.ckpt")
    assert [str(row) for row in later] == [str(row) for row in rows[1:]]
    assert sum(row["group/replaced"] for row in later) > 0
    assert all(torch.equal(a, b) for a, b in zip(weights(straight).values(), weights(resumed).values(), strict=True))


# ------------------------------------------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["rollout.answers_per_crop=3"], "a group needs at least 2 crops with equally many answers each"),
        (["rollout.answers_per_crop=8"], "a group needs at least 2 crops"),
        (["rollout.overlap=true", "rollout.dead_groups=fork"], "choose rollout.overlap=false"),
        (["rollout.overlap=true", "rollout.answers_per_crop=2"], "choose rollout.overlap=false"),
        (["rollout.dead_groups=refill", "~reward.terms.accuracy", "~reward.terms.tool"], "reward.terms has no term accuracy"),
        (["rollout.dead_groups=fork", "rollout.max_crops=0"], "rollout.max_crops is 0 and rollout.dead_groups fork"),
        (["rollout.answers_per_crop=2", "rollout.max_crops=0"], "rollout.max_crops is 0 and rollout.answers_per_crop 2"),
        (["rollout.dead_groups=drop"], "choose keep, refill or fork"),
    ],
)
def test_what_can_not_be_forked_is_refused_in_one_sentence(asked, said):
    [problem] = problems_of(composed("experiment=stage1", *asked), TrainConfig)
    assert said in problem
