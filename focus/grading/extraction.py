"""What a model's final text is taken to answer: one strict rule, and the rules of three published evaluations.

`strict` is what is reported. The others are rewritten from what the published harnesses do, holes included, so that a number of ours
can be set beside a published one; where a rule reads a text as something that it does not say, a test says so. A text that a harness
would hand to a judge or to chance is "not parsed" here, in every mode: report the share of those beside the accuracy.
"""

import re

from focus.data.choices import Options, chosen_letter
from focus.data.text import LONGEST_READ, plain
from focus.grading.answers import normalise
from focus.model.prompts import without_thoughts

MODES = ("strict", "lmms", "vlmevalkit", "mme")

LONGEST = 1000  # characters; DeepEyes gives 0 to free answers of this length or more, since judges can be talked into a yes
WRAPPINGS = 8  # around one answer; each takes another pass over it
ALLOWANCE = 32  # characters; an answer may wrap its options in a few words, `Option (B).`, but not in an essay

TAGGED = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL)
BOX = "\\boxed{"
WRAPPED = re.compile(r"\$*\\(?:boxed|text|textbf|mathrm|mathbf)\s*\{(.*)\}\$*", re.DOTALL)

LEADING = re.compile(r"\W*([A-Z])\s*(?:[.):,\]]|\W*$)")
# Letters that stand as an answer of their own: `A` before a word in lower case is an article, unless `or` or `and` offers it.
ALSO = re.compile(r"(?<!\w)([A-Z])(?![\w'])(?!\s+[a-z])|[(\[]\s*([A-Za-z])\s*[)\]]|\b(?:or|and)\s+([A-Z])(?!\w)")

LMMS = (
    re.compile(r"\A([A-D])"),  # even of a word
    re.compile(r"(?:ANSWER|CHOICE|OPTION)(?:\s+IS)?[\s:]+([A-D])"),  # even of a word
    re.compile(r"\(([A-D])\)"),
    re.compile(r"([A-D])\s*[.)\]]"),  # even at the end of a word
    re.compile(r"(?<!\S)([A-D])(?!\S)"),
)

CAN_INFER_SPACES = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
CAN_INFER_STATED = re.compile(r"answer\s+is\s+\**([A-D])", re.IGNORECASE)  # even of a word
CAN_INFER_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)

# The published script lists eight, but without two commas: the last four are glued into two that no text contains.
MME_PREFIXES = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option isThe correct option is",
    "Best answer:Best option:",
)


def extract(text: str, options: Options, mode: str) -> str | None:
    """What `text`, all that the model said in its last turn, answers by the rule `mode`; None if that cannot be told.

    With options: the key of one of them. Without: the answer itself; the harnesses score free answers as the whole text, so only
    `strict` looks for one in it. Never raises for any text and evaluates nothing; ValueError for a mode that does not exist.
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
    """What a conversation answers whose last turn is `text`, no call; `tagged` is what stands in its one closed `<answer>`, if it has one.

    Every rule reads the tag where there is one. By the strict rule a turn that the token limit has `cut`, or whose tag is never closed,
    answers nothing; the published rules read what there is.
    """
    if mode == "strict" and (cut or (tagged is None and "<answer>" in text)):
        return None
    if mode == "strict" and not options:
        return tagged if tagged is not None else extract(text, options, mode)
    return extract(text.removesuffix("<|im_end|>") if tagged is None else tagged, options, mode)


def final_answer(text: str) -> str:
    r"""What the text puts forward as its answer: the last `<answer>...</answer>`, else the last `\boxed{...}`, else the last line.

    Thoughts are no answer, closed or not. Empty if there is nothing, or if the tag or box holds nothing: what is outside them is not
    asked then.
    """
    text = without_thoughts(text)
    if tagged := TAGGED.findall(text):
        answer = tagged[-1]
    elif (boxed := _boxed(text)) is not None:
        answer = boxed
    else:
        answer = next((line for line in reversed(text.splitlines()) if line.strip()), "")
    answer = answer.strip()
    for _ in range(WRAPPINGS):  # `<answer>\boxed{B}</answer>`, `\boxed{\text{B}}`
        if not (inside := WRAPPED.fullmatch(answer)):
            break
        answer = inside[1].strip()
    return answer


def _boxed(text: str) -> str | None:
    r"""What stands in the last `\boxed{...}` whose braces balance; None if there is none. One pass, whatever the text."""
    opened: list[tuple[int, bool]] = []
    last = (-1, -1)
    for place, character in enumerate(text):
        if character == "{":
            opened.append((place + 1, text.endswith(BOX, 0, place + 1)))
        elif character == "}" and opened:
            start, is_box = opened.pop()
            if is_box:
                last = max(last, (start, place))
    return text[last[0] : last[1]] if last[0] >= 0 else None


def _strict(answer: str, options: Options) -> str | None:
    """The one option that an answer names. A letter counts alone, before a delimiter or with its own text; a text counts alone.

    Nothing is chosen by an answer that names a second option by key or by text, or that is over twice as long as all options
    together: neither may be had by listing what there is.
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
    also = {(found[1] or found[2] or found[3]).upper() for found in ALSO.finditer(rest)} & texts.keys()
    if also - {led[1]} or quoted(rest, options) - {normalise(texts[led[1]])}:
        return None
    return led[1]


