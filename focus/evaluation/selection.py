"""Offline resolution selection (E2): per question, the first view whose answer leaves the native one. `make calibrate`.

The policy about to be trained answers without the tool. How many levels it is asked for is the search's affair; what is chosen is
E2's. Answers are compared by what they mean under their sample's scorer. An interrupted calibration goes on where it stopped; a
question whose image can't be read is left out, counted and named.

Ours, where the paper is silent: the ladder of budgets, the early exit, and the count of the forward tokens that selection spends.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig

from focus.data.original import Original
from focus.data.sample import Sample
from focus.evaluation.bootstrap import bootstrap
from focus.gap import Search, diverges, fit, ladder, majority, resize_to_budget, select_level
from focus.grading.answers import RIGHT_FROM, Rung, canonical, grade
from focus.grading.grader import Grader, case_of
from focus.model.policy_model import PolicyModel
from focus.model.prompts import ANSWER_OPEN
from focus.rollout.engine import Engine, Sampling
from focus.rollout.loop import RolloutLimits, begin, play, seed_of

DROPPED_NATIVE, DROPPED_NEVER, UNREADABLE = "wrong at native", "never diverges", "image can't be read"
Outcome = int | str  # the level k* of E2, from 1, or why there is none
Meanings = list[str | None]  # of the answers at one level of one question
Asking = Generator[int, Meanings, Outcome]  # yields the level to ask next, is sent what its answers mean, returns what it found


class Read(NamedTuple):
    """What one answer means, for comparing it with others, and whether it is right."""

    meaning: str | None
    right: bool


# Reads all answers of a round, question by question; of every question the native answers come first
Reading = Callable[[Sequence[tuple[Sample, Sequence[str | None]]]], list[list[Read]]]


def by_rule(said: Sequence[tuple[Sample, Sequence[str | None]]]) -> list[list[Read]]:
    """Answers read by their sample's rule and by normal forms; a `Reading`."""

    def read(s: Sample, answer: str | None) -> Read:
        asked = (answer, s.answers, s.scorer, s.options, s.question)
        return Read(canonical(*asked), grade(*asked) >= RIGHT_FROM)

    return [[read(s, answer) for answer in answers] for s, answers in said]


class ByJudge:
    """Answers read by the whole ladder of `grading.py`, its judge included; a `Reading`.

    An answer that the judge finds right means what the accepted one means. Where the native answer is wrong, the judge says whether an
    answer means the same as that one. Raises NoVerdict if the judge fails.
    """

    def __init__(self, grader: Grader) -> None:
        self.grader = grader
        # By question: the native answer of the majority and its meaning; None where it is right
        self._native: dict[str, tuple[str | None, str | None] | None] = {}

    def __call__(self, said: Sequence[tuple[Sample, Sequence[str | None]]]) -> list[list[Read]]:
        grades = iter(self.grader.measure([case_of(s, answer) for s, answers in said for answer in answers]))
        read = by_rule(said)
        for (s, _), each in zip(said, read, strict=True):
            for i, graded in enumerate(next(grades) for _ in each):
                if graded.rung is Rung.JUDGE and graded.right >= RIGHT_FROM:
                    each[i] = Read(canonical(s.answers[0], s.answers, s.scorer, s.options, s.question), True)
        unsure: list[tuple[int, int, str, str | None]] = []  # question and place of an answer that may mean the same as this native one
        for n, (s, answers) in enumerate(said):
            meanings = [each.meaning for each in read[n]]
            place = meanings.index(majority(meanings))
            native = self._native.setdefault(s.id, None if read[n][place].right else (answers[place], meanings[place]))
            if native and native[0] and s.scorer == "judge":
                unsure += [(n, i, native[0], native[1]) for i, each in enumerate(read[n]) if not each.right and each.meaning != native[1]]
        cases = [replace(case_of(said[n][0], said[n][1][i]), accepted=(native,)) for n, i, native, _ in unsure]
        for (n, i, _, meaning), same in zip(unsure, self.grader.measure(cases), strict=True):
            if same.right >= RIGHT_FROM:
                read[n][i] = Read(meaning, False)
        return read


@dataclass(frozen=True)
class Rule:
    """What a search must know of one question."""

    levels: int  # of its ladder, native included
    agree_below: float
    enters: Callable[[Meanings], bool]  # whether these native answers let it in

    def found(self, answers: Sequence[Meanings]) -> Outcome:
        """E2 on the answers of levels 0, 1, 2, ..., as many as were asked."""
        return (select_level(answers, self.agree_below) or DROPPED_NEVER) if self.enters(answers[0]) else DROPPED_NATIVE


