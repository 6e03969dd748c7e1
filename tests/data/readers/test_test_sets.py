"""The sets that policies are tested on: every expected value is worked by hand from the rows of tests/support/published.py."""

import io
import json
import random
import tempfile
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from focus.data.readers.draft import Reason
from focus.data.sample import Sample
from tests.support.published import encoded, picture
from tests.support.reading import PROPERTY, Read, cell, changed, native, sha256
from tests.support.samples import prediction

# -------------------------------------------------------------------------------------------------------------------- V*


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


# -------------------------------------------------------------------------------------------------------------- HR-Bench


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


# --------------------------------------------------------------------------------------------------------- MME-RealWorld


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


# ----------------------------------------------------------------------------------------------- groups of MME-RealWorld


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


# -------------------------------------------------------------------------------------------------- TreeBench, ZoomBench


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


# ---------------------------------------------------------------------------------------------- VisualProbe, DeepEyes 4K


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


# ------------------------------------------------------------------------------- VisualNeedle, ViEBench, O3-Bench


def test_visualneedle_asks_about_the_image_without_the_drawn_box_and_keeps_the_box(read):
    found = read("visualneedle")
    sign, flag = found.samples
    assert sign.id == "visualneedle/test/needle_0" and sign.answers == ("辣",) and sign.scorer == "judge"
    assert sign.image.path == found.root / "images/needle_0.jpg" and sign.boxes == (((30.0, 20.0, 42.0, 31.0),),)
    assert flag.image.path == found.root / "images/needle_1.jpg"  # its row has the address of the image only
    assert flag.boxes == (((90.0, 72.0, 100.0, 80.0),),) and flag.meta["category"] == "Color Recognition"


def test_a_visualneedle_row_that_names_an_image_with_a_drawn_box_is_left_out(read):
    found = read("visualneedle", changed("visualneedle_300en.jsonl", cell(0, "image_path", "images_bbox/needle_0.jpg")))
    assert found.dropped == {Reason.BAD_VALUE: 1} and len(found.samples) == 1
    assert "image_path: 'images_bbox/needle_0.jpg'" in found.reading.first[Reason.BAD_VALUE]


def test_o3bench_options_are_lines_and_its_targets_the_regions_that_the_answer_needs(read):
    found = read("o3bench")
    shop, sold = found.samples
    assert shop.options == (
        ("A", "the bakery"), ("B", "the bank"), ("C", "the bar"), ("D", "the barber"), ("E", "the bookshop"), ("F", "No Right Choice"),
    )  # fmt: skip
    assert shop.answers == ("C", "the bar") and shop.scorer == "letter" and shop.meta["category"] == "map"
    assert shop.image.path == found.root / "test/images/map/mall.jpg"
    assert shop.boxes == (((5.0, 6.0, 35.5, 40.0),), ((0.0, 50.0, 60.0, 80.0),))  # regions 1 and 3 of three
    assert [key for key, _ in sold.options] == list("ABCDEF")  # its line breaks are stored as two characters
    assert sold.answers == ("F", "No Right Choice") and sold.boxes == (((40.0, 0.0, 100.0, 30.0),),)


def test_o3bench_boxes_of_another_frame_and_of_an_unknown_region_are_left_out_and_counted(read):
    found = read("o3bench", changed("test/metadata.jsonl", cell(0, "img_width", 200), cell(1, "target_layouts", [2, 9])))
    assert [len(sample.boxes) for sample in found.samples] == [0, 1]
    assert found.reading.notes == {Reason.OTHER_FRAME: 1, Reason.BOX_UNREADABLE: 1}


@pytest.mark.parametrize("options", ["the bakery, the bank or the bar", "A. the bakery", "See below:\nA. the bakery\nB. the bank"])
def test_o3bench_options_of_another_form_are_refused_with_what_was_seen(read, options):
    found = read("o3bench", changed("test/metadata.jsonl", cell(0, "options", options)))
    assert found.dropped == {Reason.BAD_VALUE: 1} and f"options: {options!r}" in found.reading.first[Reason.BAD_VALUE]


def test_viebench_is_read_in_the_form_that_is_assumed(read):
    label, lane = read("viebench").samples
    assert label.options == (("A", "a price"), ("B", "a name"), ("C", "a date"), ("D", "a code")) and label.answers == ("B", "a name")
    assert label.boxes == (((40.0, 30.0, 52.0, 36.0),),) and label.meta["category"] == "perception"
    assert lane.options == (("A", "the left one"), ("B", "the right one")) and lane.meta["category"] == "reasoning"
    assert lane.boxes == (((10.5, 60.0, 20.0, 70.0),),)


@pytest.mark.parametrize("key, value", [
    ("bbox", ""),
    ("bbox", "[40, 30, 12, 6]"),  # left, top, width, height
    ("bbox", "[[40, 30, 52, 36]]"),
    ("category", "counting"),
])  # fmt: skip
def test_a_viebench_row_of_another_form_is_refused_with_what_was_seen(read, key, value):
    found = read("viebench", changed("ViEBench.tsv", cell(0, key, value)))
    assert len(found.samples) == 1 and found.dropped.total() == 1
    [first] = found.reading.first.values()
    assert f"{key}: {value!r}" in first


def test_a_viebench_table_of_other_columns_is_refused_with_its_columns(read):
    def rename(rows: list[dict]) -> None:
        for row in rows:
            row["box"] = row.pop("bbox")

    with pytest.raises(
        ValueError, match=r"has no column 'bbox'; its columns are index, image, .*, category, box\. .*the form is not verified"
    ):
        read("viebench", changed("ViEBench.tsv", rename))


# ---------------------------------------------------------------------------------------------- InfoVQA, DocVQA, TextVQA


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