def quoted(text: str, options: Options) -> set[str]:
    """The option texts, normalised, that occur in a text as whole words. One inside a longer one is not quoted by it."""
    rest, found = normalise(text), set()
    for option in sorted({normalise(option) for _, option in options}, key=len, reverse=True):
        if option in rest and re.search(r"\w", option):
            whole = re.compile(rf"(?<!\w)(?<!\d[.,]){re.escape(option)}(?!\w|[.,]\d)")
            found |= {option} if whole.search(rest) else set()
            rest = whole.sub("|", rest)
    return found


def _lmms(text: str, options: Options) -> str | None:
    """lmms-eval's V* rule: everything upper-cased, then the first of five patterns that finds A to D, else the only such letter."""
    text = text.upper()
    for pattern in LMMS:
        if found := pattern.search(text):
            return found[1]
    letters = re.findall("[A-D]", text)
    return letters[0] if len(letters) == 1 else None


def _vlmevalkit(text: str, options: Options) -> str | None:
    """VLMEvalKit's `can_infer`: a lone option letter among the last four words, else `answer is X`, else the one option text inside.

    What is None here the published pipeline hands to a judge, or, where it has none, to a random choice or the wrong letter `Z`.
    """
    if any(refusal in text for refusal in CAN_INFER_REFUSALS):
        return None
    words = text.translate(CAN_INFER_SPACES).split()
    named = [key for key, _ in options if key in words]
    if len(named) == 1 and words.index(named[0]) >= len(words) - 4:
        return named[0]
    if not named and "Z" in words:  # the letter that stands for "none of them"
        return None
    if (stated := CAN_INFER_STATED.search(text)) and stated[1].upper() in dict(options):
        return stated[1].upper()
    text = text.lower()
    if len(text) > 2 * sum(len(option) for _, option in options):
        return None
    inside = [key for key, option in options if option.lower() in text]
    return inside[0] if len(inside) == 1 else None


def _mme(text: str, options: Options) -> str | None:
    """MME-RealWorld's rule: known prefixes are cut out wherever they stand, then the first capital A to E, be it of a word.

    Without one, the first option that contains the answer, case aside, and every option contains an empty one; but an answer of more
    than ten words chooses nothing.
    """
    for prefix in MME_PREFIXES:
        text = text.replace(prefix, "")
    if found := re.search("[A-E]", text):
        return found[0]
    if len(text.split()) > 10:
        return None
    return next((key for key, option in options if text.lower() in f"({key}) {option}".lower()), None)
