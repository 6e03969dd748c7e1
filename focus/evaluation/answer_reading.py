"""What the answers at a level mean: resolution selection compares meanings, not wordings."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from focus.data.sample import Sample
from focus.gap import majority
from focus.grading.answers import RIGHT_FROM, Rung, canonical, grade
from focus.grading.grader import Grader, case_of


class ReadAnswer(NamedTuple):
    """What one answer means, to compare it with others, and whether it is right."""

    meaning: str | None
    right: bool


# Reads the answers of one round, question by question. A question's native answers are read first.
AnswerReader = Callable[[Sequence[tuple[Sample, Sequence[str | None]]]], list[list[ReadAnswer]]]


def read_by_rule(answered: Sequence[tuple[Sample, Sequence[str | None]]]) -> list[list[ReadAnswer]]:
    """Answers read by their sample's rule and by normal forms; an `AnswerReader`."""

    def read(s: Sample, answer: str | None) -> ReadAnswer:
        case = (answer, s.answers, s.scorer, s.options, s.question)
        return ReadAnswer(canonical(*case), grade(*case) >= RIGHT_FROM)

    return [[read(s, answer) for answer in answers] for s, answers in answered]


class JudgeReader:
    """Answers read by the rules and then by the judge; an `AnswerReader`.

    An answer that the judge grades as right has the meaning of the accepted answer. Where the native
    answer is wrong, the judge decides whether another answer means the same as the native one.
    Raises NoVerdict if the judge fails.
    """

    def __init__(self, grader: Grader) -> None:
        self.grader = grader
        # By question: the majority's native answer and its meaning; None where that answer is right
        self._wrong_native: dict[str, tuple[str | None, str | None] | None] = {}

    def __call__(self, answered: Sequence[tuple[Sample, Sequence[str | None]]]) -> list[list[ReadAnswer]]:
        grades = iter(self.grader.measure([case_of(s, answer) for s, answers in answered for answer in answers]))
        read = read_by_rule(answered)
        for (s, _), of_question in zip(answered, read, strict=True):
            for i, graded in enumerate(next(grades) for _ in of_question):
                if graded.rung is Rung.JUDGE and graded.right >= RIGHT_FROM:
                    of_question[i] = ReadAnswer(canonical(s.answers[0], s.answers, s.scorer, s.options, s.question), True)
        # Answers that may mean the same as a wrong native one: index of the question, index of the
        # answer, native answer, its meaning
        unsure: list[tuple[int, int, str, str | None]] = []
        for n, (s, answers) in enumerate(answered):
            meanings = [answer.meaning for answer in read[n]]
            first = meanings.index(majority(meanings))
            native = self._wrong_native.setdefault(s.id, None if read[n][first].right else (answers[first], meanings[first]))
            if native and native[0] and s.scorer == "judge":
                unsure += [(n, i, native[0], native[1]) for i, a in enumerate(read[n]) if not a.right and a.meaning != native[1]]
        cases = [replace(case_of(answered[n][0], answered[n][1][i]), accepted=(native,)) for n, i, native, _ in unsure]
        for (n, i, _, meaning), same in zip(unsure, self.grader.measure(cases), strict=True):
            if same.right >= RIGHT_FROM:
                read[n][i] = ReadAnswer(meaning, False)
        return read
