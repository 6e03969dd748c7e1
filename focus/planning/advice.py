"""Settings that would make a run fit, or faster, each with what it changes."""

import math
from dataclasses import dataclass
from typing import Any

import yaml
from omegaconf import OmegaConf

from focus.config.schema import PlanConfig
from focus.config.views import shown_tokens
from focus.planning.bounds import Bounds
from focus.planning.estimate import Plan, make_plan
from focus.planning.lengths import has_levels
from focus.runtime.paths import CONF

SLOWER = 0.9  # a change is worth a line if the run then takes less than this share of its time


@dataclass(frozen=True)
class Advice:
    """Settings to change together, and the peak memory of a device with them."""

    overrides: tuple[str, ...]
    peak: float
    fits: bool


@dataclass(frozen=True)
class Faster:
    """A change that shortens the run and fits: the setting, what makes the run slow without it, and seconds of the run with it."""

    override: str
    why: str
    run: Bounds


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
    overrides += [f"evaluation.questions_per_forward={cfg.evaluation.questions_per_forward // 2**k}" for k in (1, 2, 3)]
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
            if override.endswith("questions_per_forward=0"):
                continue
            changed = changed_by(now, override)
            after = make_plan(changed)
            if after.peak < 0.999 * peak:
                taken[override.partition("=")[0]], now, peak = override, changed, after.peak
                found.append(Advice(tuple(taken.values()), peak, after.fits))
                if after.fits:
                    break
    return found


def faster(cfg: PlanConfig, plan: Plan) -> list[Faster]:
    """Single changes that fit and make the run at least a tenth shorter, the largest gain first."""
    tries = []
    if not has_levels(cfg) and cfg.lengths.view is None:
        unknown = "there is no level table" if cfg.gap.mode == "calibrated" else "a plan does not read the critical views"
        remedy = " (make calibrate)" if cfg.gap.mode == "calibrated" else ""
        widest = shown_tokens(cfg, cfg.gap.view_tokens)
        tries.append(("lengths.view=1024", f"{unknown}, so every view is planned at {widest:,} tokens{remedy}"))
    if cfg.rollout.engine == "kv":
        tries.append(("rollout=vllm", "kv's decoding waits for the host at every step, vLLM's does not"))
        if cfg.rollout.questions_per_forward:
            tries.append(("rollout.questions_per_forward=null", f"only {cfg.rollout.questions_per_forward} questions play side by side"))
    else:
        tries.append(("rollout=kv", "vLLM needs room beside the training"))
    passes = round(plan.passes / (cfg.rollout.questions_per_update / plan.sharding.ranks))
    why = f"in an update a prompt passes the network {passes} times" if passes > 1 else f"an update takes {plan.micro_batches} forwards"
    tries += [(f"objective.tokens_per_forward={times * cfg.objective.tokens_per_forward}", why) for times in (2, 4)]
    if cfg.policy.activation_checkpointing:
        tries.append(("policy.activation_checkpointing=false", "the backward computes all activations again"))
    found: dict[str, Faster] = {}  # the best by what it changes
    for override, why in tries:
        changed, key = make_plan(changed_by(cfg, override)), override.partition("=")[0]
        limit = found[key].run.middle if key in found else SLOWER * plan.of_the_run.middle
        if changed.fits and changed.of_the_run.middle < limit:
            found[key] = Faster(override, why, changed.of_the_run)
    return sorted(found.values(), key=lambda each: each.run.middle)


def changed_by(cfg: PlanConfig, override: str) -> PlanConfig:
    """These settings with one more `key=value`, as on the command line."""
    key, _, value = override.partition("=")
    settings: dict[str, Any] = cfg.model_dump()
    if key == "trainer.strategy":
        settings["trainer"]["strategy"] = {"_target_": "focus.runtime.strategies.FullyShardedStrategy", "arithmetic": "bfloat16"}
        settings["trainer"]["precision"] = "32-true"
    elif key == "rollout":
        engine: Any = OmegaConf.load(CONF / "rollout" / f"{value}.yaml")
        alone = {"vllm": None, "overlap": False}  # neither kv nor a colocated vLLM samples while a GPU trains
        settings["rollout"] |= {"engine": engine.engine, "sampler_ratio_cap": engine.sampler_ratio_cap, **alone}
        if engine.vllm:
            settings["rollout"]["vllm"] = OmegaConf.to_container(
                OmegaConf.merge(settings, {"rollout": {"vllm": engine.vllm}}).rollout.vllm, resolve=True
            )
    else:
        *sections, name = key.split(".")
        section = settings
        for each in sections:
            section = section[each]
        section[name] = yaml.safe_load(value)
    return PlanConfig.model_validate(settings)
