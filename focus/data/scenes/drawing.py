"""Draws signs and grounds, and measures texts."""

from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from focus.data.boxes import Box
from focus.data.scenes.spec import SceneSpec, Sign, Split


@lru_cache(maxsize=512)
def load_font(name: str, letter_px: int) -> ImageFont.FreeTypeFont:
    """A font whose digits are `letter_px` pixels tall."""
    path = files("matplotlib").joinpath("mpl-data/fonts/ttf").joinpath(name)
    font = ImageFont.truetype(str(path), 100)
    _, top, _, bottom = font.getbbox("8")
    return ImageFont.truetype(str(path), max(4, round(100 * letter_px / (bottom - top))))


@lru_cache(maxsize=65536)
def text_extent(text: str, font: str, letter_px: int) -> tuple[int, int, int, int]:
    """Offset of the text from the drawing origin, then width and height with side bearings, in
    pixels.
    """
    x1, y1, x2, y2 = load_font(font, letter_px).getbbox(text)
    return int(x1), int(y1), int(x2 - x1), int(y2 - y1)


@lru_cache(maxsize=65536)
def ink_box(text: str, font: str, letter_px: int) -> Box:
    """The box of the marked pixels of a text, relative to the drawing origin."""
    mask, (left, top) = load_font(font, letter_px).getmask2(text)
    x1, y1, x2, y2 = mask.getbbox()
    return (x1 + left, y1 + top, x2 + left, y2 + top)


def draw_sign(draw: ImageDraw.ImageDraw, sign: Sign) -> None:
    """Draw a sign and its board."""

    # Pillow includes the right and bottom pixel
    def inside(box: Box) -> tuple[float, float, float, float]:
        return (box[0], box[1], box[2] - 1, box[3] - 1)

    draw.rectangle(inside(sign.board_px), fill=sign.board)
    x1, y1, x2, y2 = inside(sign.sign_px)
    if sign.shape == "round":
        draw.ellipse((x1, y1, x2, y2), fill=sign.fill)
    elif sign.shape == "diamond":
        draw.polygon([((x1 + x2) / 2, y1), (x2, (y1 + y2) / 2), ((x1 + x2) / 2, y2), (x1, (y1 + y2) / 2)], fill=sign.fill)
    else:
        draw.rectangle((x1, y1, x2, y2), fill=sign.fill)
    draw.text(sign.text_origin, sign.text, font=load_font(sign.font, sign.letter_px), fill=sign.ink)


@lru_cache(maxsize=32)
def _load_photograph(location: str) -> Image.Image:
    """The photograph at `package:path inside the package`, RGB."""
    package, path = location.split(":")
    with files(package).joinpath(path).open("rb") as file, Image.open(file) as image:
        return image.convert("RGB")


def is_photograph(random: np.random.Generator) -> bool:
    """Whether the ground is a photograph: the first draw of `draw_ground`, with probability one
    half.
    """
    return bool(random.random() < 0.5)


def draw_ground(random: np.random.Generator, split: Split, side_px: int) -> Image.Image:
    """A square piece of a photograph or a procedural ground, with low contrast so that signs stand
    out.
    """
    if is_photograph(random):
        photograph = _load_photograph(str(random.choice(split.photographs)))
        piece = random.uniform(0.5, 1.0) * min(photograph.size)
        x, y = random.uniform(0, photograph.width - piece), random.uniform(0, photograph.height - piece)
        ground = photograph.resize((side_px, side_px), Image.Resampling.BILINEAR, box=(x, y, x + piece, y + piece))
    else:
        cells = int(random.integers(2, 9))
        tone = random.uniform(50, 205, 3)
        noise = np.clip(tone + random.normal(0, random.uniform(5, 40), (cells, cells, 3)), 0, 255).astype(np.uint8)
        ground = Image.fromarray(noise).resize((side_px, side_px), Image.Resampling.BICUBIC)
    grey = Image.new("RGB", ground.size, (128, 128, 128))
    return Image.blend(ground, grey, float(random.uniform(0.1, 0.45)))


def draw_scene(random: np.random.Generator, spec: SceneSpec, split: Split, signs: Sequence[Sign]) -> Image.Image:
    """A ground, things without texts, and these signs."""
    image = draw_ground(random, split, spec.side_px)
    draw = ImageDraw.Draw(image)
    for _ in range(spec.clutter):
        side = spec.side_px * random.uniform(0.02, 0.06)
        x, y = random.uniform(0, spec.side_px - side, 2)
        draw.rectangle((x, y, x + side, y + side), fill=tuple(int(v) for v in random.integers(40, 215, 3)))
    for sign in signs:
        draw_sign(draw, sign)
    return image
