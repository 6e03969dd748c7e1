"""Records on disk: what comes back is what was written, and what is wrong is named with its file and line."""

import io
import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from focus.data.images.original import Original
from focus.data.sample import ImageFile, problems_of, read_records, write_records
from focus.data.scenes import DIFFICULTY, Scenes
from tests.support.samples import Painted, sample


def pixels(original: Original) -> Image.Image:
    return original.reduced(original.size)


def record(**changes) -> dict:
    good = {
        "schema": 1,
        "id": "a",
        "source": "vstar",
        "split": "test",
        "image": "a.png",
        "width": 64,
        "height": 48,
        "question": "What is it?",
        "answers": ["42"],
        "boxes": [[[10, 10, 20, 20], [5, 5, 30, 30]]],
    }
    return {key: value for key, value in (good | changes).items() if value is not ...}  # `...` removes a key


def write_lines(folder: Path, *lines: dict | str | bytes) -> Path:
    path = folder / "records.jsonl"
    raw = [line if isinstance(line, bytes) else (line if isinstance(line, str) else json.dumps(line)).encode() for line in lines]
    path.write_bytes(b"".join(line + b"\n" for line in raw))
    return path


# -------------------------------------------------------------------------------------------------------- round trip


def test_records_that_are_written_and_read_again_are_the_same(tmp_path):
    written = [
        sample("open"),
        sample("choice", question="Which?", answers=("B", "cotton"), scorer="letter", options=(("A", "wool"), ("B", "cotton"))),
        sample("targets", image=Painted(301, 7, 1), width=301, height=7, boxes=(((0, 0, 1, 1),), ((2, 2, 3, 3), (0, 0, 301, 7)))),
        sample("plain", boxes=(), scorer="number", meta={}),
        sample("unicode", question="Was steht auf dem Schild \u201eS\u00fcd\u201c?", answers=("\u5357",)),
    ]
    read, dropped = read_records(write_records(written, tmp_path / "new" / "folder"))
    assert dropped == {}
    assert [replace(back, image=old.image) for back, old in zip(read, written, strict=True)] == written
    for back, old in zip(read, written, strict=True):
        assert back.size == old.size
        assert np.array_equal(pixels(back.open()), pixels(old.open()))


def test_the_embedded_scenes_survive_the_way_through_records(tmp_path):
    scenes = Scenes(DIFFICULTY[1], "train", 3)
    read, _ = read_records(write_records(scenes, tmp_path))
    for back, scene in zip(read, scenes, strict=True):
        assert (back.id, back.question, back.answers, back.boxes, back.size) == (
            scene.id,
            scene.question,
            scene.answers,
            scene.boxes,
            (448, 448),
        )
        assert np.array_equal(pixels(back.open()), pixels(scene.open()))


def test_two_questions_about_one_image_keep_one_file(tmp_path):
    write_records([sample("a"), sample("b"), sample("c", image=Painted(64, 48, seed=1))], tmp_path)
    assert len(list(tmp_path.glob("*.png"))) == 2
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".jsonl", ".png", ".png"]  # nothing partial stays behind


def test_a_sample_whose_image_cannot_be_read_leaves_the_records_that_were_there(tmp_path):
    path = write_records([sample("a")], tmp_path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="says 65x48"):
        write_records([sample("b"), sample("c", width=65)], tmp_path)
    assert path.read_bytes() == before


def test_records_without_a_group_are_grouped_by_their_image(tmp_path):
    read, _ = read_records(write_lines(tmp_path, record(id="a"), record(id="b"), record(id="c", image="c.png")))
    assert [s.group for s in read] == ["a.png", "a.png", "c.png"]


def test_image_paths_are_relative_to_the_file_or_to_a_given_root(tmp_path):
    path = write_lines(tmp_path, record())
    assert read_records(path)[0][0].image == ImageFile(tmp_path / "a.png")
    assert read_records(path, tmp_path / "images")[0][0].image == ImageFile(tmp_path / "images" / "a.png")


def test_images_are_not_opened_before_somebody_looks(tmp_path):
    read, _ = read_records(write_lines(tmp_path, record(image="missing.png")))
    assert len(read) == 1


