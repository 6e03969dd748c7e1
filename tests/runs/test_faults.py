"""The records of experiments/faults: that enough was tried, what was lost, and that the README shows what was recorded."""

import json
from collections import Counter

import pytest

from experiments.faults import folders, growth, kills
from experiments.faults.children import differences
from focus.runs import train
from tests.support.runs import settings
from tests.support.updates import CountsTensors

README = (kills.HERE / "README.md").read_text()
KILLS, FOLDERS, GROWTH = (json.loads(module.KEPT.read_text()) for module in (kills, folders, growth))


@pytest.mark.parametrize("name", kills.CASES)
def test_every_command_was_killed_as_often_as_it_was_to_be_and_nothing_was_lost_or_hung(name):
    case = KILLS[name]
    assert sum(len(series["kills"]) for series in case["series"]) >= kills.CASES[name].kills
    assert [series["lost"] for series in case["series"] if series["lost"]] == []
    assert not any(kill["hung"] for series in case["series"] for kill in series["kills"])


def test_one_process_was_killed_200_times_and_two_ranks_50_times():
    counts = Counter({name: sum(len(series["kills"]) for series in case["series"]) for name, case in KILLS.items()})
    assert counts.pop("ranks") >= 50 and counts.total() >= 200


def test_no_folder_that_was_wanted_twice_carried_or_refused_ended_otherwise_and_every_refusal_is_a_sentence():
    trials = [(kind, name, trial) for kind, entries in FOLDERS.items() for name, entry in entries.items() for trial in entry["trials"]]
    assert {(kind, name) for kind, name, _ in trials} == {(kind, name) for kind in folders.TABLES for name in folders.ENTRIES}
    assert [(kind, name, trial["trial"]) for kind, name, trial in trials if trial["lost"] or trial.get("traceback")] == []


def test_a_training_of_500_updates_keeps_files_and_threads_and_hardly_gains_memory():
    rows = GROWTH["rows"]
    assert [row["updates"] for row in rows][-1] == 500
    assert len({row["files"] for row in rows}) == len({row["threads"] for row in rows}) == 1
    assert growth.rise(rows, "own_mib_min") < 0.1


def test_the_readme_shows_the_recorded_tables():
    for text in (kills.table(KILLS), kills.phases(KILLS), folders.table(FOLDERS), growth.table(GROWTH)):
        assert text.strip() in README


def test_a_lost_a_changed_and_a_left_over_file_are_told_apart():
    before, after = {"a": "1", "b": "2", "c": "3"}, {"b": "2", "c": "torn: x", "d": "4"}
    assert differences(before, after) == ["lost: a", "torn: x: c", "left over: d"]
    assert differences(before, before | {"c": "4"}) == ["other: c"]


def test_an_update_leaves_no_tensor_behind(tmp_path, random_policy, monkeypatch):
    monkeypatch.setattr(CountsTensors, "counts", [])
    more = "objective.updates=6", "evaluation.samples=0", "+trainer.callbacks=[{_target_: tests.support.updates.CountsTensors}]"
    train.run(settings(tmp_path / "run", random_policy, *more))
    assert len(CountsTensors.counts) == 6 and len(set(CountsTensors.counts[2:])) == 1
