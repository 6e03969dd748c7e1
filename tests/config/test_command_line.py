"""Mistakes on a command line: each gets one message that says what to do, before anything slow is imported."""

import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from focus.config import CONF, command_line
from focus.config.command_line import guarded, prepare, readable
from focus.config.schema import SCHEMAS, CalibrationConfig, EvaluateConfig, ExportConfig, GapConfig

SLOW = ("torch", "pytorch_lightning", "transformers", "peft", "pyarrow", "matplotlib", "skimage")

REFUSED = f"""
import runpy, sys

def refuse(command, word, reason):
    sys.argv = [command, word]
    try:
        runpy.run_module(f"focus.{{command}}", run_name="__main__")
    except SystemExit as refused:
        assert reason in str(refused), (command, refused)
    else:
        raise AssertionError(f"{{command}} was started")
    return [name for name in {SLOW} if name in sys.modules]

for command in {list(SCHEMAS)}:
    slow = refuse(command, "otuput=x", "focus: otuput is no setting. ")
print(slow)
refuse("probe", "policy.dialect=nope", "policy.dialect is 'nope'; choose one of ")
refuse("evaluate", "policy.checkpoint=/nowhere", "policy.checkpoint is /nowhere, which is not a folder; ")
print(refuse("calibrate", "policy.prompts=nowhere.yaml", "nowhere.yaml"))
"""


@pytest.mark.processes
def test_importing_the_package_imports_nothing_slow():
    script = f"import sys, focus; print([name for name in {SLOW} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=CONF.parent, timeout=600)
    assert done.stdout == "[]\n", done.stdout + done.stderr


@pytest.mark.processes
def test_a_misspelt_key_a_wrong_folder_and_an_unknown_dialect_are_refused_before_anything_slow_is_imported():
    done = subprocess.run([sys.executable, "-c", REFUSED], capture_output=True, text=True, cwd=CONF.parent, timeout=600)
    assert done.stdout == "[]\n['pyarrow']\n", done.stdout + done.stderr  # pyarrow: the readers of published sets, 0.2 s


def refused(monkeypatch, *words: str, command: str = "train") -> str:
    monkeypatch.setattr(sys, "argv", [command, *words])
    with pytest.raises(SystemExit) as ended:
        prepare(command)
    return str(ended.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gap.view_token=3"], "gap.view_token is no setting. Did you mean view_tokens? There are: mode, view_tokens, table"),
        (["objective.lr=1"], "objective.lr is no setting. Did you mean learning_rate? There are: updates, "),
        (["rollout.temp=1"], "rollout.temp is no setting. Did you mean temperature? There are: "),
        (["learning_rate=1"], "learning_rate is no setting. Did you mean objective.learning_rate? There are: policy, "),
        (["gap.mode.kind=1"], "gap.mode.kind is no setting: gap.mode is one value, not a section"),
        (["+gap.foo=1", "gap.view_tokens=many"], "gap.view_tokens is 'many'; write a whole number\n  - gap.foo is no setting."),
        (["seed=-1", "gap.view_tokens=many"], "seed is -1; use a whole number from 0 on\n  - gap.view_tokens is 'many'"),
        (["gap=fixd"], "gap=fixd names no file. Did you mean fixed? There are: calibrated, fixed, off, reader"),
        (["name=my", "run"], "run is no setting; settings are given as KEY=VALUE. If it belongs to name, put the whole value "),
        (["name=my", "run"], "into quotes: name='my run'"),
        (["gap=5"], "Config group override must be a string or a list. Got int"),
    ],
)  # fmt: skip
def test_a_mistake_on_the_command_line_is_answered_with_what_was_meant(words, message, monkeypatch):
    said = refused(monkeypatch, "experiment=smoke", *words)
    assert said.startswith("focus: ") and message in said


def test_all_misspelt_keys_and_groups_are_named_at_once(monkeypatch):
    message = refused(monkeypatch, "experiment=smoke", "gap=fixd", "policy.dialec=tiny", "objective.lr=1")
    assert message.count("\n  - ") == 3
    for part in ("gap=fixd names no file.", "policy.dialec is no setting.", "objective.lr is no setting."):
        assert part in message, message


def test_a_run_without_an_experiment_is_told_to_choose_one(monkeypatch):
    said = refused(monkeypatch)
    assert said.endswith("these keys have no value: name. Choose an experiment, e.g. experiment=stage1")


def test_a_question_or_an_image_that_is_missing_or_empty_is_asked_for(monkeypatch):
    said = refused(monkeypatch, "question=What?", command="ask")
    assert said.endswith('these keys have no value: image. Give both: image=photo.jpg question="What is it?"')
    said = refused(monkeypatch, "image=", "question=' '", command="ask")
    assert "image is empty; name an image file" in said
    assert "question is empty; ask one" in said


def test_a_run_without_a_name_would_have_no_folder(monkeypatch):
    assert "name is empty" in refused(monkeypatch, "experiment=smoke", "name=")


def test_values_with_spaces_and_of_the_home_folder_are_read_as_a_shell_user_means_them(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "questions.jsonl").touch()
    monkeypatch.setattr(sys, "argv", ["train", "experiment=smoke", "name=my run", "data.records=~/questions.jsonl"])
    prepare("train")
    assert sys.argv[2:] == ["name=my run", f"data.records={tmp_path}/questions.jsonl"]
    assert (tmp_path / "outputs/my run").is_dir()
    assert readable("output=~/a b") == f"output={Path.home()}/a b"


def choices(section, field: str) -> tuple[str, ...]:
    return get_args(section.model_fields[field].annotation)


def test_the_choices_of_the_schema_are_those_of_the_code():
    from focus.data.scenes import DIFFICULTY, SPLITS
    from focus.gap import Mode, Search
    from focus.grading.extraction import MODES

    assert choices(GapConfig, "mode") == tuple(Mode)
    assert choices(CalibrationConfig, "search") == tuple(Search)
    assert choices(EvaluateConfig, "extraction") == MODES
    assert choices(ExportConfig, "split") == tuple(SPLITS)
    limits = {type(limit).__name__: limit for limit in ExportConfig.model_fields["difficulty"].metadata}
    assert (limits["Ge"].ge, limits["Le"].le) == (min(DIFFICULTY), max(DIFFICULTY))


@pytest.mark.parametrize("question", ["What's on it, exactly?", 'Is it "5 $" or 5 %?', "a=b", r"C:\new", "{x: [1]}"])
def test_a_question_is_a_text_whatever_signs_it_has(question):
    [override] = OverridesParser.create().parse_overrides([readable(f"question={question}")])
    assert override.value() == question


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ({}, "expandable_segments:True"),
        ({"PYTORCH_ALLOC_CONF": "max_split_size_mb:64"}, None),
        ({"PYTORCH_CUDA_ALLOC_CONF": "backend:native"}, "backend:native"),
    ],
)
def test_memory_of_a_gpu_grows_in_segments_unless_told_otherwise(given, left, monkeypatch):
    monkeypatch.setattr(command_line, "end_on_sigterm", lambda: None)
    monkeypatch.setattr(os, "environ", {key: value for key, value in os.environ.items() if not key.endswith("_ALLOC_CONF")} | given)
    seen = []
    guarded(lambda _: seen.append(os.environ.get("PYTORCH_CUDA_ALLOC_CONF")), OmegaConf.create())
    assert seen == [left]
