"""Tokens of a rollout: the longest that the settings allow, and the mean one."""

import math
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from focus.config.schema import PlanConfig
from focus.config.views import view_budgets
from focus.model.dialect import read_dialect
from focus.model.loading import checkpoint_path
from focus.model.prompts import CROP_CONTENT, encode, observation_text, question_text

# Characters per token where no tokenizer is available: 3.8 to 4.1 for prompts with Qwen's tokenizer
CHARACTERS_PER_TOKEN = 3.9
QUESTION = "What is the colour of the bag that the woman on the left side of the street is carrying?"  # 20 tokens of Qwen's


@dataclass(frozen=True)
class Lengths:
    """Tokens of one rollout. `view` of the `prompt` tokens are visual. `reply` tokens and a crop follow every turn but the last."""

    prompt: float
    view: float
    turns: float
    turn: float
    reply: float
    crop: float

    @property
    def sampled(self) -> float:
        return self.turns * self.turn

    @property
    def visual(self) -> float:
        return self.view + (self.turns - 1) * self.crop

    @property
    def suffix(self) -> float:
        """Tokens after the prompt."""
        return self.sampled + (self.turns - 1) * (self.reply + self.crop)

    def seen_at(self, view: float) -> "Lengths":
        """The same rollout with another view."""
        return replace(self, prompt=self.prompt - self.view + view, view=view)

    def before(self, turn: int) -> float:
        """Tokens after the prompt when turn number `turn` (from 1) begins."""
        return (turn - 1) * (self.turn + self.reply + self.crop)


def has_levels(cfg: PlanConfig) -> bool:
    """Whether the views are known: all have one budget, or there is a table of levels."""
    return cfg.gap.mode not in ("calibrated", "reader") or bool(cfg.gap.table and Path(cfg.gap.table).is_file())


def lengths(cfg: PlanConfig) -> tuple[Lengths, Lengths, bool]:
    """The longest rollout that the settings allow, the mean one, and whether texts were measured with the policy's tokenizer."""
    dialect, rollout, expected = read_dialect(cfg.policy.dialect, cfg.policy.prompts), cfg.rollout, cfg.lengths
    views = view_budgets(cfg)
    tokenizer: Any = None
    with suppress(OSError, ValueError):
        tokenizer = AutoTokenizer.from_pretrained(checkpoint_path(cfg.policy.checkpoint), local_files_only=True)

    def tokens(text: str) -> int:
        if tokenizer is not None:
            return len(encode(tokenizer, text, [0] * text.count("<|image_pad|>")))
        return math.ceil(len(text) / CHARACTERS_PER_TOKEN)

    around = tokens(question_text(dialect, QUESTION)) - tokens(QUESTION)
    reply, view = tokens(observation_text(dialect, CROP_CONTENT, 0, False)), max(views)
    longest = Lengths(
        around + expected.longest_question + view, view, rollout.max_crops + 1, rollout.tokens_per_turn, reply, rollout.crop_tokens
    )  # fmt: skip
    shown = min(view, expected.view or sum(views) / len(views))
    mean = Lengths(
        around + expected.question + shown, shown, 1 + min(expected.crops, rollout.max_crops), min(expected.turn, rollout.tokens_per_turn),
        reply, min(expected.crop or rollout.crop_tokens, rollout.crop_tokens),
    )  # fmt: skip
    return longest, mean, tokenizer is not None


def micro_batch(lengths: Lengths, rollouts: int, budget: int) -> tuple[float, float]:
    """Prompts and suffixes that fill one forward of the update: groups, or the part of one that the budget holds.

    A part of a suffix stands for shorter ones, since rollouts differ.
    """
    whole = lengths.prompt + rollouts * lengths.suffix
    if whole <= budget:
        return budget / whole, budget / whole * rollouts
    return 1, max(1, (budget - lengths.prompt) / lengths.suffix)
