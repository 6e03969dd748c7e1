"""What a training run will take, before a model is loaded: tokens, memory, arithmetic, network and time. `make plan EXPERIMENT=stage1`.

Nothing is read but settings and an architecture; parameters are counted exactly, on PyTorch's meta device, without weights. Memory is
planned for the longest rollouts that the settings allow, work and time for mean ones (`lengths`). A run that does not fit ends with
exit status 1 and the settings to change, each recomputed.

Times are lower bounds: they leave out judges, tools, image decoding, kernel launches, ranks and rows that wait for the longest, the
allocator's fragmentation, probes, evaluation and checkpoints.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import DictConfig, OmegaConf
from peft import get_peft_model
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer, PretrainedConfig, Qwen2_5_VLConfig, Qwen3VLConfig

from focus import config
from focus.checkpoint import FAMILIES, KEPT_BYTES, LOGITS_BYTES, lora, place
from focus.gap import read_levels
from focus.prompts import CROP_CONTENT, DIALECTS, encode, observation_text, question_text

GIB = 2**30
# Share of the peak that prefill, vision tower and update reach: Qwen2.5-VL-7B and Qwen3-VL-8B, FSDP2, packed, on A800 reach 0.30 to 0.40
# (https://lmms-engine.readthedocs.io/en/stable/reference/mfu.html, "Image Models")
COMPUTE_SHARE = 0.35
# Share of the memory bandwidth that decoding reaches. [unverified]: 0.55 to 0.60 is what serving engines are said to reach on A100 and
# H100; no source could be opened, and a plain PyTorch loop will be slower
BANDWIDTH_SHARE = 0.55
# Part of a device's memory that a plan may use; the rest is for the CUDA context and fragmentation. [open]
USABLE = 0.9
# Characters of a token, where no tokenizer is at hand: 3.8 to 4.1 for our prompts and DeepEyes' with Qwen's own
CHARACTERS_PER_TOKEN = 3.9
QUESTION = "What is the colour of the bag that the woman on the left side of the street is carrying?"  # 20 tokens of Qwen's


@dataclass(frozen=True)
class Device:
    """Dense peaks in FLOP/s, memory in bytes, bandwidths in bytes/s: `link` to devices of the node, `network` to other nodes, one way."""

    bfloat16: float
    float32: float
    bandwidth: float
    memory: float
    link: float
    network: float


# Between nodes: InfiniBand HDR for each A100 and NDR for each H100 (NVIDIA DGX A100 and H100 datasheets); 10 Gb/s Ethernet elsewhere [open]
DEVICES = {
    # NVIDIA A100 80GB SXM datasheet (nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf); NVLink 600 GB/s both ways
    "a100_80gb": Device(312e12, 19.5e12, 2039e9, 80e9, 300e9, 25e9),
    # NVIDIA H100 SXM datasheet: 1,979 TFLOPS with sparsity, half without; 67 TFLOPS float32; NVLink 900 GB/s both ways
    "h100_80gb": Device(989.5e12, 67e12, 3350e9, 80e9, 450e9, 50e9),
    # NVIDIA H200 SXM datasheet: the arithmetic of an H100 with 141 GB at 4.8 TB/s
    "h200": Device(989.5e12, 67e12, 4800e9, 141e9, 450e9, 50e9),
    # NVIDIA Ada GPU architecture whitepaper, table of the RTX 4090: bfloat16 with float32 sums; PCIe 4.0 x16, 32 GB/s each way
    "rtx_4090": Device(165.2e12, 82.6e12, 1008e9, 24e9, 32e9, 1.25e9),
    # Two cores of 2.5 GHz with two 512-bit multiply-adds each, two channels of DDR4-3200: a nominal machine, not this one
    "cpu": Device(320e9, 320e9, 51.2e9, 24e9, 10e9, 1.25e9),
}


def _qwen2_5(width: int, inner: int, layers: int, heads: int, shared: int, words: int, tied: bool) -> Qwen2_5_VLConfig:
    text = {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
            "num_key_value_heads": shared, "vocab_size": words, "tie_word_embeddings": tied}  # fmt: skip
    vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": width, "patch_size": 14,
              "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31]}  # fmt: skip
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=tied)


def _qwen3(width: int, inner: int, tied: bool, vision: Mapping[str, Any]) -> Qwen3VLConfig:
    text = {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": 36, "num_attention_heads": 32, "head_dim": 128,
            "num_key_value_heads": 8, "vocab_size": 151936, "tie_word_embeddings": tied}  # fmt: skip
    return Qwen3VLConfig(text_config=text, vision_config={**vision, "out_hidden_size": width}, tie_word_embeddings=tied)


def published(name: str) -> PretrainedConfig | None:
    """The architecture of a hub model, from the config.json of its public repository; None for another name."""
    small = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16, "patch_size": 16,
             "num_position_embeddings": 2304, "deepstack_visual_indexes": [5, 11, 17]}  # fmt: skip
    large = small | {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "deepstack_visual_indexes": [8, 16, 24]}
    known = {
        "Qwen/Qwen2.5-VL-3B-Instruct": lambda: _qwen2_5(2048, 11008, 36, 16, 2, 151936, True),
        "Qwen/Qwen2.5-VL-7B-Instruct": lambda: _qwen2_5(3584, 18944, 28, 28, 4, 152064, False),
        "Qwen/Qwen3-VL-4B-Instruct": lambda: _qwen3(2560, 9728, True, small),
        "Qwen/Qwen3-VL-8B-Instruct": lambda: _qwen3(4096, 12288, False, large),
    }
    return known[name]() if name in known else None


def architecture(checkpoint: str) -> PretrainedConfig:
    """From the folder's config.json or the hub's cache, else from published facts. Raises ValueError where neither knows it."""
    folder = place(checkpoint)
    if not (Path(folder) / "config.json").is_file() and (known := published(checkpoint)):
        return known
    try:
        found = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"policy.checkpoint is {checkpoint}, whose architecture is not known: it is no folder with a config.json, not in the hub's "
            "cache, and none of the published ones. Give a folder: policy.checkpoint=FOLDER (its config.json is enough)"
        ) from error
    if found.model_type not in FAMILIES:
        raise ValueError(f"{checkpoint} is a {found.model_type!r} model; this version trains {', '.join(FAMILIES)}")
    return found


@dataclass(frozen=True)
class Parameters:
    """How many there are, counted: in all, in the vision tower, in the input embedding, in one text layer, and in LoRA adapters."""

    total: int
    trainable: int
    visual: int
    visual_trainable: int
    embedding: int
    layer: int
    adapters: int


@cache
def _parameters(checkpoint: str, train_vision: bool, rank: int, targets: tuple[str, ...] | None) -> Parameters:
    with torch.device("meta"):
        model: Any = AutoModelForImageTextToText.from_config(architecture(checkpoint))
        if not train_vision:
            model.model.visual.requires_grad_(False)
        core = model.model
        before = sum(p.numel() for p in model.parameters())
        if rank:
            model = get_peft_model(model, lora(model, rank, 1, targets, train_vision))

    def count(module: torch.nn.Module, trainable: bool = False) -> int:
        return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)

    return Parameters(
        count(model), count(model, True), count(core.visual), count(core.visual, True),
        count(core.language_model.get_input_embeddings()), count(core.language_model.layers[0]), count(model) - before,
    )  # fmt: skip


def parameters(policy: DictConfig) -> Parameters:
    """Parameters of the policy as it will be trained: adapters added, frozen parts frozen (what train.load_policy does)."""
    targets = None if policy.lora_targets is None else tuple(policy.lora_targets)
    return _parameters(policy.checkpoint, bool(policy.train_vision), int(policy.lora_rank), targets)


@dataclass(frozen=True)
class Lengths:
    """Tokens of one rollout. `view` of the `prompt` are visual; every turn but the last is followed by `reply` tokens and a crop."""

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

    def before(self, turn: int) -> float:
        """Tokens after the prompt when turn number `turn` (from 1) begins."""
        return (turn - 1) * (self.turn + self.reply + self.crop)


def lengths(cfg: DictConfig) -> tuple[Lengths, Lengths, bool]:
    """The longest rollout that the settings allow, the mean one, and whether texts were measured with the policy's tokenizer."""
    dialect, rollout, expected = DIALECTS[cfg.policy.dialect], cfg.rollout, cfg.lengths
    views = [cfg.gap.view_tokens]
    if cfg.gap.mode == "calibrated" and cfg.gap.table and Path(cfg.gap.table).is_file():
        views = list(read_levels(Path(cfg.gap.table)).values())
    tokenizer: Any = None
    with suppress(OSError, ValueError):
        tokenizer = AutoTokenizer.from_pretrained(place(cfg.policy.checkpoint), local_files_only=True)

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


