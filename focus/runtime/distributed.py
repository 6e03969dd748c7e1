"""Many processes as one: what the ranks of a run decide together, and weights that are divided among them.

Every rank plays and trains on its own questions. What all ranks must do equally often, or they wait for each other for ever, is here:
gathering weights, reducing gradients, exchanging figures. In one process all of this is nothing.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from pytorch_lightning.strategies import Strategy
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

Item = TypeVar("Item")


def shard(items: Sequence[Item]) -> list[Item]:
    """This rank's part of some items: every n-th, so that the ranks' parts differ by one at most."""
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    return [items[i] for i in range(rank, len(items), ranks)]


def all_gather(part: Item) -> list[Item]:
    """What every rank gives, in their order; all ranks get the whole."""
    if not dist.is_initialized():
        return [part]
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, part)
    return parts


def all_reduce_sum(strategy: Strategy, count: int) -> int:
    """A count summed over ranks."""
    return int(strategy.reduce(torch.tensor(float(count), device=strategy.root_device), reduce_op="sum"))


def mean_over_ranks(values: Mapping[str, float]) -> dict[str, float]:
    """The mean of each figure over the ranks that have it (NaN, or no such name: not measured); of a name in `_max` the largest."""
    parts = all_gather(dict(values))
    names = list(dict.fromkeys(name for part in parts for name in part))
    each = torch.tensor([[part.get(name, math.nan) for name in names] for part in parts], dtype=torch.float64)
    largest = torch.where(each.isnan(), -math.inf, each).amax(0)
    means = each.nanmean(0)
    is_largest = torch.tensor([name.endswith("_max") for name in names]) & ~means.isnan()
    return dict(zip(names, torch.where(is_largest, largest, means).tolist(), strict=True))


def full_tensor(value: Tensor) -> Tensor:
    """A tensor that may be divided among ranks, in one piece. All ranks ask together."""
    return value.full_tensor() if isinstance(value, DTensor) else value


@contextmanager
def unsharded(model: nn.Module) -> Iterator[None]:
    """Within the block every rank holds all weights, in the dtype of the arithmetic, and no forward waits for another rank.

    For rollouts: ranks end them at different lengths, and gathering each layer again for every token would cost more than the token.
    Nothing may be learned inside.
    """
    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(True, recurse=False)
        if parts:
            parts[0].reset_iter_state()  # the root: gives the gathered weights back, and forgets the order of the rollouts' forwards
