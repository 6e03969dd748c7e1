"""Grades answers for reward, calibration, probe and evaluation alike.

1. The sample's own rule, then its normal forms (`answers.graded`), decide most answers.
2. The judge, if there is one, decides the open ones.

Without a judge an open answer counts as wrong, so a right answer in other words earns nothing.
`count_decidable` counts the questions of a data set that cannot have open answers.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from focus.data.drawn import Drawn
from focus.data.sample import Sample
from focus.grading import answers
from focus.grading.answers import Grade, Rung
from focus.grading.judge import COUNTS, Case, Judge
from focus.runtime import distributed


def case_of(sample: Sample, answer: str | None) -> Case:
    """An answer to a sample, ready to be graded."""
    return Case(sample.question, sample.answers, answer, sample.options, sample.scorer)


class Grader:
    """Grades cases by rule, form and judge; `judge` may be None.

    `rungs` counts the graded cases by the step that decided. A case stays open without a judge or
    without a verdict; cases without a verdict are `ungraded`. `max_ungraded` is the largest allowed
    share of ungraded answers in an update (`end_update`).
    """

    def __init__(self, judge: Judge | None = None, max_ungraded: float = 1.0) -> None:
        self.judge, self.max_ungraded = judge, max_ungraded
        self.begin_update()

    def submit(self, cases: Iterable[Case]) -> None:
        """Send the cases that need the judge, and return at once.

        Without a judge nothing happens.
        """
        if self.judge:
            self.judge.submit([case for case in cases if _by_rule(case).rung is Rung.OPEN])

    def grade_all(self, cases: Sequence[Case]) -> list[Grade]:
        """The grade of every case.

        `right` is NaN if the judge gave no verdict; `judge.outage` may give the reason.

        Cases that were not submitted are sent now.
        """
        grades = [_by_rule(case) for case in cases]
        if self.judge:
            open_cases = [i for i, grade in enumerate(grades) if grade.rung is Rung.OPEN]
            for i, right in zip(open_cases, self.judge.grade_all([cases[i] for i in open_cases]), strict=True):
                grades[i] = Grade(right, Rung.OPEN if math.isnan(right) else Rung.JUDGE)
        self.rungs.update(grade.rung for grade in grades)
        self.ungraded += sum(math.isnan(grade.right) for grade in grades)
        return grades

    def measure(self, cases: Sequence[Case]) -> list[Grade]:
        """The grade of every case for a measurement: an answer without verdict is wrong and stays
        in the denominator.

        Raises NoVerdict if the judge's server fails or gives no verdict at all. Earlier verdicts
        stay cached.
        """
        self.submit(cases)
        grades = self.grade_all(cases)
        if self.judge and self.judge.outage:
            raise self.judge.outage
        return [Grade(0.0, Rung.OPEN) if math.isnan(grade.right) else grade for grade in grades]

    def begin_update(self) -> None:
        """Reset the counts."""
        self.rungs: Counter[Rung] = Counter()
        self.ungraded = 0
        self._judge_before = Counter(self.judge.counts if self.judge else ())

    def metrics(self) -> dict[str, float]:
        """For this rank's answers in this update: the share that each step decided, and the judge's
        counts.
        """
        metrics = {f"graded/{rung.name.lower()}": self.rungs[rung] / self.rungs.total() if self.rungs else math.nan for rung in Rung}
        if self.judge:
            metrics |= {f"judge/{name}": float(self.judge.counts[name] - self._judge_before[name]) for name in COUNTS}
        return metrics

    def end_update(self, update: int) -> None:
        """Raises ValueError, on all ranks together, if more than the share `max_ungraded` of their
        answers got no verdict.
        """
        if self.judge is None:
            return
        parts = distributed.all_gather((self.ungraded, self.rungs.total(), self.judge.outage))
        ungraded, graded = sum(part[0] for part in parts), sum(part[1] for part in parts)
        if ungraded > self.max_ungraded * graded:
            outage = next((f": {outage}" for *_, outage in parts if outage), "")
            raise ValueError(
                f"{ungraded} of {graded} answers of update {update} have no verdict of the judge, more than the share "
                f"judge.max_ungraded={self.max_ungraded:g}{outage}. Repair the judge and start the same command again: the run continues "
                "from its last checkpoint, and known verdicts are not requested again"
            )


def _by_rule(case: Case) -> Grade:
    return answers.graded(case.answer, case.accepted, case.scorer, case.options, case.question)


def count_decidable(samples: Sequence[Sample]) -> int:
    """The number of questions whose answers the rules alone can decide. 100,000 records take 3
    seconds.
    """
    if isinstance(samples, Drawn):  # their scorer is `exact`
        return len(samples)
    return sum(answers.decidable(sample.answers, sample.scorer, sample.options) for sample in samples)


def decidable_sentence(decidable: int, questions: int, judge: str | None) -> str:
    """One sentence: how many questions the rules alone can decide, and how the others are graded."""
    sentence = f"the rules alone can grade {decidable:,} of {questions:,} questions ({decidable / questions:.1%})"
    if decidable == questions:
        return sentence
    others = f"the judge {judge} grades the open answers" if judge else "for the others, right answers in other words count as wrong"
    return f"{sentence}; {others}"


def check_decidable(decidable: int, questions: int, least: float) -> None:
    """Raises ValueError if the rules can decide less than the share `least`; for training without a
    judge.
    """
    if decidable < least * questions:
        raise ValueError(
            f"{decidable_sentence(decidable, questions, None)}, and training would punish them. Name a model that grades them "
            "(judge.url=http://localhost:8000/v1 judge.model=NAME), or allow it: "
            f"judge.min_decidable={math.floor(100 * decidable / questions) / 100:g}, now {least:g}"
        )
