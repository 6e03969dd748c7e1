"""Ranks of one run as processes that are forked from one which has imported everything: a new interpreter takes 6 CPU seconds to do so."""

import multiprocessing
import os
import runpy
import socket
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from tempfile import TemporaryDirectory

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


def in_ranks(number: int, *command: str, nodes: int = 1) -> Ended:
    """Run a script, or a module after `-m`, with its arguments in so many ranks, as torchrun would start them on so many nodes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with TemporaryDirectory() as name:
        folder = Path(name)
        ranks = [_context.Process(target=_rank, args=(rank, number // nodes, port, command, folder)) for rank in range(number)]
        for rank in ranks:
            rank.start()
        end = time.monotonic() + 600
        while any(rank.exitcode is None for rank in ranks) and time.monotonic() < end:
            if any(rank.exitcode for rank in ranks):  # the others wait for the one that failed
                end = min(end, time.monotonic() + 60)
            wait([rank.sentinel for rank in ranks if rank.exitcode is None], timeout=5)
        late = [rank for rank in ranks if rank.exitcode is None]
        for rank in late:
            rank.kill()
            rank.join()
        written = {kind: "".join((folder / f"{rank}.{kind}").read_text() for rank in range(number)) for kind in ("out", "err")}
        assert not late, f"{len(late)} of {number} ranks did not end: {written['err'][-3000:]}"
        return Ended(next((rank.exitcode for rank in ranks if rank.exitcode), 0), written["out"], written["err"])


def _rank(rank: int, per_node: int, port: int, command: tuple[str, ...], folder: Path) -> None:
    place = {"LOCAL_RANK": str(rank % per_node), "NODE_RANK": str(rank // per_node)}
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS="1", **place)
    rank_zero_only.rank = rank  # Lightning reads it from the environment when it is imported, which was before the fork
    for stream, kind in ((sys.stdout, "out"), (sys.stderr, "err")):
        os.dup2(os.open(folder / f"{rank}.{kind}", os.O_WRONLY | os.O_CREAT), stream.fileno())
    if command[0] == "-m":
        sys.argv = list(command[1:])
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(command)
        runpy.run_path(command[0], run_name="__main__")
