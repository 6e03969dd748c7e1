"""Trajectories that a run keeps: what stands in a table, which pictures are stored, and what a damaged or foreign table says."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from focus.evaluation.kept import KEY, VERSION, About, BadTable, Kept, read_contents, read_listed, read_row, table_files
from focus.rewards import examples, score
from focus.runtime import distributed
from tests.support.examples import answered, opened, right, zoomed
from tests.support.trajectories import stage1

ABOUT = About("update", 20, "", "")


@pytest.fixture(scope="module")
def update(tmp_path_factory) -> Path:
    """A run that kept one update: of two siblings one is right after a crop, the other wrong without; a third question stands alone."""
    folder = tmp_path_factory.mktemp("run")
    begun = opened(3)
    looked = zoomed(begun, (112.0, 112.0, 224.0, 224.0))
    played = [answered(looked, begun.sample.answers[0]), answered(begun, "nothing"), answered(opened(5), "nothing")]
    kept = Kept(folder, ABOUT, mib=8)
    kept.add_update(examples(played, score(stage1(), played)), [1.0, -1.0, 0.0])
    kept.write()
    return folder


def only_file(folder: Path) -> Path:
    [[path]] = table_files(folder).values()
    return path


def test_a_table_is_named_by_what_it_holds():
    names = [about.name for about in (ABOUT, About("probe", 40, "", ""), About("evaluation", None, "base", "own view"))]
    assert names == ["update_000020", "probe_000040", "evaluation_base_own_view"]


def test_the_rewards_of_a_row_add_up_to_its_total_and_a_closed_gate_is_named(update):
    path = only_file(update)
    assert read_contents(path) == (ABOUT, ["own"], 3)
    first, second = (read_row(path, row) for row in (0, 1))
    amounts = {term["name"]: (term["raw"], term["amount"], term["closed_gate"]) for term in first["terms"]}
    assert amounts == {"accuracy": (1.0, 0.8, None), "format": (0.0, 0.0, None), "tool": (1.0, 1.2, None)}
    assert (first["total"], first["advantage"]) == (2.0, 1.0)
    assert {term["name"]: term["closed_gate"] for term in second["terms"]} == {"accuracy": None, "format": None, "tool": "accuracy"}


def test_a_list_says_who_looked_where_and_how_much_the_totals_of_a_group_differ(update):
    rows = read_listed(only_file(update)).to_pylist()
    assert [(row["rollout"], row["right"], row["crops"], row["spread"]) for row in rows] == [
        (0, 1.0, 1, 2.0),
        (1, 0.0, 0, 2.0),
        (0, 0.0, 0, 0.0),
    ]
    assert rows[0]["area"] == 112 * 112 / 448**2 and rows[1]["area"] is None


def test_pictures_are_what_the_policy_saw_pixel_by_pixel_and_equal_ones_are_one_file(update):
    rows = [read_row(only_file(update), row) for row in range(3)]
    begun = opened(3)
    with Image.open(update / "trajectories/images" / f"{rows[0]['view']['hash']}.png") as view:
        assert np.array_equal(np.asarray(view), np.asarray(begun.view.image))
    with Image.open(update / "trajectories/images" / f"{rows[0]['original_hash']}.png") as original:
        assert np.array_equal(np.asarray(original), np.asarray(begun.source.reduced((448, 448))))
    assert rows[0]["view"] == rows[1]["view"] != rows[2]["view"]
    # Two views, two originals, one crop
    assert len(list((update / "trajectories/images").iterdir())) == 5


def test_turns_tell_what_was_sampled_from_what_the_tool_replied(update):
    call, answer = read_row(only_file(update), 0)["turns"]
    assert (call["action"], call["tokens"], call["reply_tokens"], call["box_px"]) == ("crop", 3, 2, [112.0, 112.0, 224.0, 224.0])
    assert (answer["action"], answer["reply"], answer["crop"]) == ("answer", None, None)


def test_an_answer_that_noise_does_not_change_is_marked_on_the_arm_of_the_policy(tmp_path):
    looked = zoomed(opened(3), (112.0, 112.0, 224.0, 224.0))
    arms = {"own": answered(looked, "42"), "noise": answered(looked, "42.")}
    kept = Kept(tmp_path, About("probe", 40, "", ""), mib=8)
    kept.add(kept.rows_of(arms), {"own": "42", "noise": "42."}, {"own": 1.0, "noise": math.nan})
    kept.write()
    own, noise = read_listed(only_file(tmp_path)).to_pylist()
    assert (own["arm"], own["same_with_noise"], own["right"]) == ("own", True, 1.0)
    assert (noise["arm"], noise["same_with_noise"], noise["right"]) == ("noise", None, None)


def test_beyond_the_bound_a_question_keeps_its_texts_and_boxes(tmp_path):
    kept = Kept(tmp_path, ABOUT, mib=0.01)
    kept.add_update([right(3), right(4)], [0.0, 0.0])
    kept.write()
    first, second = (read_row(only_file(tmp_path), row) for row in (0, 1))
    assert first["pictures"] and first["view"]["hash"]
    assert not second["pictures"] and second["view"] == {"hash": None, "width": 112, "height": 112, "tokens": 16}
    assert second["turns"][0]["box_px"] == [112.0, 112.0, 224.0, 224.0] and second["original_hash"] is None


def keep_in_ranks(folder: Path, *parts: list[int], patch: pytest.MonkeyPatch) -> list[str]:
    """Each rank keeps its part of an update, one question a number; returns the ids of all rows."""
    for rank, part in enumerate(parts):
        patch.setattr(distributed, "rank", lambda rank=rank: rank)
        patch.setattr(distributed, "ranks", lambda: len(parts))
        kept = Kept(folder, ABOUT, mib=8)
        kept.add_update([right(index) for index in part], [0.0] * len(part))
        kept.write()
    return sorted(row["id"] for paths in table_files(folder).values() for path in paths for row in read_listed(path).to_pylist())


def test_ranks_keep_every_row_once_and_a_picture_of_both_once(tmp_path, monkeypatch):
    ids = sorted(opened(index).sample.id for index in (3, 4, 4, 5))
    assert keep_in_ranks(tmp_path, [3, 4], [4, 5], patch=monkeypatch) == ids
    assert (
        len(list((tmp_path / "trajectories/images").iterdir())) == 3 * 3
    )  # view, crop and original of three questions, nothing half written


def test_an_update_that_fewer_ranks_make_again_is_not_kept_twice(tmp_path, monkeypatch):
    keep_in_ranks(tmp_path, [3], [4], patch=monkeypatch)
    again = keep_in_ranks(tmp_path, [3, 4], patch=monkeypatch)
    assert again == sorted(opened(index).sample.id for index in (3, 4))


def test_an_original_that_is_a_file_is_named_and_not_copied(tmp_path):
    from focus.data.sample import ImageFile

    example = right(3)
    sample = replace(example.trajectory.sample, image=ImageFile(tmp_path / "photo.jpg"))
    kept = Kept(tmp_path, ABOUT, mib=8)
    kept.add_update([replace(example, trajectory=replace(example.trajectory, sample=sample))], [0.0])
    kept.write()
    row = read_row(only_file(tmp_path), 0)
    assert (row["original_path"], row["original_hash"]) == (str(tmp_path / "photo.jpg"), None)


def test_a_table_of_another_version_and_a_damaged_one_give_a_sentence(tmp_path):
    about = {KEY: json.dumps({"version": VERSION + 1, "kind": "update"}).encode()}
    pq.write_table(pa.table({"id": ["a"]}).replace_schema_metadata(about), tmp_path / "later.0.parquet")
    with pytest.raises(BadTable, match=f"version {VERSION + 1} of the columns of trajectories, this focus reads version {VERSION}"):
        read_contents(tmp_path / "later.0.parquet")
    (tmp_path / "half.0.parquet").write_bytes(b"PAR1 and then the disk was full")
    for read in (read_contents, read_listed, lambda path: read_row(path, 0)):
        for name in ("half.0.parquet", "gone.0.parquet"):
            with pytest.raises(BadTable, match="can't be read"):
                read(tmp_path / name)


def test_a_row_that_a_table_does_not_have_gives_a_sentence(update):
    with pytest.raises(BadTable, match="has 3 rows; row 3 is not one of them"):
        read_row(only_file(update), 3)
