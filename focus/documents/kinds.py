"""The kinds of questions. Each is a function from a page to its candidates.

Every kind asks for something that only a reader of the page can know, and that is right in one way:
an anchor stands once on the page, and so does an answer that is read out.
"""

import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from focus.data.boxes import Box
from focus.data.text import plain
from focus.documents.page import ANCHOR_WORDS, Page
from focus.documents.spelling import bare, is_number

TITLE_WORDS = 4  # words of the longest text that a place or a colour is asked for
COUNTED = 4  # digits of the shortest number whose digits are counted
CHOICES = 4
EDGE = 0.15  # of the height of a page: a row that begins farther inside is not at the edge
LETTERS = "ABCD"
PLACES = (
    *(("at the top left", 0, 0), ("at the top", 1, 0), ("at the top right", 2, 0)),
    *(("at the left edge", 0, 1), ("in the middle", 1, 1), ("at the right edge", 2, 1)),
    *(("at the bottom left", 0, 2), ("at the bottom", 1, 2), ("at the bottom right", 2, 2)),
)  # of the nine parts of a page: words, column, row


@dataclass(frozen=True)
class Candidate:
    """A question that a page could give.

    `evidence` are the words that must be read. `reads`: the answer is their text. `anchor` and
    `follower` are the keys of the words that a guesser would connect (`checks.py`); both empty
    where the question names no word.
    """

    kind: str
    question: str
    answers: tuple[str, ...]
    scorer: str
    evidence: tuple[int, ...]
    options: tuple[tuple[str, str], ...] = ()
    anchor: str = ""
    follower: str = ""
    reads: bool = True


@dataclass(frozen=True)
class _Pair:
    """An anchor that stands once on the page, and the word right behind it."""

    shown: str  # the anchor in a question
    anchor: tuple[int, ...]
    follower: int


def _anchored(page: Page) -> Iterator[_Pair]:
    """Words right behind the shortest anchor that stands once on the page. Flawed words are neither."""
    for line in page.lines:
        for at in range(1, len(line)):
            follower = line[at]
            if not page.sound[follower]:
                continue
            for length in range(1, min(at, ANCHOR_WORDS) + 1):
                anchor = line[at - length : at]
                if any(page.words[word].flaw or not page.keys[word] for word in anchor):
                    break
                if page.runs[tuple(page.keys[word] for word in anchor)] == 1:
                    text = _shown(page, anchor)
                    if '"' not in text:
                        yield _Pair(text, anchor, follower)
                    break


def _shown(page: Page, words: tuple[int, ...]) -> str:
    """Words as a question names them: without marks around them, and without a bracket whose other half is missing."""
    text = plain(" ".join(page.words[word].text for word in words)).strip(" ,;\"'")
    for left, right in ("()", "[]"):
        if text.count(left) != text.count(right):
            text = text.strip(left + right)
    return text


def _noun(text: str) -> str:
    return "number" if is_number(text) else "word"


def _scorer(text: str) -> str:
    return "number" if is_number(text) else "exact"


@lru_cache(maxsize=10_000)
def _shape(text: str) -> tuple[bool, bool, bool, bool]:
    return (is_number(text), any(c.isdigit() for c in text), text[:1].isupper(), text.isupper())


def _alike(page: Page, pair: _Pair) -> list[str]:
    """Other words of the page that look like an answer: letters or digits, capitals, a similar length. Most similar first."""
    text = page.texts[pair.follower]
    without = {page.keys[word] for word in (*pair.anchor, pair.follower)}
    found = {page.keys[index]: page.texts[index] for index in range(len(page.words)) if page.sound[index]}
    others = [other for name, other in found.items() if name not in without and _shape(other) == _shape(text)]
    return sorted(others, key=lambda other: (abs(len(other) - len(text)), other))


def after(page: Page, rng: random.Random) -> Iterator[Candidate]:
    """The word or number right behind an anchor: `Which number comes right after "Total"?`."""
    for pair in _anchored(page):
        text = page.texts[pair.follower]
        question = f'Which {_noun(text)} comes right after "{pair.shown}"?'
        yield Candidate("after", question, (text,), _scorer(text), (pair.follower,), (), *_guessed(page, pair))


