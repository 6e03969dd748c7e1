"""The house rules that a machine can hold: one direction of imports, one function per equation, nothing left lying about."""

import ast
import inspect
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

import focus.documents.views
import focus.gap
import focus.rewards.information
import focus.rewards.terms
import focus.rollout.loop
import focus.training.objective
from focus.data import boxes
from focus.evaluation import arms

ROOT = Path(__file__).parents[1]
# A room imports from rooms above it in this list and from itself; within a room no two files import each other in a circle.
ROOMS = [
    "runtime",
    "data",
    "gap",
    "model",
    "grading",
    "documents",
    "rollout",
    "rewards",
    "evaluation",
    "training",
    "config",
    "report",
    "planning",
    "pretraining",
    "build",
    "agent",
    "serving",
    "lightbox",
    "runs",
    "commands",
]


@cache
def modules() -> list[Path]:
    return sorted((ROOT / "focus").rglob("*.py"))


def room(path: Path) -> str:
    parts = path.relative_to(ROOT / "focus").with_suffix("").parts
    return parts[0]


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def imports(path: Path) -> set[str]:
    """Modules of this package that a module imports anywhere, also inside functions."""
    known = {name_of(each) for each in modules()}
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "focus":
            found |= {name if (name := f"{node.module}.{alias.name}") in known else node.module for alias in node.names}
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("focus.")}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_from_its_own_room_and_rooms_before_it(path: Path):
    if path == ROOT / "focus/__init__.py":
        # By name, when a user asks for it: test_importing_the_package_imports_nothing_slow
        assert imports(path) == {"focus.agent", "focus.runs.audit"}
        return
    here = ROOMS.index(room(path))
    later = sorted(name for name in imports(path) if name.split(".")[1] in ROOMS[here + 1 :])
    assert not later, f"{path.relative_to(ROOT)} imports {later}, which stand after it"


def test_no_modules_import_each_other_in_a_circle():
    arrows = {name_of(path): imports(path) for path in modules()}

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        ahead = [start]
        while ahead:
            ahead += [name for name in arrows.get(ahead.pop(), set()) if name not in seen and not seen.add(name)]  # type: ignore[func-returns-value]
        return seen

    assert [name for name in arrows if name in reached(name)] == []


def test_commands_are_imported_by_nobody_and_load_heavy_modules_only_when_they_run():
    for path in modules():
        assert not any(name.startswith("focus.commands") for name in imports(path))
        if room(path) == "commands" and path.name != "__init__.py":
            top = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
            names = {alias.name.split(".")[0] if isinstance(node, ast.Import) else str(node.module) for node in top for alias in node.names}
            assert names <= {"hydra", "omegaconf", "focus", "sys", "pathlib"}, path


LEDGER = {
    "E1": focus.rollout.loop,
    "E2": focus.gap.select_level,
    "E3": focus.rewards.terms.total,
    "E4": focus.training.objective.group_advantage,
    "E5": boxes.coverage,
    "E6": focus.rewards.terms.conditional_iou,
    "E7": focus.rewards.terms.l1_reward,
    "E8": focus.rewards.terms.grounding,
    "E9": focus.rewards.information,
    "E10": arms,
    "E11": focus.rewards.Grounding,
    "E12": focus.training.objective.policy_loss,
    "E13": focus.training.objective.sampler_weight,
    "E14": focus.training.objective.turn_credit,
    "E15": focus.rewards.CropOnly,
    "E16": focus.rewards.terms.area_share,
    "E17": focus.gap.adapted,
    "E18": focus.documents.views.critical_by_height,
}


@pytest.mark.parametrize(("equation", "place"), LEDGER.items(), ids=LEDGER)
def test_every_equation_has_a_place_that_names_it_and_a_row_in_the_page_of_the_method(equation, place):
    assert re.search(rf"\b{equation}\b", inspect.getdoc(place) or "")
    assert re.search(rf"^\| {equation} \|", (ROOT / "docs/method.md").read_text(), flags=re.MULTILINE)


def test_every_public_function_says_what_it_does():
    silent = []
    for path in modules():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node):
                silent.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    allowed = {"main", "run"}
    assert [entry for entry in silent if entry.rsplit(" ", 1)[1] not in allowed and not entry.endswith("Config")] == []


def test_files_of_json_are_written_by_one_function_which_writes_no_nan():
    """`files.json_text`. A policy's own configuration is written as transformers writes it."""
    direct = [
        f"{path.relative_to(ROOT)}:{call.lineno}"
        for path in modules()
        if path != ROOT / "focus/model/saving.py"
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and "write" in ast.unparse(call.func) and "json.dump" in ast.unparse(call)
    ]
    assert direct == []


def test_every_make_target_is_explained():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^([a-z0-9-]+):", makefile, flags=re.MULTILINE)
    explained = re.findall(r"^([a-z0-9-]+):.*## \S", makefile, flags=re.MULTILINE)
    assert sorted(targets) == sorted(explained)
    said = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert all(f"make {target}" in said for target in targets)


def test_what_tests_share_stands_in_support_and_no_test_module_imports_another():
    """Names in strings count too: workers are started from them."""
    for path in (ROOT / "tests").rglob("*.py"):
        own = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        named = set(re.findall(r"\btests(?:\.\w+)*\.test_\w+", path.read_text()))
        named |= {f"{folder}.{name}" for folder, name in re.findall(r"from (tests[\w.]*) import (test_\w+)", path.read_text())}
        assert named <= {own}, f"{path.relative_to(ROOT)} names {sorted(named - {own})}"


def test_a_test_module_stands_in_the_room_of_its_subject():
    rooms = {path.stem for path in (ROOT / "focus").iterdir()} - {"commands"}
    folders = {path.parent.relative_to(ROOT / "tests").as_posix() for path in (ROOT / "tests").rglob("test_*.py")}
    assert {folder.split("/")[0] for folder in folders} - {".", "vllm", "gpu", "dry_run"} <= rooms
    assert all((ROOT / "focus" / folder).is_dir() for folder in folders if "/" in folder), folders
