"""From the settings to the questions: every published set by its name, read once, with drawn or derived boxes, refused with a remedy."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from focus import build
from focus.config import CONF, SCHEMAS, ConfigError, problems_of, validated
from focus.config.schema import InspectConfig, ProbeConfig, TrainConfig
from focus.data.readers import SETS, TESTS
from focus.data.sample import Records
from focus.data.source import open_source
from tests.support.published import WRITERS, edit, write_json

ENTRIES = {"train": ("experiment=smoke", "evaluation.samples=0", "output=x"), "probe": (), "inspect": ()}


def composed(entry: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose(entry, [*ENTRIES[entry], *overrides])


@pytest.fixture
def published(tmp_path) -> Callable[..., Path]:
    """The folder of a set as one would download it; `change` alters it."""

    def write(name: str, change: Callable[[Path], object] | None = None) -> Path:
        root = tmp_path / "published" / name
        root.mkdir(parents=True)
        WRITERS[name](root)
        if change:
            change(root)
        return root

    return write


@pytest.fixture
def opened(tmp_path, capsys) -> Callable[..., tuple[Records, str]]:
    """The questions of a set whose folder is `root`, and what was printed about them."""

    def open_(name: str, root: Path | None, records: Path | None = None, **more) -> tuple[Records, str]:
        capsys.readouterr()
        found = open_source(name, str(records) if records else None, str(root) if root else None, tmp_path / "data" / name, **more)
        return found, capsys.readouterr().out

    return open_


# ------------------------------------------------------------------------------------------------- from a name to a set


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("name", SETS)
def test_every_set_is_chosen_by_its_name_wherever_questions_are_read(tmp_path, entry, name):
    cfg = composed(entry, f"data={name}", f"data.root={tmp_path}")
    assert (cfg.data.source, cfg.data.cache_dir) == (name, f"outputs/data/{name}")
    refused = [f"data.source is {name}, which policies are tested on; train on another set"] if entry == "train" and name in TESTS else []
    assert problems_of(cfg, SCHEMAS[entry]) == refused


@pytest.mark.parametrize("name", SETS)
def test_the_file_of_every_set_says_what_it_reads_where_it_is_and_expects_it_in_one_place(name, monkeypatch):
    lines = (CONF / f"data/{name}.yaml").read_text().splitlines()
    said = " ".join(line.removeprefix("# ") for line in lines if line.startswith("# "))
    assert SETS[name].about in said and SETS[name].origin in said and f"make inspect DATA={name}" in said
    monkeypatch.setenv("FOCUS_DATA", "/elsewhere")
    assert composed("inspect", f"data={name}").data.root.startswith("/elsewhere/")


@pytest.mark.parametrize("name", SETS)
def test_every_set_is_opened_through_the_settings(tmp_path, published, name):
    cfg = composed("inspect", f"data={name}", f"data.root={published(name)}", f"data.cache_dir={tmp_path}/data")
    validated(cfg, InspectConfig)
    samples = build.training_samples(cfg.data)
    assert len(samples) > 0 and all(sample.source == name and sample.open().size == sample.size for sample in samples)


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_folder_that_is_not_there_is_one_message_that_names_the_setting_and_what_is_expected(tmp_path, entry):
    with pytest.raises(ConfigError) as error:
        validated(composed(entry, "data=deepeyes4k", f"data.root={tmp_path}/nowhere"), SCHEMAS[entry])
    [line] = [line for line in str(error.value).splitlines() if line.startswith("  - ")]
    assert line.startswith(f"  - data.root is {tmp_path}/nowhere, where the files of deepeyes4k are expected (")
    assert SETS["deepeyes4k"].about in line and "data.root=FOLDER" in line
    assert "size: not stated; licence: CC BY-NC 4.0" in line
    assert f"\n      hf download Mini-o3/DeepEyes_train_4K --repo-type dataset --local-dir {tmp_path}/nowhere\n" in f"{error.value}\n"


@pytest.mark.parametrize("name, origin, commands", [
    ("hrbench4k", "Hub: DreamMr/HR-Bench; size: 0.43 GB; licence: other (the LICENSE file is empty)",
     ["hf download DreamMr/HR-Bench hr_bench_4k.parquet --repo-type dataset --local-dir 'my sets'"]),
    ("visualprobe", "size: 0.8 GB (Medium), 0.3 GB (Hard); licence: CC BY-NC 4.0", [
        f"hf download Mini-o3/VisualProbe_{tier} --repo-type dataset --local-dir 'my sets/VisualProbe_{tier}'"
        for tier in ("Easy", "Medium", "Hard")
    ]),
    ("docvqa", "size: not stated; licence: not stated",
     ["hf download lmms-lab-encoder/DocVQA --include 'DocVQA/validation-*' --repo-type dataset --local-dir 'my sets'"]),
    ("visualneedle", "Hub: no name known; files: https://visualneedle2-1311238981.cos.ap-guangzhou.myqcloud.com/", []),
])  # fmt: skip
def test_every_download_is_one_command_a_line_that_can_be_copied(name, origin, commands):
    first, *lines = SETS[name].download(Path("my sets")).splitlines()
    assert origin in first and "Put the files into my sets" in first and [line.strip() for line in lines] == commands


@pytest.mark.parametrize("name", SETS)
def test_a_folder_without_the_files_is_told_with_the_folder_and_the_files(tmp_path, opened, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError) as error:
        opened(name, tmp_path / "empty")
    assert SETS[name].download(tmp_path / "empty") in str(error.value)
    assert str(tmp_path / "empty") in str(error.value) and any(kind in str(error.value) for kind in (".json", ".parquet", ".tsv"))
    assert not (tmp_path / "data" / name / "records.jsonl").exists()


@pytest.mark.parametrize("wrong, right", [("hrbench4", "hrbench4k"), ("treevgr", "treevgr_rl"), ("vstr", "vstar"), ("zoom", "zoombench")])
def test_a_name_that_nearly_exists_gets_a_suggestion(wrong, right):
    [problem] = problems_of(composed("inspect", f"data.source={wrong}"), InspectConfig)
    assert problem.startswith(f"data.source is '{wrong}'. Did you mean {right}? There are scenes, streets, relations and pages (embedded)")
    assert all(name in problem for name in SETS)


def test_a_name_like_no_other_gets_the_list_alone():
    [problem] = problems_of(composed("inspect", "data.source=imagenet"), InspectConfig)
    assert "Did you mean" not in problem and all(name in problem for name in SETS)


@pytest.mark.parametrize("name", TESTS)
def test_nobody_trains_on_a_test_set(tmp_path, name):
    with pytest.raises(ConfigError, match=f"data.source is {name}, which policies are tested on; train on another set"):
        validated(composed("train", f"data={name}", f"data.root={tmp_path}"), TrainConfig)


def test_training_on_a_published_set_asks_for_questions_to_evaluate_on(tmp_path):
    [problem] = problems_of(composed("train", "data=deepeyes4k", f"data.root={tmp_path}", "evaluation.samples=8"), TrainConfig)
    assert "set evaluation.records" in problem and "evaluation.samples=0" in problem


# ---------------------------------------------------------------------------------------------------------- read once


def test_the_number_of_questions_is_said_beside_the_published_one(published, opened):
    samples, said = opened("vstar", published("vstar"))
    assert len(samples) == 3
    assert said.splitlines()[-1] == "vstar: 3 questions; published: 191 rows: 115 direct_attributes, 76 relative_position"


def test_a_second_load_reads_the_published_files_no_more_and_says_the_same(published, opened, monkeypatch):
    root = published("vstar", lambda root: edit(root / "test_questions.jsonl", lambda rows: rows[1].update(label="Z")))
    samples, said = opened("vstar", root)
    monkeypatch.setitem(SETS, "vstar", replace(SETS["vstar"], rows=lambda root: pytest.fail("read again")))
    again, said_again = opened("vstar", root)
    assert said_again.strip() == said.strip() and list(again) == list(samples)


def test_a_published_file_that_changed_is_read_again(published, opened):
    root = published("vstar")
    opened("vstar", root)
    edit(root / "test_questions.jsonl", lambda rows: rows.pop())
    samples, said = opened("vstar", root)
    assert len(samples) == 2 and "vstar: 2 questions" in said


def test_a_broken_row_costs_itself_and_is_said_with_file_row_and_key(published, opened):
    root = published("vstar", lambda root: edit(root / "test_questions.jsonl", lambda rows: rows[1].update(label="Z")))
    samples, said = opened("vstar", root)
    assert [sample.id for sample in samples] == ["vstar/test/0", "vstar/test/2"]
    [line] = [line for line in said.splitlines() if "dropped" in line]
    assert line.startswith("vstar: 1 row dropped: its answer is none of its options (first: ")
    assert "test_questions.jsonl, row 2, label: 'Z'" in line


def test_a_broken_image_costs_its_row_and_is_said(published, opened):
    root = published("treevgr_rl", lambda root: (root / "images/1.jpg").write_bytes(b"no image"))
    samples, said = opened("treevgr_rl", root)
    assert len(samples) == 2 and "treevgr_rl: 1 row dropped: its image can't be used, for the reason given below" in said
    assert "vstar30k_visdrone6k_x1y1x2y2.parquet, row 2" in said


def test_a_set_of_which_no_row_is_left_is_refused_with_the_reasons(published, opened):
    root = published("treevgr_rl", lambda root: shutil.rmtree(root / "images"))
    with pytest.raises(ValueError, match=r"no usable row of treevgr_rl \(3 dropped\): 3 x its image file does not exist"):
        opened("treevgr_rl", root)


# ----------------------------------------------------------------------------------------------- records of a set read before


@pytest.mark.parametrize("name", ["vstar", "treebench"])  # images beside the table, images inside it
def test_records_that_a_reader_wrote_find_their_images_wherever_those_lie(tmp_path, published, opened, name):
    opened(name, published(name))
    samples, _ = opened("records", None, tmp_path / "data" / name / "records.jsonl")
    assert len(samples) == 3 and all(sample.source == name and sample.open().size == sample.size for sample in samples)


def test_such_records_are_questions_to_evaluate_on(tmp_path, published, opened):
    opened("vstar", published("vstar"))
    overrides = (f"evaluation.records={tmp_path}/data/vstar/records.jsonl", "evaluation.samples=2")
    cfg = composed("train", *overrides)
    validated(cfg, TrainConfig)
    samples = build.held_out_samples(cfg)
    assert [sample.id for sample in samples] == ["vstar/test/0", "vstar/test/1"] and samples[0].open().size == (2000, 1500)


def test_they_are_so_too_beside_a_training_set_that_lies_in_another_folder(tmp_path, published, opened):
    opened("vstar", published("vstar"))
    overrides = (f"evaluation.records={tmp_path}/data/vstar/records.jsonl", "evaluation.samples=2")
    cfg = composed("train", "data=deepeyes4k", f"data.root={published('deepeyes4k')}", *overrides)
    validated(cfg, TrainConfig)
    assert build.held_out_samples(cfg)[0].open().size == (2000, 1500)


def test_a_probe_reads_the_set_itself(tmp_path, published):
    cfg = composed("probe", "data=vstar", f"data.root={published('vstar')}", f"data.cache_dir={tmp_path}/data", "evaluation.samples=2")
    validated(cfg, ProbeConfig)
    assert [sample.id for sample in build.held_out_samples(cfg)] == ["vstar/test/0", "vstar/test/1"]


def test_records_say_what_was_dropped_of_them(tmp_path, published, opened):
    opened("vstar", published("vstar"))
    records = tmp_path / "data/vstar/records.jsonl"
    edit(records, lambda rows: rows[0].update(answers=["F"]))
    samples, said = opened("records", None, records)
    assert len(samples) == 2
    assert said.strip().endswith("1 record dropped: its first answer is not the key of one of its options (first: vstar/test/0)")


# ---------------------------------------------------------------------------------------------------- boxes that people drew


def label_studio(path: Path, *tasks: tuple[str, str, dict[str, tuple[float, float, float, float]]]) -> Path:
    """An export of Label Studio: for each task an image, a question's id and its boxes (xyxy px of 100 x 80) by their level."""
    exported = []
    for number, (image, question_id, boxes) in enumerate(tasks, start=1):
        results = [
            {
                "id": f"{number}-{label}",
                "type": "rectanglelabels",
                "from_name": "label",
                "to_name": "image",
                "original_width": 100,
                "original_height": 80,
                "image_rotation": 0,
                "value": {
                    "x": x1,  # percent of 100 px
                    "y": y1 / 0.8,
                    "width": x2 - x1,
                    "height": (y2 - y1) / 0.8,
                    "rotation": 0,
                    "rectanglelabels": [label],
                },
            }
            for label, (x1, y1, x2, y2) in boxes.items()
        ]
        annotation = {"id": 10 * number, "was_cancelled": False, "ground_truth": False, "result": results}
        exported.append({"id": number, "data": {"image": image, "question_id": question_id}, "annotations": [annotation]})
    write_json(path, exported)
    return path


