"""Boxes that are drawn here: every save is kept, two annotators lose nothing, and every tool gets the same boxes."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from focus.data.annotations.faults import Fault
from focus.data.annotations.journal import Conflict, Drawing, Journal
from focus.data.annotations.project import Project
from focus.data.annotations.reading import read_annotations
from focus.data.annotations.writing import EXPORTS, coco, cvat, label_studio
from focus.data.sample import Records, read_records
from focus.data.source import open_source
from tests.support.annotating import B1, B2, B3, project_of, record

# On an image of 2000 x 1000 px, one percent is 20 px across and 10 px down
FAR = (1500.0, 800.0, 1600.0, 900.0)
CHAIN = ((B1, B2, B3),)
TWO = ((B1, B2), (FAR,))


@pytest.fixture
def project(tmp_path) -> Project:
    """Two questions about one image, and one about another."""
    return project_of(tmp_path, record("1", meta={"kept": True}), record("2", raw="é"), record("3", "b.png", boxes=[[FAR]]))


@pytest.fixture
def samples(project) -> Records:
    return project.samples


def done(name: str, chains=CHAIN, version: int = 0, **more) -> Drawing:
    return Drawing(f"mine/train/{name}", version, "done", chains, **more)


# ------------------------------------------------------------------------------------------------------------- journal


def test_a_save_is_in_the_file_when_it_returns_and_a_new_start_goes_on_from_it(tmp_path):
    saved = Journal(tmp_path / "j").save(Drawing("q", 0, "open", CHAIN, "Ana", 12.5))
    assert (saved.version, saved.annotator, saved.seconds) == (1, "Ana", 12.5)
    assert Journal(tmp_path / "j").of("q") == saved
    assert Journal(tmp_path / "j").of("other") == Drawing("other")


def test_a_save_on_an_older_state_is_refused_with_the_newest_state_and_the_older_lines_stay(tmp_path):
    first, second = Journal(tmp_path / "j"), Journal(tmp_path / "j")  # two servers on one file
    assert (first.of("q").version, second.of("q").version) == (0, 0)
    theirs = first.save(Drawing("q", 0, "open", CHAIN, "Ana"))
    with pytest.raises(
        Conflict, match=r"^Ana saved this question at \d\d:\d\d UTC, after you opened it; keep your boxes, or take theirs$"
    ) as c:
        second.save(Drawing("q", 0, "open", TWO, "Ben"))
    assert c.value.newest == theirs
    mine = second.save(Drawing("q", c.value.newest.version, "open", TWO, "Ben"))  # Ben keeps his
    assert first.of("q") == mine and mine.version == 2
    assert [json.loads(line)["annotator"] for line in (tmp_path / "j").read_text().splitlines()] == ["Ana", "Ben"]


def test_a_save_whose_reply_was_lost_can_be_repeated(tmp_path):
    journal = Journal(tmp_path / "j")
    saved = journal.save(Drawing("q", 0, "open", CHAIN))
    assert journal.save(Drawing("q", 0, "open", CHAIN)) == saved
    assert len((tmp_path / "j").read_text().splitlines()) == 1


def test_what_a_killed_process_wrote_half_is_cut_off_and_what_it_confirmed_stays(tmp_path):
    Journal(tmp_path / "j").save(Drawing("q", 0, "open", CHAIN))
    whole = (tmp_path / "j").read_bytes()
    (tmp_path / "j").write_bytes(whole + whole[: len(whole) // 2])
    journal = Journal(tmp_path / "j")
    assert (tmp_path / "j").read_bytes() == whole
    assert journal.save(Drawing("q", 1, "done", CHAIN)).version == 2


def test_a_damaged_line_is_named_and_a_file_that_shrank_in_use_is_not_written(tmp_path):
    journal = Journal(tmp_path / "j")
    journal.save(Drawing("q", 0, "open", CHAIN))
    (tmp_path / "j").write_text("")
    with pytest.raises(ValueError, match="was shortened or removed while it was in use; put it back"):
        journal.save(Drawing("q", 1, "open", TWO))
    (tmp_path / "j").write_text('{"id": "q", "chains": [[[1, 2]]]}\n')
    with pytest.raises(ValueError, match=r"j, line 1: damaged .*; remove that line"):
        Journal(tmp_path / "j")


@pytest.mark.processes
def test_processes_that_save_at_the_same_time_lose_nothing(tmp_path):
    code = (
        "import sys; from pathlib import Path; from focus.data.annotations.journal import *\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "for number in range(20): journal.save(Drawing(f'{sys.argv[2]}-{number}'))"
    )
    started = [subprocess.Popen([sys.executable, "-c", code, tmp_path / "j", name]) for name in "ab"]
    assert [process.wait() for process in started] == [0, 0]
    with Journal(tmp_path / "j").newest() as drawings:
        assert sorted(drawings) == sorted(f"{name}-{number}" for name in "ab" for number in range(20))


# ------------------------------------------------------------------------------------------------------------- project


def test_annotated_records_are_those_that_data_records_reads_without_another_setting(project, tmp_path):
    project.save(done("1", TWO))
    project.save(done("2"))
    project.save(done("2", version=1))
    project.save(Drawing("mine/train/3", 0, "skipped"))
    samples = open_source("records", str(project.records), None, kept=tmp_path / "cache")
    assert [(s.id, s.boxes) for s in samples] == [("mine/train/1", TWO), ("mine/train/2", CHAIN)]
    assert samples[0].open().size == (2000, 1000)  # images stay where they are
    assert samples[0].meta == {"kept": True}
    line = json.loads(project.records.read_text().splitlines()[0])
    assert (line["box_labels"], line["box_origin"], line["scorer"]) == ([["B1", "B2"], ["B1"]], "human", "number")


def test_a_question_that_is_opened_again_leaves_the_records(project):
    project.save(done("1"))
    assert len(project.records.read_text().splitlines()) == 1
    project.save(Drawing("mine/train/1", 1, "open", CHAIN))
    assert project.records.read_text() == ""


def test_progress_counts_states_and_the_next_question_is_open_and_nobody_elses(project):
    assert project.progress() == {"open": 3, "done": 0, "skipped": 0, "total": 3, "seconds": None}
    project.save(done("1", seconds=21.5))
    project.save(Drawing("mine/train/2", 0, "skipped"))
    assert project.progress() == {"open": 1, "done": 1, "skipped": 1, "total": 3, "seconds": 21.5}
    assert [project.next_open(after) for after in (-1, 0, 2)] == [2, 2, 2]
    assert project.next_open(0, taken={2}) == 2  # better twice than never
    project.save(Drawing("mine/train/2", 1, "open"))
    assert project.next_open(0, taken={1}) == 2
    project.save(Drawing("mine/train/2", 2, "skipped"))
    project.save(done("3"))
    assert project.next_open(0) is None


@pytest.mark.parametrize(
    ("state", "chains", "problem"),
    [
        ("open", ((B2, B1),), "a box does not lie inside the next"),
        ("open", ((B1, B1),), "a box does not lie inside the next"),
        ("open", (((1900, 900, 2001, 1000),),), "a box has no area or leaves the image"),
        ("open", ((),), "a target has no box"),
        ("done", (), "it has no box; draw one before it is done, or skip it"),
        ("finished", CHAIN, "its state is 'finished'; choose one of open, done, skipped"),
    ],
)
def test_boxes_that_training_could_not_use_are_not_saved(project, state, chains, problem):
    with pytest.raises(ValueError, match=f"^question mine/train/1 was not saved: {problem}"):
        project.save(Drawing("mine/train/1", 0, state, chains))
    assert project.journal.of("mine/train/1").version == 0


def test_what_was_drawn_for_another_file_of_questions_stays_in_the_journal_and_out_of_the_records(project):
    project.journal.save(done("gone"))
    project.write_records()
    assert project.records.read_text() == "" and project.progress()["done"] == 0


def test_a_folder_of_other_questions_is_refused(project, samples, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    other = Records(samples.path, tmp_path / "elsewhere", samples.starts)
    with pytest.raises(ValueError, match=r"holds what was drawn on the images in .*questions, but .* in .*elsewhere; choose another"):
        Project(other, project.folder)


# ------------------------------------------------------------------------------------------------------ other tools

DRAWN = [record("1", boxes=TWO), record("2", boxes=CHAIN), record("3", "b.png", boxes=[[FAR]])]


def test_label_studio_gets_percent_of_the_image_and_a_chain_only_where_there_are_several():
    tasks = json.loads(label_studio(DRAWN))
    first, other = tasks[0], tasks[1]
    assert first["data"] == {
        "image": "a.png",
        "question_id": "mine/train/1",
        "question": "Which number is on the blue door?",
        "answers": ["27"],
    }
    inner, outer, far = first["annotations"][0]["result"]
    assert inner["value"] == {"x": 20, "y": 30, "width": 5, "height": 4, "rotation": 0, "rectanglelabels": ["B1"]}  # B1 in percent
    assert (inner["original_width"], inner["original_height"], inner["meta"]) == (2000, 1000, {"text": ["chain=1"]})
    assert outer["value"] == {"x": 18, "y": 26, "width": 12, "height": 14, "rotation": 0, "rectanglelabels": ["B2"]}
    assert (far["value"]["x"], far["value"]["width"], far["meta"]) == (75, 5, {"text": ["chain=2"]})
    assert not any("meta" in result for result in other["annotations"][0]["result"])


def test_coco_gets_corners_and_sides_in_pixels_and_each_image_once():
    export = json.loads(coco(DRAWN))
    assert export["images"] == [
        {"id": 1, "file_name": "a.png", "width": 2000, "height": 1000},
        {"id": 2, "file_name": "b.png", "width": 2000, "height": 1000},
    ]
    assert export["categories"] == [{"id": 1, "name": "B1"}, {"id": 2, "name": "B2"}, {"id": 3, "name": "B3"}]
    assert export["annotations"][1] == {
        "id": 2,
        "image_id": 1,
        "category_id": 2,
        "bbox": [360, 260, 240, 140],
        "area": 33600,
        "iscrowd": 0,
        "attributes": {"qid": "mine/train/1", "chain": "1"},
    }
    assert export["annotations"][3]["attributes"] == {"qid": "mine/train/2"}
    assert [box["image_id"] for box in export["annotations"]] == [1, 1, 1, 1, 1, 1, 2]


def test_cvat_gets_every_image_once_with_the_question_at_each_box():
    assert cvat([record("1", boxes=[[B1]]), record('2 "<', boxes=TWO)]) == (
        "<?xml version='1.0' encoding='utf-8'?>\n"
        '<annotations><version>1.1</version><image id="0" name="a.png" width="2000" height="1000">'
        '<box label="B1" source="manual" occluded="0" xtl="400.0" ytl="300.0" xbr="500.0" ybr="340.0" z_order="0">'
        '<attribute name="qid">mine/train/1</attribute></box>'
        '<box label="B1" source="manual" occluded="0" xtl="400.0" ytl="300.0" xbr="500.0" ybr="340.0" z_order="0">'
        '<attribute name="qid">mine/train/2 "&lt;</attribute><attribute name="chain">1</attribute></box>'
        '<box label="B2" source="manual" occluded="0" xtl="360.0" ytl="260.0" xbr="600.0" ybr="400.0" z_order="0">'
        '<attribute name="qid">mine/train/2 "&lt;</attribute><attribute name="chain">1</attribute></box>'
        '<box label="B1" source="manual" occluded="0" xtl="1500.0" ytl="800.0" xbr="1600.0" ybr="900.0" z_order="0">'
        '<attribute name="qid">mine/train/2 "&lt;</attribute><attribute name="chain">2</attribute></box></image></annotations>'
    )
    with pytest.raises(ValueError, match=r"XML has no character '\\x01'; export as coco or label_studio"):
        cvat([record("\x01", boxes=[[B1]])])


@pytest.mark.parametrize("tool", EXPORTS)
def test_what_a_tool_gets_is_read_back_to_the_same_boxes_of_the_same_questions(tool, project, samples, tmp_path):
    odd = ((tuple(x + 1 / 3 for x in B1), B2),)  # a third of a pixel
    project.save(done("1", TWO))
    project.save(done("2", odd))
    project.save(done("3"))
    export = tmp_path / f"export.{EXPORTS[tool][0]}"
    export.write_text(project.export(tool))
    annotated, counted, _ = read_annotations(export)
    assert not counted and [each.question_id for each in annotated] == ["mine/train/1", "mine/train/2", "mine/train/3"]
    for each, chains in zip(annotated, (TWO, odd, CHAIN), strict=True):
        assert (each.size, each.rule) == ((2000, 1000), "level")
        assert each.chains == tuple(tuple(pytest.approx(box_px, abs=1e-9) for box_px in chain) for chain in chains)
    other = Project(samples, tmp_path / "other")
    assert (other.take(export).imported, other.progress()["done"]) == (3, 3)
    assert other.journal.of("mine/train/1").chains == annotated[0].chains
    assert len(read_records(other.records, samples.root)[0]) == 3


def test_an_import_leaves_questions_alone_that_somebody_worked_on_and_counts_what_it_does_not_use(project, tmp_path):
    mine = project.save(Drawing("mine/train/1", 0, "open", ((FAR,),), "Ana"))
    nested, wrong = coco_of({"mine/train/1": [B1, B2], "mine/train/2": [B1, B2], "mine/train/9": [B1]}), tmp_path / "wrong.json"
    (tmp_path / "boxes.json").write_text(json.dumps(nested))
    taken = project.take(tmp_path / "boxes.json")
    assert (taken.imported, taken.kept) == (1, 1)
    assert taken.unused == {Fault.NO_RECORD: 1} and "mine/train/9" in taken.first[Fault.NO_RECORD]
    assert project.journal.of("mine/train/1") == mine
    assert project.journal.of("mine/train/2") == replace(
        done("2", ((B1, B2),), 1), annotator="imported from boxes.json", when=project.journal.of("mine/train/2").when
    )
    wrong.write_text("{}")
    with pytest.raises(ValueError, match=r"wrong.json is JSON, but holds an object with the keys \(none\)"):
        project.take(wrong)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["boxes.json", "out", "questions", "wrong.json"]


def coco_of(boxes: dict[str, list]) -> dict:
    """A COCO export by hand: the boxes of each question, from the inside out."""
    annotations = [
        {"id": f"{name}{level}", "image_id": 5, "category_id": level, "bbox": [x1, y1, x2 - x1, y2 - y1], "attributes": {"qid": name}}
        for name, chain in boxes.items()
        for level, (x1, y1, x2, y2) in enumerate(chain, start=1)
    ]
    images = [{"id": 5, "width": 2000, "height": 1000, "file_name": "a.png"}]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "B1"}, {"id": 2, "name": "B2"}]}


def test_nothing_that_is_done_is_nothing_to_export(project):
    with pytest.raises(ValueError, match="no question is done, so there is nothing to export; finish one first"):
        project.export("coco")
