"""Box frames, and what a crop tool makes of a spoken box. All numbers are worked by hand."""

import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from focus.data.boxes import Box, Frame, Size, area, coverage, intersection, iou, settle, to_original, to_view

PROPERTY = settings(deadline=None, database=None)

B1 = (400.0, 400.0, 500.0, 440.0)  # method.md 4.4 on an image of 1000 x 1000 px, so that every number is whole
B2 = (360.0, 360.0, 560.0, 480.0)

sides = st.one_of(st.integers(1, 64), st.integers(65, 9000))
sizes = st.one_of(st.tuples(sides, sides), st.sampled_from([(4032, 3024), (7680, 4320), (4319, 7681), (1, 1), (448, 448), (641, 479)]))
finite = st.floats(-1e9, 1e9)
anywhere = st.tuples(finite, finite, finite, finite)


@st.composite
def near(draw: st.DrawFn, size: Size) -> Box:
    """Corners in any order, inside the image, across its border or some way outside."""
    xs = st.one_of(st.floats(-0.5 * size[0], 1.5 * size[0]), st.sampled_from([0.0, float(size[0])]))
    ys = st.one_of(st.floats(-0.5 * size[1], 1.5 * size[1]), st.sampled_from([0.0, float(size[1])]))
    return (draw(xs), draw(ys), draw(xs), draw(ys))


# ---------------------------------------------------------------------------------------------------------------- frames


@pytest.mark.parametrize(
    ("box_view", "frame", "view_size", "original_size", "box_px"),
    [
        # 2000 x 1500 seen by Qwen2.5-VL at 1,024 tokens is 1008 x 756: one view pixel is 1.984 original pixels
        ((504, 378, 1008, 756), Frame.VIEW_PIXELS, (1008, 756), (2000, 1500), (1000, 750, 2000, 1500)),
        # a view of another aspect: x by 2000/1008, y by 1500/672
        ((252, 168, 504, 336), Frame.VIEW_PIXELS, (1008, 672), (2000, 1500), (500, 375, 1000, 750)),
        # thousandths do not care about the view
        ((500, 250, 1000, 1000), Frame.PER_MILLE, (96, 32), (4032, 3024), (2016, 756, 4032, 3024)),
        ((1, 1, 2, 2), Frame.PER_MILLE, (1344, 768), (7680, 4320), (7.68, 4.32, 15.36, 8.64)),
    ],
)
def test_a_spoken_box_lands_where_the_arithmetic_says(box_view, frame, view_size, original_size, box_px):
    assert to_original(box_view, frame, view_size, original_size) == pytest.approx(box_px)


def test_the_glove_of_v_star_is_spoken_in_thousandths():
    glove = (564.0, 142.0, 719.0, 299.0)  # image sa_4690 of V*, 2000 x 1500
    # 564/2 = 282;  142/1.5 = 94.67;  719/2 = 359.5, a tie, goes to the even 360;  299/1.5 = 199.33
    assert to_view(glove, Frame.PER_MILLE, (96, 96), (2000, 1500)) == (282, 95, 360, 199)


def test_the_whole_view_is_the_whole_original_in_both_frames():
    assert to_original((0, 0, 1176, 672), Frame.VIEW_PIXELS, (1176, 672), (7680, 4320)) == pytest.approx((0, 0, 7680, 4320))
    assert to_original((0, 0, 1000, 1000), Frame.PER_MILLE, (1176, 672), (7680, 4320)) == pytest.approx((0, 0, 7680, 4320))


@PROPERTY
@given(st.data(), st.sampled_from(Frame), sizes, sizes)
def test_a_spoken_box_survives_the_way_to_the_original_and_back(data, frame, view_size, original_size):
    extent = frame.extent(view_size)
    box_view = tuple(data.draw(st.integers(0, int(extent[i % 2]))) for i in range(4))
    box_px = to_original(box_view, frame, view_size, original_size)
    assert to_view(box_px, frame, view_size, original_size) == box_view


@PROPERTY
@given(st.data(), st.sampled_from(Frame), sizes, sizes)
def test_an_original_box_survives_being_spoken_within_half_a_spoken_unit(data, frame, view_size, original_size):
    extent = frame.extent(view_size)
    box_px = tuple(data.draw(st.floats(0, original_size[i % 2])) for i in range(4))
    back = to_original(to_view(box_px, frame, view_size, original_size), frame, view_size, original_size)
    for i in range(4):
        assert abs(back[i] - box_px[i]) <= 0.5 * original_size[i % 2] / extent[i % 2] + 1e-6


