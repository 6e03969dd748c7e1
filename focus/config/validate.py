"""From a composed configuration to a typed one, with every problem in one message."""

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError
from yaml import YAMLError

from focus.config.checks import CROSS_CHECKS, class_problems
from focus.config.machine import machine_problems
from focus.config.messages import TYPES, ConfigError, not_finite, raise_all, sentence
from focus.config.schema import SCHEMAS, AskConfig, AuditCompareConfig, QuestionsConfig, Section, section_of

Schema = TypeVar("Schema", bound=Section)


def validated(cfg: DictConfig, schema: type[Schema], here: bool = True) -> Schema:
    """The settings of a command as typed sections. Raises ConfigError with every problem, before anything expensive starts.

    `here`: the command will run on this machine, so what this machine lacks is a problem too.
    """
    typed, problems = _examined(cfg, schema)
    if here and typed is not None:
        command = next(name for name, known in SCHEMAS.items() if known is schema)
        problems = problems + machine_problems(typed, command)
    raise_all(problems)
    assert typed is not None
    return typed


def problems_of(cfg: DictConfig, schema: type[Section]) -> list[str]:
    """What is wrong with these settings on any machine: one sentence each, with its remedy."""
    return _examined(cfg, schema)[1]


def quick_problems(cfg: DictConfig, schema: type[Section]) -> list[str]:
    """All problems that can be found without importing PyTorch: those of classes and of this machine are left out."""
    return _examined(cfg, schema, quick=True)[1]


def _missing_keys(cfg: DictConfig, schema: type[Section]) -> list[str]:
    """The keys without a value, and unknown keys beside them."""
    unknown = [sentence(each, schema) for each in _errors(OmegaConf.to_container(cfg), schema) if each["type"] == "extra_forbidden"]
    missing = ", ".join(sorted(OmegaConf.missing_keys(cfg)))
    hints = {
        AskConfig: 'Give both: image=photo.jpg question="What is it?"',
        AuditCompareConfig: 'Give two: make audit-compare CARDS="[outputs/audit/a/card.json,outputs/audit/b/card.json]"',
        QuestionsConfig: "Name the folder of your photographs and PDFs: make questions FROM=FOLDER",
    }
    return [*unknown, f"these keys have no value: {missing}. {hints.get(schema, 'Choose an experiment, e.g. experiment=stage1')}"]


def _unresolved(error: OmegaConfBaseException) -> str:
    reason = re.sub(r"^\w+ raised while resolving interpolation: ", "", str(error).splitlines()[0])
    return f"{error.full_key} refers to something that can't be found or read: {reason}"


def plain(cfg: DictConfig) -> dict[str, Any]:
    """A configuration as plain dicts and lists, every reference resolved. Raises ConfigError for one that leads nowhere."""
    try:
        values = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(_unresolved(error)) from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _errors(values: Any, schema: type[Section]) -> list[Any]:
    try:
        schema.model_validate(values)
    except ValidationError as error:
        return error.errors(include_url=False)
    return []


def _is_not_finite(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _examined(cfg: DictConfig, schema: type[Schema], quick: bool = False) -> tuple[Schema | None, list[str]]:
    """The typed settings, None where they can't be read, and all problems.

    A value outside of its limits does not hide the problems that it has with other keys: those checks still run.
    """
    try:
        missing = OmegaConf.missing_keys(cfg)
    except OmegaConfBaseException as error:
        raise ConfigError(_unresolved(error)) from error
    if missing:
        return None, _missing_keys(cfg, schema)
    values = plain(cfg)
    problems = [f"{key} is {value}; write a finite number" for key, value in not_finite(values)]
    errors = _errors(values, schema)
    problems += [sentence(each, schema) for each in errors if not _is_not_finite(each["input"])]
    if any(each["type"] in TYPES or each["type"] == "missing" for each in errors):
        return None, problems
    typed = _beyond_limits(values, schema) if errors else schema.model_validate(values)
    cross_check = CROSS_CHECKS.get(schema)
    problems += cross_check(typed) if cross_check else []
    return typed, problems + ([] if quick else class_problems(typed))


def _beyond_limits(values: Mapping[str, Any], schema: type[Schema]) -> Schema:
    """Settings of the right types, some of them outside of their limits."""
    fields: dict[str, Any] = {}
    for name, field in schema.model_fields.items():
        section, value = section_of(field.annotation), values[name]
        if section and value is not None:
            value = _beyond_limits(value, section)
        elif not section:
            kind: Any = field.annotation
            with suppress(ValidationError):
                value = TypeAdapter(kind).validate_python(value)
        fields[name] = value
    return schema.model_construct(**fields)


def read_settings(path: Path, *keys: str) -> DictConfig:
    """The settings that a run or Hydra wrote, with at least these keys. Raises ValueError for a damaged file."""
    try:
        content = OmegaConf.load(path)
        lacking = [key for key in keys if not isinstance(content, DictConfig) or OmegaConf.select(content, key) is None]
        if isinstance(content, DictConfig) and not lacking:
            return content
        problem = f"it lacks {', '.join(lacking)}"
    except (OSError, YAMLError) as error:
        problem = " ".join(str(error).split())
    raise ValueError(f"{path} can't be read as settings ({problem}); copy it back")


def as_yaml(settings: Section) -> str:
    """The text of `settings.yaml`: all settings of a run, every reference resolved."""
    return OmegaConf.to_yaml(OmegaConf.create(settings.model_dump()))
