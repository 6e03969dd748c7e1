"""The table of answers with labels: what the rungs of the ladder say to each, and what is recorded of it."""

import json

import pytest

from experiments.grading.measure import HERE, measure, pairs, table

ROWS = pairs()


def test_the_recorded_table_is_what_the_ladder_says_now():
    record = measure(ROWS)
    assert json.loads((HERE / "results.json").read_text()) == json.loads(json.dumps(record))
    assert (HERE / "README.md").read_text().endswith(table(record))


def test_the_table_holds_many_pairs_of_every_kind_right_and_wrong():
    assert len(ROWS) >= 150
    for kind in {row["kind"] for row in ROWS}:
        assert {row["right"] for row in ROWS if row["kind"] == kind} == {True, False}, kind
    assert len({(row["question"], row["scorer"], row["answer"]) for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("kind", sorted({row["kind"] for row in ROWS}))
def test_no_wrong_answer_of_the_table_is_right_by_its_normal_form(kind):
    assert [row["answer"] for row in ROWS if row["kind"] == kind and row["rung"] == "normal form" and not row["right"]] == []
