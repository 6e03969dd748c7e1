"""The verdicts of experiments/binds follow from the kept values."""

import json

import numpy as np
import pytest

from experiments.binds.record import ARMS, HERE, ITEMS, METRICS, POLICIES, SETTINGS, claims, record, training
from experiments.claims import verdict
from experiments.conflict.record import load, rounded
from tests.support.tables import numbers, shown


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch):
    monkeypatch.setattr(verdict, "RESAMPLES", 20)


def items(own: dict[str, float], area: dict[str, float], seeds: int = 3) -> dict[str, dict[str, np.ndarray]]:
    """A hundred scenes; `own` is the number that is right, `area` the mean crop in percent of the image."""
    found = {}
    for arm in ("base", *ARMS):
        for name in ["base"] if arm == "base" else [f"{arm} {seed}" for seed in range(seeds)]:
            values = {"own": np.arange(100) < own.get(arm, 50), "area": np.full(100, area.get(arm, 10) / 100)}
            found[name] = {
                f"{setting} {metric}": np.asarray(values.get(metric, np.ones(100)), float) for setting in SETTINGS for metric in METRICS
            }
    return found


def verdicts(**more) -> dict[str, str]:
    return {name: claim["verdict"] for name, claim in claims(items(**more)).items()}


def test_every_claim_holds_where_the_numbers_are_as_predicted():
    own = {"base": 74, "448": 16, "stage 1": 72, "stage 1, free": 30, "448, then stage 1": 60}
    assert set(verdicts(own=own, area={"stage 2": 8}).values()) == {"held"}


@pytest.mark.parametrize(
    ("name", "own", "area"),
    [
        ("B1", {"base": 74, "448": 65}, {}),
        ("B2", {"base": 74, "stage 1": 53}, {}),
        ("B3", {"stage 1": 54}, {}),
        ("B4", {}, {"stage 2": 11}),
        ("B5", {"448": 41}, {}),
    ],
)
def test_a_claim_is_refuted_by_its_own_threshold(name, own, area):
    assert verdicts(own={"base": 50, "448": 50} | own, area=area)[name] == "refuted"


def test_crops_of_more_than_an_eighth_of_the_image_leave_b2_undecided():
    assert verdicts(own={"base": 74, "stage 1": 74}, area={"stage 1": 13})["B2"] == "undecided"


def test_two_of_three_seeds_give_numbers_and_no_verdict():
    found = record(items({"base": 74, "448": 16}, {}, seeds=2))
    assert found["claims"]["B1"]["verdict"] == "not run: 2 of 3 seeds"
    assert found["claims"]["B1"]["difference"][0] == pytest.approx(-58)
    assert found["arms"]["base, 16 greedy"]["own"][0] == pytest.approx(74)
    assert claims({"base": {}})["B2"] == {"verdict": "not run"}


def test_the_page_says_what_was_measured_of_the_base_for_streets():
    measured = json.loads((HERE / "base_streets.json").read_text())
    streets, scenes = measured["difficulty of streets"]["1"], measured["difficulty"]["1"]
    page = (HERE / "README.md").read_text()
    shown = [streets[name] for name in ("reads a tight crop", "reads a crop of the label", "tool-free accuracy at 16 tokens")]
    for found in (*shown, streets["crop is nearest to the asked sign at 16 tokens"], scenes["reads a tight crop"]):
        assert f"| {found['mean']} [{found['low']}, {found['high']}] |" in page
    assert measured["commit"] in page


def test_the_verdicts_of_the_page_follow_from_the_kept_answers(monkeypatch):
    monkeypatch.setattr(verdict, "RESAMPLES", 2000)
    page, kept = (HERE / "README.md").read_text(), load(ITEMS, POLICIES)
    found = json.loads(json.dumps(rounded(claims(kept))))
    written = json.loads((HERE / "record.json").read_text())
    assert found == written["claims"]
    curves = json.loads(json.dumps(rounded(training())))
    assert curves == written["training, last 10 updates"]
    assert [round(100 * np.mean(curves[arm]["reward/accuracy"])) for arm in ("stage 1, free", "stage 1")] == [72, 42]  # as the page says
    assert set(shown(page.split("## Why, by hand")[0])) <= set(numbers(written))
    assert all(f"| {name} | **{claim['verdict']}** |" in page for name, claim in found.items())
