"""The page of a run in a real browser: curves are read out, trajectories filtered, and a phone shows all of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from focus.report.page import write_page
from tests.support.browser import NEEDS_CHROMIUM, Browser
from tests.support.examples import right, wrong

pytestmark = [
    pytest.mark.processes,
    NEEDS_CHROMIUM,
]
CURVE = "document.querySelector('figure[data-points]')"
SHOWN = "[...document.querySelectorAll('article')].map(card => !card.hidden)"


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    history = [{"update": update, "reward/total": update / 10} for update in (1.0, 2.0, 3.0)]
    write_page(folder / "report.html", "a run", history, None, {"random": [right(), wrong(), right(4)]}, "gap:\n  mode: fixed")
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def test_the_pointer_reads_the_nearest_update_of_a_curve_out(browser, page):
    browser.open(page)
    left, top, width, height = browser.run(
        f"(r => [r.left, r.top, r.width, r.height])({CURVE}.querySelector('svg').getBoundingClientRect())"
    )
    said = f"{CURVE}.querySelector('output').textContent"
    assert browser.run(said) == "0.3"  # where the curve ends
    browser.hover(left + 0.55 * width, top + height / 2)  # the axes go from 0.19 to 0.94, so 2 lies at 0.565
    assert browser.run(said) == "update 2: 0.2"
    browser.hover(0, 0)
    assert browser.run(said) == "0.3"


def test_chips_choose_trajectories_and_a_second_click_takes_the_choice_back(browser, page):
    browser.open(page)
    chips = browser.run("[...document.querySelectorAll('.chips button')].map(chip => chip.textContent)")
    assert chips == ["right", "wrong", "with a crop", "without a crop"]
    click = "document.querySelectorAll('.chips button')[{}].click()"
    browser.run(click.format(1))
    assert browser.run(SHOWN) == [False, True, False]
    browser.run(click.format(2))  # wrong, with a crop
    assert browser.run(SHOWN) == [False, False, False]
    browser.run(click.format(0))  # right takes the place of wrong
    assert browser.run(SHOWN) == [True, False, True]
    assert browser.run("document.querySelector('.chips output').textContent") == "2 of 3 trajectories"
    browser.run(click.format(0) + ";" + click.format(2))
    assert browser.run(SHOWN) == [True, True, True]


@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_is_wider_than_the_window(browser, page, width):
    browser.open(page, width, 844)
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    assert browser.run("getComputedStyle(document.body).fontFamily").endswith("sans-serif")  # the style was read to its end
