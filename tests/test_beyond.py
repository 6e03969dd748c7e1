"""experiments/beyond: thresholds become verdicts as its page says; a claim without runs is not run; the table has its record."""

import json

import pytest

from experiments.beyond import record
from experiments.beyond.record import CLAIMS, HERE, Kept
from experiments.claims.runs import NotRun

GOOD = {
    "C14": {"D_noise": (6, 1, 11), "seeds": 4, "conflict": (12, 5, 19), "tool-free": (-1, -3, 1)},
    "C14b": {"D_noise": (-4, -9, 1)},
    "C15": {"gain": (40, 35, 45), "gain, no placebo": (46, 41, 51), "accuracy": (-1, -3, 1)},
    "L1": {"area over the control's": (0.8, 0.7, 0.9), "seeds": 5, "accuracy": (-1.5, -4, 1)},
    "L2": {"IoU - 16 annotated": (0.01, 0, 0.02), "IoU - 256 annotated": (-0.02, -0.03, -0.01)},
    "L3": {"IoU, 16 annotated": (0.01, 0, 0.02), "IoU, 256 annotated": (0.02, 0.01, 0.03)},
    "A1": {"adaptive - best": (-1, -5, 3)},
    "A2": {"equal": (10, 5, 15), "equal, 16 tokens": (20, 15, 25), "seeds": 4},
    "A3": {"last level": [16, 32, 16, 64, 16]},
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_what_meets_every_threshold_holds(claim):
    assert CLAIMS[claim][1](GOOD[claim]) == "held"


@pytest.mark.parametrize(
    ("claim", "changed", "verdict"),
    [
        ("C14", {"seeds": 3}, "undecided"),
        ("C14", {"D_noise": (6, -1, 13)}, "undecided"),
        ("C14", {"conflict": (9, 2, 16)}, "undecided"),
        ("C14", {"D_noise": (1, -4, 6)}, "refuted"),
        ("C14", {"tool-free": (-6, -9, -3)}, "refuted"),  # hacked
        ("C14b", {"D_noise": (11, 5, 17)}, "refuted"),
        ("C15", {"accuracy": (-3, -5, -1)}, "undecided"),
        ("C15", {"gain": (46, 41, 51)}, "refuted"),
        ("L1", {"accuracy": (-3, -6, 0)}, "undecided"),
        ("L1", {"area over the control's": (1.0, 0.9, 1.1)}, "refuted"),
        ("L2", {"IoU - 16 annotated": (-0.03, -0.04, -0.02)}, "refuted"),
        ("L3", {"IoU, 256 annotated": (0.0, -0.01, 0.01)}, "refuted"),
        ("A1", {"adaptive - best": (-5.1, -9, -1)}, "refuted"),
        ("A2", {"seeds": 3}, "undecided"),
        ("A3", {"last level": [16, 16, 16, 16, 128]}, "undecided"),  # both at once
    ],
)
def test_a_missed_threshold_is_undecided_or_refuted(claim, changed, verdict):
    assert CLAIMS[claim][1](GOOD[claim] | changed) == verdict


def test_a_claim_whose_runs_are_not_there_is_not_run(tmp_path):
    for measure, _ in CLAIMS.values():
        with pytest.raises(NotRun):
            measure(Kept(tmp_path))


def test_the_record_follows_from_what_was_kept():
    written, page = json.loads((HERE / "record.json").read_text()), (HERE / "README.md").read_text()
    assert written == json.loads(json.dumps(record.record()))
    for claim, found in written["claims"].items():
        assert found["verdict"] == "not run" or f"| {claim} | **{found['verdict']}** |" in page


def test_the_table_of_stage_2_without_boxes_follows_from_its_record():
    arms = json.loads((HERE / "record.json").read_text())["claims"]["L1"]["arms"]
    page = (HERE / "README.md").read_text()
    for row, name, digits in (
        ("accuracy, %", "accuracy", 1),
        ("IoU", "IoU", 3),
        ("coverage, %", "coverage", 1),
        ("area, % of the image", "area", 1),
    ):
        cells = [f"{of[name][0]:.{digits}f} [{of[name][1]:.{digits}f}, {of[name][2]:.{digits}f}]" for of in arms.values()]
        assert f"| {row} | {' | '.join(cells)} |" in page


def test_the_tables_of_information_gain_follow_from_its_record():
    written, page = json.loads((HERE / "record.json").read_text()), (HERE / "README.md").read_text()
    arms = ("accuracy", "gain", "gain, no placebo", "gap, accuracy", "gap, gain")
    for row, view, part in (
        ("64: calls, %", "common", "called"),
        ("64: crops that hit, %", "common", "hit"),
        ("64: hits by chance, %", "common", "chance"),
        ("64: right where it hit, %", "common", "reads"),
        ("64: reliance, points", "common", "reliance"),
        ("64: D_noise, points", "common", "D_noise"),
        ("64: accuracy, %", "common", "own"),
        ("64: area, % of the image", "common", "area"),
        ("own: accuracy, %", "own", "own"),
        ("own: tool-free accuracy, %", "own", "tool_free"),
        ("own: crop's answer in conflict, %", "own", "conflict_crop"),
        ("own: whole's answer in conflict, %", "own", "conflict_whole"),
    ):
        for temperature, shown in (("parts", arms), ("parts, greedy", arms[:3])):
            found = [
                written[temperature].get(f"{arm}, {view} view", {}).get(part) for arm in shown
            ]  # greedily accuracy alone makes no call
            cells = [f"{each[0]:.1f} [{each[1]:.1f}, {each[2]:.1f}]" if each else "–" for each in found]
            assert f"| {row} | {' | '.join(cells)} |" in page


def test_information_gain_beside_paid_calls_follows_from_its_record():
    found = json.loads((HERE / "record.json").read_text())["information gain beside paid calls"]
    page = (HERE / "README.md").read_text()
    for row, key in (
        ("sampled, 64 tokens: accuracy, points", "sampled, 64 tokens: own"),
        ("sampled, 64 tokens: D_noise, points", "sampled, 64 tokens: own - noise"),
        ("greedy, 64 tokens: accuracy, points", "greedy, 64 tokens: own"),
        ("greedy, 64 tokens: crops that hit, points", "greedy, 64 tokens: hit"),
        ("greedy, 64 tokens: hits above chance, points", "greedy, 64 tokens: hit - chance"),
        ("greedy, 256 tokens: accuracy, points", "greedy, 256 tokens: own"),
        ("greedy, 256 tokens: tool-free accuracy, points", "greedy, 256 tokens: tool_free"),
    ):
        cells = ["{:+.1f} [{:.1f}, {:.1f}]".format(*found[f"{key}, over {other}"]) for other in ("no gap", "gap", "base")]
        assert f"| {row} | {' | '.join(cells)} |" in page


def test_the_table_of_paid_crops_follows_from_its_record():
    written = json.loads((HERE / "crops_paid.json").read_text())
    page = (HERE / "README.md").read_text()
    for row in written["rows"]:
        cells = [f"{row[key][0]:.3f} [{row[key][1]:.3f}, {row[key][2]:.3f}]" for key in ("before", "after", "crop alone")]
        assert f"| {row['view_tokens']} | {row['crop']} | {' | '.join(cells)} |" in page
