"""Train a multimodal agent to look at what it zooms into. docs/architecture.md says where to begin reading."""

from pathlib import Path

# `python -m focus.train` finds the entry focus/commands/train.py
__path__ = [*__path__, str(Path(__file__).parent / "commands")]
