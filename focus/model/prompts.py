"""What the model reads and writes: system prompt, tool form, chat layout, stop tokens and parsing, per model family.

Text is laid out here and nowhere else, in pieces, so that the ids which a model sampled are never encoded again.
"""

import json
import math
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

from PIL import Image

from focus.data.boxes import Box, Frame
from focus.runtime.text import replace_surrogates

IMAGE_PAD = "<|image_pad|>"
CROP_CONTENT = f"<|vision_start|>{IMAGE_PAD}<|vision_end|>"  # an image as it stands in text
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

    def decode(self, token_ids: Sequence[int]) -> str: ...


@dataclass(frozen=True)
class Dialect:
    """How one model family is spoken to.

    `before` and `after` stand around the question. `reply` is what the user says once a crop is cut and `mend` when none can be:
    `{content}` is the crop or the reason, `{crops}` the number of crops before, `{next}` that number plus 1.
    `tool` is None where a call is nothing but its arguments. `token_px` is the side of one merged visual token. `plain` is the system
    prompt that offers no tool, None where the family knows only one.
    """

    name: str
    frame: Frame
    system: str
    token_px: int = 28
    call: tuple[str, str] = (CALL_OPEN, CALL_CLOSE)
    tool: str | None = TOOL
    before: str = ""
    after: str = ""
    reply: str = "<tool_response>\n{content}\n</tool_response>"
    mend: str = "<tool_response>\n{content}\n</tool_response>"
    plain: str | None = None

    def without_tool(self) -> "Dialect":
        """The same question where no tool is offered."""
        assert self.plain is not None, self.name  # config.checks lets no other dialect meet the arm no_tool
        after = self.after.replace(", call **image_zoom_in_tool** if needed", "").replace(_IF_NEEDED, "")
        return replace(self, system=self.plain, after=after)


_IF_NEEDED = "<tool_call>...</tool_call> (if tools needed)  "


class Model(Protocol):
    """What the crop loop asks of a policy, be its weights here (``PolicyModel`) or on a server (`Served`)."""

    @property
    def dialect(self) -> Dialect: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def token_px(self) -> int:
        """Side of one merged visual token, in pixels."""
        ...

    @property
    def has_idle_processors(self) -> bool:
        """Whether processors are free to cut crops while the model speaks."""
        ...

    def image_cache(self) -> AbstractContextManager[None]:
        """Within the block what is computed of an image is kept."""
        ...

    def prepare(self, image: Image.Image) -> None:
        """An image that will soon be shown; worker threads call this."""
        ...

    def weights_hash(self) -> str:
        """Names these weights."""
        ...


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


