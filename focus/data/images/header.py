"""Opening an image file: the formats that are read, the limits of their size, and errors that say
what to do.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageFile, PngImagePlugin, UnidentifiedImageError

from focus.data.boxes import Size
from focus.data.images.exif import PILLOW_ERRORS, orientation_of, upright_size
from focus.data.names import other_spelling

# Files of more pixels are streamed and never held in memory: 8192 x 8192 px take 256 MiB. The price
# is that each crop decodes the rows above it.
HUGE_PX = 8192 * 8192

# The most pixels of a file. Pillow refuses images of more than twice its own limit, which is below
# 200 Mpx by default.
LIMIT_PX = 1_000_000_000
Image.MAX_IMAGE_PIXELS = LIMIT_PX // 2

# The most bytes of text and colour profile in a PNG. Pillow's own limit of 1 MiB refuses
# photographs with a large profile.
PngImagePlugin.MAX_TEXT_CHUNK = 64 << 20
PngImagePlugin.MAX_TEXT_MEMORY = 256 << 20

# The most pixels that a byte of a huge file can hold. A blank page of 8 bits has 1,030 in PNG and
# TIFF. Without this limit a small damaged file whose header claims a billion pixels would take a
# minute.
PIXELS_PER_BYTE = 2000

# JPEG includes MPO. EPS is not read because it runs a program.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
STREAMED = ("JPEG", "MPO", "PNG", "TIFF")  # MPO: a phone's JPEG with a second picture in it
STREAMED_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I;16B", "I", "F")


class BadImage(ValueError):
    """An image that can't be used. `reason` says why, without the name of its file."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message, reason)
        self.reason = reason

    def __str__(self) -> str:
        return str(self.args[0])


@contextmanager
def open_image(source: Path | io.BytesIO) -> Iterator[Image.Image]:
    """The opened image; its header is read and checked, its pixels are not decoded yet.

    Errors inside the block become BadImage, with the file and the remedy.
    """
    name = f"of {source.getbuffer().nbytes} bytes" if isinstance(source, io.BytesIO) else source
    try:
        with Image.open(source, formats=FORMATS) as image:
            if is_huge(image):
                _check_streams(image)
            yield image
    except FileNotFoundError:
        assert isinstance(source, Path)
        neighbour = other_spelling(source.parent, source.name)
        remedy = (
            f"{neighbour!a} is there, the same name in another case or Unicode form: write that name in its record" if neighbour else ""
        )
        reason = "it does not exist; " + (remedy or "check data.root: image paths are relative to it")
        raise BadImage(f"image {name} {reason.removeprefix('it ')}", reason) from None
    except UnidentifiedImageError:  # Pillow's message has the address of an object in it
        empty = not (source.getbuffer().nbytes if isinstance(source, io.BytesIO) else source.stat().st_size)
        reason = "it has no bytes" if empty else f"its header is none of {', '.join(FORMATS)}, or is damaged"
        raise BadImage(f"image {name} cannot be decoded ({reason}); convert it to one of these or remove its record", reason) from None
    except ImportError as error:
        reason = f"it has more than {HUGE_PX} pixels and needs pyvips ({error}); pip install pyvips[binary]"
        raise BadImage(f"image {name}: {reason}", reason) from error
    except PILLOW_ERRORS as error:
        reason = str(error) if isinstance(error, OSError | SyntaxError | ValueError) else f"{type(error).__name__}: {error}"
        if "MAX_TEXT_" in reason:
            reason = "its text or colour profile unpacks to more than 64 MiB; remove it with `exiftool -all= FILE`"
        raise BadImage(f"image {name} cannot be decoded ({reason}); replace the file or remove its record", reason) from error


@contextmanager
def reopen_image(path: Path, size: Size) -> Iterator[Image.Image]:
    """Like `open_image`; raises ValueError if the file's upright size is no longer `size`."""
    with open_image(path) as image:
        if upright_size(image) != size:
            raise ValueError(f"it was {size[0]}x{size[1]} px when it was opened and has another size now")
        yield image


def image_size(source: Path | io.BytesIO) -> Size:
    """Width and height in pixels, after EXIF rotation, of an image file or its bytes.

    Only the header is read. Raises BadImage, with the reason and the remedy, if the source is not
    an image or its header already makes it unusable.
    """
    with open_image(source) as image:
        return upright_size(image)


def image_orientation(source: Path | io.BytesIO) -> int:
    """EXIF orientation, 1 (upright) to 8, of an image file or its bytes.

    Raises BadImage like `image_size`.
    """
    with open_image(source) as image:
        return orientation_of(image)


def is_huge(image: Image.Image) -> bool:
    """Whether an image has more than `HUGE_PX` pixels, so that it must be streamed."""
    return image.width * image.height > HUGE_PX


def is_deep(image: Image.Image) -> bool:
    """Whether an image that is not loaded has more than 8 bits a channel.

    Of 16-bit colours Pillow gives the upper 8.
    """
    return image.mode in ("I", "F") or any(";16" in str(tile.args) for tile in getattr(image, "tile", ()))


def _check_streams(image: Image.Image) -> None:
    """Raises ValueError if a huge file cannot be read row by row, or is too short for its pixels."""
    assert isinstance(image, ImageFile.ImageFile) and image.fp is not None
    position = image.fp.tell()
    length = image.fp.seek(0, io.SEEK_END)
    image.fp.seek(position)
    if image.width * image.height > PIXELS_PER_BYTE * length * (8 if image.mode == "1" else 1):
        raise ValueError(f"its header says {image.width}x{image.height} px, more than its {length} bytes can hold")
    kind, remedy = f"{image.mode} {image.format}", "convert it to PNG, TIFF or JPEG of 8 bits"
    if "progressive" in image.info:
        kind, remedy = "progressive JPEG", "`jpegtran -copy all -outfile NEW OLD` makes a plain one of the same pixels"
    elif "interlace" in image.info:
        kind, remedy = "interlaced PNG", "`vips copy OLD NEW` makes a plain one of the same pixels"
    elif image.format in STREAMED and image.mode in STREAMED_MODES:
        return
    raise ValueError(f"it is a {kind} of {image.width}x{image.height} px; above {HUGE_PX} px a file must be read row by row; {remedy}")
