"""A policy as a folder in the Hugging Face layout: loading, packing images, positions, saving.

The embedded tiny policy and Qwen2.5-VL-7B go through the same functions. Nothing here needs torchvision.
"""

import ctypes
import functools
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint as computed_again
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.utils import cached_file, is_flash_attn_2_available
from transformers.utils import logging as transformers_logging

from focus.attention import NO_MASK, Layout, share_prompts
from focus.boxes import Frame
from focus.prompts import DIALECTS, STOP_TOKENS, VISION_TOKENS, Dialect
from focus.ranks import collect, is_first, whole

transformers_logging.disable_progress_bar()  # loading and saving a policy is one line of ours, not three bars

VIDEO_PROCESSOR = "video_preprocessor_config.json"
EMBEDDED = Path(__file__).parent / "tiny"
FAMILIES = {"qwen2_5_vl": "Qwen2_5_VLProcessor", "qwen3_vl": "Qwen3VLProcessor"}
SPEAKS = {"qwen2_5_vl": Frame.VIEW_PIXELS, "qwen3_vl": Frame.PER_MILLE}  # how each family was taught to name a place
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
class _Memory:
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
    """Logits; with `target`, what `Checkpoint.weigh` returns.

    The chunks are made in here, in one call of the module. Where weights are divided among ranks each call gathers them, and ranks that
    sampled unequal numbers of tokens would wait for each other for ever if each chunk were a call.
    """
    if target is None or banned is None:
        return functional.linear(hidden, self.weight, self.bias)

    def weighed(hidden: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        logits = functional.linear(hidden, self.weight, self.bias).float().index_fill(1, banned, float("-inf"))
        logprobs = torch.log_softmax(logits / temperature, dim=-1)
        with torch.no_grad():
            entropy = torch.special.entr(logprobs.exp()).sum(-1)
        return logprobs.gather(1, target[:, None])[:, 0], entropy

    rows = max(1, LOGITS_BYTES // (4 * self.weight.shape[0]))
    if len(hidden) <= rows:
        return weighed(hidden, target)
    parts = zip(hidden.split(rows), target.split(rows), strict=True)
    chunks = [computed_again(weighed, *part, use_reentrant=False, preserve_rng_state=False) for part in parts]
    return tuple(torch.cat(each) for each in zip(*chunks, strict=True))


@dataclass
class Checkpoint:
    """A loaded policy: the model, its tokenizer, how it takes images and how it is spoken to."""

    model: PreTrainedModel | PeftModel
    tokenizer: Any  # transformers' own types of these two are wider than what we ask of them
    image_processor: Any
    dialect: Dialect
    video_processor: dict[str, Any] | None = None  # of the folder that it was loaded from; nothing here reads it, an export carries it on
    _memory: _Memory | None = field(default=None, init=False, repr=False)
    _given_back: float = field(default=-math.inf, init=False, repr=False)  # on the monotonic clock

    def __post_init__(self) -> None:
        share_prompts(self.bare)
        embedding = self.core.visual.patch_embed.proj
        embedding.forward = functools.partial(_embed_patches, embedding)  # bound methods could not be pickled
        self.bare.lm_head.forward = functools.partial(_head, self.bare.lm_head)

    @property
    def merge(self) -> int:
        """Patches per merged token, along one side."""
        return int(self.image_processor.merge_size)

    @property
    def token_px(self) -> int:
        """Side of one merged visual token, in pixels (28 for Qwen2.5-VL, 32 for Qwen3-VL)."""
        return int(self.image_processor.patch_size) * self.merge

    @property
    def leaves_processors(self) -> bool:
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
    def core(self) -> Any:
        """The model without its head: the vision tower (`visual`) and the text layers (`language_model`)."""
        return self.bare.model

    def head(self, hidden: Float[Tensor, "*place width"]) -> Float[Tensor, "*place word"]:
        """Logits of hidden states; called only where a token is sampled."""
        return self.bare.lm_head(hidden)

    def weigh(
        self, hidden: Float[Tensor, "token width"], target: Int[Tensor, " token"], temperature: float
    ) -> tuple[Float[Tensor, " token"], Float[Tensor, " token"]]:
        """Log-probability of each target token, and the entropy of the distribution that it is from, both in nats.

        The entropy has no gradient. Banned tokens have no probability. `temperature` 0, which has no distribution, counts as 1. At most
        `LOGITS_BYTES` of logits exist at a time; where there are more, the backward computes them again, chunk by chunk.
        """
        banned = torch.tensor(self.banned_ids, device=hidden.device)
        return self.bare.lm_head(hidden, target.to(hidden.device), banned, temperature or 1.0)

    @property
    def adapted(self) -> str:
        """How many layers of text and tower have adapters, and how many weights learn, in one sentence."""
        layers = [name for name, module in self.bare.named_modules() if isinstance(module, LoraLayer)]
        tower = sum(".visual." in name for name in layers)
        learn = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        return f"adapters: on {len(layers) - tower} layers of the text model and {tower} of the vision tower, {learn:,} weights"

    @property
    def bare(self) -> PreTrainedModel:
        model = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        assert isinstance(model, PreTrainedModel)
        return model

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """Within the block every image is cut into patches once, and seen once where the vision tower does not learn from it.

        Images are told apart by identity: siblings share one view object. Blocks may be nested; the outermost forgets, and gives
        memory that is free by then back to the system, at most every 10 seconds.
        """
        outer = self._memory
        self._memory = outer or _Memory()
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

    def see(self, images: Sequence[Image.Image]) -> list[Features]:
        """Features of each image; one that stands there several times passes through the tower once."""
        tower = self.core.visual
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
        self, ids: Int[Tensor, " token"], place: Int[Tensor, "3 token"], seen: Sequence[Features], layout: Layout
    ) -> Float[Tensor, "token width"]:
        """Hidden states of tokens packed side by side, the features of `seen` standing where `ids` holds image placeholders, in order.

        Raises ValueError where features and placeholders do not agree in number.
        """
        device = self.model.device
        visual = (ids == self.image_pad_id).to(device)
        features = sum(len(each.tokens) for each in seen)
        if int(visual.sum()) != features:
            raise ValueError(f"{int(visual.sum())} image placeholders stand for {features} visual tokens; they must agree")
        text = self.core.language_model
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
            position_ids=place[:, None].to(device),
            attention_mask=NO_MASK,
            use_cache=False,
            layout=layout,
            **deep,
        )
        return out.last_hidden_state[0]

    def recompute_activations(self) -> None:
        """Keep no activations within a layer; the backward computes them again. Less memory, about a third more arithmetic."""
        self.bare.gradient_checkpointing_enable({"use_reentrant": False})
        for layer in self.bare.modules():
            if isinstance(layer, GradientCheckpointingLayer):
                layer.training = True  # transformers asks this flag of the layer itself; whatever is inside stays in eval mode

    @torch.no_grad()
    def plain_state(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight under its name in a plain transformers model: whole, adapters merged into it. All ranks go through it together."""
        adapted: dict[str, Any] = {name: module for name, module in self.bare.named_modules() if isinstance(module, LoraLayer)}
        for name, value in self.bare.state_dict().items():
            if ".lora_" in name:
                continue
            value = whole(value)
            if (layer := adapted.get(name.removesuffix(".base_layer.weight"))) is not None:
                for key in layer.active_adapters:
                    value = value + layer.scaling[key] * (whole(layer.lora_B[key].weight) @ whole(layer.lora_A[key].weight))
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
        state = {name: value.to("cpu", DTYPES[dtype]) for name, value in self.plain_state() if is_first()}
        adapters = {}
        if isinstance(self.model, PeftModel):
            adapters = {name: whole(value).cpu() for name, value in self.model.state_dict().items() if ".lora_" in name}
        if is_first():
            self._write(folder, state, adapters, dtype)
        collect(None)

    def _write(self, folder: Path, state: dict[str, Tensor], adapters: dict[str, Tensor], dtype: str) -> None:
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        self.bare.save_pretrained(partial, state_dict=state)
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
        _write_json(processor, json.loads(processor.read_text()) | {"processor_class": FAMILIES[self.bare.config.model_type]})
        if self.video_processor is not None:
            _write_json(partial / VIDEO_PROCESSOR, self.video_processor)
        if adapters:
            assert isinstance(self.model, PeftModel)
            self.model.save_pretrained(str(partial / "adapter"), state_dict=adapters, save_embedding_layers=False)
            (partial / "adapter/README.md").unlink(missing_ok=True)  # PEFT's form of a card, not filled in; the policy has one
        for weights in partial.rglob("*.safetensors"):  # which the library lets nobody but their owner read
            weights.chmod((partial / "config.json").stat().st_mode)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


class KeepsWhatLearns(pl.LightningModule):
    """A module whose checkpoints hold the weights that learn and no more.

    What is frozen lies in the base policy: a run compares its hash before it goes on (started_from.txt).
    """

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The weights that learn, by name."""
        state = super().state_dict(*args, **kwargs)
        for name in self._frozen():
            state.pop(kwargs.get("prefix", "") + name, None)
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Raises RuntimeError where a weight that learns is missing, or one is not known here. Frozen ones may be left out."""
        found = super().load_state_dict(state_dict, strict=False, assign=assign)
        missing = sorted(set(found.missing_keys) - self._frozen())
        if strict and (missing or found.unexpected_keys):
            raise RuntimeError(
                f"the checkpoint lacks {len(missing)} weights that learn (first: {missing[:1]}) and holds {len(found.unexpected_keys)} "
                f"that this policy does not have (first: {found.unexpected_keys[:1]})"
            )
        return found

    def _frozen(self) -> set[str]:
        return {name for name, p in self.named_parameters(remove_duplicate=False) if not p.requires_grad}


def _give_back_free_memory() -> None:
    """Return free pages of the C library's heap to the system, where the library is glibc.

    Tensors of ever new sizes leave holes between the few things that stay, and glibc keeps the holes: without this the embedded
    policy's training grows by more than 1 MB an update (experiments/faults).
    """
    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def place(name: str) -> str | Path:
    """Where a policy lies that settings name: `embedded` is the one in the package."""
    return EMBEDDED if name == "embedded" else name


def load(folder: str | Path, dialect: str, dtype: str = "float32", attention: str = "auto") -> Checkpoint:
    """A policy from a folder or a hub name.

    `attention` is `auto` or a transformers name (`attention_of`). `dtype` is explicit since transformers otherwise keeps the one of the
    file. Raises ValueError, before weights are read, for what cannot be trained.
    """
    place = str(folder)
    if Path(place).is_absolute() or place.startswith(".") or Path(place).exists():
        _check_files(Path(place))
    try:
        config = AutoConfig.from_pretrained(place)
        if config.model_type not in FAMILIES:
            raise ValueError(f"{place} is a {config.model_type!r} model; this version trains {', '.join(FAMILIES)}")
        tokenizer = AutoTokenizer.from_pretrained(place)
        image_processor = Qwen2VLImageProcessorPil.from_pretrained(place)  # of both families; the Auto class may ask for torchvision
        video = cached_file(
            place, VIDEO_PROCESSOR, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
        )
    except OSError as error:
        raise ValueError(
            f"policy.checkpoint is {place}, which is no folder here, and can't be fetched as a model of the hub either. Where there is no "
            f"network, download it elsewhere and give its folder: policy.checkpoint=/path/to/folder. The hub's client says: {error}"
        ) from error
    if DIALECTS[dialect].frame is not SPEAKS[config.model_type]:
        fitting = [d.name for d in DIALECTS.values() if d.frame is SPEAKS[config.model_type]]
        raise ValueError(
            f"{place} is a {config.model_type} model, which names places in {SPEAKS[config.model_type]}, but policy.dialect={dialect} "
            f"reads {DIALECTS[dialect].frame}: every box would be wrong. Use policy.dialect={' or '.join(fitting)}"
        )
    _check_parts(place, config, tokenizer, image_processor)
    try:
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            place, dtype=DTYPES[dtype], attn_implementation=attention_of(attention, dtype), output_loading_info=True
        )
    except (RuntimeError, SafetensorError) as error:  # of another shape, or a file that was cut
        raise ValueError(f"the weights in {place} can't be read as those of its config.json ({error}); copy the folder again") from error
    model, loading = loaded
    if torch.cuda.is_available():  # measured before and after Lightning has it
        model.to(torch.device("cuda", int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", 0)))))
    if lacking := sorted(loading["missing_keys"]):
        raise ValueError(
            f"{place} lacks {len(lacking)} weights that its config.json names (first: {lacking[0]}); they would be random. "
            "Copy the folder again, or take the config.json that belongs to these weights"
        )
    return Checkpoint(model, tokenizer, image_processor, DIALECTS[dialect], json.loads(Path(video).read_text()) if video else None)


def lora(model: Any, rank: int, alpha: int, targets: Sequence[str] | None, train_vision: bool) -> LoraConfig:
    """Which linear layers of a model get adapters: those that `targets` names, in the text layers and, with `train_vision`, in the tower.

    None names all of them. The head gets none, nor does the embedding of patches, which is a convolution. Raises ValueError for a target
    that is no such layer, and where `train_vision` would adapt nothing in the tower.
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and name != "lm_head"]
    found = {place: {_last(name) for name in linear if (".visual." in name) is (place == "tower")} for place in ("text", "tower")}
    learning = found["text"] | (found["tower"] if train_vision else set())
    chosen = learning if targets is None else set(targets)
    if lost := sorted(chosen - learning):
        raise ValueError(
            f"policy.lora_targets names {', '.join(lost)}, no linear layer that learns here; there are {', '.join(sorted(learning))}"
        )
    if train_vision and not chosen & found["tower"]:
        raise ValueError(
            "policy.train_vision is true, but policy.lora_targets names no layer of the vision tower "
            f"({', '.join(sorted(found['tower']))}), so nothing of it would learn; add some, or set policy.train_vision=false"
        )
    closed = r".*\.patch_embed\..*" if train_vision else r".*\bvisual\..*"
    return LoraConfig(r=rank, lora_alpha=alpha, target_modules=sorted(chosen), exclude_modules=closed)