NESTED = {"B2": (20, 16, 60, 48), "B1": (30, 24, 40, 32), "B3": (10, 8, 90, 72)}
CHAIN = ((30, 24, 40, 32), (20, 16, 60, 48), (10, 8, 90, 72))


def test_drawn_boxes_join_the_questions_and_those_without_are_left_out(tmp_path, published, opened):
    export = label_studio(tmp_path / "boxes.json", ("/data/upload/1/ab-0.jpg", "doc_0", NESTED))
    samples, said = opened("visualprobe_train", published("visualprobe_train"), annotations=str(export))
    assert [sample.id for sample in samples] == ["visualprobe_train/train/doc_0"]
    [chain] = samples[0].boxes
    assert [pytest.approx(box) for box in chain] == list(CHAIN)
    assert samples[0].open().size == (100, 80)
    assert f"{export}: 1 questions annotated (1 nested by level); 1 without boxes are left out" in said


def test_what_is_wrong_with_an_export_is_counted_and_said(tmp_path, published, opened):
    apart = {"B1": (30, 24, 40, 32), "B2": (60, 60, 90, 80)}
    export = label_studio(tmp_path / "boxes.json", ("0.jpg", "doc_0", NESTED), ("1.jpg", "doc_1", apart), ("1.jpg", "doc_9", NESTED))
    samples, said = opened("visualprobe_train", published("visualprobe_train"), annotations=str(export))
    assert len(samples) == 1
    assert "1 annotation: a box does not lie inside the next" in said and "boxes.json, task 2" in said
    assert "1 annotation: no record has its question id" in said and "'doc_9'" in said
    repaired, said = opened("visualprobe_train", tmp_path / "published/visualprobe_train", annotations=str(export), repair=True)
    assert len(repaired) == 2 and "replaced by the union of both" in said


