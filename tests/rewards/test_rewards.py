"""Stage-1 reward (E3): golden totals, gates, what could not be graded, and what does not pay."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from focus.model.dialect import read_dialect
from focus.model.prompts import Answer, Fault, Malformed, call_text, error_content, parse
from focus.rewards import Accuracy, RewardCallback, Tool, score
from focus.rewards.terms import accuracy, format_penalty, tool_bonus, total
from focus.rollout.trajectory import Observation, Status, Turn
from focus.training.objective import group_advantage
from tests.support.trajectories import SAMPLE, says, stage1, trajectory, turn, zooms

NAN = math.nan


def fails(fault: Fault, text: str = "") -> Turn:
    """A turn that asked for a crop and was told why it gets none."""
    return turn(Malformed(fault), text, Observation((7,), None, error_content(fault)))


def reward(*turns: Turn, status: Status = Status.ANSWERED) -> float:
    return score(stage1(), [trajectory(*turns, status=status)]).total[0]


# ------------------------------------------------------------------------------------------------------ golden totals


@pytest.mark.parametrize(
    ("turns", "status", "expected"),
    [
        pytest.param([zooms(), says("42")], Status.ANSWERED, 2.0, id="correct with a crop"),
        pytest.param([says("42")], Status.ANSWERED, 0.8, id="correct without"),
        pytest.param([says("43")], Status.ANSWERED, 0.0, id="wrong and well formed"),
        pytest.param([zooms(), says("43")], Status.ANSWERED, 0.0, id="wrong with a crop"),
        pytest.param([turn(Malformed(Fault.NO_ACTION))], Status.MALFORMED, -0.2, id="wrong and malformed"),
        pytest.param([zooms(), turn(Malformed(Fault.NO_ACTION))], Status.MALFORMED, -0.2, id="a crop and no answer"),
        pytest.param([fails(Fault.NOT_JSON), says("43")], Status.ANSWERED, -0.2, id="a malformed call and a wrong answer"),
        pytest.param([fails(Fault.NOT_JSON), zooms(), says("42")], Status.ANSWERED, 1.8, id="a mended call and a correct answer"),
        pytest.param([zooms(), turn(Malformed(Fault.NO_CROPS_LEFT))], Status.OUT_OF_TURNS, -0.2, id="out of turns"),
        pytest.param([turn(Malformed(Fault.UNCLOSED), "<answer>42")], Status.OUT_OF_TOKENS, -0.2, id="out of tokens"),
    ],
)
def test_the_stage_1_reward_takes_its_golden_values(turns, status, expected):
    assert reward(*turns, status=status) == pytest.approx(expected)


def test_within_a_group_the_crop_pays_more_than_the_answer():
    correct, blind, wrong = reward(zooms(), says("42")), reward(says("42")), reward(says("43"))
    assert correct - blind == pytest.approx(1.2) and blind - wrong == pytest.approx(0.8)


# ------------------------------------------------------------------------------------------------------ the equations


def test_accuracy_is_one_or_zero():
    assert (accuracy(True), accuracy(False)) == (1.0, 0.0)


@pytest.mark.parametrize(("malformed_turns", "answered", "expected"), [(0, True, 0), (0, False, -1), (1, True, -1), (3, False, -1)])
def test_the_format_term_only_ever_takes_away_and_never_more_than_one(malformed_turns, answered, expected):
    assert format_penalty(malformed_turns, answered) == expected


@pytest.mark.parametrize(("delivered", "expected"), [(0, 0), (1, 1), (5, 1)])
def test_the_tool_bonus_is_paid_once_however_many_crops_there_were(delivered, expected):
    assert tool_bonus(delivered) == expected


def test_a_gated_term_counts_only_where_its_gate_is_above_zero():
    weights, gates = {"a": 1.0, "b": 10.0}, {"a": None, "b": "a"}
    assert total({"a": 1, "b": 1}, weights, gates) == 11
    assert total({"a": 0.01, "b": 1}, weights, gates) == pytest.approx(10.01)
    assert total({"a": 0, "b": 1}, weights, gates) == 0
    assert total({"a": -1, "b": 1}, weights, gates) == -1


def test_a_gate_may_stand_behind_the_term_that_it_opens():
    assert total({"b": 1, "a": 1}, {"b": 10.0, "a": 1.0}, {"b": "a"}) == 11


def test_a_term_that_could_not_be_graded_makes_the_total_ungraded_and_not_zero():
    assert math.isnan(total({"a": NAN, "b": 1}, {"a": 1.0, "b": 1.0}, {}))
    assert math.isnan(total({"a": 1, "b": NAN}, {"a": 1.0, "b": 1.0}, {"b": "a"}))


def test_an_ungraded_gate_makes_the_total_ungraded_and_is_not_a_closed_gate():
    assert math.isnan(total({"a": NAN, "b": 1}, {"a": 1.0, "b": 1.0}, {"b": "a"}))


def test_an_ungraded_gate_that_is_not_itself_paid_makes_the_total_ungraded_too():
    assert math.isnan(total({"a": NAN, "b": 1}, {"b": 1.0}, {"b": "a"}))


def test_an_ungraded_term_behind_a_closed_gate_does_not_count():
    assert total({"a": 0, "b": NAN}, {"a": 1.0, "b": 1.0}, {"b": "a"}) == 0


# -------------------------------------------------------------------------------------------- what does not pay (11)


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>zoom in</tool_call>",
        '<tool_call>{"name":"image_zoom_in_tool","arguments":{"bbox_2d":[1,2,3]}}</tool_call>',
        '<tool_call>{"name":"zoom","arguments":{"bbox_2d":[1,2,3,4]}}</tool_call>',
        '<tool_call>{"name":"image_zoom_in_tool","arguments":{"bbox_2d":[NaN,2,3,4]}}</tool_call>',
    ],
)
def test_a_malformed_call_pays_no_bonus_and_costs_the_format(text):
    spoken = parse(text, read_dialect("tiny"))
    assert isinstance(spoken, Malformed)
    assert reward(fails(spoken.fault, text), says("42")) == pytest.approx(0.8 - 0.2)


def test_a_call_outside_the_image_delivers_nothing_and_pays_nothing():
    text = call_text((2000, 2000, 3000, 3000))
    assert reward(fails(Fault.OUTSIDE, text), says("42")) == pytest.approx(0.8 - 0.2)


def test_the_text_of_a_call_without_a_delivered_crop_pays_nothing():
    words = "<think>" + call_text((0, 0, 10, 10)) + "</think><answer>42</answer>"
    assert reward(turn(parse(words, read_dialect("tiny")), words)) == pytest.approx(0.8)  # a thought of a call
    assert reward(turn(Answer("42"), "image_zoom_in_tool bbox_2d <answer>42</answer>")) == pytest.approx(0.8)


def test_an_answer_and_a_call_in_one_turn_are_neither():
    for text in (call_text((0, 0, 10, 10)) + "<answer>42</answer>", "<answer>42</answer>" + call_text((0, 0, 10, 10))):
        assert reward(turn(parse(text, read_dialect("tiny")), text), status=Status.MALFORMED) == pytest.approx(-0.2)


def test_a_call_that_came_when_no_crops_were_left_pays_nothing():
    late = turn(Malformed(Fault.NO_CROPS_LEFT), call_text((0, 0, 10, 10)))
    assert reward(late, status=Status.OUT_OF_TURNS) == pytest.approx(-0.2)


def test_repeating_a_call_pays_no_more_than_one():
    assert reward(*[zooms()] * 5, says("42")) == reward(zooms(), says("42"))


def test_a_crop_of_everything_pays_as_much_as_any_other():
    # Stage 1 as printed knows no largest area: this is what makes boxes grow (claim C4), and a guard would be a departure
    assert reward(zooms((0.0, 0.0, 448.0, 448.0)), says("42")) == pytest.approx(2.0)


def test_a_crop_never_pays_for_a_wrong_answer():
    assert reward(*[zooms()] * 5, says("43")) == reward(says("43")) == 0


def test_several_answers_at_once_match_nothing():
    assert reward(says("42 or 43")) == 0


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.ANSWERED])
def test_a_conversation_that_does_not_end_in_an_answer_always_pays_the_format_penalty(status):
    assert reward(zooms(), status=status) == pytest.approx(-0.2)


# ---------------------------------------------------------------------------------------------------------- callbacks


def test_raw_terms_stay_beside_their_weighted_sum():
    played = [trajectory(zooms(), says("42")), trajectory(zooms(), says("43")), trajectory(fails(Fault.NOT_JSON), says("42"))]
    scores = score(stage1(), played)
    assert scores.raw == {"accuracy": [1, 0, 1], "format": [0, 0, -1], "tool": [1, 1, 0]}  # raw: the gate is not applied here
    assert scores.total == pytest.approx([2.0, 0.0, 0.6])


def test_the_order_of_the_terms_in_the_config_does_not_change_the_total():
    played = [
        trajectory(zooms(), says("42")),
        trajectory(says("42")),
        trajectory(fails(Fault.NOT_JSON), says("43")),
        trajectory(fails(Fault.NOT_JSON), zooms(), says("42")),
    ]
    totals = [score(order, played).total for order in itertools.permutations(stage1())]
    for other in totals:
        assert other == pytest.approx(totals[0], abs=1e-12)


def test_scores_are_grouped_by_question_in_order():
    played = [trajectory(zooms(), says("42")), trajectory(says("42")), trajectory(says("43")), trajectory(zooms(), says("42"))]
    grouped = score(stage1(), played).grouped(2)
    assert torch.allclose(grouped, torch.tensor([[2.0, 0.8], [0.0, 2.0]]))


class Brevity(RewardCallback):
    """A user's own term: minus one for each turn; cannot grade a conversation without turns."""

    name = "brevity"

    def score(self, trajectories):
        return [-float(len(t.turns)) if t.turns else NAN for t in trajectories]


