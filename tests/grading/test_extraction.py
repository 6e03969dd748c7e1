"""What a final text is taken to answer: tables of cases, one for each rule; a row is a text, what it is read as, and why."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from focus.grading.extraction import ALLOWANCE, LONGEST, MODES, extract, final_answer

PROPERTY = settings(deadline=None, database=None)

OPTIONS = (("A", "rubber"), ("B", "cotton"), ("C", "kevlar"), ("D", "leather"))
FIVE = (("A", "red"), ("B", "blue"), ("C", "green"), ("D", "white"), ("E", "The image does not say"))
SIDES = (("A", "The dog is on the left side of the cat."), ("B", "The dog is on the right side of the cat."))

# ---------------------------------------------------------------------------------------------------------- the strict rule


@pytest.mark.parametrize(
    ("text", "answer", "why"),
    [
        ("<answer>42</answer>", "42", "the tags hold the answer"),
        ("<answer>41</answer> no, <answer> 42 </answer>", "42", "the last one counts"),
        (r"<answer>42</answer> \boxed{41}", "42", "tags come before a box"),
        (r"So \boxed{41}, rather \boxed{42} it is", "42", "the last box counts"),
        (r"\boxed{\frac{1}{2}} metres", r"\frac{1}{2}", "braces balance"),
        (r"\boxed{41} and \boxed{42", "41", "a box that never closes is no box"),
        (r"<answer>\boxed{\text{42}}</answer>", "42", "a box in the tags is wrapping"),
        ("It is big.\n\n42\n \n", "42", "the last line that says something"),
        ("<think>\n<answer>41</answer>\n</think>\n42", "42", "a thought is no answer"),
        ("maybe <answer>41</answer></think>42", "42", "a thought that the prompt opened is no answer"),
        ("42\n<think><answer>41</answer>", "42", "a thought that never ends is no answer"),
        ("<answer></answer>\n42", "", "empty tags answer nothing, whatever follows"),
        ("<answer>41 <answer>42</answer>", "42", "the inner opening tag counts"),
        ("<answer>42", "<answer>42", "without its end a tag is part of the line"),
        ("", "", "nothing is nothing"),
    ],
)
def test_the_final_answer_is_the_last_tag_else_the_last_box_else_the_last_line(text, answer, why):
    assert final_answer(text) == answer, why


@pytest.mark.parametrize(
    ("text", "key", "why"),
    [
        ("<answer>B</answer>", "B", "a letter alone"),
        ("<answer>b</answer>", "B", "a letter alone, as the letter scorer reads it"),
        ("<answer>(B)</answer>", "B", "in brackets"),
        ("<answer>（Ｂ）</answer>", "B", "in full-width brackets"),
        ("**B**", "B", "in bold print"),
        ("<answer>B. cotton</answer>", "B", "with its text"),
        ("<answer>B, since it is woven</answer>", "B", "before a delimiter"),
        ("(B) It must be cotton", "B", "its own text may follow"),
        ("<answer>cotton.</answer>", "B", "the text alone"),
        ("<answer>B (cotton)</answer>", "B", "its own text in brackets"),
        ("<answer>B - cotton</answer>", "B", "behind a hyphen"),
        ("<answer>B \u2014 cotton</answer>", "B", "behind a dash"),
        ("<answer>B cotton</answer>", "B", "behind nothing"),
        ("<answer>**B**. cotton</answer>", "B", "a letter in bold print"),
        ("<answer>cotton (B)</answer>", "B", "the letter behind the text"),
        ("<answer>Option (B).</answer>", "B", "called an option"),
        ("<answer>\u201cB\u201d</answer>", "B", "in quotes"),
        ("<answer>B (rubber)</answer>", None, "another's text in brackets"),
        ("<answer>B rubber</answer>", None, "another's text"),
        ("<answer>A cotton shirt</answer>", None, "an article before words"),
        (r"\boxed{\text{B}}", "B", "in a box"),
        ("I looked twice.\nB", "B", "on the last line"),
        ("B. A is too smooth", "B", "what another option is like may be said: `A` before a word is an article too"),
        ("<answer>A man wears it</answer>", None, "an article is no choice"),
        ("<answer>Because it is woven</answer>", None, "the first letter of a word is no choice"),
        ("<answer>E</answer>", None, "no such option"),
        ("The answer is B", None, "the letter does not lead: the format was not kept"),
        ("<answer></answer> B", None, "empty tags answer nothing"),
        ("", None, "nothing was said"),
    ],
)
def test_strict_takes_a_letter_that_stands_alone_or_before_a_delimiter_or_an_exact_text(text, key, why):
    assert extract(text, OPTIONS, "strict") == key, why


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("A, B, C", "all that there is"),
        ("A or B", "two letters"),
        ("A. or B", "the second is offered too"),
        ("(A) x (B) y", "two in brackets"),
        ("(A) x (b) y", "two in brackets, one in lower case"),
        ("A/B", "two letters"),
        ("A.B", "two letters"),
        ("A, or B if it is dry", "the second is offered before a word"),
        ("B. rubber", "letter and text disagree"),
        ("A. rubber or cotton", "a second option by its text"),
        ("rubber, cotton, kevlar, leather", "all texts"),
        ("(A) rubber (B) cotton", "two in full"),
        ("B" + ". " + "it is so " * 20, "longer than twice all options together"),
    ],
)
def test_strict_gives_nothing_to_an_answer_that_names_two_options_or_is_an_essay(text, why):
    assert extract(f"<answer>{text}</answer>", OPTIONS, "strict") is None, why


def test_the_longest_answer_is_twice_all_options_and_a_little():
    longest = 2 * len("rubbercottonkevlarleather") + ALLOWANCE
    assert extract("B." + "!" * (longest - 2), OPTIONS, "strict") == "B"
    assert extract("B." + "!" * (longest - 1), OPTIONS, "strict") is None


def test_an_option_inside_another_is_not_quoted_by_it():
    options = (("A", "red"), ("B", "dark red"), ("C", "2"), ("D", "2.5"))
    assert extract("B: dark red, I think", options, "strict") == "B"
    assert extract("D: it is 2.5 wide", options, "strict") == "D"
    assert extract("B: dark red or red", options, "strict") is None


def test_an_option_that_speaks_of_options_is_chosen_by_its_letter_and_by_its_text():
    options = (("A", "rubber"), ("B", "cotton"), ("C", "A and B"))
    assert [extract(text, options, "strict") for text in ("C", "C. A and B", "A and B", "A, B")] == ["C", "C", "C", None]


def test_whole_sentences_are_chosen_by_letter_or_word_for_word():
    assert extract("<answer>The dog is on the left side of the cat</answer>", SIDES, "strict") == "A"
    assert extract("<answer>B. The dog is on the right side of the cat.</answer>", SIDES, "strict") == "B"
    assert extract("<answer>A. The dog is on the right side of the cat.</answer>", SIDES, "strict") is None
    assert extract("<answer>on the left</answer>", SIDES, "strict") is None


def test_a_free_answer_of_the_longest_length_or_more_is_none():
    assert extract("x" * (LONGEST - 1), (), "strict") == "x" * (LONGEST - 1)
    assert extract("x" * LONGEST, (), "strict") is None


def test_the_harnesses_score_a_free_answer_as_the_whole_text():
    text = " I see a sign.\n<answer>42</answer> "
    assert {mode: extract(text, (), mode) for mode in MODES} == {"strict": "42"} | dict.fromkeys(MODES[1:], text.strip())
    assert [extract(" \n", (), mode) for mode in MODES] == [None] * 4


# ------------------------------------------------------------------------------------------------- the published rules, holes included


@pytest.mark.parametrize(
    ("text", "key", "why"),
    [
        ("B", "B", "a leading letter"),
        ("b)", "B", "case does not count"),
        ("Because it is woven", "B", "HOLE: a leading letter, even of a word"),
        ("A man wears it", "A", "HOLE: an article is a leading letter"),
        ("Dunno", "D", "HOLE: any text that begins with A to D"),
        ("<answer>B</answer>", None, "HOLE: the tag's name holds an A: two such letters, none alone, are no choice"),
        ("It is Answer: C", "C", "what follows `answer`"),
        ("The answer is cotton", "C", "HOLE: what follows `answer is`, even of a word"),
        ("The answer is B", "B", "what follows `answer is`"),
        ("I think (C) fits", "C", "in brackets"),
        ("It is C.", "C", "before a full stop"),
        ("I see red.", "D", "HOLE: a letter before a full stop, even the last of a word"),
        ("It is C I think", "C", "alone between spaces"),
        ("white", None, "no such letter"),
        ("pink or blue", "B", "HOLE: the only such letter in the text, wherever it is"),
        ("", None, "nothing was said"),
    ],
)
def test_lmms_upper_cases_and_takes_a_leading_letter_even_of_a_word(text, key, why):
    assert extract(text, OPTIONS, "lmms") == key, why


def test_lmms_reads_a_letter_that_is_no_key_as_nothing():
    assert extract("D", SIDES, "lmms") is None


@pytest.mark.parametrize(
    ("text", "key", "why"),
    [
        ("B", "B", "the one letter"),
        ("b", None, "a letter in lower case is no letter"),
        ("(B)", "B", "punctuation is a space"),
        ("I think it is B", "B", "the last word"),
        ("it is B I am sure", "B", "fourth from the end"),
        ("B it must be so", None, "fifth from the end, and no text of an option"),
        ("It is a kind of cotton, A grade", "A", "HOLE: an article in capitals among the last four words"),
        ("A or B, I cannot tell", None, "two letters"),
        ("B or C. The correct answer is C", "C", "two letters, but one is stated as the answer"),
        ("The answer is **C** for it is not A or B but the other", "C", "stated in bold print"),
        ("The answer is clearly not given", "C", "HOLE: stated, even as the first letter of a word"),
        ("it is cotton", "B", "the one text inside"),
        ("it is cotton, not leather", None, "two texts"),
        ("it is cottony", "B", "HOLE: a text inside a word"),
        ("it is cotton " + "indeed " * 6, None, "longer than twice all options"),
        ("<answer>B</answer>", None, "HOLE: tags are no punctuation, so the letter is no word"),
        ("Cannot determine the answer: B", None, "a refusal, whatever follows"),
        ("Z cotton", None, "the letter for `none of them`"),
        ("", None, "nothing was said"),
    ],
)
def test_vlmevalkit_takes_a_lone_letter_near_the_end_else_the_stated_else_a_text_inside(text, key, why):
    assert extract(text, OPTIONS, "vlmevalkit") == key, why


@pytest.mark.parametrize(
    ("text", "key", "why"),
    [
        ("B", "B", "the first capital"),
        ("The best answer is (B)", "B", "a known prefix is cut out"),
        ("So the truth is: The answer is B", "B", "wherever it stands"),
        ("Answer: B", "A", "HOLE: the first capital of `Answer`, which no prefix catches"),
        ("Best option: C", "B", "HOLE: a comma is missing in the script's list, so this prefix is never found"),
        ("The correct answer is Clearly E", "C", "HOLE: the first capital of a word"),
        ("Dogs are not blue", "D", "HOLE: the first capital of a word"),
        ("<answer>E</answer>", "E", "tags are in lower case"),
        ("b", "A", "HOLE: without a capital, the first option that contains the answer: `(a) rubber` holds a b"),
        ("blue", "B", "without a capital, the first option that contains it"),
        ("", "A", "HOLE: every option contains an empty answer"),
        ("The answer is", "A", "HOLE: nothing is left of it"),
        ("it is so hard to say what it may be in this light", None, "more than ten words without a capital"),
        ("pink", None, "no option contains it"),
    ],
)
def test_mme_takes_the_first_capital_after_cutting_known_prefixes(text, key, why):
    options = (("A", "rubber"), *FIVE[1:])
    assert extract(text, options, "mme") == key, why


@pytest.mark.parametrize(
    ("text", "strict", "lmms", "vlmevalkit", "mme", "why"),
    [
        ("B", "B", "B", "B", "B", "on a bare letter all agree"),
        ("(B) cotton", "B", "B", "B", "B", "and on a letter with its text"),
        ("cotton", "B", "C", "B", "B", "lmms reads the first letter of the text"),
        ("Because it is leather", None, "B", "D", "B", "a text inside, or a capital"),
        ("A man wears cotton", None, "A", "A", "A", "an article is taken for the choice"),
        ("Answer: B", None, "A", "B", "A", "the A of `Answer` leads"),
        ("<answer>B</answer>", "B", None, None, "B", "tags are unknown to two"),
        ("Not A. Not C.\n<answer>B</answer>", "B", "A", None, "A", "what is said before the answer counts elsewhere"),
        ("A, B, C, D", None, "A", None, "A", "listing all is paid by two"),
        ("", None, None, None, "A", "saying nothing is paid by one"),
    ],
)
def test_where_the_rules_disagree(text, strict, lmms, vlmevalkit, mme, why):
    assert [extract(text, OPTIONS, mode) for mode in MODES] == [strict, lmms, vlmevalkit, mme], why


def test_a_mode_that_does_not_exist_is_an_error_that_lists_the_modes():
    with pytest.raises(ValueError, match="'lenient' does not exist; choose one of strict, lmms, vlmevalkit, mme"):
        extract("B", OPTIONS, "lenient")


# --------------------------------------------------------------------------------------------------- what holds for every text

PIECES = ["<answer>", "</answer>", "<think>", "</think>", "\\boxed{", "}", "A", "B", " or ", "(", ")", ". ", "\n", "cotton", "Answer: "]
texts = st.text() | st.lists(st.sampled_from(PIECES) | st.text(max_size=3)).map("".join)
labels = st.lists(st.tuples(st.sampled_from("ABCDEF(.1"), st.text(max_size=12)), max_size=6, unique_by=lambda option: option[0]).map(tuple)


@PROPERTY
@given(texts, labels, st.sampled_from(MODES))
def test_no_text_can_raise_and_what_is_chosen_is_an_option(text, options, mode):
    found = extract(text, options, mode)
    assert found is None or (found in dict(options) if options else found.strip() == found != "")


@PROPERTY
@given(texts, st.text(" \n\t\r\u3000"), st.text(" \n\t\r\u3000"), st.sampled_from([OPTIONS, ()]))
def test_white_space_around_a_text_changes_nothing(text, before, after, options):
    assert extract(before + text + after, options, "strict") == extract(text, options, "strict")


@PROPERTY
@given(st.permutations([text for _, text in FIVE]), st.sampled_from([text for _, text in FIVE]), st.sampled_from(["strict", "vlmevalkit"]))
def test_an_answer_in_words_follows_its_option_to_whatever_letter_it_has(order, said, mode):
    options = tuple(zip("ABCDE", order, strict=True))
    assert dict(options)[extract(said, options, mode) or ""] == said


@PROPERTY
@given(texts, st.permutations(OPTIONS))
def test_the_order_in_which_the_same_options_are_held_changes_nothing(text, order):
    for mode in ("strict", "lmms", "vlmevalkit"):  # mme takes the first option that fits
        assert extract(text, tuple(order), mode) == extract(text, OPTIONS, mode)


@pytest.mark.parametrize(
    "piece",
    [
        "a\u0301",
        "\ufdfa",
        "ANSWER ",
        "answer is ",
        "A) ",
        "$",
        "\\boxed{",
        "<answer>",
        "<think>",
        "</think>",
        "(A",
        "{",
        " ",
        "\\boxed{}",
        "<answer></answer>",
    ],
)
def test_a_long_text_of_one_piece_is_read_in_a_moment(piece):
    began = time.process_time()
    for mode in MODES:
        extract(piece * (200_000 // len(piece)), OPTIONS, mode)
        extract(f"<answer>B{piece * 1000}x</answer>", (("A", "y" * 10**5), *OPTIONS[1:]), mode)
    assert time.process_time() - began < 30  # quadratic time is many minutes


def test_an_answer_in_very_many_boxes_and_two_thousand_options_are_read_in_a_moment():
    began = time.process_time()
    assert final_answer("\\boxed{\\text{B}}") == "B"
    final_answer("<answer>" + "\\boxed{" * 50_000 + "B" + "}" * 50_000 + "</answer>")
    options = tuple((f"K{number}", f"picture {number}") for number in range(2000))
    assert extract("K5. picture 5", options, "strict") == "K5"
    assert time.process_time() - began < 30
