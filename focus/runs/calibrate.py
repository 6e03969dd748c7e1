"""Choose the view of each question by its answers (E2), and write the table."""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from focus import config
from focus.build import build_judge, load_policy, training_samples
from focus.config.identity import calibration_identity, graded_by
from focus.config.schema import CalibrateConfig
from focus.data.identity import questions_digest
from focus.data.sample import Sample
from focus.evaluation.answer_reading import JudgeReader, read_by_rule
from focus.evaluation.level_search import DROPPED_NATIVE, DROPPED_NEVER, UNREADABLE
from focus.evaluation.selection import Choice, choose
from focus.evaluation.selection_record import read_choices, summary, to_json_line
from focus.gap import Search, levels_identity, write_levels
from focus.grading.grader import Grader, count_decidable, decidable_sentence
from focus.model.policy_model import PolicyModel
from focus.rollout.kv import KVEngine


def identity(cfg: CalibrateConfig, policy: PolicyModel, samples: Sequence[Sample]) -> str:
    """A hash of everything that the choice depends on: weights, dialect, dtype, attention, questions, ladder, decoding, judge."""
    digest = hashlib.blake2b(policy.weights_hash().encode(), digest_size=12)
    digest.update(questions_digest(samples).encode())
    settings = cfg.model_dump()
    digest.update(calibration_identity(settings).encode())
    digest.update(graded_by(settings).encode())
    return digest.hexdigest()


def show(record: dict[str, Any], console: Console) -> None:
    """Print the cost of the selection and the result of its audit."""

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


def run(composed: DictConfig) -> None:
    """Calibrate, unless this table exists. Writes the table, its cost, the curve and the histogram."""
    console = Console(markup=False)  # what is printed holds names and texts of others
    cfg = config.validated(composed, CalibrateConfig)
    torch.set_num_threads(cfg.threads)
    output, search = Path(cfg.output), Search(cfg.calibration.search)
    samples = training_samples(cfg.data)
    console.print(decidable_sentence(count_decidable(samples), len(samples), cfg.judge.model))
    policy = load_policy(cfg.policy)
    table, key = output / "levels.parquet", identity(cfg, policy, samples)
    kept = output / f"levels-{key}.jsonl"
    if levels_identity(table) == key:
        kept.unlink(missing_ok=True)  # left behind by a kill right after the table was written
        console.print(f"{table} stands already for this policy, data and ladder")
        return
    with config.alone(output):
        done = read_choices(kept)
        names = [s.id for s in samples] if search is Search.BISECTION else []
        audited = set(random.Random(cfg.seed).sample(names, min(cfg.calibration.audit, len(names))))
        engine = KVEngine(policy)
        judge = build_judge(cfg.judge)
        reader = JudgeReader(Grader(judge)) if judge else read_by_rule
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as progress, kept.open("a") as out:
            task = progress.add_task("calibrate", total=len(samples), completed=len(done))
            todo = [i for i in range(len(samples)) if not done or samples[i].id not in done]
            for start in range(0, len(todo), cfg.questions_per_forward):
                chunk = [samples[i] for i in todo[start : start + cfg.questions_per_forward]]
                shared = (cfg.calibration, cfg.tokens_per_turn, cfg.seed, reader)
                choices = choose(policy, engine, chunk, search, *shared)
                again = [s for s in chunk if s.id in audited]
                exact = {c.sample: c for c in choose(policy, engine, again, Search.LADDER, *shared)} if again else {}
                found = {c.sample: (c, exact.get(c.sample)) for c in choices}
                out.writelines(map(to_json_line, found.values()))
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
