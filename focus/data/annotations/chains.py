"""Builds nested chains of boxes: ordered by level, by link or by containment, and checked."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

from focus.data.annotations.faults import BadAnnotation, Fault
from focus.data.annotations.regions import (
    LEVEL,
    LEVEL_LABEL,
    Annotated,
    Question,
    Region,
    area_of,
    label_of,
    percent_to_px,
)
from focus.data.boxes import FORGIVEN_PX, LEAST_SIDE_PX, Box, Size, area, clamp, enclosing, intersection, shorter_side

# Of the outer box's side: how far an inner box may stick out if this is more than FORGIVEN_PX
SIDE_TOLERANCE = 0.01
ROUNDING_PX = 1e-6  # a smaller move of an edge is a rounding error of percent, and is not noted


def size_of(question: Question, record_sizes: set[Size]) -> Size:
    """The size of the image on which the question's boxes were drawn.

    `record_sizes` are the image sizes of the records that it may belong to. Raises BadAnnotation.
    """
    if question.size is None:
        if len(record_sizes) != 1:
            raise BadAnnotation(
                Fault.NO_SIZE, "width x height", f"missing; records of {question.image or 'it'} have {len(record_sizes)} sizes"
            )
        return next(iter(record_sizes))
    if question.size not in record_sizes and question.size[::-1] in record_sizes:
        raise BadAnnotation(Fault.TURNED_SIZE, "width x height", describe_size(question.size))
    return question.size


def annotate(question: Question, size: Size, repair: bool) -> tuple[Annotated, list[BadAnnotation]]:
    """The chains of a question about an image of this size, and notes about them.

    Raises BadAnnotation.
    """
    notes: list[BadAnnotation] = []
    regions = list(question.regions)
    if question.in_percent:
        regions = [replace(region, box_px=percent_to_px(*region.box_px, size)) for region in regions]
    regions = [_clamped(region, size, notes) for region in regions]
    rule, ordered = _ordered(regions, question.links, repair)
    chains = tuple(_nested(chain, repair, notes) for chain in ordered)
    labels = tuple(tuple(map(label_of, chain)) for chain in ordered)
    return Annotated(question.question_id, question.image, size, chains, labels, rule, question.location), notes


def _clamped(region: Region, size: Size, notes: list[BadAnnotation]) -> Region:
    """The region inside the image. Raises BadAnnotation for a box that can't be used."""
    if not all(map(math.isfinite, region.box_px)):
        raise BadAnnotation(Fault.BAD_NUMBER, region.name, region.box_px)
    if region.rotation % 360 != 0:  # NaN is refused as well
        raise BadAnnotation(Fault.ROTATED, f"{region.name}.rotation", region.rotation)
    if area(region.box_px) <= 0:
        raise BadAnnotation(Fault.NO_AREA, region.name, region.box_px)
    clamped, moved_px = clamp(region.box_px, size)
    if moved_px > FORGIVEN_PX or area(clamped) <= 0:
        raise BadAnnotation(Fault.OUTSIDE, region.name, f"{region.box_px} in {describe_size(size)}")
    if shorter_side(clamped) < LEAST_SIDE_PX:
        raise BadAnnotation(Fault.FRACTION, region.name, f"{region.box_px} in {describe_size(size)}")
    if moved_px > ROUNDING_PX:
        notes.append(BadAnnotation(Fault.CLAMPED, region.name, region.box_px))
    return replace(region, box_px=clamped)


def _ordered(regions: list[Region], links: Sequence[tuple[str, str]], repair: bool) -> tuple[str, list[list[Region]]]:
    """The first rule that applies, and the boxes of each chain from the inside out."""
    levels = [_level(region) for region in regions]
    if any(level is not None for level in levels):
        return "level", _by_level(regions, levels)
    names = dict.fromkeys(region.group for region in regions if region.group)
    groups = [[region for region in regions if region.group == name] for name in names]
    grouped = [(a.name, b.name) for group in groups for a, b in pairwise(sorted(group, key=area_of))]
    if links or grouped:
        return "link", _by_link(regions, [*links, *grouped])
    targets: dict[str, list[Region]] = {}
    for region in regions:
        targets.setdefault(region.stated.get("chain", ""), []).append(region)
    chains = []
    for name, members in targets.items():
        chains += [sorted(members, key=area_of)] if name else _by_containment(members, repair)
    return "containment", chains


def _level(region: Region) -> int | None:
    stated = [label for label in region.labels if LEVEL_LABEL.fullmatch(label)]
    stated += [region.stated["level"]] if "level" in region.stated else []
    levels = {match[1] if (match := LEVEL.fullmatch(text)) else None for text in stated}
    if None in levels or len(levels) > 1:
        raise BadAnnotation(Fault.BAD_LEVEL, f"{region.name}.level", " and ".join(stated))
    return int(next(iter(levels)) or 0) if levels else None


