"""How a run is divided over ranks: DDP, FSDP2, DeepSpeed ZeRO-2, and what an update asks of each."""

import importlib.util
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.strategies import DDPStrategy, DeepSpeedStrategy, ModelParallelStrategy, Strategy
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from focus.runtime.distributed import full_tensor
from focus.runtime.files import partial_path, replace_atomically


def backward_count(strategy: Strategy, count: int) -> int:
    """How often a rank with `count` micro-batches passes through the network.

    Where weights or gradients are divided, every pass needs all ranks: as many as the one with the most. Else as many as it has.
    """
    if not isinstance(strategy, FullyShardedStrategy | ZeroStrategy):
        return count
    return int(strategy.reduce(torch.tensor(float(count), device=strategy.root_device), reduce_op="max"))


@contextmanager
def no_gradient_sync(strategy: Strategy) -> Iterator[None]:
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


def clip_gradients(strategy: Strategy, parameters: Sequence[nn.Parameter], largest: float) -> float:
    """Bring the norm of the gradients down to `largest`; returns what it was. DeepSpeed clips by itself when it steps."""
    if isinstance(strategy, ZeroStrategy):
        return float(strategy.deepspeed_engine.optimizer.scaled_global_norm())
    return float(full_tensor(torch.nn.utils.clip_grad_norm_(parameters, largest)))


def skip_step(strategy: Strategy, optimizer: Any) -> None:
    """Let the next step leave every weight as it is, after gradients that are all zero.

    AdamW passes over a weight without a gradient: no decay, no momentum. DeepSpeed has its own gradients, so its rate is 0 for this step;
    its moments decay by one step.
    """
    optimizer.zero_grad()
    if isinstance(strategy, ZeroStrategy):
        for group in optimizer.param_groups:
            group["lr"] = 0.0


class AtomicCheckpointFolders(Strategy):
    """Checkpoints that are folders with a file for each rank: they appear whole or not at all."""

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        final = Path(self.broadcast(filepath))
        partial = partial_path(final)
        if self.is_global_zero:
            shutil.rmtree(partial, ignore_errors=True)  # another number of ranks may have left it
        self.barrier()
        super().save_checkpoint(checkpoint, partial, storage_options)
        self.barrier()
        if self.is_global_zero:
            replace_atomically(partial, final)
        self.barrier()


def strategy_of_checkpoint(checkpoint: Path) -> str:
    """The kind of trainer that a checkpoint is from: `fsdp`, `deepspeed`, or `whole` for those that keep whole weights."""
    return "whole" if checkpoint.is_file() else "fsdp" if (checkpoint / ".metadata").is_file() else "deepspeed"


def strategy_kind(strategy: Strategy) -> str:
    """In the words of `written_by`."""
    return "fsdp" if isinstance(strategy, FullyShardedStrategy) else "deepspeed" if isinstance(strategy, ZeroStrategy) else "whole"


class ZeroStrategy(AtomicCheckpointFolders, DeepSpeedStrategy):
    """DeepSpeed's ZeRO-2: gradients and moments are divided over all ranks, weights stay whole, so rollouts ask nobody.

    ZeRO-3 would divide the weights too: that is fsdp's business here. Raises ValueError without the package deepspeed.
    """

    def __init__(self, grad_clip: float, **skip_step: Any) -> None:
        if importlib.util.find_spec("deepspeed") is None:
            raise ValueError(
                "trainer=deepspeed needs the package deepspeed (requirements-gpu.txt); trainer=fsdp needs nothing beside PyTorch"
            )
        super().__init__(stage=2, logging_batch_size_per_gpu=1, **skip_step)
        assert isinstance(self.config, dict)
        self.config["gradient_clipping"] = grad_clip

    def setup(self, trainer: Any) -> None:
        self.precision_plugin.convert_input = lambda data: data  # type: ignore[method-assign]  # questions hold images, not tensors
        super().setup(trainer)


class FullyShardedStrategy(AtomicCheckpointFolders, ModelParallelStrategy):
    """FSDP2: weights, gradients and the optimiser's moments are divided over all ranks.

    `arithmetic` is the dtype in which gathered weights and activations compute, float32 or bfloat16; weights are stored and gradients
    are reduced in their own (policy.dtype, float32 for full training). Works on CPU with gloo. Raises ValueError for another dtype.
    """

    def __init__(self, arithmetic: str = "bfloat16", **skip_step: Any) -> None:
        super().__init__(data_parallel_size=1, tensor_parallel_size=1, **skip_step)
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
