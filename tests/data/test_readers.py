"""Published sets become canonical records: every expected value is worked by hand from the rows of tests/support/published.py."""

import base64
import hashlib
import io
import json
import random
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from math import floor, isfinite
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from focus.data.readers import SETS, ingest, tables, textvqa, vstar
from focus.data.readers.draft import Location, Reason
from focus.data.readers.tables import rows_of
from focus.data.readers.text import parse_list, question_of
from focus.data.readers.training import split_options
from focus.data.sample import MARKUP, Sample, problems_of
from tests.support.published import WRITERS, edit, encoded, picture, write_bytes, write_json
from tests.support.samples import prediction

PROPERTY = settings(deadline=None, database=None, max_examples=15)


class Read:
    """One set written under `folder`, changed where a test says so, and read through the public interface."""

    def __init__(self, folder: Path, name: str, change: Callable[[Path], object] | None = None, **form) -> None:
        self.name, self.root, self.kept = name, folder / "published", folder / "kept"
        self.root.mkdir(parents=True, exist_ok=True)
        WRITERS[name](self.root, **form)
        if change is not None:
            change(self.root)
        self.again()

    def again(self) -> None:
        self.reading = ingest(SETS[self.name], self.root, self.kept)
        self.samples, self.dropped = list(self.reading.samples), self.reading.dropped

    @property
    def lines(self) -> list[dict]:
        return [json.loads(line) for line in (self.kept / "records.jsonl").read_text().splitlines()]

    def __getitem__(self, native_id: str) -> Sample:
        [found] = [sample for sample in self.samples if native(sample) == native_id]
        return found

    def asking(self, question: str) -> Sample:
        [found] = [sample for sample in self.samples if sample.question == question]
        return found

    def line(self, sample: Sample) -> dict:
        [found] = [line for line in self.lines if line["id"] == sample.id]
        return found


@pytest.fixture
def read(tmp_path) -> Callable[..., Read]:
    return lambda name, change=None, **form: Read(tmp_path, name, change, **form)


def native(sample: Sample) -> str:
    return sample.id.removeprefix(f"{sample.source}/{sample.split}/")


def sha256(blob: bytes) -> str:
    return hashlib.sha256(blob).hexdigest()


def cell(row: int, key: str, value: object) -> Callable[[list[dict]], None]:
    """A change of one cell; `row` counts from 0."""
    return lambda rows: rows[row].__setitem__(key, value)


def changed(path: str, *changes: Callable[[list[dict]], object]) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        for each in changes:
            edit(root / path, each)

    return change


# ------------------------------------------------------------------------------------------------ what holds of every set


def test_every_set_has_a_fixture_and_every_fixture_a_set():
    assert set(SETS) == set(WRITERS)
    assert all(SETS[name].source == name for name in SETS)


DROPPED = {"pixelreasoner": {Reason.VIDEO: 1, Reason.SEVERAL_IMAGES: 1}}
NOTED = {
    "treevgr_rl": {Reason.BOX_UNREADABLE: 1},  # the entry that is null
    "textvqa_ocr": {textvqa.NOT_READ: 1},  # one of its answers is no word of the OCR
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_row_of_every_set_becomes_a_sound_record_or_is_counted(read, name):
    found = read(name)
    assert found.samples and found.dropped == DROPPED.get(name, {})
    assert found.reading.notes == NOTED.get(name, {})
    assert len({sample.id for sample in found.samples}) == len(found.samples)
    for sample in found.samples:
        assert problems_of(sample) == []
        assert sample.source == name and sample.id.startswith(f"{name}/{sample.split}/") and native(sample)
        assert sample.split and sample.group and sample.open().size == sample.size
        assert sample.question == sample.question.strip() and not any(mark in sample.question for mark in MARKUP)
        assert all(type(value) is float for chain in sample.boxes for box in chain for value in box)
        assert all(len(chain) == 1 for chain in sample.boxes)  # nobody publishes nested boxes


@pytest.mark.parametrize("name", WRITERS)
def test_every_line_of_the_records_is_a_full_canonical_record_in_the_order_of_the_samples(read, name):
    found = read(name)
    assert [line["id"] for line in found.lines] == [sample.id for sample in found.samples]
    for line, sample in zip(found.lines, found.samples, strict=True):
        assert line["schema"] == 1 and line["licence"] and isinstance(line["raw_question"], str)
        assert line["scorer"] in ("letter", "number", "exact", "anls", "vqa10", "judge")
        assert (line["scorer"] == "letter") == bool(line["options"])
        assert line["image_sha256"] == sha256(sample.image.path.read_bytes())
        if line["boxes"]:
            assert line["box_origin"] in ("human", "dataset", "ocr", "derived")
        if line.get("box_labels"):
            assert [len(labels) for labels in line["box_labels"]] == [len(chain) for chain in line["boxes"]]


@pytest.mark.parametrize("name", WRITERS)
def test_every_record_says_what_kind_of_answer_it_has(read, name):
    for line in read(name).lines:
        assert line["answer_type"] in ("mcq", "short_text", "number", "yes_no", "sentence", "bbox")
        assert (line["answer_type"] == "mcq") == bool(line["options"])


def test_kinds_of_answers_are_told_apart(tmp_path):
    def kind(name: str, question: str) -> str:
        found = Read(tmp_path / name, name)
        return found.line(found.asking(question))["answer_type"]

    assert kind("vstar", "What is the material of the glove?") == "mcq"
    assert kind("gqa", "Is the cup to the left of the plate?") == "yes_no"
    assert kind("deepeyes47k", "What is the colour of the kite?") == "sentence"
    assert kind("viscot_det", "the woman in the red coat") == "bbox"


@pytest.mark.parametrize("name, form, published_ids", [
    ("pixelreasoner", {}, ["p0", "p2"]),
    ("thinklite", {"form": "70k"}, ["think_0", "think_1"]),
    ("seal", {}, ["s0", "s1"]),
    ("viscot_chat", {}, ["0", "1", "2"]),
    ("viscot_det", {}, ["7"]),
    ("gqa", {}, ["001", "002"]),
    ("textvqa_ocr", {}, ["0", "1"]),
])  # fmt: skip
def test_where_rows_are_published_with_an_id_it_ends_the_id_of_the_record(read, name, form, published_ids):
    found = read(name, **form)
    assert len(found.samples) == len(published_ids)
    for sample, published_id in zip(found.samples, published_ids, strict=True):
        assert re.search(rf"(^|\W){published_id}$", native(sample)), sample.id


@pytest.mark.parametrize("name", WRITERS)
def test_the_group_is_the_image_except_for_rotations_of_one_question(read, name):
    found = read(name)
    groups = defaultdict(set)
    for line in found.lines:
        groups[line["group"]].add(line["image_sha256"])
        if not name.startswith("hrbench"):
            assert line["image_sha256"] in line["group"]
    assert all(len(images) == 1 for images in groups.values())


@pytest.mark.parametrize("name", WRITERS)
def test_a_second_reading_gives_equal_records_and_writes_nothing(read, name):
    found = read(name)
    before, samples, dropped = (found.kept / "records.jsonl").stat().st_mtime_ns, found.samples, found.dropped
    first, notes = found.reading.first, found.reading.notes
    found.again()
    assert found.samples == samples and found.dropped == dropped
    assert found.reading.first == first and found.reading.notes == notes
    assert (found.kept / "records.jsonl").stat().st_mtime_ns == before


@pytest.mark.parametrize("name", WRITERS)
def test_two_readings_into_two_folders_give_the_same_lines(read, tmp_path, name):
    found = read(name)
    ingest(SETS[name], found.root, tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere/records.jsonl").read_bytes() == (found.kept / "records.jsonl").read_bytes()


@pytest.mark.parametrize("name", WRITERS)
def test_the_download_is_never_written_to(read, name):
    def listing(root: Path) -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}

    before: dict[Path, bytes] = {}
    found = read(name, lambda root: before.update(listing(root)))
    assert listing(found.root) == before


@pytest.mark.parametrize("name", WRITERS)
def test_a_set_of_many_rows_keeps_all_of_them_apart(read, name, tmp_path):
    once, thrice = Read(tmp_path / "one", name), Read(tmp_path / "three", name, copies=3)
    assert len(thrice.samples) == 3 * len(once.samples)
    assert thrice.dropped == {reason: 3 * count for reason, count in once.dropped.items()}
    assert len({sample.id for sample in thrice.samples}) == len(thrice.samples)
    assert {line["image_sha256"] for line in thrice.lines} == {line["image_sha256"] for line in once.lines}


# ---------------------------------------------------------------------------------------------------------------- V*


def test_vstar_takes_letter_and_options_from_the_questions_file_and_boxes_from_the_json_of_the_image(read):
    glove = read("vstar")["0"]
    assert glove.id == "vstar/test/0" and glove.size == (2000, 1500)
    assert glove.question == "What is the material of the glove?"
    assert glove.options == (("A", "rubber"), ("B", "cotton"), ("C", "kevlar"), ("D", "leather"))
    assert glove.answers == ("A", "rubber") and glove.scorer == "letter"
    assert glove.boxes == (((564.0, 142.0, 719.0, 299.0),),)  # 564 + 155, 142 + 157
    assert glove.meta["category"] == "direct_attributes"


def test_vstar_is_not_always_answered_by_the_first_option(read):
    assert [sample.answers[0] for sample in read("vstar").samples] == ["A", "C", "B"]


def test_vstar_options_may_hold_brackets_and_ids_may_be_strings(read):
    flag = read("vstar")["1"]
    assert flag.options == (("A", "white"), ("B", "blue"), ("C", "red (dark)"), ("D", "green")) and flag.answers == ("C", "red (dark)")
    assert flag.boxes == (((80.0, 50.0, 100.0, 80.0),),)  # touches the right and the lower border of 100 x 80: it is kept


def test_vstar_relations_have_two_options_and_a_chain_for_each_target(read):
    found = read("vstar")
    dog = found["2"]
    assert dog.options == (("A", "left"), ("B", "right")) and dog.answers == ("B", "right")
    assert dog.boxes == (((0.0, 0.0, 10.0, 20.0),), ((30.0, 40.0, 55.0, 55.0),))
    assert found.line(dog)["box_labels"] == [["dog"], ["bench"]]
    assert dog.meta["category"] == "relative_position"


def test_vstar_leaves_folders_beside_the_standard_split_alone(read):
    assert len(read("vstar").samples) == 3


@PROPERTY
@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 79), st.integers(1, 100), st.integers(1, 80)), min_size=1, max_size=8))
def test_any_vstar_box_of_corner_and_size_becomes_two_corners(corners_and_sizes):
    bbox = [[x, y, min(w, 100 - x), min(h, 80 - y)] for x, y, w, h in corners_and_sizes]

    def change(root: Path) -> None:
        about = root / "direct_attributes/sa_24.json"
        about.write_text(json.dumps(json.loads(about.read_text()) | {"bbox": bbox, "target_object": ["flag"] * len(bbox)}))

    with tempfile.TemporaryDirectory() as folder:
        flag = Read(Path(folder), "vstar", change)["1"]
    assert flag.boxes == tuple(((float(x), float(y), float(x + w), float(y + h)),) for x, y, w, h in bbox)


