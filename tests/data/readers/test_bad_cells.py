"""Bad cells: each costs its own row and is counted with its reason."""

import base64
from dataclasses import replace

import pytest

from focus.data.readers import SETS, ingest
from focus.data.readers.draft import Location, Reason
from tests.support.published import WRITERS
from tests.support.reading import Read, cell, changed


@pytest.mark.parametrize("rubbish", ["%%% not base64 %%%", "a", "data", "abc"])
@pytest.mark.parametrize("form", ["parquet", "tsv"])
def test_rubbish_where_base64_should_stand_is_counted_with_file_row_and_key(read, form, rubbish):
    found = read("hrbench4k", changed(f"hr_bench_4k.{form}", cell(2, "image", rubbish)), form=form)
    expected = Reason.BAD_IMAGE if rubbish in ("data", "abc") else Reason.BAD_BASE64  # letters are base64, of bytes that are no image
    assert found.dropped == {expected: 1} and len(found.samples) == 7
    assert all(part in found.reading.first[expected] for part in (f"hr_bench_4k.{form}", "row 3", "image"))


def test_base64_of_something_that_is_no_image_is_a_bad_image(read):
    text = base64.b64encode(b"an error page").decode()
    found = read("mme_rw_lite", changed("data/train-00002-of-00004.parquet", cell(0, "bytes", text)))
    assert found.dropped == {Reason.BAD_IMAGE: 1}
    assert all(part in found.reading.first[Reason.BAD_IMAGE] for part in ("train-00002-of-00004.parquet", "row 1", "bytes"))


@pytest.mark.parametrize("text", ["none at all", "['(A) 3', '(B)", "__import__('pathlib').Path('ran').touch()", "7"])
def test_a_stringified_list_of_options_that_is_none_is_counted_and_never_run(read, monkeypatch, tmp_path, text):
    monkeypatch.chdir(tmp_path)
    found = read("mme_rw_lite", changed("mme_realworld_lite.tsv", cell(1, "multi-choice options", text)), form="tsv")
    assert found.dropped == {Reason.BAD_LIST: 1} and len(found.samples) == 3 and not (tmp_path / "ran").exists()
    assert all(
        part in found.reading.first[Reason.BAD_LIST] for part in ("mme_realworld_lite.tsv", "row 2", "multi-choice options", text[:10])
    )


@pytest.mark.parametrize("text", ["none at all", "[[1, 2, 3, 4]", "__import__('pathlib').Path('ran').touch()"])
def test_treebench_targets_that_are_no_list_are_counted_and_never_run(read, monkeypatch, tmp_path, text):
    monkeypatch.chdir(tmp_path)
    found = read("treebench", changed("TreeBench.tsv", cell(2, "target_instances", text)))
    assert found.dropped == {Reason.BAD_LIST: 1} and len(found.samples) == 2 and not (tmp_path / "ran").exists()
    assert all(part in found.reading.first[Reason.BAD_LIST] for part in ("TreeBench.tsv", "row 3", "target_instances"))


def test_of_two_rows_with_one_id_the_first_stays(read):
    found = read("vstar", changed("test_questions.jsonl", cell(2, "question_id", 0)))
    assert [sample.question for sample in found.samples] == ["What is the material of the glove?", "What is the color of the flag?"]
    assert found.dropped == {Reason.REPEATED: 1} and "row 3" in found.reading.first[Reason.REPEATED]


def test_an_id_written_as_a_number_and_as_a_string_is_one_id(read):
    found = read("vstar", changed("test_questions.jsonl", cell(1, "question_id", "0")))
    assert found.dropped == {Reason.REPEATED: 1} and len(found.samples) == 2


def test_an_answer_that_is_none_of_the_options_is_counted(tmp_path):
    boats = Read(tmp_path / "hr", "hrbench4k", changed("hr_bench_4k.parquet", cell(0, "answer", "E")))
    cars = Read(tmp_path / "mme", "mme_rw_lite", changed("data/train-00000-of-00004.parquet", cell(0, "answer", "F")))
    dogs = Read(tmp_path / "vstar", "vstar", changed("test_questions.jsonl", cell(2, "label", "C")))
    for found, place in ((boats, "hr_bench_4k.parquet"), (cars, "train-00000-of-00004.parquet"), (dogs, "test_questions.jsonl")):
        assert found.dropped == {Reason.NOT_AN_OPTION: 1} and place in found.reading.first[Reason.NOT_AN_OPTION]


