"""Many processes as one: what the ranks of a run decide together, and weights that are divided among them.

Every rank plays and trains on its own questions. What all ranks must do equally often, or they wait for each other for ever, is here:
gathering weights, reducing gradients, exchanging figures. In one process all of this is nothing.
"""

import fcntl
import importlib.util
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy, DeepSpeedStrategy, ModelParallelStrategy, Strategy
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

Item = TypeVar("Item")


def is_first() -> bool:
    """Whether this process is the one that prints and writes. Known before a process group exists, from the launcher's environment."""
    return not getattr(rank_zero_only, "rank", 0)


def publish(path: Path, text: str) -> None:
    """The first rank writes a file that the others may be reading: they see what was there before, or all of this."""
    if is_first():
        partial = beside(path)
        partial.write_text(text)
        settle(partial, path)


PARTIAL = ".partial"


def beside(path: Path) -> Path:
    """Where a file or folder is written before it gets its own name: in the same folder, so that the renaming is one step."""
    return path.with_name(path.name + PARTIAL)


def settle(partial: Path, path: Path) -> None:
    """Give what was written in `partial` its own name, once all of it is on the disk. A file takes the place of an older one."""
    files = [each for each in partial.rglob("*") if each.is_file()] if partial.is_dir() else [partial]
    for each in files:
        with each.open("rb") as written:
            os.fsync(written.fileno())
    if path.is_dir():
        remove(path)
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    except OSError:  # some network file systems do not sync folders
        pass
    finally:
        os.close(folder)


def remove(path: Path) -> None:
    """Remove a file or a folder; what an interruption leaves of a folder no longer has its name."""
    if path.is_dir():
        gone = path if path.name.endswith(PARTIAL) else path.rename(path.with_name(f"{path.name}.gone{PARTIAL}"))
        shutil.rmtree(gone)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def only_job(folder: Path) -> Iterator[None]:
    """Within the block no other job works in this folder, on whatever node. The first rank asks for all.

    The lock belongs to the process, not to its children, and ends with it, however it ends. Raises ValueError where another job holds it.
    """
    if not is_first():
        yield
        return
    with (folder / "running.lock").open("w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise ValueError(
                f"another job is working in {folder} (it holds {file.name}); let it go on, or end it before this one is started. "
                "On Slurm: squeue --me, scancel"
            ) from error
        except OSError:  # a file system without locks: as if there were none
            pass
        yield


def share(items: Sequence[Item]) -> list[Item]:
    """This rank's part of some items: every n-th, so that the ranks' parts differ by one at most."""
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    return [items[i] for i in range(rank, len(items), ranks)]


def collect(part: Item) -> list[Item]:
    """What every rank gives, in their order; all ranks get the whole."""
    if not dist.is_initialized():
        return [part]
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, part)
    return parts


def total(strategy: Strategy, count: int) -> int:
    """A count summed over ranks."""
    return int(strategy.reduce(torch.tensor(float(count), device=strategy.root_device), reduce_op="sum"))


def average(values: Mapping[str, float]) -> dict[str, float]:
    """The mean of each figure over the ranks that have it (NaN, or no such name: not measured); of a name in `_max` the largest."""
    parts = collect(dict(values))
    names = list(dict.fromkeys(name for part in parts for name in part))
    each = torch.tensor([[part.get(name, math.nan) for name in names] for part in parts], dtype=torch.float64)
    largest = torch.where(each.isnan(), -math.inf, each).amax(0)
    means = each.nanmean(0)
    is_largest = torch.tensor([name.endswith("_max") for name in names]) & ~means.isnan()
    return dict(zip(names, torch.where(is_largest, largest, means).tolist(), strict=True))


def passes(strategy: Strategy, count: int) -> int:
    """How often a rank with `count` micro-batches passes through the network.

    Where weights or gradients are divided, every pass needs all ranks: as many as the one with the most. Else as many as it has.
    """
    if not isinstance(strategy, FullyShardedStrategy | ZeroStrategy):
        return count
    return int(strategy.reduce(torch.tensor(float(count), device=strategy.root_device), reduce_op="max"))


@contextmanager
def unsynchronised(strategy: Strategy) -> Iterator[None]:
    """Within it a backward adds to the gradients, and no step follows; they stay on this rank where the strategy can do that."""
    if isinstance(strategy, ZeroStrategy):
        strategy.deepspeed_engine.set_gradient_accumulation_boundary(False)
        yield
        strategy.deepspeed_engine.set_gradient_accumulation_boundary(True)
    elif isinstance(strategy, DDPStrategy):
        with strategy.block_backward_sync():
            yield
    else:
        yield


def clip(strategy: Strategy, parameters: Sequence[nn.Parameter], largest: float) -> float:
    """Bring the norm of the gradients down to `largest`; returns what it was. DeepSpeed clips by itself when it steps."""
    if isinstance(strategy, ZeroStrategy):
        return float(strategy.deepspeed_engine.optimizer.scaled_global_norm())
    return float(whole(torch.nn.utils.clip_grad_norm_(parameters, largest)))