# ------------------------------------------------------------------------------------------------------------- HR-Bench


@pytest.mark.parametrize("name", ["hrbench4k", "hrbench8k"])
@pytest.mark.parametrize("form", ["parquet", "tsv"])
def test_hrbench_keeps_the_four_rotations_of_a_question_in_one_group(read, name, form):
    found = read(name, form=form)
    assert [native(sample) for sample in found.samples] == [str(index) for index in range(8)]
    groups = defaultdict(list)
    for sample in found.samples:
        groups[sample.group].append(sample)
    assert [len(group) for group in groups.values()] == [4, 4]
    for group in groups.values():
        assert len({sample.question for sample in group}) == 1
        assert [sample.answers[0] for sample in group] == ["A", "B", "C", "D"]
        assert len({sample.answers[1] for sample in group}) == 1  # the letter moves, the text does not
        assert [sample.meta["cycle_category"] for sample in group] == ["cycle_0", "cycle_1", "cycle_2", "cycle_3"]
    assert [sample.meta["category"] for sample in found.samples] == ["single"] * 4 + ["cross"] * 4


def test_hrbench_options_stay_in_the_order_of_their_rotation(read):
    found = read("hrbench4k")
    assert found["0"].question == "What number is on the boat?" and found["0"].scorer == "letter"
    assert found["0"].options == (("A", "12"), ("B", "34"), ("C", "56"), ("D", "78")) and found["0"].answers == ("A", "12")
    assert found["1"].options == (("A", "78"), ("B", "12"), ("C", "34"), ("D", "56")) and found["1"].answers == ("B", "12")
    assert found["4"].options[3] == ("D", 'neither "boat"') and found["0"].boxes == ()


def test_hrbench_tsv_and_parquet_give_equal_records(tmp_path):
    table, columns = (Read(tmp_path / form, "hrbench4k", form=form) for form in ("tsv", "parquet"))
    assert table.lines == columns.lines


def test_payloads_are_kept_byte_for_byte_under_their_hash_with_the_suffix_of_their_content(read):
    found = read("hrbench4k")
    jpeg, png = picture((120, 90), 10), picture((120, 90), 11, "PNG")
    assert found["4"].image.path.name == f"{sha256(png)}.png" and found["4"].image.path.read_bytes() == png
    assert found["0"].image.path.name in (f"{sha256(jpeg)}.jpg", f"{sha256(jpeg)}.jpeg") and found["0"].image.path.read_bytes() == jpeg
    assert found.kept in found["0"].image.path.parents
    assert len({sample.image.path for sample in found.samples}) == 2  # one file for the four rotations


def test_a_cell_of_more_than_128_kib_is_read(read):
    noise = io.BytesIO()
    Image.frombytes("RGB", (240, 200), random.Random(0).randbytes(240 * 200 * 3)).save(noise, format="PNG")
    assert len(encoded(noise.getvalue())) > 131_072  # where Python's csv module stops unless it is told otherwise
    found = read("hrbench4k", changed("hr_bench_4k.tsv", cell(0, "image", encoded(noise.getvalue()))), form="tsv")
    assert found["0"].size == (240, 200) and len(found.samples) == 8


# ------------------------------------------------------------------------------------------------------- MME-RealWorld


@pytest.mark.parametrize("form", ["parquet", "tsv"])
def test_mme_lite_strips_the_letters_from_its_options_and_keeps_e(read, form):
    found = read("mme_rw_lite", form=form)
    assert [native(sample) for sample in found.samples] == ["0", "1", "2", "3"]
    cars = found["0"]
    assert cars.question == "How many cars are there?"
    assert cars.options == (("A", "3"), ("B", "4"), ("C", "5"), ("D", "6"), ("E", "The image does not feature the cars."))
    assert cars.answers == ("B", "4") and cars.scorer == "letter"
    assert cars.meta["category"] == "Perception/Monitoring" and cars.meta["l2-category"] == "vehicle/counting"
    assert found["1"].options[0] == ("A", "1 (0) 2")
    assert found["3"].answers == ("E", "The image does not feature the cars.")


@pytest.mark.parametrize("form", ["parquet", "tsv"])
def test_mme_options_in_full_width_brackets_are_options_too(read, form):
    street = read("mme_rw_lite", form=form)["2"]
    assert street.question == "路牌上写着什么？"
    assert street.options == (("A", "北京路"), ("B", "南京路"), ("C", "中山路"), ("D", "人民路"), ("E", "图中没有该路牌"))
    assert street.answers == ("C", "中山路")


