"""The metrics of an update: rewards, crops, groups and endings of its rollouts; ratios, clips and entropy of its tokens.

docs/metrics.md explains each.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from focus.data.boxes import area, coverage, iou
from focus.rewards import Scores
from focus.rollout.trajectory import Status, Trajectory
from focus.training.objective import clipped, zero_variance


def update_metrics(trajectories: Sequence[Trajectory], scores: Scores, reward: Float[Tensor, "question rollout"]) -> dict[str, float]:
    """Metrics of rollouts and rewards, by logged name; NaN where there is nothing to measure. Boxes are those of the last crop.

    A group is all right or all wrong by the term `accuracy`, and mixed otherwise. Rollouts without a
    grade are left out, and so are groups without a graded rollout.
    """
    n = len(trajectories)
    lengths = [float(sum(t.sampled_mask)) for t in trajectories]
    boxes = [(t.crops[-1].box_px, t.sample) for t in trajectories if t.crops]
    shares = sorted(area(box) / (sample.width * sample.height) for box, sample in boxes) or [math.nan]
    targets = [(box, sample.boxes[0]) for box, sample in boxes if sample.boxes]
    endings = Counter(t.status for t in trajectories)
    return {f"reward/{name}": _mean(terms) for name, terms in scores.raw.items()} | {
        "reward/total": _mean(scores.total),
        "reward/ungraded": float(scores.ungraded),
        "crop/rate": _mean([float(bool(t.crops)) for t in trajectories]),
        **{f"crop/area_p{q}": shares[min(len(shares) - 1, int(q / 100 * len(shares)))] for q in (10, 50, 90)},
        "crop/coverage": _mean([coverage(box, chain[0]) for box, chain in targets]),
        "crop/iou": _mean([max(iou(box, level) for level in chain) for box, chain in targets]),
        "group/zero_variance": float(zero_variance(reward).float().mean()),
        "group/all_unpaid": float((reward.nan_to_num().amax(1) <= 0)[~reward.isnan().all(1)].float().mean()),
        **_outcomes(scores, reward.shape[1]),
        "tokens/response_mean": _mean(lengths),
        "tokens/response_max": max(lengths, default=math.nan),
        **{f"ending/{s.value.replace(' ', '_')}": endings[s] / n if n else math.nan for s in Status if s is not Status.OPEN},
    }


def _outcomes(scores: Scores, rollouts: int) -> dict[str, float]:
    """Shares of groups whose rollouts are all right, all wrong, or mixed."""
    names = ("group/all_right", "group/all_wrong", "group/mixed")
    if "accuracy" not in scores.raw:
        return dict.fromkeys(names, math.nan)
    accuracy = scores.grouped(rollouts, "accuracy")
    right, wrong = (accuracy > 0).any(1), (accuracy <= 0).any(1)  # neither holds for NaN
    shares = [float(groups[right | wrong].float().mean()) for groups in (right & ~wrong, wrong & ~right, right & wrong)]
    return dict(zip(names, shares, strict=True))


@dataclass
class TokenStatistics:
    """Statistics of an update's sampled tokens: float [token] per micro-batch, in the order in which they passed, on the CPU."""

    mismatch: list[Tensor] = field(default_factory=list)  # log-probability of the trainer minus that of the sampler, in nats
    entropy: list[Tensor] = field(default_factory=list)  # in nats
    log_ratio: list[Tensor] = field(default_factory=list)  # of the new policy to the old one, at every optimiser step
    clipped: list[Tensor] = field(default_factory=list)
    dual_clipped: list[Tensor] = field(default_factory=list)

    def add_sampled(self, mismatch: Float[Tensor, " token"], entropy: Float[Tensor, " token"]) -> None:
        """Add tokens at their first pass, before any optimiser step."""
        self.mismatch.append(mismatch.cpu())
        self.entropy.append(entropy.cpu())

    def add_step(self, new: Tensor, old: Tensor, advantage: Float[Tensor, " token"], clip: float, dual_clip: float) -> None:
        """Add tokens at the pass before an optimiser step; `new` and `old` are log-probabilities."""
        outside, dual = clipped(new, old, advantage, clip, dual_clip)
        self.log_ratio.append((new - old).cpu())
        self.clipped.append(outside.float().cpu())
        self.dual_clipped.append(dual.float().cpu())

    def metrics(self, sampler_ratio_cap: float | None) -> dict[str, float]:
        """By logged name; NaN where no token passed. Quantiles are those of the log ratios, in nats."""
        mismatch, entropy, log_ratio, outside, dual = (
            torch.cat([torch.zeros(0), *parts]) for parts in (self.mismatch, self.entropy, self.log_ratio, self.clipped, self.dual_clipped)
        )
        ordered = log_ratio.sort().values.tolist() or [math.nan]
        return {
            "objective/mismatch_mean": float(mismatch.abs().mean()),
            "objective/mismatch_max": max(mismatch.abs().tolist(), default=math.nan),
            "objective/sampler_truncated": float((mismatch.exp() > (sampler_ratio_cap or math.inf)).float().mean()),
            "objective/entropy": float(entropy.mean()),
            "objective/clipped": float(outside.mean()),
            "objective/dual_clipped": float(dual.mean()),
            **{f"objective/log_ratio_p{q}": ordered[min(len(ordered) - 1, len(ordered) * q // 100)] for q in (1, 50, 99)},
        }


def _mean(values: Sequence[float]) -> float:
    graded = [v for v in values if v == v]
    return sum(graded) / len(graded) if graded else math.nan
