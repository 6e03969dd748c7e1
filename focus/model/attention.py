"""Attention of conversations that share prompts: a prompt's keys and values exist once, whoever attends to them.

All tokens of a forward stand side by side in ONE row, so no linear layer ever sees padding and the network around attention knows
nothing of conversations. Who attends to whom is said by a `Layout`, which travels through transformers' forward as a keyword and is
asked by every text layer. Without a layout a model attends as transformers would have it: it stays a plain transformers model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

PREFIX = "shared_prompt_"
NO_MASK = torch.zeros((1, 1, 1, 1))  # transformers passes a mask of four dimensions on as it is, so it builds none of its own

Packed = Float[Tensor, "head token width"]
PackedKeys = Float[Tensor, "key_head token width"]  # fewer heads than queries have, where queries are grouped
Padded = Float[Tensor, "row head place width"]


@runtime_checkable
class Layout(Protocol):
    """Which token of a packed forward belongs to whom."""

    def attend(self, layer: int, query: Packed, key: PackedKeys, value: PackedKeys, scale: float) -> Packed:
        """The attention's output for every packed token. `key` and `value` may have fewer heads (grouped queries)."""
        ...


def share_prompts(model: PreTrainedModel) -> None:
    """Teach a model's text layers to follow a layout. Idempotent; the vision tower is left alone."""
    before = str(model.config.get_text_config()._attn_implementation)
    if not before.startswith(PREFIX):
        native = before if before == "flash_attention_2" else "sdpa"
        model.set_attn_implementation({"text_config": PREFIX + native})


def _interface(native: str) -> Any:
    def attention(
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float,
        dropout: float = 0.0,
        layout: Layout | None = None,
        **rest: Any,
    ) -> tuple[Tensor, None]:
        if layout is None:
            return ALL_ATTENTION_FUNCTIONS[native](module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **rest)
        # under autocast rotation leaves float32, which no attention computes in and no cache should hold
        packed = query[0].to(value.dtype), key[0].to(value.dtype), value[0]
        return layout.attend(int(module.layer_idx), *packed, scaling).transpose(0, 1)[None], None  # type: ignore[arg-type]

    return attention


for _native in ("sdpa", "flash_attention_2"):
    AttentionInterface.register(PREFIX + _native, _interface(_native))
    AttentionMaskInterface.register(PREFIX + _native, ALL_MASK_ATTENTION_FUNCTIONS[_native])


class Ragged:
    """Sequences of unequal length, packed side by side, and their way to a padded batch and back."""

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        assert lengths and min(lengths) > 0, lengths
        self.lengths = torch.tensor(lengths, device=device)
        self.longest, self.total, self.even = max(lengths), sum(lengths), min(lengths) == max(lengths)
        place = torch.arange(self.longest, device=device)
        self.real: Bool[Tensor, "row place"] = place < self.lengths[:, None]
        starts = self.lengths.cumsum(0) - self.lengths
        self._source = (starts[:, None] + place).minimum((starts + self.lengths - 1)[:, None]).flatten()  # padding repeats the last token
        self._target = self.real.flatten().nonzero()[:, 0]

    def pad(self, packed: Packed) -> Padded:
        """A batch, padded on the right. What stands in the padding must not reach any output."""
        if self.even:
            return packed.unflatten(1, (len(self.lengths), self.longest)).transpose(0, 1)
        return _Gather.apply(packed, self._source, self._target).unflatten(1, (len(self.lengths), self.longest)).transpose(0, 1)

    def unpad(self, padded: Padded) -> Packed:
        """The inverse of `pad`."""
        flat = padded.transpose(0, 1).flatten(1, 2)
        return flat if self.even else _Gather.apply(flat, self._target, None)


class _Gather(torch.autograd.Function):
    """`x[:, index]`, whose gradient is a copy, not a sum: every token is taken once, apart from padding, which carries no gradient."""

    @staticmethod
    def forward(ctx, x: Packed, index: Int[Tensor, " taken"], back: Int[Tensor, " token"] | None) -> Float[Tensor, "head taken width"]:
        ctx.save_for_backward(index, back)
        ctx.tokens = x.shape[1]
        return x.index_select(1, index)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, None, None]:
        index, back = ctx.saved_tensors
        [gradient] = gradients
        if back is not None:  # from padded to packed
            return gradient.index_select(1, back), None, None
        return gradient.new_zeros((gradient.shape[0], ctx.tokens, gradient.shape[2])).index_copy_(1, index, gradient), None, None


