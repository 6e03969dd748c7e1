"""Writes annotated records for Label Studio, CVAT and COCO tools. `read_annotations` reads each of them
back to the same boxes.

Every box says its level (label or category `B1`, `B2`, ...), its question (`qid`: the record's id) and,
where a question has several targets, its chain (`1`, `2`, ...).
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

from focus.data.boxes import Box
from focus.runtime.files import json_text

Record = Mapping[str, Any]  # a canonical record with boxes
NOT_IN_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _levels(record: Record) -> Iterator[tuple[str, str, Box]]:
    """Level, chain and box of every box. The chain of the only target has no name."""
    for number, chain in enumerate(record["boxes"], start=1):
        for level, box_px in enumerate(chain, start=1):
            yield f"B{level}", str(number) if len(record["boxes"]) > 1 else "", tuple(box_px)


def _by_image(records: Iterable[Record]) -> Iterator[tuple[int, list[Record]]]:
    """The records of every image, numbered from 1."""
    images: dict[str, list[Record]] = {}
    for record in records:
        images.setdefault(record["image"], []).append(record)
    yield from enumerate(images.values(), start=1)


def label_studio(records: Sequence[Record]) -> str:
    """Label Studio's JSON: a task for every question, boxes in percent of the image."""
    tasks: list[dict[str, Any]] = []
    for number, record in enumerate(records, start=1):
        width, height = record["width"], record["height"]
        results = [
            {
                "id": f"{level}-{chain}" if chain else level,
                "type": "rectanglelabels",
                "from_name": "label",
                "to_name": "image",
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "value": {
                    "x": 100 * x1 / width,
                    "y": 100 * y1 / height,
                    "width": 100 * (x2 - x1) / width,
                    "height": 100 * (y2 - y1) / height,
                    "rotation": 0,
                    "rectanglelabels": [level],
                },
                **({"meta": {"text": [f"chain={chain}"]}} if chain else {}),
            }
            for level, chain, (x1, y1, x2, y2) in _levels(record)
        ]
        data = {"image": record["image"], "question_id": record["id"], "question": record["question"], "answers": record["answers"]}
        tasks.append({"id": number, "data": data, "annotations": [{"id": number, "was_cancelled": False, "result": results}]})
    return json_text(tasks, indent=1)


def coco(records: Sequence[Record]) -> str:
    """COCO detection JSON. Question and chain stand in `attributes`, where CVAT has them."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    names = sorted({level for record in records for level, _, _ in _levels(record)}, key=lambda level: int(level[1:]))
    categories = {name: number for number, name in enumerate(names, start=1)}
    for number, asked in _by_image(records):
        images.append({"id": number, "file_name": asked[0]["image"], "width": asked[0]["width"], "height": asked[0]["height"]})
        for record in asked:
            for level, chain, (x1, y1, x2, y2) in _levels(record):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": categories[level],
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": (x2 - x1) * (y2 - y1),
                        "iscrowd": 0,
                        "attributes": {"qid": record["id"]} | ({"chain": chain} if chain else {}),
                    }
                )
    named = [{"id": number, "name": name} for name, number in categories.items()]
    return json_text({"images": images, "annotations": annotations, "categories": named}, indent=1)


def cvat(records: Sequence[Record]) -> str:
    """CVAT for images 1.1, XML. Raises ValueError for an id or a name with a character that XML does not have."""
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    for number, asked in _by_image(records):
        about = {"id": number - 1, "name": asked[0]["image"], "width": asked[0]["width"], "height": asked[0]["height"]}
        image = ElementTree.SubElement(root, "image", {key: str(value) for key, value in about.items()})
        for record in asked:
            if strange := NOT_IN_XML.search(record["id"] + record["image"]):
                raise ValueError(f"record {record['id']!r}: XML has no character {strange[0]!r}; export as coco or label_studio")
            for level, chain, corners in _levels(record):
                edges = {key: repr(value) for key, value in zip(("xtl", "ytl", "xbr", "ybr"), corners, strict=True)}
                box = ElementTree.SubElement(image, "box", {"label": level, "source": "manual", "occluded": "0", **edges, "z_order": "0"})
                for name, text in (("qid", record["id"]), ("chain", chain)):
                    if text:
                        ElementTree.SubElement(box, "attribute", {"name": name}).text = text
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True)


# By name: the suffix of the file, and what makes its text
EXPORTS: dict[str, tuple[str, Callable[[Sequence[Record]], str]]] = {
    "label_studio": ("json", label_studio),
    "cvat": ("xml", cvat),
    "coco": ("json", coco),
}
