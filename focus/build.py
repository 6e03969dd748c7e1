"""Build the objects of a run from its settings: policy, engine, rewards, samples, judge, trainer."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from peft import PeftModel, get_peft_model
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback

from focus import config
from focus.data import leaks
from focus.data.sample import Limits, Records, Sample
from focus.data.scenes import Scenes, scene_spec
from focus.data.source import open_source
from focus.gap import Gap, Mode, read_levels
from focus.grading.grader import Grader
from focus.grading.judge import Judge
from focus.model import loading
from focus.model.policy_model import PolicyModel
from focus.model.prompts import DIALECTS, Model
from focus.rewards import Accuracy, RewardCallback
from focus.rollout.engine import Engine, Sampling
from focus.rollout.kv import KVEngine
from focus.rollout.loop import RolloutLimits, seed_of
from focus.rollout.served import OpenAIEngine, Served
from focus.rollout.vllm import Remote, Sampler, VLLMEngine, VLLMOptions, colocated
from focus.runtime.endpoint import Endpoint
from focus.training.policy import FocusPolicy, UpdateSettings

# Training scenes of the base policy lie below; RL sees others of the same split
FIRST_TRAINING_SCENE = 100_000_000
SCENES = 500  # held-out ones, where the settings ask for all


def load_policy(cfg: DictConfig) -> PolicyModel:
    """The policy that `cfg.policy` names, ready to train: adapters added, frozen parts frozen.

    Raises ValueError where a LoRA target is no layer that learns.
    """
    loaded = loading.load_model(loading.checkpoint_path(cfg.checkpoint), cfg.dialect, cfg.dtype, cfg.attention)
    if not cfg.train_vision:
        loaded.backbone.visual.requires_grad_(False)
    if cfg.activation_checkpointing:
        loaded.recompute_activations()
    if cfg.lora_rank:
        loaded.model = _with_adapters(loaded.model, cfg)
    return loaded


def _with_adapters(model: Any, cfg: DictConfig) -> PeftModel:
    """The model with LoRA adapters; a frozen tower gets none. They begin the same in every process and after every restart."""
    settings = loading.lora_config(model, cfg.lora_rank, cfg.lora_alpha, cfg.lora_targets, cfg.train_vision)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return get_peft_model(model, settings)  # in float32, whatever the dtype of what they are added to


def load_evaluated(cfg: DictConfig) -> tuple[Model, Engine]:
    """The policy that is only asked, not trained, and what speaks for it: its own weights, or the server that `cfg.rollout` names.

    Raises ValueError if the server can't be reached or does not serve it.
    """
    if cfg.rollout.engine != "openai":
        loaded = load_policy(cfg.policy)
        engine = build_engine(cfg, loaded)
        engine.sync_weights()
        return loaded, engine
    endpoint, dialect = connect(cfg.rollout.endpoint), DIALECTS[cfg.policy.dialect]
    return Served(endpoint, dialect), OpenAIEngine(endpoint, dialect)


def connect(cfg: DictConfig) -> Endpoint:
    """A model on a server that answers. Raises ValueError if it can't be reached or does not serve that model.

    A model that the server does not list is asked one question, which decides.
    """
    endpoint = endpoint_from(cfg)
    if endpoint.model not in endpoint.models():
        endpoint.prompt_tokens([{"role": "user", "content": "Hello"}])
    return endpoint


def endpoint_from(cfg: DictConfig) -> Endpoint:
    """A model on a server that was not asked yet. A section may hold settings beside those of the endpoint."""
    settings = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(settings, dict)
    own: dict[str, Any] = {str(key): value for key, value in settings.items() if key in config.EndpointConfig.__dataclass_fields__}
    return Endpoint(**own)


def build_judge(cfg: DictConfig, log: Path | None = None, reach: bool = True) -> Judge | None:
    """The model that `cfg.judge` names, with the verdicts that any run got from it; None where it names none.

    `reach`: raise ValueError if it can't be reached now. Without it verdicts that are known still count.
    """
    if cfg.judge.url is None:
        return None
    endpoint = connect(cfg.judge) if reach else endpoint_from(cfg.judge)
    return Judge(endpoint, Path("outputs/judge") / f"{Path(endpoint.model).name}.jsonl", log)


def training_samples(cfg: DictConfig) -> Sequence[Sample]:
    """The questions that `cfg.data` names, of the split that is trained on; what is dropped is said."""
    if cfg.source == "scenes":
        return Scenes(scene_spec(cfg.difficulty, cfg.letter_px, cfg.side_px), "train", cfg.scenes, FIRST_TRAINING_SCENE)
    return _open_source(cfg)


def held_out_samples(cfg: DictConfig) -> Sequence[Sample]:
    """The questions that `cfg.evaluation` and `cfg.data` name: never trained on."""
    e = cfg.evaluation
    if e.records:
        root = cfg.data.root if cfg.data.source == "records" else None  # a published training set has a root of its own
        return open_source("records", e.records, root, limits=_limits(cfg.data))[: e.samples]
    if cfg.data.source != "scenes":  # of an entry that does not train
        return _open_source(cfg.data)[: e.samples]
    spec = scene_spec(e.difficulty or cfg.data.difficulty, e.letter_px or cfg.data.letter_px, cfg.data.side_px)
    return Scenes(spec, "eval", SCENES if e.samples is None else e.samples)


def leak_report(cfg: DictConfig, samples: Sequence[Sample]) -> list[str]:
    """What these questions share with every set that was read before and with `evaluation.records`, one sentence each."""
    if not isinstance(samples, Records):
        return []
    known = {name: path for name, path in leaks.known_sets(Path(cfg.data.kept).parent).items() if name not in cfg.data.mix}
    if cfg.evaluation.records:
        known["evaluation.records"] = Path(cfg.evaluation.records)
    return leaks.report(cfg.data.source, samples.path, known)


def _open_source(data: DictConfig) -> Sequence[Sample]:
    drawn = data.annotations, data.repair_annotations, data.derive_boxes
    return open_source(data.source, data.records, data.root, Path(data.kept), *drawn, data.mix, _limits(data))


def _limits(data: DictConfig) -> Limits:
    return Limits(data.max_question_chars, data.max_options)


def gradable_samples(samples: Sequence[Sample], rewards: Sequence[RewardCallback]) -> Sequence[Sample]:
    """The samples that these rewards can grade: with a term that needs boxes, those that are annotated; the others are counted.

    Raises ValueError where none is left.
    """
    needy = [reward.name for reward in rewards if reward.needs_boxes and reward.weight != 0]
    if not needy or isinstance(samples, Scenes):
        return samples
    bare = [sample.id for sample in samples if not sample.boxes]
    if len(bare) == len(samples):
        raise ValueError(
            f"reward term {needy[0]} grades crops by annotated boxes, but none of the {len(samples)} training questions has one (first: "
            f"{bare[0]}); annotate them, use data=scenes, or set reward.terms.{needy[0]}.weight=0"
        )
    if bare:
        print(f"{len(bare)} of {len(samples)} training questions have no boxes and are left out (first: {bare[0]})")
    return [sample for sample in samples if sample.boxes] if bare else samples


def build_rewards(cfg: DictConfig) -> list[RewardCallback]:
    """The terms of `cfg.reward`, in config order. Raises ValueError for one that refuses its settings."""
    rewards: list[RewardCallback] = []
    for name, term in cfg.reward.terms.items():
        try:
            callback = instantiate(term)
        except InstantiationException as error:
            raise ValueError(f"reward.terms.{name} can't be constructed: {error.__cause__ or error}") from error
        callback.name = str(name)
        if not isinstance(callback.weight, int | float) or not math.isfinite(callback.weight):
            raise ValueError(f"reward.terms.{name}.weight is {callback.weight!r}; write a number, 0 to look at the term without paying it")
        rewards.append(callback)
    return rewards


def build_engine(cfg: DictConfig, loaded: PolicyModel) -> Engine:
    """What samples from these weights, as `cfg.rollout` says; `renew` has to be called before it does.

    Raises ValueError if a server can't be reached or does not serve the policy.
    """
    if cfg.rollout.engine == "kv":
        return KVEngine(loaded)
    v, r = cfg.rollout.vllm, cfg.rollout
    run = seed_of(str(Path.cwd()), OmegaConf.to_yaml(cfg))  # the same on all ranks, and another for every run of this machine
    sampler: Sampler
    if v.mode == "served":
        sampler = Remote(connect(r.endpoint))
    else:
        room = {key: v[key] for key in ("dtype", "memory_share", "cache_gib", "max_model_len", "block_size", "enforce_eager")}
        room |= {"device": loaded.model.device.index, "images": r.max_crops + 1, "lora_rank": cfg.policy.lora_rank}
        sampler = colocated(str(loading.checkpoint_path(cfg.policy.checkpoint)), VLLMOptions(**room))
    return VLLMEngine(loaded, sampler, Path(v.weights) / f"focus-{run:x}", v.dtype)


def build_policy(cfg: DictConfig, loaded: PolicyModel, grader: Grader | None = None) -> FocusPolicy:
    """Put the LightningModule together from its typed sections. Answers are graded by `grader`; None: by the rules alone."""
    objective = {key: cfg.objective[key] for key in UpdateSettings.__dataclass_fields__ if key in cfg.objective}
    rollout = {key: cfg.rollout[key] for key in ("rollouts_per_question", "questions_per_forward", "sampler_ratio_cap")}
    settings = UpdateSettings(**rollout, **objective)
    selected = read_levels(Path(cfg.gap.table)) if cfg.gap.mode == Mode.CALIBRATED else {}
    gap = Gap(Mode(cfg.gap.mode), cfg.gap.view_tokens, loaded.token_px, selected)
    rewards = build_rewards(cfg)
    for reward in rewards:
        if grader and isinstance(reward, Accuracy):
            reward.grader = grader
    return FocusPolicy(loaded, build_engine(cfg, loaded), gap, rollout_limits(cfg, cfg.rollout.temperature), rewards, settings, cfg.seed)


def rollout_limits(cfg: DictConfig, temperature: float) -> RolloutLimits:
    """The limits of a conversation, from `cfg.rollout`, at a sampling temperature."""
    r = cfg.rollout
    sampling = Sampling(temperature, r.tokens_per_turn)
    return RolloutLimits(r.max_crops, r.crop_tokens, sampling, r.fixed_crops, r.force_first_crop, r.crop_min_tokens)


def build_trainer(cfg: DictConfig, callbacks: Sequence[Callback], **rest: Any) -> Trainer:
    """Lightning's trainer with these callbacks, and those of the settings after them.

    Raises ValueError where it, or its strategy, refuses its settings.
    """
    try:
        return instantiate(cfg, callbacks=[*callbacks, *instantiate(cfg.get("callbacks") or [])], **rest)
    except InstantiationException as error:
        raise ValueError(f"trainer can't be constructed: {error.__cause__ or error}") from error


def autocast_like_trainer(cfg: DictConfig) -> AbstractContextManager:
    """A policy is measured in the arithmetic that it was trained in, though the trainer is not there to see to it."""
    enabled = config.arithmetic_of(cfg.trainer) == "bfloat16"
    return torch.autocast("cuda" if torch.cuda.is_available() else "cpu", torch.bfloat16, enabled=enabled)
