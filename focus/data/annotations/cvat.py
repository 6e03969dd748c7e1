"""Reads CVAT for images 1.1: XML, or the zip that contains annotations.xml."""

import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from focus.data.annotations.faults import FORMATS, Fault, Tally
from focus.data.annotations.regions import Region, Unread, group_by_question, make_region, read_number

LARGEST_BYTES = 1 << 30  # of an unpacked annotations.xml
NOT_SHAPES = ("box", "tag")  # children of a CVAT image that are boxes or no shapes


def unzipped(path: Path) -> bytes:
    """The bytes of annotations.xml in a zip.

    Raises ValueError if there is not exactly one, or it is too large.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            files = [entry for entry in archive.infolist() if PurePosixPath(entry.filename).name == "annotations.xml"]
            if len(files) != 1:
                names = ", ".join(archive.namelist()[:8]) or "nothing"
                raise ValueError(
                    f"{path} holds {len(files)} files annotations.xml ({names}); export a task, or unpack it and give the file"
                )
            if files[0].file_size > LARGEST_BYTES:
                raise ValueError(
                    f"{path}: annotations.xml has {files[0].file_size} bytes unpacked, above {LARGEST_BYTES}; export fewer images"
                )
            return archive.read(files[0])
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError) as error:  # RuntimeError: a password
        raise ValueError(f"{path} can't be unpacked ({error}); export it again") from error


def parse_xml(content: bytes, bare: bytes, path: Path) -> ElementTree.Element:
    """The root of an XML export.

    Raises ValueError for a file that declares entities or cannot be parsed.
    """
    # Checked before parsing: entities can grow without limit or read other files
    if b"<!DOCTYPE" in bare or b"<!ENTITY" in bare:
        raise ValueError(f"{path} declares a DOCTYPE or entities, which CVAT never writes; it is not read. Export it again")
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise ValueError(f"{path} is not complete XML ({error}); export it again") from error
    if root.find("track") is not None:
        raise ValueError(f"{path} is CVAT for video; export it as CVAT for images 1.1")
    if root.tag != "annotations" or root.find("image") is None:
        children = ", ".join(dict.fromkeys(child.tag for child in root)) or "nothing"
        raise ValueError(f"{path} is XML, but <{root.tag}> with {children} in it, without <image>; it may be {FORMATS}")
    return root


def read_cvat(root: ElementTree.Element, tally: Tally) -> Iterator[Unread]:
    """The questions of every `<image>`; boxes are in pixels."""
    for image in root.iter("image"):
        name = image.get("name", "")
        location = f"image {name!r}"
        for shape in image:
            if shape.tag not in NOT_SHAPES:
                tally.add(Fault.NOT_RECTANGULAR, location, f"label {shape.get('label')}", shape.tag)
        regions = [_cvat_box(number, box) for number, box in enumerate(image.findall("box"), start=1)]
        yield from group_by_question(location, name, image.get("width"), image.get("height"), regions, {})


def _cvat_box(number: int, box: ElementTree.Element) -> Region:
    x1, y1, x2, y2 = (read_number(box.get(key)) for key in ("xtl", "ytl", "xbr", "ybr"))
    stated = {item.get("name", "").strip().lower(): (item.text or "").strip() for item in box.findall("attribute")}
    group = (box.get("group_id") or "").strip()
    return make_region(
        f"box {number}", (x1, y1, x2, y2), [box.get("label", "")], stated, box.get("rotation"), "" if group == "0" else group
    )
