"""A client of an OpenAI-compatible chat server (vLLM, SGLang, llama.cpp, a hosted model).

The judge and the rollout engine use it. The `openai` package carries the requests and retries
transient errors: time-outs, resets, 408, 409, 429 (waiting as `Retry-After` says, up to two
minutes) and 5xx. A reply that is not JSON or has no choice is retried here, with the same number of
retries. An error of one request raises `Refused`, which costs that request. An error that every
request would have raises `Outage`, which ends the run. No message shows the key.
"""

import base64
import difflib
import html
import json
import logging
import os
import string
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar
from urllib.parse import quote, quote_plus, urlsplit

from focus.runtime.text import replace_surrogates

# Seconds before the second try after an unreadable reply; doubled every time, as the package does
# for other errors
BACKOFF_S = 0.5
LONGEST_WAIT_S = 8.0
# The protocol allows 63, but llama.cpp keeps 32 and its default, all ones, means "draw a seed"
SEED_BITS = 31
TRANSIENT = (408, 409, 429)  # and 5xx: what the package sends again
GATEWAY = (502, 503, 504)  # from a gateway whose server does not answer
EXCERPT = 300  # characters of a server's text that an error quotes
PIECE = 6  # a part of the key of at least so many characters is hidden too
MOST_NAMED = 20  # models that a message lists
MOST_TOKENS = 2**20  # of a reply; a larger count of a server is ignored
# Finish reasons of a reply that the token limit cut
CUT = ("length", "max_tokens", "max_output_tokens")
# Finish reasons of a reply that the server gave up, with or without text
GIVEN_UP = ("content_filter", "abort", "aborted", "error", "refusal", "safety", "recitation", "prohibited_content", "cancelled")
# Fields in which servers with a reasoning parser put thoughts
THOUGHTS = ("reasoning_content", "reasoning")
# What a server lists of a model that tells it from another one of that name: where it was loaded from, and the base of an adapter
TRAITS = ("root", "parent")
# Errors of the list of models that chat requests would have too. With any other error the server
# may still answer chats
NEEDED_BY_CHATS = (None, 401, 408, 409, 429, *GATEWAY)

log = logging.getLogger(__name__)

UNFIT = "it is not sent again; if all requests fail alike, fit their settings to the server"
REMEDIES = {400: UNFIT, 413: UNFIT, 422: UNFIT}
REMEDIES[404] = "correct the url, which usually ends in /v1, or the model's name"
REMEDIES[429] = "lower concurrency, raise retries, or look at the account's limits"

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Reply:
    """The reply to one request: text, whether the model ended it by itself, and sampled tokens by
    the server's count.

    `tokens` and `prompt_tokens` are 0 if the server does not count. `stopped` is False only if the token limit cut the
    text. `calls` are tool calls that the server parsed out of the text: name and arguments, the
    latter as the model wrote them. `field` is the field with the text; if it is one of `THOUGHTS`,
    the whole text was there.
    """

    text: str
    stopped: bool
    tokens: int
    calls: tuple[tuple[str, str], ...] = ()
    field: str = "content"
    prompt_tokens: int = 0


