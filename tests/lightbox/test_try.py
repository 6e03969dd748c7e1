"""The room Try: a picture and a question go in, turns come out one by one, and the crop can be taken away."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from focus.config.schema import ServedPolicyConfig
from focus.data.images.header import HUGE_PX
from focus.data.scenes import DIFFICULTY, Scene
from focus.lightbox import ask, policies
from focus.model.loading import EMBEDDED, load_model
from focus.model.prompts import ANSWER_OPEN
from tests.support.browser import NEEDS_CHROMIUM, Browser
from tests.support.lightbox import client_of, served
from tests.support.scripted import Scripted, call
from tests.support.serving import agent_of

MIDDLE = call(250, 250, 750, 750)


class Reading(Scripted):
    """Asks for the middle, then answers 12 if that crop has more than 30,000 colours (noise), else 34; without a crop it answers 56."""

    def says(self, request, sampling):
        if request.trajectory.prefill == ANSWER_OPEN:
            text = "56</answer><|im_end|>"
        elif len(request.images) == 1:
            text = MIDDLE.removeprefix(request.trajectory.prefill)
        else:
            text = f"<answer>{12 if request.images[1].getcolors(30_000) is None else 34}</answer><|im_end|>"
        return Scripted(self.policy, text, text).says(request, sampling)


@pytest.fixture(scope="module")
def embedded():
    return load_model(EMBEDDED, "tiny")


@pytest.fixture(scope="module")
def loaded(embedded) -> Iterator[list[tuple]]:
    """Policies are loaded as the one that reads; what was to be loaded."""
    asked: list[tuple] = []
    agent = agent_of(embedded, Reading(embedded))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policies.Agent, "load", lambda policy, *overrides: asked.append((policy, *overrides)) or agent)
        yield asked


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with the policy of a run, one that was left half copied, and one whose settings are damaged."""
    root = tmp_path_factory.mktemp("outputs")
    for name, settings in (("mine", "gap: {view_tokens: 64}"), ("half", "gap: {view_tokens: 64}"), ("damaged", "gap: [")):
        (root / name / "policy").mkdir(parents=True)
        (root / name / "policy/config.json").write_text("{}")
        (root / name / "settings.yaml").write_text(settings)
        if name != "half":
            (root / name / "policy/model.safetensors").touch()
    return root


@pytest.fixture(scope="module")
def page(loaded, folder):
    named = [ServedPolicyConfig(url="http://localhost:8000/v1", model="agent", dialect="deepeyes")]
    return client_of([folder], lambda places, images: ask.router(places, named))


def lines(answer) -> list[dict]:
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


ASKED = {"policy": "embedded", "picture": "scene-0", "question": "What?", "view_tokens": 16}


def asking(page, **changed) -> list[dict]:
    return lines(page.post("/api/try/ask", json=ASKED | changed))


def refused(page, **changed) -> tuple[int, str]:
    answer = page.post("/api/try/ask", json=ASKED | changed)
    return answer.status_code, answer.json()["detail"]


def test_the_page_offers_the_embedded_policy_those_of_the_folders_and_those_that_were_named(page, folder):
    choices = page.get("/api/try/choices").json()
    assert [(each["name"], each["view_tokens"]) for each in choices["policies"]] == [
        ("embedded", 16),
        ("embedded_pages", 16),
        (str(folder / "mine/policy"), 64),
        ("agent at http://localhost:8000/v1", 1024),
    ]
    assert {(each["kind"], each["policy"]) for each in choices["pictures"]} == {("scene", "embedded"), ("page", "embedded_pages")}
    assert "noise" in choices["crops"]
    scene = Scene(DIFFICULTY[1], "eval", 0).sample()
    assert choices["pictures"][0]["question"] == scene.question and choices["pictures"][0]["answer"] == scene.answers[0]


def test_a_question_gets_the_view_then_every_turn_then_the_answer(page):
    view, first, second, end = asking(page)
    assert (view["view"]["width"], view["view"]["height"], view["view"]["tokens"], view["turns"]) == (112, 112, 16, [])
    assert first["turn"]["box_px"] == [112, 112, 336, 336] and first["turn"]["crop"]["url"].startswith("data:image/png")
    assert second["turn"]["text"] == "<answer>34</answer>"
    assert (end["answer"], end["status"], end["right"], end["visual_tokens"]) == ("34", "answered", None, 16 + 64)


def test_the_question_of_a_scene_is_graded(page):
    scene = Scene(DIFFICULTY[1], "eval", 0).sample()
    assert asking(page, question=scene.question)[-1]["right"] == (scene.answers[0] == "34")


def test_the_same_question_without_its_crop_and_with_another_one_says_whether_the_answer_changed(page):
    key = asking(page)[-1]["key"]
    without = lines(page.post("/api/try/again", json={"answer": key, "crops": "without"}))[-1]
    noise = lines(page.post("/api/try/again", json={"answer": key, "crops": "noise"}))
    blank = lines(page.post("/api/try/again", json={"answer": key, "crops": "blank"}))
    assert (without["answer"], without["changed"]) == ("56", True)
    assert (noise[-1]["answer"], noise[-1]["changed"]) == ("12", True) and (blank[-1]["answer"], blank[-1]["changed"]) == ("34", False)
    assert len(noise[0]["turns"]) == 1 and noise[0]["turns"][0]["crop"]["url"] != blank[0]["turns"][0]["crop"]["url"]
    assert page.post("/api/try/again", json={"answer": key, "crops": "gt"}).status_code == 422
    assert (
        page.post("/api/try/again", json={"answer": "gone", "crops": "noise"}).json()["detail"]
        == "this answer is not here any more; ask again"
    )


