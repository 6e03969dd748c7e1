"""Any model behind an OpenAI-compatible server, as a policy that can be evaluated and probed. Beyond the paper; it can't be trained.

The crop loop is the same as for weights that are here. A conversation is sent in words and PNGs instead of ids: the server lays it out by
its own chat template, and its image processor may resize what it is shown. Views and crops come in whole visual tokens of the dialect, so
a processor of that family leaves them as they are, provided that its own minimum is not above them.
"""

import base64
import io
import json
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

from PIL import Image

from focus.endpoint import Endpoint, Outage, Refused
from focus.prompts import CROP_CONTENT, Dialect, reply_text, user_text
from focus.rollout.engine import Completion, Conversation, Sampling
from focus.rollout.trajectory import Trajectory

UNKNOWN = -1  # the id of a token of which only the number is known
PREFILL = {"continue_final_message": True, "add_generation_prompt": False}  # vLLM's and SGLang's name for words put into a model's mouth

log = logging.getLogger(__name__)


class Wordless:
    """Stands for a tokenizer that only the server has: text has no ids here, and an image as many as it has tokens."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return []

    def convert_tokens_to_ids(self, tokens: str) -> int:
        return UNKNOWN

    def decode(self, token_ids: Sequence[int]) -> str:
        raise AssertionError("a served model's turns come as text")


class Served:
    """Implements `prompts.Model`."""

    leaves_processors = True  # the arithmetic is elsewhere

    def __init__(self, endpoint: Endpoint, dialect: Dialect) -> None:
        self.endpoint, self.dialect = endpoint, dialect
        self.tokenizer, self.token_px = Wordless(), dialect.token_px

    def remembering(self) -> nullcontext[None]:
        """Nothing is computed of an image here."""
        return nullcontext()

    def prepare(self, image: Image.Image) -> None:
        """Nothing to do ahead."""

    def weights_hash(self) -> str:
        """The name under which the server knows the weights, which is all that can be known of them here, and what it is told besides."""
        return " ".join([self.endpoint.model, *([json.dumps(self.endpoint.extra, sort_keys=True)] if self.endpoint.extra else [])])


class OpenAIEngine:
    """Implements `Engine`. A request that the server refuses is logged with its question and ends it: a wrong answer that stays in the
    denominator. An outage ends the run, which can be resumed; where every request is refused that is taken for one.
    """

    def __init__(self, endpoint: Endpoint, dialect: Dialect) -> None:
        self.endpoint, self.dialect = endpoint, dialect
        self.forget()

    def forget(self) -> None:
        self._urls: dict[int, tuple[Image.Image, str]] = {}  # an image is kept beside its URL, so that its identity stays its own

    def renew(self) -> None:
        """The server's weights are its own."""

    def generate(self, conversations: Sequence[Conversation], sampling: Sampling) -> Iterator[tuple[int, Completion]]:
        refused: Refused | None = None
        heard = 0
        for i, reply in self.endpoint.ask_all(self._request(c, sampling) for c in conversations):
            t = conversations[i].trajectory
            assert t is not None
            if isinstance(reply, Refused):
                log.warning("%s: %s", t.sample.id, reply)
                refused = reply
                yield i, Completion((), (), True, "", refused=True)
                continue
            heard += 1
            opening, closing = self.dialect.call
            first = t.opening if not t.turns else ""
            if first and first in reply.text:
                raise Outage(
                    f"the model server {self.endpoint.url} begins a turn anew ({reply.text[:40]!r}) where words were put into the model's "
                    "mouth; leave tool_free and forced out of evaluation.arms, no_tool asks without a tool instead"
                )
            said = first + reply.text
            cut = reply.stopped and said.rfind(opening) > said.rfind(closing)  # servers leave out the text that they stop at
            ids = (UNKNOWN,) * reply.tokens
            yield i, Completion(ids, (math.nan,) * len(ids), reply.stopped, reply.text + (closing if cut else ""))
        if refused and not heard and len(conversations) > 1:
            raise Outage(f"the model server refused all {len(conversations)} requests at once. The last refusal: {refused}") from refused

    def weigh(self, conversations: Sequence[Conversation], tails: Sequence[int]) -> list[list[float]]:
        raise AssertionError("config.check lets no term that weighs answers meet rollout=openai")

    def _request(self, conversation: Conversation, sampling: Sampling) -> dict[str, Any]:
        t = conversation.trajectory
        assert t is not None
        return {
            "messages": self._messages(t),
            "temperature": sampling.temperature,
            "max_tokens": sampling.tokens_per_turn,
            "seed": conversation.seed,
            "stop": [self.dialect.call[1]],
            "extra": PREFILL if t.opening and not t.turns else {},
        }

    def _messages(self, t: Trajectory) -> list[dict[str, Any]]:
        images = iter(t.images)

        def user(text: str) -> dict[str, Any]:
            """Text with images in their places."""
            parts: list[dict[str, Any]] = []
            for number, piece in enumerate(text.split(CROP_CONTENT)):
                if number:
                    parts.append({"type": "image_url", "image_url": {"url": self._url(next(images))}})
                if piece:
                    parts.append({"type": "text", "text": piece})
            return {"role": "user", "content": parts}

        asked_in = self.dialect if t.tool_offered else self.dialect.without_tool()
        messages = [
            {"role": "system", "content": asked_in.system},
            user(user_text(asked_in, t.sample.question, t.sample.options)),
        ]
        crops = 0
        for turn in t.turns:
            assert turn.observation is not None
            messages.append({"role": "assistant", "content": turn.text.removesuffix("<|im_end|>")})
            messages.append(user(reply_text(self.dialect, turn.observation.content, crops)))
            crops += turn.observation.crop is not None
        if t.opening and not t.turns:
            messages.append({"role": "assistant", "content": t.opening})
        return messages

    def _url(self, image: Image.Image) -> str:
        if id(image) not in self._urls:
            encoded = io.BytesIO()
            image.save(encoded, format="PNG", compress_level=1)
            self._urls[id(image)] = image, "data:image/png;base64," + base64.b64encode(encoded.getvalue()).decode()
        return self._urls[id(image)][1]