def test_an_mme_payload_that_is_no_jpeg_is_not_lost(read):
    phone = read("mme_rw_lite")["1"]
    assert phone.image.path.name == f"{sha256(picture((100, 80), 21, 'PNG'))}.png" and phone.size == (100, 80)


def test_mme_lite_parquet_calls_its_split_train_and_reads_its_shards_in_order(read):
    found = read("mme_rw_lite", copies=2)
    assert {sample.split for sample in found.samples} == {"train"}
    assert [native(sample) for sample in found.samples] == [str(index) for index in range(8)]


def test_the_json_form_of_mme_finds_its_images_and_takes_its_own_ids(read):
    found = read("mme_rw")
    car = found["Perception/Autonomous_Driving/Objects_Identify/0000"]
    assert car.question == "What is the car in front doing?" and car.answers == ("C", "braking") and len(car.options) == 5
    assert car.image.path == found.root / "AutonomousDriving/0000.jpg"
    assert found["Reasoning/OCR with Complex Context/Scene/0001"].answers == ("E", "None of them can be seen.")


def test_the_chinese_json_form_of_mme_reads_full_width_brackets(read):
    sign = read("mme_rw_cn")["Perception/OCR_CN/Scene/0000"]
    assert sign.question == "招牌是什么颜色？" and sign.answers == ("B", "绿色") and sign.options[4] == ("E", "图中没有招牌")


# ------------------------------------------------------------------------------------------------ TreeBench, ZoomBench


def test_treebench_leaves_out_empty_options_and_reads_six_where_there_are_six(read):
    found = read("treebench")
    assert found["1"].options == (("A", "left"), ("B", "right")) and found["1"].answers == ("B", "right")
    assert [key for key, _ in found["2"].options] == list("ABCDEF") and found["2"].answers == ("F", "stone")
    assert {sample.split for sample in found.samples} == {"train"} and {sample.scorer for sample in found.samples} == {"letter"}


@pytest.mark.parametrize("missing", ["nan", "NaN"])
def test_treebench_options_written_as_nan_are_none_at_all(read, missing):
    found = read("treebench", changed("TreeBench.tsv", cell(1, "C", missing), cell(1, "D", missing)))
    assert found["1"].options == (("A", "left"), ("B", "right"))


def test_treebench_keeps_the_options_of_ocr_rows_and_an_option_that_says_none(read):
    sign = read("treebench")["0"]
    assert sign.question == 'What does the sign "EXIT" point to?' and sign.meta["category"] == "Perception/OCR"
    assert sign.options == (("A", "a door"), ("B", "None"), ("C", "a stair"), ("D", "a lift")) and sign.answers == ("C", "a stair")


def test_treebench_targets_are_read_from_their_string_and_an_empty_list_is_no_box(read):
    found = read("treebench")
    assert found["0"].boxes == (((10.0, 20.0, 40.0, 60.0),),)
    assert found["1"].boxes == (((0.0, 0.0, 30.0, 30.0),), ((60.5, 40.0, 100.0, 80.0),))
    assert found["2"].boxes == ()


@pytest.mark.parametrize("names", [("query", "response"), ("prompt", "answer"), ("question", "answer")])
def test_zoombench_is_read_in_every_spelling_of_its_columns(read, names):
    found = read("zoombench", names=names)
    windows, _, kite = [sample for sample in found.samples if sample.split == "test"]
    assert windows.question == "How many windows are lit?" and windows.options == (("A", "0"), ("B", "2"), ("C", "4"), ("D", "6"))
    assert windows.answers == ("B", "2") and windows.scorer == "letter" and windows.meta["question_type"] == "Counting"
    assert kite.id == "zoombench/test/zb_2" and kite.answers == ("A", "red")


def test_three_zoombench_rows_are_three_samples_of_split_test(read):
    assert [sample.id for sample in read("zoombench").samples] == [f"zoombench/test/zb_{number}" for number in range(3)]


def test_an_open_zoombench_row_has_no_options_and_goes_to_the_judge(read):
    carpet = read("zoombench")["zb_1"]
    assert carpet.question == "What hangs from the balcony?" and carpet.options == ()
    assert carpet.answers == ("a striped carpet",) and carpet.scorer == "judge"


def test_zoombench_keeps_the_crop_where_there_is_one(read):
    found = read("zoombench")
    crop = picture((20, 16), 43, "PNG")
    windows = next(sample for sample in found.samples if sample.id == "zoombench/test/zb_0")
    assert windows.image.path.read_bytes() == picture((100, 80), 40)  # the question is about the whole image
    assert Path(windows.meta["crop_image"]).name == f"{sha256(crop)}.png"
    assert [path.read_bytes() for path in found.kept.rglob(f"{sha256(crop)}.png")] == [crop]
    assert found["zb_1"].meta.get("crop_image") is None


def test_a_zoombench_crop_that_is_no_image_costs_its_row_by_name(read):
    found = read("zoombench", changed("data/test.parquet", cell(0, "crop_image", {"bytes": b"cut off", "path": None})))
    assert found.dropped == {Reason.BAD_IMAGE: 1} and "crop_image" in found.reading.first[Reason.BAD_IMAGE]


def test_zoombench_boxes_are_taken_where_they_are_published(tmp_path):
    without, boxed = Read(tmp_path / "without", "zoombench"), Read(tmp_path / "boxed", "zoombench", bbox=True)
    assert without.samples[0].boxes == () and boxed.samples[0].boxes == (((10.0, 20.0, 30.0, 36.0),),)


# ----------------------------------------------------------------------------------------- VisualProbe, DeepEyes 4K


def test_visualprobe_paths_begin_with_the_repository_and_tiers_are_splits(read):
    found = read("visualprobe")
    assert {sample.id for sample in found.samples} == {f"visualprobe/{tier}/0" for tier in ("easy", "medium", "hard")}
    hard = found.asking("What is the man at the window holding?")
    assert hard.split == "hard" and hard.image.path == found.root / "VisualProbe_Hard/data/photo.jpg"
    assert hard.meta["data_source"] == "visual_probe_hard"


def test_visualprobe_answers_lose_the_dot_and_the_spaces_around_them(read):
    found = read("visualprobe")
    assert {sample.split: sample.answers for sample in found.samples} == {
        "easy": ("green",),
        "medium": ("City Bakery",),
        "hard": ("a red kite",),
    }
    assert {sample.scorer for sample in found.samples} == {"judge"}
    assert found.line(found.asking("What colour is the boat?"))["raw_question"] == "<image>\nWhat colour is the boat?"


@pytest.mark.parametrize("name, data_source", [("visualprobe_train", "visual_probe_train"), ("deepeyes4k", "deepeyes_train")])
def test_the_training_sets_of_mini_o3_find_their_images_in_data(read, name, data_source):
    found = read(name)
    man = found["doc_0"]
    assert man.id == f"{name}/train/doc_0" and man.image.path == found.root / "data/0.jpg"
    assert man.question == "What is the man holding?" and man.answers == ("an umbrella",) and man.scorer == "judge"
    assert found["doc_1"].answers == ("17",) and man.meta["data_source"] == data_source and man.boxes == ()


# -------------------------------------------------------------------------------------------- InfoVQA, DocVQA, TextVQA


def test_infovqa_and_docvqa_keep_every_accepted_answer_for_anls(tmp_path):
    info, doc = Read(tmp_path / "info", "infovqa"), Read(tmp_path / "doc", "docvqa")
    assert info["98313"].answers == ("12%", "12 percent") and info["98314"].answers == ("Lima",)
    assert doc["49153"].answers == ("1/8/93", "January 8, 1993") and doc["49153"].question == "What is the date of the letter?"
    assert {sample.scorer for sample in info.samples + doc.samples} == {"anls"}
    assert all(sample.split.startswith("val") for sample in info.samples + doc.samples)


def test_textvqa_keeps_all_ten_answers_since_they_are_votes(read):
    camera = read("textvqa")["34602"]
    assert camera.answers == ("dakota",) * 6 + ("dakota digital",) * 2 + ("nous les gosses", "clos culombu")
    assert camera.scorer == "vqa10" and camera.question == "what is the brand of this camera?" and camera.split.startswith("val")