class PackedGroups:
    """The layout of an update: every prompt once, and behind all of them the suffixes that continue it.

    Packed order: prompts, then suffixes. `owner[s]` is the prompt of suffix s. A suffix sees its whole prompt and itself, causally; no
    suffix sees another. `flash` uses flash-attention's kernel for ragged sequences in place of PyTorch's.
    """

    def __init__(
        self, prompt_lengths: Sequence[int], suffix_lengths: Sequence[int], owner: Sequence[int], device: torch.device, flash: bool = False
    ) -> None:
        self.prompts, self.suffixes = Ragged(prompt_lengths, device), Ragged(suffix_lengths, device)
        self.owner = torch.tensor(owner, device=device)
        self.flash = flash
        if flash:
            self._index_keys(prompt_lengths, suffix_lengths, owner, device)
        else:
            causal = torch.ones((self.suffixes.longest,) * 2, dtype=torch.bool, device=device).tril()[None]
            prompt = self.prompts.real[:1] if self.prompts.even else self.prompts.real[self.owner]
            rows, queries = len(prompt), self.suffixes.longest
            parts = prompt[:, None].expand(rows, queries, -1), causal.expand(rows, queries, queries)
            self._mask: Bool[Tensor, "row 1 query key"] = torch.cat(parts, dim=2)[:, None]

    def attend(self, layer: int, query: Packed, key: PackedKeys, value: PackedKeys, scale: float) -> Packed:
        if self.flash:
            return self._attend_flash(query, key, value, scale)
        at = self.prompts.total
        prompt_key, prompt_value = self.prompts.pad(key[:, :at]), self.prompts.pad(value[:, :at])
        grouped = query.shape[0] != key.shape[0]
        prompt = scaled_dot_product_attention(
            self.prompts.pad(query[:, :at]), prompt_key, prompt_value, is_causal=True, scale=scale, enable_gqa=grouped
        )
        suffix = scaled_dot_product_attention(
            self.suffixes.pad(query[:, at:]),
            torch.cat([prompt_key.index_select(0, self.owner), self.suffixes.pad(key[:, at:])], dim=2),
            torch.cat([prompt_value.index_select(0, self.owner), self.suffixes.pad(value[:, at:])], dim=2),
            attn_mask=self._mask,
            scale=scale,
            enable_gqa=grouped,
        )
        return torch.cat([self.prompts.unpad(prompt), self.suffixes.unpad(suffix)], dim=1)

    def _index_keys(self, prompt_lengths: Sequence[int], suffix_lengths: Sequence[int], owner: Sequence[int], device: torch.device) -> None:
        """For one call over all sequences: a prompt asks its own keys, a suffix those of its prompt and then its own."""
        starts = [sum(prompt_lengths[:g]) for g in range(len(prompt_lengths))]
        keys, at = [torch.arange(self.prompts.total)], self.prompts.total
        for length, g in zip(suffix_lengths, owner, strict=True):
            keys += [torch.arange(starts[g], starts[g] + prompt_lengths[g]), torch.arange(at, at + length)]
            at += length
        self._keys = torch.cat(keys).to(device)
        query_lengths = [*prompt_lengths, *suffix_lengths]
        key_lengths = [*prompt_lengths, *(prompt_lengths[g] + n for n, g in zip(suffix_lengths, owner, strict=True))]
        self._query_ends, self._key_ends = (
            torch.tensor([0, *lengths], device=device).cumsum(0, dtype=torch.int32) for lengths in (query_lengths, key_lengths)
        )
        self._longest = max(query_lengths), max(key_lengths)

    def _attend_flash(self, query: Packed, key: PackedKeys, value: PackedKeys, scale: float) -> Packed:
        from flash_attn import flash_attn_varlen_func  # GPU extra

        out = flash_attn_varlen_func(
            query.transpose(0, 1),
            key.transpose(0, 1)[self._keys],
            value.transpose(0, 1)[self._keys],
            self._query_ends,
            self._key_ends,
            *self._longest,
            softmax_scale=scale,
            causal=True,  # aligned to the last key: the short query of a suffix follows its prompt
        )
        return out.transpose(0, 1)


