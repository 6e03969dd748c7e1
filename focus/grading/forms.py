"""Normal forms of short answers: texts with the same form mean the same.

Pure functions of strings.

Two different answers must never have the same form, because training rewards equal forms. A given
question defines the unit, thing or count that is meant (`12 km/h` for `12`, `The flag is red`).
Texts whose equality is unclear (`puppy` and `dog`) have different forms; only a judge can decide.
"""

import re
import unicodedata
from collections.abc import Iterator
from datetime import date

from focus.data.text import FEET_OR_INCHES, normalise, plain

SENTENCE = 200  # characters of the longest sentence that is parsed as a statement of an answer

_BE = r"(?:\s+(?:is|are|was|were)|'s|'re)"

_ANSWER = re.compile(
    r"(?:so,?\s+|thus,?\s+)?(?:(?:the|my)\s+)?(?:(?:final|correct|right|best)\s+)?answer(?:\s+is|\s*[:=])\s*:?\s*(.+)"
    r"|(?:la\s+)?respuesta\s+es:?\s+(.+)|(?:la\s+)?r\u00e9ponse\s+est:?\s+(.+)|(?:die\s+)?antwort\s+(?:ist|lautet):?\s+(.+)"
    r"|\u7b54\u6848\s*[\u662f\u4e3a:]\s*(.+)",
    re.IGNORECASE | re.DOTALL,
)

_READ = re.compile(r"(?:it|(?:the|this|that)\s+[\w-]+)\s+(?:says|reads)[:,]?\s+(.+)", re.IGNORECASE | re.DOTALL)

_IT = re.compile(rf"(?:it|this|that|he|she|they|there|these|those){_BE}\s+(.+)", re.IGNORECASE | re.DOTALL)


# `The flag is red`, `The color of the flag is red`, `The flag's color is red`: exactly one thing
_ATTRIBUTE = (
    r"colou?r|number|name|word|text|letter|digit|time|date|year|price|type|kind|shape|material|speed|brand|title|total|size|age|height"
    r"|length|width|weight|language|country|city|score|logo|model"
)

_THING = re.compile(
    rf"(?:the|this|that|its|his|her|their)\s+(?:(?:{_ATTRIBUTE})\s+(?:of|on)\s+(?:the|this|that|its|his|her|their)\s+|(\w+)'s\s+)?(\w+(?:\s\w+){{0,2}}?)"
    rf"{_BE}\s+(.+)",
    re.IGNORECASE | re.DOTALL,
)


# Words for things that are not the answer, or not the thing in question
_MISLEADING = (
    "wrong incorrect false opposite reverse contrary other another alternative rest former latter first second third last next previous "
    "left right top bottom front back background foreground inside outside guess possibility option options choice choices question "
    "nothing none neither smaller bigger larger taller shorter longer older younger higher lower nearer closer farther further faster "
    "slower heavier lighter darker brighter wider narrower more less least most only exception"
)


def stated(text: str) -> str | None:
    """What a short sentence states: `It is red` and `The answer is red` state `red`.

    None for other texts.

    The result is everything behind the verb: `not red`, `red or blue`.
    """
    shells = (_ANSWER, _READ, _IT) if len(text) <= SENTENCE else ()
    match = next((match for shell in shells if (match := shell.fullmatch(text))), None)
    return next(group for group in match.groups() if group) if match else None


def stated_of_a_thing(text: str, question: str = "") -> str | None:
    """What a short sentence states about the one thing that it names: `The flag is red`.

    None for other texts.

    With a question, the thing must be the first that the question names: `The car is red` does not
    answer `What color is the flag beside the car?`.
    """
    match = _THING.fullmatch(text) if len(text) <= SENTENCE else None
    if not match:
        return None
    named = set(" ".join(word.casefold() for word in match.groups()[:2] if word).split())
    if named.intersection(_MISLEADING.split()) or any(word.endswith("est") for word in named) or (" " in match[2] and not question):
        return None
    subject = {_singular(word) for word in (_subject(question) if question else named)}
    attributes = {word for word in named if re.fullmatch(_ATTRIBUTE, word)}
    return match[3] if not {_singular(word) for word in named - attributes} - subject else None


_NAMED = re.compile(r"\b(?:the|this|that|his|her|its|their|an?)\s+([\w'-]+)(?=(?:\s+([\w'-]+))?(?:\s+([\w'-]+))?)")