@PROPERTY
@given(st.data(), sizes, sizes)
def test_an_original_box_survives_pixel_speech_within_one_view_pixel(data, view_size, original_size):
    box_px = tuple(data.draw(st.floats(0, original_size[i % 2])) for i in range(4))
    back = to_original(to_view(box_px, Frame.VIEW_PIXELS, view_size, original_size), Frame.VIEW_PIXELS, view_size, original_size)
    for i in range(4):
        view_pixels_off = abs(back[i] - box_px[i]) * view_size[i % 2] / original_size[i % 2]
        assert view_pixels_off <= 1


def test_the_same_numbers_mean_different_places_in_different_frames():
    spoken = (100.0, 100.0, 200.0, 200.0)  # nothing guesses the frame from the size of the numbers
    assert to_original(spoken, Frame.VIEW_PIXELS, (448, 448), (448, 448)) == spoken
    assert to_original(spoken, Frame.PER_MILLE, (448, 448), (448, 448)) == pytest.approx((44.8, 44.8, 89.6, 89.6))


# --------------------------------------------------------------------------------------------------------------- overlap


@pytest.mark.parametrize(
    ("box", "covered", "iou_b1", "iou_b2"),
    [
        (B1, 1, 1, 4_000 / 24_000),
        (B2, 1, 4_000 / 24_000, 1),
        ((350, 380, 550, 460), 1, 4_000 / 16_000, 15_200 / 24_800),
        ((400, 400, 495, 440), 0.95, 0.95, 3_800 / 24_000),
        ((400, 400, 480, 440), 0.80, 0.80, 3_200 / 24_000),
        ((500, 400, 600, 440), 0, 0, 2_400 / 25_600),
        ((200, 200, 700, 700), 1, 0.016, 0.096),
        ((0, 0, 1000, 1000), 1, 0.004, 0.024),
        ((850, 900, 950, 940), 0, 0, 0),
    ],
)
def test_coverage_and_iou_take_the_values_worked_in_the_method(box, covered, iou_b1, iou_b2):
    assert coverage(box, B1) == pytest.approx(covered)
    assert iou(box, B1) == pytest.approx(iou_b1)
    assert iou(box, B2) == pytest.approx(iou_b2)


def test_right_and_bottom_edges_are_excluded_so_that_touching_boxes_share_nothing():
    assert area(intersection((0, 0, 10, 10), (10, 0, 20, 10))) == 0
    assert iou((0, 0, 10, 10), (10, 0, 20, 10)) == 0


def test_inverted_and_empty_boxes_have_no_area():
    assert area((10, 10, 0, 0)) == 0  # both axes inverted must not multiply to a positive area
    assert area((10, 0, 0, 10)) == 0
    assert area((5, 5, 5, 9)) == 0
    assert iou((5, 5, 5, 5), (5, 5, 5, 5)) == 0


def test_coverage_of_an_empty_target_is_an_error_and_not_a_number():
    with pytest.raises(ValueError, match="has no area"):
        coverage((0, 0, 10, 10), (3, 3, 3, 8))


@PROPERTY
@given(anywhere, anywhere)
def test_iou_is_symmetric_and_lies_between_nothing_and_everything(a, b):
    assert 0 <= iou(a, b) <= 1
    assert iou(a, b) == iou(b, a)


@PROPERTY
@given(anywhere)
def test_a_box_covers_itself_completely(corners):
    box = (*map(min, corners[:2], corners[2:]), *map(max, corners[:2], corners[2:]))  # in order: three in four would be thrown away
    assume(area(box) > 0)
    assert iou(box, box) == 1
    assert coverage(box, box) == 1


@PROPERTY
@given(anywhere, anywhere)
def test_coverage_lies_between_nothing_and_everything_and_is_never_below_iou(box, target):
    (x1, x2), (y1, y2) = sorted(target[::2]), sorted(target[1::2])
    target = (x1, y1, x2 + 1, y2 + 1)  # a target has an area
    assert 0 <= coverage(box, target) <= 1
    assert coverage(box, target) >= iou(box, target) - 1e-12


# ---------------------------------------------------------------------------------------------------------------- settle


@pytest.mark.parametrize(
    ("spoken_px", "cut_px"),
    [
        ((10, 20, 60, 70), (10, 20, 60, 70)),  # whole pixels, large enough: as it is
        ((10.2, 20.7, 60.1, 70.0), (10, 20, 61, 70)),  # rounded outward
        ((60, 70, 10, 20), (10, 20, 60, 70)),  # both corners swapped
        ((60, 20, 10, 70), (10, 20, 60, 70)),  # one axis swapped
        ((-50, -50, 500, 500), (0, 0, 100, 80)),  # clamped
        ((50, 40, 50, 40), (36, 26, 64, 54)),  # a point grows by 14 to each side
        ((50, 10, 51, 38), (37, 10, 65, 38)),  # 27 px are missing: 13 to the left, 14 to the right
        ((0, 0, 5, 5), (0, 0, 28, 28)),  # grown at the corner, slid inside
        ((95, 75, 99, 79), (72, 52, 100, 80)),  # grown at the other corner, slid inside
        ((99.5, 0, 120, 40), (72, 0, 100, 40)),  # half a pixel is inside
        ((-10, 5, 0.001, 45), (0, 5, 28, 45)),  # the thousandth of a pixel is inside
    ],
)
def test_a_spoken_box_is_settled_as_worked_by_hand_in_a_100_by_80_image(spoken_px, cut_px):
    assert settle(spoken_px, (100, 80), 28) == cut_px


