"""Originals: small files as they always were; large ones decoded no further than somebody looks, huge ones streamed; never differently."""

import io
import multiprocessing
import pickle
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageOps

from experiments.faults.images import damaged, outcome
from focus.data.images import header, pixels, streaming
from focus.data.images import original as originals
from focus.data.images.exif import TURNS
from focus.data.images.header import BadImage, image_size
from focus.data.images.original import Decoded, Huge, LargeJpeg, Original, read
from focus.data.names import other_spelling
from focus.data.sample import ImageFile
from focus.gap import Gap, Mode, cut, resize_to_budget
from tests.support.samples import sample

PROPERTY = settings(deadline=None, database=None, max_examples=50)


@pytest.fixture(autouse=True)
def large(monkeypatch):
    """Every JPEG above 100 x 100 px counts as large."""
    monkeypatch.setattr(originals, "LARGE_PX", 10_000)


@cache
def photograph(width: int = 600, height: int = 400) -> Image.Image:
    coffee = Image.open(files("skimage").joinpath("data/coffee.png")).convert("RGB")  # 600 x 400 px
    return coffee if coffee.size == (width, height) else coffee.resize((width, height), Image.Resampling.BICUBIC)


def jpeg(folder: Path, image: Image.Image, name: str = "photo.jpg", orientation: int = 1, **options) -> Path:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    quality = {} if options.get("format") == "TIFF" else {"quality": 90}
    image.save(folder / name, **{"format": "JPEG", "exif": exif, **quality, **options})
    return folder / name


def decoded(path: Path) -> Image.Image:
    """The whole file as it was decoded before anything waited, step by step and with all its copies."""
    with Image.open(path) as image:
        image.load()
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16"):
            return Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8)).convert("RGB")
        if upright.has_transparency_data:
            upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright.convert("RGBA"))
        return upright.convert("RGB")


def same(a: Image.Image, b: Image.Image) -> bool:
    return a.mode == b.mode == "RGB" and np.array_equal(a, b)


def apart(a: Image.Image, b: Image.Image) -> np.ndarray:
    assert a.size == b.size and a.mode == b.mode == "RGB"
    return np.asarray(a).astype(int) - np.asarray(b).astype(int)


# ------------------------------------------------------------------------------------- what is decoded at once, as before


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_small_jpeg_has_the_pixels_it_always_had(tmp_path, mode, orientation):
    path = jpeg(tmp_path, photograph(120, 80).convert(mode), orientation=orientation)
    original = read(path)
    assert isinstance(original, Decoded)
    assert same(original.reduced(original.size), decoded(path))
    assert same(original.reduced((28, 56)), decoded(path).resize((28, 56), Image.Resampling.BICUBIC))
    assert same(original.region((3.0, 5.0, 60.0, 70.0)), decoded(path).crop((3, 5, 60, 70)))


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16"])
def test_a_png_is_never_large_and_has_the_pixels_it_always_had(tmp_path, mode, orientation):
    greys = Image.fromarray(np.arange(300 * 200, dtype=np.uint16).reshape(200, 300))
    image = greys if mode == "I;16" else photograph(300, 200).convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    path = jpeg(tmp_path, image, "image.png", orientation, format="PNG")
    original = read(path)
    assert isinstance(original, Decoded) and original.size == ((300, 200) if orientation == 1 else (200, 300))
    assert same(original.reduced(original.size), decoded(path))


def test_an_original_in_memory_gives_its_pixels_back_uncopied():
    image = photograph()
    assert Decoded(image).reduced((600, 400)) is image


# ------------------------------------------------------------------------------------------------ views of a large JPEG


def test_only_the_header_of_a_large_jpeg_is_read_before_somebody_looks(tmp_path):
    path = jpeg(tmp_path, photograph(), orientation=6)
    path.write_bytes(path.read_bytes()[:2000])
    assert isinstance(read(path), LargeJpeg) and read(path).size == (400, 600)


@pytest.mark.parametrize("name", ["coffee.png", "astronaut.png", "motorcycle_left.png", "rocket.jpg"])
@pytest.mark.parametrize("times", [4.1, 8.1, 16.1])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
def test_a_scaled_view_of_a_photograph_is_the_exact_one_up_to_a_grey_level_and_not_brighter(tmp_path, name, times, subsampling):
    path = jpeg(tmp_path, Image.open(files("skimage").joinpath("data", name)).convert("RGB"), subsampling=subsampling)
    exact = decoded(path)
    size = (round(exact.width / times), round(exact.height / times))  # a decode at 1/2, 1/4 and 1/8
    difference = apart(read(path).reduced(size), exact.resize(size, Image.Resampling.BICUBIC))
    assert 0 < np.abs(difference).mean() < 1.25  # of 255; measured 0.4 to 1.2
    assert np.abs(difference).max() <= 16  # measured 6 to 13
    assert abs(difference.mean()) < 0.2


