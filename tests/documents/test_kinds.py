"""The kinds of questions on pages of a few words, and what is not asked: answers that stand twice, are told or can be guessed."""

import random
from collections import Counter

import pytest

from focus.documents import checks, kinds
from focus.documents.page import Page, Word, lay_out
from focus.documents.spelling import bare, is_number, is_word, key
from focus.grading.answers import grade


def page_of(*rows: str, colours: dict[str, str] | None = None, grounds: dict[str, str] | None = None, flaws: tuple[str, ...] = ()) -> Page:
    """Lines 20 px high, 40 px apart: each its own block. A letter is 10 px wide; `|` is a wide gap."""
    words = []
    for row, text in enumerate(rows):
        x = 50.0
        for part in text.split():
            if part == "|":
                x += 200
                continue
            words.append(
                Word(
                    part,
                    (x, 50.0 + 40 * row, x + 10 * len(part), 70.0 + 40 * row),
                    20.0,
                    flaw="torn" if part in flaws else "",
                    ink=((colours or {}).get(part),) if part in (colours or {}) else (),
                    ground=((grounds or {}).get(part),) if part in (grounds or {}) else (),
                )
            )
            x += 10 * len(part) + 8
    return lay_out(words, (900, 900), "page")


def asked(kind, page: Page) -> dict[str, tuple[str, ...]]:
    """Answers by question; every one gets a grade of 1 from its own scorer, and its evidence is where the answer stands."""
    found = {}
    for candidate in kind(page, random.Random(0)):
        assert grade(candidate.answers[0], candidate.answers, candidate.scorer, candidate.options) == 1.0
        found[candidate.question] = candidate.answers
    return found


INVOICE = page_of("Invoice 4711 of May", "Rain gauge | 250", "Snow depth | 31", "Total 281.50 due")


def test_what_follows_a_word_that_stands_once():
    assert asked(kinds.after, INVOICE) == {
        'Which number comes right after "Invoice"?': ("4711",),
        'Which word comes right after "of"?': ("May",),
        'Which word comes right after "Rain"?': ("gauge",),
        'Which word comes right after "Snow"?': ("depth",),
        'Which number comes right after "Total"?': ("281.50",),
        'Which word comes right after "281.50"?': ("due",),
    }  # `of` is too short to be an answer; nothing follows across a wide gap


def test_an_anchor_grows_until_it_stands_once():
    page = page_of("first gate north", "second gate south")
    assert asked(kinds.after, page)['Which word comes right after "first gate"?'] == ("north",)
    assert asked(kinds.after, page)['Which word comes right after "second gate"?'] == ("south",)


def test_a_flawed_word_is_neither_answer_nor_anchor():
    page = page_of("one two three four", flaws=("two",))
    assert asked(kinds.after, page) == {'Which word comes right after "three"?': ("four",)}


def test_the_last_word_of_a_line_is_asked_for_unless_another_line_stands_beside_it():
    page = page_of("The meeting begins at noon", "Please bring your own | tea and cups too")
    assert asked(kinds.line_end, page) == {'What is the last word of the line that begins with "The meeting"?': ("noon",)}


def test_the_only_text_of_a_part_of_the_page_is_asked_for():
    def words(*placed: tuple[str, float, float]) -> Page:
        return lay_out([Word(text, (x, y, x + 40, y + 20), 20) for text, x, y in placed], (900, 900), "picture")

    two_in_one_part = [("One", 700, 620), ("Two", 700, 700)]
    assert asked(kinds.place, words(("Left", 20, 400), *two_in_one_part)) == {
        "What does the text at the left edge of the picture say?": ("Left",)
    }
    assert asked(kinds.place, words(("Left", 280, 400), *two_in_one_part)) == {}  # it reaches into the middle


