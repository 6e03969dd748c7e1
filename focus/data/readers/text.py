"""Parsing of stored cells: wrapped questions, options, lists, answers, boxes and images.

Pure functions.
"""

import ast
import base64
import binascii
import json
import math
import posixpath
import re
import string
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from focus.data.boxes import Box
from focus.data.choices import Options, chosen_letter
from focus.data.readers.draft import Bad, Reason
from focus.data.text import BOX, NUMBER, boxed_spans

LEADING = re.compile(r"^(?:\s|<image>|<\|vision_start\|>.*?<\|vision_end\|>|Question:)+", re.DOTALL)
# Instructions that a set stores behind its questions, from their first words to the end. Words that
# a question itself may contain count only at the start of a sentence or line
TRAILER = re.compile(
    r"(?<=\s)(?i:Think first, call \*{0,2}image_zoom_in_tool|Think in the mind first|Answer with the option's letter"
    r"|Answer the question using a single word or phrase|Answer the option letter directly"
    r"|Select the best answer to the above multiple-choice question).*\Z"
    r"|(?:(?<=\n)|(?<=[.?!:)] ))(?:Format strictly as|Guidelines:|Please provide the bounding box).*\Z",
    re.DOTALL,
)
OPTION = re.compile(r"^\s*[(（]?([A-ZＡ-Ｚ])[)）.．:：、]\s*(\S.*)\Z", re.DOTALL)
# Other spellings: with a bullet, bold, in lower case, in square brackets, or a capital and a space
LOOSE_OPTION = re.compile(
    r"^\s*(?:[-*•]\s+)?(?:\*\*\s*)?[(（\[]?"
    r"(?:([A-Za-zＡ-Ｚａ-ｚ])(?:\s*\*\*)?\s*[)）\].．:：、](?:\s*\*\*)?\s*|([A-ZＡ-Ｚ])(?:\s*\*\*)?\s+(?:[-–—]\s+)?)(\S.*)\Z",
    re.DOTALL,
)
# Characters of a list that is stored as text; parsed, it takes a hundred times as much memory
LARGEST_LIST = 1 << 18

WRAPPED = re.compile(r"""\[?b?(["'])(.*)\1\]?""", re.DOTALL)  # `["..."]` or `b'...'` around base64
URL_SAFE = str.maketrans("-_", "+/")

# An answer with more words is a sentence; so is one of four or more words with a full stop
FEW_WORDS = 5
YES_NO = re.compile(r"(?:yes|no)\.?", re.IGNORECASE)


def question_of(stored: str) -> str:
    """A stored question without image tags, tool prompts and trailing instructions.

    Options stay in it.
    """
    text = TRAILER.sub("", LEADING.sub("", stored))
    return text.replace("<image>", "").strip()


def trailing_options(lines: Sequence[str]) -> tuple[list[str], Options]:
    """The lines before the options, and the options `(A) text` or `A. text` at the end of the text,
    in order.

    Brackets may be full-width.
    """
    rest = list(lines)
    options: list[tuple[str, str]] = []
    while rest and OPTION.match(rest[-1]):
        options.insert(0, option_of(rest.pop(), "options"))
    return rest, tuple(options)


def loose_trailing_options(lines: Sequence[str]) -> tuple[list[str], Options]:
    """Like `trailing_options`, in the spellings of LOOSE_OPTION.

    The options run from the last line that begins with A to the end. Keys become capitals.
    """
    rest = list(lines)
    options: list[tuple[str, str]] = []
    while rest and not (options and options[0][0] == "A") and (match := LOOSE_OPTION.match(rest[-1])):
        options.insert(0, (unicodedata.normalize("NFKC", match[1] or match[2]).upper(), match[3].rstrip()))
        rest.pop()
    return rest, tuple(options)


def option_of(stored: str, key: str) -> tuple[str, str]:
    """Key and text of one option `(A) text`, the text as stored.

    Raises Bad (at `key`) if it does not begin with a letter.
    """
    match = OPTION.match(str(stored))
    if not match:
        raise Bad(Reason.BAD_VALUE, key, stored)
    return unicodedata.normalize("NFKC", match[1]), match[2].rstrip()


def right_option(options: Options, stored: object, key: str) -> tuple[str, str]:
    """The right option as accepted answers: its letter, then its text.

    `stored` is either of the two. Raises Bad if it names none of the options.
    """
    letter = chosen_letter(stored, options) if isinstance(stored, str) else None
    if letter is None:
        raise Bad(Reason.NOT_AN_OPTION, key, stored)
    return letter, dict(options)[letter]


def answer_type(answers: Sequence[str], options: Options) -> str:
    """`mcq` with options; `number`, `yes_no` or `sentence` if every accepted answer is one; else
    `short_text`.
    """
    if options:
        return "mcq"
    for kind, holds in (("number", NUMBER.fullmatch), ("yes_no", YES_NO.fullmatch), ("sentence", _is_sentence)):
        if all(holds(answer.strip()) for answer in answers):
            return kind
    return "short_text"


