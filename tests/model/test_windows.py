"""The vision tower attends to all windows of one length in one call, and the result is that of a call for each window, bit by bit."""

import numpy as np
import pytest
import torch
from PIL import Image

from focus.model import attention
from focus.model.attention import WINDOWS
from focus.model.policy_model import PolicyModel
from tests.support.flash import flash_on_cpu


def seen(policy: PolicyModel, sizes: list[tuple[int, int]]):
    """Patches of random images; (rows, columns) in tokens."""
    random = np.random.default_rng(0)
    sides = [(rows * policy.token_px, columns * policy.token_px) for rows, columns in sizes]
    return policy.pack([Image.fromarray(random.integers(0, 256, (*side, 3), dtype=np.uint8)) for side in sides])


def passed(policy: PolicyModel, implementation: str, sizes: list[tuple[int, int]], monkeypatch):
    """Calls of the kernel in a forward, its outputs, and the gradients of all weights of the tower and of the patches."""
    tower, patches, calls = policy.backbone.visual, seen(policy, sizes), []
    values = patches.values.requires_grad_()
    sdpa = torch.nn.functional.scaled_dot_product_attention

    def counting(*args, **how):
        calls.append(args[0].shape)
        return sdpa(*args, **how)

    policy.model.zero_grad()
    with monkeypatch.context() as patch:
        patch.setattr(tower.config, "_attn_implementation", implementation)
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", counting)
        patch.setattr(attention, "scaled_dot_product_attention", counting)
        out = tower(values, grid_thw=patches.grids, return_dict=True)
    features = [out.pooler_output, *getattr(out, "deepstack_features", ())]
    sum((x * torch.linspace(-1, 1, x.numel()).view_as(x)).sum() for x in features).backward()
    gradients = {name: p.grad.clone() for name, p in tower.named_parameters()}
    return len(calls), features, gradients | {"patches": values.grad}


@pytest.mark.parametrize(
    ("family", "sizes", "calls"),
    [
        # windows of 2 x 2 tokens in the first of two layers, whole images in the second
        ("qwen2_5_vl", [(4, 4)], {"sdpa": 4 + 1, WINDOWS: 1 + 1}),
        ("qwen2_5_vl", [(3, 5)], {"sdpa": 6 + 1, WINDOWS: 3 + 1}),  # 2 of 4 tokens, 3 of 2, 1 of 1
        ("qwen2_5_vl", [(3, 5), (4, 4), (3, 5)], {"sdpa": 16 + 3, WINDOWS: 3 + 2}),
        # whole images in both layers
        ("qwen3_vl", [(4, 4)], {"sdpa": 1 + 1, WINDOWS: 1 + 1}),
        ("qwen3_vl", [(3, 5), (4, 4), (5, 3)], {"sdpa": 3 + 3, WINDOWS: 2 + 2}),
    ],
)
def test_windows_of_one_length_are_one_call_with_the_same_features_and_gradients(family, sizes, calls, request, monkeypatch):
    policy = request.getfixturevalue(family)
    each, together = (passed(policy, name, sizes, monkeypatch) for name in ("sdpa", WINDOWS))
    assert {"sdpa": each[0], WINDOWS: together[0]} == calls
    assert all(torch.equal(a, b) for a, b in zip(each[1], together[1], strict=True))
    assert each[2].keys() == together[2].keys()
    assert [name for name in each[2] if not torch.equal(each[2][name], together[2][name])] == []


@pytest.mark.parametrize("sizes", [[(4, 4)], [(3, 5), (4, 4), (3, 5)]])
def test_on_a_gpu_all_windows_are_one_call_of_the_flash_attention_kernel(policy, sizes, monkeypatch):
    _, features, gradients = passed(policy, WINDOWS, sizes, monkeypatch)
    calls = flash_on_cpu(monkeypatch)
    _, by_kernel, its_gradients = passed(policy, WINDOWS, sizes, monkeypatch)
    layers = len(policy.backbone.visual.blocks)
    assert calls == {"forward": layers, "backward": layers}
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(features, by_kernel, strict=True))
    assert all(torch.allclose(gradients[name], its_gradients[name], atol=1e-4, rtol=1e-4) for name in gradients)