def test_a_view_more_than_half_as_large_as_any_scaled_decode_is_exact(tmp_path):
    path = jpeg(tmp_path, photograph())
    for size in [(301, 200), (151, 100), (150, 101), (600, 399), (700, 500)]:  # half of a side, a quarter and a pixel, larger than native
        assert same(read(path).reduced(size), decoded(path).resize(size, Image.Resampling.BICUBIC))
    assert not same(read(path).reduced((150, 100)), decoded(path).resize((150, 100), Image.Resampling.BICUBIC))
    assert same(read(path).reduced((600, 400)), decoded(path))


def test_a_view_does_not_depend_on_what_was_asked_for_before(tmp_path):
    path = jpeg(tmp_path, photograph())
    first, asked = read(path), read(path)
    asked.region((0, 0, 600, 400))
    assert same(first.reduced((112, 84)), asked.reduced((112, 84)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photograph_is_upright_in_its_view_and_in_its_crops(tmp_path, orientation):
    path = jpeg(tmp_path, photograph(603, 397), orientation=orientation)
    original, exact = read(path), decoded(path)
    assert isinstance(original, LargeJpeg) and original.size == exact.size
    size = (exact.width // 7, exact.height // 7)
    assert np.abs(apart(original.reduced(size), exact.resize(size, Image.Resampling.BICUBIC))).mean() < 1.25
    assert same(original.region((11, 23, 77, 203)), exact.crop((11, 23, 77, 203)))


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("width, height", [(601, 401), (607, 407), (393, 1001), (1023, 129)])
def test_sides_that_are_no_multiple_of_the_scale_do_not_shift_the_view(tmp_path, width, height, orientation):
    ramp = np.add.outer(np.linspace(0, 127, height), np.linspace(0, 127, width)).round().astype(np.uint8)  # a shift would be a bias
    path = jpeg(tmp_path, Image.fromarray(ramp).convert("RGB"), orientation=orientation, quality=100, subsampling="4:4:4")
    exact = decoded(path)
    size = (max(2, exact.width // 17), max(2, exact.height // 17))  # a decode at 1/8 covers up to 7/8 of a pixel less than it holds
    difference = apart(read(path).reduced(size), exact.resize(size, Image.Resampling.BICUBIC))
    assert abs(difference.mean()) < 0.5 and np.abs(difference).max() <= 2


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_a_large_grey_or_cmyk_jpeg_is_rgb_like_a_small_one(tmp_path, mode):
    path = jpeg(tmp_path, photograph().convert(mode))
    original, exact = read(path), decoded(path)
    assert isinstance(original, LargeJpeg)
    assert np.abs(apart(original.reduced((72, 48)), exact.resize((72, 48), Image.Resampling.BICUBIC))).mean() < 1.25
    assert same(original.region((100, 50, 300, 200)), exact.crop((100, 50, 300, 200)))


def test_a_large_progressive_jpeg_and_one_with_a_second_picture_are_read_alike(tmp_path):
    progressive = jpeg(tmp_path, photograph(), "progressive.jpg", progressive=True)
    phone = jpeg(tmp_path, photograph(), "phone.jpg", format="MPO", save_all=True, append_images=[photograph(60, 40)])
    for path in (progressive, phone):
        original, exact = read(path), decoded(path)
        assert isinstance(original, LargeJpeg)
        assert np.abs(apart(original.reduced((72, 48)), exact.resize((72, 48), Image.Resampling.BICUBIC))).mean() < 1.25
        assert same(original.region((0, 0, 600, 400)), exact)


# ------------------------------------------------------------------------------------------------ crops of a large JPEG


@pytest.fixture(scope="module")
def turned(tmp_path_factory) -> tuple[Original, Image.Image]:
    """A large photograph that lies on its side, opened once, and its exact pixels."""
    path = jpeg(tmp_path_factory.mktemp("turned"), photograph(601, 397), orientation=8)
    return LargeJpeg(path, (397, 601)), decoded(path)


@PROPERTY
@given(st.data())
def test_every_region_is_exactly_that_of_the_full_decode(turned, data):
    original, exact = turned
    x1, x2 = sorted(data.draw(st.lists(st.integers(0, exact.width), min_size=2, max_size=2, unique=True)))
    y1, y2 = sorted(data.draw(st.lists(st.integers(0, exact.height), min_size=2, max_size=2, unique=True)))
    assert same(original.region((float(x1), float(y1), float(x2), float(y2))), exact.crop((x1, y1, x2, y2)))


def test_many_crops_from_many_threads_cost_one_decode(tmp_path, monkeypatch):
    path = jpeg(tmp_path, photograph())
    original, exact = read(path), decoded(path)
    decodes = []

    def slowly(image: Image.Image) -> Image.Image:
        decodes.append(image.size)
        time.sleep(0.05)  # all threads are waiting by now
        return image

    monkeypatch.setattr(pixels, "load_upright", slowly)  # what every full decode passes through
    boxes = [(13 * i, 7 * i, 13 * i + 200, 7 * i + 160) for i in range(16)]
    with ThreadPoolExecutor(8) as threads:
        crops = list(threads.map(original.region, boxes))
    assert decodes == [(600, 400)]
    assert all(same(crop, exact.crop(box)) for crop, box in zip(crops, boxes, strict=True))
    original.reduced((600, 400)), original.reduced((400, 300))  # levels of a ladder that no scaled decode serves
    assert decodes == [(600, 400)]


def test_released_pixels_are_gone_and_are_decoded_again_when_asked_for(tmp_path):
    original = read(jpeg(tmp_path, photograph()))
    before = original.region((10, 20, 90, 80))
    assert original._pixels is not None
    original.release()
    assert original._pixels is None
    assert same(original.region((10, 20, 90, 80)), before)


def test_a_pickle_holds_the_path_and_not_the_pixels(tmp_path):
    original = read(jpeg(tmp_path, photograph(), orientation=6))
    crop = original.region((10, 20, 300, 200))
    parcel = pickle.dumps(original)
    assert len(parcel) < 1000
    unpacked = pickle.loads(parcel)
    assert unpacked.size == original.size == (400, 600)
    assert same(unpacked.region((10, 20, 300, 200)), crop) and same(unpacked.reduced((56, 84)), original.reduced((56, 84)))


def test_a_pickle_of_a_small_original_holds_its_pixels(tmp_path):
    path = jpeg(tmp_path, photograph(90, 60), orientation=3)
    parcel = pickle.dumps(read(path))
    path.unlink()
    assert pickle.loads(parcel).size == (90, 60)


# --------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("kept", [0.3, 0.7, 0.99])
def test_a_truncated_large_jpeg_fails_when_it_is_first_looked_at_though_little_of_it_is_decoded(tmp_path, kept, progressive):
    path = jpeg(tmp_path, photograph(), "cut.jpg", progressive=progressive)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    original = read(path)
    for size in [(30, 20), (72, 48), (140, 90), (600, 400)]:  # at 1/8, 1/4, 1/2 and 1
        with pytest.raises(ValueError, match=r"cut\.jpg cannot be decoded .*truncated.*replace the file or remove its record"):
            original.reduced(size)
    with pytest.raises(ValueError, match=r"cut\.jpg cannot be decoded"):
        original.region((0, 0, 10, 10))


def test_a_large_jpeg_that_is_gone_or_replaced_before_it_is_decoded_is_named(tmp_path):
    path = jpeg(tmp_path, photograph())
    original = read(path)
    jpeg(tmp_path, photograph(300, 200))
    with pytest.raises(ValueError, match=r"photo\.jpg cannot be decoded \(it was 600x400 px when it was opened"):
        original.reduced((72, 48))
    path.unlink()
    with pytest.raises(ValueError, match=r"photo\.jpg does not exist; check data\.root"):
        original.region((0, 0, 10, 10))


def test_a_jpeg_with_more_pixels_than_pillow_allows_is_named_with_what_to_do(tmp_path, monkeypatch):
    path = jpeg(tmp_path, photograph())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600 * 400 // 4)
    with pytest.raises(ValueError, match=r"photo\.jpg cannot be decoded .*decompression bomb.*replace the file or remove its record"):
        read(path)


def test_a_record_that_states_another_size_is_told_so_without_decoding(tmp_path):
    file = ImageFile(jpeg(tmp_path, photograph(), orientation=6))
    with pytest.raises(ValueError, match=r"the image is 400x600 px but the record says 600x400; .*EXIF"):
        sample(image=file, width=600, height=400).open()


# ---------------------------------------------------------------------------------------------------------- with a gap


def test_views_and_crops_of_a_large_jpeg_are_those_of_its_pixels(tmp_path):
    path = jpeg(tmp_path, photograph(1200, 800))
    lazy, exact = read(path), Decoded(decoded(path))
    view, reference = resize_to_budget(lazy, 24, 28), resize_to_budget(exact, 24, 28)
    assert (view.size, view.tokens, view.original_size) == (reference.size, reference.tokens, reference.original_size)
    assert np.abs(apart(view.image, reference.image)).mean() < 1.25
    box_px = (301.0, 99.0, 833.0, 640.0)
    assert same(cut(lazy, box_px, lazy.size, 64, 28).image, cut(exact, box_px, exact.size, 64, 28).image)


def test_without_a_gap_crops_of_a_large_jpeg_come_from_its_view(tmp_path):
    file = ImageFile(jpeg(tmp_path, photograph(1200, 800)))
    question = sample(image=file, width=1200, height=800)
    view, source = Gap(Mode.OFF, 24, 28).view_of(question, question.open())
    assert source.size == view.size and source.reduced(view.size) is view.image


# ------------------------------------------------------------------------------------------------------------ huge files


@pytest.fixture
def huge(monkeypatch):
    """Every file above 150 x 100 px counts as huge, and its view is made from bands of 16 rows or so."""
    pytest.importorskip("pyvips")
    monkeypatch.setattr(header, "HUGE_PX", 15_000)
    monkeypatch.setattr(streaming, "BAND_PX", 10_000)


def picture(mode: str) -> Image.Image:
    """The photograph in a mode; greys of 16 bits use all of them, transparency runs from none to all."""
    if mode == "I;16":
        return Image.fromarray(np.asarray(photograph().convert("L")).astype(np.uint16) * 257 - np.arange(600, dtype=np.uint16))
    image = photograph().convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


HUGE_FILES = {
    **{f"{mode}.png": (mode, {"format": "PNG"}) for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16")},
    "key colour.png": ("RGB", {"format": "PNG", "transparency": (33, 13, 13)}),
    "clear palette.png": ("P", {"format": "PNG", "transparency": bytes(range(256))}),
    **{f"{mode}.tif": (mode, {"format": "TIFF", "compression": "tiff_lzw"}) for mode in ("RGB", "RGBA", "L", "P", "1", "I;16", "CMYK")},
    "jpeg.tif": ("RGB", {"format": "TIFF", "compression": "jpeg"}),
    **{f"{sampling[::2]}.jpg": ("RGB", {"subsampling": sampling}) for sampling in ("4:4:4", "4:2:2", "4:2:0")},
    "coarse.jpg": ("RGB", {"subsampling": "4:2:0", "quality": 30}),
    "L.jpg": ("L", {}),
    "CMYK.jpg": ("CMYK", {}),
    "phone.jpg": ("RGB", {"format": "MPO", "save_all": True, "append_images": [Image.new("RGB", (60, 40))]}),
}
CORNERS_AND_INSIDE = [(0, 0, 1, 1), (300, 300, 311, 390), (3, 7, 390, 21), (0, 0, 400, 400)]


@pytest.mark.parametrize("name", HUGE_FILES)
def test_a_streamed_crop_has_exactly_the_pixels_of_the_full_decode(tmp_path, huge, name):
    mode, options = HUGE_FILES[name]
    path = jpeg(tmp_path, picture(mode), name, **options)
    original, exact = read(path), decoded(path)
    assert isinstance(original, Huge) and original.size == exact.size == image_size(path) == (600, 400)
    for box in [*CORNERS_AND_INSIDE, (599, 399, 600, 400), (0, 0, 600, 400)]:
        assert same(original.region(tuple(map(float, box))), exact.crop(box))


@pytest.mark.parametrize("name", [name for name in HUGE_FILES if not name.endswith("jpg")])
def test_a_streamed_view_is_exactly_the_bicubic_one(tmp_path, huge, name):
    mode, options = HUGE_FILES[name]
    path = jpeg(tmp_path, picture(mode), name, **options)
    for size in [(72, 48), (73, 31), (600, 400), (599, 400), (600, 30), (700, 500)]:
        assert same(read(path).reduced(size), decoded(path).resize(size, Image.Resampling.BICUBIC))


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
def test_the_view_of_a_huge_jpeg_is_that_of_a_large_one_and_exact_where_a_scaled_decode_is_huge_itself(tmp_path, huge, subsampling):
    path = jpeg(tmp_path, photograph(), subsampling=subsampling)
    assert same(read(path).reduced((72, 48)), LargeJpeg(path, (600, 400)).reduced((72, 48)))
    size = (200, 133)  # a decode at 1/2 has 300 x 200 px
    assert same(read(path).reduced(size), decoded(path).resize(size, Image.Resampling.BICUBIC))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name, options", [("a.jpg", {}), ("a.png", {"format": "PNG"}), ("a.tif", {"format": "TIFF"})])
def test_a_huge_file_is_turned_once(tmp_path, huge, name, options, orientation):
    path = jpeg(tmp_path, photograph(603, 397), name, orientation, **options)
    original, exact = read(path), decoded(path)
    assert isinstance(original, Huge) and original.size == image_size(path) == exact.size
    for box in CORNERS_AND_INSIDE[:3]:
        assert same(original.region(tuple(map(float, box))), exact.crop(box))
    size = (exact.width // 3, exact.height // 5)  # no scaled decode of a JPEG serves it
    difference = apart(original.reduced(size), exact.resize(size, Image.Resampling.BICUBIC))
    assert np.abs(difference).max() <= (2 if orientation >= 5 else 0)  # lying on its side, its height is shrunk before its width
    assert np.abs(difference).mean() < 0.25 and abs(difference.mean()) < 0.02
    small = (exact.width // 9, exact.height // 9)
    assert np.abs(apart(original.reduced(small), exact.resize(small, Image.Resampling.BICUBIC))).mean() < 1.25


def late_exif(path: Path) -> Path:
    """A PNG whose EXIF stands behind its pixels, as the format allows."""
    stored, chunks = path.read_bytes(), []
    at = 8
    while at < len(stored):
        end = at + 12 + int.from_bytes(stored[at : at + 4], "big")
        chunks.append(stored[at:end])
        at = end
    exif = [chunk for chunk in chunks if chunk[4:8] == b"eXIf"]
    assert len(exif) == 1
    path.write_bytes(b"".join([stored[:8], *(chunk for chunk in chunks[:-1] if chunk not in exif), *exif, chunks[-1]]))
    return path


def test_exif_behind_the_pixels_of_a_png_turns_it_and_is_found_without_decoding(tmp_path, huge, monkeypatch):
    path = late_exif(jpeg(tmp_path, photograph(), "late.png", 6, format="PNG"))
    exact = decoded(path)
    assert exact.size == (400, 600)
    monkeypatch.setattr(pixels, "to_rgb", lambda image: pytest.fail("decoded"))
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("decoded"))
    assert image_size(path) == image_size(io.BytesIO(path.read_bytes())) == read(path).size == (400, 600)
    monkeypatch.undo()
    assert same(Huge(path, (400, 600)).region((10.0, 20.0, 300.0, 500.0)), exact.crop((10, 20, 300, 500)))


def test_a_file_name_with_brackets_is_not_read_as_options(tmp_path, huge):
    path = jpeg(tmp_path, photograph(), "street[shrink=2].jpg")
    assert same(read(path).region((0.0, 0.0, 600.0, 400.0)), decoded(path))


def test_many_threads_stream_the_same_file_at_the_same_time_and_nothing_is_held(tmp_path, huge):
    path = jpeg(tmp_path, photograph(), orientation=8)
    original, exact = read(path), decoded(path)
    boxes = [(11 * i, 29 * i, 11 * i + 200, 29 * i + 100) for i in range(16)]
    with ThreadPoolExecutor(8) as threads:
        crops = list(threads.map(original.region, boxes))
    assert all(same(crop, exact.crop(box)) for crop, box in zip(crops, boxes, strict=True))
    original.release()
    assert pickle.loads(pickle.dumps(original)) == original and len(pickle.dumps(original)) < 1000
    path.unlink()
    with pytest.raises(ValueError, match=r"photo\.jpg does not exist; check data\.root"):
        original.region(boxes[0])


def test_a_forked_process_streams_though_its_parent_did_before(tmp_path, huge):
    path = jpeg(tmp_path, photograph(), "forked.png", format="PNG")
    read(path).region((0.0, 0.0, 600.0, 400.0))
    child = multiprocessing.get_context("fork").Process(target=read(path).reduced, args=((72, 48),))
    child.start()
    child.join(600)
    hangs = child.is_alive()
    child.kill()
    assert not hangs and child.exitcode == 0


@pytest.mark.parametrize("name, options", [("cut.jpg", {}), ("cut.png", {"format": "PNG"}), ("cut.tif", {"format": "TIFF"})])
def test_a_truncated_huge_file_fails_when_its_missing_rows_are_asked_for(tmp_path, huge, name, options):
    path = jpeg(tmp_path, photograph(), name, **options)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    original = read(path)
    for look_at in (lambda: original.region((0.0, 390.0, 600.0, 400.0)), lambda: original.reduced((72, 48))):
        with pytest.raises(ValueError, match=r"image .*cut\.... cannot be decoded .*replace the file or remove its record"):
            look_at()


def test_a_huge_tiff_that_is_damaged_inside_fails_and_has_no_invented_rows(tmp_path, huge):
    path = jpeg(tmp_path, photograph(), "damaged.tif", format="TIFF", compression="tiff_lzw")
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 3 : len(damaged) // 2] = bytes(len(damaged) // 2 - len(damaged) // 3)
    path.write_bytes(damaged)
    for look_at in (lambda: read(path).region((0.0, 150.0, 600.0, 250.0)), lambda: read(path).reduced((72, 48))):
        with pytest.raises(ValueError, match=r"damaged\.tif cannot be decoded .*replace the file or remove its record"):
            look_at()


def test_a_huge_jpeg_that_is_damaged_inside_has_the_pixels_that_pillow_gives_it(tmp_path, huge):
    path = jpeg(tmp_path, photograph())
    damaged = bytearray(path.read_bytes())
    for at in range(len(damaged) // 2, len(damaged) // 2 + 40):
        damaged[at] ^= 0x55
    path.write_bytes(damaged)
    exact = decoded(path)
    assert not same(exact, photograph())
    assert same(read(path).region((0.0, 0.0, 600.0, 400.0)), exact)


@pytest.mark.parametrize(
    "name, options, said",
    [
        ("a.jpg", {"progressive": True}, r"progressive JPEG of 600x400 px; above 15000 px a file must be read row by row; `jpegtran"),
        ("a.webp", {"format": "WEBP"}, "RGB WEBP of 600x400 px; .* convert it to PNG, TIFF or JPEG"),
        ("a.bmp", {"format": "BMP"}, "RGB BMP of 600x400 px"),
    ],
)
def test_a_huge_file_that_cannot_be_read_row_by_row_is_refused_from_its_header(tmp_path, huge, name, options, said):
    path = jpeg(tmp_path, photograph().convert(options.pop("mode", "RGB")), name, **options)
    for refusing in (read, image_size):
        with pytest.raises(ValueError, match=rf"{name} cannot be decoded \(it is a {said}"):
            refusing(path)


def test_a_huge_interlaced_png_is_refused_with_what_rewrites_it(tmp_path, huge):
    import pyvips

    path = tmp_path / "interlaced.png"
    pyvips.Image.new_from_array(np.asarray(photograph())).pngsave(str(path), interlace=True)
    with pytest.raises(ValueError, match=r"interlaced PNG of 600x400 px.*`vips copy OLD NEW` makes a plain one of the same pixels"):
        read(path)


def test_a_huge_file_without_pyvips_is_told_what_to_install_and_a_smaller_one_needs_none(tmp_path, huge, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyvips", None)  # importing it fails
    with pytest.raises(ValueError, match=r"more than 15000 pixels and needs pyvips .*pip install pyvips\[binary\]"):
        read(jpeg(tmp_path, photograph()))
    assert isinstance(read(jpeg(tmp_path, photograph(140, 100))), LargeJpeg)
    assert isinstance(read(jpeg(tmp_path, photograph(90, 60))), Decoded)


def test_the_recorded_8k_square_is_not_huge_and_a_file_of_200_megapixels_is_allowed():
    assert header.HUGE_PX >= 8192 * 8192  # experiments/speed/images.json
    assert 200_000_000 < header.LIMIT_PX == 2 * Image.MAX_IMAGE_PIXELS  # Pillow refuses twice its limit


STREAM_200_MPX = """
import resource, sys
from pathlib import Path
import numpy as np, pyvips
from focus.data.images.original import Huge, read

path = Path(sys.argv[1])
pyvips.Image.black(20_000, 10_000).copy(interpretation="b-w").pngsave(str(path), compression=1)
peak_kib = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak_kib()
original = read(path)
assert isinstance(original, Huge) and original.size == (20_000, 10_000)
view, crop = original.reduced((616, 308)), original.region((19_000.0, 9_400.0, 19_512.0, 9_912.0))
assert view.size == (616, 308) and crop.size == (512, 512)
print((peak_kib() - before) // 1024)
"""


@pytest.mark.processes
def test_a_view_and_a_crop_of_200_megapixels_take_little_memory(tmp_path):
    pytest.importorskip("pyvips")
    command = [sys.executable, "-c", STREAM_200_MPX, str(tmp_path / "black.png")]
    streamed = subprocess.run(command, capture_output=True, text=True)
    assert streamed.returncode == 0, streamed.stderr
    assert int(streamed.stdout) < 300  # MiB; a full decode is 763


# -------------------------------------------------------------------------------------------------------------- measured


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_the_measured_size_is_that_of_the_original_though_the_file_ends_behind_its_header(tmp_path, kind, orientation):
    path = jpeg(tmp_path, photograph(90, 60), f"a.{kind}", orientation, format=kind)
    assert image_size(path) == image_size(io.BytesIO(path.read_bytes())) == read(path).size == ((90, 60) if orientation == 1 else (60, 90))
    if kind in ("JPEG", "PNG"):
        assert image_size(io.BytesIO(path.read_bytes()[:1500])) == image_size(path)


def test_what_is_no_image_or_too_large_is_not_measured(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"image of 5 bytes cannot be decoded \(its header is none of JPEG, PNG, WEBP, .*\); convert"):
        image_size(io.BytesIO(b"hello"))
    with pytest.raises(ValueError, match=r"gone\.png does not exist"):
        image_size(tmp_path / "gone.png")
    path = jpeg(tmp_path, photograph())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600 * 400 // 2 - 1)
    with pytest.raises(ValueError, match=r"cannot be decoded \(.*240000 pixels.*exceeds limit of 239998 pixels.*replace the file"):
        image_size(path)


# ----------------------------------------------------------------------------------------------------- odd and damaged files


def entry(tag: int, kind: int, value: bytes) -> tuple[int, int, int, bytes]:
    return tag, kind, 3 if kind == 2 else 1, value


ODD_TAGS = {
    "resolution as text": entry(0x011A, 2, b"72\0\0"),
    "resolution as bytes": entry(0x011A, 7, b"7200"),
    "software as float": entry(0x0131, 11, struct.pack("<f", 1.5)),
    "width as float": entry(0x0100, 11, struct.pack("<f", 96.0)),
    "unit out of range": entry(0x0128, 4, struct.pack("<I", 70000)),
}


def raw_exif(orientation: int, odd: tuple[int, int, int, bytes]) -> bytes:
    """EXIF of two tags, as no library would write it."""
    entries = [(0x0112, 3, 1, struct.pack("<HH", orientation, 0)), odd]
    packed = b"".join(struct.pack("<HHI", *each[:3]) + each[3] for each in entries)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + packed + bytes(204)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("tag", ODD_TAGS)
@pytest.mark.parametrize("size", [(96, 64), (180, 120)])  # the second JPEG is a large one
def test_a_turned_photograph_with_an_odd_tag_is_shown_upright(tmp_path, kind, tag, size):
    lying = photograph(*size)
    for orientation in (1, 6, 8):
        lying.save(tmp_path / "a", kind, exif=raw_exif(orientation, ODD_TAGS[tag]), quality=100, lossless=True)
        upright = lying.transpose(TURNS[orientation]) if orientation > 1 else lying
        original = read(tmp_path / "a")
        assert image_size(tmp_path / "a") == original.size == upright.size
        assert np.abs(apart(original.reduced(original.size), upright)).mean() < 3
        assert original.region((0.0, 0.0, 9.0, 9.0)).size == (9, 9) and original.reduced((20, 30)).size == (20, 30)


@pytest.mark.parametrize("frames", [1, 2, 3, 5])
@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP"])
def test_of_an_animated_picture_the_first_frame_is_used(tmp_path, kind, frames):
    first, *others = [Image.new("RGB", (100, 80), (40 * number, 90, 200)) for number in range(frames)]
    first.save(tmp_path / "a", kind, save_all=True, append_images=others, lossless=True)
    assert image_size(tmp_path / "a") == (100, 80)
    red, green, blue = read(tmp_path / "a").reduced((100, 80)).getpixel((50, 40))
    assert abs(red) < 6 and abs(green - 90) < 6 and abs(blue - 200) < 6


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_with(*chunks: bytes) -> bytes:
    plain = io.BytesIO()
    Image.new("RGB", (100, 80), "red").save(plain, "PNG")
    return plain.getvalue()[:33] + b"".join(chunks) + plain.getvalue()[33:]


@pytest.mark.parametrize("chunks", [
    [chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(2_000_000)))],
    [chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * 2_000_000))],
    [chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(b"a" * 2_000_000))],
    [chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * 900_000))] * 80,
])  # fmt: skip
def test_a_png_with_a_large_profile_or_text_is_read(tmp_path, chunks):
    (tmp_path / "a.png").write_bytes(png_with(*chunks))
    assert image_size(tmp_path / "a.png") == read(tmp_path / "a.png").size == (100, 80)


def test_a_text_that_unpacks_without_limit_is_refused_with_what_takes_it_out():
    bomb = png_with(chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(80 << 20))))
    with pytest.raises(BadImage, match="unpacks to more than 64 MiB; remove it") as told:
        image_size(io.BytesIO(bomb))
    assert told.value.reason == "its text or colour profile unpacks to more than 64 MiB; remove it with `exiftool -all= FILE`"


