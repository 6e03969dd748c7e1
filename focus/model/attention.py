"""Attention for rollouts that share prompts.

The keys and values of a prompt exist once for its group.

All tokens of a forward are packed into ONE row: linear layers see no padding, and only attention
and delta nets (Qwen3.5) know about sequences. A `Layout` says which token attends to which. It is
passed through transformers' forward as a keyword, and every text layer calls it. Without a layout
the model is a plain transformers model with its usual attention.

The vision tower attends within windows, or within images. All of one length are one call.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import accumulate
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from focus.model import delta_net, flash
from focus.model.delta_net import Scan, State

LAYOUT = "shared_prompt"  # names under which transformers knows the two functions below
WINDOWS = "flash_windows"  # transformers gives all windows at once only to an attention with `flash` in its name
NO_MASK = torch.zeros((1, 1, 1, 1))  # transformers passes a 4-D mask on unchanged; without one it would build its own
SLOTS_ADDED = 256  # a cache that is full grows by so many tokens a row

Packed = Float[Tensor, "head token width"]
PackedKeys = Float[Tensor, "key_head token width"]  # with grouped queries: fewer heads than the queries
Padded = Float[Tensor, "row head slot width"]
PackedInputs = Float[Tensor, "token channel"]
PackedOutputs = Float[Tensor, "token width"]


@runtime_checkable
class Layout(Protocol):
    """Says which tokens of a packed forward attend to which.

    `layer` counts the layers with attention, or those with a delta net, from 0.
    """

    def attend(self, layer: int, query: Packed, key: PackedKeys, value: PackedKeys, scale: float) -> Packed:
        """Attention output of every packed token.

        With grouped queries `key` and `value` have fewer heads.
        """
        ...

    def recur(self, layer: int, scan: Scan, inputs: PackedInputs) -> PackedOutputs:
        """Output of a delta net for every packed token. `scan` reads padded rows."""
        ...


def share_prompts(model: PreTrainedModel) -> None:
    """Make a model's text layers accept a layout, and its vision tower attend to windows together. Idempotent."""
    model.set_attn_implementation({"text_config": LAYOUT, "vision_config": WINDOWS})
    layers: Any = model.get_decoder().layers
    for kind in ("self_attn", "linear_attn"):
        for index, layer in enumerate(getattr(each, kind) for each in layers if hasattr(each, kind)):
            layer.cache_index = index
            if kind == "linear_attn":
                layer.forward = partial(delta_net.forward, layer)


def attend_by_layout(
    module: torch.nn.Module,
    query: Float[Tensor, "row head token width"],
    key: Float[Tensor, "row key_head key width"],
    value: Float[Tensor, "row key_head key width"],
    attention_mask: Tensor | None,
    scaling: float,
    layout: Layout | None = None,
    **rest: Any,
) -> tuple[Float[Tensor, "row token head width"], None]:
    """Attention of a text layer; without a layout SDPA, as transformers calls it."""
    if layout is None:
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, scaling=scaling, **rest)
    # Under autocast the rotary embedding returns float32. Attention and caches use the dtype of
    # the values.
    packed = query[0].to(value.dtype), key[0].to(value.dtype), value[0]
    return layout.attend(int(module.cache_index), *packed, scaling).transpose(0, 1)[None], None  # type: ignore[arg-type]


def attend_within_windows(
    module: torch.nn.Module,
    query: Float[Tensor, "1 head patch width"],
    key: Float[Tensor, "1 head patch width"],
    value: Float[Tensor, "1 head patch width"],
    attention_mask: None,
    scaling: float,
    cu_seq_lens_q: Int[Tensor, " window_1"],
    max_length_q: int,
    **rest: Any,
) -> tuple[Float[Tensor, "1 patch head width"], None]:
    """Attention of the vision tower: every patch attends to its window, which may be a whole image.

    One call of the flash-attention kernel, or of SDPA for all windows of one length. transformers' own
    SDPA path calls it for each window: 1,796 calls instead of 32 for 1,024 tokens of Qwen2.5-VL-7B.
    The results are equal bit by bit (tested).
    """
    if flash.kernel_takes(value):
        windows = flash.Sequences(cu_seq_lens_q, max_length_q)
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
        return flash.attend(q, k, v, (windows, windows), causal=False, scale=scaling)[0][None], None
    packed = query[0], key[0], value[0]
    if max_length_q * (len(cu_seq_lens_q) - 1) == query.shape[2]:
        return _attend_batch(*packed, max_length_q, scaling).transpose(0, 1)[None], None
    lengths = cu_seq_lens_q.diff()
    of_patch = lengths.repeat_interleave(lengths)
    order = of_patch.argsort(stable=True)  # windows of one length side by side
    back = order.argsort()
    each, patches = (x.tolist() for x in of_patch.unique(return_counts=True))
    batches = zip(each, *(_Gather.apply(x, order, back).split(patches, dim=1) for x in packed), strict=True)
    out = torch.cat([_attend_batch(q, k, v, length, scaling) for length, q, k, v in batches], dim=1)
    return _Gather.apply(out, back, order).transpose(0, 1)[None], None


