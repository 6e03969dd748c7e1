"""When an answer counts as right: tables of cases, one for each rule."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from focus.answers import RIGHT_FROM, anls, chosen_letter, grade, matches_number, matches_text, vqa_accuracy, vqa_normalise
from focus.data.sample import SCORERS

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


@pytest.mark.parametrize(
    ("answer", "accepted", "score", "why"),
    [
        ("hello", ("hello",), 1.0, "no edits"),
        ("helo", ("hello",), 0.8, "one edit in five characters"),
        ("HELLO\n  World", ("hello world",), 1.0, "case and runs of white space do not count"),
        ("ab", ("abcd",), 0.5, "two edits in four characters: the threshold itself is kept"),
        ("abc", ("abxy", "abcd"), 0.75, "the best of the accepted: one edit in four"),
        ("axxd", ("abcd",), 0.5, "two replaced in four"),
        ("axxx", ("abcd",), 0.0, "0.25 is below the threshold"),
        ("kitten", ("sitting",), 4 / 7, "three edits in seven characters"),
        ("a", ("abc",), 0.0, "a third is below the threshold"),
        ("", ("hello",), 0.0, "nothing was said"),
        ("hello", (), 0.0, "nothing is accepted"),
    ],
)
def test_anls_is_one_minus_the_edits_by_the_longer_text_and_nothing_below_a_half(answer, accepted, score, why):
    assert anls(answer, accepted) == pytest.approx(score), why


def least_edits(one: str, other: str) -> int:
    """Straight from the definition."""
    if not one or not other:
        return len(one) + len(other)
    here = least_edits(one[1:], other[1:]) + (one[0] != other[0])
    return min(here, least_edits(one[1:], other) + 1, least_edits(one, other[1:]) + 1)


@settings(PROPERTY, max_examples=50)
@given(st.text("ab", min_size=1, max_size=5), st.text("ab", min_size=1, max_size=5))
def test_anls_counts_the_least_edits_in_either_direction(one, other):
    similarity = 1 - least_edits(one, other) / max(len(one), len(other))
    assert anls(one, (other,)) == anls(other, (one,)) == pytest.approx(similarity if similarity >= 0.5 else 0.0)


@pytest.mark.parametrize(
    ("agreeing", "score"),
    [
        (0, 0.0),
        (1, 0.3),  # without the one: 0; without each of nine others: 1/3
        (2, 0.6),  # twice 1/3, eight times 2/3
        (3, 0.9),  # three times 2/3, seven times 1
        (4, 1.0),
        (10, 1.0),
    ],
)
def test_vqa_accuracy_leaves_each_of_ten_people_out_once(agreeing, score):
    assert vqa_accuracy("stop", ("stop",) * agreeing + ("halt",) * (10 - agreeing)) == pytest.approx(score)


def test_with_few_people_even_their_common_answer_stays_below_one():
    assert vqa_accuracy("stop", ("stop",) * 3) == pytest.approx(2 / 3)
    assert vqa_accuracy("stop", ("stop",)) == 0.0  # nobody is left
    assert vqa_accuracy("stop", ()) == 0.0


@pytest.mark.parametrize(
    ("text", "normal", "why"),
    [
        ("  The STOP\nsign ", "stop sign", "case, articles and white space"),
        ("two", "2", "a number word"),
        ("none", "0", "EvalAI takes `none` for a number"),
        ("1,200", "1200", "a comma vanishes"),
        ("what?", "what", "so does a question mark"),
        ("red/blue", "red blue", "a mark between words becomes a space"),
        ("red / blue", "red blue", "a mark beside a space vanishes"),
        ("well-known - a b-c", "wellknown bc", "then it vanishes everywhere in the text"),
        ("e.t.", "et", "a full stop vanishes"),
        ("3.5 m", "3.5 m", "but not before a digit"),
        ("dont", "don't", "an apostrophe is put back"),
        ("youre", "you're", "an apostrophe is put back"),
        ("Joe's", "joe 's", "a possessive stands apart"),
        ("the", "", "nothing but an article"),
    ],
)
def test_the_evalai_normal_form(text, normal, why):
    assert vqa_normalise(text) == normal, why


def test_vqa_accuracy_compares_normal_forms():
    assert vqa_accuracy("The two.", ("2",) * 10) == 1.0


def test_a_grade_follows_the_rule_of_the_sample():
    assert grade("(b)", ("B", "cotton"), "letter", OPTIONS) == 1.0
    assert grade("cotton", ("B",), "letter", OPTIONS) == 1.0
    assert grade("A", ("B", "cotton"), "letter", OPTIONS) == 0.0
    assert grade("1,200", ("1200",), "number") == 1.0
    assert grade("1,200", ("1200",), "exact") == 0.0  # as texts these differ
    assert grade("South.", ("south",), "exact") == 1.0
    assert grade("South.", ("south",), "judge") == 1.0
    assert grade("southern", ("south",), "judge") == 0.0  # a judge might say yes; the rule does not
    assert grade("helo", ("hello",), "anls") == pytest.approx(0.8)
    assert grade("stop", ("stop",) * 3 + ("halt",) * 7, "vqa10") == pytest.approx(0.9)


def test_two_of_ten_people_make_an_answer_right_and_one_does_not():
    one, two = (grade("stop", ("stop",) * n + ("halt",) * (10 - n), "vqa10") for n in (1, 2))
    assert one < RIGHT_FROM <= two


@pytest.mark.parametrize("scorer", SCORERS)
def test_no_answer_is_wrong_by_every_rule(scorer):
    assert grade(None, ("B",), scorer, OPTIONS) == 0.0


@pytest.mark.parametrize("scorer", ["exakt", "vqa", ""])
def test_a_rule_that_does_not_exist_is_an_error_that_lists_the_rules(scorer):
    with pytest.raises(ValueError, match="choose letter, number, exact, anls, vqa10 or judge"):
        grade("42", ("42",), scorer)


@PROPERTY
@given(st.text(), st.sampled_from(SCORERS))
def test_no_text_can_make_a_rule_raise_or_leave_zero_to_one(answer, scorer):
    score = grade(answer, ("B", "cotton"), scorer, OPTIONS)
    assert isinstance(score, float) and 0 <= score <= 1
    assert scorer in ("anls", "vqa10") or score in (0.0, 1.0)


@PROPERTY
@given(st.integers(-(10**12), 10**12))
def test_every_whole_number_equals_itself_with_and_without_thousands_commas(value):
    assert matches_number(f"{value:,}", (str(value),))
    assert not matches_number(f"{value:,}", (str(value + 1),))
