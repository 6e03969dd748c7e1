"""Estimate memory and time of a run, and say what to change if it does not fit."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console

from focus import config
from focus.config.schema import PlanConfig
from focus.planning import answer, job
from focus.planning.advice import advice, faster
from focus.planning.estimate import Plan, make_plan
from focus.planning.hardware import GIB
from focus.planning.tables import tables
from focus.runtime.files import json_text


def run(composed: DictConfig) -> None:
    """Print the plan, write it, and raise ValueError if it does not fit."""
    cfg = config.validated(composed, PlanConfig)
    plan, console = make_plan(cfg), Console(markup=False, soft_wrap=True)
    quicker = faster(cfg, plan)
    said = answer.sentences(cfg, plan, quicker, time_limit(plan))
    for sentence in said:
        console.print(sentence)
    tabled = Console()
    for table in tables(plan):
        tabled.print(table)
    better = [] if plan.fits else advice(cfg, plan)
    with config.writable(cfg.output):
        written = asdict(plan) | {
            "peak": plan.peak,
            "room": plan.room,
            "fits": plan.fits,
            "sentences": said,
            "advice": [asdict(change) for change in better],
            "faster": [asdict(change) for change in quicker],
        }
        (Path(cfg.output) / "plan.json").write_text(json_text(written, indent=1) + "\n")
    console.print(f"plan: {Path(cfg.output) / 'plan.json'}")
    if not plan.fits:
        changes = "\n".join(
            f"  {change.peak / GIB:8.1f} GiB  {'fits' if change.fits else '    '}  {' '.join(change.overrides)}" for change in better
        )
        raise ValueError(
            f"{answer.verdict(plan)} Changes that help, each with the memory that is then needed:\n{changes or '  none found'}"
        )


def time_limit(plan: Plan) -> float:
    """Seconds that a job may run: of the launcher that was chosen if it has a limit, else what Slurm would be asked for."""
    launcher: Any = HydraConfig.get().launcher if HydraConfig.initialized() else {}
    return 60.0 * (launcher["timeout_min"] if "timeout_min" in launcher else job.minutes_of(plan))
