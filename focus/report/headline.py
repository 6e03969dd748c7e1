"""The first line of a command: what runs, on what, and where it writes."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from focus.config.machine import devices_per_node
from focus.model.loading import checkpoint_path


def headline(*parts: str) -> str:
    """`stage1 | embedded, 2.7 M weights, ... | ... | outputs/stage1`. Empty parts are left out."""
    return " | ".join(part for part in parts if part)


def policy_text(checkpoint: str, device: str) -> str:
    """`embedded, 2.7 M weights, CPU 2 threads`. The number of weights is given for a checkpoint in a local folder."""
    count = count_weights(Path(checkpoint_path(checkpoint)))
    return ", ".join([checkpoint, *([f"{_short(count)} weights"] if count else []), device])


def evaluated_text(checkpoint: str, engine: str, threads: int) -> str:
    """`policy_text` of a policy that is only evaluated, on this process's device; a served one has its name alone."""
    return f"{checkpoint}, served" if engine == "openai" else policy_text(checkpoint, device_text({}, threads))


def device_text(trainer: Mapping[str, Any], threads: int) -> str:
    """`CPU 2 threads` or `8 x NVIDIA H100`, from the settings of a trainer; without any, the device of this process."""
    accelerator = trainer.get("accelerator", "gpu" if torch.cuda.is_available() else "cpu")
    devices, nodes = devices_per_node({"devices": 1, **trainer}), trainer.get("num_nodes", 1)
    if accelerator in ("cpu", None):
        count = devices * nodes
        return f"CPU {threads} thread{'s' * (threads != 1)}" + (f" in each of {count} processes" if count > 1 else "")
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else str(accelerator).upper()
    return f"{devices} x {name}" + (f" on each of {nodes} nodes" if nodes > 1 else "")


def count_weights(folder: Path) -> int | None:
    """The number of weights in a folder, from the headers of its safetensors files; None if it has none, or a damaged one."""
    count = 0
    for path in folder.glob("*.safetensors") if folder.is_dir() else ():
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if not 0 < size < path.stat().st_size:
                return None
            try:
                header = json.loads(file.read(size))
            except ValueError:
                return None
        count += sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    return count or None


def _short(count: int) -> str:
    """`2.7 M`, `8.3 B`."""
    size, unit = (count / 1e9, "B") if count >= 1e9 else (count / 1e6, "M")
    return f"{size:.1f} {unit}"