def test_half_a_character_is_mended_whether_records_are_asked_for_one_by_one_or_in_order(tmp_path):
    records, _ = read_records(write_lines(tmp_path, record(id="a\ud83d", question="What is \ud83d?")))
    assert [records[0].id, *(each.id for each in records)] == ["a\ufffd"] * 2
    assert {each.question for each in records} == {records[0].question} == {"What is \ufffd?"}


def test_empty_lines_are_no_records(tmp_path):
    assert len(read_records(write_lines(tmp_path, record(), "", "  "))[0]) == 1


# ------------------------------------------------------------------------------------------------------- bad records


def test_a_missing_file_says_how_to_get_one(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.jsonl does not exist; write one with"):
        read_records(tmp_path / "nowhere.jsonl")
    with pytest.raises(ValueError, match="does not exist"):
        read_records(tmp_path)  # a folder is no file


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_an_empty_file_is_an_error_and_not_an_empty_data_set(tmp_path, content):
    path = tmp_path / "records.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"records\.jsonl holds no usable record: it is empty$"):
        read_records(path)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"schema": 1, "id": "b"', "not JSON"),  # cut off in the middle
        ("id,question,answer", "not JSON"),
        ("[]", "not a record of schema 1 (it is [], not an object; a list of records is named .json)"),
        ("7", "it is 7, not an object"),
        ("null", "it is None, not an object"),
        (record(id="b", schema=2), "schema is 2, this version reads 1"),
        (record(id="b", schema=...), "it lacks 'schema'"),
        (record(id="b", answers=...), "it lacks 'answers'"),
        (record(id="b", width=...), "it lacks 'width'"),
        (record(id="b", image=...), "it lacks 'image'"),
        (record(id="b", image=None), "image is 'None', not a text"),
        (record(id="b", boxes=[[1, 2, 3, 4]]), "the boxes of a target are [1, 2, 3, 4], not a list of [x1, y1, x2, y2]"),
        (record(id="b", boxes=[[[1, 2, 3]]]), "the boxes of a target are [[1, 2, 3]], not a list of"),
        (record(id="b", boxes=[[["left", 2, 3, 4]]]), "the boxes of a target are [['left', 2, 3, 4]], not a list of"),
        (record(id="b", boxes=[7]), "the boxes of a target are 7, not a list of"),
        (record(id="b", options=["wool", "cotton"]), 'options are [\'wool\', \'cotton\'], not a list of {"key": "A", "text": "red"}'),
        (record(id="b", answers=[42]), "answers are [42], not a list of texts"),
        (record(id="a"), "the id 'a' occurs twice"),
    ],
)
def test_a_line_that_is_no_record_is_named_with_its_file_and_number(tmp_path, line, complaint):
    path = write_lines(tmp_path, record(id="a"), "", line)
    with pytest.raises(ValueError) as error:
        read_records(path)
    assert f"{path}, line 3: " in str(error.value)
    assert complaint in str(error.value)


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(record(id="b", width="64"), id="width is text"),
        pytest.param(record(id="b", question=None), id="question is null"),
        pytest.param(record(id=["b"]), id="id is a list"),
        pytest.param(b'{"id": "\xff\xfe"}', id="bytes that are not UTF-8"),
        pytest.param('{"width": ' + "9" * 5000 + "}", id="a number longer than Python reads"),
        pytest.param("[" * 200_000, id="brackets deeper than Python reads"),
        pytest.param(record(id="b", boxes=[[[0, 0, 10**400, 1]]]), id="an edge beyond all floats"),
        pytest.param(record(id="b", answers=[42]), id="an answer is a number"),
        pytest.param(record(id="b", options=[{"key": "A", "text": None}]), id="an option is null"),
    ],
)
def test_a_field_of_the_wrong_type_is_named_with_its_file_and_number(tmp_path, line):
    path = write_lines(tmp_path, record(id="a"), "", line)
    with pytest.raises(ValueError) as error:
        read_records(path)
    assert f"{path}, line 3: " in str(error.value)


