"""Group-relative policy optimisation: the advantage and the clipped surrogate.

Departures from the paper, which does not report them:
1. The mean runs over all sampled tokens of the update (not per rollout), so long answers are not down-weighted.
2. The standard deviation is that of the population, so |A| <= sqrt(N - 1).
3. For a negative advantage the surrogate is bounded below (dual clip), as in the DeepEyes recipe that the paper follows.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def group_advantage(
    reward: Float[Tensor, "question rollout"], epsilon: float = 1e-6, accuracy: Float[Tensor, "question rollout"] | None = None
) -> Float[Tensor, "question rollout"]:
    """E4: the reward of each rollout relative to its siblings on the same question.

    A group whose rewards are all equal gets exactly zero: it teaches nothing. Where `accuracy` is given, a
    group with equal accuracy gets zero too, even if its rewards differ. A rollout without a grade (NaN)
    gets zero and is left out of its group's mean and deviation. Raises ValueError for one rollout per
    question, which can teach nothing.
    """
    if reward.shape[1] < 2:
        raise ValueError("rollout.rollouts_per_question is 1; every advantage would be zero. Use at least 2 (the paper uses 16)")
    mean = reward.nanmean(dim=1, keepdim=True)
    offset = torch.where(reward.isnan(), 0.0, reward - mean)
    equal = zero_variance(reward) if accuracy is None else zero_variance(reward) | zero_variance(accuracy)
    return torch.where(equal[:, None], 0.0, offset / (_deviation(reward) + epsilon))


def turn_advantage(
    reward: Float[Tensor, "question rollout"],
    answers: int,
    epsilon: float = 1e-6,
    accuracy: Float[Tensor, "question rollout"] | None = None,
) -> Float[Tensor, "question rollout part"]:
    """The advantage of a rollout's first turn (part 0) and of the turns after it (part 1).

    With one answer to each crop both are E4's. With more they are E14's: what each added to the reward, in E4's deviations, and
    zero where E4 is zero.
    """
    advantage = group_advantage(reward, epsilon, accuracy)
    if answers == 1:
        return torch.stack([advantage, advantage], dim=-1)
    teaches = (advantage != 0).any(dim=1)[:, None, None]
    return torch.where(teaches, turn_credit(reward, answers) / (_deviation(reward) + epsilon)[..., None], 0.0)


def turn_credit(reward: Float[Tensor, "question rollout"], answers: int) -> Float[Tensor, "question rollout part"]:
    """E14 before the division: what the first turn and what the turns after it added to the reward.

    Siblings lie side by side, `answers` (at least 2) behind each first turn. Part 0 is the mean reward behind a first turn minus
    the mean of the group's other first turns. Part 1 is the reward minus the mean of the other answers to the same crop. Neither
    baseline depends on the tokens that it is for, so both parts are unbiased. A rollout without a grade (NaN) gets zero and is in
    no mean; a first turn or an answer without a graded sibling gets zero.
    """
    tree = reward.unflatten(1, (-1, answers))
    behind = tree.nanmean(dim=2)
    calls, alike = (~behind.isnan()).sum(1, keepdim=True), (~tree.isnan()).sum(2, keepdim=True)
    call = (behind - behind.nanmean(dim=1, keepdim=True)) * calls / (calls - 1)  # the mean without itself, by the mean with it
    answer = (tree - behind[..., None]) * alike / (alike - 1)
    parts = torch.stack([call[..., None].expand_as(tree), answer], dim=-1)
    return torch.where(parts.isfinite() & ~tree.isnan()[..., None], parts, 0.0).flatten(1, 2)


def _deviation(reward: Float[Tensor, "question rollout"]) -> Float[Tensor, "question 1"]:
    """Of the graded rewards of each group, as a population."""
    offset = torch.where(reward.isnan(), 0.0, reward - reward.nanmean(dim=1, keepdim=True))
    count = (~reward.isnan()).sum(dim=1, keepdim=True).clamp_min(1)
    return (offset.square().sum(dim=1, keepdim=True) / count).sqrt()


def zero_variance(reward: Float[Tensor, "question rollout"]) -> Tensor:
    """Bool [question]: groups whose graded rewards are all equal."""
    low = torch.where(reward.isnan(), torch.inf, reward).amin(dim=1)
    high = torch.where(reward.isnan(), -torch.inf, reward).amax(dim=1)
    return high <= low


def sampler_weight(
    old_logprob: Float[Tensor, " token"], sampler_logprob: Float[Tensor, " token"], cap: float | None
) -> Float[Tensor, " token"]:
    """E13: the truncated importance weight min(pi_train / pi_sampler, cap) of each sampled token, in (0, cap]; a factor on its advantage.

    It corrects for tokens that another engine sampled: that engine's probabilities differ from the
    trainer's own at the time of the rollout (`old_logprob`). No gradient passes through it. `cap` None
    means that sampler and trainer are the same network, and every weight is 1.
    """
    if cap is None:
        return torch.ones_like(old_logprob)
    return (old_logprob - sampler_logprob).detach().clamp_max(math.log(cap)).exp()


def policy_loss(
    logprob: Float[Tensor, " token"],
    old_logprob: Float[Tensor, " token"],
    advantage: Float[Tensor, " token"],
    update_tokens: int,
    clip: float = 0.2,
    dual_clip: float = 3.0,
) -> Float[Tensor, ""]:
    """E12: the clipped surrogate, summed over these sampled tokens and divided by the sampled tokens of the whole update.

    So micro-batches add up to the loss and gradients of one batch. Pass sampled tokens only, never those
    of prompts or observations.
    """
    # exp overflows in float32 above 88, and then the gradient of the branch that the clip did not take is
    # inf * 0 = NaN. At 20 every clip is active already.
    ratio = (logprob - old_logprob).clamp(-20, 20).exp()
    surrogate = torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
    surrogate = torch.where(advantage < 0, torch.maximum(surrogate, dual_clip * advantage), surrogate)
    return -surrogate.sum() / update_tokens


def clipped(
    logprob: Float[Tensor, " token"],
    old_logprob: Float[Tensor, " token"],
    advantage: Float[Tensor, " token"],
    clip: float = 0.2,
    dual_clip: float = 3.0,
) -> tuple[Bool[Tensor, " token"], Bool[Tensor, " token"]]:
    """Tokens whose gradient E12's clips set to zero: beyond the trust region, and beyond the bound for negative advantages."""
    log_ratio = logprob - old_logprob
    beyond = torch.where(advantage > 0, log_ratio > math.log1p(clip), log_ratio < math.log1p(-clip) if clip < 1 else False)
    return beyond & (advantage != 0), (advantage < 0) & (log_ratio > math.log(dual_clip))
