"""Build the objects of a run from its settings: policy, engine, rewards, samples, judge, trainer."""

import socket
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from peft import PeftModel, get_peft_model
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback

from focus.config import DRAWN
from focus.config.identity import arithmetic_of, sampler_dtype, settings_hash
from focus.config.schema import (
    AgentConfig,
    AuditConfig,
    DataConfig,
    EndpointConfig,
    EvaluateConfig,
    GapConfig,
    PolicyConfig,
    ProbeConfig,
    Target,
    TrainConfig,
)
from focus.data import leaks
from focus.data.drawn import Drawn, InTurn
from focus.data.pages import Pages, page_spec
from focus.data.relations import Relations, relation_spec
from focus.data.sample import Limits, Records, Sample
from focus.data.scenes import Scenes, scene_spec
from focus.data.source import open_source
from focus.data.streets import Streets, street_spec
from focus.evaluation.arms import Evaluator
from focus.gap import Gap, Mode, read_levels
from focus.grading.grader import Grader
from focus.grading.judge import Judge
from focus.model import loading
from focus.model.dialect import read_dialect
from focus.model.policy_model import PolicyModel
from focus.planning.sampler import check_sampler_fits
from focus.report.run import RunFacts
from focus.rewards import Accuracy, RewardCallback
from focus.rollout.engine import Engine, Model, Sampling
from focus.rollout.kv import CopiedKVEngine, KVEngine
from focus.rollout.loop import RolloutLimits, seed_of
from focus.rollout.served import OpenAIEngine, Served
from focus.rollout.vllm import Remote, Sampler, VLLMEngine, VLLMOptions, colocated
from focus.runtime.endpoint import Endpoint
from focus.runtime.processes import started_by_this_process
from focus.training.overlap import OverlappedPolicy
from focus.training.policy import FocusPolicy, UpdateSettings

# The base policies were trained on scenes and pages below this number; RL sees later ones of the same split
FIRST_TRAINING_SCENE = 100_000_000
AUDITED_PER_SEED = 1_000_000  # images between those of two seeds of an audit
SCENES = 500  # held-out scenes or pages, if the settings ask for all

PlayConfig = TrainConfig | ProbeConfig | EvaluateConfig | AuditConfig  # of a command that plays held-out questions


def load_policy(cfg: PolicyConfig, device: torch.device | None = None) -> PolicyModel:
    """The policy of a config section, ready to train: adapters added, frozen parts frozen. `device` is that of `load_model`.

    Raises ValueError where a LoRA target is no layer that learns.
    """
    loaded = loading.load_model(loading.checkpoint_path(cfg.checkpoint), cfg.dialect, cfg.dtype, cfg.prompts, device)
    if not cfg.train_vision:
        loaded.backbone.visual.requires_grad_(False)
    if cfg.activation_checkpointing:
        loaded.recompute_activations()
    if cfg.lora_rank:
        loaded.model = _with_adapters(loaded.model, cfg)
    return loaded


def _with_adapters(model: Any, cfg: PolicyConfig) -> PeftModel:
    """The model with LoRA adapters; a frozen tower gets none. Their initial weights are the same in every process."""
    settings = loading.lora_config(model, cfg.lora_rank, cfg.lora_alpha, cfg.lora_targets, cfg.train_vision)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return get_peft_model(model, settings)  # adapters are float32, also on a bfloat16 model


def load_evaluated(cfg: ProbeConfig | EvaluateConfig | AuditConfig | AgentConfig) -> tuple[Model, Engine]:
    """A policy to measure, not to train, and its engine: from its weights, or on the server of `cfg.rollout`.

    Raises ValueError if the server can't be reached or does not serve it.
    """
    if cfg.rollout.engine != "openai":
        check_sampler_has_room(cfg)
        loaded = load_policy(cfg.policy)
        engine = build_engine(cfg, loaded)
        engine.sync_weights()
        return loaded, engine
    assert cfg.rollout.endpoint is not None  # checked with rollout.engine
    endpoint, dialect = connect(cfg.rollout.endpoint), read_dialect(cfg.policy.dialect, cfg.policy.prompts)
    return Served(endpoint, dialect), OpenAIEngine(endpoint, dialect)


