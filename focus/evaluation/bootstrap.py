"""Intervals: the bootstrap over groups that were sampled independently."""

from collections.abc import Hashable, Sequence

import numpy as np


def bootstrap(values: Sequence[float], groups: Sequence[Hashable], resamples: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """Mean and 95 % interval of `values`, resampled by group: items that share an image are drawn together.

    For a paired comparison pass the per-item differences. NaN marks an item to which the metric does not
    apply (the area of a crop that was never made); such items are left out. Returns NaNs if no item is
    left. Raises ValueError for unequal lengths.
    """
    if len(values) != len(groups):
        raise ValueError(f"{len(values)} values but {len(groups)} groups; each value needs a group")
    applicable = [(group, value) for group, value in zip(groups, values, strict=True) if value == value]
    if not applicable:
        return (float("nan"),) * 3
    index = {group: i for i, group in enumerate(dict.fromkeys(group for group, _ in applicable))}
    sums, counts = np.zeros(len(index)), np.zeros(len(index))
    for group, value in applicable:
        sums[index[group]] += value
        counts[index[group]] += 1
    draws = np.random.default_rng(seed).integers(len(index), size=(resamples, len(index)))
    means = sums[draws].sum(1) / counts[draws].sum(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(sums.sum() / counts.sum()), float(low), float(high)
