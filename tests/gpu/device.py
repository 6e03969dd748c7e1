"""A GPU that is not there.

`with FakeGPU() as gpu:` makes a device called `gpu:0`. Its tensors compute on the CPU. An operation
that mixes devices raises as CUDA would. What makes the host wait for the device is counted by line
of focus; so are copies to the device and calls of attention. Kernels are counted by operation.

Not shown: time, several processes, autocast.
"""

import functools
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

import focus
from tests.gpu import attention
from tests.support import flash  # noqa: F401  # gives the kernel to the tensors that compute

aten = torch.ops.aten
PACKAGE = str(Path(focus.__file__).parent) + "/"
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
FLASH, FLASH_BACKWARD = aten._flash_attention_forward.default, aten._flash_attention_backward.default
SHAPED_BY_VALUES = {  # the host must know the result's values before it can go on
    aten.nonzero.default,
    aten.masked_select.default,
    aten.bincount.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
}
READ_BY_HOST = {aten._local_scalar_dense.default, aten.equal.default, *SHAPED_BY_VALUES}


class OnGPU(Tensor):
    """A tensor of the device. `inner` is the tensor that computes for it."""

    is_cuda = True  # it is asked for the kernels of attention and of the optimiser

    @staticmethod
    def __new__(cls, inner: Tensor) -> "OnGPU":
        return Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype, device="gpu:0"
        )

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __repr__(self) -> str:
        return f"OnGPU({self.inner})"

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return FakeGPU.running().run(func, args, kwargs or {})


