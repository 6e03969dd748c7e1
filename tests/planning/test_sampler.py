"""A vLLM without room for its weights is refused in one sentence, before a model is loaded."""

import pytest

from focus.config.schema import TrainConfig
from focus.config.validate import plain
from focus.planning.sampler import check_sampler_fits
from tests.support.runs import composed

A100 = 80 * 10**9  # bytes: 74.5 GiB


def check(*words: str) -> None:
    check_sampler_fits(TrainConfig.model_validate(plain(composed("experiment=stage1_7b", *words))), A100)


def test_float32_weights_above_their_share_are_refused():
    """8.29 billion parameters of 4 bytes are 30.9 GiB; 0.4 of 74.5 GiB are 29.8."""
    with pytest.raises(ValueError, match=r"take 30\.9 GiB in float32 .*memory_share=0\.4 of this device is 29\.8 GiB\. Set .*bfloat16"):
        check("rollout=vllm", "rollout.vllm.dtype=float32", "rollout.vllm.memory_share=0.4")


def test_bfloat16_weights_need_half_and_what_is_computed_beside_them():
    """15.4 GiB and 4 beside them: 0.27 of the device is enough, 0.25 is not."""
    check("rollout=vllm", "rollout.vllm.memory_share=0.27")
    with pytest.raises(ValueError, match=r"take 15\.4 GiB in bfloat16 .*Raise the share"):
        check("rollout=vllm", "rollout.vllm.memory_share=0.25")


@pytest.mark.parametrize("words", [("rollout=kv",), ("rollout=vllm", "rollout.vllm.mode=served", "rollout.vllm.memory_share=0.1")])
def test_an_engine_without_a_share_of_the_device_is_not_asked(words):
    check(*words)