def _last(name: str) -> str:
    """The last word of a module's name, with the one before where it is a number: the same layer has it in every block."""
    parts = name.split(".")
    return ".".join(parts[-2:]) if parts[-1].isdigit() else parts[-1]


def attention_of(attention: str, dtype: str) -> str | dict[str, str]:
    """What transformers is asked for: `auto` is flash-attention where it can run, else SDPA.

    Its kernels take no float32. The text layers ask it in an update alone, which computes in the trainer's arithmetic; a vision tower of
    float32 weights is also asked without a trainer, so it keeps to SDPA.
    """
    if attention != "auto":
        return attention
    if not (torch.cuda.is_available() and is_flash_attn_2_available()):
        return "sdpa"
    return {"text_config": "flash_attention_2", "vision_config": "flash_attention_2" if dtype == "bfloat16" else "sdpa"}


NEEDED = {  # of a folder in the Hugging Face layout: one of each of these
    "config.json": ("config.json",),
    "an image processor": ("preprocessor_config.json", "processor_config.json"),
    "a tokenizer": ("tokenizer.json", "vocab.json"),
    "weights": ("model.safetensors", "model.safetensors.index.json"),
}


def _check_files(folder: Path) -> None:
    """Raises ValueError, with all that is missing in one message, for a folder that is not whole."""
    if not folder.is_dir():
        raise ValueError(f"policy.checkpoint is {folder}, which is not a folder; give one in the Hugging Face layout, or a hub name")
    if (folder / "adapter_config.json").is_file():
        beside = " beside weights" if any((folder / file).is_file() for file in NEEDED["weights"]) else ""
        raise ValueError(
            f"policy.checkpoint is {folder}, which holds an adapter{beside} (adapter_config.json). Merge it into its base (peft: "
            "merge_and_unload, then save_pretrained), and name the folder of the result. policy.lora_rank adds new adapters to train"
        )
    missing = [f"{part} ({' or '.join(files)})" for part, files in NEEDED.items() if not any((folder / file).is_file() for file in files)]
    index = folder / "model.safetensors.index.json"
    if index.is_file() and not (folder / "model.safetensors").is_file():
        shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        missing += [f"{file}, which {index.name} names" for file in shards if not (folder / file).is_file()]
    if missing:
        raise ValueError(
            f"policy.checkpoint is {folder}, which lacks {', '.join(missing)}; copy the whole folder again "
            "(every run exports a whole one under its output folder as policy/)"
        )