class FakeGPU(TorchDispatchMode):
    """One device of compute capability `capability` (9.0: H100, 8.0: A100). There is one at a time.

    - `waits`: how often the host waits until the device has done all its work, by line of focus and
      operation ("rollout/kv.py:160 _local_scalar_dense"). Copies between host and device are waits
      too, as memory of the host is not pinned; only those to the device with `non_blocking` are not.
    - `copies`: copies to the device, by line.
    - `attention`: calls of attention, by line and by the kernel that would serve them.
    - `launches`: kernels, by operation.
    """

    current: "ClassVar[FakeGPU | None]" = None

    def __init__(self, capability: tuple[int, int] = (9, 0)) -> None:
        super().__init__()
        _register()
        self.capability = capability
        self.reset()

    @staticmethod
    def running() -> "FakeGPU":
        """The device of the block that is running. Raises RuntimeError outside of one."""
        if FakeGPU.current is None:
            raise RuntimeError("a tensor of the fake GPU is used outside of its `with` block")
        return FakeGPU.current

    def reset(self) -> None:
        """Set all counters to zero."""
        self.waits: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()
        self.attention: Counter[tuple[str, str]] = Counter()
        self.launches: Counter[str] = Counter()

    def __enter__(self) -> Any:
        assert FakeGPU.current is None, "one fake GPU at a time"
        FakeGPU.current = self
        self._threads = torch.autograd.set_multithreading_enabled(False)  # a dispatch mode belongs to one thread
        self._lifts = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=) makes a tensor of the host and copies it
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch._C._set_only_lift_cpu_tensors(self._lifts)
        self._threads.__exit__(*error)
        FakeGPU.current = None

    def place(self, module: torch.nn.Module, dtype: torch.dtype | None = None) -> None:
        """Move parameters and buffers to the device, in place; parameters in `dtype`. Tied ones stay tied."""
        placed: dict[int, Tensor] = {}
        for each in module.modules():
            for name, weight in each._parameters.items():
                if weight is not None and id(weight) not in placed:
                    placed[id(weight)] = torch.nn.Parameter(weight.detach().to("gpu:0", dtype), weight.requires_grad)
                each._parameters[name] = None if weight is None else placed[id(weight)]  # type: ignore[assignment]
            for name, buffer in each._buffers.items():
                each._buffers[name] = None if buffer is None else buffer.to("gpu:0")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """One operation, on whatever device."""
        tensors: list[Tensor] = []
        on_tensors(tensors.append, (args, kwargs))
        on_gpu = any(isinstance(t, OnGPU) for t in tensors)
        target = kwargs.get("device")
        to_gpu = target is not None and target.type == "gpu"
        if not on_gpu and not to_gpu:
            return func(*args, **kwargs)
        if func is aten._to_copy.default:
            to_gpu |= target is None
            self._count_copy(isinstance(args[0], OnGPU), to_gpu, kwargs.get("non_blocking", False))
            copied = self.convert(_inner(args[0]), kwargs.get("dtype"), to_gpu)
            return self.wrap(copied) if to_gpu else copied
        if func is aten.copy_.default:
            self._count_copy(isinstance(args[1], OnGPU), isinstance(args[0], OnGPU), args[2] if len(args) > 2 else False)
            self.assign(_inner(args[0]), _inner(args[1]))
            return args[0]
        if on_gpu:
            _refuse_two_devices(func, args, tensors)
        operation = _Operation.of(func)
        self.launches[operation.name] += operation.launches
        if _waits(func, args, kwargs):
            self.waits[f"{line()} {operation.name}"] += 1
        if func in INDEXING and any(isinstance(index, Tensor) and not isinstance(index, OnGPU) for index in args[1]):
            self._count_copy(False, True, False)
        workspace = None
        if func is FLASH:
            if args[0].dtype not in attention.HALF:
                raise RuntimeError(f"FlashAttention only supports fp16 and bf16, got {args[0].dtype} at {line()}")
            self.attention[line(), "packed flash"] += 1
        elif func is FLASH_BACKWARD:
            workspace = self.hold(attention.workspace_bytes(args[1], args[2], args[1].shape[1], args[2].shape[1]))
        given = on_tensors(_inner, (args, {name: value for name, value in kwargs.items() if name != "device"}))
        out = self.compute(func, *given, target)
        if operation.writes:
            return kwargs.get("out", args[0])
        wrapped = on_tensors(self.wrap, out) if target is None or to_gpu else out
        del workspace
        return wrapped

    def kernel(self, function: Any, *args: Any) -> Any:
        """Run a function of inner tensors as one kernel."""
        self.launches[function.__name__] += 1
        return on_tensors(self.wrap, function(*map(_inner, args)))

    def compute(self, func: Any, args: tuple, kwargs: dict[str, Any], device: torch.device | None) -> Any:
        """The operation on inner tensors. `device` was asked for."""
        return func(*args, **kwargs, **({} if device is None else {"device": "cpu"}))

    def convert(self, inner: Tensor, dtype: torch.dtype | None, to_gpu: bool) -> Tensor:
        """A copy, with another dtype or on another device."""
        return aten._to_copy.default(inner, dtype=dtype)

    def assign(self, target: Tensor, source: Tensor) -> None:
        """Write the values of `source` into `target`."""
        target.copy_(source)

    def wrap(self, inner: Tensor) -> Tensor:
        """The tensor of the device that `inner` computes for."""
        return OnGPU(inner)

    def hold(self, nbytes: int) -> object:
        """Take memory for as long as the result lives."""
        return None

    def _count_copy(self, from_gpu: bool, to_gpu: bool, non_blocking: bool) -> None:
        self.launches["copy"] += 1
        if to_gpu and not from_gpu:
            self.copies[line()] += 1
        if from_gpu != to_gpu and not (to_gpu and non_blocking):
            self.waits[f"{line()} copy to the {'device' if to_gpu else 'host'}"] += 1


@dataclass(frozen=True)
class _Operation:
    """What the schema of an operation says: whether it writes into an argument, and whether it launches a kernel."""

    name: str
    writes: bool
    launches: bool

    @staticmethod
    @functools.cache
    def of(func: Any) -> "_Operation":
        aliases = [each.alias_info for each in func._schema.returns if each.alias_info is not None]
        writes = any(alias.is_write for alias in aliases)
        name = func.overloadpacket.__name__
        return _Operation(name, writes, (writes or not aliases) and "empty" not in name)