def _is_sentence(answer: str) -> bool:
    words = len(answer.split())
    return words > FEW_WORDS or (words > 3 and answer.endswith("."))


def first_of(row: Mapping, *names: str) -> Any:
    """The value of the first of these columns that the row has.

    Raises KeyError, with the first name, if it has none.
    """
    return row[next((name for name in names if name in row), names[0])]


def meta_fields(row: Mapping, *names: str) -> dict[str, object]:
    """The fields of these names that a row has, for `meta`. Empty ones are left out."""
    # NaN is not equal to itself
    return {name: row[name] for name in names if row.get(name) not in (None, "") and row[name] == row[name]}


def parse_list(stored: object, key: str) -> list:
    """A list, also one stored as Python or JSON text.

    Only literals are evaluated. Raises Bad if it is no list.
    """
    value = stored
    if isinstance(stored, str):
        if len(stored) > LARGEST_LIST:
            raise Bad(Reason.BAD_LIST, key, f"{len(stored)} characters: {stored[:20]}")
        for literal in (ast.literal_eval, json.loads):  # only JSON has null and true
            try:
                value = literal(stored.strip())
                break
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                continue
    if isinstance(value, tuple):
        value = list(value)
    if not isinstance(value, list):
        raise Bad(Reason.BAD_LIST, key, stored)
    return value


def text_of(stored: object) -> Any:
    """A number as text, because a JSON file may store an answer as a number; anything else as it
    is.
    """
    number = isinstance(stored, int | float) and not isinstance(stored, bool) and math.isfinite(stored)
    return str(stored) if number else stored


def box_of(stored: object, key: str, corner: bool = False) -> Box | None:
    """Four numbers as (x1, y1, x2, y2); with `corner` they are left, top, width, height.

    None for anything else.
    """
    try:
        return from_corner(four_numbers(stored, key)) if corner else four_numbers(stored, key)
    except Bad:
        return None


def four_numbers(stored: object, key: str) -> Box:
    """Four numbers. Raises Bad for anything else."""
    four = parse_list(stored, key)
    if len(four) != 4 or not all(isinstance(value, int | float) and not isinstance(value, bool) for value in four):
        raise Bad(Reason.BAD_VALUE, key, stored)
    try:
        x1, y1, x2, y2 = map(float, four)
    except OverflowError:  # an integer of 400 digits
        raise Bad(Reason.BAD_VALUE, key, stored) from None
    return x1, y1, x2, y2


def from_corner(box: Box) -> Box:
    """Left, top, width, height as (x1, y1, x2, y2)."""
    x, y, width, height = box
    return x, y, x + width, y + height


def last_boxed(stored: str) -> str:
    r"""The content of the last `\boxed{...}`, with balanced braces; the whole text if there is none.

    If the braces do not close, the rest of the text is the content.
    """
    start = stored.rfind(BOX)
    if start < 0:
        return stored.strip()
    begin = start + len(BOX)
    return stored[begin : dict(boxed_spans(stored)).get(begin)].strip()


def image_bytes(stored: object, key: str) -> bytes:
    """The encoded image of a cell: bytes, a `{bytes, path}` struct, or base64 with or without a
    data URL. Raises Bad.

    Base64 may lack padding, be URL-safe, be in a list of one, or be the text of Python's bytes.
    """
    if isinstance(stored, dict):
        stored = stored.get("bytes")
    if isinstance(stored, bytes):
        return stored
    if not isinstance(stored, str):
        raise Bad(Reason.BAD_VALUE, key, stored)
    text = "".join(stored.rpartition("base64,")[2].split())
    text = WRAPPED.sub(r"\2", text, count=1).translate(URL_SAFE).rstrip("=")
    try:
        if text.isdecimal():
            raise ValueError("the index of a row that has no image")
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise Bad(Reason.BAD_BASE64, key, stored) from None


def letter_options(row: Mapping, names: str = "") -> Options:
    """The options in the columns `A`, `B`, ... or in those of `names`, without empty ones at the
    end.

    A TSV, where every cell is text, may write `nan` for an empty cell; `Nan` is a bread. In a table
    with numbers and nulls, every text is an option. Raises Bad if an empty option stands before
    another, and KeyError for a name that is not a column.
    """
    columns = names or [name for name in string.ascii_uppercase if name in row]
    nothing = ("", "nan", "NaN") if all(isinstance(value, str) for value in row.values()) else ("",)
    texts = ["" if row[name] is None or row[name] != row[name] else str(row[name]).strip() for name in columns]
    options = tuple((name, text) for name, text in zip(columns, texts, strict=True) if text not in nothing)
    if any(key != name for (key, _), name in zip(options, columns, strict=False)):
        raise Bad(Reason.BAD_VALUE, ", ".join(columns), texts)
    return options


def path_inside_root(stored: str, key: str) -> str:
    """The normalised path, relative to the root.

    Raises Bad for a path that leads out of the root.
    """
    path = posixpath.normpath(stored.strip())
    if path.startswith("/") or path == ".." or path.startswith("../"):
        raise Bad(Reason.OUTSIDE_ROOT, key, stored)
    return path
