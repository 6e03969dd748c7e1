"""The room Annotate in a real browser: boxes stay nested while they are drawn, a reload loses nothing, a keyboard is enough."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from focus.data.annotations.journal import Drawing
from focus.data.annotations.project import Project
from focus.data.boxes import Box
from focus.data.sample import read_records
from focus.lightbox import annotate
from focus.lightbox.app import WEB
from tests.support.annotating import B1, B2, B3, project_of, record
from tests.support.browser import NEEDS_CHROMIUM, Browser
from tests.support.lightbox import served

pytestmark = [
    pytest.mark.processes,
    NEEDS_CHROMIUM,
    pytest.mark.skipif(not (WEB / "node_modules").is_dir(), reason="the scripts of the page are not installed (make env-lightbox)"),
]
SAID = "document.getElementById('said').textContent"


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


class Desk:
    """The page of a project in the browser."""

    def __init__(self, browser: Browser, address: str, project: Project) -> None:
        self.browser, self.address, self.project = browser, address, project
        self.load()

    def load(self, question: int = 1, width: int = 1440) -> None:
        self.browser.open(f"{self.address}/annotate?at={question}", width)
        self.opened(question)

    def opened(self, question: int) -> None:
        """Wait until the image of a question, counted from 1, is there."""
        self.browser.wait(f"document.getElementById('viewer').dataset.open === '{question - 1}'")

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point of the image of 2000 x 1000 px is on the screen while all of it is seen."""
        left, top, width, height = self.browser.run(
            "(r => [r.left, r.top, r.width, r.height])(document.getElementById('viewer').getBoundingClientRect())"
        )
        scale = min(width / 2000, height / 1000)
        return left + width / 2 + (x - 1000) * scale, top + height / 2 + (y - 500) * scale

    def draw(self, box: Box) -> None:
        """Drag from the upper left to the lower right corner of a box of the image."""
        x1, y1, x2, y2 = box
        self.browser.drag(self.at(x1, y1), self.at((x1 + x2) / 2, (y1 + y2) / 2), self.at(x2, y2))

    def saved(self, name: str, version: int) -> Drawing:
        """What the server has of a question once this version is saved."""
        self.browser.wait(f"{SAID} === 'saved, version {version}'")
        return self.project.journal.of(f"mine/train/{name}")


@pytest.fixture
def open_desk(browser, tmp_path):
    """Open the page on these records."""
    with ExitStack() as running:

        def opened(*records: dict) -> Desk:
            project = project_of(tmp_path, *records)
            page = served([tmp_path], lambda _, images: annotate.router(project, images, None))
            return Desk(browser, running.enter_context(page), project)

        yield opened


def near(*boxes: Box) -> tuple:
    """Boxes within 3 px, which is about a pixel of the screen on each side."""
    return (tuple(pytest.approx(box, abs=3) for box in boxes),)


def test_three_drags_and_a_key_annotate_a_question_and_a_suggestion_takes_two_keys(open_desk, browser):
    desk = open_desk(record("1"), record("2", boxes=[[B1, B2]]))
    desk.draw(B2)
    desk.draw((400, 300, 900, 340))  # begins inside of B2, so it may not leave it
    assert desk.saved("1", 2).chains == near((400, 300, 600, 340), B2)
    desk.draw((200, 100, 500, 700))  # begins outside, so it encloses both
    assert desk.saved("1", 3).chains == near((400, 300, 600, 340), B2, (200, 100, 600, 700))
    browser.press("d")
    desk.opened(2)
    browser.press("a", "d")
    browser.wait(f"{SAID} === 'every question is done or skipped'")
    assert desk.project.journal.of("mine/train/2").chains == ((B1, B2),)
    records, _ = read_records(desk.project.records, desk.project.samples.root)
    assert [sample.boxes for sample in records] == [near((400, 300, 600, 340), B2, (200, 100, 600, 700)), ((B1, B2),)]
    assert browser.run("document.querySelector('#progress p').textContent").startswith("2 of 2 done")
    assert desk.project.journal.of("mine/train/1").seconds > 0


