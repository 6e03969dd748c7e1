"""The advantage and the surrogate, by hand and against an independent implementation."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from focus.training.objective import clipped, group_advantage, policy_loss, sampler_weight, zero_variance

PROPERTY = settings(deadline=None, database=None)

NAN = math.nan


def advantage(*rewards: float) -> list[float]:
    return group_advantage(torch.tensor([rewards], dtype=torch.float64))[0].tolist()


# ----------------------------------------------------------------------------------------------------- advantage (E4)


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ((1, 0), (1, -1)),
        # mean 1/4, population variance (9 + 3)/16/4 = 3/16: offsets 3/4 and -1/4 over sqrt(3)/4
        ((1, 0, 0, 0), (math.sqrt(3), -1 / math.sqrt(3), -1 / math.sqrt(3), -1 / math.sqrt(3))),
        # all four values of stage 1: mean 0.65, squares 1.8225 + 0.0225 + 0.4225 + 0.7225 = 2.99, std sqrt(0.7475) = 0.864581
        ((2.0, 0.8, 0.0, -0.2), (1.561450, 0.173495, -0.751809, -0.983135)),
        ((3, 1, 2), (math.sqrt(1.5), -math.sqrt(1.5), 0)),  # variance 2/3
    ],
)
def test_an_advantage_is_the_distance_from_the_mean_in_population_standard_deviations(rewards, expected):
    assert advantage(*rewards) == pytest.approx(expected, abs=1e-5)


def test_the_deviation_is_that_of_the_population_and_not_of_a_sample():
    assert advantage(1, 0)[0] == pytest.approx(1, abs=1e-5)  # a sample's deviation would give 1 / sqrt(2)


@pytest.mark.parametrize("reward", [0.0, 0.1, -0.2, 0.8, 2.0, 1 / 3, 1e9])
@pytest.mark.parametrize("rollouts", [2, 3, 7, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_group_whose_rewards_are_all_equal_gets_exactly_zero(reward, rollouts, dtype):
    assert (group_advantage(torch.full((1, rollouts), reward, dtype=dtype)) == 0).all()


def test_each_question_is_its_own_group():
    both = group_advantage(torch.tensor([[1.0, 0.0], [100.0, 50.0]]))
    assert both.tolist() == [pytest.approx([1, -1], abs=1e-5), pytest.approx([1, -1], abs=1e-5)]


def test_a_rollout_that_could_not_be_graded_gets_zero_and_leaves_the_statistics():
    assert advantage(1, NAN, 0) == pytest.approx((1, 0, -1), abs=1e-5)  # as a zero it would have pulled the mean to 1/3
    assert advantage(1, 0, 0, 0, NAN, NAN)[:4] == pytest.approx(advantage(1, 0, 0, 0))


def test_a_group_with_one_or_no_graded_rollout_teaches_nothing():
    assert advantage(NAN, 1, NAN) == [0, 0, 0]
    assert advantage(NAN, NAN) == [0, 0]
    assert advantage(0.8, NAN, 0.8) == [0, 0, 0]


def test_one_malformed_rollout_among_wrong_ones_teaches_form_unless_only_accuracy_teaches():
    """Stage 1 pays 15 wrong rollouts 0 and the malformed one -0.2: mean -0.0125, deviation 0.2 sqrt(15) / 16 = 0.048412."""
    reward, accuracy = torch.tensor([[-0.2, *[0.0] * 15]]), torch.zeros(1, 16)
    everything = group_advantage(reward)[0].tolist()
    assert everything == pytest.approx([-0.1875 / 0.048412, *[0.0125 / 0.048412] * 15], abs=1e-3)
    assert (round(everything[1], 2), round(everything[0], 2)) == (0.26, -3.87)
    assert group_advantage(reward, accuracy=accuracy)[0].tolist() == [0.0] * 16


def test_where_accuracy_teaches_a_group_that_differs_in_it_keeps_its_advantages():
    reward = torch.tensor([[2.0, 0.8, 0.0, -0.2], [2.0, 2.0, 0.8, 0.8], [2.0, 0.8, 0.0, NAN]])
    accuracy = torch.tensor([[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [1.0, 1.0, NAN, NAN]])
    kept = group_advantage(reward, accuracy=accuracy)
    assert torch.equal(kept[0], group_advantage(reward)[0])
    assert kept[1:].tolist() == [[0.0] * 4] * 2  # crops among right answers; and all that could be graded are right


def test_a_group_of_one_rollout_is_an_error_that_says_what_to_set():
    with pytest.raises(ValueError, match=r"rollouts_per_question is 1; .*Use at least 2"):
        group_advantage(torch.tensor([[1.0], [0.0]]))


def test_groups_of_equal_rewards_are_counted_and_ungraded_rollouts_do_not_hide_them():
    reward = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 1.0], [NAN, 0.8, 0.8], [NAN, 0.8, 0.0], [NAN, NAN, NAN]])
    assert zero_variance(reward).tolist() == [True, False, True, False, True]


groups = st.integers(2, 16).flatmap(
    lambda n: st.lists(st.one_of(st.floats(-3, 3), st.sampled_from([2.0, 0.8, 0.0, -0.2, NAN])), min_size=n, max_size=n)
)


@PROPERTY
@given(groups)
def test_advantages_sum_to_zero_and_are_bounded_by_the_root_of_one_less_than_the_group(rewards):
    values = advantage(*rewards)
    graded = sum(reward == reward for reward in rewards)
    assert all(math.isfinite(value) for value in values)
    assert sum(values) == pytest.approx(0, abs=1e-6)
    assert max(map(abs, values)) <= math.sqrt(max(graded - 1, 0)) + 1e-9


@PROPERTY
@given(groups)
def test_better_rollouts_never_get_a_smaller_advantage(rewards):
    pairs = sorted((reward, value) for reward, value in zip(rewards, advantage(*rewards), strict=True) if reward == reward)
    assert all(low[1] <= high[1] for low, high in itertools.pairwise(pairs))


# ------------------------------------------------------------------------------------------- weights of another sampler (E13)


def test_a_token_weighs_as_much_as_the_trainer_finds_it_likelier_than_its_sampler_up_to_the_cap():
    train, sampler = torch.tensor([0.3, 0.3, 0.2, 0.9]).log(), torch.tensor([0.3, 0.2, 0.4, 0.09]).log()
    assert sampler_weight(train, sampler, 2.0).tolist() == pytest.approx([1.0, 1.5, 0.5, 2.0])  # the last ratio is 10
    assert sampler_weight(train, sampler, None).tolist() == [1.0] * 4


def test_a_token_that_its_sampler_found_all_but_impossible_weighs_the_cap_and_no_more():
    assert sampler_weight(torch.tensor([-0.1, -120.0]), torch.tensor([-120.0, -0.1]), 2.0).tolist() == pytest.approx([2.0, 0.0])


def test_no_gradient_passes_through_a_weight():
    assert not sampler_weight(torch.tensor([-1.0], requires_grad=True), torch.tensor([-2.0]), 2.0).requires_grad


# ------------------------------------------------------------------------------------------------------- surrogate (E12)


def loss_and_slope(ratio: float, a: float, **options) -> tuple[float, float]:
    """Loss of one token, and its derivative by the token's log-probability."""
    old = torch.tensor([-1.5], dtype=torch.float64)
    new = (old + math.log(ratio)).requires_grad_()
    loss = policy_loss(new, old, torch.tensor([a], dtype=torch.float64), 1, **options)
    loss.backward()
    return loss.item(), new.grad.item()


