"""Reading pictures with RapidOCR, an optional package. `make env-questions` installs it; without it only the geometry is tested."""

import numpy as np
import pytest
from PIL import Image

from focus.data.boxes import iou
from focus.documents import ocr
from focus.documents.pdf import TURNED, open_pdf, render
from tests.support.pdf import Text, lines, write_pdf

installed = pytest.mark.skipif(not ocr.is_installed(), reason="rapidocr is not installed (make env-questions)")


def cells(*spans: tuple[float, float], top: float = 10, bottom: float = 30) -> list:
    """Letters as RapidOCR gives them: text, confidence, corners."""
    return [("x", 0.9, [[x1, top], [x2, top], [x2, bottom], [x1, bottom]]) for x1, x2 in spans]


def test_words_are_cut_where_the_ink_has_a_gap_and_drawn_close_about_it():
    pixels = np.full((40, 100, 3), 255, dtype=np.uint8)
    pixels[12:28, 10:30] = 0  # ink of a first word, and of a second
    pixels[15:28, 44:80] = 0
    quad = np.array([[5, 10], [90, 10], [90, 30], [5, 30]], dtype=float)
    first, second = ocr._words(quad, "ab cd", 0.97, cells((10, 20), (20, 34), (40, 60), (60, 80)), pixels)
    assert (first.text, first.box_px) == ("ab", (10.0, 12.0, 30.0, 28.0))
    assert (second.text, second.box_px, second.confidence, second.height_px) == ("cd", (44.0, 15.0, 80.0, 28.0), 0.97, 20.0)


def test_a_line_whose_letters_do_not_agree_with_its_text_gives_no_word():
    assert ocr._words(np.zeros((4, 2)), "abc", 0.9, cells((0, 1)), np.zeros((4, 4, 3), dtype=np.uint8)) == []


def test_a_slanted_and_a_vertical_line_are_turned():
    pixels = np.full((200, 200, 3), 255, dtype=np.uint8)
    slanted = np.array([[0, 0], [100, 30], [95, 50], [0, 20]], dtype=float)
    vertical = np.array([[0, 0], [20, 0], [20, 100], [0, 100]], dtype=float)
    for quad in (slanted, vertical):
        [word] = ocr._words(quad, "ab", 0.9, cells((0, 10), (10, 20)), pixels)
        assert word.flaw == TURNED


@pytest.fixture(scope="module")
def engine():
    return ocr.OCR(1)


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """The pixels of a page and the words of its text layer."""
    path = tmp_path_factory.mktemp("scan") / "a.pdf"
    page = [*lines("Invoice 4711 for May", "Rain gauge with stand", size=24, leading=60), Text("sideways", 400, 200, 30, turn=90)]
    with open_pdf(write_pdf(path, page)) as document:
        pixels, words, _ = render(document, 0, 1000)
    return pixels, words


@installed
def test_the_words_of_a_scan_are_read_with_their_boxes(engine, scan):
    pixels, truth = scan
    seen = {word.text: word for word in engine.read(pixels)}
    for word in truth:
        if not word.flaw:
            assert iou(seen[word.text].box_px, word.box_px) > 0.5 and seen[word.text].confidence > 0.9


@installed
def test_a_picture_without_text_has_no_words(engine):
    assert engine.read(np.asarray(Image.radial_gradient("L").convert("RGB"))) == []
