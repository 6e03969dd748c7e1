"""Attention of packed sequences of unequal length by the flash-attention kernel in PyTorch.

The two operators below are those that `torch.nn.attention.varlen.varlen_attn` consists of. They are
called directly for two reasons. Keys in two places need a backward that gets the joined output and
log-sum-exp; `varlen_attn` gives none. And `varlen_attn` takes grouped queries from PyTorch 2.13 on,
the operators take them in every version.

Tensors are [token, head, width] here; the keys may have fewer heads than the queries. The head width
is a multiple of 8 and at most 256.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

Queries = Float[Tensor, "token head width"]
Keys = Float[Tensor, "key key_head width"]
LogSumExp = Float[Tensor, "head token"]  # float32, of the scaled scores


class Sequences(NamedTuple):
    """Packed sequences, as the kernel takes them."""

    bounds: Int[Tensor, " sequence_plus_1"]  # int32: 0, then the end of every sequence. No sequence is empty
    longest: int


def kernel_takes(x: Tensor) -> bool:
    """Whether the kernel takes tensors of this device and dtype. It has no float32 and runs on NVIDIA GPUs from A100 on."""
    return x.is_cuda and x.dtype in (torch.float16, torch.bfloat16)


def attend(
    query: Queries, key: Keys, value: Keys, sequences: tuple[Sequences, Sequences], causal: bool, scale: float
) -> tuple[Queries, LogSumExp]:
    """Attention of sequence i of the queries to sequence i of the keys; `sequences` are those of both.

    With `causal` the last query sees all keys, the one before it all but the last, and so on.
    Differentiable, but not through the log-sum-exp.
    """
    (query_bounds, longest_query), (key_bounds, longest_key) = sequences
    out, log_sum_exp, *_ = torch.ops.aten._flash_attention_forward(
        query, key, value, query_bounds, key_bounds, longest_query, longest_key, 0.0, causal, False, scale=scale
    )
    return out, log_sum_exp


def _gradients(
    gradient: Queries,
    query: Queries,
    key: Keys,
    value: Keys,
    out: Queries,
    log_sum_exp: LogSumExp,
    sequences: tuple[Sequences, Sequences],
    causal: bool,
    scale: float,
) -> tuple[Queries, Keys, Keys]:
    """Gradients of `attend` for query, key and value."""
    unused = query.new_empty(2, dtype=torch.uint64)  # random state of dropout
    (query_bounds, longest_query), (key_bounds, longest_key) = sequences
    lengths = query_bounds, key_bounds, longest_query, longest_key
    dq, dk, dv = torch.ops.aten._flash_attention_backward(
        gradient, query, key, value, out, log_sum_exp, *lengths, 0.0, causal, unused, unused, scale=scale
    )
    return dq, dk, dv


class AttendAlsoToPrompts(torch.autograd.Function):
    """Causal attention within sequences, and of those after `split` also to all keys of their prompt.

    Two calls of the kernel, joined into one softmax by their log-sum-exp, as ring attention joins
    its blocks (arXiv 2310.01889). A prompt's keys are read where they are, for all siblings at once;
    one call would need a copy of them for each. The gradient is exact: with the joined output and
    log-sum-exp, the backward of either call gives its share.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Queries,
        key: Keys,
        value: Keys,
        prompt_key: Float[Tensor, "prompt_key key_head width"],
        prompt_value: Float[Tensor, "prompt_key key_head width"],
        own: tuple[Sequences, Sequences],
        prompts: tuple[Sequences, Sequences],
        split: int,
        scale: float,
    ) -> Queries:
        """`own`: sequences of the queries and of `key`. `prompts`: of the queries from token `split` on, and of `prompt_key`."""
        out, log_sum_exp = attend(query, key, value, own, True, scale)
        more, more_lse = attend(query[split:], prompt_key, prompt_value, prompts, False, scale)
        before, before_lse = out[split:].float(), log_sum_exp[:, split:]
        weight = (more_lse - before_lse).sigmoid().T[..., None]
        out[split:] = torch.lerp(before, more.float(), weight)
        log_sum_exp[:, split:] = torch.logaddexp(before_lse, more_lse)
        ctx.save_for_backward(query, key, value, prompt_key, prompt_value, out, log_sum_exp)
        ctx.own, ctx.prompts, ctx.split, ctx.scale = own, prompts, split, scale
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Queries) -> tuple[Any, ...]:
        query, key, value, prompt_key, prompt_value, out, log_sum_exp = ctx.saved_tensors
        [gradient], split, scale = gradients, ctx.split, ctx.scale
        dq, dk, dv = _gradients(gradient, query, key, value, out, log_sum_exp, ctx.own, True, scale)
        of_prompt = gradient[split:], query[split:], prompt_key, prompt_value, out[split:], log_sum_exp[:, split:].contiguous()
        more_dq, prompt_dk, prompt_dv = _gradients(*of_prompt, ctx.prompts, False, scale)
        dq[split:] += more_dq
        return dq, dk, dv, prompt_dk, prompt_dv, None, None, None, None
