"""What one question costs an annotator in the room Annotate, with images of 8,192 x 8,192 px. `python -m experiments.speed.annotate`
writes annotate.json. It needs Chromium and the scripts of the page (make env-lightbox).

A script annotates questions in a real browser, each in one of three ways. Counted are its keys, drags and turns of the wheel. Measured
are the seconds that the person waits: from the key that ends a question until boxes can be drawn on the image of the next one; `load` is
how many processes wanted the machine's cores meanwhile. The seconds of a person's hand are estimated from the counts with the keystroke-
level model (Card, Moran, Newell 1980): a key or a notch of the wheel 0.28 s, to point 1.1 s, to press or lift the button 0.1 s, to decide
1.35 s before each box and before the last key. They leave out the time to read the question and to find the place in the image, which
depend on the set.
"""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.speed.timing import REPEATS, seconds, spread, write
from focus.data.annotations.project import Project
from focus.data.sample import read_records
from focus.lightbox.annotate import router
from tests.support.annotating import record
from tests.support.browser import Browser
from tests.support.lightbox import served

SIDE, IMAGES = 8192, 3
KEY_S, POINT_S, BUTTON_S, DECIDE_S = 0.28, 1.1, 0.1, 1.35
TARGET_S, AFTERNOON = 45, 256  # seconds a question so that 256 fit an afternoon
SUGGESTED = [[[4000, 4000, 4100, 4040], [3950, 3950, 4200, 4100], [3600, 3700, 4600, 4400]]]


class Hand:
    """Acts on the page and counts."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self.counts = {"keys": 0, "drags": 0, "wheel": 0, "decisions": 0}
        left, top, width, height = browser.run(
            "(r => [r.left, r.top, r.width, r.height])(document.getElementById('viewer').getBoundingClientRect())"
        )
        self.centre = (left + width / 2, top + height / 2)

    def press(self, *keys: str) -> None:
        """Press keys."""
        self.browser.press(*keys)
        self.counts["keys"] += len(keys)

    def wheel(self, notches: int) -> None:
        """Zoom at the middle of the image; below 0 outward."""
        for _ in range(abs(notches)):
            x, y = self.centre
            self.browser.ask("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=-100 if notches > 0 else 100)
        self.counts["wheel"] += abs(notches)

    def drag(self, half: float) -> None:
        """A box around the middle, from the upper left: `half` its width and height, in pixels of the screen."""
        x, y = self.centre
        self.browser.drag((x - half, y - half), (x, y), (x + half, y + half))
        self.counts["drags"] += 1
        self.counts["decisions"] += 1

    def estimate_s(self) -> float:
        """Seconds of a person's hand, by the keystroke-level model."""
        drag_s = 2 * (POINT_S + BUTTON_S)
        return sum(
            self.counts[name] * cost for name, cost in (("keys", KEY_S), ("drags", drag_s), ("wheel", KEY_S), ("decisions", DECIDE_S))
        )


def drawn(hand: Hand) -> None:
    """Three boxes by hand: zoom in for the smallest, out for the largest."""
    hand.wheel(8)
    hand.drag(60)
    hand.drag(120)
    hand.wheel(-4)
    hand.drag(150)


def grown(hand: Hand) -> None:
    """The smallest box by hand, the outer ones by a key each."""
    hand.wheel(8)
    hand.drag(60)
    hand.press("o", "o")
    hand.counts["decisions"] += 2


def suggested(hand: Hand) -> None:
    """The boxes of the file, looked at and taken."""
    hand.press("g", "a")
    hand.counts["decisions"] += 1


WAYS: dict[str, Callable[[Hand], None]] = {"drawn": drawn, "grown": grown, "suggested": suggested}


def write_questions(folder: Path) -> Path:
    """Questions about a few photographs of 8K, each way the same number of times."""
    for number in range(IMAGES):
        coarse = np.random.default_rng(number).integers(0, 256, (SIDE // 32, SIDE // 32, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=90)
    size = {"width": SIDE, "height": SIDE, "boxes": SUGGESTED}
    lines = [record(str(number), f"{number % IMAGES}.jpg", **size) for number in range(len(WAYS) * REPEATS + 1)]
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    project = Project(read_records(write_questions(folder))[0], folder / "out")
    waited: dict[str, list[float]] = {name: [] for name in WAYS}
    hands: dict[str, Hand] = {}
    with served([folder], lambda _, images: router(project, images, None)) as address, Browser(folder / "profile") as browser:
        browser.open(f"{address}/annotate?at=1")
        shown = "document.getElementById('viewer').dataset.open === '{}'"
        browser.wait(shown.format(0), 120)
        index = 0
        for _ in range(REPEATS):
            for name, annotated in WAYS.items():
                hands[name] = hand = Hand(browser)
                annotated(hand)
                index += 1
                hand.counts["decisions"] += 1

                def leave(hand: Hand = hand, index: int = index) -> None:
                    hand.press("d")
                    browser.wait(shown.format(index), 120)

                waited[name].append(seconds(leave))
    levels = [[len(chain) for chain in project.journal.of(name).chains] for name in project.ids[: len(WAYS)]]
    assert levels == [[3]] * len(WAYS), levels
    rows = [
        {
            "way": name,
            **hand.counts,
            "waited_s": spread(waited[name]),
            "hand_s": round(hand.estimate_s(), 1),
            "left_to_read_and_find_s": round(TARGET_S - hand.estimate_s() - spread(waited[name])["median"], 1),
            "hours_for_256": round(AFTERNOON * (hand.estimate_s() + spread(waited[name])["median"]) / 3600, 2),
        }
        for name, hand in hands.items()
    ]
    write("annotate", {"load": round(os.getloadavg()[1], 1), "ways": rows})


if __name__ == "__main__":
    main()
