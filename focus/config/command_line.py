"""The command line of every command: checked before Hydra runs, so that each mistake gets one message that says what to do."""

import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from io import TextIOWrapper
from itertools import islice
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ValueType
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from hydra.utils import get_method
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, ConfigTypeError, OmegaConfBaseException

from focus.config.messages import ConfigError, did_you_mean, one_of, raise_all, unknown_key
from focus.config.output import writable
from focus.config.schema import SCHEMAS, Section
from focus.config.validate import quick_problems, validated
from focus.runtime.paths import CONF
from focus.runtime.processes import RESUMES, end_on_sigterm, end_with_parent, exit_interrupted, outside_cause

LONGEST_NAME = 255  # bytes of a folder's name
SWEEP_FLAGS = {"-m", "--multirun"}
PLAY_SERVED = ("ask", "evaluate", "probe", "audit", "serve")  # commands that a served model can answer
TEXT_KEYS = ("image", "question")  # whose values are texts, whatever signs they have
FREE_KEYS = re.compile(r"((judge|rollout\.endpoint)\.extra|data\.columns)[.=]")  # sections whose keys no schema names

# What conf/hydra/launcher asks a cluster for: GPUs, and what a function that the file names says of all settings
OmegaConf.register_new_resolver("asked", lambda function, *, _root_: get_method(function)(_root_), replace=True)
OmegaConf.register_new_resolver("gpus", lambda accelerator, devices: devices if accelerator in ("gpu", "cuda") else None, replace=True)


def start(main: Callable[[], None], command: str) -> None:
    """Run a command. What Hydra would refuse is refused before, in one message that lists what exists.

    Of a sweep every value is checked too, before any point is started or queued.
    """
    end_on_sigterm()
    _print_anything()
    try:
        prepare(command)
        main()
    except KeyboardInterrupt as error:
        if SWEEP_FLAGS.intersection(sys.argv):
            error.add_note(RESUMES)  # a sweep skips the points that are done
        exit_interrupted(error)


def _print_anything() -> None:
    """Print a sign that the terminal's encoding lacks as ?: a question or an answer must not end a run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def guarded(run: Callable[[DictConfig], None], cfg: DictConfig) -> None:
    """Run with these settings; a ValueError is meant for people and becomes one message and exit status 1, and so does ctrl-C.

    SIGTERM ends with 143. In a sweep errors are left to Hydra, which marks this point as failed and runs the others.
    """
    end_on_sigterm()
    end_with_parent()
    if not {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & {*os.environ}:  # PyTorch reads them when CUDA starts
        os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"  # rollout and update would fragment a GPU's memory
    try:
        run(cfg)
    except KeyboardInterrupt as error:
        exit_interrupted(error)
    except Exception as error:
        message = str(error) if isinstance(error, ValueError) else outside_cause(error)
        if not message:
            raise
        if HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN:
            raise ValueError(message) from error
        sys.exit(f"focus: {message}")


def prepare(command: str) -> None:
    """Check the words of the command line, and rewrite those that Hydra's grammar could not read. Exits with one message."""
    words = sys.argv[1:]
    sweep = bool(SWEEP_FLAGS.intersection(words))
    launcher = next((word.partition("=")[2] for word in words if word.startswith("hydra/launcher=")), None)
    if launcher and not sweep:
        sys.exit(f"focus: hydra/launcher={launcher} starts the points of a sweep; add --multirun (one run is a sweep of one point)")
    if launcher == "slurm" and shutil.which("sbatch") is None:
        sys.exit("focus: hydra/launcher=slurm needs sbatch, which is not here; start it on a login node, or use hydra/launcher=local")
    if {word for word in words if word.startswith("-")} - SWEEP_FLAGS:
        return  # a flag of Hydra's own, such as --help: Hydra answers it
    _refuse_bare_words(words)
    words = [readable(word, sweep) if "=" in word and not word.startswith(("-", "hydra")) else word for word in words]
    sys.argv[1:] = words
    overrides = [word for word in words if not word.startswith("-")]
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        try:
            points = [_points(word) for word in overrides]
            if not sweep:
                _refuse_several_values(overrides, points)
            composed = composed_settings(command, [values[0] for values in points], SCHEMAS[command])
            cfg = settings_of(composed)
            if sweep:
                validated(cfg, SCHEMAS[command], here=False)
                _check_other_points(command, points)
                sys.argv += _shorter_names(composed.hydra, overrides)
            else:
                _check_settings(cfg, SCHEMAS[command])
                _try_to_write(composed.hydra.run.dir)
                if command in PLAY_SERVED and cfg.rollout.engine == "openai":
                    _try_to_reach(cfg.rollout.endpoint.url, any(word.startswith("rollout.endpoint.url=") for word in overrides))
        except ConfigError as error:
            sys.exit(f"focus: the first point of this sweep: {error}" if sweep else f"focus: {error}")
        except (OverrideParseException, ValueError) as error:  # ValueError: Hydra's
            sys.exit(f"focus: {error}")
    if launcher in ("slurm", "ray_tasks"):
        _ask(launcher, composed)


