"""vLLM's weight transfer without a GPU: its IPC backend, with files in place of handles of device memory.

All else is vLLM's own and as on a GPU: the protocol, the names of weights, and its reload layer by layer.
"""

import tempfile
from pathlib import Path
from typing import Any

import torch
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory, WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerWeightTransferEngine, IPCWeightTransferEngine

from focus.rollout.vllm import Colocated, Reload


class Receives(IPCWeightTransferEngine):
    """The side of vLLM's process."""

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self.model.load_weights(torch.load(self.parse_update_info(update_info).ipc_handles["cpu"]))


class Sends(IPCTrainerWeightTransferEngine):
    """The side of the trainer's process: chunks of at most `packed_buffer_size_bytes`."""

    def __init__(self, *, packed_buffer_size_bytes: int, packed: bool, **rest: Any) -> None:
        super(IPCTrainerWeightTransferEngine, self).__init__(**rest)
        self.packed, self.bytes = packed, packed_buffer_size_bytes

    def _send_packed(self, source: Any) -> None:
        chunk: list[tuple[str, torch.Tensor]] = []
        for name, value in source:
            assert value.nbytes <= self.bytes
            if chunk and value.nbytes + sum(held.nbytes for _, held in chunk) > self.bytes:
                self._send_chunk(chunk)
                chunk = []
            chunk.append((name, value))
        self._send_chunk(chunk)

    def _send_chunk(self, chunk: list[tuple[str, torch.Tensor]]) -> None:
        names, values = zip(*chunk, strict=True)
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "chunk")
            torch.save(chunk, path)
            dtypes, shapes = [str(value.dtype) for value in values], [list(value.shape) for value in values]
            self._do_send([*names], dtypes, shapes, {"cpu": path}, [value.nbytes for value in values])

    @staticmethod
    def _post_send_sync() -> None:
        """There is no device to wait for."""


WeightTransferEngineFactory._registry["ipc"] = lambda: Receives
WeightTransferTrainerFactory._registry["ipc"] = lambda: Sends


class Extension(Reload):
    """Its import registers the two in vLLM's process."""


class OnCPU(Colocated):
    """A colocated vLLM on a CPU that may be given its weights as on a GPU."""

    extension = Extension
    takes_tensors = False
