"""Reads COCO detection JSON as Label Studio, CVAT and Roboflow write it."""

import math
from collections.abc import Iterator, Mapping

from focus.data.annotations.faults import Fault, Tally
from focus.data.annotations.regions import Region, Unread, group_by_question, make_region, read_number, read_text


def read_coco(export: Mapping, tally: Tally) -> Iterator[Unread]:
    """The questions of an export. `bbox` is x, y, width, height in pixels.

    Levels, chains and ids are read from `attributes`, where CVAT writes them, because COCO has no
    fields for them.
    """
    categories = export.get("categories")
    named = [item for item in categories if isinstance(item, dict)] if isinstance(categories, list) else []
    labels = {item["id"]: str(item.get("name", "")) for item in named if isinstance(item.get("id"), str | int)}
    images: dict[object, Mapping] = {}
    regions: dict[object, list[Region]] = {}
    parents: dict[str, str] = {}
    for image in export["images"]:
        try:
            if image["id"] in images:
                raise ValueError("two images have this id")
            images[image["id"]], regions[image["id"]] = image, []
        except (KeyError, TypeError, ValueError) as error:
            tally.add(Fault.BAD_VALUE, "images", "id", f"{image!r:.40}: {error}")
    for annotation in export["annotations"]:
        location = f"annotation {annotation.get('id', '?') if isinstance(annotation, dict) else annotation!r:.40}"
        try:
            if annotation["image_id"] not in images:
                tally.add(Fault.NO_SUCH_IMAGE, location, "image_id", annotation["image_id"])
            elif annotation.get("iscrowd") or not annotation.get("bbox"):
                tally.add(Fault.NOT_RECTANGULAR, location, "iscrowd or no bbox", annotation.get("bbox"))
            else:
                region, parent = _coco_box(annotation, labels)
                regions[annotation["image_id"]].append(region)
                parents |= {region.name: parent} if parent else {}
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            tally.add(Fault.BAD_BOX, location, type(error).__name__, error)
    for key, image in images.items():
        name = str(image.get("file_name", ""))
        yield from group_by_question(f"image {name!r}", name, image.get("width"), image.get("height"), regions[key], parents)


def _coco_box(annotation: Mapping, labels: Mapping[object, str]) -> tuple[Region, str]:
    """The box, and the id of the annotation around it, if it states one."""
    bbox = annotation["bbox"] if len(annotation["bbox"]) == 4 else [math.nan] * 4
    x, y, width, height = map(read_number, bbox)
    attributes = annotation.get("attributes") or {}
    stated = {key.strip().lower(): read_text(value) for key, value in attributes.items()}
    label = labels.get(annotation.get("category_id"), "")
    group, parent = ("" if stated.get(key) in (None, "0") else stated[key] for key in ("group_id", "parent_id"))
    box_px = (x, y, x + width, y + height)
    return make_region(str(annotation["id"]), box_px, [label], stated, attributes.get("rotation"), group), parent
