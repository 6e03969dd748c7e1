"""What a default audit takes at each view: requests, prompt tokens, minutes.

.venv/bin/python -m experiments.audit.cost        (after the audit in README.md)

Reads what the audit wrote beside its card.
"""

import json
from pathlib import Path
from typing import Any

from focus.report.audit_card import read_card

RECORD = Path(__file__).parent / "cost.json"
FOLDER = Path("outputs/audit/served")


def rows(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """By view: what all sets together took, and the visual tokens of the largest view as the server counts them."""
    found: dict[int, dict[str, Any]] = {}
    for key, part in facts.items():
        name, _, view = key.rpartition(" ")
        if not view.isdigit():
            continue
        row = found.setdefault(int(view), {"view": int(view), "requests": 0, "prompt tokens": 0, "seconds": 0.0, "counted": 0})
        requests, prompt_tokens, _, seconds = part["spent"]
        row["requests"] += requests
        row["prompt tokens"] += prompt_tokens
        row["seconds"] += seconds
        row["counted"] = max(row["counted"], part["view_seen"]["counted"])
        row[f"minutes of {name}"] = round(seconds / 60, 1)
    return [row | {"seconds": round(row["seconds"])} for row in found.values()]


def cell(row: dict[str, Any]) -> str:
    """A row of the table in README.md."""
    minutes = f"{row['seconds'] / 60:.1f} ({row['minutes of scenes']} + {row['minutes of pages']})"
    return f"| {row['view']:,} | {row['requests']:,} | {row['prompt tokens'] / 1e6:.1f} M | {minutes} |"


def main() -> None:
    card = read_card(FOLDER / "card.json")
    record = {
        "rows": rows(json.loads((FOLDER / "facts.json").read_text())),
        "spent": card.spent.model_dump(),
        "sets": card.protocol.sets,
        "calls": {f"{entry.set} {entry.view_tokens}": entry.steps["calls"][0] for entry in card.measured},
        "alike": card.agent.answered_alike,
        "left out": card.protocol.left_out,
        "made": card.made,
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    print("\n".join(map(cell, record["rows"])))


if __name__ == "__main__":
    main()
