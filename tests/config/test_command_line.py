"""Mistakes on a command line: each gets one message that says what to do, before anything slow is imported."""

import os
import socket
import subprocess
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import get_args

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from PIL import Image

from focus.config import CONF, command_line
from focus.config.command_line import _print_anything, guarded, prepare, readable
from focus.config.schema import SCHEMAS, Arm, CalibrationConfig, EvaluateConfig, ExportConfig, GapConfig

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
        (["reward=label_free", "reward.terms.crop_only.reader=outputs/x"], "reward.terms.crop_only.reader is outputs/x, which is no"),
        (["gap=fixd"], "gap=fixd names no file. Did you mean fixed? There are: adaptive, calibrated, fixed, off, reader"),
        (["name=my", "run"], "run is no setting; settings are given as KEY=VALUE. If it belongs to name, put the whole value "),
        (["name=my", "run"], "into quotes: name='my run'"),
        (["gap=5"], "gap is 5; choose adaptive, calibrated, fixed, off or reader"),
        (["gap=5", "policy=null"], "gap is 5; choose adaptive, calibrated, fixed, off or reader\n  - policy is null; choose qwen2_5"),
        (["gap=5", "policy=null", "objective.lr=1"], "\n  - objective.lr is no setting."),
        (["data.mix={a: 1}"], "data.mix is {a: 1}; write a list: [first, second]"),
        (["data.columns=[a]"], "data.columns is [a]; write a section: {key: value}"),
        (["rollout.endpoint.url=http://x"], "rollout.endpoint.url can't be set, since rollout.endpoint is null; choose rollout=openai"),
        (["seed=${nope}"], "seed refers to something that can't be found or read: Interpolation key 'nope' not found"),
        (["policy.dialect=qwen3vl"], "(docs/dialects.md). Did you mean qwen3_vl?"),
        (["policy.dialect=null"], "policy.dialect is null; name the form of its calls: adaptvision, deepeyes, "),
        (["seed=99999999999999999999"], "seed is 99999999999999999999; write a smaller number"),
        (["objective.updates=1e30"], "objective.updates is 1e+30; write a smaller number"),
        (["seed=1,2"], "seed is 1,2, which is several values; a list is seed=[1,2], and --multirun sweeps over values"),
        (["threads=1000000"], "threads is 1000000; choose 1 to 4096"),
        (["data.workers=1000000"], "data.workers is 1000000; choose 0 to 4096"),
        (["evaluation.resamples=1e12"], "evaluation.resamples is 1000000000000.0; an interval needs at least 1, 2000 is usual, 1000000 is"),
        (["=5"], "=5 is no setting; settings are given as KEY=VALUE"),
        (["-m", "seed=1,2,x"], "the points seed=x of this sweep: these settings can't work:\n  - seed is 'x'; write a whole number"),
        (["-m", "seed=interval(0,1)"], "seed=interval(0,1) can't be swept over; give values (seed=a,b) or a range: range(0,3)"),
        (["evaluation.arms=[own,nois]"], "evaluation.arms[1] is 'nois'; choose own, gt, noise, blank, mean_colour, "),
        (["evaluation.arms=[own,nois]"], "noise_first or noise_second. Did you mean noise?"),
        (["data.cache_dir="], "data.cache_dir is ''; name a folder"),
        (["policy.checkpoint="], "policy.checkpoint is empty; give a folder in the Hugging Face layout, a hub name"),
        (["policy.checkpoint=README.md"], "policy.checkpoint is README.md, which is not a folder; "),
        (["policy.checkpoint=my/runs/policy"], "policy.checkpoint is my/runs/policy, which is not a folder; "),
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


@pytest.mark.parametrize("words", [[], ["policy.checkpoint="], ["policy.checkpoint=", "rollout=kv"]])
def test_an_audit_without_an_agent_asks_for_one_and_says_nothing_else(monkeypatch, words):
    said = refused(monkeypatch, *words, command="audit")
    assert (
        said.count("\n  - ") == 1 and "policy.checkpoint names no agent; name it, and the form of its calls: make audit AGENT=NAME" in said
    )


