"""Train a policy, measure it, and draw the page. `python -m focus.train experiment=stage1`.

Started again on the same output folder, a run resumes where it stopped; a finished run only shows its result again.
"""

import logging
import math
import signal
import threading
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from peft import PeftModel, get_peft_model
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback, RichProgressBar
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.environments import SLURMEnvironment
from rich.console import Console
from torch.utils.data._utils.signal_handling import _set_SIGCHLD_handler

from focus import checkpoint as checkpoints
from focus import config, dependence, ranks, resume
from focus.alarms import CollapseAlarms
from focus.checkpoint import Checkpoint
from focus.data import leaks
from focus.data.identity import questions_digest
from focus.data.questions import Questions
from focus.data.sample import Limits, Records, Sample
from focus.data.scenes import Scenes, scene_spec
from focus.data.source import open_source
from focus.dependence import Examiner, Outcome, Probe, measure, measure_together
from focus.endpoint import Endpoint
from focus.gap import Gap, Mode, read_levels
from focus.grading import Grader, check_decidable, count_decidable, said_of_decidable
from focus.judge import Judge
from focus.policy import FocusPolicy, Settings
from focus.prompts import DIALECTS, Model
from focus.report.card import Card, card_text, remember_start, starts, stated_licence
from focus.report.dashboard import Replay, TrajectoryTable, closing, start_logger
from focus.report.run import (
    STOPPED,
    History,
    check_results,
    ended,
    graded_by,
    has_row,
    measurement,
    read_history,
    report_run,
    settings_hash,
    write_row,
)
from focus.report.table import Results, print_table
from focus.resume import latest
from focus.rewards import Accuracy, Example, RewardCallback, examples, score
from focus.rollout.engine import Engine, Sampling
from focus.rollout.kv import KVEngine
from focus.rollout.loop import Rules, seed_of
from focus.rollout.served import OpenAIEngine, Served
from focus.rollout.vllm import Remote, Room, Sampler, VLLMEngine, colocated

# Training scenes of the base policy lie below; RL sees others of the same split
FIRST_TRAINING_SCENE = 100_000_000
STARTS = "trained_by.jsonl"  # in the output folder: by which command, commit and versions, one line for each kind of start
SCENES = 500  # held-out ones, where the settings ask for all


# Lightning's general advice that does not hold for a loop of rollout and update
for _message in (
    "`isinstance\\(treespec",
    "Found \\d+ module\\(s\\) in eval mode",
    "You have overridden `transfer_batch_to_device`",
    "'set_vital' is deprecated",
    "`gradient_checkpointing_enable` is deprecated",
    "Experiment logs directory .* exists",  # its rows are written again (Replay)
):
    warnings.filterwarnings("ignore", _message)
logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)


def load_policy(cfg: DictConfig) -> Checkpoint:
    """The policy that `cfg.policy` names, ready to train: adapters added, frozen parts frozen.

    Raises ValueError where a LoRA target is no layer that learns.
    """
    loaded = checkpoints.load(checkpoints.place(cfg.checkpoint), cfg.dialect, cfg.dtype, cfg.attention)
    if not cfg.train_vision:
        loaded.core.visual.requires_grad_(False)
    if cfg.activation_checkpointing:
        loaded.recompute_activations()
    if cfg.lora_rank:
        loaded.model = _adapted(loaded.model, cfg)
    return loaded


def _adapted(model: Any, cfg: DictConfig) -> PeftModel:
    """The model with LoRA adapters; a frozen tower gets none. They begin the same in every process and after every restart."""
    settings = checkpoints.lora(model, cfg.lora_rank, cfg.lora_alpha, cfg.lora_targets, cfg.train_vision)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return get_peft_model(model, settings)  # in float32, whatever the dtype of what they are added to


def load_player(cfg: DictConfig) -> tuple[Model, Engine]:
    """The policy that is only asked, not trained, and what speaks for it: its own weights, or the server that `cfg.rollout` names.

    Raises ValueError if the server can't be reached or does not serve it.
    """
    if cfg.rollout.engine != "openai":
        loaded = load_policy(cfg.policy)
        engine = build_engine(cfg, loaded)
        engine.renew()
        return loaded, engine
    endpoint, dialect = reached(cfg.rollout.endpoint), DIALECTS[cfg.policy.dialect]
    return Served(endpoint, dialect), OpenAIEngine(endpoint, dialect)


def reached(cfg: DictConfig) -> Endpoint:
    """A model on a server that answers. Raises ValueError if it can't be reached or does not serve that model.

    A model that the server does not list is asked one question, which decides.
    """
    endpoint = endpoint_of(cfg)
    if endpoint.model not in endpoint.models():
        endpoint.prompt_tokens([{"role": "user", "content": "Hello"}])
    return endpoint


