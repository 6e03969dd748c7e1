"""Bad files: tables that are torn, moved, empty or of another format."""

import base64
import json
import random
import tempfile
from collections.abc import Callable
from math import isfinite
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from focus.data.readers import SETS, ingest, tables, vstar
from focus.data.readers.draft import Reason
from focus.data.readers.tables import rows_of
from focus.data.readers.text import parse_list
from tests.support.published import WRITERS, picture, write_bytes, write_json
from tests.support.reading import PROPERTY, Read, cell, changed, sha256

# -------------------------------------------------------------------------------------------------- files that are wrong


def renamed(old: str, new: str) -> Callable[[list[dict]], None]:
    def change(rows: list[dict]) -> None:
        rows[:] = [{new if key == old else key: value for key, value in row.items()} for row in rows]

    return change


@pytest.mark.parametrize("name, path, column, form", [  # of JSON the first row alone may be odd
    ("vstar", "test_questions.jsonl", "text", {}),
    ("hrbench4k", "hr_bench_4k.parquet", "question", {}),
    ("hrbench4k", "hr_bench_4k.tsv", "image", {"form": "tsv"}),
    ("mme_rw_lite", "data/train-00000-of-00004.parquet", "multi-choice options", {}),
    ("mme_rw", "MME_RealWorld.json", "Answer choices", {}),
    ("treebench", "TreeBench.tsv", "target_instances", {}),
    ("zoombench", "data/test.parquet", "query", {}),
    ("visualprobe_train", "train.json", "problem", {}),
    ("pixelreasoner", "release.parquet", "answer", {}),
    ("treevgr_rl", "vstar30k_visdrone6k_x1y1x2y2.parquet", "target_instances", {}),
    ("viscot", "metadata/cub_cot_train.jsonl", "bboxs", {"copies": 2}),
])  # fmt: skip
def test_a_table_without_a_column_of_its_format_is_refused_with_file_row_and_the_columns_there(tmp_path, name, path, column, form):
    with pytest.raises(ValueError) as told:
        Read(tmp_path, name, changed(path, renamed(column, "renamed_column")), **form)
    row = "row 2" if "json" in path else "row 1"
    assert all(part in str(told.value) for part in (Path(path).name, row, column, "renamed_column"))


@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_that_holds_something_else_is_refused_with_what_is_looked_for_and_what_is_there(tmp_path, name):
    write_bytes(tmp_path / "published/elsewhere.txt", b"moved")
    with pytest.raises(ValueError) as told:
        ingest(SETS[name], tmp_path / "published", tmp_path / "kept")
    assert "elsewhere.txt" in str(told.value)


@pytest.mark.parametrize("name, sought", [
    ("vstar", "test_questions.jsonl"),
    ("hrbench4k", "hr_bench_4k"),
    ("hrbench8k", "hr_bench_8k"),
    ("mme_rw", "MME_RealWorld.json"),
    ("mme_rw_cn", "MME_RealWorld_CN.json"),
    ("treebench", "TreeBench.tsv"),
    ("visualprobe", "VisualProbe_"),
    ("visualprobe_train", "train.json"),
    ("pixelreasoner", "release.parquet"),
    ("viscot", "_cot_train.jsonl"),
    ("viscot_chat", "viscot_363k.json"),
    ("textvqa_ocr", "TextVQA_0.5.1_"),
])  # fmt: skip
def test_a_moved_table_is_named(tmp_path, name, sought):
    write_bytes(tmp_path / "published/elsewhere.txt", b"moved")
    with pytest.raises(ValueError) as told:
        ingest(SETS[name], tmp_path / "published", tmp_path / "kept")
    assert sought in str(told.value)


@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_that_does_not_exist_is_named(tmp_path, name):
    with pytest.raises(ValueError, match="nowhere"):
        ingest(SETS[name], tmp_path / "nowhere", tmp_path / "kept")


def test_what_is_written_must_not_lie_among_the_published_files(tmp_path):
    WRITERS["vstar"](tmp_path / "published")
    with pytest.raises(ValueError, match=r"data\.cache_dir .* inside data\.root"):
        ingest(SETS["vstar"], tmp_path / "published", tmp_path / "published/kept")


def test_the_scene_graphs_and_the_words_of_images_are_looked_for_too(tmp_path):
    for name, missing, sought in (
        ("gqa", "train_sceneGraphs.json", "sceneGraphs"),
        ("textvqa_ocr", "TextVQA_Rosetta_OCR_v0.2_train.json", "Rosetta"),
    ):
        with pytest.raises(ValueError, match=sought):
            Read(tmp_path / name, name, lambda root, missing=missing: (root / missing).unlink())


