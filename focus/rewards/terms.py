"""The reward equations as pure functions, numbers in and numbers out."""

import math
from collections.abc import Mapping


def accuracy(correct: bool) -> float:
    """r_acc of E3: 1 for a right answer, else 0."""
    return float(correct)


def format_penalty(malformed_turns: int, answered: bool) -> float:
    """r_format of E3: 0 for a conversation in which every turn could be read and that ends in an answer, else -1."""
    return 0.0 if answered and malformed_turns == 0 else -1.0


def tool_bonus(delivered_crops: int) -> float:
    """r_tool of E3: 1 if at least one crop was DELIVERED, else 0. The text of a call earns nothing."""
    return float(delivered_crops > 0)


def total(raw: Mapping[str, float], weights: Mapping[str, float], gates: Mapping[str, str | None]) -> float:
    """E3: the weighted sum of raw terms; a gated term counts only where its gate term is above 0.

    A term or a gate that could not be graded is NaN, and so is then the total: such a rollout teaches nothing, it is not a zero.
    """
    value = 0.0
    for name, weight in weights.items():
        gate = gates.get(name)
        opened = 1.0 if gate is None else raw[gate]
        value += math.nan if math.isnan(opened) else weight * raw[name] if opened > 0 else 0.0
    return value
