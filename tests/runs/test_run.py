"""Whole runs at their smallest: train, measure, draw, resume, sweep, calibrate, export."""

import csv
import json
import os
import signal
import sys
import time
import weakref
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies.launchers import subprocess_script
from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from transformers import AutoModelForImageTextToText

from focus import build
from focus.config.command_line import prepare
from focus.config.identity import played_dtype
from focus.config.validate import plain
from focus.data.sample import read_records
from focus.gap import levels_identity, read_levels, write_levels
from focus.model import loading
from focus.model.dialect import Texts, read_dialect
from focus.runs import calibrate, evaluate, export, train
from focus.runtime import files
from focus.training.policy import FocusPolicy
from tests.support.policies import FAMILIES
from tests.support.ranks import forked, invent_gpus
from tests.support.runs import SMALL, composed, settings, settings_of_export


def test_a_run_trains_measures_draws_and_a_second_start_only_shows_it_again(tmp_path, random_policy, monkeypatch, capsys):
    cfg = settings(tmp_path / "run", random_policy)
    train.run(cfg)
    made = {path.name for path in (tmp_path / "run").iterdir()}
    assert {
        "policy",
        "report.html",
        "history.jsonl",
        "settings.yaml",
        "evaluation_base_t1.json",
        "evaluation_trained_t1.json",
        "checkpoints",
    } <= made
    history = [json.loads(line) for line in (tmp_path / "run/history.jsonl").read_text().splitlines()]
    assert [row["update"] for row in history] == [1, 2]
    assert {
        "reward/accuracy",
        "reward/format",
        "reward/tool",
        "reward/total",
        "crop/rate",
        "group/zero_variance",
        "tokens/visual",
        "tokens/per_second",
        "memory/peak_gib",
        "seconds/rollout",
        "seconds/update",
    } <= set(history[0])
    assert "base against trained" in capsys.readouterr().out
    monkeypatch.setattr(train, "fit", lambda *_: pytest.fail("a finished run was trained again"))
    train.run(cfg)
    assert "base against trained" in capsys.readouterr().out
    monkeypatch.setattr(train, "load_policy", lambda *_: pytest.fail("another rank than the first one has loaded the policy"))
    monkeypatch.setattr(files, "is_first_rank", lambda: False)
    train.run(cfg)


NO_READER = ("reward=label_free", "reward.terms.crop_only.reader=no/where")
NO_JUDGE = ("judge.url=http://127.0.0.1:9", "judge.model=none", "judge.retries=0")


@pytest.mark.parametrize(("name", "given"), [("train", NO_READER), ("evaluate", NO_JUDGE), ("calibrate", NO_JUDGE)])
def test_a_command_that_is_refused_leaves_no_folder(name, given, tmp_path, random_policy):
    cfg = settings(tmp_path / "run", random_policy, "policy.dialect=tiny", *given, name=name)
    with pytest.raises(ValueError, match=r"no/where, which is not a folder here|cannot be reached"):
        {"train": train, "evaluate": evaluate, "calibrate": calibrate}[name].run(cfg)
    assert list(tmp_path.iterdir()) == []


def test_a_point_that_is_refused_leaves_its_row_and_its_settings_by_which_the_page_of_the_sweep_names_it(tmp_path, random_policy):
    with pytest.raises(ValueError, match="no/where"):
        train.run(settings(tmp_path / "run", random_policy, f"results={tmp_path}/results.csv", *NO_READER))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["settings.yaml"]
    assert "crashed: ValueError: the setting reader=no/where of a reward term" in (tmp_path / "results.csv").read_text()


def test_one_policy_is_in_memory_at_a_time_and_after_training_no_moment_is(tmp_path, random_policy, monkeypatch):
    """The policy that is trained, the base and the trained one are loaded one after the other, each when the one before is gone."""
    policies: list[weakref.ref] = []
    optimizers: list[weakref.ref] = []
    seen = []

    def look(where: str) -> None:
        seen.append((where, [number for number, each in enumerate(policies) if each()], sum(each() is not None for each in optimizers)))

    def watched(owner, name: str, where: str, made: list[weakref.ref]) -> None:
        make = getattr(owner, name)

        def watching(*given):
            look(where)
            found = make(*given)
            made.append(weakref.ref(getattr(found, "model", found)))
            return found

        monkeypatch.setattr(owner, name, watching)

    watched(loading, "load_model", "load", policies)
    watched(FocusPolicy, "configure_optimizers", "train", optimizers)
    measured = train._outcomes
    monkeypatch.setattr(train, "_outcomes", lambda *given: (look("measure"), measured(*given))[1])
    train.run(settings(tmp_path / "run", random_policy, "objective.updates=1", "evaluation.samples=2", "evaluation.arms=[own]"))
    assert seen == [("load", [], 0), ("train", [0], 0), ("load", [], 0), ("measure", [1], 0), ("load", [], 0), ("measure", [2], 0)]