def test_a_reload_in_the_middle_of_an_annotation_loses_nothing(open_desk, browser):
    desk = open_desk(record("1"))
    # The server refuses to answer saves: what is drawn stays in the browser
    browser.run("window.fetch = () => Promise.reject(new TypeError('gone'))")
    desk.draw(B2)
    browser.wait(f"{SAID}.startsWith('not saved: the server does not answer')")
    assert desk.project.journal.of("mine/train/1").version == 0
    desk.load()
    assert desk.saved("1", 1).chains == near(B2)
    desk.draw(B1)
    assert desk.saved("1", 2).chains == near(B1, B2)
    desk.load()  # resumed from the server; it is the same tab
    assert "another tab" not in browser.run(SAID)
    assert browser.run("document.querySelectorAll('#targets button').length") == 2


def test_a_second_annotator_chooses_between_both_drawings_and_none_is_lost(open_desk, browser):
    desk = open_desk(record("1"))
    theirs = desk.project.save(Drawing("mine/train/1", 0, "open", ((B1,),), "Ana"))
    desk.draw(B3)
    browser.wait("!document.getElementById('conflict').hidden")
    assert browser.run("document.querySelector('#conflict p').textContent").startswith("Ana saved this question at ")
    assert desk.project.journal.of("mine/train/1") == theirs
    browser.run("document.getElementById('theirs').click()")
    browser.press("z")  # and back to mine
    assert desk.saved("1", 2).chains == near(B3)
    assert len(desk.project.journal.path.read_text().splitlines()) == 2


def test_a_broken_image_is_said_and_its_question_can_only_be_skipped(open_desk, browser):
    desk = open_desk(record("1"), record("2", "broken.png"))
    browser.press("j")
    browser.wait("document.querySelector('#trouble .fault')?.textContent.includes('it has no bytes')")
    browser.press("b")
    assert browser.run(SAID) == "the image is not shown"
    browser.press("d")
    assert browser.run(SAID) == "draw a box first, or skip the question"
    browser.press("s")
    desk.opened(1)
    assert desk.project.journal.of("mine/train/2").state == "skipped"


def test_a_keyboard_is_enough(open_desk, browser):
    desk = open_desk(record("1"), record("2"))
    browser.press("b")  # in the middle half of what is seen: the whole image
    assert desk.saved("1", 1).chains == near((500, 250, 1500, 750))
    browser.press("ArrowLeft")
    browser.press("ArrowUp", shift=True)
    [[box]] = desk.saved("1", 3).chains
    step = 500 - box[0]
    assert step > 0 and box == pytest.approx((500 - step, 250, 1500 - step, 750 - step), abs=2)
    browser.press("o")  # half as wide and high again
    assert desk.saved("1", 4).chains[0][1][0] == pytest.approx(box[0] - (box[2] - box[0]) / 4, abs=1)
    browser.press("[", "x", "z", "t", "b")
    browser.wait("document.querySelectorAll('#targets .target').length === 2")
    browser.press("d")
    desk.opened(2)
    saved = desk.project.journal.of("mine/train/1")
    assert (saved.state, [len(chain) for chain in saved.chains]) == ("done", [2, 1])
    listed = browser.run("[...document.querySelectorAll('#keys dt')].map(key => key.textContent)")
    assert {"d", "s", "b", "o", "a", "z", "+", "-"} <= set(listed)


@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_is_wider_than_the_window_and_no_text_is_markup(open_desk, browser, width):
    desk = open_desk(record("1", question="<img src=x onerror=alert(1)> " + "y" * 100_000))
    desk.load(1, width)
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    assert browser.run("document.querySelectorAll('#asked img').length") == 0
    assert browser.run("document.querySelector('#asked .question').clientHeight < 400")
    assert browser.run("document.querySelector('#finish .main').getBoundingClientRect().bottom <= innerHeight")