_PASSED_OVER = re.compile(
    rf"(?:{_ATTRIBUTE})(?: (?:of|on|in)\b.*)?|(?:image|picture|photo|photograph|scene|left|right|top|bottom|front|back)\b.*"
)


def _subject(question: str) -> list[str]:
    """The three words behind the first article (or `his`, ...) that names the thing in question."""
    for match in _NAMED.finditer(plain(question).casefold()):
        words = [word.removesuffix("'s") for word in match.groups() if word]
        if not _PASSED_OVER.fullmatch(" ".join(words)):
            return words
    return []


def _singular(word: str) -> str:
    return word.removesuffix("s")


_APART = r"(?:and|or|not|no|than|of)\b"  # the words behind these are not what is counted


def counts_or_measures(unit: str, question: str) -> bool:
    """Whether a question asks for a number of `unit`: `people` for `how many people`, `km/h` for
    `in km/h`.
    """
    text = plain(question)
    if unit in _UNITS:
        spellings = "|".join(re.escape(name) for name in (unit, *_UNITS[unit]))
        return bool(re.search(rf"\bin (?:{spellings})(?![\w/]| per\b)", text))  # km is not km/h
    counted = re.search(
        rf"\bhow many (?!{_APART})([\w-]+)(?!')(?: (?!{_APART})([\w-]+)(?!'))?(?: (?!{_APART})([\w-]+)(?!'))?", text.casefold()
    )
    return bool(counted) and {_singular(word) for word in unit.split()} <= {_singular(word) for word in counted.groups("")}  # type: ignore[union-attr]


def read_out(text: str) -> str | None:
    """What a short sentence reads out or gives as the answer: `The sign says "STOP"`, `The answer
    is STOP`.

    None for other texts.
    """
    match = (_ANSWER.fullmatch(text) or _READ.fullmatch(text)) if len(text) <= SENTENCE else None
    return next(group for group in match.groups() if group) if match else None


_YES_NO = re.compile(r"(yes|yeah|yep|no|nope)\b[\s,.;:!-]*(.*)", re.IGNORECASE | re.DOTALL)

_DENIES = re.compile(r"\b(?:not|no|none|never|neither|nor|nothing|nobody|cannot|without)\b|n't\b", re.IGNORECASE)

_HEDGES = re.compile(
    r"\b(?:yes|yeah|yep|nope|but|or|if|unless|although|though|however|maybe|perhaps|possibly|probably|might|may|could|would|should|sure"
    r"|unsure|unclear|certain|know|tell|see|say|think|guess|believe|determine|depends|sometimes|partly|partially|either|wrong|false|true"
    r"|correct|incorrect|can't|cannot|hard|difficult|impossible|opposite|contrary|answer)\b|\?",
    re.IGNORECASE,
)

_ECHO = (
    "a an the it he she they there this that these those you we i is are was were be been am do does did has have had can will "
    "isn't aren't wasn't weren't doesn't don't didn't hasn't haven't won't not no any one some of in on at and"
)


def yes_or_no(text: str, question: str = "") -> str | None:
    """`yes` or `no` if a short sentence begins with it and its rest agrees: `No, there isn't.`;
    else None.

    With a question, the rest may only repeat its words: `Yes, the car is blue` is not a yes to `Is
    the car red?`.
    """
    text = plain(text).strip(" *_\"'`.!")
    text = stated(text) or text
    match = _YES_NO.fullmatch(text) if len(text) <= SENTENCE else None
    if not match:
        return None
    verdict, rest = "no" if match[1][0] in "nN" else "yes", match[2]
    consistent = bool(_DENIES.search(rest)) == (verdict == "no") and not _HEDGES.search(rest)
    allowed = {_singular(word) for word in (f"{_ECHO} {plain(question).casefold()}").split() for word in re.split(r"[^\w']+", word)}
    repeats = not question or all(_singular(word) in allowed for word in re.findall(r"[\w']+", rest.casefold()))
    return verdict if not rest or (consistent and repeats) else None


_UNITS_BELOW_TWENTY = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
)

_WORDS = {word: value for value, word in enumerate(_UNITS_BELOW_TWENTY.split())}

