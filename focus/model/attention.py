"""Attention for rollouts that share prompts.

The keys and values of a prompt exist once for its group.

All tokens of a forward are packed into ONE row: linear layers see no padding, and only attention
and delta nets (Qwen3.5) know about sequences. A `Layout` says which token attends to which. It is
passed through transformers' forward as a keyword, and every text layer calls it. Without a layout
the model is a plain transformers model with its usual attention.

The vision tower attends within windows, or within images. All of one length are one call.
"""

from collections.abc import Sequence
from functools import cached_property, partial
from itertools import accumulate
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from focus.model import delta_net, flash
from focus.model.delta_net import Scan, State

LAYOUT = "shared_prompt"  # names under which transformers knows the two functions below
WINDOWS = "flash_windows"  # transformers gives all windows at once only to an attention with `flash` in its name
NO_MASK = torch.zeros((1, 1, 1, 1))  # transformers passes a 4-D mask on unchanged; without one it would build its own

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


def sdpa(
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
        self._all, self._siblings = Ragged([*prompt_lengths, *suffix_lengths], device), grouped(self.suffixes, owner)
        self._owner_on_host = owner

    def attend(self, layer: int, query: Packed, key: PackedKeys, value: PackedKeys, scale: float) -> Packed:
        split = self.prompts.total  # index of the first suffix token
        if flash.kernel_takes(value):
            q, k, v = (x.transpose(0, 1) for x in (query, key, value))
            own, prompts = (self._all.sequences,) * 2, (self._siblings.sequences, self.prompts.sequences)
            return flash.AttendAlsoToPrompts.apply(q, k, v, k[:split], v[:split], own, prompts, split, scale).transpose(0, 1)
        prompt_key, prompt_value = self.prompts.pad(key[:, :split]), self.prompts.pad(value[:, :split])
        prompt = sdpa(self.prompts.pad(query[:, :split]), prompt_key, prompt_value, scale)
        suffix = sdpa(
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


def grouped(parts: Ragged, owner: Sequence[int]) -> Ragged:
    """The neighbouring parts of each owner as one sequence."""
    lengths: dict[int, int] = {}
    for length, each in zip(parts.lengths, owner, strict=True):
        lengths[each] = lengths.get(each, 0) + length
    return Ragged([*lengths.values()], parts.device)
