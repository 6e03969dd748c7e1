"""Does an answer match? Rules first: choice, number, short text. Pure functions of strings."""

import re
import unicodedata

ARTICLES = re.compile(r"\b(a|an|the)\b")
NUMBER = re.compile(r"[-+]?(?:\d+(?:,\d{3})*(?:\.\d+)?|(?<!\w)\.\d+)(?:[eE][-+]?\d+)?")  # `.5` is a fraction, `No.5` is not


def normalise(text: str) -> str:
    """Case, width, articles, white space, quotes and closing punctuation do not make a difference between short texts.

    A text of nothing but articles or punctuation stays: a sign may say `A`, and nothing at all is no answer to it.
    """
    text = unicodedata.normalize("NFKC", text).casefold().strip()
    bare = text.rstrip(".!\"'` ").lstrip("!\"'` ")  # a leading point belongs to a number
    return " ".join(ARTICLES.sub(" ", bare).split()) or bare or text


def matches_text(answer: str, accepted: tuple[str, ...]) -> bool:
    """Equal to one accepted answer after normalisation."""
    return normalise(answer) in {normalise(text) for text in accepted}


def matches_number(answer: str, accepted: tuple[str, ...]) -> bool:
    """The answer holds exactly one number and it equals an accepted one; `1,200.0` equals `1200`."""
    found = _numbers(answer)
    return len(found) == 1 and any(found == _numbers(text)[:1] for text in accepted)


def _numbers(text: str) -> list[float]:
    text = unicodedata.normalize("NFKC", text).replace("\u2212", "-")  # the typographic minus, which NFKC keeps
    return [float(number.replace(",", "")) for number in NUMBER.findall(text)]


def chosen_letter(answer: str, options: tuple[tuple[str, str], ...]) -> str | None:
    """The option that an answer names: its key alone (`B`, `(b)`, `B.`), key and text, or the text alone; else None."""
    text = unicodedata.normalize("NFKC", answer).strip()
    for key, _ in options:
        if re.fullmatch(rf"\(?{re.escape(key)}\)?[.:]?", text, flags=re.IGNORECASE):
            return key
    for key, option in options:
        led = re.fullmatch(rf"\(?{re.escape(key)}[).:]+\s*(.+)", text, flags=re.IGNORECASE | re.DOTALL)
        if led and normalise(led.group(1)) == normalise(option):
            return key
    named = [key for key, option in options if normalise(option) == normalise(text)]
    return named[0] if len(named) == 1 else None


def is_correct(answer: str | None, accepted: tuple[str, ...], scorer: str, options: tuple[tuple[str, str], ...] = ()) -> bool:
    """Whether an answer is right by its sample's rule. No answer is wrong.

    Raises ValueError for a rule that does not exist.
    """
    if answer is None:
        return False
    if scorer == "letter":
        return chosen_letter(answer, options) == accepted[0]
    if scorer == "number":
        return matches_number(answer, accepted)
    if scorer == "exact":
        return matches_text(answer, accepted)
    raise ValueError(f"scorer {scorer!r} does not exist; choose letter, number or exact")
