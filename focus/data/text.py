"""Normal forms of short texts, which readers of data sets and grading share."""

import re
import unicodedata

NUMBER = re.compile(r"(?:(?<!\w)[-+])?(?:\d+(?:,\d{3})*(?:\.\d+)?|(?<!\w)\.\d+)(?:[eE][-+]?\d+)?")  # `.5` is a fraction, `No.5` is not
LONGEST_READ = 10_000  # characters; an answer of more is wrong by every rule: some of what reads it takes time that grows with the square
# What keyboards and language models write for one mark, and marks that can't be seen. Primes stay: 5' is five feet.
_MARKS = dict.fromkeys("\u2018\u2019\u201a\u201b\u00b4\u02bc\u2039\u203a", "'")
_MARKS |= dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb\u3008\u3009\u300a\u300b\u300c\u300d\u300e\u300f\uff62\uff63", '"')
_MARKS |= dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63", "-")
_MARKS |= dict.fromkeys("\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069", "")
TYPOGRAPHIC = str.maketrans(_MARKS)
# `a` is one before a word; in `Gate A`, `A-12`, `A 12` and `A$5` it is a letter
ARTICLES = re.compile(r"""(?<![^\s"'(\[])(?:(?i:an|the)|a(?=\s["'(\[]*(?:\d|[^\W\d_][\w-]))|A(?=\s["'(\[]*[^\W\d_][\w-]))(?=\s)""")
SUPERSCRIPT = re.compile("(?<=\\d)(?=[\u00b2\u00b3\u00b9\u2070\u2074-\u2079])")  # of a digit: 10\u00b2 is not 102
FEET_OR_INCHES = re.compile(r"\d+(?:[.,]\d+)?\s?(?:'|\"|'')")


def plain(text: str) -> str:
    """One character for each mark: compatibility forms (full-width letters, ligatures), quotes, hyphens, nothing invisible.

    A text longer than `LONGEST_READ` keeps its compatibility forms.
    """
    text = SUPERSCRIPT.sub("^", text.translate(TYPOGRAPHIC))
    return unicodedata.normalize("NFKC", text) if len(text) <= LONGEST_READ else text


def normalise(text: str) -> str:
    """Case, width, articles, white space, quotes and closing punctuation do not make a difference between short texts.

    A text of nothing but articles or punctuation stays: a sign may say `A`, and nothing at all is no answer to it.
    """
    text = plain(text).strip()
    if FEET_OR_INCHES.fullmatch(text):
        return text
    bare = " ".join(text.rstrip(".!\"'` \u3002").lstrip("!\"'` ").split())  # a leading point belongs to a number
    return (" ".join(ARTICLES.sub(" ", bare).split()) or bare or text).casefold()
