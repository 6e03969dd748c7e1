"""Accuracy of a policy on a data set, its cost and its boxes.

`make evaluate CHECKPOINT=... DATA=vstar`.

An interrupted evaluation resumes where it stopped; a finished one only prints its result again.
Every question counts: an image that can't be read, an answer that can't be parsed and a request
that the server refused are wrong answers.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console

from focus import config
from focus.build import build_evaluator, build_judge, held_out_samples, leak_report, load_evaluated
from focus.config.identity import measurement
from focus.config.schema import EvaluateConfig
from focus.config.validate import as_yaml
from focus.data.identity import questions_digest
from focus.data.sample import Sample
from focus.evaluation.arms import Evaluator, left_out
from focus.evaluation.kept import About, Kept
from focus.evaluation.predictions import (
    Predictions,
    Repeated,
    Shuffled,
    grade_open,
    graded_rows,
    play_lines,
    refusals,
)
from focus.gap import Gap, Mode
from focus.grading.grader import Grader
from focus.grading.judge import COUNTS
from focus.report.evaluation import evaluation_table, interval_metrics, summary, worst
from focus.report.headline import evaluated_text, headline
from focus.report.page import write_page
from focus.report.paper import beside_the_paper
from focus.report.provenance import facts_text
from focus.report.results_file import write_results
from focus.report.table import markdown_table, print_table
from focus.rollout.engine import Model
from focus.rollout.served import OpenAIEngine, Served, check_view_tokens
from focus.runtime.files import atomic_write, json_text
from focus.runtime.progress import Progress, chunks


def run(composed: DictConfig) -> None:
    """Play every question in every arm and grade it.

    Write predictions, numbers, tables and the page.
    """
    started = time.monotonic()
    console = Console(markup=False, soft_wrap=True)  # texts are printed as they are; paths are not wrapped
    cfg = config.validated(composed, EvaluateConfig)
    torch.set_num_threads(cfg.threads)
    output = Path(cfg.output) if cfg.output else Path("outputs/evaluate") / _policy_name(cfg.policy.checkpoint) / cfg.data.source
    e, p, most = cfg.evaluation, cfg.policy, cfg.view.max_tokens or config.EMBEDDED_VIEW
    console.print(
        headline(
            "evaluate",
            evaluated_text(p.checkpoint, cfg.rollout.engine, cfg.threads),
            f"{cfg.data.source}, views of {cfg.view.min_tokens:,} to {most:,} tokens",
            f"{len({'own', *e.arms})} arms",
            str(output),
        )
    )
    samples: Sequence[Sample] = held_out_samples(cfg)
    for sentence in leak_report(cfg, samples):
        console.print(sentence)
    published = samples
    if cfg.options == "shuffled":
        samples = Shuffled(samples, cfg.seed)
    model, engine = load_evaluated(cfg)
    gap = Gap(Mode.FIXED, most, model.token_px, min_tokens=cfg.view.min_tokens)
    evaluator = build_evaluator(cfg, model, engine, gap)
    counted = {}
    if isinstance(model, Served) and isinstance(engine, OpenAIEngine):
        counted = {"view_seen": check_view_tokens(model, engine, gap, samples, cfg.served.view_deviation)}
    judge = build_judge(cfg.judge, output / "judge_disagreements.jsonl")  # before hours of play: it may not be there
    with config.alone(output), Progress(console) as progress:
        identity = f"{measurement(cfg.model_dump(), model.weights_hash(), questions_digest(published))} {cfg.options}"
        played = Predictions(output / "played.jsonl", identity)
        kept = Kept(output, About("evaluation", None, "", f"{most} tokens"), cfg.kept_mib)
        kept.count(row for line in played.lines() for row in line.get("kept", {}).values())
        lines = _play(cfg, evaluator, samples, played, kept, progress)
        by_line = [graded_rows(line, cfg.extraction) for line in lines]
        rows = [row for of_line in by_line for row in of_line]
        grade_open(Grader(judge), rows)
        for line, of_line in zip(lines, by_line, strict=True):
            right = {row["arm"]: row["right"] for row in of_line if row["arm"] != "conflict"}
            kept.add(line.get("kept", {}), {row["arm"]: row["extracted"] for row in of_line}, right)
        kept.write()
        refused = refusals(rows, cfg.served.refused)
        arms = [arm for arm in e.arms if arm not in refused]
        numbers = summary(rows, arms, e.resamples) | {"settings": _settings(cfg, model, most) | counted, "refusals": refused}
        numbers["left_out"] = left_out(e.arms, samples)
        if judge:
            numbers["judge"] = {name: judge.counts[name] for name in COUNTS} | {"turned_away": dict(judge.turned_away)}
        _write(output / "predictions.jsonl", "".join(json_text(row) + "\n" for row in rows))
        _write(output / "evaluation.json", json_text(numbers, indent=1) + "\n")
        table, paper = evaluation_table(numbers), beside_the_paper(numbers, output.parent)
        _write(output / "evaluation.md", markdown_table(table) + "\n" + "\n".join(map(markdown_table, paper)))
        made = write_results(
            output / "results.json",
            interval_metrics(numbers),
            verdicts=table.verdicts,
            settings=f"{identity} {cfg.extraction} {cfg.repeats}",
            seconds=time.monotonic() - started,
        )
        examples = worst(rows, samples, evaluator, cfg.pictures)
        write_page(output / "report.html", table.title, None, table, examples, as_yaml(cfg), facts_text(made))
    print_table(table, console)
    console.print(f"table, beside the paper's: {output / 'evaluation.md'}   page: {output / 'report.html'}")
    console.print(f"numbers: {output / 'evaluation.json'}\npredictions: {output / 'predictions.jsonl'}")
    if refused:
        raise ValueError(
            "the server refused "
            + " and ".join(f"{share:.0%} of the questions of the arm {arm}" for arm, share in refused.items())
            + f", which may be at most {cfg.served.refused:.0%} (served.refused): what was measured is not this model. The reasons are "
            f"above. The replies are stored; to send the questions again, remove {output}"
        )


def _play(
    cfg: EvaluateConfig, evaluator: Evaluator, samples: Sequence[Sample], played: Predictions, kept: Kept, progress: Progress
) -> list[dict[str, Any]]:
    """Play the questions that an earlier start has not played; returns the lines of all."""
    ids: set[str] = set()
    advance = progress.begin(f"play {cfg.data.source}", "question")
    for chunk in chunks(Repeated(samples, cfg.repeats), cfg.evaluation.questions_per_forward, advance):
        ids |= {sample.id for sample, _ in chunk}
        for repeat in dict.fromkeys(number for _, number in chunk):
            left = [sample for sample, number in chunk if number == repeat and (sample.id, number) not in played.done]
            if left:
                played.add(play_lines(evaluator, left, repeat, kept))
    progress.end()
    return [line for line in played.lines() if line["repeat"] < cfg.repeats and line["id"] in ids]


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as partial:
        partial.write_text(text)


def _settings(cfg: EvaluateConfig, model: Model, most: int) -> dict[str, Any]:
    """The settings that a number depends on. Two numbers are comparable if these are equal."""
    e, r = cfg.evaluation, cfg.rollout
    served = r.endpoint if r.engine == "openai" else None
    return {
        "policy": cfg.policy.checkpoint,
        "weights": model.weights_hash(),
        "dialect": model.dialect.name,
        "prompts": model.dialect.record,
        "engine": r.engine,
        "data": cfg.data.source,
        "view_tokens": [cfg.view.min_tokens, most],
        "crop_tokens": [r.crop_min_tokens, r.crop_tokens],
        "max_crops": r.max_crops,
        "tokens_per_turn": r.tokens_per_turn,
        "temperature": e.temperature,
        "samples": e.samples,
        "side_by_side": min(e.questions_per_forward, served.concurrency) if served else e.questions_per_forward,
        "derived_boxes": cfg.data.derive_boxes,
        "options": cfg.options,
        "extraction": cfg.extraction,
        "repeats": cfg.repeats,
        "judge": cfg.judge.model if cfg.judge.url else None,
        "seed": cfg.seed,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {cfg.threads} threads",
    }


def _policy_name(checkpoint: str) -> str:
    """A folder name for a policy: `outputs/stage1/policy` is stage1, `org/model` is model.

    It has no `/` or `..`.
    """
    parts = [part for part in Path(checkpoint).parts if part not in ("/", "..")] or ["policy"]
    return parts[-2] if len(parts) > 1 and parts[-1] == "policy" else parts[-1]
