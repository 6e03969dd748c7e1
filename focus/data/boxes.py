"""Boxes, their frames, and all conversions between frames.

A box is `(x1, y1, x2, y2)`, floats, right and bottom edges excluded. Every name states the frame:
`box_px` is in pixels of the ORIGINAL image, `box_view` is in the coordinates that the model writes
about its view. No function guesses a frame from the magnitude of the numbers.
"""

import math
from collections.abc import Iterable
from enum import StrEnum

Box = tuple[float, float, float, float]
Size = tuple[int, int]  # width, height

# Of a box. A box with a smaller side is probably given in fractions of the image's sides
LEAST_SIDE_PX = 1.0
FORGIVEN_PX = 2.0  # a box that leaves the image by no more is clamped, and counted


class Frame(StrEnum):
    """The coordinates in which a model family writes a box."""

    VIEW_PIXELS = "view_pixels"  # Qwen2.5-VL: absolute pixels of the resized image
    PER_MILLE = "per_mille"  # Qwen3-VL, Qwen3.5: 0 to 1000 of each side
    FRACTION = "fraction"  # Mini-o3: 0 to 1 of each side

    def extent(self, view_size: Size) -> tuple[float, float]:
        """The coordinates of the view's right and bottom edge in this frame."""
        side = {Frame.PER_MILLE: 1000.0, Frame.FRACTION: 1.0}.get(self)
        return (side, side) if side else (float(view_size[0]), float(view_size[1]))


def to_original(box_view: Box, frame: Frame, view_size: Size, original_size: tuple[float, float]) -> Box:
    """A box that the model wrote, in pixels of the original.

    Each axis has its own exact scale. Nothing is rounded or clamped.
    """
    extent = frame.extent(view_size)
    scale_x, scale_y = original_size[0] / extent[0], original_size[1] / extent[1]
    return (box_view[0] * scale_x, box_view[1] * scale_y, box_view[2] * scale_x, box_view[3] * scale_y)


def to_view(box_px: Box, frame: Frame, view_size: Size, original_size: Size) -> Box:
    """The inverse of `to_original`, rounded as models write it: integers, or thousandths of a
    fraction.
    """
    extent = frame.extent(view_size)
    scale_x, scale_y = extent[0] / original_size[0], extent[1] / original_size[1]
    digits = 3 if frame is Frame.FRACTION else 0
    x1, y1, x2, y2 = box_px
    return (round(x1 * scale_x, digits), round(y1 * scale_y, digits), round(x2 * scale_x, digits), round(y2 * scale_y, digits))


def area(box: Box) -> float:
    """Area in squared units of the box's own frame; 0 for an empty or inverted box."""
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def shorter_side(box: Box) -> float:
    """The shorter side in the box's own frame; below 0 for an inverted box."""
    return min(box[2] - box[0], box[3] - box[1])


def intersection(a: Box, b: Box) -> Box:
    """The shared part, in the frame of both; its `area` is 0 if they do not meet."""
    return (max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))


def enclosing(boxes: Iterable[Box]) -> Box:
    """The smallest box that contains all of `boxes`, in their frame.

    Raises ValueError if there is none.
    """
    x1, y1, x2, y2 = zip(*boxes, strict=True)
    return (min(x1), min(y1), max(x2), max(y2))


def clamp(box_px: Box, size: Size) -> tuple[Box, float]:
    """The part of a box inside an image of `size`, and by how many pixels the clamped edge farthest
    outside moved.
    """
    inside = intersection(box_px, (0.0, 0.0, float(size[0]), float(size[1])))
    return inside, max(abs(a - b) for a, b in zip(box_px, inside, strict=True))


def iou(a: Box, b: Box) -> float:
    """Intersection over union, in [0, 1]; 0 if both boxes are empty."""
    shared = area(intersection(a, b))
    union = area(a) + area(b) - shared
    return shared / union if union > 0 else 0.0


def coverage(box: Box, target: Box) -> float:
    """E5: the part of `target` that lies inside `box`, in [0, 1].

    Raises ValueError for an empty target.
    """
    if area(target) <= 0:
        raise ValueError(f"the target box {target} has no area, so no part of it can be covered; boxes are (x1, y1, x2, y2)")
    return area(intersection(box, target)) / area(target)


def settle(box_px: Box, original_size: Size, min_side_px: int) -> Box | None:
    """The whole pixels that a crop tool cuts for a box that the model wrote.

    Corners may come in any order. The box is clamped to the image and rounded outward. A side below
    `min_side_px` grows about its centre and then slides inside the image; if the image is smaller
    than that, its whole side is taken. Returns None if the box is not finite or does not touch the
    image (a box of zero area touches the image if it lies in it).
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


def _settle_axis(low: float, high: float, limit: int, least: int) -> tuple[float, float]:
    first, last = math.floor(max(low, 0.0)), math.ceil(min(high, float(limit)))
    return widen(first, last, limit, least, whole=True)


def widen(low: float, high: float, limit: float, least: float, whole: bool = False) -> tuple[float, float]:
    """A side grown about its centre to the length `least`, then slid inside 0 to `limit`.

    A side of at least that length stays as it is. `limit` is the length if it is below `least`.
    With `whole`, whole numbers stay whole: an odd pixel goes to the high end.
    """
    missing = min(least, limit) - (high - low)
    if missing <= 0:
        return low, high
    before = missing // 2 if whole else missing / 2
    low, high = low - before, high + (missing - before)
    shift = max(0.0, -low) - max(0.0, high - limit)
    return low + shift, high + shift
