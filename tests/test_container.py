"""The container for GPUs, as far as it can be held without a Docker engine: it parses, and all that it names is there and agrees."""

import io
import re
import subprocess
from pathlib import Path

import pytest
from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).parents[1]
REQUIREMENTS = sorted(ROOT.glob("requirements*.txt"))


@pytest.fixture(scope="module")
def steps() -> list[dict]:
    return DockerfileParser(fileobj=io.BytesIO((ROOT / "Dockerfile").read_bytes())).structure


def of(steps: list[dict], instruction: str) -> list[str]:
    return [step["value"] for step in steps if step["instruction"] == instruction]


def test_every_file_that_is_copied_is_in_the_repository(steps):
    for value in of(steps, "COPY"):
        words = [word for word in value.split() if not word.startswith("--")]
        assert all((ROOT / word).exists() for word in words[:-1]), value


def test_pip_installs_only_files_that_were_copied_before(steps):
    copied: list[str] = []
    for step in steps:
        if step["instruction"] == "COPY":
            copied += step["value"].split()
        for name in re.findall(r"-r (?:\S*/)?(requirements\S*\.txt)", step["value"]) if step["instruction"] == "RUN" else ():
            assert name in copied, step["value"]


def test_it_runs_as_a_user_in_the_environment_that_make_takes(steps):
    assert of(steps, "USER") == ["focus"] and of(steps, "CMD") == ['["make", "help"]']
    assert of(steps, "RUN")[-1] == "make env-gpu"
    read = {"Makefile", "requirements.txt", "requirements.lock", "requirements-gpu.txt"}
    assert [read <= {*value.split()} for value in of(steps, "COPY") if "Makefile" in value] == [True]


def test_what_a_checkout_makes_does_not_travel_into_the_image():
    left_out = (ROOT / ".dockerignore").read_text().split()
    assert {".git", ".venv", "outputs", "published"} <= {*left_out}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert not [path for path in tracked if path.split("/")[0] in left_out]


def pinned(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line and not line.startswith(("#", "-r "))]


@pytest.mark.parametrize("path", REQUIREMENTS, ids=lambda path: path.name)
def test_every_requirement_is_pinned_and_has_its_reason(path):
    assert path.read_text().startswith("# ")
    for line in pinned(path):
        assert re.fullmatch(r"[a-z0-9-]+==[\w.]+ +# .+", line), line


def test_one_package_has_one_version_in_all_environments_but_where_vllm_says_otherwise():
    versions: dict[str, set[str]] = {}
    for path in REQUIREMENTS:
        for line in pinned(path):
            name, version = line.split()[0].split("==")
            versions.setdefault(name, set()).add(version)
    assert {name: found for name, found in versions.items() if len(found) > 1} == {
        "transformers": {"5.23.0", "5.19.0"},
        "numpy": {"2.4.6", "2.3.5"},
    }
