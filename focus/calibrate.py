"""Offline resolution selection (E2): per question, the first view whose answer leaves the native one. `make calibrate`.

The policy about to be trained answers without the tool. How many levels it is asked for is the search's affair; what is chosen is
E2's. Answers are compared by what they mean under their sample's scorer. An interrupted calibration goes on where it stopped; a
question whose image can't be read is left out, counted and named.

Ours, where the paper is silent: the ladder of budgets, the early exit, and the count of the forward tokens that selection spends.
"""

import hashlib
import json
import os
import random
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import hydra
import matplotlib
import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from focus import config
from focus.answers import RIGHT_FROM, Rung, canonical, grade
from focus.checkpoint import Checkpoint
from focus.data.identity import questions_digest
from focus.data.original import Original
from focus.data.sample import Sample
from focus.gap import Search, diverges, fit, ladder, levels_identity, look, majority, select_level, write_levels
from focus.grading import Grader, case_of, count_decidable, said_of_decidable
from focus.prompts import ANSWER_OPEN
from focus.report.run import graded_by
from focus.rollout.engine import Engine, Sampling
from focus.rollout.kv import KVEngine
from focus.rollout.loop import Rules, begin, play, seed_of
from focus.statistics import bootstrap
from focus.train import build_judge, load_policy, training_samples

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