# ----------------------------------------------------------------------------------------------------- Pixel-Reasoner


def test_pixelreasoner_drops_videos_and_rows_of_several_images_by_name_and_keeps_null(read):
    found = read("pixelreasoner")
    assert [native(sample) for sample in found.samples] == ["p0", "p2"]
    assert found.dropped == {Reason.VIDEO: 1, Reason.SEVERAL_IMAGES: 1}
    for reason, row in ((Reason.VIDEO, "row 2"), (Reason.SEVERAL_IMAGES, "row 4")):
        assert all(part in found.reading.first[reason] for part in ("release.parquet", row))


def test_a_video_of_many_frames_is_a_video_first(read):
    found = read("pixelreasoner", changed("release.parquet", cell(1, "image", ["images/0.jpg", "images/1.jpg"])))
    assert found.dropped == {Reason.VIDEO: 1, Reason.SEVERAL_IMAGES: 1}


def test_a_row_without_any_image_has_not_exactly_one(read):
    found = read("pixelreasoner", changed("release.parquet", cell(0, "image", [])))
    assert found.dropped == {Reason.VIDEO: 1, Reason.SEVERAL_IMAGES: 2}


def test_a_list_inside_a_box_is_several_answers_and_braces_inside_it_are_its_own(read):
    found = read("pixelreasoner")
    assert found["p0"].answers == ("a red kite", "red kite") and found["p2"].answers == (r"\frac{1}{2}",)
    assert found["p0"].question == "What flies over the roof?"  # the guidelines are gone
    assert "Guidelines" in found.line(found["p0"])["raw_question"]


@PROPERTY
@given(
    st.lists(
        st.recursive(st.text("abc", min_size=1), lambda inner: st.lists(inner).map(lambda parts: "x{" + "".join(parts) + "}")), min_size=1
    )
)
def test_whatever_stands_between_balanced_braces_is_the_answer(texts):
    def change(rows: list[dict]) -> None:
        rows[:] = [rows[2] | {"qid": f"q{number}", "answer": [f"\\boxed{{{text}}}"]} for number, text in enumerate(texts)]

    with tempfile.TemporaryDirectory() as folder:
        found = Read(Path(folder), "pixelreasoner", changed("release.parquet", change))
    assert [sample.answers for sample in found.samples] == [(text,) for text in texts]


# ------------------------------------------------------------------------------- Chain-of-Focus, ThinkLite, DeepEyes 47k


@pytest.mark.parametrize("entries", ["dict", "str"])
def test_cof_images_are_dicts_or_strings_and_may_begin_with_a_dot(read, entries):
    found = read("cof_rl", entries=entries)
    assert [sample.image.path for sample in found.samples] == [found.root / f"images/{number}.jpg" for number in (0, 1, 1)]
    assert [sample.question for sample in found.samples] == [
        "What is on the roof?",
        "What colour is the bus?",
        "Which side is the door on?",
    ]


def test_cof_truths_are_letters_only_where_the_question_lists_options(read):
    roof, bus, door = read("cof_rl").samples
    assert roof.answers == ("a weather vane",) and roof.options == ()
    assert bus.answers == ("yellow",) and bus.meta["data_source"] == "cof"
    assert door.options == (("A", "left"), ("B", "right")) and door.answers == ("B", "right") and door.scorer == "letter"


@pytest.mark.parametrize("form", ["bytes", "struct", "70k"])
def test_thinklite_images_are_bytes_or_structs_and_tags_need_no_line_of_their_own(read, form):
    found = read("thinklite", form=form)
    length, bars = found.samples
    assert length.question == "What is the length of AB?" and length.answers == ("12",)
    assert bars.question == "Which bar is the tallest?" and bars.answers == ("the blue bar",)
    assert length.image.path.name == f"{sha256(picture((64, 48), 70, 'PNG'))}.png" and length.size == (64, 48)


def test_free_text_truths_go_to_the_judge_however_short_they_are(tmp_path):
    roof, flag = Read(tmp_path / "cof", "cof_rl").samples[0], Read(tmp_path / "treevgr", "treevgr_rl").samples[1]
    assert (roof.scorer, flag.scorer) == ("judge", "judge")


def test_deepeyes_questions_lose_the_tool_prompt_and_the_instruction(read):
    found = read("deepeyes47k")
    assert {sample.question for sample in found.samples} == {
        "What is the colour of the kite?",
        "What does the dashed line show?",
        "How many sides are there?",
    }
    assert not any(word in sample.question for sample in found.samples for word in ("tool", "Think", "<think>", "Format"))


def test_a_deepeyes_truth_that_is_a_sentence_goes_to_the_judge(read):
    found = read("deepeyes47k")
    kite = found.asking("What is the colour of the kite?")
    assert kite.answers == ("The colour of the kite is red.",) or kite.answers == ("The colour of the kite is red",)
    assert kite.scorer == "judge" and kite.meta["data_source"] == "vstar"


def test_deepeyes_rows_of_three_files_may_have_one_index_and_no_environment(read):
    found = read("deepeyes47k")
    assert sorted(sample.meta["data_source"] for sample in found.samples) == ["chart", "thinklite_eureka", "vstar"] and not found.dropped
    sides = found.asking("How many sides are there?")  # env_name is null
    assert sides.answers == ("12",) and sides.image.path.suffix == ".png" and sides.split == "train"


# ------------------------------------------------------------------------------------------------- sets that have boxes


def test_treevgr_has_a_chain_for_each_target_and_counts_null_entries(read):
    found = read("treevgr_rl")
    dog, flag, vans = found.samples
    assert found.reading.notes == {Reason.BOX_UNREADABLE: 1} and "row 2" in found.reading.first[Reason.BOX_UNREADABLE]
    assert dog.boxes == (((5.0, 6.0, 25.5, 36.0),), ((50.0, 30.0, 90.0, 70.0),)) and found.lines[0]["box_labels"] == [["dog"], ["bench"]]
    assert flag.boxes == (((60.0, 40.0, 100.0, 80.0),),) and found.lines[1]["box_labels"] == [["flag"]]  # touches the border of 100 x 80
    assert flag.answers == ("red",) and flag.question == "What colour is the flag?"
    assert vans.options == (("A", "3"), ("B", "4"), ("C", "5"), ("D", "6")) and vans.answers == ("C", "5") and vans.scorer == "letter"
    assert vans.question == "How many vans are there?" and vans.image.path == found.root / "images/2.jpg"


def test_seal_targets_are_corner_and_size_and_plain_records_have_none(read):
    found = read("seal")
    cup, weather = found.asking("Is the cup left of the plate?"), found.asking("What is the weather like?")
    assert cup.boxes == (((10.0, 20.0, 25.0, 45.0),), ((50.0, 30.0, 100.0, 80.0),)) and found.line(cup)["box_labels"] == [
        ["cup"],
        ["plate"],
    ]
    assert cup.scorer == "judge" and weather.boxes == ()
    assert weather.image.path == found.root / "train2017/000000000002.jpg"


def test_vigorl_images_are_relative_to_the_root_and_have_no_boxes(read):
    found = read("vigorl")
    kite, gate = found.samples
    assert kite.question == "What is the boy holding?" and kite.answers == ("a red kite",) and kite.boxes == ()
    assert gate.image.path == found.root / "visual_search/images/1.jpg"


def test_viscot_finds_the_images_of_each_set_in_its_own_folder(read):
    found = read("viscot")
    assert len(found.samples) == 13 and {sample.split for sample in found.samples} == {"train"}
    folders = {sample.question: sample.image.path for sample in found.samples}
    assert folders["What does cub show?"] == found.root / "cot/cub/0001.jpg"
    assert folders["What does textcap show?"] == found.root / "cot/textvqa/0001.jpg"
    assert folders["What does visual7w show?"] == found.root / "cot/v7w/0001.jpg"


