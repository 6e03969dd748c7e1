"""Train a policy, measure it, and write the page. `python -m focus.train experiment=stage1`.

The same command resumes an interrupted run; for a finished run it only prints the result again.
"""

import logging
import signal
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.environments import SLURMEnvironment
from rich.console import Console
from torch.utils.data._utils.signal_handling import _set_SIGCHLD_handler

from focus import config
from focus.build import (
    autocast_like_trainer,
    build_evaluator,
    build_judge,
    build_policy,
    build_rewards,
    build_trainer,
    check_sampler_has_room,
    gradable_samples,
    held_out_samples,
    leak_report,
    load_policy,
    own_device,
    rollout_limits,
    run_facts,
    selected_levels,
    training_samples,
)
from focus.config.identity import export_dtype, graded_by, measurement, played_dtype, refuse_other_run
from focus.config.schema import TrainConfig
from focus.config.validate import as_yaml
from focus.config.views import original_tokens
from focus.data.drawn import Drawn
from focus.data.identity import questions_digest
from focus.data.questions import Questions
from focus.data.sample import Sample
from focus.evaluation import outcome
from focus.evaluation.kept import About, Kept
from focus.evaluation.measure import measure, measure_on_all_ranks
from focus.evaluation.outcome import Outcome
from focus.gap import Gap, Mode
from focus.grading.grader import Grader, check_decidable, count_decidable, decidable_sentence
from focus.model import loading
from focus.model.policy_model import PolicyModel
from focus.report.card import Card, card_text, stated_licence
from focus.report.dashboard import Replay, TrajectoryTable, closing, start_logger
from focus.report.headline import device_text, headline, policy_text
from focus.report.provenance import facts_text, how_made, remember_start, starts
from focus.report.results_file import Metrics, measured_metrics, write_results
from focus.report.run import RunFacts, check_results, has_row, report_run, result_table, write_row
from focus.report.table import Results, print_table
from focus.rewards import Example, RewardCallback, examples, score
from focus.rollout.loop import seed_of
from focus.runtime import distributed, files, memory, strategies
from focus.runtime.progress import Progress
from focus.runtime.requeue import RequeueWarning
from focus.training import checkpoints
from focus.training.adaptive_gap import AdaptGap
from focus.training.alarms import CollapseAlarms
from focus.training.history import History, read_history, run_status
from focus.training.keep import KeepTrajectories
from focus.training.policy import FocusPolicy
from focus.training.probe_callback import ProbeCallback
from focus.training.progress import TrainingProgress

# In the output folder: command, commit and versions, one line per different start; the hash of the base; the digest of the questions
STARTS, STARTED_FROM, TRAINED_ON = "trained_by.jsonl", "started_from.txt", "trained_on.txt"


# Lightning's general advice does not fit a loop of rollouts and updates
for _message in (
    "`isinstance\\(treespec",
    "Found \\d+ module\\(s\\) in eval mode",
    "You have overridden `transfer_batch_to_device`",
    "'set_vital' is deprecated",
    "`gradient_checkpointing_enable` is deprecated",
    "Experiment logs directory .* exists",  # Replay writes its rows again
):
    warnings.filterwarnings("ignore", _message)


for _name in ("pytorch_lightning", "lightning_fabric", "lightning.fabric"):
    logging.getLogger(_name).setLevel(logging.WARNING)