def test_an_export_that_is_not_there_or_annotates_nothing_is_refused(tmp_path, published, opened):
    root = published("visualprobe_train")
    with pytest.raises(ValueError, match=r"data.annotations is .*none\.json, which does not exist; give an export of Label Studio"):
        opened("visualprobe_train", root, annotations=str(tmp_path / "none.json"))
    export = label_studio(tmp_path / "boxes.json", ("0.jpg", "doc_9", NESTED))
    with pytest.raises(ValueError, match="annotates none of the 2 records"):
        opened("visualprobe_train", root, annotations=str(export))


def test_drawn_boxes_are_the_road_to_stage_2(tmp_path, published):
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy/config.json").write_text("{}")
    export = label_studio(tmp_path / "boxes.json", ("0.jpg", "doc_0", NESTED), ("1.jpg", "doc_1", NESTED))
    settings = ("data=visualprobe_train", f"data.root={published('visualprobe_train')}", f"data.cache_dir={tmp_path}/data")
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        overrides = ["experiment=stage2", *settings, "evaluation.samples=0", f"policy.checkpoint={tmp_path}/policy", "output=x"]
        bare, cfg = compose("train", overrides), compose("train", [*overrides, f"data.annotations={export}"])
    validated(cfg, TrainConfig)
    samples = build.gradable_samples(build.training_samples(cfg.data), build.build_rewards(cfg))
    assert [len(chain) for sample in samples for chain in sample.boxes] == [3, 3]
    with pytest.raises(ValueError, match=r"reward term .* grades crops by annotated boxes, but none of the 2 training questions has one"):
        build.gradable_samples(build.training_samples(bare.data), build.build_rewards(bare))


