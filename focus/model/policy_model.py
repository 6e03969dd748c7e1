"""The policy: a Qwen vision-language model with its tokenizer, image processor and dialect.

The embedded policy and Qwen2.5-VL-7B use the same code. Nothing here needs torchvision.
"""

import ctypes
import functools
import hashlib
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint as recompute_in_backward
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging as transformers_logging

from focus.model import saving
from focus.model.attention import NO_MASK, Layout, share_prompts
from focus.model.dialect import Dialect
from focus.model.prompts import END_TOKENS, VISION_TOKENS
from focus.runtime.files import is_first_rank

transformers_logging.disable_progress_bar()  # loading and saving print one line of our own


TOWER_TOKENS = 2**15  # without gradient, images pass the vision tower in parts of at most so many visual tokens
LOGITS_BYTES = 2**29  # largest size of the float32 logits in `token_logprobs`: 882 tokens of Qwen's vocabulary
TRIM_EVERY_S = 10.0  # trimming the heap after every update costs 7 % of the embedded policy's processor time


@dataclass(frozen=True)
class Patches:
    """Preprocessed images: the input of the vision tower."""

    values: Float[Tensor, "patch channel_pixels"]
    grids: Int[Tensor, "image 3"]  # frames, rows, columns, in patches (not merged)


@dataclass(frozen=True)
class ImageFeatures:
    """Output of the vision tower for one image: merged tokens, and Qwen3-VL's features for the
    first text layers (deepstack).
    """

    tokens: Float[Tensor, "visual_token width"]
    deep: tuple[Float[Tensor, "visual_token width"], ...]


@dataclass
class _ImageCache:
    """Features by `id(image)`. The images are kept too, so that no id is reused."""

    images: dict[int, Image.Image] = field(default_factory=dict)
    features: dict[int, ImageFeatures] = field(default_factory=dict)


def _embed_patches(self: torch.nn.Conv3d, patches: Tensor) -> Tensor:
    """The patch convolution as a matrix product, which is several times faster.

    Its kernel covers the whole patch.
    """
    return functional.linear(patches.flatten(1), self.weight.flatten(1), self.bias)


