"""`results.json` of a run, a probe or an evaluation: the numbers, and how they were made."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from focus.evaluation.outcome import DIFFERENCES, GIVEN, METRICS, Outcome
from focus.report.provenance import how_made
from focus.runtime import files

Metrics = dict[str, dict[str, Any]]


def write_results(path: Path, metrics: Mapping[str, Metrics], *, verdicts: Sequence[str], settings: str, seconds: float) -> dict[str, Any]:
    """Write the file, unless it has these numbers already. Returns its content.

    A command that only prints a result again does not change it.
    `metrics` is by measurement and metric (`measured_metrics`). `settings` names the settings by a
    hash, `seconds` is the wall-clock time of this start of the command.
    """
    content = {"metrics": metrics, "verdicts": list(verdicts), "settings": settings} | how_made(seconds)
    text = files.json_text(content, indent=1) + "\n"
    numbers = ("metrics", "verdicts", "settings")
    if path.is_file():
        earlier, now = files.read_json(path), json.loads(text)
        if all(earlier.get(key) == now[key] for key in numbers):
            return earlier
    files.write_on_first_rank(path, text)
    return content


def measured_metrics(outcome: Outcome, resamples: int, before: Outcome | None = None) -> Metrics:
    """Every metric of an outcome: mean, 95 % interval and the number of questions it applies to.

    Shares are in [0, 1]. With `before`, the difference to that outcome, paired by question.
    """
    metrics = {}
    for metric in (*METRICS, *DIFFERENCES, *GIVEN):
        applies = sum(value == value for value in outcome.of(metric, before))
        if applies:
            metrics[metric] = interval(*outcome.interval(metric, resamples, before), applies)
    return metrics


def interval(mean: float, low: float, high: float, questions: int) -> dict[str, Any]:
    """One entry of the file."""
    return {"mean": round(mean, 5), "low": round(low, 5), "high": round(high, 5), "n": questions}
