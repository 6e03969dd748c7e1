"""Scores an answer by the sample's own rule, then by normal forms. Pure functions of strings.

A third step, the judge, is in `grader.py`. Rules: choice, number, short text, and the two graded
scores of text-rich benchmarks. Differences from the published scores:
1. ANLS is divided by the longer text after white space is collapsed; lmms-eval divides by the raw
lengths.
2. A sample that is published with an LLM judge is scored by equality with an accepted answer, or by
equal normal forms. This is a lower bound of the judge's score.
"""

import re
from enum import StrEnum
from typing import NamedTuple

from rapidfuzz.distance import Levenshtein

from focus.data.choices import Options, chosen_letter
from focus.data.text import LONGEST_READ, NUMBER, normalise, plain
from focus.grading import forms

SCALE = {"dozen": 12, "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "k": 1000}
SCALE |= {"\u767e": 100, "\u5343": 1000, "\u4e07": 10**4, "\u842c": 10**4, "\u4ebf": 10**8, "\u5104": 10**8}
SCALED = re.compile(r"\s?(dozen|hundred|thousand|(?:m|b|tr)illion)s?\b|(k)\b|\s?([\u767e\u5343\u4e07\u842c\u4ebf\u5104])", re.IGNORECASE)
# Words that change a number in digits: a denial or a bound before it, or a second number in words
# anywhere
CHANGED_BEFORE = re.compile(
    r"\b(?:not|never|neither|nor|cannot)\b|n't\b|\bthan\b|\bat (?:least|most)\b|[<>\u2264\u2265]"
    r"|\b(?:minus|negative|point|over|under|above|below|almost|nearly|twice|double|up to)\W*$",
    re.IGNORECASE,
)
CHANGED_BEHIND = re.compile(r"\s?(?:\+|\^|or (?:more|less|fewer|so)\b|(?:squared|cubed)\b)", re.IGNORECASE)
SECOND = re.compile(
    r"\b(?:or|half|halves|thirds?|quarters?|zero|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w+teen|twenty|thirty|forty"
    r"|fifty|sixty|seventy|eighty|ninety|dozen|hundred|thousand|(?:m|b|tr)illion)\b",
    re.IGNORECASE,
)
SPACED_THOUSANDS = re.compile("(?<=\\d)[\u00a0\u2007\u2009\u202f](?=\\d{3}(?!\\d))")
RIGHT_FROM = 0.5  # threshold for a yes or no: ANLS is 0 below it, and 2 of VQA's 10 people reach it
# The EvalAI normaliser of VQA and TextVQA, https://visualqa.org/evaluation.html. `none` counts as a
# number there.
VQA_NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5"}
VQA_NUMBERS |= {"six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10"}
VQA_MARKS = ';/[]"{}()=+\\_-><@`!'  # commas and question marks are removed before
# Words that are often typed without their apostrophe. Not those that are another word then (we'll,
# he'll, we're, I'd).
CONTRACTIONS = (
    "ain't aren't can't couldn't didn't doesn't don't hadn't hasn't haven't isn't mightn't mustn't needn't oughtn't shan't shouldn't "
    "wasn't weren't won't wouldn't could've might've must've should've they've we've who've would've you've it'll that'll "
    "they'll what'll who'll you'll they're what're you're he'd how'd it'd there'd they'd where'd who'd you'd ma'am o'clock y'all"
)
VQA_APOSTROPHES = {word.replace("'", ""): word for word in CONTRACTIONS.split()}


def matches_text(answer: str, accepted: tuple[str, ...]) -> bool:
    """Equal to one accepted answer after normalisation."""
    return normalise(answer) in {normalise(text) for text in accepted}


def matches_number(answer: str, accepted: tuple[str, ...]) -> bool:
    """Whether the answer states exactly one number that equals an accepted one.

    `1,200.0` equals `1200`; `3 million` does not equal `3`. A number that the text denies (`not
    3`), bounds (`at least 3`) or combines with another one in words (`3 or four`) is not stated.
    """
    number = _stated_number(answer)
    return number is not None and any([number] == _numbers(text)[:1] for text in accepted)


def _stated_number(text: str) -> float | None:
    """The number that a text states; None for none, several, or one that its words change."""
    text = _plain_numbers(text)
    matches = list(NUMBER.finditer(text))
    if len(matches) != 1:
        return None
    number = matches[0]
    value, end = _scaled(number, text)
    before, behind = text[: number.start()], text[end:]
    if CHANGED_BEFORE.search(before) or CHANGED_BEHIND.match(behind) or SECOND.search(f"{before} {behind}"):
        return None
    return value


def _numbers(text: str) -> list[float]:
    text = _plain_numbers(text)
    return [_scaled(match, text)[0] for match in NUMBER.finditer(text)]


def _plain_numbers(text: str) -> str:
    return plain(SPACED_THOUSANDS.sub("", text)).replace("\u066b", ".").replace("\u066c", ",")


def _scaled(number: re.Match[str], text: str) -> tuple[float, int]:
    """The value of a number in digits, times a `million` right behind it, and the index of its end."""
    value = float(number[0].replace(",", ""))
    scale = SCALED.match(text, number.end())
    if not scale:
        return value, number.end()
    return value * SCALE[next(word for word in scale.groups() if word).casefold()], scale.end()


def anls(answer: str, accepted: tuple[str, ...]) -> float:
    """Average normalised Levenshtein similarity: 1 - edits / length of the longer text, best over
    accepted answers.

    Values below 0.5 become 0; 0.5 is kept, as in the harnesses. Case and runs of white space are
    ignored. In {0} and [0.5, 1]. Source: arXiv 1905.13648.
    """
    text = " ".join(answer.lower().split())
    scores = (Levenshtein.normalized_similarity(text, " ".join(truth.lower().split()), score_cutoff=0.5) for truth in accepted)
    return max(scores, default=0.0)


def vqa_accuracy(answer: str, accepted: tuple[str, ...]) -> float:
    """VQA accuracy: min(1, agreeing people / 3), averaged over leaving out each person once.

    In [0, 1].

    `accepted` holds one answer per person, with repeats, usually ten. With fewer than four people
    even a unanimous answer scores below 1.
    """
    normal, people = vqa_normalise(answer), [vqa_normalise(text) for text in accepted]
    agreeing = people.count(normal)
    return sum(min(1.0, (agreeing - (person == normal)) / 3) for person in people) / max(len(people), 1)


def vqa_normalise(text: str) -> str:
    """EvalAI's normal form: lower case, no punctuation, digits for number words, no articles,
    apostrophes in contractions.

    A mark is removed if it touches a space anywhere in the text, else it becomes a space. A full
    stop is removed unless a digit follows.
    """
    text = " ".join(text.lower().replace(",", "").replace("?", "").replace("'s", " 's").split())
    bare = text
    for mark in VQA_MARKS:
        bare = bare.replace(mark, "" if f"{mark} " in text or f" {mark}" in text else " ")
    words = [VQA_NUMBERS.get(word, word) for word in re.sub(r"\.(?!\d)", "", bare).split()]
    return " ".join(VQA_APOSTROPHES.get(word, word) for word in words if word not in {"a", "an", "the"})


class Rung(StrEnum):
    """The step that decided a grade."""

    RULE = "rule"  # the sample's own rule
    FORM = "normal form"  # the answer has the normal form of an accepted one
    JUDGE = "judge"  # a language model; it is asked in `grader.py`
    OPEN = "open"  # undecided: rule and form say no, but a judge could say yes


class Grade(NamedTuple):
    """The score of an answer, in [0, 1], and the step that decided it."""

    right: float
    rung: Rung


def graded(answer: str | None, accepted: tuple[str, ...], scorer: str, options: Options = (), question: str = "") -> Grade:
    """The grade of an answer by the sample's rule, else by its normal form.

    The question defines the thing that a sentence must be about and the unit that is meant; without
    it fewer answers have an accepted form. The score is 0 or 1 for `letter`, `number`, `exact` and
    `judge`; `anls` and `vqa10` also give fractions. `letter`, `anls` and `vqa10` use their rule
    only. A missing answer and one of more than `LONGEST_READ` characters are wrong. With the scorer
    `judge`, an answer that neither step accepts is `OPEN` and counts as wrong unless a judge
    decides. Raises ValueError for an unknown scorer.
    """
    if scorer not in ("letter", "number", "exact", "anls", "vqa10", "judge"):
        raise ValueError(f"scorer {scorer!r} does not exist; choose letter, number, exact, anls, vqa10 or judge")
    if answer is None or not answer.strip() or len(answer) > LONGEST_READ:
        return Grade(0.0, Rung.RULE)
    if scorer == "letter":
        return Grade(float(chosen_letter(answer, options) == accepted[0]), Rung.RULE)
    if scorer == "anls":
        return Grade(anls(answer, accepted), Rung.RULE)
    if scorer == "vqa10":
        return Grade(vqa_accuracy(answer, accepted), Rung.RULE)
    if (matches_number if scorer == "number" else matches_text)(answer, accepted):
        return Grade(1.0, Rung.RULE)
    if _same_form(answer, accepted, scorer, question):
        return Grade(1.0, Rung.FORM)
    return Grade(0.0, Rung.OPEN if scorer == "judge" else Rung.RULE)


def grade(answer: str | None, accepted: tuple[str, ...], scorer: str, options: Options = (), question: str = "") -> float:
    """The score of an answer by rule and normal form, in [0, 1]; see `graded`."""
    return graded(answer, accepted, scorer, options, question).right


def _same_form(answer: str, accepted: tuple[str, ...], scorer: str, question: str) -> bool:
    """Whether an answer, or the statement of its one short sentence, has the form of an accepted
    answer.
    """
    text = plain(answer).strip()
    truths = {normalise(truth) for truth in accepted}
    if scorer != "number" and truths <= {"yes", "no"}:
        return forms.yes_or_no(text, question) in truths
    if scorer == "exact":
        return normalise(forms.bare(forms.read_out(text) or text)) in truths
    readings = [reading for reading in (text, forms.stated(text), forms.stated_of_a_thing(text, question)) if reading]
    accepted_forms = {forms.form(forms.stated(truth.strip()) or truth) for truth in accepted}
    if scorer == "judge" and {forms.form(reading) for reading in readings} & accepted_forms:
        return True
    pairs = [(forms.quantity(forms.bare(one)), forms.quantity(forms.bare(other))) for one in readings for other in accepted]
    return any(one and other and _same_quantity(one, other, question) for one, other in pairs)


def _same_quantity(one: tuple[str, str], other: tuple[str, str], question: str) -> bool:
    """Whether two numbers are equal and at most one has a unit, which the question asks for: `3`
    and `3 people`.
    """
    bare, unit = sorted((one[1], other[1]))
    return one[0] == other[0] and not bare and (not unit or forms.counts_or_measures(unit, question))


def decidable(accepted: tuple[str, ...], scorer: str, options: Options = ()) -> bool:
    """Whether rule and normal form can decide every answer to such a question, so that no judge is
    needed.

    True for every scorer but `judge`. With `judge`: true if the question has options or every
    accepted answer has only one wording: a number or quantity, a date, yes or no, or a short
    read-out (a code with a digit, capitals). Other accepted answers can be worded differently.
    """
    return scorer != "judge" or bool(options) or all(_has_one_wording(plain(truth).strip(" .\"'")) for truth in accepted)


def _has_one_wording(text: str) -> bool:
    words = text.split()
    if text.casefold() in ("yes", "no", "true", "false") or forms.moment(text):
        return True
    if measured := forms.quantity(text):
        return len(measured[1].split()) <= 2
    return (len(words) == 1 and any(c.isdecimal() for c in text)) or (0 < len(words) <= 4 and text.isupper())


def canonical(answer: str | None, accepted: tuple[str, ...], scorer: str, options: Options = (), question: str = "") -> str | None:
    """The meaning of an answer under its sample's scorer, to compare answers with each other; None
    without answer.

    A choice becomes its key, a number its value, and every free answer that is right by rule or
    form the same text; other answers become their normal form. Answers that only a judge could
    equate stay different.
    """
    if answer is None or not answer.strip():
        return None
    if scorer == "letter":
        return chosen_letter(answer, options) or normalise(answer)
    if scorer == "anls":
        return " ".join(answer.lower().split())
    if scorer == "vqa10":
        return vqa_normalise(answer)
    if grade(answer, accepted, scorer, options, question):
        answer = accepted[0]
    if scorer == "number":
        number = _stated_number(answer)
        return normalise(answer) if number is None else str(number)
    return normalise(answer) if scorer == "exact" else forms.form(forms.stated(plain(answer).strip()) or answer)
