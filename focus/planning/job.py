"""What a job of a cluster is asked for, from the plan of its run. conf/hydra/launcher/slurm.yaml names these functions."""

import math
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

from focus.config.schema import PlanConfig, PolicyConfig
from focus.config.validate import plain
from focus.planning.architecture import parameters_of
from focus.planning.estimate import Plan, make_plan
from focus.planning.hardware import PROCESS_BYTES
from focus.runtime.paths import CONF

SPARE = 1.25  # of memory: what a plan does not know of
LEAST_GB = 16
LEAST_MIN = 240
LEAST_WARNING_S, MOST_WARNING_S = 120, 3600
LOADING_MIN = 15
# A plan needs them and does not read them; some are known only when the run begins
PLACES: dict[str, Any] = {"name": "job", "output": "outputs", "results": None, "logger": {}}


def memory_gb(root: DictConfig) -> int:
    """Memory of one node, in GB, with a quarter to spare: of a run, or of a policy that is only measured."""
    if "trainer" in root:
        needed = sum(_plan(root).host.values())
    else:
        needed = float(PROCESS_BYTES)
        if "policy" in root:
            policy = PolicyConfig.model_validate(plain(root.policy))
            needed += parameters_of(policy).total * (2 if policy.dtype == "bfloat16" else 4)
    return max(LEAST_GB, math.ceil(SPARE * needed / 1e9))


def minutes(root: DictConfig) -> int:
    """Minutes of a job: those of its plan; four hours of a command that does not train."""
    return minutes_of(_plan(root)) if "trainer" in root else LEAST_MIN


def minutes_of(plan: Plan) -> int:
    """Minutes of a job: four hours, or where updates are slow the time to load, to make one of them, and to be warned."""
    return max(LEAST_MIN, LOADING_MIN + math.ceil((plan.of_an_update.high + _warning_s(plan)) / 60))


def warning_s(root: DictConfig) -> int:
    """Seconds before the end of a job at which it is warned: an update ends and is saved within them, unless it takes an hour."""
    return _warning_s(_plan(root)) if "trainer" in root else LEAST_WARNING_S


def _warning_s(plan: Plan) -> int:
    return min(MOST_WARNING_S, LEAST_WARNING_S + math.ceil(plan.of_an_update.high))


def _plan(root: DictConfig) -> Plan:
    """The plan of a run, on the slowest of the devices that have 80 GB, or on the CPU.

    Raises ValueError where the settings of a sweep's points are not known.
    """
    if OmegaConf.is_missing(root, "name"):
        raise ValueError(
            "what a job needs is planned from its settings, but none or several experiments are chosen; give numbers: "
            "hydra.launcher.mem_gb=64 hydra.launcher.timeout_min=240 hydra.launcher.signal_delay_s=120"
        )
    asked: Any = OmegaConf.load(CONF / "plan.yaml")
    settings = OmegaConf.masked_copy(root, [str(key) for key in root if key not in ("hydra", *PLACES)])
    OmegaConf.set_struct(settings, False)
    settings.merge_with(PLACES, {key: asked[key] for key in ("device", "devices", "lengths")})
    if settings.trainer.accelerator == "cpu":
        settings.device = "cpu"
    return _made(OmegaConf.to_yaml(settings, resolve=True))


@cache
def _made(settings: str) -> Plan:
    values: Any = OmegaConf.to_container(OmegaConf.create(settings))
    return make_plan(PlanConfig.model_validate(values))
