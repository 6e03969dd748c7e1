"""What questions are by their content: equal hashes mean equal records and images, whatever file they came from."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from focus.data.identity import questions_digest
from focus.data.sample import ImageFile, Sample, read_records, write_records
from focus.data.scenes import DIFFICULTY, Scenes
from focus.runs import train
from tests.support.runs import settings


@pytest.fixture
def sample(tmp_path) -> Sample:
    Image.new("RGB", (64, 48), "red").save(tmp_path / "image.bmp")
    return Sample(
        id="a/1",
        source="a",
        split="train",
        image=ImageFile(tmp_path / "image.bmp"),
        width=64,
        height=48,
        question="What colour is it?",
        answers=("red",),
        scorer="letter",
        options=(("red", "Red"), ("blue", "Blue")),
        boxes=(((0.0, 0.0, 10.0, 10.0), (0.0, 0.0, 20.0, 20.0)),),
        group="image",
        meta={"category": "colour"},
    )


OTHER = {
    "id": "a/2",
    "source": "b",
    "split": "eval",
    "width": 65,
    "height": 49,
    "question": "Which colour is it?",
    "answers": ("red", "crimson"),
    "scorer": "exact",
    "options": (("blue", "Blue"), ("red", "Red")),
    "boxes": (((0.0, 0.0, 10.0, 10.0), (0.0, 0.0, 20.0, 21.0)),),
    "group": "another",
    "meta": {"category": "size"},
}


@pytest.mark.parametrize("name", [*OTHER, "image"])
def test_every_field_of_a_question_counts(sample, tmp_path, name):
    shutil.copy2(tmp_path / "image.bmp", tmp_path / "other.bmp")
    other = replace(sample, **{name: OTHER.get(name, ImageFile(tmp_path / "other.bmp"))})
    assert questions_digest([other]) != questions_digest([sample]) == questions_digest([replace(sample)])


def test_order_and_number_of_questions_count(sample):
    other = replace(sample, id="a/2")
    assert len({questions_digest(each) for each in ([sample, other], [other, sample], [sample], [])}) == 4


def test_an_image_that_is_replaced_by_one_of_the_same_size_in_bytes_counts(sample, tmp_path):
    before = questions_digest([sample])
    old = (tmp_path / "image.bmp").stat()
    Image.new("RGB", (64, 48), "blue").save(tmp_path / "image.bmp")
    os.utime(tmp_path / "image.bmp", ns=(old.st_atime_ns, old.st_mtime_ns + 1))
    assert (tmp_path / "image.bmp").stat().st_size == old.st_size and questions_digest([sample]) != before
    (tmp_path / "image.bmp").unlink()
    assert questions_digest([sample]) != before


def test_records_that_move_to_another_folder_with_their_images_stay_the_same_questions(tmp_path):
    path = write_records(Scenes(DIFFICULTY[1], "eval", 3), tmp_path / "here")
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    here, there = (read_records(tmp_path / name / path.name)[0] for name in ("here", "there"))
    assert questions_digest(here) == questions_digest(there) == questions_digest(list(here))
    assert questions_digest(here) != questions_digest(here[:2])


def test_scenes_are_named_by_how_they_are_drawn_without_drawing_them():
    many = Scenes(DIFFICULTY[1], "eval", 10**9)
    others = [Scenes(DIFFICULTY[2], "eval", 10**9), Scenes(DIFFICULTY[1], "train", 10**9), Scenes(DIFFICULTY[1], "eval", 10**9, 1)]
    digests = {questions_digest(each) for each in [many, *others, Scenes(DIFFICULTY[1], "eval", 5)]}
    assert len(digests) == 5 and questions_digest(Scenes(DIFFICULTY[1], "eval", 10**9)) == questions_digest(many)


# ------------------------------------------------------------------------------------------------------- what a run knows


def rewritten(path: Path) -> None:
    """Another accepted answer in every record."""
    rows = [json.loads(line) | {"answers": ["another"]} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_run_does_not_go_on_with_other_training_questions_and_is_measured_anew_on_other_held_out_ones(
    tmp_path, random_policy, monkeypatch, capsys
):
    questions, held_out = (write_records(Scenes(DIFFICULTY[1], "train", 3, k), tmp_path / f"records{k}") for k in (0, 100))
    results = tmp_path / "results.csv"
    words = (
        *("data=records", f"data.records={questions}", f"evaluation.records={held_out}"),
        *("report.trajectories=1", "evaluation.arms=[own]"),
        f"results={results}",
    )
    train.run(settings(tmp_path / "run", random_policy, *words))
    right = json.loads((tmp_path / "run/evaluation_trained_t1.json").read_text())["identity"]
    monkeypatch.setattr(train, "fit", lambda *_: pytest.fail("a finished run was trained again"))
    train.run(settings(tmp_path / "again", random_policy, *words))
    assert "this point is in" in capsys.readouterr().out
    rewritten(held_out)
    train.run(settings(tmp_path / "run", random_policy, *words))
    assert json.loads((tmp_path / "run/evaluation_trained_t1.json").read_text())["identity"].split()[:2] == right.split()[:2]
    assert json.loads((tmp_path / "run/evaluation_trained_t1.json").read_text())["identity"] != right
    rewritten(questions)
    with pytest.raises(ValueError, match="holds a run on other training questions"):
        train.run(settings(tmp_path / "run", random_policy, *words))
    with pytest.raises(pytest.fail.Exception, match="trained again"):  # a point on other data stands in no results file
        train.run(settings(tmp_path / "again", random_policy, *words, f"output={tmp_path / 'third'}"))