def line_end(page: Page, rng: random.Random) -> Iterator[Candidate]:
    """The last word of a line that is known by its first words. Lines with a neighbour in their row are left out."""
    boxes = [page.box_of(line) for line in page.lines]
    for number, line in enumerate(page.lines):
        start = line[:2]
        if len(line) < 4 or not page.sound[line[-1]] or any(page.words[word].flaw for word in line):
            continue
        _, y1, _, y2 = boxes[number]
        middle = (y1 + y2) / 2
        if any(other != number and box[1] < middle < box[3] for other, box in enumerate(boxes)):
            continue
        begun = _shown(page, start)
        if page.runs[tuple(page.keys[word] for word in start)] == 1 and '"' not in begun:
            text = page.texts[line[-1]]
            question = f'What is the last {_noun(text)} of the line that begins with "{begun}"?'
            yield Candidate("line_end", question, (text,), _scorer(text), (line[-1],))


def place(page: Page, rng: random.Random) -> Iterator[Candidate]:
    """A text at the edge of the page, or the only one in one of nine parts: `What does the text at the very top of the page say?`."""
    boxes = [page.box_of(line) for line in page.lines]
    found: dict[int, str] = {}
    for words, column, row in PLACES:
        x1, y1, x2, y2 = (side * page.size[axis] / 3 for side, axis in ((column, 0), (row, 1), (column + 1, 0), (row + 1, 1)))
        touching = [n for n, box in enumerate(boxes) if box[0] < x2 and box[2] > x1 and box[1] < y2 and box[3] > y1]
        if len(touching) == 1:
            box = boxes[touching[0]]
            if box[0] >= x1 and box[2] <= x2 and box[1] >= y1 and box[3] <= y2:
                found[touching[0]] = words
    for edge, downward in (("top", 1.0), ("bottom", -1.0)):
        found |= {line: words.format(edge) for line, words in _edge(boxes, page.size[1], downward).items()}
    for line, words in found.items():
        yield from _titled(page, "place", f"What does the text {words} of the {page.kind} say?", page.lines[line])


def _edge(boxes: list[Box], height: int, downward: float) -> dict[int, str]:
    """The one or two lines of the row at the edge, and where they are. None if it is far from the edge, or another row follows closely."""
    if not boxes:
        return {}
    depth = [sorted((downward * box[1], downward * box[3])) for box in boxes]  # the side that is nearer to the edge comes first
    first = min(range(len(boxes)), key=lambda line: depth[line])
    row = [line for line in range(len(boxes)) if depth[line][0] < depth[first][1]]
    end = max(depth[line][1] for line in row)
    inner = min((depth[line][0] for line in range(len(boxes)) if line not in row), default=math.inf)
    outside = depth[first][0] if downward > 0 else depth[first][0] + height
    if len(row) > 2 or outside > EDGE * height or inner - end < end - depth[first][0]:
        return {}
    names = ("in the {} left corner", "in the {} right corner") if len(row) == 2 else ("at the very {}",)
    return dict(zip(sorted(row, key=lambda line: boxes[line][0]), names, strict=True))


def below(page: Page, rng: random.Random) -> Iterator[Candidate]:
    """The short line right under another short line of one block, as signs and tables have them."""
    for block in page.blocks:
        for upper, lower in pairwise(block):
            anchor = page.lines[upper]
            if len(anchor) > ANCHOR_WORDS or any(page.words[word].flaw or not page.keys[word] for word in anchor):
                continue
            (x1, y1, x2, y2), (left, top, right, _) = page.box_of(anchor), page.box_of(page.lines[lower])
            shown = _shown(page, anchor)
            under = top >= (y1 + y2) / 2 and left < x2 and right > x1
            if under and '"' not in shown and page.runs[tuple(page.keys[word] for word in anchor)] == 1:
                yield from _titled(page, "below", f'What does the line right under "{shown}" say?', page.lines[lower])


