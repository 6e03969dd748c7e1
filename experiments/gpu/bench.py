"""What the sections of the check share: the sizes, the policy, and how seconds, GiB and kernels are measured."""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from experiments.gpu.policies import SHALLOW, TINY, WHOLE, Size, random_policy
from experiments.plan.measure import observed
from focus.config import CONF, validated
from focus.config.schema import PlanConfig
from focus.model.policy_model import PolicyModel
from focus.planning.estimate import Plan, make_plan
from focus.planning.hardware import DEVICES, GIB
from focus.rollout.trajectory import Trajectory
from tests.support.reference import Shape, made

MEASURED = "Qwen/Qwen2.5-VL-7B-Instruct"


@dataclass(frozen=True)
class Work:
    """Sizes of everything that is measured. Sides of images are in visual tokens."""

    compared: Size  # of the policies whose gradients are compared
    policy: Size  # of the policy that is measured
    heads: tuple[int, int, int]  # of one attention call: queries, keys, width
    text: int  # tokens of a prompt beside its view
    views: tuple[int, ...]
    crop: int
    turn: int  # sampled tokens
    siblings: int
    rows: tuple[int, ...]  # of a decoding step
    steps: int
    learned: int  # rollouts of an update


REAL = Work(SHALLOW, WHOLE, (28, 4, 128), 240, (32, 128), 32, 100, 16, (16, 64, 256), 32, 11)
TOY = Work(TINY, TINY, (4, 2, 16), 8, (4, 6), 3, 4, 2, (2, 4), 3, 3)


class Bench:
    """The device, the policy that is measured, and the instruments. `output` is the folder of the record."""

    def __init__(self, work: Work, output: Path) -> None:
        self.work, self.output = work, output.resolve()
        self.cuda = torch.cuda.is_available()
        self.device = torch.device("cuda", 0) if self.cuda else torch.device("cpu")

    @cached_property
    def policy(self) -> PolicyModel:
        return random_policy(MEASURED, self.work.policy, self.device, "bfloat16")

    def rollouts(self, view: int, siblings: int, turns: Sequence[Shape], groups: int = 1) -> list[Trajectory]:
        """Groups with one prompt each, whose siblings all have these turns."""
        return made(self.policy, [((view, view), self.work.text, [turns] * siblings)] * groups)

    @property
    def with_crop(self) -> list[Shape]:
        """A turn, a crop, and a last turn."""
        return [Shape(self.work.turn, (self.work.crop, self.work.crop)), Shape(self.work.turn)]

    @property
    def card(self) -> str:
        """The name under which `make plan` knows this device; a kind that it does not know counts as an A100."""
        name = torch.cuda.get_device_name() if self.cuda else "CPU"
        return next((key for key in DEVICES if key.removesuffix("_80gb").replace("_", " ").upper() in name.upper()), "a100_80gb")

    def plan(self, rollouts: Sequence[Trajectory], *settings: str) -> Plan:
        """What `make plan` says of one update on these rollouts on this device."""
        self.policy.model.config.save_pretrained(self.output / "architecture")
        groups = len({t.group for t in rollouts})
        fixed = (
            "experiment=stage1_7b", "rollout=kv", "trainer=gpu", "trainer.precision=bf16-true", "policy.dtype=bfloat16", "devices=1",
            f"policy.checkpoint='{self.output / 'architecture'}'", f"device={self.card}",
            f"rollout.questions_per_update={groups}", f"rollout.questions_per_forward={groups}",
            f"rollout.rollouts_per_question={len(rollouts) // groups}",
        )  # fmt: skip
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            return make_plan(validated(compose("plan", [*fixed, *settings]), PlanConfig), observed(rollouts))

    def free(self) -> None:
        """Return unused memory to the device."""
        gc.collect()  # a policy refers to itself
        if self.cuda:
            torch.cuda.empty_cache()

    def measured(self, work: Callable[[], Any]) -> dict[str, Any]:
        """Seconds of one call, and GiB at its peak beyond what was allocated before (None on a CPU)."""
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
        before, began = torch.cuda.memory_allocated() if self.cuda else 0, time.perf_counter()
        work()
        if self.cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        return {"s": seconds, "gib": (torch.cuda.max_memory_allocated() - before) / GIB if self.cuda else None}

    def profiled(self, work: Callable[[], Any]) -> dict[str, Any]:
        """Kernels of one call, their milliseconds, and how often it called which attention operator."""
        with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.cuda else [])]) as seen:
            work()
            if self.cuda:
                torch.cuda.synchronize()
        kernels = [event for event in seen.events() if event.device_type == DeviceType.CUDA]
        attention = {event.key: event.count for event in seen.key_averages() if "::_" in event.key and "att" in event.key}
        return {"kernels": len(kernels), "kernel_ms": sum(event.device_time_total for event in kernels) / 1e3, "attention": attention}
