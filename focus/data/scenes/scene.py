"""One scene by its seed, and a range of scenes as a sequence of samples."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from focus.data.drawn import Drawn, fingerprint
from focus.data.images.original import Decoded, Original
from focus.data.sample import Sample
from focus.data.scenes.drawing import draw_scene, is_photograph
from focus.data.scenes.layout import another_text, choose, place_signs, rewritten
from focus.data.scenes.spec import SPLITS, SceneSpec, Sign


@dataclass(frozen=True)
class Scene:
    """A scene by its seed: equal arguments give equal layouts and equal pixels.

    `written` replaces the text of the asked sign and nothing else.
    """

    spec: SceneSpec
    split: str
    index: int
    written: str | None = None

    def _random(self, purpose: int) -> np.random.Generator:
        return np.random.default_rng([SPLITS[self.split].code, self.index, purpose])

    @cached_property
    def signs(self) -> tuple[Sign, ...]:
        """All signs of the scene, as they were before `written`.

        Raises ValueError if `spec` asks for more signs than fit, or for signs that no text fits.
        """
        return place_signs(self._random(0), self.spec, SPLITS[self.split])

    @cached_property
    def question(self) -> tuple[str, int]:
        """The question and the index of the sign that it names; no other sign fits the description.

        Raises ValueError if no description of the kinds in `spec.asks` fits one sign alone.
        """
        return choose(self._random(1), self.spec.asks, self.signs)

    @cached_property
    def asked(self) -> Sign:
        """The asked sign, with `written` on it."""
        sign = self.signs[self.question[1]]
        return sign if self.written is None else rewritten(sign, self.written)

    def twin(self) -> "Scene":
        """This scene with another text of the same form in place of the asked one, which stands on none of its signs."""
        taken = {sign.text for sign in self.signs} | {self.asked.text}
        return replace(self, written=another_text(self._random(3), SPLITS[self.split], self.asked, taken))

    def sample(self) -> Sample:
        """The canonical record of this scene."""
        sign = self.asked
        return Sample(
            id=f"synthetic/{self.split}/{fingerprint(self.spec)}/{self.index}" + (f"/{self.written}" if self.written else ""),
            source="synthetic",
            split=self.split,
            image=self,
            width=self.spec.side_px,
            height=self.spec.side_px,
            question=self.question[0],
            answers=(sign.text,),
            scorer="exact",
            boxes=((sign.text_px, sign.sign_px, sign.board_px),),
            group=str(self.index),
        )

    @property
    def on_photograph(self) -> bool:
        """Whether the ground is a photograph, which has a licence; a procedural ground has none."""
        return is_photograph(self._random(2))

    def open(self) -> Original:
        """The drawn scene."""
        signs = list(self.signs)
        if self.written is not None:
            signs[self.question[1]] = self.asked
        return Decoded(draw_scene(self._random(2), self.spec, SPLITS[self.split], signs))


class Scenes(Drawn):
    """`count` scenes from `start` on, as a sequence of samples."""

    def __init__(self, spec: SceneSpec, split: str, count: int, start: int = 0) -> None:
        super().__init__(Scene, spec, split, count, start)