def walk(rule: Rule) -> Asking:
    """Exact, from sharp to coarse until the outcome is known.

    No exact search asks less: level k is E2's only if native, every level before k and k itself are known to be so, and a question
    that never diverges needs them all. A question that is wrong at native is settled by native alone.
    """
    answers = []
    for level in range(rule.levels):
        answers.append((yield level))
        if (found := rule.found(answers)) != DROPPED_NEVER:
            return found
    return DROPPED_NEVER


def ask_all(rule: Rule) -> Asking:
    """Exact, every level of the ladder: what a walk is compared with."""
    answers = []
    for level in range(rule.levels):
        answers.append((yield level))
    return rule.found(answers)


def bisect(rule: Rule) -> Asking:
    """Approximate: takes for granted that an answer which has left native stays away.

    Wrong exactly where a level it asks agrees with native although a sharper one does not; what it finds is then coarser than E2's.
    """
    native = yield 0
    if not rule.enters(native):
        return DROPPED_NATIVE
    agrees, left = 0, rule.levels
    while left - agrees > 1:
        middle = (agrees + left) // 2
        if diverges((yield middle), native, rule.agree_below):
            left = middle
        else:
            agrees = middle
    return left if left < rule.levels else DROPPED_NEVER


SEARCHES: dict[Search, Callable[[Rule], Asking]] = {Search.LADDER: walk, Search.EXHAUSTIVE: ask_all, Search.BISECTION: bisect}


class Tokens(NamedTuple):
    """Forward tokens: a prompt's, once per question and level however many votes share it, and those that follow it in every vote."""

    visual: int  # merged tokens of views
    text: int  # of prompts, openings and answers


def total_tokens(tokens: Iterable[Tokens]) -> Tokens:
    """The sum, visual and text apart."""
    counted = list(tokens)
    return Tokens(sum(t.visual for t in counted), sum(t.text for t in counted))


@dataclass(frozen=True)
class Choice:
    """What a search found for one question, and what it spent."""

    sample: str
    group: str  # what stands or falls together when intervals are drawn (usually the image)
    outcome: Outcome
    view_tokens: int | None  # the chosen budget; None where the question is dropped
    asked: dict[int, Tokens]  # by level, in the order of asking
    exhaustive: Tokens  # what all levels would have spent; a level that was not asked counts an answer as long as the native one
    broken: str | None = None  # why the image can't be read

    @property
    def label(self) -> str:
        """What is counted: the chosen budget, or why there is none."""
        return str(self.view_tokens or self.outcome)