def rest(strategy: Strategy, optimizer: Any) -> None:
    """Let the next step leave every weight as it is, after gradients that are all zero.

    AdamW passes over a weight without a gradient: no decay, no momentum. DeepSpeed has its own gradients, so its rate is 0 for this step;
    its moments decay by one step.
    """
    optimizer.zero_grad()
    if isinstance(strategy, ZeroStrategy):
        for group in optimizer.param_groups:
            group["lr"] = 0.0


def whole(value: Tensor) -> Tensor:
    """A tensor that may be divided among ranks, in one piece. All ranks ask together."""
    return value.full_tensor() if isinstance(value, DTensor) else value


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
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


class WholeFolders(Strategy):
    """Checkpoints that are folders with a file for each rank: they appear whole or not at all."""

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        final = Path(self.broadcast(filepath))
        partial = beside(final)
        if self.is_global_zero:
            shutil.rmtree(partial, ignore_errors=True)  # another number of ranks may have left it
        self.barrier()
        super().save_checkpoint(checkpoint, partial, storage_options)
        self.barrier()
        if self.is_global_zero:
            settle(partial, final)
        self.barrier()


def written_by(checkpoint: Path) -> str:
    """The kind of trainer that a checkpoint is from: `fsdp`, `deepspeed`, or `whole` for those that keep whole weights."""
    return "whole" if checkpoint.is_file() else "fsdp" if (checkpoint / ".metadata").is_file() else "deepspeed"


def kind(strategy: Strategy) -> str:
    """In the words of `written_by`."""
    return "fsdp" if isinstance(strategy, FullyShardedStrategy) else "deepspeed" if isinstance(strategy, ZeroStrategy) else "whole"


class ZeroStrategy(WholeFolders, DeepSpeedStrategy):
    """DeepSpeed's ZeRO-2: gradients and moments are divided over all ranks, weights stay whole, so rollouts ask nobody.

    ZeRO-3 would divide the weights too: that is fsdp's business here. Raises ValueError without the package deepspeed.
    """

    def __init__(self, grad_clip: float, **rest: Any) -> None:
        if importlib.util.find_spec("deepspeed") is None:
            raise ValueError(
                "trainer=deepspeed needs the package deepspeed (requirements-gpu.txt); trainer=fsdp needs nothing beside PyTorch"
            )
        super().__init__(stage=2, logging_batch_size_per_gpu=1, **rest)
        assert isinstance(self.config, dict)
        self.config["gradient_clipping"] = grad_clip

    def setup(self, trainer: Any) -> None:
        self.precision_plugin.convert_input = lambda data: data  # type: ignore[method-assign]  # questions hold images, not tensors
        super().setup(trainer)


class FullyShardedStrategy(WholeFolders, ModelParallelStrategy):
    """FSDP2: weights, gradients and the optimiser's moments are divided over all ranks.

    `arithmetic` is the dtype in which gathered weights and activations compute, float32 or bfloat16; weights are stored and gradients
    are reduced in their own (policy.dtype, float32 for full training). Works on CPU with gloo. Raises ValueError for another dtype.
    """

    def __init__(self, arithmetic: str = "bfloat16", **rest: Any) -> None:
        super().__init__(data_parallel_size=1, tensor_parallel_size=1, **rest)
        if arithmetic not in ("float32", "bfloat16"):
            raise ValueError(f"trainer.strategy.arithmetic is {arithmetic!r}; choose float32 or bfloat16")
        self.arithmetic = getattr(torch, arithmetic)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes  # Lightning's own "auto" divides over nodes alone
        super().setup_environment()

    def shard(self, bare: Any) -> None:
        """Divide a transformers model, layer by layer. Idempotent.

        A frozen vision tower stays whole on every rank: it has neither gradients nor moments, and ranks ask it at different times, as
        each remembers what it has seen. The embedding and the head are one part where they are one tensor.
        """
        if isinstance(bare, FSDPModule):
            return
        text, tower, head = bare.model.language_model, bare.model.visual, bare.lm_head
        embedding = text.get_input_embeddings()
        if not (learns := any(p.requires_grad for p in tower.parameters())):
            tower.to(self.arithmetic)  # as the others are when they are gathered
        parts: list[Any] = [*text.layers, *([*tower.blocks, tower] if learns else [])]
        parts += [[embedding, head]] if head.weight is embedding.weight else [embedding, head]
        # inputs are not cast: that would hand every layer a copy of the layout, and what it writes into the copy would be lost
        policy = MixedPrecisionPolicy(self.arithmetic, reduce_dtype=torch.float32, cast_forward_inputs=False)
        mesh = self.device_mesh["data_parallel"]
        for part in [*parts, text, bare]:
            ignored = None if learns else set(tower.parameters())
            fully_shard(part, mesh=mesh, reshard_after_forward=True, mp_policy=policy, ignored_params=ignored)
        bare._get_fsdp_state()._lazy_init()  # its own forward is never called; else each part would become a root of its own
