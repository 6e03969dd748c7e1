"""How weights are stored, and the arithmetic and memory of one forward of an architecture."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PretrainedConfig

from focus.config.schema import PlanConfig


@dataclass(frozen=True)
class Sharding:
    """How weights are stored: `kind` is one, ddp, zero2 or fsdp; `stored` and `arithmetic` are bytes per number."""

    kind: str
    ranks: int
    per_node: int
    stored: int
    arithmetic: int
    mixed: bool  # autocast: stored float32, matrix products in bfloat16

    @property
    def nodes(self) -> int:
        """Nodes of the run."""
        return self.ranks // self.per_node

    def share(self, kinds: Sequence[str]) -> int:
        """Number of ranks over which something is sharded that these kinds shard. FSDP shards within a node."""
        return 1 if self.kind not in kinds else self.per_node if self.kind == "fsdp" else self.ranks


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
    divided, zero = name.endswith("FullyShardedStrategy"), name.endswith("ZeroStrategy")
    kind = "fsdp" if divided else "zero2" if zero else "ddp" if ranks > 1 else "one"
    stored = 2 if cfg.policy.dtype == "bfloat16" or cfg.trainer.get("precision") == "bf16-true" else 4
    mixed = cfg.trainer.get("precision") == "bf16-mixed" and stored == 4
    computed = "bfloat16" if mixed else cfg.policy.dtype
    if divided and not isinstance(strategy, str):
        computed, mixed = strategy.get("arithmetic", computed), mixed and "arithmetic" not in strategy
    return Sharding(kind, ranks, per_node, stored, 2 if computed == "bfloat16" else stored, mixed)


class Shape:
    """Sizes of an architecture, and the arithmetic and memory of one forward."""

    def __init__(self, config: PretrainedConfig, held: Sharding, adapted: bool = False) -> None:
        text, self.vision, self.config = config.get_text_config(), config.vision_config, config
        self.gated = config.model_type == "qwen2_5_vl"  # its vision tower has a gated MLP and windows, Qwen3's text layers norm q and k
        self.width, self.inner, self.layers, self.words = text.hidden_size, text.intermediate_size, text.num_hidden_layers, text.vocab_size
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        self.head, self.queries, self.keys = head, text.num_attention_heads * head, text.num_key_value_heads * head
        # Of Qwen3.5's layers every fourth attends; the others hold one state a sequence, whatever its length
        self.attending = text.layer_types.count("full_attention") if self._recurrent(text) else self.layers
        self.delta_keys = self.delta_values = self.state = 0
        if self._recurrent(text):
            self.delta_keys = text.linear_num_key_heads * text.linear_key_head_dim
            self.delta_values = text.linear_num_value_heads * text.linear_value_head_dim
            self.state = 4 * (self.layers - self.attending) * self.delta_values * text.linear_key_head_dim  # bytes, float32
        self.tied, self.adapted = bool(config.tie_word_embeddings), adapted  # with adapters, norms and patch embedding are frozen
        self.held, self._deep = held, getattr(self.vision, "deepstack_visual_indexes", ())

    @staticmethod
    def _recurrent(text: PretrainedConfig) -> bool:
        """Whether some text layers are recurrent (gated delta nets)."""
        return "linear_attention" in (getattr(text, "layer_types", None) or ())

    # -- arithmetic, in FLOP; a multiply-add counts two

    def linear(self, tokens: float) -> float:
        """FLOP of all text layers, without the attention products."""
        attending = 2 * self.attending * self.width * (self.queries + self.keys)
        recurrent = (self.layers - self.attending) * self.width * (2 * self.delta_keys + 3 * self.delta_values)
        return 2 * tokens * (attending + recurrent + 3 * self.layers * self.width * self.inner)

    def attention(self, pairs: float) -> float:
        """FLOP of the attention products of `pairs` (query, key) pairs, in all text layers."""
        return 4 * pairs * self.attending * self.queries

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
        mergers = 1 + len(self._deep)
        embed = 3 * v.temporal_patch_size * v.patch_size**2 * v.hidden_size
        ends = mergers * tokens * (merged**2 + merged * v.out_hidden_size)
        return 2 * (patches * (embed + v.depth * block) + ends) + 4 * pairs * v.hidden_size

    # -- memory, in bytes

    @property
    def cached(self) -> float:
        """Keys and values of one token, in all text layers."""
        return 2 * self.attending * self.keys * self.held.arithmetic

    def features(self, tokens: float) -> float:
        """What the tower leaves of `tokens` merged tokens: one vector for each, and those of Qwen3-VL's first text layers."""
        return tokens * self.width * (1 + len(self._deep)) * self.held.arithmetic

    def drawing(self, rows: float) -> float:
        """A decoding step's logits, their logarithms, probabilities and sums, float32."""
        return 16 * rows * self.words

    def passing(self, tokens: float) -> float:
        """Temporary bytes of a forward of the text layers without gradient: those of the MLP, the widest part of a layer."""
        b, residual = self.held.arithmetic, self._residual()
        return tokens * (3 * self.inner * b + self.width * (3 * residual + (b if self.held.mixed else 0)))

    def tower_passing(self, tokens: float) -> float:
        """Temporary bytes of a forward of the vision tower without gradient, pixels included.

        The widest parts of a block are its rotary embedding, which is computed in float32, and its MLP.
        """
        v, b, residual = self.vision, self.held.arithmetic, self._residual()
        around = 2 * residual * v.hidden_size  # the stream and its normalised copy
        rotated = v.hidden_size * (3 * b + (16 if b == 4 else 24))
        mlp = (3 if self.gated else 2) * v.intermediate_size * b
        pixels = 3 * v.temporal_patch_size * v.patch_size**2 * (4 + b)  # as they are cut, and as the tower takes them
        return tokens * v.spatial_merge_size**2 * (around + max(rotated, mlp) + pixels)

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
        copied = rows * prompt if b == 4 else 0  # the kernel for bfloat16 reads a prompt's keys where they are, SDPA copies them
        return tokens * each + 2 * (tokens + copied) * self.keys * b

    def kept_inputs(self, tokens: float) -> float:
        """Bytes with activation checkpointing: the text layers keep only their inputs."""
        return self.layers * tokens * self.width * self._residual()

    def tower_activations(self, tokens: float, checkpointed: bool) -> float:
        """Bytes that a trained vision tower keeps for the backward, for `tokens` merged tokens."""
        v, b = self.vision, self.held.arithmetic
        block = (13 * v.hidden_size + 4 * v.intermediate_size) if self.gated else (10 * v.hidden_size + 2 * v.intermediate_size)
        ends = (0 if self.adapted else 3) * v.temporal_patch_size * v.patch_size**2 + 3 * v.hidden_size * (1 + len(self._deep))
        return tokens * v.spatial_merge_size**2 * b * (v.depth * (v.hidden_size if checkpointed else block) + ends)