class RestoreSignalHandlers(Callback):
    """Restore the signal handlers that Lightning replaces.

    They are submitit's, which requeues the job, or `runtime.processes.end_on_sigterm`.
    Lightning's handler of SIGTERM waits for the other ranks, which may hang elsewhere, and ends
    with status 0.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._handlers.items():
                signal.signal(number, handler)


def fit(
    cfg: TrainConfig,
    module: FocusPolicy,
    samples: Sequence[Sample],
    output: Path,
    logger: Logger,
    grader: Grader,
    progress: Progress,
) -> None:
    """Train until `objective.updates`, from the last checkpoint if there is one."""
    checkpoint_folder, warning = output / "checkpoints", RequeueWarning()
    save = checkpoints.SaveCheckpoints(
        checkpoint_folder, cfg.report.checkpoint_every, cfg.report.checkpoint_minutes, cfg.objective.updates, warning
    )
    # On Slurm submitit requeues the job. Lightning must neither requeue it nor end at the warning signal
    slurm = [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else None
    trainer = build_trainer(
        cfg.trainer,
        callbacks=[*_callbacks(cfg, module, output, grader, progress), save, RestoreSignalHandlers()],
        plugins=slurm,
        logger=logger,
        max_epochs=1,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_progress_bar=False,  # TrainingProgress shows more
        use_distributed_sampler=False,
        default_root_dir=str(output),
    )
    questions = Questions(samples, cfg.objective.updates, cfg.rollout.questions_per_update, cfg.data.workers, cfg.seed, cfg.rollout.overlap)
    last = _resumed_from(checkpoint_folder, trainer)
    if not isinstance(trainer.strategy, strategies.AtomicCheckpointFolders):
        trainer.strategy.checkpoint_io = checkpoints.AtomicFiles()
    # PyTorch sets its handler, which notices a dead worker, once per process. It is set before `fit`,
    # because Lightning then restores it
    _set_SIGCHLD_handler()
    try:
        with warning.awaited():
            trainer.fit(module, questions, ckpt_path=str(last) if last else None, weights_only=True)
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning turns ctrl-C into SystemExit
            raise error.__context__ from None
        raise  # a job that is requeued
    if module.updates_done != cfg.objective.updates:
        raise Unfinished(_unfinished(cfg, module.updates_done))


def _with_a_view(cfg: TrainConfig, gap: Gap, samples: Sequence[Sample]) -> Sequence[Sample]:
    """The questions that the gap has a view for. Raises ValueError where that is none."""
    if gap.mode not in (Mode.CALIBRATED, Mode.READER):
        return samples
    kept = [sample for sample in samples if gap.keeps(sample)]
    if not kept and gap.mode is Mode.READER:
        raise ValueError(
            f"gap.mode is reader, but none of the {len(samples)} training questions has a critical view; make questions writes "
            "them (docs/data.md). For other data use gap=fixed or gap=calibrated"
        )
    if not kept:
        raise ValueError(f"gap.table {cfg.gap.table} has a level for none of these questions; calibrate on this data set: make calibrate")
    if gap.mode is Mode.READER and len(kept) < len(samples) and files.is_first_rank():
        print(f"{len(samples) - len(kept)} of {len(samples)} training questions have no critical view and are left out")
    return kept


def _callbacks(cfg: TrainConfig, module: FocusPolicy, output: Path, grader: Grader, progress: Progress) -> list[Callback]:
    """What watches a training and grades its rollouts."""
    e, r, history = cfg.evaluation, cfg.report, output / "history.jsonl"
    probes = []
    if e.samples and e.probe_every:
        held_out = held_out_samples(cfg)
        probed = [held_out[i] for i in range(min(len(held_out), e.probe_samples))]
        limits = rollout_limits(cfg, e.temperature)
        probes.append(
            ProbeCallback(
                *(probed, _view_of_held_out(module.gap), limits, e.probe_every, e.questions_per_forward, grader),
                kept=lambda update: Kept(output, About("probe", update, "", ""), r.kept_mib),
            )
        )
    return [
        *module.rewards,
        *([AdaptGap(**cfg.gap.adaptive.model_dump())] if module.gap.mode is Mode.ADAPTIVE and cfg.gap.adaptive else []),
        *probes,
        CollapseAlarms(**cfg.alarms.model_dump()),
        History(history),
        Replay(history),
        TrajectoryTable(r.trajectories_every),
        KeepTrajectories(output, r.trajectories_every, r.kept_mib),
        TrainingProgress(progress, cfg.objective.updates, (e.samples or 0) * (1 + len({*e.arms} - {"own"}))),
    ]


def _resumed_from(folder: Path, trainer: Trainer) -> Path | None:
    """The last readable checkpoint; None for a new run. Raises ValueError if another kind of trainer wrote the last one."""
    last = checkpoints.latest_checkpoint(folder)
    if last and (by := strategies.strategy_of_checkpoint(last)) != strategies.strategy_kind(trainer.strategy):
        writer = {"whole": "a trainer that keeps whole weights"}.get(by, f"trainer={by}")
        raise ValueError(
            f"{last} was written by {writer}; resume it with the same kind of trainer, or give this run another name (name=...)"
        )
    return checkpoints.latest_readable(folder)


def _unfinished(cfg: TrainConfig, done: int) -> str:
    wanted = cfg.objective.updates
    if done > wanted:
        return f"not exported: {done} updates are made already, but objective.updates is {wanted}; raise it to {done} at least"
    limits = " and ".join(f"trainer.{key}" for key in CUTS_SHORT if cfg.trainer.get(key) is not None)
    why, without = (f"{limits} ended the training", f" without {limits}") if limits else ("a callback of yours ended the training", "")
    again = f"run the same command again{without}"
    return f"not finished: {done} of {wanted} updates are made, then {why}. Nothing is exported; to continue, {again}"


CUTS_SHORT = ("max_time", "max_steps", "limit_train_batches")  # settings of the trainer that can end it before the run's last update


class Unfinished(ValueError):
    """The trainer returned before the last update."""


def run(composed: DictConfig) -> None:
    """One run from settings to page.

    A refused run leaves no folder. In a sweep it leaves its row and its settings, as a crashed run does, by which the page names it.
    """
    try:
        cfg = config.validated(composed, TrainConfig)
        _run_alone(cfg, run_facts(cfg))
    finally:
        with suppress(OSError, OmegaConfBaseException):
            Path(composed.output).rmdir()  # an empty folder: Hydra makes one for each point of a sweep


def _run_alone(cfg: TrainConfig, facts: RunFacts) -> None:
    if cfg.results:
        check_results(Path(cfg.results), facts)
    output, trained = Path(cfg.output), Path(cfg.output) / "policy"
    if (output / "checkpoints").exists() or trained.exists():
        refuse_other_run(cfg.model_dump(), output / "settings.yaml", finished=trained.exists())
    with config.alone(output):
        try:
            _run(cfg, facts, output, trained)
        except Exception as error:
            if cfg.results:
                status = str(error) if isinstance(error, Unfinished) else f"crashed: {type(error).__name__}: {error}"
                write_row(Path(cfg.results), facts, "", {}, status=status)
                _write_settings(cfg)
            raise


def _run(cfg: TrainConfig, facts: RunFacts, output: Path, trained: Path) -> None:
    is_trained = (trained / "config.json").is_file()
    if is_trained and not files.is_first_rank():
        return  # nothing is left to train, and the first rank alone measures what is not measured yet
    started = time.monotonic()
    console = Console(quiet=not files.is_first_rank(), markup=False, soft_wrap=True)  # texts are printed as they are; paths are not wrapped
    console.print(_headline(cfg))
    torch.set_num_threads(cfg.threads)
    samples = training_samples(cfg.data)
    for sentence in [*config.cautions(cfg), *leak_report(cfg, samples)]:
        console.print(sentence)
    rewards = build_rewards(cfg)
    samples = gradable_samples(samples, rewards)
    decidable = count_decidable(samples)
    if cfg.judge.url is None:
        check_decidable(decidable, len(samples), cfg.judge.min_decidable)
    console.print(decidable_sentence(decidable, len(samples), cfg.judge.model))
    grader = Grader(build_judge(cfg.judge, reach=not is_trained), cfg.judge.max_ungraded)
    device = own_device(cfg.trainer, start_ranks=not is_trained)
    check_sampler_has_room(cfg)
    loaded = load_policy(cfg.policy, device)
    # The first rank compares it; a row of a results file is looked up by it, on all ranks before they can exchange anything
    base = loaded.weights_hash() if files.is_first_rank() or cfg.results else ""
    digest = _digest(cfg, output, loaded, samples, base)
    start = _start(cfg, loaded, samples, base, digest)
    if cfg.results and has_row(Path(cfg.results), facts.point, start):
        console.print(f"{cfg.name}: this point is in {cfg.results} already")
        return
    # What may be refused comes before the first file: a reader, a server, questions without a view, a logger without an account
    module = None if is_trained else build_policy(cfg, loaded, grader)
    seen = _with_a_view(cfg, module.gap, samples) if module else samples
    logger = None if is_trained else start_logger(cfg.logger, cfg.model_dump())
    with config.writable(cfg.output):
        _write_settings(cfg)
        files.write_on_first_rank(output / STARTED_FROM, base)
        files.write_on_first_rank(output / TRAINED_ON, digest)
    policies = (["base"] if cfg.evaluation.base else []) + ["trained"] if cfg.evaluation.samples else []
    live = cfg.trainer.get("enable_progress_bar", True)
    with Progress(console, measurements=len(policies) * _views_measured(cfg), live=live) as progress:
        if module and logger:
            remember_start(output / STARTS)
            if cfg.policy.lora_rank:
                console.print(loaded.adapted)
            with closing(logger):
                fit(cfg, module, seen, output, logger, grader, progress)
            loaded.save(trained, export_dtype(cfg.model_dump()))
        del loaded, module
        memory.free()  # of the trained weights and their moments, for the policies that are measured
        measured: dict[str, Outcome] = {}
        played: list[Example] = []
        for label in policies or ["trained"]:
            outcomes, played = _measure(cfg, label, trained, base, device, grader, output, progress)
            measured |= outcomes
            memory.free()  # of this policy, before the next one is loaded
    if not files.is_first_rank():
        return
    seconds = time.monotonic() - started
    results, made = None, how_made(seconds)
    if measured:
        results = result_table(facts, measured)
        made = write_results(
            output / "results.json",
            _metrics(measured, cfg.evaluation.resamples),
            verdicts=results.verdicts,
            settings=facts.point,
            seconds=seconds,
        )
    page = report_run(facts, output, results, played, shown=cfg.report.trajectories, settings=as_yaml(cfg), made=facts_text(made))
    if results:
        print_table(results, console)
    files.write_on_first_rank(trained / "README.md", card_text(_card(cfg, output, rewards, base, (len(samples), digest), results)))
    if cfg.results:
        status = run_status(read_history(output / "history.jsonl"), cfg.objective.updates)
        write_row(Path(cfg.results), facts, start, measured, status)
    console.print(f"page: {page}\npolicy: {trained}")


def _write_settings(cfg: TrainConfig) -> None:
    files.write_on_first_rank(Path(cfg.output) / "settings.yaml", as_yaml(cfg))


def _digest(cfg: TrainConfig, output: Path, policy: PolicyModel, samples: Sequence[Sample], base: str) -> str:
    """The digest of the questions that the run starts from.

    `base` is the hash of the policy's weights. Raises ValueError where the folder holds a run that
    started from another policy or other questions.
    """
    origin, trained_on = output / STARTED_FROM, output / TRAINED_ON
    if base and origin.is_file() and origin.read_text() != base:
        raise ValueError(
            f"{output} holds a run that started from another policy than {cfg.policy.checkpoint} is now; give this one another name "
            "(name=...), or remove that folder"
        )
    digest = questions_digest(samples)
    if cfg.gap.mode == Mode.CALIBRATED:  # the table decides which questions are trained on, and at which view
        digest += f" {seed_of(sorted(selected_levels(cfg.gap).items())):x}"
    if _has_texts_of_its_own(policy):  # a file may be edited under the same name
        digest += f" {policy.dialect.identity}"
    if trained_on.is_file() and trained_on.read_text() != digest:
        raise ValueError(
            f"{output} holds a run on other training questions: a record, a box, an image file, gap.table or a file of prompts has changed "
            "since. Put the old files back, give this run another name (name=...), or remove that folder"
        )
    return digest


def _start(cfg: TrainConfig, policy: PolicyModel, samples: Sequence[Sample], base: str, digest: str) -> str:
    """The policy and the questions that a run starts from, as a results file names them."""
    # The settings determine scenes, but not the content of files
    named = isinstance(samples, Drawn) and cfg.gap.mode != Mode.CALIBRATED and not _has_texts_of_its_own(policy)
    start = base if named else f"{base} {digest}"
    if cfg.results and cfg.evaluation.records:
        start += f" {questions_digest(held_out_samples(cfg))}"
    return start


def _has_texts_of_its_own(policy: PolicyModel) -> bool:
    return policy.dialect.identity != policy.dialect.name


def _headline(cfg: TrainConfig) -> str:
    """The first line of a run."""
    p, r = cfg.policy, cfg.rollout
    native = original_tokens(cfg)
    of_native = f" of {native}" if native else ""
    view = {
        Mode.OFF: "the whole image, no gap",
        Mode.FIXED: f"view {cfg.gap.view_tokens:,}{of_native} tokens",
        Mode.CALIBRATED: "a view chosen for each question",
        Mode.READER: "the critical view of each question",
        Mode.ADAPTIVE: f"view {cfg.gap.most_tokens:,}{of_native} tokens at first, then as the policy succeeds",
    }[Mode(cfg.gap.mode)]
    return headline(
        cfg.name,
        policy_text(p.checkpoint, device_text(cfg.trainer, cfg.threads)),
        view,
        f"{cfg.objective.updates} updates of {r.questions_per_update} x {r.rollouts_per_question}",
        cfg.output,
    )


def _views_measured(cfg: TrainConfig) -> int:
    """1 if a run's own view is the common one, else 2."""
    return 1 if cfg.gap.mode != Mode.OFF and cfg.gap.view_tokens == cfg.evaluation.common_view_tokens else 2