def endpoint_of(cfg: DictConfig) -> Endpoint:
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
    endpoint = reached(cfg.judge) if reach else endpoint_of(cfg.judge)
    return Judge(endpoint, Path("outputs/judge") / f"{Path(endpoint.model).name}.jsonl", log)


def training_samples(cfg: DictConfig) -> Sequence[Sample]:
    """The questions that `cfg.data` names, of the split that is trained on; what is dropped is said."""
    if cfg.source == "scenes":
        return Scenes(scene_spec(cfg.difficulty, cfg.letter_px, cfg.side_px), "train", cfg.scenes, FIRST_TRAINING_SCENE)
    return _opened(cfg)


def held_out_samples(cfg: DictConfig) -> Sequence[Sample]:
    """The questions that `cfg.evaluation` and `cfg.data` name: never trained on."""
    e = cfg.evaluation
    if e.records:
        root = cfg.data.root if cfg.data.source == "records" else None  # a published training set has a root of its own
        return open_source("records", e.records, root, limits=_limits(cfg.data))[: e.samples]
    if cfg.data.source != "scenes":  # of an entry that does not train
        return _opened(cfg.data)[: e.samples]
    spec = scene_spec(e.difficulty or cfg.data.difficulty, e.letter_px or cfg.data.letter_px, cfg.data.side_px)
    return Scenes(spec, "eval", SCENES if e.samples is None else e.samples)


def leaks_of(cfg: DictConfig, samples: Sequence[Sample]) -> list[str]:
    """What these questions share with every set that was read before and with `evaluation.records`, one sentence each."""
    if not isinstance(samples, Records):
        return []
    known = {name: path for name, path in leaks.known_sets(Path(cfg.data.kept).parent).items() if name not in cfg.data.mix}
    if cfg.evaluation.records:
        known["evaluation.records"] = Path(cfg.evaluation.records)
    return leaks.report(cfg.data.source, samples.path, known)


def _opened(data: DictConfig) -> Sequence[Sample]:
    drawn = data.annotations, data.repair_annotations, data.derive_boxes
    return open_source(data.source, data.records, data.root, Path(data.kept), *drawn, data.mix, _limits(data))


def _limits(data: DictConfig) -> Limits:
    return Limits(data.max_question_chars, data.max_options)


def with_boxes(samples: Sequence[Sample], rewards: Sequence[RewardCallback]) -> Sequence[Sample]:
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


def build_engine(cfg: DictConfig, loaded: Checkpoint) -> Engine:
    """What samples from these weights, as `cfg.rollout` says; `renew` has to be called before it does.

    Raises ValueError if a server can't be reached or does not serve the policy.
    """
    if cfg.rollout.engine == "kv":
        return KVEngine(loaded)
    v, r = cfg.rollout.vllm, cfg.rollout
    run = seed_of(str(Path.cwd()), OmegaConf.to_yaml(cfg))  # the same on all ranks, and another for every run of this machine
    sampler: Sampler
    if v.mode == "served":
        sampler = Remote(reached(r.endpoint))
    else:
        room = {key: v[key] for key in ("dtype", "memory_share", "cache_gib", "max_model_len", "block_size", "enforce_eager")}
        room |= {"device": loaded.model.device.index, "images": r.max_crops + 1, "lora_rank": cfg.policy.lora_rank}
        sampler = colocated(str(checkpoints.place(cfg.policy.checkpoint)), Room(**room))
    return VLLMEngine(loaded, sampler, Path(v.weights) / f"focus-{run:x}", v.dtype)


def build_policy(cfg: DictConfig, loaded: Checkpoint, grader: Grader | None = None) -> FocusPolicy:
    """Put the LightningModule together from its typed sections. Answers are graded by `grader`; None: by the rules alone."""
    objective = {key: cfg.objective[key] for key in Settings.__dataclass_fields__ if key in cfg.objective}
    rollout = {key: cfg.rollout[key] for key in ("rollouts_per_question", "questions_per_forward", "sampler_ratio_cap")}
    settings = Settings(**rollout, **objective)
    selected = read_levels(Path(cfg.gap.table)) if cfg.gap.mode == Mode.CALIBRATED else {}
    gap = Gap(Mode(cfg.gap.mode), cfg.gap.view_tokens, loaded.token_px, selected)
    rewards = build_rewards(cfg)
    for reward in rewards:
        if grader and isinstance(reward, Accuracy):
            reward.grader = grader
    return FocusPolicy(loaded, build_engine(cfg, loaded), gap, rules(cfg, cfg.rollout.temperature), rewards, settings, cfg.seed)