def _check_parts(place: str, config: Any, tokenizer: Any, image_processor: Any) -> None:
    """Raises ValueError where tokenizer, image processor and config.json do not belong together."""
    if (quantised := getattr(config, "quantization_config", None)) is not None:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else getattr(quantised, "quant_method", None)
        raise ValueError(
            f"the weights in {place} are quantised ({method}, says quantization_config of its config.json), which can't be trained or "
            "exported here; name the folder or hub name of the model that they were made of"
        )
    if tokenizer.pad_token_id is None:
        raise ValueError(
            f"the tokenizer in {place} has no padding token; give it one of its own tokens that ends no turn (Qwen's: <|endoftext|>) as "
            "pad_token in its tokenizer_config.json"
        )
    problems = []
    for token, key in (("<|image_pad|>", "image_token_id"), ("<|vision_start|>", "vision_start_token_id"), ("<|im_end|>", None)):
        found = tokenizer.convert_tokens_to_ids(token)
        if found is None or tokenizer.convert_ids_to_tokens(found) != token:
            problems.append(f"its tokenizer does not know {token}")
        elif key and getattr(config, key) != found:
            problems.append(f"its tokenizer has {token} at {found}, config.json has {key} {getattr(config, key)}")
    words = config.get_text_config().vocab_size
    if len(tokenizer) > words:
        problems.append(f"its tokenizer has {len(tokenizer)} tokens, config.json vocab_size {words}")
    vision = config.vision_config
    for key, other in (("patch_size", "patch_size"), ("merge_size", "spatial_merge_size"), ("temporal_patch_size", "temporal_patch_size")):
        has, wants = getattr(image_processor, key, None), getattr(vision, other)
        if has != wants:
            problems.append(f"its image processor has {key} {has}, config.json {other} {wants}")
    if problems:
        raise ValueError(f"the parts of {place} do not belong together: {'; '.join(problems)}. Copy the folder again, from one model")