def total(tokens: Iterable[Tokens]) -> Tokens:
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
    checkpoint: Checkpoint,
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
    rules = Rules(0, 1, Sampling(temperature, tokens_per_turn))
    originals: dict[str, Original] = {}
    ladders: dict[str, list[int]] = {}
    broken: dict[str, str] = {}
    for s in samples:
        try:
            ladders[s.id], originals[s.id] = ladder(s.size, checkpoint.token_px, settings.floor_tokens), s.open()
        except ValueError as error:
            broken[s.id] = str(error)
    right_at_native: dict[str, set[str | None]] = {}  # by question, the meanings that are right

    def enters(sample: Sample, native: Meanings) -> bool:
        return not settings.require_correct_at_native or majority(native) in right_at_native[sample.id]

    def ask(levels: Mapping[str, int]) -> Iterator[tuple[Sample, list[str | None], Tokens]]:
        opened = []
        for s in (s for s in samples if s.id in levels):
            try:
                view = look(originals[s.id], ladders[s.id][levels[s.id]], checkpoint.token_px)
            except ValueError as error:
                broken[s.id] = str(error)
                continue
            seeds = [seed_of(seed, s.id, levels[s.id], vote) for vote in range(votes)]
            opened += begin(checkpoint, s, view, originals[s.id], seeds, ANSWER_OPEN)
        played = play(checkpoint, engine, opened, rules) if opened else []
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
            return Choice(s.id, s.group, UNREADABLE, None, asked[s.id], total(asked[s.id].values()), broken[s.id])
        budgets, spent, outcome = ladders[s.id], asked[s.id], outcomes[s.id]
        sizes = [fit(s.size, budget, checkpoint.token_px) for budget in budgets]
        every = [spent.get(k, Tokens(w * h // checkpoint.token_px**2, spent[0].text)) for k, (w, h) in enumerate(sizes)]
        floored = budgets[-1] if outcome == DROPPED_NEVER and settings.never_diverges == "floor" else None
        return Choice(s.id, s.group, outcome, budgets[outcome] if isinstance(outcome, int) else floored, spent, total(every))

    return [choice(s) for s in samples]


def identity(cfg: DictConfig, checkpoint: Checkpoint, samples: Sequence[Sample]) -> str:
    """A hash of everything that the choice depends on: weights and how they are asked, questions, ladder, decoding, and judge."""
    digest = hashlib.blake2b(checkpoint.weights_hash().encode(), digest_size=12)
    digest.update(questions_digest(samples).encode())
    asked = [cfg.policy.dialect, cfg.policy.dtype, cfg.policy.attention]
    digest.update(json.dumps([OmegaConf.to_container(cfg.calibration), cfg.tokens_per_turn, cfg.seed, *asked]).encode())
    digest.update(graded_by(cfg).encode())
    return digest.hexdigest()


Found = tuple[Choice, Choice | None]  # what the search chose, and what an audit's exact walk chose


def keep(found: Found) -> str:
    """One line of the file that an interrupted calibration goes on from."""
    return json.dumps([each and asdict(each) for each in found]) + "\n"


def kept_before(path: Path) -> dict[str, Found]:
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
    spent, exhaustive = total(t for c in choices for t in c.asked.values()), total(c.exhaustive for c in choices)
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
        "spent": total(t for _, exact in pairs for t in exact.asked.values())._asdict(),
        "differ": [{"sample": c.sample, "bisection": c.outcome, "exact": e.outcome} for c, e in pairs if c.outcome != e.outcome],
    }


def show(record: dict[str, Any], console: Console) -> None:
    """Print what selection cost, and what an audit saw."""

    def told(tokens: dict[str, int]) -> str:
        return f"{sum(tokens.values()):,} (visual {tokens['visual']:,}, text {tokens['text']:,})"

    console.print(
        f"forward tokens, {record['search']}: {told(record['spent'])}\n"
        f"every level of every question: {told(record['exhaustive'])}; ratio {record['ratio']:.3f}"
    )
    seen = record.get("audit")
    if seen == "not audited":
        console.print("bisection is approximate and was not audited: set calibration.audit to the number of questions to walk exactly")
    elif seen:
        share, low, high = (100 * value for value in seen["share"])
        console.print(
            f"audit: {seen['mismatches']} of {seen['questions']} questions have another level than the exact walk's: "
            f"{share:.1f} % [{low:.1f}, {high:.1f}]; the audit's own forward tokens: {told(seen['spent'])}"
        )
        if not seen["mismatches"]:
            at_most = 100 * (1 - 0.05 ** (1 / seen["groups"]))  # resampling nothing but matches can't widen the interval
            console.print(f"no mismatch among {seen['groups']} independent questions: the share is below {at_most:.1f} % (95 %, one-sided)")
        for each in seen["differ"]:
            console.print(f"  {each['sample']}: bisection {each['bisection']}, exact {each['exact']}")


def run(cfg: DictConfig) -> None:
    """Calibrate, or say that this table stands already; write the table, what it cost, the curve and the histogram."""
    console = Console(markup=False)  # what is printed holds names and texts of others
    config.check(cfg, "calibrate")
    torch.set_num_threads(cfg.threads)
    output, search = Path(cfg.output), Search(cfg.calibration.search)
    samples = training_samples(cfg.data)
    console.print(said_of_decidable(count_decidable(samples), len(samples), cfg.judge.model))
    checkpoint = load_policy(cfg.policy)
    table, key = output / "levels.parquet", identity(cfg, checkpoint, samples)
    kept = output / f"levels-{key}.jsonl"
    if levels_identity(table) == key:
        kept.unlink(missing_ok=True)  # a kill right after the table had been written left it
        console.print(f"{table} stands already for this policy, data and ladder")
        return
    with config.alone(output):
        done = kept_before(kept)
        names = [s.id for s in samples] if search is Search.BISECTION else []
        audited = set(random.Random(cfg.seed).sample(names, min(cfg.calibration.audit, len(names))))
        engine = KVEngine(checkpoint)
        judge = build_judge(cfg)
        reading = ByJudge(Grader(judge)) if judge else by_rule
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as progress, kept.open("a") as out:
            task = progress.add_task("calibrate", total=len(samples), completed=len(done))
            todo = [i for i in range(len(samples)) if not done or samples[i].id not in done]
            for start in range(0, len(todo), cfg.questions_per_forward):
                chunk = [samples[i] for i in todo[start : start + cfg.questions_per_forward]]
                shared = (cfg.calibration, cfg.tokens_per_turn, cfg.seed, reading)
                choices = choose(checkpoint, engine, chunk, search, *shared)
                again = [s for s in chunk if s.id in audited]
                exact = {c.sample: c for c in choose(checkpoint, engine, again, Search.LADDER, *shared)} if again else {}
                found = {c.sample: (c, exact.get(c.sample)) for c in choices}
                out.writelines(map(keep, found.values()))
                out.flush()
                done |= found
                progress.advance(task, len(chunk))
        counts = Counter(choice.label for choice, _ in done.values())
        levels = {name: choice.view_tokens for name, (choice, _) in done.items() if choice.view_tokens}
        if not levels:
            unreadable = next((f". {choice.broken}" for choice, _ in done.values() if choice.broken), "")
            raise ValueError(
                f"no question was given a level ({dict(counts)}); of a question that is wrong at native there is no "
                "gap to choose: train the base further, or set calibration.require_correct_at_native=false. For one that never diverges "
                f"set calibration.never_diverges=floor, or a smaller calibration.floor_tokens{unreadable}"
            )
        record = summary(list(done.values()), search)
        (output / "levels.json").write_text(json.dumps({"identity": key, **record}, indent=1) + "\n")
        draw([choice for choice, _ in done.values()], output / "levels.png")
        write_levels(table, levels, key)
        kept.unlink(missing_ok=True)
    for level in sorted(set(levels.values()), reverse=True):
        console.print(f"{level:>6} tokens  {counts[str(level)]:>6} questions")
    for reason in sorted({DROPPED_NATIVE, DROPPED_NEVER, UNREADABLE} & set(counts)):
        console.print(f"dropped: {reason:<19} {counts[reason]:>6} questions")
    for name, why in record.get("broken", {}).items():
        console.print(f"  {name}: {why}")
    show(record, console)
    console.print(
        f"table: {table}   cost: {output / 'levels.json'}   picture: {output / 'levels.png'}\n"
        f"train on it: python -m focus.train experiment=stage1_calibrated gap.table={table}"
    )


def draw(choices: Sequence[Choice], path: Path) -> None:
    """The histogram of chosen budgets, and the curve tokens -> share of questions that still agree with native."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    levels = sorted((c.view_tokens for c in choices if c.view_tokens), reverse=True)
    entered = sum(c.outcome not in (DROPPED_NATIVE, UNREADABLE) for c in choices)
    ticks = sorted(set(levels), reverse=True)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    left.bar([str(t) for t in ticks], [levels.count(t) for t in ticks], color="#3b6ea5")
    left.set(xlabel="chosen view, tokens", ylabel="questions", title="first view whose answer leaves the native one")
    right.plot([str(t) for t in ticks], [1 - sum(v >= t for v in levels) / entered for t in ticks], marker="o", color="#3b6ea5")
    right.set(xlabel="view, tokens", ylabel="share that agrees with native", ylim=(0, 1.02), title="agreement")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


@hydra.main(version_base="1.3", config_path="../conf", config_name="calibrate")
def main(cfg: DictConfig) -> None:
    config.guarded(run, cfg)


if __name__ == "__main__":
    config.start(main, "calibrate")
