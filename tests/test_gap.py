"""Views and crops: how many tokens they cost, and which pixels they hold."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from focus.data.boxes import Box, settle
from focus.data.images.original import Decoded
from focus.gap import Gap, Mode, View, critical_tokens, cut, fit, resize_to_budget
from tests.support.samples import Painted, sample

PROPERTY = settings(deadline=None, database=None)

token_sides = st.sampled_from([28, 32])
sides = st.one_of(st.integers(1, 100), st.integers(100, 8200))


def noise(width: int, height: int) -> Decoded:
    return Decoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)))


def crop_of(original: Decoded, box_px: Box, max_tokens: int, token_px: int) -> View:
    """A crop of the original itself, as it is with a gap."""
    return cut(original, box_px, original.size, max_tokens, token_px)


# ------------------------------------------------------------------------------------------------------------- budgets


@pytest.mark.parametrize(
    ("size", "max_tokens", "token_px", "fitted", "tokens"),
    [
        # The published resize rule. Native rounding where the budget allows; else side / sqrt(pixels / budget), floored to whole tokens.
        ((2000, 1500), 1_024, 28, (1008, 756), 972),
        ((2000, 1500), 1_024, 32, (1152, 864), 972),
        ((2000, 1500), 16_384, 28, (1988, 1512), 3834),  # 71.4 -> 71 and 53.6 -> 54 tokens
        ((2000, 1500), 16_384, 32, (1984, 1504), 2914),  # 62.5 -> 62 (a tie goes to the even number) and 46.9 -> 47
        ((7680, 4320), 1_024, 28, (1176, 672), 1008),
        ((7680, 4320), 1_024, 32, (1344, 768), 1008),
        ((7680, 4320), 16_384, 28, (4760, 2688), 16320),
        ((7680, 4320), 16_384, 32, (5440, 3072), 16320),
        ((4032, 3024), 16_384, 28, (4032, 3024), 15552),
        ((4032, 3024), 16_384, 32, (4032, 3008), 11844),  # 94.5 -> 94
        ((640, 480), 1_024, 28, (644, 476), 391),
        ((640, 480), 16_384, 28, (644, 476), 391),
        ((640, 480), 1_024, 32, (640, 480), 300),
        ((640, 480), 16_384, 32, (640, 480), 300),
        ((100, 30), 1_024, 28, (112, 28), 4),
        ((100, 30), 16_384, 28, (112, 28), 4),
        # The family itself makes 480x160 of it, 75 tokens: its own minimum of 64 tokens enlarges the image 5 times. Our minimum is
        # ONE token, so that a small view stays small: 100/32 = 3.1 -> 3 and 30/32 = 0.9 -> 1 token.
        ((100, 30), 1_024, 32, (96, 32), 3),
        ((100, 30), 16_384, 32, (96, 32), 3),
    ],
)
def test_an_image_takes_the_size_of_the_model_family_under_its_budget(size, max_tokens, token_px, fitted, tokens):
    assert fit(size, max_tokens, token_px) == fitted
    assert fitted[0] * fitted[1] // token_px**2 == tokens


def test_the_order_of_the_sides_is_width_first():
    assert fit((2000, 1000), 128, 28) == (448, 224)
    assert fit((1000, 2000), 128, 28) == (224, 448)


@pytest.mark.parametrize("token_px", [28, 32])
def test_one_token_stays_one_token(token_px):
    assert fit((token_px, token_px), 1_024, token_px) == (token_px, token_px)
    assert fit((token_px + 9, token_px - 9), 1_024, token_px) == (token_px, token_px)
    assert fit((4000, 4000), 1, token_px) == (token_px, token_px)


def test_an_image_below_one_token_becomes_one_token():
    assert fit((10, 10), 1_024, 28) == (28, 28)


@PROPERTY
@given(sides, sides, st.integers(1, 20_000), token_sides)
def test_a_view_never_exceeds_its_budget_and_consists_of_whole_tokens(width, height, budget, token_px):
    long, short = max(width, height), min(width, height)
    try:
        fitted = fit((width, height), budget, token_px)
    except ValueError:
        assert long > 200 * short or long > budget * short  # no rounding keeps such a strip within the budget
        return
    assert fitted[0] % token_px == fitted[1] % token_px == 0
    assert 1 <= fitted[0] * fitted[1] // token_px**2 <= budget


@PROPERTY
@given(sides, sides, token_sides)
def test_under_a_roomy_budget_no_side_changes_by_more_than_half_a_token(width, height, token_px):
    if min(width, height) < token_px or max(width, height) > 200 * min(width, height):
        return
    fitted = fit((width, height), 10**6, token_px)
    assert abs(fitted[0] - width) <= token_px / 2 and abs(fitted[1] - height) <= token_px / 2


@pytest.mark.parametrize("size", [(5601, 28), (28, 5601), (8000, 1)])
def test_an_image_too_narrow_for_the_model_family_is_refused(size):
    with pytest.raises(ValueError, match=f"{size[0]}x{size[1]} px is more than 200 times"):
        fit(size, 1_024, 28)


def test_a_strip_that_cannot_be_rounded_into_its_budget_is_refused_with_a_way_out():
    # 20 x 1 tokens into 10: halving the area leaves 14 x 0.7 tokens, and the short side cannot go below one
    with pytest.raises(ValueError, match=r"560x28 px does not fit into 10 visual tokens .*raise gap\.view_tokens or rollout\.crop_tokens"):
        fit((560, 28), 10, 28)
    assert fit((560, 28), 20, 28) == (560, 28)


# --------------------------------------------------------------------------------------------------------------- views


def test_a_view_knows_its_size_its_tokens_and_its_original():
    view = resize_to_budget(noise(448, 448), 16, 28)
    assert (view.size, view.tokens, view.original_size) == ((112, 112), 16, (448, 448))
    wide = resize_to_budget(noise(640, 480), 100, 32)
    assert (wide.size, wide.tokens, wide.original_size) == ((352, 256), 88, (640, 480))  # 20 x 15 tokens / sqrt(3) = 11.5 x 8.7


def test_without_a_gap_the_view_has_every_pixel_of_an_image_of_whole_tokens():
    original = noise(448, 448)
    view = resize_to_budget(original, 256, 28)
    assert view.size == view.original_size and np.array_equal(view.image, original.image)


@PROPERTY
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 64), token_sides)
def test_the_tokens_of_a_view_are_those_of_its_pixels(width, height, budget, token_px):
    if max(width, height) > budget * min(width, height) or max(width, height) > 200 * min(width, height):
        return
    view = resize_to_budget(Decoded(Image.new("RGB", (width, height))), budget, token_px)
    assert view.tokens == (view.image.width // token_px) * (view.image.height // token_px) <= budget


def test_a_coarse_view_does_not_show_what_a_crop_shows():
    chequers = np.indices((448, 448)).sum(0).astype(np.uint8) % 2 * 255  # of one pixel
    chequered = Decoded(Image.fromarray(chequers).convert("RGB"))
    assert np.ptp(np.asarray(resize_to_budget(chequered, 16, 28).image)[4:-4, 4:-4]) < 40  # grey, seen from afar
    assert np.ptp(np.asarray(crop_of(chequered, (56, 56, 112, 112), 64, 28).image)) == 255


# --------------------------------------------------------------------------------------------------------------- crops


@pytest.mark.parametrize(
    ("box_px", "token_px", "tokens"),
    [
        ((100, 50, 184, 106), 28, 6),  # 3 x 2 tokens
        ((0, 0, 28, 28), 28, 1),
        ((612, 452, 640, 480), 28, 1),  # the last pixels: right and bottom edges are excluded
        ((7, 11, 7 + 160, 11 + 64), 32, 10),
    ],
)
def test_a_crop_of_whole_tokens_is_the_pixels_of_the_original(box_px, token_px, tokens):
    original = noise(640, 480)
    crop = crop_of(original, box_px, 64, token_px)
    x1, y1, x2, y2 = box_px
    assert np.array_equal(crop.image, np.asarray(original.image)[y1:y2, x1:x2])
    assert crop.tokens == tokens


def test_a_crop_of_broken_tokens_is_rounded_to_whole_ones():
    crop = crop_of(noise(640, 480), (0, 0, 75, 40), 64, 28)  # 2.7 x 1.4 tokens
    assert (crop.size, crop.tokens, crop.original_size) == ((84, 28), 3, (75, 40))


def test_a_crop_costs_what_its_area_is_worth():
    original = noise(640, 480)
    assert [crop_of(original, (0, 0, side, side), 1_024, 28).tokens for side in (28, 56, 112, 224, 448)] == [1, 4, 16, 64, 256]


@PROPERTY
@given(st.data(), token_sides)
def test_a_box_that_holds_another_never_costs_fewer_tokens(data, token_px):
    original = Decoded(Image.new("RGB", (640, 480)))
    width, height = data.draw(st.integers(token_px, 640)), data.draw(st.integers(token_px, 480))
    inner = (0, 0, data.draw(st.integers(token_px, width)), data.draw(st.integers(token_px, height)))
    assert crop_of(original, inner, 1_024, token_px).tokens <= crop_of(original, (0, 0, width, height), 1_024, token_px).tokens


def test_a_crop_over_its_budget_shrinks_to_it():
    crop = crop_of(noise(640, 480), (0, 0, 448, 448), 64, 28)  # 16 x 16 tokens; half of each side is 64
    assert (crop.size, crop.tokens) == ((224, 224), 64)
    wide = crop_of(noise(640, 480), (0, 0, 640, 480), 64, 32)  # 20 x 15 tokens by sqrt(300/64) = 2.17: 9.2 x 6.9
    assert (wide.size, wide.tokens) == ((288, 192), 54)


# ------------------------------------------------------------------------------------- crops where there is no gap
# With gap=off the view may still be smaller than the original (a model has a largest budget); crops are then cut from the view.


def test_without_a_gap_a_box_in_original_pixels_is_cut_from_the_same_place_of_the_view():
    view = resize_to_budget(noise(896, 896), 256, 28)  # half of each side
    crop = cut(Decoded(view.image), (224, 112, 448, 224), (896, 896), 64, 28)
    assert (crop.size, crop.tokens) == ((112, 56), 8)
    assert np.array_equal(crop.image, np.asarray(view.image)[56:112, 112:224])


def test_without_a_gap_a_box_between_two_view_pixels_takes_both():
    view = resize_to_budget(noise(896, 896), 256, 28)
    crop = cut(Decoded(view.image), (1, 0, 113, 56), (896, 896), 64, 28)  # 0.5 to 56.5 view pixels: 0 to 57
    assert crop.original_size == (57, 28)


def test_without_a_gap_a_crop_of_everything_is_the_view():
    white = resize_to_budget(
        Decoded(Image.new("RGB", (2000, 1500), "white")), 128, 28
    )  # 71.4 x 53.6 tokens by sqrt(3827/128) = 5.47: 13.06 x 9.8
    assert white.size == (364, 252)
    crop = cut(Decoded(white.image), (0, 0, 2000, 1500), (2000, 1500), 128, 28)
    assert crop.original_size == white.size
    assert np.asarray(crop.image).min() == 255


# --------------------------------------------------------------------------------------------------- boxes of a model


@pytest.mark.parametrize(
    ("size", "spoken_px", "crop_tokens", "token_px"),
    [
        ((7680, 4320), (0, 2000, 7680, 2001), 1_024, 28),  # settled to 7680 x 28: 274 times longer than wide
        ((7680, 4320), (0, 2000, 7680, 2001), 1_024, 32),
        ((4032, 3024), (0, 2000, 4032, 2001), 64, 28),  # 144 x 1 tokens: no rounding brings them below 96
        ((448, 448), (0, 200, 448, 201), 8, 28),
    ],
)
def test_every_box_that_settles_can_be_cut(size, spoken_px, crop_tokens, token_px):
    box_px = settle(spoken_px, size, token_px)
    assert box_px is not None
    assert crop_of(Decoded(Image.new("RGB", size)), box_px, crop_tokens, token_px).tokens <= crop_tokens


@pytest.mark.parametrize("fixed", [False, True])
def test_no_box_is_too_strange_for_a_budget_of_a_few_tokens(fixed):
    source = Decoded(Image.new("L", (130, 130)).convert("RGB"))
    for most in range(1, 6):
        for least in range(1, most + 1):
            for width, height in product((1, 13, 28, 29, 43, 85, 130), repeat=2):
                crop = cut(source, (0, 0, width, height), source.size, most, 28, fixed, least)
                assert 1 <= crop.tokens <= most, (most, least, width, height)
                assert crop.size[0] * crop.size[1] == crop.tokens * 28**2


# ---------------------------------------------------------------------------------------------- the view of each question


def with_critical_view(tokens: int, token_px: int = 28):
    return sample(image=Painted(560, 560), width=560, height=560, meta={"critical_view": {"tokens": tokens, "token_px": token_px}})


def test_with_the_mode_reader_a_question_is_seen_in_its_critical_view_and_crops_are_native():
    gap, question = Gap(Mode.READER, 256, 28), with_critical_view(100)
    original = question.open()
    view, source = gap.view_of(question, original)
    assert (view.tokens, view.size) == (100, (280, 280)) and source is original


@pytest.mark.parametrize(
    ("tokens", "token_px", "here", "expected"), [(100, 28, 28, 100), (128, 28, 32, 98), (98, 32, 28, 128), (1, 28, 32, 1)]
)
def test_a_critical_view_has_one_size_in_pixels_for_every_family(tokens, token_px, here, expected):
    """98 x 28^2 / 32^2 pixels: 128 tokens of 28 px are 98 of 32 px."""
    assert critical_tokens(with_critical_view(tokens, token_px), here) == expected


def test_a_question_without_a_critical_view_is_not_trained_on():
    gap = Gap(Mode.READER, 256, 28)
    assert gap.keeps(with_critical_view(16)) and not gap.keeps(sample())
    assert Gap(Mode.FIXED, 256, 28).keeps(sample())


@pytest.mark.parametrize("stored", [7, {"tokens": 16}, {"tokens": 0, "token_px": 28}, {"tokens": "many", "token_px": 28}])
def test_a_critical_view_of_another_form_is_named_with_its_record(stored):
    with pytest.raises(ValueError, match=r"sample synthetic/train/a: meta.critical_view is .* tokens and token_px"):
        critical_tokens(sample(meta={"critical_view": stored}), 28)