def test_a_row_without_answer_or_without_question_is_counted(tmp_path):
    silent = Read(tmp_path / "silent", "visualprobe_train", changed("train.json", cell(0, "solution", "  ")))
    empty = Read(tmp_path / "empty", "visualprobe_train", changed("train.json", cell(0, "problem", "<image>\n")))
    assert silent.dropped == {Reason.NO_ANSWER: 1} and empty.dropped == {Reason.NO_QUESTION: 1}


def test_a_value_of_another_type_is_counted_with_what_was_seen(read):
    found = read("visualprobe_train", changed("train.json", cell(1, "solution", ["17", "seventeen"])))
    assert found.dropped == {Reason.BAD_VALUE: 1}
    assert all(part in found.reading.first[Reason.BAD_VALUE] for part in ("train.json", "row 2", "solution", "seventeen"))


RUBBISH = (None, True, 5, -2.5, float("nan"), 10**30, "", "x", "\0", b"x", [], [5], [None], [{}], ["a", "b"], [[1, 2]], {}, {"a": {"b": 5}})


@pytest.mark.parametrize("name", WRITERS)
def test_rubbish_in_any_column_costs_its_own_row_at_most(tmp_path, name):
    found = Read(tmp_path, name)
    rows = list(SETS[name].rows(found.root))
    location, last = rows[-1]
    rows += [(Location(location.file, location.row + 1), last | {column: value}) for column in last for value in RUBBISH]
    reading = ingest(replace(SETS[name], rows=lambda _: iter(rows)), found.root, tmp_path / "rubbish")
    assert [sample.id for sample in reading.samples][: len(found.samples)] == [sample.id for sample in found.samples]
    assert len(reading.samples) + reading.dropped.total() == len(rows)


def test_where_published_ids_repeat_rows_are_kept_apart_and_elsewhere_the_first_stays(tmp_path):
    turns = Read(tmp_path / "seal", "seal", changed("llava_focus_data.json", cell(1, "id", "s0")))
    assert len({sample.id for sample in turns.samples}) == 2 and not turns.dropped
    slopes = Read(tmp_path / "pixels", "pixelreasoner", changed("release.parquet", cell(2, "qid", "p0")))
    assert len(slopes.samples) == 1 and slopes.dropped[Reason.REPEATED] == 1


@pytest.mark.parametrize("value", [None, True, "", 2.5, [0]])
def test_a_row_without_a_usable_id_is_counted_under_its_column(read, value):
    found = read("vstar", changed("test_questions.jsonl", cell(1, "question_id", value)))
    assert found.dropped == {Reason.BAD_VALUE: 1} and "row 2, question_id" in found.reading.first[Reason.BAD_VALUE]


def test_a_row_that_lacks_a_key_its_neighbours_have_is_counted(read):
    found = read("vstar", changed("test_questions.jsonl", lambda rows: rows[2].pop("label")))
    assert found.dropped == {Reason.LACKS_KEY: 1} and len(found.samples) == 2
    assert all(part in found.reading.first[Reason.LACKS_KEY] for part in ("test_questions.jsonl", "row 3", "label"))


def test_what_was_first_met_is_told_of_the_first_row_only(read):
    found = read("hrbench4k", changed("hr_bench_4k.parquet", cell(3, "answer", "Q"), cell(5, "answer", "Z")))
    assert found.dropped == {Reason.NOT_AN_OPTION: 2} and set(found.reading.first) == {Reason.NOT_AN_OPTION}
    first = found.reading.first[Reason.NOT_AN_OPTION]
    assert "row 4" in first and "answer" in first and "'Q'" in first


def test_what_was_first_met_begins_with_the_id_of_its_row(read):
    found = read("hrbench4k", changed("hr_bench_4k.parquet", cell(3, "answer", "Q")))
    assert found.reading.first[Reason.NOT_AN_OPTION].split(": ")[0].endswith("3")
