"""A plan in sentences: does it fit, how long does the whole run take, why, and what makes it faster."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from focus.config.checks import cautions
from focus.config.schema import PlanConfig
from focus.planning.advice import Faster, changed_by
from focus.planning.bounds import Bounds, total
from focus.planning.estimate import Plan, make_plan
from focus.planning.hardware import GIB, USABLE

UNITS = (("days", 86400.0, 3.0), ("hours", 3600.0, 2.0), ("minutes", 60.0, 3.0))  # unit, its seconds, from how many on


def sentences(cfg: PlanConfig, plan: Plan, changes: Sequence[Faster], limit: float) -> list[str]:
    """The answer, the verdict first. `limit`: seconds that a job may run."""
    usual = make_plan(cfg, plan.mean).peak
    return [
        f"{verdict(plan)} {lasting(plan)}",
        f"With rollouts of mean length a device needs {usual / GIB:.1f} GiB.",
        machine(plan, cfg.output),
        time_goes(plan),
        engines(cfg, plan),
        *(f"Faster: {each.why}. With {each.override} the run takes {duration(each.run)}." for each in changes),
        *cautions(cfg),
        *over_nodes(plan),
        between_checkpoints(plan, limit),
    ]


def duration(seconds: Bounds) -> str:
    """`14 to 38 hours`: bounds in the unit that suits the upper one."""
    unit, size = next(((unit, size) for unit, size, least in UNITS if seconds.high >= least * size), ("seconds", 1.0))
    low, high = (number(value / size) for value in (seconds.low, seconds.high))
    return f"{low} {unit}" if low == high else f"{low} to {high} {unit}"


def number(value: float) -> str:
    """Two digits of a small number, whole ones of a large one: no more is known."""
    return f"{value:.1f}" if value < 10 else f"{value:,.0f}"


def verdict(plan: Plan) -> str:
    """Whether the run fits on its devices, and what needs most."""
    if plan.lacks_cache:
        needed = plan.vllm["weights"] + plan.vllm["beside"] + plan.vllm["the longest conversation"]
        return (
            f"It does not fit: vLLM's share of a {plan.device} leaves no cache for one conversation; its weights "
            f"({plan.vllm['weights'] / GIB:.1f} GiB), what it needs beside them and the longest conversation take {needed / GIB:.1f} GiB. "
            "Raise rollout.vllm.memory_share, or use rollout.vllm.dtype=bfloat16."
        )
    phase = max(plan.peaks, key=lambda name: plan.peaks[name])
    return (
        f"{'It fits' if plan.fits else 'It does not fit'}: the phase `{phase}` needs {plan.peak / GIB:.1f} GiB of each of "
        f"{plan.sharding.ranks} x {plan.device}, {plan.room / GIB:.1f} GiB may be used ({USABLE:.0%})."
    )


def lasting(plan: Plan) -> str:
    """How long the whole run takes."""
    return (
        f"The whole run takes {duration(plan.of_the_run)}: {plan.updates} updates of {duration(plan.of_an_update)}, and the rest. "
        "An order of magnitude: no GPU has run this code, and the judge's time is not in it."
    )


def machine(plan: Plan, output: str) -> str:
    """Memory of a node and disk, beside what this machine has."""
    folder = next(each for each in (Path(output).absolute(), *Path(output).absolute().parents) if each.exists())
    has, free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), shutil.disk_usage(folder).free
    needed, written = sum(plan.host.values()), plan.disk["in all"]
    lacking = [name for name, short in (("memory", needed > has), ("disk", written > free)) if short]
    here = f"this machine has {has / GIB:,.0f} and {free / GIB:,.0f} GiB free"
    return (
        f"Each node needs {needed / GIB:,.0f} GiB of memory, and the run {written / GIB:,.0f} GiB of disk "
        f"({here}{': too little ' + ' and '.join(lacking) + ' to run it here' if lacking else ''})."
    )


def shares(parts: Mapping[str, Bounds], most: int = 3) -> str:
    """The largest parts of a time and their shares."""
    middle = total([*parts.values()]).middle
    largest = sorted(parts, key=lambda name: -parts[name].middle)[:most]
    return ", ".join(f"{name} {parts[name].middle / middle:.0%}" for name in largest)


def time_goes(plan: Plan) -> str:
    """What takes most time."""
    return f"The time of an update goes to: {shares(plan.seconds)}. That of the run: {shares(plan.run)}."


def engines(cfg: PlanConfig, plan: Plan) -> str:
    """Which engine is faster, and whether it fits. Times are orders of magnitude: a tenth more or less is no difference."""
    plans = {name: plan if name == cfg.rollout.engine else make_plan(changed_by(cfg, f"rollout={name}")) for name in ("kv", "vllm")}
    told = ", ".join(
        f"{name} takes {duration(each.of_an_update)} an update and {'fits' if each.fits else 'does not fit'}"
        for name, each in plans.items()
    )
    fitting = sorted((each.of_an_update.middle, name) for name, each in plans.items() if each.fits)
    if len(fitting) < 2:
        return f"Engine: {told}. {f'Only {fitting[0][1]} fits' if fitting else 'Neither fits'}."
    (least, fastest), (most, _) = fitting
    return f"Engine: {told}. {'They are about as fast' if most < 1.1 * least else f'Faster: rollout={fastest}'}."


def over_nodes(plan: Plan) -> list[str]:
    """What more nodes change of a run that does not fit."""
    held = plan.sharding
    if held.kind != "fsdp" or held.nodes == 1 or plan.fits:
        return []
    return [
        f"Each of the {held.nodes} nodes holds all weights, gradients and moments, divided among its {held.per_node} devices: more nodes "
        "make an update faster, more devices in each make it fit."
    ]


def between_checkpoints(plan: Plan, limit: float) -> str:
    """Whether a job reaches its next checkpoint before its time is over."""
    every = plan.between_checkpoints
    needed = plan.of_an_update * every + plan.run["loading, hashing, export"]
    reaches = "reaches" if needed.high <= limit else "may not reach" if needed.low <= limit else "does not reach"
    remedy = "" if needed.high <= limit else "; raise hydra.launcher.timeout_min"
    updates = "1 update" if every == 1 else f"{every} updates"
    return (
        f"A job of {duration(Bounds.exact(limit))} {reaches} its next checkpoint, after {updates}: with its start it takes "
        f"{duration(needed)}{remedy}."
    )
