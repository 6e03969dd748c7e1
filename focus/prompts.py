"""What the model reads and writes: system prompt, tool form, chat layout, stop tokens and parsing, per model family.

Text is laid out here and nowhere else, in pieces, so that the ids which a model sampled are never encoded again.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from focus.boxes import Box, Frame

IMAGE_PAD = "<|image_pad|>"
# A sampled vision token has no pixels behind it and breaks the next forward, so sampling never yields one.
VISION_TOKENS = (IMAGE_PAD, "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>")
STOP_TOKENS = ("</tool_call>", "<|im_end|>", "<|endoftext|>")
TOOL = "image_zoom_in_tool"
CALL_OPEN, CALL_CLOSE = "<tool_call>", "</tool_call>"
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"
THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that prompts need."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...

    def convert_tokens_to_ids(self, tokens: str) -> int: ...


@dataclass(frozen=True)
class Dialect:
    """How one model family is spoken to."""

    name: str
    frame: Frame
    system: str


def _tool_system(coordinates: str) -> str:
    schema = {
        "type": "function",
        "function": {
            "name": TOOL,
            "description": "Zoom in on a region of the image: returns that region, cut from the original at full resolution.",
            "parameters": {
                "type": "object",
                "required": ["bbox_2d"],
                "properties": {
                    "bbox_2d": {
                        "type": "array",
                        "items": {"type": "number"},
                        "minItems": 4,
                        "maxItems": 4,
                        "description": f"[x1, y1, x2, y2] of the region, {coordinates}.",
                    },
                    "label": {"type": "string", "description": "What is in the region (optional)."},
                },
            },
        },
    }
    return (
        "You are a helpful assistant.\n\n# Tools\nYou may call one function to look closer before you answer.\n"
        f"<tools>\n{json.dumps(schema)}\n</tools>\n\nFor a call, return a JSON object with the function's name and "
        f'arguments:\n{CALL_OPEN}{{"name":"{TOOL}","arguments":{{"bbox_2d":[x1,y1,x2,y2]}}}}{CALL_CLOSE}\n\n'
        f"You may think between <think> and </think> first. Give the final answer as {ANSWER_OPEN}...{ANSWER_CLOSE}."
    )


DIALECTS = {
    dialect.name: dialect
    for dialect in (
        Dialect("qwen2_5_vl", Frame.VIEW_PIXELS, _tool_system("in pixels of the image as shown")),
        Dialect("qwen3_vl", Frame.PER_MILLE, _tool_system("0 to 1000 from the left and the top of the image")),
        # The embedded policy knows one tool and has 64 tokens for everything that never changes.
        Dialect("tiny", Frame.PER_MILLE, f"Zoom in with {CALL_OPEN}{TOOL}{CALL_CLOSE} or answer in {ANSWER_OPEN}{ANSWER_CLOSE}."),
    )
}


def question_text(dialect: Dialect, question: str, options: Sequence[tuple[str, str]] = ()) -> str:
    """The prompt up to the first sampled token, one `<|image_pad|>` standing for the whole view."""
    listed = "".join(f"\n{key}. {text}" for key, text in options)
    letter = "\nAnswer with the letter of one option." if options else ""
    return (
        f"<|im_start|>system\n{dialect.system}<|im_end|>\n<|im_start|>user\n<|vision_start|>{IMAGE_PAD}<|vision_end|>"
        f"{question}{listed}{letter}<|im_end|>\n<|im_start|>assistant\n"
    )


def observation_text(content: str, closed: bool) -> str:
    """What follows a call: the tool's answer, and the opening of the next turn.

    `closed` says that the model itself wrote `<|im_end|>`, which is then not written again.
    """
    close = "" if closed else "<|im_end|>"
    return f"{close}\n<|im_start|>user\n<tool_response>\n{content}\n</tool_response><|im_end|>\n<|im_start|>assistant\n"


CROP_CONTENT = f"<|vision_start|>{IMAGE_PAD}<|vision_end|>"


def error_content(reason: str) -> str:
    """What the tool says instead of a crop."""
    return f"Error: {reason}. No image."


def call_text(box_view: Box) -> str:
    """A call in its shortest JSON form, as the base policy is taught to write it."""
    numbers = ",".join(str(round(value)) for value in box_view)
    return f'{CALL_OPEN}{{"name":"{TOOL}","arguments":{{"bbox_2d":[{numbers}]}}}}{CALL_CLOSE}'


def answer_text(answer: str) -> str:
    """An answer turn, closed."""
    return f"{ANSWER_OPEN}{answer}{ANSWER_CLOSE}<|im_end|>"


def encode(tokenizer: Tokenizer, text: str, image_tokens: Sequence[int] = ()) -> list[int]:
    """Ids of laid-out text; the n-th `<|image_pad|>` becomes `image_tokens[n]` pads.

    Raises ValueError where the counts differ: features and placeholders would part in the forward.
    """
    pieces = text.split(IMAGE_PAD)
    if len(pieces) != len(image_tokens) + 1:
        raise ValueError(f"the text has {len(pieces) - 1} image places for {len(image_tokens)} images; each image needs one")
    pad = tokenizer.convert_tokens_to_ids(IMAGE_PAD)
    ids = tokenizer.encode(pieces[0], add_special_tokens=False)
    for count, piece in zip(image_tokens, pieces[1:], strict=True):
        ids += [pad] * count + tokenizer.encode(piece, add_special_tokens=False)
    return ids


class Fault(StrEnum):
    """Why a turn could not be acted on. The text is what the model is told."""

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


UNAVAILABLE = "the tool is unavailable"  # said by the probe alone; faults are part of the embedded vocabulary's corpus


@dataclass(frozen=True)
class Call:
    """A request for a crop, in the frame the model spoke."""

    box_view: Box


@dataclass(frozen=True)
class Answer:
    """A final answer, stripped of surrounding white space."""

    text: str


@dataclass(frozen=True)
class Malformed:
    """A turn that could not be acted on."""

    fault: Fault


def parse(text: str) -> Call | Answer | Malformed:
    """The action of one turn. Never raises, evaluates nothing; `<think>` is skipped, so quotes in it are no action."""
    text = THOUGHT.sub("\n", text)  # not by nothing: what stands around a thought must not join into a tag
    calls, answers = text.count(CALL_OPEN), text.count(ANSWER_OPEN)
    if calls and answers:
        return Malformed(Fault.CALL_AND_ANSWER)
    if not calls and not answers:
        return Malformed(Fault.NO_ACTION)
    opening, closing = (CALL_OPEN, CALL_CLOSE) if calls else (ANSWER_OPEN, ANSWER_CLOSE)
    if calls + answers > 1 or text.count(closing) > 1:
        return Malformed(Fault.REPEATED)
    body, found, _ = text.partition(opening)[2].partition(closing)
    if not found:
        return Malformed(Fault.UNCLOSED)
    if answers:
        return Answer(body.strip()) if body.strip() else Malformed(Fault.EMPTY_ANSWER)
    return _parse_call(body)


def _parse_call(body: str) -> Call | Malformed:
    try:
        call = json.loads(body)
    except (ValueError, RecursionError):  # a ValueError also covers numbers with more digits than Python converts
        return Malformed(Fault.NOT_JSON)
    if not isinstance(call, dict) or call.get("name") != TOOL:
        return Malformed(Fault.UNKNOWN_TOOL)
    arguments = call.get("arguments")
    box = arguments.get("bbox_2d") if isinstance(arguments, dict) else None
    if not isinstance(box, list) or len(box) != 4:
        return Malformed(Fault.NO_BOX)
    numbers = []
    for value in box:
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e9 or not math.isfinite(value):
            return Malformed(Fault.NO_BOX)
        numbers.append(float(value))
    return Call((numbers[0], numbers[1], numbers[2], numbers[3]))
