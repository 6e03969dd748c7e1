"""Chats that are no server, or not only one: a Python function that answers, and a file that keeps every reply."""

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import CodeType
from typing import Any, Protocol, TypeVar

from focus.runtime.endpoint import Outage, Refused, Reply
from focus.runtime.files import json_text
from focus.runtime.text import replace_surrogates

Answer = TypeVar("Answer")
Messages = Sequence[Mapping[str, Any]]


class Chat(Protocol):
    """What a served model is asked through: an `Endpoint`, or one of the classes below."""

    url: str
    model: str
    extra: dict[str, Any]

    @property
    def identity(self) -> str:
        """The model's name, and what is known that tells it from another one of that name."""
        ...

    def ask(
        self,
        messages: Messages,
        *,
        temperature: float,
        max_tokens: int,
        seed: int | None = None,
        stop: Sequence[str] = (),
        extra: Mapping[str, Any] = {},
    ) -> Reply: ...

    def ask_all(self, requests: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, Reply | Refused]]: ...

    def send_all(self, requests: Iterable[Callable[[], Answer]]) -> Iterator[tuple[int, Answer | Refused]]: ...

    def prompt_tokens(self, messages: Messages) -> int | None: ...


class Called:
    """An agent that is a function: from messages, as a chat server gets them, to the text of the next turn.

    Images are parts `{"type": "image_url", "image_url": {"url": "data:image/png;base64,..."}}`. It is called
    by one thread. A turn ends with the text that ends a call; what follows is dropped. It counts no
    tokens. What it raises is an `Outage`, but `Refused` and an empty turn cost one question.
    """

    url = "a Python function"

    def __init__(self, agent: Callable[[list[dict[str, Any]]], str], model: str) -> None:
        self.agent, self.model, self.extra = agent, model, dict[str, Any]()

    @property
    def identity(self) -> str:
        """Its name and a hash of its code. What the code calls and loads is not in it."""
        return " ".join(filter(None, [self.model, code_digest(self.agent)]))

    def ask(self, messages: Messages, *, stop: Sequence[str] = (), **settings: Any) -> Reply:
        """The agent's turn. Temperature, seed and limits are the agent's own."""
        try:
            text = self.agent([dict(message) for message in messages])
        except Refused:
            raise
        except Exception as error:  # the code of someone else
            said = " ".join(str(error).split())  # messages of CUDA have many lines, those of `assert` none
            raise Outage(": ".join(filter(None, [f"the agent raised {type(error).__name__}", said]))) from error
        if not isinstance(text, str):
            raise Outage(f"the agent returned a {type(text).__name__}; it returns the text of its turn (str)")
        if not text.strip():
            raise Refused("the agent returned an empty turn")
        ends = [at for end in stop if (at := text.find(end)) >= 0]
        return Reply(replace_surrogates(text[: min(ends, default=len(text))]), True, 0)

    def ask_all(self, requests: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, Reply | Refused]]:
        """Index and outcome of every request."""
        return self.send_all(partial(self.ask, **request) for request in requests)

    def send_all(self, requests: Iterable[Callable[[], Answer]]) -> Iterator[tuple[int, Answer | Refused]]:
        """Index and outcome of every request, one after the other."""
        for index, send in enumerate(requests):
            try:
                yield index, send()
            except Refused as refusal:
                yield index, refusal

    def prompt_tokens(self, messages: Messages) -> None:
        """None: nothing is counted."""


def code_digest(called: Any) -> str:
    """A hash of what the code of a function does, or of an object that is called; empty for one that is not written in Python.

    It changes with the version of Python. Comments and the place in a file are not in it.
    """
    while isinstance(called, partial):
        called = called.func
    code = getattr(called, "__code__", None) or getattr(type(called).__call__, "__code__", None)
    return hashlib.blake2b(repr(_done_by(code)).encode(), digest_size=8).hexdigest() if code else ""


def _done_by(code: CodeType) -> list[Any]:
    """Instructions, names and constants, those of functions inside too. A set has no order."""
    constants = [
        _done_by(each) if isinstance(each, CodeType) else sorted(map(repr, each)) if isinstance(each, frozenset) else each
        for each in code.co_consts
    ]
    return [code.co_code, code.co_names, constants]


