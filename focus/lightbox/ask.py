"""The room Try: ask a policy about a picture, watch it look, take its crop away."""

import asyncio
import hashlib
import io
import json
import logging
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, Field

from focus.agent import COUNTERFACTUALS, Answer
from focus.config.policy_settings import EMBEDDED_POLICIES
from focus.config.schema import ServedPolicyConfig
from focus.data import pages, scenes
from focus.data.images.header import BadImage
from focus.data.images.original import Original, read_bytes
from focus.data.sample import Sample
from focus.grading.answers import RIGHT_FROM, grade
from focus.lightbox.places import Places
from focus.lightbox.policies import Policies
from focus.rollout.data_urls import data_url
from focus.rollout.trajectory import Trajectory
from focus.runtime.endpoint import Outage
from focus.serving.chat import turn_json
from focus.serving.slots import Ask, Busy, Slots

MOST_BYTES = 64 * 2**20  # of a picture's file
MOST_CHARS = 8000  # of a question
SHOWN_PX = 1600  # longest side of a picture on the page
KEPT = 8  # answers whose crops can still be replaced, each with its picture in memory
DRAWN = {"scene": (scenes.Scene, scenes.DIFFICULTY[1], 8), "page": (pages.Page, pages.DIFFICULTY[1], 4)}

log = logging.getLogger(__name__)


class Asked(BaseModel):
    """A question about a picture: names of policy and picture, the most visual tokens of the view, and whether it has to crop first."""

    policy: str
    picture: str
    question: Annotated[str, Field(max_length=MOST_CHARS)]
    view_tokens: Annotated[int, Field(ge=1, le=16384)]
    must_crop: bool = False


class Again(BaseModel):
    """The question of an earlier answer once more: without crops, or with other pixels in them."""

    answer: str
    crops: str


class _Conversations:
    """Pictures that were sent, and answers, by their keys; the oldest are dropped."""

    def __init__(self) -> None:
        self.pictures: OrderedDict[str, Original] = OrderedDict()
        self.answers: OrderedDict[str, tuple[str, Answer]] = OrderedDict()  # with the name of the policy

    def keep(self, policy: str, answer: Answer) -> str:
        """The key of an answer."""
        key = uuid.uuid4().hex
        self.answers[key] = (policy, answer)
        while len(self.answers) > KEPT:
            self.answers.popitem(last=False)
        return key

    def picture(self, key: str) -> Original:
        """A drawn picture, or one that was sent. Raises HTTPException 404 for one that is not here."""
        if key in self.pictures:
            return self.pictures[key]
        kind, _, number = key.partition("-")
        if kind in DRAWN and number.isdecimal() and int(number) < DRAWN[kind][2]:
            return _drawn(kind, int(number))[1]
        raise HTTPException(404, "this picture is not here (any more); give it again")


@lru_cache(32)
def _drawn(kind: str, number: int) -> tuple[Sample, Original]:
    """A held-out scene or page."""
    make, spec, _ = DRAWN[kind]
    image = make(spec, "eval", number)
    return image.sample(), image.open()


