"""One view and sixteen crops of a large JPEG. `python -m experiments.speed.images` writes images.json.

The peer decodes the whole file for every rollout and makes the same view again, as agents do whose tool gets a path or bytes for each
trajectory (verl's ImageZoomInTool.create, volcengine/verl 94e16be1, opens the image once for each instance). Both arms pass through our
`look` and `cut`, so they differ in nothing but the source of pixels. Target: peer / ours of at least 10 at 8K.

`decoded_once` is what this repository did before: one full decode, shared by the siblings. `pyvips` shrinks on load and keeps its own full
decode for crops; it is measured where it is installed (`pip install "pyvips[binary]"`) and needed by nothing. PyTurboJPEG is not
measured: its wheel needs a libturbojpeg from the system.

`around_the_threshold` is why LARGE_PX is where it is: what a JPEG that waits wins on views, and what it costs the training process to
decode for crops what a data worker would have sent it as pixels.
"""

import multiprocessing
import pickle
import subprocess
import sys
import tempfile
from functools import cached_property
from importlib.resources import files
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops

from experiments.speed.timing import paired, write
from focus.data.boxes import Box, Size
from focus.data.images.original import Decoded, LargeJpeg, Original, read
from focus.gap import View, cut, resize_to_budget

SIZES: tuple[Size, ...] = ((8192, 8192), (3840, 2160))
THRESHOLD: tuple[Size, ...] = ((1632, 1224), (2304, 1728), (3264, 2448), (4032, 3024))  # 2, 4, 8 and 12 Mpx
ROLLOUTS, VIEW_TOKENS, CROP_TOKENS, TOKEN_PX = 16, 1_024, 1_024, 28


class Vips:
    """An original behind pyvips: a view is shrunk while loading, crops are cut from one full decode in memory."""

    def __init__(self, path: Path) -> None:
        import pyvips

        self.vips, self.path = pyvips.Image, str(path)
        header = self.vips.new_from_file(self.path)
        self.size = (header.width, header.height)

    @cached_property
    def pixels(self):
        return self.vips.new_from_file(self.path).copy_memory()

    def reduced(self, size: Size) -> Image.Image:
        return Image.fromarray(self.vips.thumbnail(self.path, size[0], height=size[1], size="force").numpy())

    def region(self, box_px: Box) -> Image.Image:
        x1, y1, x2, y2 = map(int, box_px)
        return Image.fromarray(self.pixels.crop(x1, y1, x2 - x1, y2 - y1).numpy())


def fully(path: Path) -> Original:
    """The whole file, decoded now, without the copy that most callers make by `convert`."""
    with Image.open(path) as image:
        image.load()
        return Decoded(image)


def boxes(size: Size) -> list[Box]:
    """A crop of about 500 x 400 px for each rollout, anywhere."""
    random = np.random.default_rng(1)
    drawn = []
    for _ in range(ROLLOUTS):
        width, height = random.integers(450, 550), random.integers(360, 440)
        x, y = random.integers(0, size[0] - width), random.integers(0, size[1] - height)
        drawn.append((float(x), float(y), float(x + width), float(y + height)))
    return drawn


def shared(original: Original) -> list[View]:
    """The images of a group whose rollouts share one original."""
    view = resize_to_budget(original, VIEW_TOKENS, TOKEN_PX)
    return [view, *(cut(original, box_px, original.size, CROP_TOKENS, TOKEN_PX) for box_px in boxes(original.size))]


def ours(path: Path) -> list[View]:
    return shared(read(path))


def decoded_once(path: Path) -> list[View]:
    return shared(fully(path))


def pyvips(path: Path) -> list[View]:
    return shared(Vips(path))


def peer(path: Path) -> list[View]:
    """The images of a group whose rollouts open the file one by one."""

    def rollout(number: int) -> list[View]:
        original = fully(path)
        view = resize_to_budget(original, VIEW_TOKENS, TOKEN_PX)
        return [view, cut(original, boxes(original.size)[number], original.size, CROP_TOKENS, TOKEN_PX)]

    return [image for number in range(ROLLOUTS) for image in rollout(number)]