def test_a_policy_is_loaded_once_and_only_one_that_the_page_offers(page, loaded):
    asking(page, policy="agent at http://localhost:8000/v1")
    asking(page, policy="agent at http://localhost:8000/v1")
    assert loaded.count(("http://localhost:8000/v1", "policy.checkpoint='agent'", "policy.dialect='deepeyes'")) == 1
    assert refused(page, policy="http://elsewhere/v1") == (404, "there is no policy http://elsewhere/v1 (any more); load the page again")


def test_a_picture_is_turned_upright_and_kept_and_what_is_none_is_a_sentence(page, monkeypatch):
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x112] = 6
    Image.new("RGB", (96, 64), "red").save(file, "JPEG", exif=exif)
    sent = page.post("/api/try/pictures", content=file.getvalue()).json()
    assert (sent["width"], sent["height"]) == (64, 96)
    with Image.open(io.BytesIO(page.get(f"/api/try/pictures/{sent['key']}?side=48").content)) as shown:
        assert shown.size == (32, 48)
    assert asking(page, picture=sent["key"])[0]["view"]["width"] == 56  # 64 x 96 px are rounded to whole tokens of 28 px
    empty, cut = page.post("/api/try/pictures", content=b""), page.post("/api/try/pictures", content=file.getvalue()[:400])
    assert empty.status_code == cut.status_code == 422 and empty.json()["detail"] == "the picture can't be used: it has no bytes"
    monkeypatch.setattr(ask, "MOST_BYTES", 100)
    assert page.post("/api/try/pictures", content=file.getvalue()).status_code == 413
    assert HUGE_PX == 67_108_864 and page.get("/api/try/pictures/scene-99").status_code == 404


def test_questions_that_can_not_be_asked_are_sentences(page):
    assert refused(page, question=" ") == (422, "the question is empty; ask one")
    marked = "the question or an option contains '<|', which only prompts may contain; leave it out"
    assert refused(page, question="<|im_end|>") == (422, marked)
    assert refused(page, question="a" * 100_000) == (422, "question: String should have at most 8000 characters")


# ---------------------------------------------------------------------------------------------------------- a browser


@pytest.fixture(scope="module")
def opened(loaded, folder, tmp_path_factory) -> Iterator[tuple[Browser, str]]:
    with served([folder], lambda places, images: ask.router(places)) as url, Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser, f"{url}/try"


TEXT = "document.getElementById('{}').textContent"
READY = "document.querySelectorAll('#strip button').length && document.getElementById('picture').naturalWidth"


@pytest.mark.processes
@NEEDS_CHROMIUM
def test_on_the_page_a_policy_is_watched_from_the_keyboard_alone(opened, tmp_path):
    browser, url = opened
    browser.open(url)
    browser.wait(READY)
    browser.press("q")
    assert browser.run("document.activeElement.id") == "question"
    browser.press("Enter")
    browser.wait(f"{TEXT.format('without')} === '56'")
    assert browser.run(TEXT.format("own")) == "34" and browser.run("document.querySelectorAll('#turns li').length") == 3  # view, two turns
    box = "['x', 'y', 'width', 'height'].map(name => document.querySelector('#boxes rect.box').getAttribute(name))"
    assert browser.run(box) == ["112", "112", "224", "224"]
    browser.press("Escape", "n")
    browser.wait(f"{TEXT.format('swapped')} === '12'")
    assert "The answer changed" in browser.run(TEXT.format("swapped-note"))
    browser.press("g")
    browser.wait(f"{TEXT.format('swapped')} === '34'")
    assert "The answer stays" in browser.run(TEXT.format("swapped-note"))
    before = browser.run("document.getElementById('view').value")
    browser.press("+")
    assert int(browser.run("document.getElementById('view').value")) == int(before) + 1


@pytest.mark.processes
@NEEDS_CHROMIUM
def test_on_the_page_a_picture_of_ones_own_is_asked_about_and_a_broken_one_is_told(opened, tmp_path):
    browser, url = opened
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    Image.new("RGB", (300, 200), "navy").save(tmp_path / "<b>photo.png")
    for width, dark in ((1440, False), (390, True)):
        browser.open(url, width, 900, dark)
        browser.wait(READY)
        browser.give("#file", tmp_path / "broken.png")
        said = browser.wait("document.querySelector('#picture-fault .fault')?.textContent")
        assert said.startswith("the picture can't be used: its header is none of")
        browser.give("#file", tmp_path / "<b>photo.png")
        browser.wait("document.getElementById('picture').naturalWidth === 300")
        assert browser.run("document.querySelector('#picture-fault').textContent") == ""
        browser.run(
            "document.getElementById('question').value = '<img src=x onerror=alert(1)>What?'; document.getElementById('ask').click()"
        )
        browser.wait(f"{TEXT.format('without')} === '56'")
        assert (
            browser.run("document.documentElement.scrollWidth <= innerWidth") and browser.run("document.querySelectorAll('b').length") == 0
        )
