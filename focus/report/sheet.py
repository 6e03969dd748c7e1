"""A contact sheet: questions of a set side by side, each image small, with its boxes, and beneath it what is asked and what is right.

An image is opened when its place on the sheet is drawn, and at the size it is drawn at, so that a sheet of 8K photographs takes no more
memory than one of thumbnails. One that can't be read costs its place and is told.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files

from matplotlib.ft2font import FT2Font
from PIL import Image

from focus.data.boxes import Box, Size
from focus.data.sample import Sample
from focus.report.picture import CROP_COLOURS, FACES, INK, MAT, MUTED, PAPER, RIGHT, WRONG, _fitted, _placed, _Sheet, _size

MOST = 200  # questions on a sheet; it is then about 18,000 px high
COLUMNS, MARGIN, GAP = 4, 32, 22
WIDTH = 1320
TILE = (WIDTH - 2 * MARGIN - GAP * (COLUMNS - 1)) / COLUMNS
TOP = 4.0  # above a row, so that frames of boxes at the upper edge are seen
PANEL = 0.75 * TILE  # height of the room for an image
TEXT = 190  # the most that stands beneath it


@dataclass(frozen=True)
class Sheet:
    """The picture, None where no image could be read; and why, by the id of the question."""

    image: Image.Image | None
    broken: dict[str, str]


def draw_sheet(samples: Sequence[Sample], title: str) -> Sheet:
    """The sheet of these questions in their order, 1320 px wide. Raises ValueError for none, or for more than MOST of them."""
    if not 0 < len(samples) <= MOST:
        raise ValueError(f"a contact sheet holds 1 to {MOST} questions, not {len(samples)}; look at others with another seed")
    broken: dict[str, str] = {}
    rows = [_row(samples[i : i + COLUMNS], broken) for i in range(0, len(samples), COLUMNS)]
    if len(broken) == len(samples):
        return Sheet(None, broken)
    bands = [_head(samples, title), *rows]
    image = Image.new("RGB", (WIDTH, sum(band.height for band in bands)), PAPER)
    top = 0
    for band in bands:
        image.paste(band, (0, top))
        top += band.height
    return Sheet(image, broken)


def _head(samples: Sequence[Sample], title: str) -> Image.Image:
    """The title, and the colours of the levels that occur."""
    sheet = _Sheet(WIDTH, 90, 1.0)
    deepest = max((len(chain) for sample in samples for chain in sample.boxes), default=0)
    x = WIDTH - MARGIN - 58.0 * deepest
    sheet.text(MARGIN, 46, sheet.shortened(title, 20, "bold", x - MARGIN - 20), 20, INK, "bold")
    for level in range(deepest):
        sheet.outline((x + 22, 36, x + 34, 45), _colour(level), 2)
        sheet.text(x + 40, 45, f"B{level + 1}", 12, MUTED)
        x += 58
    if not _lacking(samples):
        return sheet.finish(66)
    sheet.text(
        MARGIN,
        66,
        "Some letters are not in the font of this sheet and are drawn as empty frames; inspect.json has the questions.",
        12,
        MUTED,
    )
    return sheet.finish(86)


def _lacking(samples: Sequence[Sample]) -> bool:
    """Whether a question or an answer has letters without a glyph, as Chinese ones have none."""
    font = FT2Font(str(files("matplotlib").joinpath("mpl-data/fonts/ttf").joinpath(FACES["regular"])))
    letters = {letter for sample in samples for letter in sample.question + _right(sample) if letter.isprintable()}
    return not all(font.get_char_index(ord(letter)) for letter in letters)


def _row(samples: Sequence[Sample], broken: dict[str, str]) -> Image.Image:
    sheet = _Sheet(WIDTH, TOP + PANEL + TEXT, 1.0)
    bottom = 0.0
    for column, sample in enumerate(samples):
        x = MARGIN + column * (TILE + GAP)
        width, height = _fitted(sample.size, (TILE, PANEL))
        place = (x + (TILE - width) / 2, TOP + (PANEL - height) / 2, width, height)
        sheet.block((x, TOP, x + TILE, TOP + PANEL), MAT)
        try:
            thumbnail = _thumbnail(sample, (max(1, round(width * sheet.scale)), max(1, round(height * sheet.scale))))
        except ValueError as error:
            broken[sample.id] = str(error)
            _draw_reason(sheet, str(error), x)
        else:
            sheet.paste(thumbnail, place)
            _draw_boxes(sheet, sample, place)
        bottom = max(bottom, _draw_text(sheet, sample, x))
    return sheet.finish(bottom + 20)


def _thumbnail(sample: Sample, size: Size) -> Image.Image:
    """The image at this size, or at its own where that is smaller. Raises ValueError if it can't be read."""
    return sample.open().reduced(size if size[0] < sample.width else sample.size)