def connect(cfg: EndpointConfig) -> Endpoint:
    """The endpoint of a server that answers. Raises ValueError if it can't be reached or does not serve the model.

    A model that the server does not list is asked one question, which decides.
    """
    endpoint = endpoint_from(cfg)
    if endpoint.model not in endpoint.models():
        endpoint.prompt_tokens([{"role": "user", "content": "Hello"}])
    return endpoint


def endpoint_from(cfg: EndpointConfig) -> Endpoint:
    """The endpoint of a server, without a request to it."""
    assert cfg.url and cfg.model  # checked where a server is needed
    return Endpoint(
        url=cfg.url,
        model=cfg.model,
        key_env=cfg.key_env,
        timeout_s=cfg.timeout_s,
        retries=cfg.retries,
        concurrency=cfg.concurrency,
        extra=cfg.extra,
    )


def build_judge(cfg: EndpointConfig, log: Path | None = None, reach: bool = True) -> Judge | None:
    """The judge of a config section, with the cached verdicts of all runs; None if the section names no server.

    `reach`: raise ValueError if it can't be reached now. Without it verdicts that are known still count.
    """
    if cfg.url is None:
        return None
    endpoint = connect(cfg) if reach else endpoint_from(cfg)
    return Judge(endpoint, Path("outputs/judge") / f"{Path(endpoint.model).name}.jsonl", log)


def training_samples(cfg: DataConfig) -> Sequence[Sample]:
    """The training questions of a config section. Prints what is dropped."""
    if cfg.source in DRAWN:
        return _drawn(cfg.source, cfg.difficulty, cfg.letter_px, cfg.side_px, "train", cfg.scenes, FIRST_TRAINING_SCENE)
    return _open_source(cfg)


def held_out_samples(cfg: PlayConfig) -> Sequence[Sample]:
    """The held-out questions of `cfg.evaluation` and `cfg.data`."""
    e = cfg.evaluation
    if e.records:
        root = cfg.data.root if cfg.data.source == "records" else None  # of a published training set the root is another folder
        return open_source("records", e.records, root, kept=Path(cfg.data.cache_dir), limits=_limits(cfg.data), columns=cfg.data.columns)[
            : e.samples
        ]
    if cfg.data.source not in DRAWN:  # of a command that does not train
        return _open_source(cfg.data)[: e.samples]
    difficulty, letter_px = e.difficulty or cfg.data.difficulty, e.letter_px or cfg.data.letter_px
    return _drawn(cfg.data.source, difficulty, letter_px, cfg.data.side_px, "eval", SCENES if e.samples is None else e.samples)


def _drawn(source: str, difficulty: int, letter_px: Sequence[int] | None, side_px: int, split: str, count: int, first: int = 0) -> Drawn:
    if source == "pages":
        return Pages(page_spec(difficulty, letter_px, side_px), split, count, first)
    if source == "streets":
        return Streets(street_spec(difficulty, letter_px, side_px), split, count, first)
    if source == "relations":
        return Relations(relation_spec(difficulty, letter_px, side_px), split, count, first)
    return Scenes(scene_spec(difficulty, letter_px, side_px), split, count, first)


