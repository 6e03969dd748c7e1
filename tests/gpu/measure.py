"""Bytes that a GPU would hold at the real sizes of a published model, phase by phase, measured on `ShapeGPU`.

The code that runs is that of a run: engine, attention, image cache, update. Only values are missing. Other
processes (sharded weights), autocast and the optimiser's step are not measured.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any
from unittest.mock import patch

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, PretrainedConfig

from focus.data.scenes import DIFFICULTY, Scene
from focus.gap import View
from focus.model.dialect import read_dialect
from focus.model.policy_model import PolicyModel
from focus.model.prompts import CROP_CONTENT
from focus.planning.architecture import published_config
from focus.planning.lengths import Lengths
from focus.rollout import kv
from focus.rollout.engine import Request, Sampling
from focus.rollout.kv import KVEngine
from focus.rollout.trajectory import Crop, Observation, Status, Trajectory, Turn
from focus.training.logprobs import logprobs_and_entropy
from focus.training.objective import policy_loss
from tests.gpu.shapes import Phase, ShapeGPU

H100, A100 = (9, 0), (8, 0)
WORD, STOP = 11, 151645
TOKENS = {
    "<|endoftext|>": 151643,
    "<|im_start|>": 151644,
    "<|im_end|>": STOP,
    "<|vision_start|>": 151652,
    "<|vision_end|>": 151653,
    "<|vision_pad|>": 151654,
    "<|image_pad|>": 151655,
    "<|video_pad|>": 151656,
    "<tool_call>": 151657,
    "</tool_call>": 151658,
}  # of both families
STEPS = 3  # tokens that are decoded; further tokens of a turn are fed
FED = 128  # at once: fewer than a crop has


class Tokenizer:
    """The ids of Qwen's special tokens."""

    pad_token_id = TOKENS["<|endoftext|>"]

    def convert_tokens_to_ids(self, token: str) -> int | None:
        return TOKENS.get(token)

    def convert_ids_to_tokens(self, number: int) -> str | None:
        return next((token for token, i in TOKENS.items() if i == number), None)


@dataclass(frozen=True)
class ImageProcessor:
    """Patches without values."""

    patch_size: int
    merge_size: int = 2
    temporal_patch_size: int = 2

    def __call__(self, images: Sequence[Image.Image], patch_size: int, temporal_patch_size: int, **unused: Any) -> dict[str, torch.Tensor]:
        [image] = images
        rows, columns = image.height // patch_size, image.width // patch_size
        return {"pixel_values": torch.empty((rows * columns, 3 * temporal_patch_size * patch_size**2), device="meta")}


@dataclass(frozen=True)
class Measured:
    """Bytes of the weights (and of the gradients, where there are any), and of every phase, weights included."""

    weights: int
    phases: dict[str, Phase]

    @property
    def peak(self) -> int:
        """The largest peak of all phases, beyond the weights."""
        return max(phase.peak for phase in self.phases.values()) - self.weights


def config_of(name: str, layers: int | None = None) -> PretrainedConfig:
    """A published architecture, for instance `Qwen/Qwen2.5-VL-7B-Instruct`; with only so many text layers and blocks of the tower."""
    config = published_config(name)
    assert config is not None, name
    if layers is not None:
        text, vision = config.get_text_config(), config.vision_config
        text.num_hidden_layers = vision.depth = layers
        if hasattr(text, "layer_types"):
            text.layer_types = text.layer_types[:layers]
        for key in ("fullatt_block_indexes", "deepstack_visual_indexes"):
            if indexes := getattr(vision, key, None):
                setattr(vision, key, [layers - 1] if key.startswith("full") else list(range(min(len(indexes), layers))))
    for key, token in (
        ("image_token_id", "<|image_pad|>"),
        ("video_token_id", "<|video_pad|>"),
        ("vision_start_token_id", "<|vision_start|>"),
        ("vision_end_token_id", "<|vision_end|>"),
    ):
        setattr(config, key, TOKENS[token])
    return config


