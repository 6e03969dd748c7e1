"""The shared-prompt update equals the naive one, log-probability by log-probability and gradient by gradient."""

import math
import pickle

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model

from focus.model.attention import LAYOUT, WINDOWS, Ragged, share_prompts
from focus.model.policy_model import PolicyModel
from focus.training.logprobs import logprobs_and_entropy, micro_batches, sampled_logprobs
from focus.training.objective import policy_loss
from tests.support.flash import flash_on_cpu
from tests.support.policies import FAMILIES
from tests.support.reference import RAGGED, Shape, made, plain_logprobs, towers
from tests.support.updates import loss_and_gradients


def assert_equal_updates(policy: PolicyModel, trajectories) -> None:
    # Delta nets divide by the lengths of short keys, which magnifies rounding. In float64 both updates of Qwen3.5 agree to 2e-14.
    tolerance = 1e-4 if policy.unwrapped.config.model_type == "qwen3_5" else 2e-5
    advantage = [(-1.0) ** i * (1 + 0.3 * i) for i in range(len(trajectories))]
    naive = [plain_logprobs(policy, t) for t in trajectories]
    shared = sampled_logprobs(policy, trajectories, 1.0)
    for a, b in zip(naive, shared, strict=True):
        assert torch.allclose(a, b, atol=tolerance), (a - b).abs().max()
    loss, gradients = loss_and_gradients(policy, naive, advantage)
    loss_shared, gradients_shared = loss_and_gradients(policy, sampled_logprobs(policy, trajectories, 1.0), advantage)
    assert torch.allclose(loss, loss_shared, atol=1e-6)
    assert gradients.keys() == gradients_shared.keys() and gradients
    for name, gradient in gradients.items():
        apart = gradients_shared[name] - gradient
        assert apart.abs().max() <= tolerance * max(1.0, float(gradient.abs().max())), name
        assert apart.mean().abs() <= tolerance / 10 * max(1.0, float(gradient.abs().max())), name


def test_loss_and_every_gradient_equal_those_of_the_naive_update(policy):
    assert_equal_updates(policy, made(policy, RAGGED))


turns = st.lists(
    st.builds(Shape, st.integers(1, 9), st.tuples(st.integers(1, 3), st.integers(1, 3))), max_size=2
).flatmap(lambda before: st.integers(1, 9).map(lambda n: [*before, Shape(n)]))  # fmt: skip
groups = st.lists(
    st.tuples(st.tuples(st.integers(1, 5), st.integers(1, 5)), st.integers(1, 12), st.lists(turns, min_size=1, max_size=4)),
    min_size=1,
    max_size=3,
)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(groups=groups, seed=st.integers(0, 99))
def test_any_ragged_lot_of_groups_has_the_naive_gradients(family, request, groups, seed):
    policy = request.getfixturevalue(family)
    assert_equal_updates(policy, made(policy, groups, seed))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_frozen_tower_changes_nothing_else(family):
    policy = FAMILIES[family]()
    policy.backbone.visual.requires_grad_(False)
    with policy.image_cache():
        assert_equal_updates(policy, made(policy, RAGGED))


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_learn_the_same(family):
    policy = FAMILIES[family]()
    torch.manual_seed(0)
    adapters = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    policy.model = get_peft_model(policy.model, adapters)
    assert_equal_updates(policy, made(policy, RAGGED))
    learned = {name for name, p in policy.model.named_parameters() if p.grad is not None}
    assert learned and all("lora_" in name for name in learned)


