"""Estimate memory and time of a run, and say what to change if it does not fit."""

import json
import os
from dataclasses import asdict
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from focus import config
from focus.config.schema import PlanConfig
from focus.planning.advice import advice
from focus.planning.estimate import make_plan, verdict
from focus.planning.hardware import GIB
from focus.planning.tables import tables


def run(composed: DictConfig) -> None:
    """Print the plan, write it, and raise ValueError if it does not fit."""
    cfg = config.validated(composed, PlanConfig)
    plan, console = make_plan(cfg), Console()
    for table in tables(plan):
        console.print(table)
    held, counts = plan.sharding, plan.parameters
    console.print(
        f"{counts.total:,} parameters, {counts.trainable:,} of them trained; {held.ranks} x {plan.device}, {held.kind}; "
        f"{plan.micro_batches} forwards an update. Texts {'measured with the policy tokenizer' if plan.measured_text else 'estimated'}"
    )
    typical = make_plan(cfg, plan.mean).peak
    console.print(f"Were all rollouts mean ones, a device would need {typical / GIB:.1f} GiB")
    better = [] if plan.fits else advice(cfg, plan)
    with config.writable(cfg.output):
        written = asdict(plan) | {
            "peak": plan.peak,
            "peak of mean rollouts": typical,
            "room": plan.room,
            "fits": plan.fits,
            "advice": [asdict(each) for each in better],
        }
        (Path(cfg.output) / "plan.json").write_text(json.dumps(written, indent=1) + os.linesep)
    console.print(f"plan: {Path(cfg.output) / 'plan.json'}")
    if not plan.fits:
        tried = "\n".join(f"  {each.peak / GIB:8.1f} GiB  {'fits' if each.fits else '    '}  {' '.join(each.overrides)}" for each in better)
        raise ValueError(f"{verdict(plan)}. What to change, each line with what it then needs:\n{tried or '  nothing helps here'}")
    console.print(verdict(plan))
