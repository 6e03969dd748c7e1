"""Cards of our own policies: are they told apart, and are their numbers those of the recorded measurements?

.venv/bin/python -m experiments.audit.policies        (after the audits in README.md)

Reads each card that is there and its answers by question; of a card that is not, what is recorded stays. `items/` of
experiments/conflict has the answers to the same scenes, measured at 256 tokens without the audit. The base's were measured with a call
put into its mouth, so of an audit without that only `tool_free` compares.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.conflict.record import ITEMS
from focus.evaluation.outcome import SAYS, Outcome, load_outcomes
from focus.report.audit_card import Card, read_card

RECORD = Path(__file__).parent / "policies.json"
CARDS = {
    "base": Path("outputs/audit/embedded"),
    "base, forced": Path("outputs/audit/embedded_forced"),
    "gap": Path("outputs/conflict/gap=fixed,seed=0/audit"),
    "no gap": Path("outputs/conflict/gap=off,seed=0/audit"),
    "stage 1": Path("outputs/stage1/audit"),
}
ALL = ("own", "noise", "gt", "tool_free", "called", "hit", *SAYS)
RECORDED = {"base": ("tool_free",), "base, forced": ALL, "gap": ALL, "no gap": ALL}
COMMON = 256  # tokens, of the recorded measurements
ROWS = {  # of the table in README.md: part of a measurement and its key, by view
    "D_noise at 16 tokens": (16, "dependence", "D_noise"),
    "calls at 16": (16, "steps", "calls"),
    "right at 16": (16, "accuracy", "own"),
    "D_noise at 256": (COMMON, "dependence", "D_noise"),
    "hits at 256": (COMMON, "steps", "hits"),
    "the crop's answer at 256": (COMMON, "conflict", "conflict_crop"),
    "the view's answer at 256": (COMMON, "conflict", "conflict_whole"),
}


def of(card: Card, view: int, part: str, key: str) -> tuple[float, float, float] | None:
    """A number of a card with its interval, in per cent or points; None if the card has none."""
    [entry] = [entry for entry in card.together if entry.view_tokens == view]
    found = getattr(entry, part).get(key)
    return tuple(round(100 * value, 1) for value in found) if found else None  # type: ignore[return-value]


def differing(name: str, outcome: Outcome) -> dict[str, int]:
    """By metric, the questions whose value in the audit is not the recorded one."""
    with np.load(ITEMS / ("base.npz" if name.startswith("base") else f"{name} 0.npz")) as recorded:
        return {
            metric: int((~np.isclose(outcome.of(metric), recorded[metric][: len(outcome.groups)], equal_nan=True)).sum())
            for metric in RECORDED[name]
        }


def rows() -> Iterator[Mapping[str, Any]]:
    """One entry for each card that is there or was."""
    before = {row["policy"]: row for row in json.loads(RECORD.read_text())}
    for name, folder in CARDS.items():
        if not (folder / "card.json").is_file():
            if name in before:
                yield before[name]
            continue
        card = read_card(folder / "card.json")
        same = differing(name, load_outcomes(folder / "outcomes.json")[f"scenes {COMMON}"]) if name in RECORDED else None
        yield {
            "policy": name,
            "conduct": card.conduct,
            "verdict": card.verdict,
            "contradicted": card.contradicted,
            "questions": card.together[0].questions,
            "numbers": {label: of(card, *where) for label, where in ROWS.items()},
            "differ from the record": same,
            "commit": card.made["commit"],
        }


def cell(number: list[float] | None) -> str:
    return "–" if number is None else f"{number[0]:.1f} [{number[1]:.1f}, {number[2]:.1f}]"


def main() -> None:
    record = list(rows())
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    print("| " + " | ".join(["", *(row["policy"] for row in record)]) + " |")
    print("| " + " | ".join(["verdict", *(str(row["conduct"]) for row in record)]) + " |")
    for label in ROWS:
        print("| " + " | ".join([label, *(cell(row["numbers"][label]) for row in record)]) + " |")
    for row in record:
        print(row["policy"], row["differ from the record"])


if __name__ == "__main__":
    main()