@dataclass
class Prompts:
    """Keys and values of prompts, per layer [prompt, head, place, width], padded on the right."""

    ragged: Ragged
    keys: list[Padded]
    values: list[Padded]

    @classmethod
    def empty(cls, lengths: Sequence[int], device: torch.device) -> "Prompts":
        return cls(Ragged(lengths, device), [], [])

    def attend(self, layer: int, query: Packed, key: PackedKeys, value: PackedKeys, scale: float) -> Packed:
        """As a layout: read the prompts themselves, and keep what later turns will ask."""
        self.keys.append(self.ragged.pad(key).contiguous())
        self.values.append(self.ragged.pad(value).contiguous())
        out = scaled_dot_product_attention(
            self.ragged.pad(query), self.keys[layer], self.values[layer], is_causal=True, scale=scale, enable_gqa=len(query) != len(key)
        )
        return self.ragged.unpad(out)


@dataclass
class Rows:
    """What conversations said and saw after their prompts: per layer [row, head, slot, width], filled up to `lengths`.

    `owner` is each row's prompt in `prompts`. Rows that share a prompt stand side by side, in the prompts' order.
    """

    prompts: Prompts
    owner: Int[Tensor, " row"]
    lengths: Int[Tensor, " row"]
    keys: list[Padded]
    values: list[Padded]

    @classmethod
    def gather(cls, prompts: Prompts, owner: Sequence[int], parts: Sequence["tuple[Rows, int] | None"], slots: int) -> "Rows":
        """New rows with room for `slots`, each going on from a row of earlier ones, or from its prompt alone (None)."""
        like = prompts.keys[0]
        lengths = torch.zeros(len(owner), dtype=torch.long, device=like.device)
        shape = len(owner), like.shape[1], slots, like.shape[3]
        # zeros, since a masked slot still enters a product with weight 0, and 0 x NaN is NaN
        keys, values = ([like.new_zeros(shape) for _ in prompts.keys] for _ in range(2))
        rows = cls(prompts, torch.tensor(owner, device=like.device), lengths, keys, values)
        earlier: dict[int, Rows] = {id(part[0]): part[0] for part in parts if part}
        for key, before in earlier.items():
            here = torch.tensor([i for i, part in enumerate(parts) if part and id(part[0]) == key], device=like.device)
            there = torch.tensor([part[1] for part in parts if part and id(part[0]) == key], device=like.device)
            lengths[here] = before.lengths[there]
            filled = int(lengths[here].max())
            for new, old in ((rows.keys, before.keys), (rows.values, before.values)):
                for a, b in zip(new, old, strict=True):
                    a[here, :, :filled] = b[there, :, :filled]
        return rows

    def take(self, index: Int[Tensor, " kept"], more: int = 0) -> "Rows":
        """Some of the rows, with room for as many `more` tokens."""
        lengths = self.lengths[index]
        slots = int(lengths.max()) + more
        keys, values = ([x[:, :, :slots].index_select(0, index) for x in store] for store in (self.keys, self.values))
        return Rows(self.prompts, self.owner[index], lengths, keys, values)


