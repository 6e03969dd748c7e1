"""Processes of focus that are forked from one which has imported everything: a new interpreter takes 6 CPU seconds to do so."""

import multiprocessing
import os
import runpy
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import torch
from pytorch_lightning.utilities import rank_zero_only

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    ["focus.runs.train", "tests.support.policies", "tests.support.updates", "transformers.models.qwen3_vl.modeling_qwen3_vl"]
)


@dataclass(frozen=True)
class Ended:
    """What the ranks left: the first exit status that is not 0, and what all of them wrote."""

    returncode: int
    stdout: str
    stderr: str


class Forked:
    """Processes that run a script, or a module after `-m`, with its arguments, each with its own environment."""

    def __init__(self, command: tuple[str, ...], environments: Sequence[Mapping[str, str]]) -> None:
        self._folder = TemporaryDirectory()
        self.processes = [
            _context.Process(target=_run, args=(number, command, environment, self._folder.name))
            for number, environment in enumerate(environments)
        ]
        for process in self.processes:
            process.start()

    @property
    def pid(self) -> int:
        pid = self.processes[0].pid
        assert pid
        return pid

    def runs(self) -> bool:
        return any(process.exitcode is None for process in self.processes)

    def ended(self) -> Ended:
        """Wait for the end."""
        end = time.monotonic() + 600
        while self.runs() and time.monotonic() < end:
            if any(process.exitcode for process in self.processes):  # the others wait for the one that failed
                end = min(end, time.monotonic() + 60)
            wait([process.sentinel for process in self.processes if process.exitcode is None], timeout=5)
        late = [process for process in self.processes if process.exitcode is None]
        for process in late:
            process.kill()
            process.join()
        with self._folder as name:
            written = {kind: "".join(path.read_text() for path in sorted(Path(name).glob(f"*.{kind}"))) for kind in ("out", "err")}
        assert not late, f"{len(late)} of {len(self.processes)} processes did not end: {written['err'][-3000:]}"
        return Ended(next((process.exitcode for process in self.processes if process.exitcode), 0), written["out"], written["err"])


def forked(*command: str, **environment: str) -> Forked:
    """One process, as from a terminal."""
    return Forked(command, [environment])


def in_ranks(number: int, *command: str, nodes: int = 1) -> Ended:
    """Run so many ranks to their end, as torchrun would start them on so many nodes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    places = [divmod(rank, number // nodes) for rank in range(number)]
    return Forked(command, [meet | {"NODE_RANK": str(node), "LOCAL_RANK": str(at)} for node, at in places]).ended()


def _run(number: int, command: tuple[str, ...], environment: Mapping[str, str], folder: str) -> None:
    os.environ.update(OMP_NUM_THREADS="1", **environment)
    rank_zero_only.rank = number  # Lightning reads it from the environment when it is imported, which was before the fork
    for stream, kind in ((sys.stdout, "out"), (sys.stderr, "err")):
        os.dup2(os.open(f"{folder}/{number}.{kind}", os.O_WRONLY | os.O_CREAT), stream.fileno())
    if command[0] == "-m":
        sys.argv = list(command[1:])
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(command)
        runpy.run_path(command[0], run_name="__main__")


def invent_gpus(monkeypatch: Any, count: int) -> None:
    """From now on PyTorch says that this machine has so many GPUs. Nothing can be computed on them."""
    chosen = [torch.device("cuda", 0)]
    monkeypatch.setattr(rank_zero_only, "rank", 0)  # Lightning writes the last rank into it
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: chosen[-1].index)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "invented")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=80 * 10**9))
