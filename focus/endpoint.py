"""One client of an OpenAI-compatible chat server (vLLM, SGLang, llama.cpp, a hosted model): a judge and a rollout engine ask through it.

The `openai` package carries the requests and retries what HTTP calls transient: time-outs, resets, 408, 409, 429 (waiting as
`Retry-After` says, up to two minutes) and 5xx. What it would hand back or raise as it came, a reply that is no JSON or holds no choice,
is retried here, out of the same number of retries. A fault that one request has costs that request (`Refused`); one that the next
request would meet too ends the run (`Outage`).
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

BACKOFF_S = 0.5  # before the second try after a reply that cannot be read; doubled every time, as the package does for the rest
LONGEST_WAIT_S = 8.0
SEED_BITS = 31  # the protocol allows 63, but llama.cpp keeps 32 and its default, all ones, means "draw a seed"
GATEWAY = (502, 503, 504)  # said by what stands before a server that is away
EXCERPT = 300  # characters of what a server said that an error quotes

UNFIT = "it is not sent again; if all requests fail alike, fit their settings to the server"
REMEDIES = {400: UNFIT, 413: UNFIT, 422: UNFIT}
REMEDIES[404] = "correct the url, which usually ends in /v1, or the model's name"
REMEDIES[429] = "lower concurrency, raise retries, or look at the account's limits"

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Reply:
    """What one request brought: its text, whether the model ended it by itself, and the sampled tokens as the server counted them.

    `tokens` is 0 where the server does not say. `stopped` is False only where the limit of tokens cut the text.
    """

    text: str
    stopped: bool
    tokens: int


class Outage(ValueError):
    """The server is away, busy, keeps its door shut or talks nonsense, and every other request would meet the same."""


class Refused(ValueError):
    """The server answers, but not this request. It costs one question."""


class Endpoint:
    """A model on a server. `url` ends where `/chat/completions` begins, as a rule in `/v1`.

    `key_env` names the environment variable that holds the key; local servers need none. `timeout_s` is how long the server may stay
    silent. Every request is tried 1 + `retries` times at most, and `ask_all` keeps at most `concurrency` of them open. `extra` goes into
    the body of every request: what only some servers understand, such as `{"mm_processor_kwargs": {"min_pixels": 784}}` for vLLM.
    """

    def __init__(
        self, url: str, model: str, key_env: str, timeout_s: float, retries: int, concurrency: int, extra: Mapping[str, Any] = {}
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"the url of the model server is {url!r}; write it in full, such as http://localhost:8000/v1")
        if timeout_s <= 0 or retries < 0 or concurrency < 1:
            raise ValueError(
                f"timeout_s is {timeout_s}, retries is {retries} and concurrency is {concurrency} for {url}; "
                "they must be above 0, at least 0 and at least 1"
            )
        self.url, self.model, self.key_env = url, model, key_env
        self.timeout_s, self.retries, self.concurrency, self.extra = timeout_s, retries, concurrency, dict(extra)
        self._key = os.environ.get(key_env, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise ValueError(f"the key in the environment variable {key_env} holds characters that no header can carry; paste it again")
        import openai  # a second of imports, and only those who talk to a server need it

        self._faults = (openai.APIStatusError, openai.APIConnectionError)
        self._client = openai.OpenAI(api_key=self._key or "none", base_url=url, timeout=timeout_s, max_retries=0)

    def ask(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        temperature: float,
        max_tokens: int,
        seed: int | None = None,
        stop: Sequence[str] = (),
        extra: Mapping[str, Any] = {},
    ) -> Reply:
        """The model's turn after `messages`. `extra` joins that of the endpoint for this request.

        Raises Refused for 400, 413 and 422, and after all retries for a 5xx that is the server's own; Outage for all else that stays wrong.
        """
        body: dict[str, Any] = {"model": self.model, "messages": list(messages), "temperature": temperature, "max_tokens": max_tokens}
        if seed is not None:
            body["seed"] = seed % 2**SEED_BITS
        if stop:
            body["stop"] = list(stop)
        return self._try(
            lambda client: client.chat.completions.with_raw_response.create(**body, extra_body={**self.extra, **extra}), _reply
        )

    def post(self, path: str, body: Mapping[str, Any], read: Callable[[Any], Answer]) -> Answer:
        """What `read` makes of the JSON that the server answers at `path`, an address beside `url`: what goes beyond the protocol.

        Tried again and judged as `ask` is.
        """
        return self._try(lambda client: self._posted(client, path, body), read)

    def tell(self, path: str, body: Mapping[str, Any]) -> None:
        """A command to the server at `path`, whose answer is only heard to be none of a fault's. Raises Outage or Refused as `ask` does."""
        try:
            self._posted(self._client.with_options(max_retries=self.retries), path, body)
        except self._faults as fault:
            raise self._verdict(fault) from fault

    def _posted(self, client: Any, path: str, body: Mapping[str, Any]) -> Any:
        raw = {"X-Stainless-Raw-Response": "true"}  # how the package is asked for what `with_raw_response` gives
        return client.post(f"{self.url.rstrip('/').removesuffix('/v1')}{path}", cast_to=object, body=body, options={"headers": raw})

    def ask_all(self, requests: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, Reply | Refused]]:
        """The outcome of every request, each a mapping of `ask`'s arguments, beside its index, as the answers come in: `send_all`."""
        return self.send_all(partial(self.ask, **request) for request in requests)

    def send_all(self, requests: Iterable[Callable[[], Answer]]) -> Iterator[tuple[int, Answer | Refused]]:
        """The outcome of every request, each ready to be sent through this endpoint, beside its index, as the answers come in.

        A request is drawn from `requests` when it is sent, so that no more than `concurrency` of them, pictures included, are in memory.
        Raises Outage at the first one; what has not been sent by then is not sent. The threads are daemons: Ctrl-C, or a reader who
        leaves early, waits for no answer that is still on its way.
        """
        waiting, drawing = enumerate(requests), threading.Lock()
        done: SimpleQueue[tuple[int, Answer | Exception] | None] = SimpleQueue()
        over = threading.Event()

        def work() -> None:
            index = -1
            while not over.is_set():
                try:
                    with drawing:
                        index, send = next(waiting)
                    done.put((index, send()))
                except StopIteration:
                    break
                except Exception as fault:  # raised again by the reader below, unless it is a refusal
                    if not isinstance(fault, Refused):
                        over.set()
                    done.put((index, fault))
            done.put(None)

        for _ in range(self.concurrency):
            threading.Thread(target=work, daemon=True).start()
        working = self.concurrency
        try:
            while working:
                outcome = done.get()
                if outcome is None:
                    working -= 1
                    continue
                index, reply = outcome
                if isinstance(reply, Exception) and not isinstance(reply, Refused):
                    raise reply
                yield index, reply
        finally:
            over.set()

    def models(self) -> list[str]:
        """The served models: ask before anything expensive starts. Raises Outage, or ValueError if `model` is not among them."""
        served = self._try(lambda client: client.models.with_raw_response.list(), _names)
        if self.model not in served:
            names = ", ".join(served) if served else "no model at all"
            raise ValueError(f"{self.url} does not serve the model {self.model!r}; it serves {names}. Set model to one of those")
        return served

    def _try(self, send: Callable[[Any], Any], read: Callable[[Any], Answer]) -> Answer:
        """What `read` makes of the JSON that `send` brings; `read` just looks things up, and fails where they are missing."""
        left = self.retries
        while True:
            try:
                raw = send(self._client.with_options(max_retries=left))
            except self._faults as fault:
                raise self._verdict(fault) from fault
            try:
                return read(json.loads(raw.text))
            except (ValueError, LookupError, TypeError, AttributeError) as fault:  # no JSON, or JSON of another shape
                left -= raw.retries_taken + 1
                if left < 0:
                    said = f"answers what is no reply ({self._excerpt(raw.text)})"
                    raise Outage(self._message(said, "check that an OpenAI-compatible server answers at this url")) from fault
            time.sleep(min(BACKOFF_S * 2 ** (self.retries - left - 1), LONGEST_WAIT_S))

    def _verdict(self, fault: Any) -> Outage | Refused:
        status = getattr(fault, "status_code", None)  # an error of the connection has none
        if status is None and "Timeout" in type(fault).__name__:
            return Outage(self._message(f"was silent for {self.timeout_s:g} s", "raise timeout_s, or lower concurrency"))
        if status is None:
            said = f"cannot be reached or hangs up ({self._excerpt(str(fault.__cause__ or fault))})"
            return Outage(self._message(said, "start the server, or correct the url"))
        said = f"answers {status} ({self._excerpt(fault.response.text)})"
        if status in (401, 403):
            has = "is set, but not to a key that it accepts" if self._key else "is not set"
            return Outage(self._message(said, f"the environment variable {self.key_env} {has}: put this server's key there"))
        kind = Refused if status in (400, 413, 422) or (status >= 500 and status not in GATEWAY) else Outage
        return kind(self._message(said, REMEDIES.get(status, "look into the server's log" if status >= 500 else "check url and account")))

    def _message(self, said: str, remedy: str) -> str:
        return f"the model server {self.url} (model {self.model!r}, retries={self.retries}) {said}; {remedy}"

    def _excerpt(self, text: str) -> str:
        text = " ".join(text.split()) or "nothing"
        text = text.replace(self._key, "***") if self._key else text  # some servers repeat a wrong key
        return text if len(text) <= EXCERPT else text[:EXCERPT] + "..."


def _reply(body: Any) -> Reply:
    """A thinking model that is cut before it speaks, or one that calls a tool, has the text null: an empty answer, not a fault."""
    choice, usage = body["choices"][0], body.get("usage")
    text = choice["message"].get("content")
    if not isinstance(text, str | None):
        raise TypeError(f"the text is a {type(text).__name__}")
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return Reply(text or "", choice.get("finish_reason") != "length", tokens if isinstance(tokens, int) else 0)


def _names(body: Any) -> list[str]:
    return [str(entry["id"]) for entry in body["data"]]
