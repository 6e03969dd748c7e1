"""Where views and crops come from: an image that is decoded no further than somebody looks.

A photograph of 67 Mpx takes 0.4 s and 256 MiB to decode and as long again to shrink, but its view is a few hundred pixels wide. A JPEG
decoder can stop at 1/2, 1/4 or 1/8 of each side, so the view of a large JPEG is made from such a scaled decode, which differs from the
exact one by about one grey level (tests/data/test_originals.py). Crops are always exact: the first one decodes the file once, for all.

Of a file of 200 Mpx nothing is held (`Huge`): every crop streams through the file's rows down to its lower edge, with the same pixels.
Files that nobody can read row by row are refused at that size, with what to convert them to.
"""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from PIL import ExifTags, Image, ImageFile, PngImagePlugin, UnidentifiedImageError

from focus.data.boxes import Box, Size
from focus.data.names import other_spelling

# JPEGs of more pixels wait with decoding. Measured (experiments/speed/images.json): at 8 Mpx a view of 256 tokens takes 41 ms instead of
# 87; one of 1,024 tokens gains from about 12 Mpx on, 69 ms instead of 141. The price: for crops the training process decodes for itself
# (32 ms at 8 Mpx) what a data worker would have sent it as pixels (23 ms).
LARGE_PX = 8_000_000

# Files of more pixels are streamed, never held: 8192 x 8192 px are 256 MiB in memory. The price: each crop decodes what lies above it.
HUGE_PX = 8192 * 8192

# The most pixels of a file. Pillow refuses images of more than twice its own limit, which is otherwise below 200 Mpx.
LIMIT_PX = 1_000_000_000
Image.MAX_IMAGE_PIXELS = LIMIT_PX // 2

# What the text and the colour profile of a PNG may unpack to. Pillow's own limit of 1 MiB refuses photographs with a large profile.
PngImagePlugin.MAX_TEXT_CHUNK = 64 << 20
PngImagePlugin.MAX_TEXT_MEMORY = 256 << 20

# The most pixels that a byte of a huge file can hold; a blank page of 8 bits has 1,030 in PNG and TIFF. A damaged header of a small file
# that claims a billion would take a minute
PIXELS_PER_BYTE = 2000

BAND_PX = 2_000_000  # pixels of a huge file that are in memory at once, while its view is made
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")  # JPEG opens MPO too; nothing that runs a program, as EPS does
STREAMED = ("JPEG", "MPO", "PNG", "TIFF")  # MPO: a phone's JPEG with a second picture in it
STREAMED_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I;16B", "I", "F")
DEPTHS = (8, 10, 12, 14, 16)  # bits that cameras and scanners use of a grey that is stored in 16
DARK = 16  # 16-bit colours all below this, of 255, use 12 bits or fewer: nobody would see anything
EIGHT_BITS = (0.0, 256.0)
KINDS: dict[str, Any] = {"uchar": np.uint8, "ushort": np.uint16, "short": np.int16, "uint": np.uint32, "int": np.int32}  # by libvips' name
KINDS |= {"float": np.float32, "double": np.float64}

# What Pillow raises while it parses a damaged file. It checks little before it computes with what it reads.
UNREADABLE: tuple[type[Exception], ...] = (OSError, SyntaxError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError)
UNREADABLE += (EOFError, RuntimeError, MemoryError, AssertionError, struct.error, zlib.error, Image.DecompressionBombError)