def _refuse_several_values(overrides: Sequence[str], points: Sequence[Sequence[str]]) -> None:
    """End with one message for a value that is swept over outside of a sweep: most often a list without its brackets."""
    for word, values in zip(overrides, points, strict=True):
        if values != [word]:
            key, _, value = word.partition("=")
            sys.exit(f"focus: {key} is {value}, which is several values; a list is {key}=[{value}], and --multirun sweeps over values")


def settings_of(composed: DictConfig) -> DictConfig:
    """The settings of a command, without Hydra's own."""
    cfg = OmegaConf.masked_copy(composed, [key for key in map(str, composed) if key != "hydra"])
    if "output" in cfg and OmegaConf.is_interpolation(cfg, "output"):
        cfg.output = "outputs"  # that of a point, or of a run, is known when it begins
    return cfg


def _check_other_points(command: str, points: Sequence[Sequence[str]]) -> None:
    """End with one message for a swept value that can't work beside the first values of the other keys."""
    for at, values in enumerate(points):
        for value in values[1:]:
            words = [value if i == at else others[0] for i, others in enumerate(points)]
            try:
                _check_settings(settings_of(composed_settings(command, words, SCHEMAS[command])), SCHEMAS[command])
            except ConfigError as error:
                sys.exit(f"focus: the points {value} of this sweep: {error}")


def composed_settings(name: str, overrides: Sequence[str], schema: type[Section]) -> DictConfig:
    """The configuration `name` of conf/ with overrides, Hydra's own section included. Call it where Hydra knows conf/.

    Raises ConfigError with every key and file that does not exist; Hydra names the first one.
    """
    problems = [problem for word in overrides if (problem := _group_problem(word))]
    left = [word for word in overrides if not _group_problem(word)]
    while True:
        try:
            composed = compose(name, left, return_hydra_config=True)
        except (ConfigCompositionException, MissingConfigException) as error:
            problems.append(_reason(error, schema))
            named = _unknown_name(error)
            known = [word for word in left if word.partition("=")[0].lstrip("+~") != named]
            if len(known) < len(left):
                left = known
                continue
        if len(problems) == 1:
            raise ConfigError(problems[0])
        raise_all(problems)
        return composed


def _ask(launcher: str, composed: DictConfig) -> None:
    """End with one message where it can't be said what a cluster is asked for."""
    if OmegaConf.select(composed, "trainer.devices") == "auto":
        sys.exit(f"focus: trainer.devices is auto, but hydra/launcher={launcher} asks for a number of GPUs on each node: trainer.devices=8")
    try:
        OmegaConf.to_container(composed.hydra.launcher, resolve=True)
    except OmegaConfBaseException as error:
        sys.exit(f"focus: hydra/launcher={launcher}: {error.__cause__ or error}")


