"""experiments/conflict: how shares become a verdict, by hand, and that the record follows from the kept answers."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from experiments.conflict.record import HERE, METRICS, POLICIES, claims, judge, load, policies, rounded, share

ROOT = Path(__file__).parents[1]


def test_a_share_of_one_policy_has_wilsons_interval_over_the_scenes_to_which_it_applies():
    assert share("conflict_crop", [1, 0, 0, 0, 1, 0, 0, 0, math.nan]) == pytest.approx((25, 7.15, 59.07), abs=0.01)
    assert share("conflict_crop", [math.nan]) is None
    mean, low, high = share("reliance", [1, -1, 0, 1])
    assert mean == 25 and low < 0 < high  # it has a sign


@pytest.mark.parametrize(
    ("difference", "above", "seeds", "verdict"),
    [
        ([31, 25, 37], 5, 5, "held"),
        ([31, 25, 37], 4, 5, "held"),
        ([31, 25, 37], 3, 5, "undecided"),
        ([15, -1, 31], 5, 5, "undecided"),
        ([14.9, 10, 20], 5, 5, "undecided"),
        ([4.9, 1, 9], 5, 5, "refuted"),
        ([31, 25, 37], 4, 4, "not run"),
    ],
)
def test_a_claim_holds_from_15_points_on_and_is_refuted_below_5(difference, above, seeds, verdict):
    assert judge(difference, above, seeds) == verdict


def items(crop: float) -> dict[str, np.ndarray]:
    """A policy that gives the crop's answer in this share of 100 scenes, and neither in the others."""
    says = (np.arange(100) < 100 * crop).astype(float)
    return {metric: says if metric.endswith("conflict_crop") else np.zeros(100) for metric in METRICS}


def test_verdicts_of_made_up_answers_are_as_worked_by_hand():
    made = {"base": items(0.76)} | {f"gap {seed}": items(0.70 + seed / 100) for seed in range(5)}
    made |= {f"no gap {seed}": items(0.40) for seed in range(5)}
    found = claims(made)
    assert [found[name]["verdict"] for name in ("K1", "K2", "K3")] == ["held"] * 3
    assert found["K1"]["gap - no gap"][0] == pytest.approx(32) and found["K3"]["base - no gap"][0] == pytest.approx(36)
    # the seeds' 30 to 34 points: Student's t 2.776 sqrt(2.5 / 5) = 1.96; beside it the scenes
    assert 1.96 < found["K1"]["gap - no gap"][2] - 32 < 15
    del made["no gap 4"]  # a seed without its other arm does not count
    assert claims(made)["K1"]["verdict"] == "not run"


def test_the_record_follows_from_the_kept_answers_and_the_page_says_where_there_is_none():
    written, page, kept = HERE / "record.json", (HERE / "README.md").read_text(), load()
    assert written.is_file() == bool(kept) == ("*Not run* yet" not in page)
    if kept:
        record = json.loads(written.read_text())
        assert json.loads(json.dumps(rounded({"policies": policies(kept), "claims": claims(kept)}))) == {
            part: record[part] for part in ("policies", "claims")
        }
        assert all(f"| {name} | **{claim['verdict']}**" in page for name, claim in record["claims"].items())
        for arm in ("gap", "no gap"):
            mean, low, high = record["arms"][arm]["sign conflict_crop"]
            believes = f"{mean:.1f} % [{low:.1f}, {high:.1f}]"
            assert believes.replace(" %", "") in page and believes in (ROOT / "README.md").read_text()


def test_a_record_without_a_number_has_null_and_every_policy_has_its_folder():
    assert rounded({"a": (1.2344, math.nan), "b": None, "c": 3}) == {"a": [1.234, None], "b": None, "c": 3}
    assert str(POLICIES["no gap 3"]) == "outputs/conflict/gap=off,seed=3/policy" and len(POLICIES) == 11