# The chunks of a PNG that can say how it is turned, with the one that begins it; and the most bytes of one
EXIF_CHUNKS = (b"IHDR", b"eXIf", b"tEXt", b"zTXt", b"iTXt")
LARGEST_CHUNK = 64 << 20
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BadImage(ValueError):
    """An image that can't be used. `reason` says why, without the name of its file."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message, reason)
        self.reason = reason

    def __str__(self) -> str:
        return str(self.args[0])


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
                return _turned(view, _orientation(image))
        return self._decoded().reduced(size)

    def region(self, box_px: Box) -> Image.Image:
        return self._decoded().region(box_px)

    def release(self) -> None:
        self._pixels = None

    def _decoded(self) -> Decoded:
        with self._lock:
            if self._pixels is None:
                with self._reading() as image:
                    self._pixels = Decoded(_pixels(image))
            return self._pixels

    @contextmanager
    def _reading(self) -> Iterator[Image.Image]:
        with _reopening(self.path, self.size) as image:
            yield image


@dataclass(frozen=True)
class Huge:
    """An original that stays in its file: views and crops are streamed from it, and no pixels are held between two of them.

    Crops have exactly the pixels of a full decode (libvips and Pillow decode alike; tests/data/test_originals.py compares). So has the
    view, except that of a JPEG, which is made from a scaled decode like a `LargeJpeg`'s, and that of a file that lies on its side, which is
    shrunk before it is turned (a rounding apart). `size` is the one after EXIF rotation; `scale` the values that become
    black and, just above, white. A pickle holds these three.
    """

    path: Path
    size: Size
    scale: tuple[float, float] = EIGHT_BITS

    def reduced(self, size: Size) -> Image.Image:
        """As `Original` says. In memory are a band of rows and what they shrink to in width, or a scaled decode of at most HUGE_PX."""
        with _reopening(self.path, self.size) as image:
            wanted = _stored(image, size)
            view = _drafted(image, wanted) or _shrunk(_rows(self.path, image.mode, self.scale), _stored(image, self.size), wanted)
            return _turned(view, _orientation(image))

    def region(self, box_px: Box) -> Image.Image:
        """As `Original` says. Takes as long as decoding what lies above the lower edge of the box, in the file's own frame."""
        with _reopening(self.path, self.size) as image:
            orientation = _orientation(image)
            cut = _rows(self.path, image.mode, self.scale)
            return _turned(cut(*_stored_box(box_px, self.size, orientation)), orientation)

    def release(self) -> None:
        pass  # nothing is held


def read(path: Path) -> Original:
    """The image in a file: a large JPEG waits with decoding, a huge file is streamed, everything else is decoded at once.

    Raises BadImage, with the file and the remedy, if there is none or it cannot be decoded. Of a large or huge file only the header is
    read here; a huge one of more than 8 bits is streamed once, to see which values it has.
    """
    with _reading(path) as image:
        if _is_huge(image):
            _vips()
            return Huge(path, _upright_size(image), _scale_of_rows(path, image) if _is_deep(image) else EIGHT_BITS)
        if image.format in ("JPEG", "MPO") and image.width * image.height > LARGE_PX:
            return LargeJpeg(path, _upright_size(image))
        return Decoded(_pixels(image))


def measured(source: Path | io.BytesIO) -> Size:
    """Width and height in pixels, after EXIF rotation, of the image in a file or in its bytes; only the header is read.

    Raises BadImage, with the reason and the remedy, if it is not an image or one that `read` refuses by its header.
    """
    with _reading(source) as image:
        return _upright_size(image)


def orientation(source: Path | io.BytesIO) -> int:
    """What EXIF says about the image in a file or in its bytes, 1 (upright) to 8. Raises BadImage like `measured`."""
    with _reading(source) as image:
        return _orientation(image)


@contextmanager
def _reading(source: Path | io.BytesIO) -> Iterator[Image.Image]:
    """The file with its header read and found usable. Whatever goes wrong inside is told with the file and the remedy."""
    name = f"of {source.getbuffer().nbytes} bytes" if isinstance(source, io.BytesIO) else source
    try:
        with Image.open(source, formats=FORMATS) as image:
            if _is_huge(image):
                _check_streams(image)
            yield image
    except FileNotFoundError:
        assert isinstance(source, Path)
        there = other_spelling(source.parent, source.name)
        remedy = f"{there!a} lies there, of the same name in another case or Unicode form: write its record so" if there else ""
        reason = "it does not exist; " + (remedy or "check data.root, which image paths are relative to")
        raise BadImage(f"image {name} {reason.removeprefix('it ')}", reason) from None
    except UnidentifiedImageError:  # Pillow's message has the address of an object in it
        reason = f"it has the header of no {', '.join(FORMATS)}, or a damaged one"
        raise BadImage(f"image {name} cannot be decoded ({reason}); convert it to one of these or remove its record", reason) from None
    except ImportError as error:
        reason = f"it has more than {HUGE_PX} pixels and needs pyvips ({error}); pip install pyvips[binary]"
        raise BadImage(f"image {name}: {reason}", reason) from error
    except UNREADABLE as error:
        reason = str(error) if isinstance(error, OSError | SyntaxError | ValueError) else f"{type(error).__name__}: {error}"
        if "MAX_TEXT_" in reason:
            reason = "its text or colour profile unpacks to more than 64 MiB: take it out, `exiftool -all= FILE`"
        raise BadImage(f"image {name} cannot be decoded ({reason}); replace the file or remove its record", reason) from error


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


