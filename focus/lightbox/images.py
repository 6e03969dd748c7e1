"""Deep-zoom tiles of images (DZI), cut when they are asked for.

Level `n` shows the image at 1 / 2 ** (levels - 1 - n) of its sides; level 0 is one pixel. Files are
opened and checked by focus.data.images: its limits, EXIF orientation, streams of huge files.
"""

import hashlib
import io
import math
from collections import OrderedDict
from pathlib import Path
from threading import Lock
from typing import Any

from fastapi import HTTPException
from PIL import Image

from focus.data.images.original import Original, read

TILE_PX = 256
OVERLAP_PX = 1
OPEN_AT_ONCE = 4  # originals whose pixels are in memory, 200 MB for one of 8,192 x 8,192 px
REDUCED_AT_ONCE = 12  # reduced copies in memory, each at most a quarter of its original
SMALL_PX = 1024  # levels up to this side are made from one copy: a large JPEG takes as long to decode small
QUALITY = 92  # of the tiles' JPEG


class Images:
    """Images by a hash of their content. Threads may use it at the same time."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._making: dict[str, Lock] = {}  # by key
        self._keys: dict[tuple[str, int, int], str] = {}  # path, bytes and time of change -> key
        self._paths: dict[str, Path] = {}
        self._open: OrderedDict[str, Original] = OrderedDict()
        self._reduced: OrderedDict[tuple[str, int], Image.Image] = OrderedDict()

    def add(self, path: Path) -> str:
        """The key of an image file: a hash of its content."""
        status = path.stat()
        known = (str(path), status.st_size, status.st_mtime_ns)
        with self._lock:
            if known not in self._keys:
                with path.open("rb") as file:
                    self._keys[known] = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
            key = self._keys[known]
            self._paths[key] = path
        return key

    def original(self, key: str) -> Original:
        """The image of a key. Raises HTTPException 404 for an unknown key, BadImage for a file that can't be decoded."""
        with self._lock:
            if key not in self._open:
                if key not in self._paths:
                    raise HTTPException(404, "this image is not known (any more); load the page again")
                self._open[key] = read(self._paths[key])
            self._open.move_to_end(key)
            self._shrink()
            return self._open[key]

    def tile_source(self, key: str) -> dict[str, Any]:
        """The image as OpenSeadragon's deep-zoom source."""
        width, height = self.original(key).size
        size = {"Width": width, "Height": height}
        xmlns = "http://schemas.microsoft.com/deepzoom/2008"
        image = {"xmlns": xmlns, "Url": f"/tiles/{key}/", "Format": "jpg", "Overlap": OVERLAP_PX, "TileSize": TILE_PX, "Size": size}
        return {"Image": image}

    def tile(self, key: str, level: int, column: int, row: int) -> bytes:
        """One tile as JPEG. Raises HTTPException 404 for a tile outside of the image."""
        original = self.original(key)
        width, height = original.size
        top = math.ceil(math.log2(max(width, height)))
        if not 0 <= level <= top:
            raise HTTPException(404, f"level {level} is none of 0 to {top}")
        size = _size_at(original, level, top)
        left, upper = (max(0, at * TILE_PX - OVERLAP_PX) for at in (column, row))
        right, lower = (min(side, (at + 1) * TILE_PX + OVERLAP_PX) for side, at in zip(size, (column, row), strict=True))
        if column < 0 or row < 0 or left >= right or upper >= lower:
            raise HTTPException(404, f"tile {column}_{row} is outside of level {level}")
        box = (left, upper, right, lower)
        tile = original.region(box) if level == top else self._at(key, original, level, top).crop(box)
        out = io.BytesIO()
        tile.convert("RGB").save(out, "JPEG", quality=QUALITY, subsampling=0)
        return out.getvalue()

    def _at(self, key: str, original: Original, level: int, top: int) -> Image.Image:
        """The whole image at the size of a level. One thread makes it, the others wait for it."""
        with self._lock:
            making = self._making.setdefault(key, Lock())
        with making:
            return self._copy(key, original, level, top)

    def _copy(self, key: str, original: Original, level: int, top: int) -> Image.Image:
        with self._lock:
            if (key, level) in self._reduced:
                self._reduced.move_to_end((key, level))
                return self._reduced[key, level]
        size = _size_at(original, level, top)
        if level + 1 < top and 2 * max(size) <= SMALL_PX:
            image = self._copy(key, original, level + 1, top).resize(size, Image.Resampling.BICUBIC)
        else:
            image = original.reduced(size)
        with self._lock:
            self._reduced[key, level] = image
            while len(self._reduced) > REDUCED_AT_ONCE:
                self._reduced.popitem(last=False)
        return image

    def _shrink(self) -> None:
        while len(self._open) > OPEN_AT_ONCE:
            self._open.popitem(last=False)


def _size_at(original: Original, level: int, top: int) -> tuple[int, int]:
    width, height = original.size
    return math.ceil(width / 2 ** (top - level)), math.ceil(height / 2 ** (top - level))
