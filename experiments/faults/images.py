"""Damaged image files: what becomes of each. `python -m experiments.faults.images 20000 0` writes images.json.

Arguments: how many files, and the seed. Each file is a small sound one of some kind with a few bytes changed, cut, doubled, or replaced by
numbers that parsers stumble over. It is measured, read, looked at and cropped, as a data set's images are. An outcome is `used`, the
refusal that names file and remedy (`BadImage`), or the type of any other exception, which is a fault of this repository. Linux only.
"""

import io
import json
import os
import random
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin
from rich.progress import track

from focus.data.images.header import BadImage, image_orientation, image_size
from focus.data.images.original import read

HERE = Path(__file__).parent
MEMORY = 8 << 30  # bytes that this process may address: a file that asks for more gets a MemoryError
SLOW_S = 5.0  # processor seconds; a sound file takes milliseconds
STUMBLES = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x01", b"\x01\0\0\0", b"\0\xff", b"\xff\0")


@cache
def sound() -> dict[str, bytes]:
    """Files to damage, by their kind: every format that is read, its variants, and EXIF that turns it."""
    y, x = np.indices((64, 96))
    colours = Image.fromarray(np.stack([x * 2, y * 3, (x + y) % 256], axis=2).astype(np.uint8))
    deep = Image.fromarray(((x + y) * 400).astype(np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x0131] = "a camera"
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "a text " * 40, zip=True)
    text.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="8"/>')
    clear = colours.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    frames = {"save_all": True, "append_images": [colours.rotate(angle) for angle in (90, 180)]}
    variants: dict[str, tuple[Image.Image, str, dict]] = {
        "png": (colours, "PNG", {"exif": exif, "icc_profile": bytes(3000)}),
        "png text": (colours, "PNG", {"pnginfo": text}),
        "png clear": (clear, "PNG", {}),
        "png palette": (colours.convert("P"), "PNG", {"transparency": bytes(range(256))}),
        "png deep": (deep, "PNG", {}),
        "png animated": (colours, "PNG", frames),
        "jpeg": (colours, "JPEG", {"exif": exif, "quality": 90}),
        "jpeg progressive": (colours, "JPEG", {"progressive": True, "icc_profile": bytes(3000)}),
        "jpeg cmyk": (colours.convert("CMYK"), "JPEG", {}),
        "jpeg phone": (colours, "MPO", frames),
        "tiff": (colours, "TIFF", {"exif": exif}),
        "tiff lzw": (clear, "TIFF", {"compression": "tiff_lzw"}),
        "tiff deflate": (deep, "TIFF", {"compression": "tiff_adobe_deflate"}),
        "tiff jpeg": (colours, "TIFF", {"compression": "jpeg"}),
        "tiff float": (colours.convert("F"), "TIFF", {}),
        "tiff bits": (colours.convert("1"), "TIFF", {"compression": "group4"}),
        "webp": (colours, "WEBP", {"exif": exif}),
        "webp lossless": (clear, "WEBP", {"lossless": True}),
        "webp animated": (colours, "WEBP", frames),
        "gif": (colours.convert("P"), "GIF", frames),
        "bmp": (colours, "BMP", {}),
    }
    files = {}
    for name, (image, kind, options) in variants.items():
        out = io.BytesIO()
        image.save(out, kind, **options)
        files[name] = out.getvalue()
    return files


def damaged(number: int, seed: int) -> tuple[str, bytes]:
    """The kind and the content of a damaged file; the same for the same number and seed."""
    chance = random.Random(f"{seed}/{number}")
    kind = chance.choice(list(sound()))
    blob = bytearray(sound()[kind])
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        reach = len(blob) if chance.random() < 0.5 else min(len(blob), 400)  # headers are short and matter most
        at = chance.randrange(max(1, reach))
        match chance.randrange(6):
            case 0 | 1:
                blob[at : at + 1] = bytes([chance.randrange(256)])
            case 2 | 3:
                word = chance.choice(STUMBLES)
                blob[at : at + len(word)] = word
            case 4:
                del blob[at : at + chance.choice((1, 4, 40, len(blob)))]
            case 5:
                blob[at:at] = blob[at : at + chance.choice((1, 12, 200))]
    return kind, bytes(blob)


def outcome(path: Path) -> str:
    """What becomes of a file: `used`, `refused when read` or `when decoded`, `sizes differ`, or the type of an exception."""
    stage = "read"
    try:
        size = image_size(path)
        if image_size(io.BytesIO(path.read_bytes())) != size or image_orientation(path) not in range(1, 9):
            return "sizes differ"
        stage = "decoded"
        original = read(path)
        if original.size != size:
            return "sizes differ"
        view, crop = original.reduced((28, 28)), original.region((0.0, 0.0, float(min(9, size[0])), float(min(9, size[1]))))
        return "used" if (view.mode, view.size, crop.mode) == ("RGB", (28, 28), "RGB") else "no RGB"
    except BadImage as error:
        return f"refused when {stage}" if str(path) in str(error) or "bytes" in str(error) else "refused without its name"
    except Exception as error:  # whatever it is, it is counted
        return type(error).__name__


def main() -> None:
    count, seed = (int(argument) for argument in [*sys.argv[1:], "20000", "0"][:2])
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    outcomes: dict[str, Counter[str]] = {kind: Counter() for kind in sound()}
    slow, slowest, faults = [], 0.0, []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "image")
        for number in track(range(count), "damaging", transient=True):
            kind, blob = damaged(number, seed)
            path.write_bytes(blob)
            began = time.process_time()
            found = outcome(path)
            took = time.process_time() - began
            slowest = max(slowest, took)
            outcomes[kind][found] += 1
            if not found.startswith(("used", "refused when")):
                faults.append({"number": number, "kind": kind, "outcome": found})
            if took > SLOW_S:
                slow.append({"number": number, "kind": kind, "processor_s": round(took, 1)})
    total = sum(outcomes.values(), Counter())
    record = {
        "command": f"python -m experiments.faults.images {count} {seed}",
        "files": count,
        "seed": seed,
        "outcomes": dict(total.most_common()),
        "by_kind": {kind: dict(found.most_common()) for kind, found in outcomes.items()},
        "faults": faults[:50],
        "slow": slow[:50],
        "slowest_processor_s": round(slowest, 2),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "pillow": Image.__version__,
        "cores": os.cpu_count(),
    }
    (HERE / "images.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps({key: record[key] for key in ("outcomes", "faults", "slow", "slowest_processor_s", "peak_memory_mib")}, indent=1))


if __name__ == "__main__":
    main()
