"""Images that are drawn when needed, as a sequence of samples."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from focus.data.sample import Sample


class DrawnImage(Protocol):
    """A drawn image that knows its question."""

    def sample(self) -> Sample: ...


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
