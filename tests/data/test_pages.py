"""The embedded pages: exact nested boxes, numbers that stand once, twins, and a border between training and evaluation."""

import itertools
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from focus.data.boxes import area, intersection
from focus.data.pages import DIFFICULTY, KINDS, Page, Pages, page_spec
from focus.data.pages import page as page_module
from focus.data.pages.layout import set_text
from focus.data.pages.spec import WORDS
from focus.data.sample import problems_of
from focus.data.scenes import SPLITS
from focus.data.scenes.drawing import load_font

BORDERS = list(itertools.product(sorted(DIFFICULTY), SPLITS))


def pages_of(level: int, split: str, count: int) -> list[Page]:
    return [Page(DIFFICULTY[level], split, index) for index in range(count)]


def pixels(page: Page) -> np.ndarray:
    return np.asarray(page.open().reduced(page.sample().size)).astype(int)


def part(picture: np.ndarray, box_px) -> np.ndarray:
    x1, y1, x2, y2 = map(int, box_px)
    return picture[y1:y2, x1:x2]


def fields_of(page: Page):
    return [field for panel in page.panels for field in panel.fields]


@pytest.mark.parametrize(("level", "split"), BORDERS)
def test_equal_arguments_give_equal_questions_and_equal_pixels(level, split):
    one, two = (Page(DIFFICULTY[level], split, 7) for _ in range(2))
    first = pixels(one)  # of one before, of the other after its question was asked for
    assert one.sample() == two.sample()
    assert np.array_equal(first, pixels(two))


# -------------------------------------------------------------------------------------------------------------- boxes


@pytest.mark.parametrize(("level", "split"), BORDERS)
def test_the_word_lies_in_its_line_the_line_in_its_block_the_block_in_its_panel_and_the_panel_in_the_page(level, split):
    for page in pages_of(level, split, 40):
        sample = page.sample()
        assert problems_of(sample) == []
        (chain,) = sample.boxes
        assert len(chain) == 4
        for panel in page.panels:
            for field in panel.fields:
                nested = (field.word.text_px, field.line_px, field.block_px, panel.box_px, (0, 0, 448, 448))
                assert all(intersection(inner, outer) == inner and 0 < area(inner) < area(outer) for inner, outer in pairwise(nested))


@pytest.mark.parametrize(("level", "split"), BORDERS)
def test_panels_do_not_overlap_and_no_line_holds_two_numbers(level, split):
    for page in pages_of(level, split, 20):
        for one, two in itertools.combinations(page.panels, 2):
            assert area(intersection(one.box_px, two.box_px)) == 0
        for one, two in itertools.combinations(fields_of(page), 2):
            assert area(intersection(one.line_px, two.line_px)) == 0


@pytest.mark.parametrize(("level", "split"), BORDERS)
def test_the_word_s_box_is_exactly_its_ink(level, split):
    for page in pages_of(level, split, 5):
        box_px = page.sample().boxes[0][0]
        blank = Page(page.spec, page.split, page.index)
        blank.__dict__["panels"] = tuple(without_the_asked(page))
        ink = part(np.abs(pixels(page) - pixels(blank)).max(axis=2) > 0, box_px)
        assert ink[0].any() and ink[-1].any() and ink[:, 0].any() and ink[:, -1].any()
        outside = np.abs(pixels(page) - pixels(blank))
        part(outside, box_px)[:] = 0
        assert outside.max() == 0
        contrast = np.abs(part(pixels(page), box_px) - part(pixels(blank), box_px)).sum(axis=2).max()
        assert contrast > 255  # of 765


@pytest.mark.parametrize(("level", "split"), BORDERS)
def test_words_have_the_pixels_that_pillow_gives_them(level, split, monkeypatch):
    """A word is drawn once and then copied to all its places."""
    page = pages_of(level, split, 1)[0]
    copied = pixels(page)

    def drawn(draw, panel, style, numbers=()):
        frames(draw, replace(panel, words=(), texts=()), style)
        texts = [word for text in panel.texts for word in set_text(text, style.font)]
        for word in (*panel.words, *texts, *numbers):
            draw.text(word.origin, word.text, font=load_font(word.font, word.letter_px), fill=word.ink)

    frames = page_module._draw
    monkeypatch.setattr(page_module, "_draw", drawn)
    assert np.array_equal(pixels(page), copied)


def without_the_asked(page: Page):
    """The panels of a page with a space in place of its asked number."""
    for i, panel in enumerate(page.panels):
        fields = [replace(f, word=replace(f.word, text=" ")) if (i, k) == page.asked else f for k, f in enumerate(panel.fields)]
        yield replace(panel, fields=tuple(fields))


# ----------------------------------------------------------------------------------------------------------- questions


@pytest.mark.parametrize(("level", "split"), BORDERS)
def test_the_asked_number_stands_once_on_the_page_and_its_question_names_no_other(level, split):
    for page in pages_of(level, split, 60):
        sample, fields = page.sample(), fields_of(page)
        texts = [field.word.text for field in fields] + [word.text for panel in page.panels for word in panel.words]
        assert texts.count(sample.answers[0]) == 1
        assert [field.word.text for field in fields if field.question == sample.question] == [sample.answers[0]]


@pytest.mark.parametrize(("level", "split"), BORDERS)
def test_no_text_but_lines_and_asked_numbers_has_a_digit(level, split):
    for page in pages_of(level, split, 20):
        for panel in page.panels:
            assert {word.text for word in panel.words if re.search(r"\d", word.text)} <= set("123456789")
    assert not [text for words in WORDS.values() for text in (*words.firms, *words.places, *words.sentences) if re.search(r"\d", text)]


