"""The room Look in a real browser: from the list to a trajectory by keys, by its link, on a phone; texts are no markup."""

from collections.abc import Iterator

import pytest

from focus.lightbox.app import WEB
from focus.lightbox.look import router
from tests.support.browser import NEEDS_CHROMIUM, Browser
from tests.support.lightbox import MARKUP, keep_run, served

pytestmark = [
    pytest.mark.processes,
    NEEDS_CHROMIUM,
]
ASKED = "document.querySelector('.asked')?.textContent"
ANSWER = "document.querySelector('.answer b')?.textContent"


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("outputs")
    keep_run(folder / "stage1")
    with served([folder], lambda places, _: router(places)) as url:
        yield f"{url}/look"


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def test_the_main_path_goes_from_the_list_to_a_trajectory_by_keys_and_its_link_opens_it_again(browser, page):
    browser.open(f"{page}?run=0/stage1")
    browser.wait("document.querySelectorAll('.rows a').length === 3")
    browser.press("j")
    question = browser.wait(ASKED)
    first = browser.run(ANSWER)
    browser.press("j")
    assert browser.wait(f"{ANSWER} !== '{first}' && {ANSWER}") == MARKUP
    browser.open(browser.run("location.href"))
    assert browser.wait(ASKED) == question
    assert browser.wait(ANSWER) == MARKUP


def test_the_terms_of_a_reward_are_shown_as_what_they_add(browser, page):
    browser.open(f"{page}?run=0/stage1&at=update_000020.0:0")
    browser.wait("!!document.querySelector('.terms')")
    cells = "[...document.querySelectorAll('.terms tbody tr')].map(row => row.children[0].textContent + ' ' + row.children[3].textContent)"
    assert browser.run(cells) == ["accuracy +0.80", "format +0.00", "tool +1.20", "total 2.00", "advantage +1.00"]


def test_an_answer_that_noise_does_not_change_is_said_in_a_sentence(browser, page):
    browser.open(f"{page}?run=0/stage1&at=probe_000040.0:0")
    arms = browser.wait("document.querySelector('.arms')?.parentElement.textContent")
    assert "It answers the same without its crop: here the crop was not used." in arms


def test_a_question_or_an_answer_is_never_markup(browser, page):
    browser.open(f"{page}?run=0/stage1&at=update_000020.0:1")
    assert browser.wait(ANSWER) == MARKUP
    assert browser.run("[...document.images].every(image => !image.src.endsWith('/x'))")


@pytest.mark.parametrize(("width", "dark"), [(390, True), (1440, False)])
def test_nothing_is_wider_than_the_window_and_the_pictures_load(browser, page, width, dark):
    browser.open(f"{page}?run=0/stage1&at=update_000020.0:0", width, 844, dark)
    browser.wait("document.images.length >= 2 && [...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.skipif(not (WEB / "node_modules").is_dir(), reason="the scripts of the page are not installed (make env-lightbox)")
def test_the_original_opens_as_a_deep_zoom_with_the_boxes_on_it(browser, page):
    browser.open(f"{page}?run=0/stage1&at=update_000020.0:0")
    drawn = browser.wait(
        "document.querySelector('.deep svg.boxes rect.crop') && document.querySelectorAll('.deep svg.boxes rect.evidence').length"
    )
    assert drawn == 3  # B1, B2, B3
