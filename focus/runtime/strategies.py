"""Strategies that divide a run over ranks (DDP, FSDP2, DeepSpeed ZeRO-2), and what an update needs of each."""

import importlib.util
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.strategies import DDPStrategy, DeepSpeedStrategy, ModelParallelStrategy, Strategy
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from focus.runtime.distributed import full_tensor
from focus.runtime.files import partial_path, replace_atomically


def backward_count(strategy: Strategy, count: int) -> int:
    """Number of backward passes of a rank that has `count` micro-batches.

    Where weights or gradients are sharded, each pass is a collective: all ranks make as many as the
    rank with the most micro-batches. Otherwise it is `count`.
    """
    if not isinstance(strategy, FullyShardedStrategy | ZeroStrategy):
        return count
    return int(strategy.reduce(torch.tensor(float(count), device=strategy.root_device), reduce_op="max"))


@contextmanager
def no_gradient_sync(strategy: Strategy) -> Iterator[None]:
    """Accumulate gradients within the block without reducing them, where the strategy supports that."""
    if isinstance(strategy, ZeroStrategy):
        strategy.deepspeed_engine.set_gradient_accumulation_boundary(False)
        yield
        strategy.deepspeed_engine.set_gradient_accumulation_boundary(True)
    elif isinstance(strategy, DDPStrategy):
        with strategy.block_backward_sync():
            yield
    else:
        yield


def clip_gradients(strategy: Strategy, parameters: Sequence[nn.Parameter], largest: float) -> float:
    """Clip the gradient norm to `largest` and return the norm before. DeepSpeed clips in its own step."""
    if isinstance(strategy, ZeroStrategy):
        return float(strategy.deepspeed_engine.optimizer.scaled_global_norm())
    return float(full_tensor(torch.nn.utils.clip_grad_norm_(parameters, largest)))


def skip_step(strategy: Strategy, optimizer: Any) -> None:
    """Make the next optimiser step change no weight, where all gradients are zero.

    AdamW skips a weight without a gradient: no weight decay, no momentum. DeepSpeed keeps its own
    gradients, so its learning rate is 0 for this step; its moments decay by one step.
    """
    optimizer.zero_grad()
    if isinstance(strategy, ZeroStrategy):
        for group in optimizer.param_groups:
            group["lr"] = 0.0


class AtomicCheckpointFolders(Strategy):
    """Checkpoints that are folders with one file per rank. They appear whole or not at all."""

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        final = Path(self.broadcast(filepath))
        partial = partial_path(final)
        if self.is_global_zero:
            shutil.rmtree(partial, ignore_errors=True)  # a run with another number of ranks may have left it
        self.barrier()
        super().save_checkpoint(checkpoint, partial, storage_options)
        self.barrier()
        if self.is_global_zero:
            replace_atomically(partial, final)
        self.barrier()


def strategy_of_checkpoint(checkpoint: Path) -> str:
    """The strategy that wrote a checkpoint: `fsdp`, `deepspeed`, or `whole` for one file with all weights."""
    return "whole" if checkpoint.is_file() else "fsdp" if (checkpoint / ".metadata").is_file() else "deepspeed"


def strategy_kind(strategy: Strategy) -> str:
    """The name of a strategy as `strategy_of_checkpoint` gives it."""
    return "fsdp" if isinstance(strategy, FullyShardedStrategy) else "deepspeed" if isinstance(strategy, ZeroStrategy) else "whole"


class ZeroStrategy(AtomicCheckpointFolders, DeepSpeedStrategy):
    """DeepSpeed ZeRO-2: gradients and optimiser moments are sharded, weights are not, so rollouts need no collective.

    ZeRO-3 would shard the weights too; `trainer=fsdp` does that here. Raises ValueError if the
    package deepspeed is not installed.
    """

    def __init__(self, grad_clip: float, **options: Any) -> None:
        if importlib.util.find_spec("deepspeed") is None:
            raise ValueError(
                "trainer=deepspeed needs the package deepspeed (requirements-gpu.txt); trainer=fsdp needs nothing beside PyTorch"
            )
        super().__init__(stage=2, logging_batch_size_per_gpu=1, **options)
        assert isinstance(self.config, dict)
        self.config["gradient_clipping"] = grad_clip

    def setup(self, trainer: Any) -> None:
        self.precision_plugin.convert_input = lambda data: data  # type: ignore[method-assign]  # questions hold images, not tensors
        super().setup(trainer)


class FullyShardedStrategy(AtomicCheckpointFolders, ModelParallelStrategy):
    """FSDP2: weights, gradients and optimiser moments are sharded over the ranks of a node.

    Several nodes each hold all shards (HSDP): layers are gathered within a node, and only gradients are
    summed over nodes.

    `arithmetic` is the dtype of gathered weights and activations, float32 or bfloat16. Weights are
    stored and gradients are reduced in float32 (full training) or in policy.dtype. Works on CPU with
    gloo. Raises ValueError for another dtype.
    """

    def __init__(self, arithmetic: str = "bfloat16", **options: Any) -> None:
        super().__init__(data_parallel_size=1, tensor_parallel_size=1, **options)
        if arithmetic not in ("float32", "bfloat16"):
            raise ValueError(f"trainer.strategy.arithmetic is {arithmetic!r}; choose float32 or bfloat16")
        self.arithmetic = getattr(torch, arithmetic)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes  # Lightning's own "auto" shards over nodes only
        super().setup_environment()

    def shard(self, bare: Any) -> None:
        """Shard a transformers model, layer by layer. Idempotent.

        A frozen vision tower is not sharded: it has neither gradients nor moments, and ranks call it
        at different times, since each keeps the features of its own images. Tied embedding and head
        are one part.
        """
        if isinstance(bare, FSDPModule):
            return
        text, tower, head = bare.model.language_model, bare.model.visual, bare.lm_head
        embedding = text.get_input_embeddings()
        if not (learns := any(p.requires_grad for p in tower.parameters())):
            tower.to(self.arithmetic)  # the dtype that the other parts have when they are gathered
        parts: list[Any] = [*text.layers, *([*tower.blocks, tower] if learns else [])]
        parts += [[embedding, head]] if head.weight is embedding.weight else [embedding, head]
        # Inputs are not cast: each layer would get a copy of the layout, and what it writes there would be lost
        policy = MixedPrecisionPolicy(self.arithmetic, reduce_dtype=torch.float32, cast_forward_inputs=False)
        mesh = self.device_mesh["data_parallel"]
        if self.num_nodes > 1:
            mesh = init_device_mesh(self.root_device.type, (self.num_nodes, self.num_processes), mesh_dim_names=("nodes", "ranks"))
        for part in [*parts, text, bare]:
            ignored = None if learns else set(tower.parameters())
            fully_shard(part, mesh=mesh, reshard_after_forward=True, mp_policy=policy, ignored_params=ignored)
        bare._get_fsdp_state()._lazy_init()  # its own forward is never called; without this each part would become a root
