"""A model behind an OpenAI-compatible server, to evaluate and probe.

It can't be trained. Beyond the paper.

The crop loop is the same as for local weights, but a request is sent as chat messages with PNGs
instead of token ids. The server applies its own chat template, and its image processor may resize
images. Views and crops have whole visual tokens of the dialect, so a processor of that family does
not resize them unless they exceed its limits. `OpenAIEngine.view_tokens` checks that.

The stop text of a call also ends a turn that only quotes a call in its thought. If the chat
template wrote the opening `<think>`, the text does not show that, and the quoted call is executed.
"""

import json
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image, ImageDraw

from focus.data.boxes import Frame
from focus.data.sample import Sample
from focus.gap import Gap
from focus.model.dialect import Dialect
from focus.model.prompts import CROP_CONTENT, asked_text, call_body, reply_text, user_text
from focus.rollout.courses import perceives
from focus.rollout.data_urls import DataURLs
from focus.rollout.engine import Completion, Request, Requests, Sampling
from focus.rollout.loop import begin, request_for
from focus.rollout.trajectory import Trajectory
from focus.runtime.chats import Chat
from focus.runtime.endpoint import Outage, Refused, Reply

UNKNOWN = -1  # id of a token that was only counted
SEPARATORS = 8  # tokens that a template may put around an image
CANDIDATES = 64  # first questions, of which the largest image is used to check the view
MIN_UNCLOSED = 4  # prefilled turns without a closing tag that show that the server ignores the prefill
BOX_COLOURS = ("red", "green", "blue")
PREFILL = {"continue_final_message": True, "add_generation_prompt": False}  # prefill in vLLM and SGLang

log = logging.getLogger(__name__)


class NoTokenizer:
    """Replaces the tokenizer, which only the server has.

    Text encodes to nothing, an image to one id for each of its tokens.
    """

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return []

    def convert_tokens_to_ids(self, tokens: str) -> int:
        return UNKNOWN

    def decode(self, token_ids: Sequence[int]) -> str:
        raise AssertionError("a served model's turns come as text")


class Served:
    """Implements `Model`."""

    def __init__(self, endpoint: Chat, dialect: Dialect) -> None:
        self.endpoint, self.dialect = endpoint, dialect
        self.tokenizer, self.token_px = NoTokenizer(), dialect.token_px

    def image_cache(self) -> nullcontext[None]:
        """Does nothing: no features are computed here."""
        return nullcontext()

    def weights_hash(self) -> str:
        """The identity of the endpoint, and `extra` of the requests.

        The weights themselves are not known here.
        """
        return " ".join([self.endpoint.identity, *([json.dumps(self.endpoint.extra, sort_keys=True)] if self.endpoint.extra else [])])


@dataclass(frozen=True)
class ViewTokens:
    """Visual tokens of a view: `expected` by our computation, `counted` by the server (None if it
    does not report them).
    """

    expected: int
    counted: int | None

    @property
    def deviation(self) -> float:
        """Relative deviation of `counted` from `expected`, beyond `SEPARATORS` tokens. 0 if the
        server does not count.
        """
        if self.counted is None:
            return 0.0
        off = self.counted - self.expected
        return math.copysign(max(0, abs(off) - SEPARATORS), off) / self.expected


class PrefillIgnored(Outage):
    """The server starts a prefilled turn again: arms with a prefill can't be measured with it."""