class Outage(ValueError):
    """The server is unreachable, busy, refuses access or sends nonsense, so every other request
    would fail too.

    `status` is that of its HTTP reply, None without one.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Refused(ValueError):
    """The server works but refuses this request.

    It costs one question. `status` is that of its HTTP reply.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Endpoint:
    """A model on a server.

    `url` is the part before `/chat/completions`, usually ending in `/v1`.

    `key_env` names the environment variable with the key; local servers need none. `timeout_s` is
    the time of one try, from connecting to the last byte. A request has at most 1 + `retries`
    tries, and `ask_all` keeps at most `concurrency` requests open. `extra` is added to the body of
    every request, for options of some servers such as `{"mm_processor_kwargs": {"min_pixels":
    784}}` for vLLM. It overrides the request; None removes a key.

    Raises ValueError for settings, proxies and certificates that can't work.
    """

    def __init__(
        self, url: str, model: str, key_env: str, timeout_s: float, retries: int, concurrency: int, extra: Mapping[str, Any] = {}
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"the url of the model server is {url!r}; write it in full, such as http://localhost:8000/v1")
        address = urlsplit(url)
        if "@" in address.netloc:
            raise ValueError(
                "the url of the model server contains a name or a password; put the key into an environment variable (key_env)"
            )
        try:
            _ = address.port
        except ValueError as error:
            raise ValueError(f"the url of the model server is {url!r}: {error}; write it like http://localhost:8000/v1") from None
        if timeout_s <= 0 or retries < 0 or concurrency < 1:
            raise ValueError(
                f"timeout_s is {timeout_s}, retries is {retries} and concurrency is {concurrency} for {url}; "
                "they must be above 0, at least 0 and at least 1"
            )
        self.url, self.model, self.key_env = url, model, key_env
        self.timeout_s, self.retries, self.concurrency, self.extra = timeout_s, retries, concurrency, dict(extra)
        self._key = os.environ.get(key_env, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise ValueError(f"the key in the environment variable {key_env} contains characters that a header can't carry; paste it again")
        self._listed: dict[str, str] = {}  # by name, what `TRAITS` say
        import openai  # takes a second, and only users of a server need it

        from focus.runtime import connection

        self._faults = (openai.APIStatusError, openai.APIConnectionError)
        self._too_large, self._no_connection, self._past_proxy = connection.TooLarge, connection.NO_CONNECTION, ""
        if proxy := connection.proxy_of(url):  # the user may have forgotten it
            self._past_proxy = (
                f". Requests go through the proxy {connection.without_password(proxy[1])} of the environment variable {proxy[0]}; "
                f"NO_PROXY={address.hostname} avoids it"
            )
        self._client = openai.OpenAI(
            api_key=self._key or "none",
            base_url=url,
            timeout=connection.limits_of_time(timeout_s),
            max_retries=0,
            http_client=connection.client(url, timeout_s, concurrency),
        )

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
        """The model's turn after `messages`. `extra` is added to the endpoint's `extra`.

        Raises Refused for 400, 413 and 422, for a reply without text or one that the server gave
        up, and, after all retries, for a 5xx of the server itself; Outage for all other lasting
        errors.
        """
        settings = {"temperature": temperature, "max_tokens": max_tokens, "seed": None if seed is None else seed % 2**SEED_BITS}
        return self._chat(messages, {**settings, "stop": list(stop) or None, **self.extra, **extra}, self._reply)

    def prompt_tokens(self, messages: Sequence[Mapping[str, Any]]) -> int | None:
        """The server's token count of `messages`; None if it does not count. Raises like `ask`."""

        def read_count(body: Any) -> int | None:
            body["choices"][0]  # missing in an error with status 200
            usage = body.get("usage")
            return _count(usage.get("prompt_tokens") if isinstance(usage, dict) else None) or None

        return self._chat(messages, {"temperature": 0.0, "max_tokens": 1, **self.extra}, read_count)

    def _chat(self, messages: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], read: Callable[[Any], Answer]) -> Answer:
        body = {key: value for key, value in settings.items() if value is not None}
        required: Any = {"model": self.model, "messages": list(messages)}
        return self._try(lambda client: client.chat.completions.with_raw_response.create(**required, extra_body=body), read)

    def post(self, path: str, body: Mapping[str, Any], read: Callable[[Any], Answer]) -> Answer:
        """The result of `read` on the server's JSON reply at `path`, an address beside `url`
        outside the protocol.

        Retries and raises like `ask`.
        """
        return self._try(lambda client: self._post_json(client, path, body), read)

    def command(self, path: str, body: Mapping[str, Any]) -> None:
        """Send a command to the server at `path` and ignore the body of the reply.

        Raises like `ask`.
        """
        try:
            self._post_json(self._client.with_options(max_retries=self.retries), path, body)
        except self._faults as fault:
            raise self._verdict(fault) from None  # the package's message may contain the key

    def _post_json(self, client: Any, path: str, body: Mapping[str, Any]) -> Any:
        # Makes the package return a raw response, as `with_raw_response` does
        raw = {"X-Stainless-Raw-Response": "true"}
        return client.post(f"{self.url.rstrip('/').removesuffix('/v1')}{path}", cast_to=object, body=body, options={"headers": raw})

    def ask_all(self, requests: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, Reply | Refused]]:
        """Index and outcome of every request (arguments of `ask`), in the order of the replies; see
        `send_all`.
        """
        return self.send_all(partial(self.ask, **request) for request in requests)

    def send_all(self, requests: Iterable[Callable[[], Answer]]) -> Iterator[tuple[int, Answer | Refused]]:
        """Index and outcome of every request, in the order of the replies.

        A request is a function that sends itself.

        A request is taken from `requests` when it is sent, so at most `concurrency` of them, with
        their images, are in memory. Raises the first Outage; requests that were not sent by then
        are not sent. The threads are daemons, so Ctrl-C and a caller that stops early do not wait
        for open requests.
        """
        waiting, lock = enumerate(requests), threading.Lock()
        done: SimpleQueue[tuple[int, Answer | Exception] | None] = SimpleQueue()
        over = threading.Event()

        def work() -> None:
            index = -1
            while not over.is_set():
                try:
                    with lock:
                        index, send = next(waiting)
                    done.put((index, send()))
                except StopIteration:
                    break
                except Exception as fault:  # raised again below, unless it is a refusal
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

    @property
    def identity(self) -> str:
        """The model's name, and of its `TRAITS` those that the server listed and that say more."""
        return " ".join(filter(None, [self.model, self._listed.get(self.model)]))

    def models(self) -> list[str]:
        """The models that the server lists; empty if it has no readable list.

        Call it before expensive work. It is the first contact: where nothing can be connected to, it
        is not tried again.

        A server may answer chats for a model that it does not list, or have no list. Both are
        logged as warnings; the first request decides. Raises Outage if chat requests would fail
        too.
        """
        try:
            self._listed = self._try(lambda client: client.models.with_raw_response.list(), _listed, first_contact=True)
        except (Outage, Refused) as fault:
            if fault.status in NEEDED_BY_CHATS:
                raise
            log.warning("%s lists no models (%s). Continuing: the first request shows whether it serves %s", self.url, fault, self.model)
            return []
        if self.model not in self._listed:
            log.warning(
                "%s does not list the model %r%s. Continuing: the first request decides", self.url, self.model, self._names_listed()
            )
        return list(self._listed)

    def _names_listed(self) -> str:
        if not self._listed:
            return "; it lists no models"
        near = difflib.get_close_matches(self.model, self._listed, n=1)
        more = f" and {len(self._listed) - MOST_NAMED} more" if len(self._listed) > MOST_NAMED else ""
        return f"; it lists {', '.join(list(self._listed)[:MOST_NAMED])}{more}" + (f". Did you mean {near[0]}?" if near else "")

    def _try(self, send: Callable[[Any], Any], read: Callable[[Any], Answer], first_contact: bool = False) -> Answer:
        """The result of `read` on the JSON that `send` gets.

        `read` raises if a field is missing; then it is retried. A `first_contact` is retried only if
        there is a connection.
        """
        tries_left = self.retries
        while True:
            try:
                raw = send(self._client.with_options(max_retries=0 if first_contact else tries_left))
            except self._faults as fault:
                if first_contact and tries_left and self._is_transient(fault):
                    tries_left, first_contact = tries_left - 1, False
                    continue
                raise self._verdict(fault) from None  # the package's message may contain the key
            try:
                return read(json.loads(raw.text))
            except Refused:
                raise
            # not JSON, another structure, or nested too deeply for Python
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as fault:
                tries_left -= raw.retries_taken + 1
                if tries_left < 0:
                    problem = f"sends a reply that can't be read ({self._excerpt(raw.text)})"
                    raise Outage(self._message(problem, "check that an OpenAI-compatible server answers at this url"), 200) from fault
            time.sleep(min(BACKOFF_S * 2 ** (self.retries - tries_left - 1), LONGEST_WAIT_S))

    def _is_transient(self, fault: Any) -> bool:
        """Whether a fault of a server to which there is a connection may pass."""
        status = getattr(fault, "status_code", None)
        return not isinstance(fault.__cause__, self._no_connection) if status is None else status in TRANSIENT or status >= 500

    def _verdict(self, fault: Any) -> Outage | Refused:
        status = getattr(fault, "status_code", None)  # connection errors have no status
        if status is None and isinstance(fault.__cause__, self._too_large):
            return Outage(self._message(f"answers with {fault.__cause__}", "check that an OpenAI-compatible server answers at this url"))
        if status is None and "Timeout" in type(fault).__name__ and not isinstance(fault.__cause__, self._no_connection):
            problem = f"did not answer in full within {self.timeout_s:g} s"
            return Outage(self._message(problem, "raise timeout_s, or lower concurrency" + self._past_proxy))
        if status is None:
            problem = f"cannot be reached or hangs up ({self._excerpt(str(fault.__cause__ or fault))})"
            return Outage(self._message(problem, "start the server, or correct the url" + self._past_proxy))
        if status in (401, 403) and self._key:
            remedy = f"the server does not accept the key in the environment variable {self.key_env}: put this server's key there"
            return Outage(self._message(f"answers {status} (its text is not shown because it may contain the key)", remedy), status)
        problem = f"answers {status} ({self._excerpt(fault.response.text)})"
        if status in (401, 403):
            remedy = f"the environment variable {self.key_env} is not set: put this server's key there"
            return Outage(self._message(problem, remedy), status)
        kind = Refused if status in (400, 413, 422) or (status >= 500 and status not in GATEWAY) else Outage
        remedy = REMEDIES.get(status, "look into the server's log" if status >= 500 else "check url and account")
        if status == 400 and ("max_completion_tokens" in problem or "temperature" in problem):
            remedy += ". Remove or rename settings that the server does not accept: extra={max_tokens: null, temperature: null, ...}"
        if status in (400, 404, 422) and self._listed and self.model not in self._listed:
            remedy += self._names_listed()
        return kind(self._message(problem, remedy), status)

    def _message(self, problem: str, remedy: str) -> str:
        return f"the model server {self.url} (model {self.model!r}, retries={self.retries}) {problem}; {remedy}"

    def _excerpt(self, text: str) -> str:
        # Some servers repeat a wrong key
        text = censored(" ".join(text[: 20 * EXCERPT].split()) or "an empty text", self._key)
        return text if len(text) <= EXCERPT else text[:EXCERPT] + "..."

    def _reply(self, body: Any) -> Reply:
        """The reply in a chat's JSON.

        The text of a thinking model that is cut before its answer may be empty.

        Raises Refused if the server gave the reply up, or if there is no text that can be the
        model's turn.
        """
        choice, usage = body["choices"][0], body.get("usage")
        message, ending = choice["message"], choice.get("finish_reason")
        text, calls = _text(message.get("content")), _calls(message.get("tool_calls"))
        tokens = _count(usage.get("completion_tokens") if isinstance(usage, dict) else None)
        refusal = message.get("refusal")
        if str(ending).lower() in GIVEN_UP or (refusal and not text.strip()):
            excerpt = self._excerpt(str(refusal or text))
            problem = f"answers 200, but gave the reply up (finish_reason {ending!r}: {excerpt})"
            raise Refused(self._message(problem, "look at its filters, its limits and its log"), 200)
        stopped, field = str(ending).lower() not in CUT, "content"
        if not text.strip() and not calls:
            field = next((name for name in THOUGHTS if isinstance(message.get(name), str) and message[name].strip()), field)
            if field != "content":
                # Cut inside its thought: it is not an answer
                text = message[field] if stopped else f"<think>{message[field]}"
            elif stopped:
                problem = f"answers 200 without any text, although it counts {tokens} sampled tokens (finish_reason {ending!r})"
                remedy = "if it has a reasoning parser or a tool parser, start it without (--reasoning-parser, --tool-call-parser)"
                raise Refused(self._message(problem, remedy), 200)
        prompt = _count(usage.get("prompt_tokens") if isinstance(usage, dict) else None)
        return Reply(replace_surrogates(text), stopped, tokens, calls, field, prompt)


