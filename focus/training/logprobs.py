"""Log-probabilities of what was sampled, with gradients: every group's prompt passes through the network once.

Siblings share their prompt, view included, so the naive forward, one row for each rollout, computes it once for each of them. Here it
stands once in a packed row, and the suffixes (turns and crops) attend to it: same loss and gradients (tested), a fraction of the work.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from focus.model.attention import PREFIX, PackedGroups
from focus.model.policy_model import PolicyModel
from focus.model.positions import mrope_positions
from focus.rollout.trajectory import Trajectory


def sampled_logprobs(policy: PolicyModel, trajectories: Sequence[Trajectory], temperature: float) -> list[Float[Tensor, " sampled"]]:
    """Log-probability of every sampled token, per trajectory, with gradients."""
    return logprobs_and_entropy(policy, trajectories, temperature)[0]


def logprobs_and_entropy(
    policy: PolicyModel, trajectories: Sequence[Trajectory], temperature: float
) -> tuple[list[Float[Tensor, " sampled"]], list[Float[Tensor, " sampled"]]]:
    """Log-probability of every sampled token, per trajectory, with gradients; and the entropy of the distribution it was drawn from.

    Trajectories of one group share one pass of their prompt. The same ban and temperature as in sampling, so that trainer and sampler
    speak of one distribution. Logits are computed only where a sampled token stands. Raises ValueError naming the sample where
    pixels and placeholders disagree.
    """
    c, device = policy, policy.model.device
    members: dict[int, list[int]] = {}
    for i, t in enumerate(trajectories):
        members.setdefault(t.group, []).append(i)
    firsts = [trajectories[group[0]] for group in members.values()]
    order = [i for group in members.values() for i in group]
    placed = {i: _positions(c, trajectories[i]) for i in order}
    prompt_lengths = [len(t.prompt_ids) for t in firsts]
    suffixes = [trajectories[i].suffix_ids for i in order]
    layout = PackedGroups(
        prompt_lengths,
        [len(suffix) for suffix in suffixes],
        [g for g, group in enumerate(members.values()) for _ in group],
        device,
        flash=c.backbone.language_model.config._attn_implementation == PREFIX + "flash_attention_2",
    )
    ids = torch.tensor([i for ids in (*(t.prompt_ids for t in firsts), *suffixes) for i in ids])
    places = [placed[group[0]][:, :n] for group, n in zip(members.values(), prompt_lengths, strict=True)]
    places += [placed[i][:, len(trajectories[i].prompt_ids) :] for i in order]
    images = [t.images[0] for t in firsts] + [image for i in order for image in trajectories[i].images[1:]]
    hidden = c.hidden(ids, torch.from_numpy(np.concatenate(places, axis=1)), c.encode_images(images), layout)
    before, target = _sampled(prompt_lengths, list(members.values()), trajectories, ids)
    counts = [sum(trajectories[i].sampled_mask) for i in order]
    back = [place for _, place in sorted(zip(order, range(len(order)), strict=True))]
    logprob, entropy = (each.split(counts) for each in c.token_logprobs(hidden[before.to(device)], target, temperature))
    return [logprob[place] for place in back], [entropy[place] for place in back]


def _positions(c: PolicyModel, t: Trajectory) -> np.ndarray:
    patch_px = c.token_px // c.merge
    grids = [(1, image.height // patch_px, image.width // patch_px) for image in t.images]
    try:
        return mrope_positions(t.ids, grids, c.image_pad_id, c.merge)
    except ValueError as error:
        raise ValueError(f"sample {t.sample.id}: {error}") from error


def _sampled(
    prompt_lengths: Sequence[int], members: Sequence[Sequence[int]], trajectories: Sequence[Trajectory], ids: Tensor
) -> tuple[Tensor, Tensor]:
    """For every sampled token: where in the packed row the token before it stands, and its id.

    Before the first token of a suffix stands the last one of its prompt.
    """
    before: list[Tensor] = []
    target: list[Tensor] = []
    at, prompt_end = sum(prompt_lengths), 0
    for length, group in zip(prompt_lengths, members, strict=True):
        prompt_end += length
        for i in group:
            mask = torch.tensor(trajectories[i].sampled_mask[length:])
            here = at + mask.nonzero()[:, 0]
            before.append(torch.where(here == at, prompt_end, here) - 1)
            target.append(ids[here])
            at += len(mask)
    return torch.cat(before), torch.cat(target)


def micro_batches(trajectories: Sequence[Trajectory], tokens_per_forward: int) -> list[list[int]]:
    """Indices of trajectories that pass together, each lot within the budget of packed tokens, siblings side by side.

    A group larger than the budget is divided, and its prompt then passes once for each part; a longer single rollout stands alone.
    """
    members: dict[int, list[int]] = {}
    for i, t in enumerate(trajectories):
        members.setdefault(t.group, []).append(i)
    lots: list[list[int]] = [[]]
    room = tokens_per_forward
    for group in members.values():
        prompt = len(trajectories[group[0]].prompt_ids)
        suffixes = [len(trajectories[i].suffix_ids) for i in group]
        if lots[-1] and prompt + sum(suffixes) > room:
            lots.append([])
            room = tokens_per_forward
        room -= prompt
        for i, suffix in zip(group, suffixes, strict=True):
            if suffix > room and lots[-1]:
                lots.append([])
                room = tokens_per_forward - prompt
            lots[-1].append(i)
            room -= suffix
    return lots
