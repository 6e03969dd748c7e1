"""Hits of the five arms over updates and over sampled tokens, and the groups that train without a difference: figure.png.

.venv/bin/python -m experiments.fork_at_call.figure        (draws what is kept in items/)

Lines are means over seeds, bands their 95 % intervals (Student's t). All arms of a seed answer the same questions.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.claims.verdict import T
from experiments.fork_at_call.record import HERE, LAST, PROBES, REACHED, Run, load

COLOURS = {"plain": "#555555", "refill": "#b8860b", "fork": "#c06c3e", "turn": "#7a5aa6", "fork, turn": "#1f6f8b"}
SMOOTHED = 10  # updates


def band(axis: Axes, x: np.ndarray, rows: np.ndarray, arm: str) -> None:
    """The mean of [seed, place] and its interval over seeds."""
    middle, seeds = rows.mean(axis=0), len(rows)
    axis.plot(x, middle, color=COLOURS[arm], lw=1.8, label=arm)
    if seeds > 1:
        half = T[seeds] * rows.std(axis=0, ddof=1) / np.sqrt(seeds)
        axis.fill_between(x, middle - half, middle + half, color=COLOURS[arm], alpha=0.12, lw=0)


def hits(runs: list[Run]) -> np.ndarray:
    return 100 * np.stack([run["hit"].mean(axis=1) for run in runs])


def main() -> None:
    kept = {arm: list(by_seed.values()) for arm, by_seed in load().items() if arm in COLOURS and by_seed}
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    updates, tokens, dead = figure.subplots(1, 3)
    smooth = np.ones(SMOOTHED) / SMOOTHED
    for arm, runs in kept.items():
        band(updates, np.array(PROBES), hits(runs), arm)
        spent = np.stack([np.cumsum(run["tokens"])[[update - 1 for update in PROBES]] for run in runs]).mean(axis=0)
        band(tokens, spent / 1000, hits(runs), arm)
        shares = np.stack([np.convolve(run["dead, trained"], smooth, "valid") for run in runs])
        band(dead, np.arange(SMOOTHED, SMOOTHED + shares.shape[1]), 100 * shares, arm)
    target = REACHED * hits(kept["plain"])[:, -LAST:].mean()
    for axis in (updates, tokens):
        axis.axhline(target, color="#555555", lw=0.8, ls="--")
        axis.set_title("questions whose crop shows the text, %", fontsize=9)
    dead.set_title(f"groups without a difference, %, over {SMOOTHED} updates", fontsize=9)
    for axis, label in ((updates, "updates"), (tokens, "tokens sampled, thousands"), (dead, "updates")):
        axis.set_xlabel(label, fontsize=8)
        axis.set_ylim(bottom=0, top=None if axis is dead else 100)
        axis.grid(alpha=0.25, lw=0.5)
        axis.spines[["top", "right"]].set_visible(False)
    updates.legend(frameon=False, fontsize=8)
    seeds, questions = len(kept["plain"]), kept["plain"][0]["hit"].shape[1]
    figure.suptitle(
        f"{seeds} seeds, {questions} questions a probe; dashed: {REACHED} of where plain GRPO ends, mean of the seeds' own targets",
        fontsize=9,
    )
    figure.savefig(HERE / "figure.png", dpi=110)


if __name__ == "__main__":
    main()