def _head(
    self: torch.nn.Linear,
    hidden: Float[Tensor, "*position width"],
    target: Int[Tensor, " position"] | None = None,
    banned: Int[Tensor, " banned"] | None = None,
    temperature: float = 1.0,
) -> Tensor | tuple[Tensor, ...]:
    """Logits. With `target`: the log-probabilities and entropies of `PolicyModel.token_logprobs`.

    All chunks are computed within one call of the module. With sharded weights every call gathers
    them, so one call a chunk would deadlock ranks with unequal numbers of sampled tokens.
    """
    if target is None or banned is None:
        return functional.linear(hidden, self.weight, self.bias)

    def logprobs_and_entropy(hidden: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        logits = functional.linear(hidden, self.weight, self.bias).float().index_fill(1, banned, float("-inf"))
        logprobs = torch.log_softmax(logits / temperature, dim=-1)
        with torch.no_grad():
            entropy = torch.special.entr(logprobs.exp()).sum(-1)
        return logprobs.gather(1, target[:, None])[:, 0], entropy

    rows = max(1, LOGITS_BYTES // (4 * self.weight.shape[0]))
    if len(hidden) <= rows:
        return logprobs_and_entropy(hidden, target)
    parts = zip(hidden.split(rows), target.split(rows), strict=True)
    chunks = [recompute_in_backward(logprobs_and_entropy, *part, use_reentrant=False, preserve_rng_state=False) for part in parts]
    return tuple(torch.cat(values) for values in zip(*chunks, strict=True))


@dataclass
class PolicyModel:
    """A loaded policy: model, tokenizer, image processor and dialect."""

    model: PreTrainedModel | PeftModel
    tokenizer: Any  # transformers' types of these two are too wide
    image_processor: Any
    dialect: Dialect
    video_processor: dict[str, Any] | None = None  # of the loaded folder; unused here, but exported again
    _cache: _ImageCache | None = field(default=None, init=False, repr=False)
    _trimmed_at: float = field(default=-math.inf, init=False, repr=False)  # on the monotonic clock

    def __post_init__(self) -> None:
        share_prompts(self.unwrapped)
        embedding = self.backbone.visual.patch_embed.proj
        embedding.forward = functools.partial(_embed_patches, embedding)  # a bound method could not be pickled
        self.unwrapped.lm_head.forward = functools.partial(_head, self.unwrapped.lm_head)

    @property
    def merge(self) -> int:
        """Patches per merged token, along one side."""
        return int(self.image_processor.merge_size)

    @property
    def token_px(self) -> int:
        """Side of one merged visual token, in pixels (28 for Qwen2.5-VL, 32 for Qwen3-VL and Qwen3.5)."""
        return int(self.image_processor.patch_size) * self.merge

    @property
    def has_idle_processors(self) -> bool:
        """Whether processors are idle while the model computes, so that crops can be cut meanwhile."""
        return self.model.device.type != "cpu" or torch.get_num_threads() < (os.cpu_count() or 1)

    def ids_of(self, tokens: Sequence[str]) -> list[int]:
        """Ids of special tokens, without those that are not in the vocabulary."""
        pairs = ((token, self.tokenizer.convert_tokens_to_ids(token)) for token in tokens)
        return [i for token, i in pairs if i is not None and self.tokenizer.convert_ids_to_tokens(i) == token]

    @property
    def image_pad_id(self) -> int:
        return int(self.model.config.image_token_id)

    @property
    def pad_id(self) -> int:
        return int(self.tokenizer.pad_token_id)

    @property
    def banned_ids(self) -> list[int]:
        """Tokens that are never sampled. Sampler and trainer give them probability 0."""
        return self.ids_of(VISION_TOKENS)

    @property
    def stop_ids(self) -> list[int]:
        return self.ids_of((self.dialect.call[1], *END_TOKENS))

    @property
    def backbone(self) -> Any:
        """The model without its head: vision tower (`visual`) and text layers (`language_model`)."""
        return self.unwrapped.model

    def head(self, hidden: Float[Tensor, "*position width"]) -> Float[Tensor, "*position word"]:
        """Logits of hidden states. Called only for positions where a token is sampled."""
        return self.unwrapped.lm_head(hidden)

    def token_logprobs(
        self, hidden: Float[Tensor, "token width"], target: Int[Tensor, " token"], temperature: float
    ) -> tuple[Float[Tensor, " token"], Float[Tensor, " token"]]:
        """Log-probability of each target token, and the entropy of its distribution, both in nats.

        The entropy has no gradient. Banned tokens have probability 0. `temperature` 0 (greedy)
        counts as 1. Logits are computed in chunks of at most `LOGITS_BYTES`; with several chunks
        the backward computes them again.
        """
        banned = torch.tensor(self.banned_ids, device=hidden.device)
        return self.unwrapped.lm_head(hidden, target.to(hidden.device), banned, temperature or 1.0)

    @property
    def adapted(self) -> str:
        """A sentence: how many layers have adapters, and how many weights are trainable."""
        layers = [name for name, module in self.unwrapped.named_modules() if isinstance(module, LoraLayer)]
        tower = sum(".visual." in name for name in layers)
        trainable = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        return f"adapters: on {len(layers) - tower} layers of the text model and {tower} of the vision tower, {trainable:,} weights"

    @property
    def unwrapped(self) -> PreTrainedModel:
        """The transformers model, without PEFT's wrapper."""
        return saving.unwrap(self.model)

    @contextmanager
    def image_cache(self) -> Iterator[None]:
        """A block in which features of images are cached, if the vision tower gets no gradient.

        The key is the identity of the image: siblings share one view object. Blocks may be nested.
        The outermost one drops the cache and, at most every 10 seconds, returns free memory to the
        system.
        """
        outer = self._cache
        self._cache = outer or _ImageCache()
        try:
            yield
        finally:
            self._cache = outer
            if outer is None and time.monotonic() >= self._trimmed_at + TRIM_EVERY_S:
                _trim_heap()
                self._trimmed_at = time.monotonic()

    def pack(self, images: Sequence[Image.Image]) -> Patches:
        """Patches of images, on the model's device. They equal the image processor's.

        Sides must be multiples of `token_px`; images are not resized. Pixels move to the device as
        bytes and become patches there, which takes a fraction of the processor's time.
        """
        merge, side, device = self.merge, self.token_px // self.merge, self.model.device
        temporal = int(self.image_processor.temporal_patch_size)
        levels, values, grids = self._levels.to(device), [], []
        for image in images:
            assert image.width % self.token_px == 0 and image.height % self.token_px == 0, image.size
            rows, columns = image.height // side, image.width // side
            pixels = torch.from_numpy(np.array(image.convert("RGB"))).to(device)
            tiles = pixels.view(rows // merge, merge, side, columns // merge, merge, side, 3).permute(6, 0, 3, 1, 4, 2, 5)
            patches = torch.empty((rows * columns, 3, temporal, side * side), device=device)
            for channel, tile in enumerate(tiles):  # a still image fills all frames of a patch
                patches[:, channel] = levels[channel].index_select(0, tile.flatten().int()).view(rows * columns, 1, side * side)
            values.append(patches.flatten(1))
            grids.append((1, rows, columns))
        return Patches(torch.cat(values), torch.tensor(grids))

    @functools.cached_property
    def _levels(self) -> Float[Tensor, "3 256"]:
        """What the image processor makes of each of the 256 values of a pixel, for each channel."""
        levels = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert("RGB")
        one_pixel = {"patch_size": 1, "temporal_patch_size": 1, "merge_size": 1}
        return self.image_processor([levels], do_resize=False, return_tensors="pt", **one_pixel)["pixel_values"].T

    def encode_images(self, images: Sequence[Image.Image]) -> list[ImageFeatures]:
        """Features of each image. An image that occurs several times passes the tower once.

        Without gradient the images pass in parts of at most `TOWER_TOKENS` visual tokens.
        """
        tower = self.backbone.visual
        learns = torch.is_grad_enabled() and self._tower_learns
        features: dict[int, ImageFeatures] = {} if learns or self._cache is None else self._cache.features
        new = [image for key, image in {id(image): image for image in images}.items() if key not in features]
        for part in self._parts(new, math.inf if learns else TOWER_TOKENS):
            patches = self.pack(part)
            with torch.set_grad_enabled(learns):
                values = patches.values.to(next(tower.parameters()).dtype)
                out = tower(values, grid_thw=patches.grids.to(self.model.device), return_dict=True)
            counts = (patches.grids.prod(1) // self.merge**2).tolist()
            deep = [level.split(counts) for level in getattr(out, "deepstack_features", ())]
            for i, (image, tokens) in enumerate(zip(part, out.pooler_output.split(counts), strict=True)):
                features[id(image)] = ImageFeatures(tokens, tuple(level[i] for level in deep))
                if self._cache:
                    self._cache.images[id(image)] = image
        return [features[id(image)] for image in images]

    @property
    def _tower_learns(self) -> bool:
        return any(p.requires_grad for p in self.backbone.visual.parameters())

    def _parts(self, images: Sequence[Image.Image], most_tokens: float) -> list[list[Image.Image]]:
        """The images in order, in parts of at most `most_tokens` visual tokens or one image."""
        parts: list[list[Image.Image]] = []
        left = 0.0
        for image in images:
            tokens = image.width * image.height // self.token_px**2
            if tokens > left or not parts:
                parts.append([])
                left = most_tokens
            parts[-1].append(image)
            left -= tokens
        return parts

    def release_features(self, needed: Iterable[Image.Image]) -> None:
        """Drop the cached features of all images but these; of these too, if the tower learns: then
        an update computes them with a gradient.
        """
        if self._cache:
            kept = set() if self._tower_learns else {id(image) for image in needed}
            for key in self._cache.features.keys() - kept:
                del self._cache.features[key], self._cache.images[key]

    def hidden(
        self, ids: Int[Tensor, " token"], position_ids: Int[Tensor, "3 token"], images: Sequence[ImageFeatures], layout: Layout
    ) -> Float[Tensor, "token width"]:
        """Hidden states of packed tokens.

        The features of `images` replace the placeholders in `ids`, in order.

        Raises ValueError if the numbers of visual tokens and placeholders differ. Ids on a GPU are
        not checked, which would wait for it: they are sampled, and placeholders never are.
        """
        device = self.model.device
        visual = ids == self.image_pad_id
        features = sum(len(image.tokens) for image in images)
        if ids.is_cpu and (placeholders := int(visual.sum())) != features:
            raise ValueError(f"{placeholders} image placeholders for {features} visual tokens; the numbers must be equal")
        text = self.backbone.language_model
        embedded = text.get_input_embeddings()(ids.to(device))
        deep = {}
        if images:
            visual = visual.to(device)
            tokens = torch.cat([image.tokens for image in images]).to(embedded.dtype)
            embedded = embedded.masked_scatter(visual[:, None], tokens)
            if images[0].deep:
                levels = [torch.cat(level) for level in zip(*(image.deep for image in images), strict=True)]
                deep = {"visual_pos_masks": visual[None], "deepstack_visual_embeds": levels}
        out = text(
            inputs_embeds=embedded[None],
            position_ids=position_ids[:, None].to(device),
            attention_mask=NO_MASK,
            use_cache=False,
            layout=layout,
            **deep,
        )
        return out.last_hidden_state[0]

    def recompute_activations(self) -> None:
        """Gradient checkpointing of every layer: less memory, about a third more computation."""
        self.unwrapped.gradient_checkpointing_enable({"use_reentrant": False})
        for layer in self.unwrapped.modules():
            if isinstance(layer, GradientCheckpointingLayer):
                layer.training = True  # transformers checks this flag; the modules inside stay in eval mode

    def plain_state(self) -> Iterator[tuple[str, Tensor]]:
        """Yields (name, weight) of the plain transformers model: unsharded, adapters merged.

        All ranks iterate together.
        """
        return saving.plain_state(self.model)

    def weights_hash(self) -> str:
        """Identifies the weights.

        Equal policies have equal hashes, whatever their folder; new adapters, which are zero,
        change nothing.
        """
        digest = hashlib.blake2b(digest_size=8)
        for name, value in saving.plain_state(self.model, by_name=True):  # one weight at a time: 7B would be 31 GB
            digest.update(name.encode())
            digest.update(value.float().cpu().flatten().numpy().data)
        return digest.hexdigest()

    def save(self, folder: Path, dtype: str = "bfloat16", writes: bool | None = None) -> None:
        """Write the policy in the Hugging Face layout (`saving.save`).

        All ranks call it together. `writes`: whether this one writes; None: the first one does.
        """
        writes = is_first_rank() if writes is None else writes
        saving.save(folder, self.model, self.tokenizer, self.image_processor, self.video_processor, dtype, writes)


def _trim_heap() -> None:
    """Return free pages of glibc's heap to the system.

    Tensors of many sizes fragment the heap, and glibc keeps the free pages. Without this, training
    of the embedded policy grows by more than 1 MB an update (experiments/faults).
    """
    with suppress(AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
