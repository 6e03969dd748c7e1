"""Stage 2 end to end on a tiny policy, and what it refuses: a missing stage 1, data without boxes, checkpoints that do not fit."""

import json
import math
import shutil
from pathlib import Path

import pytest

from focus import build
from focus.config import ConfigError
from focus.data.sample import read_records
from focus.model import loading
from focus.runs import export, train
from focus.training.history import read_history
from tests.support.policies import random_qwen2_5_vl
from tests.support.runs import settings, settings_of_export


def history_of(run: Path) -> list[dict[str, float]]:
    return read_history(run / "history.jsonl")


STAGE2 = ("reward=stage2", "rollout.force_first_crop=true", "rollout.tokens_per_turn=40", "data.difficulty=2", "data.letter_px=[9,13]")


def test_stage_2_trains_from_the_given_policy_and_logs_grounding_gain_probe_and_alarms(tmp_path, random_policy):
    cfg = settings(
        tmp_path / "run",
        random_policy,
        *STAGE2,
        "evaluation.probe_every=2",
        "evaluation.probe_samples=2",
        "reward.terms.information_gain.every=2",
    )
    train.run(cfg)
    first, second = history_of(tmp_path / "run")
    assert {"reward/grounding", "reward/information_gain", "probe/D_noise", "probe/U_GT", "alarm/crop_rate"} <= set(first)
    assert first["reward/information_gain"] == first["reward/information_gain"]  # before the first update, then every second
    assert math.isnan(second["reward/information_gain"]) and math.isnan(first["probe/own"]) and not math.isnan(second["probe/own"])
    measured = json.loads((tmp_path / "run/evaluation_trained_t1.json").read_text())["outcomes"]
    assert set(measured) == {"own view", "common view"} and None not in measured["own view"]["values"]["gt"]
    assert (tmp_path / "run/report.html").is_file() and (tmp_path / "run/policy/config.json").is_file()


def test_a_view_that_is_the_common_one_is_measured_once(tmp_path, random_policy):
    train.run(settings(tmp_path / "run", random_policy, "evaluation.common_view_tokens=16", "evaluation.base=false"))
    assert list(json.loads((tmp_path / "run/evaluation_trained_t1.json").read_text())["outcomes"]) == ["own view"]
    assert not (tmp_path / "run/evaluation_base_t1.json").exists()


def test_without_stage_1_stage_2_says_how_to_make_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"outputs/stage1/policy, where no policy lies yet; make stage1 leaves it there"):
        train.run(settings(tmp_path / "run", Path("outputs/stage1/policy"), name="train"))


def test_the_folder_of_a_finished_run_is_answered_with_that_of_its_policy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("outputs/mine/policy").mkdir(parents=True)
    Path("outputs/mine/policy/config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"outputs/mine, the folder of a run; its policy is outputs/mine/policy"):
        train.run(settings(tmp_path / "run", Path("outputs/mine"), name="train"))


def without_boxes(records: Path, kept: int) -> Path:
    """The same records, boxes taken away from all but the first `kept`."""
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    bare = [line if i < kept else line | {"boxes": []} for i, line in enumerate(lines)]
    changed = records.with_name(f"kept{kept}.jsonl")
    changed.write_text("".join(json.dumps(line) + "\n" for line in bare))
    return changed


def test_data_without_boxes_are_refused_before_the_policy_is_loaded_and_partly_annotated_ones_counted(
    tmp_path, random_policy, monkeypatch, capsys
):
    export.run(settings_of_export(tmp_path / "scenes"))
    records = tmp_path / "scenes/records.jsonl"
    data = ("data=records", "evaluation.samples=0", *STAGE2)
    some = settings(tmp_path / "some", random_policy, *data, f"data.records={without_boxes(records, 3)}")
    train.run(some)
    missing = read_records(records)[0][3].id
    assert f"1 of 4 training questions have no boxes and are left out (first: {missing})" in capsys.readouterr().out
    monkeypatch.setattr(build, "load_policy", lambda *_: pytest.fail("the policy was loaded first"))
    with pytest.raises(ValueError, match=r"reward term grounding grades crops by annotated boxes, but none of the 4 .*weight=0"):
        train.run(settings(tmp_path / "none", random_policy, *data, f"data.records={without_boxes(records, 0)}"))


@pytest.mark.parametrize(
    ("boxes", "reason"),
    [
        ([[[10, 10, 40, 40], [20, 20, 30, 30]]], "does not lie inside the next"),
        ([[[10, 10, 400, 40]]], "leaves the image"),
    ],
)
def test_annotations_that_do_not_nest_or_leave_the_image_are_dropped_with_the_id(tmp_path, random_policy, boxes, reason, capsys):
    export.run(settings_of_export(tmp_path / "scenes"))
    records = tmp_path / "scenes/records.jsonl"
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    lines[1]["boxes"] = boxes
    records.write_text("".join(json.dumps(line) + "\n" for line in lines))
    samples = build.training_samples(settings(tmp_path / "run", random_policy, "data=records", f"data.records={records}").data)
    said = capsys.readouterr().out
    assert len(samples) == 3 and "1 record dropped" in said and reason in said and f"(first: {lines[1]['id']})" in said


def test_a_policy_of_the_other_family_is_refused_since_every_box_would_be_wrong(tmp_path):
    random_qwen2_5_vl().save(tmp_path / "policy")
    with pytest.raises(ValueError, match=r"writes boxes in view_pixels, but policy\.dialect=tiny reads per_mille.*dialect=qwen2_5_vl"):
        loading.load_model(tmp_path / "policy", "tiny")


def test_the_dialect_that_is_offered_is_that_of_the_family(random_policy):
    with pytest.raises(ValueError, match=r"is a qwen3_vl model, which writes boxes in per_mille, .* Use policy\.dialect=qwen3_vl$"):
        loading.load_model(random_policy, "mini_o3")


def edited(folder: Path, to: Path, **text_config: int) -> Path:
    shutil.copytree(folder, to)
    config = json.loads((to / "config.json").read_text())
    config["text_config"] |= text_config
    config["text_config"].pop("layer_types", None)
    (to / "config.json").write_text(json.dumps(config))
    return to


def test_weights_of_another_shape_or_number_are_refused(tmp_path, random_policy):
    with pytest.raises(ValueError, match=r"do not fit its config\.json"):
        loading.load_model(edited(random_policy, tmp_path / "wider", intermediate_size=999), "tiny")
    with pytest.raises(ValueError, match=r"lacks \d+ weights of the model in its config\.json \(first: model\.language_model\.layers\.2"):
        loading.load_model(edited(random_policy, tmp_path / "deeper", num_hidden_layers=3), "tiny")
    cut = tmp_path / "cut"
    shutil.copytree(random_policy, cut)
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    with pytest.raises(ValueError, match="copy the folder again"):
        loading.load_model(cut, "tiny")


@pytest.mark.parametrize("section", ["data", "evaluation"])
@pytest.mark.parametrize("letters", ["[13,9]", "[12]", "[3,9]"])
def test_letter_sizes_that_are_no_range_are_refused(tmp_path, random_policy, section, letters):
    with pytest.raises(ConfigError, match=rf"{section}\.letter_px is .*give \[least, most\] native pixels, from 6 up, or null"):
        train.run(settings(tmp_path / "run", random_policy, f"{section}.letter_px={letters}"))