_TENS = dict(twenty=20, thirty=30, forty=40, fifty=50, sixty=60, seventy=70, eighty=80, ninety=90)

_CHINESE = {"\u96f6": 0, "\u4e24": 2, **{digit: value for value, digit in enumerate("一二三四五六七八九十", start=1)}}


# Other spellings of a unit. Symbols are case-sensitive, because 5 M is not a length; words are not.
_UNITS = {
    "%": ["percent", "per cent"],
    "km/h": ["kmh", "kph", "kmph", "km per hour", "kilometers per hour", "kilometres per hour"],
    "mph": ["mi/h", "miles per hour"],
    "m/s": ["meters per second", "metres per second"],
    "km": ["kilometer", "kilometers", "kilometre", "kilometres"],
    "m": ["meter", "meters", "metre", "metres"],
    "cm": ["centimeter", "centimeters", "centimetre", "centimetres"],
    "mm": ["millimeter", "millimeters", "millimetre", "millimetres"],
    "mi": ["mile", "miles"],
    "ft": ["foot", "feet"],
    "in": ["inch", "inches"],
    "kg": ["kilogram", "kilograms", "kilogramme", "kilogrammes"],
    "g": ["gram", "grams"],
    "mg": ["milligram", "milligrams"],
    "lb": ["lbs"],
    "oz": ["ounce", "ounces"],
    "L": ["l", "liter", "liters", "litre", "litres"],
    "mL": ["ml", "milliliter", "milliliters", "millilitre", "millilitres"],
    "kW": ["kilowatt", "kilowatts"],
    "V": ["volt", "volts"],
    "\u00b0C": ["degrees celsius", "degree celsius"],
    "\u00b0F": ["degrees fahrenheit", "degree fahrenheit"],
    "second": ["sec", "seconds"],
    "min": ["minute", "minutes"],
    "h": ["hr", "hrs", "hour", "hours"],
    "day": ["days"],
    "year": ["years"],
    "$": ["dollar", "dollars"],
    "\u20ac": ["euro", "euros", "EUR"],
    "\u00a3": ["GBP"],
}

_SYMBOLS = {unit: unit for unit in _UNITS} | {other: unit for unit, others in _UNITS.items() for other in others}

_QUANTITY = re.compile(r"([$\u20ac\u00a3])?\s?([-+]?(?:[1-9]\d{0,2}(?:,\d{3})+|\d+)(?:\.\d+)?)\s?(\D*)", re.ASCII)

_MONTHS = "january february march april may june july august september october november december"

_MONTH = {name: number for number, name in enumerate(_MONTHS.split(), start=1)}

_MONTH |= {name[:3]: number for name, number in _MONTH.items()} | {"sept": 9}

_DAY = r"(\d{1,2})(?:st|nd|rd|th)?"

_DATES = (
    (re.compile(rf"(?:the )?{_DAY}(?: of)? ([a-z]+)\.?(?:,? (\d{{4}}))?"), "dmy"),
    (re.compile(rf"([a-z]+)\.? (?:the )?{_DAY}(?:,? (\d{{4}}))?"), "mdy"),
    (re.compile(r"([a-z]+)\.?,? (\d{4})"), "my"),
    (re.compile(r"(\d{4})([-/.])(\d{1,2})\2(\d{1,2})"), "y-md"),
    (re.compile(r"(\d{4}) ?\u5e74 ?(\d{1,2}) ?\u6708 ?(\d{1,2}) ?[\u65e5\u53f7]"), "ymd"),
    (re.compile(r"(\d{1,2})([-/.])(\d{1,2})\2(\d{4})"), "d-my"),
)

_CLOCK = re.compile(r"(\d{1,2})(?:[:.](\d{2}))? ?([ap])\.? ?m\.?|(\d{1,2}):(\d{2})")


def number_word(text: str) -> int | None:
    """The value of a spelt-out whole number: English below a thousand, Chinese up to ten.

    None for other texts.
    """
    if text in _CHINESE:
        return _CHINESE[text]
    words = text.casefold().replace("-", " ").split()
    value = 0
    if len(words) > 1 and words[1] == "hundred" and 1 <= _WORDS.get(words[0], 0) <= 9:
        value, words = 100 * _WORDS[words[0]], words[3:] if words[2:3] == ["and"] and words[3:] else words[2:]
    match [_TENS.get(word, _WORDS.get(word, -1)) for word in words]:
        case []:
            return value or None
        case [tens, ones] if tens >= 20 and 1 <= ones <= 9:
            return value + tens + ones
        case [alone] if alone > 0 or (alone == 0 and not value):
            return value + alone
    return None


