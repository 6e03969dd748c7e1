"""The flash-attention operators of PyTorch for the CPU, which has none: what they promise and what they refuse, sequence by sequence.

To import this module registers them for this process. focus calls them on a CPU only if `focus.model.flash.kernel_takes` says so.
"""

from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor

from focus.model import flash

CALLS: Counter[str] = Counter()


def flash_on_cpu(monkeypatch) -> Counter[str]:
    """For the rest of a test the kernel takes all tensors of the CPU. Returns its calls from here on."""
    monkeypatch.setattr(flash, "kernel_takes", lambda x: True)
    CALLS.clear()
    return CALLS


def flash_attention_forward(
    query, key, value, cum_seq_q, cum_seq_k, max_q, max_k, dropout_p, is_causal, return_debug_mask, *, scale=None, **rest
) -> tuple[Tensor, ...]:
    """Output [token, head, width], log-sum-exp of the scaled scores [head, token], and three that are not used."""
    CALLS["forward"] += 1
    assert not return_debug_mask and not any(rest.values())
    check(query, key, value, cum_seq_q, cum_seq_k, max_q, max_k, dropout_p)
    out, lse = torch.empty_like(query), query.new_empty(query.shape[1::-1], dtype=torch.float32)
    for queries, keys in sequences(cum_seq_q, cum_seq_k):
        scores = scores_of(query[queries], key[keys], is_causal, scale)
        lse[:, queries] = scores.logsumexp(-1).to(lse.dtype)
        out[queries] = (scores.softmax(-1) @ by_head(value[keys], query)).transpose(0, 1).to(out.dtype)
    return out, lse, query.new_empty(2, dtype=torch.uint64), query.new_empty((), dtype=torch.uint64), query.new_empty(0)


def flash_attention_backward(
    grad_out,
    query,
    key,
    value,
    out,
    logsumexp,
    cum_seq_q,
    cum_seq_k,
    max_q,
    max_k,
    dropout_p,
    is_causal,
    rng,
    unused,
    *,
    scale=None,
    **rest,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value. Weights are those of the log-sum-exp that is given, which may count further keys."""
    CALLS["backward"] += 1
    assert not any(rest.values()) and logsumexp.is_contiguous() and logsumexp.shape == query.shape[1::-1]
    assert out.shape == grad_out.shape == query.shape and out.dtype == grad_out.dtype == query.dtype
    check(query, key, value, cum_seq_q, cum_seq_k, max_q, max_k, dropout_p)
    dq, dk, dv = (torch.empty_like(x) for x in (query, key, value))
    for queries, keys in sequences(cum_seq_q, cum_seq_k):
        q, gradient, result = (by_head(x[queries], query) for x in (query, grad_out, out))
        k, v = (by_head(x[keys], query) for x in (key, value))
        weights = (scores_of(query[queries], key[keys], is_causal, scale) - logsumexp[:, queries, None]).exp()
        of_scores = weights * (gradient @ v.mT - (gradient * result).sum(-1, keepdim=True)) * scale
        dq[queries] = (of_scores @ k).transpose(0, 1).to(dq.dtype)
        for store, each in ((dk, of_scores.mT @ q), (dv, weights.mT @ gradient)):
            store[keys] = each.unflatten(0, (key.shape[1], -1)).sum(1).transpose(0, 1).to(store.dtype)
    return dq, dk, dv


def check(query, key, value, cum_seq_q, cum_seq_k, max_q, max_k, dropout_p) -> None:
    assert dropout_p == 0 and query.dtype == key.dtype == value.dtype and key.shape == value.shape
    assert query.shape[1] % key.shape[1] == 0 and query.shape[2] == key.shape[2] and query.shape[2] % 8 == 0
    assert all(x.stride(-1) == 1 for x in (query, key, value))
    assert len(cum_seq_q) == len(cum_seq_k)
    for bounds, longest, tokens in ((cum_seq_q, max_q, len(query)), (cum_seq_k, max_k, len(key))):
        assert bounds.dtype == torch.int32 and bounds.is_contiguous() and bounds[0] == 0 and bounds[-1] == tokens
        assert bounds.diff().min() > 0 and bounds.diff().max() == longest  # no sequence is empty: the kernel fails on some


def sequences(cum_seq_q, cum_seq_k) -> Iterator[tuple[slice, slice]]:
    ends = zip(cum_seq_q.tolist(), cum_seq_k.tolist(), strict=True)
    (q, k) = next(ends)
    for next_q, next_k in ends:
        yield slice(q, next_q), slice(k, next_k)
        q, k = next_q, next_k


def by_head(x, query) -> Tensor:
    """[head, token, width] in double precision, repeated for grouped queries."""
    return x.double().transpose(0, 1).repeat_interleave(query.shape[1] // x.shape[1], 0)


def scores_of(query, key, is_causal, scale) -> Tensor:
    """[head, query, key]; with `is_causal` the last query sees all keys, the one before it all but the last."""
    scores = by_head(query, query) @ by_head(key, query).mT * scale
    seen = torch.ones(scores.shape[1:], dtype=torch.bool).tril(len(key) - len(query))
    return scores.masked_fill(~seen, float("-inf")) if is_causal else scores


LIBRARY = torch.library.Library("aten", "IMPL")
LIBRARY.impl("_flash_attention_forward", flash_attention_forward, "CPU")
LIBRARY.impl("_flash_attention_backward", flash_attention_backward, "CPU")