def _metrics(measured: Mapping[str, Outcome], resamples: int) -> dict[str, Metrics]:
    """The metrics of every measurement, and of trained minus base where both were measured."""
    metrics = {name: measured_metrics(outcome, resamples) for name, outcome in measured.items()}
    for view in ("own view", "common view"):
        base, trained = measured.get(f"base {view}"), measured.get(f"trained {view}")
        if base and trained:
            metrics[f"trained - base {view}"] = measured_metrics(trained, resamples, base)
    return metrics


def _card(
    cfg: TrainConfig, output: Path, rewards: Sequence[RewardCallback], base: str, trained_on: tuple[int, str], results: Results | None
) -> Card:
    """The card of a finished run.

    `base` is the hash of the base's weights, `trained_on` the number of training questions and
    their digest.
    """
    history, wanted = read_history(output / "history.jsonl"), cfg.objective.updates
    return Card(
        name=cfg.name,
        base=cfg.policy.checkpoint,
        base_hash=base,
        licence=stated_licence(cfg.policy.checkpoint, loading.checkpoint_path(cfg.policy.checkpoint)),
        source=cfg.data.source,
        questions=trained_on[0],
        digest=trained_on[1],
        updates=max((int(row["update"]) for row in history), default=wanted),
        wanted=wanted,
        seed=cfg.seed,
        rewards={reward.name: reward.weight for reward in rewards},
        gap=f"{cfg.gap.mode}, at most {cfg.gap.most_tokens} visual tokens of the whole image",
        starts=starts(output / STARTS),
        results=results,
    )