def view(path: Path) -> View:
    """No rollout crops: an answer without the tool, or one level of calibration."""
    return resize_to_budget(read(path), VIEW_TOKENS, TOKEN_PX)


def view_decoded_once(path: Path) -> View:
    return resize_to_budget(fully(path), VIEW_TOKENS, TOKEN_PX)


ARMS = {arm.__name__: arm for arm in (ours, decoded_once, pyvips, peer, view, view_decoded_once)}


def photograph(size: Size, path: Path) -> None:
    """A photograph of this size with grain, as a JPEG of quality 90."""
    coffee = Image.open(str(files("skimage").joinpath("data/coffee.png"))).convert("RGB").resize(size, Image.Resampling.BICUBIC)
    grain = np.random.default_rng(0).integers(0, 17, (size[1], size[0], 3), dtype=np.uint8)
    ImageChops.add(coffee, Image.fromarray(grain), offset=-8).save(path, quality=90)


def peak_mib(arm: str, path: Path) -> int | str:
    """Peak memory of one arm above what the imports take, in a process of its own."""
    if arm == "pyvips" and not find_spec("pyvips"):
        return "not installed"
    command = [sys.executable, "-m", "experiments.speed.images", arm, str(path)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def resident_peak_mib() -> int:
    """Peak resident memory of this process alone: unlike ru_maxrss it forgets the process that started this one."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024


def row(size: Size, path: Path) -> dict[str, object]:
    """One image: seconds against the peer and against the alternatives, and everybody's peak memory."""
    photograph(size, path)
    return {
        "image_px": size,
        "file_mib": round(path.stat().st_size / 2**20, 1),
        "view_px": view(path).size,
        "rollouts": ROLLOUTS,
        "peer": paired(lambda: ours(path), lambda: peer(path)),
        "decoded_once": paired(lambda: ours(path), lambda: decoded_once(path)),
        "view_decoded_once": paired(lambda: view(path), lambda: view_decoded_once(path)),
        "pyvips": paired(lambda: ours(path), lambda: pyvips(path)) if find_spec("pyvips") else "not installed",
        "peak_mib": {arm: peak_mib(arm, path) for arm in ARMS},
    }


def around_the_threshold(size: Size, path: Path) -> dict[str, object]:
    """Seconds of a waiting JPEG (ours) and of a full decode (peer): for a view alone; for crops, from what a worker sent."""
    photograph(size, path)
    here, there = multiprocessing.Pipe()
    worker = multiprocessing.Process(target=_send, args=(there, pickle.dumps(fully(path))))
    worker.start()

    def received() -> Original:
        here.send(None)
        return pickle.loads(here.recv_bytes())

    def views(tokens: int) -> dict[str, object]:
        return paired(
            lambda: resize_to_budget(LargeJpeg(path, size), tokens, TOKEN_PX), lambda: resize_to_budget(fully(path), tokens, TOKEN_PX)
        )

    row: dict[str, object] = {
        "image_px": size,
        "view_256": views(256),
        "view_1024": views(1_024),
        "path_or_pixels_from_worker": paired(lambda: LargeJpeg(path, size).region((0, 0, 1, 1)), received),
    }
    worker.terminate()
    return row


def _send(connection: Connection, parcel: bytes) -> None:
    while True:
        connection.recv()
        connection.send_bytes(parcel)


def main() -> None:
    if len(sys.argv) == 3:
        before = resident_peak_mib()
        ARMS[sys.argv[1]](Path(sys.argv[2]))
        print(resident_peak_mib() - before)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "photograph.jpg"
        rows = [row(size, path) for size in SIZES]
        write("images", {"group": rows, "around_the_threshold": [around_the_threshold(size, path) for size in THRESHOLD]})


if __name__ == "__main__":
    main()
