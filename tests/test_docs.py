"""The documentation says what the code does: settings, metrics, the record, published sets and links."""

import ast
import re
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image

from docs import generate
from focus.data.readers import SETS, TESTS
from focus.data.sample import read_records
from focus.data.source import open_source
from focus.evaluation.outcome import DIFFERENCES, METRICS
from focus.grading.grader import Grader
from focus.grading.judge import COUNTS
from focus.report import evaluation
from focus.report.run import NO_TOOL, ROWS, TWO_CROPS
from focus.rewards import Scores
from focus.training.alarms import ALARMS
from focus.training.metrics import TokenStatistics, update_metrics
from focus.training.probe_callback import ProbeCallback

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "experiments").rglob("README.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def fenced(page: str, language: str) -> list[str]:
    return [body for kind, body in FENCE.findall((ROOT / page).read_text()) if kind == language]


def test_the_page_of_settings_is_what_the_comments_of_conf_say():
    assert generate.PAGE.read_text() == generate.page(), "run: python -m docs.generate"


@pytest.mark.parametrize("group", generate.WHOLE)
def test_every_comment_line_above_a_key_of_a_group_is_on_the_page(group):
    page = generate.PAGE.read_text()
    for line in (generate.CONF / group / f"{generate.WHOLE[group]}.yaml").read_text().splitlines():
        if (said := line.strip()).startswith("# "):
            in_a_table = re.sub(r" {2,}", "; ", said[2:]).replace("<", "&lt;").replace("|", "\\|")
            assert in_a_table in page or said[2:] in page, said


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_every_anchor_to_a_heading(path: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        to = (path.parent / name).resolve() if name else path
        assert to.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", to.read_text(), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}, target


def _of_a_grader() -> dict[str, float]:
    grader = Grader()
    grader.begin_update()
    return grader.metrics()


def test_every_logged_and_reported_number_is_explained():
    page = (ROOT / "docs/metrics.md").read_text()
    logged = {name for name in update_metrics([], Scores({}, []), torch.zeros(0, 2)) if not name.startswith("reward/")}
    logged |= {*TokenStatistics().metrics(None), *_of_a_grader(), *(f"judge/{name}" for name in COUNTS)}
    logged |= {f"alarm/{name}" for name in ALARMS} | {f"probe/{name}" for name in ProbeCallback.METRICS}
    reported = {*METRICS, *DIFFERENCES, *(metric for _, _, metric, _ in (*ROWS, *NO_TOOL, *TWO_CROPS)), *evaluation.METRICS}
    assert not [name for name in logged | reported if f"`{name}`" not in page]
    labels = [label for label, *_ in (*ROWS, *NO_TOOL, *TWO_CROPS)] + [label for label, *_ in evaluation.METRICS.values()]
    assert not [label for label in labels if f"| {label} |" not in page]


TABLE_ROW = re.compile(r"^\| `(\w+)` \| (.+?) \| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)


def test_the_table_of_published_sets_has_every_set_with_its_place_size_and_licence():
    rows = {row[0]: row[1:] for row in TABLE_ROW.findall((ROOT / "docs/data.md").read_text())}
    assert set(rows) == set(SETS)
    for name, (place, _, size, _, licence) in rows.items():
        published = SETS[name]
        assert place == (", ".join(f"`{named.split()[0]}`" for named in published.hub) or f"[page]({published.home})"), name
        assert (size, licence) == (published.size or "*not stated*", published.licence or "*not stated*"), name
    tested, _trained = (ROOT / "docs/data.md").read_text().split("To train on:")
    assert {row[0] for row in TABLE_ROW.findall(tested)} == set(TESTS)


def test_the_examples_of_questions_and_of_a_record_are_read(tmp_path):
    own, canonical = fenced("docs/data.md", "json")
    for name, size in (("street.jpg", (4032, 3024)), ("shop.png", (2000, 1500))):
        Image.new("L", size).save(tmp_path / name)
    (tmp_path / "questions.jsonl").write_text(own)
    (tmp_path / "records.jsonl").write_text(canonical)
    door, car, sign = open_source("records", str(tmp_path / "questions.jsonl"), None, kept=tmp_path / "cache/records")
    assert (door.scorer, car.answers, car.scorer) == ("number", ("B", "red"), "letter")
    assert sign.boxes == (((610, 420, 780, 470), (580, 380, 830, 520)),)
    [record] = read_records(tmp_path / "records.jsonl")[0]
    assert record.question == door.question and record.size == door.size


class Said(NamedTuple):
    """What the term of the page asks of a trajectory."""

    answer: str | None


def test_the_reward_of_the_page_is_a_term_that_can_be_named_in_a_reward_file(tmp_path, monkeypatch):
    [body] = [each for each in fenced("docs/extend.md", "python") if "my_package.py" in each]
    (tmp_path / "my_package.py").write_text(body)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_package", raising=False)
    [text] = [each for each in fenced("docs/extend.md", "yaml") if "my_package" in each]
    term = OmegaConf.create(text).terms.short_answer
    callback = instantiate(term)
    assert callback.gate == "accuracy" and callback.score([Said("a red car"), Said(None), Said("one two three four")]) == [1.0, 0.0, 0.0]


def test_the_commit_hook_has_the_version_of_ruff_that_development_has_and_ci_runs_what_the_repository_names():
    hook, pins = (ROOT / ".pre-commit-config.yaml").read_text(), (ROOT / "requirements-dev.txt").read_text()
    [version] = re.findall(r"^ruff==(\S+)", pins, flags=re.MULTILINE)
    assert f"rev: v{version}\n" in hook
    [job] = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"].values()
    assert {"run": ".ci/run", "env": {"PYTHON": "python${{ matrix.python }}"}} in job["steps"]  # make takes this Python alone
    assert (ROOT / ".ci/run").stat().st_mode & 0o111
    [(least, beyond)] = re.findall(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', (ROOT / "pyproject.toml").read_text())
    assert job["strategy"]["matrix"]["python"] == [f"3.{minor}" for minor in range(int(least), int(beyond))]


def test_every_function_and_test_that_the_page_of_the_method_names_exists():
    page = (ROOT / "docs/method.md").read_text()
    functions = re.findall(r"`([\w/]+\.py): (\w+)`", page)
    assert len(functions) == 18
    for path, name in functions:
        defined = {
            node.name for node in ast.parse((ROOT / "focus" / path).read_text()).body if isinstance(node, ast.FunctionDef | ast.ClassDef)
        }
        assert name in defined, (path, name)
    tests = re.findall(r"`([\w/]*test_\w+\.py)`", page)
    assert len(tests) >= 13 and not [name for name in tests if not (ROOT / "tests" / name).is_file()]


def test_the_page_of_the_method_has_every_reward_term_and_every_gap_of_the_settings():
    page = (ROOT / "docs/method.md").read_text()
    terms = {name for path in (ROOT / "conf/reward").glob("*.yaml") for name in yaml.safe_load(path.read_text())["terms"]}
    gaps = {path.stem for path in (ROOT / "conf/gap").glob("*.yaml")}
    for heading, names in (("## Symbols and terms", terms), ("## Which view", gaps)):
        section = page.partition(f"{heading}\n")[2].partition("\n## ")[0]
        assert set(re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE)) == names


def test_the_rooms_of_the_page_of_the_architecture_are_those_whose_imports_are_tested_in_that_order():
    [rooms] = [
        ast.literal_eval(node.value)
        for node in ast.parse((ROOT / "tests/test_structure.py").read_text()).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ROOMS"
    ]
    tree, order = fenced("docs/architecture.md", "text")
    assert order.split() == rooms
    assert sorted(re.findall(r"^  (\w+)", tree, flags=re.MULTILINE)) == sorted(rooms)


def test_every_file_that_a_page_names_exists():
    for page in PAGES:
        named = re.findall(r"`((?:focus|tests|conf|docs|experiments)/[\w./-]+)`", page.read_text())
        made = ("conf/reward/mine.yaml", "conf/experiment/mine.yaml")
        assert not [name for name in named if name not in made and not (ROOT / name).exists()], page
    reading = (ROOT / "docs/architecture.md").read_text().split("## Reading order")[1].split("## Decisions")[0]
    assert not [name for name in re.findall(r"`([\w/]+\.py)`", reading) if not (ROOT / "focus" / name).is_file()]
