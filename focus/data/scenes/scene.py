"""One scene by its seed, and a range of scenes as a sequence of samples."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from PIL import ImageDraw

from focus.data.drawn import Drawn, fingerprint
from focus.data.images.original import Decoded, Original
from focus.data.sample import Sample
from focus.data.scenes.drawing import draw_ground, draw_sign, is_photograph
from focus.data.scenes.layout import another_text, choose, make_sign, rewritten, scatter_boards
from focus.data.scenes.spec import COLOURS, SPLITS, SceneSpec, Sign


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
        random = self._random(0)
        for _ in range(200):
            boards = scatter_boards(random, self.spec)
            if len(boards) == self.spec.signs:
                colours = random.permutation(list(COLOURS))
                return tuple(
                    make_sign(random, self.spec, SPLITS[self.split], board, str(colours[i % len(colours)]))
                    for i, board in enumerate(boards)
                )
        raise ValueError(f"{self.spec.signs} signs of {self.spec.sign_side} of a side do not fit into a scene; lower data.difficulty")

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
        random = self._random(2)
        image = draw_ground(random, SPLITS[self.split], self.spec.side_px)
        draw = ImageDraw.Draw(image)
        for _ in range(self.spec.clutter):
            side = self.spec.side_px * random.uniform(0.02, 0.06)
            x, y = random.uniform(0, self.spec.side_px - side, 2)
            draw.rectangle((x, y, x + side, y + side), fill=tuple(int(v) for v in random.integers(40, 215, 3)))
        for i, sign in enumerate(self.signs):
            draw_sign(draw, sign if self.written is None or i != self.question[1] else self.asked)
        return Decoded(image)


class Scenes(Drawn):
    """`count` scenes from `start` on, as a sequence of samples."""

    def __init__(self, spec: SceneSpec, split: str, count: int, start: int = 0) -> None:
        super().__init__(Scene, spec, split, count, start)