@pytest.mark.parametrize("family", FAMILIES)
def test_activation_checkpointing_changes_nothing(family):
    policy = FAMILIES[family]()
    trajectories = made(policy, RAGGED)
    advantage = [1.0, -2.0, 0.5, 1.5, -1.0]
    _, straight = loss_and_gradients(policy, sampled_logprobs(policy, trajectories, 1.0), advantage)
    policy.model.train()
    policy.model.gradient_checkpointing_enable()
    passes = []
    layer = policy.backbone.language_model.layers[0].input_layernorm
    layer.register_forward_hook(lambda *_: passes.append(1))
    _, again = loss_and_gradients(policy, sampled_logprobs(policy, trajectories, 1.0), advantage)
    assert len(passes) == 2  # forward, and once more in the backward
    assert straight.keys() == again.keys()
    assert all(torch.allclose(straight[name], again[name], atol=1e-6) for name in straight)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_flash_attention_kernel_is_asked_for_the_same_attention(family, monkeypatch):
    """The kernel needs a GPU. Here the same operators compute on the CPU, in float32."""
    calls = flash_on_cpu(monkeypatch)
    policy = FAMILIES[family]()
    assert_equal_updates(policy, made(policy, RAGGED))
    # two updates, one with its backward: a call for each layer of the tower, two for each text layer. In the naive update each of five
    # rollouts passes the tower
    tower, text = len(policy.backbone.visual.blocks), sum(hasattr(x, "self_attn") for x in policy.backbone.language_model.layers)
    assert calls == {"forward": 2 * (tower + 2 * text) + 5 * tower, "backward": tower + 2 * text + 5 * tower}


def test_a_model_that_shares_prompts_still_is_a_plain_transformers_model(policy, tmp_path):
    share_prompts(policy.model)  # a second time changes nothing
    assert policy.backbone.language_model.config._attn_implementation == LAYOUT
    assert policy.backbone.visual.config._attn_implementation == WINDOWS
    [t] = made(policy, [((2, 2), 5, [[Shape(6)]])])
    ours = plain_logprobs(policy, t)
    policy.model.set_attn_implementation("eager")
    assert torch.allclose(ours, plain_logprobs(policy, t), atol=1e-5)
    policy.model.set_attn_implementation("sdpa")
    share_prompts(policy.model)
    policy.save(tmp_path / "policy")
    written = (tmp_path / "policy" / "config.json").read_text()
    assert LAYOUT not in written and WINDOWS not in written


def test_the_view_passes_the_tower_once_for_each_group_and_a_crop_once_for_each_rollout(policy, monkeypatch):
    trajectories = made(policy, RAGGED)
    images = towers(policy, monkeypatch)
    sampled_logprobs(policy, trajectories, 1.0)
    assert sum(images) == 2 + 3  # two views; crops of rollouts two and three


def test_packing_and_unpacking_are_inverse_and_padding_carries_no_gradient():
    for lengths in ([3, 1, 4], [2, 2]):
        ragged = Ragged(lengths, torch.device("cpu"))
        packed = torch.randn(2, sum(lengths), 5, requires_grad=True)
        assert torch.equal(ragged.unpad(ragged.pad(packed)), packed)
        ragged.unpad(ragged.pad(packed) * 2).sum().backward()
        assert torch.equal(packed.grad, torch.full_like(packed, 2.0))


def test_micro_batches_keep_siblings_together_within_the_budget(qwen3_vl):
    trajectories = made(qwen3_vl, [((2, 2), 5, [[Shape(10)]] * 3), ((2, 2), 5, [[Shape(10)]] * 2), ((2, 2), 5, [[Shape(50)]] * 3)])
    # a prompt has 3 + 6 + 5 = 14 tokens, so the groups have 44, 34 and 164
    assert micro_batches(trajectories, 44 + 34) == [[0, 1, 2, 3, 4], [5], [6], [7]]
    assert micro_batches(trajectories, 77) == [[0, 1, 2], [3, 4], [5], [6], [7]]
    assert micro_batches(trajectories, 114) == [[0, 1, 2, 3, 4], [5, 6], [7]]
    assert micro_batches(trajectories, 1) == [[i] for i in range(8)]
    assert micro_batches(trajectories, 10**6) == [list(range(8))]


