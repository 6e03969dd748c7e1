"""The leak guard: what two sets share is found by the bytes of their images, counted by hand here, and told with what to do."""

import json
from hashlib import sha256
from pathlib import Path

import pytest

from focus.data.leaks import ImageUse, Overlap, hashes, known_sets, overlaps, report
from focus.data.readers import SETS, ingest
from focus.data.sample import write_records
from focus.data.scenes import DIFFICULTY, Scenes
from tests.support.published import WRITERS, write_bytes


def image(name: str) -> str:
    return sha256(name.encode()).hexdigest()


def written(folder: Path, *questions: tuple[str, str], name: str = "records.jsonl", **more) -> Path:
    """Records with the two fields that matter here: an id, and the hash of the image it asks about."""
    folder.mkdir(parents=True, exist_ok=True)
    records = [{"id": key, "image": f"{number}.jpg", "image_sha256": image(seen)} | more for number, (key, seen) in enumerate(questions)]
    (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder / name


@pytest.fixture
def trained(tmp_path) -> Path:
    return written(tmp_path / "mine", ("deepeyes47k/train/0", "kite"), ("deepeyes47k/train/1", "boat"), ("deepeyes47k/train/2", "kite"))


def test_every_image_is_kept_as_sixteen_bytes_with_its_first_question_and_their_number(trained):
    assert hashes(trained) == {
        bytes.fromhex(image("kite"))[:16]: ImageUse("deepeyes47k/train/0", 2, True),
        bytes.fromhex(image("boat"))[:16]: ImageUse("deepeyes47k/train/1", 1, True),
    }


def test_images_and_questions_of_both_sides_are_counted_and_the_first_of_each_is_named(tmp_path, trained):
    tested = written(tmp_path / "other", ("vstar/test/7", "dog"), ("vstar/test/8", "boat"), ("vstar/test/9", "kite"))
    mine, theirs = hashes(trained), hashes(tested)
    assert overlaps(mine, theirs) == Overlap(2, (3, 2), ("deepeyes47k/train/0", "vstar/test/9"))
    assert overlaps(theirs, mine) == Overlap(2, (2, 3), ("vstar/test/8", "deepeyes47k/train/1"))
    assert overlaps(mine, {}) == Overlap(0, (0, 0), ("", ""))


def test_the_same_file_is_found_in_two_published_sets_wherever_it_lies(tmp_path):
    for name in ("vstar", "treevgr_rl"):
        (tmp_path / name).mkdir()
        WRITERS[name](tmp_path / name)
    write_bytes(tmp_path / "treevgr_rl/images/1.jpg", (tmp_path / "vstar/relative_position/sa_33.jpg").read_bytes())
    for name in ("vstar", "treevgr_rl"):
        ingest(SETS[name], tmp_path / name, tmp_path / "data" / name)
    known = known_sets(tmp_path / "data")
    assert list(known) == ["treevgr_rl", "vstar"]
    [sentence] = report("treevgr_rl", known["treevgr_rl"], known)
    assert sentence.startswith(
        "treevgr_rl shares 1 images with vstar: 1 of its questions and 1 of theirs are about them (first: treevgr_rl/"
    )
    assert "-2 and vstar/test/2). " in sentence  # the second row


def test_images_inside_a_table_are_found_too(tmp_path):
    for name in ("treebench", "zoombench"):
        (tmp_path / name).mkdir()
        WRITERS[name](tmp_path / name)
        ingest(SETS[name], tmp_path / name, tmp_path / "data" / name)
    known = known_sets(tmp_path / "data")
    blob = next((tmp_path / "data/treebench").glob("*.jpg")).read_bytes()
    own = written(tmp_path / "own", ("own/0", "?"), image_sha256=sha256(blob).hexdigest())
    assert [sentence.split(":")[0] for sentence in report("records", own, known)] == ["records shares 1 images with treebench"]


def test_only_sets_with_records_are_known(tmp_path):
    (tmp_path / "data/unfinished").mkdir(parents=True)
    records = written(tmp_path / "data/vstar", ("vstar/test/0", "dog"))
    assert known_sets(tmp_path / "data") == {"vstar": records}
    assert known_sets(tmp_path / "nowhere") == {}


def test_a_set_is_not_compared_with_itself_nor_with_its_annotated_part(tmp_path):
    whole = written(tmp_path / "data/vstar", ("vstar/test/0", "dog"), ("vstar/test/1", "boat"))
    part = written(tmp_path / "data/vstar", ("vstar/test/1", "boat"), name="annotated.jsonl")
    known = known_sets(tmp_path / "data")
    assert report("vstar", whole, known) == [] and report("vstar", part, known) == []


def test_a_training_set_is_told_to_stay_away_from_a_test_set_whichever_is_looked_at(tmp_path, trained):
    tested = written(tmp_path / "other", ("vstar/test/9", "kite"))
    advice = "vstar is a test set: do not train on these questions of deepeyes47k, or do not test on vstar"
    assert report("deepeyes47k", trained, {"vstar": tested})[0].endswith(advice)
    assert report("vstar", tested, {"deepeyes47k": trained})[0].endswith(advice)


def test_two_test_sets_and_two_training_sets_get_other_advice(tmp_path, trained):
    vstar, treebench = (written(tmp_path / name, (f"{name}/test/0", "kite")) for name in ("vstar", "treebench"))
    assert report("vstar", vstar, {"treebench": treebench})[0].endswith("Both are test sets: do not count their results as two")
    own = written(tmp_path / "own", ("mine/0", "kite"))
    assert report("records", own, {"deepeyes47k": trained})[0].endswith("leave the questions about these images out of the training")


def test_a_test_set_is_recognised_by_its_ids_whatever_its_records_are_called(tmp_path, trained):
    copy = written(tmp_path / "copy", ("vstar/test/9", "kite"))
    assert "records is a test set: do not train on these questions of deepeyes47k" in report("records", copy, {"deepeyes47k": trained})[0]


@pytest.mark.parametrize("here, there", [("hrbench4k", "hrbench8k"), ("hrbench8k", "hrbench4k")])
def test_both_resolutions_of_hrbench_show_the_same_scenes_although_no_file_is_shared(tmp_path, here, there):
    mine, theirs = written(tmp_path / here, (f"{here}/test/0", here)), written(tmp_path / there, (f"{there}/test/0", there))
    [sentence] = report("records", mine, {there: theirs})
    assert sentence.startswith(f"records and {there} show the same scenes") and "never train on one and test on the other" in sentence
    assert report(here, mine, {here: written(tmp_path / "again", (f"{here}/test/0", "other"))}) == []


def test_records_without_hashes_are_known_by_the_hash_in_the_name_of_their_image(tmp_path):
    named = write_records(Scenes(DIFFICULTY[1], "train", 2), tmp_path / "scenes")
    lines = [json.loads(line) for line in named.read_text().splitlines()]
    before = hashes(named)
    named.write_text("".join(json.dumps({key: line[key] for key in line if key != "image_sha256"}) + "\n" for line in lines))
    assert hashes(named) == before and all(asked.hashed for asked in before.values())


def test_records_without_any_hash_are_known_by_their_place_alone_and_that_is_told(tmp_path):
    mine, theirs = (written(tmp_path / name, (f"{name}/0", "?"), (f"{name}/1", "?"), image_sha256=None) for name in ("a", "b"))
    assert overlaps(hashes(mine), hashes(theirs)).images == 0  # both have a 0.jpg
    [sentence] = report("a", mine, {"b": theirs})
    assert sentence.startswith("2 questions of a have neither image_sha256 nor") and sentence.endswith("Add the field")
    inside = written(tmp_path / "a/inside", ("c/0", "?"), image_sha256=None, image="../0.jpg")
    assert overlaps(hashes(mine), hashes(inside)).images == 1


@pytest.mark.parametrize("line, seen", [
    ("{", "JSONDecodeError"),
    ("[1]", "AttributeError"),
    ('{"id": "a"}', "KeyError: 'image'"),
    ('{"image": "a.jpg"}', "KeyError: 'id'"),
    ('{"id": 7, "image": "a.jpg"}', "its id is 7"),
    ('{"id": "a", "image": null}', "TypeError"),
    ('{"id": "a", "image": "a.jpg", "meta": [1]}', "AttributeError"),
    ("[" * 100_000, "RecursionError"),
])  # fmt: skip
def test_a_file_of_other_things_than_records_is_one_message_with_its_line_and_what_to_do(tmp_path, trained, line, seen):
    path = written(tmp_path / "theirs", ("vstar/test/0", "dog"))
    path.write_text(path.read_text() + "\n" + line + "\n")
    with pytest.raises(ValueError) as told:
        report("deepeyes47k", trained, {"theirs": path})
    assert str(told.value).startswith(f"{path}, line 3: not a record") and seen in str(told.value)
    assert f"move the file out of {path.parent}" in str(told.value)


def test_a_set_whose_pictures_have_the_box_drawn_on_them_can_not_be_compared_whichever_is_looked_at(tmp_path, trained):
    drawn = written(tmp_path / "zwz_rl", ("zwz_rl/train/0", "dog"), meta={"box_is_drawn": True})
    for told in (report("zwz_rl", drawn, {"deepeyes47k": trained}), report("deepeyes47k", trained, {"zwz_rl": drawn})):
        [sentence] = told
        assert sentence.startswith("the images of zwz_rl have the box drawn on them, so their hashes match no original")


def test_validation_sets_of_documents_are_test_sets_too(tmp_path, trained):
    for name in ("infovqa", "docvqa", "textvqa"):
        tested = written(tmp_path / name, (f"{name}/val/9", "kite"))
        assert f"{name} is a test set: do not train on these questions" in report("deepeyes47k", trained, {name: tested})[0]