# Other people's agents are spoken to in the words that they were trained on, to the letter, mistakes included: with others they would be
# measured at something that they never learned.
_BOX_SPEC = {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4}
_ZOOM = "Zoom in on a specific region of an image by cropping it based on a bounding box (bbox) and an optional object label"
_CORNERS = "as [x1, y1, x2, y2], where (x1, y1) is the top-left corner and (x2, y2) is the bottom-right corner"
# https://github.com/Visual-Agent/DeepEyes, eval/eval_vstar.py; "bbox" is required although the property is called bbox_2d
_DEEPEYES = {
    "type": "function",
    "function": {
        "name": TOOL,
        "description": _ZOOM + ".",
        "parameters": {
            "type": "object",
            "properties": {
                "bbox_2d": _BOX_SPEC | {"description": f"The bounding box of the region to zoom in, {_CORNERS}."},
                "label": {"type": "string", "description": "The name or label of the object in the specified bounding box (optional)."},
            },
            "required": ["bbox"],
        },
    },
}
_DEEPEYES_SYSTEM = (
    "You are a helpful assistant.\n\n# Tools\nYou may call one or more functions to assist with the user query.\n"
    f"You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n{json.dumps(_DEEPEYES, separators=(',', ':'))}"
    "\n</tools>\n\n# How to call a tool\nReturn a json object with function name and arguments within <tool_call></tool_call> XML tags:\n"
    '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>\n\n**Example**:  \n<tool_call>  \n'
    '{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [10, 20, 100, 200], "label": "the apple on the desk"}}  \n</tool_call>'
)
_DEEPEYES_REMINDER = (
    "\nThink first, call **image_zoom_in_tool** if needed, then answer. Format strictly as:  <think>...</think>  "
    f"{_IF_NEEDED}<answer>...</answer> "
)
# https://github.com/Mini-o3/Mini-o3, the prompts of its crop tool
_MINI_O3_BEGINS = (
    "You are a helpful assistant. Answer the user's question based on the image provided. Output your thinking process within the <think> "
    "and </think> tags. "
)
_MINI_O3_ENDS = "Once the final answer is confirmed, put it within <answer> and </answer>."
_MINI_O3_SYSTEM = (
    f"{_MINI_O3_BEGINS}Whenever you find anything unclear, you can zoom in a specific region in the given image to see more clearly by "
    'outputing <grounding>{"bbox_2d": [x0, y0, x1, y1], "source": "original_image"}</grounding>, where (x0, y0) and (x1, y1) are the '
    "top-left and bottom-right coordinates of the region that you want to zoom in, respectively (suppose the width and height of the image "
    f"are 1.0), and 'source' refers to the image that you zoom in and could be either 'original_image' or 'observation_i'. {_MINI_O3_ENDS}"
)
_MINI_O3_REPLY = (
    "After the above Action {crops}, here is the the zoom-in image (Observation {next}):\n{content}.\nContinue your reasoning process "
    "inside <think> and </think>. If needed, you can continue to zoom in on the original image or any of the observations, by outputting "
    "<grounding> and </grounding> as before. If the final answer is confirmed, put your final answer inside <answer> and </answer>."
)
_MINI_O3_MEND = (
    "{content}\nPlease analyze the error information obtained from the function tool and adjust your response. Countinue your reasoning "
    "process inside <think> and </think>."
)
# Qwen3-VL's own zoom tool, https://github.com/QwenLM/Qwen-Agent, in the layout of its chat template for tools
_QWEN3_VL_ZOOM = {
    "type": "function",
    "function": {
        "name": TOOL,
        "description": _ZOOM,
        "parameters": {
            "type": "object",
            "properties": {
                "bbox_2d": _BOX_SPEC | {"description": f"The bounding box of the region to zoom in, {_CORNERS}"},
                "label": {"type": "string", "description": "The name or label of the object in the specified bounding box"},
                "img_idx": {"type": "number", "description": "The index of the zoomed-in image (starting from 0)"},
            },
            "required": ["bbox_2d", "label", "img_idx"],
        },
    },
}
_QWEN3_VL_ZOOM_SYSTEM = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function signatures within "
    f"<tools></tools> XML tags:\n<tools>\n{json.dumps(_QWEN3_VL_ZOOM)}\n</tools>\n\nFor each function call, return a json object with "
    "function name and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)

_PLAIN = "You are a helpful assistant."
_THINK = f"You may think between <think> and </think> first. Give the final answer as {ANSWER_OPEN}...{ANSWER_CLOSE}."

DIALECTS = {
    dialect.name: dialect
    for dialect in (
        Dialect("qwen2_5_vl", Frame.VIEW_PIXELS, _tool_system("in pixels of the image as shown"), plain=f"{_PLAIN} {_THINK}"),
        Dialect(
            "qwen3_vl", Frame.PER_MILLE, _tool_system("0 to 1000 from the left and the top of the image"), 32, plain=f"{_PLAIN} {_THINK}"
        ),
        # The embedded policy knows one tool and has 64 tokens for everything that never changes.
        Dialect("tiny", Frame.PER_MILLE, f"Zoom in with {CALL_OPEN}{TOOL}{CALL_CLOSE} or answer in {ANSWER_OPEN}{ANSWER_CLOSE}."),
        Dialect(
            "deepeyes",
            Frame.VIEW_PIXELS,
            _DEEPEYES_SYSTEM,
            before="Question: ",
            after=f"\n{_DEEPEYES_REMINDER}",
            reply=f"<tool_response>{{content}}{_DEEPEYES_REMINDER}</tool_response>",
            plain=_PLAIN,
        ),
        Dialect(
            "mini_o3",
            Frame.FRACTION,
            _MINI_O3_SYSTEM,
            call=("<grounding>", "</grounding>"),
            tool=None,
            before="\n",
            reply=_MINI_O3_REPLY,
            mend=_MINI_O3_MEND,
            plain=f"{_MINI_O3_BEGINS}{_MINI_O3_ENDS}",
        ),
        Dialect("qwen3_vl_zoom", Frame.PER_MILLE, _QWEN3_VL_ZOOM_SYSTEM, 32, plain=_PLAIN),
    )
}


def user_text(dialect: Dialect, question: str, options: Sequence[tuple[str, str]] = ()) -> str:
    """What the user asks, one `<|image_pad|>` standing for the whole view."""
    listed = "".join(f"\n{key}. {text}" for key, text in options)
    letter = "\nAnswer with the letter of one option." if options else ""
    return f"{CROP_CONTENT}{dialect.before}{replace_surrogates(question + listed)}{letter}{dialect.after}"