def test_a_question_or_an_image_that_is_missing_or_empty_is_asked_for(monkeypatch):
    said = refused(monkeypatch, "question=What?", command="ask")
    assert said.endswith('these keys have no value: image. Give both: image=photo.jpg question="What is it?"')
    said = refused(monkeypatch, "image=", "question=' '", command="ask")
    assert "image is empty; name an image file" in said
    assert "question is empty; ask one" in said


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["rollout=openai", "policy.checkpoint=agent"], "policy.dialect is null; name the form of its calls: adaptvision, deepeyes, "),
        (["policy.checkpoint=null"], "policy.checkpoint is null; write a text"),
        (["options={A: red}"], "options is {A: red}; write a list: [first, second]"),
        (["image=empty.jpg"], "image is empty.jpg, which can't be used: it has no bytes; name another image file"),
        (["image=note.jpg"], "image is note.jpg, which can't be used: its header is none of JPEG, PNG, WEBP, "),
        (["policy.checkpoint=half"], "half/config.json is no model's configuration (JSONDecodeError: "),
        (["policy.checkpoint=left/policy"], "left/settings.yaml can't be read (while parsing a flow "),
    ],
)
def test_what_can_not_be_asked_is_refused_before_a_policy_loads(settings, said, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    files = {"empty.jpg": "", "note.jpg": "no image", "half/config.json": '{"model_t', "left/settings.yaml": "[1, "}
    for file, content in (files | {"left/policy/config.json": "{}"}).items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(content)
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    message = refused(monkeypatch, "image=photo.png", "question=What?", *settings, command="ask")
    assert message.startswith("focus: ") and said in message and "full_key" not in message


@pytest.mark.parametrize(
    "url", ["localhost:8000", "http://", "http:///v1", "http://a:99999/v1", "http://a:b/v1", "http://[::1/v1", "http://a b/v1"]
)
def test_an_address_that_is_none_is_told_how_to_be_written(url, monkeypatch):
    message = refused(monkeypatch, "experiment=smoke", f"judge.url={url}", "judge.model=judge")
    assert f"judge.url is '{url}'; write it in full, e.g. http://localhost:8000/v1" in message


@pytest.mark.parametrize("command", ["ask", "evaluate", "probe", "serve"])
def test_a_server_that_is_down_is_found_before_pytorch_is_imported(command, monkeypatch, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nobody listens
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
        words = ["rollout=openai", "policy.checkpoint=agent", "policy.dialect=deepeyes", f"rollout.endpoint.url={url}"]
        words += [f"image={tmp_path}/photo.png", "question=What?"] if command == "ask" else []
        words += ["view.max_tokens=256"] if command == "evaluate" else []
        message = refused(monkeypatch, *words, command=command)
        assert f"rollout.endpoint.url is {url}, where no server can be reached (" in message and "refused" in message
        closed.listen()
        prepare(command)


def test_an_address_that_nobody_gave_is_said_to_be_the_default(monkeypatch):
    monkeypatch.setattr("focus.runtime.connection.unreachable", lambda url: "refused")
    words = ["policy.checkpoint=agent", "policy.dialect=deepeyes"]
    said = (
        "rollout.endpoint.url is http://localhost:8000/v1, its default, where no server can be reached (refused); give the address of yours"
    )
    assert said in refused(monkeypatch, *words, command="audit")
    assert "default" not in refused(monkeypatch, *words, "rollout.endpoint.url=http://localhost:8000/v1", command="audit")


def test_a_sign_that_a_terminal_lacks_ends_no_run(monkeypatch):
    terminal = TextIOWrapper(BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    _print_anything()
    print("27 °")
    terminal.flush()
    assert terminal.buffer.getvalue() == b"27 ?\n"


def test_an_empty_folder_is_not_the_current_one(monkeypatch):
    assert "folder is ''; name a folder" in refused(monkeypatch, "folder=", command="questions")


def test_a_run_without_a_name_would_have_no_folder(monkeypatch):
    for name in ("", ".", "..", "a/../..", "/tmp/mine"):
        assert f"name is {name!r}, which names no folder below outputs/" in refused(monkeypatch, "experiment=smoke", f"name={name}")


def test_values_with_spaces_and_of_the_home_folder_are_read_as_a_shell_user_means_them(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "questions.jsonl").touch()
    monkeypatch.setattr(sys, "argv", ["train", "experiment=smoke", "name=my run", "data.records=~/questions.jsonl"])
    prepare("train")
    assert sys.argv[2:] == ["name=my run", f"data.records={tmp_path}/questions.jsonl"]
    assert (tmp_path / "outputs/my run").is_dir()
    assert readable("output=~/a b") == f"output={Path.home()}/a b"
    for home in ("output=~", "output='~'", "output='~/'"):
        assert readable(home).removesuffix("/") == f"output={Path.home()}", home


def choices(section, field: str) -> tuple[str, ...]:
    return get_args(section.model_fields[field].annotation)


def test_the_choices_of_the_schema_are_those_of_the_code():
    from focus.data.scenes import DIFFICULTY, SPLITS
    from focus.evaluation.outcome import PLAYABLE
    from focus.gap import Mode, Search
    from focus.grading.extraction import MODES

    assert choices(GapConfig, "mode") == tuple(Mode)
    assert get_args(Arm) == PLAYABLE
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