def test_a_head_and_a_foot_are_asked_for_if_their_row_stands_apart():
    def page(*rows: tuple[str, float, float]) -> Page:
        return lay_out([Word(text, (x, y, x + 100, y + 20), 20) for text, x, y in rows], (900, 900), "page")

    body = [("much", 250, 280), ("more", 250, 320), ("text", 350, 590), ("wide", 550, 590)]
    assert asked(kinds.place, page(("Chapter", 100, 50), ("Eleven", 700, 50), *body, ("Draft", 400, 615))) == {
        "What does the text in the top left corner of the page say?": ("Chapter",),
        "What does the text in the top right corner of the page say?": ("Eleven",),
    }  # the foot stands too close to the text above it
    assert asked(kinds.place, page(("Chapter", 250, 50), *body)) == {"What does the text at the very top of the page say?": ("Chapter",)}


def test_the_line_under_a_short_line_of_one_block_is_asked_for():
    def sign(*rows: str) -> Page:
        words = [
            Word(text, (100 + 60 * at, 100 + 24 * row, 150 + 60 * at, 120 + 24 * row), 20)
            for row, line in enumerate(rows)
            for at, text in enumerate(line.split())
        ]
        return lay_out(words, (900, 900), "picture")

    assert asked(kinds.below, sign("NOTICE", "DOUBLE", "PARKING AREA")) == {
        'What does the line right under "NOTICE" say?': ("DOUBLE",),
        'What does the line right under "DOUBLE" say?': ("PARKING AREA",),
    }
    assert asked(kinds.below, sign("a much longer line than that", "DOUBLE", "more words than a short line has")) == {}
    assert asked(kinds.below, sign("GATE", "north", "GATE", "south")) == {
        'What does the line right under "north" say?': ("GATE",)
    }  # GATE stands twice; that it is an answer that stands twice is found by `checks.fault_of`


def test_the_only_text_in_a_colour_or_on_a_ground_is_asked_for():
    page = page_of("plain Late notice here", "red1 plain", "red2", colours={"Late": "blue", "notice": "blue", "red1": "red", "red2": "red"})
    assert asked(kinds.colour, page) == {"What does the blue text say?": ("Late notice",)}
    page = page_of("Exit", "plain", grounds={"Exit": "green"})
    assert asked(kinds.colour, page) == {"What does the text on the green background say?": ("Exit",)}


def test_a_text_whose_colour_some_call_otherwise_is_not_asked_for():
    page = page_of("Exit", "Gate", grounds={"Exit": "green"})
    unsure = Word("Gate", (50.0, 90.0, 90.0, 110.0), 20.0, ground=("blue", "green"))
    assert not asked(kinds.colour, lay_out([page.words[0], unsure], page.size, "page"))


def test_digits_of_long_numbers_are_counted():
    assert asked(kinds.count_digits, INVOICE) == {
        'How many digits does the number right after "Invoice" have?': ("4",),
        'How many digits does the number right after "Total" have?': ("5",),
    }


def test_yes_is_the_word_that_stands_there_and_no_differs_in_a_digit_or_stands_elsewhere():
    page = page_of("Invoice 4711 of May", "Rain gauge | 2509", "Snow depth | 31", "Total 2815 due")
    seen = Counter()
    for seed in range(40):
        for candidate in kinds.yes_no(page, random.Random(seed)):
            said = candidate.question.split('"')[1]
            truth = page.texts[candidate.evidence[0]]
            assert (candidate.answers == ("yes",)) == (said == truth)
            if said != truth:
                assert said in page.texts if not is_number(truth) else sum(a != b for a, b in zip(said, truth, strict=True)) == 1
            seen[candidate.answers[0]] += 1
    assert 0.4 < seen["yes"] / seen.total() < 0.7


def test_the_options_of_a_choice_stand_on_the_page_and_one_is_right():
    page = page_of("Gate north opens", "Hall south closes", "Room east stays", "Door west shuts")
    found = list(kinds.choice(page, random.Random(1)))
    assert found
    for candidate in found:
        shown = dict(candidate.options)
        assert len({key(text) for text in shown.values()}) == 4 and set(shown.values()) <= set(page.texts)
        assert shown[candidate.answers[0]] == page.texts[candidate.evidence[0]]
    assert {candidate.answers[0] for seed in range(20) for candidate in kinds.choice(page, random.Random(seed))} == set("ABCD")