@dataclass(frozen=True)
class Sharding:
    """How weights are held: `kind` is one, ddp, zero2 or fsdp; `stored` and `arithmetic` are bytes of one number."""

    kind: str
    ranks: int
    per_node: int
    stored: int
    arithmetic: int
    mixed: bool  # autocast: stored float32, matrix products in bfloat16

    def share(self, kinds: Sequence[str]) -> int:
        """Among how many ranks something is divided that these kinds divide."""
        return self.ranks if self.kind in kinds else 1


def sharding(cfg: DictConfig) -> Sharding:
    """From trainer, policy.dtype and devices. Raises ValueError where the number of devices is not known or can't share the questions."""
    per_node, nodes = cfg.devices or cfg.trainer.devices, cfg.trainer.get("num_nodes", 1)
    if not isinstance(per_node, int) or per_node < 1:
        raise ValueError(f"trainer.devices is {per_node}; a plan needs a number: devices=8 (of one node; nodes are trainer.num_nodes)")
    ranks, strategy = per_node * nodes, cfg.trainer.get("strategy", "auto")
    name = strategy if isinstance(strategy, str) else str(strategy.get("_target_", ""))
    if cfg.rollout.questions_per_update % ranks:
        raise ValueError(
            f"rollout.questions_per_update is {cfg.rollout.questions_per_update}, which {ranks} devices can't share evenly; "
            "choose a multiple, or other devices"
        )
    divided = name.endswith(("ModelParallelStrategy", "FullyShardedStrategy")) or name.startswith("fsdp")
    zero = "deepspeed" in name.lower()
    kind = "fsdp" if divided else "zero2" if zero else "ddp" if ranks > 1 else "one"
    stored = 2 if cfg.policy.dtype == "bfloat16" or cfg.trainer.get("precision") == "bf16-true" else 4
    mixed = cfg.trainer.get("precision") == "bf16-mixed" and stored == 4
    computed = "bfloat16" if mixed else cfg.policy.dtype
    if divided and not isinstance(strategy, str):
        computed, mixed = strategy.get("arithmetic", computed), mixed and "arithmetic" not in strategy
    return Sharding(kind, ranks, per_node, stored, 2 if computed == "bfloat16" else stored, mixed)