def test_a_term_of_a_users_own_joins_the_sum_and_may_be_gated():
    played = [trajectory(zooms(), says("42")), trajectory(says("43"))]
    free = score([*stage1(), Brevity(weight=0.1)], played)
    assert free.raw["brevity"] == [-2, -1]
    assert free.total == pytest.approx([2.0 - 0.2, -0.1])
    assert score([*stage1(), Brevity(weight=0.1, gate="accuracy")], played).total == pytest.approx([2.0 - 0.2, 0.0])


def test_a_trajectory_that_a_term_could_not_grade_is_counted_and_teaches_nothing():
    played = [trajectory(says("42")), trajectory(status=Status.OPEN), trajectory(says("43"))]
    scores = score([Accuracy(weight=1.0), Brevity(weight=1.0)], played)
    assert scores.ungraded == 1
    assert group_advantage(scores.grouped(3))[0].tolist() == pytest.approx([1, 0, -1], abs=1e-5)


def test_a_term_without_a_score_says_which_one_it_is():
    class Forgotten(RewardCallback):
        name = "forgotten"

    with pytest.raises(NotImplementedError, match="Forgotten must implement score"):
        score([Forgotten(weight=1.0)], [trajectory(says("42"))])


def test_two_terms_of_one_name_are_an_error():
    with pytest.raises(ValueError, match="accuracy"):
        score([Accuracy(weight=0.5), Accuracy(weight=1.0)], [trajectory(says("42"))])