def test_one_answer_that_is_not_in_a_list_does_not_become_its_letters(tmp_path):
    with pytest.raises(ValueError, match="answers"):
        read_records(write_lines(tmp_path, record(answers="blue")))


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (record(id="b", boxes=[[[5, 5, 30, 30], [10, 10, 20, 20]]]), "does not lie inside"),  # from outside to inside
        (record(id="b", boxes=[[[10, 10, 20, 20], [11, 5, 30, 30]]]), "does not lie inside"),  # one pixel peeps out
        (record(id="b", boxes=[[[10, 10, 20, 20], [10, 10, 20, 20]]]), "does not lie inside"),  # equal is not growing
        (record(id="b", boxes=[[[10, 10, 65, 20]]]), "leaves the image"),
        (record(id="b", boxes=[[[-1, 10, 20, 20]]]), "leaves the image"),
        (record(id="b", boxes=[[[10, 10, 20, 49]]]), "leaves the image"),
        (record(id="b", boxes=[[[20, 10, 10, 20]]]), "has no area"),
        (record(id="b", boxes=[[[10, 10, 10, 20]]]), "has no area"),
        (record(id="b", boxes=[[[float("nan"), 10, 20, 20]]]), "has no area"),
        (record(id="b", question="<image>\nWhat is it?"), "'<image>'"),
        (record(id="b", question="What <|im_end|> is it?"), "'<|'"),
        (record(id="b", question="Use image_zoom_in_tool to look."), "'image_zoom_in_tool'"),
        (record(id="b", boxes=[[]]), "a target has no box"),
        (record(id="b", answers=[]), "no accepted answer"),
        (record(id="b", answers=["  "]), "or an empty one"),
        (record(id="b", scorer="exakt"), "choose one of letter, number, exact, anls, vqa10, judge"),
        (record(id="b", scorer="letter"), "not the key of one of its options"),
        (record(id="b", scorer="letter", answers=["C"], options=[{"key": "A", "text": "x"}]), "not the key of one of its options"),
    ],
)
def test_a_record_that_nothing_may_rely_on_is_dropped_and_counted_by_its_reason(tmp_path, bad, reason):
    read, dropped = read_records(write_lines(tmp_path, record(id="a"), bad, record(id="c")))
    assert [s.id for s in read] == ["a", "c"]
    assert dropped.total() == 1
    assert reason in next(iter(dropped))


def test_a_file_with_nothing_but_bad_records_says_how_many_why_and_where_to_look_first(tmp_path):
    path = write_lines(tmp_path, record(id="a", answers=[]), record(id="b", answers=[]))
    why = r"records\.jsonl holds no usable record: 2 dropped: it has no accepted answer, or an empty one \(first: a\)$"
    with pytest.raises(ValueError, match=why):
        read_records(path)


def test_records_with_the_same_fault_are_counted_together(tmp_path):
    lines = [record(id="a"), record(id="b", boxes=[[[10, 10, 65, 20]]]), record(id="c", boxes=[[[10, 10, 66, 20]]])]
    assert list(read_records(write_lines(tmp_path, *lines))[1].values()) == [2]


def test_a_chain_without_a_box_is_a_problem():
    assert problems_of(sample(boxes=((),)))


def test_markup_in_an_option_is_a_problem():
    assert problems_of(sample(scorer="letter", answers=("A",), options=(("A", "<|image_pad|>"), ("B", "wool"))))


def test_a_good_sample_has_no_problems_and_a_bad_one_lists_them_all():
    assert problems_of(sample()) == []
    bad = sample(answers=(), scorer="exakt", question="<image> what?", boxes=(((0, 0, 65, 48),),))
    assert len(problems_of(bad)) == 4


# -------------------------------------------------------------------------------------------------------- bad images


def on_disk(path: Path, image: Image.Image, **options) -> ImageFile:
    image.save(path, **options)
    return ImageFile(path)


