"""Sets numbers and draws signs and grounds."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from focus.data.boxes import Box
from focus.data.scenes.drawing import draw_ground, load_font
from focus.data.scenes.spec import Split
from focus.data.streets.spec import Area, Colour, Point, StreetSign, Type


@lru_cache(maxsize=65536)
def set_text(text: str, type_: Type) -> Image.Image:
    """The ink of a text as a mask without margins, mode L."""
    font = load_font(type_.font, type_.letter_px)
    left, top, right, bottom = font.getbbox(text)
    mask = Image.new("L", (int(right - left) + 8, int(bottom - top) + 8))
    ImageDraw.Draw(mask).text((4 - left, 4 - top), text, font=font, fill=255)
    if type_.stretch != 1:
        mask = mask.resize((round(mask.width * type_.stretch), mask.height), Image.Resampling.BILINEAR)
    if type_.turn:
        mask = mask.rotate(type_.turn, Image.Resampling.BILINEAR, expand=True)
    return mask.crop(mask.getbbox())


def text_box(text: str, type_: Type, centre: Point) -> Box:
    """Where the ink of a text about `centre` lies, in whole pixels of the original."""
    width, height = set_text(text, type_).size
    x, y = round(centre[0] - width / 2), round(centre[1] - height / 2)
    return (float(x), float(y), float(x + width), float(y + height))


def draw_sign(image: Image.Image, sign: StreetSign) -> None:
    """Draw a sign with its number."""
    draw = ImageDraw.Draw(image)
    for area in sign.areas:
        _draw_area(draw, area)
    image.paste(sign.ink, (int(sign.text_px[0]), int(sign.text_px[1])), set_text(sign.text, sign.type))


def _draw_area(draw: ImageDraw.ImageDraw, area: Area) -> None:
    draw.polygon(area.points, fill=area.fill, outline=area.frame if area.frame_px else None, width=max(1, area.frame_px))


def draw_street(random: np.random.Generator, split: Split, side_px: int, clutter: Sequence[int]) -> Image.Image:
    """A ground: a photograph or a procedural ground as in scenes, or a pattern; on it things without numbers."""
    image = draw_ground(random, split, side_px) if random.random() < 0.6 else _pattern(random, side_px)
    draw = ImageDraw.Draw(image)
    for _ in range(int(random.integers(clutter[0], clutter[1] + 1))):
        centre, reach = random.uniform(0, side_px, 2), side_px * random.uniform(0.01, 0.12, 2)
        tone = _muted(random)
        if random.random() < 0.25:
            draw.line([tuple(centre), tuple(centre + random.uniform(-2, 2, 2) * reach)], fill=tone, width=int(random.integers(1, 7)))
        else:
            angles = np.sort(random.uniform(0, 2 * np.pi, int(random.integers(3, 9))))
            draw.polygon([(centre[0] + reach[0] * np.cos(a), centre[1] + reach[1] * np.sin(a)) for a in angles], fill=tone)
    return image


def _muted(random: np.random.Generator) -> Colour:
    grey = random.uniform(60, 195)
    return tuple(int(v) for v in np.clip(grey + random.uniform(-35, 35, 3), 0, 255))


def _pattern(random: np.random.Generator, side_px: int) -> Image.Image:
    """A plain tone with bands, a grid, bricks or patches of like tones."""
    tone = np.asarray(_muted(random))

    def near() -> Colour:
        return tuple(int(v) for v in np.clip(tone + random.uniform(-30, 30), 0, 255))

    image = Image.new("RGB", (side_px, side_px), tuple(int(v) for v in tone))
    draw = ImageDraw.Draw(image)
    step, kind = side_px * random.uniform(0.03, 0.2), int(random.integers(4))
    marks = np.arange(0, side_px, step)
    if kind == 0:
        slope, fill = random.uniform(-1, 1) * side_px, near()
        for x in np.arange(-side_px, 2 * side_px, 2 * step):
            draw.polygon([(x, 0), (x + step, 0), (x + step + slope, side_px), (x + slope, side_px)], fill=fill)
    elif kind == 1:
        line, width = near(), int(random.integers(1, 6))
        for at in marks:
            draw.line([(at, 0), (at, side_px)], fill=line, width=width)
            draw.line([(0, at), (side_px, at)], fill=line, width=width)
    elif kind == 2:
        joint = near()
        for row, y in enumerate(marks):
            draw.line([(0, y), (side_px, y)], fill=joint, width=3)
            for x in marks * 2 + (row % 2) * step:
                draw.line([(x, y), (x, y + step)], fill=joint, width=3)
    else:
        for _ in range(int(random.integers(4, 20))):
            x, y, width, height = random.uniform(-0.1, 0.9, 4) * side_px
            draw.rectangle((x, y, x + abs(width), y + abs(height)), fill=near())
    return image


def add_grain(random: np.random.Generator, image: Image.Image) -> Image.Image:
    """The image with the grain of a camera: one tile of noise, repeated."""
    strength = int(random.integers(4, 24))
    tile = random.integers(128 - strength, 129 + strength, (128, 128, 3), dtype=np.uint8)
    times = -(-image.width // 128)
    grain = Image.fromarray(np.tile(tile, (times, times, 1))[: image.height, : image.width])
    return ImageChops.add(image, grain, scale=1, offset=-128)
