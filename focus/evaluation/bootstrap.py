"""Intervals over groups that were sampled independently: the bootstrap, and Wilson's interval of a share."""

import math
from collections.abc import Hashable, Sequence

import numpy as np

Z = 1.959964  # 95 % of a normal distribution lie within Z standard deviations of its mean


def bootstrap(
    values: Sequence[float],
    groups: Sequence[Hashable],
    resamples: int = 2000,
    seed: int = 0,
    bounds: tuple[float, float] | None = None,
) -> tuple[float, float, float]:
    """Mean and 95 % interval of `values`, resampled by group: items that share an image are drawn together.

    For a paired comparison pass the per-item differences. NaN marks an item to which the metric does not
    apply (the area of a crop that was never made); such items are left out. Returns NaNs if no item is
    left. Raises ValueError for unequal lengths.

    Where all n groups have the same mean, resampling finds no spread, which is no certainty: another
    group may differ. `bounds` are the limits of a value: 0 and 1 for a share. With them the interval is
    then Wilson's (1927) at the border. None of n groups differed, so up to `Z^2 / (n + Z^2)` of all may,
    and their values may be as far off as the bounds allow. 0 right of 10 gives [0, 0.278], 10 of 10 [0.722, 1].
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
    mean, (low, high) = float(sums.sum() / counts.sum()), np.quantile(means, (0.025, 0.975))
    if bounds and np.ptp(sums / counts) < 1e-9:
        differing = Z**2 / (len(index) + Z**2)
        low, high = mean - differing * (mean - bounds[0]), mean + differing * (bounds[1] - mean)
    return mean, float(low), float(high)


def wilson(values: Sequence[float], groups: Sequence[Hashable]) -> tuple[float, float, float]:
    """Mean and 95 % interval of a share by Wilson (1927), for values in [0, 1]; NaN marks an item that does not apply.

    The number of groups stands for the number of items, so items of one group count once: the interval is
    wide enough also where they are all alike. It covers in small numbers, where the bootstrap does not: 2 of 8
    gives [0.071, 0.591]. Returns NaNs if no item is left.
    """
    applicable = [(group, value) for group, value in zip(groups, values, strict=True) if value == value]
    if not applicable:
        return (float("nan"),) * 3
    share, n = sum(value for _, value in applicable) / len(applicable), len({group for group, _ in applicable})
    middle = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n)
    return share, max(0.0, middle - half), min(1.0, middle + half)
