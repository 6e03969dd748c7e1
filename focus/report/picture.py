"""One trajectory as one picture: view, requested boxes, crops, turns and answer.

The view is enlarged without smoothing, so the picture shows what the policy saw and no more.
Lengths are in design units; a picture is 1000 units wide. Everything is drawn at twice the size and
halved at the end, which smooths letters and corners.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files

from PIL import Image, ImageDraw, ImageFont

from focus.data.boxes import Box, Size
from focus.data.sample import Sample
from focus.gap import View
from focus.grading.answers import RIGHT_FROM, grade
from focus.model.prompts import Malformed
from focus.rewards import Example
from focus.rollout.trajectory import Crop, Trajectory

WIDTH, MARGIN, PANEL = 1000, 36, 420
INNER = WIDTH - 2 * MARGIN
LEAST_PANEL = 240  # least height of the panels, for a view that is a flat strip
HEADER = 26  # the line above a panel
OVERSAMPLING = 2
FACES = {"regular": "DejaVuSans.ttf", "bold": "DejaVuSans-Bold.ttf", "mono": "DejaVuSansMono.ttf"}
PAPER, INK, MUTED, MAT = "#ffffff", "#1f2328", "#6b7280", "#f3f4f6"
RIGHT, RIGHT_PALE, WRONG, WRONG_PALE = "#1a7f4b", "#eef8f1", "#c0362c", "#fdf1ef"
CROP_COLOURS = ("#f76707", "#1c7ed6", "#9c36b5", "#0ca678")  # the n-th crop and its box share one

TermCell = tuple[str, str, str]  # label, number, colour of the number


def draw_trajectory(example: Example, width_px: int = 1000) -> Image.Image:
    """The picture of a trajectory, `width_px` wide.

    Its height depends on the shape of the view and the number of turns.

    On the left is the view with the annotated evidence (dashed) and the policy's boxes (solid), on
    the right are the crops. Below are the question, the turns, the answer beside the accepted ones,
    and what each reward term adds to the total. Raises ValueError below 400 px, where the text is
    not readable.
    """
    if width_px < 400:
        raise ValueError(f"width_px is {width_px}; a picture needs at least 400 px for its text. For the view alone, use draw_view.")
    trajectory = example.trajectory
    shown = fitted(trajectory.view.size, (PANEL, PANEL))
    panel = max(LEAST_PANEL, shown[1])
    canvas = Canvas(WIDTH, panel + 460 + 60 * (len(trajectory.turns) + len(example.terms)), width_px / WIDTH)
    top = MARGIN + HEADER
    rect = (MARGIN + (PANEL - shown[0]) / 2, top + (panel - shown[1]) / 2, *shown)
    view = trajectory.view
    detail = f"{size_text(view.size)}, {_tokens(view)}; the original has {size_text(trajectory.sample.size)}"
    _header(canvas, MARGIN, top, "View", detail, PANEL, INK)
    canvas.block((MARGIN, top, MARGIN + PANEL, top + panel), MAT)
    _draw_boxes(canvas, trajectory, rect)
    _draw_crops(canvas, trajectory, rect, (WIDTH - MARGIN - PANEL, top, WIDTH - MARGIN, top + panel))
    y = _draw_legend(canvas, trajectory, top + panel + 24)
    y = _draw_conversation(canvas, trajectory, y + 42)
    y = _draw_verdict(canvas, example, y + 12)
    if example.caption:
        y += 26
        canvas.text(MARGIN, y, canvas.shortened(example.caption, 12, "regular", INNER), 12, MUTED)
    return canvas.finish(y + MARGIN)


def draw_view(trajectory: Trajectory, side_px: int = PANEL) -> Image.Image:
    """The view alone with the annotated evidence (dashed) and the policy's boxes (solid).

    Its longer side is `side_px`.
    """
    width, height = fitted(trajectory.view.size, (side_px, side_px))
    canvas = Canvas(math.ceil(width), math.ceil(height), 1.0)
    _draw_boxes(canvas, trajectory, (0, 0, width, height))
    return canvas.finish(math.ceil(height))


class Canvas:
    """An empty image to draw on, in design units from its upper left corner."""

    def __init__(self, width: float, height: float, px_per_unit: float) -> None:
        self.scale = OVERSAMPLING * px_per_unit
        self.image = Image.new("RGB", (self._even(width), self._even(height)), PAPER)
        self.draw = ImageDraw.Draw(self.image, "RGBA")

    def _even(self, units: float) -> int:
        return OVERSAMPLING * max(1, round(units * self.scale / OVERSAMPLING))

    def finish(self, height: float) -> Image.Image:
        """The upper part of the image, `height` units high, at its final size."""
        return self.image.crop((0, 0, self.image.width, self._even(height))).reduce(OVERSAMPLING)

    def block(self, box: Box, fill: str, radius: float = 0) -> None:
        x1, y1, x2, y2 = (value * self.scale for value in box)
        self.draw.rounded_rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), radius * self.scale, fill=fill)

    def outline(self, box: Box, colour: str, width: float) -> None:
        """A frame whose line lies OUTSIDE the box, so it hides nothing inside."""
        x1, y1, x2, y2 = box
        sides = (
            (x1 - width, y1 - width, x2 + width, y1),
            (x1 - width, y2, x2 + width, y2 + width),
            (x1 - width, y1, x1, y2),
            (x2, y1, x2 + width, y2),
        )
        for side in sides:
            self.block(side, colour)

    def line(self, start: tuple[float, float], end: tuple[float, float], colour: str, width: float) -> None:
        self.draw.line([(x * self.scale, y * self.scale) for x, y in (start, end)], fill=colour, width=max(1, round(width * self.scale)))

    def dashes(self, box: Box) -> None:
        """A pale dashed frame around the box, visible on light and dark images."""
        x1, y1, x2, y2 = box[0] - 1.5, box[1] - 1.5, box[2] + 1.5, box[3] + 1.5
        dash, gap = (5.0, 4.0) if min(x2 - x1, y2 - y1) >= 32 else (2.5, 2.5)
        for start, end in (((x1, y1), (x2, y1)), ((x2, y1), (x2, y2)), ((x2, y2), (x1, y2)), ((x1, y2), (x1, y1))):
            length = math.dist(start, end)
            if length == 0:
                continue
            along = ((end[0] - start[0]) / length, (end[1] - start[1]) / length)
            for colour, width in (("#00000060", 2.0), ("#ffffff", 1.0)):
                position = 0.0
                while position < length:
                    stop = min(position + dash, length)
                    self.line(
                        (start[0] + along[0] * position, start[1] + along[1] * position),
                        (start[0] + along[0] * stop, start[1] + along[1] * stop),
                        colour,
                        width,
                    )
                    position += dash + gap

    def paste(self, image: Image.Image, rect: Box) -> None:
        """Draw an image into `rect` (x, y, width, height).

        It is enlarged without smoothing and reduced with smoothing.
        """
        x, y, width, height = (round(value * self.scale) for value in rect)
        larger = width >= image.width
        resized = image.resize((max(1, width), max(1, height)), Image.Resampling.NEAREST if larger else Image.Resampling.LANCZOS)
        self.image.paste(resized.convert("RGB"), (x, y))

    def text(self, x: float, y: float, text: str, size: float, colour: str, face: str = "regular", anchor: str = "ls") -> None:
        self.draw.text((x * self.scale, y * self.scale), text, fill=colour, font=_font(face, round(size * self.scale)), anchor=anchor)

    def width(self, text: str, size: float, face: str) -> float:
        return _font(face, round(size * self.scale)).getlength(text) / self.scale

    def shortened(self, text: str, size: float, face: str, max_width: float) -> str:
        """One line of at most `max_width` units.

        A longer text loses its middle, so a turn keeps its beginning and its action.
        """
        text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        if len(text) < 2000 and self.width(text, size, face) <= max_width:
            return text
        few, many = 0, min(len(text), 1000)
        while few < many:
            keep = (few + many + 1) // 2
            few, many = (keep, many) if self.width(_without_middle(text, keep), size, face) <= max_width else (few, keep - 1)
        return _without_middle(text, few)


def _without_middle(text: str, keep: int) -> str:
    return text[: keep - keep // 2].rstrip() + " … " + text[len(text) - keep // 2 :].lstrip()


@lru_cache(maxsize=64)
def _font(face: str, size_px: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(files("matplotlib").joinpath("mpl-data/fonts/ttf").joinpath(FACES[face])), size_px)


def fitted(size: Size, bounds: tuple[float, float]) -> tuple[float, float]:
    """The largest size with the same proportions within `bounds` (width, height)."""
    scale = min(bounds[0] / size[0], bounds[1] / size[1])
    return size[0] * scale, size[1] * scale


def size_text(size: Size) -> str:
    """`640 × 480 px`."""
    return f"{size[0]} × {size[1]} px"


def _tokens(view: View) -> str:
    return f"{view.tokens} token" + "s" * (view.tokens != 1)


def delivered(trajectory: Trajectory) -> list[tuple[Crop, View]]:
    """The calls that returned a crop, each with it."""
    return [
        (turn.action, turn.observation.crop)
        for turn in trajectory.turns
        if isinstance(turn.action, Crop) and turn.observation and turn.observation.crop
    ]


def box_on_canvas(box_px: Box, original_size: Size, rect: Box) -> Box:
    """A box of the original in design units.

    `rect` (x, y, width, height) is the area that shows the whole image.
    """
    x, y, width, height = rect
    scale_x, scale_y = width / original_size[0], height / original_size[1]
    return (x + box_px[0] * scale_x, y + box_px[1] * scale_y, x + box_px[2] * scale_x, y + box_px[3] * scale_y)


def _header(canvas: Canvas, x: float, y: float, title: str, detail: str, max_width: float, colour: str) -> None:
    canvas.text(x, y - 10, title, 14, colour, "bold")
    lead = canvas.width(title, 14, "bold") + 10
    canvas.text(x + lead, y - 10, canvas.shortened(detail, 12.5, "regular", max_width - lead), 12.5, MUTED)


def _draw_boxes(canvas: Canvas, trajectory: Trajectory, rect: Box) -> None:
    canvas.paste(trajectory.view.image, rect)
    for chain in trajectory.sample.boxes:
        for box_px in chain[:2]:
            canvas.dashes(box_on_canvas(box_px, trajectory.sample.size, rect))
    crops = delivered(trajectory)
    for number, (crop, _) in enumerate(crops):
        box, colour = box_on_canvas(crop.box_px, trajectory.sample.size, rect), CROP_COLOURS[number % len(CROP_COLOURS)]
        canvas.outline(box, "#ffffffb0", 4)
        canvas.outline(box, colour, 2.6)
        if len(crops) > 1:
            canvas.block((box[0] - 2.6, box[1] - 2.6, box[0] + 16, box[1] + 15), colour)
            canvas.text(box[0] + 6.5, box[1] + 6.5, str(number + 1), 11.5, PAPER, "bold", anchor="mm")


def _draw_crops(canvas: Canvas, trajectory: Trajectory, view_rect: Box, area: Box) -> None:
    """The crops in equal panels, as large as possible.

    Two thin lines connect the box of a single crop with the crop.
    """
    crops = delivered(trajectory)
    x1, y1, x2, y2 = area
    if not crops:
        _header(canvas, x1, y1, "No crop", "", x2 - x1, MUTED)
        canvas.block(area, MAT)
        canvas.text((x1 + x2) / 2, (y1 + y2) / 2, "the policy made no crop", 14, MUTED, anchor="mm")
        return
    sizes = [crop.size for _, crop in crops]
    grids = [_panels(len(sizes), columns, area) for columns in range(1, len(sizes) + 1)]
    panels = max(grids, key=lambda panels: _shown_area(sizes, panels))
    for number, ((action, crop), (left, top, right, bottom)) in enumerate(zip(crops, panels, strict=True)):
        colour = CROP_COLOURS[number % len(CROP_COLOURS)]
        width, height = fitted(crop.size, (right - left, bottom - top))
        x, y = (left + right - width) / 2, (top + bottom - height) / 2
        canvas.block((left, top, right, bottom), MAT)
        title, detail = str(number + 1), f"{size_text(crop.size)}, {_tokens(crop)}"
        if len(crops) == 1:
            title, detail = "Crop", detail + ", cut from the original" * (trajectory.source.size == trajectory.sample.size)
            _, box_top, box_right, box_bottom = box_on_canvas(action.box_px, trajectory.sample.size, view_rect)
            canvas.line((box_right + 2, box_top), (x, y), colour + "a0", 1.2)
            canvas.line((box_right + 2, box_bottom), (x, y + height), colour + "a0", 1.2)
        canvas.paste(crop.image, (x, y, width, height))
        canvas.outline((x + 2.6, y + 2.6, x + width - 2.6, y + height - 2.6), colour, 2.6)
        _header(canvas, left, top, title, detail, right - left, colour)


def _panels(count: int, columns: int, area: Box) -> list[Box]:
    """`count` equal panels in rows of `columns`.

    Between the rows there is space for headers; the first header lies above `area`.
    """
    rows, gap = math.ceil(count / columns), 14.0
    width = (area[2] - area[0] - gap * (columns - 1)) / columns
    height = (area[3] - area[1] - (gap + HEADER) * (rows - 1)) / rows
    corners = [(area[0] + (i % columns) * (width + gap), area[1] + (i // columns) * (height + gap + HEADER)) for i in range(count)]
    return [(x, y, x + width, y + height) for x, y in corners]


def _shown_area(sizes: Sequence[Size], panels: Sequence[Box]) -> float:
    """The area that the crops would fill; 0 if the panels are too small to see anything."""
    if min(panels[0][2] - panels[0][0], panels[0][3] - panels[0][1]) < 24:
        return 0.0
    return sum(math.prod(fitted(size, (x2 - x1, y2 - y1))) for size, (x1, y1, x2, y2) in zip(sizes, panels, strict=True))


def _draw_legend(canvas: Canvas, trajectory: Trajectory, y: float) -> float:
    """The meaning of the two kinds of frames. Returns the y of its baseline."""
    x = float(MARGIN)
    entries = [("solid", "what the policy asked for")] if trajectory.crops else []
    if trajectory.sample.boxes:
        entries.append(("dashed", "where the evidence is (B1 in B2)"))
    for kind, text in entries:
        if kind == "solid":
            canvas.outline((x + 2.6, y - 8.4, x + 17.4, y - 1.6), CROP_COLOURS[0], 2.6)
        else:
            for dash in range(3):
                canvas.line((x + 8 * dash, y - 4.5), (x + 8 * dash + 5, y - 4.5), MUTED, 1.6)
        canvas.text(x + 29, y, text, 12, MUTED)
        x += 29 + canvas.width(text, 12, "regular") + 28
    return y


def _draw_conversation(canvas: Canvas, trajectory: Trajectory, y: float) -> float:
    """The question and one line per turn. Returns the y where it ends."""
    for line in _two_lines(canvas, trajectory.sample.question, 19):
        canvas.text(MARGIN, y, line, 19, INK, "bold")
        y += 28
    if trajectory.sample.options:
        listed = "  ·  ".join(f"{key}. {text}" for key, text in trajectory.sample.options)
        canvas.text(MARGIN, y - 2, canvas.shortened(listed, 13, "regular", INNER), 13, MUTED)
        y += 24
    indent, crops = 68, 0
    for number, turn in enumerate(trajectory.turns, start=1):
        text = turn.text.removesuffix("<|im_end|>")
        colour = CROP_COLOURS[crops % len(CROP_COLOURS)] if isinstance(turn.action, Crop) else MUTED
        crops += isinstance(turn.action, Crop)
        canvas.text(MARGIN, y, f"turn {number}", 13, colour)
        canvas.text(MARGIN + indent, y, canvas.shortened(text, 13, "mono", INNER - indent), 13, INK, "mono")
        y += 25
        if isinstance(turn.action, Malformed):
            canvas.text(MARGIN + indent, y - 4, f"not acted on: {turn.action.fault}", 12, WRONG)
            y += 20
    return y - 12


def _two_lines(canvas: Canvas, question: str, size: float) -> list[str]:
    """A question on at most two lines, broken between words."""
    if canvas.shortened(question, size, "bold", INNER) == " ".join(question.split()):
        return [" ".join(question.split())]
    words, first = question.split(), ""
    while words and canvas.width(f"{first} {words[0]}", size, "bold") <= INNER:
        first = f"{first} {words.pop(0)}".strip()
    lines = [first] if first else []
    return [*lines, canvas.shortened(" ".join(words), size, "bold", INNER)]


def _draw_verdict(canvas: Canvas, example: Example, y: float) -> float:
    """A band with the answer, the accepted answers, and the reward terms.

    Returns the y of its lower edge.
    """
    trajectory = example.trajectory
    sample = trajectory.sample
    right = is_right(example)
    asked = right is None
    cells = _term_cells(example)
    rows = _term_rows(canvas, cells)
    beside = len(rows) == 1 and sum(_term_width(canvas, cell) for cell in rows[0]) <= 0.62 * INNER
    bottom = y + 72 + (0 if beside else 50 * len(rows) + 10)
    canvas.block((MARGIN, y, WIDTH - MARGIN, bottom), MAT if asked else RIGHT_PALE if right else WRONG_PALE, radius=8)
    max_width = INNER - 76 - (sum(_term_width(canvas, cell) for cell in rows[0]) if beside else 0)
    colour = INK if asked else RIGHT if right else WRONG
    answer = trajectory.answer if trajectory.answer is not None else f"no answer ({trajectory.status})"
    canvas.text(MARGIN + 30, y + 37, "?" if asked else "✓" if right else "✗", 30, colour, anchor="mm")
    canvas.text(MARGIN + 60, y + 34, canvas.shortened(answer, 20, "bold", max_width), 20, colour, "bold")
    accepted = "the right answer is not known" if asked else f"accepted: {accepted_text(sample)}"
    canvas.text(MARGIN + 60, y + 55, canvas.shortened(accepted, 12.5, "regular", max_width), 12.5, MUTED)
    for number, row in enumerate(rows):
        edge, base = WIDTH - MARGIN - 10.0, y + (33 if beside else 96 + 50 * number)
        for cell in reversed(row):
            face = "bold" if cell[0] == "total" else "regular"
            canvas.text(edge - 12, base, cell[1], 17, cell[2], face, anchor="rs")
            canvas.text(edge - 12, base + 22, cell[0], 12, MUTED, anchor="rs")
            edge -= _term_width(canvas, cell)
            if cell[0] == "total" and len(row) > 1:
                canvas.line((edge + 4, base - 15), (edge + 4, base + 23), "#0000001f", 1)
    return bottom


def is_right(example: Example) -> bool | None:
    """Whether its answer is right; None for a question of a user, whose answer is not known."""
    sample = example.trajectory.sample
    if not sample.answers:
        return None
    by_rule = grade(example.trajectory.answer, sample.answers, sample.scorer, sample.options, sample.question)
    return example.terms.get("accuracy", by_rule) >= RIGHT_FROM  # the reward may have used a judge


def accepted_text(sample: Sample) -> str:
    """The accepted answers, options with their texts."""
    options = dict(sample.options)
    return " | ".join(f"{text}. {options[text]}" if text in options else text for text in sample.answers)


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}".replace("-", "−")


def _term_cells(example: Example) -> list[TermCell]:
    """Terms that are only logged (grey), what each paid term adds to the total, and the total."""
    if not example.terms:
        return []
    if not example.payments:
        return [(name, _number(value), INK) for name, value in (*example.terms.items(), ("total", example.total))]
    logged = [(f"{name}, logged only", _number(value), MUTED) for name, value in example.terms.items() if name not in example.payments]
    paid = [
        (f"{name}, gate closed" if payment.closed_gate else f"{payment.weight:g} × {name}", _number(payment.amount), INK)
        for name, payment in example.payments.items()
    ]
    return [*logged, *paid, ("total", _number(example.total), INK)]


def _term_width(canvas: Canvas, cell: TermCell) -> float:
    return max(canvas.width(cell[0], 12, "regular"), canvas.width(cell[1], 17, "bold")) + 26


def _term_rows(canvas: Canvas, cells: Sequence[TermCell]) -> list[list[TermCell]]:
    rows: list[list[TermCell]] = [[]]
    left = INNER - 20.0
    for cell in cells:
        if left < _term_width(canvas, cell) and rows[-1]:
            rows.append([])
            left = INNER - 20.0
        rows[-1].append(cell)
        left -= _term_width(canvas, cell)
    return rows