def test_every_kind_of_panel_is_asked_about_equally_often():
    kinds = [page.sample().meta["category"] for page in pages_of(1, "train", 400)]
    assert all(70 <= kinds.count(kind) <= 130 for kind in KINDS)


def test_answers_follow_the_spec():
    assert all(re.fullmatch(r"[1-9]\d", field.word.text) for page in pages_of(1, "train", 40) for field in fields_of(page))
    written = {field.word.text for page in pages_of(4, "train", 40) for field in fields_of(page)}
    assert any(re.fullmatch(r"\d\d:\d\d", text) for text in written) and any(re.fullmatch(r"\d+\.\d\d", text) for text in written)


# --------------------------------------------------------------------------------------------------------------- twins


@pytest.mark.parametrize(("level", "split"), BORDERS)
def test_a_twin_differs_in_the_asked_number_and_in_no_pixel_outside_its_line(level, split):
    for page in pages_of(level, split, 6):
        twin = page.twin()
        one, two = page.sample(), twin.sample()
        assert (one.question, one.size, one.boxes[0][1:]) == (two.question, two.size, two.boxes[0][1:])
        assert two.answers != one.answers and two.id != one.id and two.group == one.group
        assert re.sub(r"\d", "0", two.answers[0]) == re.sub(r"\d", "0", one.answers[0])
        assert two.answers[0] not in {field.word.text for field in fields_of(page)}
        changed = np.abs(pixels(page) - pixels(twin)).max(axis=2) > 0
        assert part(changed, one.boxes[0][0]).any()
        part(changed, one.boxes[0][0])[:] = False
        part(changed, two.boxes[0][0])[:] = False
        assert not changed.any()


def test_a_text_that_does_not_fit_into_the_line_is_an_error():
    with pytest.raises(ValueError, match="does not fit into the line"):
        _ = Page(DIFFICULTY[1], "train", 0, "1" * 60).sample()


# -------------------------------------------------------------------------------------------------------------- splits


@pytest.mark.parametrize("what", ["firms", "places", "sentences"])
def test_training_and_evaluation_share_no_name_and_no_sentence(what):
    train, evaluation = set(getattr(WORDS["train"], what)), set(getattr(WORDS["eval"], what))
    assert train and evaluation and not train & evaluation


@pytest.mark.parametrize("split", SPLITS)
def test_a_page_uses_only_the_fonts_of_its_split(split):
    for page in pages_of(2, split, 20):
        assert {word.font for panel in page.panels for word in panel.words} <= set(SPLITS[split].fonts)
        assert {field.word.font for field in fields_of(page)} <= set(SPLITS[split].fonts)


def test_training_and_evaluation_pages_of_one_index_differ():
    for index in range(5):
        train, evaluation = Page(DIFFICULTY[1], "train", index), Page(DIFFICULTY[1], "eval", index)
        assert train.panels != evaluation.panels and train.sample().id != evaluation.sample().id


# ---------------------------------------------------------------------------------------------------- views and sizes


def test_at_16_tokens_digits_are_three_pixels_high_and_at_256_tokens_they_are_native():
    for page in pages_of(1, "eval", 40):
        height = page.sample().boxes[0][0][3] - page.sample().boxes[0][0][1]
        assert height * 112 / 448 <= 4  # a digit needs 5 rows to be told from others
        assert height >= 8


def test_at_16_tokens_two_numbers_in_one_place_differ_by_less_than_half_of_what_they_do_on_the_page():

    def seen(page: Page) -> np.ndarray:
        view = page.open().reduced((448, 448)).resize((112, 112), Image.Resampling.BICUBIC)
        return np.asarray(view.resize((448, 448), Image.Resampling.BICUBIC)).astype(int)

    for page in pages_of(1, "eval", 3):
        twin = page.twin()
        box_px = page.sample().boxes[0][0]
        sharp = np.abs(part(pixels(page), box_px) - part(pixels(twin), box_px)).mean()
        coarse = np.abs(part(seen(page), box_px) - part(seen(twin), box_px)).mean()
        assert coarse < 0.5 * sharp


def test_larger_pages_hold_more_text_and_letters_of_the_same_size():
    for side in (224, 448, 896, 1792):
        page = Page(page_spec(1, None, side), "train", 3)
        assert problems_of(page.sample()) == []
        assert page.open().size == page.sample().size == (side, side)
        assert 8 <= page.sample().boxes[0][0][3] - page.sample().boxes[0][0][1] <= 16


def test_letters_that_do_not_fit_are_an_error_that_says_what_to_change():
    with pytest.raises(ValueError, match=r"do not fit into a \w+ of a page of 448 px; lower data\.letter_px or raise data\.side_px"):
        for page in [Page(page_spec(1, (60, 60), 448), "train", index) for index in range(3)]:
            _ = page.panels


def test_pages_are_a_sequence_of_samples_that_ends_and_ids_are_unique():
    some = Pages(DIFFICULTY[1], "train", count=3, start=10)
    assert [s.id for s in some] == [Page(DIFFICULTY[1], "train", index).sample().id for index in (10, 11, 12)]
    with pytest.raises(IndexError):
        some[3]
    ids = [Page(spec, split, index).sample().id for spec in DIFFICULTY.values() for split in SPLITS for index in range(5)]
    assert len(set(ids)) == len(ids)