def choose(
    policy: PolicyModel,
    engine: Engine,
    samples: Sequence[Sample],
    search: Search,
    settings: DictConfig,
    tokens_per_turn: int,
    seed: int,
    reading: Reading = by_rule,
) -> list[Choice]:
    """Search the level of each sample, all samples side by side: a round asks every open question its own next level.

    `settings` is the section `calibration`; `tokens_per_turn` bounds one answer. Draws depend on seed, sample, level and vote alone, so
    searches that ask the same are answered the same, up to how sums of another batch are rounded. `reading` says what the answers of a
    round mean. A question whose image can't be read has the outcome `UNREADABLE`.
    """
    votes, temperature = (settings.votes, settings.vote_temperature) if settings.decoding == "vote" else (1, 0.0)
    rules = RolloutLimits(0, 1, Sampling(temperature, tokens_per_turn))
    originals: dict[str, Original] = {}
    ladders: dict[str, list[int]] = {}
    broken: dict[str, str] = {}
    for s in samples:
        try:
            ladders[s.id], originals[s.id] = ladder(s.size, policy.token_px, settings.floor_tokens), s.open()
        except ValueError as error:
            broken[s.id] = str(error)
    right_at_native: dict[str, set[str | None]] = {}  # by question, the meanings that are right

    def enters(sample: Sample, native: Meanings) -> bool:
        return not settings.require_correct_at_native or majority(native) in right_at_native[sample.id]

    def ask(levels: Mapping[str, int]) -> Iterator[tuple[Sample, list[str | None], Tokens]]:
        opened = []
        for s in (s for s in samples if s.id in levels):
            try:
                view = resize_to_budget(originals[s.id], ladders[s.id][levels[s.id]], policy.token_px)
            except ValueError as error:
                broken[s.id] = str(error)
                continue
            seeds = [seed_of(seed, s.id, levels[s.id], vote) for vote in range(votes)]
            opened += begin(policy, s, view, originals[s.id], seeds, ANSWER_OPEN)
        played = play(policy, engine, opened, rules) if opened else []
        for said in (played[i : i + votes] for i in range(0, len(played), votes)):
            prompt, view_tokens = len(said[0].prompt_ids), said[0].view.tokens
            spent = Tokens(view_tokens, prompt - view_tokens + sum(len(t.ids) - prompt for t in said))
            yield said[0].sample, [t.answer for t in said], spent

    searches = {
        s.id: SEARCHES[search](Rule(len(ladders[s.id]), settings.agree_below, partial(enters, s))) for s in samples if s.id not in broken
    }
    levels = {name: next(asking) for name, asking in searches.items()}
    asked: dict[str, dict[int, Tokens]] = {s.id: {} for s in samples}
    outcomes: dict[str, Outcome] = {}
    while levels:
        answered = list(ask(levels))
        read = reading([(s, answers) for s, answers, _ in answered])
        for (s, _, spent), answers in zip(answered, read, strict=True):
            asked[s.id][levels[s.id]] = spent
            right_at_native.setdefault(s.id, {each.meaning for each in answers if each.right})
            try:
                levels[s.id] = searches[s.id].send([each.meaning for each in answers])
            except StopIteration as found:
                outcomes[s.id] = found.value
                del levels[s.id]
        for name in broken.keys() & levels.keys():
            del levels[name]

    def choice(s: Sample) -> Choice:
        if s.id in broken:
            return Choice(s.id, s.group, UNREADABLE, None, asked[s.id], total_tokens(asked[s.id].values()), broken[s.id])
        budgets, spent, outcome = ladders[s.id], asked[s.id], outcomes[s.id]
        sizes = [fit(s.size, budget, policy.token_px) for budget in budgets]
        every = [spent.get(k, Tokens(w * h // policy.token_px**2, spent[0].text)) for k, (w, h) in enumerate(sizes)]
        floored = budgets[-1] if outcome == DROPPED_NEVER and settings.never_diverges == "floor" else None
        return Choice(s.id, s.group, outcome, budgets[outcome] if isinstance(outcome, int) else floored, spent, total_tokens(every))

    return [choice(s) for s in samples]


Found = tuple[Choice, Choice | None]  # what the search chose, and what an audit's exact walk chose


def to_json_line(found: Found) -> str:
    """One line of the file that an interrupted calibration goes on from."""
    return json.dumps([each and asdict(each) for each in found]) + "\n"


def read_choices(path: Path) -> dict[str, Found]:
    """What an interrupted calibration had found, by sample id; nothing if there was none.

    A last line that a crash or a full disk has cut is removed: its questions are asked again.
    """

    def choice(row: dict[str, Any]) -> Choice:
        asked = {int(level): Tokens(*tokens) for level, tokens in row["asked"].items()}
        return Choice(**row | {"asked": asked, "exhaustive": Tokens(*row["exhaustive"])})

    whole = b""
    if path.exists():
        whole = path.read_bytes()
        whole = whole[: whole.rfind(b"\n") + 1]
        os.truncate(path, len(whole))
    rows = [json.loads(line) for line in whole.splitlines()]
    return {row["sample"]: (choice(row), choice(exact) if exact else None) for row, exact in rows}


def summary(found: Sequence[Found], search: Search) -> dict[str, Any]:
    """What is kept beside the table: forward tokens, their ratio to all levels of all questions, outcomes, and the audit of a bisection.

    The audit's own forward tokens are not in `spent`.
    """
    choices = [choice for choice, _ in found]
    spent, exhaustive = total_tokens(t for c in choices for t in c.asked.values()), total_tokens(c.exhaustive for c in choices)
    record: dict[str, Any] = {
        "search": str(search),
        "questions": len(choices),
        "spent": spent._asdict(),
        "exhaustive": exhaustive._asdict(),
        "ratio": sum(spent) / max(1, sum(exhaustive)),
        "outcomes": dict(sorted(Counter(str(c.outcome) for c in choices).items())),
    }
    if broken := {c.sample: c.broken for c in choices if c.broken}:
        record["broken"] = broken
    audited = [(choice, exact) for choice, exact in found if exact and not (choice.broken or exact.broken)]
    if search is Search.BISECTION:
        record["audit"] = audit(audited) if audited else "not audited"
    return record


def audit(pairs: Sequence[tuple[Choice, Choice]]) -> dict[str, Any]:
    """How often a bisection found another level than the exact walk of the same question: share and 95 % interval, and which."""
    wrong = [choice.outcome != exact.outcome for choice, exact in pairs]
    return {
        "questions": len(pairs),
        "groups": len({exact.group for _, exact in pairs}),
        "mismatches": sum(wrong),
        "share": bootstrap([float(w) for w in wrong], [exact.group for _, exact in pairs]),
        "spent": total_tokens(t for _, exact in pairs for t in exact.asked.values())._asdict(),
        "differ": [{"sample": c.sample, "bisection": c.outcome, "exact": e.outcome} for c, e in pairs if c.outcome != e.outcome],
    }
