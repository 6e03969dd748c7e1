"""A contact sheet: questions of a set side by side.

Each tile has the small image with its boxes, the question and its answers.

An image is opened when its tile is drawn, and is read at the size of the tile. A sheet of 8K
photographs therefore takes no more memory than one of thumbnails. An image that can't be read
leaves an empty tile with the reason.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files

from matplotlib.ft2font import FT2Font
from PIL import Image

from focus.data.boxes import Box, Size
from focus.data.sample import Sample
from focus.report.picture import CROP_COLOURS, FACES, INK, MAT, MUTED, PAPER, RIGHT, WRONG, Canvas, box_on_canvas, fitted, size_text

MOST = 200  # questions on a sheet; it is then about 18,000 px high
COLUMNS, MARGIN, GAP = 4, 32, 22
WIDTH = 1320
TILE = (WIDTH - 2 * MARGIN - GAP * (COLUMNS - 1)) / COLUMNS
TOP = 4.0  # space above a row, so that frames of boxes at the upper edge are visible
PANEL = 0.75 * TILE  # height of the area for an image
TEXT = 190  # maximum height of the text beneath it


@dataclass(frozen=True)
class Sheet:
    """A picture, or None if no image could be read.

    `broken` has the reasons by the id of the question.
    """

    image: Image.Image | None
    broken: dict[str, str]


def draw_sheet(samples: Sequence[Sample], title: str) -> Sheet:
    """The sheet of these questions in their order, 1320 px wide.

    Raises ValueError for no question or more than MOST.
    """
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
    """The title, and the colours of the levels that the questions have."""
    canvas = Canvas(WIDTH, 90, 1.0)
    deepest = max((len(chain) for sample in samples for chain in sample.boxes), default=0)
    x = WIDTH - MARGIN - 58.0 * deepest
    canvas.text(MARGIN, 46, canvas.shortened(title, 20, "bold", x - MARGIN - 20), 20, INK, "bold")
    for level in range(deepest):
        canvas.outline((x + 22, 36, x + 34, 45), _colour(level), 2)
        canvas.text(x + 40, 45, f"B{level + 1}", 12, MUTED)
        x += 58
    if not _lacks_glyphs(samples):
        return canvas.finish(66)
    canvas.text(
        MARGIN,
        66,
        "The font of this sheet lacks some letters and shows empty frames; inspect.json has the questions.",
        12,
        MUTED,
    )
    return canvas.finish(86)


def _lacks_glyphs(samples: Sequence[Sample]) -> bool:
    """Whether a question or an answer has letters that the font lacks, for example Chinese ones."""
    font = FT2Font(str(files("matplotlib").joinpath("mpl-data/fonts/ttf").joinpath(FACES["regular"])))
    letters = {letter for sample in samples for letter in sample.question + _accepted(sample) if letter.isprintable()}
    return not all(font.get_char_index(ord(letter)) for letter in letters)


def _row(samples: Sequence[Sample], broken: dict[str, str]) -> Image.Image:
    canvas = Canvas(WIDTH, TOP + PANEL + TEXT, 1.0)
    bottom = 0.0
    for column, sample in enumerate(samples):
        x = MARGIN + column * (TILE + GAP)
        width, height = fitted(sample.size, (TILE, PANEL))
        rect = (x + (TILE - width) / 2, TOP + (PANEL - height) / 2, width, height)
        canvas.block((x, TOP, x + TILE, TOP + PANEL), MAT)
        try:
            thumbnail = _thumbnail(sample, (max(1, round(width * canvas.scale)), max(1, round(height * canvas.scale))))
        except ValueError as error:
            broken[sample.id] = str(error)
            _draw_reason(canvas, str(error), x)
        else:
            canvas.paste(thumbnail, rect)
            _draw_boxes(canvas, sample, rect)
        bottom = max(bottom, _draw_text(canvas, sample, x))
    return canvas.finish(bottom + 20)


def _thumbnail(sample: Sample, size: Size) -> Image.Image:
    """The image at this size, or at its own if that is smaller.

    Raises ValueError if it can't be read.
    """
    return sample.open().reduced(size if size[0] < sample.width else sample.size)


def _draw_boxes(canvas: Canvas, sample: Sample, rect: Box) -> None:
    """Every box in the colour of its level, the smallest on top.

    A box too small to see is drawn 2 units wide.
    """
    levels = [(level, box_px) for chain in sample.boxes for level, box_px in enumerate(chain)]
    for level, box_px in sorted(levels, key=lambda pair: -pair[0]):
        x1, y1, x2, y2 = box_on_canvas(box_px, sample.size, rect)
        box = (x1, y1, max(x2, x1 + 2), max(y2, y1 + 2))
        canvas.outline(box, "#ffffffb0", 2.6)
        canvas.outline(box, _colour(level), 1.8)


def _draw_reason(canvas: Canvas, reason: str, x: float) -> None:
    canvas.text(x + TILE / 2, PANEL / 2 - 26, "can't be read", 14, WRONG, "bold", anchor="mm")
    for number, line in enumerate(_lines(canvas, reason, 10.5, "regular", TILE - 24, 5)):
        canvas.text(x + TILE / 2, PANEL / 2 - 2 + 15 * number, line, 10.5, MUTED, anchor="mm")


def _draw_text(canvas: Canvas, sample: Sample, x: float) -> float:
    """Id and size, question, options and accepted answers; returns the y where they end."""
    size = size_text(sample.size)
    y = TOP + PANEL + 17
    canvas.text(x + TILE, y, size, 10.5, MUTED, anchor="rs")
    max_width = TILE - canvas.width(size, 10.5, "regular") - 12
    canvas.text(x, y, canvas.shortened(sample.id, 10.5, "regular", max_width), 10.5, MUTED)
    y += 20
    for line in _lines(canvas, sample.question, 13, "bold", TILE, 3):
        canvas.text(x, y, line, 13, INK, "bold")
        y += 17
    for line in _lines(canvas, "  ·  ".join(f"{key}. {text}" for key, text in sample.options), 11.5, "regular", TILE, 3):
        canvas.text(x, y, line, 11.5, MUTED)
        y += 15
    y += 3
    for line in _lines(canvas, _accepted(sample), 12.5, "regular", TILE, 2):
        canvas.text(x, y, line, 12.5, RIGHT)
        y += 16
    return y


def _accepted(sample: Sample) -> str:
    """The accepted answers, each once; for options the letter with its text."""
    if sample.scorer == "letter":
        return f"{sample.answers[0]}. {dict(sample.options)[sample.answers[0]]}"
    return " | ".join(dict.fromkeys(sample.answers))


def _lines(canvas: Canvas, text: str, size: float, face: str, max_width: float, most: int) -> Iterator[str]:
    """A text on at most `most` lines, broken between words.

    A word that is too long and the last line lose their middle.
    """
    words = text.split()
    while words and most:
        taken = len(words) if most == 1 else 1
        while taken < len(words) and canvas.width(" ".join(words[: taken + 1]), size, face) <= max_width:
            taken += 1
        yield canvas.shortened(" ".join(words[:taken]), size, face, max_width)
        words, most = words[taken:], most - 1


def _colour(level: int) -> str:
    """The colour of a box by its index in its chain; 0 is the smallest, B1."""
    return CROP_COLOURS[level % len(CROP_COLOURS)]