def test_a_gate_that_names_no_term_says_so():
    with pytest.raises(ValueError, match="acuracy"):
        score([Accuracy(weight=0.8), Tool(weight=1.2, gate="acuracy")], [trajectory(says("42"))])


def test_a_term_that_returns_another_number_of_values_is_named():
    class Double(RewardCallback):
        name = "double"

        def score(self, trajectories):
            return [0.0] * (2 * len(trajectories))

    with pytest.raises(ValueError, match="double"):
        score([Double(weight=1.0)], [trajectory(says("42"))])


@pytest.mark.parametrize(
    ("value", "weight", "said"),
    [
        (None, 1.0, r"gave None for sample "),
        ("1.0", 1.0, r"gave '1.0' for sample "),
        (-math.inf, 1.0, r"gave -inf for sample "),
        (1e20, 1.0, r"gave 1e\+20 for sample .* is at most 1,000,000, or NaN where it can't grade"),
        (2.0, 1e6, r"gave 2.0 for sample .* \(its weight is 1000000.0\)"),
        (math.inf, 0.0, r"gave inf for sample "),
    ],
)
def test_a_reward_that_is_no_number_or_too_large_names_the_term_the_value_and_the_first_sample(value, weight, said):
    class Odd(RewardCallback):
        name = "odd"

        def score(self, trajectories):
            return [0.0, value, value]

    played = [trajectory(says("42"), sample=replace(SAMPLE, id=f"q{i}")) for i in range(3)]
    with pytest.raises(ValueError, match=f"reward term 'odd' {said}") as told:
        score([Odd(weight=weight)], played)
    assert "sample q1 " in str(told.value)


def test_whole_numbers_truths_and_scalar_tensors_are_rewards():
    class Mixed(RewardCallback):
        name = "mixed"

        def score(self, trajectories):
            return [1, True, torch.tensor(0.5), NAN]

    scores = score([Mixed(weight=2.0)], [trajectory(says("42"))] * 4)
    assert scores.raw["mixed"][:3] == [1.0, 1.0, 0.5] and scores.total[:3] == [2.0, 2.0, 1.0] and scores.ungraded == 1
