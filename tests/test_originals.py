"""Originals: small files as they always were; large JPEGs decoded no further than somebody looks, and never differently."""

import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageOps

from focus.data import original as originals
from focus.data.original import Decoded, LargeJpeg, Original, read
from focus.data.sample import ImageFile
from focus.gap import Gap, Mode, cut, look
from tests.test_samples import sample

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
    image.save(folder / name, **{"format": "JPEG", "quality": 90, "exif": exif, **options})
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

    monkeypatch.setattr(originals, "_upright", slowly)  # what every full decode passes through
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
    view, reference = look(lazy, 24, 28), look(exact, 24, 28)
    assert (view.size, view.tokens, view.original_size) == (reference.size, reference.tokens, reference.original_size)
    assert np.abs(apart(view.image, reference.image)).mean() < 1.25
    box_px = (301.0, 99.0, 833.0, 640.0)
    assert same(cut(lazy, box_px, lazy.size, 64, 28).image, cut(exact, box_px, exact.size, 64, 28).image)


def test_without_a_gap_crops_of_a_large_jpeg_come_from_its_view(tmp_path):
    file = ImageFile(jpeg(tmp_path, photograph(1200, 800)))
    question = sample(image=file, width=1200, height=800)
    view, source = Gap(Mode.OFF, 24, 28).see(question, question.open())
    assert source.size == view.size and source.reduced(view.size) is view.image