def _by_level(regions: list[Region], levels: list[int | None]) -> list[list[Region]]:
    targets: dict[str, dict[int, Region]] = {}
    for region, level in zip(regions, levels, strict=True):
        if level is None:
            raise BadAnnotation(Fault.LACKS_LEVEL, f"{region.name}.level", " ".join(region.labels))
        chain = targets.setdefault(region.stated.get("chain") or region.group, {})
        if level in chain:
            raise BadAnnotation(Fault.REPEATED_LEVEL, f"{region.name}.level", level)
        chain[level] = region
    for name, chain in targets.items():
        if sorted(chain) != list(range(1, len(chain) + 1)):
            raise BadAnnotation(Fault.GAP, f"level (chain {name})" if name else "level", sorted(chain))
    return [[chain[level] for level in sorted(chain)] for chain in targets.values()]


def _by_link(regions: list[Region], links: Iterable[tuple[str, str]]) -> list[list[Region]]:
    by_name = {region.name: region for region in regions}
    if len(by_name) < len(regions):
        raise BadAnnotation(Fault.BAD_VALUE, "id", "two boxes have the same")
    outer_of: dict[str, str] = {}
    inner_of: dict[str, str] = {}
    for inner, outer in links:
        if inner not in by_name or outer not in by_name:
            raise BadAnnotation(Fault.DANGLING, "link", f"{inner} in {outer}")
        if outer_of.setdefault(inner, outer) != outer or inner_of.setdefault(outer, inner) != inner:
            raise BadAnnotation(Fault.NO_CHAIN, "link", f"{inner} in {outer}")
    chains = [[region] for region in regions if region.name not in inner_of]
    for chain in chains:
        while chain[-1].name in outer_of:
            chain.append(by_name[outer_of[chain[-1].name]])
    if sum(map(len, chains)) < len(regions):
        raise BadAnnotation(Fault.NO_CHAIN, "link", "a circle")
    for lone in (chain[0] for chain in chains if len(chain) == 1):
        for other in regions:
            if other is not lone and (_contains(other.box_px, lone.box_px) or _contains(lone.box_px, other.box_px)):
                raise BadAnnotation(Fault.UNLINKED, "link", f"{lone.name} and {other.name}")
    return chains


def _by_containment(regions: list[Region], repair: bool) -> list[list[Region]]:
    """Chains of boxes that are nested or separate.

    Overlapping boxes that are neither are refused, unless `repair`.
    """
    chains: list[list[Region]] = []
    for region in sorted(regions, key=area_of):
        overlapping = [chain for chain in chains if _overlapping(chain[-1].box_px, region.box_px)]
        within = [chain for chain in overlapping if repair or _contains(region.box_px, chain[-1].box_px)]
        if len(within) < len(overlapping):
            mismatch = next(chain for chain in overlapping if chain not in within)
            raise BadAnnotation(Fault.NOT_NESTED, f"{mismatch[-1].name} in {region.name}", f"{mismatch[-1].box_px} in {region.box_px}")
        if len(within) > 1:
            raise BadAnnotation(Fault.SEVERAL_INSIDE, region.name, " and ".join(chain[-1].name for chain in within))
        if within:
            within[0].append(region)
        else:
            chains.append([region])
    first = {region.name: number for number, region in enumerate(regions)}
    return sorted(chains, key=lambda chain: min(first[region.name] for region in chain))


def _nested(chain: list[Region], repair: bool, notes: list[BadAnnotation]) -> tuple[Box, ...]:
    """The boxes of a chain, each grown to contain the one before it.

    Raises BadAnnotation if a box sticks out by more than `_contains` allows, unless `repair`.
    """
    boxes = [chain[0].box_px]
    for before, region in pairwise(chain):
        inner, outer = boxes[-1], region.box_px
        both = enclosing((inner, outer))
        within = _contains(outer, inner)
        if area(both) <= area(inner) or not (within or repair):
            raise BadAnnotation(Fault.NOT_NESTED, f"{before.name} in {region.name}", f"{inner} in {outer}")
        if max(abs(a - b) for a, b in zip(outer, both, strict=True)) > ROUNDING_PX:
            notes.append(BadAnnotation(Fault.GREW if within else Fault.REPAIRED, f"{before.name} in {region.name}", f"{inner} in {outer}"))
        boxes.append(both)
    return tuple(boxes)


def _contains(outer: Box, inner: Box) -> bool:
    """Whether inner lies in outer, with a tolerance of 2 px or 1 % of outer's side, whichever is
    larger.
    """
    x, y = (max(FORGIVEN_PX, SIDE_TOLERANCE * (outer[axis + 2] - outer[axis])) for axis in (0, 1))
    return inner[0] >= outer[0] - x and inner[1] >= outer[1] - y and inner[2] <= outer[2] + x and inner[3] <= outer[3] + y


def _overlapping(smaller: Box, larger: Box) -> bool:
    """Whether boxes share more than FORGIVEN_PX, or the smaller one is thinner than that and lies
    in the larger one.
    """
    overlap_px = shorter_side(intersection(smaller, larger))
    return overlap_px > FORGIVEN_PX or (overlap_px > 0 and _contains(larger, smaller))


def describe_size(size: Size) -> str:
    """An image size for messages."""
    return f"{size[0]}x{size[1]} px"
