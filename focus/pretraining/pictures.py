"""What the transcripts of pre-training need of a drawn image: questions, boxes, and what its parts are called."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from focus.data.boxes import Box
from focus.data.images.original import Original
from focus.data.pages import KINDS, Page
from focus.data.relations import Relation, pairs
from focus.data.scenes import COLOURS, Scene, Sign
from focus.data.scenes.layout import descriptions
from focus.data.streets import Street, StreetSign

CLASSES = 1 + len(COLOURS) + len(KINDS)  # nothing, a sign of a colour, a panel of a kind
AIR_PX = (24.0, 14.0)  # what the smallest call shows beyond a number on a page or a label in a street, to the sides and above


class Place(NamedTuple):
    """A text that an answer needs. The call for it names a box between `inner_px` and `outer_px`, with noise."""

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


class Target(NamedTuple):
    """A question and the places that its answer needs, in the order of their calls and of the answer."""

    question: str
    places: tuple[Place, ...]

    @property
    def text(self) -> str:
        """The answer: the texts of all places."""
        return " ".join(place.text for place in self.places)


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
    return _signs_picture(scene.open(), signs, [Target(f"What is on the {d}?", (_on(signs[i]),)) for d, i in asked])


def relation_picture(relation: Relation) -> Picture:
    """A relation: its signs, with every question about two of them."""
    signs = relation.signs
    targets = [Target(question, (_on(signs[i]), _on(signs[j]))) for question, (i, j) in pairs(relation.spec, signs)]
    return _signs_picture(relation.open(), signs, targets)


def _on(sign: Sign) -> Place:
    return Place(sign.text, sign.text_px, sign.sign_px, sign.sign_px)


def _signs_picture(original: Original, signs: Sequence[Sign | StreetSign], targets: list[Target]) -> Picture:
    return Picture(
        original,
        targets,
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
        targets.append(Target(f"What is on the {description}?", (Place(signs[i].text, signs[i].text_px, near, signs[i].sign_px),)))
    return _signs_picture(street.open(), signs, targets)


def page_picture(page: Page) -> Picture:
    """A page: its panels, with every number that can be asked for."""
    targets = []
    for panel in page.panels:
        for field in panel.fields:
            x1, y1, x2, y2 = field.word.text_px
            near = (x1 - AIR_PX[0], y1 - AIR_PX[1], x2 + AIR_PX[0], y2 + AIR_PX[1])
            targets.append(Target(field.question, (Place(field.word.text, field.word.text_px, near, field.block_px),)))
    return Picture(
        page.open(),
        targets,
        [(panel.box_px, 1 + len(COLOURS) + KINDS.index(panel.kind)) for panel in page.panels],
        [(place.text_px, place.text) for target in targets for place in target.places],
    )
