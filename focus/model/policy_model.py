"""A policy as a folder in the Hugging Face layout: loading, packing images, positions, saving.

The embedded tiny policy and Qwen2.5-VL-7B go through the same functions. Nothing here needs torchvision.
"""

import ctypes
import functools
import hashlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint as computed_again
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging as transformers_logging

from focus.model.attention import NO_MASK, Layout, share_prompts
from focus.model.prompts import STOP_TOKENS, VISION_TOKENS, Dialect
from focus.runtime.distributed import all_gather, full_tensor
from focus.runtime.files import atomic_write, is_first_rank

transformers_logging.disable_progress_bar()  # loading and saving a policy is one line of ours, not three bars


VIDEO_PROCESSOR = "video_preprocessor_config.json"
FAMILIES = {"qwen2_5_vl": "Qwen2_5_VLProcessor", "qwen3_vl": "Qwen3VLProcessor"}
KEPT_BYTES = 2**31  # of patches that are remembered; beyond, an image is cut again when it is needed
LOGITS_BYTES = 2**29  # of the float32 logits that exist at once where tokens are weighed: 882 tokens of Qwen's vocabulary
GIVE_BACK_EVERY_S = 10.0  # after every update it would cost 7 % of the embedded policy's processor time, for pages that are asked for again
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Pixels:
    """Images as the vision tower takes them."""

    values: Float[Tensor, "patch channel_pixels"]
    grids: Int[Tensor, "image 3"]  # frames, rows, columns, in patches (not merged)


@dataclass(frozen=True)
class Features:
    """One image as the language model takes it: its merged tokens, and what Qwen3-VL adds to the first layers (deepstack)."""

    tokens: Float[Tensor, "visual_token width"]
    deep: tuple[Float[Tensor, "visual_token width"], ...]


@dataclass
class _ImageCache:
    """What is kept of images, by identity; the images are held too, so that no identity is given away twice."""

    images: dict[int, Image.Image] = field(default_factory=dict)
    patches: dict[int, Pixels] = field(default_factory=dict)
    features: dict[int, Features] = field(default_factory=dict)
    room: int = KEPT_BYTES


def _embed_patches(self: torch.nn.Conv3d, patches: Tensor) -> Tensor:
    """What a convolution computes whose kernel is the whole patch: a matrix product, which is several times faster as one."""
    return functional.linear(patches.flatten(1), self.weight.flatten(1), self.bias)


