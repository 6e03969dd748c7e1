"""What is logged of an update's rollouts: raw terms beside their sum, crops, groups, endings."""

import math
from collections import Counter
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from focus.boxes import area, coverage, iou
from focus.objective import zero_variance
from focus.rewards import Scores
from focus.rollout.trajectory import Status, Trajectory


def figures(trajectories: Sequence[Trajectory], scores: Scores, reward: Float[Tensor, "question rollout"]) -> dict[str, float]:
    """By its name on the dashboard; NaN where nothing was there to measure. Boxes are those of the last crop."""
    n = len(trajectories)
    boxes = [(t.crops[-1].box_px, t.sample) for t in trajectories if t.crops]
    shares = sorted(area(box) / (sample.width * sample.height) for box, sample in boxes) or [math.nan]
    targets = [(box, sample.boxes[0]) for box, sample in boxes if sample.boxes]
    endings = Counter(t.status for t in trajectories)
    return {f"reward/{name}": _mean(terms) for name, terms in scores.raw.items()} | {
        "reward/total": _mean(scores.total),
        "reward/ungraded": float(scores.ungraded),
        "crop/rate": len(boxes) / n,
        **{f"crop/area_p{q}": shares[min(len(shares) - 1, int(q / 100 * len(shares)))] for q in (10, 50, 90)},
        "crop/coverage": _mean([coverage(box, chain[0]) for box, chain in targets]),
        "crop/iou": _mean([max(iou(box, level) for level in chain) for box, chain in targets]),
        "group/zero_variance": float(zero_variance(reward).float().mean()),
        "group/all_unpaid": float((reward.nan_to_num().amax(1) <= 0).float().mean()),
        **{f"ending/{status.value.replace(' ', '_')}": endings[status] / n for status in Status if status is not Status.OPEN},
    }


def _mean(values: Sequence[float]) -> float:
    graded = [v for v in values if v == v]
    return sum(graded) / len(graded) if graded else math.nan
