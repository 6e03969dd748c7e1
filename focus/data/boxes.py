"""Boxes, their frames, and the only place that converts between them.

A box is `(x1, y1, x2, y2)`, floats, right and bottom edges excluded. Its frame stands in every name:
`box_px` is in pixels of the ORIGINAL image, `box_view` is what the model spoke about the view it saw.
The numbers say nothing about their frame, so nothing here guesses it from their magnitude.
"""

import math
from enum import StrEnum

Box = tuple[float, float, float, float]
Size = tuple[int, int]  # width, height


class Frame(StrEnum):
    """How a model family speaks of a place in the image it saw."""

    VIEW_PIXELS = "view_pixels"  # Qwen2.5-VL: absolute pixels of the resized image
    PER_MILLE = "per_mille"  # Qwen3-VL: 0 to 1000 of each side
    FRACTION = "fraction"  # Mini-o3: 0 to 1 of each side

    def extent(self, view_size: Size) -> tuple[float, float]:
        """The spoken coordinates of the view's right and bottom edge."""
        side = {Frame.PER_MILLE: 1000.0, Frame.FRACTION: 1.0}.get(self)
        return (side, side) if side else (float(view_size[0]), float(view_size[1]))


def to_original(box_view: Box, frame: Frame, view_size: Size, original_size: tuple[float, float]) -> Box:
    """A spoken box, in pixels of the original. Each axis has its own exact scale; nothing is rounded or clamped."""
    extent = frame.extent(view_size)
    scale_x, scale_y = original_size[0] / extent[0], original_size[1] / extent[1]
    return (box_view[0] * scale_x, box_view[1] * scale_y, box_view[2] * scale_x, box_view[3] * scale_y)


def to_view(box_px: Box, frame: Frame, view_size: Size, original_size: Size) -> Box:
    """The inverse of `to_original`, rounded to what models speak: integers, or thousandths of a fraction."""
    extent = frame.extent(view_size)
    scale_x, scale_y = extent[0] / original_size[0], extent[1] / original_size[1]
    digits = 3 if frame is Frame.FRACTION else 0
    x1, y1, x2, y2 = box_px
    return (round(x1 * scale_x, digits), round(y1 * scale_y, digits), round(x2 * scale_x, digits), round(y2 * scale_y, digits))


def area(box: Box) -> float:
    """Area in squared units of the box's own frame; 0 for an empty or inverted box."""
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def intersection(a: Box, b: Box) -> Box:
    """The shared part, in the frame of both; its `area` is 0 where they do not meet."""
    return (max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))


def iou(a: Box, b: Box) -> float:
    """Intersection over union, in [0, 1]; 0 where both boxes are empty."""
    shared = area(intersection(a, b))
    union = area(a) + area(b) - shared
    return shared / union if union > 0 else 0.0


def coverage(box: Box, target: Box) -> float:
    """E5: the part of `target` that lies inside `box`, in [0, 1]. Raises ValueError for an empty target."""
    if area(target) <= 0:
        raise ValueError(f"the target box {target} has no area, so no part of it can be covered; boxes are (x1, y1, x2, y2)")
    return area(intersection(box, target)) / area(target)


def settle(box_px: Box, original_size: Size, min_side_px: int) -> Box | None:
    """The pixels a crop tool cuts for a spoken box: ordered, grown to a least side, clamped, rounded outward.

    Corners may come in any order. A side below `min_side_px` grows about its centre and then slides inside the
    image; an image smaller than that is taken whole. Returns None where the box does not touch the image (a box of zero
    area touches it where it stands) or is not finite: there is no crop that the model could have meant.
    """
    width, height = original_size
    if not all(math.isfinite(value) for value in box_px):
        return None
    x1, x2 = sorted((box_px[0], box_px[2]))
    y1, y2 = sorted((box_px[1], box_px[3]))
    if x1 >= width or y1 >= height or x2 < 0 or y2 < 0 or (x2 == 0 and x1 < 0) or (y2 == 0 and y1 < 0):
        return None
    left, right = _settle_axis(x1, x2, width, min_side_px)
    top, bottom = _settle_axis(y1, y2, height, min_side_px)
    return (float(left), float(top), float(right), float(bottom))


def _settle_axis(low: float, high: float, limit: int, least: int) -> tuple[int, int]:
    first, last = math.floor(max(low, 0.0)), math.ceil(min(high, float(limit)))
    missing = min(least, limit) - (last - first)
    if missing > 0:
        first -= missing // 2
        last += missing - missing // 2
        shift = max(0, -first) - max(0, last - limit)
        first, last = first + shift, last + shift
    return first, last
