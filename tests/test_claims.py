"""The verdicts of experiments/claims: how claims are measured and judged, and that what is recorded follows from the recorded runs."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from experiments.claims import runs, verdict
from experiments.claims.verdict import CLAIMS

RECORD = json.loads((Path(__file__).parents[1] / "experiments/claims/verdicts.json").read_text())["claims"]


def table(*means: float, questions: int = 1000) -> np.ndarray:
    """[seed, question] of zeros and ones with these means."""
    return np.stack([(np.arange(questions) < round(mean * questions)).astype(float) for mean in means])


def about(mean: float, half: float = 0.1) -> tuple[float, float, float]:
    return (mean, mean - half, mean + half)


def test_a_paired_difference_that_is_the_same_everywhere_has_no_width():
    before = np.random.default_rng(0).random((5, 100))
    assert verdict.change(before + 0.25, before) == pytest.approx((25, 25, 25))


def test_boxes_are_compared_on_questions_that_both_sides_cropped():
    after, before = np.array([[0.4, 0.9, math.nan]]), np.array([[0.2, math.nan, 0.7]])
    assert verdict.change(after, before)[0] == pytest.approx(20)
    assert verdict.ratio(after, before)[0] == pytest.approx(2)
    assert verdict.seeds_above(after, before) == 1


def test_an_interval_holds_the_mean_and_grows_with_the_spread_between_seeds():
    even, uneven = verdict.mean(table(0.5, 0.5, 0.5, 0.5, 0.5)), verdict.mean(table(0.1, 0.3, 0.5, 0.7, 0.9))
    assert even[0] == uneven[0] == pytest.approx(50)
    assert even[1] < 50 < even[2]
    assert uneven[2] - uneven[1] > 2 * (even[2] - even[1])


@pytest.mark.parametrize("spread", [0, 6])
def test_intervals_of_five_seeds_cover_the_truth_in_95_per_cent_of_simulated_experiments(monkeypatch, spread):
    """Seeds differ by `spread` points, questions by their difficulty; the truth is 50 %. Of a hundred, six misses are luck."""
    monkeypatch.setattr(verdict, "RESAMPLES", 100)
    random, covered = np.random.default_rng(spread), 0
    for _ in range(100):
        difficulty, seeds = random.beta(1.5, 1.5, size=200), random.normal(0, spread / 100, size=5)
        _, low, high = verdict.mean((random.random((5, 200)) < difficulty[None] + seeds[:, None]).astype(float))
        covered += low <= 50 <= high
    assert covered >= 94


def test_one_seed_has_an_interval_over_its_questions():
    answers = table(0.5)  # the standard error of 1,000 answers is 1.58 points
    mean, low, high = verdict.mean(answers)
    assert (mean, high - mean, mean - low) == pytest.approx((50, 3.1, 3.1), abs=0.15)


def test_a_sign_is_counted_over_seeds():
    assert verdict.seeds_above(table(0.5, 0.2, 0.9), table(0.4, 0.3, 0.1)) == 2


def test_updates_to_a_threshold_are_those_of_the_running_mean_of_five(monkeypatch):
    monkeypatch.setattr(runs, "run", lambda arm, seed: {"crop/iou": np.array([math.nan, *range(1, 20)]) / 10})
    assert verdict.updates_to("any", 0.5, 0) == 8  # updates 4 to 8: 0.3 0.4 0.5 0.6 0.7
    assert runs.curve("any", "crop/iou", 0)[0] == pytest.approx(0.25)  # an update without a crop is left out
    assert verdict.updates_to("any", 9.9, 0) == math.inf


def test_neither_and_both_are_undecided():
    assert [verdict.decide(*each) for each in ((True, False), (False, True), (False, False), (True, True))] == [
        "held",
        "refuted",
        "undecided",
        "undecided",
    ]


def two_by_two(silent=10, bonus=90, shows=2, looks=90, depends=60, first=(40, 40)) -> dict:
    return {
        "base at 16: crop rate": about(first[0]),
        "base at 256: crop rate": about(first[1]),
        "no gap, no bonus: crop rate": about(silent),
        "no gap, bonus: crop rate": about(bonus),
        "no gap, bonus: D_noise": about(shows),
        "gap, no bonus: crop rate": about(looks),
        "gap, no bonus: D_noise": about(depends),
    }


def shape(accuracy=0.0, iou=0.1, coverage=0.0, half=0.1, **more) -> dict:
    return {"accuracy": about(accuracy, half), "IoU": about(iou, 0.01), "coverage": about(coverage, half), "seeds": 5, **more}


def grown(area=3.0, fixed=1.2, coverage=20.0, iou=0.02, seeds=5) -> dict:
    return {
        "area over the base's": about(area),
        "the same, crops of 16 tokens": about(fixed),
        "coverage": about(coverage),
        "IoU": about(iou, 0.01),
        "seeds": seeds,
    }


def early(median=0.5, iou=0.0, later=0.0) -> dict:
    return {
        "median": median,
        "from the base: IoU": about(iou, 0.01),
        "from stage 1: accuracy": about(later, 1),
        "from stage 1: IoU": about(0, 0.01),
    }


def ladder(accuracy, dependence=(60, 50, 40, 20, 10), best=64, ends=(5, 5), unpaid=(90, 80, 70, 60, 50)) -> dict:
    return {
        "accuracy at 64 tokens": [about(a) for a in accuracy],
        "D_noise at 64 tokens": [about(d) for d in dependence],
        "all-unpaid groups, first 20 updates": list(unpaid),
        "best": best,
        "best - ends": [about(end) for end in ends],
    }


PEAK = (60, 64, 70, 66, 58)


@pytest.mark.parametrize(
    ("claim", "found", "expected"),
    [
        ("C1", {"D_noise": about(2), "crop rate": about(90)}, "held"),
        ("C1", {"D_noise": about(8), "crop rate": about(90)}, "undecided"),
        ("C1", {"D_noise": about(2), "crop rate": about(70)}, "undecided"),
        ("C1", {"D_noise": about(20), "crop rate": about(90)}, "refuted"),
        ("C2", {"D_noise, gap": about(50), "gap - 3 x no gap": about(20), "gap - 1.5 x no gap": about(35), "seeds": 5}, "held"),
        ("C2", {"D_noise, gap": about(50), "gap - 3 x no gap": about(60), "gap - 1.5 x no gap": about(55), "seeds": 3}, "undecided"),
        ("C2", {"D_noise, gap": about(20), "gap - 3 x no gap": about(-40), "gap - 1.5 x no gap": about(-10), "seeds": 0}, "refuted"),
        ("C3", two_by_two(), "held"),
        ("C3", two_by_two(silent=60), "undecided"),
        ("C3", two_by_two(shows=20), "refuted"),
        ("C3", two_by_two(looks=30), "refuted"),
        ("C4", grown(), "held"),
        ("C4", grown(seeds=3), "undecided"),
        ("C4", grown(fixed=3.5), "undecided"),
        ("C4", grown(area=1.05), "refuted"),
        ("C5", shape(half=1, **{"area over stage 1's": about(0.6)}), "held"),
        ("C5", shape(half=1, **{"area over stage 1's": about(0.8)}), "undecided"),
        ("C5", shape(accuracy=-4, **{"area over stage 1's": about(0.6)}), "refuted"),
        ("C5", shape(iou=0.005, **{"area over stage 1's": about(0.6)}), "refuted"),
        ("C6", shape(coverage=-8), "held"),
        ("C6", shape(coverage=-8) | {"seeds": 2}, "undecided"),
        ("C6", shape(coverage=-6, half=10), "refuted"),
        ("C7", early(), "held"),
        ("C7", early(median=0.9), "undecided"),
        ("C7", early(median=1.2), "refuted"),
        ("C7", early(median=None), "refuted"),
        ("C7", early(later=3), "undecided"),
        ("C8", shape(accuracy=-5, coverage=-9, r_l1=about(0.02, 0.01)), "held"),
        ("C8", shape(accuracy=-5, coverage=-9, r_l1=about(0.0, 0.01)), "undecided"),
        ("C8", shape(accuracy=-1, half=3, r_l1=about(0.02, 0.01)), "refuted"),
        ("C9", ladder(PEAK), "held"),
        ("C9", ladder(PEAK, ends=(-1, 5)), "undecided"),
        ("C9", ladder((60, 50, 58, 54, 57), best=16), "undecided"),
        ("C9", ladder((50, 52, 60, 61, 62), best=256), "refuted"),
        ("C9", ladder(PEAK, unpaid=(50, 60, 70, 80, 90)), "undecided"),
        ("C10", {"calibrated - best level": about(0), "calibrated - mean level": about(4), "seeds": 5}, "held"),
        ("C10", {"calibrated - best level": about(-2), "calibrated - mean level": about(4), "seeds": 5}, "undecided"),
        ("C10", {"calibrated - best level": about(-5), "calibrated - mean level": about(4), "seeds": 5}, "refuted"),
        ("C11", {"no gap, bonus": about(90), "gap, bonus": about(10)}, "held"),
        ("C11", {"no gap, bonus": about(70), "gap, bonus": about(10)}, "undecided"),
        ("C11", {"no gap, bonus": about(20), "gap, bonus": about(10)}, "refuted"),
        ("C12", {"stage 1": about(20), "change": about(-5), "seeds": 5}, "held"),
        ("C12", {"stage 1": about(20), "change": about(-0.05), "seeds": 5}, "undecided"),
        ("C12", {"stage 1": about(20), "change": about(2), "seeds": 0}, "refuted"),
        ("C13", {"solved - stage 1": about(0), "harder - solved": about(3), "seeds": 5}, "held"),
        ("C13", {"solved - stage 1": about(4), "harder - solved": about(3), "seeds": 5}, "undecided"),
        ("C13", {"solved - stage 1": about(0), "harder - solved": about(-1), "seeds": 1}, "refuted"),
        ("C17", {"visual tokens over no gap's": about(0.25), "difference": about(-1)}, "held"),
        ("C17", {"visual tokens over no gap's": about(0.5), "difference": about(-1)}, "undecided"),
        ("C17", {"visual tokens over no gap's": about(0.25), "difference": about(-9)}, "refuted"),
        ("teach_groups", {"accuracy": about(-1), "crop rate": about(95), "D_noise": about(-2), "seeds": 2}, "held"),
        ("teach_groups", {"accuracy": about(5), "crop rate": about(95), "D_noise": about(5), "seeds": 5}, "held"),
        ("teach_groups", {"accuracy": about(-2.5), "crop rate": about(95), "D_noise": about(0), "seeds": 0}, "undecided"),
        ("teach_groups", {"accuracy": about(-1), "crop rate": about(85), "D_noise": about(0), "seeds": 2}, "undecided"),
        ("teach_groups", {"accuracy": about(-1), "crop rate": about(95), "D_noise": about(-6), "seeds": 2}, "undecided"),
        ("teach_groups", {"accuracy": about(-4), "crop rate": about(95), "D_noise": about(0), "seeds": 0}, "refuted"),
        ("teach_groups", {"accuracy": about(-4, 6), "crop rate": about(95), "D_noise": about(0), "seeds": 1}, "undecided"),
        ("teach_groups", {"accuracy": about(-1), "crop rate": about(70), "D_noise": about(0), "seeds": 2}, "refuted"),
    ],
)
def test_a_claim_is_judged_by_its_written_thresholds(claim, found, expected):
    assert CLAIMS[claim].judge(found) == expected


def test_a_claim_whose_runs_are_not_there_is_not_run(monkeypatch):
    monkeypatch.setattr(runs, "run", lambda arm, seed: None)
    with pytest.raises(runs.NotRun, match=r"no gap, bonus, seeds \[0, 1, 2, 3, 4\]"):
        CLAIMS["C1"].measure()


def test_rows_of_runs_are_added_once_and_keep_line_breaks_and_new_columns(tmp_path):
    found, kept = tmp_path / "found.csv", tmp_path / "kept.csv"
    kept.write_text('run,status\na,"crashed: two\nlines"\n')
    found.write_text('run,status,samples\na,finished,8\nb,"crashed: two\nlines",8\n')
    runs._collect_rows(found, kept)
    runs._collect_rows(found, kept)
    assert kept.read_text() == 'run,status,samples\na,"crashed: two\nlines",\na,finished,8\nb,"crashed: two\nlines",8\n'


@pytest.mark.parametrize("claim", CLAIMS)
def test_the_recorded_verdict_follows_from_what_was_measured_and_that_from_the_recorded_runs(claim, monkeypatch):
    recorded = RECORD[claim]
    monkeypatch.setattr(verdict, "RESAMPLES", 2)  # bounds are then others; means and presence are the same
    try:
        found = {key: verdict.rounded(value) for key, value in CLAIMS[claim].measure().items()}
    except runs.NotRun:
        assert recorded["verdict"] == "not run"
        return
    assert CLAIMS[claim].judge(recorded) == recorded["verdict"]
    assert set(found) == set(recorded) - {"verdict"}
    for key, value in found.items():
        assert means(value) == means(recorded[key]), key


def means(value: object) -> object:
    """Of intervals the mean alone, however deep they lie."""
    if isinstance(value, list) and len(value) == 3 and not any(isinstance(each, list) for each in value):
        return value[0]
    return [means(each) for each in value] if isinstance(value, list) else value