def test_the_ranks_of_a_node_are_started_before_the_first_one_loads(tmp_path, random_policy, monkeypatch):
    done = []
    monkeypatch.setattr(_SubprocessScriptLauncher, "_call_children_scripts", lambda self: done.append(f"start {self.num_processes - 1}"))
    monkeypatch.setattr(subprocess_script, "_launch_process_observer", lambda _: None)

    def load(*_):
        done.append("load")
        raise InterruptedError

    monkeypatch.setattr(train, "load_policy", load)
    with pytest.raises(InterruptedError):
        train.run(settings(tmp_path / "run", random_policy, "trainer.strategy=ddp", "trainer.devices=2"))
    assert done == ["start 1", "load"]


@pytest.mark.parametrize(
    ("trainer", "dtype"),
    [
        ((), "float32"),
        (("trainer.precision=bf16-mixed",), "bfloat16"),
        (("trainer=fsdp",), "bfloat16"),
        (("policy.dtype=bfloat16",), "bfloat16"),
    ],
)
def test_a_policy_is_measured_in_the_dtype_in_which_training_played_it(trainer, dtype):
    assert played_dtype(plain(composed("experiment=smoke", *trainer))) == dtype


def test_an_exported_policy_loads_in_plain_transformers_with_the_trained_weights(tmp_path, random_policy):
    cfg = settings(tmp_path / "run", random_policy, "evaluation.samples=0", "objective.learning_rate=0.01")
    train.run(cfg)
    exported = AutoModelForImageTextToText.from_pretrained(tmp_path / "run/policy", dtype=torch.float32)
    before = loading.load_model(random_policy, "tiny").model
    assert type(exported) is type(before)
    assert any(not torch.equal(a, b) for a, b in zip(exported.parameters(), before.parameters(), strict=True))


@pytest.mark.parametrize("family", FAMILIES.values())
def test_saving_and_loading_changes_no_weight_beyond_bfloat16(family, tmp_path):
    policy = family(seed=3)
    policy.save(tmp_path / "policy")
    loaded = loading.load_model(tmp_path / "policy", policy.dialect.name)
    for (name, a), (_, b) in zip(policy.model.state_dict().items(), loaded.model.state_dict().items(), strict=True):
        assert torch.equal(a.to(torch.bfloat16).float(), b), name
    assert loaded.token_px == policy.token_px == policy.dialect.token_px
    assert loaded.tokenizer.encode("call 42") == policy.tokenizer.encode("call 42")


def test_a_lora_policy_trains_only_its_adapters_and_exports_merged(tmp_path, random_policy):
    cfg = settings(
        tmp_path / "run",
        random_policy,
        "evaluation.samples=0",
        "policy.lora_rank=2",
        "policy.train_vision=false",
        "objective.learning_rate=0.01",
    )
    loaded = build.load_policy(cfg.policy)
    trainable = [name for name, p in loaded.model.named_parameters() if p.requires_grad]
    assert trainable and all("lora_" in name for name in trainable)
    train.run(cfg)
    assert not [name for name in loading.load_model(tmp_path / "run/policy", "tiny").model.state_dict() if "lora" in name]


def test_a_finished_point_of_a_sweep_is_skipped(tmp_path, random_policy, monkeypatch, capsys):
    results = tmp_path / "results.csv"
    more = (f"results={results}", "evaluation.arms=[own]")
    train.run(settings(tmp_path / "a", random_policy, *more))
    train.run(settings(tmp_path / "b", random_policy, *more, "seed=1"))
    with results.open() as rows:
        seeds = [row["seed"] for row in csv.DictReader(rows)]
    assert seeds == ["0", "1"]
    monkeypatch.setattr(train, "fit", lambda *_: pytest.fail("a finished point was trained again"))
    train.run(settings(tmp_path / "elsewhere", random_policy, *more, "seed=1"))
    assert "this point is in" in capsys.readouterr().out


LASTING = ("objective.updates=6", "evaluation.samples=0")


@pytest.fixture(scope="module")
def straight(tmp_path_factory, random_policy) -> Path:
    """A run that nothing stopped."""
    run = tmp_path_factory.mktemp("straight") / "run"
    train.run(settings(run, random_policy, *LASTING))
    return run