def _attend_batch(query: Packed, key: Packed, value: Packed, length: int, scale: float) -> Packed:
    """Attention within windows of one length."""
    q, k, v = (x.unflatten(1, (-1, length)).transpose(0, 1) for x in (query, key, value))
    return scaled_dot_product_attention(q, k, v, scale=scale).transpose(0, 1).flatten(1, 2)


AttentionInterface.register(LAYOUT, attend_by_layout)
AttentionMaskInterface.register(LAYOUT, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
AttentionInterface.register(WINDOWS, attend_within_windows)


class Ragged:
    """Sequences of unequal length, packed one after the other, as a right-padded batch, or as the kernel takes them.

    What is needed of it on the device is made on the host and sent once, so that no one waits for
    the device.
    """

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        assert lengths and min(lengths) > 0, lengths
        self.lengths, self.device = list(lengths), device
        self.longest, self.total, self.even = max(lengths), sum(lengths), min(lengths) == max(lengths)

    @cached_property
    def sequences(self) -> flash.Sequences:
        bounds = torch.tensor([0, *accumulate(self.lengths)], dtype=torch.int32)
        return flash.Sequences(bounds.to(self.device, non_blocking=True), self.longest)

    @cached_property
    def real(self) -> Bool[Tensor, "row slot"]:
        """False in the padding."""
        return self._real_on_host.to(self.device, non_blocking=True)

    def places(self, first: Sequence[int]) -> tuple[Int[Tensor, " token"], Int[Tensor, " token"]]:
        """Row and slot of every packed token, if row i begins at slot `first[i]`."""
        row, slot = self._real_on_host.nonzero().T
        return row.to(self.device, non_blocking=True), (slot + torch.tensor(first)[row]).to(self.device, non_blocking=True)

    def pad(self, packed: Packed) -> Padded:
        """The right-padded batch. Callers mask the padding."""
        if self.even:
            return packed.unflatten(1, (len(self.lengths), self.longest)).transpose(0, 1)
        return _Gather.apply(packed, *self._index).unflatten(1, (len(self.lengths), self.longest)).transpose(0, 1)

    def unpad(self, padded: Padded) -> Packed:
        """The inverse of `pad`."""
        flat = padded.transpose(0, 1).flatten(1, 2)
        return flat if self.even else _Gather.apply(flat, self._index[1], None)

    @cached_property
    def _lengths(self) -> Int[Tensor, " row"]:
        return torch.tensor(self.lengths).to(self.device, non_blocking=True)

    @cached_property
    def _real_on_host(self) -> Bool[Tensor, "row slot"]:
        return torch.arange(self.longest) < torch.tensor(self.lengths)[:, None]

    @cached_property
    def _index(self) -> tuple[Int[Tensor, " slot"], Int[Tensor, " token"]]:
        """The packed index of every slot of the batch, and the slot of every packed token."""
        ends = torch.tensor(self.lengths).cumsum(0)[:, None]
        starts = ends - torch.tensor(self.lengths)[:, None]
        packed = (starts + torch.arange(self.longest)).minimum(ends - 1).flatten()  # padding repeats the last token of its row
        padded = self._real_on_host.flatten().nonzero()[:, 0]
        return packed.to(self.device, non_blocking=True), padded.to(self.device, non_blocking=True)

    def scan(self, scan: Scan, inputs: PackedInputs, state: State | None) -> tuple[PackedOutputs, State]:
        """`scan` of packed sequences: the output of every token, and the states at the ends."""
        out, ends = scan(self.pad(inputs[None])[:, 0], self._lengths, state)
        return self.unpad(out[:, None])[0], ends


class _Gather(torch.autograd.Function):
    """`x[:, index]` whose backward copies instead of summing.

    Every token is taken once. Padding repeats tokens, but carries no gradient.
    """

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


def _sdpa(
    query: Float[Tensor, "row head query width"],
    key: Float[Tensor, "row key_head key width"],
    value: Float[Tensor, "row key_head key width"],
    scale: float,
    mask: Bool[Tensor, "any_row 1 query key"] | None = None,
) -> Float[Tensor, "row head query width"]:
    """SDPA of a padded batch, causal without a mask: on a CPU, and in float32 on a GPU.

    PyTorch's memory-efficient kernel, the only one for float32 on a GPU, takes no grouped queries;
    with them PyTorch would compute all weights at once. So keys are repeated there.
    """
    repeat = query.shape[1] // key.shape[1]
    if repeat > 1 and query.device.type != "cpu":
        key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
    return scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=query.shape[1] != key.shape[1]
    )


