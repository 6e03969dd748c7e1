"""How often the first two rungs of the grading ladder are wrong. `python -m experiments.grading.measure` writes results.json and the table.

`pairs.jsonl` holds an answer a line, with its question, the accepted answers, the scorer and a label: would someone who reads question
and accepted answers call it right? Besides, every right answer is graded against every other question's accepted answers.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from focus.grading.answers import RIGHT_FROM, Rung, graded

HERE = Path(__file__).parent
HEAD = ("rung", "said right", "of these wrong (false positives)", "said wrong", "of these right (false negatives)")


def pairs() -> list[dict[str, Any]]:
    """Every line of pairs.jsonl with `said`, what the ladder says, and `rung`, who says it."""
    rows = [json.loads(line) for line in (HERE / "pairs.jsonl").read_text().splitlines()]
    for row in rows:
        options = tuple((key, text) for key, text in row["options"])
        right, rung = graded(row["answer"], tuple(row["accepted"]), row["scorer"], options, row["question"])
        row |= {"said": right >= RIGHT_FROM, "rung": str(rung)}
    return rows


def crossed(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Right answers set against the accepted answers of other questions: how many were tried, and those that are said to be right."""
    questions = {(row["question"], row["scorer"]): row["accepted"] for row in rows if row["scorer"] != "letter"}
    tried, right = 0, []
    for row in (row for row in rows if row["right"]):
        for (question, scorer), accepted in questions.items():
            if question != row["question"]:
                tried += 1
                if graded(row["answer"], tuple(accepted), scorer, (), question).right >= RIGHT_FROM:
                    right.append([row["answer"], question, accepted])
    return {"tried": tried, "said_right": len(right), "which": right}


def measure(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts by rung and by kind of pair, and every pair that is judged wrongly."""

    def counts(part: list[dict[str, Any]]) -> dict[str, int]:
        seen = Counter((row["said"], row["right"]) for row in part)
        return {
            "said_right": seen[True, True] + seen[True, False],
            "false_positives": seen[True, False],
            "said_wrong": seen[False, True] + seen[False, False],
            "false_negatives": seen[False, True],
        }

    shown = ("kind", "question", "accepted", "answer", "rung")
    return {
        "pairs": len(rows),
        "right": sum(row["right"] for row in rows),
        "rule_alone_says_right": sum(row["said"] and row["rung"] == Rung.RULE for row in rows if row["right"]),
        "by_rung": {rung: counts([row for row in rows if row["rung"] == rung]) for rung in (Rung.RULE, Rung.FORM, Rung.OPEN)},
        "by_kind": {kind: counts([row for row in rows if row["kind"] == kind]) for kind in dict.fromkeys(row["kind"] for row in rows)},
        "false_positives": [{key: row[key] for key in shown} for row in rows if row["said"] and not row["right"]],
        "false_negatives": [{key: row[key] for key in shown} for row in rows if row["right"] and not row["said"]],
        "crossed": crossed(rows),
    }


def table(record: dict[str, Any]) -> str:
    """A line for each rung, then one for each kind."""
    lines = [HEAD, ("---",) * len(HEAD)]
    lines += [(name, *map(str, counts.values())) for name, counts in (record["by_rung"] | record["by_kind"]).items()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    record = measure(pairs())
    (HERE / "results.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    readme = HERE / "README.md"
    shown = readme.read_text()
    readme.write_text(shown[: shown.index(f"| {HEAD[0]} |")] + table(record))
    print(table(record))


if __name__ == "__main__":
    main()