def audited_samples(cfg: AuditConfig, source: str, count: int) -> Sequence[Sample]:
    """`count` drawn questions of the audit, on images of every side in turn. Another seed draws other images."""
    a, first = cfg.audit, cfg.seed * AUDITED_PER_SEED
    sides, letter_px = a.sides_px[:count], a.letter_px if source == "scenes" else None  # a page has panels of one size, and more of them
    return InTurn([_drawn(source, cfg.data.difficulty, letter_px, side, "eval", -(-count // len(sides)), first) for side in sides], count)


def leak_report(cfg: PlayConfig, samples: Sequence[Sample]) -> list[str]:
    """One sentence for each set that shares images with these questions: sets read before, and `evaluation.records`."""
    if not isinstance(samples, Records):
        return []
    known = {name: path for name, path in leaks.known_sets(Path(cfg.data.cache_dir).parent).items() if name not in cfg.data.mix}
    if cfg.evaluation.records:
        known["evaluation.records"] = Path(cfg.evaluation.records)
    return leaks.report(cfg.data.source, samples.path, known)


def _open_source(data: DataConfig) -> Sequence[Sample]:
    return open_source(
        data.source,
        data.records,
        data.root,
        kept=Path(data.cache_dir),
        annotations=data.annotations,
        repair=data.repair_annotations,
        derive_px=data.derive_boxes,
        mix=data.mix,
        limits=_limits(data),
        columns=data.columns,
    )


def _limits(data: DataConfig) -> Limits:
    return Limits(data.max_question_chars, data.max_options)


def gradable_samples(samples: Sequence[Sample], rewards: Sequence[RewardCallback]) -> Sequence[Sample]:
    """The samples that these rewards can grade. If a term needs boxes, unannotated ones are left out and counted.

    Raises ValueError where none is left.
    """
    needy = [reward.name for reward in rewards if reward.needs_boxes and reward.weight != 0]
    if not needy or isinstance(samples, Drawn):
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


def build_rewards(cfg: TrainConfig) -> list[RewardCallback]:
    """The terms of `cfg.reward`, in config order."""
    rewards: list[RewardCallback] = []
    for name, term in cfg.reward.terms.items():
        callback = instantiate(term)
        callback.name = str(name)
        rewards.append(callback)
    return rewards


def check_sampler_has_room(cfg: PlayConfig | AgentConfig) -> None:
    """Raises ValueError, before a model is loaded, if a vLLM on this process's GPU has no room for its weights in its share."""
    if gpu := loading.own_gpu():
        check_sampler_fits(cfg, torch.cuda.get_device_properties(gpu).total_memory)


def build_engine(cfg: PlayConfig | AgentConfig, loaded: PolicyModel) -> Engine:
    """The engine of `cfg.rollout` for these weights. Call `sync_weights` before the first `generate`.

    Raises ValueError if a server can't be reached or does not serve the policy.
    """
    if cfg.rollout.engine == "kv":
        return KVEngine(loaded)
    vllm, rollout = cfg.rollout.vllm, cfg.rollout
    assert vllm is not None  # checked with rollout.engine
    run = seed_of(str(Path.cwd()), repr(cfg))  # the same on all ranks, different for each run on this machine
    folder, dtype = Path(vllm.weights) / f"focus-{run:x}", sampler_dtype(cfg.model_dump())
    sampler: Sampler
    if vllm.mode == "served":
        assert rollout.endpoint is not None  # checked with rollout.vllm.mode
        sampler = Remote(connect(rollout.endpoint))
    else:
        options = VLLMOptions(
            dtype=dtype,
            memory_share=vllm.memory_share,
            cache_gib=vllm.cache_gib,
            max_model_len=vllm.max_model_len,
            block_size=vllm.block_size,
            enforce_eager=vllm.enforce_eager,
            images=rollout.max_crops + 1,
            lora_rank=cfg.policy.lora_rank,
        )
        sampler = colocated(str(loading.checkpoint_path(cfg.policy.checkpoint)), options)
        folder = folder.with_name(f"{folder.name}-{socket.gethostname()}")  # each node has its own, wherever `weights` lies
    return VLLMEngine(loaded, sampler, folder, dtype)


def selected_levels(gap: GapConfig) -> dict[str, int]:
    """View tokens by question id, from the calibration table; empty without `gap=calibrated`."""
    return read_levels(Path(gap.table)) if gap.mode == Mode.CALIBRATED and gap.table else {}


def build_policy(cfg: TrainConfig, loaded: PolicyModel, grader: Grader | None = None) -> FocusPolicy:
    """The LightningModule. `grader` grades the answers; None: the rules alone."""
    objective, rollout = cfg.objective, cfg.rollout
    settings = UpdateSettings(
        rollouts_per_question=rollout.rollouts_per_question,
        answers_per_crop=rollout.answers_per_crop,
        dead_groups=rollout.dead_groups,
        questions_per_forward=rollout.questions_per_forward if rollout.engine == "kv" else None,  # vLLM fills its own batches
        sampler_ratio_cap=rollout.sampler_ratio_cap,
        tokens_per_forward=objective.tokens_per_forward,
        learning_rate=objective.learning_rate,
        weight_decay=objective.weight_decay,
        warmup_updates=objective.warmup_updates,
        grad_clip=objective.grad_clip,
        clip=objective.clip,
        dual_clip=objective.dual_clip,
        advantage_epsilon=objective.advantage_epsilon,
        updates_per_rollout=objective.updates_per_rollout,
        teach_groups=objective.teach_groups,
    )
    gap = Gap(Mode(cfg.gap.mode), cfg.gap.view_tokens, loaded.token_px, selected_levels(cfg.gap), now=cfg.gap.most_tokens)
    rewards = build_rewards(cfg)
    for reward in rewards:
        if grader and isinstance(reward, Accuracy):
            reward.grader = grader
    return (OverlappedPolicy if rollout.overlap else FocusPolicy)(
        loaded,
        CopiedKVEngine(loaded) if rollout.overlap and rollout.engine == "kv" else build_engine(cfg, loaded),
        gap,
        rollout_limits(cfg, rollout.temperature),
        rewards,
        settings,
        cfg.seed,
    )


def rollout_limits(cfg: PlayConfig | AgentConfig, temperature: float) -> RolloutLimits:
    """The limits of a conversation, with a sampling temperature."""
    rollout = cfg.rollout
    return RolloutLimits(
        max_crops=rollout.max_crops,
        crop_tokens=rollout.crop_tokens,
        sampling=Sampling(temperature, rollout.tokens_per_turn),
        fixed_crops=rollout.fixed_crops,
        force_first_crop=rollout.force_first_crop,
        crop_min_tokens=rollout.crop_min_tokens,
    )


def build_evaluator(
    cfg: PlayConfig,
    model: Model,
    engine: Engine,
    gap: Gap,
    grader: Grader | None = None,
    arms: Sequence[str] | None = None,
    opening: str = "",
) -> Evaluator:
    """Plays held-out questions at the views of `gap` with the settings of `cfg.evaluation`.

    `arms`: other arms than its own. `opening`: what the first turn of the arm `own` starts with.
    """
    e = cfg.evaluation
    return Evaluator(
        model=model,
        engine=engine,
        gap=gap,
        limits=rollout_limits(cfg, e.temperature),
        seed=cfg.seed,
        arms=e.arms if arms is None else arms,
        questions_per_forward=e.questions_per_forward,
        sigma=e.sigma,
        grader=grader or Grader(),
        opening=opening,
    )


def build_trainer(cfg: Target, callbacks: Sequence[Callback], **rest: Any) -> Trainer:
    """Lightning's trainer with these callbacks, then those of the settings.

    Raises ValueError where it, or its strategy, refuses its settings.
    """
    try:
        return instantiate(cfg, callbacks=[*callbacks, *instantiate(cfg.get("callbacks") or [])], **rest)
    except InstantiationException as error:
        raise ValueError(f"trainer can't be constructed: {error.__cause__ or error}") from error


def own_device(cfg: Target, start_ranks: bool) -> torch.device:
    """The device that these settings of the trainer list for this rank. A GPU becomes the current one of this process.

    `start_ranks`: start the other ranks of this node, where no launcher has. Lightning itself would start them in `fit`, after this
    one has loaded. They run this command too, and all load the policy at the same time.
    """
    strategy = build_trainer({key: value for key, value in cfg.items() if key != "callbacks"}, [], logger=False).strategy
    if start_ranks and strategy.launcher is not None:
        with started_by_this_process():
            strategy.launcher.launch(lambda: None)
    if strategy.root_device.type == "cuda":
        torch.cuda.set_device(strategy.root_device)
    return strategy.root_device


def autocast_like_trainer(trainer: Target) -> AbstractContextManager:
    """Autocast like the trainer's, for measurements outside of it."""
    on_gpu = trainer.get("accelerator") != "cpu" and torch.cuda.is_available()
    return torch.autocast("cuda" if on_gpu else "cpu", torch.bfloat16, enabled=arithmetic_of(trainer) == "bfloat16")


def run_facts(cfg: TrainConfig) -> RunFacts:
    """The facts of a run that tables and results files show beside its numbers."""
    return RunFacts(
        name=cfg.name,
        folder=Path(cfg.output).name,
        point=settings_hash(cfg.model_dump()),
        gap=cfg.gap.mode,
        view_tokens=cfg.gap.view_tokens,
        common_view_tokens=cfg.evaluation.common_view_tokens,
        temperature=cfg.evaluation.temperature,
        seed=cfg.seed,
        updates=cfg.objective.updates,
        samples=cfg.evaluation.samples,
        resamples=cfg.evaluation.resamples,
    )
