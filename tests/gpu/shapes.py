"""A GPU that holds models of any size: its floating tensors have a shape and no values.

Integers and booleans are real, so that loops, masks and indices are those of a run. An integer that
is made of floating numbers (a drawn token, a comparison) is 0. Read by the host, a floating number is 1.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from tests.gpu.device import INDEXING, SHAPED_BY_VALUES, FakeGPU, OnGPU, aten, line, on_tensors


@dataclass(frozen=True)
class Phase:
    """Bytes on the device: when a phase began, at its peak, when it ended; and the line of focus that made the peak."""

    began: int
    peak: int
    ended: int
    at: str


class _Allocation:
    """The memory of a storage. Every tensor of the device that uses the storage refers to it."""

    def __init__(self, gpu: "ShapeGPU", nbytes: int) -> None:
        self.gpu, self.nbytes = gpu, nbytes
        gpu.bytes += nbytes
        gpu.note_peak()

    def __del__(self) -> None:
        self.gpu.bytes -= self.nbytes


class ShapeGPU(FakeGPU):
    """Counts what a caching allocator without fragmentation would hold: `bytes` now, `peak` in the current phase."""

    def __init__(self, capability: tuple[int, int] = (9, 0)) -> None:
        super().__init__(capability)
        self.bytes = self.peak = 0
        self.peak_at = ""
        self._allocations: WeakValueDictionary[int, _Allocation] = WeakValueDictionary()

    @contextmanager
    def phase(self, name: str, phases: dict[str, Phase]) -> Iterator[None]:
        """A block whose bytes are written into `phases`."""
        gc.collect()
        began = self.peak = self.bytes
        yield
        gc.collect()
        phases[name] = Phase(began, self.peak, self.bytes, self.peak_at)

    def hold(self, nbytes: int) -> object:
        return _Allocation(self, nbytes)

    def note_peak(self) -> None:
        """Called whenever memory was taken."""
        if self.bytes > self.peak:
            self.peak, self.peak_at = self.bytes, line()

    def wrap(self, inner: Tensor) -> Tensor:
        wrapped, storage = super().wrap(inner), inner.untyped_storage()
        allocation = self._allocations.get(storage._cdata)
        if allocation is None:
            allocation = self._allocations[storage._cdata] = _Allocation(self, storage.nbytes())
        wrapped.allocation = allocation  # type: ignore[attr-defined]
        return wrapped

    def kernel(self, function: Any, *args: Any) -> Any:
        return super().kernel(function, *on_tensors(lambda t: _shape(t.inner if isinstance(t, OnGPU) else t), args))

    def compute(self, func: Any, args: tuple, kwargs: dict[str, Any], device: torch.device | None) -> Any:
        if func in INDEXING:
            args = (args[0], _without_masks(args[1]), *args[2:])
        of_integers = not _any_float((args, kwargs))
        if of_integers and (func in SHAPED_BY_VALUES or func in (aten._local_scalar_dense.default, aten.repeat_interleave.Tensor)):
            return func(*args, **kwargs)
        if func is aten._local_scalar_dense.default:
            return 1.0
        shaped_args, shaped_kwargs = on_tensors(_shape, (args, kwargs))
        shapes = func(*shaped_args, **shaped_kwargs, **({} if device is None else {"device": "meta"}))
        if of_integers and not _any_float(shapes):
            return func(*args, **kwargs, **({} if device is None else {"device": "cpu"}))
        return on_tensors(_integers_are_zero, shapes)

    def convert(self, inner: Tensor, dtype: torch.dtype | None, to_gpu: bool) -> Tensor:
        dtype = dtype or inner.dtype
        if dtype.is_floating_point and to_gpu:
            return torch.empty_like(inner, dtype=dtype, device="meta")
        return torch.zeros_like(inner, dtype=dtype, device="cpu") if inner.is_floating_point() else inner.to(dtype, copy=True)

    def assign(self, target: Tensor, source: Tensor) -> None:
        if not target.is_floating_point() and not source.is_floating_point():
            target.copy_(source)


def _any_float(value: Any) -> bool:
    found: list[Tensor] = []
    on_tensors(found.append, value)
    return any(tensor.is_floating_point() for tensor in found)


def _shape(tensor: Tensor) -> Tensor:
    return tensor if tensor.is_meta else torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="meta")


def _integers_are_zero(tensor: Tensor) -> Tensor:
    return tensor if tensor.is_floating_point() else torch.zeros_like(tensor, device="cpu")


def _without_masks(indices: list[Tensor | None]) -> list[Tensor | None]:
    """Boolean indices as the integers that they select."""
    found: list[Tensor | None] = []
    for index in indices:
        found += [index] if index is None or index.dtype is not torch.bool else index.nonzero().unbind(1)
    return found
