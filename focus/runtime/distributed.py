"""Collectives over the ranks of a run: sharding questions, gathering weights, reducing numbers.

Each rank plays and trains on its own questions. All ranks must call a collective equally often;
otherwise they wait for each other forever. In a single process these functions do nothing.
"""

import math
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from pytorch_lightning.strategies import Strategy
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp._fully_shard._fsdp_common import TrainingState
from torch.distributed.tensor import DTensor

Item = TypeVar("Item")


def rank() -> int:
    """The number of this rank, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def ranks() -> int:
    """The number of ranks."""
    return dist.get_world_size() if dist.is_initialized() else 1


def shard(items: Sequence[Item]) -> list[Item]:
    """The items of this rank: every n-th one. Ranks get equally many, give or take one."""
    return [items[i] for i in range(rank(), len(items), ranks())]


def all_gather(part: Item) -> list[Item]:
    """The objects of all ranks, in rank order, on every rank."""
    if not dist.is_initialized():
        return [part]
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, part)
    return parts


def is_first_of_node() -> bool:
    """Whether this is the first rank on its node: the one that writes what the ranks of a node read. A collective."""
    node = socket.gethostname()
    return all_gather(node).index(node) == rank()


def from_first_rank(make: Callable[[], Item]) -> Item:
    """What `make` returns on the first rank, on every rank. The others do not call it."""
    made = all_gather(make() if rank() == 0 else None)[0]
    return cast(Item, made)


def all_reduce_sum(strategy: Strategy, count: int) -> int:
    """The sum of a count over ranks."""
    return int(strategy.reduce(torch.tensor(float(count), device=strategy.root_device), reduce_op="sum"))


def mean_over_ranks(values: Mapping[str, float]) -> dict[str, float]:
    """The mean of each value over the ranks that measured it; the maximum for names that end in `_max` and for memory.

    A rank did not measure a value that is NaN or missing.
    """
    parts = all_gather(dict(values))
    names = list(dict.fromkeys(name for part in parts for name in part))
    each = torch.tensor([[part.get(name, math.nan) for name in names] for part in parts], dtype=torch.float64)
    largest = torch.where(each.isnan(), -math.inf, each).amax(0)
    means = each.nanmean(0)
    is_largest = torch.tensor([name.endswith("_max") or name.startswith("memory/") for name in names]) & ~means.isnan()
    return dict(zip(names, torch.where(is_largest, largest, means).tolist(), strict=True))


def full_tensor(value: Tensor) -> Tensor:
    """The whole tensor of one that may be sharded over ranks. A collective."""
    return value.full_tensor() if isinstance(value, DTensor) else value


@contextmanager
def unsharded(model: nn.Module) -> Iterator[None]:
    """Hold all weights on every rank within the block, in the dtype of the arithmetic (FSDP2).

    Rollouts need this: ranks generate different numbers of tokens, and gathering each layer for
    each token would cost more than the token. Nothing may be trained inside.
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
            _end_forwards(parts[0])


def _end_forwards(root: FSDPModule) -> None:
    """Free the gathered weights and the recorded order of forwards, which no backward has followed."""
    if hasattr(root, "reset_iter_state"):
        root.reset_iter_state()
        return
    state = root._get_fsdp_state()  # torch 2.11, where that function is not yet
    for part in state._state_ctx.all_states:
        part._modules_to_run_forward.clear()
        part._training_state = TrainingState.IDLE
        if (group := part._fsdp_param_group) is not None:
            group._training_state = TrainingState.IDLE
            group._post_forward_indices.clear()
            group.reshard()
    state._comm_ctx.post_forward_order.clear()
    state._state_ctx.iter_forward_root = None