def _examples(cfg: TrainConfig, module: FocusPolicy) -> list[Example]:
    """Held-out trajectories for the page, scored by the run's own reward."""
    held_out = held_out_samples(cfg)
    gap, played = _view_of_held_out(module.gap), [held_out[i] for i in range(min(len(held_out), 8 * cfg.report.trajectories))]
    evaluator = build_evaluator(cfg, module.policy, module.engine, gap, arms=("own",))
    with autocast_like_trainer(cfg.trainer):
        _, trajectories = measure(evaluator, played, None)
    return examples(trajectories, score(module.rewards, trajectories))


def _view_of_held_out(gap: Gap) -> Gap:
    """The gap of held-out questions.

    They have no calibrated level, and perhaps no critical view, and an adaptive one moves, so all have
    the budget `gap.view_tokens`.
    """
    return replace(gap, mode=Mode.FIXED) if gap.mode in (Mode.CALIBRATED, Mode.READER, Mode.ADAPTIVE) else gap


def _measure(
    cfg: TrainConfig, label: str, trained: Path, base: str, device: torch.device, grader: Grader, output: Path, progress: Progress
) -> tuple[dict[str, Outcome], list[Example]]:
    """Loads the policy `label` (base or trained) onto `device` and measures it.

    Of the trained one the first rank also returns examples for the page.
    `base` is the hash of the base's weights. Nothing holds the policy when this returns.
    """
    p, settings = cfg.policy, cfg.model_dump()
    checkpoint = trained if label == "trained" else loading.checkpoint_path(p.checkpoint)
    loaded = loading.load_model(checkpoint, p.dialect, played_dtype(settings), p.prompts, device)
    module = build_policy(cfg, loaded, grader)
    module.engine.sync_weights()
    outcomes: dict[str, Outcome] = {}
    if cfg.evaluation.samples:
        weights = distributed.from_first_rank(loaded.weights_hash if label == "trained" else lambda: base)
        outcomes = _outcomes(cfg, module, weights, grader, label, output, progress)
    return outcomes, _examples(cfg, module) if label == "trained" and files.is_first_rank() else []


