"""The room Look: runs, lists and one trajectory, from folders that are whole, foreign, half written or half deleted."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from focus.data.sample import ImageFile
from focus.evaluation.kept import About, Kept
from focus.lightbox import look
from tests.support.examples import answered, opened
from tests.support.lightbox import MARKUP, client_of, keep_run


@pytest.fixture(scope="module")
def outputs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("outputs")
    keep_run(folder / "stage1")
    (folder / "older").mkdir()
    (folder / "older/history.jsonl").write_text("")
    return folder


@pytest.fixture(scope="module")
def page(outputs) -> TestClient:
    return page_of(outputs)


@pytest.fixture
def broken(outputs, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(outputs, tmp_path / "outputs"))


def page_of(folder: Path) -> TestClient:
    return client_of([folder], lambda places, _: look.router(places))


def get(page: TestClient, kind: str, **params) -> dict:
    answer = page.get(f"/api/look/{kind}", params={"run": "0/stage1", **params})
    assert answer.status_code == 200, answer.text
    return answer.json()


def asked(page: TestClient, **params) -> list[str]:
    return [row["at"] for row in get(page, "rows", **params)["rows"]]


def test_runs_are_folders_with_a_history_or_kept_trajectories(page):
    runs = {run["title"]: (run["name"], run["tables"]) for run in page.get("/api/look/runs").json()["runs"]}
    assert runs == {"stage1": ("0/stage1", 2), "older": ("0/older", 0)}


def test_tables_stand_in_the_order_of_training_with_the_arms_in_them(page):
    tables = get(page, "tables")
    assert [(table["title"], table["rows"]) for table in tables["tables"]] == [("Update 20", 2), ("Probe after update 40", 2)]
    assert tables["arms"] == ["own", "noise"] and tables["problems"] == []


@pytest.mark.parametrize(
    ("params", "found"),
    [
        ({"table": "update"}, ["update_000020.0:0", "update_000020.0:1"]),
        ({"table": "update", "filter": "right"}, ["update_000020.0:0"]),
        ({"filter": "wrong,with_crop"}, ["probe_000040.0:0"]),
        ({"filter": "wrong,without_crop"}, ["update_000020.0:1"]),
        ({"filter": "same_with_noise"}, ["probe_000040.0:0"]),
        ({"filter": "level_group"}, []),
        ({"filter": "malformed"}, []),
        ({"arm": "noise"}, ["probe_000040.0:1"]),
        ({"table": "update_000020", "sort": "lowest_reward"}, ["update_000020.0:1", "update_000020.0:0"]),
        ({"table": "update_000020", "sort": "largest_box"}, ["update_000020.0:0"]),  # the other has no box
        ({"search": "ONERROR"}, ["update_000020.0:1"]),
        ({"search": "no such text"}, []),
        ({"start": 1, "count": 1}, ["update_000020.0:1"]),
    ],
)
def test_filters_orders_and_search_choose_trajectories(page, params, found):
    assert asked(page, **params) == found


def test_counts_say_what_each_filter_would_leave(page):
    counts = get(page, "rows", table="update")["counts"]
    assert (counts["right"], counts["wrong"], counts["with_crop"], counts["level_group"]) == (1, 1, 1, 0)


def test_a_trajectory_comes_with_its_pictures_rewards_and_siblings(page):
    one = get(page, "trajectory", at="update_000020.0:0")
    assert sum(term["amount"] for term in one["terms"]) == one["total"] == 2.0
    assert [row["at"] for row in one["siblings"]] == ["update_000020.0:0", "update_000020.0:1"] and one["arms"] == []
    for picture in (one["view"]["picture"], one["turns"][0]["crop"]["picture"], one["original"]):
        assert page.get(f"/images/{picture}").headers["content-type"] == "image/png"
    assert page.get(f"/zoom/{one['original']}").json()["Image"]["Size"] == {"Width": 448, "Height": 448}


def test_a_probe_shows_its_arms_beside_the_policy(page):
    one = get(page, "trajectory", at="probe_000040.0:0")
    assert [(arm["arm"], arm["answer"], arm["at"]) for arm in one["arms"]] == [("noise", "wrong", "probe_000040.0:1")]


def test_a_question_is_found_in_every_table_of_a_run(page):
    one = get(page, "trajectory", at="probe_000040.0:0")
    rows = get(page, "same", sample=one["id"])["rows"]
    assert [(row["title"], row["answer"] == MARKUP) for row in rows] == [
        *[("Update 20", False), ("Update 20", True)],
        ("Probe after update 40", False),
    ]


def test_curves_leave_out_a_line_that_is_half_written(page):
    assert get(page, "history") == {"updates": [1, 2], "series": {"probe/own": [None, None], "reward/total": [0.1, 0.2]}}


def test_a_run_of_an_earlier_version_says_that_it_keeps_none(page):
    tables = get(page, "tables", run="0/older")
    assert tables["tables"] == [] and "it was made by an earlier version of focus" in tables["note"]
    assert get(page, "rows", run="0/older")["rows"] == []


def test_a_probe_that_was_interrupted_says_so(broken):
    for table in (broken / "stage1/trajectories").glob("*.parquet"):
        table.unlink()
    assert get(page_of(broken), "tables")["note"].startswith("What it played was interrupted before it was whole. The same command goes on")


def test_a_table_that_is_damaged_gives_a_sentence_and_the_others_are_shown(broken):
    table = broken / "stage1/trajectories/update_000020.0.parquet"
    table.write_bytes(table.read_bytes()[:1000])
    page = page_of(broken)
    tables = get(page, "tables")
    assert [each["title"] for each in tables["tables"]] == ["Probe after update 40"]
    assert "update_000020.0.parquet can't be read" in tables["problems"][0]
    answer = page.get("/api/look/trajectory", params={"run": "0/stage1", "at": "update_000020.0:0"})
    assert answer.status_code == 422 and "it is damaged or was removed" in answer.json()["detail"]


def test_a_run_whose_pictures_were_removed_still_shows_its_texts(broken):
    shutil.rmtree(broken / "stage1/trajectories/images")
    one = get(page_of(broken), "trajectory", at="update_000020.0:0")
    assert (one["view"]["picture"], one["original"]) == (None, None) and "they were removed" in one["problem"]
    assert get(page_of(broken), "rows")["counts"]["with_pictures"] == 0


def test_a_run_that_is_removed_while_the_page_is_open_gives_a_sentence(broken):
    page = page_of(broken)
    assert asked(page)
    shutil.rmtree(broken / "stage1")
    answer = page.get("/api/look/rows", params={"run": "0/stage1"})
    assert answer.status_code == 404 and "in none of the folders of this page (any more)" in answer.json()["detail"]


@pytest.mark.parametrize("at", ["update_000020.0:2", "update_000020.0:-1", "update_000020.0", "../../x:0", "update_000020.1:0"])
def test_a_trajectory_that_does_not_exist_gives_a_sentence(page, at):
    answer = page.get("/api/look/trajectory", params={"run": "0/stage1", "at": at})
    assert answer.status_code in (404, 422) and answer.json()["detail"]


@pytest.mark.parametrize("run", ["0/../stage1", "1/stage1", "0/stage1/history.jsonl", ""])
def test_no_run_outside_of_the_folders_is_read(page, run):
    assert page.get("/api/look/tables", params={"run": run}).status_code == 404


def test_a_filter_or_an_order_that_does_not_exist_is_answered_with_those_that_do(page):
    for kind, there in (("filter", "right, wrong, "), ("sort", "largest_box, smallest_box, ")):
        answer = page.get("/api/look/rows", params={"run": "0/stage1", kind: "nice"})
        assert answer.status_code == 422 and f"{kind.replace('sort', 'order')} nice; there are {there}" in answer.json()["detail"]


def test_a_question_of_100_kb_is_cut_in_lists_alone(broken):
    begun = opened(3)
    sample = replace(begun.sample, question="x" * 100_000)
    kept = Kept(broken / "stage1", About("evaluation", None, "base", "own view"), mib=0)
    kept.add(kept.rows_of({"own": answered(replace(begun, sample=sample), "1")}), {"own": "1"}, {"own": 0.0})
    kept.write()
    page = page_of(broken)
    [row] = get(page, "rows", table="evaluation")["rows"]
    assert len(row["question"]) == 300
    assert len(get(page, "trajectory", at=row["at"])["question"]) == 100_000


def test_an_original_outside_of_the_folders_is_named_and_not_read(broken, tmp_path):
    begun = opened(3)
    begun.source.reduced((448, 448)).save(tmp_path / "photo.png")
    sample = replace(begun.sample, image=ImageFile(tmp_path / "photo.png"))
    kept = Kept(broken / "stage1", About("evaluation", None, "base", "own view"), mib=8)
    kept.add(kept.rows_of({"own": answered(replace(begun, sample=sample), "1")}), {"own": "1"}, {"own": 0.0})
    kept.write()
    at = {"at": "evaluation_base_own_view.0:0"}
    one = get(page_of(broken), "trajectory", **at)
    assert one["original"] is None and f"The original is {tmp_path}/photo.png, outside of the folders of this page" in one["problem"]
    both = client_of([broken, tmp_path], lambda places, _: look.router(places))
    assert get(both, "trajectory", **at)["original"] == "1/photo.png"
