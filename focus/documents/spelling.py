"""Which texts of a page can be an answer or an anchor, and when two of them are the same."""

import re
import unicodedata

from focus.data.text import NUMBER, normalise, plain

# Their words are separated by spaces, their letters stand alone and are read from left to right
SCRIPTS = ("LATIN", "GREEK", "CYRILLIC")
RIGHT_TO_LEFT = "a script that is read from right to left"
OTHER_SCRIPT = "a script other than Latin, Greek or Cyrillic"
NO_UNICODE = "letters that the file does not map to Unicode"
AROUND = " \t.,;:!?()[]{}<>\"'`*|_\u2026\u2022\u00b7\u2013\u2014\u2018\u2019\u201a\u201c\u201d\u201e\u00ab\u00bb"  # stripped from a word
WORD = re.compile(r"[^\W_](?:[\w'’.,:/@&+#%-]*[^\W_])?[%€$£]?|[€$£][\d.,]*\d")
SHORTEST, LONGEST = 3, 24  # characters of an answer; a number may have two digits


def flaw_of(text: str) -> str:
    """Why the letters of a word can't be used; "" if they can."""
    for character in plain(text):  # the sign of the ohm is a Greek letter
        category = unicodedata.category(character)
        if character == "\ufffd" or category in ("Co", "Cn", "Cs", "Cc"):
            return NO_UNICODE
        if unicodedata.bidirectional(character) in ("R", "AL", "AN"):
            return RIGHT_TO_LEFT
        if category[0] == "L" and category != "Lm" and not unicodedata.name(character, "").startswith(SCRIPTS):
            return OTHER_SCRIPT
    return ""


def bare(text: str) -> str:
    """A word without the punctuation around it, ligatures resolved: `(ﬁnal),` becomes `final`."""
    return plain(text).strip(AROUND)


def is_word(text: str) -> bool:
    """Whether a bare text can be an answer: letters and digits, not too short and not too long."""
    if not WORD.fullmatch(text) or len(text) > LONGEST:
        return False
    return len(text) >= SHORTEST or (len(text) == 2 and text.isdecimal())


def is_number(text: str) -> bool:
    """Whether a bare text is a number that may be graded by its value: not `007`, which is a code."""
    return bool(NUMBER.fullmatch(text)) and not (len(text) > 1 and text[0] == "0" and text[1] != ".")


def key(text: str) -> str:
    """Two words with one key look the same to a reader, or have one value: `Total:` and `total`, `3.10` and `3.1`."""
    text = bare(text)
    return f"{float(text.replace(',', '')):g}" if is_number(text) else normalise(text)