def test_at_ratio_one_the_loss_is_minus_the_mean_advantage():
    logprob = torch.tensor([-1.0, -0.2, -7.0])
    a = torch.tensor([1.0, -2.0, 4.0])
    assert policy_loss(logprob, logprob, a, 3).item() == pytest.approx(-1)  # -(1 - 2 + 4) / 3
    assert policy_loss(logprob, logprob, a, 6).item() == pytest.approx(-0.5)  # half of an update of six tokens


def test_at_ratio_one_the_gradient_is_minus_the_advantage_over_the_tokens_of_the_update():
    logprob = torch.tensor([-1.0, -0.2, -7.0], requires_grad=True)
    policy_loss(logprob, logprob.detach(), torch.tensor([1.0, -2.0, 0.0]), 4).backward()
    assert logprob.grad.tolist() == pytest.approx([-0.25, 0.5, 0.0])


@pytest.mark.parametrize(
    ("ratio", "a", "loss", "slope"),
    [
        # a better action: pushed up until the ratio is 1.2, then left alone
        (1.1, 1, -1.1, -1.1),
        (1.5, 1, -1.2, 0),
        (0.5, 1, -0.5, -0.5),  # below, it is always pushed back up
        (9.0, 2, -2.4, 0),
        # a worse action: pushed down until the ratio is 0.8, then left alone
        (0.9, -1, 0.9, 0.9),
        (0.5, -1, 0.8, 0),
        (1.5, -1, 1.5, 1.5),  # above, it is always pushed down
        (2.9, -1, 2.9, 2.9),
        (4.0, -1, 3.0, 0),  # but not without bound: dual clip
        (4.0, -2, 6.0, 0),
        # nothing to learn
        (4.0, 0, 0, 0),
    ],
)
def test_the_surrogate_of_one_token_is_clipped_as_worked_by_hand(ratio, a, loss, slope):
    assert loss_and_slope(ratio, a) == pytest.approx((loss, slope))


