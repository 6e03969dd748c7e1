"""Any model behind an OpenAI-compatible server, as a policy that can be evaluated and probed. Beyond the paper; it can't be trained.

The crop loop is the same as for weights that are here. A conversation is sent in words and PNGs instead of ids: the server lays it out by
its own chat template, and its image processor may resize what it is shown. Views and crops come in whole visual tokens of the dialect, so
a processor of that family leaves them as they are, provided that its own limits leave room; `seen` asks the server.

The stop text of a call also ends a turn that only quotes a call in its thought. Where the template wrote `<think>`, that cannot be seen in
the text, and the quoted call is carried out.
"""

import base64
import io
import json
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from PIL import Image

from focus.data.sample import Sample
from focus.gap import Gap
from focus.model.prompts import ANSWER_CLOSE, ANSWER_OPEN, CROP_CONTENT, Dialect, reply_text, user_text
from focus.rollout.engine import Completion, Request, Sampling
from focus.rollout.loop import begin
from focus.rollout.trajectory import Trajectory
from focus.runtime.endpoint import Endpoint, Outage, Refused, Reply

UNKNOWN = -1  # the id of a token of which only the number is known
SEPARATORS = 8  # tokens that stand around an image besides its own
FIRST = 64  # questions among which a large view is looked for
MANY = 4  # forced turns of which none is closed: no accident
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

    has_idle_processors = True  # the arithmetic is elsewhere

    def __init__(self, endpoint: Endpoint, dialect: Dialect) -> None:
        self.endpoint, self.dialect = endpoint, dialect
        self.tokenizer, self.token_px = Wordless(), dialect.token_px

    def image_cache(self) -> nullcontext[None]:
        """Nothing is computed of an image here."""
        return nullcontext()

    def prepare(self, image: Image.Image) -> None:
        """Nothing to do ahead."""

    def weights_hash(self) -> str:
        """The name under which the server knows the weights, which is all that can be known of them here, and what it is told besides."""
        return " ".join([self.endpoint.model, *([json.dumps(self.endpoint.extra, sort_keys=True)] if self.endpoint.extra else [])])


@dataclass(frozen=True)
class Seen:
    """How large a view is to the server. `expected`: visual tokens that we computed; `counted`: by how many its count of the prompt grows.

    `counted` is None where it does not say.
    """

    expected: int
    counted: int | None

    @property
    def deviation(self) -> float:
        """By which share of the expected tokens the count is off, a few separators aside; 0 where there is no count."""
        if self.counted is None:
            return 0.0
        off = self.counted - self.expected
        return math.copysign(max(0, abs(off) - SEPARATORS), off) / self.expected


