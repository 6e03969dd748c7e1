"""One figure for each folder of claims: a dot for every seed, their mean with its recorded interval, and the base at the same view.

.venv/bin/python -m experiments.claims.figures        (draws verdicts.json again; `verdict` draws too)
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.claims.runs import HERE, LADDER, STAGE1_ON_HARDER, NotRun, values

COLOUR, PALE, OTHER, GREY = "#1f6f8b", "#1f6f8b55", "#c06c3e", "#555555"
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
# The base was measured on the scenes of stage 1 alone, with crops of their own size, at these views
BASE_OF = {"gap, bonus": 16, "gap, no bonus": 16, "no gap, bonus": 256, "no gap, no bonus": 256}
COMMON = 64
READ = "5 seeds (dots), 1,000 scenes; bars: 95 % intervals over seeds and scenes; diamonds: the base at the same view, over scenes"
Recorded = Mapping[str, Mapping[str, Sequence[float]]]  # by arm, then by view and metric: mean, low, high


def draw_arms(experiments: Path, recorded: Recorded) -> None:
    """Every figure whose folder has at least two arms that were run."""
    for folder, (arms, panels) in FIGURES.items():
        shown = [arm for arm in arms if _is_run(arm)]
        if len(shown) < 2:
            continue
        figure = Figure(figsize=(2.9 * len(panels), 1.3 + 0.42 * len(shown)), layout="constrained")
        axes = figure.subplots(1, len(panels), sharey=True)
        for axis, (title, metric, factor, view) in zip(axes, panels, strict=True):
            for place, arm in enumerate(shown):
                means = [factor * float(np.nanmean(row)) for row in values(arm, metric, view)]
                axis.plot(means, [place] * len(means), "o", ms=5, color=PALE, mec="none")
                _bar(axis, recorded[arm].get(f"{view} {metric}") or recorded[arm][f"own {metric}"], place, COLOUR, "|", along_x=True)
                if arm in BASE_OF:
                    tokens = COMMON if view == "common" else BASE_OF[arm]
                    _bar(axis, recorded[f"base at {tokens}"][f"own {metric}"], place + 0.24, OTHER, "D", along_x=True)
            _style(axis, title, "x")
            axis.set_yticks(range(len(shown)), shown)
        axes[0].set_ylim(len(shown) - 0.5, -0.5)  # shared; the first arm on top
        _save(figure, experiments / folder, READ if any(arm in BASE_OF for arm in shown) else READ.partition("; diamonds")[0])


def _bar(axis: Axes, interval: Sequence[float], at: float, colour: str, marker: str, along_x: bool = False) -> None:
    """A mean with its interval, drawn along x or along y."""
    middle, low, high = interval
    size = {"|": 14, "_": 9, "D": 4}[marker]
    (axis.hlines if along_x else axis.vlines)(at, low, high, color=colour, lw=1.4)
    axis.plot(*((middle, at) if along_x else (at, middle)), marker=marker, ms=size, mew=1.8, color=colour)


def _style(axis: Axes, title: str, grid: str) -> None:
    axis.set_title(title, fontsize=9)
    axis.grid(axis=grid, alpha=0.25, lw=0.5)
    axis.spines[["top", "right"]].set_visible(False)


def _is_run(arm: str) -> bool:
    try:
        values(arm, "own")
    except NotRun:
        return False
    return True


def draw_ladder(experiments: Path, recorded: Recorded) -> None:
    """Curves over the training gap, the calibrated policies as a level line; where every level was run."""
    if not all(_is_run(f"trained at {tokens}") for tokens in LADDER):
        return
    panels = (
        ("accuracy at 64 tokens, %", "own", 100, "common"),
        ("D_noise at 64 tokens, points", "own - noise", 100, "common"),
        ("D_noise at own view, points", "own - noise", 100, "own"),
        ("coverage of B1 at own view, %", "coverage", 100, "own"),
    )
    figure = Figure(figsize=(2.9 * len(panels), 2.9), layout="constrained")
    for axis, (title, metric, factor, view) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        means = factor * np.stack([np.nanmean(values(f"trained at {tokens}", metric, view), 1) for tokens in LADDER])
        axis.plot(LADDER, means, "o", ms=4, color=PALE, mec="none")
        axis.plot(LADDER, means.mean(1), color=COLOUR, lw=1.4)
        for tokens in LADDER:
            at_level = recorded[f"trained at {tokens}"]
            _bar(axis, at_level.get(f"{view} {metric}") or at_level[f"own {metric}"], tokens, COLOUR, "_")
        if _is_run("calibrated"):
            middle, low, high = recorded["calibrated"][f"{view} {metric}"]
            axis.axhline(middle, color=GREY, lw=1.2, ls="--", label="gap per question")
            axis.axhspan(low, high, color=GREY, alpha=0.12, lw=0)
        if view == "common":
            middle, low, high = recorded[f"base at {COMMON}"][f"own {metric}"]
            axis.axhline(middle, color=OTHER, lw=1.2, ls=":", label="base")
            axis.axhspan(low, high, color=OTHER, alpha=0.15, lw=0)
        else:
            for tokens in sorted({*BASE_OF.values(), COMMON}):
                _bar(axis, recorded[f"base at {tokens}"][f"own {metric}"], tokens * 1.12, OTHER, "D")
        axis.set_xscale("log", base=2)
        axis.set_xticks(LADDER, [str(tokens) for tokens in LADDER])
        axis.set_xlabel("trained at, tokens", fontsize=8)
        _style(axis, title, "both")
    figure.axes[0].legend(frameon=False, fontsize=8, loc="lower left")
    figure.axes[0].set_ylim(bottom=0)
    _save(figure, experiments / "gap_sweep", READ)


def _save(figure: Figure, folder: Path, read: str) -> None:
    lines = read if figure.get_figwidth() > 8 else read.replace("; ", ";\n")
    figure.supxlabel(lines, fontsize=8, color=GREY)
    folder.mkdir(exist_ok=True)
    figure.savefig(folder / "figure.png", dpi=110)


def main() -> None:
    recorded = json.loads((HERE / "verdicts.json").read_text())["arms"]
    draw_arms(HERE.parent, recorded)
    draw_ladder(HERE.parent, recorded)


if __name__ == "__main__":
    main()