def test_a_table_that_is_cut_off_is_refused_by_name(tmp_path):
    for name, path in (("visualprobe_train", "train.json"), ("hrbench4k", "hr_bench_4k.parquet"), ("vstar", "test_questions.jsonl")):
        with pytest.raises(ValueError, match=Path(path).name):
            Read(tmp_path / name, name, lambda root, path=path: (root / path).write_bytes((root / path).read_bytes()[:-40]))


def test_a_refused_set_leaves_no_records_behind(tmp_path):
    with pytest.raises(ValueError):
        Read(tmp_path, "visualprobe_train", changed("train.json", renamed("problem", "renamed_column")))
    assert not (tmp_path / "kept/records.jsonl").exists()


@pytest.mark.parametrize("compression", ["none", "snappy"])
def test_a_row_group_of_many_pages_is_never_in_memory_as_a_whole(tmp_path, compression):
    blobs = [random.Random(number).randbytes(1 << 20) for number in range(64)]
    table = pa.table({"image": blobs})
    pq.write_table(table, tmp_path / "big.parquet", compression=compression, write_batch_size=4)  # a page takes 4 rows
    assert pq.ParquetFile(tmp_path / "big.parquet").num_row_groups == 1
    del table
    before, most = pa.total_allocated_bytes(), 0
    for (_, row), blob in zip(rows_of(tmp_path / "big.parquet"), blobs, strict=True):
        assert row == {"image": blob}
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 32 << 20


def test_lines_that_are_blank_are_no_rows(read):
    def change(root: Path) -> None:
        path = root / "test_questions.jsonl"
        path.write_text(path.read_text() + "\n\n")

    assert len(read("vstar", change).samples) == 3


def test_an_unusual_letter_in_a_question_stays_as_it_is(read):
    text = "Was steht über der Tür – „Café“? \U0001f6aa"
    found = read("treebench", changed("TreeBench.tsv", cell(0, "question", text)))
    assert found["0"].question == text


def test_the_fixtures_themselves_name_distinct_pictures():
    assert len({picture((100, 80), colour) for colour in range(119)}) == 119


# ----------------------------------------------------------------------------------------------------- tables and values


def torn(old: bytes, new: bytes) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        path = root / "TreeBench.tsv"
        assert path.read_bytes().count(old) == 1
        path.write_bytes(path.read_bytes().replace(old, new))

    return change


@pytest.mark.parametrize("old, new, row", [
    (b"Which is first, left or right?", b'"Which is first, left or right?', 2),  # a quote that is never closed
    (b"[[0, 0, 30, 30], [60.5", b'"[[0, 0, 30, 30], [60.5', 2),  # so too, in the last cell, which takes the next row in
    (b"Which is first, left or right?", b"Which is first,\tleft or right?", 2),  # a cell more
    (b"What is it made of?\twood\t", b"What is it made of?\t", 3),  # a cell less
])  # fmt: skip
def test_a_tsv_row_of_another_shape_is_refused_with_file_and_row(tmp_path, old, new, row):
    with pytest.raises(ValueError, match=rf"TreeBench\.tsv, row {row}: the file can't be read .*; correct it, or download it again"):
        Read(tmp_path, "treebench", torn(old, new))


@pytest.mark.parametrize("name, path, form", [
    ("treebench", "TreeBench.tsv", {}),
    ("vstar", "test_questions.jsonl", {}),
    ("visualprobe_train", "train.json", {}),
    ("textvqa_ocr", "TextVQA_0.5.1_train.json", {}),
    ("gqa", "train_balanced_questions.json", {}),
])  # fmt: skip
def test_a_byte_order_mark_is_no_part_of_a_table(tmp_path, name, path, form):
    marked = Read(tmp_path / "marked", name, lambda root: (root / path).write_bytes(b"\xef\xbb\xbf" + (root / path).read_bytes()), **form)
    assert [sample.id for sample in marked.samples] == [sample.id for sample in Read(tmp_path / "plain", name, **form).samples]


def test_a_line_of_json_that_is_torn_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"test_questions\.jsonl.*can't be read"):
        Read(tmp_path, "vstar", lambda root: (root / "test_questions.jsonl").write_bytes(b"[" * 100_000))


@pytest.mark.parametrize("broken", [b"[" * 100_000, b'{"question_id": 7', b"5", b"[1, 2]", b"\xff\xfe", b'{"a": ' * 5000 + b"}" * 5000])
def test_a_line_that_is_no_record_costs_itself(read, broken):
    def change(root: Path) -> None:
        path = root / "test_questions.jsonl"
        first, *others = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join([first, broken + b"\n", *others]))

    found = read("vstar", change)
    assert len(found.samples) == 3 and found.dropped == {Reason.BAD_LINE: 1}
    assert "test_questions.jsonl, row 2, line: " in found.reading.first[Reason.BAD_LINE]


