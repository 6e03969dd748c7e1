"""Scenes whose question names two signs: the answer is both texts, in the order of the question.

The two texts lie so far apart that one crop of 16 tokens can't show both at reading size, so the answer needs two crops, and neither
text tells the other. Drawn as scenes are; like a scene, a relation is a pure function of (spec, split, index).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from focus.data.boxes import Box, area
from focus.data.drawn import Drawn, fingerprint, sized
from focus.data.images.original import Decoded, Original
from focus.data.sample import Sample
from focus.data.scenes.drawing import draw_scene
from focus.data.scenes.layout import another_text, descriptions, place_signs, rewritten
from focus.data.scenes.spec import DIFFICULTY as SCENE_DIFFICULTY
from focus.data.scenes.spec import SPLITS, SceneSpec, Sign

TRIES = 2000
CROP_TOKENS = 16  # of the crops that read one text and not two


@dataclass(frozen=True)
class RelationSpec(SceneSpec):
    """How a relation is made: as a scene, and the box around both asked texts has at least `apart_px` squared.

    16 tokens of 28 px show 112 squared at native size, so they shrink a box of 224 squared to half: letters of 10 to 16 px become 5 to 8.
    """

    apart_px: int = 224


# At level 1 the signs are smaller than those of scenes, so that 16 tokens show a whole one
DIFFICULTY: dict[int, RelationSpec] = {level: RelationSpec(**vars(spec)) for level, spec in SCENE_DIFFICULTY.items()}
DIFFICULTY[1] = replace(DIFFICULTY[1], sign_side=(0.14, 0.22))


def relation_spec(difficulty: int, letter_px: Sequence[int] | None, side_px: int) -> RelationSpec:
    """The spec of a level of difficulty, with `letter_px` and `side_px` replaced."""
    spec: RelationSpec = sized(DIFFICULTY[difficulty], letter_px, side_px)
    return spec


def around(a: Box, b: Box) -> Box:
    """The smallest box that holds both."""
    return (min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3]))


def pairs(spec: RelationSpec, signs: Sequence[Sign]) -> list[tuple[str, tuple[int, int]]]:
    """Every question about two signs that lie apart, with their indices in the order of the question. No other sign fits either name."""
    named = [each for kind in spec.asks for each in descriptions(kind, signs)]
    return [
        (f"What is on the {one} and the {other}?", (i, j))
        for one, i in named
        for other, j in named
        if i != j and area(around(signs[i].text_px, signs[j].text_px)) >= spec.apart_px**2
    ]


@dataclass(frozen=True)
class Relation:
    """A relation by its seed: equal arguments give equal layouts and equal pixels.

    `written` replaces the texts of both asked signs and nothing else.
    """

    spec: RelationSpec
    split: str
    index: int
    written: tuple[str, str] | None = None

    def _random(self, purpose: int) -> np.random.Generator:
        return np.random.default_rng([SPLITS[self.split].code, self.index, 40 + purpose])  # other drawn images have the purposes below 40

    @cached_property
    def signs(self) -> tuple[Sign, ...]:
        """All signs, as they were before `written`. Raises ValueError if no two that can be named lie apart."""
        random = self._random(0)
        for _ in range(TRIES):
            signs = place_signs(random, self.spec, SPLITS[self.split])
            if pairs(self.spec, signs):
                return signs
        raise ValueError(
            f"no two texts of {self.spec.signs} signs span {self.spec.apart_px} x {self.spec.apart_px} px of an image of "
            f"{self.spec.side_px} px; raise data.side_px"
        )

    @cached_property
    def question(self) -> tuple[str, tuple[int, int]]:
        """The question and the indices of the two signs that it names."""
        asked = pairs(self.spec, self.signs)
        return asked[int(self._random(1).integers(len(asked)))]

    @cached_property
    def asked(self) -> tuple[Sign, Sign]:
        """The asked signs in the order of the question, with `written` on them."""
        first, second = (self.signs[i] for i in self.question[1])
        return (first, second) if self.written is None else (rewritten(first, self.written[0]), rewritten(second, self.written[1]))

    def twin(self) -> "Relation":
        """This relation with other texts of the same form in place of the asked ones, which stand on none of its signs."""
        random, taken, texts = self._random(3), {sign.text for sign in (*self.signs, *self.asked)}, []
        for sign in self.asked:
            texts.append(another_text(random, SPLITS[self.split], sign, taken))
            taken.add(texts[-1])
        return replace(self, written=(texts[0], texts[1]))

    def sample(self) -> Sample:
        """The canonical record of this relation."""
        return Sample(
            id=f"relations/{self.split}/{fingerprint(self.spec)}/{self.index}" + (f"/{'-'.join(self.written)}" if self.written else ""),
            source="relations",
            split=self.split,
            image=self,
            width=self.spec.side_px,
            height=self.spec.side_px,
            question=self.question[0],
            answers=(" ".join(sign.text for sign in self.asked),),
            scorer="exact",
            boxes=tuple((sign.text_px, sign.sign_px, sign.board_px) for sign in self.asked),
            group=str(self.index),
        )

    def open(self) -> Original:
        """The drawn relation."""
        signs = list(self.signs)
        for i, sign in zip(self.question[1], self.asked, strict=True):
            signs[i] = sign
        return Decoded(draw_scene(self._random(2), self.spec, SPLITS[self.split], signs))


class Relations(Drawn):
    """`count` relations from `start` on, as a sequence of samples."""

    def __init__(self, spec: RelationSpec, split: str, count: int, start: int = 0) -> None:
        super().__init__(Relation, spec, split, count, start)