def _draw_boxes(sheet: _Sheet, sample: Sample, place: Box) -> None:
    """Every box in the colour of its level, the smallest on top; one that is too small to be seen is drawn 2 units wide."""
    levels = [(level, box_px) for chain in sample.boxes for level, box_px in enumerate(chain)]
    for level, box_px in sorted(levels, key=lambda each: -each[0]):
        x1, y1, x2, y2 = _placed(box_px, sample.size, place)
        box = (x1, y1, max(x2, x1 + 2), max(y2, y1 + 2))
        sheet.outline(box, "#ffffffb0", 2.6)
        sheet.outline(box, _colour(level), 1.8)


def _draw_reason(sheet: _Sheet, reason: str, x: float) -> None:
    sheet.text(x + TILE / 2, PANEL / 2 - 26, "can't be read", 14, WRONG, "bold", anchor="mm")
    for number, line in enumerate(_lines(sheet, reason, 10.5, "regular", TILE - 24, 5)):
        sheet.text(x + TILE / 2, PANEL / 2 - 2 + 15 * number, line, 10.5, MUTED, anchor="mm")


def _draw_text(sheet: _Sheet, sample: Sample, x: float) -> float:
    """Id and size, question, options and accepted answers; returns the y where they end."""
    size = _size(sample.size)
    y = TOP + PANEL + 17
    sheet.text(x + TILE, y, size, 10.5, MUTED, anchor="rs")
    room = TILE - sheet.width(size, 10.5, "regular") - 12
    sheet.text(x, y, sheet.shortened(sample.id, 10.5, "regular", room), 10.5, MUTED)
    y += 20
    for line in _lines(sheet, sample.question, 13, "bold", TILE, 3):
        sheet.text(x, y, line, 13, INK, "bold")
        y += 17
    for line in _lines(sheet, "  ·  ".join(f"{key}. {text}" for key, text in sample.options), 11.5, "regular", TILE, 3):
        sheet.text(x, y, line, 11.5, MUTED)
        y += 15
    y += 3
    for line in _lines(sheet, _right(sample), 12.5, "regular", TILE, 2):
        sheet.text(x, y, line, 12.5, RIGHT)
        y += 16
    return y


def _right(sample: Sample) -> str:
    """What is accepted, every answer once; of options the letter with its text."""
    if sample.scorer == "letter":
        return f"{sample.answers[0]}. {dict(sample.options)[sample.answers[0]]}"
    return " | ".join(dict.fromkeys(sample.answers))


def _lines(sheet: _Sheet, text: str, size: float, face: str, room: float, most: int) -> Iterator[str]:
    """A text on at most so many lines, broken between words; a word that is too long, and the rest on the last line, lose their middle."""
    words = text.split()
    while words and most:
        taken = len(words) if most == 1 else 1
        while taken < len(words) and sheet.width(" ".join(words[: taken + 1]), size, face) <= room:
            taken += 1
        yield sheet.shortened(" ".join(words[:taken]), size, face, room)
        words, most = words[taken:], most - 1


def _colour(level: int) -> str:
    """Of a box by its place in its chain; 0 is the smallest, B1."""
    return CROP_COLOURS[level % len(CROP_COLOURS)]
