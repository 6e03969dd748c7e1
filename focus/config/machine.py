"""Checks of this machine: its GPUs, and how many processes its launcher started."""

import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from focus.config.identity import arithmetic_of
from focus.config.schema import CalibrateConfig, EvaluateConfig, ProbeConfig, Section, TrainConfig


def machine_problems(cfg: Section, command: str) -> list[str]:
    """What this machine lacks for these settings. Settings alone may describe a run that another machine makes."""
    launcher, started = launched()
    if not isinstance(cfg, TrainConfig) or command != "train":
        if started > 1:
            return [f"{launcher} started {started} processes, but {command} is one; start it once (srun --ntasks=1)"]
        return _old_gpu(cfg)
    import torch

    accelerator = cfg.trainer.get("accelerator")
    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        return [f"trainer.accelerator is {accelerator}, but PyTorch finds no GPU here (torch.cuda.is_available()); use trainer=cpu"]
    vllm = cfg.rollout.vllm
    if accelerator == "cpu" and vllm and vllm.mode == "colocated" and torch.cuda.is_available():
        return ["rollout=vllm samples on a GPU of this machine, but trainer.accelerator is cpu; use trainer=gpu, or rollout=kv"]
    devices, nodes = devices_per_node(cfg.trainer), int(cfg.trainer.get("num_nodes", 1))
    if launcher == "mpirun" and find_spec("mpi4py") is None:
        return [f"mpirun started {started} processes, which find each other by the package mpi4py alone; install it, or use torchrun"]
    old = _old_gpu(cfg)
    if (questions := cfg.rollout.questions_per_update) % (devices * nodes):
        old.append(
            f"rollout.questions_per_update is {questions}, which {devices * nodes} devices can't share evenly; choose a multiple of "
            f"{devices * nodes}, or other trainer.devices"
        )
    if not launcher or started == devices * nodes:
        return old
    remedy = {
        "Slurm": f"ask for --nodes={nodes} --ntasks-per-node={devices}, or, to have one task start the others on its node, "
        "name the job interactive (--job-name=interactive)",
        "torchrun": f"use --nnodes={nodes} --nproc_per_node={devices}",
        "mpirun": f"use -n {devices * nodes}",
    }[launcher]
    return [
        *old,
        f"{launcher} started {started} process{'es' if started > 1 else ''} for this run, but trainer.devices x "
        f"trainer.num_nodes is {devices} x {nodes}; set them to what was started, or {remedy}",
    ]


def _old_gpu(cfg: Section) -> list[str]:
    """A GPU without the attention kernel for bfloat16 (focus/model/flash.py), where that is what these settings compute in."""
    if isinstance(cfg, TrainConfig):
        half = "bfloat16" in (cfg.policy.dtype, arithmetic_of(cfg.trainer)) and cfg.trainer.get("accelerator") != "cpu"
        remedy = "trainer.precision=32-true policy.dtype=float32"
    else:
        half = isinstance(cfg, ProbeConfig | EvaluateConfig | CalibrateConfig) and cfg.policy.dtype == "bfloat16"
        remedy = "policy.dtype=float32"
    import torch

    if not half or not torch.cuda.is_available() or torch.cuda.get_device_capability() >= (8, 0):
        return []
    return [f"attention in bfloat16 needs a GPU of the generation of A100 or later; this is a {torch.cuda.get_device_name()}; use {remedy}"]


def launched() -> tuple[str, int]:
    """What started this process with others of its kind, and how many; ("", 1) for a lone process. In Lightning's order."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return "torchrun", int(os.environ["WORLD_SIZE"])
    if any(name.startswith("SLURM_") for name in os.environ):
        from pytorch_lightning.plugins.environments import SLURMEnvironment

        if SLURMEnvironment.detect():
            return "Slurm", int(os.environ.get("SLURM_NTASKS", 1))
    sizes = [int(os.environ[name]) for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE") if name in os.environ]
    return ("mpirun", sizes[0]) if sizes and sizes[0] > 1 else ("", 1)


def crowded(cfg: TrainConfig) -> list[str]:
    """One sentence if more processes are to share this machine's CPU cores than it has."""
    import torch

    devices, cores = devices_per_node(cfg.trainer), len(os.sched_getaffinity(0))
    if devices <= cores or (cfg.trainer.get("accelerator") != "cpu" and torch.cuda.is_available()):
        return []
    return [
        f"trainer.devices is {devices}, but this process may use {cores} CPU core{'s' if cores > 1 else ''}: {devices} processes, each "
        f"with its own copy of the policy, will take turns. An update is faster with trainer.devices={cores} or fewer"
    ]


def devices_per_node(trainer: Mapping[str, Any]) -> int:
    """Devices of one node that Lightning will use: a number, or those that a list or `1,3` names."""
    devices = trainer.get("devices", "auto")
    if isinstance(devices, list):
        return len(devices)
    if "," in str(devices):
        return len([each for each in str(devices).split(",") if each.strip()])
    if str(devices) in ("auto", "-1"):
        import torch

        return torch.cuda.device_count() if trainer.get("accelerator") != "cpu" and torch.cuda.is_available() else 1
    return int(devices)
