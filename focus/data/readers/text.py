"""What published questions are wrapped in, and how lists, answers and images are stored as text. Pure functions of strings."""

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
from focus.data.choices import chosen_letter
from focus.data.readers.draft import Bad, Reason
from focus.data.text import NUMBER

Options = tuple[tuple[str, str], ...]

LEADING = re.compile(r"^(?:\s|<image>|<\|vision_start\|>.*?<\|vision_end\|>|Question:)+", re.DOTALL)
# From here to the end: instructions that a set stores behind its questions. Words that a question may hold as well count only where a
# sentence or a line begins, as they are spelt there
TRAILER = re.compile(
    r"(?<=\s)(?i:Think first, call \*{0,2}image_zoom_in_tool|Think in the mind first|Answer with the option's letter"
    r"|Answer the question using a single word or phrase|Answer the option letter directly"
    r"|Select the best answer to the above multiple-choice question).*\Z"
    r"|(?:(?<=\n)|(?<=[.?!:)] ))(?:Format strictly as|Guidelines:|Please provide the bounding box).*\Z",
    re.DOTALL,
)
OPTION = re.compile(r"^\s*[(（]?([A-ZＡ-Ｚ])[)）.．:：、]\s*(\S.*)\Z", re.DOTALL)
# Other spellings: behind a bullet, bold, in small letters, in square brackets, or with a blank alone behind a capital
LOOSE_OPTION = re.compile(
    r"^\s*(?:[-*•]\s+)?(?:\*\*\s*)?[(（\[]?"
    r"(?:([A-Za-zＡ-Ｚａ-ｚ])(?:\s*\*\*)?\s*[)）\].．:：、](?:\s*\*\*)?\s*|([A-ZＡ-Ｚ])(?:\s*\*\*)?\s+(?:[-–—]\s+)?)(\S.*)\Z",
    re.DOTALL,
)
LARGEST_LIST = 1 << 18  # characters of a list that is stored as text: its values take a hundred times as much memory

WRAPPED = re.compile(r"""\[?b?(["'])(.*)\1\]?""", re.DOTALL)  # `["..."]` or `b'...'` around base64
URL_SAFE = str.maketrans("-_", "+/")

FEW_WORDS = 5  # an answer of more words is a sentence; so is one of four or more that ends with a full stop
YES_NO = re.compile(r"(?:yes|no)\.?", re.IGNORECASE)


def question_of(stored: str) -> str:
    """A stored question without image tags, tool prompts and trailing instructions; options are the reader's business."""
    text = TRAILER.sub("", LEADING.sub("", stored))
    return text.replace("<image>", "").strip()


def options_among(lines: Sequence[str]) -> tuple[list[str], Options]:
    """The lines that are no option, and the options `(A) text` or `A. text` that end the text, in order; brackets may be full-width."""
    rest = list(lines)
    options: list[tuple[str, str]] = []
    while rest and OPTION.match(rest[-1]):
        options.insert(0, option_of(rest.pop(), "options"))
    return rest, tuple(options)


def loose_options_among(lines: Sequence[str]) -> tuple[list[str], Options]:
    """Like `options_among`, in the spellings of LOOSE_OPTION: from the last line that begins with A to the end, keys as capitals."""
    rest = list(lines)
    options: list[tuple[str, str]] = []
    while rest and not (options and options[0][0] == "A") and (found := LOOSE_OPTION.match(rest[-1])):
        options.insert(0, (unicodedata.normalize("NFKC", found[1] or found[2]).upper(), found[3].rstrip()))
        rest.pop()
    return rest, tuple(options)


def option_of(stored: str, key: str) -> tuple[str, str]:
    """Key and text of one option `(A) text`, the text as stored. Raises Bad (at `key`) if it does not begin with a letter."""
    found = OPTION.match(str(stored))
    if not found:
        raise Bad(Reason.BAD_VALUE, key, stored)
    return unicodedata.normalize("NFKC", found[1]), found[2].rstrip()


