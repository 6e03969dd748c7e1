"""Extraction of the answer from a model's final text: one strict rule, and the rules of three
published harnesses.

Reports use `strict`. The other modes reproduce the published harnesses, faults included, so that
our numbers can be compared with published ones; tests show where such a rule misreads a text. A
text that a harness would pass to a judge or to a random choice is "not parsed" here, in every mode:
report the share of such texts beside the accuracy.
"""

import re

from focus.data.choices import Options, chosen_letter
from focus.data.text import LONGEST_READ, boxed_spans, normalise, plain
from focus.model.prompts import without_thoughts

MODES = ("strict", "lmms", "vlmevalkit", "mme")

# Characters. DeepEyes gives 0 to free answers of this length or more, because long answers can
# persuade a judge
LONGEST = 1000
WRAPPINGS = 8  # most wrappings around one answer that are removed; each takes another pass
ALLOWANCE = 32  # characters of a few words around an option, such as `Option (B).`

TAGGED = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL)
WRAPPED = re.compile(r"\$*\\(?:boxed|text|textbf|mathrm|mathbf)\s*\{(.*)\}\$*", re.DOTALL)

LEADING = re.compile(r"\W*([A-Z])\s*(?:[.):,\]]|\W*$)")
# Letters that are answers by themselves. `A` before a lower-case word is an article, except after
# `or` or `and`.
ALSO = re.compile(r"(?<!\w)([A-Z])(?![\w'])(?!\s+[a-z])|[(\[]\s*([A-Za-z])\s*[)\]]|\b(?:or|and)\s+([A-Z])(?!\w)")

LMMS = (
    re.compile(r"\A([A-D])"),  # even the first letter of a word
    # Even the first letter of a word
    re.compile(r"(?:ANSWER|CHOICE|OPTION)(?:\s+IS)?[\s:]+([A-D])"),
    re.compile(r"\(([A-D])\)"),
    re.compile(r"([A-D])\s*[.)\]]"),  # even the last letter of a word
    re.compile(r"(?<!\S)([A-D])(?!\S)"),
)

CAN_INFER_SPACES = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
# Even the first letter of a word
CAN_INFER_STATED = re.compile(r"answer\s+is\s+\**([A-D])", re.IGNORECASE)
CAN_INFER_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)

# The published script lists eight prefixes but lacks two commas: Python joins the last four into
# two that no text contains.
MME_PREFIXES = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option isThe correct option is",
    "Best answer:Best option:",
)


def extract(text: str, options: Options, mode: str) -> str | None:
    """The answer in `text`, the model's whole last turn, by the rule `mode`; None if there is no
    clear answer.

    With options: the key of one of them. Without: the answer itself. The harnesses score the whole
    text as a free answer; only `strict` searches for the answer in it. Accepts any text. Raises
    ValueError for an unknown mode.
    """
    if mode not in MODES:
        raise ValueError(f"extraction mode {mode!r} does not exist; choose one of {', '.join(MODES)}")
    if mode == "strict":
        answer = final_answer(text)
        if options:
            return _strict(answer, options)
        return answer if answer and len(answer) < LONGEST else None
    if not options:
        return text.strip() or None
    key = {"lmms": _lmms, "vlmevalkit": _vlmevalkit, "mme": _mme}[mode](text.strip(), options)
    return key if key in dict(options) else None


def read_answer(text: str, tagged: str | None, cut: bool, options: Options, mode: str) -> str | None:
    """The answer of a conversation whose last turn is `text` without a tool call; None if there is
    no clear answer.

    `tagged` is the content of the turn's one closed `<answer>` tag, if it has one; every rule then
    reads only the tag. By the strict rule a turn that was `cut` by the token limit, or whose tag is
    not closed, has no answer; the published rules read the whole text.
    """
    if mode == "strict" and (cut or (tagged is None and "<answer>" in text)):
        return None
    if mode == "strict" and not options:
        return tagged if tagged is not None else extract(text, options, mode)
    return extract(text.removesuffix("<|im_end|>") if tagged is None else tagged, options, mode)


