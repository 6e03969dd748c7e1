"""One figure for each folder of claims: a dot for every seed, a bar for their mean."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from experiments.claims.runs import LADDER, STAGE1_ON_HARDER, NotRun, values

COLOUR, PALE = "#1f6f8b", "#1f6f8b55"
BOXES = (("accuracy, %", "own", 100), ("area, % of image", "area", 100), ("IoU", "iou", 1), ("coverage, %", "coverage", 100))
STAGE2 = (STAGE1_ON_HARDER, "stage 2", "no coverage gate", "IoU only", "L1 only")
# folder -> arms, and what is drawn of them: title, metric, factor, view
FIGURES: dict[str, tuple[Sequence[str], Sequence[tuple]]] = {
    "gap_and_bonus": (
        ("no gap, no bonus", "no gap, bonus", "gap, no bonus", "gap, bonus"),
        (
            ("crop rate, %", "called", 100, "own"),
            ("D_noise, points (own view)", "own - noise", 100, "own"),
            ("D_noise, points (64 tokens)", "own - noise", 100, "common"),
            ("accuracy, % (own view)", "own", 100, "own"),
        ),
    ),
    "box_size": (("gap, bonus", "fixed crops", *STAGE2[:2]), [(*panel, "own") for panel in BOXES]),
    "grounding_terms": (STAGE2, [(*panel, "own") for panel in BOXES]),
    "looking_first": (
        ("no gap, bonus", "gap, bonus", *STAGE2[:2], "solved data"),
        (
            ("answers before looking, %", "agrees", 100, "own"),
            ("U_GT, points", "gt - own", 100, "own"),
            ("accuracy, %", "own", 100, "own"),
        ),
    ),
    "fewer_tokens": (
        ("gap, bonus", "no gap, bonus"),
        (("accuracy, %", "own", 100, "own"), ("visual tokens a question", "visual_tokens", 1, "own")),
    ),
}


def draw_arms(experiments: Path) -> None:
    """Every figure whose folder has at least two arms that were run."""
    for folder, (arms, panels) in FIGURES.items():
        shown = [arm for arm in arms if _is_run(arm)]
        if len(shown) < 2:
            continue
        figure = Figure(figsize=(2.9 * len(panels), 0.9 + 0.42 * len(shown)), layout="constrained")
        axes = figure.subplots(1, len(panels), sharey=True)
        for axis, (title, metric, factor, view) in zip(axes, panels, strict=True):
            for place, arm in enumerate(shown):
                means = [factor * float(np.nanmean(row)) for row in values(arm, metric, view)]
                axis.plot(means, [place] * len(means), "o", ms=5, color=PALE, mec="none")
                axis.plot([np.mean(means)] * 2, [place - 0.28, place + 0.28], color=COLOUR, lw=2)
            axis.set_title(title, fontsize=9)
            axis.set_yticks(range(len(shown)), shown)
            axis.grid(axis="x", alpha=0.25, lw=0.5)
            axis.spines[["top", "right"]].set_visible(False)
        axes[0].invert_yaxis()
        _save(figure, experiments / folder)


def _is_run(arm: str) -> bool:
    try:
        values(arm, "own")
    except NotRun:
        return False
    return True


def draw_ladder(experiments: Path) -> None:
    """Curves over the training gap, the calibrated policies as a level line; where every level was run."""
    if not all(_is_run(f"trained at {tokens}") for tokens in LADDER):
        return
    panels = (
        ("accuracy at 64 tokens, %", "own", 100, "common"),
        ("D_noise at 64 tokens, points", "own - noise", 100, "common"),
        ("D_noise at own view, points", "own - noise", 100, "own"),
        ("coverage of B1 at own view, %", "coverage", 100, "own"),
    )
    figure = Figure(figsize=(2.9 * len(panels), 2.6), layout="constrained")
    for axis, (title, metric, factor, view) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        means = factor * np.stack([np.nanmean(values(f"trained at {tokens}", metric, view), 1) for tokens in LADDER])
        axis.plot(LADDER, means, "o", ms=4, color=PALE, mec="none")
        axis.plot(LADDER, means.mean(1), color=COLOUR, lw=1.8)
        if _is_run("calibrated"):
            axis.axhline(
                factor * float(np.nanmean(values("calibrated", metric, view))), color="#c06c3e", lw=1.2, ls="--", label="calibrated"
            )
            axis.legend(frameon=False, fontsize=8)
        axis.set_xscale("log", base=2)
        axis.set_xticks(LADDER, [str(tokens) for tokens in LADDER])
        axis.set_xlabel("trained at, tokens", fontsize=8)
        axis.set_title(title, fontsize=9)
        axis.grid(alpha=0.25, lw=0.5)
        axis.spines[["top", "right"]].set_visible(False)
    _save(figure, experiments / "gap_sweep")


def _save(figure: Figure, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    figure.savefig(folder / "figure.png", dpi=110)