class PackedGroups:
    """The layout of an update: every prompt once, then every suffix (turns and observations).

    Packed order: all prompts, then all suffixes, those of the first prompt first. `owner[s]` is the
    index of suffix s's prompt. A suffix attends to its whole prompt and causally to itself, never to
    another suffix.
    """

    def __init__(self, prompt_lengths: Sequence[int], suffix_lengths: Sequence[int], owner: Sequence[int], device: torch.device) -> None:
        assert sorted({*owner}) == [*range(len(prompt_lengths))] and sorted(owner) == [*owner], owner
        self.prompts, self.suffixes = Ragged(prompt_lengths, device), Ragged(suffix_lengths, device)
        self._all, self._siblings = Ragged([*prompt_lengths, *suffix_lengths], device), _grouped(self.suffixes, owner)
        self._owner_on_host = owner

    def attend(self, layer: int, query: Packed, key: PackedKeys, value: PackedKeys, scale: float) -> Packed:
        split = self.prompts.total  # index of the first suffix token
        if flash.kernel_takes(value):
            q, k, v = (x.transpose(0, 1) for x in (query, key, value))
            own, prompts = (self._all.sequences,) * 2, (self._siblings.sequences, self.prompts.sequences)
            return flash.AttendAlsoToPrompts.apply(q, k, v, k[:split], v[:split], own, prompts, split, scale).transpose(0, 1)
        prompt_key, prompt_value = self.prompts.pad(key[:, :split]), self.prompts.pad(value[:, :split])
        prompt = _sdpa(self.prompts.pad(query[:, :split]), prompt_key, prompt_value, scale)
        suffix = _sdpa(
            self.suffixes.pad(query[:, split:]),
            torch.cat([prompt_key.index_select(0, self._owner), self.suffixes.pad(key[:, split:])], dim=2),
            torch.cat([prompt_value.index_select(0, self._owner), self.suffixes.pad(value[:, split:])], dim=2),
            scale,
            self._mask,
        )
        return torch.cat([self.prompts.unpad(prompt), self.suffixes.unpad(suffix)], dim=1)

    def recur(self, layer: int, scan: Scan, inputs: PackedInputs) -> PackedOutputs:
        split = self.prompts.total
        prompt, state = self.prompts.scan(scan, inputs[:split], None)
        suffix, _ = self.suffixes.scan(scan, inputs[split:], state.take(self._owner))
        return torch.cat([prompt, suffix])

    @cached_property
    def _owner(self) -> Int[Tensor, " suffix"]:
        return torch.tensor(self._owner_on_host).to(self.prompts.device, non_blocking=True)

    @cached_property
    def _mask(self) -> Bool[Tensor, "row 1 query key"]:
        causal = torch.ones((self.suffixes.longest,) * 2, dtype=torch.bool, device=self._owner.device).tril()[None]
        prompt = self.prompts.real[:1] if self.prompts.even else self.prompts.real[self._owner]
        rows, queries = len(prompt), self.suffixes.longest
        parts = prompt[:, None].expand(rows, queries, -1), causal.expand(rows, queries, queries)
        return torch.cat(parts, dim=2)[:, None]


