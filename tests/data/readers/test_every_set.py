"""What holds of every published set: sound records, ids, groups, a second reading."""

import re
from collections import defaultdict
from pathlib import Path

import pytest

from focus.data.readers import SETS, ingest, textvqa
from focus.data.readers.draft import Reason
from focus.data.sample import MARKUP, problems_of
from tests.support.published import WRITERS
from tests.support.reading import Read, native, sha256


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