def test_viscot_boxes_are_pixels_of_the_original_and_several_are_several_targets(read):
    found = read("viscot")
    assert found.asking("What is the man holding?").boxes == (((217.0, 343.0, 242.0, 393.0),),)
    assert found.asking("Who signed the letter?").boxes == (((100.0, 50.0, 180.0, 90.0),),)
    assert found.asking("Which sums are equal?").boxes == (((10.0, 10.0, 30.0, 30.0),), ((50.0, 20.0, 90.0, 60.0),))


def unpadded(box: list[float], width: int, height: int) -> tuple[float, ...]:
    """A box in shares of the picture padded to a square, in pixels of the picture."""
    side = max(width, height)
    left, top = (0, floor((side - height) / 2)) if width > height else (floor((side - width) / 2), 0)
    return (box[0] * side - left, box[1] * side - top, box[2] * side - left, box[3] * side - top)


def test_the_chat_form_of_viscot_takes_the_pixels_which_agree_with_the_unpadded_shares(read):
    assert (217 + floor((500 - 391) / 2)) / 500 == 0.542
    found = read("viscot_chat")
    rows = json.loads((found.root / "viscot_363k.json").read_text())
    assert [sample.boxes for sample in found.samples] == [
        (((217.0, 343.0, 242.0, 393.0),),),
        (((100.0, 50.0, 180.0, 90.0),),),
        (((10.0, 10.0, 90.0, 60.0),),),  # the union of two
    ]
    for sample, row in zip(found.samples, rows, strict=True):
        shares = json.loads(row["conversations"][1]["value"])
        assert sample.boxes[0][0] == pytest.approx(unpadded(shares, *sample.size), abs=0.25)  # shares have 3 decimals of 500 px


def test_the_chat_form_of_viscot_asks_and_answers_like_its_metadata(tmp_path):
    chat, metadata = Read(tmp_path / "chat", "viscot_chat"), Read(tmp_path / "metadata", "viscot")
    for sample in chat.samples:
        assert metadata.asking(sample.question).answers == sample.answers
    assert [sample.boxes for sample in chat.samples[:2]] == [metadata.asking(sample.question).boxes for sample in chat.samples[:2]]
    assert chat.samples[0].answers == ("a paddle",) and chat.samples[0].image.path == chat.root / "cot/flickr30k/0001.jpg"


def test_viscot_detection_rows_keep_the_decimals_of_their_box(read):
    found = read("viscot_det")
    [coat] = found.samples
    assert coat.boxes == (((10.5, 20.25, 40.75, 60.0),),) and "the woman in the red coat" in coat.question


def test_the_box_of_a_gqa_question_is_the_union_of_the_objects_it_names(read):
    found = read("gqa")
    cup, indoors = found["001"], found["002"]
    assert cup.boxes == (((10.0, 10.0, 60.0, 60.0),),)  # cup 10-30, plate 30-60 x 20-60; the lamp is not asked about
    assert cup.answers[0] == "yes" and cup.question == "Is the cup to the left of the plate?"
    assert cup.image.path == found.root / "images/2354786.jpg"
    assert indoors.boxes == () and indoors.answers[0] == "no"


def test_textvqa_boxes_are_the_words_that_answer_and_say_that_they_are_inferred(read):
    found = read("textvqa_ocr")
    sign, colour = found["0"], found["1"]
    assert len(sign.boxes) == len(sign.boxes[0]) == 1
    assert sign.boxes[0][0] == pytest.approx((20.0, 20.0, 50.0, 60.0))  # 0.2 and 0.3 of 100, 0.25 and 0.5 of 80
    assert found.line(sign)["box_origin"] == "ocr" and sign.scorer == "vqa10" and len(sign.answers) == 10
    assert colour.boxes == () and not found.line(colour).get("box_origin")


def test_zwz_boxes_are_pixels_of_the_original(read):
    [sign] = read("zwz_rl").samples
    assert sign.boxes == (((12.0, 24.0, 52.0, 64.0),),) and sign.answers == ("OPEN",) and sign.question == "What is written in the red box?"


# ------------------------------------------------------------------------------------------------ boxes at the border

TREEVGR = "vstar30k_visdrone6k_x1y1x2y2.parquet"


def targets(*boxes: list[float]) -> Callable[[list[dict]], None]:
    instances = [{"bbox": box, "label": f"label {number}", "name": f"label {number}"} for number, box in enumerate(boxes)]
    return lambda rows: [rows[0].update(target_instances=instances), rows[1]["target_instances"].remove(None)]


@pytest.mark.parametrize("box, clamped", [
    ([-2.0, 10.0, 30.0, 40.0], (0.0, 10.0, 30.0, 40.0)),
    ([10.0, -0.5, 30.0, 40.0], (10.0, 0.0, 30.0, 40.0)),
    ([10.0, 10.0, 102.0, 40.0], (10.0, 10.0, 100.0, 40.0)),
    ([10.0, 10.0, 30.0, 81.5], (10.0, 10.0, 30.0, 80.0)),
    ([-1.0, -1.0, 101.0, 81.0], (0.0, 0.0, 100.0, 80.0)),
])  # fmt: skip
def test_a_box_at_most_two_pixels_outside_is_clamped_and_noted(read, box, clamped):
    found = read("treevgr_rl", changed(TREEVGR, targets(box)))
    assert found.samples[0].boxes == ((clamped,),) and not found.dropped
    assert found.reading.notes.total() == 1 and found.reading.notes[Reason.BOX_OUTSIDE] == 0


@pytest.mark.parametrize("box", [
    [-2.5, 10.0, 30.0, 40.0],
    [10.0, 10.0, 103.0, 40.0],
    [10.0, 10.0, 30.0, 83.0],
    [200.0, 200.0, 300.0, 300.0],
    [30.0, 10.0, 30.0, 40.0],
    [30.0, 40.0, 10.0, 10.0],
    [100.0, 10.0, 102.0, 40.0],
])  # fmt: skip
def test_a_box_further_outside_or_without_area_is_dropped_alone_and_noted(read, box):
    found = read("treevgr_rl", changed(TREEVGR, targets([1.0, 2.0, 9.0, 8.0], box, [10.0, 20.0, 30.0, 40.0])))
    assert found.samples[0].boxes == (((1.0, 2.0, 9.0, 8.0),), ((10.0, 20.0, 30.0, 40.0),)) and not found.dropped
    assert found.lines[0]["box_labels"] == [["label 0"], ["label 2"]]  # parallel to the boxes that are left
    assert found.reading.notes[Reason.BOX_OUTSIDE] == 1 and found.reading.notes.total() == 1


def test_a_row_whose_only_box_is_dropped_stays_as_a_row_without_boxes(read):
    found = read("treevgr_rl", changed(TREEVGR, targets([10.0, 10.0, 150.0, 40.0])))
    assert len(found.samples) == 3 and found.samples[0].boxes == () and found.reading.notes[Reason.BOX_OUTSIDE] == 1


@PROPERTY
@given(st.lists(st.floats(0.0, 6.0, allow_subnormal=False), min_size=1, max_size=8))
def test_two_pixels_outside_are_the_limit_wherever_the_box_is(overshoots):
    boxes = [[10.0, 10.0, 100.0 + overshoot, 40.0] for overshoot in overshoots]
    with tempfile.TemporaryDirectory() as folder:
        found = Read(Path(folder), "treevgr_rl", changed(TREEVGR, targets(*boxes)))
    outside = sum(box[2] > 102.0 for box in boxes)
    assert found.samples[0].boxes == (((10.0, 10.0, 100.0, 40.0),),) * (len(boxes) - outside)
    assert found.reading.notes[Reason.BOX_OUTSIDE] == outside
    assert found.reading.notes.total() - outside == sum(100.0 < box[2] <= 102.0 for box in boxes)


# ------------------------------------------------------------------------------------------------------ images on disk


