"""The chat protocol of OpenAI, as far as an agent that answers one question about one picture speaks it.

`focus` is a field of every reply beside those of the protocol; the `openai` client keeps it
(`reply.model_extra["focus"]`, `reply.focus`). Boxes are in pixels of the picture (xyxy).
"""

import base64
import binascii
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from focus.agent import Answer
from focus.rollout.data_urls import data_url
from focus.rollout.trajectory import Crop, Status, Trajectory, Turn

# What a request may ask for and an agent can't give, with the values that ask for nothing
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "top_p": (None, 1),
    "logprobs": (None, False),
    "tools": (None, []),
    "functions": (None, []),
    "response_format": (None, {"type": "text"}),
}
CUT = (Status.OUT_OF_TOKENS, Status.OUT_OF_TURNS)


class ChatError(Exception):
    """A request that gets an error, in the form of the protocol."""

    def __init__(self, status: int, message: str, kind: str = "invalid_request_error", param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


class _ImageURL(BaseModel):
    url: str


class _Part(BaseModel):
    type: str
    text: str = ""
    image_url: _ImageURL | None = None


class _Message(BaseModel):
    role: str
    content: str | list[_Part] | None = None


class _StreamOptions(BaseModel):
    include_usage: bool = False


class ChatRequest(BaseModel, extra="allow"):
    """The body of a request. Other fields of the protocol, such as `stop`, have no effect.

    `crops`, which is none of the protocol: whether the reply holds the pixels of the crops.
    """

    model: str
    messages: Annotated[list[_Message], Field(min_length=1)]
    stream: bool = False
    stream_options: _StreamOptions | None = None
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    seed: int | None = None
    crops: bool = True


def read_request(body: bytes) -> ChatRequest:
    """The request in a body. Raises ChatError 400 with the first thing that is wrong."""
    try:
        request = ChatRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        param = ".".join(map(str, first["loc"]))
        raise ChatError(400, f"{param or 'the body'}: {first['msg']}", param=param or None) from None
    for name, nothing in UNSUPPORTED.items():
        if (request.model_extra or {}).get(name) not in nothing:
            raise ChatError(400, f"{name} is given, which an agent does not offer; leave it out", param=name)
    return request


@dataclass(frozen=True)
class Question:
    """What a request asks: the text, the file of its picture, and what of the messages is not asked."""

    text: str
    picture: bytes = field(repr=False)
    left_out: tuple[str, ...]


def question_of(messages: Sequence[_Message]) -> Question:
    """The question of the last message, about the picture that was sent last.

    An agent has a prompt of its own and answers every question anew, so system messages and earlier
    turns are left out. Raises ChatError 400.
    """
    last = messages[-1]
    if last.role != "user":
        raise ChatError(400, f"the last message is of role {last.role}; it must be the user's, with the question", param="messages")
    text = last.content if isinstance(last.content, str) else "\n".join(part.text for part in last.content or () if part.type == "text")
    for message in (each for each in reversed(messages) if each.role == "user"):
        parts = message.content if isinstance(message.content, list) else []
        if urls := [part.image_url.url for part in parts if part.image_url]:
            break
    else:
        raise ChatError(400, "no message holds a picture; send one as a part of type image_url, with a data URL", param="messages")
    if len(urls) > 1:
        raise ChatError(400, f"the message holds {len(urls)} pictures; an agent is asked about one", param="messages")
    left_out = {
        "system messages": any(each.role in ("system", "developer") for each in messages),
        "earlier turns": any(each.role not in ("system", "developer") for each in messages[:-1]),
    }
    return Question(text, _bytes_of(urls[0]), tuple(name for name, found in left_out.items() if found))


def _bytes_of(url: str) -> bytes:
    head, _, data = url.partition(",")
    if not (head.startswith("data:") and head.endswith(";base64")):
        raise ChatError(
            400, f"the url of the picture begins with {url[:20]!r}; send its bytes: data:image/png;base64,...", param="messages"
        )
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise ChatError(400, f"the data URL of the picture is no base64 ({error})", param="messages") from None


# ------------------------------------------------------------------------------------------------------------ replies


@dataclass(frozen=True)
class Reply:
    """Writes what one request gets. `counted`: the policy has a tokenizer here, so `usage` is known."""

    model: str
    counted: bool
    crops: bool
    left_out: tuple[str, ...]
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, answer: Answer) -> dict[str, Any]:
        """The reply to a request without `stream`."""
        message = {"role": "assistant", "content": content(answer), "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": self._ending(answer), "logprobs": None}
        turns = [turn_json(turn, self.crops) for turn in answer.trajectory.turns]
        return self._head("chat.completion") | {"choices": [choice], "focus": self._facts(answer) | {"turns": turns}} | self._usage(answer)

    def begin(self, t: Trajectory) -> dict[str, Any]:
        """The first chunk of a stream, before the policy says anything."""
        return self._chunk({"role": "assistant", "content": ""}, None) | {"focus": _sizes(t)}

    def turn(self, t: Trajectory) -> dict[str, Any]:
        """The chunk of a stream after a turn of the policy."""
        return self._chunk({}, None) | {"focus": {"turn": turn_json(t.turns[-1], self.crops)}}

    def end(self, answer: Answer, usage: bool) -> list[dict[str, Any]]:
        """The last chunks of a stream: the answer, why it ended, and `usage` if that is wanted and known."""
        chunks = [self._chunk({"content": content(answer)}, None)]
        chunks.append(self._chunk({}, self._ending(answer)) | {"focus": self._facts(answer)})
        if usage and self.counted:
            chunks.append(self._head("chat.completion.chunk") | {"choices": []} | self._usage(answer))
        return chunks

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _chunk(self, delta: dict[str, Any], ending: str | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": ending, "logprobs": None}
        return self._head("chat.completion.chunk") | {"choices": [choice]}

    def _ending(self, answer: Answer) -> str:
        return "length" if answer.trajectory.status in CUT else "stop"

    def _facts(self, answer: Answer) -> dict[str, Any]:
        t = answer.trajectory
        counts = {"visual_tokens": t.visual_tokens, "sampled_tokens": sum(t.sampled_mask)}
        return {"status": t.status} | _sizes(t) | counts | {"left_out": list(self.left_out)}

    def _usage(self, answer: Answer) -> dict[str, Any]:
        if not self.counted:
            return {}
        total, sampled = len(answer.trajectory.ids), sum(answer.trajectory.sampled_mask)
        return {"usage": {"prompt_tokens": total - sampled, "completion_tokens": sampled, "total_tokens": total}}


def content(answer: Answer) -> str:
    """The text of a reply: the answer; without one the last turn, but nothing where that was one more call."""
    t = answer.trajectory
    if t.answer is not None or t.status is Status.OUT_OF_TURNS:
        return t.answer or ""
    return _shown(t.turns[-1])


def _sizes(t: Trajectory) -> dict[str, Any]:
    """Size of the picture (pixels), size of its view (pixels) and the view's visual tokens."""
    view = {"width": t.view.size[0], "height": t.view.size[1], "tokens": t.view.tokens}
    return {"width": t.sample.width, "height": t.sample.height, "view": view}


def turn_json(turn: Turn, pixels: bool) -> dict[str, Any]:
    """A turn: its text, the box that it asked for (pixels of the picture), and what it got: a crop, or an error.

    `pixels`: with the crop as PNG in a data URL.
    """
    found: dict[str, Any] = {"text": _shown(turn)}
    if isinstance(turn.action, Crop):
        found["box_px"] = list(turn.action.box_px)
    if turn.observation and (crop := turn.observation.crop):
        found["crop"] = {"width": crop.size[0], "height": crop.size[1], "tokens": crop.tokens}
        found["crop"] |= {"url": data_url(crop.image)} if pixels else {}
    elif turn.observation:
        found["error"] = turn.observation.content
    return found


def _shown(turn: Turn) -> str:
    return turn.text.removesuffix("<|im_end|>")