@pytest.mark.parametrize(
    "spoken_px",
    [
        (100, 0, 120, 40),
        (0, 80, 40, 90),  # x1 equal to the width is outside, since right edges are excluded; so is y1
        (-10, 0, 0, 40),
        (0, -10, 40, 0),  # ends at the left or top border without entering
        (120, 0, 100, 40),
        (0, 0, -10, 40),  # the same with swapped corners
        (150, 90, 160, 95),
        (-20, -20, -5, -5),
        (100, 80, 100, 80),  # a point on the excluded corner
    ],
)
def test_a_box_that_does_not_touch_the_image_is_no_box(spoken_px):
    assert settle(spoken_px, (100, 80), 28) is None


def test_a_line_that_stands_on_the_border_touches_the_image():
    assert settle((0, 10, 0, 50), (100, 80), 28) == (0, 10, 28, 50)
    assert settle((10, 0, 50, 0), (100, 80), 28) == (10, 0, 50, 28)


def test_an_image_smaller_than_the_least_side_is_taken_whole():
    assert settle((5, 5, 6, 50), (20, 80), 28) == (0, 5, 20, 50)
    assert settle((3, 3, 4, 4), (20, 10), 28) == (0, 0, 20, 10)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", range(4))
def test_a_box_that_is_not_finite_is_no_box(bad, place):
    box = [10.0, 10.0, 50.0, 50.0]
    box[place] = bad
    assert settle(tuple(box), (100, 80), 28) is None


@PROPERTY
@given(sizes)
def test_the_whole_image_settles_to_itself(size):
    assert settle((0.0, 0.0, float(size[0]), float(size[1])), size, 28) == (0, 0, *size)


@PROPERTY
@given(st.data(), sizes, st.sampled_from([1, 28, 32]))
def test_a_settled_box_is_whole_pixels_inside_the_image_large_enough_and_holds_what_was_spoken(data, size, least):
    spoken = data.draw(near(size))
    box = settle(spoken, size, least)
    assume(box is not None)
    for axis in (0, 1):
        low, high = box[axis], box[axis + 2]
        assert 0 <= low < high <= size[axis]
        assert low == int(low) and high == int(high)
        assert high - low >= min(least, size[axis])
        spoken_low, spoken_high = sorted((spoken[axis], spoken[axis + 2]))
        assert low <= max(spoken_low, 0) and min(spoken_high, size[axis]) <= high


@PROPERTY
@given(st.data(), sizes, st.sampled_from([1, 28, 32]))
def test_a_settled_box_is_never_larger_than_rounding_or_the_least_side_demands(data, size, least):
    spoken = data.draw(near(size))
    box = settle(spoken, size, least)
    assume(box is not None)
    for axis in (0, 1):
        inside = min(max(spoken[axis], spoken[axis + 2]), size[axis]) - max(min(spoken[axis], spoken[axis + 2]), 0)
        assert box[axis + 2] - box[axis] < max(inside + 2, least + 1)


@PROPERTY
@given(st.data(), sizes)
def test_the_order_of_the_corners_changes_nothing(data, size):
    x1, y1, x2, y2 = data.draw(near(size))
    assert len({settle(box, size, 28) for box in [(x1, y1, x2, y2), (x2, y2, x1, y1), (x2, y1, x1, y2), (x1, y2, x2, y1)]}) == 1


@PROPERTY
@given(st.data(), sizes)
def test_a_settled_box_settles_to_itself(data, size):
    box = settle(data.draw(near(size)), size, 28)
    assume(box is not None)
    assert settle(box, size, 28) == box


@PROPERTY
@given(st.data(), sizes)
def test_a_box_shares_pixels_with_the_image_or_is_a_line_in_it_or_is_none(data, size):
    spoken = data.draw(near(size))
    x1, x2 = sorted((spoken[0], spoken[2]))
    y1, y2 = sorted((spoken[1], spoken[3]))
    touches = all(low < limit and (high > 0 or low == high == 0) for low, high, limit in [(x1, x2, size[0]), (y1, y2, size[1])])
    assert (settle(spoken, size, 28) is not None) == touches


@PROPERTY
@given(anywhere, sizes)
def test_no_finite_numbers_can_make_the_tool_raise(spoken, size):
    box = settle(spoken, size, 32)
    assert box is None or intersection(box, (0.0, 0.0, float(size[0]), float(size[1]))) == box
