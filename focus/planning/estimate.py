"""Estimate of a training run before a model is loaded: tokens, memory, arithmetic, network, time.

It reads settings and an architecture only. Parameters are counted exactly on PyTorch's meta device,
without weights. Memory is estimated for the longest rollouts that the settings allow, work and time
for mean rollouts (`lengths`).

Times are lower bounds. They leave out judges, tools, image decoding, kernel launches, waiting for the
longest row or rank, fragmentation, probes, evaluation and checkpoints.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PretrainedConfig

from focus.config.schema import PlanConfig
from focus.gap import read_levels
from focus.model.dialect import read_dialect
from focus.model.loading import checkpoint_path
from focus.model.policy_model import LOGITS_BYTES
from focus.model.prompts import CROP_CONTENT, encode, observation_text, question_text
from focus.planning.architecture import Parameters, architecture_of, parameters_of
from focus.planning.hardware import BANDWIDTH_SHARE, COMPUTE_SHARE, DEVICES, GIB, USABLE

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

    def before(self, turn: int) -> float:
        """Tokens after the prompt when turn number `turn` (from 1) begins."""
        return (turn - 1) * (self.turn + self.reply + self.crop)


def lengths(cfg: PlanConfig) -> tuple[Lengths, Lengths, bool]:
    """The longest rollout that the settings allow, the mean one, and whether texts were measured with the policy's tokenizer."""
    dialect, rollout, expected = read_dialect(cfg.policy.dialect, cfg.policy.prompts), cfg.rollout, cfg.lengths
    views = [cfg.gap.view_tokens]
    if cfg.gap.mode == "calibrated" and cfg.gap.table and Path(cfg.gap.table).is_file():
        views = list(read_levels(Path(cfg.gap.table)).values())
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


@dataclass(frozen=True)
class Sharding:
    """How weights are stored: `kind` is one, ddp, zero2 or fsdp; `stored` and `arithmetic` are bytes per number."""

    kind: str
    ranks: int
    per_node: int
    stored: int
    arithmetic: int
    mixed: bool  # autocast: stored float32, matrix products in bfloat16

    def share(self, kinds: Sequence[str]) -> int:
        """Number of ranks over which something is sharded that these kinds shard."""
        return self.ranks if self.kind in kinds else 1


def sharding(cfg: PlanConfig) -> Sharding:
    """How trainer, policy.dtype and devices store the weights.

    Raises ValueError if the number of devices is not known or does not divide the questions.
    """
    per_node, nodes = cfg.devices or cfg.trainer["devices"], cfg.trainer.get("num_nodes", 1)
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
    """Bytes of keys and values in a rollout: prompts, finished turns, the turn being sampled, and temporary copies of one layer."""

    prompts: float
    kept: float
    turn: float
    passing: float

    @property
    def total(self) -> float:
        return self.prompts + self.kept + self.turn + self.passing


class Shape:
    """Sizes of an architecture, and the arithmetic and memory of one forward."""

    def __init__(self, config: PretrainedConfig, held: Sharding, adapted: bool = False) -> None:
        text, self.vision = config.get_text_config(), config.vision_config
        self.gated = config.model_type == "qwen2_5_vl"  # its vision tower has a gated MLP and windows, Qwen3's text layers norm q and k
        self.width, self.inner, self.layers, self.words = text.hidden_size, text.intermediate_size, text.num_hidden_layers, text.vocab_size
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        self.head, self.queries, self.keys = head, text.num_attention_heads * head, text.num_key_value_heads * head
        self.tied, self.adapted = bool(config.tie_word_embeddings), adapted  # with adapters, norms and patch embedding are frozen
        self.held = held

    # -- arithmetic, in FLOP; a multiply-add counts two

    def linear(self, tokens: float) -> float:
        """FLOP of all text layers, without the attention products."""
        return 2 * tokens * self.layers * (2 * self.width * (self.queries + self.keys) + 3 * self.width * self.inner)

    def attention(self, pairs: float) -> float:
        """FLOP of the attention products of `pairs` (query, key) pairs, in all text layers."""
        return 4 * pairs * self.layers * self.queries

    def logits(self, tokens: float) -> float:
        """FLOP of the head."""
        return 2 * tokens * self.width * self.words

    def tower(self, tokens: float) -> float:
        """FLOP of the vision tower on one image of `tokens` merged tokens."""
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
        """Largest cache of KVEngine: rows of the turn before or finished rows of this turn, and `limit` free slots per row."""
        one = self.layers * self.keys
        rows, turns, both = questions * rollouts, math.ceil(lengths.turns), 2 * self.held.arithmetic
        # a mean of 1.3 turns: all rows have a first turn, 0.3 of them a second. A finished turn is copied out of its slots
        kept = max(min(1.0, lengths.turns - turn + 1) * (lengths.before(turn) + lengths.turn) for turn in range(1, turns + 1))
        last = lengths.before(turns) + 1 + limit
        passing = rows * (2 * lengths.prompt + lengths.suffix) * self.keys * both
        return Cache(questions * lengths.prompt * one * both, rows * kept * one * both, rows * last * one * both, passing)

    def _residual(self) -> int:
        return 4 if self.held.mixed else self.held.arithmetic

    def layer_activations(self, prompt: float, suffix: float, groups: float, rows: float) -> float:
        """Bytes that one text layer keeps for the backward, for `rows` suffixes of `groups` prompts."""
        b, mixed = self.held.arithmetic, self.held.mixed
        tokens = groups * prompt + rows * suffix
        # a norm in float32 keeps its input and its normalised input; the next layer keeps its own cast of the output
        normed = 4 if b == 4 or mixed else 2
        norm = 4 + (0 if self.adapted else normed)
        casts = 5 * b if mixed else 2 * b
        each = self.width * (2 * norm + casts) + 4 * self.inner * b + 3 * self.queries * b
        if self.gated:
            each += 2 * self.head * self._residual()  # every layer expands cosines and sines again
        else:
            each += (self.queries + self.keys) * (8 if b == 4 else 6)  # norms of queries and keys
        seen = groups * prompt + rows * (prompt + suffix)  # a suffix has its own copy of its prompt's keys
        return tokens * each + 2 * seen * self.keys * b

    def kept_inputs(self, tokens: float) -> float:
        """Bytes with activation checkpointing: the text layers keep only their inputs."""
        return self.layers * tokens * self.width * self._residual()

    def tower_activations(self, tokens: float, checkpointed: bool) -> float:
        """Bytes that a trained vision tower keeps for the backward, for `tokens` merged tokens."""
        v, b = self.vision, self.held.arithmetic
        block = (13 * v.hidden_size + 4 * v.intermediate_size) if self.gated else (10 * v.hidden_size + 2 * v.intermediate_size)
        ends = (0 if self.adapted else 3) * v.temporal_patch_size * v.patch_size**2 + 3 * v.hidden_size * (
            1 + len(getattr(v, "deepstack_visual_indexes", ()))
        )
        return tokens * v.spatial_merge_size**2 * b * (v.depth * (v.hidden_size if checkpointed else block) + ends)


