"""Choose the view of each question by its answers (E2), and write the table."""

import hashlib
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import torch
from omegaconf import DictConfig
from rich.console import Console

from focus import config
from focus.build import build_judge, load_policy, training_samples
from focus.config.identity import calibration_identity, graded_by
from focus.config.schema import CalibrateConfig
from focus.data.drawn import Drawn
from focus.data.identity import questions_digest
from focus.data.sample import Sample
from focus.evaluation.answer_reading import JudgeReader, read_by_rule
from focus.evaluation.level_search import DROPPED_NATIVE, DROPPED_NEVER, UNREADABLE
from focus.evaluation.selection import Choice, choose
from focus.evaluation.selection_record import read_choices, summary, to_json_line
from focus.gap import Search, critical_tokens, levels_identity, write_levels
from focus.grading.grader import Grader, count_decidable, decidable_sentence
from focus.model.policy_model import PolicyModel
from focus.rollout.kv import KVEngine
from focus.runtime.files import json_text
from focus.runtime.progress import Progress


def identity(cfg: CalibrateConfig, policy: PolicyModel, samples: Sequence[Sample]) -> str:
    """A hash of everything that the choice depends on.

    That is: weights, dialect, dtype, questions, ladder, decoding and judge.
    """
    digest = hashlib.blake2b(policy.weights_hash().encode(), digest_size=12)
    digest.update(questions_digest(samples).encode())
    settings = cfg.model_dump()
    digest.update(calibration_identity(settings).encode())
    digest.update(graded_by(settings).encode())
    return digest.hexdigest()


def show(record: dict[str, Any], console: Console) -> None:
    """Print the cost of the selection and the result of its audit."""

    def token_text(tokens: dict[str, int]) -> str:
        return f"{sum(tokens.values()):,} (visual {tokens['visual']:,}, text {tokens['text']:,})"

    console.print(
        f"forward tokens, {record['search']}: {token_text(record['spent'])}\n"
        f"every level of every question: {token_text(record['exhaustive'])}; ratio {record['ratio']:.3f}"
    )
    audit = record.get("audit")
    if audit == "not audited":
        console.print("bisection is approximate and was not audited: set calibration.audit to the number of questions to walk exactly")
    elif audit:
        share, low, high = (100 * value for value in audit["share"])
        console.print(
            f"audit: {audit['mismatches']} of {audit['questions']} questions have another level with the exact walk: "
            f"{share:.1f} % [{low:.1f}, {high:.1f}]; the audit's own forward tokens: {token_text(audit['spent'])}"
        )
        for mismatch in audit["differ"]:
            console.print(f"  {mismatch['sample']}: bisection {mismatch['bisection']}, exact {mismatch['exact']}")


def agreement(levels: Mapping[str, int], samples: Sequence[Sample], token_px: int) -> dict[str, int] | None:
    """How often the view that the policy's answers choose is the critical view that a reader found (`gap=reader`).

    Counts of questions: `both` have one of each, `same` is one level, `near` at most one level
    apart, `coarser` says that the policy still answers in the critical view. None where no question
    has a critical view.
    """
    if isinstance(samples, Drawn):  # they have none, and making thousands takes seconds
        return None
    critical = {sample.id: tokens for sample in samples if (tokens := critical_tokens(sample, token_px)) is not None}
    if not critical:
        return None
    apart = [math.log2(critical[name] / levels[name]) for name in levels if name in critical]
    return {
        "critical": len(critical),
        "both": len(apart),
        "same": sum(abs(each) < 0.5 for each in apart),
        "near": sum(abs(each) < 1.5 for each in apart),
        "coarser": sum(each >= 0.5 for each in apart),
    }


def run(composed: DictConfig) -> None:
    """Calibrate, unless this table exists.

    Writes the table, its cost, the curve and the histogram.
    """
    cfg = config.validated(composed, CalibrateConfig)
    with config.alone(cfg.output):
        _run(cfg, Path(cfg.output))