def _refuse_bare_words(words: Sequence[str]) -> None:
    """End with one message for a word that is no setting: most often the end of a value that has a space in it."""
    for before, word in zip(("", *words), words, strict=False):
        if ("=" not in word and not word.startswith(("-", "~"))) or word.startswith("="):
            key, _, value = before.partition("=")
            hint = f". If it belongs to {key}, put the whole value into quotes: {key}='{value} {word}'" if value else ""
            sys.exit(f"focus: {word} is no setting; settings are given as KEY=VALUE{hint}")


def _check_settings(cfg: DictConfig, schema: type[Section]) -> None:
    """Refuse what can't be right before PyTorch is imported, which takes seconds.

    A reference to what only Hydra's own start knows is left to the run.
    """
    try:
        raise_all(quick_problems(cfg, schema))
    except ConfigError as error:
        if "HydraConfig was not set" not in str(error):
            raise


def _try_to_write(folder: str) -> None:
    """End with one message where Hydra could not make the folder of a run, or write its own files into it."""
    if folder == ".":
        return
    try:
        with writable(folder):
            trial = Path(folder, ".writable")
            trial.write_bytes(bytes(2**16))
            trial.unlink()
    except ValueError as error:
        sys.exit(f"focus: {error}")


def _try_to_reach(url: str, given: bool) -> None:
    """End with one message where nothing listens at the address of a served model: a server that is down needs no PyTorch to be found.

    `given`: the command line names the address.
    """
    from focus.runtime.connection import unreachable

    if reason := unreachable(url):
        seen = f"rollout.endpoint.url is {url}" + (", its default" if not given else "")
        remedy = "start it, or correct the url" if given else "give the address of yours: rollout.endpoint.url=http://HOST:PORT/v1"
        sys.exit(f"focus: {seen}, where no server can be reached ({reason}); {remedy}")


def swept_values(params: Mapping[str, str], overrides: Sequence[str]) -> dict[str, list[str]]:
    """All values of every key of a sweep: those of its experiment (`params`), replaced by those of its command line."""
    given: dict[str, list[str]] = {}
    words = [*(f"{key}={value}" for key, value in params.items()), *overrides]
    for override in OverridesParser.create().parse_overrides(words):
        if override.is_sweep_override():
            values = [str(value) for value in override.sweep_string_iterator()]
        else:
            values = [override.get_value_element_as_str()]
        given[override.get_key_element()] = values
    return given


def point_name(point: Mapping[str, str], unnamed: Sequence[str]) -> str:
    """The name that Hydra gives a point's folder: its overrides, except those of the keys `unnamed`."""
    return ",".join(sorted(f"{key}={value}" for key, value in point.items() if key.lstrip("+~") not in unnamed))


def _shorter_names(hydra: DictConfig, overrides: Sequence[str]) -> list[str]:
    """What to add to a sweep's command line where all its settings would make too long folder names: only swept keys then stay."""
    if "override_dirname" not in str(OmegaConf.to_container(hydra.sweep)["subdir"]):  # type: ignore[call-overload,index]
        return []
    given = swept_values(hydra.sweeper.params or {}, [word for word in overrides if not word.startswith("hydra")])
    longest = {key: max(values, key=len) for key, values in given.items()}
    unnamed = list(hydra.job.config.override_dirname.exclude_keys)
    if len(point_name(longest, unnamed).encode()) <= LONGEST_NAME:
        return []
    unnamed += sorted({key.lstrip("+~") for key, values in given.items() if len(values) == 1} - {*unnamed})
    if (size := len(point_name(longest, unnamed).encode())) > LONGEST_NAME:
        sys.exit(
            f"focus: a point's folder would be named by what is swept, with {size} bytes; {LONGEST_NAME} are possible. Sweep "
            "fewer keys, or put long values into files of conf/experiment and sweep over those (experiment=a,b)"
        )
    return [f"hydra.job.config.override_dirname.exclude_keys=[{','.join(unnamed)}]"]


