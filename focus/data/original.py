"""Where views and crops come from: an image that is decoded no further than somebody looks.

A photograph of 67 Mpx takes 0.4 s and 256 MiB to decode and as long again to shrink, but its view is a few hundred pixels wide. A JPEG
decoder can stop at 1/2, 1/4 or 1/8 of each side, so the view of a large JPEG is made from such a scaled decode, which differs from the
exact one by about one grey level (tests/test_originals.py). Crops are always exact: the first one decodes the file once, for everybody.

Of a file of 200 Mpx nothing is held (`Huge`): every crop streams through the file's rows down to its lower edge, with the same pixels.
Files that nobody can read row by row are refused at that size, with what to convert them to.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Protocol

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from focus.boxes import Box, Size

# JPEGs of more pixels wait with decoding. Measured (experiments/speed/images.json): at 8 Mpx a view of 256 tokens takes 41 ms instead of
# 87; one of 1,024 tokens gains from about 12 Mpx on, 69 ms instead of 141. The price: for crops the training process decodes for itself
# (32 ms at 8 Mpx) what a data worker would have sent it as pixels (23 ms).
LARGE_PX = 8_000_000

# Files of more pixels are streamed, never held: 8192 x 8192 px are 256 MiB in memory. The price: each crop decodes what lies above it.
HUGE_PX = 8192 * 8192

# The most pixels of a file. Pillow refuses images of more than twice its own limit, which is otherwise below 200 Mpx.
LIMIT_PX = 1_000_000_000
Image.MAX_IMAGE_PIXELS = LIMIT_PX // 2

BAND_PX = 2_000_000  # pixels of a huge file that are in memory at once, while its view is made
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")  # JPEG opens MPO too; nothing that runs a program, as EPS does
STREAMED = ("JPEG", "MPO", "PNG", "TIFF")  # MPO: a phone's JPEG with a second picture in it
STREAMED_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I;16B")
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


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
            if view := _drafted(image, _stored(image, size)):
                return _upright(view)
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
        with _reopening(self.path, self.size) as image:
            yield image


@dataclass(frozen=True)
class Huge:
    """An original that stays in its file: views and crops are streamed from it, and no pixels are held between two of them.

    Crops have exactly the pixels of a full decode (libvips and Pillow decode alike; tests/test_originals.py compares them). So has the
    view, except that of a JPEG, which is made from a scaled decode like a `LargeJpeg`'s, and that of a file that lies on its side, which is
    shrunk before it is turned (a rounding apart). `size` is the one after EXIF rotation. A pickle holds the path and the size.
    """

    path: Path
    size: Size

    def reduced(self, size: Size) -> Image.Image:
        """As `Original` says. In memory are a band of rows and what they shrink to in width, or a scaled decode of at most HUGE_PX."""
        with _reopening(self.path, self.size) as image:
            wanted = _stored(image, size)
            view = _drafted(image, wanted) or _shrunk(_rows(self.path, image.mode), _stored(image, self.size), wanted)
            return _turned(view, _orientation(image))

    def region(self, box_px: Box) -> Image.Image:
        """As `Original` says. Takes as long as decoding what lies above the lower edge of the box, in the file's own frame."""
        with _reopening(self.path, self.size) as image:
            orientation = _orientation(image)
            cut = _rows(self.path, image.mode)
            return _turned(cut(*_stored_box(box_px, self.size, orientation)), orientation)

    def release(self) -> None:
        pass  # nothing is held


def read(path: Path) -> Original:
    """The image in a file: a large JPEG waits with decoding, a huge file is streamed, everything else is decoded at once.

    Raises ValueError, with the file and the remedy, if there is none or it cannot be decoded; of a large or huge file only the header is
    read here.
    """
    with _reading(path) as image:
        if _is_huge(image):
            _check_streams(image)
            _vips()
            return Huge(path, _upright_size(image))
        if image.format in ("JPEG", "MPO") and image.width * image.height > LARGE_PX:
            return LargeJpeg(path, _upright_size(image))
        return Decoded(_rgb(_upright(image)))


