"""Offline resolution selection (E2): per question, the first view whose answer leaves the native one. `make calibrate`.

The policy that will be trained answers without the tool. A search (`level_search`) decides which levels it
is asked at; E2 decides which level is chosen. Answers are compared by their meaning under the sample's
scorer (`answer_reading`). A question whose image can't be read is left out, counted and named.

The paper leaves open, and we chose: the ladder of budgets, the early exit, and the count of the forward
tokens that selection spends.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

from focus.data.images.original import Original
from focus.data.sample import Sample
from focus.evaluation.answer_reading import AnswerReader, read_by_rule
from focus.evaluation.level_search import DROPPED_NEVER, SEARCHES, UNREADABLE, LevelOutcome, LevelRule, Meanings
from focus.gap import Search, fit, ladder, majority, resize_to_budget
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
    originals: dict[str, Original] = {}
    ladders: dict[str, list[int]] = {}
    broken: dict[str, str] = {}
    for s in samples:
        try:
            ladders[s.id], originals[s.id] = ladder(s.size, policy.token_px, settings.floor_tokens), s.open()
        except ValueError as error:
            broken[s.id] = str(error)
    right_at_native: dict[str, set[str | None]] = {}  # by question, the meanings that are right

    def admits(sample: Sample, native: Meanings) -> bool:
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
        played = play(policy, engine, opened, limits) if opened else []
        for ballot in (played[i : i + votes] for i in range(0, len(played), votes)):
            prompt, view_tokens = len(ballot[0].prompt_ids), ballot[0].view.tokens
            spent = Tokens(view_tokens, prompt - view_tokens + sum(len(t.ids) - prompt for t in ballot))
            yield ballot[0].sample, [t.answer for t in ballot], spent

    searches = {
        s.id: SEARCHES[search](LevelRule(len(ladders[s.id]), settings.agree_below, partial(admits, s)))
        for s in samples
        if s.id not in broken
    }
    levels = {sample_id: next(open_search) for sample_id, open_search in searches.items()}
    asked: dict[str, dict[int, Tokens]] = {s.id: {} for s in samples}
    outcomes: dict[str, LevelOutcome] = {}
    while levels:
        answered = list(ask(levels))
        read = reader([(s, answers) for s, answers, _ in answered])
        for (s, _, spent), answers in zip(answered, read, strict=True):
            asked[s.id][levels[s.id]] = spent
            right_at_native.setdefault(s.id, {answer.meaning for answer in answers if answer.right})
            try:
                levels[s.id] = searches[s.id].send([answer.meaning for answer in answers])
            except StopIteration as end:
                outcomes[s.id] = end.value
                del levels[s.id]
        for sample_id in broken.keys() & levels.keys():
            del levels[sample_id]

    def choice(s: Sample) -> Choice:
        if s.id in broken:
            return Choice(s.id, s.group, UNREADABLE, None, asked[s.id], total_tokens(asked[s.id].values()), broken[s.id])
        budgets, spent, outcome = ladders[s.id], asked[s.id], outcomes[s.id]
        sizes = [fit(s.size, budget, policy.token_px) for budget in budgets]
        every = [spent.get(k, Tokens(w * h // policy.token_px**2, spent[0].text)) for k, (w, h) in enumerate(sizes)]
        floored = budgets[-1] if outcome == DROPPED_NEVER and settings.never_diverges == "floor" else None
        return Choice(s.id, s.group, outcome, budgets[outcome] if isinstance(outcome, int) else floored, spent, total_tokens(every))

    return [choice(s) for s in samples]
