"""Outcomes of a measurement, made by hand."""

import math
from collections.abc import Sequence

from focus.evaluation.outcome import METRICS, Outcome


def made(columns: dict[str, Sequence[float]], view_tokens: int = 1024) -> Outcome:
    count = len(next(iter(columns.values())))
    values = {metric: list(columns.get(metric, [math.nan] * count)) for metric in METRICS}
    return Outcome(view_tokens, [f"image {i}" for i in range(count)], values)


def conducted(own: float, noise: float, called: float, count: int = 100, view_tokens: int = 1024) -> Outcome:
    """So many of 100 questions right, right with noise, and called; a question that noise leaves right is right without."""
    share = [i / count for i in range(count)]
    return made(
        {
            "own": [float(s < own) for s in share],
            "noise": [float(s < noise) for s in share],
            "called": [float(s < called) for s in share],
        },
        view_tokens,
    )
