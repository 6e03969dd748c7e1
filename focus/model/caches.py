"""Keys and values that the sampler keeps: those of a prompt once for its group, those of what follows for each rollout.

Here are also the layouts of its forwards, which fill and read them: prompts, chunks of new tokens,
one new token a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from focus.model import flash
from focus.model.attention import Packed, PackedInputs, PackedKeys, PackedOutputs, Padded, Ragged, grouped, sdpa
from focus.model.delta_net import Scan, State

SLOTS_ADDED = 256  # a cache that is full grows by so many tokens a row


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
        return self.ragged.unpad(sdpa(self.ragged.pad(query), self.keys[layer], self.values[layer], scale))

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
        self._siblings = grouped(self.chunks, rows.owner)
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
        return self.chunks.unpad(sdpa(self.chunks.pad(query), keys, values, scale, self._mask))

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
