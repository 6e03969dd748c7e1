"""Names of image files in exports: uploads and exporters rewrite them, so they are compared in
simplified form.
"""

import re
import unicodedata
from pathlib import PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")  # the prefix that Label Studio adds to an uploaded file
# A stem as Roboflow exports it: `photo_jpg.rf.0a1b2c`
ROBOFLOW = re.compile(r"(.+)_(?:jpe?g|png|webp|bmp|tiff?)\.rf\.\w+")


def file_name(image: str) -> str:
    """The name of the image's file, from a path, a URL, or an address of Label Studio's local files
    or uploads.

    Empty for a data URL. The prefix of an upload is removed.
    """
    if image.startswith("data:"):
        return ""
    address = urlsplit(image)
    path = parse_qs(address.query).get("d", [unquote(address.path)])[0] if "://" in image or address.query else image
    path = path.replace("\\", "/")
    name = PurePosixPath(path).name
    return UPLOADED.sub("", name, count=1) if "/upload/" in path else name


def stem(image: str) -> str:
    """The name of an image's file without suffix, in NFC, because a Mac writes an é as two
    characters.
    """
    return unicodedata.normalize("NFC", PurePosixPath(image.replace("\\", "/")).stem)


def simplified(name: str) -> str:
    """A stem as an upload to Label Studio rewrites it, without blanks and marks, in lower case for
    comparison.
    """
    return re.sub(r"[^\w.-]", "", name.strip().replace(" ", "_")).casefold()


def likely_stems(image: str) -> list[str]:
    """Simplified stems that an annotated image may have had before upload and export, the least
    changed first.
    """
    names = [stem(image)]
    for undo in (unquote, lambda name: ROBOFLOW.sub(r"\1", name), lambda name: UPLOADED.sub("", name, count=1)):
        names += [undo(name) for name in names]
    return list(dict.fromkeys(map(simplified, names)))