def router(places: Places, served: Sequence[ServedPolicyConfig] = ()) -> APIRouter:
    """The router of the room, under /api/try. One question is played at a time."""
    policies, kept, slots = Policies(places, served), _Conversations(), Slots(1)

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        yield
        slots.close()

    routes = APIRouter(prefix="/api/try", lifespan=lifespan)

    @routes.get("/choices")
    def choices() -> dict[str, Any]:
        """Policies, pictures with their questions, and what may stand in for a crop."""
        samples = [(f"{kind}-{n}", kind, _drawn(kind, n)[0]) for kind, (_, _, count) in DRAWN.items() for n in range(count)]
        drawn = [
            {"key": key, "kind": kind, "question": s.question, "answer": s.answers[0], "width": s.width, "height": s.height}
            | {"policy": EMBEDDED_POLICIES[f"{kind}s"]}
            for key, kind, s in samples
        ]
        known = [{"name": each.name, "view_tokens": each.view_tokens} for each in policies.choices().values()]
        return {"policies": known, "pictures": drawn, "crops": COUNTERFACTUALS}

    @routes.post("/pictures")
    async def send(request: Request) -> dict[str, Any]:
        """Take the file of a picture, decode it and keep it."""
        content = bytearray()
        async for piece in request.stream():
            content += piece
            if len(content) > MOST_BYTES:
                raise HTTPException(413, f"the picture has more than {MOST_BYTES // 2**20} MiB; give a smaller one")
        try:
            original = await asyncio.to_thread(read_bytes, bytes(content))
        except BadImage as error:
            raise HTTPException(422, f"the picture can't be used: {error.reason}") from error
        key = hashlib.blake2b(content, digest_size=16).hexdigest()
        kept.pictures[key] = original
        while len(kept.pictures) > KEPT:
            kept.pictures.popitem(last=False)
        return {"key": key, "width": original.size[0], "height": original.size[1]}

    @routes.get("/pictures/{key}")
    def picture(key: str, side: Annotated[int, Field(ge=16, le=SHOWN_PX)] = SHOWN_PX) -> Response:
        """A picture for the page, its longer side at most `side` px."""
        original = kept.picture(key)
        scale = min(1.0, side / max(original.size))
        width, height = (max(1, round(length * scale)) for length in original.size)
        file = io.BytesIO()
        original.reduced((width, height)).save(file, "WEBP", quality=90)
        return Response(file.getvalue(), media_type="image/webp", headers={"Cache-Control": "private, max-age=3600"})

    @routes.post("/ask")
    async def ask(asked: Asked, request: Request) -> Response:
        original = kept.picture(asked.picture)

        def play(on_turn: Any, stop: Any) -> Answer:
            agent = policies.agent(asked.policy)
            wishes: Any = {"view_tokens": asked.view_tokens, "must_crop": asked.must_crop}
            return agent.ask(original, asked.question, on_turn=on_turn, stop=stop, **wishes)

        def finish(answer: Answer) -> dict[str, Any]:
            return {"key": kept.keep(asked.policy, answer), "right": _is_right(asked, answer)}

        return await _told(slots, request, play, finish)

    @routes.post("/again")
    async def again(asked: Again, request: Request) -> Response:
        if asked.answer not in kept.answers:
            raise HTTPException(404, "this answer is not here any more; ask again")
        if asked.crops not in ("without", *COUNTERFACTUALS):
            raise HTTPException(422, f"crops is {asked.crops[:40]!r}; choose one of without, {', '.join(COUNTERFACTUALS)}")
        policy, before = kept.answers[asked.answer]

        def play(on_turn: Any, stop: Any) -> Answer:
            agent = policies.agent(policy)
            if asked.crops == "without":
                return agent.without_crops(before, on_turn=on_turn, stop=stop)
            return agent.with_other_crops(before, asked.crops, on_turn=on_turn, stop=stop)

        return await _told(slots, request, play, lambda answer: {"changed": replace(before, counterfactual=answer).changed})

    return routes


def _is_right(asked: Asked, answer: Answer) -> bool | None:
    """Whether the question of a drawn picture is answered rightly; None for other pictures and questions."""
    kind, _, number = asked.picture.partition("-")
    sample = _drawn(kind, int(number))[0] if kind in DRAWN else None
    if sample is None or sample.question != asked.question:
        return None
    return grade(answer.text, sample.answers, sample.scorer, sample.options, sample.question) >= RIGHT_FROM


async def _told(slots: Slots, request: Request, play: Ask, finish: Any) -> Response:
    """A conversation as lines of JSON: its view, each turn, the answer; a fault on the way is the last line.

    Raises HTTPException for a fault before it begins.
    """
    events = slots.play(request, play)
    try:
        first = await anext(events, None)
    except Exception as error:
        raise _as_http(error) from error

    async def lines() -> AsyncIterator[str]:
        event = first
        try:
            async with aclosing(events):  # type: ignore[type-var]
                while event is not None:
                    if isinstance(event, Answer):
                        line = _end(event) | finish(event)
                    else:
                        line = _beginning(event) if event is first else {"turn": turn_json(event.turns[-1], True)}
                    yield json.dumps(line) + "\n"
                    event = await anext(events, None)
        except Exception as error:
            yield json.dumps({"fault": _as_http(error).detail}) + "\n"

    return StreamingResponse(lines(), media_type="application/x-ndjson")


def _as_http(error: Exception) -> HTTPException:
    """What the page gets for a fault. One of the program is logged."""
    if isinstance(error, HTTPException):
        return error
    if isinstance(error, Busy):
        return HTTPException(429, "too many questions are waiting; ask again later")
    if isinstance(error, Outage):
        return HTTPException(502, str(error))
    if isinstance(error, ValueError):
        return HTTPException(422, str(error))
    log.error("a conversation failed", exc_info=error)
    return HTTPException(500, "the conversation failed; the terminal of make lightbox says why")


def _beginning(t: Trajectory) -> dict[str, Any]:
    """The view, and the turns that a conversation goes on from."""
    view = {"url": data_url(t.view.image), "width": t.view.size[0], "height": t.view.size[1], "tokens": t.view.tokens}
    return {"view": view, "turns": [turn_json(turn, True) for turn in t.turns]}


def _end(answer: Answer) -> dict[str, Any]:
    t = answer.trajectory
    return {"answer": answer.text, "status": t.status, "visual_tokens": t.visual_tokens, "sampled_tokens": sum(t.sampled_mask)}
