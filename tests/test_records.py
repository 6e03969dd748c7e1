"""Recorded results are fresh: of the shipped base policy, and the same numbers everywhere."""

import json
from pathlib import Path

import numpy as np
import pytest

from experiments.claims import decomposition
from experiments.pages import verdict as pages
from focus.data.readers import SETS
from focus.model import loading

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def stage1() -> dict:
    return json.loads((ROOT / "experiments/stage1/results.json").read_text())


def test_recorded_results_are_those_of_the_shipped_base(stage1):
    shipped = loading.load_model(loading.EMBEDDED, "tiny").weights_hash()
    assert stage1["base"] == shipped
    assert json.loads((ROOT / "experiments/base/results.json").read_text())["weights"] == shipped


def test_the_record_of_the_base_that_reads_pages_is_that_of_the_shipped_one():
    record = json.loads((ROOT / "experiments/pages/base.json").read_text())
    assert record["weights"] == loading.load_model(loading.EMBEDDED_PAGES, "tiny").weights_hash()
    shown = (ROOT / "experiments/pages/README.md").read_text()
    read = record["difficulty of pages"]["1"]
    for name in ("reads a tight crop", "reads a crop of the block", "tool-free accuracy at 16 tokens", "tool-free accuracy at 256 tokens"):
        assert f"{read[name]['mean']:.1f} [{read[name]['low']:.1f}, {read[name]['high']:.1f}]" in shown, name


def test_the_runs_on_pages_stand_in_their_record_which_follows_from_the_kept_answers():
    found = json.loads((ROOT / "experiments/pages/results.json").read_text())
    shown = (ROOT / "experiments/pages/README.md").read_text()
    for arm in ("base at 16", "gap", "base at 256", "no gap"):
        for name in ("accuracy", "accuracy, annotated crop", "accuracy, tool-free", "D_noise", "crop rate", "coverage of B1"):
            mean, low, high = found[f"{arm}: {name}"]
            assert f"| {mean:.1f} [{low:.1f}, {high:.1f}] |" in shown, (arm, name)
    for arm in ("base", "no gap", "gap"):
        mean, low, high = found[f"common view, {arm}: hits"]
        assert f"{mean:.1f} % [{low:.1f}, {high:.1f}]" in shown.replace("\n", " "), arm
    again = pages.results(pages.load())
    assert json.loads(json.dumps(pages.rounded(again) | {"met": pages.met(again), "verdict": pages.judge(again)})) == found
    assert f"**{found['verdict'].capitalize()}**" in shown


def test_the_numbers_of_the_readmes_stand_in_the_record(stage1):
    gap, no_gap = (stage1["arms"][name]["rows"] for name in ("stage1", "stage1_no_gap"))
    front, record = (ROOT / "README.md").read_text(), (ROOT / "experiments/stage1/README.md").read_text()

    def cell(row: dict, column: str) -> str:
        mean, low, high = row[column]
        return f"{mean:.1f} [{low:.1f}, {high:.1f}]"

    for rows in (gap, no_gap):
        for metric in (
            "accuracy, own crop",
            "accuracy, forced crop",
            "accuracy, tool-free",
            "accuracy, noise crop",
            "D_noise, own - noise",
        ):
            for column in ("base", "trained"):
                assert cell(rows[f"t1 {metric}"], column) in record, (metric, column)
    for row, column in ((gap["t1 accuracy, own crop"], "change"), (gap["t1 accuracy, forced crop"], "base"),
                        (gap["t1 D_noise, own - noise"], "trained"), (no_gap["t1 D_noise, own - noise"], "trained")):  # fmt: skip
        assert all(f"{value:.1f}" in front for value in row[column]), row


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").rglob("*.json")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_record_is_json_that_every_parser_reads(path):
    json.loads(path.read_text(), parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))


def test_the_training_record_of_the_base_reaches_the_end_of_its_recipe():
    rows = (ROOT / "experiments/base/record.csv").read_text().splitlines()
    assert rows[0].startswith("samples,seconds,kind") and rows[-1].startswith("200000,")
    assert (ROOT / "experiments/pages/record.csv").read_text().splitlines()[-1].startswith("41600,")


def cells(arm: dict, metric: str) -> str:
    mean, low, high = arm[metric]
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]"


