"""How every table of this folder is timed and written down.

Ours and the peer run in turns within one process, after a warm-up of each; what counts is the median and the ratio pair by pair, which
holds when the machine's speed drifts.
"""

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

HERE = Path(__file__).parent
REPEATS = 5


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def paired(ours: Callable[[], object], peer: Callable[[], object], repeats: int = REPEATS) -> dict[str, object]:
    """Seconds of both, and peer / ours (above 1: ours is faster), in turns after one warm-up of each."""
    ours(), peer()
    pairs = [(seconds(ours), seconds(peer)) for _ in range(repeats)]
    return compared([a for a, _ in pairs], [b for _, b in pairs])


def compared(ours: Sequence[float], peer: Sequence[float]) -> dict[str, object]:
    """The row of two series that were measured in turns."""
    return {"ours_s": spread(ours), "peer_s": spread(peer), "peer_over_ours": spread([b / a for a, b in zip(ours, peer, strict=True)])}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest of the repeats."""
    return {name: float(f"{f(values):.4g}") for name, f in (("median", statistics.median), ("min", min), ("max", max))}


def write(table: str, rows: object) -> None:
    """Write `<table>.json` beside this file, with what it was measured on."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    machine = {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "python": platform.python_version(), "torch": torch.__version__}
    record = {"commit": commit, "repeats": REPEATS, **machine, "rows": rows}
    (HERE / f"{table}.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))
