"""Normal forms and patterns of short texts, shared by the readers of data sets and by grading."""

import re
import unicodedata

# `.5` is a fraction, `No.5` is not
NUMBER = re.compile(r"(?:(?<!\w)[-+])?(?:\d+(?:,\d{3})*(?:\.\d+)?|(?<!\w)\.\d+)(?:[eE][-+]?\d+)?")
BOX = "\\boxed{"
# Characters. A longer answer is wrong by every rule: the time of some rules grows with the square
# of the length
LONGEST_READ = 10_000
# Variants of one mark that keyboards and language models write, and invisible marks. Primes stay: 5' is
# five feet.
_MARKS = dict.fromkeys("\u2018\u2019\u201a\u201b\u00b4\u02bc\u2039\u203a", "'")
_MARKS |= dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb\u3008\u3009\u300a\u300b\u300c\u300d\u300e\u300f\uff62\uff63", '"')
_MARKS |= dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63", "-")
_MARKS |= dict.fromkeys("\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069", "")
TYPOGRAPHIC = str.maketrans(_MARKS)
# `a` before a word is an article; in `Gate A`, `A-12`, `A 12` and `A$5` it is a letter
ARTICLES = re.compile(r"""(?<![^\s"'(\[])(?:(?i:an|the)|a(?=\s["'(\[]*(?:\d|[^\W\d_][\w-]))|A(?=\s["'(\[]*[^\W\d_][\w-]))(?=\s)""")
# After a digit: 10\u00b2 is not 102
SUPERSCRIPT = re.compile("(?<=\\d)(?=[\u00b2\u00b3\u00b9\u2070\u2074-\u2079])")
FEET_OR_INCHES = re.compile(r"\d+(?:[.,]\d+)?\s?(?:'|\"|'')")


def plain(text: str) -> str:
    """The text in NFKC (no full-width letters, no ligatures), with one kind of quotes and hyphens.

    Invisible characters are removed.

    A text longer than `LONGEST_READ` keeps its compatibility forms.
    """
    text = SUPERSCRIPT.sub("^", text.translate(TYPOGRAPHIC))
    return unicodedata.normalize("NFKC", text) if len(text) <= LONGEST_READ else text


def normalise(text: str) -> str:
    """A short text without differences of case, width, articles, white space, quotes and final
    punctuation.

    A text of only articles or punctuation stays, because a sign may say `A` and the normal form of
    its text may not be empty.
    """
    text = plain(text).strip()
    if FEET_OR_INCHES.fullmatch(text):
        return text
    # A leading point belongs to a number
    bare = " ".join(text.rstrip(".!\"'` \u3002").lstrip("!\"'` ").split())
    return (" ".join(ARTICLES.sub(" ", bare).split()) or bare or text).casefold()


def boxed_spans(text: str) -> list[tuple[int, int]]:
    r"""Start and end of the content of every `\boxed{...}` whose braces balance.

    One pass over the text.
    """
    opened: list[tuple[int, bool]] = []
    spans = []
    for index, character in enumerate(text):
        if character == "{":
            opened.append((index + 1, text.endswith(BOX, 0, index + 1)))
        elif character == "}" and opened:
            start, is_box = opened.pop()
            if is_box:
                spans.append((start, index))
    return spans