def test_the_tables_of_the_claims_stand_in_their_record():
    arms = json.loads((ROOT / "experiments/claims/verdicts.json").read_text())["arms"]
    two_by_two, tokens = ((ROOT / f"experiments/{folder}/README.md").read_text() for folder in ("gap_and_bonus", "fewer_tokens"))
    looking = (ROOT / "experiments/looking_first/README.md").read_text()
    for arm in ("no gap, no bonus", "no gap, bonus", "gap, no bonus", "gap, bonus"):
        for metric in ("own called", "own own - noise", "common own - noise", "own own", "common own", "own tool_free", "own coverage"):
            assert cells(arms[arm], metric) in two_by_two, (arm, metric)
    boxes = (ROOT / "experiments/box_size/README.md").read_text()
    for arm in ("stage 1 on harder scenes", "stage 2", "solved data"):
        for metric in ("own own", "own gt", "own area", "own coverage", "own gt - own"):
            assert cells(arms[arm], metric) in boxes, (arm, metric)
    terms, sweep = ((ROOT / f"experiments/{folder}/README.md").read_text() for folder in ("grounding_terms", "gap_sweep"))
    for arm in ("stage 2", "no coverage gate", "IoU only", "L1 only", "base, stage 2", "base, IoU only"):
        for metric in ("own own", "own own - noise", "own gt - own", "own area", "own coverage", "own called"):
            assert cells(arms[arm], metric) in terms, (arm, metric)
    for arm in ("gap, bonus", "trained at 32", "trained at 64", "trained at 128", "no gap, bonus", "calibrated"):
        for metric in ("common own", "common own - noise", "own own", "own own - noise", "own coverage", "own called"):
            assert cells(arms[arm], metric) in sweep, (arm, metric)
    for arm in ("no gap, bonus", "gap, bonus"):
        assert cells(arms[arm], "own visual_tokens") in tokens and cells(arms[arm], "own own") in tokens
        assert cells(arms[arm], "own agrees") in looking


def test_the_decomposition_of_the_claims_is_that_of_the_kept_questions_and_stands_in_its_tables(monkeypatch):
    record = json.loads((ROOT / "experiments/claims/decomposition.json").read_text())
    monkeypatch.setattr(decomposition, "mean", lambda table: 100 * np.nanmean(table))  # the intervals take 40 s
    monkeypatch.setattr(decomposition, "interval", lambda of, *tables: of(*(np.nanmean(table) for table in tables)))
    for rows, again in (("arms", decomposition.record()), ("changes", decomposition.changes())):
        assert {row: {part: round(float(mean), 3) for part, mean in of.items()} for row, of in again.items()} == {
            row: {part: interval[0] for part, interval in of.items()} for row, of in record[rows].items()
        }
    kept, change = record["arms"], record["changes"]["stage 2 - stage 1"]
    verdicts = json.loads((ROOT / "experiments/claims/verdicts.json").read_text())["arms"]
    assert all(kept[f"{arm}, own view"]["own"] == verdicts[arm]["own own"] for arm in decomposition.TWO_BY_TWO)  # one rounding
    shown, front = (ROOT / "experiments/claims/README.md").read_text(), (ROOT / "README.md").read_text()
    for of in kept.values():
        assert " | ".join(cells(of, part) for part in decomposition.PARTS) in shown
    calls, hits, reads = (cells(change, step) for step in ("calls", "hits", "reads"))
    assert f"are {calls} of more calls, {hits} of more hits and {reads} of better reading" in shown
    claimed = json.loads((ROOT / "experiments/claims/verdicts.json").read_text())["claims"]["C5"]["accuracy"][0]
    assert sum(part[0] for part in change.values()) == pytest.approx(claimed, abs=0.01)
    for row, part in (
        ("base, 64 tokens", "hit"),
        *((f"{arm}, bonus, common view", part) for arm in ("gap", "no gap") for part in ("hit", "reliance")),
    ):
        assert all(f"{value:.1f}" in front for value in kept[row][part]), (row, part)


def test_a_change_of_accuracy_splits_into_calls_hits_and_reads_as_worked_by_hand(monkeypatch):
    monkeypatch.setattr(decomposition, "interval", lambda of, *tables: of(*(table.mean() for table in tables)))

    def happened(called: int, hit: int, read: int) -> decomposition.Events:
        """Of 100 questions so many had a crop, of these so many hit, of these so many were right; nothing else was right."""
        at = np.arange(100)[None]
        return decomposition.events((at < read) * 1.0, (at < called) * 1.0, np.where(at < called, (at < hit) * 1.0, np.nan))

    before, after = happened(50, 20, 10), happened(80, 64, 48)  # 0.5 x 0.4 x 0.5 = 10 %, 0.8 x 0.8 x 0.75 = 48 %
    parts = decomposition.split(after, before)
    assert parts["calls"] == pytest.approx(100 * 0.3 * (0.2 + 0.6) / 2)  # 12 of the 38 points
    assert parts["hits"] == pytest.approx(100 * 0.65 * 0.4 * (0.5 + 0.75) / 2)  # 16.25
    assert parts["reads"] == pytest.approx(100 * 0.65 * 0.6 * 0.25)  # 9.75
    assert parts["other"] == pytest.approx(0)
    assert set(decomposition.split(before, before).values()) == {0}


def test_the_probes_of_one_seed_stand_in_their_record():
    folder = ROOT / "experiments/gap_and_bonus"
    shown = (folder / "README.md").read_text()
    arms = ("own", "D_noise", "D_blank", "D_mean_colour", "D_elsewhere", "D_additive", "D_format_only", "U_GT", "tool_free", "forced")
    for probe, view in (("gap", "16"), ("gap", "64"), ("no_gap", "64"), ("no_gap", "256"), ("gap_greedy", "16"), ("no_gap_greedy", "256")):
        record = json.loads((folder / f"probes/{probe}.json").read_text())
        assert record["temperature"] == (0 if "greedy" in probe else 1)
        found = record["views"][view]["metrics"]
        for metric in [arm for arm in arms if arm in found]:
            mean, low, high = (100 * value for value in found[metric])
            assert f"{mean:.1f} [{low:.1f}, {high:.1f}]" in shown, (probe, view, metric)