def _run(cfg: CalibrateConfig, output: Path) -> None:
    console = Console(markup=False)  # texts from data sets are printed as they are
    torch.set_num_threads(cfg.threads)
    search = Search(cfg.calibration.search)
    samples = training_samples(cfg.data)
    console.print(decidable_sentence(count_decidable(samples), len(samples), cfg.judge.model))
    policy = load_policy(cfg.policy)
    table, key = output / "levels.parquet", identity(cfg, policy, samples)
    partial = output / f"levels-{key}.jsonl"
    if levels_identity(table) == key:
        partial.unlink(missing_ok=True)  # left behind by a kill right after the table was written
        console.print(f"{table} exists already for this policy, data and ladder")
        return
    done = read_choices(partial)
    names = [s.id for s in samples] if search is Search.BISECTION else []
    audited = set(random.Random(cfg.seed).sample(names, min(cfg.calibration.audit, len(names))))
    engine = KVEngine(policy)
    judge = build_judge(cfg.judge)
    reader = JudgeReader(Grader(judge)) if judge else read_by_rule
    with Progress(console) as progress, partial.open("a") as out:
        advance = progress.begin("calibrate", "question", len(done))
        todo = [i for i in range(len(samples)) if not done or samples[i].id not in done]
        for start in range(0, len(todo), cfg.questions_per_forward):
            chunk = [samples[i] for i in todo[start : start + cfg.questions_per_forward]]
            shared = (cfg.calibration, cfg.tokens_per_turn, cfg.seed, reader)
            choices = choose(policy, engine, chunk, search, *shared)
            to_audit = [s for s in chunk if s.id in audited]
            exact = {c.sample: c for c in choose(policy, engine, to_audit, Search.LADDER, *shared)} if to_audit else {}
            chosen = {c.sample: (c, exact.get(c.sample)) for c in choices}
            out.writelines(map(to_json_line, chosen.values()))
            out.flush()
            done |= chosen
            advance(len(done), len(samples))
    counts = Counter(choice.label for choice, _ in done.values())
    levels = {name: choice.view_tokens for name, (choice, _) in done.items() if choice.view_tokens}
    if not levels:
        unreadable = next((f". {choice.broken}" for choice, _ in done.values() if choice.broken), "")
        raise ValueError(
            f"no question got a level ({dict(counts)}). A question that is wrong at native resolution gets none: "
            "train the base further, or set calibration.require_correct_at_native=false. For questions that never diverge "
            f"set calibration.never_diverges=floor, or a smaller calibration.floor_tokens{unreadable}"
        )
    record = summary(list(done.values()), search) | {"reader": agreement(levels, samples, policy.token_px)}
    (output / "levels.json").write_text(json_text({"identity": key, **record}, indent=1) + "\n")
    draw([choice for choice, _ in done.values()], output / "levels.png")
    write_levels(table, levels, key)
    partial.unlink(missing_ok=True)
    for level in sorted(set(levels.values()), reverse=True):
        console.print(f"{level:>6} tokens  {counts[str(level)]:>6} questions")
    for reason in sorted({DROPPED_NATIVE, DROPPED_NEVER, UNREADABLE} & set(counts)):
        console.print(f"dropped: {reason:<19} {counts[reason]:>6} questions")
    if reader := record["reader"]:
        console.print(
            f"gap=reader: {reader['both']} of {reader['critical']} questions with a critical view have a level, {reader['same']} the same "
            f"and {reader['near']} at most one level apart; in {reader['coarser']} the policy still answers in the critical view"
        )
    for name, why in record.get("broken", {}).items():
        console.print(f"  {name}: {why}")
    show(record, console)
    console.print(
        f"table: {table}   cost: {output / 'levels.json'}   picture: {output / 'levels.png'}\n"
        f"train on it: python -m focus.train experiment=stage1_calibrated gap.table={table}"
    )


def draw(choices: Sequence[Choice], path: Path) -> None:
    """The histogram of chosen views, and the share of questions that agree with native."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    levels = sorted((c.view_tokens for c in choices if c.view_tokens), reverse=True)
    entered = sum(c.outcome not in (DROPPED_NATIVE, UNREADABLE) for c in choices)
    ticks = sorted(set(levels), reverse=True)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    left.bar([str(t) for t in ticks], [levels.count(t) for t in ticks], color="#3b6ea5")
    left.set(xlabel="chosen view, tokens", ylabel="questions", title="first view whose answer differs from the native one")
    right.plot([str(t) for t in ticks], [1 - sum(v >= t for v in levels) / entered for t in ticks], marker="o", color="#3b6ea5")
    right.set(xlabel="view, tokens", ylabel="share that agrees with native", ylim=(0, 1.02), title="agreement")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
