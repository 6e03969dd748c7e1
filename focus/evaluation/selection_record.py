"""Choices of resolution selection as JSON lines, so that an interrupted calibration continues, and their summary."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from focus.evaluation.bootstrap import bootstrap
from focus.evaluation.selection import Choice, Tokens, total_tokens
from focus.gap import Search
from focus.runtime.files import json_text

AuditedChoice = tuple[Choice, Choice | None]  # the choice of the search, and that of an audit's exact walk


def to_json_line(audited: AuditedChoice) -> str:
    """One line of the file from which an interrupted calibration continues."""
    return json_text([choice and asdict(choice) for choice in audited]) + "\n"


def read_choices(path: Path) -> dict[str, AuditedChoice]:
    """The choices of an interrupted calibration, by sample id; empty if there was none.

    A last line that a crash or a full disk has cut is removed: its questions are asked again.
    """

    def choice(row: dict[str, Any]) -> Choice:
        asked = {int(level): Tokens(*tokens) for level, tokens in row["asked"].items()}
        return Choice(**row | {"asked": asked, "exhaustive": Tokens(*row["exhaustive"])})

    whole = b""
    if path.exists():
        whole = path.read_bytes()
        whole = whole[: whole.rfind(b"\n") + 1]
        os.truncate(path, len(whole))
    rows = [json.loads(line) for line in whole.splitlines()]
    return {row["sample"]: (choice(row), choice(exact) if exact else None) for row, exact in rows}


def summary(audited_choices: Sequence[AuditedChoice], search: Search) -> dict[str, Any]:
    """What `levels.json` holds: forward tokens, their ratio to all levels of all questions, outcomes, and the audit of a bisection.

    The audit's own forward tokens are not in `spent`.
    """
    choices = [choice for choice, _ in audited_choices]
    spent, exhaustive = total_tokens(t for c in choices for t in c.asked.values()), total_tokens(c.exhaustive for c in choices)
    record: dict[str, Any] = {
        "search": str(search),
        "questions": len(choices),
        "spent": spent._asdict(),
        "exhaustive": exhaustive._asdict(),
        "ratio": sum(spent) / max(1, sum(exhaustive)),
        "outcomes": dict(sorted(Counter(str(c.outcome) for c in choices).items())),
    }
    if broken := {c.sample: c.broken for c in choices if c.broken}:
        record["broken"] = broken
    pairs = [(choice, exact) for choice, exact in audited_choices if exact and not (choice.broken or exact.broken)]
    if search is Search.BISECTION:
        record["audit"] = audit(pairs) if pairs else "not audited"
    return record


def audit(pairs: Sequence[tuple[Choice, Choice]]) -> dict[str, Any]:
    """How often a bisection chose another level than the exact walk of the same question: share, 95 % interval, and which questions."""
    wrong = [choice.outcome != exact.outcome for choice, exact in pairs]
    return {
        "questions": len(pairs),
        "groups": len({exact.group for _, exact in pairs}),
        "mismatches": sum(wrong),
        "share": bootstrap([float(w) for w in wrong], [exact.group for _, exact in pairs], bounds=(0.0, 1.0)),
        "spent": total_tokens(t for _, exact in pairs for t in exact.asked.values())._asdict(),
        "differ": [{"sample": c.sample, "bisection": c.outcome, "exact": e.outcome} for c, e in pairs if c.outcome != e.outcome],
    }