def censored(text: str, key: str) -> str:
    """`text` with stars for the key and for every part of it of at least `PIECE` characters, in any
    case.

    The key is also found in the spellings of JSON, URLs, HTML, base64 and hexadecimal numbers.
    """
    if not key:
        return text
    raw = key.encode()
    forms = [key, quote(key, safe=""), quote_plus(key), html.escape(key), key.replace("/", "\\/"), json.dumps(key)[1:-1], raw.hex()]
    # Base64 encodes three bytes at a time, so the text before the key changes its spelling
    for lead in range(3):
        inside = base64.b64encode(b" " * lead + raw).decode().rstrip("=")[4 if lead else 0 :]
        forms += [inside, inside.replace("+", "-").replace("/", "_")]
    # str.lower changes the length of some texts
    lower = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
    small, hidden = text.translate(lower), bytearray(len(text))
    for form in {form.translate(lower) for form in forms if form == key or len(form) >= PIECE}:
        length = min(PIECE, len(form))
        pieces = {form[i : i + length] for i in range(len(form) - length + 1)}
        for i in range(len(text) - length + 1):
            if small[i : i + length] in pieces:
                hidden[i : i + length] = b"\1" * length
    shown = [character if not hidden[i] else "***" if i == 0 or not hidden[i - 1] else "" for i, character in enumerate(text)]
    return "".join(shown)


def _text(content: Any) -> str:
    """The text of a message, also one in parts. Raises TypeError for anything else."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part.get("type") == "text" and isinstance(part["text"], str))
    if not isinstance(content, str | None):
        raise TypeError(f"the text is a {type(content).__name__}")
    return content or ""


def _calls(calls: Any) -> tuple[tuple[str, str], ...]:
    """Name and arguments of every call in `tool_calls`; malformed entries are left out."""
    parsed = []
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            arguments = function.get("arguments")
            parsed.append((str(function.get("name")), arguments if isinstance(arguments, str) else json.dumps(arguments)))
    return tuple(parsed)


def _count(tokens: Any) -> int:
    """A number of tokens; 0 if it is missing or impossible."""
    return tokens if isinstance(tokens, int) and not isinstance(tokens, bool) and 0 <= tokens <= MOST_TOKENS else 0


def _listed(body: Any) -> dict[str, str]:
    """By the name of each model, its `TRAITS`: `root=/models/seven`. One that is the name itself says nothing."""
    return {
        str(entry["id"]): " ".join(f"{name}={entry[name]}" for name in TRAITS if entry.get(name) not in (None, "", entry["id"]))
        for entry in body["data"]
    }