def test_an_image_that_is_gone_is_named_with_what_to_check(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.jpg does not exist; check data\.root"):
        ImageFile(tmp_path / "gone.jpg").open()


def test_a_truncated_jpeg_is_named_with_what_to_do(tmp_path):
    whole = io.BytesIO()
    Painted(64, 48).open().image.save(whole, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    with pytest.raises(ValueError, match=r"cut\.jpg cannot be decoded .*replace the file or remove its record"):
        ImageFile(tmp_path / "cut.jpg").open()


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_image_is_named_with_what_to_do(tmp_path, content):
    (tmp_path / "page.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"page\.png cannot be decoded"):
        ImageFile(tmp_path / "page.png").open()


def test_a_decompression_bomb_is_named_with_what_to_do(tmp_path, monkeypatch):
    file = on_disk(tmp_path / "bomb.png", Image.new("RGB", (64, 48)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 48 // 4)
    with pytest.raises(ValueError, match=r"bomb\.png cannot be decoded"):
        file.open()


def test_an_image_is_recognised_by_its_content_and_not_by_its_name(tmp_path):
    Painted(64, 48).open().image.save(tmp_path / "a.png")
    renamed = ImageFile((tmp_path / "a.png").rename(tmp_path / "a.jpg"))
    assert np.array_equal(pixels(renamed.open()), pixels(Painted(64, 48).open()))


def test_an_image_with_an_alpha_channel_stands_on_white(tmp_path):
    half = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    half.putpixel((1, 0), (255, 0, 0, 0))
    image = pixels(on_disk(tmp_path / "half.png", half).open())
    assert image.mode == "RGB"
    assert [image.getpixel((x, 0)) for x in (0, 1)] == [(255, 0, 0), (255, 255, 255)]


def test_a_half_transparent_pixel_is_half_white(tmp_path):
    image = pixels(on_disk(tmp_path / "veil.png", Image.new("RGBA", (1, 1), (0, 0, 0, 51))).open())
    assert image.getpixel((0, 0)) == (204, 204, 204)  # 51/255 = 1/5 black, 4/5 of 255 white


@pytest.mark.parametrize("mode", ["P", "RGB"])
def test_a_png_with_a_transparent_colour_stands_on_white(tmp_path, mode):
    image = Image.new("RGB", (1, 1), (255, 0, 0))
    key = (255, 0, 0)
    if mode == "P":
        image = Image.new("P", (1, 1), 0)
        image.putpalette([255, 0, 0] + [0, 0, 0] * 255)
        key = 0
    assert pixels(on_disk(tmp_path / "key.png", image, transparency=key).open()).getpixel((0, 0)) == (255, 255, 255)


def test_a_16_bit_image_keeps_its_greys(tmp_path):
    image = pixels(on_disk(tmp_path / "grey.png", Image.fromarray(np.full((1, 1), 0x8000, np.uint16))).open())
    assert image.getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize("mode", ["L", "1", "CMYK", "P"])
def test_every_other_mode_becomes_rgb(tmp_path, mode):
    assert pixels(on_disk(tmp_path / "image.tiff", Image.new(mode, (3, 2))).open()).mode == "RGB"


def test_a_rotated_photograph_is_upright_and_its_size_is_that_after_rotation(tmp_path):
    lying = Image.new("RGB", (64, 48), "black")
    lying.paste("white", (0, 0, 64, 8))  # a white stripe along the stored top
    exif = Image.Exif()
    exif[0x0112] = 6  # the stored top is the right side of the scene
    image = pixels(on_disk(tmp_path / "phone.jpg", lying, exif=exif, quality=95).open())
    assert image.size == (48, 64)
    assert min(image.getpixel((46, 32))) > 240 and max(image.getpixel((2, 32))) < 15


def test_a_record_that_states_the_size_before_rotation_is_told_so(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    file = on_disk(tmp_path / "phone.jpg", Image.new("RGB", (64, 48)), exif=exif)
    with pytest.raises(ValueError, match=r"synthetic/train/a: the image is 48x64 px but the record says 64x48; .*EXIF"):
        sample(image=file).open()
    assert sample(image=file, width=48, height=64, boxes=()).open().size == (48, 64)


def test_an_image_that_changed_its_size_on_disk_is_named_by_its_sample(tmp_path):
    read, _ = read_records(write_records([sample("kept"), sample("changed", image=Painted(64, 48, 1))], tmp_path))
    Painted(32, 24).open().image.save(read[1].image.path)
    assert read[0].open().size == (64, 48)
    with pytest.raises(ValueError, match="synthetic/train/changed: the image is 32x24 px but the record says 64x48"):
        read[1].open()


def test_records_are_parsed_when_asked_for_and_slices_are_records(tmp_path):
    path = write_lines(tmp_path, record(id="a"), "", record(id="b"), record(id="bad", answers=[]), record(id="c"))
    read, _ = read_records(path)
    assert [s.id for s in read] == ["a", "b", "c"] and read[-1].id == "c"
    assert [s.id for s in read[1:]] == ["b", "c"] and len(read[:2]) == 2
    assert len(pickle.dumps(read)) < 1000  # a worker process gets places in the file, no samples
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0].replace('"a"', '"z"'), *lines[1:]]))
    assert read[0].id == "z"
    with pytest.raises(IndexError):
        read[3]
