"""One street by its seed, and a range of streets as a sequence of samples."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from focus.data.drawn import Drawn, fingerprint
from focus.data.images.original import Decoded, Original
from focus.data.sample import Sample
from focus.data.scenes.layout import choose
from focus.data.scenes.spec import SPLITS
from focus.data.streets.drawing import add_grain, draw_sign, draw_street
from focus.data.streets.layout import another_number, place_signs, rewritten
from focus.data.streets.spec import FONTS, StreetSign, StreetSpec


@dataclass(frozen=True)
class Street:
    """A street by its seed: equal arguments give equal layouts and equal pixels.

    `written` replaces the number of the asked sign and nothing else.
    """

    spec: StreetSpec
    split: str
    index: int
    written: str | None = None

    def _random(self, purpose: int) -> np.random.Generator:
        return np.random.default_rng([SPLITS[self.split].code, self.index, 20 + purpose])  # scenes and pages have the purposes below 20

    @cached_property
    def signs(self) -> tuple[StreetSign, ...]:
        """All signs, as they were before `written`. Raises ValueError if those that `spec` asks for do not fit."""
        return place_signs(self._random(0), self.spec, FONTS[self.split])

    @cached_property
    def question(self) -> tuple[str, int]:
        """The question and the index of the sign that it names; no other sign fits the description."""
        return choose(self._random(1), self.spec.asks, self.signs)

    @cached_property
    def asked(self) -> StreetSign:
        """The asked sign, with `written` on it."""
        sign = self.signs[self.question[1]]
        return sign if self.written is None else rewritten(sign, self.written)

    def twin(self) -> "Street":
        """This street with another number of as many digits in place of the asked one, which stands on none of its signs."""
        taken = {sign.text for sign in self.signs} | {self.asked.text}
        return replace(self, written=another_number(self._random(3), self.asked, taken))

    def sample(self) -> Sample:
        """The canonical record of this street."""
        sign = self.asked
        return Sample(
            id=f"streets/{self.split}/{fingerprint(self.spec)}/{self.index}" + (f"/{self.written}" if self.written else ""),
            source="streets",
            split=self.split,
            image=self,
            width=self.spec.side_px,
            height=self.spec.side_px,
            question=self.question[0],
            answers=(sign.text,),
            scorer="exact",
            boxes=((sign.text_px, sign.label_px, sign.sign_px),),
            group=str(self.index),
        )

    def open(self) -> Original:
        """The drawn street."""
        random = self._random(2)
        image = draw_street(random, SPLITS[self.split], self.spec.side_px, self.spec.clutter)
        for i, sign in enumerate(self.signs):
            draw_sign(image, self.asked if i == self.question[1] else sign)
        return Decoded(add_grain(random, image) if random.random() < 0.4 else image)


class Streets(Drawn):
    """`count` streets from `start` on, as a sequence of samples."""

    def __init__(self, spec: StreetSpec, split: str, count: int, start: int = 0) -> None:
        super().__init__(Street, spec, split, count, start)