@dataclass(frozen=True)
class Cache:
    """Bytes of the rollout's keys and values: prompts, rows of a finished turn, the turn that is being sampled, and one layer's copies."""

    prompts: float
    kept: float
    turn: float
    passing: float

    @property
    def total(self) -> float:
        return self.prompts + self.kept + self.turn + self.passing


class Shape:
    """Sizes of an architecture, and what one forward of it takes."""

    def __init__(self, config: PretrainedConfig, held: Sharding, adapted: bool = False) -> None:
        text, self.vision = config.get_text_config(), config.vision_config
        self.gated = config.model_type == "qwen2_5_vl"  # its vision tower has a gated MLP and windows, Qwen3's text layers norm q and k
        self.width, self.inner, self.layers, self.words = text.hidden_size, text.intermediate_size, text.num_hidden_layers, text.vocab_size
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        self.head, self.queries, self.keys = head, text.num_attention_heads * head, text.num_key_value_heads * head
        self.heads, self.grouped = text.num_attention_heads, text.num_attention_heads != text.num_key_value_heads
        self.tied, self.adapted = bool(config.tie_word_embeddings), adapted  # with adapters, norms and patch embedding are frozen
        self.held = held

    # -- arithmetic, in FLOP; a multiply-add counts two

    def linear(self, tokens: float) -> float:
        """All text layers, without attention's products."""
        return 2 * tokens * self.layers * (2 * self.width * (self.queries + self.keys) + 3 * self.width * self.inner)

    def attention(self, pairs: float) -> float:
        """Scores and values of so many (query, key) pairs, in all text layers."""
        return 4 * pairs * self.layers * self.queries

    def logits(self, tokens: float) -> float:
        """The head."""
        return 2 * tokens * self.width * self.words

    def tower(self, tokens: float) -> float:
        """The vision tower on one image of so many merged tokens."""
        v = self.vision
        merge = v.spatial_merge_size**2
        patches, merged = tokens * merge, v.hidden_size * merge
        block = 4 * v.hidden_size**2 + (3 if self.gated else 2) * v.hidden_size * v.intermediate_size
        if self.gated:
            window = min(patches, (v.window_size // v.patch_size) ** 2)
            pairs = patches * (len(v.fullatt_block_indexes) * patches + (v.depth - len(v.fullatt_block_indexes)) * window)
        else:
            pairs = patches * v.depth * patches
        mergers = 1 + len(getattr(v, "deepstack_visual_indexes", ()))
        embed = 3 * v.temporal_patch_size * v.patch_size**2 * v.hidden_size
        ends = mergers * tokens * (merged**2 + merged * v.out_hidden_size)
        return 2 * (patches * (embed + v.depth * block) + ends) + 4 * pairs * v.hidden_size

    # -- memory, in bytes

    def cache(self, lengths: Lengths, questions: float, rollouts: int, limit: int) -> Cache:
        """What KVEngine holds at most: rows of the turn before, or of this one as they finish, and `limit` free slots in every row."""
        one = self.layers * self.keys
        rows, turns, both = questions * rollouts, math.ceil(lengths.turns), 2 * self.held.arithmetic
        # a mean of 1.3 turns: all rows have a first one, 0.3 of them a second. A finished turn is copied out of its slots
        kept = max(min(1.0, lengths.turns - turn + 1) * (lengths.before(turn) + lengths.turn) for turn in range(1, turns + 1))
        last = lengths.before(turns) + 1 + limit
        passing = rows * (2 * lengths.prompt + lengths.suffix) * self.keys * both
        return Cache(questions * lengths.prompt * one * both, rows * kept * one * both, rows * last * one * both, passing)

    def _residual(self) -> int:
        return 4 if self.held.mixed else self.held.arithmetic

    def layer_activations(self, prompt: float, suffix: float, groups: float, rows: float, weights: bool) -> float:
        """What one text layer keeps for the backward of `rows` suffixes that continue `groups` prompts.

        `weights`: attention has no kernel for grouped queries under a mask, so the weights of all pairs are kept.
        """
        b, mixed = self.held.arithmetic, self.held.mixed
        tokens = groups * prompt + rows * suffix
        # a norm in float32 keeps its input and its normalised input; what follows keeps its own cast of the output
        normed = 4 if b == 4 or mixed else 2
        norm = 4 + (0 if self.adapted else normed)
        casts = 5 * b if mixed else 2 * b
        each = self.width * (2 * norm + casts) + 4 * self.inner * b + 3 * self.queries * b
        if self.gated:
            each += 2 * self.head * self._residual()  # cosines and sines are laid out anew in every layer
        else:
            each += (self.queries + self.keys) * (8 if b == 4 else 6)  # norms of queries and keys
        seen = groups * prompt + rows * (prompt + suffix)  # a suffix has its own copy of its prompt's keys
        scores = 0.0
        if weights and self.grouped:
            scores = self.heads * rows * suffix * (prompt + suffix) * b
            seen *= self.queries / self.keys
        return tokens * each + 2 * seen * self.keys * b + scores

    def kept_inputs(self, tokens: float) -> float:
        """With activation checkpointing the text layers keep their inputs alone."""
        return self.layers * tokens * self.width * self._residual()

    def tower_activations(self, tokens: float, checkpointed: bool) -> float:
        """What a vision tower that learns keeps, for so many merged tokens."""
        v, b = self.vision, self.held.arithmetic
        block = (13 * v.hidden_size + 4 * v.intermediate_size) if self.gated else (10 * v.hidden_size + 2 * v.intermediate_size)
        ends = (0 if self.adapted else 3) * v.temporal_patch_size * v.patch_size**2 + 3 * v.hidden_size * (
            1 + len(getattr(v, "deepstack_visual_indexes", ()))
        )
        return tokens * v.spatial_merge_size**2 * b * (v.depth * (v.hidden_size if checkpointed else block) + ends)


@dataclass(frozen=True)
class Plan:
    """Bytes, FLOP and seconds of one device unless said otherwise; one update."""

    device: str
    sharding: Sharding
    parameters: Parameters
    longest: Lengths
    mean: Lengths
    measured_text: bool
    micro_batches: int
    tokens: dict[str, float]
    memory: dict[str, float]
    phases: dict[str, float]
    host: dict[str, float]
    flops: dict[str, float]
    network: dict[str, float]
    seconds: dict[str, float]

    @property
    def peak(self) -> float:
        return max(self.phases.values())

    @property
    def room(self) -> float:
        """Bytes of a device that may be used."""
        return USABLE * DEVICES[self.device].memory

    @property
    def fits(self) -> bool:
        return self.peak <= self.room


def micro_batch(lengths: Lengths, rollouts: int, budget: int) -> tuple[float, float]:
    """Prompts and suffixes of one full forward of the update: whole groups, or as much of one as the budget holds."""
    whole = lengths.prompt + rollouts * lengths.suffix
    if whole <= budget:
        return budget // whole, budget // whole * rollouts
    return 1, max(1, (budget - lengths.prompt) // lengths.suffix)


def made(cfg: DictConfig, observed: Lengths | None = None) -> Plan:
    """The plan of these settings, or of rollouts that were `observed`.

    Raises ValueError for an unknown device or architecture, or questions that can't be shared.
    """
    if cfg.device not in DEVICES:
        raise ValueError(f"device is {cfg.device!r}; there are {', '.join(DEVICES)}")
    device, held, counts = DEVICES[cfg.device], sharding(cfg), parameters(cfg.policy)
    shape = Shape(architecture(cfg.policy.checkpoint), held, counts.adapters > 0)
    longest, mean, measured = (observed, observed, True) if observed else lengths(cfg)
    rollouts, questions = cfg.rollout.rollouts_per_question, cfg.rollout.questions_per_update // held.ranks
    together = min(questions, cfg.rollout.questions_per_forward or questions)
    checkpointed, learns = bool(cfg.policy.activation_checkpointing), counts.visual_trainable > 0
    # on a GPU without flash-attention; PyTorch's CPU kernel needs none. `auto` is taken to find flash-attention there
    pairs = cfg.device != "cpu" and cfg.policy.attention not in ("auto", "flash_attention_2")

    # Memory, at the longest
    divided = held.share(("fsdp",))
    replicated = counts.visual if held.kind == "fsdp" and not learns else 0
    gathered = counts.total - replicated
    cast = 2 * counts.trainable if held.mixed else 0  # autocast remembers a bfloat16 copy of what learns until the update is over
    groups, rows = micro_batch(longest, rollouts, cfg.objective.tokens_per_forward)
    groups, rows = min(groups, questions), min(rows, questions * rollouts)
    tower = groups * longest.view + rows * (longest.turns - 1) * longest.crop
    learned = groups * longest.prompt + rows * longest.suffix
    layer = shape.layer_activations(longest.prompt, longest.suffix, groups, rows, pairs)
    cache_ = shape.cache(longest, together, rollouts, cfg.rollout.tokens_per_turn)
    learned_bytes = 4 if counts.adapters else held.stored  # peft keeps adapters of a bfloat16 base in float32
    memory = {
        "weights": (gathered / divided + replicated) * held.stored,
        "gradients": counts.trainable * learned_bytes / held.share(("fsdp", "zero2")) * (2 if held.kind == "ddp" else 1),
        "moments": 2 * counts.trainable * learned_bytes / held.share(("fsdp", "zero2")),
        "autocast copies": float(cast),
        "gathered for the rollout": float(gathered * held.arithmetic if held.kind == "fsdp" else 0),
        "gathered for the update": float((2 * counts.layer + counts.embedding) * held.arithmetic if held.kind == "fsdp" else 0),
        "cache, prompts": cache_.prompts,
        "cache, a finished turn": cache_.kept,
        "cache, the turn": cache_.turn + cache_.passing,
        "logits of a decoding step": 12 * shape.words * together * rollouts,
        "activations": (shape.kept_inputs(learned) if checkpointed else shape.layers * layer + 12 * learned * shape.width)
        + (shape.tower_activations(tower, checkpointed) if learns else 0),
        "a layer computed again": layer if checkpointed else 0.0,
        # three of float32 (scaled, weighed, their gradient), for as many tokens as are weighed at once
        "logits of the update": min(12 * shape.words * rows * longest.sampled, 3 * LOGITS_BYTES),
    }
    base = memory["weights"] + memory["moments"] + memory["autocast copies"]
    rollout = ("gathered for the rollout", "cache, prompts", "cache, a finished turn", "cache, the turn", "logits of a decoding step")
    update = ("gradients", "gathered for the update", "activations", "a layer computed again", "logits of the update")
    phases = {
        "rollout": base + sum(memory[key] for key in rollout),
        "update": base + sum(memory[key] for key in update),
        "optimiser step": base + memory["gradients"] + counts.trainable * learned_bytes / held.share(("fsdp", "zero2")),  # its temporaries
    }

    # Work, at the mean
    rows_ = questions * rollouts
    packed, of_sampled = mean.prompt + rollouts * mean.suffix, rows_ * mean.sampled
    parts = max(1, math.ceil(rollouts / max(1, micro_batch(mean, rollouts, cfg.objective.tokens_per_forward)[1]))) * questions
    micro = math.ceil(questions * packed / cfg.objective.tokens_per_forward) if parts == questions else parts
    middle = mean.suffix / 2
    seen_once = questions * shape.tower(mean.view) + rows_ * (mean.turns - 1) * shape.tower(mean.crop)
    seen_again = parts * shape.tower(mean.view) + rows_ * (mean.turns - 1) * shape.tower(mean.crop)
    appended = rows_ * (mean.suffix - mean.sampled + mean.turns)
    decoded = rows_ * mean.turns * (mean.turn - 1)
    passed = parts * mean.prompt + rows_ * mean.suffix
    linear, paired = shape.linear(passed), shape.attention(parts * mean.prompt**2 + rows_ * mean.suffix * (mean.prompt + mean.suffix))
    backward = 1 if counts.adapters else 2  # frozen matrices need no gradient of their own; attention has none that could be frozen
    adapters = 6 * passed * (counts.trainable - counts.visual_trainable) if counts.adapters else 0
    s = cfg.objective.updates_per_rollout
    weighed_again = 4 * shape.words * of_sampled / micro > LOGITS_BYTES  # the backward then computes logits chunk by chunk
    head = shape.logits(of_sampled) * (1 + backward + weighed_again)
    flops = {
        "vision tower, rollout": seen_once,
        "prefill": shape.linear(questions * mean.prompt + appended)
        + shape.attention(questions * mean.prompt**2 + appended * (mean.prompt + middle)),
        "decoding": shape.linear(decoded) + shape.attention(decoded * (mean.prompt + middle)) + shape.logits(of_sampled),
        "update": s * (linear * (1 + backward + checkpointed) + paired * (3 + checkpointed) + adapters + head),
        "vision tower, update": s * seen_again * (3 + checkpointed) if learns else 0.0,
    }
    n, synced = held.ranks, counts.trainable * 4
    moved = (n - 1) / n
    reduced = {"one": 0, "ddp": 2 * s, "zero2": s * micro, "fsdp": s * micro}[held.kind]  # DDP: once a step, there and back
    sent = {
        "fsdp": 2 * micro * gathered * held.arithmetic,  # forward and backward of every micro-batch gather each layer again
        "zero2": counts.trainable * held.stored,
    }
    network = {
        "gradients": moved * synced * reduced,
        "weights, update": moved * s * sent.get(held.kind, 0),
        "weights, rollout": float(moved * gathered * held.arithmetic if held.kind == "fsdp" else 0),
    }
    rate = COMPUTE_SHARE * (device.bfloat16 if held.arithmetic == 2 else device.float32)
    text = counts.total - counts.visual - (0 if shape.tied else counts.embedding)  # what a step reads; of the embedding, a row a token
    ahead = questions * mean.prompt + rows_ * middle  # whose keys and values a step of all rows reads
    steps = mean.turns * mean.turn
    read = steps * (math.ceil(questions / together) * text * held.arithmetic + ahead * 2 * shape.layers * shape.keys * held.arithmetic)
    network_s = {key: value / (device.link if held.ranks == held.per_node else device.network) for key, value in network.items()}
    seconds = {
        "prefill and vision tower": (flops["vision tower, rollout"] + flops["prefill"]) / rate + network_s["weights, rollout"],
        "decoding": max(read / (BANDWIDTH_SHARE * device.bandwidth), flops["decoding"] / rate),
        "update": max((flops["update"] + flops["vision tower, update"]) / rate, network_s["gradients"] + network_s["weights, update"]),
        "optimiser": 7 * counts.trainable * learned_bytes / held.share(("fsdp", "zero2")) * s / (BANDWIDTH_SHARE * device.bandwidth),
    }
    written = counts.total * held.stored + 2 * counts.trainable * learned_bytes
    host = {
        "loading, each process its own copy": float(held.per_node * counts.total * held.stored),
        "image patches": float(held.per_node * KEPT_BYTES),
        "writing a checkpoint": written / (held.ranks // held.per_node if held.kind == "fsdp" else 1),
        "a checkpoint on disk": float(written),
    }
    each = cfg.rollout.questions_per_update * rollouts
    tokens = {
        "visual, of a rollout": mean.visual,
        "text, of a rollout": mean.prompt + mean.suffix - mean.visual,
        "sampled, of a rollout": mean.sampled,
        "visual, of an update": cfg.rollout.questions_per_update * mean.view + each * (mean.visual - mean.view),
        "sampled, of an update": each * mean.sampled,
        "passed through the update": held.ranks * passed,
    }
    return Plan(cfg.device, held, counts, longest, mean, measured, micro, tokens, memory, phases, host, flops, network, seconds)


@dataclass(frozen=True)
class Advice:
    """Settings to add, all of them together, and what a device then needs."""

    overrides: tuple[str, ...]
    peak: float
    fits: bool


def advice(cfg: DictConfig, plan: Plan) -> list[Advice]:
    """Changes that lower the peak, each on top of those before, until the run fits or nothing is left to try.

    In order of their price: none, time, another way of training, other rollouts, more devices.
    """
    found: list[Advice] = []
    overrides: list[str] = []
    questions = cfg.rollout.questions_per_update // plan.sharding.ranks
    while questions > 1:
        questions //= 2
        overrides.append(f"rollout.questions_per_forward={questions}")
    overrides.append("policy.activation_checkpointing=true")
    alone = math.ceil(plan.longest.prompt + plan.longest.suffix)
    budget = cfg.objective.tokens_per_forward
    while budget // 2 >= alone:
        budget //= 2
        overrides.append(f"objective.tokens_per_forward={budget}")
    if plan.sharding.ranks > 1 and plan.sharding.kind != "fsdp":
        overrides.append("trainer.strategy={_target_:focus.ranks.FullyShardedStrategy,arithmetic:bfloat16}")
    overrides += ["policy.train_vision=false", "policy.lora_rank=64"]
    per_node, most = plan.sharding.per_node, cfg.rollout.questions_per_update
    while plan.sharding.kind in ("fsdp", "zero2") and per_node < 8 and most % (2 * per_node) == 0:
        per_node *= 2
        overrides.append(f"devices={per_node}")
    overrides += [f"rollout.tokens_per_turn={cfg.rollout.tokens_per_turn // 2**k}" for k in (1, 2) if cfg.rollout.tokens_per_turn >= 2**k]
    taken: dict[str, str] = {}
    now, peak, before = cfg, plan.peak, math.inf
    while peak < before and not (found and found[-1].fits):  # what did not help at first may once another phase is the peak
        before = peak
        for override in overrides:
            changed = changed_by(now, override)
            after = made(changed)
            if after.peak < 0.999 * peak:
                taken[override.partition("=")[0]], now, peak = override, changed, after.peak
                found.append(Advice(tuple(taken.values()), peak, after.fits))
                if after.fits:
                    break
    return found


def changed_by(cfg: DictConfig, override: str) -> DictConfig:
    """These settings with one `key=value` more, as the command line would have it."""
    changed = cfg.copy()
    OmegaConf.set_struct(changed, False)
    key, _, value = override.partition("=")
    if key.startswith("trainer.strategy"):
        changed.trainer.strategy = {"_target_": "focus.ranks.FullyShardedStrategy", "arithmetic": "bfloat16"}
        changed.trainer.precision = "32-true"
    else:
        OmegaConf.update(changed, key, OmegaConf.create({"value": value}).value if not value.isdigit() else int(value), force_add=True)
        if value in ("true", "false"):
            OmegaConf.update(changed, key, value == "true")
    return changed


def tables(plan: Plan) -> list[Table]:
    """The plan for people."""

    def table(title: str, rows: Mapping[str, float], unit: str, scale: float) -> Table:
        shown = Table("", unit, title=title, title_justify="left")
        for name, value in rows.items():
            if value:
                shown.add_row(name, f"{value / scale:,.2f}")
        return shown

    shown = Table("", "longest", "mean", title="one rollout, tokens", title_justify="left")
    for name in ("prompt", "view", "turns", "turn", "crop", "sampled", "suffix"):
        shown.add_row(name, f"{getattr(plan.longest, name):,.0f}", f"{getattr(plan.mean, name):,.1f}")
    return [
        shown,
        table("tokens, mean", plan.tokens, "thousands", 1e3),
        table("memory of a device, longest rollouts", plan.memory, "GiB", GIB),
        table("peak of each phase", plan.phases, "GiB", GIB),
        table("memory of a host", plan.host, "GiB", GIB),
        table("arithmetic of a device in an update", plan.flops, "TFLOP", 1e12),
        table("sent by a device in an update", plan.network, "GiB", GIB),
        table("seconds of an update, at least", plan.seconds | {"in all": sum(plan.seconds.values())}, "s", 1),
    ]


def verdict(plan: Plan) -> str:
    """One sentence: fits, or not."""
    phase = max(plan.phases, key=lambda key: plan.phases[key])
    return (
        f"{'fits' if plan.fits else 'does not fit'}: the {phase} needs {plan.peak / GIB:.1f} GiB of a device, of which "
        f"{plan.room / GIB:.1f} GiB may be used ({USABLE:.0%} of a {plan.device})"
    )


def run(cfg: DictConfig) -> None:
    """Print the plan, write it, and raise ValueError if it does not fit."""
    config.check(cfg, "plan")
    plan, console = made(cfg), Console()
    for table in tables(plan):
        console.print(table)
    held, counts = plan.sharding, plan.parameters
    console.print(
        f"{counts.total:,} parameters, {counts.trainable:,} of them trained; {held.ranks} x {plan.device}, {held.kind}; "
        f"{plan.micro_batches} forwards an update. Texts {'measured with the policy tokenizer' if plan.measured_text else 'estimated'}"
    )
    typical = made(cfg, plan.mean).peak
    console.print(f"Were all rollouts mean ones, a device would need {typical / GIB:.1f} GiB")
    better = [] if plan.fits else advice(cfg, plan)
    with config.writable(cfg.output):
        written = asdict(plan) | {
            "peak": plan.peak,
            "peak of mean rollouts": typical,
            "room": plan.room,
            "fits": plan.fits,
            "advice": [asdict(each) for each in better],
        }
        (Path(cfg.output) / "plan.json").write_text(json.dumps(written, indent=1) + os.linesep)
    console.print(f"plan: {Path(cfg.output) / 'plan.json'}")
    if not plan.fits:
        tried = "\n".join(f"  {each.peak / GIB:8.1f} GiB  {'fits' if each.fits else '    '}  {' '.join(each.overrides)}" for each in better)
        raise ValueError(f"{verdict(plan)}. What to change, each line with what it then needs:\n{tried or '  nothing helps here'}")
    console.print(verdict(plan))


@hydra.main(version_base="1.3", config_path="../conf", config_name="plan")
def main(cfg: DictConfig) -> None:
    config.guarded(run, cfg)


if __name__ == "__main__":
    config.start(main, "plan")