@pytest.mark.parametrize("deep", [b"[" * 100_000, b"no JSON"])
def test_a_json_beside_an_image_that_cannot_be_read_costs_its_boxes(read, deep):
    found = read("vstar", lambda root: (root / "direct_attributes/sa_24.json").write_bytes(deep))
    assert len(found.samples) == 3 and found["1"].boxes == () and found.reading.notes == {vstar.UNREADABLE: 1}


def put_first(row: bytes) -> Callable[[Path], None]:
    """Write a row before those of the list in train.json."""

    def change(root: Path) -> None:
        path = root / "train.json"
        path.write_bytes(b"[" + row + b", " + path.read_bytes().lstrip()[1:])

    return change


def test_an_item_of_a_list_that_is_no_record_costs_itself(read):
    found = read("visualprobe_train", put_first(b'"a text"'))
    assert len(found.samples) == 2 and found.dropped == {Reason.BAD_LINE: 1}


@pytest.mark.parametrize("opened", [b"[", b'{"a": '])
@pytest.mark.parametrize("levels", [600, 100_000])
def test_a_list_of_records_that_is_nested_too_deeply_is_refused_before_it_takes_memory(read, levels, opened):
    row = b'{"problem": ' + opened * levels + b"1" + (b"]" if opened == b"[" else b"}") * levels + b"}"
    with pytest.raises(ValueError, match=r"train\.json, row 1: the file can't be read \(it is nested more than 500 deep\)"):
        read("visualprobe_train", put_first(row))


@pytest.mark.parametrize("text", ["[" * 5000, '\\"[{' * 2000, "\\" * 4001 + "[" * 3000])
def test_brackets_inside_a_text_nest_nothing(read, text):
    found = read("visualprobe_train", changed("train.json", cell(0, "problem", f"What is {text}?")))
    assert found["doc_0"].question == f"What is {text}?" and not found.dropped


@pytest.mark.parametrize(("name", "path"), [("vstar", "test_questions.jsonl"), ("visualprobe_train", "train.json")])
def test_a_row_of_many_empty_lists_is_not_held(tmp_path, monkeypatch, name, path):
    monkeypatch.setattr(tables, "LARGEST_ROW", 300_000)
    held: list[int] = []
    monkeypatch.setattr(tables.json, "loads", lambda text, loads=json.loads, **more: (held.append(len(text)), loads(text, **more))[1])

    def change(root: Path) -> None:
        rows = (root / path).read_bytes()
        long = b'{"x": [' + b"[]," * 400_000 + b"[]]}"
        (root / path).write_bytes(long + b"\n" + rows if path.endswith("jsonl") else b"[" + long + b"," + rows.lstrip()[1:])

    if path.endswith("jsonl"):
        found = Read(tmp_path, name, change)
        assert len(found.samples) == 3 and "more than 300000 bytes" in found.reading.first[Reason.BAD_LINE]
    else:
        with pytest.raises(ValueError, match=r"train\.json, row 1: the file can't be read \(it has more than 300000 bytes\)"):
            Read(tmp_path, name, change)
    assert max(held, default=0) < 300_000


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("path", ["train.json", "val.json"])
def test_a_number_that_json_has_not_costs_nothing_where_nobody_looks(tmp_path, number, path):
    def change(root: Path) -> None:
        for found in root.rglob(path):
            rows = json.loads(found.read_text())
            rows[0] |= {"difficulty": float(number), "problem": f'Is "{number}" or {number} written there?'}
            found.write_text(json.dumps(rows))

    found = Read(tmp_path, "visualprobe_train" if path == "train.json" else "visualprobe", change)
    assert not found.dropped and f"or {number} written" in found.samples[0].question
    rotten = Read(tmp_path / "rotten", "visualprobe_train", changed("train.json", cell(0, "solution", float(number))))
    assert rotten.dropped == {Reason.BAD_VALUE: 1} and len(rotten.samples) == 1


VALUES = st.none() | st.floats() | st.text(max_size=5) | st.sampled_from(['"NaN', "\\", "-Infinity"])


@PROPERTY
@given(st.recursive(VALUES, st.lists, max_leaves=12), st.integers(1, 40))
def test_names_of_numbers_are_null_wherever_a_block_ends(value, block):
    def plain(found: object) -> object:
        if isinstance(found, list):
            return [plain(each) for each in found]
        return None if isinstance(found, float) and not isfinite(found) else found

    with tempfile.TemporaryFile() as file:
        file.write(json.dumps([value, float("nan")], ensure_ascii=False).encode())
        file.seek(0)
        stream = tables._Json(file)
        read = b"".join(iter(lambda: stream.read(block), b""))
    assert json.loads(read) == [plain(value), None]