def final_answer(text: str) -> str:
    r"""The answer part of a text: the last `<answer>...</answer>`, else the last `\boxed{...}`, else
    the last line.

    Thoughts are ignored, closed or not. Empty if the text is empty, or if the tag or box is empty:
    text outside a tag or box is not used.
    """
    text = without_thoughts(text)
    if tagged := TAGGED.findall(text):
        answer = tagged[-1]
    elif spans := boxed_spans(text):
        start, end = max(spans)
        answer = text[start:end]
    else:
        answer = next((line for line in reversed(text.splitlines()) if line.strip()), "")
    answer = answer.strip()
    for _ in range(WRAPPINGS):  # `<answer>\boxed{B}</answer>`, `\boxed{\text{B}}`
        if not (inside := WRAPPED.fullmatch(answer)):
            break
        answer = inside[1].strip()
    return answer


def _strict(answer: str, options: Options) -> str | None:
    """The one option that an answer names; None if it names none or several.

    A letter counts alone, before a delimiter, or with its own text; an option's text counts alone.
    An answer that names a second option, or that is more than twice as long as all options
    together, has no option: listing all options must not pay.
    """
    if len(answer) > LONGEST_READ:
        return None
    text = " ".join(plain(answer).split())
    if len(text) > 2 * sum(len(option) for _, option in options) + ALLOWANCE:
        return None
    if (key := chosen_letter(text, options)) is not None:
        return key
    led, texts = LEADING.match(text), dict(options)
    if led is None or led[1] not in texts:
        return None
    rest = text[led.end(1) :]
    also = {(match[1] or match[2] or match[3]).upper() for match in ALSO.finditer(rest)} & texts.keys()
    if also - {led[1]} or quoted(rest, options) - {normalise(texts[led[1]])}:
        return None
    return led[1]


def quoted(text: str, options: Options) -> set[str]:
    """The normalised option texts that occur in a text as whole words.

    An option text inside a longer quoted option text does not count.
    """
    rest, quotes = normalise(text), set()
    for option in sorted({normalise(option) for _, option in options}, key=len, reverse=True):
        if option in rest and re.search(r"\w", option):
            whole = re.compile(rf"(?<!\w)(?<!\d[.,]){re.escape(option)}(?!\w|[.,]\d)")
            quotes |= {option} if whole.search(rest) else set()
            rest = whole.sub("|", rest)
    return quotes


def _lmms(text: str, options: Options) -> str | None:
    """lmms-eval's V* rule, on the upper-cased text.

    The first of five patterns that matches A to D; else the letter A to D if there is only one.
    """
    text = text.upper()
    for pattern in LMMS:
        if match := pattern.search(text):
            return match[1]
    letters = re.findall("[A-D]", text)
    return letters[0] if len(letters) == 1 else None


def _vlmevalkit(text: str, options: Options) -> str | None:
    """VLMEvalKit's `can_infer`: a lone option letter among the last four words, else `answer is X`,
    else the one quoted option.

    For a text that is None here, the published pipeline asks a judge; without a judge it makes a
    random choice or takes the wrong letter `Z`.
    """
    if any(refusal in text for refusal in CAN_INFER_REFUSALS):
        return None
    words = text.translate(CAN_INFER_SPACES).split()
    named = [key for key, _ in options if key in words]
    if len(named) == 1 and words.index(named[0]) >= len(words) - 4:
        return named[0]
    if not named and "Z" in words:  # the harness uses Z for "none of them"
        return None
    if (stated := CAN_INFER_STATED.search(text)) and stated[1].upper() in dict(options):
        return stated[1].upper()
    text = text.lower()
    if len(text) > 2 * sum(len(option) for _, option in options):
        return None
    inside = [key for key, option in options if option.lower() in text]
    return inside[0] if len(inside) == 1 else None


def _mme(text: str, options: Options) -> str | None:
    """MME-RealWorld's rule: without known prefixes, the first capital A to E, even inside a word.

    If there is none: the first option that contains the answer, ignoring case. An empty answer is
    in every option. An answer of more than ten words has no option.
    """
    for prefix in MME_PREFIXES:
        text = text.replace(prefix, "")
    if match := re.search("[A-E]", text):
        return match[0]
    if len(text.split()) > 10:
        return None
    return next((key for key, option in options if text.lower() in f"({key}) {option}".lower()), None)
