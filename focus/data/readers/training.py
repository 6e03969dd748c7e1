"""What the published training sets share: one image to a row, options inside the question, answers of any kind.

None of them says how an answer is to be scored, so it is read off the answer itself: a letter where the question holds options, a number
where every accepted answer is one, `exact` for yes and no, `judge` for free text, however short: other words may be as right.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise

from focus.data.choices import chosen_letter
from focus.data.readers.draft import Bad, Draft, Reason
from focus.data.readers.text import Options, answer_type, chosen, loose_options_among, options_among, question_of, text_of

# In a line: `(A) red (B) blue`; else `A) red B) blue`, `A. red B. blue`, or in small letters
INLINE = (re.compile(r"(?:^|(?<=\s))\(([A-Z])\)\s*"), re.compile(r"(?:^|(?<=\s))[(\[]?([A-Za-z])[)\].]\s+"))
LONE_LETTER = re.compile(r"[A-Z]|[(\[][A-Za-z][)\]]|[A-Za-z][).:]")
INSTRUCTION = re.compile(r"\s*(?:Please|Answer|Respond|Choose|Select)\b", re.IGNORECASE)  # a last line behind the options
INVITATION = re.compile(
    r"(?:^|(?<=\s))(?:Options|Choices|Select from the following (?:choices|options)|The (?:choices|options) are listed below)"
    r"\s*(?:[.:]\s*)?\Z",
    re.IGNORECASE,
)
SCORERS = {"number": "number", "yes_no": "exact"}  # by type of answer, without options


def asked(stored: str, answers: Sequence[object], image: str | bytes, key: str = "answer", options: Options = ()) -> Draft:
    """A row of a training split whose text holds question and options; `options` are those of a text that holds none.

    Raises Bad, at `key`, like `answered`.
    """
    question, listed = parted(stored)
    accepted, scorer = answered(answers, listed or options, key)
    return Draft("train", image, question, accepted, scorer, listed or options, raw=stored)


def only_image(stored: object, key: str) -> str | bytes:
    """The one image of a row: a path relative to the root, or encoded bytes; alone, in a list of one, or in a struct.

    Raises Bad for none or several.
    """
    if isinstance(stored, list | tuple):
        if len(stored) != 1:
            raise Bad(Reason.SEVERAL_IMAGES, key, f"{len(stored)} images")
        stored = stored[0]
    if isinstance(stored, Mapping):
        found = [stored[name] for name in ("bytes", "image", "path") if stored.get(name)]
        stored = found[0] if found else None
    if isinstance(stored, bytes):
        return stored
    if stored is None or stored == "":
        raise Bad(Reason.SEVERAL_IMAGES, key, "none")
    if not isinstance(stored, str):
        raise Bad(Reason.BAD_VALUE, key, type(stored).__name__)
    return stored


def parted(stored: str) -> tuple[str, Options]:
    """A stored text without its wrapping, as question and options: one option a line, or `(A) red (B) blue` in a line, at the end.

    Other spellings (`a) red`, `- A. red`, `**A.** red`, `A red`, ...) count where these find none.

    Fewer than two options, or letters that do not run A, B, C, ..., are part of the question.
    """
    text = question_of(stored)
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) > 1 and INSTRUCTION.match(lines[-1]):
        lines.pop()
    joined = "\n".join(lines)
    ways = (
        partial(options_among, lines),
        partial(_inline, joined, INLINE[0]),
        partial(loose_options_among, lines),
        partial(_inline, joined, INLINE[1]),
    )
    for way in ways:
        rest, options = way()
        if _runs(options):
            return INVITATION.sub("", "\n".join(rest)).strip(), options
    return text, ()


def _inline(text: str, mark: re.Pattern[str]) -> tuple[list[str], Options]:
    marks = list(mark.finditer(text))
    first = max((at for at, found in enumerate(marks) if found[1] in "Aa"), default=None)
    if first is None:
        return [text], ()
    asked = text[: marks[first].start()]
    if asked.rstrip(" ").rpartition("\n")[2].strip() and asked.rstrip()[-1] not in ".?!:。？：":
        return [text], ()  # `(A)` in the middle of a sentence is no option
    ends = [*(after.start() for _, after in pairwise(marks[first:])), len(text)]
    spans = zip(marks[first:], ends, strict=True)
    options = tuple((found[1].upper(), text[found.end() : end].strip().rstrip(",;")) for found, end in spans)
    return [text[: marks[first].start()].rstrip()], options


def _runs(options: Options) -> bool:
    keys = [chr(ord("A") + place) for place in range(len(options))]
    return len(options) > 1 and all(text for _, text in options) and [key for key, _ in options] == keys


def answered(stored: Sequence[object], options: Options, key: str) -> tuple[tuple[str, ...], str]:
    """The accepted answers and their scorer; with options, the letter and the text of the first that names one. Raises Bad.

    A letter without options is refused: its question lost them, and nobody could tell from the letter what is right.
    """
    if all(answer is None for answer in stored):
        raise Bad(Reason.NO_ANSWER, key, stored)
    texts = [text_of(answer) for answer in stored]
    if not all(isinstance(text, str) for text in texts):
        raise Bad(Reason.BAD_VALUE, key, stored)
    answers = tuple(dict.fromkeys(text.strip() for text in texts))
    if not any(answers):
        raise Bad(Reason.NO_ANSWER, key, stored)
    if options:
        named = [answer for answer in answers if chosen_letter(answer, options)]
        return chosen(options, named[0] if named else answers[0], key), "letter"
    if any(LONE_LETTER.fullmatch(unicodedata.normalize("NFKC", answer)) for answer in answers):
        raise Bad(Reason.LONE_LETTER, key, answers)
    return answers, SCORERS.get(answer_type(answers, ()), "judge")
