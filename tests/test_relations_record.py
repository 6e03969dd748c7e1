"""experiments/relations: how shares become verdicts, by hand, and that the record follows from the kept answers."""

import json
import math

import numpy as np
import pytest

from experiments.claims import verdict
from experiments.conflict.record import load, rounded
from experiments.relations.record import HERE, ITEMS, METRICS, POLICIES, VIEWS, claims, predictions, record


@pytest.fixture
def few_resamples(monkeypatch):
    monkeypatch.setattr(verdict, "RESAMPLES", 20)


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


def test_the_record_follows_from_the_kept_answers_and_the_page_says_what_was_not_run():
    page, kept, written = (HERE / "README.md").read_text(), load(ITEMS, POLICIES), HERE / "record.json"
    assert written.is_file() == bool(kept)
    if kept:
        assert json.loads(written.read_text()) == json.loads(json.dumps(rounded(record(kept))))
    for name, claim in (record(kept)["claims"] if kept else {}).items():
        assert f"| {name} | **{claim['verdict']}** |" in page
    for name, met in predictions(kept).items():
        mean, low, high = met["found"]
        assert f"| {name} | {mean:.1f} [{low:.1f}, {high:.1f}] | {'met' if met['met'] else 'missed'} |" in page
    assert ("*Not run* yet" in page) == (kept.keys() != POLICIES.keys())
