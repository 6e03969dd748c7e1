"""The paper's tables (arXiv 2603.27494), each with a row measured here."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from focus.config.identity import COMPARABLE
from focus.report.evaluation import interval_cell
from focus.report.table import Cell, Results, Row
from focus.runtime.files import read_json

SETS = ("hrbench8k", "hrbench4k", "vstar")  # the data sets of COLUMNS
COLUMNS = ("HR-Bench 8K", "HR-Bench 4K", "V*")
# Overall accuracy, %, under the paper's protocol. Rows of other methods are the paper's re-runs; their
# own papers report other numbers
TABLE_2 = {
    "CoF-sft, 1,024 tokens": (58.9, 66.0, 72.8),
    "Pixel Reasoner, 1,024 tokens": (59.9, 65.8, 73.9),
    "Mini-o3, 1,024 tokens": (66.0, 70.7, 80.1),
    "DeepEyes, 1,024 tokens": (62.0, 63.9, 75.9),
    "LFPC, 1,024 tokens": (72.1, 75.3, 80.6),
    "Mini-o3, 16,384 tokens": (65.6, 69.0, 88.0),
    "DeepEyes, 16,384 tokens": (69.5, 72.9, 85.9),
    "LFPC, 16,384 tokens": (75.4, 76.4, 89.5),
}
TABLE_3 = {
    "baseline, no gap": (61.0, 67.9, 72.3),
    "Stage I": (69.9, 74.4, 78.0),
    "Stage II": (72.1, 75.3, 80.6),
}
TABLE_4 = {
    "Stage I": (69.9, None, None),
    "Stage II on the original data": (68.1, None, None),
    "Stage II on VisualProbe, conditional IoU": (72.7, None, None),
    "Stage II on VisualProbe, IoU and L1": (72.1, None, None),
}
TABLE_5 = {"baseline, no gap": (4.5, 0.5, 3.2), "Stage I": (18.5, 10.5, 11.0)}
TABLE_6 = {
    "LFPC, 1,024 tokens": (2.8, 2.6, None),
    "DeepEyes, 16,384 tokens": (12.4, 9.3, None),
    "Mini-o3, 16,384 tokens": (27.8, 21.4, None),
}


def beside_the_paper(numbers: Mapping[str, Any], folder: Path) -> list[Results]:
    """The paper's tables, each with a row measured here.

    That row holds this evaluation and the comparable ones of the same policy in `folder`. A number
    that neither the paper nor an evaluation has is `not run`.
    """
    settings = numbers["settings"]
    others = [read_json(path) for path in sorted(folder.glob("*/evaluation.json"))]
    comparable = [
        other
        for other in others
        if {*other.get("settings", {})} >= {*COMPARABLE, "prompts"}
        and all(other["settings"][key] == settings[key] for key in COMPARABLE)
        and other["settings"]["prompts"]["hash"] == settings["prompts"]["hash"]
    ]
    ours = {row["settings"]["data"]: row for row in (*comparable, numbers) if row["settings"]["data"] in SETS}

    def printed(table: Mapping[str, tuple[float | None, ...]], unit: str) -> list[Row]:
        return [
            Row(label, unit, tuple(Cell(math.nan if v is None else v, math.nan, math.nan) for v in values))
            for label, values in table.items()
        ]

    def measured(unit: str, factor: float, *keys: str) -> Row:
        cells = []
        for name in SETS:
            value: Any = ours.get(name)
            for key in keys:
                value = value.get(key) if value else None
            cells.append(interval_cell(value, factor) if value else None)
        some = f", first {settings['samples']:,} questions" if settings["samples"] else ""
        return Row(f"{settings['policy']}, {settings['view_tokens'][1]:,} tokens, measured here{some}", unit, tuple(cells))

    accuracy = measured("%", 100.0, "metrics", "own", "right")
    dependence = measured("pt", 100.0, "differences", "D_noise")
    annotated = measured("pt", 100.0, "differences", "U_GT")
    note = (
        f"{settings['policy']}: {settings['side_by_side']} questions side by side. "
        "To measure latency, set evaluation.questions_per_forward=1."
    )
    return [
        Results(
            "Table 1: accuracy lost with noise in place of the crops, and gained with annotated crops (the paper: very little)",
            COLUMNS,
            (dependence, replace(annotated, metric=f"{annotated.metric}, annotated crops")),
        ),
        Results("Table 2: overall accuracy", COLUMNS, (*printed(TABLE_2, "%"), accuracy)),
        Results("Table 3: stages, at 1,024 tokens", COLUMNS, (*printed(TABLE_3, "%"), accuracy)),
        Results("Table 4: inside stage II", COLUMNS, (*printed(TABLE_4, "%"), accuracy)),
        Results("Table 5: accuracy change when the crop is replaced", COLUMNS, (*printed(TABLE_5, "pt"), dependence)),
        Results(
            "Table 6: seconds per question, each on its own device",
            COLUMNS,
            (*printed(TABLE_6, "s"), measured("s", 1.0, "metrics", "own", "seconds")),
            (note,),
        ),
    ]