def readable(override: str, sweep: bool = False) -> str:
    """An override as Hydra's grammar can read it: a value with letters or signs that the grammar lacks is put into quotes.

    `~` and `~/` are the home folder, in quotes too. Without a sweep a comma in a path is a part of it. Exits for a list, a
    dict or a choice that can't be read.
    """
    override = ("++" if FREE_KEYS.match(override) else "") + override
    key, _, value = override.partition("=")
    if key in TEXT_KEYS and not value.startswith(("~/", "'", '"')):
        return f"{key}={quoted(value)}"
    if home := re.fullmatch(r"""(['"]?)~(/[^'"]*)?\1""", value):
        value = f"{Path.home()}{home[2] or ''}"
        override = f"{key}={value}"
    try:
        [parsed] = OverridesParser.create().parse_overrides([override])
        if sweep or parsed.value_type is not ValueType.SIMPLE_CHOICE_SWEEP or "/" not in value or value.startswith(("'", '"')):
            return override
    except (OverrideParseException, HydraException):
        if value.startswith(("[", "{", "'", '"')) or (sweep and "," in value):
            sys.exit(
                f"focus: {key} is {value}, which Hydra can't read; put a text that has other letters or signs into quotes "
                f"twice: \"{key}='...'\""
            )
    return f"{key}={quoted(value)}"


def quoted(value: str) -> str:
    """A text in quotes, as Hydra's grammar reads it."""
    escaped = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), value)
    return f"'{escaped}'"


def _points(override: str) -> list[str]:
    """An override with each of the values that a sweep gives it; of a range the first alone."""
    [parsed] = OverridesParser.create().parse_overrides([override])
    if not parsed.is_sweep_override():
        return [override]
    values: list[str] = []
    with suppress(HydraException):  # raised for glob and interval
        values = list(islice(parsed.sweep_string_iterator(), None if parsed.is_choice_sweep() else 1))
    if not values:
        sys.exit(f"focus: {override} can't be swept over; give values ({parsed.key_or_group}=a,b) or a range: range(0,3)")
    return [f"{parsed.get_key_element()}={value}" for value in values]


def _group_problem(override: str) -> str | None:
    """A number, true or null where a file of a group is to be chosen."""
    [parsed] = OverridesParser.create().parse_overrides([override])
    group = parsed.key_or_group
    if parsed.is_delete() or not (CONF / group).is_dir() or isinstance(parsed.value(), str | list | dict):
        return None
    return f"{group} is {parsed.get_value_element_as_str()}; choose {one_of(_files_of(group))}"


def _files_of(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def _unknown_name(error: BaseException) -> str:
    """The key or the config group in which Hydra found something unknown."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return str(error.missing_cfg_file).rpartition("/")[0]
    while error.__cause__ is not None:
        error = error.__cause__
    return str(getattr(error, "full_key", ""))


def _reason(error: BaseException, schema: type[Section]) -> str:
    """Why Hydra refused, and the keys or files that exist beside the one that does not."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        existing = _files_of(group)
        return f"{group}={name} names no file. {did_you_mean(name, existing)}There are: {', '.join(existing)}"
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and cause.parent_node is not None:
        siblings = [str(key) for key in cause.parent_node if key != "hydra"]
        return unknown_key(str(cause.full_key or cause.key), siblings, schema)
    if isinstance(cause, ConfigTypeError) and cause.full_key:
        wanted = "a list: [first, second]" if isinstance(cause.parent_node, ListConfig) else "a section: {key: value}"
        return f"{cause.full_key} is {str(error).partition('=')[2]}; write {wanted}"
    if isinstance(cause, OmegaConfBaseException):
        return f"{error}: " + " ".join(line.strip() for line in str(cause).splitlines()[:2])
    return str(error)
