"""Do crops show what was asked for, and how often would crops of their size do so at random places?"""

import math
from collections.abc import Sequence

import numpy as np

from focus.data.boxes import Box, Size, area, coverage

COVERED = 0.9  # a crop shows a text of which it covers more than this, as in the coverage gate of E6


def hits(crops_px: Sequence[Box], targets_px: Sequence[Box], size: Size) -> tuple[float, float]:
    """The share of targets (B1) that some crop shows, and the share that crops of these sizes would show by chance.

    By chance means: every crop at a place of whole pixels of the image drawn uniformly, independent of the others.
    `size` is that of the image, in pixels. The chance is exact: places are counted, not drawn.
    """
    shown = [any(coverage(crop, target) > COVERED for crop in crops_px) for target in targets_px]
    missed = [math.prod(1 - _share_of_places(crop, target, size) for crop in crops_px) for target in targets_px]
    return sum(shown) / len(shown), 1 - sum(missed) / len(missed)


def _share_of_places(crop_px: Box, target_px: Box, size: Size) -> float:
    """At which share of all places of whole pixels a box of this size shows the target."""
    overlaps = []  # along each axis: how many px of the target are inside, and at how many places
    for axis in (0, 1):
        length = crop_px[axis + 2] - crop_px[axis]
        first = np.arange(math.floor(size[axis] - length) + 1)
        inside = np.minimum(first + length, target_px[axis + 2]) - np.maximum(first, target_px[axis])
        overlaps.append(np.unique(np.maximum(inside, 0), return_counts=True))
    (across, columns), (down, rows) = overlaps
    shows = np.outer(across, down) / area(target_px) > COVERED
    return float((np.outer(columns, rows) * shows).sum() / (columns.sum() * rows.sum()))