@pytest.mark.processes
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_stopped_resumes_and_ends_like_one_that_was_not(tmp_path, random_policy, straight, stop):
    stopped = tmp_path / "stopped"
    running = forked("-m", "focus.train", *SMALL, *LASTING, f"policy.checkpoint={random_policy}", f"hydra.run.dir={stopped}")
    deadline = time.monotonic() + 600
    while not list((stopped / "checkpoints").glob("*.ckpt")) and time.monotonic() < deadline and running.runs():
        time.sleep(0.02)
    os.kill(running.pid, stop)
    done = running.ended()
    assert done.returncode in ({signal.SIGINT: 1, signal.SIGTERM: 143, signal.SIGKILL: -9}[stop], 0)  # 0: it was faster
    if done.returncode > 0:
        said = done.stdout + done.stderr
        assert "run the same command again to resume" in said and "Traceback" not in said
    assert not (stopped / "policy.partial").exists()
    train.run(settings(stopped, random_policy, *LASTING))
    hashes = [loading.load_model(run / "policy", "tiny").weights_hash() for run in (straight, stopped)]
    assert hashes[0] == hashes[1]
    history = [json.loads(line)["update"] for line in (stopped / "history.jsonl").read_text().splitlines()]
    assert history == [1, 2, 3, 4, 5, 6]


def test_a_broken_image_costs_one_sample_and_is_counted(tmp_path, random_policy):
    export.run(settings_of_export(tmp_path / "scenes"))
    records = tmp_path / "scenes/records.jsonl"
    samples, dropped = read_records(records)
    assert len(samples) == 4 and not dropped
    path = samples[2].image.path
    path.write_bytes(path.read_bytes()[:2000])
    train.run(
        settings(
            tmp_path / "run",
            random_policy,
            "data=records",
            f"data.records={records}",
            f"evaluation.records={records}",
            "rollout.questions_per_update=4",
            "evaluation.samples=4",
        )
    )
    history = [json.loads(line) for line in (tmp_path / "run/history.jsonl").read_text().splitlines()]
    assert [row["data/broken"] for row in history] == [1.0, 1.0]
    measured = json.loads((tmp_path / "run/evaluation_trained_t1.json").read_text())["outcomes"]["own view"]
    assert len(measured["groups"]) == 4 and len(measured["broken"]) == 1  # wrong, and still in the denominator
    assert str(path) in measured["broken"][0] or samples[2].id in measured["broken"][0]


def test_another_run_in_the_same_folder_is_refused_and_the_difference_named(tmp_path, random_policy):
    train.run(settings(tmp_path / "run", random_policy, "evaluation.samples=0"))
    with pytest.raises(ValueError, match=r"holds a run with other settings:\n  - seed: 0 then, 1 now\nGive this one another name"):
        train.run(settings(tmp_path / "run", random_policy, "evaluation.samples=0", "seed=1"))


class Loaded(Exception):
    """The policy would be loaded now."""


def test_a_finished_run_is_measured_again_if_it_is_to_be_measured_otherwise(tmp_path, random_policy, monkeypatch):
    """By the first rank alone, on the first of the GPUs that the trainer's settings list."""

    def load(_, device):
        raise Loaded(device)

    train.run(settings(tmp_path / "run", random_policy, "evaluation.arms=[own]"))
    monkeypatch.setattr(train, "fit", lambda *_: pytest.fail("a finished run was trained again"))
    train.run(settings(tmp_path / "run", random_policy, "evaluation.arms=[own]", "evaluation.samples=5"))
    assert len(json.loads((tmp_path / "run/evaluation_base_t1.json").read_text())["outcomes"]["own view"]["groups"]) == 5
    elsewhere = settings(tmp_path / "run", random_policy, "evaluation.arms=[own]", "trainer.accelerator=gpu", "trainer.devices=[2,3]")
    invent_gpus(monkeypatch, 4)
    monkeypatch.setattr(train, "load_policy", load)
    with pytest.raises(Loaded, match="cuda:2"):
        train.run(elsewhere)
    assert loading.own_gpu() == torch.device("cuda", 2)


def test_wandb_that_cannot_start_says_how_to_do_without_it(tmp_path, random_policy, monkeypatch):
    import wandb

    def refused(_):
        raise wandb.errors.UsageError("No API key configured")

    monkeypatch.setattr(pl.loggers.WandbLogger, "experiment", property(refused))
    with pytest.raises(ValueError, match=r"No API key configured.*WANDB_MODE=offline needs neither account nor network"):
        train.run(settings(tmp_path / "run", random_policy, "logger=wandb"))
    assert not (tmp_path / "run/evaluation_base_t1.json").exists()  # said before anything slow