def measured(source: Path | io.BytesIO) -> Size:
    """Width and height in pixels, after EXIF rotation, of the image in a file or in its bytes; only the header is read.

    Raises ValueError, with the reason and the remedy, if it is not an image or one that `read` refuses by its header.
    """
    with _reading(source) as image:
        if _is_huge(image):
            _check_streams(image)
        return _upright_size(image)


def orientation(source: Path | io.BytesIO) -> int:
    """What EXIF says about the image in a file or in its bytes, 1 (upright) to 8. Raises ValueError like `measured`."""
    with _reading(source) as image:
        return _orientation(image)


@contextmanager
def _reading(source: Path | io.BytesIO) -> Iterator[Image.Image]:
    """The file with its header read. Whatever goes wrong inside is told with the file and the remedy."""
    name = f"of {source.getbuffer().nbytes} bytes" if isinstance(source, io.BytesIO) else source
    try:
        with Image.open(source, formats=FORMATS) as image:
            yield image
    except FileNotFoundError:
        raise ValueError(f"image {name} does not exist; check data.root, which image paths are relative to") from None
    except UnidentifiedImageError:  # Pillow's message has the address of an object in it
        raise ValueError(f"image {name} cannot be decoded (it is of no kind that Pillow knows); replace it or remove its record") from None
    except ImportError as error:
        raise ValueError(f"image {name} has more than {HUGE_PX} pixels and needs pyvips ({error}); pip install pyvips[binary]") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"image {name} cannot be decoded ({error}); replace the file or remove its record") from error


@contextmanager
def _reopening(path: Path, size: Size) -> Iterator[Image.Image]:
    """As `_reading`; raises ValueError if the file's upright size is no longer `size`."""
    with _reading(path) as image:
        if _upright_size(image) != size:
            raise ValueError(f"it was {size[0]}x{size[1]} px when it was opened and has another size now")
        yield image


# ------------------------------------------------------------------------------------------------ the header of a file


def _is_huge(image: Image.Image) -> bool:
    return image.width * image.height > HUGE_PX


def _check_streams(image: Image.Image) -> None:
    """Raises ValueError if a file of this size cannot be read row by row."""
    kind, remedy = f"{image.mode} {image.format}", "convert it to PNG, TIFF or JPEG of 8 bits"
    if "progressive" in image.info:
        kind, remedy = "progressive JPEG", "`jpegtran -copy all -outfile NEW OLD` makes it a plain one of the same pixels"
    elif "interlace" in image.info:
        kind, remedy = "interlaced PNG", "`vips copy OLD NEW` makes it a plain one of the same pixels"
    elif image.format in STREAMED and image.mode in STREAMED_MODES:
        return
    raise ValueError(f"it is a {kind} of {image.width}x{image.height} px, which above {HUGE_PX} px must be read row by row; {remedy}")


def _orientation(image: Image.Image) -> int:
    """What EXIF says, 1 to 8, with no pixel decoded."""
    if image.format == "PNG" and "exif" not in image.info:  # it may stand behind the pixels; Pillow decodes them to get there
        with Image.open(_without_pixels(image)) as header:
            exif = Image.Image.getexif(header)
    else:
        exif = image.getexif()
    found = exif.get(ExifTags.Base.Orientation)
    return found if found in TURNS else 1


def _without_pixels(png: Image.Image) -> io.BytesIO:
    """All chunks of an opened PNG but those of its pixels."""
    assert isinstance(png, ImageFile.ImageFile) and png.fp is not None
    file = png.fp
    place = file.tell()
    file.seek(0)
    chunks = [file.read(8)]
    while len(head := file.read(8)) == 8:
        length = int.from_bytes(head[:4], "big") + 4  # with its checksum
        if head[4:] in (b"IDAT", b"fdAT"):
            file.seek(length, io.SEEK_CUR)
        else:
            chunks += [head, file.read(length)]
    file.seek(place)
    return io.BytesIO(b"".join(chunks))


def _upright_size(image: Image.Image) -> Size:
    """Width and height after EXIF rotation of an image that is not loaded. Of a TIFF Pillow states them so from the beginning."""
    return image.size if image.format == "TIFF" else _stored(image, image.size)


