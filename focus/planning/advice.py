"""Settings that would make a run fit, each with what it changes."""

import math
from dataclasses import dataclass

import yaml

from focus.config.schema import PlanConfig
from focus.planning.estimate import Plan, make_plan


@dataclass(frozen=True)
class Advice:
    """Settings to change together, and the peak memory of a device with them."""

    overrides: tuple[str, ...]
    peak: float
    fits: bool


def advice(cfg: PlanConfig, plan: Plan) -> list[Advice]:
    """Changes that lower the peak, each on top of those before, until the run fits or nothing is left to try.

    In order of their price: none, time, another way of training, other rollouts, more devices.
    """
    found: list[Advice] = []
    overrides: list[str] = []
    questions = cfg.rollout.questions_per_update // plan.sharding.ranks
    while questions > 1:
        questions //= 2
        overrides.append(f"rollout.questions_per_forward={questions}")
    overrides.append("policy.activation_checkpointing=true")
    alone = math.ceil(plan.longest.prompt + plan.longest.suffix)
    budget = cfg.objective.tokens_per_forward
    while budget // 2 >= alone:
        budget //= 2
        overrides.append(f"objective.tokens_per_forward={budget}")
    if plan.sharding.ranks > 1 and plan.sharding.kind != "fsdp":
        overrides.append("trainer.strategy={_target_:focus.runtime.strategies.FullyShardedStrategy,arithmetic:bfloat16}")
    overrides += ["policy.train_vision=false", "policy.lora_rank=64"]
    per_node, most = plan.sharding.per_node, cfg.rollout.questions_per_update
    while plan.sharding.kind in ("fsdp", "zero2") and per_node < 8 and most % (2 * per_node) == 0:
        per_node *= 2
        overrides.append(f"devices={per_node}")
    overrides += [f"rollout.tokens_per_turn={cfg.rollout.tokens_per_turn // 2**k}" for k in (1, 2) if cfg.rollout.tokens_per_turn >= 2**k]
    taken: dict[str, str] = {}
    now, peak, before = cfg, plan.peak, math.inf
    while peak < before and not (found and found[-1].fits):  # a change that did not help at first may help when another phase is the peak
        before = peak
        for override in overrides:
            changed = changed_by(now, override)
            after = make_plan(changed)
            if after.peak < 0.999 * peak:
                taken[override.partition("=")[0]], now, peak = override, changed, after.peak
                found.append(Advice(tuple(taken.values()), peak, after.fits))
                if after.fits:
                    break
    return found


def changed_by(cfg: PlanConfig, override: str) -> PlanConfig:
    """These settings with one more `key=value`, as on the command line."""
    key, _, value = override.partition("=")
    settings = cfg.model_dump()
    if key == "trainer.strategy":
        settings["trainer"]["strategy"] = {"_target_": "focus.runtime.strategies.FullyShardedStrategy", "arithmetic": "bfloat16"}
        settings["trainer"]["precision"] = "32-true"
    else:
        *sections, name = key.split(".")
        section = settings
        for each in sections:
            section = section[each]
        section[name] = yaml.safe_load(value)
    return PlanConfig.model_validate(settings)