class OpenAIEngine:
    """Implements `Engine`.

    A refused request is logged, once for each reason, and its question counts as answered wrongly. An outage ends the
    run, which can be resumed. If the server refuses all requests of a batch, that is an outage.

    In an arm with a prefill, a reply that starts its turn again instead of continuing the prefill
    counts as refused. If no reply ever continues the prefill, the server ignores it, and the arm
    can't be measured: an outage.
    """

    shares_weights = False

    def __init__(self, endpoint: Chat, dialect: Dialect) -> None:
        self.endpoint, self.dialect = endpoint, dialect
        self._any_reply = self._prefill_continued = False
        self._logged: set[str] = set()
        self._urls = DataURLs()

    def clear_cache(self) -> None:
        """Keeps the images of the last requests as they are sent: the arms of a question are played after each other."""
        self._urls.forget()

    def sleep(self) -> None:
        """Does nothing: the server's devices are its own."""

    def sync_weights(self) -> None:
        """Does nothing: the server's weights do not change."""

    def view_tokens(self, t: Trajectory) -> ViewTokens:
        """Count the visual tokens of the view of `t`, which has no turns yet.

        Sends two requests of one token.

        Raises Outage like `generate`. `counted` is None if a request is refused or the count is
        implausible.
        """
        messages = self._messages(t)
        text_only = [m | {"content": [p for p in m["content"] if p["type"] == "text"]} if m["role"] == "user" else m for m in messages]
        try:
            with_image, without_image = (self.endpoint.prompt_tokens(each) for each in (messages, text_only))
        except Refused as refusal:
            log.warning("it is unknown whether the server resizes the view: %s", refusal)
            return ViewTokens(t.view.tokens, None)
        least = len(json.dumps(text_only, ensure_ascii=False).split()) // 2
        if with_image is None or without_image is None or without_image < least:  # fewer tokens than words is not a count
            return ViewTokens(t.view.tokens, None)
        return ViewTokens(t.view.tokens, with_image - without_image)

    def generate(self, requests: Requests, sampling: Sampling) -> Iterator[tuple[Request, Completion]]:
        refused: Refused | None = None
        restarted, unclosed, prefilled = "", 0, 0
        sent: list[Request] = []

        def bodies() -> Iterator[dict[str, Any]]:
            for request in requests:
                sent.append(request)
                yield self._body(request, sampling)

        for i, reply in self.endpoint.ask_all(bodies()):
            request, t = sent[i], sent[i].trajectory
            assert t is not None
            if isinstance(reply, Refused):
                self._warn_once(f"%s: {str(reply).replace('%', '%%')}", t.sample.id)
                refused = reply
                yield request, Completion((), (), True, "", refused=True)
                continue
            self._any_reply = True
            text = self._turn_text(reply, "" if t.turns else t.prefill)
            ids = (UNKNOWN,) * reply.tokens
            if t.prefill and not t.turns:
                prefilled += 1
                if self._restarts(t.prefill, text):
                    restarted = text
                    self._warn_once("%s: the server starts the turn again instead of continuing the prefill", t.sample.id)
                    yield request, Completion((), (), True, "", refused=True)
                    continue
                closing = self.dialect.answer[1] if t.prefill == self.dialect.answer[0] else self.dialect.call[1]
                unclosed += reply.stopped and closing not in text
                self._prefill_continued |= closing in text
            yield request, Completion(ids, (math.nan,) * len(ids), reply.stopped, text)
        if prefilled and not self._prefill_continued and (restarted or unclosed >= MIN_UNCLOSED):
            did = f"starts the turn again ({restarted[:40]!r})" if restarted else f"closes none of {unclosed} turns ({text[:40]!r})"
            raise PrefillIgnored(
                f"the model server {self.endpoint.url} {did} instead of continuing the prefill, so arms with a prefill can't be measured "
                "with it; remove tool_free and forced from evaluation.arms. The arm no_tool needs no prefill"
            )
        if refused and not self._any_reply and len(sent) > 1:
            raise Outage(f"{self.endpoint.url} refused all {len(sent)} requests. The last refusal: {refused}") from refused

    def _turn_text(self, reply: Reply, prefill: str) -> str:
        """The text of the turn after `prefill`, with what the server removed (calls, stop text)
        restored.
        """
        call, closing = self.dialect.call
        text = reply.text
        if reply.field != "content":
            self._warn_once("the server returns whole replies as thoughts (%s); start it without --reasoning-parser", reply.field)
        if reply.calls:
            self._warn_once("the server removes calls from the text (%s); start it without --tool-call-parser", "tool_calls")
        for name, arguments in reply.calls:
            text += call + call_body(self.dialect, name, arguments) + closing
        turn = prefill + text
        if reply.stopped and turn.rfind(call) > turn.rfind(closing):  # servers omit the stop text
            text += closing
        answer = self.dialect.answer[0]
        maybe_draft = not reply.stopped and not prefill and "think>" not in text and not text.lstrip().startswith((answer, call))
        # If the token limit cut the turn, an apparent action may be a draft in a thought that the
        # template opened.
        return f"<think>{text}" if maybe_draft and (answer in text or call in text) else text

    def _restarts(self, prefill: str, text: str) -> bool:
        """Whether `text` does not continue `prefill`: it repeats the prefill, or opens the other
        action before it closes this one.
        """
        (call, closing), (answer, end_of_answer) = self.dialect.call, self.dialect.answer
        other, end = (call, end_of_answer) if prefill == answer else (answer, closing)
        return prefill in text or other in text.partition(end)[0]

    def _warn_once(self, message: str, what: str) -> None:
        """Log a message the first time that it occurs."""
        if message not in self._logged:
            self._logged.add(message)
            log.warning(message, what)

    def logprobs(self, requests: Sequence[Request], tails: Sequence[int]) -> list[list[float]]:
        raise AssertionError("rollout=openai has no logprobs of given tokens; config.checks refuses rewards that need them")

    def sent_for(self, t: Trajectory, sampling: Sampling) -> list[dict[str, Any]]:
        """What was sent for each turn of a conversation: arguments of `Chat.ask`. One turn may list several boxes."""
        before = [replace(t, turns=t.turns[:number]) for number, turn in enumerate(t.turns) if turn.text]
        return [self._body(request_for(each, -1), sampling) for each in before]

    def _body(self, request: Request, sampling: Sampling) -> dict[str, Any]:
        t = request.trajectory
        assert t is not None
        return {
            "messages": self._messages(t),
            "temperature": sampling.temperature,
            "max_tokens": sampling.tokens_per_turn,
            "seed": request.seed,
            "stop": [] if self.dialect.course == "two_roles" else [self.dialect.call[1]],  # a list of boxes has no end of its own
            "extra": PREFILL if t.prefill and not t.turns else {},
        }

    def _messages(self, t: Trajectory) -> list[dict[str, Any]]:
        answers_anew = self.dialect.course == "two_roles" and not perceives(self.dialect, t)
        images = iter([_with_boxes(t, self.dialect.frame), *t.images[1:]] if answers_anew else t.images)

        def user(text: str) -> dict[str, Any]:
            """A user message: text and images in order."""
            parts: list[dict[str, Any]] = []
            for number, piece in enumerate(text.split(CROP_CONTENT)):
                if number:
                    parts.append({"type": "image_url", "image_url": {"url": self._urls.of(next(images))}})
                if piece:
                    parts.append({"type": "text", "text": piece})
            return {"role": "user", "content": parts}

        dialect = self.dialect.without_tool() if answers_anew or not t.tool_offered else self.dialect
        asked, crops = asked_text(t.sample.question, t.sample.options), 0
        first = user_text(dialect, t.sample.question, t.sample.options)
        if answers_anew and t.crops:
            first = reply_text(dialect, CROP_CONTENT * len(t.images), 0, asked)
        messages = [{"role": "system", "content": dialect.system}, user(first)]
        for turn in () if answers_anew else t.turns:
            assert turn.observation is not None
            messages.append({"role": "assistant", "content": turn.text.removesuffix("<|im_end|>")})
            messages.append(user(reply_text(self.dialect, turn.observation.content, crops, asked)))
            crops += turn.observation.crop is not None
        if t.prefill and not t.turns:
            messages.append({"role": "assistant", "content": t.prefill})
        return messages