def test_an_output_folder_that_cannot_be_written_is_said_at_once(tmp_path, random_policy):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"can't be written .* choose another with output=FOLDER"):
        train.run(settings(tmp_path / "file/run", random_policy))


@pytest.mark.parametrize("entry", ["train", "calibrate", "export"])
def test_where_hydra_could_not_make_the_folder_of_a_run_it_is_not_asked_to(entry, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    folder = f"{tmp_path}/file/run"
    words = ["experiment=smoke", f"hydra.run.dir={folder}"] if entry == "train" else [f"output={folder}"]
    monkeypatch.setattr(sys, "argv", [entry, *words])
    with pytest.raises(SystemExit, match=r"^focus: the output folder .*/file/run can't be written .* choose another with output=FOLDER$"):
        prepare(entry)


def test_a_policy_folder_without_a_policy_is_said_at_once(tmp_path):
    with pytest.raises(ValueError, match=r"lacks config\.json"):
        train.run(settings(tmp_path / "run", tmp_path))


# ------------------------------------------------------------------------------------------------------ calibration (E2)


def test_calibration_writes_a_table_and_a_picture_and_a_second_start_finds_them(tmp_path, random_policy, capsys):
    overrides = (
        "data.scenes=5",
        "data.side_px=224",
        "questions_per_forward=2",
        "tokens_per_turn=6",
        "threads=1",
        "calibration.require_correct_at_native=false",
        "calibration.never_diverges=floor",
    )
    cfg = settings(tmp_path / "levels", random_policy, *overrides, name="calibrate")
    calibrate.run(cfg)
    table = tmp_path / "levels/levels.parquet"
    levels = read_levels(table)
    assert len(levels) == 5 and set(levels.values()) <= {32, 16}
    assert levels_identity(table) and (tmp_path / "levels/levels.png").stat().st_size > 1000
    calibrate.run(cfg)
    assert "exists already" in capsys.readouterr().out
    trained = settings(tmp_path / "run", random_policy, "gap=calibrated", f"gap.table={table}", "evaluation.samples=0", "data.scenes=9")
    train.run(trained)
    write_levels(table, dict.fromkeys(levels, 64), "another calibration")
    with pytest.raises(ValueError, match=r"run on other training questions: .* gap\.table or a file of prompts has changed since"):
        train.run(trained)


def test_a_run_whose_file_of_prompts_was_edited_is_not_continued(tmp_path, random_policy):
    texts = {key: getattr(read_dialect("tiny"), key) for key in Texts.model_fields}
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps(texts | {"before": "Q: "}))
    cfg = settings(tmp_path / "run", random_policy, f"policy.prompts={path}", "evaluation.samples=0", "data.scenes=9")
    train.run(cfg)
    train.run(cfg)  # finished: its result is shown again
    path.write_text(json.dumps(texts | {"before": "Question: "}))
    with pytest.raises(ValueError, match=r"or a file of prompts has changed since"):
        train.run(cfg)


def test_an_interrupted_calibration_goes_on_where_it_stopped(tmp_path, random_policy, monkeypatch):
    overrides = (
        "data.scenes=6",
        "data.side_px=224",
        "questions_per_forward=2",
        "tokens_per_turn=6",
        "threads=1",
        "calibration.require_correct_at_native=false",
        "calibration.never_diverges=floor",
    )
    asked = []
    choose = calibrate.choose

    def choose_until(limit):
        def chosen(policy_model, engine, samples, *rest):
            if len(asked) >= limit:
                raise KeyboardInterrupt
            asked.append([s.id for s in samples])
            return choose(policy_model, engine, samples, *rest)

        return chosen

    cfg = settings(tmp_path / "stopped", random_policy, *overrides, name="calibrate")
    monkeypatch.setattr(calibrate, "choose", choose_until(2))
    with pytest.raises(KeyboardInterrupt):
        calibrate.run(cfg)
    assert not (tmp_path / "stopped/levels.parquet").exists()
    monkeypatch.setattr(calibrate, "choose", choose_until(99))
    calibrate.run(cfg)
    assert [len(chunk) for chunk in asked] == [2, 2, 2] and len({i for chunk in asked for i in chunk}) == 6
    calibrate.run(settings(tmp_path / "straight", random_policy, *overrides, name="calibrate"))
    assert read_levels(tmp_path / "stopped/levels.parquet") == read_levels(tmp_path / "straight/levels.parquet")