def _is_deep(image: Image.Image) -> bool:
    """Whether a file that is not loaded has more than 8 bits for each channel; of 16-bit colours Pillow gives the upper 8."""
    return image.mode in ("I", "F") or any(";16" in str(tile.args) for tile in getattr(image, "tile", ()))


def _check_streams(image: Image.Image) -> None:
    """Raises ValueError if a file of this size cannot be read row by row, or is too short for it."""
    assert isinstance(image, ImageFile.ImageFile) and image.fp is not None
    place = image.fp.tell()
    length = image.fp.seek(0, io.SEEK_END)
    image.fp.seek(place)
    if image.width * image.height > PIXELS_PER_BYTE * length * (8 if image.mode == "1" else 1):
        raise ValueError(f"its header says {image.width}x{image.height} px, more than its {length} bytes can hold")
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
        with suppress(*UNREADABLE), Image.open(_without_pixels(image), formats=["PNG"]) as header:
            return _stated_orientation(header)
        return 1
    return _stated_orientation(image)


def _stated_orientation(image: Image.Image) -> int:
    """1 to 8 by the EXIF of which the header is read. Of a damaged EXIF counts what can be read; an image is not lost for it."""
    getexif = Image.Image.getexif  # that of a PNG would decode it
    with suppress(*UNREADABLE):
        getexif(image)  # where this fails, the next call returns what was read before the fault
    with suppress(*UNREADABLE):
        found = getexif(image).get(ExifTags.Base.Orientation)
        return int(found) if found in TURNS else 1
    return 1


def _without_pixels(png: Image.Image) -> io.BytesIO:
    """A PNG of those chunks of an opened one that can say how it is turned, up to the first damaged one."""
    assert isinstance(png, ImageFile.ImageFile) and png.fp is not None
    file = png.fp
    place = file.tell()
    end = file.seek(0, io.SEEK_END)
    file.seek(0)
    chunks = [file.read(8)]
    while len(head := file.read(8)) == 8 and head[4:].isalnum():
        length = int.from_bytes(head[:4], "big")
        if file.tell() + length + 4 > end:
            break
        if head[4:] in EXIF_CHUNKS and length <= LARGEST_CHUNK:
            chunks.append(_chunk(head[4:], file.read(length)))
            length = 0
        file.seek(length + 4, io.SEEK_CUR)  # over its checksum, which does not count behind the pixels
    file.seek(place)
    return io.BytesIO(b"".join([*chunks, _chunk(b"IEND", b"")]))


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


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


