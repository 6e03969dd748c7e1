"""What each reward teaches at one view of 64 tokens, step by step: figure.png, from record.json and the record of experiments/claims.

.venv/bin/python -m experiments.beyond.figure
"""

import json

from matplotlib.figure import Figure

from experiments.beyond.record import HERE
from experiments.claims.runs import HERE as CLAIMS

PANELS = {
    "called": "questions with a crop, %",
    "hit": "crops that show the text, %",
    "D_noise": "points lost when the crop is noise",
    "own": "accuracy, %",
}
# By row: the record, its entry, and the colour, which tells runs without a gap from those with one
ROWS = {
    "no gap: accuracy alone": ("beyond", "accuracy, common view", "#1f6f8b"),
    "no gap: tool bonus": ("claims", "no gap, bonus, common view", "#1f6f8b"),
    "no gap: information gain": ("beyond", "gain, common view", "#1f6f8b"),
    "gap: accuracy alone": ("beyond", "gap, accuracy, common view", "#c06c3e"),
    "gap: tool bonus": ("claims", "gap, bonus, common view", "#c06c3e"),
    "gap: information gain": ("beyond", "gap, gain, common view", "#c06c3e"),
}


def main() -> None:
    claims = json.loads((CLAIMS / "decomposition.json").read_text())["arms"]
    records = {"claims": claims, "beyond": json.loads((HERE / "record.json").read_text())["parts"]}
    figure = Figure(figsize=(11, 2.8), layout="constrained")
    for axis, (part, title) in zip(figure.subplots(1, len(PANELS), sharey=True), PANELS.items(), strict=True):
        base = claims["base, 64 tokens"][part][0]
        axis.axvline(base, color="#555555", lw=0.8, ls="--")
        for place, (record, entry, colour) in enumerate(ROWS.values()):
            middle, low, high = records[record][entry][part]
            axis.errorbar(middle, place, xerr=[[middle - low], [high - middle]], fmt="o", ms=4, lw=1.4, color=colour)
        axis.set_title(title, fontsize=9)
        axis.set_yticks(range(len(ROWS)), list(ROWS), fontsize=8)
        axis.set_xlim(left=min(0, axis.get_xlim()[0]))
        axis.grid(axis="x", alpha=0.25, lw=0.5)
        axis.spines[["top", "right"]].set_visible(False)
    axis.invert_yaxis()  # shared by all
    figure.suptitle("5 seeds, 1,000 questions at 64 tokens, temperature 1; 95 % intervals over both; dashed: the base", fontsize=9)
    figure.savefig(HERE / "figure.png", dpi=110)


if __name__ == "__main__":
    main()