@pytest.mark.parametrize("claimed", [2**32 - 1, 2**31 - 1, 5000])
def test_a_chunk_that_claims_more_than_there_is_takes_no_memory(claimed):
    plain = png_with()
    longer = plain[:-12] + struct.pack(">I", claimed) + b"eXIf" + plain[-12:]  # behind the pixels
    assert image_size(io.BytesIO(longer)) == (100, 80)


RAMP = np.tile(np.linspace(0, 1, 96), (64, 1))
DEEP = {
    "10 bits in 16": (RAMP * 1023).astype(np.uint16),
    "12 bits in 16": (RAMP * 4095).astype(np.uint16),
    "16 bits": (RAMP * 65535).astype(np.uint16),
    "8 bits in 16": (RAMP * 255).astype(np.uint16),
    "32 bits": (RAMP * 1_000_000).astype(np.int32),
    "32 bits below 0": ((RAMP - 0.5) * 1000).astype(np.int32),
    "fractions": RAMP.astype(np.float32),
    "fractions up to 65535": (RAMP * 65535).astype(np.float32),
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_greys_run_from_black_to_white_in_small_and_in_huge_files_alike(tmp_path, name, monkeypatch):
    Image.fromarray(DEEP[name]).save(tmp_path / "a.tif")
    small = read(tmp_path / "a.tif")
    pixels = np.asarray(small.reduced(small.size))[0, :, 0]
    assert np.abs(pixels - RAMP[0] * 255).max() <= 1.5
    pytest.importorskip("pyvips")
    monkeypatch.setattr(header, "HUGE_PX", 1000)
    streamed = read(tmp_path / "a.tif")
    assert isinstance(streamed, Huge) and same(streamed.reduced((96, 64)), small.reduced((96, 64)))
    assert same(streamed.region((50.0, 10.0, 90.0, 30.0)), small.region((50.0, 10.0, 90.0, 30.0)))
    assert pickle.loads(pickle.dumps(streamed)) == streamed


def colours_of_16_bits(path: Path, values: np.ndarray) -> None:
    import pyvips

    pyvips.Image.new_from_array(np.stack([values] * 3, axis=2)).copy(interpretation="rgb16").pngsave(str(path))


@pytest.mark.parametrize("huge_px", [1000, 10**6])
def test_16_bit_colours_that_would_be_all_but_black_are_refused_and_others_are_not(tmp_path, monkeypatch, huge_px):
    pytest.importorskip("pyvips")
    monkeypatch.setattr(header, "HUGE_PX", huge_px)
    colours_of_16_bits(tmp_path / "dark.png", DEEP["12 bits in 16"])
    colours_of_16_bits(tmp_path / "light.png", DEEP["16 bits"])
    with pytest.raises(BadImage, match=r"dark\.png .*lowest 12 of 16 bits and would look black; scale them"):
        read(tmp_path / "dark.png").reduced((9, 9))
    assert np.asarray(read(tmp_path / "light.png").reduced((96, 64))).max() == 255


@pytest.mark.parametrize("value", [0.25, float("nan")])
def test_fractions_that_are_all_alike_are_refused(tmp_path, value):
    Image.fromarray(np.full((8, 9), value, np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(BadImage, match=r"a\.tif .*its greys of more than 16 bits are all .*scale them to 8 or 16 bits"):
        read(tmp_path / "a.tif")


def test_a_small_file_whose_header_claims_a_billion_pixels_is_refused_from_its_header(tmp_path):
    Image.new("L", (96, 64)).save(tmp_path / "a.tif")
    blob = bytearray((tmp_path / "a.tif").read_bytes())
    for tag in (256, 257):  # width and height, short or long
        at = blob.index(struct.pack("<H", tag) + b"\4\0" if struct.pack("<H", tag) + b"\4\0" in blob else struct.pack("<H", tag) + b"\3\0")
        blob[at : at + 12] = struct.pack("<HHII", tag, 4, 1, 30_000)
    (tmp_path / "a.tif").write_bytes(blob)
    for refusing in (read, image_size):
        with pytest.raises(BadImage, match=r"its header says 30000x30000 px, more than its \d+ bytes can hold"):
            refusing(tmp_path / "a.tif")


@pytest.mark.parametrize("content", [b"\0\0\0 ftypavif", b"\0\0\0\x0cjP  \r\n", b"P6 2 2 255 " + bytes(12)])
def test_an_image_of_another_kind_is_told_which_are_read(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(BadImage, match="its header is none of JPEG, PNG, WEBP, TIFF, BMP, GIF, or is damaged"):
        read(tmp_path / "a")


def test_a_link_that_leads_to_itself_and_a_name_that_no_file_can_have_are_bad_images(tmp_path):
    (tmp_path / "a.png").symlink_to("a.png")
    for name in ("a.png", "b\0.png", "c\ud83d.png"):
        for refusing in (read, image_size):
            with pytest.raises(BadImage):
                refusing(tmp_path / name)


@pytest.mark.parametrize(("stated", "there"), [("caf\u00e9.png", "cafe\u0301.png"), ("a.png", "A.PNG"), ("x\\a.png", "x/a.png")])
def test_an_image_that_is_spelt_otherwise_on_disk_is_named(tmp_path, stated, there):
    (tmp_path / there).parent.mkdir(exist_ok=True)
    Image.new("RGB", (9, 9)).save(tmp_path / there)
    with pytest.raises(BadImage, match=r"does not exist; .* is there, the same name in another case or Unicode form") as told:
        read(tmp_path / stated)
    assert ascii(there) in str(told.value)
    assert other_spelling(tmp_path, stated) == there


def test_of_two_files_that_only_spelling_tells_apart_none_is_taken_for_a_third(tmp_path):
    for name in ("a.JPG", "A.jpg"):
        (tmp_path / name).touch()
    assert other_spelling(tmp_path, "a.jpg") is None and other_spelling(tmp_path, "../" + tmp_path.name + "/a.JPG") is None
    (tmp_path / "A.jpg").unlink()
    assert other_spelling(tmp_path, "a.jpg") == "a.JPG"  # the folder is listed again when it changed


@PROPERTY
@given(st.integers(0, 10**6))
def test_a_damaged_file_is_used_or_refused_with_its_reason_and_nothing_else(number):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "image")
        path.write_bytes(damaged(number, 0)[1])
        assert outcome(path) in ("used", "refused when read", "refused when decoded")