def test_a_group_that_is_divided_has_the_gradients_of_one_that_is_not(policy):
    trajectories, advantage = made(policy, RAGGED), [1.0, -2.0, 0.5, 1.5, -1.0]
    _, whole = loss_and_gradients(policy, sampled_logprobs(policy, trajectories, 1.0), advantage)
    policy.model.zero_grad()
    tokens = sum(sum(t.sampled_mask) for t in trajectories)
    for lot in micro_batches(trajectories, 30):
        flat = sampled_logprobs(policy, [trajectories[i] for i in lot], 1.0)
        each = torch.cat([torch.full_like(lp, advantage[i]) for i, lp in zip(lot, flat, strict=True)])
        policy_loss(torch.cat(flat), torch.cat(flat).detach(), each, tokens).backward()
    for name, p in policy.model.named_parameters():
        if name in whole:  # other processors sum in another order: 1.5e-5 of the largest gradient was seen
            largest = float(whole[name].abs().max())
            assert torch.allclose(p.grad, whole[name], atol=1e-5 * max(1.0, 5 * largest)), name


def test_a_copy_and_a_pickled_trajectory_stay_in_their_group(qwen3_vl):
    trajectories = made(qwen3_vl, [((2, 2), 5, [[Shape(10)]] * 3), ((2, 2), 5, [[Shape(10)]] * 2)])
    copies = [pickle.loads(pickle.dumps(t)) for t in trajectories]
    assert [t.group for t in copies] == [t.group for t in trajectories] and len({t.group for t in copies}) == 2
    assert all(a.prompt_ids is not b.prompt_ids for a, b in zip(copies, trajectories, strict=True))
    assert micro_batches([*copies[:1], *trajectories[1:3]], 44) == [[0, 1, 2]]  # 14 tokens of one prompt and 3 x 10


@pytest.mark.parametrize("rows", [1, 5, 1000])
def test_logits_in_chunks_have_the_loss_and_gradients_of_whole_ones(policy, rows, monkeypatch):
    """Never more than `rows` tokens at once, neither forward nor backward; the prompt-sharing update against plain transformers."""
    words = policy.model.config.get_text_config().vocab_size
    monkeypatch.setattr("focus.model.policy_model.LOGITS_BYTES", 4 * words * rows)
    shapes = []
    log_softmax = torch.log_softmax
    monkeypatch.setattr(torch, "log_softmax", lambda x, **how: shapes.append(x.shape) or log_softmax(x, **how))
    trajectories = made(policy, RAGGED)
    loss_and_gradients(policy, sampled_logprobs(policy, trajectories, 1.0), [1.0] * len(trajectories))
    tokens = sum(sum(t.sampled_mask) for t in trajectories)
    assert max(shape[0] for shape in shapes) == min(rows, tokens)
    assert sum(shape[0] for shape in shapes) == tokens * (2 if rows < tokens else 1)  # computed again only where there are chunks
    monkeypatch.setattr(torch, "log_softmax", log_softmax)
    assert_equal_updates(policy, trajectories)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_entropy_is_that_of_the_distribution_that_tokens_are_drawn_from(policy, temperature, monkeypatch):
    """Minus the sum of p ln p by a plain forward; a token without probability adds nothing."""
    trajectories = made(policy, RAGGED)
    head, rows = policy.unwrapped.lm_head, []
    hook = head.register_forward_pre_hook(lambda _, given: rows.append(given[0].detach()))
    try:
        _, entropies = logprobs_and_entropy(policy, trajectories, temperature)
    finally:
        hook.remove()
    logits = (rows[0] @ head.weight.T).index_fill(1, torch.tensor(policy.banned_ids), -1e9) / temperature
    p = logits.softmax(-1).double()
    expected = -(p * p.clamp_min(1e-300).log()).sum(-1)
    assert [len(each) for each in entropies] == [sum(t.sampled_mask) for t in trajectories]
    assert torch.allclose(torch.cat(entropies).double(), expected.detach(), atol=1e-4)
    assert not torch.cat(entropies).requires_grad


def test_equal_logits_have_the_entropy_of_the_words_that_may_be_drawn(qwen3_vl):
    words = qwen3_vl.model.config.get_text_config().vocab_size
    width = qwen3_vl.model.config.get_text_config().hidden_size
    logprob, entropy = qwen3_vl.token_logprobs(torch.zeros(2, width), torch.tensor([100, 200]), 1.0)
    expected = math.log(words - len(qwen3_vl.banned_ids))
    assert entropy.tolist() == pytest.approx([expected] * 2) and logprob.tolist() == pytest.approx([-expected] * 2)
