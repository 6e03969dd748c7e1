"""Bytes at the real sizes of published models, without weights."""

import pytest
import torch

from tests.gpu import measure
from tests.gpu.shapes import Phase, ShapeGPU

GIB = 2**30


@pytest.fixture
def gpu():
    with ShapeGPU() as gpu:
        yield gpu


def test_bytes_are_those_of_the_tensors_that_are_alive(gpu):
    phases: dict[str, Phase] = {}
    with gpu.phase("product", phases):
        a = torch.empty((1000, 1000), device="gpu:0")  # 4 MB
        b = (a @ a).to(torch.bfloat16)  # 4 MB that die, 2 MB that stay
        view = b[:10]
    del a, b
    assert phases["product"] == Phase(began=0, peak=10_000_000, ended=6_000_000, at="elsewhere")
    assert gpu.bytes == 2_000_000 and view.shape == (10, 1000)  # a part keeps the whole


def test_integers_are_real_and_floats_are_not(gpu):
    ids = torch.tensor([3, 1, 2], device="gpu:0")
    table = torch.empty((10**6, 10**6), device="gpu:0", dtype=torch.bfloat16)  # two terabytes
    assert gpu.bytes == 2 * 10**12 + 24 and table[ids].shape == (3, 10**6)
    assert ids.cumsum(0).tolist() == [3, 4, 6] and ids[ids > 1].tolist() == [3, 2]
    assert table[:, ids > 1].shape == (10**6, 2)
    assert table.argmax(1)[:2].tolist() == [0, 0] and float(table.sum()) == 1.0


@pytest.mark.parametrize(("capability", "kept"), [(measure.H100, 0), (measure.A100, 1)])
def test_a_masked_grouped_call_keeps_its_scores_where_only_the_math_kernel_serves(capability, kept):
    with ShapeGPU(capability) as gpu:
        query = torch.empty((2, 8, 512, 64), dtype=torch.bfloat16, device="gpu:0", requires_grad=True)
        key = torch.empty((2, 4, 512, 64), dtype=torch.bfloat16, device="gpu:0")
        mask = torch.ones((512, 512), dtype=torch.bool, device="gpu:0")
        before = gpu.bytes
        out = torch.nn.functional.scaled_dot_product_attention(query, key, key, mask, enable_gqa=True)
        scores = 2 * 8 * 512 * 512 * 4
        assert (gpu.bytes - before > scores) == bool(kept)
        out.sum().backward()
        assert query.grad.shape == query.shape
