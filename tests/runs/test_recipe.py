"""The paper's recipe as overlays: every value it reports stands there with its source, and the whole runs on fixture files."""

import json
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from transformers import AutoModelForImageTextToText

from focus.config import CONF, problems_of
from focus.config.schema import TrainConfig
from focus.data.sample import Sample
from focus.data.source import open_source
from focus.gap import write_levels
from focus.runs import inspect, train
from tests.support import published
from tests.support.policies import random_qwen2_5_vl
from tests.support.protocol import Server, hurry
from tests.support.runs import PAPER

SETS = ("pixelreasoner", "cof_rl", "thinklite")


def composed(experiment: str, *overrides: str, name: str = "train"):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose(name, [f"experiment={experiment}", "output=x", *overrides])


@pytest.fixture(scope="module")
def downloads(tmp_path_factory) -> Path:
    """The three sets of stage 1 as their owners ship them, a few rows each."""
    root = tmp_path_factory.mktemp("published")
    for name in SETS:
        getattr(published, f"write_{name}")(root / name)
    return root


@pytest.mark.parametrize("experiment", PAPER)
def test_a_recipe_composes_and_lacks_nothing_but_files_that_are_made_or_downloaded_first(experiment, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = (
        "gap.mode is calibrated but",
        "data.mix names",
        "data.root is published",
        "data.annotations is",
        "evaluation.records is outputs/data/vstar",
        "no policy lies yet",
        "judge.url is null; serve that model",
        "rollout.engine is vllm, which is not installed here",
    )
    found = problems_of(composed(experiment), TrainConfig)
    assert found and all(any(text in problem for text in first) for problem in found), found


@pytest.mark.parametrize("experiment", PAPER)
def test_a_recipe_names_its_judge_and_asks_for_the_address_of_its_server(experiment, monkeypatch):
    monkeypatch.delenv("FOCUS_JUDGE_URL", raising=False)
    asked = [problem for problem in problems_of(composed(experiment), TrainConfig) if problem.startswith("judge.")]
    assert asked == [
        "judge.model is Qwen/Qwen2.5-72B-Instruct but judge.url is null; serve that model and give its judge.url (http://HOST:PORT/v1), or "
        "grade without a judge: judge.model=null"
    ]
    monkeypatch.setenv("FOCUS_JUDGE_URL", "http://judge:8000/v1")
    cfg = composed(experiment)
    assert cfg.judge.url == "http://judge:8000/v1"
    assert not [problem for problem in problems_of(cfg, TrainConfig) if problem.startswith("judge")]


def test_stage_1_is_what_the_paper_reports():
    cfg = composed("stage1_7b")
    assert (cfg.objective.updates, cfg.rollout.questions_per_update, cfg.rollout.rollouts_per_question) == (80, 256, 16)
    assert (cfg.rollout.tokens_per_turn, cfg.objective.learning_rate) == (2048, 1e-6)
    assert (cfg.gap.view_tokens, cfg.evaluation.common_view_tokens) == (16384, 1024)
    assert (cfg.policy.checkpoint, cfg.gap.mode) == ("Qwen/Qwen2.5-VL-7B-Instruct", "calibrated")
    assert list(cfg.data.mix) == [*SETS]
    assert (cfg.rollout.engine, cfg.rollout.vllm.mode) == ("vllm", "colocated")
    assert set(cfg.reward.terms) == {"accuracy", "format", "tool", "information_gain"} and cfg.reward.terms.information_gain.weight == 0


def test_stage_2_goes_on_from_stage_1_with_the_grounding_reward_and_annotated_questions():
    cfg = composed("stage2_7b")
    assert cfg.policy.checkpoint == "outputs/stage1_7b/policy"
    assert (cfg.reward.terms.grounding.tau, cfg.data.source, cfg.rollout.questions_per_update) == (0.9, "visualprobe_train", 256)
    assert "data.annotations is published/visualprobe_train/boxes.json, which does not exist" in str(problems_of(cfg, TrainConfig))


@pytest.mark.parametrize("experiment", ["stage1_7b", "stage2_7b"])
def test_every_value_of_the_paper_carries_its_source(experiment):
    """The comment above a value, or beside a default, says [paper] or [open]; values about this machine and this tool need none."""
    ours = {
        "name",
        "workers",
        "table",
        "view_tokens",
        "records",
        "samples",
        "arms",
        "questions_per_forward",
        "probe_every",
        "checkpoint_every",
        "url",
        "concurrency",
    }
    ours |= {"annotations", "policy", "data", "gap", "rollout", "objective", "evaluation", "report", "defaults", "judge"}
    ours |= {"reward", "terms", "information_gain"}
    comment = ""
    for line in (CONF / f"experiment/{experiment}.yaml").read_text().splitlines():
        if line.strip().startswith("#"):
            comment = line
        elif (key := re.match(r"\s*(?:- override /)?(\w+):", line)) and key[1] not in ours:
            assert re.search(r"\[(paper|open)\]", line + comment), line
            comment = ""


@pytest.mark.parametrize(
    ("experiment", "devices", "accelerator"),
    [("stage1_7b_lora", 1, "gpu"), ("stage1_7b_lora_2gpu", 2, "gpu"), ("stage2_7b_lora", 1, "gpu")],
)
def test_adapters_fit_on_one_gpu_or_two(experiment, devices, accelerator):
    cfg = composed(experiment)
    assert (cfg.trainer.devices, cfg.trainer.accelerator) == (devices, accelerator)
    assert cfg.policy.lora_rank == 64 and not cfg.policy.train_vision and cfg.policy.dtype == "bfloat16"
    assert cfg.rollout.questions_per_update % devices == 0


def test_a_mix_has_the_questions_of_its_sets_without_their_boxes(downloads, tmp_path, capsys):
    joined = open_source("lfpc_stage1", None, str(downloads), tmp_path / "lfpc_stage1", mix=SETS)
    alone = [open_source(name, None, str(downloads / name), tmp_path / name) for name in SETS]
    assert [sample.id for sample in joined] == [sample.id for part in alone for sample in part]
    assert {sample.id.split("/")[0] for sample in joined} == {*SETS}
    assert not any(sample.boxes for sample in joined)
    for sample, same in zip(joined, (sample for part in alone for sample in part), strict=True):
        assert (sample.question, sample.answers, sample.options, sample.size) == (same.question, same.answers, same.options, same.size)
        assert sample.open().size == same.size


def test_a_mix_is_inspected_like_a_set(downloads, tmp_path, capsys):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        overrides = [
            "data=lfpc_stage1",
            f"data.root={downloads}",
            f"data.cache_dir={tmp_path / 'lfpc_stage1'}",
            f"output={tmp_path / 'out'}",
        ]
        inspect.run(compose("inspect", overrides))
    assert json.loads((tmp_path / "out/inspect.json").read_text())["source"] == "lfpc_stage1"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data.mix=[thinklite,vstar]"], "data.mix names vstar, which policies are tested on"),
        (["data.mix=[thinklit]"], "data.mix names 'thinklit'; choose from"),
        (["data.source=thinklite"], "data.mix joins pixelreasoner, cof_rl, thinklite, but data.source is thinklite"),
        (["data.root=nowhere"], "data.mix names cof_rl, whose files are expected in nowhere/cof_rl"),
    ],
)
def test_a_wrong_mix_is_refused_before_anything_is_read(overrides, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert any(said in problem for problem in problems_of(composed("stage1_7b", *overrides), TrainConfig))


SHRUNK = (
    "trainer=cpu",
    "rollout=kv",  # vLLM is not installed where these tests run
    "objective.updates=2",
    "rollout.questions_per_update=4",
    "rollout.rollouts_per_question=2",
    "rollout.max_crops=1",
    "rollout.tokens_per_turn=8",
    "rollout.crop_tokens=16",
    "evaluation.samples=0",
    "evaluation.records=null",
    "data.workers=0",
    "report.trajectories=1",
    "threads=1",
)


def prepared(folder: Path, samples: Iterable[Sample]) -> list[str]:
    """A tiny policy of the family, and a table of chosen levels in which every question is seen with 16 tokens."""
    random_qwen2_5_vl(seed=5).save(folder / "tiny")
    write_levels(folder / "levels.parquet", {sample.id: 16 for sample in samples}, "made here")
    return [*SHRUNK, f"policy.checkpoint={folder / 'tiny'}", f"gap.table={folder / 'levels.parquet'}", f"output={folder / 'run'}"]


def ran(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "run/history.jsonl").read_text().splitlines()]
    assert [row["update"] for row in rows] == [1, 2]
    assert AutoModelForImageTextToText.from_pretrained(folder / "run/policy").config.model_type == "qwen2_5_vl"


