"""Tokens, arithmetic and network traffic of one update, for mean rollouts."""

import math

from focus.model.policy_model import LOGITS_BYTES
from focus.planning.lengths import micro_batch
from focus.planning.setup import Setup


def parts_of_groups(setup: Setup) -> int:
    """How often a prompt passes through one update of a rank: once for a group that `tokens_per_forward` holds, else once for each part."""
    _, rows = micro_batch(setup.mean, setup.rollouts, setup.cfg.objective.tokens_per_forward)
    return max(1, math.ceil(setup.rollouts / math.floor(rows))) * setup.questions


def micro_batches(setup: Setup) -> int:
    """Forwards of one update of a rank."""
    parts = parts_of_groups(setup)
    if parts > setup.questions:
        return parts
    packed = setup.mean.prompt + setup.rollouts * setup.mean.suffix
    return math.ceil(setup.questions * packed / setup.cfg.objective.tokens_per_forward)


def _passed(setup: Setup) -> float:
    """Tokens that one rank passes through an update."""
    return parts_of_groups(setup) * setup.mean.prompt + setup.questions * setup.rollouts * setup.mean.suffix


def tokens(setup: Setup) -> dict[str, float]:
    """Tokens of a rollout and of an update over all ranks."""
    mean, groups = setup.mean, setup.cfg.rollout.questions_per_update
    rollouts = groups * setup.rollouts
    return {
        "visual, of a rollout": mean.visual,
        "text, of a rollout": mean.prompt + mean.suffix - mean.visual,
        "sampled, of a rollout": mean.sampled,
        "visual, of an update": groups * mean.view + rollouts * (mean.visual - mean.view),
        "sampled, of an update": rollouts * mean.sampled,
        "passed through the update": setup.held.ranks * _passed(setup),
    }


def flops(setup: Setup) -> dict[str, float]:
    """FLOP of one rank in an update."""
    shape, mean, counts = setup.shape, setup.mean, setup.counts
    rows, parts, passed = setup.questions * setup.rollouts, parts_of_groups(setup), _passed(setup)
    sampled, middle = rows * mean.sampled, mean.suffix / 2
    crops = rows * (mean.turns - 1) * shape.tower(mean.crop)
    appended, decoded = rows * (mean.suffix - mean.sampled + mean.turns), rows * mean.turns * (mean.turn - 1)
    linear = shape.linear(passed)
    paired = shape.attention(parts * mean.prompt**2 + rows * mean.suffix * (mean.prompt + mean.suffix))
    backward = 1 if counts.adapters else 2  # frozen matrices need no weight gradient; attention has no weights
    adapters = 6 * passed * (counts.trainable - counts.visual_trainable) if counts.adapters else 0
    weighed_again = 4 * shape.words * sampled / micro_batches(setup) > LOGITS_BYTES  # the backward then computes logits chunk by chunk
    head = shape.logits(sampled) * (1 + backward + weighed_again)
    steps, again = setup.cfg.objective.updates_per_rollout, setup.checkpointed
    return {
        "vision tower, rollout": setup.questions * shape.tower(mean.view) + crops,
        "prefill": shape.linear(setup.questions * mean.prompt + appended)
        + shape.attention(setup.questions * mean.prompt**2 + appended * (mean.prompt + middle)),
        "decoding": shape.linear(decoded) + shape.attention(decoded * (mean.prompt + middle)) + shape.logits(sampled),
        "update": steps * (linear * (1 + backward + again) + paired * (3 + again) + adapters + head),
        "vision tower, update": steps * (parts * shape.tower(mean.view) + crops) * (3 + again) if setup.learns else 0.0,
    }


def network(setup: Setup) -> dict[str, float]:
    """Bytes that one rank sends in an update."""
    held, counts = setup.held, setup.counts
    micro, steps = micro_batches(setup), setup.cfg.objective.updates_per_rollout
    gathered = (counts.total - (0 if setup.learns else counts.visual)) * held.arithmetic
    reduced, summed = counts.trainable * 4, 0.0
    if held.kind == "fsdp":  # a node has all shards: gradients are divided within it and summed between nodes, after every micro-batch
        moved = (held.per_node - 1) / held.per_node
        summed = 2 * (held.nodes - 1) / held.nodes * reduced / held.per_node * steps * micro
    else:
        moved = (held.ranks - 1) / held.ranks
    times = {"one": 0, "ddp": 2 * steps, "zero2": steps * micro, "fsdp": steps * micro}[held.kind]  # DDP: once per step, send and receive
    weights = {
        "fsdp": 2 * micro * gathered,  # forward and backward of every micro-batch gather each layer
        "zero2": counts.trainable * held.stored,
    }
    return {
        "gradients": moved * reduced * times,
        "gradients, between nodes": summed,
        "weights, update": moved * steps * weights.get(held.kind, 0),
        "weights, rollout": float(moved * gathered if setup.gathers else 0),
    }


def sending(setup: Setup) -> dict[str, float]:
    """Seconds for each part of `network`. Within a node, FSDP's shards go over its links."""
    held, device = setup.held, setup.device
    within = device.link if held.nodes == 1 or held.kind == "fsdp" else device.network
    return {name: sent / (device.network if name.endswith("between nodes") else within) for name, sent in network(setup).items()}
