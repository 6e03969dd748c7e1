"""What the model reads and writes: the layout of a conversation as text, and the action in a turn.

Text is laid out here and nowhere else, in pieces, so that the ids which a model sampled are never encoded again.
What differs between agents is in a dialect (`model/dialect.py`).
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from focus.data.boxes import Box
from focus.data.text import boxed_spans
from focus.model.dialect import Dialect
from focus.runtime.text import replace_surrogates

IMAGE_PAD = "<|image_pad|>"
CROP_CONTENT = f"<|vision_start|>{IMAGE_PAD}<|vision_end|>"  # an image as text
# A sampled vision token has no pixels and breaks the next forward, so these are banned from sampling.
VISION_TOKENS = (IMAGE_PAD, "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>")
END_TOKENS = ("<|im_end|>", "<|endoftext|>")  # they end a turn, as the closing tag of a call does
TOOL = "image_zoom_in_tool"
CALL_OPEN, CALL_CLOSE = "<tool_call>", "</tool_call>"
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"
FUNCTION = re.compile(r"<function=([^>]+)>(.*)</function>", re.DOTALL)
PARAMETER = re.compile(r"<parameter=([^>]+)>(.*?)</parameter>", re.DOTALL)
JSON_OBJECT = re.compile(r"\{[^{}]*\}")
THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that prompts need."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...

    def convert_tokens_to_ids(self, tokens: str) -> int: ...

    def decode(self, token_ids: Sequence[int]) -> str: ...


# ------------------------------------------------------------------------------------------------------------ layout


def user_text(dialect: Dialect, question: str, options: Sequence[tuple[str, str]] = ()) -> str:
    """The user's first turn. Its only `<|image_pad|>` stands for the whole view."""
    return f"{CROP_CONTENT}{dialect.before}{asked_text(question, options)}{dialect.after}"


def asked_text(question: str, options: Sequence[tuple[str, str]] = ()) -> str:
    """A question with its options."""
    listed = "".join(f"\n{key}. {text}" for key, text in options)
    letter = "\nAnswer with the letter of one option." if options else ""
    return f"{replace_surrogates(question + listed)}{letter}"


def question_text(dialect: Dialect, question: str, options: Sequence[tuple[str, str]] = ()) -> str:
    """The prompt up to the first sampled token, in turns."""
    return (
        f"<|im_start|>system\n{dialect.system}<|im_end|>\n<|im_start|>user\n{user_text(dialect, question, options)}<|im_end|>\n"
        f"<|im_start|>assistant\n{dialect.opening}"
    )


def reply_text(dialect: Dialect, content: str, crops: int, asked: str = "") -> str:
    """The user's reply to a call after `crops` earlier crops.

    `content` is `CROP_CONTENT` (once for every image), or an error. `asked` is the `asked_text` of the question.
    """
    template = dialect.crop_reply if content.startswith(CROP_CONTENT) else dialect.error_reply
    reply = template.replace("{index}", str(crops)).replace("{number}", str(crops + 1))
    return reply.replace("{content}", content.replace("bbox_2d", dialect.box_argument)).replace("{question}", asked)


def observation_text(dialect: Dialect, content: str, crops: int, closed: bool, asked: str = "") -> str:
    """All text between a call and the next turn of the model: the reply, and what opens that turn.

    `crops` counts earlier crops. `closed`: the model wrote `<|im_end|>` itself, so it is not written again.
    """
    close = "" if closed else "<|im_end|>"
    return f"{close}\n<|im_start|>user\n{reply_text(dialect, content, crops, asked)}<|im_end|>\n<|im_start|>assistant\n{dialect.opening}"


UNAVAILABLE = "the tool is unavailable"  # used by the probe alone; the vocabulary of the embedded policy was trained on all reasons


def error_content(reason: str = UNAVAILABLE) -> str:
    """What replaces the crop in a reply when there is none."""
    return f"Error: {reason}. No image."


