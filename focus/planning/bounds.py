"""A quantity that is known within bounds only."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Bounds:
    """A quantity between `low` and `high`, in the unit of its context."""

    low: float
    high: float

    def __add__(self, other: "Bounds") -> "Bounds":
        return Bounds(self.low + other.low, self.high + other.high)

    def __mul__(self, factor: float) -> "Bounds":
        return Bounds(self.low * factor, self.high * factor)

    @property
    def middle(self) -> float:
        """The geometric mean: as many times above `low` as below `high`."""
        return math.sqrt(self.low * self.high)

    @classmethod
    def exact(cls, value: float) -> "Bounds":
        """Both bounds are this value."""
        return cls(value, value)


def total(parts: "list[Bounds]") -> Bounds:
    """The sum of quantities."""
    return sum(parts, Bounds(0.0, 0.0))
