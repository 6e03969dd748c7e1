"""The default engine: an own decode loop over the transformers model, on CPU or one GPU.

A prompt that several conversations share is encoded once, and its keys and values are held and read once for all of them; a later
turn appends only its new tokens and its crop's pixels. Rows that have finished leave the batch. The result equals a full
re-forward at every position (tested in fp32).

Positions are always passed explicitly: transformers' own handling of a new image over an old cache is silently wrong in some
versions, and its remembered rope deltas leak from one batch into the next.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from focus.model.attention import Append, Prompts, Rows, Step
from focus.model.policy_model import PolicyModel
from focus.model.positions import mrope_positions
from focus.rollout.engine import Completion, Request, Sampling

LEAVE_AT = 0.5  # finished rows leave the batch once the living are fewer than this share of it


@dataclass(frozen=True)
class _Kept:
    """Where an earlier conversation stands: its row, and how many of its tokens and images the cache holds."""

    rows: Rows
    row: int
    tokens: int
    images: int


class KVEngine:
    """Implements `Engine`. Of every prompt all but the last token is held in common: each row feeds at least that one itself.

    Of a conversation only its latest turn is held, unless `keep_all_turns`: then `weigh` goes on from any turn and reads less again.
    """

    def __init__(self, policy: PolicyModel) -> None:
        self.policy, self.keep_all_turns = policy, False
        self.clear_cache()

    def clear_cache(self) -> None:
        self._prompts: Prompts | None = None
        self._order: dict[str, int] = {}  # prompt -> its place in `_prompts`
        self._kept: dict[str, _Kept] = {}

    sync_weights = clear_cache  # the weights are the trainer's own

    @torch.no_grad()
    def generate(self, conversations: Sequence[Request], sampling: Sampling) -> Iterator[tuple[int, Completion]]:
        if not conversations:
            return
        order = self._by_prompt(conversations)
        rows, hidden, lengths = self._append([conversations[i] for i in order], sampling.tokens_per_turn)
        if not self.keep_all_turns:
            self._kept.clear()  # who goes on has been gathered
        last = hidden[torch.tensor(lengths, device=hidden.device).cumsum(0) - 1]
        for row, completion in self._decode([conversations[i] for i in order], rows, last, sampling):
            yield order[row], completion

    @torch.no_grad()
    def logprobs(self, conversations: Sequence[Request], tails: Sequence[int]) -> list[list[float]]:
        if not conversations:
            return []
        order = self._by_prompt(conversations)
        _, hidden, lengths = self._append([conversations[i] for i in order], 0)
        ends = np.cumsum(lengths)
        before = torch.tensor([at for i, end in zip(order, ends, strict=True) for at in range(end - 1 - tails[i], end - 1)])
        words = torch.tensor([word for i in order for word in conversations[i].ids[len(conversations[i].ids) - tails[i] :]])
        weighed, _ = self.policy.token_logprobs(hidden[before.to(hidden.device)], words, 1.0)
        each = weighed.split([tails[i] for i in order])
        return [value.tolist() for _, value in sorted(zip(order, each, strict=True), key=lambda pair: pair[0])]

    def _by_prompt(self, conversations: Sequence[Request]) -> list[int]:
        """Their order by prompt; prompts are read first where one of them is not held yet."""
        if any(c.prompt not in self._order for c in conversations):
            self._read_prompts({c.prompt: c for c in conversations})
        return sorted(range(len(conversations)), key=lambda i: self._order[conversations[i].prompt])

    def _read_prompts(self, prompts: dict[str, Request]) -> None:
        self.clear_cache()
        chunks = {name: c.ids[: c.prompt_tokens - 1] for name, c in prompts.items()}
        self._order = {name: i for i, name in enumerate(chunks)}
        self._prompts = Prompts.empty([len(chunk) for chunk in chunks.values()], self.policy.model.device)
        self.policy.hidden(
            torch.tensor([i for chunk in chunks.values() for i in chunk]),
            _side_by_side([self._positions(c)[:, : c.prompt_tokens - 1] for c in prompts.values()]),
            self.policy.encode_images([c.images[0] for c in prompts.values()]),
            self._prompts,
        )

    def _append(self, conversations: Sequence[Request], slots: int) -> tuple[Rows, Float[Tensor, "token width"], list[int]]:
        """Feed to every row what it has not seen yet; returns the rows, the hidden states of what was fed, and its length in each row."""
        assert self._prompts is not None
        kept = [self._kept.get(c.parent) if c.parent else None for c in conversations]
        starts = [k.tokens if k else c.prompt_tokens - 1 for c, k in zip(conversations, kept, strict=True)]
        longest = max(len(c.ids) - c.prompt_tokens + 1 for c in conversations)
        rows = Rows.gather(
            self._prompts,
            [self._order[c.prompt] for c in conversations],
            [(k.rows, k.row) if k else None for k in kept],
            longest + slots,
        )
        lengths = [len(c.ids) - start for c, start in zip(conversations, starts, strict=True)]
        images = [image for c, k in zip(conversations, kept, strict=True) for image in c.images[k.images if k else 1 :]]
        hidden = self.policy.hidden(
            torch.tensor([i for c, start in zip(conversations, starts, strict=True) for i in c.ids[start:]]),
            _side_by_side([self._positions(c)[:, start:] for c, start in zip(conversations, starts, strict=True)]),
            self.policy.encode_images(images),
            Append(rows, lengths),
        )
        rows.lengths += torch.tensor(lengths, device=rows.lengths.device)
        return rows, hidden, lengths

    def _positions(self, conversation: Request) -> np.ndarray:
        c = self.policy
        patch_px = c.token_px // c.merge
        grids = [(1, image.height // patch_px, image.width // patch_px) for image in conversation.images]
        return mrope_positions(conversation.ids, grids, c.image_pad_id, c.merge)

    def _decode(
        self, conversations: Sequence[Request], rows: Rows, hidden: Float[Tensor, "row width"], sampling: Sampling
    ) -> Iterator[tuple[int, Completion]]:
        c, device = self.policy, hidden.device
        limit = sampling.tokens_per_turn
        generators = [torch.Generator().manual_seed(conversation.seed) for conversation in conversations]
        noise = torch.stack([torch.rand(limit, generator=generator) for generator in generators]).to(device)
        place = torch.tensor([int(self._positions(conversation)[:, -1].max()) for conversation in conversations], device=device)
        stop = torch.zeros(c.model.config.get_text_config().vocab_size, dtype=torch.bool, device=device)
        stop[c.stop_ids] = True
        ids = torch.zeros((len(conversations), limit), dtype=torch.long, device=device)
        logprobs = torch.zeros((len(conversations), limit), device=device)
        here = torch.arange(len(conversations), device=device)  # the conversation of each row of the batch
        active = torch.ones(len(conversations), dtype=torch.bool, device=device)
        drawn = torch.zeros(len(conversations), dtype=torch.long, device=device)  # by each row of the batch
        step = Step(rows)

        def finish(done: Tensor) -> Iterator[tuple[int, Completion]]:
            left = rows.take(done)
            gone, counts = here[done].tolist(), drawn[done].tolist()
            said, weighed = ids[here[done]].tolist(), logprobs[here[done]].tolist()
            ended = stop[ids[here[done], drawn[done] - 1]].tolist()
            for row, (i, n) in enumerate(zip(gone, counts, strict=True)):
                conversation = conversations[i]
                self._kept[conversation.id] = _Kept(left, row, len(conversation.ids) + n - 1, len(conversation.images))
                yield i, Completion(tuple(said[row][:n]), tuple(weighed[row][:n]), ended[row])

        for at in range(limit):
            token, logprob = self._draw(hidden, noise, sampling.temperature, here, at)
            ids[here, at] = token
            logprobs[here, at] = logprob
            drawn += active
            active = active & ~stop[token]
            living = int(active.sum())
            if living == 0 or at + 1 == limit:
                break
            if living < LEAVE_AT * len(here):
                yield from finish((~active).nonzero()[:, 0])
                kept = active.nonzero()[:, 0]
                rows, token, place, here, drawn = rows.take(kept, limit - at), token[kept], place[kept], here[kept], drawn[kept]
                active, step = active[kept], Step(rows)
            place += active
            step.advance()
            hidden = c.hidden(torch.where(active, token, c.pad_id), place.expand(3, -1), (), step)
            rows.lengths += active
        yield from finish(torch.arange(len(here), device=device))

    def _draw(
        self, hidden: Float[Tensor, "row width"], noise: Float[Tensor, "conversation token"], temperature: float, here: Tensor, at: int
    ) -> tuple[Int[Tensor, " row"], Float[Tensor, " row"]]:
        """Token number `at` of the conversations `here`, and its log-probability."""
        banned = torch.tensor(self.policy.banned_ids, device=hidden.device)
        return draw(self.policy.head(hidden).float(), banned, temperature, noise[here, at])


def _side_by_side(places: Sequence[np.ndarray]) -> Int[Tensor, "3 token"]:
    return torch.from_numpy(np.concatenate(places, axis=1))


def draw(
    logits: Float[Tensor, "row word"], banned: Int[Tensor, " banned"], temperature: float, noise: Float[Tensor, " row"]
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
