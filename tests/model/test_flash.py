"""Attention of packed sequences by the flash-attention kernel: the same numbers and gradients as by SDPA on padded batches."""

from types import SimpleNamespace

import pytest
import torch

from focus.model import attention, flash
from focus.model.attention import PackedGroups, Ragged
from focus.model.caches import AppendLayout, PromptCache, SuffixCache
from focus.rollout.engine import Sampling
from focus.rollout.loop import RolloutLimits, play
from tests.support.flash import flash_on_cpu
from tests.support.reference import plain_logprobs
from tests.support.scripted import boxes_of, opened, steer

CPU = torch.device("cpu")
LAYOUTS = {  # lengths of prompts and suffixes, and the prompt of every suffix
    "one prompt": ([5], [3, 1, 4], [0, 0, 0]),
    "two prompts": ([5, 2], [3, 1, 4, 7], [0, 0, 0, 1]),
    "three of one length": ([4, 4, 4], [2, 2, 2], [0, 1, 2]),
    "one token each": ([1, 1], [1, 1, 1], [0, 1, 1]),
}


def attended(layout: PackedGroups, tokens: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """The output for random queries of 4 heads, keys and values of 2, and their gradients."""
    made = torch.Generator().manual_seed(0)
    given = [torch.randn(heads, tokens, 8, generator=made).to(dtype).requires_grad_() for heads in (4, 2, 2)]
    out = layout.attend(0, *given, 0.3)
    (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
    return [out.detach().float(), *(x.grad.float() for x in given)]


@pytest.mark.parametrize(("dtype", "apart"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
@pytest.mark.parametrize("name", LAYOUTS)
def test_suffixes_see_their_prompt_and_themselves_whichever_way(name, dtype, apart, monkeypatch):
    prompts, suffixes, owner = LAYOUTS[name]
    tokens = sum(prompts) + sum(suffixes)
    expected = attended(PackedGroups(prompts, suffixes, owner, CPU), tokens, torch.float32)
    calls = flash_on_cpu(monkeypatch)
    found = attended(PackedGroups(prompts, suffixes, owner, CPU), tokens, dtype)
    assert calls == {"forward": 2, "backward": 2}
    for a, b in zip(expected, found, strict=True):
        assert (a - b).abs().max() < apart * a.abs().max()


def test_suffixes_stand_in_the_order_of_their_prompts():
    """The kernel reads all suffixes of a prompt as one sequence."""
    for owner in ([1, 0], [0, 0], [0, 1, 0]):
        with pytest.raises(AssertionError):
            PackedGroups([2, 2], [1] * len(owner), owner, CPU)


@pytest.mark.parametrize(
    ("owner", "before", "chunks"),
    [
        ([0, 0, 1, 2], [3, 0, 2, 1], [2, 5, 1, 4]),
        ([0, 0, 1, 2], [0, 0, 0, 0], [1, 1, 1, 1]),  # as a first turn begins
        ([1, 1], [4, 2], [3, 3]),  # the others ended a turn before
        ([1, 2], [0, 3], [1, 1]),
    ],
)
def test_a_prefill_sees_its_prompt_what_its_row_holds_and_itself_whichever_way(owner, before, chunks, monkeypatch):
    made = torch.Generator().manual_seed(0)

    def prefilled() -> list[torch.Tensor]:
        made.manual_seed(0)
        caches = [[torch.randn(rows, 2, slots, 8, generator=made)] for rows, slots in ((3, 5), (3, 5), (len(owner), 12), (len(owner), 12))]
        prompts = PromptCache(Ragged([5, 2, 4], CPU), *caches[:2], [])
        rows = SuffixCache(prompts, owner, before, *caches[2:], [])
        given = [torch.randn(heads, sum(chunks), 8, generator=made) for heads in (4, 2, 2)]
        return [AppendLayout(rows, chunks).attend(0, *given, 0.3), rows.keys[0], rows.values[0]]

    expected = prefilled()
    calls = flash_on_cpu(monkeypatch)
    found = prefilled()
    assert calls == {"forward": 2}
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(expected, found, strict=True))


def test_a_rollout_by_the_kernel_equals_a_full_forward(policy, monkeypatch):
    engine, limits = steer(policy, boxes_of(policy), 1), RolloutLimits(1, 64, Sampling(1.0, 60))
    with monkeypatch.context() as patch:
        calls = flash_on_cpu(patch)
        played = play(policy, engine, opened(policy), limits)
    layers = sum(hasattr(layer, "self_attn") for layer in policy.backbone.language_model.layers)
    assert calls["forward"] >= layers * (1 + 2 + 2) and not calls["backward"]  # prompts, first turn, second turn
    for t in played:
        with torch.no_grad():
            assert torch.allclose(plain_logprobs(policy, t), torch.tensor(t.sampler_logprobs), atol=2e-5)


def test_the_kernel_takes_half_precision_on_a_gpu_alone():
    takes = {
        (cuda, dtype): flash.kernel_takes(SimpleNamespace(is_cuda=cuda, dtype=dtype))
        for cuda in (True, False)
        for dtype in (torch.bfloat16, torch.float16, torch.float32)
    }
    assert [each for each in takes if takes[each]] == [(True, torch.bfloat16), (True, torch.float16)]


def test_in_float32_on_a_gpu_keys_are_repeated_for_the_kernel_that_takes_no_grouped_queries(monkeypatch):
    seen = []
    monkeypatch.setattr(attention, "scaled_dot_product_attention", lambda q, k, v, **how: seen.append((k.shape, v.shape, how)) or q)
    for device in ("cpu", "meta"):
        layout = PackedGroups([5, 2], [3, 1, 4, 7], [0, 0, 0, 1], torch.device(device))
        layout.attend(0, *(torch.zeros(heads, 22, 8, device=device) for heads in (4, 2, 2)), 0.3)
    assert [(k[1], v[1], how["enable_gqa"]) for k, v, how in seen] == [(2, 2, True)] * 2 + [(4, 4, False)] * 2
