"""The typed schema of every setting, and the checks that span several of them.

Unknown keys fail when Hydra composes. Everything else that can be known before a model is loaded is collected by `problems_of` and
reported together. Sections named `terms`, `trainer` and `logger` hold `_target_` calls, whose arguments are checked against the
target's signature.
"""

import difflib
import errno
import inspect
import math
import multiprocessing
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import torch
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ValueType
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from hydra.utils import get_class
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from pytorch_lightning.plugins.environments import SLURMEnvironment
from torch.distributed import DistError, is_torchelastic_launched
from yaml import YAMLError

from focus.data.readers import SETS, TESTS
from focus.data.scenes import DIFFICULTY, SPLITS
from focus.gap import Mode, Search
from focus.grading.extraction import MODES
from focus.model.prompts import DIALECTS
from focus.runtime import files

CONF = Path(__file__).parents[1] / "conf"
MAX_VLLM_RANK = 512  # of a LoRA adapter
EMBEDDED_VIEW = 16  # merged visual tokens of the view that an evaluation of the embedded policy shows: what its stage 1 trains at


@dataclass
class PolicyConfig:
    checkpoint: str = MISSING
    dialect: str = MISSING
    dtype: str = MISSING
    attention: str = MISSING
    train_vision: bool = MISSING
    activation_checkpointing: bool = MISSING
    lora_rank: int = MISSING
    lora_alpha: int = MISSING
    lora_targets: list[str] | None = MISSING
    export_dtype: str = MISSING


@dataclass
class DataConfig:
    source: str = MISSING
    difficulty: int = MISSING
    side_px: int = MISSING
    letter_px: list[int] | None = MISSING
    scenes: int = MISSING
    mix: list[str] = MISSING
    records: str | None = MISSING
    root: str | None = MISSING
    kept: str = MISSING
    annotations: str | None = MISSING
    repair_annotations: bool = MISSING
    derive_boxes: int = MISSING
    max_question_chars: int = MISSING
    max_options: int = MISSING
    workers: int = MISSING


@dataclass
class EndpointConfig:
    url: str | None = MISSING
    model: str | None = MISSING
    key_env: str = MISSING
    timeout_s: float = MISSING
    retries: int = MISSING
    concurrency: int = MISSING
    extra: dict[str, Any] = MISSING


@dataclass
class JudgeConfig(EndpointConfig):
    max_ungraded: float = MISSING
    min_decidable: float = MISSING


@dataclass
class GapConfig:
    mode: str = MISSING
    view_tokens: int = MISSING
    table: str | None = MISSING


@dataclass
class VLLMConfig:
    mode: str = MISSING
    weights: str = MISSING
    dtype: str = MISSING
    memory_share: float = MISSING
    cache_gib: float | None = MISSING
    max_model_len: int | None = MISSING
    block_size: int | None = MISSING
    enforce_eager: bool = MISSING


@dataclass
class RolloutConfig:
    engine: str = MISSING
    endpoint: EndpointConfig | None = MISSING
    vllm: VLLMConfig | None = MISSING
    sampler_ratio_cap: float | None = MISSING
    questions_per_update: int = MISSING
    rollouts_per_question: int = MISSING
    questions_per_forward: int | None = MISSING
    max_crops: int = MISSING
    crop_tokens: int = MISSING
    crop_min_tokens: int = MISSING
    fixed_crops: bool = MISSING
    force_first_crop: bool = MISSING
    tokens_per_turn: int = MISSING
    temperature: float = MISSING


@dataclass
class RewardConfig:
    terms: dict[str, Any] = MISSING


@dataclass
class ObjectiveConfig:
    updates: int = MISSING
    updates_per_rollout: int = MISSING
    learning_rate: float = MISSING
    warmup_updates: int = MISSING
    weight_decay: float = MISSING
    grad_clip: float = MISSING
    clip: float = MISSING
    dual_clip: float = MISSING
    advantage_epsilon: float = MISSING
    tokens_per_forward: int = MISSING
    mask_overturn: bool = MISSING
    teach_groups: str = MISSING


@dataclass
class EvaluationConfig:
    samples: int | None = MISSING
    records: str | None = MISSING
    difficulty: int | None = MISSING
    letter_px: list[int] | None = MISSING
    arms: list[str] = MISSING
    base: bool = MISSING
    probe_every: int = MISSING
    probe_samples: int = MISSING
    sigma: float = MISSING
    questions_per_forward: int = MISSING
    temperature: float = MISSING
    common_view_tokens: int = MISSING
    resamples: int = MISSING


@dataclass
class AlarmsConfig:
    window: int = MISSING
    crop_rate: float = MISSING
    zero_variance: float = MISSING
    truncated: float = MISSING
    area_drift: float = MISSING
    mismatch: float = MISSING
    equal_accuracy: float = MISSING
    stop: bool = MISSING


@dataclass
class ReportConfig:
    checkpoint_every: int = MISSING
    trajectories_every: int = MISSING
    trajectories: int = MISSING


@dataclass
class CalibrationConfig:
    search: str = MISSING
    audit: int = MISSING
    floor_tokens: int = MISSING
    decoding: str = MISSING
    votes: int = MISSING
    vote_temperature: float = MISSING
    agree_below: float = MISSING
    require_correct_at_native: bool = MISSING
    never_diverges: str = MISSING