def test_exports_join_records_of_ones_own(tmp_path, published, opened):
    opened("visualprobe_train", published("visualprobe_train"))
    export = label_studio(tmp_path / "boxes.json", ("0.jpg", "doc_0", NESTED))
    samples, _ = opened("records", None, tmp_path / "data/visualprobe_train/records.jsonl", annotations=str(export))
    assert len(samples) == 1 and len(samples[0].boxes[0]) == 3 and samples[0].open().size == (100, 80)


# ------------------------------------------------------------------------------------------------- boxes that are derived


def test_derived_boxes_are_chains_of_three_and_are_marked(tmp_path, published, opened):
    samples, said = opened("treevgr_rl", published("treevgr_rl"), derive_px=10)
    assert "4 flat boxes grown into chains, the smallest at least 10 px wide and high" in said
    assert [len(chain) for sample in samples for chain in sample.boxes] == [3, 3, 3, 3]
    dog = next(sample for sample in samples if sample.question.startswith("Is the dog"))
    # 20.5 x 30 px at (5, 6): a quarter more is 2.5625 and 3.75 px on each side, twice as much 10.25 and 15, up to the border
    assert dog.boxes[0] == ((5, 6, 25.5, 36), (2.4375, 2.25, 28.0625, 39.75), (0, 0, 35.75, 51))
    lines = [json.loads(line) for line in (tmp_path / "data/treevgr_rl/derived.jsonl").read_text().splitlines()]
    assert {(line["box_origin"], line["box_rule"]) for line in lines} == {("derived", "grown from 10 px")}
    assert [line["box_origin"] for line in map(json.loads, (tmp_path / "data/treevgr_rl/records.jsonl").open())] == ["dataset"] * 3