def positions(ids: Sequence[int], grids: Sequence[tuple[int, int, int]], image_pad_id: int, merge: int) -> np.ndarray:
    """M-RoPE positions of a whole sequence, int64 [3, token]: temporal, row, column.

    Text counts up on all three; an image at p takes p, p + row, p + column, and the text after it goes on at
    p + max(rows, columns). The same for Qwen2.5-VL and Qwen3-VL (tested against transformers' `get_rope_index`).
    Raises ValueError where placeholders and grids do not agree.
    """
    pads = np.asarray(ids) == image_pad_id
    expected = sum(t * h * w for t, h, w in grids) // merge**2
    if int(pads.sum()) != expected:
        raise ValueError(f"{int(pads.sum())} image placeholders stand for {expected} visual tokens; they must agree")
    out = np.empty((3, len(pads)), dtype=np.int64)
    at = place = 0
    for _, patch_rows, patch_columns in grids:
        rows, columns = patch_rows // merge, patch_columns // merge
        start = at + int(np.argmax(pads[at:]))
        text = start - at
        out[:, at:start] = np.arange(place, place + text)
        place += text
        grid = out[:, start : start + rows * columns]
        grid[0] = place
        grid[1] = place + np.repeat(np.arange(rows), columns)
        grid[2] = place + np.tile(np.arange(columns), rows)
        place += max(rows, columns)
        at = start + rows * columns
    out[:, at:] = np.arange(place, place + len(pads) - at)
    return out