class KeptReplies:
    """A chat whose replies are kept in a JSON-lines file: a request that was answered once is not sent again.

    The key of a reply is a hash of the model's identity and of the whole request, images and seed
    included. A refusal is not kept. `requests`, `prompt_tokens_seen` and `sampled_tokens` count what was
    used, sent or kept. A last line that a crash has cut is removed.
    """

    def __init__(self, chat: Chat, path: Path) -> None:
        self.chat, self.path = chat, path
        self.url, self.model, self.extra, self.identity = chat.url, chat.model, chat.extra, chat.identity
        self.requests = self.prompt_tokens_seen = self.sampled_tokens = 0
        self._lock, self._kept = threading.Lock(), dict[str, Any]()
        if path.is_file():
            whole = path.read_bytes()
            whole = whole[: whole.rfind(b"\n") + 1]
            os.truncate(path, len(whole))
            self._kept = dict(json.loads(line) for line in whole.splitlines())
        self._found = frozenset(self._kept)  # keys that the file held

    def ask(self, messages: Messages, **settings: Any) -> Reply:
        """The kept reply to this request, else that of the chat."""
        kept = self._once(_of_ask(messages, **settings), lambda: asdict(self.chat.ask(messages, **settings)))
        reply = Reply(**kept | {"calls": tuple((name, arguments) for name, arguments in kept["calls"])})
        with self._lock:
            self.requests += 1
            self.prompt_tokens_seen += reply.prompt_tokens
            self.sampled_tokens += reply.tokens
        return reply

    @property
    def resumed(self) -> bool:
        """Whether the file held replies."""
        return bool(self._found)

    def again(self, requests: Iterable[Mapping[str, Any]], found: bool) -> tuple[int, int, int]:
        """Send those requests once more that have a kept reply: how many, how many get the same text, and how many another.

        One that gets another text is sent a third time, and counts as another if that text comes again: an agent that
        wavers has neither. A refusal is no text. `found`: only replies that the file held count as kept.
        """
        keys = self._found if found else self._kept
        kept = [(request, self._kept[key]["text"]) for request in requests if (key := self._key(_of_ask(**request))) in keys]
        now = self._texts([request for request, _ in kept])
        unlike = [i for i, (_, text) in enumerate(kept) if now[i] != text]
        third = self._texts([kept[i][0] for i in unlike])
        return len(kept), len(kept) - len(unlike), sum(now[i] == text for i, text in zip(unlike, third, strict=True))

    def _texts(self, requests: Sequence[Mapping[str, Any]]) -> list[str | None]:
        """The chat's replies to requests, which are not kept; None for a refusal."""
        replies = dict(self.chat.send_all(partial(self.chat.ask, **request) for request in requests))
        return [reply.text if isinstance(reply := replies[i], Reply) else None for i in range(len(requests))]

    def ask_all(self, requests: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, Reply | Refused]]:
        """As the chat's own."""
        return self.chat.send_all(partial(self.ask, **request) for request in requests)

    def send_all(self, requests: Iterable[Callable[[], Answer]]) -> Iterator[tuple[int, Answer | Refused]]:
        """As the chat's own."""
        return self.chat.send_all(requests)

    def prompt_tokens(self, messages: Messages) -> int | None:
        """The kept count, else that of the chat."""
        count: int | None = self._once([messages, "prompt_tokens"], lambda: self.chat.prompt_tokens(messages))
        return count

    def _key(self, request: Any) -> str:
        text = json.dumps([self.identity, self.extra, request], sort_keys=True, default=list)
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()

    def _once(self, request: Any, send: Callable[[], Any]) -> Any:
        key = self._key(request)
        with self._lock:
            if key in self._kept:
                return self._kept[key]
        value = send()
        with self._lock:
            if key not in self._kept:
                self._kept[key] = value
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("a", encoding="utf-8") as lines:
                    lines.write(json_text([key, value]) + "\n")
            return self._kept[key]


def _of_ask(messages: Messages, **settings: Any) -> list[Any]:
    """What the key of a reply is made of."""
    return [messages, settings]
