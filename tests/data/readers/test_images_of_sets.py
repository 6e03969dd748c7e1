"""Published images: where they lie, what is missing, cut off or turned."""

import io
import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import ExifTags, Image

from focus.data.readers import SETS, ingest
from focus.data.readers.draft import Reason
from tests.support.published import WRITERS, edit, encoded, picture, write_bytes, write_json
from tests.support.reading import Read, cell, changed, native

# -------------------------------------------------------------------------------------------------------- images on disk


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


# ------------------------------------------------------------------------------------------------------- paths of images


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


# -------------------------------------------------------------------------------------------------------- cut and turned


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
