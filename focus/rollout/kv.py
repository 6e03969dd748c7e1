"""The default engine: a decode loop over the transformers model, on CPU or one GPU.

The prompt of a group is encoded once. Its keys and values are stored once and read once a step for
all siblings. A later turn feeds only its new tokens and the pixels of its crop. Finished rows leave
the batch. The result equals a full forward over the whole sequence at every position (tested in
fp32).

Position ids are always passed explicitly. transformers' own handling of a new image after a cached
prefix is silently wrong in some versions, and its stored rope deltas leak into the next batch.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from focus.model.caches import AppendLayout, DecodeLayout, PromptCache, SuffixCache
from focus.model.policy_model import PolicyModel
from focus.model.positions import mrope_positions
from focus.rollout.engine import Completion, Request, Requests, Sampling

PREFILL_TOKENS = 2**15  # most tokens of one forward of a prefill, if its rows are not longer
COMPACT_BELOW = 0.5  # finished rows leave the batch once fewer than this share of its rows is active


@dataclass(frozen=True)
class _CachedSequence:
    """An earlier request with its completion: its row in a cache, and how many tokens and images
    that row covers.
    """

    rows: SuffixCache
    row: int
    tokens: int
    images: int


class KVEngine:
    """Implements `Engine`.

    The shared cache of a prompt holds all its tokens but the last. Every row feeds the last one
    itself, to get a hidden state to sample from.

    By default only the latest turn of a rollout stays cached. With `keep_all_turns` all turns do,
    so that `logprobs` can continue from any of them and feeds fewer tokens.
    """

    shares_weights = True

    def __init__(self, policy: PolicyModel) -> None:
        self.policy, self.keep_all_turns = policy, False
        self.clear_cache()

    def clear_cache(self) -> None:
        self._prompts: PromptCache | None = None
        self._prompt_index: dict[str, int] = {}  # name of a prompt -> its index in `_prompts`
        self._cached: dict[str, _CachedSequence] = {}  # by request id

    sleep = clear_cache
    sync_weights = clear_cache  # the engine samples from the trainer's own weights

    def generate(self, requests: Requests, sampling: Sampling) -> Iterator[tuple[Request, Completion]]:
        # All conversations take a turn together. So batches, and with them the last digits of their results, do not depend on how fast
        # crops are cut. If rows joined where others leave, as many rows would be computed.
        while batch := requests.take():
            completions = self.generate_turn(batch, sampling)
            # Without idle processors, cutting crops would slow the sampling down: they wait for the end of the turn
            yield from completions if self.policy.has_idle_processors else list(completions)

    @torch.no_grad()
    def generate_turn(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[tuple[Request, Completion]]:
        """Sample one turn of every request, all side by side."""
        requests = [requests[i] for i in self._sort_by_prompt(requests)]
        rows, hidden, lengths = self._prefill(requests, sampling.tokens_per_turn)
        if not self.keep_all_turns:
            self._cached.clear()  # `rows` now holds a copy of every row that is continued
        last = hidden[torch.tensor(lengths, device=hidden.device).cumsum(0) - 1]
        for row, completion in self._decode(requests, rows, last, sampling):
            yield requests[row], completion

    @torch.no_grad()
    def logprobs(self, requests: Sequence[Request], tails: Sequence[int]) -> list[list[float]]:
        if not requests:
            return []
        order = self._sort_by_prompt(requests)
        _, hidden, lengths = self._prefill([requests[i] for i in order], 0)
        ends = np.cumsum(lengths)
        # a token is predicted by the hidden state of the token before it
        predecessors = torch.tensor([at for i, end in zip(order, ends, strict=True) for at in range(end - 1 - tails[i], end - 1)])
        targets = torch.tensor([token for i in order for token in requests[i].ids[len(requests[i].ids) - tails[i] :]])
        logprobs, _ = self.policy.token_logprobs(hidden[predecessors.to(hidden.device)], targets, 1.0)
        by_row = logprobs.split([tails[i] for i in order])
        return [values.tolist() for _, values in sorted(zip(order, by_row, strict=True), key=lambda pair: pair[0])]

    def _sort_by_prompt(self, requests: Sequence[Request]) -> list[int]:
        """Indices of the requests, sorted by prompt.

        Encodes the prompts first if one of them is not cached.
        """
        if any(request.prompt not in self._prompt_index for request in requests):
            self._encode_prompts({request.prompt: request for request in requests})
        return sorted(range(len(requests)), key=lambda i: self._prompt_index[requests[i].prompt])

    def _encode_prompts(self, prompts: dict[str, Request]) -> None:
        self.clear_cache()
        chunks = {name: request.ids[: request.prompt_tokens - 1] for name, request in prompts.items()}
        self._prompt_index = {name: i for i, name in enumerate(chunks)}
        self._prompts = PromptCache.empty([len(chunk) for chunk in chunks.values()], self.policy.model.device)
        self.policy.hidden(
            torch.tensor([token for chunk in chunks.values() for token in chunk]),
            _packed([self._position_ids(request)[:, : request.prompt_tokens - 1] for request in prompts.values()]),
            self.policy.encode_images([request.images[0] for request in prompts.values()]),
            self._prompts,
        )

    def _prefill(self, requests: Sequence[Request], more: int) -> tuple[SuffixCache, Float[Tensor, "token width"], list[int]]:
        """Feed the tokens of every request that are not cached yet.

        Returns the cache, with free slots for `more` tokens a row, the hidden states of the fed tokens,
        packed, and how many tokens each row was fed.
        """
        assert self._prompts is not None
        cached = [self._cached.get(request.parent) if request.parent else None for request in requests]
        starts = [c.tokens if c else request.prompt_tokens - 1 for request, c in zip(requests, cached, strict=True)]
        longest = max(len(request.ids) - request.prompt_tokens + 1 for request in requests)
        rows = SuffixCache.gather(
            self._prompts,
            [self._prompt_index[request.prompt] for request in requests],
            [(c.rows, c.row) if c else None for c in cached],
            longest,
            more,
        )
        lengths = [len(request.ids) - start for request, start in zip(requests, starts, strict=True)]
        images = [request.images[c.images if c else 1 :] for request, c in zip(requests, cached, strict=True)]
        features = iter(self.policy.encode_images([image for new in images for image in new]))
        hidden = []
        for part in _parts(lengths, PREFILL_TOKENS):
            fed = list(zip(requests[part], starts[part], strict=True))
            hidden.append(
                self.policy.hidden(
                    torch.tensor([token for request, start in fed for token in request.ids[start:]]),
                    _packed([self._position_ids(request)[:, start:] for request, start in fed]),
                    list(islice(features, sum(map(len, images[part])))),
                    AppendLayout(rows.part(part), lengths[part]),
                )
            )
        rows.lengths = [before + new for before, new in zip(rows.lengths, lengths, strict=True)]
        return rows, torch.cat(hidden), lengths

    def _position_ids(self, request: Request) -> np.ndarray:
        policy = self.policy
        patch_px = policy.token_px // policy.merge
        grids = [(1, image.height // patch_px, image.width // patch_px) for image in request.images]
        return mrope_positions(request.ids, grids, policy.image_pad_id, policy.merge)

    def _decode(
        self, requests: Sequence[Request], rows: SuffixCache, hidden: Float[Tensor, "row width"], sampling: Sampling
    ) -> Iterator[tuple[int, Completion]]:
        """Sample one turn for every row, starting from the hidden state of its last token.

        Yields (row, completion) as rows finish.

        `ids` and `logprobs` have a row for every request. All other tensors have a row for every
        row of the batch, which shrinks; `request_of[row]` is the index of its request. A step waits
        for the device once, to read its tokens.
        """
        policy, device = self.policy, hidden.device
        limit, stop_ids = sampling.tokens_per_turn, set(policy.stop_ids)
        generators = [torch.Generator().manual_seed(request.seed) for request in requests]
        noise = torch.stack([torch.rand(limit, generator=generator) for generator in generators]).to(device)
        position_ids = torch.tensor([int(self._position_ids(request)[:, -1].max()) for request in requests], device=device)
        banned = torch.tensor(policy.banned_ids, device=device)
        is_stop = torch.zeros(policy.model.config.get_text_config().vocab_size, dtype=torch.bool, device=device)
        is_stop[policy.stop_ids] = True
        ids: list[list[int]] = [[] for _ in requests]
        logprobs = torch.zeros((len(requests), limit), device=device)
        request_of = torch.arange(len(requests), device=device)
        places = list(range(len(requests)))  # `request_of` on the host
        active = [True] * len(requests)
        is_active = torch.ones(len(requests), dtype=torch.bool, device=device)  # `active` on the device
        layout = DecodeLayout(rows)

        def finish(done: Sequence[int]) -> Iterator[tuple[int, Completion]]:
            """Cache the rows at `done`, and yield their completions."""
            finished = rows.take(done)
            row_logprobs = logprobs[request_of[torch.tensor(done, device=device)]].tolist()
            for at, i in enumerate(places[row] for row in done):
                request, n = requests[i], len(ids[i])
                self._cached[request.id] = _CachedSequence(finished, at, len(request.ids) + n - 1, len(request.images))
                yield i, Completion(tuple(ids[i]), tuple(row_logprobs[at][:n]), ids[i][-1] in stop_ids)

        for step in range(limit):
            token, logprob = self._draw(hidden, banned, noise, sampling.temperature, request_of, step)
            logprobs[request_of, step] = logprob
            is_active = is_active & ~is_stop[token]
            for row, drawn in enumerate(token.tolist()):
                if active[row]:
                    ids[places[row]].append(drawn)
                    active[row] = drawn not in stop_ids
            n_active = sum(active)
            if n_active == 0 or step + 1 == limit:
                break
            if n_active < COMPACT_BELOW * len(active):
                yield from finish([row for row, goes_on in enumerate(active) if not goes_on])
                left = [row for row, goes_on in enumerate(active) if goes_on]
                kept = torch.tensor(left, device=device)
                rows, token, position_ids = rows.take(left, limit - step), token[kept], position_ids[kept]
                request_of, places = request_of[kept], [places[row] for row in left]
                active, is_active = [True] * n_active, is_active[kept]
                layout = DecodeLayout(rows)
            position_ids = position_ids + 1
            layout.advance(active, is_active)
            hidden = policy.hidden(token, position_ids.expand(3, -1), (), layout)
        yield from finish(range(len(active)))

    def _draw(
        self,
        hidden: Float[Tensor, "row width"],
        banned: Int[Tensor, " banned"],
        noise: Float[Tensor, "request step"],
        temperature: float,
        request_of: Int[Tensor, " row"],
        step: int,
    ) -> tuple[Int[Tensor, " row"], Float[Tensor, " row"]]:
        """Sample token number `step` of every row, and return it with its log-probability."""
        return draw(self.policy.head(hidden).float(), banned, temperature, noise[request_of, step])


class CopiedKVEngine(KVEngine):
    """`kv` over a copy of the weights that learn, so that it can sample while the policy trains.

    Frozen weights are shared. Weights that are divided over ranks can't be copied.
    """

    shares_weights = False

    def __init__(self, policy: PolicyModel) -> None:
        super().__init__(policy)
        self.trained = policy

    @torch.no_grad()
    def sync_weights(self) -> None:
        self.clear_cache()
        trained = self.trained.model
        if self.policy is self.trained:  # the first time: the weights have their device and dtype by now
            frozen = {id(p): p for p in trained.parameters() if not p.requires_grad}
            self.policy = replace(self.trained, model=deepcopy(trained, frozen))
            return
        for copy, weight in zip(self.policy.model.parameters(), trained.parameters(), strict=True):
            if copy is not weight:
                copy.copy_(weight)


def _parts(lengths: Sequence[int], most: int) -> Iterator[slice]:
    """Consecutive rows in parts of at most `most` tokens, or of one row."""
    start, tokens = 0, 0
    for row, length in enumerate(lengths):
        if row > start and tokens + length > most:
            yield slice(start, row)
            start, tokens = row, 0
        tokens += length
    yield slice(start, len(lengths))


def _packed(position_ids: Sequence[np.ndarray]) -> Int[Tensor, "3 token"]:
    return torch.from_numpy(np.concatenate(position_ids, axis=1))


def draw(
    logits: Float[Tensor, "row word"], banned: Int[Tensor, " banned"], temperature: float, noise: Float[Tensor, " row"]
) -> tuple[Int[Tensor, " row"], Float[Tensor, " row"]]:
    """Sample one token a row by inverse transform of `noise` in [0, 1).

    Returns the tokens and their log-probabilities.

    Banned tokens have probability 0. The log-probability is that of the distribution sampled from.
    At temperature 0 (greedy) it is that of temperature 1.
    """
    logits = logits.index_fill(1, banned, float("-inf"))
    logprobs = torch.log_softmax(logits / (temperature or 1.0), dim=-1)
    if temperature == 0:
        token = logits.argmax(-1)
    else:
        cumulative = logprobs.exp().cumsum(-1)
        token = torch.searchsorted(cumulative, (noise * cumulative[:, -1])[:, None], right=True)[:, 0].clamp_max(logits.shape[1] - 1)
    return token, logprobs.gather(1, token[:, None])[:, 0]
