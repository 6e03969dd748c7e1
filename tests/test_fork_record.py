"""experiments/fork_at_call: how curves become ratios and verdicts, by hand, and that the record follows from what was kept."""

import json
import math
import re

import numpy as np
import pytest

from experiments.fork_at_call.record import HERE, PROBES, claims, crossing, judge, load, probed, ratio, record, to_target, tokens_until
from focus.evaluation.kept import About, Kept
from tests.support.scripted import call, playing
from tests.support.tables import numbers, shown
from tests.support.updates import BLUE


def test_a_target_is_reached_on_the_line_between_two_probes():
    curve = np.array([0.2, 0.4, 0.4, 0.6, 0.5, 0.7, 0.7, 0.7])
    assert [crossing(curve, 0.3), crossing(curve, 0.5)] == pytest.approx([15, 35])
    assert crossing(curve, 0.1) == 10  # it was there before the first probe
    assert crossing(curve, 0.71) == 90  # never


def test_tokens_are_summed_up_to_the_update_and_go_on_at_their_mean():
    run = {"tokens": np.array([100.0, 200.0, 300.0])}
    assert tokens_until(run, 2) == 300 and tokens_until(run, 2.5) == 450
    assert tokens_until(run, 4) == 600 + 200
    assert tokens_until(run | {"tokens, trained": np.array([10.0, 20.0, 30.0])}, 2, ("tokens", "tokens, trained")) == 330


def made(level: float, tokens: float, dead: float) -> dict[str, np.ndarray]:
    """A run whose hits and IoU rise in a straight line to `level` at update 80, on ten questions."""
    curve = np.array([[level * update / 80] * 10 for update in PROBES])
    return {"hit": curve, "iou": curve, "tokens": np.full(80, tokens), "dead, trained": np.full(80, dead)}


def test_verdicts_of_made_up_runs_are_as_worked_by_hand():
    """Plain ends at 0.7 (the mean of 0.6, 0.7, 0.8): the target is 0.63. Twice as steep an arm is there in half of the updates."""
    spread = (0.98, 0.99, 1.0, 1.01, 1.02)
    runs = {
        "plain": {seed: made(0.8, 1000, 0.4) for seed in range(5)},
        "refill": {seed: made(0.8, 1200, 0.1) for seed in range(5)},
        "fork": {seed: made(0.8, 1200, 0.2 * x) for seed, x in enumerate(spread)},
        "turn": {seed: made(0.9 * x, 700, 0.4) for seed, x in enumerate(spread)},
        "fork, turn": {seed: made(1.6 * x, 800, 0.2) for seed, x in enumerate(spread)},
    }
    assert to_target(runs, "plain", "hit", in_tokens=False)[0] == pytest.approx(63)
    assert to_target(runs, "plain", "hit", in_tokens=False, target=(0.9, 1))[0] == pytest.approx(72)  # 0.9 of the last probe, 0.8
    assert to_target(runs, "fork, turn", "hit", in_tokens=True)[2] == pytest.approx(800 * 31.5)
    found = claims(runs)
    assert {name: each["verdict"] for name, each in found.items()} == {
        "F1": "held",  # 0.5
        "F2": "held",  # 0.5
        "F3": "held",  # 0.5 x 0.8
        "F4": "held",  # 0.5 x 0.8 / 1.2
        "F5": "held",  # 0.5 x 0.8 / (0.889 x 0.7)
        "F6": "undecided",  # 0.889
    }
    [compared] = [value for key, value in found["F3"].items() if key != "verdict"]
    assert compared["ratio"][0] == pytest.approx(0.4, abs=0.001)
    del runs["fork, turn"][4]
    assert claims(runs)["F2"]["verdict"] == "not run"


@pytest.mark.parametrize(
    ("seeds", "verdict"),
    [
        ([0.5, 0.6, 0.7, 0.6, 0.5], "held"),
        ([0.5, 0.6, 0.7, 0.6], "not run"),
        ([0.9, 0.9, 0.9, 0.9, 0.9], "undecided"),
        ([0.3, 0.3, 0.3, 1.1, 1.1], "undecided"),  # two of five are above 1
        ([1.0, 1.1, 1.0, 1.1, 1.0], "refuted"),
    ],
)
def test_a_claim_needs_its_ratio_an_interval_below_1_and_four_of_five_seeds(seeds, verdict):
    assert judge(ratio(dict(enumerate(seeds)), dict.fromkeys(range(5), 1.0)), 0.8, 1.0) == verdict


def test_the_interval_of_a_ratio_is_students_of_the_logarithms():
    found = ratio({0: 0.5, 1: 2.0}, {0: 1.0, 1: 1.0})  # logarithms -ln 2 and ln 2: mean 0, deviation sqrt(2) ln 2, over sqrt(2)
    assert found["ratio"] == pytest.approx([1, math.exp(-12.706 * math.log(2)), math.exp(12.706 * math.log(2))], rel=1e-3)


def test_the_record_follows_from_what_was_kept_and_the_page_says_where_there_is_none():
    written, page, kept = HERE / "record.json", (HERE / "README.md").read_text(), load()
    assert written.is_file() == any(kept.values()) == ("*Not run* yet" not in page)
    if any(kept.values()):
        found = json.loads(written.read_text())
        assert json.loads(json.dumps(record(kept))) == found
        assert set(shown(page)) <= set(numbers(found["claims"]))
        for name, claim in found["claims"].items():
            assert re.search(rf"\| {name} [^|]*\| \*\*{claim['verdict']}\*\* \|", page), name


def test_a_probe_is_read_question_by_question_and_one_without_a_crop_hits_nothing(qwen3_vl, tmp_path):
    looked = playing(qwen3_vl, call(0, 0, 1000, 1000), BLUE, index=1)
    direct = playing(qwen3_vl, BLUE, index=0)
    kept = Kept(tmp_path, About("probe", 10, "", ""), 0)
    for t, right in ((looked, 1.0), (direct, 0.0)):
        kept.add(kept.rows_of({"own": t, "noise": direct}), {"own": "blue", "noise": "red"}, {"own": right, "noise": 1.0})
    kept.write()
    found = probed(tmp_path / "trajectories/probe_000010.0.parquet")
    order = sorted([looked, direct], key=lambda t: t.sample.id)
    assert found["right"] == [float(t is looked) for t in order] == found["hit"]
    largest = max((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in looked.sample.boxes[0]) / (448 * 448)
    assert found["iou"] == [pytest.approx(largest) if t is looked else 0.0 for t in order]
