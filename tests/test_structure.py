"""The house rules that a machine can hold: one direction of imports, one function per equation, nothing left lying about."""

import ast
import inspect
import re
import subprocess
from pathlib import Path

import pytest

import focus.base
import focus.gap
import focus.objective
import focus.policy
import focus.rewards.information
import focus.rewards.terms
import focus.rollout.loop
from focus import boxes, dependence

ROOT = Path(__file__).parents[1]
LEAVES = {
    "boxes",
    "answers",
    "forms",
    "extraction",
    "prompts",
    "statistics",
    "attention",
    "checkpoint",
    "connection",
    "endpoint",
    "judge",
    "ranks",
    "resume",
}
ROW = [
    "config",
    "data",
    "grading",
    "gap",
    "rollout",
    "substitutes",
    "rewards",
    "objective",
    "logprobs",
    "batch",
    "figures",
    "policy",
    "dependence",
    "alarms",
    "report",
]
ENTRIES = {"train", "probe", "evaluate", "calibrate", "base", "export", "inspect", "sweep", "plan", "replay"}


def modules() -> list[Path]:
    return sorted((ROOT / "focus").rglob("*.py"))


def room(path: Path) -> str:
    parts = path.relative_to(ROOT / "focus").with_suffix("").parts
    return parts[0]


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "focus":
            names = [node.module] if node.module != "focus" else [f"focus.{alias.name}" for alias in node.names]
            found |= {name.split(".")[1] for name in names}
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("focus.")}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_stands_left_of_it(path: Path):
    here = room(path)
    if here in ENTRIES or here == "__init__":
        return
    if here == "config":
        allowed = LEAVES | {"data", "gap"}  # the names of modes and dials; nothing that runs
    elif here in LEAVES:
        allowed = LEAVES
    else:
        allowed = LEAVES | set(ROW[: ROW.index(here) + 1])
    assert imports(path) <= allowed, f"{here} imports {sorted(imports(path) - allowed)}"


def test_no_entry_point_is_imported_by_the_method():
    for path in modules():
        if room(path) not in ENTRIES:
            assert not imports(path) & ENTRIES


LEDGER = {
    "E1": focus.rollout.loop,
    "E2": focus.gap.select_level,
    "E3": focus.rewards.terms.total,
    "E4": focus.objective.group_advantage,
    "E5": boxes.coverage,
    "E6": focus.rewards.terms.conditional_iou,
    "E7": focus.rewards.terms.l1_reward,
    "E8": focus.rewards.terms.grounding,
    "E9": focus.rewards.information,
    "E10": dependence,
    "E11": focus.rewards.Grounding,
    "E12": focus.objective.policy_loss,
    "E13": focus.objective.sampler_weight,
}


@pytest.mark.parametrize(("equation", "place"), LEDGER.items(), ids=LEDGER)
def test_every_equation_has_a_place_that_names_it_and_a_row_in_the_page_of_the_method(equation, place):
    assert re.search(rf"\b{equation}\b", inspect.getdoc(place) or "")
    assert re.search(rf"^\| {equation} \|", (ROOT / "docs/method.md").read_text(), flags=re.MULTILINE)


def test_the_papers_method_is_short_enough_to_read():
    starred = [ROOT / "focus" / name for name in ("gap.py", "objective.py", "logprobs.py", "policy.py")]
    starred += [*(ROOT / "focus/rollout").glob("*.py"), *(ROOT / "focus/rewards").glob("*.py")]
    for beyond in ("rewards/information.py", "rewards/call_floor.py", "rollout/served.py", "rollout/vllm.py"):
        starred.remove(ROOT / "focus" / beyond)
    assert sum(len(path.read_text().splitlines()) for path in starred) < 1660


def test_every_public_function_says_what_it_does():
    silent = []
    for path in modules():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node):
                silent.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    allowed = {"main", "rules"}
    assert [entry for entry in silent if entry.rsplit(" ", 1)[1] not in allowed and not entry.endswith("Config")] == []


def test_every_make_target_is_explained():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^([a-z0-9-]+):", makefile, flags=re.MULTILINE)
    explained = re.findall(r"^([a-z0-9-]+):.*## \S", makefile, flags=re.MULTILINE)
    assert sorted(targets) == sorted(explained)
    said = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert all(f"make {target}" in said for target in targets)