def test_both_clips_can_be_set():
    assert loss_and_slope(1.5, 1, clip=0.3) == pytest.approx((-1.3, 0))
    assert loss_and_slope(0.5, -1, clip=0.3) == pytest.approx((0.7, 0))
    assert loss_and_slope(4.0, -1, dual_clip=5.0) == pytest.approx((4, 4))
    assert loss_and_slope(4.0, -1, dual_clip=math.inf) == pytest.approx((4, 4))
    assert loss_and_slope(4.0, 0, dual_clip=math.inf) == (0, 0)


@pytest.mark.parametrize("a", [1.0, -1.0])
@pytest.mark.parametrize("apart", [100.0, -100.0])
def test_a_ratio_beyond_all_floats_gives_a_finite_loss_and_a_finite_gradient(apart, a):
    new = torch.tensor([apart], requires_grad=True)  # exp(100) is inf in float32
    loss = policy_loss(new, torch.zeros(1), torch.tensor([a]), 1)
    loss.backward()
    assert loss.isfinite() and new.grad.isfinite().all()


def tokens(seed: int, count: int = 64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probabilities before and after some updates, and advantages: every clip is met."""
    random = torch.Generator().manual_seed(seed)
    old = -3 * torch.rand(count, generator=random, dtype=torch.float64)
    new = old + 0.8 * torch.randn(count, generator=random, dtype=torch.float64)
    return new, old, torch.randn(count, generator=random, dtype=torch.float64)


def gradient(new: torch.Tensor, old: torch.Tensor, a: torch.Tensor, parts: list[torch.Tensor]) -> tuple[float, torch.Tensor]:
    new = new.clone().requires_grad_()
    losses = [policy_loss(new[part], old[part], a[part], len(new)) for part in parts]
    for loss in losses:
        loss.backward()
    return sum(loss.item() for loss in losses), new.grad


@PROPERTY
@given(st.integers(0, 10**6), st.lists(st.integers(0, 64), max_size=5))
def test_micro_batches_add_up_to_the_whole_in_value_and_gradient(seed, cuts):
    new, old, a = tokens(seed)
    whole, whole_gradient = gradient(new, old, a, [torch.arange(64)])
    parts, parts_gradient = gradient(new, old, a, list(torch.arange(64).tensor_split(sorted(cuts))))
    assert parts == pytest.approx(whole, abs=1e-12)
    assert torch.allclose(parts_gradient, whole_gradient, rtol=0, atol=1e-15)
    assert (parts_gradient - whole_gradient).mean().abs() < 1e-15  # no one-sided drift either


@PROPERTY
@given(st.integers(0, 10**6), st.randoms(use_true_random=False))
def test_the_order_of_the_tokens_changes_neither_loss_nor_gradient(seed, random):
    new, old, a = tokens(seed)
    order = list(range(64))
    random.shuffle(order)
    value, slopes = gradient(new, old, a, [torch.arange(64)])
    shuffled, shuffled_slopes = gradient(new, old, a, [torch.tensor(order)])
    assert shuffled == pytest.approx(value, abs=1e-12)
    assert torch.equal(shuffled_slopes, slopes)


def test_an_empty_micro_batch_adds_nothing():
    none = torch.zeros(0, requires_grad=True)
    loss = policy_loss(none, none.detach(), none.detach(), 10)
    loss.backward()
    assert loss.item() == 0


@PROPERTY
@given(st.integers(0, 10**6))
def test_no_token_pulls_harder_than_its_bounded_ratio(seed):
    new, old, a = tokens(seed)
    _, slopes = gradient(new, old, a, [torch.arange(64)])
    # a positive advantage stops at ratio 1.2, a negative one at 3: |slope| <= bound * |A| / 64
    bound = torch.where(a > 0, 1.2, 3.0) * a.abs() / 64
    assert (slopes.abs() <= bound + 1e-12).all()


def test_ignoring_the_old_log_probability_would_be_seen():
    new, old, a = tokens(0)
    assert policy_loss(new, old, a, 64).item() != pytest.approx(policy_loss(new, new, a, 64).item(), abs=1e-3)


# ------------------------------------------------------------------------------- agreement with another implementation


@pytest.mark.parametrize(
    ("dual_clip", "delta"),
    [
        # Liger has no dual clip. Its surrogate min(rho A, clip(rho) A) is ours without a lower bound:
        (math.inf, None),
        # and its two-sided clip `delta` caps rho itself. For A < 0, min(rho, 3) A is our bound 3 A; for A > 0 the cap lies above 1.2:
        (3.0, 3.0),
    ],
)
def test_loss_and_gradient_agree_with_liger(dual_clip, delta):
    liger = pytest.importorskip("liger_kernel.chunked_loss")
    torch.manual_seed(0)
    rollouts, length, width, vocabulary = 6, 20, 16, 23
    hidden = torch.randn(rollouts, length, width, dtype=torch.float64)
    head = torch.randn(vocabulary, width, dtype=torch.float64) / 4
    ids = torch.randint(vocabulary, (rollouts, length))
    mask = torch.rand(rollouts, length) < 0.7  # observations stand between sampled tokens
    a = torch.tensor([1.5, -1.0, 0.0, -2.0, 0.3, 1.0], dtype=torch.float64)
    with torch.no_grad():
        now = (hidden @ head.T).log_softmax(-1).gather(-1, ids[..., None])[..., 0]
        old = now - 0.9 * torch.randn(rollouts, length, dtype=torch.float64)
    ratio, worse = (now - old).exp(), (a < 0)[:, None]
    for met in (~worse & (ratio > 1.2), worse & (ratio < 0.8), worse & (ratio > 3)):  # every clip is met
        assert (met & mask).any()

    theirs_hidden, theirs_head = hidden.clone().requires_grad_(), head.clone().requires_grad_()
    fused = liger.LigerFusedLinearGRPOLoss(
        loss_type="bnpo", compiled=False, use_ref_model=False, beta=0.0, epsilon_low=0.2, epsilon_high=0.2, delta=delta
    )
    theirs = fused(theirs_hidden, theirs_head, ids, mask.to(torch.float64), a, old_per_token_logps=old)[0]
    theirs.backward()

    ours_hidden, ours_head = hidden.clone().requires_grad_(), head.clone().requires_grad_()
    logprob = (ours_hidden @ ours_head.T).log_softmax(-1).gather(-1, ids[..., None])[..., 0][mask]
    ours = policy_loss(logprob, old[mask], a[:, None].expand_as(mask)[mask], int(mask.sum()), dual_clip=dual_clip)
    ours.backward()

    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)  # liger computes in float32
    for mine, other in [(ours_hidden.grad, theirs_hidden.grad), (ours_head.grad, theirs_head.grad)]:
        assert torch.allclose(mine, other, rtol=1e-4, atol=1e-6)
        assert (mine - other).mean().abs() < 1e-7


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [
        (1.21, 1.0, (True, False)),
        (1.19, 1.0, (False, False)),
        (0.5, 1.0, (False, False)),  # a good token that became rarer is pulled back
        (0.79, -1.0, (True, False)),
        (0.81, -1.0, (False, False)),
        (2.9, -1.0, (False, False)),
        (3.1, -1.0, (False, True)),
        (9.0, 0.0, (False, False)),
    ],
)
def test_tokens_that_a_clip_keeps_from_learning_are_counted(ratio, advantage, expected):
    found = clipped(torch.tensor([math.log(ratio)]), torch.zeros(1), torch.tensor([advantage]))
    assert tuple(bool(each) for each in found) == expected


@PROPERTY
@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(-2, 2, allow_subnormal=False)), min_size=1, max_size=20))
def test_a_token_has_a_gradient_exactly_where_no_clip_holds_it(tokens):
    new, advantage = (torch.tensor(each, dtype=torch.float64) for each in zip(*tokens, strict=True))
    new.requires_grad_()
    policy_loss(new, torch.zeros_like(new), advantage, len(new)).backward()
    outside, dual = clipped(new.detach(), torch.zeros_like(new), advantage)
    assert not (outside & dual).any()
    assert torch.equal(new.grad != 0, (advantage != 0) & ~outside & ~dual)