def candidate_of(question: str, answer: str, *evidence: int, **changes) -> kinds.Candidate:
    return kinds.Candidate("after", question, (answer,), "exact", evidence, **changes)


def test_an_answer_that_stands_twice_is_told_or_was_read_unsurely_is_not_asked():
    page = lay_out(
        [
            Word("gate", (0, 0, 40, 20), 20),
            Word("north", (50, 0, 90, 20), 20),
            Word("North,", (0, 60, 40, 80), 20),
            Word("blurred", (50, 60, 90, 80), 20, confidence=0.5),
        ],
        (200, 200),
        "page",
    )
    assert checks.fault_of(candidate_of("Which word?", "north", 1), page, 0.9) == checks.ELSEWHERE
    assert checks.fault_of(candidate_of('Which word comes after "gate"?', "gate", 0), page, 0.9) == checks.TOLD
    assert checks.fault_of(candidate_of("Which word?", "blurred", 3), page, 0.9) == checks.UNSURE
    assert checks.fault_of(candidate_of("Which word?", "gate", 0), page, 0.9) == ""
    assert checks.fault_of(candidate_of("Is it north?", "yes", 1, reads=False), page, 0.9) == ""


def test_a_bracket_without_its_other_half_is_not_shown():
    page = page_of("The valid(x) function (see below) is here")
    assert {question.split('"')[1] for question in asked(kinds.after, page)} == {"valid(x)", "function", "see", "is"}


def test_a_distractor_is_no_word_of_the_anchor():
    page = page_of("Gate north opens", "Hall south closes", "Room east stays", "Door west shuts")
    for candidate in kinds.choice(page, random.Random(1)):
        assert candidate.question.split('"')[1] not in dict(candidate.options).values()


def test_a_question_without_an_anchor_is_not_guessed_from_pages_with_marks():
    marks = {("", ""), ("a", "b")}
    assert checks.guessed([("", "")], marks, checks.count_followers({""}, [marks, {("", "")}])) == [False]


def test_a_phrase_of_other_pages_is_guessed_and_one_of_this_page_alone_is_not():
    first, second = {("united", "states"), ("total", "281")}, {("united", "states"), ("total", "99")}
    seen = checks.count_followers({"united", "total"}, [first, second])
    assert checks.guessed([("united", "states"), ("total", "281")], first, seen) == [True, False]
    assert checks.guessed([("united", "states")], first, checks.count_followers({"united"}, [first])) == [False]


def test_an_answer_of_more_than_half_of_its_kind_is_cut_to_half():
    assert checks.surplus(["4", "4", "5", "4", "6", "4"]) == [3, 5]
    assert checks.surplus(["yes", "no"]) == []
    assert checks.surplus(["4", "4"]) == [0, 1]  # all the same: nothing is left to ask
    assert checks.surplus(["4"]) == []


def test_the_majority_guess_is_the_share_of_the_most_frequent_answer():
    assert checks.majority_share(["yes", "no", "yes", "yes"]) == 0.75


@pytest.mark.parametrize(
    ("text", "plain", "word", "number"),
    [
        ("(ﬁnal),", "final", True, False),
        ("Total:", "Total", True, False),
        ("3.10", "3.10", True, True),
        ("1,284", "1,284", True, True),
        ("007", "007", True, False),
        ("7", "7", False, True),
        ("42", "42", True, True),
        ("•", "", False, False),
        ("a_b_c_d", "a_b_c_d", True, False),
        ("x" * 25, "x" * 25, False, False),
    ],
)
def test_what_can_be_an_answer(text, plain, word, number):
    assert (bare(text), is_word(bare(text)), is_number(bare(text))) == (plain, word, number)


def test_words_that_look_the_same_or_have_one_value_have_one_key():
    assert key("Total:") == key("total") and key("3.10") == key("3.1") and key("1,200") == key("1200")
    assert key("007") != key("7") and key("north") != key("south")