def _stored(image: Image.Image, size: Size) -> Size:
    """An upright size as the file stores it, or the other way round."""
    return size[::-1] if _orientation(image) >= 5 else size


def _stored_box(box_px: Box, size: Size, orientation: int) -> tuple[int, int, int, int]:
    """A box of an upright image of `size` in the frame of its file."""
    x1, y1, x2, y2 = map(int, box_px)
    if orientation in (2, 3, 6, 7):
        x1, x2 = size[0] - x2, size[0] - x1
    if orientation in (3, 4, 7, 8):
        y1, y2 = size[1] - y2, size[1] - y1
    return (y1, x1, y2, x2) if orientation >= 5 else (x1, y1, x2, y2)


# -------------------------------------------------------------------------------------------------------------- pixels


def _vips() -> ModuleType:
    """pyvips, imported when the first huge file is met; it keeps nothing. Raises ImportError, also if its library is not there."""
    try:
        import pyvips
    except OSError as error:
        raise ImportError(error) from error
    pyvips.cache_set_max(0)  # an operation that was kept would go on where a stream ended
    pyvips.concurrency_set(1)
    return pyvips


def _rows(path: Path, mode: str) -> Callable[[int, int, int, int], Image.Image]:
    """What cuts boxes (xyxy, the file's own frame) out of a file, as RGB; each must lie below the one before. `mode` is Pillow's."""
    vips = _vips()
    try:
        source = vips.Source.new_from_file(str(path))  # unlike a file's name, it may have brackets
        rows = vips.Image.new_from_source(source, "", access="sequential", fail_on="error")  # "truncated" invents rows of a TIFF
        window = vips.Region.new(rows)  # works in the calling thread: none is left behind that a fork would lose
    except vips.Error as error:
        raise ValueError(_said(error)) from error

    def cut(x1: int, y1: int, x2: int, y2: int) -> Image.Image:
        try:
            samples = window.fetch(x1, y1, x2 - x1, y2 - y1)
        except vips.Error as error:
            raise ValueError(_said(error)) from error
        pixels = np.frombuffer(samples, {"uchar": np.uint8, "ushort": np.uint16}[rows.format])
        if pixels.dtype == np.uint16:  # the upper 8 bits, as in _rgb
            pixels = (pixels >> 8).astype(np.uint8)
        pixels = pixels.reshape(y2 - y1, x2 - x1, rows.bands)
        if mode.startswith("I;16"):
            pixels = pixels[:, :, :1]
        name = {1: "L", 2: "LA", 3: "RGB", 4: "CMYK" if mode == "CMYK" else "RGBA"}[pixels.shape[2]]
        return _rgb(Image.frombytes(name, (x2 - x1, y2 - y1), pixels.tobytes()))

    return cut


def _said(error: Exception) -> str:
    """libvips' own words in one line; it repeats itself for every row."""
    return "; ".join(list(dict.fromkeys(line.strip() for line in str(error).splitlines() if line.strip()))[:3])


def _shrunk(cut: Callable[[int, int, int, int], Image.Image], stored: Size, wanted: Size) -> Image.Image:
    """The image of size `stored` at exactly `wanted`, bicubic: what Pillow's `resize` gives, which shrinks the width first, too."""
    width, height = stored
    narrow = Image.new("RGB", (wanted[0], height))
    rows = max(1, BAND_PX // width)
    for top in range(0, height, rows):
        band = cut(0, top, width, min(top + rows, height))
        narrow.paste(band.resize((wanted[0], band.height), Image.Resampling.BICUBIC), (0, top))
    return narrow.resize(wanted, Image.Resampling.BICUBIC)


def _drafted(image: Image.Image, wanted: Size) -> Image.Image | None:
    """The view, not turned yet, from a scaled decode at least twice as large on each side; None if the file has none of at most HUGE_PX."""
    stored = image.size
    drafted = image.draft(None, (2 * wanted[0], 2 * wanted[1]))
    if not drafted or image.size == stored or _is_huge(image):
        return None
    _, box = drafted  # the last row and column may cover less than a pixel; hence turned after shrinking, while they are last
    return _rgb(image).resize(wanted, Image.Resampling.BICUBIC, box)


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(TURNS[orientation]) if orientation in TURNS else image


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
