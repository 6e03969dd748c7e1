"""Finds the option of a multiple-choice question that an answer names."""

import re

from focus.data.text import normalise, plain

# May stand before an option's key
OPENING = re.compile(r"(?:(?:option|choice) )?[(\[*\"']*", re.IGNORECASE)
KEY_ALONE = re.compile(r"[)\]*\"']*[.:]?")  # may follow a key that is the whole answer
# May stand between a key and its text
KEY_LEADS = re.compile(r"(?:[()[\].:,=*-]| (?=\S))[)\].:,=* -]*")
Options = tuple[tuple[str, str], ...]  # (key, text) in the order of the question


def chosen_letter(answer: str, options: Options) -> str | None:
    """The key of the option that an answer names; None if it names none or several.

    An answer names an option by its key (`B`, `(b)`, `Option B.`), by its key and its own text in
    either order, or by its text alone. Key and text may be separated by brackets, a hyphen, a
    colon, `=` or bold marks: `B (cotton)`, `**B**. cotton`, `cotton (B)`.
    """
    text = " ".join(plain(answer).split())
    starts = (text, text[OPENING.match(text).end() :])  # type: ignore[union-attr]  # it also matches the empty string
    behind = {key: [t[len(key) :] for t in starts if t[: len(key)].casefold() == key.casefold()] for key, _ in options}
    for key, _ in options:
        if any(KEY_ALONE.fullmatch(rest.rstrip("*")) for rest in behind[key]):
            return key
    normal, named = normalise(text), set()
    for key, option in options:
        own = _unwrapped(option)
        led = any(_unwrapped(rest[mark.end() :]) == own for rest in behind[key] if (mark := KEY_LEADS.match(rest)))
        if normalise(option) == normal or (own and (led or _ends_with(text, key, own))):
            named.add(key)
    return named.pop() if len(named) == 1 else None


def _ends_with(text: str, key: str, own: str) -> bool:
    """Whether a text is an option's own text, a mark, and then its key: `cotton (B)`, `cotton, B`."""
    text = text.rstrip(")]*. ")
    before = text[: -len(key)].rstrip("([* ,:-")
    marks = text[len(before) : -len(key)].strip()
    return bool(marks) and text[-len(key) :].casefold() == key.casefold() and _unwrapped(before) == own


def _unwrapped(text: str) -> str:
    return normalise(text.strip(" ()[]*"))
