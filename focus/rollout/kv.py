"""The default engine: an own decode loop over the transformers model, on CPU or one GPU.

A prompt that several conversations share is encoded once and its cache repeated; a later turn appends only its new tokens
and its crop's pixels. The result equals a full re-forward at every position (tested in fp32).

Positions are always passed explicitly: transformers' own handling of a new image over an old cache is silently wrong in some
versions, and its remembered rope deltas leak from one batch into the next.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache

from focus.checkpoint import Checkpoint, positions
from focus.rollout.engine import Completion, Conversation, Sampling


class KVEngine:
    """Implements `Engine` with one key-value cache whose rows are the living conversations."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.forget()

    def forget(self) -> None:
        self._cache: DynamicCache | None = None
        self._mask: Bool[Tensor, "row slot"] = torch.zeros((0, 0), dtype=torch.bool)
        self._rows: dict[str, tuple[int, int, int]] = {}  # conversation -> row, tokens in cache, images in cache

    @torch.no_grad()
    def generate(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Completion]:
        if not conversations:
            return []
        was_training = self.checkpoint.model.training
        self.checkpoint.model.eval()  # activation checkpointing in train mode would switch the cache off
        try:
            if all(c.parent in self._rows for c in conversations):
                kept = [self._rows[c.parent] for c in conversations]
                self._select([row for row, _, _ in kept])
                hidden = self._feed(
                    [c.ids[cached:] for c, (_, cached, _) in zip(conversations, kept, strict=True)],
                    [self._positions(c)[:, cached:] for c, (_, cached, _) in zip(conversations, kept, strict=True)],
                    [image for c, (_, _, n) in zip(conversations, kept, strict=True) for image in c.images[n:]],
                )
            else:
                self.forget()
                prompts = {c.parent: c for c in conversations}
                order = {parent: row for row, parent in enumerate(prompts)}
                assert all(c.ids == prompts[c.parent].ids for c in conversations), "siblings of a first turn share one prompt"
                first = list(prompts.values())
                hidden = self._feed([c.ids for c in first], [self._positions(c) for c in first], [i for c in first for i in c.images])
                expand = [order[c.parent] for c in conversations]
                self._select(expand)
                hidden = hidden[expand]
            return self._decode(conversations, hidden, sampling)
        finally:
            self.checkpoint.model.train(was_training)

    def _positions(self, conversation: Conversation) -> np.ndarray:
        c = self.checkpoint
        patch_px = c.token_px // c.merge
        grids = [(1, image.height // patch_px, image.width // patch_px) for image in conversation.images]
        return positions(conversation.ids, grids, c.image_pad_id, c.merge)

    def _select(self, rows: Sequence[int]) -> None:
        assert self._cache is not None
        index = torch.tensor(rows)
        if not torch.equal(index, torch.arange(len(self._mask))):
            self._cache.batch_select_indices(index.to(self.checkpoint.model.device))
            self._mask = self._mask[index]

    def _feed(self, chunks: Sequence[Sequence[int]], places: Sequence[np.ndarray], images: Sequence) -> Float[Tensor, "row width"]:
        """Append one ragged chunk to every row (left-padded) and return the hidden state of each row's last token."""
        c = self.checkpoint
        rows, longest = len(chunks), max(len(chunk) for chunk in chunks)
        ids = torch.full((rows, longest), c.pad_id)
        place = torch.zeros((3, rows, longest), dtype=torch.long)
        mask = torch.zeros((rows, longest), dtype=torch.bool)
        for row, (chunk, positions_) in enumerate(zip(chunks, places, strict=True)):
            ids[row, longest - len(chunk) :] = torch.tensor(chunk)
            place[:, row, longest - len(chunk) :] = torch.from_numpy(np.ascontiguousarray(positions_))
            mask[row, longest - len(chunk) :] = True
        return self._forward(ids, place, mask, images)[:, -1]

    def _forward(
        self, ids: Int[Tensor, "row new"], place: Int[Tensor, "3 row new"], mask: Bool[Tensor, "row new"], images: Sequence = ()
    ) -> Float[Tensor, "row new width"]:
        c, device = self.checkpoint, self.checkpoint.model.device
        if self._cache is None:
            self._cache = DynamicCache(config=c.model.config.get_text_config())
            self._mask = mask
        else:
            self._mask = torch.cat([self._mask, mask], dim=1)
        vision = {}
        if images:
            pixels = c.pack(images)
            vision = {"pixel_values": pixels.values.to(device), "image_grid_thw": pixels.grids.to(device)}
        out = c.core(
            input_ids=ids.to(device),
            position_ids=place.to(device),
            attention_mask=self._mask.long().to(device),
            mm_token_type_ids=(ids == c.image_pad_id).int().to(device),
            past_key_values=self._cache,
            use_cache=True,
            **vision,
        )
        return out.last_hidden_state

    def _decode(self, conversations: Sequence[Conversation], hidden: Float[Tensor, "row width"], sampling: Sampling) -> list[Completion]:
        c = self.checkpoint
        rows = len(conversations)
        noise = torch.stack(
            [torch.rand(sampling.tokens_per_turn, generator=torch.Generator().manual_seed(conv.seed)) for conv in conversations]
        )
        place = torch.tensor([int(self._positions(conv)[:, -1].max()) for conv in conversations])
        stop = torch.zeros(c.model.config.get_text_config().vocab_size, dtype=torch.bool)
        stop[c.stop_ids] = True
        banned = torch.tensor(c.banned_ids)
        ids = torch.zeros((rows, sampling.tokens_per_turn), dtype=torch.long)
        logprobs = torch.zeros((rows, sampling.tokens_per_turn))
        active = torch.ones(rows, dtype=torch.bool)
        length = torch.zeros(rows, dtype=torch.long)
        for step in range(sampling.tokens_per_turn):
            token, logprob = draw(c.head(hidden).float().cpu(), banned, sampling.temperature, noise[:, step])
            ids[:, step] = token
            logprobs[:, step] = logprob
            length += active
            active = active & ~stop[token]
            if step + 1 == sampling.tokens_per_turn or not bool(active.any()):
                break
            place += active
            fed = torch.where(active, token, c.pad_id)[:, None]
            hidden = self._forward(fed, place.expand(3, rows)[:, :, None], active[:, None])[:, -1]
        self._rows = {
            conv.id: (row, len(conv.ids) + int(n) - 1, len(conv.images))
            for row, (conv, n) in enumerate(zip(conversations, length, strict=True))
        }
        stopped = stop[ids[torch.arange(rows), length - 1]]
        return [
            Completion(tuple(ids[row, :n].tolist()), tuple(logprobs[row, :n].tolist()), bool(stopped[row]))
            for row, n in enumerate(length.tolist())
        ]


def draw(
    logits: Float[Tensor, "row word"], banned: Int[Tensor, " word"], temperature: float, noise: Float[Tensor, " row"]
) -> tuple[Int[Tensor, " row"], Float[Tensor, " row"]]:
    """One token for each row by inverse transform of `noise` in [0, 1), and its log-probability.

    Banned tokens have probability zero. The log-probability is that of the distribution drawn from; at temperature 0, which
    has none, it is that of temperature 1.
    """
    logits = logits.index_fill(1, banned, float("-inf"))
    logprobs = torch.log_softmax(logits / (temperature or 1.0), dim=-1)
    if temperature == 0:
        token = logits.argmax(-1)
    else:
        heaped = logprobs.exp().cumsum(-1)
        token = torch.searchsorted(heaped, (noise * heaped[:, -1])[:, None], right=True)[:, 0].clamp_max(logits.shape[1] - 1)
    return token, logprobs.gather(1, token[:, None])[:, 0]
