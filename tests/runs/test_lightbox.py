"""`make lightbox` with a file of questions: what the page is given, and what is refused before it listens."""

import json

import pytest
import uvicorn
from fastapi.testclient import TestClient
from hydra import compose, initialize_config_dir
from PIL import Image

from focus.config import CONF, ConfigError
from focus.runs import lightbox


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Start the command with these settings in an empty folder; returns a client of the page instead of listening."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    apps = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda server, sockets: apps.append(server.config.app))

    def start(*overrides: str) -> TestClient:
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            composed = compose("lightbox", ["port=18899", *overrides])
        lightbox.run(composed)
        return TestClient(apps[-1], base_url="http://127.0.0.1:18899")

    return start


def test_a_table_of_three_columns_is_annotated_under_outputs(started, tmp_path):
    Image.new("RGB", (300, 200)).save(tmp_path / "street.png")
    row = {"image": "street.png", "question": "Which number is on the door?", "answers": ["27"]}
    (tmp_path / "mine.jsonl").write_text(json.dumps(row) + "\n")
    page = started("data.records=mine.jsonl")
    about = page.get("/api/annotate").json()
    assert (about["records"], about["progress"]["open"], about["policy"]) == ("outputs/annotations/mine/records.jsonl", 1, None)
    sent = {"version": 0, "state": "done", "chains": [[[10, 10, 50, 40]]], "annotator": "", "seconds": 1}
    assert page.put("/api/annotate/questions/0", json=sent).status_code == 200
    assert json.loads((tmp_path / about["records"]).read_text())["boxes"] == [[[10, 10, 50, 40]]]
    assert started("data.records=mine.jsonl").get("/api/annotate").json()["progress"]["done"] == 1  # a later start goes on


def test_without_questions_the_page_starts_and_drawn_ones_are_refused(started):
    assert "data.records=" in started().get("/api/annotate").json()["detail"]
    with pytest.raises(ConfigError, match=r"data.source is scenes, which has exact boxes; .* make scenes"):
        started("data=scenes")
    with pytest.raises(ConfigError, match=r"data.records is nowhere.jsonl, which does not exist"):
        started("data.records=nowhere.jsonl")
