"""What a checkout installs, what a wheel holds, and what make refuses."""

import os
import shlex
import shutil
import stat
import subprocess
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[1]
INSTALLED = (
    "Makefile",
    "requirements.txt",
    "requirements.lock",
    "requirements-dev.txt",
    "requirements-gpu.txt",
    "requirements-lightbox.txt",
)


def pins(name: str) -> dict[str, str]:
    """Package to version, of one file without those that it includes."""
    lines = [line.split()[0] for line in (ROOT / name).read_text().splitlines() if "==" in line and line[0].isalpha()]
    return dict(line.split("==") for line in lines)


def make(*words: str, cwd: Path = ROOT, **more) -> subprocess.CompletedProcess:
    # what the make that runs these tests was given is not for the make under test
    environment = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKEOVERRIDES", "MAKELEVEL"}}
    return subprocess.run(["make", *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=600, **more)


# The package


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    [path] = WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"])
    return zipfile.ZipFile(path)


def tracked(folder: str) -> set[str]:
    listed = subprocess.run(["git", "ls-files", folder], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    return {path for path in listed if (ROOT / path).is_file()}


def test_a_wheel_holds_all_code_the_embedded_weights_and_the_settings(wheel):
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert tracked("focus") <= packed
    assert {f"focus/{path}" for path in tracked("conf")} <= packed
    assert {Path(name).suffix for name in packed} >= {".py", ".yaml", ".safetensors"}


def test_a_wheel_holds_neither_tests_nor_experiments(wheel):
    assert {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" not in name} == {"focus"}


def test_a_wheel_needs_the_runtime_pins_and_nothing_for_development(wheel):
    [metadata] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    lines = wheel.read(metadata).decode().splitlines()
    needed = {line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")}
    extra = {
        f"{name}=={version}; extra == '{extra}'"
        for extra in ("questions", "lightbox")
        for name, version in pins(f"requirements-{extra}.txt").items()
    }
    assert needed == {f"{name}=={version}" for name, version in pins("requirements.txt").items()} | extra
    assert "Requires-Python: <3.14,>=3.11" in lines


# The requirement files


def test_what_only_tests_and_style_need_is_not_installed_to_run():
    assert pins("requirements.txt").keys().isdisjoint(pins("requirements-dev.txt"))
    assert {"pytest", "ruff", "mypy", "hypothesis", "liger-kernel"} <= pins("requirements-dev.txt").keys()
    assert "-r requirements.txt" in (ROOT / "requirements-dev.txt").read_text().splitlines()


def test_tests_read_pdfs_with_the_version_that_make_questions_does():
    assert pins("requirements-dev.txt")["pypdfium2"] == pins("requirements-questions.txt")["pypdfium2"]


def test_tests_serve_the_lightbox_with_the_versions_that_make_lightbox_does():
    assert pins("requirements-lightbox.txt").items() <= pins("requirements-dev.txt").items()


def test_the_lock_agrees_with_the_pins_and_has_a_hash_for_every_package():
    entries = (ROOT / "requirements.lock").read_text().replace("\\\n", " ").splitlines()
    locked = [line for line in entries if line and not line.lstrip().startswith("#")]
    assert all(" --hash=sha256:" in line for line in locked)
    versions = {line.split()[0] for line in locked}
    direct = {f"{name}=={version}" for name, version in pins("requirements.txt").items() if name != "torch"}
    assert direct <= versions, f"run make lock: {sorted(direct - versions)} are not in requirements.lock"


def test_the_lock_leaves_the_build_of_torch_to_the_machine():
    assert not [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line.startswith(("torch==", "nvidia-", "triton"))]


# What make refuses


@pytest.mark.parametrize("given", ["seed=5", "objective.updates=3", "gap.view_tokens=36", "experiment=smoke"])
def test_a_setting_outside_of_args_is_refused_with_its_right_place(given):
    answer = make("-n", "stage1", given)
    assert answer.returncode == 2 and answer.stdout == ""
    assert f"{given} is not a variable of make" in answer.stderr and f'make stage1 ARGS="{given}"' in answer.stderr


@pytest.mark.parametrize(
    ("words", "read"),
    [(("ask", "IMG=a.jpg"), "ARGS CHECKPOINT IMAGE QUESTION"), (("audit-compare", "CARD=x"), "CARDS"), (("test", "X=1"), "none")],
)
def test_a_mistyped_variable_is_answered_with_those_of_the_target(words, read):
    answer = make("-n", *words)
    name = words[1].split("=")[0]
    assert answer.returncode == 2 and answer.stdout == ""
    assert f"{name} is not a variable of make; make {words[0]} reads {read}." in answer.stderr


@pytest.mark.parametrize(
    "words", [("stage1", "DATA=vstar"), ("probe", "EXPERIMENT=smoke"), ("test", "ARGS=seed=1"), ("smoke", "EXPERIMENT=x")]
)
def test_a_variable_that_the_target_does_not_read_is_refused(words):
    answer = make("-n", *words)
    assert answer.returncode == 2 and answer.stdout == ""
    assert f"make {words[0]} does not read {words[1].split('=')[0]}" in answer.stderr


@pytest.mark.parametrize("target", ["train", "install", "eval", "tests", "conf"])
def test_a_target_that_does_not_exist_is_answered_with_those_that_do(target):
    answer = make(target)
    assert answer.returncode == 2
    assert f"make has no target {target}. It has: " in answer.stderr and " stage1 stage2 " in answer.stderr


@pytest.mark.parametrize(
    "words, known", [(("claim", "CLAIM=nope"), "fixed_crops gap_and_bonus"), (("speed", "TABLE=nope"), "rollout selection")]
)
def test_a_name_that_does_not_exist_is_answered_with_those_that_do(words, known):
    answer = make("-n", *words)
    assert answer.returncode == 2 and answer.stdout == ""
    assert f"{words[1]} is not known; choose one of: " in answer.stderr and known in answer.stderr


@pytest.mark.parametrize("text", ["it's", 'a "b"', "5 $", "$(x)", "a#b", "`id`", "two\nlines", "ü"])
def test_a_text_of_any_signs_is_one_word_of_the_command(text):
    ask, report = make("-n", "ask", f"CHECKPOINT={text}", f"QUESTION={text}"), make("-n", "report", f"SWEEP={text}")
    expected = text.replace("\n", " ")
    assert shlex.split(ask.stdout)[3:] == [f"policy.checkpoint={expected}", "image=", f"question={expected}"]
    assert shlex.split(report.stdout)[3:] == [f"sweep=outputs/{expected}"]


# The environment


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A copy of what installs; its Python makes environments whose pip writes down how it was called."""
    for name in INSTALLED:
        shutil.copy(ROOT / name, tmp_path)
    program(tmp_path / "pip", f'echo "$@" >> "{tmp_path}/pip.log"')
    program(tmp_path / "python", f'[ "$1" = -c ] && exit 0; mkdir -p "$3/bin"; cp "{tmp_path}/pip" "$3/bin/pip"')
    return tmp_path


def program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def calls(checkout: Path) -> list[str]:
    return (checkout / "pip.log").read_text().splitlines()


def test_running_installs_what_running_needs_and_testing_adds_the_rest_to_the_same_environment(checkout):
    assert make("env", f"PYTHON={checkout}/python", cwd=checkout).returncode == 0
    runtime = ["install -q --no-deps --require-hashes -r requirements.lock", "install -q -r requirements.txt"]
    assert calls(checkout) == runtime
    assert make("env-dev", f"PYTHON={checkout}/python", cwd=checkout).returncode == 0
    assert calls(checkout) == [*runtime, "install -q -r requirements-dev.txt"]


def test_making_questions_installs_its_readers_first(checkout):
    said = make("-n", "questions", "FROM=pictures", cwd=checkout).stdout
    assert 0 < said.index("install -q -r requirements-questions.txt") < said.index("python -m focus.questions folder='pictures'")


def test_packages_are_installed_again_when_a_requirement_file_changes_and_not_when_it_gets_a_new_time(checkout):
    assert make("env-dev", f"PYTHON={checkout}/python", cwd=checkout).returncode == 0
    os.utime(checkout / "requirements.txt", (2e9, 2e9))
    os.utime(checkout / "requirements-dev.txt", (2e9, 2e9))
    assert make("env-dev", cwd=checkout).returncode == 0 and len(calls(checkout)) == 3
    (checkout / "requirements-dev.txt").write_text("another==1.0\n")
    assert make("env", cwd=checkout).returncode == 0 and len(calls(checkout)) == 3
    assert make("env-dev", cwd=checkout).returncode == 0 and len(calls(checkout)) == 4
    (checkout / "requirements.txt").write_text("another==1.0\n")
    assert make("env-dev", cwd=checkout).returncode == 0 and len(calls(checkout)) == 7


def test_an_install_that_failed_is_tried_again(checkout):
    program(checkout / "pip", "exit 1")
    assert make("env", f"PYTHON={checkout}/python", cwd=checkout).returncode == 2
    program(checkout / ".venv/bin/pip", f'echo "$@" >> "{checkout}/pip.log"')
    assert make("env", cwd=checkout).returncode == 0 and len(calls(checkout)) == 2


def test_a_python_of_another_version_is_refused_with_the_way_to_get_one(checkout):
    program(checkout / "python", "exit 1")
    answer = make("stage1", f"PYTHON={checkout}/python", cwd=checkout)
    assert answer.returncode == 2 and not (checkout / ".venv").exists()
    assert f"focus needs Python 3.11, 3.12 or 3.13. Tried: {checkout}/python." in answer.stderr
    assert "uv python install 3.12" in answer.stderr and "make stage1 PYTHON=" in answer.stderr


def test_a_folder_with_a_space_in_its_name_holds_a_python(checkout):
    (checkout / "my pythons").mkdir()
    shutil.copy(checkout / "python", checkout / "my pythons")
    assert make("env", f"PYTHON={checkout}/my pythons/python", cwd=checkout).returncode == 0


def test_cleaning_removes_environments_and_caches_and_leaves_outputs(checkout):
    for folder in (".venv", ".mypy_cache", "focus/__pycache__", "tests", "experiments", "outputs/stage1"):
        (checkout / folder).mkdir(parents=True)
    assert make("clean", cwd=checkout).returncode == 0
    assert not (checkout / ".venv").exists() and not (checkout / "focus/__pycache__").exists()
    assert (checkout / "outputs/stage1").exists() and (checkout / "focus").exists()


@pytest.mark.parametrize(("answer", "stays"), [("no\n", True), ("", True), ("yes\n", False)])
def test_outputs_are_removed_only_after_a_yes(checkout, answer, stays):
    (checkout / "outputs/stage1").mkdir(parents=True)
    make("clean-outputs", cwd=checkout, input=answer)
    assert (checkout / "outputs/stage1").exists() is stays


@pytest.mark.parametrize("shell", ["dash", "bash"])
@pytest.mark.parametrize(
    ("given", "arrives"),
    [
        ("seed=1 gap.view_tokens=36", ["seed=1", "gap.view_tokens=36"]),
        ("'name=my run'", ["name=my run"]),
        ("'+reward.terms.mine={_target_:mine.Mine,weight:0.5}'", ["+reward.terms.mine={_target_:mine.Mine,weight:0.5}"]),
    ],
)
def test_settings_arrive_as_they_were_quoted_whatever_the_shell(checkout, shell, given, arrives):
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    assert make("env", f"PYTHON={checkout}/python", cwd=checkout).returncode == 0
    program(checkout / ".venv/bin/python", "printf '<%s>' \"$@\"")
    told = make("-s", "stage1", f"SHELL={shutil.which(shell)}", f"ARGS={given}", cwd=checkout).stdout
    assert told == "".join(f"<{word}>" for word in ["-m", "focus.train", "experiment=stage1", *arrives])
