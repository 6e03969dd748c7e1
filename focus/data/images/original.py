"""Original images, which decode no more of their file than a view or crop needs.

A photograph of 67 Mpx takes 0.4 s and 256 MiB to decode and as long again to shrink, but its view
is a few hundred pixels wide. A JPEG decoder can stop at 1/2, 1/4 or 1/8 of each side, so the view
of a large JPEG is made from such a scaled decode. It differs from the exact view by about one grey
level (tests/data/test_originals.py). Crops are always exact: the first crop decodes the file, the
others share it.

A huge file (`HUGE_PX`) is never held in memory (`Huge`). Every crop streams the file's rows down to
the crop's lower edge and has the same pixels. Huge files that can't be read row by row are refused;
the error says what to convert them to.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Protocol

from PIL import Image

from focus.data.boxes import Box, Size
from focus.data.images.exif import orientation_of, stored_box, stored_size, turned_upright, upright_size
from focus.data.images.header import HUGE_PX, is_deep, is_huge, open_image, reopen_image
from focus.data.images.pixels import EIGHT_BITS, decode, scaled_decode
from focus.data.images.streaming import black_and_white_of_file, crop_reader, load_vips, shrink

# JPEGs of more pixels are decoded later, when a crop needs it. Measured
# (experiments/speed/images.json): at 8 Mpx a view of 256 tokens takes 41 ms instead of 87; a view
# of 1,024 tokens gains from about 12 Mpx on, 69 ms instead of 141. The price: the training process
# decodes for the crops (32 ms at 8 Mpx) what a data worker would have sent as pixels (23 ms).
LARGE_PX = 8_000_000


class Original(Protocol):
    """One image, RGB, upright, at native resolution. The rollouts of a question share it.

    Threads may use it at the same time.
    """

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
        """The original's pixels inside a box of whole pixels within the image.

        Raises ValueError like `reduced`.
        """
        ...

    def release(self) -> None:
        """Free pixels that can be decoded again.

        Call it when the rollouts of the question are done.
        """
        ...


@dataclass(frozen=True)
class Decoded:
    """An original whose pixels are in memory."""

    image: Image.Image

    @property
    def size(self) -> Size:
        return self.image.size

    def reduced(self, size: Size) -> Image.Image:
        return self.image if size == self.size else self.image.resize(size, Image.Resampling.BICUBIC)

    def region(self, box_px: Box) -> Image.Image:
        return self.image.crop(box_px)

    def release(self) -> None:
        pass  # the pixels can't be decoded again


class LargeJpeg:
    """An original whose full pixels are decoded once, when a crop first needs them.

    `size` is after EXIF rotation. A pickle holds the path and the size, never pixels.
    """

    def __init__(self, path: Path, size: Size) -> None:
        self.path, self.size = path, size
        self._lock = Lock()
        self._pixels: Decoded | None = None

    def __reduce__(self) -> tuple[type["LargeJpeg"], tuple[Path, Size]]:
        return LargeJpeg, (self.path, self.size)

    def reduced(self, size: Size) -> Image.Image:
        """See `Original`. Uses a scaled decode if one is at least twice `size` on each side.

        The choice depends on `size` alone, not on earlier calls, so a view has the same pixels in
        every run.
        """
        with self._reading() as image:
            if view := scaled_decode(image, stored_size(image, size)):
                return turned_upright(view, orientation_of(image))
        return self._decoded().reduced(size)

    def region(self, box_px: Box) -> Image.Image:
        return self._decoded().region(box_px)

    def release(self) -> None:
        self._pixels = None

    def _decoded(self) -> Decoded:
        with self._lock:
            if self._pixels is None:
                with self._reading() as image:
                    self._pixels = Decoded(decode(image))
            return self._pixels

    @contextmanager
    def _reading(self) -> Iterator[Image.Image]:
        with reopen_image(self.path, self.size) as image:
            yield image


@dataclass(frozen=True)
class Huge:
    """An original that stays in its file: views and crops are streamed, and nothing is held between
    two of them.

    Crops have exactly the pixels of a full decode, because libvips and Pillow decode alike
    (tests/data/test_originals.py compares them). So does the view, with two exceptions: that of a
    JPEG is made from a scaled decode, as in `LargeJpeg`; that of a file with a rotated EXIF
    orientation is shrunk before it is turned, which differs by a rounding. `size` is after EXIF
    rotation. `scale` holds the values that become black and, just above, white. A pickle holds
    these three fields.
    """

    path: Path
    size: Size
    scale: tuple[float, float] = EIGHT_BITS

    def reduced(self, size: Size) -> Image.Image:
        """See `Original`.

        Memory holds a band of rows and the narrowed image, or a scaled decode of at most HUGE_PX.
        """
        with reopen_image(self.path, self.size) as image:
            wanted = stored_size(image, size)
            view = scaled_decode(image, wanted) or shrink(
                crop_reader(self.path, image.mode, self.scale), stored_size(image, self.size), wanted
            )
            return turned_upright(view, orientation_of(image))

    def region(self, box_px: Box) -> Image.Image:
        """See `Original`.

        Takes as long as decoding the rows above the lower edge of the box, in the file's own frame.
        """
        with reopen_image(self.path, self.size) as image:
            orientation = orientation_of(image)
            crop = crop_reader(self.path, image.mode, self.scale)
            return turned_upright(crop(*stored_box(box_px, self.size, orientation)), orientation)

    def release(self) -> None:
        pass  # nothing is held


def read(path: Path) -> Original:
    """The image in a file: a large JPEG is decoded later, a huge file is streamed, others are
    decoded now.

    Raises BadImage, with the file and the remedy, if the file is missing or cannot be decoded. Of a
    large or huge file only the header is read here. A huge file of more than 8 bits a channel is
    streamed once, to find its range of values.
    """
    with open_image(path) as image:
        if is_huge(image):
            load_vips()
            return Huge(path, upright_size(image), black_and_white_of_file(path, image) if is_deep(image) else EIGHT_BITS)
        if image.format in ("JPEG", "MPO") and image.width * image.height > LARGE_PX:
            return LargeJpeg(path, upright_size(image))
        return Decoded(decode(image))


def read_bytes(content: bytes) -> Original:
    """The image in the bytes of a file, decoded now.

    Raises BadImage like `read`, and for more than HUGE_PX pixels, which only a file on disk may have.
    """
    with open_image(io.BytesIO(content)) as image:
        if is_huge(image):
            raise ValueError(f"it has {image.width}x{image.height} px, and at most {HUGE_PX:,} pixels are taken here; make it smaller")
        return Decoded(decode(image))
