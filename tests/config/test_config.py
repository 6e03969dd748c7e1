"""A misspelt key is found before a model loads, every overlay composes, and every key is explained."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from focus.build import load_policy
from focus.config import CONF, ConfigError, cautions, problems_of, start, validated
from focus.config.command_line import readable
from focus.config.identity import learned_settings, refuse_other_run
from focus.config.schema import AuditConfig, CalibrateConfig, EvaluateConfig, ProbeConfig, TrainConfig
from focus.config.validate import plain
from focus.model.dialect import Texts, read_dialect
from focus.report.sweep import launched as points_of_sweep
from tests.support.runs import PAPER, composed

EXPERIMENTS = sorted({path.stem for path in (CONF / "experiment").glob("*.yaml")} - {*PAPER})


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_and_passes_the_cross_key_checks(experiment, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where no run has left anything
    cfg = composed(f"experiment={experiment}")
    expected = ["where no policy lies yet; make stage1"] if cfg.policy.checkpoint == "outputs/stage1/policy" else []
    expected += ["--multirun experiment=conflict leaves it there"] if cfg.policy.checkpoint.startswith("outputs/conflict/") else []
    made_first = ("outputs/claims", "outputs/base_pages", "outputs/base_relations")
    expected += ["where no policy lies yet"] if cfg.policy.checkpoint.startswith(made_first) else []
    expected += ["gap.mode is calibrated"] if experiment.endswith("_calibrated") else []  # its table is made first
    found = problems_of(cfg, TrainConfig)
    assert len(found) == len(expected) and all(text in problem for text, problem in zip(expected, found, strict=True))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_value_that_a_sweep_goes_through_is_one_that_settings_take(experiment):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        swept = compose("train", [f"experiment={experiment}"], return_hydra_config=True).hydra.sweeper.params or {}
    unswept = problems_of(composed(f"experiment={experiment}"), TrainConfig) if swept else []
    for key, values in swept.items():
        for value in ["0", "4"] if "range" in str(values) else str(values).split(","):
            cfg = composed(f"experiment={experiment}", f"{key}={value}")
            assert len(problems_of(cfg, TrainConfig)) == len(unswept), (key, value)


@pytest.mark.parametrize("group", ["policy", "data", "gap", "rollout", "reward", "evaluation", "trainer", "logger"])
def test_every_choice_of_every_group_composes(group):
    for choice in (CONF / group).glob("*.yaml"):
        composed("experiment=smoke", f"{group}={choice.stem}")


@pytest.mark.parametrize("command", sorted(path.stem for path in CONF.glob("*.yaml")))
def test_no_setting_has_the_name_of_a_group(command):
    """Hydra would take its value for the name of a file of that group."""
    written = yaml.safe_load((CONF / f"{command}.yaml").read_text())
    assert not [key for key, value in written.items() if (CONF / key).is_dir() and not isinstance(value, dict)]


def entry(*arguments: str, module: str = "train") -> str:
    done = subprocess.run(
        [sys.executable, "-m", f"focus.{module}", *arguments], capture_output=True, text=True, cwd=CONF.parent, timeout=600
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.processes
def test_an_unknown_key_fails_with_the_list_of_what_exists():
    said = entry("experiment=smoke", "gap.view_token=3")
    assert "gap.view_token is no setting. Did you mean view_tokens? There are: mode, view_tokens, table" in said


@pytest.mark.processes
def test_an_unknown_experiment_fails_with_the_list_of_what_exists():
    said = entry("experiment=stage9")
    assert all(experiment in said for experiment in EXPERIMENTS)


@pytest.mark.processes
def test_a_value_of_the_wrong_type_is_named():
    assert "gap.view_tokens" in entry("experiment=smoke", "gap.view_tokens=many")


def test_added_typos_and_all_other_problems_are_reported_together():
    cfg = composed(
        "experiment=smoke",
        "+gap.foo=1",
        "+reward.terms.accuracy.wieght=1",
        "reward.terms.tool.gate=acc",
        "gap.view_tokens=0",
        "rollout.temperature=0",
        "policy.dialect=klingon",
    )
    with pytest.raises(ConfigError) as error:
        validated(cfg, TrainConfig)
    for part in (
        "gap.foo is no setting. There are: mode",
        "Accuracy takes weight, gate",
        "gate is 'acc', which is no term",
        "gap.view_tokens is 0",
        "rollout.temperature is 0",
        "policy.dialect is 'klingon'",
    ):
        assert part in str(error.value), part


def test_a_forced_first_call_is_no_setting_of_a_probe_or_an_evaluation_but_of_training_and_an_audit():
    forced = "rollout.force_first_crop=true"
    for name, schema in (("probe", ProbeConfig), ("evaluate", EvaluateConfig)):
        [problem] = problems_of(composed(forced, name=name), schema)
        assert "training and make audit follow; a probe and an evaluation have the arm forced" in problem
    assert problems_of(composed("experiment=smoke", forced), TrainConfig) == []
    assert problems_of(composed("policy.checkpoint=embedded", "rollout=kv", forced, name="audit"), AuditConfig) == []


def test_a_file_of_prompts_is_checked_before_anything_is_loaded(tmp_path):
    path = tmp_path / "prompts.json"
    path.write_text('{"system": "Look.", "sytem": ""}')
    [problem] = problems_of(composed("experiment=smoke", f"policy.prompts={path}"), TrainConfig)
    assert "sytem is no key" in problem and "crop_reply is missing" in problem
    texts = {key: getattr(read_dialect("deepeyes"), key) for key in Texts.model_fields}
    path.write_text(json.dumps(texts | {"system_without_tool": None}))
    asked = ("policy.dialect=deepeyes", f"policy.prompts={path}", "evaluation.arms=[own,no_tool]")
    [problem] = problems_of(composed(*asked, name="probe"), ProbeConfig)
    assert problem == "evaluation.arms names no_tool, but policy.dialect=deepeyes has no prompt without the tool; leave it out"


def test_a_run_without_a_file_of_prompts_is_the_same_run_as_before_there_was_that_setting():
    assert "policy.prompts" not in learned_settings(plain(composed("experiment=stage1")))
    assert learned_settings(plain(composed("experiment=stage1", "policy.prompts=mine.json")))["policy.prompts"] == "mine.json"


def test_every_bad_value_of_a_calibration_is_reported_with_what_exists():
    assert problems_of(composed(name="calibrate"), CalibrateConfig) == []
    cfg = composed(
        "calibration.search=bisektion",
        "calibration.decoding=greed",
        "calibration.never_diverges=keep",
        "calibration.audit=-1",
        "calibration.votes=0",
        "calibration.floor_tokens=0",
        "calibration.agree_below=0",
        "questions_per_forward=0",
        "tokens_per_turn=0",
        "data.difficulty=9",
        name="calibrate",
    )
    with pytest.raises(ConfigError) as error:
        validated(cfg, CalibrateConfig)
    for part in (
        "calibration.search is 'bisektion'; choose ladder, exhaustive or bisection. Did you mean bisection?",
        "calibration.decoding is 'greed'; choose greedy or vote. Did you mean greedy?",
        "calibration.never_diverges is 'keep'; choose drop or floor",
        "calibration.audit is -1; use at least 0",
        "calibration.votes is 0; use at least 1",
        "calibration.floor_tokens is 0; use at least 1",
        "calibration.agree_below is 0; it is a share in (0, 1]",
        "questions_per_forward is 0; use at least 1",
        "tokens_per_turn is 0; use at least 1",
        "data.difficulty is 9; choose 1 to 5",
    ):
        assert part in str(error.value), part
    cold = composed("calibration.decoding=vote", "calibration.vote_temperature=0", name="calibrate")
    assert "calibration.vote_temperature is 0.0; votes drawn at 0 are all equal" in problems_of(cold, CalibrateConfig)[0]


def test_a_reward_term_of_ones_own_joins_by_its_target():
    cfg = composed("experiment=smoke", "+reward.terms.mine={_target_: tests.support.updates.Parity, weight: 0.5}")
    assert problems_of(cfg, TrainConfig) == []
    bad = composed("experiment=smoke", "+reward.terms.mine={_target_: tests.support.updates.Pairity, weight: 0.5}")
    assert "tests.support.updates.Pairity, which can't be imported" in problems_of(bad, TrainConfig)[0]


def test_no_key_speaks_of_batches():
    def keys(tree):
        for key, value in tree.items():
            yield str(key)
            if isinstance(value, dict):
                yield from keys(value)

    cfg = composed("experiment=smoke")
    assert not [key for key in keys(OmegaConf.to_container(cfg)) if "batch" in key]


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONF)))
def test_every_file_opens_with_what_it_is_and_every_key_of_a_group_is_explained(path: Path):
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ")
    yaml.safe_load(path.read_text())
    if path.parent.name not in ("policy", "rollout", "evaluation", "data") and path.name != "run.yaml":
        return
    for before, line in pairwise(lines):
        if line and not line.startswith(("#", " ", "defaults")):
            assert before.startswith("# ") or "defaults: [scenes]" in lines, f"{path.name}: {line} has no comment above it"


def test_a_sweep_composes_its_points_and_its_launchers():
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        local = compose("train", ["experiment=gap_sweep"], return_hydra_config=True)
        slurm = compose("train", ["experiment=gap_sweep", "hydra/launcher=slurm"], return_hydra_config=True)
    assert local.hydra.launcher._target_.endswith("JoblibLauncher") and local.hydra.launcher.n_jobs == 2
    assert slurm.hydra.launcher._target_.endswith("SlurmLauncher")
    assert set(local.hydra.sweeper.params) == {"gap.view_tokens", "seed"}


def test_the_policy_section_says_what_learns_and_what_is_recomputed():
    cfg = composed("experiment=smoke", "policy.train_vision=false", "policy.activation_checkpointing=true", "policy.lora_rank=4")
    loaded = load_policy(cfg.policy)
    learns = {name for name, p in loaded.model.named_parameters() if p.requires_grad}
    assert learns and all("lora_" in name for name in learns)
    assert loaded.backbone.language_model.gradient_checkpointing
    assert not load_policy(composed("experiment=smoke").policy).backbone.language_model.gradient_checkpointing


class Other:
    def __init__(self, **settings): ...


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("reward.terms.grounding.omega=2", "reward.terms.grounding can't be constructed: omega of the grounding reward is 2; it must be"),
        ("reward.terms.grounding.tau=1", "reward.terms.grounding can't be constructed: tau of the grounding reward is 1; it must be"),
        ("reward.terms.information_gain.placebos=-1", "the information gain has placebos=-1 and every=20; both are whole numbers, 0 or"),
        ("reward.terms.information_gain.placebos=0.5", "the information gain has placebos=0.5 and every=20; both are whole numbers, 0"),
        ("reward.terms.information_gain.every=-1", "the information gain has placebos=1 and every=-1; both are whole numbers, 0 or more"),
        ("reward.terms.information_gain.reader=3", "the reader is 3; name a folder, a hub name, embedded, start or policy, or write null"),
        ("reward.terms.tool.weight=abc", "reward.terms.tool.weight is 'abc'; write a number, 0 to look at the term without paying it"),
        ("reward.terms.tool.weight=null", "reward.terms.tool.weight is null; write a number"),
        ("reward.terms.tool.weight=true", "reward.terms.tool.weight is true; write a number"),
        ("reward.terms.tool.weight=inf", "reward.terms.tool.weight is inf; write a finite number"),
        ("reward.terms.tool._target_=tests.config.test_config.Other", "Other, which is no reward term; name a subclass of focus.rewards.R"),
        ("alarms.window=0", "window of CollapseAlarms is 0; it must be a whole number of updates, at least 1"),
    ],
)
def test_what_a_term_or_the_alarms_refuse_is_a_problem_of_the_settings(given, said):
    [problem] = problems_of(composed("experiment=smoke", "reward=stage2", given), TrainConfig)
    assert said in problem


@pytest.mark.parametrize("key", ["data.records", "data.annotations", "evaluation.records"])
def test_a_folder_in_place_of_a_file_is_called_a_folder(key, tmp_path):
    problems = problems_of(composed("experiment=smoke", f"{key}={tmp_path}"), TrainConfig)
    assert f"{key} is {tmp_path}, which is a folder; " in "".join(problems)


@pytest.mark.parametrize("key", ["data.records", "policy.checkpoint", "gap.mode=calibrated gap.table", "evaluation.records"])
def test_a_name_that_no_file_can_have_is_a_file_that_does_not_exist(key):
    problems = problems_of(composed("experiment=smoke", *f"{key}=/{'x' * 300}".split()), TrainConfig)
    assert any(key.split()[-1] in each and ("not exist" in each or "not a folder" in each) for each in problems)


def test_a_file_whose_name_has_another_unicode_form_or_case_is_named(tmp_path):
    (tmp_path / "cafe\u0301.JSONL").touch()
    [problem] = problems_of(composed("experiment=smoke", f"data.records='{tmp_path}/caf\u00e9.jsonl'"), TrainConfig)
    assert problem.endswith(
        "which does not exist; 'cafe\\u0301.JSONL' is there, the same name in another case or Unicode form: give that one"
    )


def test_a_seed_below_zero_is_refused_before_anything_loads():
    assert problems_of(composed("experiment=smoke", "seed=-1"), TrainConfig) == ["seed is -1; use a whole number from 0 on"]


def test_weights_that_learn_in_sixteen_bits_are_warned_of_with_the_remedy():
    [caution] = cautions(validated(composed("experiment=stage1", "policy.dtype=bfloat16"), TrainConfig))
    assert "policy.dtype is bfloat16 and all weights learn" in caution
    assert "policy.dtype=float32" in caution and "trainer.precision=bf16-mixed, or trainer=fsdp" in caution
    for change in ("policy.dtype=float32", "trainer.precision=bf16-mixed", "policy.dtype=bfloat16 policy.lora_rank=8"):
        assert cautions(validated(composed("experiment=stage1", *change.split()), TrainConfig)) == []


def test_more_processes_than_cores_and_processes_that_can_not_share_the_questions_are_told(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    [caution] = cautions(validated(composed("experiment=stage1", "trainer.devices=8"), TrainConfig))
    assert "trainer.devices is 8, but this process may use 2 CPU cores: 8 processes" in caution and "trainer.devices=2 or fewer" in caution
    assert cautions(validated(composed("experiment=stage1", "trainer.devices=2"), TrainConfig)) == []
    with pytest.raises(ConfigError, match=r"rollout\.questions_per_update is 8, which 3000 devices can't share evenly; choose a multiple"):
        validated(composed("experiment=stage1", "trainer.devices=3000"), TrainConfig)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("key", ["objective.learning_rate", "rollout.temperature", "reward.terms.accuracy.weight"])
def test_a_setting_that_is_nan_or_infinite_is_refused_once_by_its_name(key, value):
    problems = problems_of(composed("experiment=stage1", f"{key}={value}"), TrainConfig)
    assert [each for each in problems if each.startswith(key)] == [f"{key} is {value}; write a finite number"]


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "16-mixed", "64-true", "transformer-engine"])
def test_a_precision_that_an_update_can_not_be_made_in_is_refused_before_anything_loads(precision):
    [said] = problems_of(composed("experiment=stage1", f"trainer.precision={precision}"), TrainConfig)
    assert said.startswith(f"trainer.precision is {precision}; choose 32-true, or bf16-mixed")


def test_only_accuracy_can_teach_where_it_is_a_term():
    assert "choose all or accuracy" in problems_of(composed("experiment=stage1", "objective.teach_groups=acuracy"), TrainConfig)[0]
    without = ("~reward.terms.accuracy", "~reward.terms.tool")  # the second one has the first for its gate
    [problem] = problems_of(composed("experiment=stage1", "objective.teach_groups=accuracy", *without), TrainConfig)
    assert "reward.terms has no term of that name" in problem


NAMES = ["with space", "josé", "数据", "vstar (1)", "a,b", "a&b", "a=b", "[x]", "#1", "it's", "a\\'b", "end\\", '"quoted"', "a;b!", "{x}"]


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_of_any_name_is_given_as_it_is(name):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        for folder in (f"/data/{name}", f"{name}/vstar" if name[0] not in '[{"' else "x"):
            assert compose("inspect", [readable(f"data.root={folder}")]).data.root == folder


@settings(deadline=None, database=None)
@given(st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="$"), min_size=1, max_size=12))
def test_any_path_is_read_as_it_is(name):
    [parsed] = OverridesParser.create().parse_overrides([readable(f"data.root=/x/{name}/y")])
    assert parsed.value() == f"/x/{name}/y"


def test_what_hydra_can_read_and_what_it_sweeps_over_is_left_to_it():
    for word in ("seed=1", "views=[1,2]", "data.root='/a b'", "a=range(1,3)", "seed=1,2", "+a={b:1}"):
        assert readable(word) == word
    assert readable("data.root=/a,/b", sweep=True) == "data.root=/a,/b"
    for word, sweep in (("views=[1,ö]", False), ("data.root=/é,/b", True), ("data.root='/é", False)):
        with pytest.raises(SystemExit, match="into quotes twice"):
            readable(word, sweep)


@pytest.mark.parametrize("place", ["judge", "rollout.endpoint"])
def test_extra_takes_any_key_without_a_plus(place):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        words = [f"{place}.extra={{mm:{{min_pixels:784}},max_tokens:null}}", f"{place}.extra.top_k=1"]
        cfg = compose("evaluate", ["rollout=openai", *(readable(word) for word in words)])
    assert OmegaConf.select(cfg, place).extra == {"mm": {"min_pixels": 784}, "max_tokens": None, "top_k": 1}


def test_a_folder_of_somebody_else_is_compared_without_looking_anything_up(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "sk-secret")
    cfg = composed("experiment=smoke")
    OmegaConf.save(OmegaConf.merge(cfg, {"seed": 0}), tmp_path / "settings.yaml", resolve=True)
    kept = (tmp_path / "settings.yaml").read_text()
    (tmp_path / "settings.yaml").write_text(kept.replace("seed: 0", "seed: ${oc.env:SOME_KEY}"))
    with pytest.raises(ConfigError, match="seed") as error:
        refuse_other_run(plain(cfg), tmp_path / "settings.yaml", finished=True)
    assert "sk-secret" not in str(error.value)


# ---------------------------------------------------------------------------------------------------- the trainer and its launcher


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("+trainer.max_epochs=3", "trainer.max_epochs can't be set: objective.updates is the length of a run"),
        ("+trainer.logger=false", "trainer.logger can't be set: choose logger=csv"),
        ("+trainer.log_every_n_steps=50", "trainer.log_every_n_steps can't be set: every update is logged"),
        ("+trainer.gradient_clip_val=1", "trainer.gradient_clip_val can't be set: use objective.grad_clip"),
        ("+trainer.fast_dev_run=true", "trainer.fast_dev_run can't be set: make smoke tries everything"),
        ("+trainer.val_check_interval=1", "trainer.val_check_interval can't be set; of Lightning's trainer there are accelerator, devices"),
        ("+trainer.devcies=1", "trainer.devcies can't be set; of Lightning's trainer there are accelerator, devices"),
        ("trainer.strategy=ddp_spawn", "trainer.strategy is 'ddp_spawn'; choose auto or ddp, or trainer=fsdp or trainer=deepspeed"),
        ("trainer.strategy=ddp_fork", "trainer.strategy is 'ddp_fork'"),
        ("trainer.strategy=ddp_notebook", "trainer.strategy is 'ddp_notebook'"),
        ("trainer.devices=zero", "trainer.devices is 'zero'; give their number (1 or more)"),
        ("trainer.devices=0", "trainer.devices is 0; give their number (1 or more)"),
        ("trainer.devices=-3", "trainer.devices is -3; give their number (1 or more)"),
        ("trainer.num_nodes=two", "trainer.num_nodes is 'two'; give a whole number from 1 on"),
        ("trainer.num_nodes=0", "trainer.num_nodes is 0; give a whole number from 1 on"),
        ("+trainer.callbacks={_target_: a.B}", "trainer.callbacks is no list"),
        ("+trainer.callbacks=[{_target_: nothing.There}]", "trainer.callbacks[0]._target_ is nothing.There, which can't be imported"),
    ],
)
def test_a_trainer_setting_that_would_be_dropped_or_can_not_work_is_refused_in_one_sentence(setting, said):
    problems = problems_of(composed("experiment=smoke", setting), TrainConfig)
    assert len(problems) == 1 and problems[0].startswith(said), problems


@pytest.mark.parametrize(
    "setting", ["+trainer.callbacks=[{_target_: pytorch_lightning.callbacks.LearningRateMonitor}]", "+trainer.enable_progress_bar=false",
                "+trainer.max_time='01:00:00:00'", "+trainer.limit_train_batches=2", "trainer.strategy=ddp", "+trainer.deterministic=true",
                "trainer.devices=[0,1]", "trainer.devices='0,1'", "trainer.devices=-1", "trainer.devices=auto", "trainer.num_nodes=2"]
)  # fmt: skip
def test_a_trainer_setting_that_is_honoured_is_taken(setting):
    assert problems_of(composed("experiment=smoke", setting), TrainConfig) == []


SLURM = {"SLURM_JOB_NAME": "train", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "1"}


@pytest.mark.parametrize(
    ("environment", "devices", "nodes", "said"),
    [
        (SLURM | {"SLURM_NTASKS": "1"}, 8, 1, "Slurm started 1 process for this run, but trainer.devices x trainer.num_nodes is 8 x 1"),
        (SLURM | {"SLURM_NTASKS": "8"}, 1, 1, "Slurm started 8 processes for this run, but .* is 1 x 1; .*--ntasks-per-node=1"),
        (SLURM | {"SLURM_NTASKS": "16"}, 8, 2, None),
        (SLURM | {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "interactive"}, 8, 1, None),
        (TORCHRUN | {"WORLD_SIZE": "2"}, 1, 1, "torchrun started 2 processes for this run, but .* is 1 x 1; .*--nproc_per_node=1"),
        (TORCHRUN | {"WORLD_SIZE": "2"}, "'0,1'", 1, None),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, 2, 1, "mpirun started 2 processes, which find each other by the package mpi4py alone"),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, 2, 1, None),
        ({}, 8, 2, None),
    ],
)
def test_a_launcher_that_started_another_number_of_processes_is_refused_before_a_model_loads(
    environment, devices, nodes, said, monkeypatch
):
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    cfg = composed("experiment=smoke", "rollout.questions_per_update=16", f"trainer.devices={devices}", f"trainer.num_nodes={nodes}")
    if said is None:
        validated(cfg, TrainConfig)
    else:
        with pytest.raises(ConfigError, match=said):
            validated(cfg, TrainConfig)


@pytest.mark.parametrize("trainer", ["ddp", "fsdp"])
def test_eight_gpus_in_a_batch_script_of_one_task_are_refused_before_a_model_loads(trainer, monkeypatch):
    for key, value in (SLURM | {"SLURM_NTASKS": "1"}).items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    said = "Slurm started 1 process for this run, but .* is 8 x 1; .* ask for --nodes=1 --ntasks-per-node=8, or, to have one task start"
    with pytest.raises(ConfigError, match=said):
        validated(composed("experiment=smoke", f"trainer={trainer}", "trainer.devices=8"), TrainConfig)


def test_entries_of_one_process_are_refused_where_several_were_started(monkeypatch):
    for key, value in (SLURM | {"SLURM_NTASKS": "2"}).items():
        monkeypatch.setenv(key, value)
    with pytest.raises(ConfigError, match=r"Slurm started 2 processes, but probe is one; start it once \(srun --ntasks=1\)"):
        validated(composed(name="probe"), ProbeConfig)


# ------------------------------------------------------------------------------------------------------- names of a sweep's folders

LONG = [f"+reward.terms.t{i}={{_target_:focus.rewards.Accuracy,weight:1.0}}" for i in range(6)]


def started(monkeypatch, *words: str) -> list[str]:
    """The command line that Hydra gets."""
    monkeypatch.setattr(sys, "argv", ["train.py", "--multirun", "experiment=smoke", *words])
    start(lambda: None, "train")
    return sys.argv[2:]


def test_a_sweep_whose_folders_would_have_too_long_names_is_named_by_what_is_swept(monkeypatch, tmp_path):
    words = started(monkeypatch, *LONG, "seed=0,1")
    key, _, unnamed = words[-1].partition("=")
    assert key == "hydra.job.config.override_dirname.exclude_keys" and "reward.terms.t0" in unnamed and "seed" not in unnamed
    task = [word for word in words[:-1]]
    record = {"hydra": {"sweeper": {"params": {}}, "overrides": {"task": task},
                        "job": {"config": {"override_dirname": {"exclude_keys": unnamed.strip("[]").split(",")}}}}}  # fmt: skip
    (tmp_path / "multirun.yaml").write_text(yaml.safe_dump(record))
    assert points_of_sweep(tmp_path) == [({"seed": n}, f"seed={n}") for n in "01"]


def test_a_sweep_whose_folders_have_names_that_fit_keeps_them(monkeypatch):
    """Sweeps that were begun before are found again."""
    assert started(monkeypatch, "objective.learning_rate=1e-5", "seed=0,1") == [
        "experiment=smoke",
        "objective.learning_rate=1e-5",
        "seed=0,1",
    ]


def test_swept_values_that_are_too_long_themselves_are_refused_before_any_point_starts(monkeypatch):
    with pytest.raises(SystemExit, match=r"^focus: a point's folder would be named by what is swept, with \d+ bytes; 255 are possible"):
        started(monkeypatch, f"gap.table={'a' * 300},b", "seed=0,1")
