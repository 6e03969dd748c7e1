"""Stage-2 reward (E5 to E8, E11): golden values, nested chains, several crops and targets, and what does not pay."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from focus.data.boxes import coverage, iou
from focus.rewards import Accuracy, Format, Grounding, Tool, score
from focus.rewards.terms import conditional_iou, grounding, l1_reward
from tests.support.trajectories import ANNOTATED, B1, B2, CHAIN, SAMPLE, says, trajectory, zooms

# A normalised image, in thousandths: B1 the text, B2 the sign about it
SIZE = (1000, 1000)


@pytest.mark.parametrize(
    ("box", "covered", "best", "r_iou", "r_l1", "r_geo"),
    [
        (B1, 1, 1, 1, 1, (1, 1, 1)),
        (B2, 1, 1, 1, 1, (1, 1, 1)),  # six times the area, the same reward: it does not prefer the smallest annotated box
        ((350, 380, 550, 460), 1, 0.613, 0.613, 0.985, (0.8920, 0.7990, 0.7059)),
        ((400, 400, 495, 440), 0.95, 0.95, 0.95, 0.9988, (0.9866, 0.9744, 0.9622)),
        ((400, 400, 480, 440), 0.80, 0.80, 0, 0.995, (0.7462, 0.4975, 0.2487)),
        ((500, 400, 600, 440), 0, 0.094, 0, 0.95, (0.7125, 0.4750, 0.2375)),
        ((200, 200, 700, 700), 1, 0.096, 0.096, 0.83, (0.6465, 0.4630, 0.2795)),
        ((0, 0, 1000, 1000), 1, 0.024, 0.024, 0.58, (0.4410, 0.3020, 0.1630)),
        ((850, 900, 950, 940), 0, 0, 0, 0.53, (0.3975, 0.2650, 0.1325)),
    ],
)
def test_the_grounding_reward_takes_its_golden_values(box, covered, best, r_iou, r_l1, r_geo):
    assert coverage(box, B1) == pytest.approx(covered)
    assert max(iou(box, level) for level in CHAIN) == pytest.approx(best, abs=5e-4)
    assert conditional_iou(box, CHAIN, 0.9) == pytest.approx(r_iou, abs=5e-4)
    assert l1_reward(box, CHAIN, SIZE) == pytest.approx(r_l1, abs=5e-5)
    for omega, value in zip((0.25, 0.5, 0.75), r_geo, strict=True):
        assert grounding(box, CHAIN, SIZE, omega, 0.9) == pytest.approx(value, abs=1e-4)


def test_coverage_must_exceed_the_gate_and_the_gate_may_be_left_open():
    at_the_edge = (400.0, 400.0, 490.0, 440.0)  # exactly 0.9 of B1
    assert conditional_iou(at_the_edge, CHAIN, 0.9) == 0
    assert conditional_iou((400.0, 400.0, 491.0, 440.0), CHAIN, 0.9) == pytest.approx(0.91)
    assert conditional_iou(at_the_edge, CHAIN, None) == pytest.approx(0.9)


def test_a_small_near_miss_beats_a_large_box_that_covers_the_text():
    """Why L1 alone must not be paid too much: only the gate and the answer hold it back."""
    near_miss, large = (500.0, 400.0, 600.0, 440.0), (200.0, 200.0, 700.0, 700.0)
    assert grounding(near_miss, CHAIN, SIZE, 0.5, 0.9) > grounding(large, CHAIN, SIZE, 0.5, 0.9)
    assert grounding(near_miss, CHAIN, SIZE, 1.0, 0.9) < grounding(large, CHAIN, SIZE, 1.0, 0.9)


coordinate = st.integers(0, 999)
boxes = st.tuples(coordinate, coordinate, st.integers(1, 400), st.integers(1, 400)).map(
    lambda b: (float(b[0]), float(b[1]), float(min(1000, b[0] + b[2])), float(min(1000, b[1] + b[3])))
)


@given(box=boxes, omega=st.floats(0, 1), tau=st.one_of(st.none(), st.floats(0, 0.99)))
def test_the_reward_of_any_crop_lies_between_zero_and_one(box, omega, tau):
    assert 0 <= grounding(box, CHAIN, SIZE, omega, tau) <= 1


@given(box=boxes)
def test_an_open_gate_never_pays_less(box):
    assert conditional_iou(box, CHAIN, None) >= conditional_iou(box, CHAIN, 0.9)


def test_a_box_pays_the_same_wherever_the_scene_is_scaled():
    double = [tuple(2 * v for v in level) for level in CHAIN]
    assert grounding((700, 760, 1100, 920), double, (2000, 2000), 0.5, 0.9) == pytest.approx(
        grounding((350, 380, 550, 460), CHAIN, SIZE, 0.5, 0.9)
    )


# ---------------------------------------------------------------------------------------------------------- the callback


def paid(*boxes, sample=ANNOTATED, **settings) -> float:
    turns = [zooms(box) for box in boxes]
    [value] = Grounding(1.0, **settings).score([trajectory(*turns, says("42"), sample=sample)])
    return value


def test_without_a_crop_nothing_is_paid_and_without_an_annotation_nothing_is_graded():
    assert paid() == 0
    assert math.isnan(paid(B1, sample=SAMPLE))


def test_of_several_crops_the_last_is_graded():
    far = (850.0, 900.0, 950.0, 940.0)
    assert paid(B1, far) == pytest.approx(0.265)
    assert paid(far, B1) == 1


def test_crop_spam_does_not_pay():
    assert paid(*[B1] * 4, (0.0, 0.0, 1000.0, 1000.0)) == paid((0.0, 0.0, 1000.0, 1000.0))


def test_every_target_of_a_question_counts_alike():
    other = ((850.0, 900.0, 950.0, 940.0),)
    two = replace(ANNOTATED, boxes=(CHAIN, other))
    assert paid(B1, sample=two) == pytest.approx((1 + grounding(B1, other, SIZE, 0.5, 0.9)) / 2)


# Two targets far apart; crops that are exactly theirs, and one between them
LEFT, RIGHT, BETWEEN = (100.0, 100.0, 200.0, 140.0), (800.0, 800.0, 900.0, 840.0), (400.0, 400.0, 500.0, 440.0)
PAIR = replace(ANNOTATED, boxes=((LEFT,), (RIGHT,)))
FAR = 0.5 * (1 - 0.7)  # L1 alone, weighed by 1 - omega: each of the four coordinates is 0.7 of the side away


@pytest.mark.parametrize("crops", [(LEFT, RIGHT), (RIGHT, LEFT), (BETWEEN, LEFT, RIGHT), (LEFT, RIGHT, BETWEEN, LEFT)])
def test_two_perfect_crops_of_two_targets_earn_everything_in_any_order(crops):
    assert paid(*crops, sample=PAIR) == 1


def test_one_crop_is_graded_against_every_target_and_one_target_by_the_last_crop():
    assert paid(LEFT, sample=PAIR) == pytest.approx((1 + FAR) / 2)
    assert paid(LEFT, LEFT, LEFT, sample=PAIR) == pytest.approx((1 + FAR) / 2)  # the same crop again is not paid again
    one = replace(ANNOTATED, boxes=((LEFT,),))
    assert paid(LEFT, RIGHT, sample=one) == pytest.approx(FAR)


def test_of_several_crops_of_one_target_the_last_is_graded_and_the_other_target_keeps_its_own():
    near = (100.0, 100.0, 180.0, 140.0)  # 0.8 of the left target: below the gate, and 80 of 1000 px off at one side
    assert paid(near, RIGHT, LEFT, sample=PAIR) == 1  # corrected
    assert paid(LEFT, RIGHT, near, sample=PAIR) == pytest.approx((0.5 * (1 - 0.02 / 4) + 1) / 2)  # not the best of them


def test_more_crops_than_targets_never_earn_more_than_the_last_near_each():
    """Spam: a grid of crops that holds both targets ends elsewhere near each of them."""
    spam = [LEFT, RIGHT, (150.0, 150.0, 250.0, 190.0), (700.0, 700.0, 800.0, 740.0)]
    assert paid(*spam, sample=PAIR) == pytest.approx((0.5 * (1 - 0.05) + 0.5 * (1 - 0.1)) / 2)


def test_targets_on_one_sign_share_the_crop_of_the_sign():
    sign = (350.0, 350.0, 600.0, 500.0)
    words = replace(ANNOTATED, boxes=((B1, sign), ((420.0, 450.0, 480.0, 480.0), sign)))
    assert paid(sign, sample=words) == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"omega": 1.5}, "omega"), ({"tau": 1.0}, "tau"), ({"tau": -0.1}, "tau")],
)
def test_settings_that_mean_nothing_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        Grounding(1.0, **settings)


def test_the_stage_2_total_adds_grounding_whether_or_not_the_answer_is_right():
    terms = [Accuracy(0.8), Format(0.2), Tool(1.2, gate="accuracy"), Grounding(1.0)]
    right, wrong = (trajectory(zooms(B1), says(answer), sample=ANNOTATED) for answer in ("42", "43"))
    assert score(terms, [right, wrong]).total == pytest.approx([3.0, 1.0])  # E11: 0.8 + 1.2 + 1, and 1 alone
    gated = [*terms[:3], Grounding(1.0, gate="accuracy")]
    assert score(gated, [right, wrong]).total == pytest.approx([3.0, 0.0])
