"""Hits: whether crops show the asked text, and how often crops of that size would by chance."""

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from focus.data.boxes import Box, coverage
from focus.evaluation.hits import hits

SIZE = (224, 224)
TEXT: Box = (28.0, 28.0, 56.0, 56.0)


def test_a_crop_as_large_as_the_text_hits_at_13_places():
    # It may miss 28 - 705.6 / 28 = 2.8 px along one side, or 1 px along both: shifts (0, 0..2), (1, 0..1), (2, 0) with their signs
    assert hits([TEXT], [TEXT], SIZE) == pytest.approx((1.0, 13 / 197**2))


def test_a_crop_hits_if_it_covers_more_than_nine_tenths_of_the_text():
    wide: Box = (100.0, 100.0, 140.0, 110.0)
    assert [hits([(100.0, 100.0, right, 110.0)], [wide], SIZE)[0] for right in (136.0, 137.0)] == [0.0, 1.0]  # 36 of 40 px, and 37


def test_the_whole_image_hits_at_its_only_place():
    assert hits([(0.0, 0.0, 224.0, 224.0)], [TEXT], SIZE) == (1.0, 1.0)


def test_half_of_the_image_hits_by_chance_as_often_as_its_place_along_the_other_side_allows():
    # 224 x 112 px, 113 places: it must begin between row 53.2 - 112 and row 30.8, that is at rows 0 to 30
    assert hits([(0.0, 112.0, 224.0, 224.0)], [TEXT], SIZE) == pytest.approx((0.0, 31 / 113))


def test_of_two_crops_one_must_hit():
    p = 31 / 113
    lower, upper = (0.0, 112.0, 224.0, 224.0), (0.0, 0.0, 224.0, 112.0)
    assert hits([lower, upper], [TEXT], SIZE) == pytest.approx((1.0, 1 - (1 - p) ** 2))


def test_of_two_targets_each_counts_half():
    below: Box = (28.0, 168.0, 56.0, 196.0)  # as far from the lower edge: the same chance
    assert hits([(0.0, 112.0, 224.0, 224.0)], [TEXT, below], SIZE) == pytest.approx((0.5, 31 / 113))


@given(w=st.integers(1, 30), h=st.integers(1, 24), x=st.integers(0, 20), y=st.integers(0, 14), tw=st.integers(1, 10), th=st.integers(1, 10))
@hypothesis_settings(max_examples=25, deadline=None)
def test_the_chance_is_the_share_of_all_places_that_hit(w, h, x, y, tw, th):
    target = (float(x), float(y), float(x + tw), float(y + th))
    places = [(float(left), float(top), float(left + w), float(top + h)) for left in range(30 - w + 1) for top in range(24 - h + 1)]
    expected = sum(coverage(place, target) > 0.9 for place in places) / len(places)
    assert hits([places[0]], [target], (30, 24))[1] == pytest.approx(expected)