def _outcomes(
    cfg: TrainConfig, module: FocusPolicy, weights: str, grader: Grader, label: str, output: Path, progress: Progress
) -> dict[str, Outcome]:
    """Outcomes of a policy at its own view and at the common one. `weights` is the hash of its weights.

    They are stored, so a second start does not repeat them.
    """
    path = output / f"evaluation_{label}_t{cfg.evaluation.temperature:g}.json"
    held_out, e = held_out_samples(cfg), cfg.evaluation
    settings = cfg.model_dump()
    identity = measurement(settings, weights, questions_digest(held_out)) + graded_by(settings)
    if outcomes := outcome.load_outcomes(path, identity):
        progress.skip(len(outcomes))
        return {f"{label} {name}": outcome for name, outcome in outcomes.items()}
    own = _view_of_held_out(module.gap)
    common = replace(own, mode=Mode.FIXED, view_tokens=e.common_view_tokens)
    for name, gap in {"own view": own, "common view": common}.items():
        if name == "common view" and common == own:
            continue  # the two views are the same
        evaluator = build_evaluator(cfg, module.policy, module.engine, gap, grader)
        with autocast_like_trainer(cfg.trainer), progress.measurement(f"{label}, {name}") as advance:
            kept = Kept(output, About("evaluation", None, label, name), cfg.report.kept_mib)
            outcomes[name] = measure_on_all_ranks(evaluator, held_out, advance, kept)
    if files.is_first_rank():
        outcome.save_outcomes(outcomes, path, identity)
    return {f"{label} {name}": outcome for name, outcome in outcomes.items()}
