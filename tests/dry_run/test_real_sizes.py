"""All layers of Qwen2.5-VL-7B on a GPU that holds shapes alone."""

import pytest

from focus.planning.lengths import Lengths
from tests.gpu import measure

GIB = 2**30
VIEW = 16384


@pytest.mark.parametrize("capability", [measure.H100, measure.A100], ids=["H100", "A100"])
def test_the_second_turn_of_a_group_takes_less_than_10_gib_after_the_largest_view(capability, capsys):
    lengths = Lengths(prompt=VIEW + 300, view=VIEW, turns=2, turn=64, reply=34, crop=1024)
    found = measure.rollout(measure.config_of("Qwen/Qwen2.5-VL-7B-Instruct"), lengths, rollouts=16, capability=capability)
    peaks = {name: (phase.peak - found.weights) / GIB for name, phase in found.phases.items()}
    with capsys.disabled():
        print(f"\n  16 rollouts, GiB beyond the weights: {', '.join(f'{name} {peak:.2f}' for name, peak in peaks.items())}")
    assert peaks["turn 2"] < 10