def policy_on(gpu: ShapeGPU, config: PretrainedConfig) -> PolicyModel:
    """A policy of this architecture on the device, in bfloat16."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa").eval()
    gpu.place(model, torch.bfloat16)
    return PolicyModel(model, Tokenizer(), ImageProcessor(config.vision_config.patch_size), read_dialect(str(config.model_type)))


@dataclass(frozen=True)
class _Row:
    """A conversation in an engine; `parent` is the request whose tokens are cached."""

    prompt: str
    prompt_tokens: int
    ids: tuple[int, ...]
    images: tuple[Image.Image, ...]
    parent: str | None = None


class _Play:
    """Conversations of equal length, sampled by the default engine.

    Of every turn the engine decodes a few tokens. The others are fed in small parts: a decoding step
    takes seconds here, and the caches grow as they would.
    """

    def __init__(self, policy: PolicyModel, lengths: Lengths, limit: int) -> None:
        self.policy, self.limit, self.engine = policy, limit, KVEngine(policy)
        self.view, self.crop, self.turn = round(lengths.view), round(lengths.crop), round(lengths.turn)
        self.prompt_text, self.reply = round(lengths.prompt) - self.view - 2, round(lengths.reply)
        self._names = count()

    def asked(self, question: int) -> _Row:
        image, ids = self._seen(self.view)
        ids = (*[WORD] * self.prompt_text, *ids)
        return _Row(f"question {question}", len(ids), ids, (image,))

    def replied(self, rows: Sequence[_Row]) -> list[_Row]:
        """The conversations after the tool's reply, each with a crop of its own."""
        seen = [self._seen(self.crop) for _ in rows]
        return [
            replace(row, ids=(*row.ids, *[WORD] * self.reply, *ids), images=(*row.images, image))
            for row, (image, ids) in zip(rows, seen, strict=True)
        ]

    def spoken(self, rows: Sequence[_Row]) -> list[_Row]:
        """The conversations after one more turn."""
        rows, left = self._generate(rows, min(STEPS, self.turn)), self.turn - STEPS
        while left > 0:
            fed = min(FED, left) - 1
            rows = self._generate([replace(row, ids=(*row.ids, *[WORD] * fed)) for row in rows], 1)
            left -= fed + 1
        return rows

    def _generate(self, rows: Sequence[_Row], tokens: int) -> list[_Row]:
        requests = [
            Request(f"{next(self._names)} turn", row.parent, row.prompt, row.prompt_tokens, row.ids, row.images, seed=0) for row in rows
        ]
        draw, left = kv.draw, count(1 - tokens)

        def scripted(*args: Any) -> tuple[torch.Tensor, torch.Tensor]:
            token, logprob = draw(*args)
            return token.fill_(STOP if next(left) == 0 else WORD), logprob

        with patch.object(kv, "draw", scripted):
            said = {request.id: completion for request, completion in self.engine.generate_turn(requests, Sampling(1.0, self.limit))}
        return [replace(row, ids=(*row.ids, *said[each.id].ids), parent=each.id) for row, each in zip(rows, requests, strict=True)]

    def _seen(self, tokens: int) -> tuple[Image.Image, tuple[int, ...]]:
        """An image of about so many visual tokens, as square as whole tokens allow, and its ids."""
        return _image(self.policy, tokens), (TOKENS["<|vision_start|>"], *[TOKENS["<|image_pad|>"]] * tokens, TOKENS["<|vision_end|>"])


