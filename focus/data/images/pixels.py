"""Decoding an opened image to RGB of 8 bits, upright."""

import numpy as np
from PIL import Image

from focus.data.boxes import Size
from focus.data.images.exif import orientation_in_header, turned_upright
from focus.data.images.header import is_deep, is_huge

DEPTHS = (8, 10, 12, 14, 16)  # bits that cameras and scanners use of a grey that is stored in 16
DARK = 16  # of 255. 16-bit colours that are all below this use 12 bits or fewer and look black
EIGHT_BITS = (0.0, 256.0)  # the range of values in a file of 8 bits


def decode(image: Image.Image) -> Image.Image:
    """The whole file as RGB, upright. Raises ValueError if more than 8 bits can't be shown in 8."""
    deep = is_deep(image)
    image = load_upright(image)
    if image.mode.startswith(("I", "F")):  # Pillow's convert would clip at 255
        greys = np.asarray(image)
        return Image.fromarray(to_8_bits(greys, *black_and_white(image.mode, *value_range(greys)))).convert("RGB")
    image = to_rgb(image)
    if deep:  # Pillow has given the upper 8 of 16 bits
        black_and_white("RGB", 0, int(np.asarray(image).max()) * 256)
    return image


def load_upright(image: Image.Image) -> Image.Image:
    """The loaded image, turned by its EXIF orientation."""
    image.load()
    if image.format == "TIFF":  # Pillow turns a TIFF when it loads it
        return image
    # Not ImageOps.exif_transpose: it writes the EXIF again, which fails for many readable files
    turned = turned_upright(image, orientation_in_header(image))
    if turned is not image:
        image.close()  # the pixels of an 8K image are 256 MiB
    return turned


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB of 8 bits, transparency on white. An RGB image is returned as it is."""
    image.load()
    if image.has_transparency_data:
        ground = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(ground, image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


def scaled_decode(image: Image.Image, wanted: Size) -> Image.Image | None:
    """A view of a JPEG from a decode at 1/2, 1/4 or 1/8 that is at least twice `wanted` on each
    side.

    `wanted` and the view are in the file's own orientation. None if the file has no such decode of
    at most `HUGE_PX` pixels.
    """
    stored = image.size
    draft = image.draft(None, (2 * wanted[0], 2 * wanted[1]))
    if not draft or image.size == stored or is_huge(image):
        return None
    # The last row and column of the draft may cover less than a pixel, so its box is not whole. The
    # caller turns the view after it was shrunk, while that row and column are still the last.
    _, box = draft
    return to_rgb(image).resize(wanted, Image.Resampling.BICUBIC, box)


def value_range(values: np.ndarray) -> tuple[float, float]:
    """The smallest and the largest finite value; (0, 0) if there is none."""
    numbers = values if values.dtype.kind in "ui" else values[np.isfinite(values)]
    return (float(numbers.min()), float(numbers.max())) if numbers.size else (0.0, 0.0)


def black_and_white(mode: str, low: float, high: float) -> tuple[float, float]:
    """The values that become black and, just above, white, for an image of more than 8 bits.

    `mode` is Pillow's; `low` and `high` are the smallest and the largest value of the image. 16-bit
    greys are scaled by the smallest depth in `DEPTHS` that holds them, because a camera of 12 bits
    fills the lowest 12. 32-bit, signed and fractional greys define no black and no white; they are
    stretched from `low` to `high`. Raises ValueError for stretched greys that are all equal, and
    for 16-bit colours that would look black.
    """
    if mode in ("I", "F"):
        if not low < high:
            raise ValueError(f"its greys of more than 16 bits are all {low:g}, or no numbers; scale them to 8 or 16 bits and save it again")
        return low, high
    if mode.startswith("I;16"):
        return 0.0, float(next(1 << depth for depth in DEPTHS if high < 1 << depth))
    if high < DARK * 256:
        raise ValueError("its colours use the lowest 12 of 16 bits and would look black; scale them to all 16 bits and save it again")
    return 0.0, 65536.0


def to_8_bits(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values from `low` to just below `high` as 0 to 255; NaN becomes black."""
    scaled = (values.astype(np.float32) - np.float32(low)) * np.float32(256 / (high - low))
    return np.nan_to_num(scaled, copy=False, nan=0.0).clip(0, 255).astype(np.uint8)
