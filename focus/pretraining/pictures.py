"""What the transcripts of pre-training need of a scene, a street or a page: questions, boxes, and what its parts are called."""

from typing import NamedTuple

import numpy as np

from focus.data.boxes import Box
from focus.data.images.original import Original
from focus.data.pages import KINDS, Page
from focus.data.scenes import COLOURS, Scene
from focus.data.scenes.layout import descriptions
from focus.data.streets import Street

CLASSES = 1 + len(COLOURS) + len(KINDS)  # nothing, a sign of a colour, a panel of a kind
AIR_PX = (24.0, 14.0)  # what the smallest call shows beyond a number on a page or a label in a street, to the sides and above


class Target(NamedTuple):
    """A question and its answer. A call names a box between `inner_px` and `outer_px`, with noise."""

    question: str
    text: str
    text_px: Box
    inner_px: Box
    outer_px: Box

    def between(self, random: np.random.Generator) -> Box:
        """A box between the two, in pixels of the original."""
        if self.inner_px == self.outer_px:
            return self.inner_px
        share = float(random.random())
        x1, y1, x2, y2 = (a + share * (b - a) for a, b in zip(self.inner_px, self.outer_px, strict=True))
        return (x1, y1, x2, y2)


class Picture(NamedTuple):
    """An image with what it teaches; boxes in pixels of the original."""

    original: Original
    targets: list[Target]
    named: list[tuple[Box, int]]  # boxes and their class, 1 to CLASSES - 1
    texts: list[tuple[Box, str]]  # boxes of numbers, and the numbers


def scene_picture(scene: Scene) -> Picture:
    """A scene: its signs, with every question that fits one of them."""
    signs = scene.signs
    asked = [each for kind in scene.spec.asks for each in descriptions(kind, signs)]
    return Picture(
        scene.open(),
        [Target(f"What is on the {d}?", signs[i].text, signs[i].text_px, signs[i].sign_px, signs[i].sign_px) for d, i in asked],
        [(sign.sign_px, 1 + list(COLOURS).index(sign.colour)) for sign in signs],
        [(sign.text_px, sign.text) for sign in signs],
    )


def street_picture(street: Street) -> Picture:
    """A street: its signs, with every question that fits one of them."""
    signs = street.signs
    targets = []
    for description, i in [each for kind in street.spec.asks for each in descriptions(kind, signs)]:
        x1, y1, x2, y2 = signs[i].label_px
        near = (x1 - AIR_PX[0], y1 - AIR_PX[1], x2 + AIR_PX[0], y2 + AIR_PX[1])
        targets.append(Target(f"What is on the {description}?", signs[i].text, signs[i].text_px, near, signs[i].sign_px))
    return Picture(
        street.open(),
        targets,
        [(sign.sign_px, 1 + list(COLOURS).index(sign.colour)) for sign in signs],
        [(sign.text_px, sign.text) for sign in signs],
    )


def page_picture(page: Page) -> Picture:
    """A page: its panels, with every number that can be asked for."""
    targets = []
    for panel in page.panels:
        for field in panel.fields:
            x1, y1, x2, y2 = field.word.text_px
            near = (x1 - AIR_PX[0], y1 - AIR_PX[1], x2 + AIR_PX[0], y2 + AIR_PX[1])
            targets.append(Target(field.question, field.word.text, field.word.text_px, near, field.block_px))
    return Picture(
        page.open(),
        targets,
        [(panel.box_px, 1 + len(COLOURS) + KINDS.index(panel.kind)) for panel in page.panels],
        [(target.text_px, target.text) for target in targets],
    )