def call_text(box_view: Box) -> str:
    """A call in its shortest JSON form, as the base policy is trained to write it."""
    numbers = ",".join(str(round(value)) for value in box_view)
    return f'{CALL_OPEN}{{"name":"{TOOL}","arguments":{{"bbox_2d":[{numbers}]}}}}{CALL_CLOSE}'


def call_body(dialect: Dialect, name: str, arguments: str) -> str:
    """What stands between the tags of a call. `arguments` is a JSON object; XML leaves out what is none."""
    if dialect.call_format == "json":
        return f'{{"name": {json.dumps(name)}, "arguments": {arguments}}}' if dialect.tool else arguments
    try:
        values = json.loads(arguments)
    except (ValueError, RecursionError):
        values = None
    if dialect.call_format == "box":
        return json.dumps(values.get(dialect.box_argument)) if isinstance(values, dict) else arguments
    named = values.items() if isinstance(values, dict) else ()
    texts = ((key, value if isinstance(value, str) else json.dumps(value)) for key, value in named)
    parameters = "".join(f"<parameter={key}>\n{text}\n</parameter>\n" for key, text in texts)
    return f"\n<function={name}>\n{parameters}</function>\n"


def answer_text(answer: str) -> str:
    """An answer turn, closed."""
    return f"{ANSWER_OPEN}{answer}{ANSWER_CLOSE}<|im_end|>"


def encode(tokenizer: Tokenizer, text: str, image_tokens: Sequence[int] = ()) -> list[int]:
    """Ids of laid-out text; the n-th `<|image_pad|>` becomes `image_tokens[n]` pads.

    Raises ValueError where the counts differ: the forward would have more features than placeholders, or fewer.
    """
    pieces = text.split(IMAGE_PAD)
    if len(pieces) != len(image_tokens) + 1:
        raise ValueError(f"the text has {len(pieces) - 1} image places for {len(image_tokens)} images; each image needs one")
    pad = tokenizer.convert_tokens_to_ids(IMAGE_PAD)
    ids = tokenizer.encode(pieces[0], add_special_tokens=False)
    for count, piece in zip(image_tokens, pieces[1:], strict=True):
        ids += [pad] * count + tokenizer.encode(piece, add_special_tokens=False)
    return ids


# ----------------------------------------------------------------------------------------------------------- parsing


class Fault(StrEnum):
    """Why a turn was not carried out. The model reads the text."""

    NO_ACTION = "neither a call nor an answer"
    CALL_AND_ANSWER = "a call and an answer in one turn"
    UNCLOSED = "the call or answer is not closed"
    REPEATED = "more than one call or answer in one turn"
    NOT_JSON = "the call is not JSON"
    UNKNOWN_TOOL = "there is no such tool"
    NO_BOX = "bbox_2d must be four finite numbers"
    EMPTY_ANSWER = "the answer is empty"
    OUTSIDE = "the box is outside the image"
    NO_CROPS_LEFT = "no crops are left, answer now"


@dataclass(frozen=True)
class Call:
    """A request for a crop. The box is in the dialect's frame.

    `source` is the image to crop: 0 is the view, n the n-th crop that was shown, -1 an image that does not exist.
    """

    box_view: Box
    source: int = 0


@dataclass(frozen=True)
class Answer:
    """A final answer, without surrounding white space."""

    text: str


@dataclass(frozen=True)
class Malformed:
    """A turn that can't be carried out."""

    fault: Fault


def without_thoughts(text: str) -> str:
    """A turn without its thoughts, also those whose `<think>` was written by the chat template."""
    # A thought becomes a line break, so that the text before it and the text after it can't join into a tag
    return THOUGHT.sub("\n", text).rpartition("</think>")[2]


def parse(text: str, dialect: Dialect) -> Call | Answer | Malformed:
    """The action of one turn. Never raises, and evaluates nothing. Tags inside a thought are no action."""
    text = without_thoughts(text)
    calls, answers = text.count(dialect.call[0]), text.count(dialect.answer[0])
    if calls and answers:
        return Malformed(Fault.CALL_AND_ANSWER)
    if not calls and not answers:
        return Malformed(Fault.NO_ACTION)
    if answers and dialect.answer_format == "boxed":
        return _parse_boxed(text)
    opening, closing = dialect.call if calls else dialect.answer
    if calls + answers > 1 or text.count(closing) > 1:
        return Malformed(Fault.REPEATED)
    body, found, _ = text.partition(opening)[2].partition(closing)
    if not found:
        return Malformed(Fault.UNCLOSED)
    if answers:
        return Answer(body.strip()) if body.strip() else Malformed(Fault.EMPTY_ANSWER)
    return _parse_call(body, dialect)