def test_a_small_box_grows_to_the_least_side(published, opened):
    samples, _ = opened("treevgr_rl", published("treevgr_rl"), derive_px=28)
    van = next(sample for sample in samples if sample.question.startswith("How many vans"))
    assert van.boxes[0][0] == (0, 0, 28, 28)  # 8 x 6 px at (1, 2), slid inside


def test_a_set_without_boxes_has_none_to_derive(published, opened):
    with pytest.raises(ValueError, match=r"has no target with a single box to grow a chain from; leave data\.derive_boxes at 0"):
        opened("deepeyes4k", published("deepeyes4k"), derive_px=28)


def test_drawn_chains_are_not_derived_again(tmp_path, published, opened):
    flat = {"B1": (30, 24, 70, 56)}
    export = label_studio(tmp_path / "boxes.json", ("0.jpg", "doc_0", NESTED), ("1.jpg", "doc_1", flat))
    samples, said = opened("visualprobe_train", published("visualprobe_train"), annotations=str(export), derive_px=28)
    assert "annotated.jsonl: 1 flat boxes grown into chains" in said
    assert [pytest.approx(box) for box in samples[0].boxes[0]] == list(CHAIN) and len(samples[1].boxes[0]) == 3


def test_scenes_are_not_for_annotations_or_derived_boxes(tmp_path):
    records = tmp_path / "records.jsonl"
    records.touch()
    [problem] = problems_of(composed("inspect", "data.derive_boxes=28"), InspectConfig)
    assert problem.startswith("data.source is scenes, whose boxes are exact")
    [problem] = problems_of(composed("inspect", "data=records", f"data.records={records}", "data.derive_boxes=-1"), InspectConfig)
    assert problem.startswith("data.derive_boxes is -1; give the least side")