def _grouped(parts: Ragged, owner: Sequence[int]) -> Ragged:
    """The neighbouring parts of each owner as one sequence."""
    lengths: dict[int, int] = {}
    for length, each in zip(parts.lengths, owner, strict=True):
        lengths[each] = lengths.get(each, 0) + length
    return Ragged([*lengths.values()], parts.device)


@dataclass
class PromptCache:
    """Keys and values of prompts: per layer [prompt, head, slot, width], right-padded. Of every delta
    net the states at their ends.

    It is also the layout of the forward that fills it.
    """

    ragged: Ragged
    keys: list[Padded]
    values: list[Padded]
    states: list[State]

    @classmethod
    def empty(cls, lengths: Sequence[int], device: torch.device) -> "PromptCache":
        return cls(Ragged(lengths, device), [], [], [])

    def attend(self, layer: int, query: Packed, key: PackedKeys, value: PackedKeys, scale: float) -> Packed:
        """Causal attention within every prompt.

        Appends the layer's keys and values to the cache.
        """
        self.keys.append(self.ragged.pad(key).contiguous())
        self.values.append(self.ragged.pad(value).contiguous())
        if flash.kernel_takes(value):
            q, k, v = (x.transpose(0, 1) for x in (query, key, value))
            return flash.attend(q, k, v, (self.ragged.sequences,) * 2, causal=True, scale=scale)[0].transpose(0, 1)
        return self.ragged.unpad(_sdpa(self.ragged.pad(query), self.keys[layer], self.values[layer], scale))

    def recur(self, layer: int, scan: Scan, inputs: PackedInputs) -> PackedOutputs:
        out, state = self.ragged.scan(scan, inputs, None)
        self.states.append(state)
        return out


@dataclass
class SuffixCache:
    """Keys and values of what follows the prompts: per layer [row, head, slot, width]. Of every delta
    net the states of the rows.

    Row r is one rollout and holds `lengths[r]` tokens. `owner[r]` is the index of its prompt in
    `prompts`. Rows are sorted by prompt. Lengths and owners are on the host, so that reading them
    does not wait for the device.
    """

    prompts: PromptCache
    owner: list[int]
    lengths: list[int]
    keys: list[Padded]
    values: list[Padded]
    states: list[State]

    @classmethod
    def gather(
        cls, prompts: PromptCache, owner: Sequence[int], sources: Sequence["tuple[SuffixCache, int] | None"], longest: int, more: int = 0
    ) -> "SuffixCache":
        """A new cache for rows of up to `longest` tokens and `more` (`take`).

        Row r starts as a copy of `sources[r]`, an earlier (cache, row), or empty (None).
        """
        like = prompts.keys[0]
        shape = len(owner), like.shape[1], longest + min(more, SLOTS_ADDED), like.shape[3]
        # zeros: a masked slot is still multiplied by weight 0, and 0 x NaN is NaN
        keys, values = ([like.new_zeros(shape) for _ in prompts.keys] for _ in range(2))
        owners = torch.tensor(owner, device=like.device)
        lengths = [source[0].lengths[source[1]] if source else 0 for source in sources]
        rows = cls(prompts, list(owner), lengths, keys, values, [state.take(owners) for state in prompts.states])
        caches: dict[int, SuffixCache] = {id(source[0]): source[0] for source in sources if source}
        for key, cache in caches.items():
            copied = [(i, source[1]) for i, source in enumerate(sources) if source and id(source[0]) == key]
            filled = max(rows.lengths[i] for i, _ in copied)
            to, taken = torch.tensor(copied, device=like.device).T
            for new, old in ((rows.keys, cache.keys), (rows.values, cache.values)):
                for a, b in zip(new, old, strict=True):
                    a[to, :, :filled] = b[taken, :, :filled]
            for state, earlier in zip(rows.states, cache.states, strict=True):
                state.put(to, earlier.take(taken))
        return rows

    def take(self, index: Sequence[int], more: int = 0) -> "SuffixCache":
        """The rows at `index`. Of the free slots for `more` tokens at most `SLOTS_ADDED` are made at once."""
        lengths = [self.lengths[i] for i in index]
        slots, taken = max(lengths) + min(more, SLOTS_ADDED), torch.tensor(index, device=self.keys[0].device)
        keys, values = ([x[:, :, :slots].index_select(0, taken) for x in store] for store in (self.keys, self.values))
        owner, states = [self.owner[i] for i in index], [state.take(taken) for state in self.states]
        return SuffixCache(self.prompts, owner, lengths, keys, values, states)

    def part(self, rows: slice) -> "SuffixCache":
        """These rows, in the same memory."""
        keys, values = ([x[rows] for x in store] for store in (self.keys, self.values))
        return SuffixCache(self.prompts, self.owner[rows], self.lengths[rows], keys, values, [state.part(rows) for state in self.states])

    def reserve(self, slots: int) -> None:
        """Make room for `slots` tokens a row. A full cache grows by at least `SLOTS_ADDED` tokens a row."""
        missing = slots - self.keys[0].shape[2]
        if missing > 0:
            for store in (self.keys, self.values):
                for layer, x in enumerate(store):  # one layer after the other: only one is there twice
                    store[layer] = pad(x, (0, 0, 0, max(missing, SLOTS_ADDED)))