def _image(policy: PolicyModel, tokens: int) -> Image.Image:
    """An image of so many visual tokens, as square as possible."""
    rows = next(rows for rows in range(math.isqrt(tokens), 0, -1) if tokens % rows == 0)
    return Image.new("1", (tokens // rows * policy.token_px, rows * policy.token_px))


def rollout(
    config: PretrainedConfig,
    lengths: Lengths,
    rollouts: int = 16,
    questions: int = 1,
    limit: int = 2048,
    capability: tuple[int, int] = H100,
) -> Measured:
    """Rollouts side by side, `rollouts` of each question, with at most `limit` tokens a turn.

    Phases: `turn 1`, `turn 2`, ..., and `kept`, what is left when the engine's cache is empty: features of images.
    """
    with ShapeGPU(capability) as gpu:
        policy = policy_on(gpu, config)
        weights, phases = gpu.bytes, dict[str, Phase]()
        with torch.no_grad(), policy.image_cache():
            play = _Play(policy, lengths, limit)
            rows = [row for question in range(questions) for row in [play.asked(question)] * rollouts]
            for turn in range(1, math.ceil(lengths.turns) + 1):
                with gpu.phase(f"turn {turn}", phases):
                    rows = play.spoken(play.replied(rows) if turn > 1 else rows)
            play.engine.clear_cache()
            with gpu.phase("kept", phases):
                pass
        return Measured(weights, phases)


def evaluation(
    config: PretrainedConfig,
    lengths: Lengths,
    questions: int = 8,
    replayed: int = 2,
    limit: int = 2048,
    capability: tuple[int, int] = H100,
) -> Measured:
    """Questions side by side as the probe and the evaluation play them.

    Phases: `own`, every question once; `arms`, where all its turns but the last are played again with other
    crops, `replayed` times at once, beside one row a question that answers without a crop.
    """
    with ShapeGPU(capability) as gpu:
        policy = policy_on(gpu, config)
        weights, phases = gpu.bytes, dict[str, Phase]()
        with torch.no_grad(), policy.image_cache():
            play = _Play(policy, lengths, limit)
            rows = asked = [play.asked(question) for question in range(questions)]
            with gpu.phase("own", phases):
                rows = play.spoken(rows)
                for _ in range(1, math.ceil(lengths.turns)):
                    before = play.replied(rows)
                    rows = play.spoken(before)
            play.engine.clear_cache()
            altered = [
                replace(row, images=(row.images[0], *(image.copy() for image in row.images[1:])), parent=None)
                for _ in range(replayed)
                for row in before
            ]
            with gpu.phase("arms", phases):
                play.spoken([*altered, *asked])
        return Measured(weights, phases)


def update(
    config: PretrainedConfig,
    lengths: Lengths,
    rollouts: int = 16,
    questions: int = 1,
    activation_checkpointing: bool = True,
    capability: tuple[int, int] = H100,
) -> Measured:
    """One forward and backward of the update on all these rollouts at once, beside gradients of earlier ones.

    Phases: `forward`, `backward`. `weights` holds the gradients too.
    """
    with ShapeGPU(capability) as gpu:
        policy = policy_on(gpu, config)
        if activation_checkpointing:
            policy.recompute_activations()
        for weight in policy.model.parameters():
            weight.grad = torch.empty_like(weight) if weight.requires_grad else None
        weights, phases = gpu.bytes, dict[str, Phase]()
        trajectories = [t for _ in range(questions) for t in _trajectories(policy, lengths, rollouts)]
        with policy.image_cache():
            with gpu.phase("forward", phases):
                logprob = torch.cat(logprobs_and_entropy(policy, trajectories, 1.0)[0])
                loss = policy_loss(logprob, logprob.detach(), torch.ones_like(logprob), len(logprob))
            with gpu.phase("backward", phases):
                loss.backward()
                del loss, logprob
        return Measured(weights, phases)


def _trajectories(policy: PolicyModel, lengths: Lengths, rollouts: int) -> list[Trajectory]:
    """A group of rollouts of equal length."""
    play = _Play(policy, lengths, 0)
    asked = play.asked(0)
    view = View(asked.images[0], play.view, asked.images[0].size)
    sample = Scene(DIFFICULTY[1], "train", 0).sample()
    opened = Trajectory(sample=sample, source=view.image, view=view, prompt_ids=asked.ids, seed=0)  # type: ignore[arg-type]
    spoken = Turn((WORD,) * play.turn, (-1.0,) * play.turn, "", Crop((0, 0, 9, 9), (0, 0, 9, 9)))
    group = []
    for _ in range(rollouts):
        t, before = opened, asked
        for _ in range(1, math.ceil(lengths.turns)):
            [after] = play.replied([before])
            crop = View(after.images[-1], play.crop, after.images[-1].size)
            t = t.with_turn(replace(spoken, observation=Observation(after.ids[len(before.ids) :], crop, CROP_CONTENT)), Status.OPEN)
            before = after
        group.append(t.with_turn(spoken, Status.ANSWERED))
    return group
