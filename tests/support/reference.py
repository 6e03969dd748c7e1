"""The naive way, as an independent reference: one plain transformers forward for each trajectory, nothing packed, shared or cached.

Also trajectories of any shape, made by hand: packing does not care whether a token was sampled by a policy or by chance.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image

from focus.data.scenes import DIFFICULTY, Scene
from focus.gap import View
from focus.model.policy_model import PolicyModel
from focus.model.prompts import CROP_CONTENT
from focus.rollout.trajectory import Crop, Observation, Status, Trajectory, Turn


def plain_logprobs(policy: PolicyModel, t: Trajectory, temperature: float = 1.0) -> torch.Tensor:
    """Log-probability of every sampled token of one trajectory, by transformers alone: its own positions, mask and attention."""
    device = policy.model.device
    ids = torch.tensor([t.ids], device=device)
    pixels = policy.pack(t.images)
    kinds = (ids == policy.image_pad_id).int()
    if hasattr(policy.backbone, "rope_deltas"):
        policy.backbone.rope_deltas = None
    out = policy.model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=pixels.values.to(device, policy.model.dtype),
        image_grid_thw=pixels.grids.to(device),
        mm_token_type_ids=kinds,
        use_cache=False,
    )
    scores = out.logits[0].float().index_fill(1, torch.tensor(policy.banned_ids, device=device), float("-inf"))
    at = torch.tensor(t.sampled_mask, device=device).nonzero()[:, 0]
    return torch.log_softmax(scores / temperature, -1)[at - 1].gather(1, ids[0, at][:, None])[:, 0]


def towers(policy: PolicyModel, monkeypatch) -> list[int]:
    """Images of every pass through the vision tower from here on."""
    images: list[int] = []
    tower = policy.backbone.visual
    forward = tower.forward

    def counting(values, grid_thw, **rest):
        images.append(len(grid_thw))
        return forward(values, grid_thw, **rest)

    monkeypatch.setattr(tower, "forward", counting)
    return images


@dataclass(frozen=True)
class Shape:
    """A turn: how many tokens are sampled, and the crop that follows (width and height in tokens) or None for an end."""

    sampled: int
    crop: tuple[int, int] | None = None


# Two groups of unequal prompts; siblings that answer at once, after one crop, after two crops of other sizes, and one sampled token
RAGGED = (
    ((4, 4), 9, [[Shape(5)], [Shape(7, (2, 3)), Shape(4)], [Shape(3, (1, 1)), Shape(6, (4, 2)), Shape(2)]]),
    ((3, 5), 4, [[Shape(1)], [Shape(12)]]),
)


def made(policy: PolicyModel, groups: Sequence[tuple[tuple[int, int], int, Sequence[Sequence[Shape]]]], seed: int = 0) -> list[Trajectory]:
    """Trajectories of random tokens and pixels: for each group its view (width and height in tokens), the text tokens of its prompt, and
    the turns of every sibling."""
    random = np.random.default_rng(seed)
    c = policy
    words = [i for i in range(7, 300) if i not in {c.image_pad_id, c.pad_id, *c.banned_ids, *c.stop_ids}]

    def text(n: int) -> tuple[int, ...]:
        return tuple(int(i) for i in random.choice(words, n))

    def seen(size: tuple[int, int]) -> View:
        width, height = size[0] * c.token_px, size[1] * c.token_px
        return View(Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)), size[0] * size[1], (448, 448))

    start, end = (c.tokenizer.convert_tokens_to_ids(token) for token in ("<|vision_start|>", "<|vision_end|>"))

    def placed(view: View) -> tuple[int, ...]:
        return (start, *[c.image_pad_id] * view.tokens, end)

    sample = Scene(DIFFICULTY[1], "train", 0).sample()
    trajectories = []
    for size, words_of_prompt, siblings in groups:
        view = seen(size)
        asked = Trajectory(
            sample=sample, source=view.image, view=view, prompt_ids=(*text(3), *placed(view), *text(words_of_prompt)), seed=0
        )
        for turns in siblings:
            spoken = []
            for turn in turns:
                crop = seen(turn.crop) if turn.crop else None
                observation = Observation((*text(2), *placed(crop), *text(2)), crop, CROP_CONTENT) if crop else None
                action = Crop((0, 0, 9, 9), (0, 0, 9, 9))
                spoken.append(Turn(text(turn.sampled), (0.0,) * turn.sampled, "", action, observation))
            trajectories.append(replace(asked, turns=tuple(spoken), status=Status.ANSWERED))
    return trajectories


def equal(found: Sequence[float], expected: Sequence[float]) -> bool:
    """Up to rounding, with NaN equal to NaN."""
    return len(found) == len(expected) and all(
        math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-12) or (a != a and b != b) for a, b in zip(found, expected, strict=True)
    )
