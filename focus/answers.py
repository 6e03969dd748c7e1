"""How right is an answer? Choice, number, short text, and the two graded scores of text-rich benchmarks. Pure functions of strings.

Departures from the published scores:
1. ANLS is divided by the longer text after white space is collapsed; lmms-eval divides by the raw lengths.
2. A sample that is published with an LLM judge is scored by equality with an accepted answer: a lower bound on the judge's score.
"""

import re
import unicodedata

ARTICLES = re.compile(r"\b(a|an|the)\b")
NUMBER = re.compile(r"[-+]?(?:\d+(?:,\d{3})*(?:\.\d+)?|(?<!\w)\.\d+)(?:[eE][-+]?\d+)?")  # `.5` is a fraction, `No.5` is not
RIGHT_FROM = 0.5  # where a yes or no is needed: ANLS gives nothing below it, and it takes 2 of VQA's 10 people

# The EvalAI normaliser of VQA and TextVQA, https://visualqa.org/evaluation.html. `none` counts as a number there.
VQA_NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5"}
VQA_NUMBERS |= {"six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10"}
VQA_MARKS = ';/[]"{}()=+\\_-><@`!'  # commas and question marks are gone by then
# Words that are often typed without their apostrophe. Those that would be another word then (we'll, he'll, we're, I'd) stay apart.
CONTRACTIONS = (
    "ain't aren't can't couldn't didn't doesn't don't hadn't hasn't haven't isn't mightn't mustn't needn't oughtn't shan't shouldn't "
    "wasn't weren't won't wouldn't could've might've must've should've they've we've who've would've you've it'll that'll "
    "they'll what'll who'll you'll they're what're you're he'd how'd it'd there'd they'd where'd who'd you'd ma'am o'clock y'all"
)
VQA_APOSTROPHES = {word.replace("'", ""): word for word in CONTRACTIONS.split()}


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


def anls(answer: str, accepted: tuple[str, ...]) -> float:
    """Average normalised Levenshtein similarity of one answer: 1 - edits / length of the longer, and 0 below 0.5; the best accepted.

    Case and runs of white space do not count. In {0} and [0.5, 1]. arXiv 1905.13648, with the harnesses' threshold: 0.5 itself is kept.
    """
    return max((_similarity(" ".join(answer.lower().split()), " ".join(text.lower().split())) for text in accepted), default=0.0)


def _similarity(one: str, other: str) -> float:
    short, long = sorted((one, other), key=len)
    if 2 * len(short) < len(long):  # at least the difference of the lengths has to be typed: below 0.5 without counting
        return 0.0
    similarity = 1 - _edits(short, long) / max(len(long), 1)
    return similarity if similarity >= 0.5 else 0.0


def _edits(one: str, other: str) -> int:
    """Levenshtein distance: the least number of characters put in, taken out or replaced."""
    row = list(range(len(other) + 1))  # row[j]: from what has been read of `one` to the first j characters of `other`
    for i, a in enumerate(one, 1):
        above, row = row, [i]
        for j, b in enumerate(other, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (a != b)))
    return row[-1]


def vqa_accuracy(answer: str, accepted: tuple[str, ...]) -> float:
    """VQA accuracy: min(1, agreeing people / 3), averaged over leaving out each person of `accepted` once. In [0, 1].

    `accepted` holds one answer of each person, repeats included, ten as a rule; with fewer than four, everybody's answer stays below 1.
    """
    said, people = vqa_normalise(answer), [vqa_normalise(text) for text in accepted]
    agreeing = people.count(said)
    return sum(min(1.0, (agreeing - (person == said)) / 3) for person in people) / max(len(people), 1)


def vqa_normalise(text: str) -> str:
    """EvalAI's normal form: lower case, no punctuation, digits for number words, no articles, apostrophes in contractions.

    A mark vanishes if it touches a space anywhere in the text, else it becomes one; a full stop vanishes unless a digit follows.
    """
    text = " ".join(text.lower().replace(",", "").replace("?", "").replace("'s", " 's").split())
    bare = text
    for mark in VQA_MARKS:
        bare = bare.replace(mark, "" if f"{mark} " in text or f" {mark}" in text else " ")
    words = [VQA_NUMBERS.get(word, word) for word in re.sub(r"\.(?!\d)", "", bare).split()]
    return " ".join(VQA_APOSTROPHES.get(word, word) for word in words if word not in {"a", "an", "the"})


def grade(answer: str | None, accepted: tuple[str, ...], scorer: str, options: tuple[tuple[str, str], ...] = ()) -> float:
    """How right an answer is by its sample's rule, in [0, 1]. No answer is wrong.

    0 or 1 for `letter`, `number`, `exact` and `judge`; `anls` and `vqa10` give parts too: right is what reaches `RIGHT_FROM`.
    Raises ValueError for a rule that does not exist.
    """
    if answer is None:
        return 0.0
    if scorer == "letter":
        return float(chosen_letter(answer, options) == accepted[0])
    if scorer == "number":
        return float(matches_number(answer, accepted))
    if scorer in ("exact", "judge"):  # the published judge is a language model; its rule here is equality
        return float(matches_text(answer, accepted))
    if scorer == "anls":
        return anls(answer, accepted)
    if scorer == "vqa10":
        return vqa_accuracy(answer, accepted)
    raise ValueError(f"scorer {scorer!r} does not exist; choose letter, number, exact, anls, vqa10 or judge")
