"""experiments/relations: how shares become verdicts, by hand, and that the record follows from the kept answers."""

import json
import math

import numpy as np
import pytest

from experiments.claims import verdict
from experiments.conflict.record import load, rounded
from experiments.relations import record as module
from experiments.relations.record import HERE, ITEMS, METRICS, POLICIES, VIEWS, claims, keep_curves, predictions, record


@pytest.fixture
def few_resamples(monkeypatch):
    monkeypatch.setattr(verdict, "RESAMPLES", 20)


def cell(value: list[float]) -> str:
    mean, low, high = value
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]"


def policy(far: dict[str, float], near: dict[str, float]) -> dict[str, np.ndarray]:
    """A hundred questions at both views; a metric is the number that have it, all others have none. Noise in a crop costs D points."""
    found = {}
    for view, of in zip(VIEWS, (far, near), strict=True):
        for metric in METRICS:
            found[f"{view} {metric}"] = np.where(np.arange(100) < of.get(metric, 0), 1.0, 0.0)
        for metric in ("D_first", "D_second"):  # they apply to questions with two crops
            found[f"{view} {metric}"][found[f"{view} called_twice"] == 0] = math.nan
    return found


USED = {"called_twice": 100, "own": 60, "D_first": 55, "D_second": 50, "tool_free": 1}
ALL = {"called_twice": 100}


def test_every_prediction_of_the_base_is_met_where_its_numbers_are_as_predicted():
    found = predictions({"base": policy(USED, ALL | {"D_second": 10})})
    assert all(each["met"] for each in found.values()) and len(found) == 5
    assert found["accuracy, 16 tokens"]["found"][0] == pytest.approx(60)


@pytest.mark.parametrize(
    ("name", "far", "near"),
    [
        ("two crops, 16 tokens", {"called_twice": 89}, {}),
        ("accuracy, 16 tokens", {"own": 29}, {}),
        ("D_second, 16 tokens", {"D_second": 24}, {}),
        ("accuracy, tool-free, 16 tokens", {"tool_free": 3}, {}),
        ("D_second, 256 tokens", {}, {"D_second": 11}),
    ],
)
def test_a_prediction_is_missed_by_its_own_threshold_alone(name, far, near):
    found = predictions({"base": policy(USED | far, ALL | near)})
    assert [each for each in found if not found[each]["met"]] == [name]


def verdicts(gap, no_gap) -> dict[str, str]:
    return {name: claim["verdict"] for name, claim in claims({"gap": policy(*gap), "no gap": policy(*no_gap)}).items()}


def test_every_claim_holds_where_the_numbers_are_as_predicted(few_resamples):
    assert set(verdicts((USED, ALL), (USED | {"D_second": 20}, {"called_twice": 70})).values()) == {"held"}


@pytest.mark.parametrize(
    ("name", "gap", "no_gap"),
    [
        ("R1", (USED | {"D_second": 9}, ALL), (USED, ALL)),
        ("R2", (USED, ALL), (USED | {"D_second": 48}, ALL)),
        ("R3", (USED, ALL), (USED, ALL | {"D_second": 16})),
        ("R4", (USED, ALL), (USED, {"called_twice": 96})),
    ],
)
def test_a_claim_is_refuted_by_its_own_threshold(few_resamples, name, gap, no_gap):
    assert verdicts(gap, no_gap)[name] == "refuted"


def test_without_a_second_crop_nothing_is_said_of_it_and_without_a_policy_nothing_was_run(few_resamples):
    alone = verdicts((USED, ALL), (USED, {}))
    assert alone["R3"] == "undecided" and alone["R4"] == "held"
    assert {claim["verdict"] for claim in claims({"base": policy(USED, ALL)}).values()} == {"not run"}
    some = claims({"gap": policy(USED, ALL)})
    assert (some["R1"]["verdict"], some["R2"]["verdict"]) == ("held", "not run")


def test_what_stage_1_changed_and_what_noise_costs_where_no_crop_hit_are_as_worked_by_hand(few_resamples):
    found = record({"base": policy(USED | {"hit": 30}, ALL), "gap": policy(USED | {"own": 50}, ALL)})
    assert found["gap - base"]["16 own"][0] == pytest.approx(-10)
    assert found["D_first where no crop hit"]["base, 16 tokens"][0] == pytest.approx(100 * 25 / 70)  # questions 30 to 54 of 30 to 99


def test_the_curves_of_a_finished_training_are_kept_and_those_of_another_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "HERE", tmp_path)
    monkeypatch.setattr(module, "POLICIES", {name: tmp_path / name / "policy" for name in ("gap", "no gap")})
    for name in ("gap", "no gap"):
        (tmp_path / name).mkdir()
        rows = [{"update": k + 1, "reward/accuracy": k / 100, "crop/rate": 0.5, "group/all_wrong": 1} for k in range(40)]
        (tmp_path / name / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "gap/policy").mkdir()
    keep_curves()
    assert module.training().keys() == {"gap"}
    assert module.training()["gap"]["reward/accuracy"] == pytest.approx([9.5, 29.5, 19.5])  # means of 0 to 19, 20 to 39, 0 to 39 %


def test_the_record_follows_from_the_kept_answers_and_the_page_says_what_was_not_run():
    page, kept, written = (HERE / "README.md").read_text(), load(ITEMS, POLICIES), HERE / "record.json"
    assert written.is_file() == bool(kept)
    found = json.loads(json.dumps(rounded(record(kept)))) if kept else {"claims": {}, "predictions": {}, "gap - base": {}}
    if kept:
        assert json.loads(written.read_text()) == found
    for name, claim in found["claims"].items():
        assert f"| {name} | **{claim['verdict']}** |" in page
    for name, met in found["predictions"].items():
        assert f"| {name} | {cell(met['found'])} | {'met' if met['met'] else 'missed'} |" in page
    for name, metric in {"accuracy, own crops": "own", "accuracy, tool-free": "tool_free", "hits": "hit"}.items() if kept else ():
        assert f"| {name} | " + " | ".join(cell(found["gap - base"][f"{view} {metric}"]) for view in VIEWS) + " |" in page
    assert ("*Not run* yet" in page) == (kept.keys() != POLICIES.keys())