def test_images_that_are_files_already_are_used_where_they_are(read):
    found = read("visualprobe_train")
    assert found.samples[0].image.path == found.root / "data/0.jpg"
    assert not [path for path in found.kept.rglob("*") if path.suffix in (".jpg", ".jpeg", ".png")]


def test_a_png_named_jpg_is_decoded_by_its_content(read):
    found = read("visualprobe_train", lambda root: write_bytes(root / "data/0.jpg", picture((90, 70), 3, "PNG")))
    assert found["doc_0"].size == (90, 70) and not found.dropped


def test_sizes_are_those_after_exif_rotation(read):
    def turn(root: Path) -> None:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        Image.new("RGB", (100, 80)).save(root / "data/0.jpg", exif=exif)

    found = read("visualprobe_train", turn)
    assert found["doc_0"].size == (80, 100) and found["doc_0"].open().size == (80, 100)


def test_a_text_file_named_jpg_is_a_bad_image_with_file_row_and_path(read):
    found = read("visualprobe_train", lambda root: write_bytes(root / "data/1.jpg", b"version https://git-lfs.github.com/spec/v1\n"))
    assert [native(sample) for sample in found.samples] == ["doc_0"] and found.dropped == {Reason.BAD_IMAGE: 1}
    assert all(part in found.reading.first[Reason.BAD_IMAGE] for part in ("doc_1", "train.json", "row 2", "data/1.jpg"))


def test_an_image_that_ends_too_early_is_a_bad_image(read):
    half = picture((300, 300), 5, "PNG")[:-200]
    found = read("visualprobe_train", lambda root: write_bytes(root / "data/1.jpg", half))
    assert found.dropped == {Reason.BAD_IMAGE: 1}


def test_a_missing_image_is_counted_with_its_path(read):
    found = read("visualprobe_train", lambda root: (root / "data/0.jpg").unlink())
    assert [native(sample) for sample in found.samples] == ["doc_1"] and found.dropped == {Reason.NO_IMAGE: 1}
    assert all(part in found.reading.first[Reason.NO_IMAGE] for part in ("doc_0", "train.json", "row 1", "data/0.jpg"))


def test_an_image_that_turns_up_later_is_read_then(read):
    found = read("visualprobe_train", lambda root: (root / "data/0.jpg").unlink())
    found.again()
    assert len(found.samples) == 1
    write_bytes(found.root / "data/0.jpg", picture((100, 80), 60))
    found.again()
    assert len(found.samples) == 2 and not found.dropped


def test_a_vstar_question_whose_image_is_missing_is_counted(read):
    found = read("vstar", lambda root: (root / "relative_position/sa_33.jpg").unlink())
    assert len(found.samples) == 2 and found.dropped == {Reason.NO_IMAGE: 1}


# ---------------------------------------------------------------------------------------------------------- bad cells


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


# --------------------------------------------------------------------------------------------------- files that are wrong


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


# ------------------------------------------------------------------------------------------ questions and their wrapping


@pytest.mark.parametrize("question", [
    "According to the guidelines: wash hands first, then what comes next?",
    "Answer the question using a single word or phrase.\nWhat colour is the bus?",
    "Guidelines: wash hands. What comes next?",
    "What does the sign that begins with Guidelines: ask for first?",
    "Is the text tidy? format strictly as the others, or loosely?",
])  # fmt: skip
def test_a_question_that_holds_the_words_of_an_instruction_stays_whole(read, question):
    found = read("visualprobe_train", changed("train.json", cell(0, "problem", f"<image>\n{question}")))
    assert found["doc_0"].question == question


@pytest.mark.parametrize("instruction", [
    "Answer the question using a single word or phrase.",
    "answer with the option's letter from the given choices directly.",
    "Guidelines: look at the image.",
    "Format strictly as: <think>...</think>",
])  # fmt: skip
def test_an_instruction_behind_a_question_is_cut_off(instruction):
    assert question_of(f"<image>\nWhat colour is the bus?\n{instruction}") == "What colour is the bus?"
    assert question_of(f"What colour is the bus? {instruction}") == "What colour is the bus?"


@pytest.mark.parametrize("stored", ["\n" * 60_000 + "x", "Options" + " " * 60_000 + "x\n(A) a\n(B) b", "A)" + " " * 60_000 + "\nB) b"])
def test_many_blanks_cost_no_more_than_reading_them(stored):
    began = time.process_time()
    split_options("What?" + stored)
    split_options(stored)
    assert time.process_time() - began < 5.0  # CPU seconds: a pattern that starts again at every blank takes over ten seconds


def test_an_answer_line_of_cof_is_cut_off_and_one_that_asks_is_not(tmp_path):
    def asked(line: str, folder: str) -> str:
        def change(rows: list[dict]) -> None:
            rows[1]["prompt"][1]["content"] = f"<image> Question: Look at the bus.\n{line}"

        return Read(tmp_path / folder, "cof_rl", changed("train.parquet", change)).samples[1].question

    assert asked("Answer briefly.", "told") == "Look at the bus."
    assert asked("Answer me: which colour is it?", "asks") == "Look at the bus.\nAnswer me: which colour is it?"


@pytest.mark.parametrize("instruction", ["Please answer with the letter only.", "Choose the right one.", "Answer:"])
@pytest.mark.parametrize("options", ["(A) red\n(B) blue", "(A) red (B) blue"])
def test_an_instruction_behind_the_options_is_no_part_of_the_last_one(options, instruction):
    assert split_options(f"What colour is it?\n{options}\n{instruction}") == ("What colour is it?", (("A", "red"), ("B", "blue")))


@pytest.mark.parametrize("text", [
    "See vitamin (A) and (B) contents. Which is larger?",
    "Which is larger, (A) or (B)?",
    "What stands there?\n(A)\n(B)",
])  # fmt: skip
def test_letters_in_brackets_inside_a_sentence_are_no_options(text):
    assert split_options(text) == (text, ())


@pytest.mark.parametrize("query", [
    "How many windows are lit? Select from the following choices. (A) 0 (B) 2 (C) 4 (D) 6",
    "How many windows are lit?\nOptions:\n(A) 0\n(B) 2\n(C) 4\n(D) 6\nPlease select one.",
])  # fmt: skip
def test_zoombench_options_may_stand_in_a_line_or_before_an_instruction(read, query):
    windows = read("zoombench", changed("data/test.parquet", cell(0, "query", query)))["zb_0"]
    assert windows.question == "How many windows are lit?" and windows.options == (("A", "0"), ("B", "2"), ("C", "4"), ("D", "6"))
    assert windows.answers == ("B", "2") and windows.scorer == "letter"


@pytest.mark.parametrize("mark", MARKUP)
def test_a_question_or_an_option_with_the_markup_of_prompts_is_counted_with_file_row_and_key(tmp_path, mark):
    asks = Read(tmp_path / "asks", "visualprobe_train", changed("train.json", cell(1, "problem", f"What does {mark} mean?")))
    shows = Read(tmp_path / "shows", "hrbench4k", changed("hr_bench_4k.parquet", cell(1, "D", f"the word {mark}")))
    for found, place in ((asks, "train.json, row 2, question"), (shows, "hr_bench_4k.parquet, row 2, question")):
        if mark == "<image>" and found is asks:
            assert found["doc_1"].question == "What does  mean?" and not found.dropped  # a tag may stand anywhere in a stored question
        else:
            assert found.dropped == {Reason.MARKUP: 1} and place in found.reading.first[Reason.MARKUP]


# ---------------------------------------------------------------------------------------------------- tables and values


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
    with pytest.raises(ValueError, match=rf"TreeBench\.tsv, row {row}: the file can't be read .*; download it again"):
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


# ----------------------------------------------------------------------------------------------------- paths of images


