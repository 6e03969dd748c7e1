"""Text that can be encoded as UTF-8."""

from typing import Any


def replace_surrogates(text: str) -> str:
    """`text` with U+FFFD for every unpaired surrogate, which UTF-8 cannot encode.

    An unpaired surrogate is half of a character such as an emoji that was cut in two.
    """
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def replace_surrogates_in(value: Any) -> Any:
    """A JSON value with `replace_surrogates` applied to every text in it, keys included."""
    if isinstance(value, str):
        return replace_surrogates(value)
    if isinstance(value, list | tuple):
        return type(value)(replace_surrogates_in(item) for item in value)
    if isinstance(value, dict):
        return {replace_surrogates_in(key): replace_surrogates_in(item) for key, item in value.items()}
    return value
