"""The room Annotate without a browser: what it shows of a question, what it saves, and for whom."""

import json
import re

import pytest

from focus import agent as agents
from focus.lightbox import annotate
from focus.lightbox.annotate import AWAY_S, LARGEST_EXPORT, Policy, Presence, chains_of
from focus.model.loading import EMBEDDED, load_model
from tests.support.annotating import B1, B2, B3, project_of, record
from tests.support.lightbox import client_of
from tests.support.scripted import Scripted, call


@pytest.fixture
def project(tmp_path):
    return project_of(
        tmp_path,
        record("1"),
        record("2", "broken.png"),
        record("3", boxes=[[B1, B2]], question="y" * 100_000, options=[{"key": "A", "text": "<b>27</b>"}]),
        record("4", "../outside.png"),
        record("5", "b.png", width=1000, height=500),
    )


@pytest.fixture
def page(project, tmp_path):
    (tmp_path / "outside.png").write_bytes((tmp_path / "questions/a.png").read_bytes())
    return client_of([tmp_path], lambda _, images: annotate.router(project, images, None))


def boxes(*chains, version: int = 0, state: str = "open", annotator: str = "") -> dict:
    return {"version": version, "state": state, "chains": chains, "annotator": annotator, "seconds": 3.5}


def test_a_question_comes_with_its_tiles_what_was_drawn_and_the_boxes_that_the_file_suggests(page):
    asked = page.get("/api/annotate/questions/2?tab=a").json()
    assert (asked["id"], asked["size"], asked["problem"]) == ("mine/train/3", [2000, 1000], None)
    assert asked["suggested"] == [[list(B1), list(B2)]] and asked["options"] == [["A", "<b>27</b>"]]
    assert len(asked["question"]) == 100_000
    assert asked["drawing"]["version"] == 0 and asked["drawing"]["chains"] == []
    assert page.get(f"{asked['zoom']['Image']['Url']}8/0_0.jpg").status_code == 200
    assert page.get("/api/annotate/questions/9").json()["detail"] == "there is no question 10; the file has 5"


@pytest.mark.parametrize(
    ("index", "said"),
    [
        (1, r"broken.png cannot be decoded \(it has no bytes\)"),
        (3, "is not in .*questions, the folder of the images; set data.root"),
        (4, "the image b.png is 2000x1000 px, but its record says 1000x500; rewrite the record"),
    ],
)
def test_an_image_that_cannot_be_shown_gives_a_sentence_and_the_question_can_be_skipped(page, index, said):
    asked = page.get(f"/api/annotate/questions/{index}").json()
    assert asked["zoom"] is None
    assert re.search(said, asked["problem"])
    assert page.put(f"/api/annotate/questions/{index}", json=boxes(state="skipped")).json()["progress"]["skipped"] == 1


def test_a_save_counts_up_and_one_on_an_older_state_gets_the_newest(page, project):
    first = page.put("/api/annotate/questions/0", json=boxes([B1], annotator=" Ana ")).json()
    assert first["drawing"] | {"when": ""} == {
        "id": "mine/train/1", "version": 1, "state": "open", "chains": [[list(B1)]], "annotator": "Ana", "seconds": 3.5, "when": "",
    }  # fmt: skip
    late = page.put("/api/annotate/questions/0", json=boxes([B2], annotator="Ben"))
    assert late.status_code == 409 and late.json()["detail"].startswith("Ana saved this question at ")
    assert (late.json()["newest"]["version"], late.json()["newest"]["chains"]) == (1, [[list(B1)]])
    assert page.put("/api/annotate/questions/0", json=boxes([B2], version=1, state="done")).json()["progress"]["done"] == 1
    assert json.loads(project.records.read_text())["boxes"] == [[list(B2)]]


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (boxes([B2, B1]), "was not saved: a box does not lie inside the next"),
        (boxes([B1]) | {"version": -1}, "version: Input should be greater than or equal to 0"),
        (boxes([B1], annotator="x" * 81), "annotator: String should have at most 80 characters"),
        (boxes([[1, 2, 3]]), "chains.0.0.3: Field required"),
        ({}, "version: Field required"),
    ],
)
def test_what_cannot_be_saved_is_refused_with_a_sentence(page, sent, said):
    answer = page.put("/api/annotate/questions/0", json=sent)
    assert answer.status_code == 422 and said in answer.json()["detail"]


def test_the_next_question_of_a_tab_is_not_the_one_that_another_tab_works_on(page):
    assert page.get("/api/annotate/next?after=-1&tab=a").json() == {"index": 0}
    assert page.get("/api/annotate/questions/0?tab=a").json()["others"] is False
    assert page.get("/api/annotate/next?after=-1&tab=b").json() == {"index": 1}
    assert page.get("/api/annotate/questions/0?tab=b").json()["others"] is True
    assert page.get("/api/annotate/next?after=-1&tab=a").json() == {"index": 1}  # b is at question 1, too


