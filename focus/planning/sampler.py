"""Whether vLLM's copy of the weights has room in its share of a device, asked before a model is loaded."""

from focus.config.identity import sampler_dtype
from focus.config.schema import AgentConfig, AuditConfig, EvaluateConfig, ProbeConfig, TrainConfig
from focus.model.saving import DTYPES
from focus.planning.architecture import parameters_of
from focus.planning.hardware import GIB, VLLM_BESIDE


def check_sampler_fits(cfg: TrainConfig | ProbeConfig | EvaluateConfig | AuditConfig | AgentConfig, memory: int) -> None:
    """Raises ValueError where a colocated vLLM has no room for its weights on a device of `memory` bytes."""
    vllm = cfg.rollout.vllm
    if vllm is None or vllm.mode == "served":
        return
    dtype = sampler_dtype(cfg.model_dump())
    weights, share = parameters_of(cfg.policy).total * DTYPES[dtype].itemsize, vllm.memory_share * memory
    if weights + VLLM_BESIDE > share:
        smaller = "Set rollout.vllm.dtype=bfloat16, or raise" if dtype == "float32" else "Raise"
        raise ValueError(
            f"vLLM's weights take {weights / GIB:.1f} GiB in {dtype} and about {VLLM_BESIDE / GIB:.0f} GiB are needed beside them, but "
            f"rollout.vllm.memory_share={vllm.memory_share} of this device is {share / GIB:.1f} GiB. {smaller} the share. rollout=kv needs "
            "no copy"
        )
