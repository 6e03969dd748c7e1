"""How right is an answer? One ladder for reward, calibration, probe and evaluation.

1. The sample's own rule, then its normal forms (`answers.graded`): they decide most answers.
2. The judge, where there is one, decides what they leave open.

Without a judge an open answer counts as wrong, so that right answers in other words earn nothing. `count_decidable` says beforehand how
many questions of a data set that can happen to.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from focus.data.sample import Sample
from focus.data.scenes import Scenes
from focus.grading import answers
from focus.grading.answers import Grade, Rung
from focus.grading.judge import COUNTS, Case, Judge
from focus.runtime import distributed


def case_of(sample: Sample, answer: str | None) -> Case:
    """An answer to a sample, ready to be graded."""
    return Case(sample.question, sample.answers, answer, sample.options, sample.scorer)


class Grader:
    """Grades cases by the ladder; `judge` None leaves out the last rung.

    `rungs` counts the graded cases by the rung that decided. An open one was decided by nobody: there is no judge, or no verdict, and the
    latter are `ungraded`. `max_ungraded` is the share of an update's answers that a training bears (`end_update`).
    """

    def __init__(self, judge: Judge | None = None, max_ungraded: float = 1.0) -> None:
        self.judge, self.max_ungraded = judge, max_ungraded
        self.begin_update()

    def submit(self, cases: Iterable[Case]) -> None:
        """Let the judge begin with the cases that need it; nobody waits. Without a judge nothing happens."""
        if self.judge:
            self.judge.submit([case for case in cases if _by_rule(case).rung is Rung.OPEN])

    def grade_all(self, cases: Sequence[Case]) -> list[Grade]:
        """The grade of every case. `right` is NaN where the judge was asked and gave no verdict; `judge.outage` may say why.

        Cases that were not submitted are asked about now.
        """
        grades = [_by_rule(case) for case in cases]
        if self.judge:
            left = [i for i, grade in enumerate(grades) if grade.rung is Rung.OPEN]
            for i, right in zip(left, self.judge.grade_all([cases[i] for i in left]), strict=True):
                grades[i] = Grade(right, Rung.OPEN if math.isnan(right) else Rung.JUDGE)
        self.rungs.update(grade.rung for grade in grades)
        self.ungraded += sum(math.isnan(grade.right) for grade in grades)
        return grades

    def measure(self, cases: Sequence[Case]) -> list[Grade]:
        """The grade of every case, for a measurement: without a verdict an answer is wrong, and stays in the denominator.

        Raises NoVerdict if the judge's server fails, or if it gives no verdict at all. What it said before is kept.
        """
        self.submit(cases)
        grades = self.grade_all(cases)
        if self.judge and self.judge.outage:
            raise self.judge.outage
        return [Grade(0.0, Rung.OPEN) if math.isnan(grade.right) else grade for grade in grades]

    def begin_update(self) -> None:
        """Count anew."""
        self.rungs: Counter[Rung] = Counter()
        self.ungraded = 0
        self._judge_before = Counter(self.judge.counts if self.judge else ())

    def metrics(self) -> dict[str, float]:
        """Of this rank's answers in this update the shares that each rung decided, and what the judge was asked (`Judge.counts`)."""
        found = {f"graded/{rung.name.lower()}": self.rungs[rung] / self.rungs.total() if self.rungs else math.nan for rung in Rung}
        if self.judge:
            found |= {f"judge/{name}": float(self.judge.counts[name] - self._judge_before[name]) for name in COUNTS}
        return found

    def end_update(self, update: int) -> None:
        """Raises ValueError, on all ranks together, if more than the share `max_ungraded` of their answers got no verdict."""
        if self.judge is None:
            return
        parts = distributed.all_gather((self.ungraded, self.rungs.total(), self.judge.outage))
        ungraded, graded = sum(part[0] for part in parts), sum(part[1] for part in parts)
        if ungraded > self.max_ungraded * graded:
            outage = next((f": {outage}" for *_, outage in parts if outage), "")
            raise ValueError(
                f"{ungraded} of {graded} answers of update {update} have no verdict of the judge, more than the share "
                f"judge.max_ungraded={self.max_ungraded:g}{outage}. Mend the judge and start the same command again: the run goes on from "
                "its last checkpoint, and no verdict is asked for twice"
            )


def _by_rule(case: Case) -> Grade:
    return answers.graded(case.answer, case.accepted, case.scorer, case.options, case.question)


def count_decidable(samples: Sequence[Sample]) -> int:
    """Questions whose every answer the rules alone can decide. Reads every record once; 100,000 take 3 seconds."""
    if isinstance(samples, Scenes):  # numbers, all of them
        return len(samples)
    return sum(answers.decidable(sample.answers, sample.scorer, sample.options) for sample in samples)


def decidable_sentence(decidable: int, questions: int, judge: str | None) -> str:
    """One sentence: how many questions the rules alone can decide, and what becomes of the others."""
    said = f"the rules alone can grade {decidable:,} of {questions:,} questions ({decidable / questions:.1%})"
    if decidable == questions:
        return said
    others = f"the judge {judge} grades what they leave open" if judge else "of the others, right answers in other words count as wrong"
    return f"{said}; {others}"


def check_decidable(decidable: int, questions: int, least: float) -> None:
    """Raises ValueError if fewer than the share `least` can be decided by the rules: for a training without a judge."""
    if decidable < least * questions:
        raise ValueError(
            f"{decidable_sentence(decidable, questions, None)}, and training would punish them. Name a model that grades them "
            "(judge.url=http://localhost:8000/v1 judge.model=NAME), or train all the same: "
            f"judge.min_decidable={math.floor(100 * decidable / questions) / 100:g}, now {least:g}"
        )
