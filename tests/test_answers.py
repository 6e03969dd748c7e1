"""When an answer counts as right: tables of cases, one for each rule."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from focus.answers import chosen_letter, is_correct, matches_number, matches_text

PROPERTY = settings(deadline=None, database=None)

OPTIONS = (("A", "rubber"), ("B", "cotton"), ("C", "kevlar"), ("D", "leather"))


@pytest.mark.parametrize(
    ("answer", "accepted"),
    [
        ("42", ("42",)),
        (" 42 \n", ("42",)),
        ("42.", ("42",)),
        ("Bread", ("bread",)),
        ("the bread", ("bread",)),
        ("An  oyster!", ("oyster",)),
        ('"bread"', ("bread",)),
        ("`bread`", ("bread",)),
        ("\uff22\uff52\uff45\uff41\uff44", ("bread",)),  # full-width letters
        ("STRASSE", ("stra\u00dfe",)),
        ("harbour", ("market", "harbour")),  # any accepted answer will do
    ],
)
def test_a_text_is_right_whatever_its_case_width_articles_space_and_closing_punctuation(answer, accepted):
    assert matches_text(answer, accepted)


@pytest.mark.parametrize(
    ("answer", "accepted"),
    [
        ("43", ("42",)),
        ("42 or 43", ("42",)),
        ("4 2", ("42",)),
        ("bred", ("bread",)),
        ("bread river", ("bread",)),
        ("breads", ("bread",)),
        ("theatre", ("atre",)),  # an article inside a word is no article
        ("", ("42",)),
        ("42", ()),
    ],
)
def test_a_text_that_says_something_else_is_wrong(answer, accepted):
    assert not matches_text(answer, accepted)


def test_a_sign_may_say_a():
    assert matches_text("A.", ("A",)) and matches_text('"a"', ("A",))


@pytest.mark.parametrize("answer", ["the", ".", "an", "''"])
def test_a_sign_that_says_a_is_not_matched_by_other_articles_or_by_nothing(answer):
    assert not matches_text(answer, ("A",))


def test_a_leading_point_belongs_to_the_number_and_is_not_closing_punctuation():
    assert not matches_text(".5", ("5",))


@pytest.mark.parametrize(
    ("answer", "accepted"),
    [
        ("1200", ("1200",)),
        ("1,200.0", ("1200",)),
        ("1200", ("1,200",)),
        ("about 12 metres", ("12",)),
        ("12", ("12 metres",)),
        ("-3", ("-3",)),
        ("1.5e3", ("1500",)),
        ("$7.00", ("7",)),
        ("\uff14\uff12", ("42",)),  # full-width digits
        ("7", ("5", "7")),
        ("No.5", ("5",)),
        ("-.5", ("\u22120.5",)),
    ],
)
def test_a_number_is_right_by_its_value(answer, accepted):
    assert matches_number(answer, accepted)


@pytest.mark.parametrize(
    ("answer", "accepted"),
    [
        ("12 or 13", ("12",)),  # two numbers are no answer, even if one of them is right
        ("10-12", ("12",)),
        ("3", ("-3",)),
        ("12.5", ("12",)),
        ("1,2,3", ("123",)),
        ("twelve", ("12",)),
        ("", ("0",)),
        ("12", ("twelve",)),
        ("12", ()),
    ],
)
def test_another_number_two_numbers_and_no_number_are_wrong(answer, accepted):
    assert not matches_number(answer, accepted)


def test_a_number_that_begins_with_its_point_is_a_fraction():
    assert matches_number(".5", ("0.5",))
    assert not matches_number(".5", ("5",))


def test_a_typographic_minus_is_a_minus():
    assert not matches_number("\u22125", ("5",))


@pytest.mark.parametrize(
    "answer",
    [
        "B",
        "b",
        "(b)",
        "(B)",
        "B.",
        "B:",
        "B)",
        "(B).",
        " B \n",
        "\uff08B\uff09",
        "\uff22",  # full-width brackets, a full-width letter
        "B) cotton",
        "B. cotton",
        "B: cotton",
        "(B) cotton",
        "(b) Cotton.",
        "B.  the cotton",
        "B).cotton",
        "cotton",
        "Cotton.",
        "the cotton",
    ],
)
def test_an_option_is_chosen_by_its_letter_by_letter_and_text_or_by_its_text(answer):
    assert chosen_letter(answer, OPTIONS) == "B"


@pytest.mark.parametrize(
    "answer",
    [
        "A or B",
        "A, B",
        "AB",
        "(A)(B)",  # two letters
        "B) rubber",
        "A. cotton",  # letter and text disagree
        "E",
        "(E)",  # no such option
        "Because of the weave",
        "A man wears it",
        "The answer",
        "",  # a leading letter is no choice
        "rubber and cotton",
        "cotto",
        "wool",
    ],
)
def test_an_answer_that_names_no_single_option_chooses_nothing(answer):
    assert chosen_letter(answer, OPTIONS) is None


def test_a_text_that_two_options_share_is_ambiguous_and_chooses_nothing():
    options = (("A", "red"), ("B", "Red."), ("C", "blue"))
    assert chosen_letter("red", options) is None
    assert chosen_letter("blue", options) == "C"
    assert chosen_letter("B. red", options) == "B"  # the letter decides


def test_a_letter_wins_over_an_option_whose_text_is_that_letter():
    assert chosen_letter("B", (("A", "B"), ("B", "A"))) == "B"


def test_keys_are_plain_text_and_not_patterns():
    options = ((".", "dot"), ("B", "letter"))
    assert chosen_letter("B", options) == "B"
    assert chosen_letter(".", options) == "."


def test_a_full_stop_does_not_choose_the_option_that_reads_a():
    assert chosen_letter(".", (("A", "X"), ("B", "A"))) is None


def test_correctness_follows_the_rule_of_the_sample():
    assert is_correct("(b)", ("B", "cotton"), "letter", OPTIONS)
    assert is_correct("cotton", ("B",), "letter", OPTIONS)
    assert not is_correct("A", ("B", "cotton"), "letter", OPTIONS)
    assert is_correct("1,200", ("1200",), "number")
    assert not is_correct("1,200", ("1200",), "exact")  # as texts these differ
    assert is_correct("South.", ("south",), "exact")


@pytest.mark.parametrize("scorer", ["letter", "number", "exact"])
def test_no_answer_is_wrong_by_every_rule(scorer):
    assert not is_correct(None, ("B",), scorer, OPTIONS)


@pytest.mark.parametrize("scorer", ["exakt", "judge", ""])
def test_a_rule_that_does_not_exist_is_an_error_that_lists_the_rules(scorer):
    with pytest.raises(ValueError, match="choose letter, number or exact"):
        is_correct("42", ("42",), scorer)


@PROPERTY
@given(st.text(), st.sampled_from(["letter", "number", "exact"]))
def test_no_text_can_make_a_rule_raise(answer, scorer):
    assert is_correct(answer, ("B", "cotton"), scorer, OPTIONS) in (True, False)


@PROPERTY
@given(st.integers(-(10**12), 10**12))
def test_every_whole_number_equals_itself_with_and_without_thousands_commas(value):
    assert matches_number(f"{value:,}", (str(value),))
    assert not matches_number(f"{value:,}", (str(value + 1),))