class Append:
    """The layout of a turn's beginning: to every row its own chunk of new tokens, packed in the order of the rows."""

    def __init__(self, rows: Rows, lengths: Sequence[int]) -> None:
        device = rows.lengths.device
        self.rows, self.chunks = rows, Ragged(lengths, device)
        place = rows.lengths[:, None] + torch.arange(self.chunks.longest, device=device)
        self._slot = place[self.chunks.real]
        self._row = torch.arange(len(lengths), device=device).repeat_interleave(self.chunks.lengths)
        self.filled = int((rows.lengths + self.chunks.lengths).max())
        prompt = rows.prompts.ragged.real[rows.owner]
        own = torch.arange(self.filled, device=device) <= place[:, :, None]
        self._mask = torch.cat([prompt[:, None].expand(-1, self.chunks.longest, -1), own], dim=2)[:, None]

    def attend(self, layer: int, query: Packed, key: PackedKeys, value: PackedKeys, scale: float) -> Packed:
        rows = self.rows
        for store, new in ((rows.keys, key), (rows.values, value)):
            store[layer][self._row, :, self._slot] = new.transpose(0, 1)
        keys, values = (
            torch.cat([prompts[layer].index_select(0, rows.owner), store[layer][:, :, : self.filled]], dim=2)
            for prompts, store in ((rows.prompts.keys, rows.keys), (rows.prompts.values, rows.values))
        )
        grouped = len(query) != len(key)
        out = scaled_dot_product_attention(self.chunks.pad(query), keys, values, attn_mask=self._mask, scale=scale, enable_gqa=grouped)
        return self.chunks.unpad(out)


class Step:
    """The layout of one decoding step: one new token for every row.

    The prompt's keys are read once for all siblings (one matrix product for each prompt), which is what decoding costs at long prompts.
    """

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        counts = torch.bincount(rows.owner, minlength=len(rows.prompts.ragged.lengths))
        self.siblings = int(counts.max())
        first = counts.cumsum(0) - counts
        self._seat = rows.owner * self.siblings + torch.arange(len(rows.owner), device=counts.device) - first[rows.owner]
        self._even = bool((counts == self.siblings).all())
        self._row = torch.arange(len(rows.owner), device=counts.device)
        real = rows.prompts.ragged.real
        self._hidden_prompt = None if rows.prompts.ragged.even else torch.where(real, 0.0, float("-inf"))[:, None, None]

    def advance(self) -> None:
        """To be called before each step's forward: where the new token goes, and what it may see."""
        self.filled = int(self.rows.lengths.max()) + 1
        slots = torch.arange(self.filled, device=self.rows.lengths.device)
        self._hidden_own = torch.where(slots <= self.rows.lengths[:, None], 0.0, float("-inf"))[:, None, None]

    def attend(self, layer: int, query: Packed, key: PackedKeys, value: PackedKeys, scale: float) -> Packed:
        rows, prompts = self.rows, self.rows.prompts
        for store, new in ((rows.keys, key), (rows.values, value)):
            store[layer][self._row, :, rows.lengths] = new.transpose(0, 1)
        heads, repeat = key.shape[0], query.shape[0] // key.shape[0]
        asked = (query * scale).unflatten(0, (heads, repeat)).permute(2, 0, 1, 3)  # row, head, repeat, width
        seated = self._seated(asked)  # prompt, head, sibling x repeat, width
        of_prompt = torch.matmul(seated, prompts.keys[layer].transpose(2, 3))
        if self._hidden_prompt is not None:
            of_prompt = of_prompt + self._hidden_prompt
        own_keys, own_values = rows.keys[layer][:, :, : self.filled], rows.values[layer][:, :, : self.filled]
        of_own = torch.matmul(asked, own_keys.transpose(2, 3)) + self._hidden_own
        places = of_prompt.shape[3]
        weight = torch.cat([self._unseated(of_prompt, repeat), of_own], dim=3).float().softmax(3).to(value.dtype)
        out = self._unseated(torch.matmul(self._seated(weight[..., :places]), prompts.values[layer]), repeat)
        return (out + torch.matmul(weight[..., places:], own_values)).permute(1, 2, 0, 3).flatten(0, 1)

    def _seated(self, x: Float[Tensor, "row head repeat n"]) -> Float[Tensor, "prompt head sibling_repeat n"]:
        if not self._even:
            seats = x.new_zeros((len(self.rows.prompts.ragged.lengths) * self.siblings, *x.shape[1:]))
            x = seats.index_copy_(0, self._seat, x)
        return x.unflatten(0, (-1, self.siblings)).transpose(1, 2).flatten(2, 3)

    def _unseated(self, x: Float[Tensor, "prompt head sibling_repeat n"], repeat: int) -> Float[Tensor, "row head repeat n"]:
        rows = x.unflatten(2, (self.siblings, repeat)).transpose(1, 2).flatten(0, 1)
        return rows if self._even else rows.index_select(0, self._seat)