def test_odd_first_rows_cost_themselves_alone(tmp_path):
    def change(rows: list[dict]) -> None:
        for row in rows[:2]:
            del row["conversations"][1]["value"]

    deep = Read(tmp_path / "deep", "seal", changed("llava_focus_data.json", change), copies=2)
    flat = Read(tmp_path / "flat", "vstar", changed("test_questions.jsonl", lambda rows: rows.insert(0, {"version": 2, "question_id": 9})))
    assert len(deep.samples) == 2 and len(flat.samples) == 3
    for found, count, place in (
        (deep, 2, "llava_focus_data.json, row 1, conversations: no 'value'"),
        (flat, 1, "test_questions.jsonl, row 1, "),
    ):
        assert found.dropped == {Reason.LACKS_KEY: count} and place in found.reading.first[Reason.LACKS_KEY]


@pytest.mark.parametrize(
    "name, path", [("visualprobe_train", "train.json"), ("vstar", "test_questions.jsonl"), ("treebench", "TreeBench.tsv")]
)
def test_a_table_without_rows_is_told_to_be_downloaded_again(tmp_path, name, path):
    def empty(root: Path) -> None:
        (root / path).write_bytes({".json": b"[]", ".jsonl": b"\n"}.get(Path(path).suffix, (root / path).read_bytes().partition(b"\n")[0]))

    with pytest.raises(ValueError, match="download"):
        Read(tmp_path, name, empty)


@pytest.mark.parametrize(("form", "nothing"), [("tsv", "nan"), *((form, nothing) for form in ("parquet", "tsv") for nothing in ("", " "))])
def test_an_hrbench_option_that_is_missing_costs_its_row(read, form, nothing):
    found = read("hrbench4k", changed(f"hr_bench_4k.{form}", cell(2, "C", nothing)), form=form)
    assert found.dropped == {Reason.BAD_VALUE: 1} and len(found.samples) == 7
    assert "row 3, A, B, C, D" in found.reading.first[Reason.BAD_VALUE]


def test_base64_may_be_broken_into_lines(read):
    lines = base64.encodebytes(picture((120, 90), 11, "PNG")).decode()
    assert lines.count("\n") > 2
    found = read("hrbench4k", changed("hr_bench_4k.parquet", cell(4, "image", lines)))
    assert not found.dropped and found["4"].image.path.name == f"{sha256(picture((120, 90), 11, 'PNG'))}.png"


def test_one_blank_of_ten_answers_is_left_out_and_noted(tmp_path):
    blank = ["stop"] * 8 + ["halt", "  "]

    def change(root: Path) -> None:
        table = json.loads((root / "TextVQA_0.5.1_train.json").read_text())
        table["data"][0]["answers"] = blank
        write_json(root / "TextVQA_0.5.1_train.json", table)

    table = changed("data/validation-00000-of-00001.parquet", cell(0, "answers", blank))
    for found in (Read(tmp_path / "a", "textvqa", table), Read(tmp_path / "b", "textvqa_ocr", change)):
        assert found.samples[0].answers == ("stop",) * 8 + ("halt",) and not found.dropped
        assert found.reading.notes["one of several answers is empty and is left out"] == 1


def test_numbers_among_the_answers_of_json_are_read_as_text(tmp_path):
    door = Read(tmp_path / "door", "visualprobe_train", changed("train.json", cell(1, "solution", 17)))
    gate = Read(tmp_path / "gate", "vigorl", changed("visual_search/vigorl_SA_RL.jsonl", cell(1, "answer", 2.5)))
    assert door["doc_1"].answers == ("17",) and gate.samples[1].answers == ("2.5",) and gate.samples[1].scorer == "number"
    truth = Read(tmp_path / "truth", "vigorl", changed("visual_search/vigorl_SA_RL.jsonl", cell(1, "answer", True)))
    assert truth.dropped == {Reason.BAD_VALUE: 1}


def test_a_list_that_is_stored_as_text_may_be_python_or_json():
    assert parse_list("['a', None, True]", "key") == parse_list('["a", null, true]', "key") == ["a", None, True]


@pytest.mark.parametrize("reason, change", [
    (Reason.NOT_AN_OPTION, lambda rows: rows[1].update(label="Z")),
    (Reason.BAD_VALUE, lambda rows: rows[1].update(text=5)),
    (Reason.LACKS_KEY, lambda rows: rows[1].pop("text")),
])  # fmt: skip
def test_a_row_that_is_laid_out_otherwise_says_which_release_to_get(read, reason, change):
    told = read("vstar", changed("test_questions.jsonl", change)).reading.first[reason]
    assert told.endswith("; if many rows are like it, download the release that conf/data/vstar.yaml names")
