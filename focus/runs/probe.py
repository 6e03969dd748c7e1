"""Does this policy look at what it zooms into?

All arms of the probe (E10) on any checkpoint. `make probe CHECKPOINT=...`.

An interrupted probe resumes with the next view; a finished one only prints its result again. A
folder that holds a probe of another policy, of other questions or with other settings is refused.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console

from focus import config
from focus.build import build_evaluator, build_judge, held_out_samples, load_evaluated
from focus.config.identity import graded_by, measurement
from focus.config.schema import ProbeConfig
from focus.config.validate import as_yaml
from focus.data.identity import questions_digest
from focus.data.sample import Sample
from focus.evaluation.arms import Evaluator, left_out
from focus.evaluation.kept import About, Kept
from focus.evaluation.measure import measure
from focus.evaluation.outcome import (
    DIFFERENCES,
    GIVEN,
    METRICS,
    Outcome,
    decompose_tool_effect,
    load_outcomes,
    refuse_other_measurement,
    save_outcomes,
)
from focus.evaluation.predictions import replay_conversation
from focus.gap import Gap, Mode
from focus.grading.grader import Grader
from focus.report.headline import evaluated_text, headline
from focus.report.page import write_page
from focus.report.probe import conversations_by_kind, draw_probe, probe_table
from focus.report.provenance import facts_text
from focus.report.results_file import measured_metrics, write_results
from focus.report.table import markdown_table, print_table
from focus.rewards import Example
from focus.rollout.engine import Model
from focus.rollout.served import OpenAIEngine, Served, check_view_tokens
from focus.runtime.files import atomic_write, json_text, read_json
from focus.runtime.progress import Progress


def run(composed: DictConfig) -> None:
    """Play every arm at every view. Write numbers, table, figure and page.

    Raises ValueError if another job writes into the folder.
    """
    cfg = config.validated(composed, ProbeConfig)
    samples, e = held_out_samples(cfg), cfg.evaluation
    if "gt" in e.arms and not any(sample.boxes for sample in samples):
        raise ValueError(
            f"the arm gt shows the annotated crop, but none of the {len(samples)} questions has a box (first: {samples[0].id}); "
            "annotate them, or leave gt out of evaluation.arms"
        )
    output = Path(cfg.output) if cfg.output else _default_output(cfg.policy.checkpoint, cfg.data.source)
    with config.alone(output):
        _run(cfg, output, samples)


def _run(cfg: ProbeConfig, output: Path, samples: Sequence[Sample]) -> None:
    torch.set_num_threads(cfg.threads)
    started = time.monotonic()
    console = Console(markup=False, soft_wrap=True)  # texts are printed as they are; paths are not wrapped
    e, p = cfg.evaluation, cfg.policy
    console.print(
        headline(
            "probe",
            evaluated_text(p.checkpoint, cfg.rollout.engine, cfg.threads),
            f"views {', '.join(f'{tokens:,}' for tokens in cfg.views)} tokens",
            f"{len(samples):,} questions in {len({'own', *e.arms})} arms",
            str(output),
        )
    )
    model, engine = load_evaluated(cfg)
    path = output / "outcomes.json"
    settings = cfg.model_dump()
    identity = measurement(settings, model.weights_hash(), questions_digest(samples)) + graded_by(settings)
    grader = Grader(build_judge(cfg.judge))
    refuse_other_measurement(path, identity, "a probe", "questions")
    evaluators = {str(tokens): build_evaluator(cfg, model, engine, Gap(Mode.FIXED, tokens, model.token_px), grader) for tokens in cfg.views}
    counted = {}
    if isinstance(model, Served) and isinstance(engine, OpenAIEngine):
        gaps = {view: evaluator.gap for view, evaluator in evaluators.items()}
        counted = {view: check_view_tokens(model, engine, gap, samples, cfg.served.view_deviation) for view, gap in gaps.items()}
    with config.writable(str(output)):
        measured = load_outcomes(path, identity)
        save_outcomes(measured, path, identity)
    conversations = PageConversations(output / "shown.json", identity)
    with Progress(console, measurements=len(evaluators)) as progress:
        for view, evaluator in evaluators.items():
            if view in measured:
                progress.skip(1)
                continue
            with progress.measurement(f"{view} tokens") as advance:
                kept = Kept(output, About("evaluation", None, "", f"{view} tokens"), cfg.kept_mib)
                measured[view], trajectories = measure(evaluator, samples, advance, kept)
            conversations.save(view, conversations_by_kind(measured[view], samples, trajectories, cfg.pictures))
            save_outcomes(measured, path, identity)
    outcomes = {str(tokens): measured[str(tokens)] for tokens in cfg.views}
    table = probe_table(
        str(cfg.policy.checkpoint), outcomes, e.resamples, e.temperature, (*model.dialect.notes, *left_out(e.arms, samples))
    )
    record = _record(cfg, model, outcomes) | ({"view_seen": counted} if counted else {})
    (output / "probe.json").write_text(json_text(record, indent=1) + "\n")
    (output / "probe.md").write_text(markdown_table(table))
    made = write_results(
        output / "results.json",
        {f"{view} tokens": measured_metrics(outcome, e.resamples) for view, outcome in outcomes.items()},
        verdicts=table.verdicts,
        settings=identity,
        seconds=time.monotonic() - started,
    )
    draw_probe(outcomes, output / "probe.png", e.resamples)
    shown = conversations.examples(samples, evaluators)
    write_page(output / "report.html", table.title, None, table, shown, as_yaml(cfg), facts_text(made))
    print_table(table, console)
    unannotated = outcomes[str(cfg.views[0])].unannotated
    if unannotated and "gt" in e.arms:
        console.print(
            f"{len(unannotated)} of {len(samples)} questions have no box and are left out of the arm gt (first: {unannotated[0]})"
        )
    console.print(f"table: {output / 'probe.md'}   figure: {output / 'probe.png'}   page: {output / 'report.html'}")
    console.print(f"probe: {output / 'probe.json'}")
    refused = {view: outcome.mean("refused") for view, outcome in outcomes.items()}
    if any(share > cfg.served.refused for share in refused.values()):
        shares = ", ".join(f"{100 * share:.0f} % at {view} tokens" for view, share in refused.items())
        raise ValueError(
            f"the server refused a share of the questions ({shares}), which may be at most {100 * cfg.served.refused:.0f} % "
            f"(served.refused): what was measured is not this model. The reasons are above. To send the questions again, remove {output}"
        )


class PageConversations:
    """The conversations that the page shows, in a JSON file.

    A resumed probe then also shows those of the views that it measured before.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self.path, self.identity = path, identity
        content = read_json(path) if path.is_file() else {}
        self.views: dict[str, Any] = content["views"] if content.get("identity") == identity else {}

    def save(self, view: str, chosen: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Write the rows of a view by kind."""
        self.views[view] = chosen
        with atomic_write(self.path) as partial:
            partial.write_text(json_text({"identity": self.identity, "views": self.views}))

    def examples(self, samples: Sequence[Sample], evaluators: Mapping[str, Evaluator]) -> dict[str, list[Example]]:
        """The trajectories of the views of `evaluators` by view and kind.

        Their crops are cut again.
        """
        examples = {}
        for view, evaluator in evaluators.items():
            for kind, rows in self.views.get(view, {}).items():
                of_kind = [
                    Example(
                        replay_conversation(row, samples[row["place"]], evaluator), {"accuracy": row["right"]}, row["right"], row["caption"]
                    )
                    for row in rows
                ]
                examples[f"{view} tokens, {kind}"] = of_kind
        return examples


def _record(cfg: ProbeConfig, model: Model, outcomes: dict[str, Outcome]) -> dict[str, object]:
    """Every metric with its interval, and the decomposition of MED, per view."""
    views = {}
    for view, outcome in outcomes.items():
        metrics = {m: outcome.interval(m, cfg.evaluation.resamples) for m in (*METRICS, *DIFFERENCES, *GIVEN)}
        views[view] = {
            "metrics": {name: [round(value, 5) for value in interval] for name, interval in metrics.items() if interval[0] == interval[0]},
            "med": {part: factors for part, factors in decompose_tool_effect(outcome).items()},
            "broken": outcome.broken,
            "unannotated": outcome.unannotated,
        }
    return {
        "checkpoint": cfg.policy.checkpoint,
        "weights": model.weights_hash(),
        "dialect": model.dialect.name,
        "prompts": model.dialect.record,
        "data": cfg.data.source,
        "samples": len(next(iter(outcomes.values())).groups),
        "temperature": cfg.evaluation.temperature,
        "seed": cfg.seed,
        "judge": cfg.judge.model,
        "views": views,
    }


def _default_output(checkpoint: str, source: str) -> Path:
    """`probe` beside a policy folder; `outputs/probe/NAME` for a checkpoint that is no folder."""
    folder, name = Path(checkpoint), "probe" if source == "scenes" else f"probe_{source}"
    return folder.parent / name if folder.is_dir() else Path("outputs") / name / folder.name
