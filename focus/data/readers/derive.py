"""A chain of nested boxes from one flat box, for sets without annotated chains.

A flat box says where the answer is, not what it is a part of: the sign around a word, the paragraph
around a line. So the outer boxes are the same multiples of the flat box for every question. Records
with such chains are marked `derived`.
"""

from collections.abc import Mapping
from pathlib import Path

from focus.data.boxes import Box, Size, area, intersection, widen
from focus.data.readers.tables import rows_of
from focus.runtime.files import atomic_write, json_text

# B2 and B3 as multiples of B1 per side. B2: SEAL crops at 1.2, Chain-of-Focus at 1.5; 1.25 is a
# choice in that range.
GROWTH = (1.25, 2.0)


def derived_chain(box_px: Box, size: Size, least_px: int) -> tuple[Box, ...]:
    """B1, B2 and B3 of a target, in pixels of the original, smallest first, each inside the next.

    B1 is the box with each side at least `least_px` (28 for Qwen2.5-VL, 32 for Qwen3-VL). B2 and B3
    are B1 times 1.25 and 2 per side about its centre. All are clamped to the image. A level that is
    then no larger than the one before it is dropped. For example, a box of 40 x 40 at (0, 0) of a
    large image gives (0, 0, 40, 40), (0, 0, 45, 45) and (0, 0, 60, 60). Raises ValueError for a box
    without area inside the image.
    """
    inside = intersection(box_px, (0.0, 0.0, float(size[0]), float(size[1])))
    if not area(inside) > 0:  # not <=: a NaN has no area either
        raise ValueError(f"the box {box_px} has no area inside the image of {size[0]}x{size[1]} px; drop it before deriving a chain")
    x1, x2 = _widened(inside[0], inside[2], size[0], least_px)
    y1, y2 = _widened(inside[1], inside[3], size[1], least_px)
    chain: list[Box] = [(x1, y1, x2, y2)]
    for factor in GROWTH:
        more_x, more_y = (x2 - x1) * (factor - 1) / 2, (y2 - y1) * (factor - 1) / 2
        grown = (max(0.0, x1 - more_x), max(0.0, y1 - more_y), min(float(size[0]), x2 + more_x), min(float(size[1]), y2 + more_y))
        if area(grown) > area(chain[-1]):
            chain.append(grown)
    return tuple(chain)


def _has_sound_boxes(record: Mapping) -> bool:
    """Whether every box of a record is four numbers with an area inside its image."""
    try:
        image_px = (0.0, 0.0, float(record["width"]), float(record["height"]))
        return all(area(intersection((x1, y1, x2, y2), image_px)) > 0 for chain in record.get("boxes", ()) for x1, y1, x2, y2 in chain)
    except (KeyError, TypeError, ValueError, OverflowError):
        return False


def _widened(low: float, high: float, limit: int, least: int) -> tuple[float, float]:
    """See `widen`; a rounding error may not leave the image."""
    low, high = widen(low, high, limit, least)
    return max(0.0, float(low)), min(float(limit), float(high))


def write_derived(records: Path, out: Path, least_px: int) -> int:
    """Write to `out` the records of a `records.jsonl`, with a derived chain for each target of one
    box.

    Returns the number of derived chains. Targets that have a chain stay as they are. So does a
    record with a malformed box: the reader of `out` counts it. `out` appears when it is complete.
    Raises ValueError if no target has one box.
    """
    targets = 0
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(out) as partial:
        with partial.open("w") as lines:
            for _, record in rows_of(records):
                flat = [len(chain) == 1 for chain in record.get("boxes", ())] if _has_sound_boxes(record) else []
                if any(flat):
                    size = (record["width"], record["height"])
                    chains = [derived_chain(tuple(c[0]), size, least_px) if f else c for c, f in zip(record["boxes"], flat, strict=True)]
                    labels = record.get("box_labels") or [[""] * len(chain) for chain in record["boxes"]]
                    names = [[name[0]] * len(chain) if f else name for name, chain, f in zip(labels, chains, flat, strict=True)]
                    record |= {"boxes": chains, "box_labels": names, "box_origin": "derived", "box_rule": f"grown from {least_px} px"}
                    targets += sum(flat)
                lines.write(json_text(record) + "\n")
        if not targets:
            raise ValueError(f"{records} has no target with a single box to grow a chain from; leave data.derive_boxes at 0")
    return targets
