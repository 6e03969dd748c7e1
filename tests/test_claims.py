"""The verdicts of experiments/claims: how they are computed, and that the recorded ones follow from the recorded runs."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from experiments.claims import verdict

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "experiments/claims/verdicts.json"


def seeds(*means: float, questions: int = 1000) -> np.ndarray:
    """[seed, question] of zeros and ones with these means."""
    return np.stack([(np.arange(questions) < round(mean * questions)).astype(float) for mean in means])


def test_a_paired_difference_that_is_the_same_everywhere_has_no_width():
    before = np.random.default_rng(0).random((5, 100))
    assert verdict.change(before + 0.25, before) == pytest.approx((25, 25, 25))


def test_an_interval_holds_the_mean_and_grows_with_the_spread_between_seeds():
    even, uneven = verdict.mean(seeds(0.5, 0.5, 0.5, 0.5, 0.5)), verdict.mean(seeds(0.1, 0.3, 0.5, 0.7, 0.9))
    assert even[0] == uneven[0] == pytest.approx(50)
    assert even[1] < 50 < even[2]
    assert uneven[2] - uneven[1] > 2 * (even[2] - even[1])


def test_what_does_not_apply_to_a_question_is_left_out():
    table = np.array([[1.0, math.nan], [math.nan, 0.5]])
    assert verdict.mean(table)[0] == pytest.approx(75)


def test_a_sign_is_counted_over_seeds():
    assert verdict.signs(seeds(0.5, 0.2, 0.9), seeds(0.4, 0.3, 0.1)) == 2


def test_updates_to_a_threshold_are_those_of_the_running_mean_of_five(monkeypatch):
    ramp = {"crop/iou": np.arange(20) / 10}  # the mean of updates k..k+4 (from 1) is (k + 1) / 10
    monkeypatch.setattr(verdict, "run", lambda arm, seed: ramp)
    assert verdict.updates_to("any", 0.5, 0) == 8  # updates 4 to 8: 0.3 0.4 0.5 0.6 0.7
    assert verdict.updates_to("any", 9.9, 0) == math.inf


@pytest.mark.parametrize(
    ("own", "noise", "calls", "expected"),
    [(0.80, 0.78, 0.9, "held"), (0.80, 0.72, 0.9, "undecided"), (0.80, 0.78, 0.7, "undecided"), (0.80, 0.60, 0.9, "refuted")],
)
def test_the_first_claim_is_judged_by_its_written_thresholds(own, noise, calls, expected, monkeypatch):
    tables = {"own noise": noise, "own own": own, "own called": calls}
    monkeypatch.setattr(verdict, "run", lambda arm, seed: {name: seeds(value)[0] for name, value in tables.items()})
    monkeypatch.setattr(verdict, "RESAMPLES", 10)
    assert verdict.c1()["verdict"] == expected


def test_a_claim_whose_runs_are_not_there_is_not_run(monkeypatch):
    monkeypatch.setattr(verdict, "run", lambda arm, seed: None)
    with pytest.raises(verdict.NotRun, match=r"no gap, bonus, seeds \[0, 1, 2, 3, 4\]"):
        verdict.c1()


@pytest.mark.parametrize("claim", verdict.CLAIMS)
def test_the_recorded_verdict_follows_from_the_recorded_runs(claim, monkeypatch):
    monkeypatch.setattr(verdict, "RESAMPLES", 2)  # bounds are then others; means and presence are the same
    recorded = json.loads(RECORD.read_text())["claims"][claim]
    try:
        found = {key: verdict.rounded(value) for key, value in verdict.CLAIMS[claim]().items()}
    except verdict.NotRun:
        assert recorded["verdict"] == "not run"
        return
    for key, value in found.items():
        if isinstance(value, list) and len(value) == 3 and not isinstance(value[0], list):
            assert value[0] == recorded[key][0], key
        elif isinstance(value, float | int):
            assert value == recorded[key], key
