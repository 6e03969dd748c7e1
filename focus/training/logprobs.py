"""Log-probabilities of sampled tokens, with gradients: the prompt of each group passes through the network once.

Siblings share their prompt, view included. A naive forward has one row per rollout and computes the prompt
once for each. Here the packed row holds it once, and the suffixes (turns and crops) attend to it: same loss
and gradients (tested), a fraction of the work.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from focus.model.attention import PackedGroups
from focus.model.policy_model import PolicyModel
from focus.model.positions import mrope_positions
from focus.rollout.trajectory import Trajectory


def sampled_logprobs(policy: PolicyModel, trajectories: Sequence[Trajectory], temperature: float) -> list[Float[Tensor, " sampled"]]:
    """Log-probability of every sampled token, per trajectory, with gradients."""
    return logprobs_and_entropy(policy, trajectories, temperature)[0]


def logprobs_and_entropy(
    policy: PolicyModel, trajectories: Sequence[Trajectory], temperature: float
) -> tuple[list[Float[Tensor, " sampled"]], list[Float[Tensor, " sampled"]]]:
    """Log-probability of every sampled token, per trajectory, with gradients, and the entropy of its distribution (nats).

    Trajectories of one group share one pass of their prompt. Banned tokens and temperature are those of
    sampling, so that trainer and sampler use the same distribution. Logits are computed for sampled
    tokens only. Raises ValueError, with the sample's id, where pixels and placeholders disagree.
    """
    c, device = policy, policy.model.device
    members: dict[int, list[int]] = {}
    for i, t in enumerate(trajectories):
        members.setdefault(t.group, []).append(i)
    firsts = [trajectories[group[0]] for group in members.values()]
    order = [i for group in members.values() for i in group]
    position_ids = {i: _position_ids(c, trajectories[i]) for i in order}
    prompt_lengths = [len(t.prompt_ids) for t in firsts]
    suffixes = [trajectories[i].suffix_ids for i in order]
    layout = PackedGroups(
        prompt_lengths,
        [len(suffix) for suffix in suffixes],
        [g for g, group in enumerate(members.values()) for _ in group],
        device,
    )
    ids = torch.tensor([i for ids in (*(t.prompt_ids for t in firsts), *suffixes) for i in ids])
    packed_positions = [position_ids[group[0]][:, :n] for group, n in zip(members.values(), prompt_lengths, strict=True)]
    packed_positions += [position_ids[i][:, len(trajectories[i].prompt_ids) :] for i in order]
    images = [t.images[0] for t in firsts] + [image for i in order for image in trajectories[i].images[1:]]
    hidden = c.hidden(ids, torch.from_numpy(np.concatenate(packed_positions, axis=1)), c.encode_images(images), layout)
    predecessors, targets = _sampled_targets(prompt_lengths, list(members.values()), trajectories, ids)
    counts = [sum(trajectories[i].sampled_mask) for i in order]
    rows = [row for _, row in sorted(zip(order, range(len(order)), strict=True))]  # by trajectory, its row in `order`
    logprob, entropy = (values.split(counts) for values in c.token_logprobs(hidden[predecessors.to(device)], targets, temperature))
    return [logprob[row] for row in rows], [entropy[row] for row in rows]


def _position_ids(c: PolicyModel, t: Trajectory) -> np.ndarray:
    patch_px = c.token_px // c.merge
    grids = [(1, image.height // patch_px, image.width // patch_px) for image in t.images]
    try:
        return mrope_positions(t.ids, grids, c.image_pad_id, c.merge)
    except ValueError as error:
        raise ValueError(f"sample {t.sample.id}: {error}") from error


def _sampled_targets(
    prompt_lengths: Sequence[int], members: Sequence[Sequence[int]], trajectories: Sequence[Trajectory], ids: Tensor
) -> tuple[Tensor, Tensor]:
    """Per sampled token: the packed index of its predecessor, whose hidden state predicts it, and the token's id.

    The last token of the prompt predicts the first token of a suffix.
    """
    predecessors: list[Tensor] = []
    targets: list[Tensor] = []
    start, prompt_end = sum(prompt_lengths), 0
    for length, group in zip(prompt_lengths, members, strict=True):
        prompt_end += length
        for i in group:
            mask = torch.tensor(trajectories[i].sampled_mask[length:])
            sampled = start + mask.nonzero()[:, 0]
            predecessors.append(torch.where(sampled == start, prompt_end, sampled) - 1)
            targets.append(ids[sampled])
            start += len(mask)
    return torch.cat(predecessors), torch.cat(targets)


def token_advantage(t: Trajectory, advantage: tuple[float, float], weight: Float[Tensor, " sampled"]) -> Float[Tensor, " sampled"]:
    """The advantage of every sampled token, times its weight (E13): one number for the first turn, one for the turns after it."""
    (of_first, of_later), first = advantage, len(t.turns[0].ids)
    return torch.tensor([of_first] * first + [of_later] * (len(weight) - first), device=weight.device) * weight


def micro_batches(trajectories: Sequence[Trajectory], tokens_per_forward: int) -> list[list[int]]:
    """Indices of trajectories, divided into batches within the budget of packed tokens, siblings side by side.

    A group larger than the budget is divided, and its prompt passes once for each part. A single rollout
    longer than the budget is a batch of its own.
    """
    members: dict[int, list[int]] = {}
    for i, t in enumerate(trajectories):
        members.setdefault(t.group, []).append(i)
    batches: list[list[int]] = [[]]
    left = tokens_per_forward
    for group in members.values():
        prompt = len(trajectories[group[0]].prompt_ids)
        suffixes = [len(trajectories[i].suffix_ids) for i in group]
        if batches[-1] and prompt + sum(suffixes) > left:
            batches.append([])
            left = tokens_per_forward
        left -= prompt
        for i, suffix in zip(group, suffixes, strict=True):
            if suffix > left and batches[-1]:
                batches.append([])
                left = tokens_per_forward - prompt
            batches[-1].append(i)
            left -= suffix
    return batches
