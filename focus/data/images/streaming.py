"""Views and crops of a huge file, read row by row through libvips: its pixels are never all in
memory.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from focus.data.boxes import Size
from focus.data.images.exif import stored_size, upright_size
from focus.data.images.pixels import black_and_white, to_8_bits, to_rgb, value_range

BAND_PX = 2_000_000  # pixels in memory at once while a view is made
# By libvips' name
KINDS: dict[str, Any] = {"uchar": np.uint8, "ushort": np.uint16, "short": np.int16, "uint": np.uint32, "int": np.int32}
KINDS |= {"float": np.float32, "double": np.float64}

Crop = Callable[[int, int, int, int], Image.Image]  # x1, y1, x2, y2 in the file's own frame -> RGB


def load_vips() -> ModuleType:
    """pyvips, imported when the first huge file is opened.

    Raises ImportError, also if libvips is missing.
    """
    try:
        import pyvips
    except OSError as error:
        raise ImportError(error) from error
    pyvips.cache_set_max(0)  # a cached operation would continue where an earlier stream ended
    pyvips.concurrency_set(1)
    return pyvips


def crop_reader(path: Path, mode: str, scale: tuple[float, float]) -> Crop:
    """A function that reads boxes of a file as RGB; each box must lie below the one before.

    `mode` is Pillow's; `scale` holds the values that become black and white.
    """
    fetch = _value_reader(path)

    def crop(x1: int, y1: int, x2: int, y2: int) -> Image.Image:
        values = fetch(x1, y1, x2, y2)
        if values.dtype != np.uint8:
            values = to_8_bits(values, *scale)
        if mode.startswith("I;16"):
            values = values[:, :, :1]
        name = {1: "L", 2: "LA", 3: "RGB", 4: "CMYK" if mode == "CMYK" else "RGBA"}[values.shape[2]]
        return to_rgb(Image.frombytes(name, (x2 - x1, y2 - y1), values.tobytes()))

    return crop


def shrink(crop: Crop, stored: Size, wanted: Size) -> Image.Image:
    """The image of size `stored` at exactly `wanted`, bicubic, both in the file's own frame.

    The pixels equal those of Pillow's `resize`, which also shrinks the width first.
    """
    width, height = stored
    narrow = Image.new("RGB", (wanted[0], height))
    for top, end in _bands(stored):
        band = crop(0, top, width, end)
        narrow.paste(band.resize((wanted[0], band.height), Image.Resampling.BICUBIC), (0, top))
    return narrow.resize(wanted, Image.Resampling.BICUBIC)


def black_and_white_of_file(path: Path, image: Image.Image) -> tuple[float, float]:
    """`black_and_white` of a huge file of more than 8 bits a channel. Decodes the file once."""
    fetch, size = _value_reader(path), stored_size(image, upright_size(image))
    channels = 3 if image.mode.startswith(("RGB", "CMYK")) else 1  # without transparency
    ranges = [value_range(fetch(0, top, size[0], end)[:, :, :channels]) for top, end in _bands(size)]
    return black_and_white(image.mode, min(low for low, _ in ranges), max(high for _, high in ranges))


def _value_reader(path: Path) -> Callable[[int, int, int, int], np.ndarray]:
    """A function that reads boxes (xyxy, the file's own frame) as rows x columns x channels.

    Each box must lie below the one before.
    """
    vips = load_vips()
    try:
        # Unlike new_from_file, it allows brackets in the file's name
        source = vips.Source.new_from_file(str(path))
        # "truncated" invents rows of a TIFF
        rows = vips.Image.new_from_source(source, "", access="sequential", fail_on="error")
        window = vips.Region.new(rows)  # it works in the calling thread, so a fork loses no thread
    except vips.Error as error:
        raise ValueError(_vips_message(error)) from error

    def fetch(x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
        try:
            values = window.fetch(x1, y1, x2 - x1, y2 - y1)
        except vips.Error as error:
            raise ValueError(_vips_message(error)) from error
        return np.frombuffer(values, KINDS[rows.format]).reshape(y2 - y1, x2 - x1, rows.bands)

    return fetch


def _bands(size: Size) -> Iterator[tuple[int, int]]:
    """Bands of BAND_PX pixels, from the top of a file of this stored size: first row, end row
    (excluded).
    """
    rows = max(1, BAND_PX // size[0])
    return ((top, min(top + rows, size[1])) for top in range(0, size[1], rows))


def _vips_message(error: Exception) -> str:
    """The message of libvips in one line, without the repeats that it adds for every row."""
    return "; ".join(list(dict.fromkeys(line.strip() for line in str(error).splitlines() if line.strip()))[:3])
