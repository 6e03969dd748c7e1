"""Questions of your own: three columns are enough, and files of other trainers are read as they are."""

import base64
import json

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from focus.data.readers.own import is_canonical
from focus.data.sample import Sample
from focus.data.source import open_source

CHAT = [
    {"role": "system", "content": "You can zoom."},
    {"role": "user", "content": "<image>\nWhich colour?"},
    {"role": "assistant", "content": "red"},
]


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (64, 48), "red").save(tmp_path / "a.png")
    return tmp_path


def write(folder, *rows: dict, name: str = "mine.jsonl"):
    path = folder / name
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    else:
        path.write_text(json.dumps(list(rows)) if path.suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path, **more) -> list[Sample]:
    return list(open_source("records", str(path), None, kept=path.parent / "cache/records", **more))


def test_image_question_and_answers_are_enough_and_the_rest_is_derived(folder):
    path = write(
        folder,
        {"image": "a.png", "question": "Which number?", "answers": ["27"]},
        {"image": "a.png", "question": "Why?", "answers": "since"},
    )
    one, two = read(path)
    assert (one.id, one.source, one.split, one.size, one.scorer) == ("mine/train/1", "mine", "train", (64, 48), "number")
    assert (two.id, two.answers, two.scorer, two.group) == ("mine/train/2", ("since",), "judge", one.group)
    assert one.open().size == (64, 48)


def test_other_columns_of_a_record_are_used_where_they_are_there(folder):
    row = {
        "image": "a.png",
        "question": "Which colour?",
        "answers": ["B"],
        "options": ["blue", "red"],
        "id": "x",
        "split": "hard",
        "group": "g",
    }
    boxes = [[[8, 8, 16, 16], [4, 4, 24, 24]]]
    [sample] = read(write(folder, row | {"boxes": boxes}))
    assert (sample.id, sample.scorer, sample.answers, sample.group) == ("mine/hard/x", "letter", ("B", "red"), "g")
    assert sample.options == (("A", "blue"), ("B", "red"))
    assert sample.boxes == (((8.0, 8.0, 16.0, 16.0), (4.0, 4.0, 24.0, 24.0)),)


@pytest.mark.parametrize("boxes", [[8, 8, 16, 16], [[8, 8, 16, 16]], [[[8, 8, 16, 16]]], "[[8, 8, 16, 16]]"])
def test_boxes_may_be_one_a_list_or_chains(folder, boxes):
    [sample] = read(write(folder, {"image": "a.png", "question": "Which colour?", "answers": ["red"], "scorer": "exact", "boxes": boxes}))
    assert sample.boxes == (((8.0, 8.0, 16.0, 16.0),),) and sample.scorer == "exact"


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"prompt": "<image>Which colour?", "images": ["a.png"], "solution": "red"}, "mine.jsonl"),
        (
            {
                "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which colour?"}]}],
                "image": "a.png",
                "solution": "red",
            },
            "mine.jsonl",
        ),
        ({"messages": CHAT[:2], "images": [{"path": "a.png"}], "solution": "red"}, "mine.jsonl"),
        ({"messages": CHAT, "images": ["a.png"]}, "mine.jsonl"),
        ({"prompt": "Which colour?", "image": "a.png", "solution": "<think> blue? </think>\n<answer> red </answer>"}, "mine.jsonl"),
        ({"prompt": CHAT[:2], "images": [{"path": "a.png"}], "reward_model": {"style": "rule", "ground_truth": "red"}}, "mine.parquet"),
        (
            {
                "id": "7",
                "image": "a.png",
                "conversations": [{"from": "human", "value": "<image>\nWhich colour?"}, {"from": "gpt", "value": "red"}],
            },
            "mine.json",
        ),
    ],
    ids=["TRL", "TRL, messages", "ms-swift", "ms-swift, reply", "TRL, tags", "verl", "LLaVA"],
)
def test_files_of_other_trainers_are_read_as_they_are(folder, row, name):
    [sample] = read(write(folder, row, name=name))
    assert (sample.question, sample.answers, sample.size) == ("Which colour?", ("red",), (64, 48))


@pytest.mark.parametrize(("name", "between"), [("mine.csv", ","), ("mine.tsv", "\t")])
def test_a_table_of_a_spreadsheet_is_read(folder, name, between):
    rows = (("image", "question", "answers"), ("a.png", '"Which colour, please?"', "red"))
    (folder / name).write_text("\ufeff" + "".join(between.join(row) + "\r\n" for row in rows), newline="")
    [sample] = read(folder / name)
    assert (sample.question, sample.answers, sample.size) == ("Which colour, please?", ("red",), (64, 48))


def test_images_may_be_bytes_in_a_parquet_file(folder):
    row = {"question": "Which colour?", "answer": "red", "images": [{"bytes": (folder / "a.png").read_bytes(), "path": None}]}
    [sample] = read(write(folder, row, name="mine.parquet"))
    assert sample.open().size == (64, 48)


def test_columns_of_other_names_are_mapped(folder):
    path = write(folder, {"picture": "a.png", "query": "Which colour?", "label": "red"})
    [sample] = read(path, columns={"image": "picture", "question": "query", "answers": "label"})
    assert (sample.question, sample.answers) == ("Which colour?", ("red",))