def _with_boxes(t: Trajectory, frame: Frame) -> Image.Image:
    """The view with the boxes of the crops drawn on it, as the second role of an agent with two roles sees it."""
    image = t.view.image.convert("RGB")  # a copy
    extent, draw = frame.extent(image.size), ImageDraw.Draw(image)
    scale_x, scale_y = image.width / extent[0], image.height / extent[1]
    for number, crop in enumerate(t.crops):
        (x1, x2), (y1, y2) = sorted(crop.box_view[::2]), sorted(crop.box_view[1::2])
        corners = (x1 * scale_x, y1 * scale_y, x2 * scale_x, y2 * scale_y)
        draw.rectangle(corners, outline=BOX_COLOURS[number % len(BOX_COLOURS)], width=max(3, image.width * 3 // 1000))
    return image


def check_view_tokens(
    model: Served, engine: OpenAIEngine, gap: Gap, samples: Sequence[Sample], allowed: float | None
) -> dict[str, int | None]:
    """Check that the server does not resize the view, with the largest readable image of the first
    questions.

    Returns `expected` and `counted` visual tokens, empty if no image can be read. A deviation is
    logged. Raises ValueError if it exceeds the share `allowed` (None: any deviation is allowed),
    since the results would be those of another view.
    """
    candidates = [samples[i] for i in range(min(len(samples), CANDIDATES))]
    for sample in sorted(candidates, key=lambda sample: -sample.width * sample.height):
        try:
            view, source = gap.view_of(sample, sample.open())
        except ValueError:  # an unreadable image; it is counted when its question is asked
            continue
        tokens = engine.view_tokens(begin(model, sample, view, source, [0])[0])
        source.release()
        if tokens.counted is None:
            engine._warn_once("%s does not count the tokens of images: it is unknown whether it resizes views", engine.endpoint.url)
        elif tokens.deviation:
            does = "shrinks" if tokens.deviation < 0 else "enlarges"
            message = f"{engine.endpoint.url} {does} the view: {tokens.expected} visual tokens were sent, and it counts {tokens.counted}"
            if allowed is not None and abs(tokens.deviation) > allowed:
                raise ValueError(
                    f'{message}. Start it with the limits of the view (vLLM: --mm-processor-kwargs \'{{"min_pixels": ..., '
                    f'"max_pixels": ...}}\', or rollout.endpoint.extra={{mm_processor_kwargs:{{...}}}}); a visual token of this dialect '
                    f"covers {model.token_px}x{model.token_px} px. served.view_deviation=null allows any deviation"
                )
            log.warning("%s. The results are those of the resized view", message)
        return {"expected": tokens.expected, "counted": tokens.counted}
    return {}
