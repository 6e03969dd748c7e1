"""Published boxes: at the border, malformed, in another frame."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from focus.data.readers import vstar
from focus.data.readers.draft import Reason
from tests.support.published import edit, write_json
from tests.support.reading import PROPERTY, Read, cell, changed

# --------------------------------------------------------------------------------------------------- boxes at the border


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


# ------------------------------------------------------------------------------------------------ boxes in another frame


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
