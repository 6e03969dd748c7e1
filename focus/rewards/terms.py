"""The reward equations as pure functions, numbers in and numbers out."""

import math
from collections.abc import Mapping, Sequence

from focus.data.boxes import Box, Size, area, coverage, iou


def accuracy(correct: bool) -> float:
    """r_acc of E3: 1 for a right answer, else 0."""
    return float(correct)


def format_penalty(malformed_turns: int, answered: bool) -> float:
    """r_format of E3: 0 if every turn could be parsed and the conversation ends with an answer, else -1."""
    return 0.0 if answered and malformed_turns == 0 else -1.0


def tool_bonus(delivered_crops: int) -> float:
    """r_tool of E3: 1 if at least one crop was DELIVERED, else 0. A call without a crop earns nothing."""
    return float(delivered_crops > 0)


def area_share(boxes_px: Sequence[Box], original_size: Size) -> float:
    """E16: the area of all crops together as a share of the image's, from 0 up: crops that overlap count each."""
    return sum(map(area, boxes_px)) / (original_size[0] * original_size[1])


def conditional_iou(box_px: Box, chain: Sequence[Box], tau: float | None) -> float:
    """r_IoU of E6: the best IoU with any box of the nested chain, if the crop covers more than `tau` of the smallest (E5), else 0.

    `tau` None leaves the gate open (plain best IoU, for the ablation). In [0, 1].
    """
    covered = tau is None or coverage(box_px, chain[0]) > tau
    return max(iou(box_px, level) for level in chain) if covered else 0.0


def l1_reward(box_px: Box, chain: Sequence[Box], original_size: Size) -> float:
    """r_l1 of E7: 1 minus the distance to the nearest box of the chain.

    The distance is the mean of the four coordinates' differences, each as a share of the original's width or height.
    """
    width, height = original_size
    extent = (width, height, width, height)
    return 1 - min(sum(abs(a - b) / n for a, b, n in zip(box_px, level, extent, strict=True)) / 4 for level in chain)


def grounding(box_px: Box, chain: Sequence[Box], original_size: Size, omega: float, tau: float | None) -> float:
    """r_geo of E8 for one crop and one target: omega r_IoU + (1 - omega) r_l1. In [0, 1]."""
    return omega * conditional_iou(box_px, chain, tau) + (1 - omega) * l1_reward(box_px, chain, original_size)


def match(boxes_px: Sequence[Box], targets: Sequence[Sequence[Box]], original_size: Size) -> list[Box]:
    """The crop that grades each target's chain: the last of those that are nearest to it (E7), the last of all where there is none.

    At least one crop. Of equally near targets the first one gets the crop.
    """
    graded = [boxes_px[-1]] * len(targets)
    for box in boxes_px:
        near = [l1_reward(box, chain, original_size) for chain in targets]
        graded[near.index(max(near))] = box
    return graded


def information_gain(own: float, others: Sequence[float]) -> float:
    """r_ig of E9: how much better the label is predicted with the rollout's own crop than in the best other case, not below 0.

    `own` and `others` (no crop, and placebo crops) are mean log-probabilities (nats) of the label's tokens.
    They are compared as probabilities exp(.), so the gain lies in [0, 1]. A placebo that misleads raises nothing.
    """
    return max(0.0, math.exp(own) - math.exp(max(others)))


def contributions(raw: Mapping[str, float], weights: Mapping[str, float], gates: Mapping[str, str | None]) -> dict[str, float]:
    """What each term adds to the total of E3: weight times raw term, or 0 where its gate term is not above 0.

    NaN where the term or its gate could not be graded. Terms of weight 0 are only logged and have no entry.
    """
    added = {}
    for name, weight in weights.items():
        if weight == 0:
            continue
        gate = gates.get(name)
        opened = 1.0 if gate is None else raw[gate]
        added[name] = math.nan if math.isnan(opened) else weight * raw[name] if opened > 0 else 0.0
    return added


def total(raw: Mapping[str, float], weights: Mapping[str, float], gates: Mapping[str, str | None]) -> float:
    """E3: the sum of the weighted terms; a gated term counts only where its gate term is above 0.

    The total is NaN if a term or a gate could not be graded: such a rollout teaches nothing, which is not the same as
    a reward of 0. A term of weight 0 is only logged, and may be NaN.
    """
    return sum(contributions(raw, weights, gates).values(), 0.0)
