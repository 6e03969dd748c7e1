"""Messages about settings that can't work: what was seen, what is allowed, what to do."""

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from focus.config.schema import Hint, Section, keys_of, section_of

# Sections that only some choices of a group have
CHOSEN_BY = {"rollout.endpoint": "rollout=openai (a served model)", "rollout.vllm": "rollout=vllm"}


class ConfigError(ValueError):
    """Settings that can't work, all of them in one message."""


def raise_all(problems: Sequence[str]) -> None:
    """One ConfigError for all problems; none for none."""
    if problems:
        raise ConfigError("these settings can't work:\n" + "\n".join(f"  - {problem}" for problem in problems))


def shown(value: object) -> str:
    """A value as YAML spells it, texts in quotes."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def one_of(choices: Sequence[object]) -> str:
    """`a`, `a or b`, `a, b or c`."""
    *rest, last = map(str, choices)
    return f"{', '.join(rest)} or {last}" if rest else last


def nearest(word: str, choices: Sequence[str]) -> str | None:
    """The choice that `word` is most likely meant to be: a near spelling, its beginning, or its initials (`lr`)."""
    if close := difflib.get_close_matches(word, choices, n=1):
        return close[0]
    begun = [choice for choice in choices if len(word) > 1 and choice.startswith(word)]
    initials = [choice for choice in choices if word == "".join(part[0] for part in choice.split("_") if part)]
    return next(iter(begun + initials), None)


def did_you_mean(word: str, choices: Sequence[str]) -> str:
    """`Did you mean X? ` or nothing."""
    near = nearest(word, choices)
    return f"Did you mean {near}? " if near else ""


def unknown_key(key: str, siblings: Sequence[str], schema: type[Section]) -> str:
    """A key that does not exist: the one that was meant, here or in another section, and those that exist beside it."""
    section, _, name = key.rpartition(".")
    if key in keys_of(schema) and section in CHOSEN_BY:
        return f"{key} can't be set, since {section} is null; choose {CHOSEN_BY[section]}"
    if not siblings:
        return f"{key} is no setting: {section} is one value, not a section"
    meant = nearest(name, siblings)
    if meant is None:
        elsewhere = [known for known in keys_of(schema) if known.rpartition(".")[2] == name]
        meant = elsewhere[0] if len(elsewhere) == 1 else None
    hint = f"Did you mean {meant}? " if meant else ""
    return f"{key} is no setting. {hint}There are: {', '.join(siblings)}"


def sentence(error: ErrorDetails, schema: type[Section]) -> str:
    """What one error of pydantic says, as `KEY is VALUE; what to do`."""
    key = _key(error["loc"])
    field, siblings = _field(error["loc"], schema)
    if error["type"] == "extra_forbidden":
        return unknown_key(key, siblings, schema)
    if error["type"] == "missing":
        return f"{key} is missing; give it a value"
    value = error["input"]
    if error["type"] in TYPES:
        hint = _hint(field) if value is None else None
        return f"{key} is {shown(value)}; {hint or TYPES[error['type']]}"
    if error["type"] == "literal_error":
        return f"{key} is {shown(value)}; {_allowed(field)}{_meant(value, field)}"
    return f"{key} is {shown(value)}; {_allowed(field)}"


# What to do about a value of another type, by pydantic's name for the error
TYPES = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "write a whole number"),
    "int_parsing_size": "write a smaller number",
    **dict.fromkeys(("float_type", "float_parsing", "number_type"), "write a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "write true or false"),
    "string_type": "write a text",
    "list_type": "write a list: [first, second]",
    **dict.fromkeys(("dict_type", "model_type"), "it is a section with settings of its own, not one value"),
}


def _key(location: Sequence[str | int]) -> str:
    """`rollout.max_crops`, `views[0]`."""
    key = ""
    for part in location:
        key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else str(part)
    return key


def _field(location: Sequence[str | int], schema: type[Section]) -> tuple[FieldInfo | None, list[str]]:
    """The field that an error is about, and the names of all fields beside it."""
    field: FieldInfo | None = None
    section: type[Section] | None = schema
    siblings: list[str] = []
    for part in location:
        if section is None:
            break
        siblings = list(section.model_fields)
        field = section.model_fields.get(str(part))
        section = section_of(field.annotation) if field else None
    return field, siblings


def _parts(kind: Any) -> Iterator[Any]:
    """Everything that an annotation is made of: types, limits and hints, outermost first."""
    yield from getattr(kind, "__metadata__", ())
    for inner in getattr(kind, "__args__", ()):
        yield inner
        yield from _parts(inner)
    if origin := getattr(kind, "__origin__", None):
        yield origin


def _described(field: FieldInfo) -> list[Any]:
    found = [*field.metadata, *_parts(field.annotation)]
    return [each for part in found for each in (part.metadata if isinstance(part, FieldInfo) else [part])]


def _hint(field: FieldInfo | None) -> str | None:
    return next((part for part in _described(field) if isinstance(part, Hint)), None) if field else None


def _allowed(field: FieldInfo | None) -> str:
    """What a field takes, as advice."""
    if hint := _hint(field):
        return hint
    described = _described(field) if field else []
    limits = {name: getattr(part, name) for part in described for name in ("ge", "gt", "le") if hasattr(part, name)}
    if "ge" in limits and "le" in limits:
        low, high = limits["ge"], limits["le"]
        return "it is a share in [0, 1]" if (low, high) == (0, 1) else f"choose {low} to {high}"
    if "ge" in limits:
        return f"use at least {limits['ge']}"
    if "gt" in limits:
        return f"it must be above {limits['gt']}"
    return f"choose {one_of(_choices(field))}" if field else "it can't be used"


def _choices(field: FieldInfo) -> list[str]:
    return [part for part in _parts(field.annotation) if isinstance(part, str) and not isinstance(part, Hint)]


def _meant(value: object, field: FieldInfo | None) -> str:
    near = nearest(str(value), _choices(field)) if field else None
    return f". Did you mean {near}?" if near else ""


def not_finite(node: object, key: str = "") -> Iterator[tuple[str, float]]:
    """The full keys and values of NaN, which no comparison would refuse, and of infinity."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from not_finite(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, float) and not math.isfinite(node):
        yield key, node