@dataclass
class TrainConfig:
    """Everything that `train.py` reads."""

    name: str = MISSING
    output: str = MISSING
    seed: int = MISSING
    threads: int = MISSING
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    data: DataConfig = field(default_factory=DataConfig)
    gap: GapConfig = field(default_factory=GapConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    alarms: AlarmsConfig = field(default_factory=AlarmsConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    trainer: dict[str, Any] = MISSING
    logger: dict[str, Any] = MISSING
    results: str | None = MISSING


@dataclass
class CalibrateConfig:
    """Everything that `calibrate.py` reads."""

    output: str = MISSING
    seed: int = MISSING
    threads: int = MISSING
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    data: DataConfig = field(default_factory=DataConfig)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    judge: EndpointConfig = field(default_factory=EndpointConfig)
    questions_per_forward: int = MISSING
    tokens_per_turn: int = MISSING


@dataclass
class BaseConfig:
    """Everything that `base.py` reads."""

    output: str = MISSING
    seed: int = MISSING
    threads: int = MISSING
    workers: int = MISSING
    rows: int = MISSING
    learning_rate: float = MISSING
    difficulties: list[int] = MISSING
    phases: list[dict[str, Any]] = MISSING


@dataclass
class ServedConfig:
    view_deviation: float | None = MISSING
    refused: float = MISSING


@dataclass
class ProbeConfig:
    """Everything that `probe.py` reads."""

    output: str | None = MISSING
    seed: int = MISSING
    threads: int = MISSING
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    data: DataConfig = field(default_factory=DataConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    judge: EndpointConfig = field(default_factory=EndpointConfig)
    views: list[int] = MISSING
    served: ServedConfig = field(default_factory=ServedConfig)
    pictures: int = MISSING


@dataclass
class ExportConfig:
    """Everything that `export.py` reads."""

    output: str = MISSING
    split: str = MISSING
    difficulty: int = MISSING
    side_px: int = MISSING
    letter_px: list[int] | None = MISSING
    scenes: int = MISSING
    first: int = MISSING


@dataclass
class ViewConfig:
    min_tokens: int = MISSING
    max_tokens: int | None = MISSING


@dataclass
class EvaluateConfig:
    """Everything that `evaluate.py` reads."""

    output: str | None = MISSING
    seed: int = MISSING
    threads: int = MISSING
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    data: DataConfig = field(default_factory=DataConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    view: ViewConfig = field(default_factory=ViewConfig)
    options: str = MISSING
    extraction: str = MISSING
    repeats: int = MISSING
    judge: EndpointConfig = field(default_factory=EndpointConfig)
    served: ServedConfig = field(default_factory=ServedConfig)
    pictures: int = MISSING


@dataclass
class InspectConfig:
    """Everything that `inspect.py` reads."""

    output: str = MISSING
    seed: int = MISSING
    data: DataConfig = field(default_factory=DataConfig)
    pictures: int = MISSING


@dataclass
class LengthsConfig:
    question: float = MISSING
    longest_question: int = MISSING
    view: float | None = MISSING
    turn: float = MISSING
    crops: float = MISSING
    crop: float | None = MISSING


@dataclass
class PlanConfig(TrainConfig):
    """Everything that `plan.py` reads: what a run would, and the machine it is planned for."""

    device: str = MISSING
    devices: int | None = MISSING
    lengths: LengthsConfig = field(default_factory=LengthsConfig)


@dataclass
class SweepConfig:
    """Everything that `sweep.py` reads."""

    sweep: str = MISSING
    metrics: list[str] = MISSING
    resamples: int = MISSING


SCHEMAS: dict[str, type] = {
    "train": TrainConfig,
    "plan": PlanConfig,
    "probe": ProbeConfig,
    "calibrate": CalibrateConfig,
    "base": BaseConfig,
    "export": ExportConfig,
    "evaluate": EvaluateConfig,
    "inspect": InspectConfig,
    "sweep": SweepConfig,
}
for _name, _node in SCHEMAS.items():
    ConfigStore.instance().store(name=f"{_name}_schema", node=_node)


# What conf/hydra/launcher/slurm.yaml asks Slurm for
OmegaConf.register_new_resolver("gpus", lambda accelerator, devices: devices if accelerator in ("gpu", "cuda") else None, replace=True)


class Terminated(KeyboardInterrupt):
    """SIGTERM: whoever started this process, or a cluster, wants it to end. Whatever cleans up after ctrl-C cleans up after this."""


ENDS_WITHIN_S = 20.0  # of SIGTERM; Slurm and torchrun kill after 30
_heard = threading.Event()


def _terminate(*_: object) -> None:
    _heard.set()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not interrupt the cleaning up
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # nor PyTorch's word that its workers have ended as well
    raise Terminated


def end_on_sigterm() -> None:
    """From now on SIGTERM raises Terminated in the main thread, once. Jobs of submitit keep its handlers, which requeue them.

    A rank that waits for another one inside PyTorch never comes to raise it: such a process is ended ENDS_WITHIN_S later.
    """
    if "SUBMITIT_EXECUTOR" in os.environ or threading.current_thread() is not threading.main_thread():
        return
    signal.signal(signal.SIGTERM, _terminate)
    _watch_sigterm()


@cache
def _watch_sigterm() -> None:
    """One thread of a process hears its signals when they arrive: Python calls a handler only between two of its own steps."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))  # what a data worker gets is not meant for this process

    def watch() -> None:
        while True:
            if signal.SIGTERM in os.read(read, 64):
                if not _heard.wait(ENDS_WITHIN_S) and signal.getsignal(signal.SIGTERM) is _terminate:
                    os._exit(128 + signal.SIGTERM)
                _heard.clear()

    threading.Thread(target=watch, name="end on SIGTERM", daemon=True).start()


def end_with_parent() -> None:
    """A point of a local sweep, or a rank that Lightning started, gets SIGTERM when the process that started it is gone.

    A rank that waits inside PyTorch, where it can't raise anything, ends ENDS_WITHIN_S later.
    """
    if not multiprocessing.current_process().name.startswith("Loky") and os.environ.get("LOCAL_RANK", "0") == "0":
        return
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ENDS_WITHIN_S)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()


def _stop(error: KeyboardInterrupt) -> NoReturn:
    """End as asked: exit status 143 after SIGTERM, as a process has that it ends by default, 1 after ctrl-C."""
    terminated = isinstance(error, Terminated)
    print(f"focus: {'ended by SIGTERM' if terminated else 'interrupted'}; run the same command again to resume", file=sys.stderr)
    sys.exit(128 + signal.SIGTERM if terminated else 1)


def start(main: Callable[[], None], name: str) -> None:
    """Run an entry point. What Hydra would refuse is first said in one message that lists what exists.

    Of a sweep the first point is checked too, before any is started or queued.
    """
    end_on_sigterm()
    try:
        _prepare(name)
        main()
    except KeyboardInterrupt as error:
        _stop(error)


def _prepare(name: str) -> None:
    words = sys.argv[1:]
    sweep = bool({"-m", "--multirun"}.intersection(words))
    launcher = next((word.partition("=")[2] for word in words if word.startswith("hydra/launcher=")), None)
    if launcher and not sweep:
        sys.exit(f"focus: hydra/launcher={launcher} starts the points of a sweep; add --multirun (one run is a sweep of one point)")
    if launcher == "slurm" and shutil.which("sbatch") is None:
        sys.exit("focus: hydra/launcher=slurm needs sbatch, which is not here; start it on a login node, or use hydra/launcher=local")
    words = [readable(word, sweep) if "=" in word and not word.startswith(("-", "hydra")) else word for word in words]
    sys.argv[1:] = words
    overrides = [word for word in words if "=" in word and not word.startswith("-")]
    if {*words} - {*overrides} <= {"-m", "--multirun"}:  # with another flag of Hydra's own (--help, --cfg) Hydra speaks for itself
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            try:
                cfg = compose(name, [_first_of(o) for o in overrides if not o.startswith("hydra")])
                if sweep:
                    if "output" in cfg:
                        cfg.output = "outputs"  # each point's own is known when it begins
                    check(cfg, name, here=False)
                    hydra = compose(name, [*map(_first_of, overrides)], return_hydra_config=True).hydra
                    sys.argv += _short_names(hydra, overrides)
                elif "output" in cfg:
                    _try_to_write(name, overrides)
            except (ConfigCompositionException, MissingConfigException, OverrideParseException) as error:
                sys.exit(f"focus: {_told(error)}")
            except ConfigError as error:
                sys.exit(f"focus: the first point of this sweep: {error}")
        if launcher == "slurm" and "trainer" in cfg and cfg.trainer.devices == "auto":
            sys.exit("focus: trainer.devices is auto, but Slurm is asked for a number of GPUs on each node: trainer.devices=8")


def _try_to_write(name: str, overrides: Sequence[str]) -> None:
    """End with one message where Hydra could not write its own files of a run, or make its folder."""
    hydra = compose(name, list(overrides), return_hydra_config=True).hydra
    if hydra.run.dir != ".":
        try:
            with writable(hydra.run.dir):
                probe = Path(hydra.run.dir, ".writable")
                probe.write_bytes(bytes(2**16))
                probe.unlink()
        except ValueError as error:
            sys.exit(f"focus: {error}")


LONGEST_NAME = 255  # bytes of a folder's name


def values_of(params: Mapping[str, str], overrides: Sequence[str]) -> dict[str, list[str]]:
    """All values of every key that a sweep was given, by its experiment (`params`) and, taking a key over, on its command line."""
    given: dict[str, list[str]] = {}
    for override in OverridesParser.create().parse_overrides([*(f"{key}={value}" for key, value in params.items()), *overrides]):
        each = map(str, override.sweep_string_iterator()) if override.is_sweep_override() else [override.get_value_element_as_str()]
        given[override.get_key_element()] = list(each)
    return given


def name_of(point: Mapping[str, str], unnamed: Sequence[str]) -> str:
    """The name that Hydra gives a point's folder: its overrides, but those of the keys `unnamed`."""
    return ",".join(sorted(f"{key}={value}" for key, value in point.items() if key.lstrip("+~") not in unnamed))


def _short_names(hydra: DictConfig, overrides: Sequence[str]) -> list[str]:
    """What to add to a sweep's command line where names of all its settings are too long for folders: then what is swept names them."""
    if "override_dirname" not in str(OmegaConf.to_container(hydra.sweep)["subdir"]):  # type: ignore[call-overload,index]
        return []
    given = values_of(hydra.sweeper.params or {}, [o for o in overrides if not o.startswith("hydra")])
    longest = {key: max(values, key=len) for key, values in given.items()}
    unnamed = list(hydra.job.config.override_dirname.exclude_keys)
    if len(name_of(longest, unnamed).encode()) <= LONGEST_NAME:
        return []
    unnamed += sorted({key.lstrip("+~") for key, values in given.items() if len(values) == 1} - {*unnamed})
    if (size := len(name_of(longest, unnamed).encode())) > LONGEST_NAME:
        sys.exit(
            f"focus: a point's folder would be named by what is swept, with {size} bytes; {LONGEST_NAME} are possible. Sweep fewer keys, "
            "or put long values into files of conf/experiment and sweep over those (experiment=a,b)"
        )
    return [f"hydra.job.config.override_dirname.exclude_keys=[{','.join(unnamed)}]"]


ANY_KEY = re.compile(r"(judge|rollout\.endpoint)\.extra[.=]")  # sections that take keys which no schema names


def readable(override: str, sweep: bool = False) -> str:
    """An override as Hydra's grammar can read it: a value with letters or signs that are none of the grammar's is put into quotes.

    Without a sweep a comma in a path is a part of it. Ends the program for a list, a dict or a choice that can't be read.
    """
    override = ("++" if ANY_KEY.match(override) else "") + override
    key, _, value = override.partition("=")
    try:
        [parsed] = OverridesParser.create().parse_overrides([override])
        if sweep or parsed.value_type is not ValueType.SIMPLE_CHOICE_SWEEP or "/" not in value or value.startswith(("'", '"')):
            return override
    except (OverrideParseException, HydraException):
        if value.startswith(("[", "{", "'", '"')) or (sweep and "," in value):
            sys.exit(
                f"focus: {key} is {value}, which Hydra can't read; put a text that has other letters or signs into quotes twice: "
                f"\"{key}='...'\""
            )
    quoted = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), value)
    return f"{key}='{quoted}'"


def _first_of(override: str) -> str:
    """An override as the first point of a sweep has it."""
    [parsed] = OverridesParser.create().parse_overrides([override])
    return f"{parsed.get_key_element()}={next(parsed.sweep_string_iterator())}" if parsed.is_sweep_override() else override


def guarded(run: Callable[[DictConfig], None], cfg: DictConfig) -> None:
    """Run with these settings; a ValueError is for people and becomes one message and exit status 1, and so does ctrl-C.

    SIGTERM ends with 143. In a sweep errors are left to Hydra, which marks this point as failed and goes on with the others.
    """
    end_on_sigterm()
    end_with_parent()
    try:
        run(cfg)
    except KeyboardInterrupt as error:
        _stop(error)
    except Exception as error:
        told = str(error) if isinstance(error, ValueError) else what_befell(error)
        if not told:
            raise
        if HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN:
            raise ValueError(told) from error
        sys.exit(f"focus: {told}")


NO_ACCESS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE)


def what_befell(error: BaseException) -> str:
    """In one sentence what a run met that is no fault of the program: a full disk, a process of its own that was ended; else empty."""
    chain: list[BaseException] = []
    each: BaseException | None = error
    while each is not None and each not in chain:
        chain.append(each)
        each = each.__cause__ or each.__context__
    again = "run the same command again, and it goes on where it stopped"
    for each in chain:
        said = (str(each).splitlines() or [""])[0]
        if (isinstance(each, OSError) and each.errno in NO_ACCESS) or "os error 28" in said:  # 28: told by safetensors
            return f"a file can't be read or written ({said}). When that is mended, {again}"
        if isinstance(each, RuntimeError) and said.startswith("DataLoader worker"):
            return (
                f"a process that reads questions was ended from outside ({said}), often for lack of memory: data.workers=0 needs none "
                f"beside this one. {again[0].upper()}{again[1:]}"
            )
        if isinstance(each, DistError) or (isinstance(each, RuntimeError) and "Connection closed by peer" in said):
            return f"another rank of this run has ended, and says why itself. {again[0].upper()}{again[1:]}. ({said})"
    return ""


@contextmanager
def writable(folder: str) -> Iterator[None]:
    """Turn what the file system refuses inside the block into a message that names the setting."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise ValueError(f"the output folder {folder} can't be written ({error}); choose another with output=FOLDER") from error


@contextmanager
def alone(folder: str | Path) -> Iterator[None]:
    """Make an output folder, and let no other job work in it within the block.

    Raises ValueError where it can't be written, and where another job holds it.
    """
    with ExitStack() as held:
        with writable(str(folder)):
            held.enter_context(files.folder_lock(Path(folder)))
        yield


def _told(error: BaseException) -> str:
    """Hydra's reason, and the keys that exist beside the one that does not."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        there = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
        near = difflib.get_close_matches(name, there, n=1)
        return f"{group}={name} names no file. " + (f"Did you mean {near[0]}? " if near else "") + f"There are: {', '.join(there)}"
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and cause.parent_node is not None:
        return _unknown(str(cause.full_key or cause.key), [str(key) for key in cause.parent_node])
    if isinstance(cause, OmegaConfBaseException):
        return f"{error}: " + " ".join(line.strip() for line in str(cause).splitlines()[:2])
    return str(error)


def _unknown(full_key: str, keys: Sequence[str]) -> str:
    near = difflib.get_close_matches(full_key.rpartition(".")[2], keys, n=1)
    return f"{full_key} is no setting. " + (f"Did you mean {near[0]}? " if near else "") + f"There are: {', '.join(keys)}"


def unknown_keys(cfg: DictConfig, schema: type, place: str = "") -> list[str]:
    """Keys that `+key=value` brought in although the schema has none of that name."""
    known = {each.name: each.default_factory for each in fields(schema)}
    problems = []
    for key in map(str, cfg):
        if key not in known:
            problems.append(_unknown(f"{place}{key}", list(known)))
        elif is_dataclass(section := known[key]):
            problems += unknown_keys(cfg[key], section, f"{place}{key}.")
    return problems


class ConfigError(ValueError):
    """Settings that can't work, all of them in one message."""


def raise_all(problems: Sequence[str]) -> None:
    """One ConfigError for all problems; none for none."""
    if problems:
        raise ConfigError("these settings can't work:\n" + "\n".join(f"  - {problem}" for problem in problems))


def check(cfg: DictConfig, schema: str, here: bool = True) -> None:
    """Raise ConfigError with every problem of a composed configuration, before anything expensive starts.

    `here`: it is this machine that it would run on.
    """
    unknown = unknown_keys(cfg, SCHEMAS[schema])
    if missing := sorted(OmegaConf.missing_keys(cfg)):
        raise_all([*unknown, "these keys have no value: " + ", ".join(missing) + ". Choose an experiment, e.g. experiment=stage1"])
    raise_all(unknown + problems_of(cfg) + (_machine_problems(cfg, schema) if here else []))


def _machine_problems(cfg: DictConfig, schema: str) -> list[str]:
    """What this machine lacks, and what its launcher did. Settings alone may describe a run that another machine makes."""
    who, started = launched()
    if schema != "train":
        return [f"{who} started {started} processes, but {schema} is one; start it once (srun --ntasks=1)"] if started > 1 else []
    trainer = cfg.trainer
    if trainer.get("accelerator") in ("gpu", "cuda") and not torch.cuda.is_available():
        return [f"trainer.accelerator is {trainer.accelerator}, but PyTorch finds no GPU here (torch.cuda.is_available()); use trainer=cpu"]
    devices, nodes = _devices(trainer), int(trainer.get("num_nodes", 1))
    if who == "mpirun" and find_spec("mpi4py") is None:
        return [f"mpirun started {started} processes, which find each other by the package mpi4py alone; install it, or use torchrun"]
    if not who or started == devices * nodes:
        return []
    remedy = {
        "Slurm": f"ask for --nodes={nodes} --ntasks-per-node={devices}, or, to have one task start the others on its node, name the job "
        "interactive (--job-name=interactive)",
        "torchrun": f"use --nnodes={nodes} --nproc_per_node={devices}",
        "mpirun": f"use -n {devices * nodes}",
    }[who]
    return [
        f"{who} started {started} process{'es' if started > 1 else ''} for this run, but trainer.devices x trainer.num_nodes is "
        f"{devices} x {nodes}; set them to what was started, or {remedy}"
    ]


def launched() -> tuple[str, int]:
    """Who started this process with others of its kind, in the order in which Lightning asks, and how many; nobody: ("", 1)."""
    if is_torchelastic_launched():
        return "torchrun", int(os.environ["WORLD_SIZE"])
    if SLURMEnvironment.detect():
        return "Slurm", int(os.environ.get("SLURM_NTASKS", 1))
    sizes = [int(os.environ[name]) for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE") if name in os.environ]
    return ("mpirun", sizes[0]) if sizes and sizes[0] > 1 else ("", 1)


def _devices(trainer: DictConfig) -> int:
    """Devices of one node that Lightning will use."""
    devices = trainer.get("devices", "auto")
    if OmegaConf.is_list(devices):
        return len(devices)
    if "," in str(devices):
        return len([each for each in str(devices).split(",") if each.strip()])
    if str(devices) in ("auto", "-1"):
        return torch.cuda.device_count() if trainer.get("accelerator") != "cpu" and torch.cuda.is_available() else 1
    return int(devices)


SECRET = re.compile(r"(api|access|secret)?[_-]?key|authorization|password|(access|api|bearer)[_-]?token", re.IGNORECASE)
# What makes a run fit into memory: it may change when the run resumes
MEMORY = ("rollout.questions_per_forward", "objective.tokens_per_forward", "policy.activation_checkpointing", "data.workers")
# Where vLLM runs and how much memory it takes: a run that resumes may be given another place
PLACE = ("rollout.endpoint.", "rollout.vllm.")
# Settings that change where a run writes, how fast it is or how it is measured, but not what is learned
NOT_LEARNED = ("name", "output", "results", "threads", "trainer", "logger", "report", "evaluation", "alarms", "judge")


def learned_settings(cfg: DictConfig, resolve: bool = True) -> dict[str, Any]:
    """Every setting that can move the trained weights, by its full key.

    `resolve`: values that name others are looked up. Those of a folder that somebody else wrote are not: one may name an environment
    variable.
    """
    flat: dict[str, Any] = {}

    def walk(node: Any, place: str) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                walk(value, f"{place}.{key}" if place else str(key))
        elif place == "rollout.vllm.dtype" or not place.startswith(PLACE):
            flat[place] = node

    walk(OmegaConf.to_container(OmegaConf.masked_copy(cfg, [key for key in map(str, cfg) if key not in NOT_LEARNED]), resolve=resolve), "")
    if "alarms" in cfg and cfg.alarms.stop:  # it may end the training early; without it alarms only speak
        walk(OmegaConf.to_container(cfg.alarms), "alarms")
    if "judge" in cfg and cfg.judge.url:  # which model grades; not where it is served. Runs from before there was one had none
        flat["judge.model"] = cfg.judge.model
    return flat


def arithmetic_of(trainer: DictConfig) -> str:
    """The dtype that a policy computes in under this trainer: bfloat16 or float32. What it is stored in is `policy.dtype`."""
    strategy = trainer.get("strategy")
    divided = isinstance(strategy, DictConfig) and strategy.get("arithmetic") == "bfloat16"
    return "bfloat16" if divided or str(trainer.get("precision")).startswith("bf16") else "float32"


def export_dtype(cfg: DictConfig) -> str:
    """The dtype of the weights in `policy/`. `auto` keeps what was learned: float32, unless the policy was sampled in bfloat16."""
    if cfg.policy.export_dtype != "auto":
        return cfg.policy.export_dtype
    return "bfloat16" if "bfloat16" in (cfg.policy.dtype, arithmetic_of(cfg.trainer)) else "float32"


def refuse_other_run(cfg: DictConfig, settings: Path, finished: bool) -> None:
    """Raise ConfigError if the run whose settings are kept there was another one: resuming it would mix two runs.

    A run that has not finished may be given another length, and whatever fits into memory.
    """
    try:
        kept = OmegaConf.load(settings)
    except (OSError, YAMLError) as error:
        raise ConfigError(
            f"{settings.parent} holds a run whose {settings.name} can't be read ({type(error).__name__}), so nothing tells whether this is "
            "the same run; copy the file back, give this one another name (name=...), or remove that folder"
        ) from error
    before, now = learned_settings(kept, resolve=False), learned_settings(cfg)  # type: ignore[arg-type]
    if not finished:
        before |= {key: now[key] for key in ("objective.updates", "policy.export_dtype", *MEMORY)}
    changed = [
        f"{key}: {before.get(key, 'no such setting')} then, {now.get(key, 'no such setting')} now"
        for key in sorted(before | now)
        if before.get(key) != now.get(key)
    ]
    if changed:
        raise ConfigError(
            f"{settings.parent} holds a run with other settings:\n"
            + "\n".join(f"  - {change}" for change in changed)
            + "\nGive this one another name (name=...), or remove that folder"
        )


def _not_a_number(node: Any, place: str = "") -> Iterator[str]:
    """The full keys whose value is NaN, which no comparison would refuse."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _not_a_number(value, f"{place}.{key}" if place else str(key))
    elif isinstance(node, float) and math.isnan(node):
        yield place


def problems_of(cfg: DictConfig) -> list[str]:
    """What is wrong with these settings, one line each, each with its remedy."""
    if "lengths" in cfg:
        return _plan_problems(cfg)
    problems = [f"{key} is nan; write a number" for key in _not_a_number(OmegaConf.to_container(cfg))]
    if cfg.get("seed", 0) < 0:
        problems.append(f"seed is {cfg.seed}; use a whole number from 0 on")
    if cfg.get("threads", 1) < 1:
        problems.append(f"threads is {cfg.threads}; use at least 1")
    if "policy" in cfg:
        problems += _policy_problems(cfg.policy, served="rollout" in cfg and cfg.rollout.engine == "openai")
    if "data" in cfg:
        problems += _data_problems(cfg.data)
    if "judge" in cfg:
        problems += _judge_problems(cfg.judge)
    if cfg.get("pictures", 1) < 1:
        problems.append(f"pictures is {cfg.pictures}; show at least 1")
    if "rollout" in cfg:
        problems += _rollout_problems(cfg.rollout) + _evaluation_problems(cfg.evaluation)
        if cfg.rollout.engine == "openai" and cfg.policy.dialect == "tiny" and cfg.policy.checkpoint != "embedded":
            problems.append(
                f"policy.dialect is tiny, which only the embedded policy speaks; {cfg.policy.checkpoint} needs one of "
                + ", ".join(name for name in DIALECTS if name != "tiny")
            )
        if cfg.rollout.engine == "vllm" and cfg.policy.lora_rank > MAX_VLLM_RANK:
            problems.append(f"policy.lora_rank is {cfg.policy.lora_rank}, but vLLM takes adapters up to {MAX_VLLM_RANK}; use rollout=kv")
        if "no_tool" in cfg.evaluation.arms and cfg.policy.dialect in DIALECTS and DIALECTS[cfg.policy.dialect].plain is None:
            problems.append(
                f"evaluation.arms names no_tool, but policy.dialect={cfg.policy.dialect} has no prompt without the tool; leave it out"
            )
    if "objective" in cfg:
        problems += _training_problems(cfg)
    if "views" in cfg:
        problems += _probe_problems(cfg)
    if "view" in cfg:
        problems += _evaluate_problems(cfg)
    if "served" in cfg:
        problems += _served_problems(cfg.served)
    if "calibration" in cfg:
        problems += _calibration_problems(cfg)
    if "split" in cfg:
        problems += scene_problems(cfg) + _letter_problems("", cfg.letter_px)
        if cfg.split not in SPLITS:
            problems.append(f"split is {cfg.split!r}; choose one of {', '.join(SPLITS)}")
    return problems


def _plan_problems(cfg: DictConfig) -> list[str]:
    """A plan reads neither data nor weights, and is made for another machine: what these would be refused for is not asked."""
    problems = _policy_problems(cfg.policy, served=False) + _rollout_problems(cfg.rollout) + _call_problems("trainer", cfg.trainer)
    if cfg.devices is not None and cfg.devices < 1:
        problems.append(f"devices is {cfg.devices}; a node has at least 1")
    for key in ("updates_per_rollout", "tokens_per_forward"):
        if cfg.objective[key] < 1:
            problems.append(f"objective.{key} is {cfg.objective[key]}; use at least 1")
    for key, least in (("question", 0), ("longest_question", 0), ("view", 1), ("turn", 1), ("crops", 0), ("crop", 1)):
        if cfg.lengths[key] is not None and cfg.lengths[key] < least:
            problems.append(f"lengths.{key} is {cfg.lengths[key]}; use at least {least}")
    return problems


def _policy_problems(policy: DictConfig, served: bool) -> list[str]:
    problems = []
    if policy.dialect not in DIALECTS:
        problems.append(f"policy.dialect is {policy.dialect!r}; choose one of {', '.join(DIALECTS)}")
    if policy.dtype not in ("float32", "bfloat16"):
        problems.append(f"policy.dtype is {policy.dtype!r}; choose float32 or bfloat16")
    if policy.export_dtype not in ("auto", "float32", "bfloat16"):
        problems.append(f"policy.export_dtype is {policy.export_dtype!r}; choose auto, float32 or bfloat16")
    if not served and policy.checkpoint.startswith("outputs/") and not Path(policy.checkpoint, "config.json").is_file():
        maker = "make claim CLAIM=gap_and_bonus" if policy.checkpoint.startswith("outputs/claims/") else None
        maker = maker or {"outputs/stage1/policy": "make stage1", "outputs/stage2/policy": "make stage2"}.get(
            policy.checkpoint, "its run, when it is done,"
        )
        problems.append(f"policy.checkpoint is {policy.checkpoint}, where no policy lies yet; {maker} leaves it there. Or name another")
    if policy.lora_rank < 0:
        problems.append(f"policy.lora_rank is {policy.lora_rank}; 0 trains all weights, 8 to 64 are usual")
    return problems


def _data_problems(data: DictConfig) -> list[str]:
    problems = []
    if not data.mix and data.source not in ("scenes", "records", *SETS):
        near = difflib.get_close_matches(data.source, SETS, n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        problems.append(
            f"data.source is {data.source!r}. {hint}There are scenes (embedded), records (a records.jsonl), and the published sets "
            + ", ".join(SETS)
        )
    if data.source == "records" and not data.records:
        problems.append("data.source is records but data.records names no file; `make scenes` writes one, or give your own")
    if data.source in SETS and not (data.root and Path(data.root).is_dir()):
        problems.append(
            f"data.root is {data.root}, where the files of {data.source} are expected ({SETS[data.source].about}); "
            "download them, then name their folder: data.root=FOLDER"
        )
    if data.mix and data.source in ("scenes", "records", *SETS):
        problems.append(f"data.mix joins {', '.join(data.mix)}, but data.source is {data.source}; give the mix a name of its own")
    if data.mix and Path(data.source).name != data.source:
        problems.append(f"data.source is {data.source!r}, the name that the mix is given; it names a folder, so it holds no slash")
    for name in data.mix:
        if name not in SETS:
            problems.append(f"data.mix names {name!r}; choose from {', '.join(sorted(SETS))}")
        elif not (place := Path(data.root or "", name)).is_dir():
            problems.append(
                f"data.mix names {name}, whose files are expected in {place} ({SETS[name].about}); download them, then name the folder "
                "that holds the sets: data.root=FOLDER"
            )
    if data.source == "scenes" and (data.annotations or data.derive_boxes):
        problems.append("data.source is scenes, whose boxes are exact; data.annotations and data.derive_boxes are for other sets")
    if data.derive_boxes < 0:
        problems.append(
            f"data.derive_boxes is {data.derive_boxes}; give the least side of the smallest box in pixels (28 for Qwen2.5-VL, 32 for "
            "Qwen3-VL), or 0 to derive none"
        )
    for name, least in (("max_question_chars", 1), ("max_options", 2)):
        if data[name] < least:
            problems.append(f"data.{name} is {data[name]}; give {least} or more: a question with more than that is left out and counted")
    if data.annotations and not Path(data.annotations).is_file():
        missing = _no_file(data.annotations)
        problems.append(f"data.annotations is {data.annotations}, {missing}; give an export of Label Studio, CVAT or COCO")
    problems += _letter_problems("data.", data.letter_px)
    if data.records and not Path(data.records).is_file():
        problems.append(f"data.records is {data.records}, {_no_file(data.records)}; name a file of JSON lines")
    return problems + scene_problems(data)


def _letter_problems(section: str, letter_px: Sequence[int] | None) -> list[str]:
    if not letter_px or (len(letter_px) == 2 and 6 <= letter_px[0] <= letter_px[1]):
        return []
    return [f"{section}letter_px is {list(letter_px)}; give [least, most] native pixels, from 6 up, or null"]


def scene_problems(data: DictConfig) -> list[str]:
    """What is wrong with the dials of the embedded scenes."""
    problems = []
    if data.difficulty not in DIFFICULTY:
        problems.append(f"difficulty is {data.difficulty}; choose {min(DIFFICULTY)} to {max(DIFFICULTY)}")
    if not 112 <= data.side_px <= 8192:
        problems.append(f"side_px is {data.side_px}; scenes are 112 to 8192 px wide")
    if data.scenes < 1:
        problems.append(f"scenes is {data.scenes}; at least one is needed")
    return problems


def _training_problems(cfg: DictConfig) -> list[str]:
    problems = []
    gap, objective = cfg.gap, cfg.objective
    if cfg.rollout.engine == "openai":
        problems.append("rollout.engine is openai: a served model can be evaluated and probed, not trained. Use rollout=kv")
    if gap.mode not in [mode.value for mode in Mode]:
        problems.append(f"gap.mode is {gap.mode!r}; choose one of {', '.join(Mode)}")
    if gap.view_tokens < 1:
        problems.append(f"gap.view_tokens is {gap.view_tokens}; a view has at least 1 token. To switch the gap off write gap=off")
    if gap.mode == "calibrated" and not (gap.table and Path(gap.table).is_file()):
        problems.append(f"gap.mode is calibrated but gap.table ({gap.table}) does not exist; `make calibrate` writes it")
    for key in ("updates", "updates_per_rollout", "tokens_per_forward"):
        if objective[key] < 1:
            problems.append(f"objective.{key} is {objective[key]}; use at least 1")
    for key in ("learning_rate", "clip", "grad_clip"):
        if objective[key] <= 0:
            problems.append(f"objective.{key} is {objective[key]}; it must be above 0")
    if objective.dual_clip <= 1:
        problems.append(
            f"objective.dual_clip is {objective.dual_clip}; it bounds the ratio of bad tokens and must be above 1 (3.0 is usual)"
        )
    if objective.teach_groups not in ("all", "accuracy"):
        problems.append(f"objective.teach_groups is {objective.teach_groups!r}; choose all or accuracy")
    if objective.teach_groups == "accuracy" and "accuracy" not in cfg.reward.terms:
        problems.append("objective.teach_groups is accuracy, but reward.terms has no term of that name; choose all, or add the term")
    problems += _term_problems(cfg.reward.terms) + _trainer_problems(cfg.trainer) + _call_problems("logger", cfg.logger)
    for said in (f"data.source is {cfg.data.source}", *(f"data.mix names {name}" for name in cfg.data.mix)):
        if said.rpartition(" ")[2] in TESTS:
            problems.append(f"{said}, which policies are tested on; train on another set")
    if cfg.evaluation.samples and cfg.data.source != "scenes" and not cfg.evaluation.records:
        problems.append(
            f"data.source is {cfg.data.source}, so evaluation needs records of its own: set evaluation.records (make inspect DATA=... "
            "leaves some in outputs/data), or evaluation.samples=0"
        )
    return problems


def cautions(cfg: DictConfig) -> list[str]:
    """What works, but not as one may expect: sentences to say before a run."""
    remedy = "Keep weights in float32 (policy.dtype=float32) and compute in bfloat16: trainer.precision=bf16-mixed, or trainer=fsdp"
    said = []
    if cfg.policy.dtype == "bfloat16" and not cfg.policy.lora_rank:
        said.append(f"policy.dtype is bfloat16 and all weights learn: steps below its resolution are lost, at 1e-6 nearly all. {remedy}")
    return said


# Keys of Lightning's Trainer that may be set. All others are set by the program, or have no meaning for a loop of rollout and update
TRAINER = (
    "_target_", "accelerator", "devices", "num_nodes", "strategy", "precision",
    "callbacks", "max_time", "max_steps", "limit_train_batches", "enable_progress_bar",
    "benchmark", "deterministic", "detect_anomaly", "profiler",
)  # fmt: skip
INSTEAD = {
    "logger": "choose logger=csv, tensorboard or wandb",
    "max_epochs": "objective.updates is the length of a run",
    "min_epochs": "objective.updates is the length of a run",
    "min_steps": "objective.updates is the length of a run",
    "fast_dev_run": "make smoke tries everything in a minute; objective.updates=1 makes one update",
    "overfit_batches": "data.scenes or data.records choose the questions, objective.updates the number of updates",
    "log_every_n_steps": "every update is logged",
    "enable_checkpointing": "report.checkpoint_every says how often",
    "default_root_dir": "output names the folder of the run",
    "gradient_clip_val": "use objective.grad_clip",
    "accumulate_grad_batches": "use objective.tokens_per_forward",
}
# Others keep what learns in 16 bits, which loses small steps, or scale gradients, which are clipped here as they are
PRECISIONS = ("32-true", "32", "None", "bf16-mixed", "bf16")
STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false")


def _trainer_problems(trainer: DictConfig) -> list[str]:
    """Settings that Lightning would take and the program then overwrite, and strategies that can't make an update."""
    there = {*map(str, trainer)}
    problems = [f"trainer.{key} can't be set: {INSTEAD[key]}" for key in sorted(there & {*INSTEAD})]
    if others := sorted(there - {*TRAINER} - {*INSTEAD}):
        problems.append(f"trainer.{', trainer.'.join(others)} can't be set; of Lightning's trainer there are {', '.join(TRAINER[1:])}")
    if not problems:
        problems += _call_problems("trainer", trainer)
    if str(trainer.get("precision")) not in PRECISIONS:
        problems.append(
            f"trainer.precision is {trainer.precision}; choose 32-true, or bf16-mixed, which computes in bfloat16 and keeps what learns "
            "in float32"
        )
    strategy = trainer.get("strategy", "auto")
    if isinstance(strategy, str) and strategy not in STRATEGIES:
        problems.append(
            f"trainer.strategy is {strategy!r}; choose auto or ddp, or trainer=fsdp or trainer=deepspeed where weights are to be divided"
        )
    callbacks = trainer.get("callbacks") or []
    if not OmegaConf.is_list(callbacks) and callbacks:
        return [*problems, "trainer.callbacks is no list; write trainer.callbacks=[{_target_: my_package.MyCallback}]"]
    for i, callback in enumerate(callbacks):
        problems += _call_problems(f"trainer.callbacks[{i}]", callback)
    return problems


def _rollout_problems(rollout: DictConfig) -> list[str]:
    problems = []
    if rollout.engine not in ("kv", "vllm", "openai"):
        problems.append(
            f"rollout.engine is {rollout.engine!r}; choose kv (the policy is here), vllm (vLLM samples from a copy of it) or openai (it is "
            "served)"
        )
    if rollout.engine == "vllm":
        problems += _vllm_problems(rollout)
    if rollout.sampler_ratio_cap is not None and rollout.sampler_ratio_cap < 1:
        problems.append(
            f"rollout.sampler_ratio_cap is {rollout.sampler_ratio_cap}; below 1 it would weigh down tokens on which sampler and trainer "
            "agree. 2.0 is usual, null switches it off"
        )
    if rollout.engine == "openai":
        if rollout.endpoint is None:
            problems.append("rollout.engine is openai but rollout.endpoint names no server; choose rollout=openai")
        else:
            problems += _endpoint_problems("rollout.endpoint", rollout.endpoint)
    if rollout.crop_min_tokens < 1 or rollout.crop_min_tokens > rollout.crop_tokens:
        problems.append(
            f"rollout.crop_min_tokens is {rollout.crop_min_tokens}; it must be 1 up to rollout.crop_tokens, {rollout.crop_tokens}"
        )
    if rollout.questions_per_forward is not None and rollout.questions_per_forward < 1:
        problems.append(f"rollout.questions_per_forward is {rollout.questions_per_forward}; use at least 1, or null for all side by side")
    for key, least in (
        ("questions_per_update", 1),
        ("rollouts_per_question", 2),
        ("max_crops", 0),
        ("crop_tokens", 1),
        ("tokens_per_turn", 1),
    ):
        if rollout[key] < least:
            problems.append(f"rollout.{key} is {rollout[key]}; use at least {least}")
    if rollout.force_first_crop and rollout.max_crops == 0:
        problems.append(
            "rollout.force_first_crop is true but rollout.max_crops is 0: every rollout would run out of turns. Raise max_crops"
        )
    if rollout.temperature <= 0:
        problems.append(f"rollout.temperature is {rollout.temperature}; siblings sampled at 0 are all equal and teach nothing. Use 1.0")
    return problems


def _vllm_problems(rollout: DictConfig) -> list[str]:
    if rollout.vllm is None:
        return ["rollout.engine is vllm but rollout.vllm holds no settings; choose rollout=vllm"]
    problems, v = [], rollout.vllm
    if v.mode not in ("colocated", "served"):
        problems.append(f"rollout.vllm.mode is {v.mode!r}; choose colocated (on this process's device) or served (rollout.endpoint.url)")
    if v.mode == "served":
        problems += _endpoint_problems("rollout.endpoint", rollout.endpoint)
    elif find_spec("vllm") is None:
        problems.append(
            "rollout.engine is vllm, which is not installed here: requirements-vllm-gpu.txt says how, without a GPU `make "
            "test-vllm` makes an environment that has it (requirements-vllm-cpu.txt). rollout=kv needs none"
        )
    if not os.access(v.weights, os.W_OK | os.X_OK):
        problems.append(f"rollout.vllm.weights is {v.weights}, which is no folder that can be written; name one in a memory file system")
    if v.dtype not in ("float32", "bfloat16"):
        problems.append(f"rollout.vllm.dtype is {v.dtype!r}; choose float32 or bfloat16")
    if not 0 < v.memory_share <= 1:
        problems.append(
            f"rollout.vllm.memory_share is {v.memory_share}; it is a share in (0, 1] of the device, and training needs the rest"
        )
    for key in ("cache_gib", "max_model_len", "block_size"):
        if v[key] is not None and v[key] <= 0:
            problems.append(f"rollout.vllm.{key} is {v[key]}; it must be above 0, or null for vLLM's own choice")
    return problems


def _endpoint_problems(place: str, endpoint: DictConfig) -> list[str]:
    problems = []
    if not (endpoint.url or "").startswith(("http://", "https://")):
        problems.append(f"{place}.url is {endpoint.url!r}; write it in full, e.g. http://localhost:8000/v1")
    elif "@" in endpoint.url.partition("://")[2].partition("/")[0]:
        problems.append(f"{place}.url holds a name or a password; put the key into an environment variable and name it: {place}.key_env")
    if endpoint.key_env not in os.environ and not re.fullmatch("[A-Z_][A-Z0-9_]*", endpoint.key_env):
        problems.append(
            f"{place}.key_env names no environment variable (what it holds is not shown, it may be the key itself); put the key into a "
            "variable such as OPENAI_API_KEY, and give its name"
        )
    if secret := [key for key in map(str, endpoint.extra) if SECRET.fullmatch(key)]:
        problems.append(
            f"{place}.extra holds {', '.join(secret)}, which would be written into files; name an environment variable: key_env"
        )
    if not endpoint.model:
        problems.append(f"{place}.model names no model; give the name under which the server knows it")
    if endpoint.timeout_s <= 0 or endpoint.retries < 0 or endpoint.concurrency < 1:
        problems.append(f"{place}: timeout_s must be above 0, retries 0 or more, concurrency at least 1")
    return problems


def _judge_problems(judge: DictConfig) -> list[str]:
    problems = _endpoint_problems("judge", judge) if judge.url is not None else []
    if judge.model and judge.url is None:
        problems.append(
            f"judge.model is {judge.model} but judge.url is null; serve that model and give its judge.url (http://HOST:PORT/v1), "
            "or grade without a judge: judge.model=null"
        )
    for key in ("max_ungraded", "min_decidable"):
        if key in judge and not 0 <= judge[key] <= 1:
            problems.append(f"judge.{key} is {judge[key]}; it is a share in [0, 1]")
    return problems


def _evaluation_problems(evaluation: DictConfig) -> list[str]:
    problems = []
    if (evaluation.samples or 0) < 0 or evaluation.questions_per_forward < 1:
        problems.append("evaluation.samples must be 0 (no evaluation) or more, evaluation.questions_per_forward at least 1")
    if evaluation.resamples < 1:
        problems.append(f"evaluation.resamples is {evaluation.resamples}; an interval needs at least 1, 2000 is usual")
    if evaluation.difficulty is not None and evaluation.difficulty not in DIFFICULTY:
        problems.append(f"evaluation.difficulty is {evaluation.difficulty}; choose {min(DIFFICULTY)} to {max(DIFFICULTY)}, or null")
    problems += _letter_problems("evaluation.", evaluation.letter_px)
    if evaluation.probe_every < 0 or evaluation.probe_samples < 1:
        problems.append("evaluation.probe_every must be 0 (no probe inside training) or more, evaluation.probe_samples at least 1")
    if evaluation.sigma < 0:
        problems.append(f"evaluation.sigma is {evaluation.sigma}; a standard deviation is 0 or more (of 255)")
    if evaluation.records and not Path(evaluation.records).is_file():
        problems.append(f"evaluation.records is {evaluation.records}, {_no_file(evaluation.records)}; name a file of JSON lines")
    return problems


def _no_file(path: str) -> str:
    return "which is a folder" if Path(path).is_dir() else "which is no file" if Path(path).exists() else "which does not exist"


def _probe_problems(cfg: DictConfig) -> list[str]:
    problems = []
    if not cfg.views or min(cfg.views) < 1:
        problems.append(f"views is {list(cfg.views)}; name at least one budget, each of at least 1 token, e.g. views=[16,256]")
    if cfg.evaluation.samples == 0:
        problems.append("evaluation.samples is 0; a probe needs at least one question (null = all of a data set)")
    return problems


def _evaluate_problems(cfg: DictConfig) -> list[str]:
    problems = []
    if cfg.view.max_tokens is None and cfg.policy.dialect != "tiny":
        problems.append(
            "view.max_tokens is null; name the most visual tokens of the view, which a number means little without: 1024, 16384"
        )
    if not 1 <= cfg.view.min_tokens <= (cfg.view.max_tokens or EMBEDDED_VIEW):
        problems.append(
            f"view.min_tokens is {cfg.view.min_tokens} and view.max_tokens {cfg.view.max_tokens}; they must be 1 or more, in this order"
        )
    for key, choices in (("options", ("shuffled", "published")), ("extraction", MODES)):
        if cfg[key] not in choices:
            problems.append(f"{key} is {cfg[key]!r}; choose one of {', '.join(choices)}")
    if cfg.repeats < 1:
        problems.append(f"repeats is {cfg.repeats}; a question is asked at least once")
    if cfg.repeats > 1 and cfg.evaluation.temperature == 0:
        problems.append(f"repeats is {cfg.repeats} but evaluation.temperature is 0: all answers to a question would be equal. Use 1.0")
    if cfg.evaluation.samples == 0:
        problems.append("evaluation.samples is 0; an evaluation needs at least one question (null = all)")
    return problems


def _served_problems(served: DictConfig) -> list[str]:
    problems = []
    if served.view_deviation is not None and served.view_deviation < 0:
        problems.append(f"served.view_deviation is {served.view_deviation}; a share is 0 or more (0.1), null allows any")
    if not 0 <= served.refused <= 1:
        problems.append(f"served.refused is {served.refused}; it is a share of the questions, 0 to 1")
    return problems


def _calibration_problems(cfg: DictConfig) -> list[str]:
    problems = []
    calibration = cfg.calibration
    for key, choices in (("search", tuple(Search)), ("decoding", ("greedy", "vote")), ("never_diverges", ("drop", "floor"))):
        if calibration[key] not in choices:
            near = difflib.get_close_matches(calibration[key], choices, n=1)
            hint = f"Did you mean {near[0]}? " if near else ""
            problems.append(f"calibration.{key} is {calibration[key]!r}. {hint}There are: {', '.join(choices)}")
    for key, least in (("floor_tokens", 1), ("votes", 1), ("audit", 0)):
        if calibration[key] < least:
            problems.append(f"calibration.{key} is {calibration[key]}; use at least {least}")
    for key in ("questions_per_forward", "tokens_per_turn"):
        if cfg[key] < 1:
            problems.append(f"{key} is {cfg[key]}; use at least 1")
    if calibration.decoding == "vote" and calibration.vote_temperature <= 0:
        problems.append(
            f"calibration.vote_temperature is {calibration.vote_temperature}; votes drawn at 0 are all equal. Use 1.0, or decoding=greedy"
        )
    if not 0 < calibration.agree_below <= 1:
        problems.append(
            f"calibration.agree_below is {calibration.agree_below}, a share in (0, 1]: at 0 no level diverges, above 1 every level does"
        )
    return problems


def _term_problems(terms: DictConfig) -> list[str]:
    problems = [] if terms else ["reward.terms is empty; without a reward nothing is learned"]
    for name in map(str, terms):
        term = terms[name]
        problems += _call_problems(f"reward.terms.{name}", term)
        gate = term.get("gate")
        if gate is not None and gate not in terms:
            problems.append(f"reward.terms.{name}.gate is {gate!r}, which is no term; the terms are {', '.join(map(str, terms))}")
    return problems


def _call_problems(place: str, call: DictConfig) -> list[str]:
    """Does `_target_` exist, and does it take these arguments?"""
    if "_target_" not in call:
        return [f"{place} has no _target_; give the class to construct, e.g. focus.rewards.Accuracy"]
    try:
        target = get_class(call["_target_"])
    except Exception as error:
        return [f"{place}._target_ is {call['_target_']}, which can't be imported: {error}"]
    parameters = inspect.signature(target).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return []
    given = {*map(str, call)} - {"_target_"}
    problems = []
    if unknown := sorted(given - set(parameters)):
        problems.append(f"{place} does not take {', '.join(unknown)}; {target.__name__} takes {', '.join(parameters)}")
    needed = [n for n, p in parameters.items() if p.default is p.empty and p.kind is not p.VAR_POSITIONAL and n not in given]
    if needed:
        problems.append(f"{place} lacks {', '.join(needed)}, which {target.__name__} needs")
    return problems
