"""`scaled_dot_product_attention` on CUDA: which kernel serves a call, what a fused one computes and keeps."""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

HALF = (torch.float16, torch.bfloat16)


def kernel_of(query: Tensor, key: Tensor, mask: Tensor | None, causal: bool, capability: tuple[int, int]) -> str:
    """The kernel that serves `scaled_dot_product_attention`: the first in the order of preference that can.

    Rules of PyTorch 2.13, aten/src/ATen/native/transformers/cuda/sdp_utils.cpp.
    """
    half, width, grouped = query.dtype in HALF, query.shape[-1], query.shape[-3] != key.shape[-3]
    can = {
        "cudnn": half and width % 8 == 0 and width <= 128,
        "flash": half and width <= 256 and mask is None and not (causal and query.shape[-2] != key.shape[-2]),
        "efficient": not grouped,
        "math": True,
    }
    preferred = ("cudnn", "flash", "efficient", "math") if capability in ((9, 0), (10, 0)) else ("flash", "efficient", "math")
    return next(kernel for kernel in preferred if can[kernel])


def fused(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, scale: float | None) -> tuple[Tensor, Tensor]:
    """The output of a fused kernel, and its log-sum-exp a query, of which only the size is right: `fused_backward` needs none."""
    grouped = query.shape[-3] != key.shape[-3]
    out = scaled_dot_product_attention(query, key, value, mask, is_causal=causal, scale=scale, enable_gqa=grouped)
    return out, query.new_zeros(query.shape[:-1], dtype=torch.float32)


def fused_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, scale: float | None
) -> tuple[Tensor, ...]:
    """The gradients of query, key and value."""
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in (query, key, value)]
        return torch.autograd.grad(fused(*leaves, mask, causal, scale)[0], leaves, gradient)


def workspace_bytes(query: Tensor, key: Tensor, heads: int, key_heads: int) -> int:
    """Temporary bytes of a fused backward: the query's gradient in float32; with grouped queries those of key and value for every head.

    From PyTorch 2.13, aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp (mha_bwd).
    """
    grouped = 2 * key.nbytes * heads // key_heads if heads != key_heads else 0
    return 4 * query.numel() + grouped