def test_a_file_without_the_columns_is_refused_once_with_those_it_has_and_a_mapping_to_try(folder):
    path = write(folder, {"image_path": "a.png", "query": "Which colour?", "verdict": "red"})
    with pytest.raises(
        ValueError, match="has the columns image_path, query, verdict; a question needs image, question and answers"
    ) as refused:
        read(path)
    assert "data.columns='{image: image_path, question: query, answers: COLUMN}'" in str(refused.value)
    with pytest.raises(ValueError, match=r"data.columns names lable \(for answers\), but .* has the columns image_path, query, verdict"):
        read(path, columns={"answers": "lable"})


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_is_said_to_be_empty(folder, content):
    (folder / "mine.jsonl").write_text(content)
    with pytest.raises(ValueError, match=r"mine\.jsonl has no rows; write one JSON object per line"):
        read(folder / "mine.jsonl")


def test_a_folder_without_the_images_is_an_error_and_not_an_accuracy_of_zero(folder):
    row = {"image": "gone.png", "question": "Which colour?", "answers": ["red"]}
    with pytest.raises(ValueError, match=r"holds no usable row of mine .*its image file does not exist.*gone\.png"):
        read(write(folder, row))
    canonical = {"schema": 1, "id": "1", "source": "s", "split": "train", "width": 64, "height": 48, **row}
    with pytest.raises(
        ValueError, match=r"none of the first 1 images .* exists \(first: .*gone.png\); image paths are relative to .*set data.root"
    ):
        read(write(folder, canonical, name="records.jsonl"))


def test_one_missing_image_costs_its_question_and_is_counted(folder, capsys):
    rows = ({"image": name, "question": "Which colour?", "answers": ["red"]} for name in ("a.png", "gone.png"))
    assert len(read(write(folder, *rows))) == 1
    assert "1 row dropped: its image file does not exist" in capsys.readouterr().out


def test_a_changed_file_is_read_again_and_two_files_keep_their_own_records(folder):
    row = {"image": "a.png", "question": "Which colour?", "answers": ["red"]}
    first, other = write(folder, row), write(folder, row | {"question": "Which shade?"}, name="other.jsonl")
    assert [read(path)[0].question for path in (first, other, first)] == ["Which colour?", "Which shade?", "Which colour?"]
    write(folder, row, row)
    assert len(read(first)) == 2


def test_canonical_records_are_told_by_their_schema(folder):
    assert is_canonical(write(folder, {"schema": 1}, name="records.jsonl")) and not is_canonical(write(folder, {"image": "a"}))
    (folder / "torn.jsonl").write_text("{\n")
    assert is_canonical(folder / "torn.jsonl")  # the reader of records names its line


GOOD = {"image": "a.png", "question": "Which colour?", "answers": ["red"], "scorer": "exact"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"question": None}, "its question is empty, or empty without its wrapping (first: mine.jsonl, row 1, question: 'null')"),
        ({"question": 5}, "question: '5, neither a text nor messages')"),
        ({"scorer": "fuzzy"}, "scorer: 'fuzzy; there are letter, number, exact, anls, vqa10, judge')"),
        ({"options": "red, blue"}, "a list is expected, or a text that holds one (first: mine.jsonl, row 1, options: 'red, blue')"),
        ({"image": "http://a.org/b.png"}, "image: 'http://a.org/b.png is an address: download it')"),
        ({"image": "data:image/png;base64,AAAA"}, "its image can't be used, for the reason given below: replace a damaged file"),
    ],
)
def test_a_row_that_can_not_be_used_is_told_by_its_value_and_what_is_allowed(folder, changes, said, capsys):
    assert len(read(write(folder, GOOD | changes, GOOD))) == 1
    told = capsys.readouterr().out
    assert said in told and "download it again" not in told


def test_an_image_may_be_a_data_url(folder):
    png = base64.b64encode((folder / "a.png").read_bytes()).decode()
    [sample] = read(write(folder, GOOD | {"image": f"data:image/png;base64,{png}"}))
    assert sample.open().size == (64, 48)


LINE = json.dumps(GOOD) + "\n"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("mine.jsonl", b"[]", r"line 1: not a record of schema 1 \(it is \[\], not an object; a list of records is named \.json\)"),
        (
            "mine.jsonl",
            json.dumps([GOOD], indent=1).encode(),
            r"line 1: not JSON .*; a \.jsonl holds one object per line, a \.json one list",
        ),
        ("mine.jsonl", LINE.encode("utf-16"), r"line 1: not UTF-8 \(.*\); save the file as UTF-8"),
        ("mine.jsonl", '{"question": "Für"}\n'.encode("latin-1"), "line 1: not UTF-8"),
        ("mine.json", f"[{LINE}]".encode("utf-16"), r"mine\.json is UTF-16 or no text at all; save it as UTF-8"),
        ("mine.tsv", "image\tquestion\tanswers\n".encode("utf-16-le"), r"mine\.tsv is UTF-16 or no text at all; save it as UTF-8"),
        (
            "mine.tsv",
            "image\tFür\n".encode("latin-1"),
            r"row 1: the file can't be read \(.* it is not UTF-8\); correct it, or download it again$",
        ),
        ("mine.json", (2 * LINE).encode(), r"it holds more than one JSON value; a file of one object per line is named \.jsonl"),
        ("mine.json", b'[{"image": "a.p', r"row 1: the file can't be read \(.*premature EOF\); correct it, or download it again$"),
        ("mine.xlsx", b"PK", r"allowed are \.csv, \.tsv, \.parquet, \.jsonl, \.json: save it as one of these"),
    ],
)
def test_a_file_of_another_form_is_refused_in_one_line_with_what_to_do(folder, name, content, said):
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=said) as refused:
        read(folder / name)
    assert "\n" not in str(refused.value)
