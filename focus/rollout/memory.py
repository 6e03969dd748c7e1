"""How many questions the engine `kv` can play at the same time on one GPU."""

from collections.abc import Sequence

import torch
from transformers import PretrainedConfig

from focus.model.policy_model import PolicyModel
from focus.rollout.kv import PREFILL_TOKENS
from focus.rollout.loop import RolloutLimits
from focus.rollout.trajectory import Trajectory

FREE_SHARE = 0.8  # of free memory; the rest is for the vision tower and fragmentation
LONGER = 1.25  # the next rollouts may be so much longer than the last ones
REPLY_TOKENS = 64  # text of the tool's reply to a call, at most


def free_bytes(device: torch.device) -> int | None:
    """Bytes that this process can still allocate on its GPU. None on the CPU."""
    if device.type != "cuda":
        return None
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def prefill_bytes(config: PretrainedConfig, number: int, tokens: float) -> float:
    """Bytes that `tokens` take while they pass through one text layer, at `number` bytes per number."""
    text = config.get_text_config()
    return tokens * (3 * text.intermediate_size + 4 * text.hidden_size) * number


def question_bytes(config: PretrainedConfig, number: int, prompt: float, visual: float, suffix: float, rollouts: int) -> float:
    """Largest number of bytes that one question takes while `rollouts` siblings are played.

    `number` is the size of one number in bytes. `prompt` and `suffix` are tokens of the prompt and,
    as a mean, of what follows it; `visual` are visual tokens of the view and of all siblings' crops.

    Keys and values of a suffix count four times. A batch is as long as its longest row, and at least
    half of its rows are active (`kv.COMPACT_BELOW`), so it holds at most two slots for every token.
    So do the finished turns, which are kept while the next turn is sampled. Beside them there are the
    prompt's pass through a layer, keys and values of one layer gathered for a prefill, three copies
    of a step's logits in float32, and the features of images.
    """
    text = config.get_text_config()
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    layer = 2 * text.num_key_value_heads * width * number  # keys and values of one token
    cached = text.num_hidden_layers * layer * (prompt + 4 * rollouts * suffix)
    gathered = layer * rollouts * (prompt + suffix)
    levels = 1 + len(getattr(config.vision_config, "deepstack_visual_indexes", ()))
    features = levels * text.hidden_size * number * visual
    return cached + gathered + 3 * 4 * text.vocab_size * rollouts + features + prefill_bytes(config, number, prompt)


def questions_that_fit(
    free: float, config: PretrainedConfig, number: int, prompt: float, visual: float, suffix: float, rollouts: int
) -> int:
    """How many questions fit into `free` bytes, at least one. The other arguments are those of `question_bytes`."""
    each = question_bytes(config, number, prompt, visual, suffix, rollouts)
    return max(1, int((FREE_SHARE * free - prefill_bytes(config, number, PREFILL_TOKENS)) // each))


class Room:
    """How many questions of `rollouts` siblings fit into free memory.

    It expects rollouts as long as the last ones were, and before them the longest that the limits
    allow.
    """

    def __init__(self, policy: PolicyModel, limits: RolloutLimits, rollouts: int) -> None:
        self.policy, self.rollouts = policy, rollouts
        self._crops = float(limits.max_crops * limits.crop_tokens)  # tokens of one rollout's crops
        self._suffix = limits.max_turns * limits.sampling.tokens_per_turn + limits.max_crops * REPLY_TOKENS + self._crops

    def questions(self, opened: Sequence[Trajectory]) -> int | None:
        """How many of these questions fit, at least one. None on the CPU, whose memory is not counted."""
        free = free_bytes(self.policy.model.device)
        if free is None:
            return None
        prompt, view = max(len(t.prompt_ids) for t in opened), max(t.view.tokens for t in opened)
        visual = view + self.rollouts * self._crops
        return questions_that_fit(free, self.policy.model.config, self._bytes_per_number(), prompt, visual, self._suffix, self.rollouts)

    def saw(self, played: Sequence[Trajectory]) -> None:
        """Expect rollouts of the mean length of these."""
        self._suffix = LONGER * sum(len(t.suffix_ids) for t in played) / len(played)
        self._crops = LONGER * sum(t.visual_tokens - t.view.tokens for t in played) / len(played)

    def _bytes_per_number(self) -> int:
        kind = self.policy.model.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else next(self.policy.model.parameters()).dtype
        return dtype.itemsize
