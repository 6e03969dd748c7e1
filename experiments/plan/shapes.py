"""The plan at the real sizes of published models: `python -m experiments.plan.shapes` (about ten minutes on one core) writes shapes.json.

Engine and update run on a GPU that holds shapes alone (tests/gpu): loops, masks and indices are those of a run, tensors have a size
and no values. It counts the bytes of all tensors that are alive. One process, bfloat16, kernels of an H100.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from hydra import compose, initialize_config_dir
from transformers import PretrainedConfig

from focus import config
from focus.config.schema import PlanConfig
from focus.planning import memory
from focus.planning.hardware import GIB
from focus.planning.lengths import Lengths
from focus.planning.setup import Setup, setup_of
from focus.training.probe_callback import ProbeCallback
from tests.gpu import measure

HERE = Path(__file__).parent
WITHIN = 0.15
REPLAYED = 2  # arms of a probe that replay crops, beside one row a question without
MODELS = {"qwen2_5_vl_3b": "Qwen/Qwen2.5-VL-3B-Instruct", "qwen2_5_vl_7b": "Qwen/Qwen2.5-VL-7B-Instruct",
          "qwen3_vl_4b": "Qwen/Qwen3-VL-4B-Instruct", "qwen3_vl_8b": "Qwen/Qwen3-VL-8B-Instruct"}  # fmt: skip
HEAD = ("model", "phase", "view", "planned, GiB", "counted, GiB", "difference")


@dataclass(frozen=True)
class Case:
    """A phase with rollouts of these lengths: what is counted, and what is planned for it, both beyond the weights."""

    phase: str
    view: int
    rollouts: int = 16
    questions: int = 1
    crop: int = 1024

    @property
    def lengths(self) -> Lengths:
        """Two turns of 64 tokens and a crop, after a prompt with 300 tokens of text."""
        return Lengths(prompt=300 + self.view, view=self.view, turns=2, turn=64, reply=34, crop=self.crop)


CASES = (
    Case("rollout", 1024), Case("rollout", 16384), Case("update", 1024, rollouts=11), Case("update", 16384, rollouts=11),
    Case("probe", 4500, questions=7), Case("evaluation", 1024, questions=8),
)  # fmt: skip


def setup(policy: str, case: Case, *more: str) -> Setup:
    """One device that holds the policy in bfloat16."""
    with initialize_config_dir(version_base="1.3", config_dir=str(config.CONF)):
        overrides = [
            "experiment=stage1_7b", f"policy={policy}", "policy.dtype=bfloat16", "trainer=gpu", "trainer.precision=32-true", "devices=1",
            f"rollout.questions_per_update={case.questions}", f"rollout.rollouts_per_question={case.rollouts}", "rollout=kv",
            "objective.tokens_per_forward=1000000", "device=h200", f"evaluation.questions_per_forward={case.questions}",
        ]  # fmt: skip
        cfg = config.validated(compose("plan", [*overrides, *more]), PlanConfig)
    return setup_of(cfg, case.lengths)


def planned(made: Setup, case: Case) -> float:
    """Bytes beyond weights, gradients and moments."""
    if case.phase == "update":
        return sum(value for name, value in memory.updating(made).items() if name != "gradients")
    if case.phase == "rollout":
        return sum(memory.playing(made.shape, case.lengths, case.questions, case.rollouts).values())
    return sum(memory.evaluating(made, made.shape, case.questions, case.view, ProbeCallback.ARMS).values())


def counted(architecture: PretrainedConfig, case: Case) -> float:
    """The same on the shape GPU."""
    if case.phase == "update":
        return measure.update(architecture, case.lengths, case.rollouts, case.questions).peak
    if case.phase == "rollout":
        return measure.rollout(architecture, case.lengths, case.rollouts, case.questions).peak
    return measure.evaluation(architecture, case.lengths, case.questions, REPLAYED).peak


def row(policy: str, case: Case) -> dict[str, str]:
    """One comparison."""
    plan, found = planned(setup(policy, case), case), counted(measure.config_of(MODELS[policy]), case)
    return {"model": policy, "phase": case.phase, "view": f"{case.view:,}", "planned, GiB": f"{plan / GIB:.2f}",
            "counted, GiB": f"{found / GIB:.2f}", "difference": f"{100 * (plan / found - 1):+.1f} %"}  # fmt: skip


def table(rows: list[dict[str, str]]) -> str:
    """As markdown; a miss is bold."""
    lines = [HEAD, ("---",) * len(HEAD)]
    for each in rows:
        off = each["difference"]
        missed = abs(float(off.split()[0])) > 100 * WITHIN
        lines.append((*[each[name] for name in HEAD[:-1]], f"**{off}**" if missed else off))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    chosen = sys.argv[1:] or list(MODELS)
    rows = []
    for policy in chosen:
        for case in CASES:
            rows.append(row(policy, case))
            print(rows[-1], flush=True)
    if chosen != list(MODELS):
        return
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    (HERE / "shapes.json").write_text(json.dumps({"commit": commit, "rows": rows}, indent=1) + "\n")
    readme = HERE / "README.md"
    shown = readme.read_text()
    start = shown.index(f"| {' | '.join(HEAD)} |")
    readme.write_text(shown[:start] + table(rows) + shown[shown.index("\n\n", start) + 1 :])


if __name__ == "__main__":
    main()