def rules(cfg: DictConfig, temperature: float) -> Rules:
    r = cfg.rollout
    sampling = Sampling(temperature, r.tokens_per_turn)
    return Rules(r.max_crops, r.crop_tokens, sampling, r.fixed_crops, r.force_first_crop, r.crop_min_tokens)


class KeepsSignals(Callback):
    """Signals stay with whoever had them: submitit, which requeues, or our own (config.end_on_sigterm).

    Lightning's handler of SIGTERM waits for the other ranks, which may be waiting elsewhere, and ends with status 0.
    """

    def __init__(self) -> None:
        self._handlers = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            for each, handler in self._handlers.items():
                signal.signal(each, handler)


def constructed(cfg: DictConfig, callbacks: Sequence[Callback], **rest: Any) -> Trainer:
    """Lightning's trainer with these callbacks, and those of the settings after them.

    Raises ValueError where it, or its strategy, refuses its settings.
    """
    try:
        return instantiate(cfg, callbacks=[*callbacks, *instantiate(cfg.get("callbacks") or [])], **rest)
    except InstantiationException as error:
        raise ValueError(f"trainer can't be constructed: {error.__cause__ or error}") from error


def fit(
    cfg: DictConfig,
    policy: FocusPolicy,
    samples: Sequence[Sample],
    alarms: CollapseAlarms,
    output: Path,
    logger: Logger,
    grader: Grader | None = None,
) -> None:
    """Train until `objective.updates`, from the last checkpoint if there is one."""
    if policy.gap.mode is Mode.CALIBRATED:
        samples = [sample for sample in samples if policy.gap.keeps(sample.id)]
        if not samples:
            raise ValueError(
                f"gap.table {cfg.gap.table} has a level for none of these questions; calibrate on this data set: make calibrate"
            )
    kept = output / "checkpoints"
    history = History(output / "history.jsonl")
    e = cfg.evaluation
    probes = []
    if e.samples and e.probe_every:
        held_out = held_out_samples(cfg)
        shown = [held_out[i] for i in range(min(len(held_out), e.probe_samples))]
        played = rules(cfg, e.temperature)
        probes.append(Probe(shown, _view_of_held_out(policy.gap), played, e.probe_every, e.questions_per_forward, grader))
    callbacks: list[Callback] = [
        *policy.rewards,
        *probes,
        alarms,
        history,
        Replay(history.path),
        TrajectoryTable(cfg.report.trajectories_every),
        *([RichProgressBar(leave=True)] if cfg.trainer.get("enable_progress_bar", True) else []),
        resume.Checkpoints(kept, cfg.report.checkpoint_every, cfg.objective.updates),
    ]
    # Whoever started this process requeues it (submitit, on Slurm); Lightning neither does so nor takes a warning for the end
    slurm = [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else None
    trainer = constructed(
        cfg.trainer,
        callbacks=[*callbacks, KeepsSignals()],
        plugins=slurm,
        logger=logger,
        max_epochs=1,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=str(output),
    )
    questions = Questions(samples, cfg.objective.updates, cfg.rollout.questions_per_update, cfg.data.workers, cfg.seed)
    last = latest(kept)
    if last and (by := ranks.written_by(last)) != ranks.kind(trainer.strategy):
        told = {"whole": "a trainer that keeps whole weights"}.get(by, f"trainer={by}")
        raise ValueError(f"{last} was written by {told}; resume it with the same kind of trainer, or give this run another name (name=...)")
    if not isinstance(trainer.strategy, ranks.WholeFolders):
        trainer.strategy.checkpoint_io = resume.WholeFiles()
    last = resume.last_whole(kept)
    _set_SIGCHLD_handler()  # PyTorch's, which notices a dead worker: it sets it once in a process, and Lightning puts back what it found
    try:
        trainer.fit(policy, questions, ckpt_path=str(last) if last else None, weights_only=True)
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # what Lightning makes of ctrl-C
            raise error.__context__ from None
        raise  # a job that is requeued
    if policy.updates_done != cfg.objective.updates and not alarms.ended:
        raise Unfinished(_unfinished(cfg, policy.updates_done))


def _unfinished(cfg: DictConfig, done: int) -> str:
    wanted = cfg.objective.updates
    if done > wanted:
        return f"not exported: {done} updates are made already, but objective.updates is {wanted}; raise it to {done} at least"
    limits = " and ".join(f"trainer.{key}" for key in CUTS_SHORT if cfg.trainer.get(key) is not None)
    why, without = (f"{limits} ended the training", f" without {limits}") if limits else ("a callback of yours ended the training", "")
    go_on = f"run the same command again{without}"
    return f"not finished: {done} of {wanted} updates are made, then {why}. Nothing is exported; to go on, {go_on}"


CUTS_SHORT = ("max_time", "max_steps", "limit_train_batches")  # settings of the trainer that end it before the run's last update


class Unfinished(ValueError):
    """The trainer returned before the last update."""


def run(cfg: DictConfig) -> None:
    """One run from settings to page. In a sweep a run that crashes leaves its row too."""
    config.check(cfg, "train")
    if cfg.results:
        check_results(Path(cfg.results), cfg)
    output, trained = Path(cfg.output), Path(cfg.output) / "policy"
    if (output / "checkpoints").exists() or trained.exists():
        config.refuse_other_run(cfg, output / "settings.yaml", finished=trained.exists())
    with config.alone(output):
        try:
            _run(cfg, output, trained)
        except Exception as error:
            if cfg.results:
                status = str(error) if isinstance(error, Unfinished) else f"crashed: {type(error).__name__}: {error}"
                write_row(Path(cfg.results), cfg, "", {}, status=status)
            raise


def _run(cfg: DictConfig, output: Path, trained: Path) -> None:
    console = Console(quiet=not ranks.is_first(), markup=False)  # what is printed holds names and texts of others
    with config.writable(cfg.output):
        ranks.publish(output / "settings.yaml", OmegaConf.to_yaml(cfg, resolve=True))
    torch.set_num_threads(cfg.threads)
    dependence.check_arms(cfg.evaluation.arms)
    alarms = CollapseAlarms(**cfg.alarms)
    samples = training_samples(cfg.data)
    for sentence in [*config.cautions(cfg), *leaks_of(cfg, samples)]:
        console.print(sentence)
    samples = with_boxes(samples, build_rewards(cfg))
    decidable = count_decidable(samples)
    if cfg.judge.url is None:
        check_decidable(decidable, len(samples), cfg.judge.min_decidable)
    console.print(said_of_decidable(decidable, len(samples), cfg.judge.model))
    is_trained = (trained / "config.json").is_file()
    grader = Grader(build_judge(cfg, reach=not is_trained), cfg.judge.max_ungraded)
    loaded = load_policy(cfg.policy)
    base, origin = loaded.weights_hash(), output / "started_from.txt"
    if origin.is_file() and origin.read_text() != base:
        raise ValueError(
            f"{output} holds a run that started from another policy than {cfg.policy.checkpoint} is now; give this one another name "
            "(name=...), or remove that folder"
        )
    asked, trained_on = questions_digest(samples), output / "trained_on.txt"
    calibrated = cfg.gap.mode == Mode.CALIBRATED
    if calibrated:  # the table says which questions are trained on, and how they are seen
        asked += f" {seed_of(sorted(read_levels(Path(cfg.gap.table)).items())):x}"
    if trained_on.is_file() and trained_on.read_text() != asked:
        raise ValueError(
            f"{output} holds a run on other training questions: a record, a box, an image file or gap.table has changed since. Put the old "
            "files back, give this run another name (name=...), or remove that folder"
        )
    ranks.publish(origin, base)
    ranks.publish(trained_on, asked)
    named = isinstance(samples, Scenes) and not calibrated  # settings name scenes, but not what lies in a file
    start = base if named else f"{base} {asked}"
    if cfg.results and cfg.evaluation.records:
        start += f" {questions_digest(held_out_samples(cfg))}"
    if cfg.results and has_row(Path(cfg.results), settings_hash(cfg), start):
        console.print(f"{cfg.name}: this point stands in {cfg.results} already")
        return
    logger = None if is_trained else start_logger(cfg)  # before anything slow: it may have no account or no network
    if logger is not None:
        remember_start(output / STARTS)
        if cfg.policy.lora_rank:
            console.print(loaded.adapted)
        with closing(logger):
            fit(cfg, build_policy(cfg, loaded, grader), samples, alarms, output, logger, grader)
        loaded.save(trained, config.export_dtype(cfg))
    del loaded  # its memory is for the two that are measured
    measured: dict[str, Outcome] = {}
    known = {"base": checkpoints.place(cfg.policy.checkpoint)} if cfg.evaluation.samples and cfg.evaluation.base else {}
    for label, checkpoint in {**known, "trained": trained}.items():
        policy = build_policy(cfg, checkpoints.load(checkpoint, cfg.policy.dialect, cfg.policy.dtype, cfg.policy.attention), grader)
        policy.engine.renew()
        measured |= _measure(cfg, policy, grader, label, output) if cfg.evaluation.samples else {}
    if not ranks.is_first():
        return
    results, page = report_run(cfg, output, measured, _examples(cfg, policy))
    if results:
        print_table(results, console)
    ranks.publish(trained / "README.md", card_text(_card(cfg, output, policy.rewards, base, (len(samples), asked), results)))
    if cfg.results:
        write_row(Path(cfg.results), cfg, start, measured, ended(read_history(output / "history.jsonl"), cfg.objective.updates))
    console.print(f"page: {page}\npolicy: {trained}")


def _card(
    cfg: DictConfig, output: Path, rewards: Sequence[RewardCallback], base: str, trained_on: tuple[int, str], results: Results | None
) -> Card:
    """The card of a finished run; `base` is the hash of its weights, `trained_on` the number of the training questions and their digest."""
    history, wanted = read_history(output / "history.jsonl"), cfg.objective.updates
    return Card(
        name=cfg.name,
        base=cfg.policy.checkpoint,
        base_hash=base,
        licence=stated_licence(cfg.policy.checkpoint, checkpoints.place(cfg.policy.checkpoint)),
        source=cfg.data.source,
        questions=trained_on[0],
        digest=trained_on[1],
        updates=max((int(row["update"]) for row in history), default=wanted),
        wanted=wanted,
        seed=cfg.seed,
        rewards={reward.name: reward.weight for reward in rewards},
        gap=f"{cfg.gap.mode}, at most {cfg.gap.view_tokens} visual tokens of the whole image",
        starts=starts(output / STARTS),
        results=results,
        ended=STOPPED if ended(history, wanted).startswith(STOPPED) else "",
    )


def _examples(cfg: DictConfig, policy: FocusPolicy) -> list[Example]:
    """Held-out trajectories for the page, scored by the run's own reward."""
    held_out = held_out_samples(cfg)
    gap, shown = _view_of_held_out(policy.gap), [held_out[i] for i in range(min(len(held_out), 8 * cfg.report.trajectories))]
    examiner = Examiner(
        policy.checkpoint,
        policy.engine,
        gap,
        rules(cfg, cfg.evaluation.temperature),
        cfg.seed,
        ("own",),
        cfg.evaluation.questions_per_forward,
    )
    with arithmetic(cfg):
        _, trajectories = measure(examiner, shown, "page")
    return examples(trajectories, score(policy.rewards, trajectories))


def arithmetic(cfg: DictConfig) -> AbstractContextManager:
    """A policy is measured in the arithmetic that it was trained in, though the trainer is not there to see to it."""
    enabled = config.arithmetic_of(cfg.trainer) == "bfloat16"
    return torch.autocast("cuda" if torch.cuda.is_available() else "cpu", torch.bfloat16, enabled=enabled)


def _view_of_held_out(gap: Gap) -> Gap:
    """Held-out questions were not calibrated: they are seen under the one budget that the settings name."""
    return replace(gap, mode=Mode.FIXED) if gap.mode is Mode.CALIBRATED else gap


def _measure(cfg: DictConfig, policy: FocusPolicy, grader: Grader, label: str, output: Path) -> dict[str, Outcome]:
    """Outcomes of a policy at its own view and at the common one; kept, so that a second start does not repeat them."""
    kept = output / f"evaluation_{label}_t{cfg.evaluation.temperature:g}.json"
    held_out, e = held_out_samples(cfg), cfg.evaluation
    identity = measurement(cfg, policy.checkpoint.weights_hash(), held_out) + graded_by(cfg)
    if outcomes := dependence.load(kept, identity):
        return {f"{label} {name}": outcome for name, outcome in outcomes.items()}
    own = _view_of_held_out(policy.gap)
    common = replace(own, mode=Mode.FIXED, view_tokens=e.common_view_tokens)
    for name, gap in {"own view": own, "common view": common}.items():
        if name == "common view" and common == own:
            continue  # it is the same one
        examiner = Examiner(
            policy.checkpoint, policy.engine, gap, rules(cfg, e.temperature), cfg.seed, e.arms, e.questions_per_forward, e.sigma, grader
        )
        with arithmetic(cfg):
            outcomes[name] = measure_together(examiner, held_out, f"{label}, {name}")
    if ranks.is_first():
        dependence.save(outcomes, kept, identity)
    return {f"{label} {name}": outcome for name, outcome in outcomes.items()}


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
def main(cfg: DictConfig) -> None:
    config.guarded(run, cfg)


if __name__ == "__main__":
    config.start(main, "train")