def chosen(options: Options, stored: object, key: str) -> tuple[str, str]:
    """The right option as accepted answers: its letter, then its text. `stored` names it by either. Raises Bad if it is no option."""
    letter = chosen_letter(stored, options) if isinstance(stored, str) else None
    if letter is None:
        raise Bad(Reason.NOT_AN_OPTION, key, stored)
    return letter, dict(options)[letter]


def answer_type(answers: Sequence[str], options: Options) -> str:
    """`mcq` where there are options; `number`, `yes_no` or `sentence` where every accepted answer is one; else `short_text`."""
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
    """The value of the first of these columns that a row has. Raises KeyError, with the first name, if it has none."""
    return row[next((name for name in names if name in row), names[0])]


def native(row: Mapping, *names: str) -> dict[str, object]:
    """Those of these fields that a row has, under their own names, for `meta`."""
    return {name: row[name] for name in names if row.get(name) not in (None, "") and row[name] == row[name]}  # a NaN is not itself


def listed(stored: object, key: str) -> list:
    """A list that may be stored as its Python or JSON text. Raises Bad if it is no list. Nothing is evaluated but literals."""
    found = stored
    if isinstance(stored, str):
        if len(stored) > LARGEST_LIST:
            raise Bad(Reason.BAD_LIST, key, f"{len(stored)} characters: {stored[:20]}")
        for literal in (ast.literal_eval, json.loads):  # JSON alone has null and true
            try:
                found = literal(stored.strip())
                break
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                continue
    if isinstance(found, tuple):
        found = list(found)
    if not isinstance(found, list):
        raise Bad(Reason.BAD_LIST, key, stored)
    return found


def text_of(stored: object) -> Any:
    """A number as its text, which is how a JSON file may hold an answer; anything else as it is."""
    number = isinstance(stored, int | float) and not isinstance(stored, bool) and math.isfinite(stored)
    return str(stored) if number else stored


def box_of(stored: object, key: str, corner: bool = False) -> Box | None:
    """Four numbers as (x1, y1, x2, y2); with `corner` they are left, top, width, height. None for anything else."""
    try:
        return from_corner(numbers(stored, key)) if corner else numbers(stored, key)
    except Bad:
        return None


def numbers(stored: object, key: str) -> Box:
    """Four numbers. Raises Bad for anything else."""
    four = listed(stored, key)
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


def boxed(stored: str) -> str:
    r"""What stands in the last `\boxed{...}`, braces balanced; the text itself where there is none."""
    start = stored.rfind(r"\boxed{")
    if start < 0:
        return stored.strip()
    depth, begin = 0, start + len(r"\boxed{")
    for at in range(begin - 1, len(stored)):
        depth += {"{": 1, "}": -1}.get(stored[at], 0)
        if depth == 0:
            return stored[begin:at].strip()
    return stored[begin:].strip()


def image_bytes(stored: object, key: str) -> bytes:
    """The encoded image of a cell: bytes, a `{bytes, path}` struct, or base64 with or without a data URL. Raises Bad.

    Base64 may lack its padding, be URL-safe, stand in a list of one, or be the text of Python's bytes.
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
    """The options that stand in single-capital columns, or in those of `names`, without empty ones at the end.

    A TSV, where every cell is a text, may write `nan` for an empty one; `Nan` is a bread. In a table that has numbers and nulls, every
    text is an option. Raises Bad where an empty one stands before another, and KeyError for a name that is no column.
    """
    columns = names or [name for name in string.ascii_uppercase if name in row]
    nothing = ("", "nan", "NaN") if all(isinstance(value, str) for value in row.values()) else ("",)
    texts = ["" if row[name] is None or row[name] != row[name] else str(row[name]).strip() for name in columns]
    options = tuple((name, text) for name, text in zip(columns, texts, strict=True) if text not in nothing)
    if any(key != name for (key, _), name in zip(options, columns, strict=False)):
        raise Bad(Reason.BAD_VALUE, ", ".join(columns), texts)
    return options


def inside(stored: str, key: str) -> str:
    """A path relative to the root, without `./` and the like. Raises Bad for one that leads out of it."""
    path = posixpath.normpath(stored.strip())
    if path.startswith("/") or path == ".." or path.startswith("../"):
        raise Bad(Reason.OUTSIDE_ROOT, key, stored)
    return path
