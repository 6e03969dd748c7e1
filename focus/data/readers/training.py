"""Shared parts of the readers of training sets: one image per row, options inside the question, any
answers.

No training set states a scorer, so it is derived from the answer: `letter` if the question has
options, `number` if every accepted answer is one, `exact` for yes and no, else `judge`: another
wording of a free text, even a short one, may be as right.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise

from focus.data.choices import Options, chosen_letter
from focus.data.readers.draft import Bad, Draft, Reason
from focus.data.readers.text import answer_type, loose_trailing_options, question_of, right_option, text_of, trailing_options

# Options in one line: `(A) red (B) blue`; else `A) red B) blue`, `A. red B. blue`, or in lower case
INLINE = (re.compile(r"(?:^|(?<=\s))\(([A-Z])\)\s*"), re.compile(r"(?:^|(?<=\s))[(\[]?([A-Za-z])[)\].]\s+"))
LONE_LETTER = re.compile(r"[A-Z]|[(\[][A-Za-z][)\]]|[A-Za-z][).:]")
# A last line after the options
INSTRUCTION = re.compile(r"\s*(?:Please|Answer|Respond|Choose|Select)\b", re.IGNORECASE)
INVITATION = re.compile(
    r"(?:^|(?<=\s))(?:Options|Choices|Select from the following (?:choices|options)|The (?:choices|options) are listed below)"
    r"\s*(?:[.:]\s*)?\Z",
    re.IGNORECASE,
)
SCORERS = {"number": "number", "yes_no": "exact"}  # by type of answer, without options


def training_draft(stored: str, answers: Sequence[object], image: str | bytes, key: str = "answer", options: Options = ()) -> Draft:
    """The draft of a training row whose text `stored` holds the question and maybe its options.

    `options` are used if the text has none. Raises Bad, at `key`, like `accepted_answers`.
    """
    question, own_options = split_options(stored)
    accepted, scorer = accepted_answers(answers, own_options or options, key)
    return Draft("train", image, question, accepted, scorer, own_options or options, raw=stored)


def only_image(stored: object, key: str) -> str | bytes:
    """The one image of a row: a path relative to the root, or encoded bytes; alone, in a list of
    one, or in a struct.

    Raises Bad for none or several.
    """
    if isinstance(stored, list | tuple):
        if len(stored) != 1:
            raise Bad(Reason.SEVERAL_IMAGES, key, f"{len(stored)} images")
        stored = stored[0]
    if isinstance(stored, Mapping):
        stored = next((stored[name] for name in ("bytes", "image", "path") if stored.get(name)), None)
    if isinstance(stored, bytes):
        return stored
    if stored is None or stored == "":
        raise Bad(Reason.SEVERAL_IMAGES, key, "none")
    if not isinstance(stored, str):
        raise Bad(Reason.BAD_VALUE, key, type(stored).__name__)
    return stored


def split_options(stored: str) -> tuple[str, Options]:
    """A stored text without its wrapping, split into the question and the options at its end.

    Options are one per line, or `(A) red (B) blue` in a line. Other spellings (`a) red`, `- A.
    red`, `**A.** red`, `A red`, ...) are tried if these find none. Fewer than two options, or
    letters that are not A, B, C, ..., stay part of the question.
    """
    text = question_of(stored)
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) > 1 and INSTRUCTION.match(lines[-1]):
        lines.pop()
    joined = "\n".join(lines)
    parsers = (
        partial(trailing_options, lines),
        partial(_inline_options, joined, INLINE[0]),
        partial(loose_trailing_options, lines),
        partial(_inline_options, joined, INLINE[1]),
    )
    for parse in parsers:
        rest, options = parse()
        if _is_complete(options):
            return INVITATION.sub("", "\n".join(rest)).strip(), options
    return text, ()


def _inline_options(text: str, key: re.Pattern[str]) -> tuple[list[str], Options]:
    marks = list(key.finditer(text))
    first = max((at for at, mark in enumerate(marks) if mark[1] in "Aa"), default=None)
    if first is None:
        return [text], ()
    question = text[: marks[first].start()]
    if question.rstrip(" ").rpartition("\n")[2].strip() and question.rstrip()[-1] not in ".?!:。？：":
        return [text], ()  # `(A)` in the middle of a sentence is not an option
    ends = [*(after.start() for _, after in pairwise(marks[first:])), len(text)]
    spans = zip(marks[first:], ends, strict=True)
    options = tuple((mark[1].upper(), text[mark.end() : end].strip().rstrip(",;")) for mark, end in spans)
    return [question.rstrip()], options


def _is_complete(options: Options) -> bool:
    """Whether there are two or more options, none empty, with the keys A, B, C, ..."""
    keys = [chr(ord("A") + index) for index in range(len(options))]
    return len(options) > 1 and all(text for _, text in options) and [key for key, _ in options] == keys


def accepted_answers(stored: Sequence[object], options: Options, key: str) -> tuple[tuple[str, ...], str]:
    """The accepted answers and their scorer. Raises Bad, at `key`.

    With options: the letter and the text of the first answer that names an option. A letter without
    options is refused: the question has lost its options, so the letter does not say what is right.
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
        return right_option(options, named[0] if named else answers[0], key), "letter"
    if any(LONE_LETTER.fullmatch(unicodedata.normalize("NFKC", answer)) for answer in answers):
        raise Bad(Reason.LONE_LETTER, key, answers)
    return answers, SCORERS.get(answer_type(answers, ()), "judge")
