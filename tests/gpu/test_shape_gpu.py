"""Bytes at the real sizes of published models, without weights."""

import pytest
import torch

from focus.config.schema import TrainConfig
from focus.config.validate import validated
from focus.planning.architecture import parameters_of
from focus.planning.lengths import Lengths
from tests.gpu import measure
from tests.gpu.shapes import Phase, ShapeGPU
from tests.support.runs import composed


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


@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen3-VL-8B-Instruct"])
def test_a_published_model_has_the_bytes_of_its_weights(gpu, name):
    """The head of 3B is its embedding, and is there once."""
    policy = measure.policy_on(gpu, measure.config_of(name))
    cfg = composed("experiment=stage1", f"policy.checkpoint={name}")
    buffers = sum(buffer.nbytes for buffer in policy.model.buffers())
    assert gpu.bytes == 2 * parameters_of(validated(cfg, TrainConfig).policy).total + buffers


TWO_TURNS = Lengths(prompt=1324, view=1024, turns=2, turn=3, reply=32, crop=1024)
SHALLOW = measure.config_of("Qwen/Qwen2.5-VL-7B-Instruct", layers=2)
WIDTH = 3584


def test_a_rollout_holds_its_caches_and_leaves_the_features_of_its_images():
    found = measure.rollout(SHALLOW, TWO_TURNS, rollouts=4)
    first, second, kept = (found.phases[name] for name in ("turn 1", "turn 2", "kept"))
    one = 2 * 2 * 2 * 4 * 128  # keys and values of a token: two layers, four heads of width 128, bfloat16
    assert first.ended - first.began > one * (1323 + 4 * 3) and second.ended > first.ended
    assert kept.ended - found.weights == 2 * WIDTH * (1024 + 4 * 1024)
    assert found.peak > second.ended - found.weights


def test_an_update_frees_all_that_it_kept_and_keeps_less_with_recomputation():
    kept, again = (measure.update(SHALLOW, TWO_TURNS, rollouts=4, activation_checkpointing=flag) for flag in (False, True))
    for found in (kept, again):
        assert found.phases["backward"].ended == found.weights < found.phases["forward"].ended <= found.phases["backward"].peak
    assert again.peak < kept.peak


def test_an_evaluation_plays_all_other_arms_at_once():
    found = measure.evaluation(SHALLOW, TWO_TURNS, questions=1, replayed=3)
    assert found.phases["arms"].peak > found.phases["own"].peak  # three crops side by side, and a row without one