def colour(page: Page, rng: random.Random) -> Iterator[Candidate]:
    """The only text in a colour, or on a ground of a colour: `What does the text on the green background say?`."""
    for question, named in (
        ("What does the {} text say?", [word.ink for word in page.words]),
        ("What does the text on the {} background say?", [word.ground for word in page.words]),
    ):
        for name in sorted({name for names in named if len(names) == 1 for name in names}):
            those = [index for index, names in enumerate(named) if name in names]
            lines = {page.line_of[index] for index in those}
            line = page.lines[lines.pop()] if len(lines) == 1 else ()
            at = [position for position, index in enumerate(line) if index in those]
            if at and len(at) == at[-1] - at[0] + 1 and all(named[index] == (name,) for index in those):
                yield from _titled(page, "colour", question.format(name), tuple(line[position] for position in at))


def _titled(page: Page, kind: str, question: str, words: tuple[int, ...]) -> Iterator[Candidate]:
    """A question for a short text, if all its words can be read."""
    if len(words) > TITLE_WORDS or any(page.words[word].flaw for word in words) or not any(page.sound[word] for word in words):
        return
    said = bare(" ".join(page.words[word].text for word in words))
    yield Candidate(kind, question, (said,), _scorer(said), words)


def count_digits(page: Page, rng: random.Random) -> Iterator[Candidate]:
    """How many digits the number right behind an anchor has."""
    for pair in _anchored(page):
        text = page.texts[pair.follower]
        digits = sum(c.isdecimal() for c in text)
        if is_number(text) and digits >= COUNTED:
            question = f'How many digits does the number right after "{pair.shown}" have?'
            yield Candidate("count_digits", question, (str(digits),), "number", (pair.follower,), reads=False)


def yes_no(page: Page, rng: random.Random) -> Iterator[Candidate]:
    """Whether a word stands right behind an anchor. `No` is hard: a digit differs, or the word stands elsewhere on the page."""
    for pair in _anchored(page):
        text = page.texts[pair.follower]
        asked, answer = text, "yes"
        if rng.random() < 0.5:
            others = [_other_digit(text, rng)] if sum(c.isdecimal() for c in text) >= 2 else _alike(page, pair)[:3]
            if not others:
                continue
            asked, answer = rng.choice(others), "no"
        question = f'Is "{asked}" the {_noun(text)} right after "{pair.shown}"?'
        yield Candidate("yes_no", question, (answer,), "exact", (pair.follower,), (), *_guessed(page, pair), reads=False)


def _other_digit(text: str, rng: random.Random) -> str:
    """The text with one digit changed, not the first."""
    at = [index for index, c in enumerate(text) if c.isdecimal()]
    index = rng.choice(at[1:] or at)
    return text[:index] + rng.choice([d for d in "123456789" if d != text[index]]) + text[index + 1 :]


def choice(page: Page, rng: random.Random) -> Iterator[Candidate]:
    """The word right behind an anchor, among similar words of the same page."""
    for pair in _anchored(page):
        text = page.texts[pair.follower]
        others = _alike(page, pair)[: 2 * (CHOICES - 1)]
        if len(others) < CHOICES - 1:
            continue
        shown = rng.sample(others, CHOICES - 1)
        right = rng.randrange(CHOICES)
        shown.insert(right, text)
        question = f'Which {_noun(text)} comes right after "{pair.shown}"?'
        options = tuple(zip(LETTERS, shown, strict=True))
        yield Candidate("choice", question, (LETTERS[right],), "letter", (pair.follower,), options, *_guessed(page, pair), reads=False)


def _guessed(page: Page, pair: _Pair) -> tuple[str, str]:
    return page.keys[pair.anchor[-1]], page.keys[pair.follower]


# Kinds with few different answers, or with the same one on every page (a running head): a guess would often be right, so answers are
# balanced
GUESSABLE = ("line_end", "place", "below", "colour", "count_digits", "yes_no")
Kind = Callable[[Page, random.Random], Iterator[Candidate]]
KINDS: Mapping[str, Kind] = {
    "after": after,
    "line_end": line_end,
    "place": place,
    "below": below,
    "colour": colour,
    "count_digits": count_digits,
    "yes_no": yes_no,
    "choice": choice,
}
