"""Deep-zoom tiles of a large image cost one decode for each size, not one for each tile."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from focus.data.images.original import Decoded
from focus.lightbox.images import Images


class Counting(Decoded):
    """An original that notes the sizes that were asked of it."""

    asked: list[tuple[int, int]] = []

    def reduced(self, size):
        self.asked.append(size)
        return super().reduced(size)


@pytest.fixture
def tile(tmp_path, monkeypatch):
    """Ask for a tile of an image of 4096 x 2048 px: level 12 is the image itself, level 10 has 1024 x 512 px."""
    Counting.asked.clear()
    monkeypatch.setattr("focus.lightbox.images.read", lambda _: Counting(Image.new("RGB", (4096, 2048), "red")))
    (tmp_path / "large.png").write_bytes(b"read as the image above")
    images = Images()
    key = images.add(tmp_path / "large.png")
    return lambda level, column, row: images.tile(key, level, column, row)


def test_levels_up_to_1024_px_are_made_from_one_copy(tile):
    for level in (8, 9, 10, 11):
        tile(level, 0, 0)
    assert Counting.asked == [(1024, 512), (2048, 1024)]


def test_tiles_that_are_asked_for_at_the_same_time_wait_for_one_decode(tile):
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda at: tile(11, *at), [(column, row) for column in range(8) for row in range(2)]))
    assert Counting.asked == [(2048, 1024)]
