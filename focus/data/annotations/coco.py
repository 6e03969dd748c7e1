"""COCO detection JSON, as Label Studio, CVAT and Roboflow write it."""

import math
import re
from collections.abc import Iterator, Mapping

from focus.data.annotations.faults import Fault, Tally
from focus.data.annotations.regions import Region, Unread, group_by_question, make_region, read_number, read_text

ROBOFLOW = re.compile(r"(.+)_(?:jpe?g|png|webp|bmp|tiff?)\.rf\.\w+")  # a stem as Roboflow exports it: `photo_jpg.rf.0a1b2c`


def read_coco(export: Mapping, tally: Tally) -> Iterator[Unread]:
    """`bbox` is x, y, width, height in pixels; what COCO has no field for stands in `attributes`, where CVAT writes it."""
    labels = {each["id"]: str(each.get("name", "")) for each in export.get("categories") or [] if isinstance(each, dict) and "id" in each}
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
        place = f"annotation {annotation.get('id', '?') if isinstance(annotation, dict) else annotation!r:.40}"
        try:
            if annotation["image_id"] not in images:
                tally.add(Fault.NO_SUCH_IMAGE, place, "image_id", annotation["image_id"])
            elif annotation.get("iscrowd") or not annotation.get("bbox"):
                tally.add(Fault.NOT_RECTANGULAR, place, "iscrowd or no bbox", annotation.get("bbox"))
            else:
                region, parent = _coco_box(annotation, labels)
                regions[annotation["image_id"]].append(region)
                parents |= {region.name: parent} if parent else {}
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            tally.add(Fault.BAD_BOX, place, type(error).__name__, error)
    for key, image in images.items():
        name = str(image.get("file_name", ""))
        yield from group_by_question(f"image {name!r}", name, image.get("width"), image.get("height"), regions[key], parents)


def _coco_box(annotation: Mapping, labels: Mapping[object, str]) -> tuple[Region, str]:
    """The box, and the id of the annotation around it, if it says one."""
    bbox = annotation["bbox"] if len(annotation["bbox"]) == 4 else [math.nan] * 4
    x, y, width, height = map(read_number, bbox)
    attributes = annotation.get("attributes") or {}
    said = {key.strip().lower(): read_text(value) for key, value in attributes.items()}
    label = labels.get(annotation.get("category_id"), "")
    group, parent = ("" if said.get(key) in (None, "0") else said[key] for key in ("group_id", "parent_id"))
    box_px = (x, y, x + width, y + height)
    return make_region(str(annotation["id"]), box_px, [label], said, attributes.get("rotation"), group), parent
