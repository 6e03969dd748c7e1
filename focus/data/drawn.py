"""Images that are drawn when needed, as a sequence of samples."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

from focus.data.sample import Sample


def sized(spec: Any, letter_px: Sequence[int] | None, side_px: int) -> Any:
    """A spec of images of this side, in pixels. `letter_px`: least and greatest height of letters; None keeps those of the spec."""
    spec = replace(spec, side_px=side_px)
    return replace(spec, letter_px=(letter_px[0], letter_px[1])) if letter_px else spec


@lru_cache(maxsize=64)
def fingerprint(spec: object) -> str:
    """A hash of a spec for ids: images with equal index and different specs are different images."""
    return hashlib.blake2b(repr(spec).encode(), digest_size=4).hexdigest()


@runtime_checkable
class DrawnImage(Protocol):
    """A drawn image that knows its question."""

    def sample(self) -> Sample: ...

    def twin(self) -> "DrawnImage":
        """The same image with another answer to its question. No other pixel differs."""
        ...


def twin_of(sample: Sample) -> Sample | None:
    """The same question about the twin of its image. None where the image is not drawn: a photograph can't be rewritten exactly."""
    return sample.image.twin().sample() if isinstance(sample.image, DrawnImage) else None


class Drawn(Sequence[Sample]):
    """`count` images from `start` on. `make` gives the image of a spec, a split and an index."""

    def __init__(self, make: Callable[[Any, str, int], DrawnImage], spec: Any, split: str, count: int, start: int) -> None:
        self.make, self.spec, self.split, self._count, self.start = make, spec, split, count, start

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index):
        if not 0 <= index < self._count:
            raise IndexError(index)
        return self.make(self.spec, self.split, self.start + index).sample()


class InTurn(Sequence[Sample]):
    """The samples of several drawn sets in turn: the first of each, the second of each, ... `count` in all."""

    def __init__(self, sets: Sequence[Drawn], count: int) -> None:
        self.sets, self._count = sets, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._count))]
        if not 0 <= index < self._count:
            raise IndexError(index)
        return self.sets[index % len(self.sets)][index // len(self.sets)]