def _parse_boxed(text: str) -> Answer | Malformed:
    r"""The last `\boxed{...}` of a turn, which is its answer: a box inside a box is a part of it."""
    spans = boxed_spans(text)
    if not spans:
        return Malformed(Fault.UNCLOSED)
    start, end = max(spans, key=lambda span: span[1])
    return Answer(text[start:end].strip()) if text[start:end].strip() else Malformed(Fault.EMPTY_ANSWER)


def _parse_call(body: str, dialect: Dialect) -> Call | Malformed:
    try:
        call: Any = _read_xml(body) if dialect.call_format == "xml" else json.loads(body)
    except (ValueError, RecursionError):  # a ValueError also covers numbers with more digits than Python converts
        return Malformed(Fault.NOT_JSON)
    if dialect.call_format == "box":
        call = {"name": dialect.tool, "arguments": {dialect.box_argument: call}} if dialect.tool else {dialect.box_argument: call}
    if dialect.tool and (not isinstance(call, dict) or call.get("name") != dialect.tool):
        return Malformed(Fault.UNKNOWN_TOOL)
    return _call_with(call.get("arguments") if dialect.tool else call, dialect)


def _call_with(arguments: Any, dialect: Dialect) -> Call | Malformed:
    """The call of these arguments."""
    box = arguments.get(dialect.box_argument) if isinstance(arguments, dict) else None
    if not isinstance(box, list) or len(box) != 4:
        return Malformed(Fault.NO_BOX)
    numbers = []
    for value in box:
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e9 or not math.isfinite(value):
            return Malformed(Fault.NO_BOX)
        numbers.append(float(value))
    named = next((arguments[name] for name in dialect.image_arguments if name in arguments), dialect.first_image)
    return Call((numbers[0], numbers[1], numbers[2], numbers[3]), _image_number(named, dialect))


def listed_calls(text: str, dialect: Dialect) -> list[Call]:
    """The calls of a turn that lists boxes as JSON objects, `[{"bbox_2d": [...], ...}, ...]`, without tags.

    An object that holds no box is left out. Never raises.
    """
    calls = []
    for found in JSON_OBJECT.findall(without_thoughts(text)):
        try:
            call = _call_with(json.loads(found), dialect)
        except (ValueError, RecursionError):
            continue
        if isinstance(call, Call):
            calls.append(call)
    return calls


def _read_xml(body: str) -> dict[str, Any] | None:
    """A call in XML as it would be in JSON. A value that is not JSON is a string. None if no function is
    called.
    """
    function = FUNCTION.fullmatch(body.strip())
    if function is None:
        return None
    arguments: dict[str, Any] = {}
    for key, value in PARAMETER.findall(function[2]):
        try:
            arguments[key] = json.loads(value)
        except (ValueError, RecursionError):
            arguments[key] = value.strip()
    return {"name": function[1], "arguments": arguments}


def _image_number(named: object, dialect: Dialect) -> int:
    """The image that a call names, as `Call.source`: a name of the dialect, or a number up to 999."""
    if named == dialect.original_name:
        return 0
    number, first = named, dialect.first_image
    if isinstance(named, str):
        before, _, after = dialect.crop_name.partition("{number}")
        number = named.removeprefix(before).removesuffix(after)
        first = first if number == named else 0  # the name of a crop holds its number among the crops
    if isinstance(number, str):
        plain = int(number) if number.isdecimal() and len(number) < 4 else -1
    else:
        whole = isinstance(number, int | float) and not isinstance(number, bool) and number in range(1000)
        plain = int(number) if whole else -1  # type: ignore[call-overload]
    return max(-1, plain - first)
