"""The EXIF orientation of an image file, read without decoding pixels, and what it does to sizes
and boxes.
"""

import io
import struct
import zlib
from contextlib import suppress

from PIL import ExifTags, Image, ImageFile

from focus.data.boxes import Box, Size

# What Pillow raises while it parses a damaged file. It computes with values that it has not
# checked.
PILLOW_ERRORS: tuple[type[Exception], ...] = (OSError, SyntaxError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError)
PILLOW_ERRORS += (EOFError, RuntimeError, MemoryError, AssertionError, struct.error, zlib.error, Image.DecompressionBombError)

# The chunks of a PNG that can state its orientation, with the one that begins it
EXIF_CHUNKS = (b"IHDR", b"eXIf", b"tEXt", b"zTXt", b"iTXt")
LARGEST_CHUNK = 64 << 20  # bytes
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation of an opened image, 1 (upright) to 8. No pixel is decoded."""
    # A PNG may hold its EXIF behind the pixels, and Pillow would decode them to get there
    if image.format == "PNG" and "exif" not in image.info:
        with suppress(*PILLOW_ERRORS), Image.open(_without_pixels(image), formats=["PNG"]) as header:
            return orientation_in_header(header)
        return 1
    return orientation_in_header(image)


def orientation_in_header(image: Image.Image) -> int:
    """The orientation, 1 to 8, by the EXIF that Pillow has read so far.

    From a damaged EXIF the readable part is used. The image stays usable.
    """
    getexif = Image.Image.getexif  # the method of PngImageFile would decode the pixels
    with suppress(*PILLOW_ERRORS):
        getexif(image)  # if this fails, the next call returns what was read before the fault
    with suppress(*PILLOW_ERRORS):
        orientation = getexif(image).get(ExifTags.Base.Orientation)
        return int(orientation) if orientation in TURNS else 1
    return 1


def _without_pixels(png: Image.Image) -> io.BytesIO:
    """A copy of an opened PNG that holds only `EXIF_CHUNKS`, up to the first damaged chunk."""
    assert isinstance(png, ImageFile.ImageFile) and png.fp is not None
    file = png.fp
    position = file.tell()
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
        # Also over the checksum, which Pillow ignores behind the pixels
        file.seek(length + 4, io.SEEK_CUR)
    file.seek(position)
    return io.BytesIO(b"".join([*chunks, _chunk(b"IEND", b"")]))


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def upright_size(image: Image.Image) -> Size:
    """Width and height, after EXIF rotation, of an opened image that is not loaded."""
    # Pillow states the size of a TIFF after rotation from the beginning
    return image.size if image.format == "TIFF" else stored_size(image, image.size)


def stored_size(image: Image.Image, size: Size) -> Size:
    """An upright size as the file stores it, or a stored size as it is upright: both swap alike."""
    return size[::-1] if orientation_of(image) >= 5 else size


def stored_box(box_px: Box, size: Size, orientation: int) -> tuple[int, int, int, int]:
    """A box of an upright image of `size`, in the frame of its file (xyxy, pixels)."""
    x1, y1, x2, y2 = map(int, box_px)
    if orientation in (2, 3, 6, 7):
        x1, x2 = size[0] - x2, size[0] - x1
    if orientation in (3, 4, 7, 8):
        y1, y2 = size[1] - y2, size[1] - y1
    return (y1, x1, y2, x2) if orientation >= 5 else (x1, y1, x2, y2)


def turned_upright(image: Image.Image, orientation: int) -> Image.Image:
    """The image turned by its EXIF orientation. An upright image is returned as it is."""
    return image.transpose(TURNS[orientation]) if orientation in TURNS else image