def on_tensors(change: Callable[[Tensor], Any], value: Any) -> Any:
    """The arguments or results of an operation with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, list | tuple):
        return type(value)([on_tensors(change, each) for each in value])
    if isinstance(value, dict):
        return {name: on_tensors(change, each) for name, each in value.items()}
    return value


def line() -> str:
    """The innermost line of focus that is running, as "rollout/kv.py:160"."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_filename.startswith(PACKAGE):
            return f"{frame.f_code.co_filename.removeprefix(PACKAGE)}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "elsewhere"


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, OnGPU) else value


def _waits(func: Any, args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether the host waits for the device, as in PyTorch's CUDA kernels."""
    if func is aten.repeat_interleave.Tensor:
        return kwargs.get("output_size") is None
    if func in INDEXING:
        masks = [isinstance(index, OnGPU) and index.dtype is torch.bool for index in args[1] if index is not None]
        filled = len(args) > 2 and args[2].numel() == 1 and all(masks)  # becomes masked_fill
        return any(masks) and not filled
    return func in READ_BY_HOST


def _refuse_two_devices(func: Any, args: tuple, tensors: list[Tensor]) -> None:
    """Raises RuntimeError where CUDA does. The host may keep numbers without dimensions, and indices of a tensor of the device."""
    checked = [args[0], *args[2:3]] if func in INDEXING and isinstance(args[0], OnGPU) else tensors
    if any(not isinstance(t, OnGPU) and t.dim() > 0 for t in checked):
        found = ", ".join(f"{list(t.shape)} on {t.device}" for t in tensors)
        raise RuntimeError(f"Expected all tensors to be on the same device: {func} got {found} at {line()}")


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`scaled_dot_product_attention` of the device: by the kernel that CUDA would choose."""
    assert dropout_p == 0.0
    gpu = FakeGPU.running()
    kernel = attention.kernel_of(query, key, attn_mask, is_causal, gpu.capability)
    gpu.attention[line(), kernel] += 1
    if attn_mask is not None and attn_mask.dtype is torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(attn_mask.logical_not(), float("-inf"))
    if kernel == "math":
        return aten._scaled_dot_product_attention_math(
            query, key, value, attn_mask, 0.0, is_causal, None, scale=scale, enable_gqa=enable_gqa
        )[0]
    return _Fused.apply(query, key, value, attn_mask, is_causal, scale)


class _Fused(torch.autograd.Function):
    """A fused kernel keeps its inputs, its output and the log-sum-exp of every query, not the scores."""

    @staticmethod
    def forward(ctx, query, key, value, mask, causal, scale):
        out, lse = FakeGPU.running().kernel(attention.fused, query, key, value, mask, causal, scale)
        ctx.save_for_backward(query, key, value, mask, out, lse)
        ctx.causal, ctx.scale = causal, scale
        return out

    @staticmethod
    def backward(ctx, gradient):
        query, key, value, mask, _, _ = ctx.saved_tensors
        gpu = FakeGPU.running()
        workspace = gpu.hold(attention.workspace_bytes(query, key, query.shape[-3], key.shape[-3]))
        gradients = gpu.kernel(attention.fused_backward, gradient, query, key, value, mask, ctx.causal, ctx.scale)
        del workspace
        return *gradients, None, None, None


class _Hook(backend_registration._DummyPrivateUse1Hook):
    def is_available(self) -> bool:
        return FakeGPU.current is not None


class _Backend(backend_registration._DummyBackendModule):
    def is_available(self) -> bool:
        return FakeGPU.current is not None

    def device_count(self) -> int:
        """Later tests of the process have no GPU: `torch.random.fork_rng` asks each for its state."""
        return int(self.is_available())

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        """Activation checkpointing asks for it."""
        return [*attention.HALF]


_library = torch.library.Library("aten", "IMPL")


@functools.cache
def _register() -> None:
    """Make the device known to PyTorch, once in a process. It is available within a block alone."""
    backend_registration._setup_privateuseone_for_python_backend("gpu", backend_module=_Backend(), hook=_Hook())
    _library.impl("scaled_dot_product_attention", _attend, "AutogradPrivateUse1")
