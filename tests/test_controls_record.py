"""experiments/controls: how values become verdicts, by hand, and that the record follows from the kept answers."""

import json

import numpy as np
import pytest

from experiments.claims import verdict
from experiments.conflict.record import load, rounded
from experiments.controls.record import (
    HARD_SAMPLED,
    HERE,
    ITEMS,
    POLICIES,
    SETTINGS,
    Tables,
    beside,
    judge_g1,
    judge_g2,
    judge_s1,
    judge_s2,
    judge_s3,
    own,
    paper,
    splits,
)
from tests.support.tables import numbers, shown


def about(mean: float, half: float = 1.0) -> tuple[float, float, float]:
    return mean, mean - half, mean + half


@pytest.mark.parametrize(
    ("judged", "expected"),
    [
        (judge_g1(about(80), about(4.8)), "held"),
        (judge_g1(about(80), about(12)), "undecided"),
        (judge_g1(about(40), about(4)), "undecided"),
        (judge_g1(about(80), about(15.1)), "refuted"),
        (judge_g2(about(-8), 0), "held"),
        (judge_g2(about(-8), 2), "undecided"),
        (judge_g2(about(-8, 9), 0), "undecided"),
        (judge_g2(about(-1.9), 0), "refuted"),
        (judge_s1(about(0.027, 0.01), about(-2.4), 5), "held"),
        (judge_s1(about(0.027, 0.01), about(-2.4), 3), "undecided"),
        (judge_s1(about(0.027, 0.01), about(-2.4, 3), 5), "undecided"),
        (judge_s1(about(0.014, 0.01), about(-2.4), 5), "undecided"),
        (judge_s1(about(0.014, 0.02), about(-2.4), 5), "refuted"),
        (judge_s2(about(-2)), "held"),
        (judge_s2(about(3, 4)), "undecided"),
        (judge_s2(about(3)), "refuted"),
        (judge_s3(about(4), about(8)), "held"),
        (judge_s3(about(4, 5), about(8)), "undecided"),
        (judge_s3(about(3), about(8)), "undecided"),
        (judge_s3(about(1.9), about(8)), "refuted"),
    ],
)
def test_a_claim_is_judged_by_the_thresholds_of_the_page(judged, expected):
    assert judged == expected


def made(name: str, **shares: float) -> dict[str, np.ndarray]:
    """A policy that is right, or whose box measures so, in these shares of 100 scenes under each of its settings; 0 otherwise."""
    arm = name.rpartition(" ")[0] or name
    metrics = dict.fromkeys(("own", "gt", "noise", "tool_free", "called", "agrees", "hit", "iou"), 0.0) | {
        "area": 0.2,
        "visual_tokens": 50.0,
    }
    return {
        f"{setting.name} {metric}": np.full(100, value)
        if metric in ("area", "visual_tokens", "iou")
        else (np.arange(100) < 100 * value) * 1.0
        for setting in SETTINGS[arm]
        for metric, value in (metrics | shares).items()
    }


def test_verdicts_of_made_up_answers_are_as_worked_by_hand(monkeypatch):
    monkeypatch.setattr(verdict, "RESAMPLES", 50)
    shares = {
        "base": {"own": 0.75, "tool_free": 0.1, "hit": 0.9},
        "gap": {"own": 0.8, "hit": 0.95, "noise": 0.2, "called": 1.0},
        "no gap": {"own": 0.81, "called": 1.0, "noise": 0.7, "agrees": 0.9, "visual_tokens": 200.0},
        "stage 2": {"own": 0.87, "iou": 0.32, "area": 0.15},
        "control": {"own": 0.86, "iou": 0.3, "area": 0.18},
    }
    items = {name: made(name, **shares[name.rpartition(" ")[0] or name]) for name in POLICIES}
    found, greedy = own(Tables(items)), paper(Tables(items))
    assert found["G1"]["gap - base"][0] == pytest.approx(70) and found["G1"]["gap - base with a forced crop"][0] == pytest.approx(5)
    assert found["S1"]["IoU"][0] == pytest.approx(0.02) and found["S1"]["area"] == pytest.approx((-3, -3, -3))
    assert found["S3"]["control - stage 1"][0] == pytest.approx(6) and found["S3"]["stage 2 - stage 1"][0] == pytest.approx(7)
    assert {name: claim["verdict"] for name, claim in found.items()} == {
        "G1": "held",
        "G2": "refuted",
        "S1": "held",
        "S2": "held",
        "S3": "held",
    }
    assert greedy["C2"]["gap over no gap"][0] == pytest.approx(60 / 11)  # D_noise 60 against 11
    assert greedy["C17"]["visual tokens over no gap's"][0] == pytest.approx(0.25)
    assert {name: greedy[name]["verdict"] for name in ("C1", "C2", "C11", "C17")} == {"C1": "refuted"} | dict.fromkeys(
        ("C2", "C11", "C17"), "held"
    )
    del items["control 4"]  # a seed without one of its arms does not count
    assert Tables(items).seeds == [0, 1, 2, 3] and Tables(items).of("base", HARD_SAMPLED, "own").shape == (4, 100)


def accuracy(name: str, record: dict) -> float:
    """A difference of two arms' accuracies on harder scenes, from the arms' means."""
    arms, setting = name.split(", ")
    first, second = (record["arms"][f"{arm}, {setting}"]["own"][0] for arm in arms.split(" - "))
    return first - second


def middles(record: object) -> list[float]:
    """The means of all intervals of a record, and its counts of seeds, in order."""
    if isinstance(record, dict):
        return [value for each in record.values() for value in middles(each)]
    return [record[0] if isinstance(record, list | tuple) else record]


def test_the_record_follows_from_the_kept_answers_and_the_page_says_where_there_is_none(monkeypatch):
    written, page, kept = HERE / "record.json", (HERE / "README.md").read_text(), load(ITEMS, POLICIES)
    assert written.is_file() == bool(kept) == ("*Not run* yet" not in page)
    if kept:
        record = json.loads(written.read_text())
        claims = {"paper, greedy": paper(Tables(kept)), "own": own(Tables(kept))}
        assert json.loads(json.dumps(rounded(claims))) == {part: record[part] for part in claims}
        monkeypatch.setattr(verdict, "RESAMPLES", 2)  # of the rest the means, since the intervals take minutes
        for part, again in (("beside", beside(Tables(kept))), ("splits", splits(Tables(kept)))):
            assert middles(rounded(again)) == middles(record[part])
        assert all(
            np.isclose(sum(part[0] for part in of.values()), accuracy(name, record), atol=0.01) for name, of in record["splits"].items()
        )
        assert set(shown(page)) <= set(numbers(record))
        judged = {name: claim["verdict"] for part in claims.values() for name, claim in part.items() if "verdict" in claim}
        assert all(f"| {name} | **{each}**" in page for name, each in judged.items())