def question_text(dialect: Dialect, question: str, options: Sequence[tuple[str, str]] = ()) -> str:
    """The prompt up to the first sampled token, laid out in turns."""
    return (
        f"<|im_start|>system\n{dialect.system}<|im_end|>\n<|im_start|>user\n{user_text(dialect, question, options)}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def reply_text(dialect: Dialect, content: str, crops: int) -> str:
    """What the user says to a call, `crops` having been delivered before: `content` is `CROP_CONTENT`, or an error."""
    wording = dialect.reply if content == CROP_CONTENT else dialect.mend
    return wording.replace("{crops}", str(crops)).replace("{next}", str(crops + 1)).replace("{content}", content)


def observation_text(dialect: Dialect, content: str, crops: int, closed: bool) -> str:
    """What follows a call, `crops` having been delivered before: the user's words about it, and the opening of the next turn.

    `closed` says that the model itself wrote `<|im_end|>`, which is then not written again.
    """
    close = "" if closed else "<|im_end|>"
    return f"{close}\n<|im_start|>user\n{reply_text(dialect, content, crops)}<|im_end|>\n<|im_start|>assistant\n"


UNAVAILABLE = "the tool is unavailable"  # said by the probe alone; faults are part of the embedded vocabulary's corpus


def error_content(reason: str = UNAVAILABLE) -> str:
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


@dataclass(frozen=True)
class Call:
    """A request for a crop, in the frame the model spoke, of the view (`source` 0) or of the n-th crop that it saw; -1: of neither."""

    box_view: Box
    source: int = 0


@dataclass(frozen=True)
class Answer:
    """A final answer, stripped of surrounding white space."""

    text: str


@dataclass(frozen=True)
class Malformed:
    """A turn that could not be acted on."""

    fault: Fault


def without_thoughts(text: str) -> str:
    """What the model says beside its thoughts, a thought whose opening tag the chat template wrote included."""
    return THOUGHT.sub("\n", text).rpartition("</think>")[2]  # not by nothing: what stands around a thought must not join into a tag


def parse(text: str, dialect: Dialect = DIALECTS["tiny"]) -> Call | Answer | Malformed:
    """The action of one turn. Never raises, evaluates nothing. A thought is skipped, so tags that it quotes are no action.

    Some chat templates write the opening `<think>` themselves: what stands before a `</think>` is a thought then too.
    """
    text = without_thoughts(text)
    calls, answers = text.count(dialect.call[0]), text.count(ANSWER_OPEN)
    if calls and answers:
        return Malformed(Fault.CALL_AND_ANSWER)
    if not calls and not answers:
        return Malformed(Fault.NO_ACTION)
    opening, closing = dialect.call if calls else (ANSWER_OPEN, ANSWER_CLOSE)
    if calls + answers > 1 or text.count(closing) > 1:
        return Malformed(Fault.REPEATED)
    body, found, _ = text.partition(opening)[2].partition(closing)
    if not found:
        return Malformed(Fault.UNCLOSED)
    if answers:
        return Answer(body.strip()) if body.strip() else Malformed(Fault.EMPTY_ANSWER)
    return _parse_call(body, dialect.tool)


def _parse_call(body: str, tool: str | None) -> Call | Malformed:
    try:
        call = json.loads(body)
    except (ValueError, RecursionError):  # a ValueError also covers numbers with more digits than Python converts
        return Malformed(Fault.NOT_JSON)
    if tool and (not isinstance(call, dict) or call.get("name") != tool):
        return Malformed(Fault.UNKNOWN_TOOL)
    arguments = call.get("arguments") if tool else call
    box = arguments.get("bbox_2d") if isinstance(arguments, dict) else None
    if not isinstance(box, list) or len(box) != 4:
        return Malformed(Fault.NO_BOX)
    numbers = []
    for value in box:
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e9 or not math.isfinite(value):
            return Malformed(Fault.NO_BOX)
        numbers.append(float(value))
    return Call((numbers[0], numbers[1], numbers[2], numbers[3]), _source(arguments.get("source", arguments.get("img_idx", 0))))


def _source(named: object) -> int:
    """Which image is meant by `original_image`, `observation_2` (Mini-o3), or an index (Qwen3-VL)."""
    if named == "original_image":
        return 0
    number = named.removeprefix("observation_") if isinstance(named, str) else named
    if isinstance(number, str):
        return int(number) if number.isdecimal() and len(number) < 4 else -1
    whole = isinstance(number, int | float) and not isinstance(number, bool) and number in range(1000)
    return int(number) if whole else -1  # type: ignore[call-overload]
