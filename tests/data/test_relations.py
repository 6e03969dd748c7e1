"""The embedded relations: two texts that no small crop shows together, their twins, and the border between training and evaluation."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from focus import build
from focus.data.boxes import Box, area, settle
from focus.data.relations import CROP_TOKENS, DIFFICULTY, Relation, Relations, RelationSpec, around, pairs, relation_spec
from focus.data.sample import problems_of
from focus.data.scenes import SPLITS, Sign
from focus.gap import cut
from focus.grading.answers import grade
from tests.support.runs import composed


def of_level(level: int, split: str, count: int) -> list[Relation]:
    return [Relation(DIFFICULTY[level], split, index) for index in range(count)]


def pixels(relation: Relation) -> np.ndarray:
    return np.asarray(relation.open().reduced(relation.sample().size)).astype(int)


def test_equal_arguments_give_equal_questions_and_equal_pixels_and_another_index_does_not():
    for level, split in itertools.product((1, 5), SPLITS):
        one, two, other = (Relation(DIFFICULTY[level], split, index) for index in (7, 7, 8))
        first = pixels(one)  # of one before, of the other after its question was asked for
        assert one.sample() == two.sample() != other.sample()
        assert np.array_equal(first, pixels(two))


@pytest.mark.parametrize("level", sorted(DIFFICULTY))
def test_the_answer_is_both_texts_in_the_order_of_the_question_and_the_boxes_have_that_order_too(level):
    for relation in [*of_level(level, "train", 3), *of_level(level, "eval", 3)]:
        sample, (first, second) = relation.sample(), relation.asked
        assert problems_of(sample) == [] and first != second
        assert sample.answers == (f"{first.text} {second.text}",)
        assert sample.boxes == tuple((sign.text_px, sign.sign_px, sign.board_px) for sign in (first, second))
        if level == 1:
            assert sample.question == f"What is on the {first.colour} sign and the {second.colour} sign?"


def test_one_text_alone_or_both_in_the_wrong_order_are_wrong():
    sample = Relation(DIFFICULTY[1], "eval", 0).sample()
    first, second = sample.answers[0].split()
    assert first != second
    said = (f"{first} {second}", f"{second} {first}", first, second, f"{first}{second}", f"{first} {first}")
    assert [grade(answer, sample.answers, sample.scorer) for answer in said] == [1, 0, 0, 0, 0, 0]


def test_the_second_text_says_nothing_of_the_first():
    """Of 90 numbers each, independent: 1 in 90 pairs is equal, and their correlation is 0 up to 3 / sqrt(n)."""
    first, second = np.array([list(map(int, r.sample().answers[0].split())) for r in of_level(1, "train", 100)]).T
    assert (first == second).mean() < 0.06 and abs(np.corrcoef(first, second)[0, 1]) < 3 / 100**0.5


@pytest.mark.parametrize("split", SPLITS)
def test_a_crop_of_16_tokens_shows_one_sign_near_its_size_and_both_texts_at_half_or_less(split):
    for relation in of_level(1, split, 8):
        sample, original = relation.sample(), relation.open()

        def scale(box: Box, sample=sample, original=original) -> float:
            box_px = settle(box, sample.size, 28)
            crop = cut(original, box_px, sample.size, CROP_TOKENS, 28)
            return (area((0, 0, *crop.size)) / area(box_px)) ** 0.5

        both = around(sample.boxes[0][0], sample.boxes[1][0])
        assert area(both) >= 224**2 and scale(both) <= 0.5
        assert min(scale(chain[1]) for chain in sample.boxes) > 0.8  # sides are rounded to whole tokens


def sign(colour: str, text_px: Box) -> Sign:
    sign_px = (text_px[0] - 20, text_px[1] - 30, text_px[2] + 20, text_px[3] + 30)
    return Sign(colour, "square", "47", "DejaVuSans.ttf", 12, (0, 0, 0), (0, 0, 0), text_px[:2], text_px, sign_px, sign_px)


def test_only_texts_that_span_the_area_are_asked_for_in_either_order():
    """The first and the second span 224 x 224 px; the third lies a pixel nearer to the first, and far from the second in one line only."""
    signs = (sign("red", (40, 40, 60, 52)), sign("blue", (244, 252, 264, 264)), sign("green", (243, 252, 263, 264)))
    assert pairs(RelationSpec(), signs[:2]) == [
        ("What is on the red sign and the blue sign?", (0, 1)),
        ("What is on the blue sign and the red sign?", (1, 0)),
    ]
    assert {asked for _, asked in pairs(RelationSpec(), signs)} == {(0, 1), (1, 0)}


@pytest.mark.parametrize("level", (1, 4))
def test_a_twin_has_other_texts_on_both_signs_and_differs_in_no_other_pixel(level):
    for relation in of_level(level, "eval", 3):
        twin = relation.twin()
        one, two = relation.sample(), twin.sample()
        assert (one.question, one.size, one.group) == (two.question, two.size, two.group) and one.id != two.id
        assert [chain[1:] for chain in one.boxes] == [chain[1:] for chain in two.boxes] and problems_of(two) == []
        before, after = one.answers[0].split(), two.answers[0].split()
        assert not set(after) & {sign.text for sign in relation.signs} and len(set(after)) == 2
        assert [text.isdigit() and len(text) for text in before] == [text.isdigit() and len(text) for text in after]
        changed = np.abs(pixels(relation) - pixels(twin)).max(axis=2) > 0
        for a, b in zip(one.boxes, two.boxes, strict=True):
            x1, y1, x2, y2 = map(int, around(a[0], b[0]))
            assert changed[y1:y2, x1:x2].any()
            changed[y1:y2, x1:x2] = False
        assert not changed.any()


def test_training_and_evaluation_share_no_font_and_no_relation():
    fonts = {split: {sign.font for relation in of_level(1, split, 30) for sign in relation.signs} for split in SPLITS}
    assert not fonts["train"] & fonts["eval"]
    assert Relation(DIFFICULTY[1], "train", 3).signs != Relation(DIFFICULTY[1], "eval", 3).signs


def test_an_image_in_which_no_two_texts_can_lie_apart_is_an_error_that_says_what_to_change(monkeypatch):
    monkeypatch.setattr("focus.data.relations.TRIES", 5)
    with pytest.raises(ValueError, match=r"no two texts of 2 signs span 224 x 224 px of an image of 224 px; raise data\.side_px"):
        _ = Relation(replace(DIFFICULTY[1], side_px=224), "train", 0).signs


def test_the_setting_relations_gives_relations_of_448_px():
    drawn = build.training_samples(composed("data=relations", "data.scenes=3").data)
    assert isinstance(drawn, Relations) and drawn.spec == relation_spec(1, None, 448) and len(drawn) == 3
    assert drawn[0].size == (448, 448) and len(drawn[0].boxes) == 2
