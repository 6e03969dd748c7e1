"""The card of an audit as one picture for a README."""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from focus.report.audit_card import ACCURACIES, LOST, SAID, STEPS, Card, conduct_text, crops_text, dialect_text
from focus.report.verdict import SMALL_POINTS

COLOURS = ("#c2410c", "#1f6f8b", "#6b4f9a", "#3f7d4a")
GREY = "#5f6672"
# The panels: part of a measurement, title, labels of its rows
PANELS = {
    "accuracy": ("right answers, %", ACCURACIES),
    "steps": ("from question to evidence, %", {name: name for name in STEPS}),
    "dependence": ("lost when crops are replaced, points", LOST),
    "conflict": ("crop against view: it says, %", SAID),
}


def draw_card(card: Card, path: Path) -> None:
    """Verdict, accuracy by arm, steps, what is lost, whose answer is given in conflict, and how it was asked; a colour for each view."""
    figure = Figure(figsize=(9.6, 6.6))
    title = f"{card.agent.name}: {conduct_text(card)}"
    figure.text(0.01, 0.945, title, fontsize=min(15, 800 / len(title)), weight="bold")
    grid = figure.add_gridspec(2, 2, height_ratios=(7, 4), left=0.2, right=0.98, bottom=0.22, top=0.86, wspace=0.45, hspace=0.28)
    axes = {part: figure.add_subplot(grid[number // 2, number % 2]) for number, part in enumerate(PANELS)}
    for part, (name, labels) in PANELS.items():
        _draw(axes[part], card, part, labels, name)
    axes["dependence"].axvline(SMALL_POINTS, color=GREY, lw=0.8, ls="--")  # a smaller loss counts as none
    handles = axes["accuracy"].get_legend_handles_labels()
    figure.legend(*handles, loc="upper right", bbox_to_anchor=(0.99, 0.94), ncols=len(card.together), frameon=False, fontsize=8)
    said = [line for sentence in filter(None, (card.verdict, card.contradicted)) for line in textwrap.wrap(sentence, 150)]
    figure.text(0.01, 0.165, "\n".join(said), fontsize=9, va="top")
    figure.text(0.01, 0.015, "\n".join(textwrap.wrap(_made(card), 160)), fontsize=8, color=GREY)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _made(card: Card) -> str:
    """How it was asked and when, in one line."""
    questions = card.together[0].questions if card.together else 0
    asked = f"{questions:,} drawn questions a view, 95 % intervals; dashed: {SMALL_POINTS:.0f} points, below which a loss counts as none"
    protocol = f"protocol {card.protocol.version}{', changed' * bool(card.protocol.changed)}"
    return f"{asked}. {protocol}; dialect {dialect_text(card.agent)}; {crops_text(card.agent)}; {card.made.get('date', 'no date')}"


def _draw(axis: Any, card: Card, part: str, labels: Mapping[str, str], title: str) -> None:
    """One panel: a point with its interval for each row and view."""
    rows = [key for key in labels if any(key in getattr(entry, part) for entry in card.together)]
    lowest = 0.0
    for number, entry in enumerate(card.together):
        found = [(i, getattr(entry, part)[key]) for i, key in enumerate(rows) if key in getattr(entry, part)]
        heights = [i + 0.18 * (number - (len(card.together) - 1) / 2) for i, _ in found]
        means = [100 * interval[0] for _, interval in found]
        spread = [[max(0.0, 100 * (m - low)) for _, (m, low, _) in found], [max(0.0, 100 * (high - m)) for _, (m, _, high) in found]]
        lowest = min([lowest, *(100 * low for _, (_, low, _) in found)])
        axis.errorbar(
            means, heights, xerr=spread, fmt="o", ms=4, lw=1.3, color=COLOURS[number % len(COLOURS)], label=f"{entry.view_tokens:,} tokens"
        )
    axis.set_yticks(range(len(rows)), [labels[key] for key in rows])
    axis.tick_params(labelsize=9)
    axis.set_ylim(max(1, len(rows)) - 0.5, -0.5)
    axis.set_xlim(lowest - 2, 102)
    axis.grid(axis="x", alpha=0.25, lw=0.5)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title(title if rows else f"{title} (not measured)", fontsize=10, loc="left")
