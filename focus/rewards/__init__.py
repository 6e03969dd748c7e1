"""Rewards: one pure function per equation, one Lightning callback per term."""

from focus.rewards.callbacks import Accuracy, Example, Format, Grounding, RewardCallback, Scores, Tool, examples, score

__all__ = ["Accuracy", "Example", "Format", "Grounding", "RewardCallback", "Scores", "Tool", "examples", "score"]
