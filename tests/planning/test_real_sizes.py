"""The planned bytes are those that engine and update hold, at the widths of published models.

Two layers, so that a case takes seconds. All layers: experiments/plan/shapes.py.
"""

import json

import pytest

from experiments.plan import shapes
from tests.gpu import measure

CASES = [
    shapes.Case("rollout", 256, rollouts=4, crop=256),
    shapes.Case("update", 256, rollouts=8, crop=256),
    shapes.Case("evaluation", 256, questions=3, crop=256),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.phase)
@pytest.mark.parametrize("policy", ["qwen2_5_vl_7b", "qwen3_vl_4b"])
def test_planned_bytes_are_within_15_percent_of_those_counted(policy, case, tmp_path):
    config = measure.config_of(shapes.MODELS[policy], layers=2)
    config.save_pretrained(tmp_path)
    planned = shapes.planned(shapes.setup(policy, case, f"policy.checkpoint={tmp_path}"), case)
    assert planned == pytest.approx(shapes.counted(config, case), rel=shapes.WITHIN)


def test_the_table_of_all_layers_is_that_of_its_record_and_every_difference_is_within_15_percent():
    rows = json.loads((shapes.HERE / "shapes.json").read_text())["rows"]
    assert shapes.table(rows) in (shapes.HERE / "README.md").read_text()
    assert len(rows) == len(shapes.MODELS) * len(shapes.CASES)
    assert all(abs(float(row["difference"].split()[0])) <= 100 * shapes.WITHIN for row in rows)
