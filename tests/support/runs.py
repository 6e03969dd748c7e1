"""Whole runs at their smallest: settings, processes, a folder that another job holds."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra import compose, initialize_config_dir

from focus.config import CONF

HOLD = """
import fcntl, sys, time
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(600)
"""


@contextmanager
def another_job(folder: Path) -> Iterator[subprocess.Popen]:
    """Within the block another process works in this folder; it may be killed there."""
    folder.mkdir(parents=True, exist_ok=True)
    with subprocess.Popen([sys.executable, "-c", HOLD, folder / "running.lock"], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        try:
            yield other
        finally:
            other.kill()


SMALL = (
    "experiment=smoke",
    "data.side_px=224",
    "data.workers=0",
    "objective.updates=2",
    "evaluation.samples=3",
    "threads=1",
    "evaluation.common_view_tokens=64",
    "rollout.tokens_per_turn=12",
    "+reward.terms.parity={_target_: tests.support.updates.Parity, weight: 1.0}",
)  # a reward that a random policy earns sometimes


def settings(output: Path, policy: Path, *overrides: str, name: str = "train"):
    common = SMALL if name == "train" else ()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose(name, [*common, f"output={output}", f"policy.checkpoint={policy}", *overrides])


def settings_of_export(output: Path):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose("export", [f"output={output}", "scenes=4", "side_px=224"])


PAPER = sorted(path.stem for path in (CONF / "experiment").glob("*_7b*.yaml"))  # see runs/test_recipe.py


def composed(*overrides: str, name: str = "train"):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = compose(name, [*overrides, "output=x"] if name != "base" else list(overrides))
    return cfg


LORA = ("policy.lora_rank=2", "policy.lora_alpha=4", "objective.learning_rate=0.01")


def configured(folders: dict[str, Path], family: str, output: Path, *more: str, name: str = "train"):
    return settings(output, folders[family], f"policy.dialect={family}", *more, name=name)
