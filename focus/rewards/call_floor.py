"""A reward that keeps calls alive: Pixel-Reasoner's, beyond the paper."""

from collections import defaultdict
from collections.abc import Sequence

from focus.rewards.callbacks import RewardCallback
from focus.rollout.trajectory import Trajectory


def call_floor(delivered_crops: int, group_rate: float, floor: float) -> float:
    """Pixel-Reasoner's bonus for callers of a group whose call rate R lies below `floor`, minus 0.05 for every further call.

    0.25 max(floor - R, 0) / (2 R): the rarer, the more. 0 without a call.
    """
    return 0.25 * max(floor - group_rate, 0.0) / 2 / group_rate - 0.05 * (delivered_crops - 1) if delivered_crops else 0.0


class CallFloor(RewardCallback):
    """Keeps calls alive where few siblings make one, and one call from becoming many.

    `floor` is the call rate of a group below which its callers are paid; a group without a caller earns nothing.
    """

    name = "call_floor"

    def __init__(self, weight: float, floor: float = 0.3, gate: str | None = None) -> None:
        super().__init__(weight, gate)
        if not 0 < floor <= 1:
            raise ValueError(f"floor of the call-floor reward is {floor}; it is a call rate in (0, 1]")
        self.floor = floor

    def score(self, trajectories: Sequence[Trajectory]) -> list[float]:
        groups: dict[int, list[bool]] = defaultdict(list)
        for t in trajectories:
            groups[t.group].append(bool(t.crops))
        rates = {group: sum(called) / len(called) for group, called in groups.items()}
        return [call_floor(len(t.crops), rates[t.group], self.floor) for t in trajectories]
