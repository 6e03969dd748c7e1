"""Where views and crops come from: an image that is decoded no further than somebody looks.

A photograph of 67 Mpx takes 0.4 s and 256 MiB to decode and as long again to shrink, but its view is a few hundred pixels wide. A JPEG
decoder can stop at 1/2, 1/4 or 1/8 of each side, so the view of a large JPEG is made from such a scaled decode, which differs from the
exact one by about one grey level (tests/test_originals.py). Crops are always exact: the first one decodes the file once, for everybody.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Protocol

import numpy as np
from PIL import ExifTags, Image, ImageOps

from focus.boxes import Box, Size

# JPEGs of more pixels wait with decoding. Measured (experiments/speed/images.json): at 8 Mpx a view of 256 tokens takes 41 ms instead of
# 87; one of 1,024 tokens gains from about 12 Mpx on, 69 ms instead of 141. The price: for crops the training process decodes for itself
# (32 ms at 8 Mpx) what a data worker would have sent it as pixels (23 ms).
LARGE_PX = 8_000_000


class Original(Protocol):
    """One image, RGB, upright, at native resolution. Shared by the rollouts of a question; threads may ask it at the same time."""

    @property
    def size(self) -> Size:
        """Width and height in pixels, after EXIF rotation."""
        ...

    def reduced(self, size: Size) -> Image.Image:
        """The whole image at exactly `size`, bicubic; at its own size the pixels themselves.

        Raises ValueError, with the file and the remedy, if the file cannot be decoded to its end.
        """
        ...

    def region(self, box_px: Box) -> Image.Image:
        """Exactly the original's pixels inside a box of whole pixels within the image. Raises ValueError like `reduced`."""
        ...

    def release(self) -> None:
        """Let go of pixels that can be decoded again; to be called when the rollouts of its question are done."""
        ...


@dataclass(frozen=True)
class Decoded:
    """An original that is in memory already."""

    image: Image.Image

    @property
    def size(self) -> Size:
        return self.image.size

    def reduced(self, size: Size) -> Image.Image:
        return self.image if size == self.size else self.image.resize(size, Image.Resampling.BICUBIC)

    def region(self, box_px: Box) -> Image.Image:
        return self.image.crop(box_px)

    def release(self) -> None:
        pass  # it has no file to go back to


class LargeJpeg:
    """An original that waits in its file. Its full pixels are decoded once, when first asked for, and live as long as the object.

    `size` is the one after EXIF rotation. A pickle holds the path and the size, never pixels.
    """

    def __init__(self, path: Path, size: Size) -> None:
        self.path, self.size = path, size
        self._lock = Lock()
        self._pixels: Decoded | None = None

    def __reduce__(self) -> tuple[type["LargeJpeg"], tuple[Path, Size]]:
        return LargeJpeg, (self.path, self.size)

    def reduced(self, size: Size) -> Image.Image:
        """As `Original` says; made from a scaled decode wherever one is at least twice as large as `size` on each side.

        What is decoded depends on `size` alone, never on who asked before, so a view has the same pixels in every run.
        """
        with self._reading() as image:
            stored, wanted = image.size, _stored(image, size)
            drafted = image.draft(None, (2 * wanted[0], 2 * wanted[1]))
            if drafted and image.size != stored:
                _, box = drafted  # the last row and column may cover less than a pixel; hence turned after shrinking, while they are last
                return _upright(_rgb(image).resize(wanted, Image.Resampling.BICUBIC, box))
        return self._decoded().reduced(size)

    def region(self, box_px: Box) -> Image.Image:
        return self._decoded().region(box_px)

    def release(self) -> None:
        self._pixels = None

    def _decoded(self) -> Decoded:
        with self._lock:
            if self._pixels is None:
                with self._reading() as image:
                    self._pixels = Decoded(_rgb(_upright(image)))
            return self._pixels

    @contextmanager
    def _reading(self) -> Iterator[Image.Image]:
        with _reading(self.path) as image:
            if _stored(image, self.size) != image.size:
                raise ValueError(f"it was {self.size[0]}x{self.size[1]} px when it was opened and has another size now")
            yield image


def read(path: Path) -> Original:
    """The image in a file: a large JPEG waits with decoding, everything else is decoded at once.

    Raises ValueError, with the file and the remedy, if there is none or it cannot be decoded; of a large JPEG only the header is read here.
    """
    with _reading(path) as image:
        if image.format in ("JPEG", "MPO") and image.width * image.height > LARGE_PX:  # MPO: a phone's JPEG with a second picture in it
            return LargeJpeg(path, _stored(image, image.size))  # turning is its own inverse: upright from stored
        return Decoded(_rgb(_upright(image)))


@contextmanager
def _reading(path: Path) -> Iterator[Image.Image]:
    """The file with its header read. Whatever goes wrong inside is told with the file and the remedy."""
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError:
        raise ValueError(f"image {path} does not exist; check data.root, which image paths are relative to") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"image {path} cannot be decoded ({error}); replace the file or remove its record") from error


def _stored(image: Image.Image, size: Size) -> Size:
    """An upright size as the file stores it, or the other way round."""
    return size[::-1] if image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8) else size


def _upright(image: Image.Image) -> Image.Image:
    """Turned as EXIF says, in place: a copy of an 8K image is 256 MiB."""
    ImageOps.exif_transpose(image, in_place=True)
    return image


def _rgb(image: Image.Image) -> Image.Image:
    """RGB: greys of 16 bits keep their upper 8, transparency stands on white. An RGB image is returned as it is."""
    image.load()
    if image.mode.startswith("I;16"):  # convert would cut off at 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        ground = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(ground, image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")