class AppendLayout:
    """The layout of a prefill: every row gets its own chunk of new tokens, packed in the order of
    the rows.

    The keys and values of the chunks are written into `rows`.
    """

    def __init__(self, rows: SuffixCache, lengths: Sequence[int]) -> None:
        device = rows.keys[0].device
        self.rows, self.chunks, self._before = rows, Ragged(lengths, device), list(rows.lengths)
        self._own = Ragged([a + b for a, b in zip(rows.lengths, lengths, strict=True)], device)  # tokens of every row after this prefill
        self._row, self._slot = self.chunks.places(rows.lengths)
        self._siblings = _grouped(self.chunks, rows.owner)
        used = sorted({*rows.owner})
        self._prompts = Ragged([rows.prompts.ragged.lengths[i] for i in used], device)  # without those that no row follows
        self._used = torch.tensor(used).to(device, non_blocking=True)

    def attend(self, layer: int, query: Packed, key: PackedKeys, value: PackedKeys, scale: float) -> Packed:
        rows = self.rows
        for store, new in ((rows.keys, key), (rows.values, value)):
            store[layer][self._row, :, self._slot] = new.transpose(0, 1)
        both = (rows.prompts.keys[layer], rows.keys[layer]), (rows.prompts.values[layer], rows.values[layer])
        if flash.kernel_takes(value):
            own = [self._own.unpad(mine[:, :, : self._own.longest]).transpose(0, 1) for _, mine in both]
            prompts = [self._prompts.unpad(self._of_used(prompt)).transpose(0, 1) for prompt, _ in both]
            sequences = (self.chunks.sequences, self._own.sequences), (self._siblings.sequences, self._prompts.sequences)
            return flash.AttendAlsoToPrompts.apply(query.transpose(0, 1), *own, *prompts, *sequences, 0, scale).transpose(0, 1)
        keys, values = (torch.cat([prompt.index_select(0, self._owner), mine[:, :, : self._own.longest]], dim=2) for prompt, mine in both)
        return self.chunks.unpad(_sdpa(self.chunks.pad(query), keys, values, scale, self._mask))

    def _of_used(self, prompts: Padded) -> Float[Tensor, "used head longest width"]:
        if len(self._used) == len(prompts):
            return prompts
        return prompts.index_select(0, self._used)[:, :, : self._prompts.longest]

    @cached_property
    def _owner(self) -> Int[Tensor, " row"]:
        return torch.tensor(self.rows.owner).to(self.chunks.device, non_blocking=True)

    @cached_property
    def _mask(self) -> Bool[Tensor, "row 1 query key"]:
        queries, prompts = self.chunks.longest, self.rows.prompts.ragged.real[self._owner]
        slot = torch.tensor(self._before)[:, None] + torch.arange(queries)
        own = (torch.arange(self._own.longest) <= slot[:, :, None]).to(prompts.device, non_blocking=True)
        return torch.cat([prompts[:, None].expand(-1, queries, -1), own], dim=2)[:, None]

    def recur(self, layer: int, scan: Scan, inputs: PackedInputs) -> PackedOutputs:
        before = self.rows.states[layer]
        out, after = self.chunks.scan(scan, inputs, before)
        before.put(slice(None), after)
        return out


