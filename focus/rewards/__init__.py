"""Rewards: one pure function per equation, one Lightning callback per term."""

from focus.rewards.callbacks import (
    Accuracy,
    Area,
    Example,
    Format,
    Grounding,
    Payment,
    RewardCallback,
    Scores,
    Tool,
    begin_scoring,
    examples,
    score,
)
from focus.rewards.information import CropOnly, InformationGain

__all__ = [
    "Accuracy",
    "Area",
    "CropOnly",
    "Example",
    "Format",
    "Grounding",
    "InformationGain",
    "Payment",
    "RewardCallback",
    "Scores",
    "Tool",
    "begin_scoring",
    "examples",
    "score",
]