def test_every_verdict_of_the_overview_is_the_recorded_one():
    claims = json.loads((ROOT / "experiments/claims/verdicts.json").read_text())["claims"]
    overview = (ROOT / "experiments/README.md").read_text().splitlines()
    for name, found in claims.items():
        [row] = [line for line in overview if line.startswith(f"| {name} ")]
        assert f"**{found['verdict']}**" in row, name


# The effect that the overview states, by the intervals of the record: (mean, low, high)
EFFECTS = {
    "C1": ("yes", lambda c: c["D_noise"][2] < 5 and c["crop rate"][1] > 80),
    "C2": ("yes", lambda c: c["gap - 1.5 x no gap"][1] > 0),
    "C3": ("yes", lambda c: c["no gap, bonus: D_noise"][2] < 5 and c["gap, no bonus: D_noise"][1] > 15),
    "C4": ("yes", lambda c: c["area over the base's"][1] > 1),
    "C5": ("yes", lambda c: c["IoU"][1] > 0 and c["area over stage 1's"][2] < 1 and c["accuracy"][1] > -2),
    "C6": ("no", lambda c: c["coverage"][1] > -5),
    "C7": ("no", lambda c: c["from the base: accuracy"][2] < 0),
    "C8": ("no", lambda c: c["accuracy"][1] > -3),
    "C9": ("unclear", lambda c: c["best - ends"][0][1] < 0 < c["best - ends"][0][2]),
    "C10": ("unclear", lambda c: c["calibrated - best level"][1] < -1 < c["calibrated - best level"][2]),
    "C11": ("yes", lambda c: c["no gap, bonus"][1] - c["gap, bonus"][2] > 20),
    "C12": ("unclear", lambda c: c["change"][1] < 0 < c["change"][2]),
    "C13": ("no", lambda c: c["solved - stage 1"][1] > 1),
    "C17": ("no", lambda c: c["difference"][2] < -2),
    "teach_groups": ("unclear", lambda c: c["accuracy"][1] < -2 < c["accuracy"][2]),
}


def test_every_effect_of_the_overview_follows_from_the_recorded_intervals():
    claims = json.loads((ROOT / "experiments/claims/verdicts.json").read_text())["claims"]
    overview = (ROOT / "experiments/README.md").read_text().splitlines()
    assert set(EFFECTS) == set(claims)
    for name, (effect, follows) in EFFECTS.items():
        [row] = [line for line in overview if line.startswith(f"| {name} ")]
        assert row.split(" | ")[1].startswith(f"**{effect}**") and follows(claims[name]), name


TABLES = {
    "update": lambda rows: [f"{row['ours_over_peer']:.2f}" for row in rows],
    "grpo_step": lambda rows: [f"{row['peer_over_ours']['median']:.3g}" for row in rows["cells"].values()],
    "rollout": lambda rows: [f"{row['peer_over_ours']['median']:.3g}" for row in rows],
    "images": lambda rows: [f"{row['peer']['peer_over_ours']['median']:.3g}" for row in rows["group"]],
    "selection": lambda rows: [f"{rows['searches'][search]['all']:,}" for search in ("exhaustive", "ladder", "bisection")],
    "step": lambda rows: [f"{row['rollout_s']['median']:.3g}" for row in rows["shipped"]],
    "peak": lambda rows: [f"{100 * row['share_of_peak']['median']:.0f} %" for row in rows],
    "information_gain": lambda rows: (
        [f"{row['gain_tokens']:,}" for row in rows] + [f"{row['seconds_over_rollout']['median']:.3g}" for row in rows]
    ),
    "growth": lambda rows: [f"{row['step_s']['median']:.3g}" for row in rows["visual"]],
}


@pytest.mark.parametrize("table", TABLES)
def test_the_numbers_of_the_speed_tables_stand_in_their_records_and_no_row_is_void(table):
    record = json.loads((ROOT / f"experiments/speed/{table}.json").read_text())
    shown = (ROOT / "experiments/speed/README.md").read_text()
    assert record["commit"] and record["cores"] == 2
    for number in TABLES[table](record["rows"]):
        assert number in shown, number
    assert '"void": ["' not in json.dumps(record)


def test_the_table_of_the_readers_is_that_of_its_record_and_has_every_published_set():
    rows = json.loads((ROOT / "experiments/readers/results.json").read_text())["rows"]
    shown = (ROOT / "experiments/readers/README.md").read_text()
    assert {row["set"] for row in rows} == set(SETS)
    for row in (row for row in rows if row["rows"] >= 100_000):
        assert f"| {row['set']} | {row['rows']:,} | " in shown and f"| {row['rows_per_processor_s']:,} | {row['memory_mib']} |" in shown