class DecodeLayout:
    """The layout of a decoding step: one new token for every row.

    Reading the prompt's keys dominates decoding with long prompts. They are read once for all
    siblings, by one matrix product per prompt: queries are arranged in a grid [prompt, sibling].
    """

    def __init__(self, rows: SuffixCache) -> None:
        self.rows = rows
        device = rows.keys[0].device
        counts = [0] * len(rows.prompts.ragged.lengths)
        place = []  # of each row among its siblings
        for owner in rows.owner:
            place.append(counts[owner])
            counts[owner] += 1
        self.siblings = max(counts)
        self._even = min(counts) == self.siblings
        self._cell = torch.tensor([owner * self.siblings + at for owner, at in zip(rows.owner, place, strict=True)], device=device)
        self._row = torch.arange(len(rows.owner), device=device)
        self._length = torch.tensor(rows.lengths, device=device)  # on the device: no copy for each token
        real = rows.prompts.ragged.real
        self._prompt_mask = None if rows.prompts.ragged.even else torch.where(real, 0.0, float("-inf"))[:, None, None]

    def advance(self, active: Sequence[bool], is_active: Bool[Tensor, " row"]) -> None:
        """Call before each step's forward.

        An active row keeps the token that it is fed. Another one overwrites it in the next step, and
        keeps its states.
        `is_active` is `active` on the device.
        """
        self._active = is_active.long()
        self.filled = max(self.rows.lengths) + 1
        self.rows.reserve(self.filled)
        self.rows.lengths = [length + keeps for length, keeps in zip(self.rows.lengths, active, strict=True)]
        self._slot, self._length = self._length, self._length + is_active
        slots = torch.arange(self.filled, device=self._slot.device)
        self._own_mask = torch.where(slots <= self._slot[:, None], 0.0, float("-inf"))[:, None, None]

    def attend(self, layer: int, query: Packed, key: PackedKeys, value: PackedKeys, scale: float) -> Packed:
        rows, prompts = self.rows, self.rows.prompts
        for store, new in ((rows.keys, key), (rows.values, value)):
            store[layer][self._row, :, self._slot] = new.transpose(0, 1)
        heads, repeat = key.shape[0], query.shape[0] // key.shape[0]
        queries = (query * scale).unflatten(0, (heads, repeat)).permute(2, 0, 1, 3)  # row, head, repeat, width
        prompt_scores = torch.matmul(self._to_grid(queries), prompts.keys[layer].transpose(2, 3))
        if self._prompt_mask is not None:
            prompt_scores = prompt_scores + self._prompt_mask
        own_keys, own_values = rows.keys[layer][:, :, : self.filled], rows.values[layer][:, :, : self.filled]
        own_scores = torch.matmul(queries, own_keys.transpose(2, 3)) + self._own_mask
        slots = prompt_scores.shape[3]
        weight = torch.cat([self._from_grid(prompt_scores, repeat), own_scores], dim=3).float().softmax(3).to(value.dtype)
        out = self._from_grid(torch.matmul(self._to_grid(weight[..., :slots]), prompts.values[layer]), repeat)
        return (out + torch.matmul(weight[..., slots:], own_values)).permute(1, 2, 0, 3).flatten(0, 1)

    def recur(self, layer: int, scan: Scan, inputs: PackedInputs) -> PackedOutputs:
        out, self.rows.states[layer] = scan(inputs[:, None], self._active, self.rows.states[layer])
        return out[:, 0]

    def _to_grid(self, x: Float[Tensor, "row head repeat n"]) -> Float[Tensor, "prompt head sibling_repeat n"]:
        if not self._even:
            cells = x.new_zeros((len(self.rows.prompts.ragged.lengths) * self.siblings, *x.shape[1:]))
            x = cells.index_copy_(0, self._cell, x)
        return x.unflatten(0, (-1, self.siblings)).transpose(1, 2).flatten(2, 3)

    def _from_grid(self, x: Float[Tensor, "prompt head sibling_repeat n"], repeat: int) -> Float[Tensor, "row head repeat n"]:
        rows = x.unflatten(2, (self.siblings, repeat)).transpose(1, 2).flatten(0, 1)
        return rows if self._even else rows.index_select(0, self._cell)
