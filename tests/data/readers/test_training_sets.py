"""The sets that policies are trained on: every expected value is worked by hand from the rows of tests/support/published.py."""

import json
import tempfile
from math import floor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from focus.data.readers.draft import Reason
from tests.support.published import picture
from tests.support.reading import PROPERTY, Read, cell, changed, native, sha256

# -------------------------------------------------------------------------------------------------------- Pixel-Reasoner


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


# -------------------------------------------------------------------------------------------------- sets that have boxes


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
