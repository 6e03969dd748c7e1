"""The web application of `make serve`: who may ask, how large a request may be, and what it gets.

Without a key only requests that name this machine as their host are answered, so a site that points
its own name to 127.0.0.1 gets nothing. A body must be sent as JSON, which no page of another site can
do without asking first, and the answer to that is no.
"""

import hmac
import json
import logging
import re
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from threading import Event
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from focus.agent import Agent, Answer, OnTurn
from focus.data.images.header import BadImage
from focus.data.images.original import read_bytes
from focus.rollout.served import Served
from focus.rollout.trajectory import Status, Trajectory
from focus.runtime.endpoint import Outage
from focus.runtime.listen import LOOPBACK
from focus.serving.chat import ChatError, ChatRequest, Question, Reply, question_of, read_request
from focus.serving.slots import Busy, Slots

PORT = re.compile(r":\d*$")  # of a Host header

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bounds:
    """What a request may have at most: bytes of its body, characters of its question."""

    body_bytes: int
    question_chars: int


def make_app(agent: Agent, name: str, slots: int, bounds: Bounds, key: str = "") -> FastAPI:
    """The application that serves `agent` as the model `name`.

    `slots` conversations are played at a time. With a `key`, requests must send it.
    """
    playing = Slots(slots)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        playing.close()

    app = FastAPI(title="focus serve", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)

    @app.exception_handler(ChatError)
    def refused(_: Request, error: ChatError) -> JSONResponse:
        return JSONResponse(error.body, error.status)

    @app.exception_handler(404)
    @app.exception_handler(405)
    def unknown(request: Request, error: HTTPException) -> JSONResponse:
        message = f"{request.method} {request.url.path} is not offered; there are GET /v1/models and POST /v1/chat/completions"
        return refused(request, ChatError(error.status_code, message))

    @app.get("/v1/models")
    def models(request: Request) -> dict[str, Any]:
        check_sender(request, key)
        return {"object": "list", "data": [{"id": name, "object": "model", "created": 0, "owned_by": "focus"}]}

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        check_sender(request, key)
        asked = read_request(await _body(request, bounds.body_bytes))
        if asked.model != name:
            raise ChatError(404, f"there is no model {asked.model[:200]!r} here, only {name}", param="model", code="model_not_found")
        question = question_of(asked.messages)
        if (length := len(question.text)) > bounds.question_chars:
            raise ChatError(400, f"the question has {length:,} characters, and may have {bounds.question_chars:,}; shorten it")
        reply = Reply(name, not isinstance(agent.model, Served), asked.crops, question.left_out)
        events = playing.play(request, lambda on_turn, stop: _ask(agent, asked, question, on_turn, stop))
        try:
            first = await anext(events, None)
        except Exception as error:
            raise _as_chat_error(error) from error
        if first is None:
            return Response(status_code=499)  # the client is gone
        if asked.stream:
            usage = bool(asked.stream_options and asked.stream_options.include_usage)
            return StreamingResponse(_stream(reply, first, events, usage), media_type="text/event-stream")
        try:
            answers = [event async for event in events if isinstance(event, Answer)]
        except Exception as error:
            raise _as_chat_error(error) from error
        return JSONResponse(reply.whole(_checked(answers[0]))) if answers else Response(status_code=499)

    return app


def check_sender(request: Request, key: str) -> None:
    """Raises ChatError for a request that may not be answered."""
    if key:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), key.encode()):
            raise ChatError(401, "the key is missing or wrong; send it as Authorization: Bearer KEY", "authentication_error")
    elif (host := PORT.sub("", request.headers.get("host", "")).strip("[]")) not in LOOPBACK:
        raise ChatError(403, f"this server is not called {host!r}; without a key it is reached as {LOOPBACK[0]} alone", "permission_error")


async def _body(request: Request, most: int) -> bytes:
    """The body, as it comes in. Raises ChatError for one that is too large, or not declared as JSON."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise ChatError(415, "the body is not declared as JSON; send Content-Type: application/json")
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > most:
            raise ChatError(413, f"the request has more than {most / 2**20:g} MiB; send a smaller picture")
    return bytes(body)


def _ask(agent: Agent, asked: ChatRequest, question: Question, on_turn: OnTurn, stop: Event) -> Answer:
    """Play the conversation of a request, in the thread of a slot."""
    try:
        picture = read_bytes(question.picture)
    except BadImage as error:
        raise ChatError(400, f"the picture can't be used: {error.reason}", param="messages") from error
    own = agent.limits.sampling
    most = min(each for each in (own.tokens_per_turn, asked.max_tokens, asked.max_completion_tokens) if each)
    temperature = own.temperature if asked.temperature is None else asked.temperature
    sampling = replace(own, temperature=temperature, tokens_per_turn=most)
    return agent.ask(picture, question.text, sampling=sampling, seed=asked.seed, on_turn=on_turn, stop=stop)


async def _stream(reply: Reply, first: Trajectory | Answer, events: AsyncIterator[Trajectory | Answer], usage: bool) -> AsyncIterator[str]:
    """The events of a stream, from the beginning to the answer. A fault on the way is the last event."""
    try:
        event: Trajectory | Answer | None = first
        async with aclosing(events):  # type: ignore[type-var]
            while event is not None:
                for chunk in _chunks(reply, event, usage):
                    yield f"data: {json.dumps(chunk)}\n\n"
                event = await anext(events, None)
    except Exception as error:
        yield f"data: {json.dumps(_as_chat_error(error).body)}\n\n"
        return
    yield "data: [DONE]\n\n"


def _chunks(reply: Reply, event: Trajectory | Answer, usage: bool) -> list[dict[str, Any]]:
    if isinstance(event, Answer):
        return reply.end(_checked(event), usage)
    return [reply.turn(event) if event.turns else reply.begin(event)]


def _checked(answer: Answer) -> Answer:
    """The answer. Raises ChatError where the model server refused a turn."""
    if answer.trajectory.status is Status.REFUSED:
        raise ChatError(422, "the model server refused a turn of this conversation; the log of this server says why", "upstream_error")
    return answer


def _as_chat_error(error: Exception) -> ChatError:
    """What a request gets for a fault in its conversation. A fault of the program is logged, and named to nobody else."""
    if isinstance(error, ChatError):
        return error
    if isinstance(error, Busy):
        return ChatError(429, "too many questions are waiting; ask again later", "rate_limit_error")
    if isinstance(error, Outage):
        return ChatError(502, str(error), "upstream_error")
    if isinstance(error, ValueError):
        return ChatError(400, str(error))
    log.error("a conversation failed", exc_info=error)
    return ChatError(500, "the conversation failed; the log of this server says why", "server_error")
