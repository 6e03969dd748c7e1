"""Train a multimodal agent to look at what it zooms into. docs/architecture.md says where to begin reading."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from focus.agent import Agent, Answer
    from focus.runs.audit import audit

__all__ = ["Agent", "Answer", "audit"]

# `python -m focus.train` finds the entry focus/commands/train.py
__path__ = [*__path__, str(Path(__file__).parent / "commands")]


def __getattr__(name: str) -> Any:
    """`focus.Agent`, `focus.Answer` and `focus.audit`. They import PyTorch, so only when they are used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "audit":
        from focus.runs import audit

        return audit.audit
    from focus import agent

    return getattr(agent, name)