class OpenAIEngine:
    """Implements `Engine`. A request that the server refuses is logged with its question and ends it: a wrong answer that stays in the
    denominator. An outage ends the run, which can be resumed; where every request is refused that is taken for one.

    In an arm that puts words into the model's mouth, a reply that begins its turn anew is counted as refused, since it answers another
    question than the one asked. Where no reply ever goes on from those words, the server ignores them: an outage of that arm.
    """

    def __init__(self, endpoint: Endpoint, dialect: Dialect) -> None:
        self.endpoint, self.dialect = endpoint, dialect
        self._heard = self._went_on = False
        self._told: set[str] = set()
        self.clear_cache()

    def clear_cache(self) -> None:
        self._urls: dict[int, tuple[Image.Image, str]] = {}  # an image is kept beside its URL, so that its identity stays its own

    def sync_weights(self) -> None:
        """The server's weights are its own."""

    def seen(self, t: Trajectory) -> Seen:
        """Whether the server shows its model the view as it was sent, before `t` has its first turn. Costs two requests of one token.

        Raises Outage as `generate` does. A request that is refused, and a count that cannot be one, leave the question open.
        """
        messages = self._messages(t)
        bare = [m | {"content": [p for p in m["content"] if p["type"] == "text"]} if m["role"] == "user" else m for m in messages]
        try:
            whole, words = (self.endpoint.prompt_tokens(asked) for asked in (messages, bare))
        except Refused as refusal:
            log.warning("whether the server resizes the view cannot be told: %s", refusal)
            return Seen(t.view.tokens, None)
        least = len(json.dumps(bare, ensure_ascii=False).split()) // 2
        if whole is None or words is None or words < least:  # a server that counts fewer tokens than words does not count
            return Seen(t.view.tokens, None)
        return Seen(t.view.tokens, whole - words)

    def generate(self, conversations: Sequence[Request], sampling: Sampling) -> Iterator[tuple[int, Completion]]:
        refused: Refused | None = None
        anew, unclosed, opened = "", 0, 0
        for i, reply in self.endpoint.ask_all(self._request(c, sampling) for c in conversations):
            t = conversations[i].trajectory
            assert t is not None
            if isinstance(reply, Refused):
                log.warning("%s: %s", t.sample.id, reply)
                refused = reply
                yield i, Completion((), (), True, "", refused=True)
                continue
            self._heard = True
            text = self._turn(reply, "" if t.turns else t.prefill)
            ids = (UNKNOWN,) * reply.tokens
            if t.prefill and not t.turns:
                opened += 1
                if self._begins_anew(t.prefill, text):
                    anew = text
                    self._tell("%s: the server begins a turn anew where words were put into the model's mouth", t.sample.id)
                    yield i, Completion((), (), True, "", refused=True)
                    continue
                closing = ANSWER_CLOSE if t.prefill == ANSWER_OPEN else self.dialect.call[1]
                unclosed += reply.stopped and closing not in text
                self._went_on |= closing in text
            yield i, Completion(ids, (math.nan,) * len(ids), reply.stopped, text)
        if opened and not self._went_on and (anew or unclosed >= MANY):
            did = f"begins a turn anew ({anew[:40]!r})" if anew else f"closes none of {unclosed} turns ({text[:40]!r})"
            raise Outage(
                f"the model server {self.endpoint.url} {did} where words were put into the model's mouth, so arms that do this can't be "
                "measured with it; leave tool_free and forced out of evaluation.arms, no_tool asks without a tool instead"
            )
        if refused and not self._heard and len(conversations) > 1:
            raise Outage(f"the model server refused all {len(conversations)} requests at once. The last refusal: {refused}") from refused

    def _turn(self, reply: Reply, opening: str) -> str:
        """The turn in the dialect's own words: what the server took out of the text is put back."""
        call, closing = self.dialect.call
        text = reply.text
        if reply.field != "content":
            self._tell("the server takes whole replies for thoughts (%s); start it without --reasoning-parser", reply.field)
        if reply.calls:
            self._tell("the server takes calls out of the text (%s); start it without --tool-call-parser", "tool_calls")
        for name, arguments in reply.calls:
            text += call + (f'{{"name": {json.dumps(name)}, "arguments": {arguments}}}' if self.dialect.tool else arguments) + closing
        said = opening + text
        if reply.stopped and said.rfind(call) > said.rfind(closing):  # servers leave out the text that they stop at
            text += closing
        drafted = not reply.stopped and not opening and "think>" not in text and not text.lstrip().startswith((ANSWER_OPEN, call))
        # Where the limit cut a turn, what looks like an action may be a draft in a thought that the template opened
        return f"<think>{text}" if drafted and (ANSWER_OPEN in text or call in text) else text

    def _begins_anew(self, opening: str, text: str) -> bool:
        """Whether a turn cannot go on from `opening`: it holds those words again, or turns to something else before it closes them."""
        call, closing = self.dialect.call
        other, end = (call, ANSWER_CLOSE) if opening == ANSWER_OPEN else (ANSWER_OPEN, closing)
        return opening in text or other in text.partition(end)[0]

    def _tell(self, message: str, what: str) -> None:
        """Log a message once."""
        if message not in self._told:
            self._told.add(message)
            log.warning(message, what)

    def logprobs(self, conversations: Sequence[Request], tails: Sequence[int]) -> list[list[float]]:
        raise AssertionError("config.checks lets no term that weighs answers meet rollout=openai")

    def _request(self, conversation: Request, sampling: Sampling) -> dict[str, Any]:
        t = conversation.trajectory
        assert t is not None
        return {
            "messages": self._messages(t),
            "temperature": sampling.temperature,
            "max_tokens": sampling.tokens_per_turn,
            "seed": conversation.seed,
            "stop": [self.dialect.call[1]],
            "extra": PREFILL if t.prefill and not t.turns else {},
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
        if t.prefill and not t.turns:
            messages.append({"role": "assistant", "content": t.prefill})
        return messages

    def _url(self, image: Image.Image) -> str:
        if id(image) not in self._urls:
            encoded = io.BytesIO()
            image.save(encoded, format="PNG", compress_level=1)
            self._urls[id(image)] = image, "data:image/png;base64," + base64.b64encode(encoded.getvalue()).decode()
        return self._urls[id(image)][1]


def view_seen(model: Served, engine: OpenAIEngine, gap: Gap, samples: Sequence[Sample], allowed: float | None) -> dict[str, int | None]:
    """How large the server says that a view is: `expected` and `counted` visual tokens of one of the largest among the first questions.

    A deviation is logged. Raises ValueError where it is more than the share `allowed` (None: any), since the numbers would be those of
    another view. Empty where no image can be read.
    """
    first = [samples[i] for i in range(min(len(samples), FIRST))]
    for sample in sorted(first, key=lambda each: -each.width * each.height):
        try:
            view, source = gap.view_of(sample, sample.open())
        except ValueError:  # counted when it is asked
            continue
        seen = engine.seen(begin(model, sample, view, source, [0])[0])
        source.release()
        if seen.counted is None:
            log.warning("%s does not count the tokens of images: whether it resizes views cannot be told", engine.endpoint.url)
        elif seen.deviation:
            does = "shrinks" if seen.deviation < 0 else "enlarges"
            told = f"{engine.endpoint.url} {does} the view: {seen.expected} visual tokens were sent, and it counts {seen.counted}"
            if allowed is not None and abs(seen.deviation) > allowed:
                raise ValueError(
                    f'{told}. Start it with the limits of the view (vLLM: --mm-processor-kwargs \'{{"min_pixels": ..., '
                    f'"max_pixels": ...}}\', or rollout.endpoint.extra={{mm_processor_kwargs:{{...}}}}); a visual token of this dialect '
                    f"covers {model.token_px}x{model.token_px} px. served.view_deviation=null measures all the same"
                )
            log.warning("%s. The numbers are those of that view", told)
        return {"expected": seen.expected, "counted": seen.counted}
    return {}
