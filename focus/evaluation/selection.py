"""Offline resolution selection (E2): per question, the first view whose answer leaves the native one. `make calibrate`.

The policy that will be trained answers without the tool. A search (`level_search`) decides which levels it
is asked at; E2 decides which level is chosen. Answers are compared by their meaning under the sample's
scorer (`answer_reading`). A question whose image can't be read is left out, counted and named.

The paper leaves open, and we chose: the ladder of budgets, the early exit, and the count of the forward
tokens that selection spends.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from focus.data.sample import Sample
from focus.evaluation.answer_reading import AnswerReader, ReadAnswer, read_by_rule
from focus.evaluation.level_search import DROPPED_NEVER, SEARCHES, UNREADABLE, LevelOutcome, LevelRule, Meanings
from focus.gap import Search, View, fit, ladder, majority, resize_to_budget
from focus.model.policy_model import PolicyModel
from focus.model.prompts import ANSWER_OPEN
from focus.rollout.engine import Engine, Sampling
from focus.rollout.loop import RolloutLimits, begin, play, seed_of


class Tokens(NamedTuple):
    """Forward tokens. A prompt counts once per question and level, because votes share it; answers count once per vote."""

    visual: int  # merged tokens of views
    text: int  # of prompts, prefills and answers


def total_tokens(tokens: Iterable[Tokens]) -> Tokens:
    """The sum, visual and text kept apart."""
    counted = list(tokens)
    return Tokens(sum(t.visual for t in counted), sum(t.text for t in counted))


@dataclass(frozen=True)
class Choice:
    """The outcome of a search for one question, and its cost."""

    sample: str
    group: str  # the unit that intervals are resampled by (usually the image)
    outcome: LevelOutcome
    view_tokens: int | None  # the chosen budget; None where the question is dropped
    asked: dict[int, Tokens]  # by level, in the order of asking
    exhaustive: Tokens  # the cost of all levels; for a level that was not asked, with an answer as long as the native one
    broken: str | None = None  # why the image can't be read

    @property
    def label(self) -> str:
        """The chosen budget, or why there is none: the key of counts and tables."""
        return str(self.view_tokens or self.outcome)


class SelectionSettings(Protocol):
    """What `choose` reads of the section `calibration` (conf/calibrate.yaml says what each means)."""

    @property
    def floor_tokens(self) -> int: ...

    @property
    def decoding(self) -> str: ...

    @property
    def votes(self) -> int: ...

    @property
    def vote_temperature(self) -> float: ...

    @property
    def agree_below(self) -> float: ...

    @property
    def require_correct_at_native(self) -> bool: ...

    @property
    def never_diverges(self) -> str: ...


class _Question:
    """A question while its level is searched. Where its image can't be read the search ends, and `broken` says why."""

    def __init__(self, sample: Sample, token_px: int, search: Search, settings: SelectionSettings) -> None:
        self.sample, self.token_px, self.settings = sample, token_px, settings
        self.asked: dict[int, Tokens] = {}
        self.right_at_native: set[str | None] | None = None  # the meanings that are right
        self.outcome: LevelOutcome = UNREADABLE
        self.level: int | None = None  # asked next; None when the search has ended
        self.broken: str | None = None
        try:
            self.budgets, self.original = ladder(sample.size, token_px, settings.floor_tokens), sample.open()
        except ValueError as error:
            self.broken = str(error)
            return
        self._search = SEARCHES[search](LevelRule(len(self.budgets), settings.agree_below, self._admits))
        self.level = next(self._search)

    def _admits(self, native: Meanings) -> bool:
        return not self.settings.require_correct_at_native or majority(native) in (self.right_at_native or ())

    def view(self) -> View | None:
        """The view of the next level; None where the search has ended."""
        if self.level is None:
            return None
        try:
            return resize_to_budget(self.original, self.budgets[self.level], self.token_px)
        except ValueError as error:
            self.level, self.broken = None, str(error)
            return None

    def take(self, answers: Sequence[ReadAnswer], spent: Tokens) -> None:
        """Take the answers at the level that was asked, and go on to the next one."""
        assert self.level is not None
        self.asked[self.level] = spent
        if self.right_at_native is None:
            self.right_at_native = {answer.meaning for answer in answers if answer.right}
        try:
            self.level = self._search.send([answer.meaning for answer in answers])
        except StopIteration as end:
            self.level, self.outcome = None, end.value

    def choice(self) -> Choice:
        """The outcome of the search that has ended."""
        s, spent = self.sample, self.asked
        if self.broken:
            return Choice(s.id, s.group, UNREADABLE, None, spent, total_tokens(spent.values()), self.broken)
        sizes = [fit(s.size, budget, self.token_px) for budget in self.budgets]
        every = [spent.get(k, Tokens(w * h // self.token_px**2, spent[0].text)) for k, (w, h) in enumerate(sizes)]
        level = -1 if self.outcome == DROPPED_NEVER and self.settings.never_diverges == "floor" else self.outcome
        view_tokens = self.budgets[level] if isinstance(level, int) else None
        return Choice(s.id, s.group, self.outcome, view_tokens, spent, total_tokens(every))


def choose(
    policy: PolicyModel,
    engine: Engine,
    samples: Sequence[Sample],
    search: Search,
    settings: SelectionSettings,
    tokens_per_turn: int,
    seed: int,
    reader: AnswerReader = read_by_rule,
) -> list[Choice]:
    """Search the level of each sample, all samples side by side: a round asks every open question its own next level.

    `settings` is the section `calibration`; `tokens_per_turn` bounds one answer. Draws depend on seed,
    sample, level and vote alone, so two searches that ask the same level get the same answer, up to
    rounding in batches of another size. `reader` reads the answers of a round. A question whose image
    can't be read has the outcome `UNREADABLE`.
    """
    votes, temperature = (settings.votes, settings.vote_temperature) if settings.decoding == "vote" else (1, 0.0)
    limits = RolloutLimits(0, 1, Sampling(temperature, tokens_per_turn))
    questions = [_Question(s, policy.token_px, search, settings) for s in samples]
    while views := [(q, view) for q in questions if (view := q.view()) is not None]:
        opened = []
        for q, view in views:
            seeds = [seed_of(seed, q.sample.id, q.level, vote) for vote in range(votes)]
            opened += begin(policy, q.sample, view, q.original, seeds, ANSWER_OPEN)
        played = play(policy, engine, opened, limits)
        ballots = [played[i : i + votes] for i in range(0, len(played), votes)]
        read = reader([(ballot[0].sample, [t.answer for t in ballot]) for ballot in ballots])
        for (q, view), ballot, answers in zip(views, ballots, read, strict=True):
            prompt = len(ballot[0].prompt_ids)
            q.take(answers, Tokens(view.tokens, prompt - view.tokens + sum(len(t.ids) - prompt for t in ballot)))
    return [q.choice() for q in questions]
