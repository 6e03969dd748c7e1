"""Which option of a multiple-choice question an answer names."""

import re

from focus.data.text import normalise, plain

OPENING = re.compile(r"(?:(?:option|choice) )?[(\[*\"']*", re.IGNORECASE)  # what may stand before an option's key
KEY_ALONE = re.compile(r"[)\]*\"']*[.:]?")  # and behind it
KEY_LEADS = re.compile(r"(?:[()[\].:,=*-]| (?=\S))[)\].:,=* -]*")  # or between it and its text
Options = tuple[tuple[str, str], ...]  # (key, text) in the order in which the question shows them


def chosen_letter(answer: str, options: Options) -> str | None:
    """The option that an answer names: its key (`B`, `(b)`, `Option B.`), key and own text in either order, or the text alone; else None.

    Between key and text may stand brackets, a hyphen, a colon, `=` or bold print: `B (cotton)`, `**B**. cotton`, `cotton (B)`.
    """
    text = " ".join(plain(answer).split())
    starts = (text, text[OPENING.match(text).end() :])  # type: ignore[union-attr]  # it matches nothing too
    behind = {key: [t[len(key) :] for t in starts if t[: len(key)].casefold() == key.casefold()] for key, _ in options}
    for key, _ in options:
        if any(KEY_ALONE.fullmatch(rest.rstrip("*")) for rest in behind[key]):
            return key
    said, named = normalise(text), set()
    for key, option in options:
        own = _unwrapped(option)
        led = any(_unwrapped(rest[mark.end() :]) == own for rest in behind[key] if (mark := KEY_LEADS.match(rest)))
        if normalise(option) == said or (own and (led or _ends_with(text, key, own))):
            named.add(key)
    return named.pop() if len(named) == 1 else None


def _ends_with(text: str, key: str, own: str) -> bool:
    """Whether a text is an option's own text and then, behind a mark, its key: `cotton (B)`, `cotton, B`."""
    text = text.rstrip(")]*. ")
    before = text[: -len(key)].rstrip("([* ,:-")
    marks = text[len(before) : -len(key)].strip()
    return bool(marks) and text[-len(key) :].casefold() == key.casefold() and _unwrapped(before) == own


def _unwrapped(text: str) -> str:
    return normalise(text.strip(" ()[]*"))