def test_a_tab_that_has_been_away_holds_no_question():
    now = [0.0]
    presence = Presence(lambda: now[0])
    presence.enter("a", 3)
    assert (presence.others("b"), presence.others("a")) == ({3}, set())
    now[0] = AWAY_S
    assert presence.others("b") == set()


def test_what_one_server_exports_another_takes_over(page, project, tmp_path):
    page.put("/api/annotate/questions/0", json=boxes([B1, B2, B3], state="done"))
    export = page.get("/api/annotate/export/cvat")
    assert export.headers["content-disposition"] == 'attachment; filename="cvat.xml"'
    (tmp_path / "second").mkdir()
    other = project_of(tmp_path / "second", record("1"))
    second = client_of([tmp_path], lambda _, images: annotate.router(other, images, None))
    taken = second.post("/api/annotate/import?name=../cvat.xml", content=export.content).json()
    assert (taken["imported"], taken["kept"], taken["unused"], taken["progress"]["done"]) == (1, 0, [], 1)
    assert other.journal.of("mine/train/1").chains == ((B1, B2, B3),)
    assert page.get("/api/annotate/export/excel").status_code == 404


def test_an_import_that_is_no_export_or_too_large_is_refused(page, project):
    for content, said in ((b"%PDF", "a.pdf begins with '%PDF' and is neither JSON nor XML"), (b"[]", "a.pdf is JSON, but holds []")):
        assert page.post("/api/annotate/import?name=a.pdf", content=content).json()["detail"].startswith(said)
    answer = page.post("/api/annotate/import", content=b" " * (LARGEST_EXPORT + 1))
    assert (answer.status_code, answer.json()["detail"]) == (413, "the export has more than 64 MB; export fewer questions at a time")
    assert sorted(path.name for path in project.folder.iterdir()) == ["journal.jsonl", "reading.json"]


def test_without_questions_the_room_says_how_to_give_some(tmp_path):
    page = client_of([tmp_path], lambda _, images: annotate.router(None, images, None))
    for path in ("/api/annotate", "/api/annotate/questions/0"):
        assert 'make lightbox ARGS="data.records=questions.jsonl"' in page.get(path).json()["detail"]


def test_the_crops_of_a_policy_are_suggested_when_they_are_asked_for(page, project, tmp_path, monkeypatch):
    assert "annotate.checkpoint=" in page.post("/api/annotate/questions/0/crops").json()["detail"]
    embedded = load_model(EMBEDDED, "tiny")
    loads = []

    def load(cfg):
        loads.append(cfg.policy.checkpoint)
        return embedded, Scripted(embedded, call(250, 500, 750, 1000), "<answer>34</answer><|im_end|>")

    monkeypatch.setattr(agents, "load_evaluated", load)
    asked = client_of([tmp_path], lambda _, images: annotate.router(project, images, Policy("embedded")))
    assert loads == []
    first = asked.post("/api/annotate/questions/0/crops").json()
    assert first == {"chains": [[[500, 500, 1500, 1000]]], "answer": "34", "status": "answered"}  # per mille of 2000 x 1000 px
    asked.post("/api/annotate/questions/0/crops")
    assert loads == ["embedded"]


class Shy(Scripted):
    """Asks for a crop only if its turn begins with a call."""

    def says(self, request, sampling):
        text = "<answer>34</answer><|im_end|>"
        if request.trajectory.prefill and len(request.images) == 1:
            text = call(250, 500, 750, 1000).removeprefix(request.trajectory.prefill)
        return Scripted(self.policy, text, text).says(request, sampling)


def test_a_policy_that_answers_without_a_crop_is_made_to_suggest_one(project, tmp_path, monkeypatch):
    embedded = load_model(EMBEDDED, "tiny")
    monkeypatch.setattr(agents, "load_evaluated", lambda cfg: (embedded, Shy(embedded)))
    asked = client_of([tmp_path], lambda _, images: annotate.router(project, images, Policy("embedded")))
    assert asked.post("/api/annotate/questions/0/crops").json()["chains"] == [[[500, 500, 1500, 1000]]]


def test_crops_that_zoom_in_are_one_chain_and_others_are_targets():
    assert chains_of((B3, B1, B2)) == [[B1, B2, B3]]
    assert chains_of((B1, (0, 0, 50, 50))) == [[(0, 0, 50, 50)], [B1]]
    assert chains_of((B1, B1)) == [[B1]] and chains_of(()) == []