@pytest.fixture
def judge(tmp_path, monkeypatch):
    """The recipe's judge as a server, which finds every answer right; its verdicts are kept below `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    hurry(monkeypatch)
    with Server(lambda request: ("yes", "stop", 1), models=("Qwen/Qwen2.5-72B-Instruct",)) as server:
        monkeypatch.setenv("FOCUS_JUDGE_URL", server.url)
        yield server


@pytest.mark.parametrize("experiment", ["stage1_7b", "stage1_7b_lora"])
def test_stage_1_runs_two_updates_with_a_tiny_checkpoint_of_its_family_on_fixture_files(experiment, downloads, judge, tmp_path):
    there = ["data.root=" + str(downloads), f"data.cache_dir={tmp_path / 'kept/lfpc_stage1'}"]
    samples = open_source("lfpc_stage1", None, str(downloads), tmp_path / "kept/lfpc_stage1", mix=SETS)
    train.run(composed(experiment, *prepared(tmp_path, samples), *there))
    ran(tmp_path)


def test_stage_2_runs_two_updates_on_questions_whose_boxes_were_drawn(judge, tmp_path):
    published.write_visualprobe_train(tmp_path / "published")
    boxes = [
        {"id": n, "image_id": 1, "category_id": 1, "bbox": box, "iscrowd": 0} for n, box in ((1, [20, 20, 20, 20]), (2, [10, 10, 60, 50]))
    ]
    image = {"id": 1, "width": 100, "height": 80, "file_name": "0.jpg"}
    drawn = {"images": [image], "annotations": boxes, "categories": [{"id": 1, "name": "text"}]}
    (tmp_path / "drawn.json").write_text(json.dumps(drawn))
    there = [f"data.root={tmp_path / 'published'}", f"data.cache_dir={tmp_path / 'kept/visualprobe_train'}"]
    annotated = open_source(
        "visualprobe_train", None, str(tmp_path / "published"), tmp_path / "kept/visualprobe_train", str(tmp_path / "drawn.json")
    )
    assert [len(chain) for sample in annotated for chain in sample.boxes] == [2]
    train.run(composed("stage2_7b", *prepared(tmp_path, annotated), *there, f"data.annotations={tmp_path / 'drawn.json'}"))
    ran(tmp_path)
    assert "reward/grounding" in (tmp_path / "run/history.jsonl").read_text()
