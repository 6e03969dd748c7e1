"""Train a multimodal agent to look at what it zooms into. docs/architecture.md says where to begin reading."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from focus.agent import Agent, Answer

__all__ = ["Agent", "Answer"]

# `python -m focus.train` finds the entry focus/commands/train.py
__path__ = [*__path__, str(Path(__file__).parent / "commands")]


def __getattr__(name: str) -> Any:
    """`focus.Agent` and `focus.Answer`. They import PyTorch, so only when they are used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from focus import agent

    return getattr(agent, name)