def outside(name: str, path: str, way: str) -> Callable[[Path], None]:
    """Point the first row of a set at a picture that is there, but not under its root."""

    def change(root: Path) -> None:
        write_bytes(root.parent / "elsewhere.jpg", picture((100, 80), 1))
        write_json(root.parent / "elsewhere.json", {"target_object": ["flag"], "bbox": [[1, 1, 9, 9]]})
        to = {"absolute": str(root.parent / "elsewhere"), "upward": "../elsewhere"}[way]
        table = json.loads((root / path).read_text()) if path.endswith(".json") else None
        match name:
            case "vstar":
                edit(root / path, cell(0, "image", f"{to}.jpg"))
            case "mme_rw":
                table[0]["Image"] = f"{to}.jpg"
            case "visualprobe":
                table[0]["images"] = [f"{to}.jpg"]
            case "textvqa_ocr":
                table["data"][0]["image_id"] = f"../{to}"  # train_images/../../elsewhere
            case "gqa":
                table["001"]["imageId"] = f"../{to}"
        if table:
            write_json(root / path, table)

    return change


@pytest.mark.parametrize("name, path, ways", [
    ("vstar", "test_questions.jsonl", ("absolute", "upward")),
    ("mme_rw", "MME_RealWorld.json", ("absolute", "upward")),
    ("visualprobe", "VisualProbe_Hard/val.json", ("absolute", "upward")),
    ("textvqa_ocr", "TextVQA_0.5.1_train.json", ("upward",)),
    ("gqa", "train_balanced_questions.json", ("upward",)),
])  # fmt: skip
def test_an_image_path_that_leaves_the_root_is_counted_with_file_row_and_key(tmp_path, name, path, ways):
    for way in ways:
        whole = len(Read(tmp_path / f"{way} whole", name).samples)
        found = Read(tmp_path / way, name, outside(name, path, way))
        assert found.dropped == {Reason.OUTSIDE_ROOT: 1} and len(found.samples) == whole - 1
        assert f"{path}, row 1, image" in found.reading.first[Reason.OUTSIDE_ROOT]


def test_a_root_that_is_itself_an_upward_path_loses_no_boxes(read, tmp_path, monkeypatch):
    found = read("vstar")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    reading = ingest(SETS["vstar"], Path("../published"), tmp_path / "again")
    assert [sample.boxes for sample in reading.samples] == [sample.boxes for sample in found.samples] and not reading.notes


@pytest.mark.parametrize("image, reason", [("x" * 300 + ".jpg", Reason.BAD_IMAGE), ("a\0b.jpg", Reason.NO_IMAGE)])
def test_a_name_that_no_file_can_have_costs_its_row(tmp_path, image, reason):
    for name, path, value in (("vstar", "test_questions.jsonl", image), ("visualprobe_train", "train.json", [image])):
        found = Read(tmp_path / name, name, changed(path, cell(0, "image" if name == "vstar" else "images", value)))
        assert found.dropped == {reason: 1} and found.samples


def test_every_image_that_was_missing_is_looked_for_again(read):
    def remove(root: Path) -> None:
        for number in (1, 2):
            (root / f"images/{number}.jpg").unlink()

    found = read("treevgr_rl", remove)
    assert len(found.samples) == 1
    write_bytes(found.root / "images/2.jpg", picture((100, 80), 82))  # not the one that was missed first
    found.again()
    assert len(found.samples) == 2 and found.dropped == {Reason.NO_IMAGE: 1}


def test_a_link_that_leads_nowhere_is_no_table(read):
    found = read("vstar", lambda root: (root / "old.json").symlink_to(root / "gone.json"))
    found.again()
    assert len(found.samples) == 3


@pytest.mark.parametrize("left", ["", "{", '{"identity": "'])
def test_a_reading_that_was_cut_while_it_was_written_is_made_again(read, left):
    found = read("vstar")
    (found.kept / "reading.json").write_text(left)
    found.again()
    assert len(found.samples) == 3 and json.loads((found.kept / "reading.json").read_text())["rows"] == 3


def test_a_reading_whose_records_are_gone_is_made_again(read):
    found = read("vstar")
    (found.kept / "records.jsonl").unlink()
    found.again()
    assert len(found.samples) == 3


def test_a_visualprobe_tier_is_told_from_the_folder_of_all_three(tmp_path):
    WRITERS["visualprobe"](tmp_path / "published")
    with pytest.raises(ValueError, match=rf"one tier of VisualProbe; give its parent folder, {re.escape(str(tmp_path))}/published$"):
        ingest(SETS["visualprobe"], tmp_path / "published/VisualProbe_Hard", tmp_path / "kept")


def test_a_visualprobe_tier_that_is_missing_is_said(read):
    found = read("visualprobe", lambda root: (root / "VisualProbe_Medium/val.json").unlink())
    [note] = found.reading.notes
    assert len(found.samples) == 2 and note.startswith("VisualProbe_Medium is not beside it: download it")


# ------------------------------------------------------------------------------------------------------ cut and turned


def noise(size: tuple[int, int], kind: str, **more) -> bytes:
    out = io.BytesIO()
    Image.frombytes("RGB", size, random.Random(0).randbytes(size[0] * size[1] * 3)).save(out, format=kind, **more)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_file_that_ends_inside_its_pixels_is_a_bad_image_wherever_it_lies(tmp_path, kind):
    blob = noise((300, 200), kind)[:-20_000]  # its header is whole, so is its size
    beside = Read(tmp_path / "beside", "visualprobe_train", lambda root: write_bytes(root / "data/1.jpg", blob))
    inside = Read(tmp_path / "inside", "hrbench4k", changed("hr_bench_4k.parquet", cell(1, "image", encoded(blob))))
    for found in (beside, inside):
        assert found.dropped == {Reason.BAD_IMAGE: 1} and not list(found.kept.glob("*.partial"))


def test_a_jpeg_that_was_cut_behind_its_thumbnail_is_a_bad_image_too(read):
    thumbnail = b"Exif\0\0" + picture((20, 20), 1)  # a whole JPEG inside the header, with a mark of its end
    blob = noise((100, 80), "JPEG", exif=thumbnail)
    assert b"\xff\xd9" in blob[:1500]
    found = read("visualprobe_train", lambda root: write_bytes(root / "data/1.jpg", blob[:-3000]))
    assert found.dropped == {Reason.BAD_IMAGE: 1}


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_an_image_with_something_behind_its_end_is_kept(read, kind):
    found = read("visualprobe_train", lambda root: write_bytes(root / "data/1.jpg", noise((300, 200), kind) + bytes(100)))
    assert not found.dropped and found["doc_1"].size == (300, 200)


@pytest.mark.parametrize("kind", ["EPS", "PDF", "PPM"])
def test_a_file_of_no_supported_kind_is_a_bad_image(read, kind):
    found = read("visualprobe_train", lambda root: write_bytes(root / "data/1.jpg", picture((100, 80), 1, kind)))
    assert found.dropped == {Reason.BAD_IMAGE: 1}


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "GIF"])
def test_every_supported_kind_of_image_is_read(read, kind):
    found = read("visualprobe_train", lambda root: write_bytes(root / "data/1.jpg", picture((100, 80), 1, kind)))
    assert not found.dropped and found["doc_1"].open().size == (100, 80)


@pytest.mark.parametrize("orientation, noted", [(1, 0), (3, 1), (6, 1)])
def test_boxes_on_an_image_that_exif_turns_are_taken_as_upright_and_noted(read, orientation, noted):
    def turn(root: Path) -> None:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        Image.new("RGB", (80, 100) if orientation == 6 else (100, 80)).save(root / "images/0.jpg", exif=exif)

    found = read("treevgr_rl", turn)
    assert found.samples[0].size == (100, 80) and found.samples[0].boxes[0] == ((5.0, 6.0, 25.5, 36.0),)
    assert found.reading.notes[Reason.TURNED] == noted and not found.dropped


def test_an_image_that_exif_turns_without_boxes_is_not_noted(read):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    found = read("visualprobe_train", lambda root: Image.new("RGB", (100, 80)).save(root / "data/0.jpg", exif=exif))
    assert not found.reading.notes


