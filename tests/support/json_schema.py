"""A check of a JSON value by a JSON Schema (draft 2020-12), for the keywords that our schemas use. It refuses a schema with another one."""

from collections.abc import Iterator, Mapping
from typing import Any

NOTES = {"$schema", "$id", "$defs", "title", "description", "default"}  # they state nothing that a value must fulfil
CHECKED = {"$ref", "anyOf", "const", "enum", "type", "properties", "required", "additionalProperties", "prefixItems", "items"}
COUNTED = {"minItems", "maxItems"}
TYPES: Mapping[str, type | tuple[type, ...]] = {
    **{"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)},
    **{"integer": int, "number": (int, float)},
}


def faults(value: Any, schema: Any, root: Mapping[str, Any], at: str = "it") -> Iterator[str]:
    """Where and how the value breaks the schema; `root` holds its `$defs`. Raises AssertionError for a keyword that is not known here."""
    if isinstance(schema, bool):
        yield from () if schema else [f"{at} is not allowed"]
        return
    assert set(schema) <= NOTES | CHECKED | COUNTED, set(schema) - NOTES - CHECKED - COUNTED
    if "$ref" in schema:
        yield from faults(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, at)
    if "anyOf" in schema and all(list(faults(value, each, root, at)) for each in schema["anyOf"]):
        yield f"{at} fits none of anyOf"
    if "const" in schema and value != schema["const"]:
        yield f"{at} is not {schema['const']}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{at} is none of {schema['enum']}"
    if "type" in schema:
        numbers = schema["type"] in ("integer", "number")
        if not isinstance(value, TYPES[schema["type"]]) or (numbers and isinstance(value, bool)):
            yield f"{at} is no {schema['type']}"
            return
    if isinstance(value, dict):
        known = schema.get("properties", {})
        yield from (f"{at} lacks {key}" for key in schema.get("required", ()) if key not in value)
        for key, each in value.items():
            yield from faults(each, known.get(key, schema.get("additionalProperties", True)), root, f"{at}.{key}")
    if isinstance(value, list):
        first = schema.get("prefixItems", [])
        for i, each in enumerate(value):
            yield from faults(each, first[i] if i < len(first) else schema.get("items", True), root, f"{at}[{i}]")
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            yield f"{at} has {len(value)} items"
