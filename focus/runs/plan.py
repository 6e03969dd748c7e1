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
    console.print(f"If all rollouts had mean lengths, a device would need {typical / GIB:.1f} GiB")
    better = [] if plan.fits else advice(cfg, plan)
    with config.writable(cfg.output):
        written = asdict(plan) | {
            "peak": plan.peak,
            "peak of mean rollouts": typical,
            "room": plan.room,
            "fits": plan.fits,
            "advice": [asdict(change) for change in better],
        }
        (Path(cfg.output) / "plan.json").write_text(json.dumps(written, indent=1) + os.linesep)
    console.print(f"plan: {Path(cfg.output) / 'plan.json'}")
    if not plan.fits:
        changes = "\n".join(
            f"  {change.peak / GIB:8.1f} GiB  {'fits' if change.fits else '    '}  {' '.join(change.overrides)}" for change in better
        )
        raise ValueError(f"{verdict(plan)}. Changes that help, each with the memory that is then needed:\n{changes or '  none found'}")
    console.print(verdict(plan))
