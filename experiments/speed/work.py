"""How many floating-point operations an update needs, counted from the shapes: the yardstick of the tables in this folder.

A multiplication and an addition are two operations. Softmax, norms, rotations and activations are left out, as is usual.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from focus.model.policy_model import PolicyModel
from focus.rollout.trajectory import Trajectory


@dataclass(frozen=True)
class Work:
    """Operations of a forward and backward (three times the forward), by part."""

    linear: float
    attention: float
    head: float
    vision: float

    @property
    def total(self) -> float:
        return self.linear + self.attention + self.head + self.vision


def update_work(policy: PolicyModel, trajectories: Sequence[Trajectory], shared: bool) -> Work:
    """The least that an update on these trajectories takes, all weights learning: the prompt once per group, or once per rollout."""
    text = policy.backbone.language_model
    prompts = {t.group: t for t in trajectories}.values() if shared else trajectories
    suffixes = [len(t.suffix_ids) for t in trajectories]
    tokens = sum(len(t.prompt_ids) for t in prompts) + sum(suffixes)
    pairs = sum(_causal(len(t.prompt_ids)) for t in prompts)
    pairs += sum(len(t.prompt_ids) * n + _causal(n) for t, n in zip(trajectories, suffixes, strict=True))
    config = text.config
    width = config.num_attention_heads * getattr(config, "head_dim", config.hidden_size // config.num_attention_heads)
    sampled = sum(sum(t.sampled_mask) for t in trajectories)
    images = [t.view.image for t in prompts] + [image for t in trajectories for image in t.images[1:]]
    patches = [image.width * image.height * policy.merge**2 // policy.token_px**2 for image in images]
    return Work(
        linear=3 * 2 * _weights(text) * tokens,
        attention=3 * 4 * width * config.num_hidden_layers * pairs,
        head=3 * 2 * config.vocab_size * config.hidden_size * sampled,
        vision=3 * _vision(policy, patches),
    )


def _causal(n: int) -> int:
    return n * (n + 1) // 2


def _weights(module: torch.nn.Module) -> int:
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, torch.nn.Linear))


def _vision(policy: PolicyModel, patches: Sequence[int]) -> float:
    tower = policy.backbone.visual
    merged = sum(_weights(m) for name, m in tower.named_children() if "merger" in name)
    per_patch = tower.patch_embed.proj.weight[0].numel() * tower.patch_embed.proj.weight.shape[0] + _weights(tower.blocks)
    width = tower.patch_embed.proj.weight.shape[0]
    attention = 4 * width * len(tower.blocks) * sum(n * n for n in patches)
    return 2 * (per_patch + merged / policy.merge**2) * sum(patches) + attention
