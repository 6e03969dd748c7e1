"""Searches for the level of E2: which level to ask next, given the answers so far. They never see a model."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from focus.gap import Search, diverges, select_level

DROPPED_NATIVE, DROPPED_NEVER, UNREADABLE = "wrong at native", "never diverges", "image can't be read"
LevelOutcome = int | str  # the level k* of E2, from 1, or why there is none
Meanings = list[str | None]  # of the answers at one level of one question
# Yields the next level to ask, receives the meanings of its answers, returns the outcome
LevelSearch = Generator[int, Meanings, LevelOutcome]


@dataclass(frozen=True)
class LevelRule:
    """What a search must know of one question."""

    levels: int  # of its ladder, native included
    agree_below: float
    admits: Callable[[Meanings], bool]  # whether a question with these native answers is kept

    def outcome_of(self, answers: Sequence[Meanings]) -> LevelOutcome:
        """E2 on the answers of levels 0, 1, 2, ..., as far as they were asked."""
        return (select_level(answers, self.agree_below) or DROPPED_NEVER) if self.admits(answers[0]) else DROPPED_NATIVE


def walk_ladder(rule: LevelRule) -> LevelSearch:
    """Exact: from sharp to coarse until the outcome is known.

    No exact search asks fewer levels. Level k is E2's only if native, every level before k and k itself
    are known, and a question that never diverges needs all levels. A question that is wrong at native
    needs native alone.
    """
    answers = []
    for level in range(rule.levels):
        answers.append((yield level))
        if (outcome := rule.outcome_of(answers)) != DROPPED_NEVER:
            return outcome
    return DROPPED_NEVER


def ask_every_level(rule: LevelRule) -> LevelSearch:
    """Exact: every level of the ladder, the reference for `walk_ladder`."""
    answers = []
    for level in range(rule.levels):
        answers.append((yield level))
    return rule.outcome_of(answers)


def bisect(rule: LevelRule) -> LevelSearch:
    """Approximate: assumes that an answer which has left native stays away.

    It is wrong exactly where a level that it asks agrees with native although a sharper level does not.
    Its level is then coarser than E2's.
    """
    native = yield 0
    if not rule.admits(native):
        return DROPPED_NATIVE
    agrees, left = 0, rule.levels
    while left - agrees > 1:
        middle = (agrees + left) // 2
        if diverges((yield middle), native, rule.agree_below):
            left = middle
        else:
            agrees = middle
    return left if left < rule.levels else DROPPED_NEVER


SEARCHES: dict[Search, Callable[[LevelRule], LevelSearch]] = {
    Search.LADDER: walk_ladder,
    Search.EXHAUSTIVE: ask_every_level,
    Search.BISECTION: bisect,
}
