"""Policies of the three sweeps but those trained on information gain with a gap, greedy: per-question results in items/greedy/.

.venv/bin/python -m experiments.beyond.measure [SEED ...]        (after the sweeps; without a seed all; what is measured already is skipped)

500 held-out scenes, at the views of the sampled measurement.
"""

import sys
from functools import partial
from pathlib import Path

from experiments.beyond.record import ARMS, GREEDY, GREEDY_ARMS, METRICS, OUTPUTS, SEEDS
from experiments.controls.measure import measured
from experiments.controls.record import DEFAULT, HARDER, Setting
from experiments.items import keep
from focus.model.policy_model import PolicyModel

COMMON = Setting(DEFAULT, 64, 0.0)


def settings_of(pattern: str) -> dict[str, Setting]:
    """Of an arm, by view. Stage 2 has one, on harder scenes."""
    if pattern.startswith("label_free"):
        return {"own": Setting(HARDER, 16, 0.0)}
    return {"own": Setting(DEFAULT, 256 if "gap=off" in pattern else 16, 0.0), "common": COMMON}


def of_views(settings: dict[str, Setting], _: str, policy: PolicyModel, opening: str) -> dict[str, list[float]]:
    """`VIEW METRIC`: a value for each scene."""
    return {
        f"{view} {metric}": values
        for view, setting in settings.items()
        for metric, values in measured(policy, setting, opening, ("gt", "noise", "tool_free", "conflict"), METRICS).items()
    }


def main(seeds: list[str]) -> None:
    for arm in GREEDY_ARMS:
        policies = {f"{arm} {seed}": Path(OUTPUTS, ARMS[arm].format(seed), "policy") for seed in SEEDS if not seeds or str(seed) in seeds}
        keep(GREEDY, policies, partial(of_views, settings_of(ARMS[arm])))


if __name__ == "__main__":
    main(sys.argv[1:])