def _head(
    self: torch.nn.Linear,
    hidden: Float[Tensor, "*place width"],
    target: Int[Tensor, " place"] | None = None,
    banned: Int[Tensor, " banned"] | None = None,
    temperature: float = 1.0,
) -> Tensor | tuple[Tensor, ...]:
    """Logits; with `target`, what `PolicyModel.token_logprobs` returns.

    The chunks are made in here, in one call of the module. Where weights are divided among ranks each call gathers them, and ranks that
    sampled unequal numbers of tokens would wait for each other for ever if each chunk were a call.
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
    chunks = [computed_again(logprobs_and_entropy, *part, use_reentrant=False, preserve_rng_state=False) for part in parts]
    return tuple(torch.cat(each) for each in zip(*chunks, strict=True))


@dataclass
class PolicyModel:
    """A loaded policy: the model, its tokenizer, how it takes images and how it is spoken to."""

    model: PreTrainedModel | PeftModel
    tokenizer: Any  # transformers' own types of these two are wider than what we ask of them
    image_processor: Any
    dialect: Dialect
    video_processor: dict[str, Any] | None = None  # of the folder that it was loaded from; nothing here reads it, an export carries it on
    _memory: _ImageCache | None = field(default=None, init=False, repr=False)
    _given_back: float = field(default=-math.inf, init=False, repr=False)  # on the monotonic clock

    def __post_init__(self) -> None:
        share_prompts(self.unwrapped)
        embedding = self.backbone.visual.patch_embed.proj
        embedding.forward = functools.partial(_embed_patches, embedding)  # bound methods could not be pickled
        self.unwrapped.lm_head.forward = functools.partial(_head, self.unwrapped.lm_head)

    @property
    def merge(self) -> int:
        """Patches per merged token, along one side."""
        return int(self.image_processor.merge_size)

    @property
    def token_px(self) -> int:
        """Side of one merged visual token, in pixels (28 for Qwen2.5-VL, 32 for Qwen3-VL)."""
        return int(self.image_processor.patch_size) * self.merge

    @property
    def has_idle_processors(self) -> bool:
        """Whether processors are left over from the arithmetic, on which crops can be cut meanwhile."""
        return self.model.device.type != "cpu" or torch.get_num_threads() < (os.cpu_count() or 1)

    def ids_of(self, tokens: Sequence[str]) -> list[int]:
        """Ids of special tokens; those that this vocabulary lacks are left out."""
        found = ((token, self.tokenizer.convert_tokens_to_ids(token)) for token in tokens)
        return [i for token, i in found if i is not None and self.tokenizer.convert_ids_to_tokens(i) == token]

    @property
    def image_pad_id(self) -> int:
        return int(self.model.config.image_token_id)

    @property
    def pad_id(self) -> int:
        return int(self.tokenizer.pad_token_id)

    @property
    def banned_ids(self) -> list[int]:
        """Tokens that are never sampled, and carry no probability in the trainer either."""
        return self.ids_of(VISION_TOKENS)

    @property
    def stop_ids(self) -> list[int]:
        return self.ids_of(STOP_TOKENS)

    @property
    def backbone(self) -> Any:
        """The model without its head: the vision tower (`visual`) and the text layers (`language_model`)."""
        return self.unwrapped.model

    def head(self, hidden: Float[Tensor, "*place width"]) -> Float[Tensor, "*place word"]:
        """Logits of hidden states; called only where a token is sampled."""
        return self.unwrapped.lm_head(hidden)

    def token_logprobs(
        self, hidden: Float[Tensor, "token width"], target: Int[Tensor, " token"], temperature: float
    ) -> tuple[Float[Tensor, " token"], Float[Tensor, " token"]]:
        """Log-probability of each target token, and the entropy of the distribution that it is from, both in nats.

        The entropy has no gradient. Banned tokens have no probability. `temperature` 0, which has no distribution, counts as 1. At most
        `LOGITS_BYTES` of logits exist at a time; where there are more, the backward computes them again, chunk by chunk.
        """
        banned = torch.tensor(self.banned_ids, device=hidden.device)
        return self.unwrapped.lm_head(hidden, target.to(hidden.device), banned, temperature or 1.0)

    @property
    def adapted(self) -> str:
        """How many layers of text and tower have adapters, and how many weights learn, in one sentence."""
        layers = [name for name, module in self.unwrapped.named_modules() if isinstance(module, LoraLayer)]
        tower = sum(".visual." in name for name in layers)
        learn = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        return f"adapters: on {len(layers) - tower} layers of the text model and {tower} of the vision tower, {learn:,} weights"

    @property
    def unwrapped(self) -> PreTrainedModel:
        model = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        assert isinstance(model, PreTrainedModel)
        return model

    @contextmanager
    def image_cache(self) -> Iterator[None]:
        """Within the block every image is cut into patches once, and seen once where the vision tower does not learn from it.

        Images are told apart by identity: siblings share one view object. Blocks may be nested; the outermost forgets, and gives
        memory that is free by then back to the system, at most every 10 seconds.
        """
        outer = self._memory
        self._memory = outer or _ImageCache()
        try:
            yield
        finally:
            self._memory = outer
            if outer is None and time.monotonic() >= self._given_back + GIVE_BACK_EVERY_S:
                _give_back_free_memory()
                self._given_back = time.monotonic()

    def pack(self, images: Sequence[Image.Image]) -> Pixels:
        """Patches of images whose sides are already multiples of `token_px`; they are not resized again."""
        packed = [self._patches(image) for image in images]
        return Pixels(torch.cat([p.values for p in packed]), torch.cat([p.grids for p in packed]))

    def prepare(self, image: Image.Image) -> None:
        """Cut an image into patches ahead of time; worker threads may."""
        self._patches(image)

    def _patches(self, image: Image.Image) -> Pixels:
        memory = self._memory
        if memory and (kept := memory.patches.get(id(image))):
            return kept
        assert image.width % self.token_px == 0 and image.height % self.token_px == 0, image.size
        packed = self.image_processor([image], do_resize=False, return_tensors="pt")
        pixels = Pixels(packed["pixel_values"], packed["image_grid_thw"])
        if memory and memory.room >= pixels.values.nbytes:
            memory.room -= pixels.values.nbytes
            memory.images[id(image)], memory.patches[id(image)] = image, pixels
        return pixels

    def encode_images(self, images: Sequence[Image.Image]) -> list[Features]:
        """Features of each image; one that stands there several times passes through the tower once."""
        tower = self.backbone.visual
        learns = torch.is_grad_enabled() and any(p.requires_grad for p in tower.parameters())
        known: dict[int, Features] = {} if learns or self._memory is None else self._memory.features
        new = [image for key, image in {id(image): image for image in images}.items() if key not in known]
        if new:
            pixels = self.pack(new)
            values = pixels.values.to(self.model.device, next(tower.parameters()).dtype)
            with torch.set_grad_enabled(learns):
                out = tower(values, grid_thw=pixels.grids.to(self.model.device), return_dict=True)
            counts = (pixels.grids.prod(1) // self.merge**2).tolist()
            deep = [each.split(counts) for each in getattr(out, "deepstack_features", ())]
            for i, (image, tokens) in enumerate(zip(new, out.pooler_output.split(counts), strict=True)):
                known[id(image)] = Features(tokens, tuple(each[i] for each in deep))
                if self._memory:
                    self._memory.images[id(image)] = image
        return [known[id(image)] for image in images]

    def hidden(
        self, ids: Int[Tensor, " token"], checkpoint_path: Int[Tensor, "3 token"], seen: Sequence[Features], layout: Layout
    ) -> Float[Tensor, "token width"]:
        """Hidden states of tokens packed side by side, the features of `seen` standing where `ids` holds image placeholders, in order.

        Raises ValueError where features and placeholders do not agree in number.
        """
        device = self.model.device
        visual = (ids == self.image_pad_id).to(device)
        features = sum(len(each.tokens) for each in seen)
        if int(visual.sum()) != features:
            raise ValueError(f"{int(visual.sum())} image placeholders stand for {features} visual tokens; they must agree")
        text = self.backbone.language_model
        embedded = text.get_input_embeddings()(ids.to(device))
        deep = {}
        if seen:
            tokens = torch.cat([each.tokens for each in seen]).to(embedded.dtype)
            embedded = embedded.masked_scatter(visual[:, None], tokens)
            if seen[0].deep:
                levels = [torch.cat(level) for level in zip(*(each.deep for each in seen), strict=True)]
                deep = {"visual_pos_masks": visual[None], "deepstack_visual_embeds": levels}
        out = text(
            inputs_embeds=embedded[None],
            position_ids=checkpoint_path[:, None].to(device),
            attention_mask=NO_MASK,
            use_cache=False,
            layout=layout,
            **deep,
        )
        return out.last_hidden_state[0]

    def recompute_activations(self) -> None:
        """Keep no activations within a layer; the backward computes them again. Less memory, about a third more arithmetic."""
        self.unwrapped.gradient_checkpointing_enable({"use_reentrant": False})
        for layer in self.unwrapped.modules():
            if isinstance(layer, GradientCheckpointingLayer):
                layer.training = True  # transformers asks this flag of the layer itself; whatever is inside stays in eval mode

    @torch.no_grad()
    def plain_state(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight under its name in a plain transformers model: whole, adapters merged into it. All ranks go through it together."""
        adapted: dict[str, Any] = {name: module for name, module in self.unwrapped.named_modules() if isinstance(module, LoraLayer)}
        for name, value in self.unwrapped.state_dict().items():
            if ".lora_" in name:
                continue
            value = full_tensor(value)
            if (layer := adapted.get(name.removesuffix(".base_layer.weight"))) is not None:
                for key in layer.active_adapters:
                    value = value + layer.scaling[key] * (full_tensor(layer.lora_B[key].weight) @ full_tensor(layer.lora_A[key].weight))
            yield name.replace(".base_layer.", "."), value

    def weights_hash(self) -> str:
        """Names these weights: equal policies have equal hashes, whatever folder they came from. Fresh adapters change nothing."""
        digest = hashlib.blake2b(digest_size=8)
        for name, value in sorted(self.plain_state(), key=lambda item: item[0]):
            digest.update(name.encode() + value.float().cpu().numpy().tobytes())
        return digest.hexdigest()

    def save(self, folder: Path, dtype: str = "bfloat16") -> None:
        """Write the Hugging Face layout that transformers (from 4.57 on) and vLLM load. The folder appears whole or not at all.

        Adapters are merged, in float32; they also lie in `adapter/`, unmerged, as PEFT loads them onto the base.
        All ranks call it together; the first one writes, and all go on when it has.
        """
        state = {name: value.to("cpu", DTYPES[dtype]) for name, value in self.plain_state() if is_first_rank()}
        adapters = {}
        if isinstance(self.model, PeftModel):
            adapters = {name: full_tensor(value).cpu() for name, value in self.model.state_dict().items() if ".lora_" in name}
        if is_first_rank():
            with atomic_write(folder) as partial:
                self._write(partial, state, adapters, dtype)
        all_gather(None)

    def _write(self, partial: Path, state: dict[str, Tensor], adapters: dict[str, Tensor], dtype: str) -> None:
        self.unwrapped.save_pretrained(partial, state_dict=state)
        config = json.loads((partial / "config.json").read_text())
        for part in (config, *(config[key] for key in ("text_config", "vision_config"))):
            part["dtype"] = dtype
        rope = dict(config["text_config"]["rope_parameters"])  # transformers 4 and what is built on it read these two instead
        config["text_config"] |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}
        _write_json(partial / "config.json", config)
        self.tokenizer.save_pretrained(partial)
        words = json.loads((partial / "tokenizer_config.json").read_text())
        if words["tokenizer_class"] == "TokenizersBackend":  # the same class by the name that transformers 4 knows too
            _write_json(partial / "tokenizer_config.json", words | {"tokenizer_class": "PreTrainedTokenizerFast"})
        self.image_processor.save_pretrained(partial)
        processor = partial / "preprocessor_config.json"
        _write_json(processor, json.loads(processor.read_text()) | {"processor_class": FAMILIES[self.unwrapped.config.model_type]})
        if self.video_processor is not None:
            _write_json(partial / VIDEO_PROCESSOR, self.video_processor)
        if adapters:
            assert isinstance(self.model, PeftModel)
            self.model.save_pretrained(str(partial / "adapter"), state_dict=adapters, save_embedding_layers=False)
            (partial / "adapter/README.md").unlink(missing_ok=True)  # PEFT's form of a card, not filled in; the policy has one
        for weights in partial.rglob("*.safetensors"):  # which the library lets nobody but their owner read
            weights.chmod((partial / "config.json").stat().st_mode)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def _give_back_free_memory() -> None:
    """Return free pages of the C library's heap to the system, where the library is glibc.

    Tensors of ever new sizes leave holes between the few things that stay, and glibc keeps the holes: without this the embedded
    policy's training grows by more than 1 MB an update (experiments/faults).
    """
    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