def _samples(path: Path) -> Callable[[int, int, int, int], np.ndarray]:
    """What reads boxes (xyxy, the file's own frame) of a file as rows x columns x channels; each must lie below the one before."""
    vips = _vips()
    try:
        source = vips.Source.new_from_file(str(path))  # unlike a file's name, it may have brackets
        rows = vips.Image.new_from_source(source, "", access="sequential", fail_on="error")  # "truncated" invents rows of a TIFF
        window = vips.Region.new(rows)  # works in the calling thread: none is left behind that a fork would lose
    except vips.Error as error:
        raise ValueError(_said(error)) from error

    def fetch(x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
        try:
            samples = window.fetch(x1, y1, x2 - x1, y2 - y1)
        except vips.Error as error:
            raise ValueError(_said(error)) from error
        return np.frombuffer(samples, KINDS[rows.format]).reshape(y2 - y1, x2 - x1, rows.bands)

    return fetch


def _bands(size: Size) -> Iterator[tuple[int, int]]:
    """First and behind-last row of stretches of BAND_PX, from the top of a file of this stored size to its end."""
    rows = max(1, BAND_PX // size[0])
    return ((top, min(top + rows, size[1])) for top in range(0, size[1], rows))


def _scale_of_rows(path: Path, image: Image.Image) -> tuple[float, float]:
    """What `_scale` says of a huge file of more than 8 bits. Decodes it once."""
    fetch, size = _samples(path), _stored(image, _upright_size(image))
    channels = 3 if image.mode.startswith(("RGB", "CMYK")) else 1  # without what is behind them, transparency
    ranges = [_range(fetch(0, top, size[0], end)[:, :, :channels]) for top, end in _bands(size)]
    return _scale(image.mode, min(low for low, _ in ranges), max(high for _, high in ranges))


def _rows(path: Path, mode: str, scale: tuple[float, float]) -> Callable[[int, int, int, int], Image.Image]:
    """What cuts boxes out of a file like `_samples`, as RGB. `mode` is Pillow's."""
    fetch = _samples(path)

    def cut(x1: int, y1: int, x2: int, y2: int) -> Image.Image:
        pixels = fetch(x1, y1, x2, y2)
        if pixels.dtype != np.uint8:
            pixels = _eight_bits(pixels, *scale)
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
    for top, end in _bands(stored):
        band = cut(0, top, width, end)
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


def _pixels(image: Image.Image) -> Image.Image:
    """The whole file as RGB, upright. Raises ValueError where more than 8 bits can't be shown in 8."""
    deep = _is_deep(image)
    image = _upright(image)
    if image.mode.startswith(("I", "F")):  # convert would cut off at 255
        greys = np.asarray(image)
        return Image.fromarray(_eight_bits(greys, *_scale(image.mode, *_range(greys)))).convert("RGB")
    image = _rgb(image)
    if deep:  # the upper 8 of 16 bits
        _scale("RGB", 0, int(np.asarray(image).max()) * 256)
    return image


def _range(values: np.ndarray) -> tuple[float, float]:
    """The least and the largest number."""
    numbers = values if values.dtype.kind in "ui" else values[np.isfinite(values)]
    return (float(numbers.min()), float(numbers.max())) if numbers.size else (0.0, 0.0)


def _scale(mode: str, low: float, high: float) -> tuple[float, float]:
    """The values that become black and, just above, white, of an image of more than 8 bits with these least and largest values.

    Of greys of 16 bits as many bits count as DEPTHS has for them: a camera of 12 bits fills the lowest 12. Greys of 32 bits, signed ones
    and fractions state no black and no white; they are stretched. Raises ValueError for greys that are all alike, and for 16-bit colours
    that would be all but black.
    """
    if mode in ("I", "F"):
        if not low < high:
            raise ValueError(f"its greys of more than 16 bits are all {low:g}, or no numbers; scale them to 8 or 16 bits and save it again")
        return low, high
    if mode.startswith("I;16"):
        return 0.0, float(next(1 << depth for depth in DEPTHS if high < 1 << depth))
    if high < DARK * 256:
        raise ValueError("its colours use the lowest 12 of 16 bits and would be all but black; scale them to all 16 and save it again")
    return 0.0, 65536.0


def _eight_bits(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values from `low` to just below `high` as 0 to 255; what is no number is black."""
    spread = (values.astype(np.float32) - np.float32(low)) * np.float32(256 / (high - low))
    return np.nan_to_num(spread, copy=False, nan=0.0).clip(0, 255).astype(np.uint8)


def _upright(image: Image.Image) -> Image.Image:
    """Turned as EXIF says. EXIF itself is not written again, which fails for many that can be read."""
    image.load()
    if image.format == "TIFF":  # Pillow turns it when it is loaded
        return image
    turned = _turned(image, _stated_orientation(image))
    if turned is not image:
        image.close()  # the pixels of an 8K image are 256 MiB
    return turned


def _rgb(image: Image.Image) -> Image.Image:
    """RGB of 8 bits; transparency stands on white. An RGB image is returned as it is."""
    image.load()
    if image.has_transparency_data:
        ground = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(ground, image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")