@dataclass(frozen=True)
class Plan:
    """Bytes, FLOP and seconds of one device for one update, unless a field says otherwise."""

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
        """Usable bytes of a device."""
        return USABLE * DEVICES[self.device].memory

    @property
    def fits(self) -> bool:
        return self.peak <= self.room


def micro_batch(lengths: Lengths, rollouts: int, budget: int) -> tuple[float, float]:
    """Prompts and suffixes in one forward of the update: whole groups, or the part of one that the budget holds."""
    whole = lengths.prompt + rollouts * lengths.suffix
    if whole <= budget:
        return budget // whole, budget // whole * rollouts
    return 1, max(1, (budget - lengths.prompt) // lengths.suffix)


def make_plan(cfg: PlanConfig, observed: Lengths | None = None) -> Plan:
    """The plan of these settings, or of rollouts that were `observed`.

    Raises ValueError for an unknown device or architecture, or questions that can't be shared.
    """
    if cfg.device not in DEVICES:
        raise ValueError(f"device is {cfg.device!r}; there are {', '.join(DEVICES)}")
    device, held, counts = DEVICES[cfg.device], sharding(cfg), parameters_of(cfg.policy)
    shape = Shape(architecture_of(cfg.policy.checkpoint), held, counts.adapters > 0)
    longest, mean, measured = (observed, observed, True) if observed else lengths(cfg)
    rollouts, questions = cfg.rollout.rollouts_per_question, cfg.rollout.questions_per_update // held.ranks
    together = min(questions, cfg.rollout.questions_per_forward or questions)
    checkpointed, learns = bool(cfg.policy.activation_checkpointing), counts.visual_trainable > 0

    # Memory, at the longest
    divided = held.share(("fsdp",))
    replicated = counts.visual if held.kind == "fsdp" and not learns else 0
    gathered = counts.total - replicated
    cast = 2 * counts.trainable if held.mixed else 0  # autocast keeps a bfloat16 copy of trained weights until the end of the update
    groups, rows = micro_batch(longest, rollouts, cfg.objective.tokens_per_forward)
    groups, rows = min(groups, questions), min(rows, questions * rollouts)
    tower = groups * longest.view + rows * (longest.turns - 1) * longest.crop
    learned = groups * longest.prompt + rows * longest.suffix
    layer = shape.layer_activations(longest.prompt, longest.suffix, groups, rows)
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
    backward = 1 if counts.adapters else 2  # frozen matrices need no weight gradient; attention has no weights
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
    reduced = {"one": 0, "ddp": 2 * s, "zero2": s * micro, "fsdp": s * micro}[held.kind]  # DDP: once per step, send and receive
    sent = {
        "fsdp": 2 * micro * gathered * held.arithmetic,  # forward and backward of every micro-batch gather each layer
        "zero2": counts.trainable * held.stored,
    }
    network = {
        "gradients": moved * synced * reduced,
        "weights, update": moved * s * sent.get(held.kind, 0),
        "weights, rollout": float(moved * gathered * held.arithmetic if held.kind == "fsdp" else 0),
    }
    rate = COMPUTE_SHARE * (device.bfloat16 if held.arithmetic == 2 else device.float32)
    text = (
        counts.total - counts.visual - (0 if shape.tied else counts.embedding)
    )  # weights that a decoding step reads; of the embedding, one row per token
    ahead = questions * mean.prompt + rows_ * middle  # tokens whose keys and values a step of all rows reads
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


def verdict(plan: Plan) -> str:
    """One sentence: whether the run fits."""
    phase = max(plan.phases, key=lambda key: plan.phases[key])
    return (
        f"{'fits' if plan.fits else 'does not fit'}: the {phase} needs {plan.peak / GIB:.1f} GiB of a device, of which "
        f"{plan.room / GIB:.1f} GiB may be used ({USABLE:.0%} of a {plan.device})"
    )
