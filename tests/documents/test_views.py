"""The critical view: the first view of the ladder that loses a word, by its height or by a reader that is shown the views."""

import numpy as np
import pytest

from focus.documents.audit import compared
from focus.documents.page import Word, lay_out
from focus.documents.views import ALWAYS_READ, READ_PX, TOO_SMALL, critical_by_height, lost_words, reads, views_of

SIZE = (1120, 1120)  # 40 x 40 tokens of 28 px
VIEWS = views_of(SIZE, 28, 16)


def test_the_ladder_halves_the_tokens_down_to_the_floor():
    assert [tokens for tokens, _ in VIEWS] == [1600, 800, 400, 200, 100, 50, 25]
    assert [view for _, view in VIEWS][:3] == [(1120, 1120), (784, 784), (560, 560)]


@pytest.mark.parametrize(
    ("height", "critical"),
    [
        (1.4 * READ_PX, TOO_SMALL),
        (1.9 * READ_PX, 400),  # in 560 px of 1120 it is 0.95 of the threshold, in 784 px it is 1.33 times
        (2.1 * READ_PX, 200),
        (9.0 * READ_PX, ALWAYS_READ),  # 140 px: 1.1 times
    ],
)
def test_by_height_a_word_is_lost_in_the_first_view_that_shows_it_below_the_threshold(height, critical):
    assert critical_by_height(height, SIZE, VIEWS) == critical


class Eyes:
    """A reader that reads the words of a page that are at least 12 px high in what it is shown."""

    def __init__(self, words, size) -> None:
        self.words, self.size = words, size
        self.shown: list[tuple[int, int]] = []

    def read(self, pixels: np.ndarray) -> list[Word]:
        scale = pixels.shape[1] / self.size[0]
        self.shown.append((pixels.shape[1], pixels.shape[0]))
        return [
            Word(word.text, tuple(scale * value for value in word.box_px), scale * word.height_px)
            for word in self.words
            if scale * word.height_px >= 12
        ]


def test_by_a_reader_a_word_is_lost_in_the_first_view_in_which_it_is_not_read():
    words = [Word("small", (10, 10, 60, 26), 16), Word("large", (10, 100, 400, 200), 100)]
    eyes = Eyes(words, SIZE)
    lost = lost_words(lay_out(words, SIZE, "picture"), eyes, np.zeros((1120, 1120, 3), dtype=np.uint8), VIEWS)
    assert lost == {0: 800}  # 16 px are 11.2 px in 784; 100 px are 12.5 px in the smallest view
    assert eyes.shown == [view for _, view in VIEWS[1:]]


def test_a_word_is_read_where_the_same_word_stands_at_its_place():
    word = Word("Total:", (100, 100, 160, 120), 20)
    here = Word("total", (50, 50, 82, 60), 10)  # in half the size
    assert reads(word, [here], (800, 800), (400, 400))
    assert not reads(word, [Word("Tota1", here.box_px, 10)], (800, 800), (400, 400))
    assert not reads(word, [Word("total", (300, 50, 330, 60), 10)], (800, 800), (400, 400))


def test_an_audit_counts_words_that_are_right_and_boxes_that_are():
    truth = [Word("north", (0, 0, 50, 10), 10), Word("south", (100, 0, 150, 10), 10)]
    seen = [
        Word("north", (0, 0, 50, 12), 10, confidence=0.99),
        Word("south", (90, 0, 170, 20), 10, confidence=0.99),  # right, at 500 of 1,600 px
        Word("sooth", (100, 0, 150, 10), 10, confidence=0.99),
        Word("east", (0, 50, 50, 60), 10, confidence=0.5),  # it was not sure
        Word("of", (0, 0, 50, 10), 10, confidence=0.99),  # no answer
        Word("figure", (0, 50, 50, 60), 10, confidence=0.99),  # in a picture: the layer says nothing about it
    ]
    assert compared(truth, seen, (200, 100), 0.9) == {"pages": 1, "words": 3, "right": 2, "boxes": 1, "beside": 1}