def _digits(text: str) -> str:
    """The text with digits of every script as 0 to 9, and Arabic separators as point and comma."""
    text = text.replace("\u066b", ".").replace("\u066c", ",")
    return text if text.isascii() else "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text)


def quantity(text: str) -> tuple[str, str] | None:
    """A number and its unit: `1200` and an empty unit, `12` and `km/h`, `3` and `people`.

    None for other texts.

    Thousands commas and the spelling of number and unit are ignored. Zeros are kept (`007`,
    `3.10`), because such a text may be a code.
    """
    if match := _QUANTITY.fullmatch(_digits(text)):
        currency, number, unit = match[1] or "", match[2].replace(",", ""), match[3].strip()
    else:
        words = text.split()
        at = next((n for n in range(min(len(words), 5), 0, -1) if number_word(" ".join(words[:n])) is not None), 0)
        if not at:
            return None
        currency, number, unit = "", str(number_word(" ".join(words[:at]))), " ".join(words[at:])
    if currency and unit:
        return None
    symbol = currency or _SYMBOLS.get(unit) or _SYMBOLS.get(unit.casefold() if len(unit) > 3 else "")
    # 5 M is not 5 m
    return number, symbol or (unit if unit.casefold() in _SYMBOLS else unit.casefold())


def moment(text: str) -> str | None:
    """A date or a time of day in one spelling: `2020-03-05`, `--03-05`, `2020-03`, `15:30`; else
    None.

    `05/03/2020` and `3:30` are ambiguous: None.
    """
    text = " ".join(_digits(text).casefold().split())
    if match := _CLOCK.fullmatch(text):
        hour, minute = int(match[1] or match[4]), int(match[2] or match[5] or 0)
        if match[3] and 1 <= hour <= 12:
            hour = hour % 12 + 12 * (match[3] == "p")
        elif match[3] or hour < 13:
            return None
        return f"{hour:02}:{minute:02}" if hour < 24 and minute < 60 else None
    return next(_days(text), None)


def _days(text: str) -> Iterator[str]:
    for pattern, order in _DATES:
        if not (match := pattern.fullmatch(text)):
            continue
        parts = dict(zip(order, match.groups(), strict=True))
        year, month, day = parts.get("y"), parts["m"], parts.get("d")
        if order == "d-my" and day and int(day) <= 12 and int(day) != int(month):
            if int(month) <= 12:
                continue  # ambiguous
            day, month = month, day
        number = _MONTH.get(month) or (int(month) if month.isdecimal() else 0)
        try:
            date(int(year or 2000), number, int(day or 1))
        except ValueError:
            continue
        yield f"{year or '-'}-{number:02}" + (f"-{int(day):02}" if day else "")


_SPELLINGS = {"gray": "grey", "color": "colour", "center": "centre", "theater": "theatre", "meter": "metre", "ok": "okay"}

_JOINED = re.compile(r"(?<=[^\W\d])-(?=[^\W\d])")


def bare(text: str) -> str:
    """A text without surrounding white space, bold marks, quotes and final punctuation.

    A leading point stays, because it belongs to a number.
    """
    text = plain(text).strip()
    if emphasised := re.fullmatch(r"([*_]{1,3})([^*_]+)\1[.]?", text):
        text = emphasised[2]
    if FEET_OR_INCHES.fullmatch(text):
        return text
    return text.lstrip(" \"'`").rstrip(" \"'`!.,;:\u3002")


def form(text: str) -> str:
    """One spelling for texts that clearly mean the same: numbers, units, dates, times, hyphens,
    `&`, `gray`.
    """
    text = bare(text)
    if len(text) > SENTENCE:
        return normalise(text)
    if value := moment(text):
        return value
    if (measured := quantity(text)) and len(measured[1].split()) <= 2:
        return " ".join(measured).strip()
    words = _JOINED.sub(" ", normalise(text)).replace("&", " and ").replace(", and ", " and ").split()
    return " ".join(_SPELLINGS.get(word, word) for word in words)
