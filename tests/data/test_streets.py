"""The embedded streets: numbers, labels and signs in different places, twins, and a border between training and evaluation."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from focus import build
from focus.data.boxes import Box, area, intersection
from focus.data.sample import problems_of
from focus.data.scenes import SPLITS
from focus.data.streets import DIFFICULTY, FONTS, Street, Streets, StreetSpec, street_spec
from focus.data.streets.drawing import draw_sign, set_text
from tests.support.runs import composed

LEVELS = sorted(DIFFICULTY)


def streets_of(level: int, split: str, count: int) -> list[Street]:
    return [Street(DIFFICULTY[level], split, index) for index in range(count)]


def pixels(street: Street) -> np.ndarray:
    return np.asarray(street.open().reduced(street.sample().size)).astype(int)


def part(picture: np.ndarray, box_px: Box) -> np.ndarray:
    x1, y1, x2, y2 = map(int, box_px)
    return picture[y1:y2, x1:x2]


def within(inner: Box, outer: Box) -> bool:
    return intersection(inner, outer) == inner and 0 < area(inner) < area(outer)


def centre(box: Box) -> np.ndarray:
    return np.array([box[0] + box[2], box[1] + box[3]]) / 2


def test_equal_arguments_give_equal_questions_and_equal_pixels():
    for level, split in itertools.product((1, 5), SPLITS):
        one, two = (Street(DIFFICULTY[level], split, 7) for _ in range(2))
        first = pixels(one)  # of one before, of the other after its question was asked for
        assert one.sample() == two.sample()
        assert np.array_equal(first, pixels(two))


@pytest.mark.parametrize("level", LEVELS)
def test_the_number_lies_on_its_label_the_label_on_its_sign_and_signs_lie_apart_in_the_image(level):
    for street in [*streets_of(level, "train", 8), *streets_of(level, "eval", 8)]:
        assert problems_of(street.sample()) == []
        low, high = street.spec.signs
        assert low <= len(street.signs) <= high
        assert len({sign.text for sign in street.signs}) == len(street.signs)
        for sign in street.signs:
            assert within(sign.text_px, sign.label_px) and within(sign.label_px, sign.sign_px) and within(sign.sign_px, (0, 0, 896, 896))
        assert all(area(intersection(a.sign_px, b.sign_px)) == 0 for a, b in itertools.combinations(street.signs, 2))


def test_number_label_and_sign_have_different_middles_in_every_direction():
    signs = [sign for street in streets_of(1, "train", 60) for sign in street.signs]
    number, label, whole = np.array([[centre(box) for box in (s.text_px, s.label_px, s.sign_px)] for s in signs]).transpose(1, 0, 2)
    assert np.abs(label - whole).max(axis=1).min() > 3  # pixels
    for away in (number - label, label - whole):
        far = np.abs(away).max(axis=1) > 4
        assert far.mean() > 0.6
        assert all(0.25 < (away[far, axis] > 0).mean() < 0.75 for axis in (0, 1))


def test_a_crop_that_shows_the_whole_sign_at_native_size_fits_into_64_tokens_of_28_px():
    signs = [sign for street in streets_of(1, "eval", 60) for sign in street.signs]
    assert np.mean([area(sign.sign_px) <= 64 * 28**2 for sign in signs]) > 0.95
    assert np.median([area(sign.sign_px) / 896**2 for sign in signs]) < 0.03  # of the image; scenes have signs of 6 %


def test_numbers_have_one_to_four_digits_and_the_letters_of_the_spec():
    signs = [sign for street in streets_of(1, "train", 60) for sign in street.signs]
    assert {len(sign.text) for sign in signs} == {1, 2, 3, 4}
    assert {sign.type.letter_px for sign in signs} == set(range(10, 19))
    assert {sign.type.letter_px for street in streets_of(5, "train", 10) for sign in street.signs} <= set(range(8, 13))


def test_the_box_of_a_number_is_exactly_its_ink_and_that_of_a_label_is_what_is_drawn_of_it():
    for street in streets_of(1, "eval", 5):
        for sign in street.signs:
            ink = np.asarray(set_text(sign.text, sign.type)) > 0
            assert ink[0].any() and ink[-1].any() and ink[:, 0].any() and ink[:, -1].any()
            assert ink.shape[::-1] == (sign.text_px[2] - sign.text_px[0], sign.text_px[3] - sign.text_px[1])
            blank = Image.new("RGB", (896, 896), (255, 0, 255))
            draw_sign(blank, replace(sign, areas=sign.areas[-1:]))
            marked = np.flatnonzero((np.asarray(blank) != (255, 0, 255)).any(axis=2).any(axis=0))
            assert sign.label_px[0] <= marked[0] <= sign.label_px[0] + 2 and sign.label_px[2] - 3 <= marked[-1] <= sign.label_px[2] - 1


def test_a_number_stands_out_from_its_label():
    for street in streets_of(1, "eval", 12):
        for sign in street.signs:
            label = sign.areas[-1].fill
            assert abs(np.dot(np.subtract(sign.ink, label), (0.3, 0.59, 0.11))) > 70  # of 255


@pytest.mark.parametrize("level", (1, 4))
def test_a_twin_differs_in_the_asked_number_and_in_no_other_pixel(level):
    for street in streets_of(level, "eval", 3):
        twin = street.twin()
        one, two = street.sample(), twin.sample()
        assert (one.question, one.size, one.boxes[0][1:], one.group) == (two.question, two.size, two.boxes[0][1:], two.group)
        assert one.id != two.id and problems_of(two) == [] and len(one.answers[0]) == len(two.answers[0])
        assert two.answers[0] not in {sign.text for sign in street.signs}
        assert np.abs(centre(one.boxes[0][0]) - centre(two.boxes[0][0])).max() <= 0.5
        changed = np.abs(pixels(street) - pixels(twin)).max(axis=2) > 0
        assert part(changed, one.boxes[0][0]).any()
        for box in (one.boxes[0][0], two.boxes[0][0]):
            part(changed, box)[:] = False
        assert not changed.any()


def test_training_and_evaluation_share_no_font_and_no_street():
    assert not set(FONTS["train"]) & set(FONTS["eval"])
    for split in SPLITS:
        assert {sign.type.font for street in streets_of(1, split, 40) for sign in street.signs} == set(FONTS[split])
    assert Street(DIFFICULTY[1], "train", 3).signs != Street(DIFFICULTY[1], "eval", 3).signs


def test_signs_that_do_not_fit_are_an_error_that_says_what_to_change():
    with pytest.raises(ValueError, match=r"signs .* do not fit into 112 px; raise data\.side_px, or lower"):
        _ = Street(StreetSpec(side_px=112), "train", 0).signs


def test_the_setting_streets_gives_streets_of_896_px():
    data = composed("data=streets", "data.scenes=3").data
    drawn = build.training_samples(data)
    assert isinstance(drawn, Streets) and drawn.spec == street_spec(1, None, 896) and len(drawn) == 3
    assert drawn[0].size == (896, 896)