# --------------------------------------------------------------------------------------------- boxes in another frame


@pytest.mark.parametrize("name, path, size", [
    ("viscot", "metadata/cub_cot_train.jsonl", {"width": 120, "height": 80}),
    ("viscot", "metadata/cub_cot_train.jsonl", {"width": 40, "height": 60}),
    ("viscot", "metadata/cub_cot_train.jsonl", {"width": 10**400}),
    ("viscot_det", "benchmark_det/refcoco.jsonl", {"width": 200, "height": 160}),
    ("textvqa_ocr", "TextVQA_0.5.1_train.json", {"image_width": 200, "image_height": 160}),
])  # fmt: skip
def test_boxes_are_dropped_and_counted_where_the_published_size_is_not_that_of_the_image(tmp_path, name, path, size):
    def change(root: Path) -> None:
        if name == "textvqa_ocr":
            table = json.loads((root / path).read_text())
            table["data"][0].update(size)
            write_json(root / path, table)
        else:
            edit(root / path, lambda rows: rows[0].update(size))

    whole, found = Read(tmp_path / "whole", name), Read(tmp_path / "other", name, change)
    assert len(found.samples) == len(whole.samples)  # the questions stay
    assert sum(bool(sample.boxes) for sample in found.samples) == sum(bool(sample.boxes) for sample in whole.samples) - 1
    assert found.reading.notes[Reason.OTHER_FRAME] == 1 and Path(path).name in found.reading.first[Reason.OTHER_FRAME]


@pytest.mark.parametrize("box", [[1, 2, 9], None, [1, 2, 9, "8"], [1, 2, 9, 10**400], {}])
def test_a_malformed_box_costs_itself_and_never_its_question(tmp_path, box):
    def beside(root: Path) -> None:
        path = root / "relative_position/sa_33.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"bbox": [box, [30, 40, 25, 15]]}))

    bench = Read(tmp_path / "vstar", "vstar", beside)
    assert bench["2"].boxes == (((30.0, 40.0, 55.0, 55.0),),) and bench.line(bench["2"])["box_labels"] == [["bench"]]
    tree = Read(tmp_path / "tree", "treebench", changed("TreeBench.tsv", cell(1, "target_instances", repr([box, [0, 0, 30, 30]]))))
    assert tree["1"].boxes == (((0.0, 0.0, 30.0, 30.0),),)
    cub = Read(tmp_path / "cub", "viscot", changed("metadata/cub_cot_train.jsonl", cell(0, "bboxs", [box, [1, 2, 9, 8]])))
    assert cub.asking("What does cub show?").boxes == (((1.0, 2.0, 9.0, 8.0),),)
    for found in (bench, tree, cub):
        assert found.reading.notes == {Reason.BOX_UNREADABLE: 1} and not found.dropped


def test_a_zoombench_box_of_three_numbers_costs_itself(read):
    found = read("zoombench", changed("data/test.parquet", cell(0, "bbox", [1, 2, 9])), bbox=True)
    assert len(found.samples) == 3 and found["zb_0"].boxes == () and found.reading.notes == {Reason.BOX_UNREADABLE: 1}


@pytest.mark.parametrize(
    "content", [[1], {"bbox": [[1, 2, 3, 4]]}, {"target_object": "dog", "bbox": 5}, {"target_object": ["dog"], "bbox": []}]
)
def test_a_vstar_json_of_another_shape_costs_its_boxes(read, content):
    found = read("vstar", lambda root: write_json(root / "relative_position/sa_33.json", content))
    assert len(found.samples) == 3 and found["2"].boxes == () and found.reading.notes == {vstar.BOXES_UNNAMED: 1}


def words(*read: tuple[str, float | None]) -> Callable[[Path], None]:
    """These words with their rotation, side by side, and `stop sign` as everybody's answer."""

    def change(root: Path) -> None:
        place = {"width": 0.1, "height": 0.5, "top_left_y": 0.25}
        info = [
            {"word": word, "bounding_box": place | {"top_left_x": 0.2 * at, "rotation": turned}} for at, (word, turned) in enumerate(read)
        ]
        about = {"image_id": "0000599864fd15b3", "ocr_tokens": [word for word, _ in read], "ocr_info": info}
        write_json(root / "TextVQA_Rosetta_OCR_v0.2_train.json", {"data": [about]})
        table = json.loads((root / "TextVQA_0.5.1_train.json").read_text())
        table["data"][0]["answers"] = ["stop sign"] * 10
        write_json(root / "TextVQA_0.5.1_train.json", table)

    return change


@pytest.mark.parametrize("read_words, box", [
    ([("stop", 0.0), ("sign", None)], (0.0, 20.0, 30.0, 60.0)),
    ([("stop", 4.0), ("sign", -4.0)], (0.0, 20.0, 30.0, 60.0)),  # hardly turned
    ([("stop", 0.0), ("sign", 90.0)], None),
    ([("stop", 0.0), ("old", 90.0), ("sign", 0.0)], None),  # a turned word between them: they do not follow each other
])  # fmt: skip
def test_a_word_that_is_turned_stays_in_its_place_and_equals_nothing(read, read_words, box):
    sample = read("textvqa_ocr", words(*read_words))["0"]
    assert [chain[0] for chain in sample.boxes] == [pytest.approx(box)] if box else sample.boxes == ()


# -------------------------------------------------------------------------------------------------- groups of MME-RealWorld


def groups(sample: Sample) -> tuple[object, ...]:
    return tuple(sample.meta.get(name) for name in ("Task", "Subtask", "Category", "category"))


@pytest.mark.parametrize("form", ["parquet", "tsv"])
def test_mme_groups_of_the_tables_are_one_however_they_are_spelt(read, form):
    found = read("mme_rw_lite", form=form)
    ocr = ("Perception", "OCR with Complex Context")
    assert groups(found["1"]) == (*ocr, "Phone", "Perception/OCR with Complex Context")
    assert groups(found["2"]) == (*ocr, "Street", "Perception/OCR with Complex Context")  # stored in small letters
    assert groups(found["3"]) == ("Reasoning", "Monitoring", "Vehicle/counting", "Reasoning/Monitoring")


@pytest.mark.parametrize("stripped", [False, True])
def test_mme_groups_of_the_json_are_its_columns_or_parts_of_its_ids(read, stripped):
    def strip(rows: list[dict]) -> None:
        for row in rows:
            for name in ("Task", "Subtask", "Category") if stripped else ():
                del row[name]

    car, shop = read("mme_rw", changed("MME_RealWorld.json", strip)).samples
    assert groups(car) == ("Perception", "Autonomous driving", "Objects identify", "Perception/Autonomous driving")
    assert groups(shop) == ("Reasoning", "OCR with Complex Context", "Scene", "Reasoning/OCR with Complex Context")


def test_mme_groups_reach_the_table_of_an_evaluation_with_the_mean_over_subtasks(read):
    from focus.evaluation.predictions import KEPT_META
    from focus.report.evaluation import summary

    found = read("mme_rw_lite")
    kept = [{name: sample.meta[name] for name in KEPT_META if name in sample.meta} for sample in found.samples]
    rights = (1.0, 0.0, 0.0, 0.0)  # monitoring 1 of 2, OCR 0 of 2; perception 1 of 3, reasoning 0 of 1
    rows = [prediction(sample.id, right, **meta) for sample, right, meta in zip(found.samples, rights, kept, strict=True)]
    told = summary(rows, ("own",), 20)
    assert {name: part["own"][0] for name, part in told["by"]["Task"].items()} == {
        "Perception": pytest.approx(1 / 3, abs=1e-4),
        "Reasoning": 0,
    }
    assert {name: part["own"][0] for name, part in told["by"]["Subtask"].items()} == {"Monitoring": 0.5, "OCR with Complex Context": 0.0}
    assert told["unweighted"]["Subtask"]["own"] == 0.25 and len(told["by"]["Category"]) == 3
