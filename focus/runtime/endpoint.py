"""One client of an OpenAI-compatible chat server (vLLM, SGLang, llama.cpp, a hosted model): a judge and a rollout engine ask through it.

The `openai` package carries the requests and retries what HTTP calls transient: time-outs, resets, 408, 409, 429 (waiting as
`Retry-After` says, up to two minutes) and 5xx. What it would hand back or raise as it came, a reply that is no JSON or holds no choice,
is retried here, out of the same number of retries. A fault that one request has costs that request (`Refused`); one that the next
request would meet too ends the run (`Outage`). No message shows the key.
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

BACKOFF_S = 0.5  # before the second try after a reply that cannot be read; doubled every time, as the package does for the rest
LONGEST_WAIT_S = 8.0
SEED_BITS = 31  # the protocol allows 63, but llama.cpp keeps 32 and its default, all ones, means "draw a seed"
GATEWAY = (502, 503, 504)  # said by what stands before a server that is away
EXCERPT = 300  # characters of what a server said that an error quotes
PIECE = 6  # characters of the key that are a part of it, and are not shown either
MOST_NAMED = 20  # models that a message lists
MOST_TOKENS = 2**20  # of a reply; a server that counts more is not believed
CUT = ("length", "max_tokens", "max_output_tokens")  # how a reply ends that a limit of tokens cut
# How a reply ends that the server gave up, whatever text there is
GIVEN_UP = ("content_filter", "abort", "aborted", "error", "refusal", "safety", "recitation", "prohibited_content", "cancelled")
THOUGHTS = ("reasoning_content", "reasoning")  # where servers with a reasoning parser put what they take for a thought
# A list of models that is answered so may be missing although the server answers chats; all else would meet a chat too
NEEDED_BY_CHATS = (None, 401, 408, 409, 429, *GATEWAY)

log = logging.getLogger(__name__)

UNFIT = "it is not sent again; if all requests fail alike, fit their settings to the server"
REMEDIES = {400: UNFIT, 413: UNFIT, 422: UNFIT}
REMEDIES[404] = "correct the url, which usually ends in /v1, or the model's name"
REMEDIES[429] = "lower concurrency, raise retries, or look at the account's limits"

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Reply:
    """What one request brought: its text, whether the model ended it by itself, and the sampled tokens as the server counted them.

    `tokens` is 0 where the server does not say. `stopped` is False only where the limit of tokens cut the text. `calls` are tools that
    the server has parsed out of the text: name and arguments, the latter as the model wrote them. `field` is where the text was found;
    in one of `THOUGHTS`, the whole of it was there.
    """

    text: str
    stopped: bool
    tokens: int
    calls: tuple[tuple[str, str], ...] = ()
    field: str = "content"


class Outage(ValueError):
    """The server is away, busy, keeps its door shut or talks nonsense, and every other request would meet the same.

    `status` is that of its HTTP reply, None where there was none.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Refused(ValueError):
    """The server answers, but not this request. It costs one question. `status` is that of its HTTP reply."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Endpoint:
    """A model on a server. `url` ends where `/chat/completions` begins, as a rule in `/v1`.

    `key_env` names the environment variable that holds the key; local servers need none. `timeout_s` is how long one try may take, from
    connecting to the last byte. Every request is tried 1 + `retries` times at most, and `ask_all` keeps at most `concurrency` of them
    open. `extra` goes into the body of every request: what only some servers understand, such as `{"mm_processor_kwargs": {"min_pixels":
    784}}` for vLLM. It overrides what a request holds; None leaves a key out.

    Raises ValueError for settings, proxies and certificates that can't work.
    """

    def __init__(
        self, url: str, model: str, key_env: str, timeout_s: float, retries: int, concurrency: int, extra: Mapping[str, Any] = {}
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"the url of the model server is {url!r}; write it in full, such as http://localhost:8000/v1")
        address = urlsplit(url)
        if "@" in address.netloc:
            raise ValueError("the url of the model server holds a name or a password; put the key into an environment variable (key_env)")
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
            raise ValueError(f"the key in the environment variable {key_env} holds characters that no header can carry; paste it again")
        self._listed: list[str] = []
        import openai  # a second of imports, and only those who talk to a server need it

        from focus.runtime import connection

        self._faults = (openai.APIStatusError, openai.APIConnectionError)
        self._too_large, self._past_proxy = connection.TooLarge, ""
        if proxy := connection.proxy_of(url):  # which the user may have forgotten
            self._past_proxy = (
                f". It is asked through the proxy {connection.without_password(proxy[1])} that the environment variable {proxy[0]} names; "
                f"NO_PROXY={address.hostname} goes past it"
            )
        self._client = openai.OpenAI(
            api_key=self._key or "none",
            base_url=url,
            timeout=timeout_s,
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
        """The model's turn after `messages`. `extra` joins that of the endpoint for this request.

        Raises Refused for 400, 413 and 422, for a reply without text or one that the server gave up, and after all retries for a 5xx that
        is the server's own; Outage for all else that stays wrong.
        """
        asked = {"temperature": temperature, "max_tokens": max_tokens, "seed": None if seed is None else seed % 2**SEED_BITS}
        return self._chat(messages, {**asked, "stop": list(stop) or None, **self.extra, **extra}, self._reply)

    def prompt_tokens(self, messages: Sequence[Mapping[str, Any]]) -> int | None:
        """How many tokens the server counts in `messages`; None where it does not say. Raises as `ask` does."""

        def counted(body: Any) -> int | None:
            body["choices"][0]  # an error with status 200 has none
            usage = body.get("usage")
            return _count(usage.get("prompt_tokens") if isinstance(usage, dict) else None) or None

        return self._chat(messages, {"temperature": 0.0, "max_tokens": 1, **self.extra}, counted)

    def _chat(self, messages: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], read: Callable[[Any], Answer]) -> Answer:
        said = {key: value for key, value in settings.items() if value is not None}
        asked: Any = {"model": self.model, "messages": list(messages)}
        return self._try(lambda client: client.chat.completions.with_raw_response.create(**asked, extra_body=said), read)

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
            raise self._verdict(fault) from None  # the package's own words may hold the key

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
        """The models that the server lists: ask before anything expensive starts. Empty where it has no list that can be read.

        A server may answer chats for a model that it does not list, or have no list at all: that is said in a warning, and the first
        request decides. Raises Outage where a request would fail too.
        """
        try:
            self._listed = self._try(lambda client: client.models.with_raw_response.list(), _names)
        except (Outage, Refused) as fault:
            if fault.status in NEEDED_BY_CHATS:
                raise
            log.warning("%s lists no models (%s). Going on: the first request tells whether it serves %s", self.url, fault, self.model)
            return []
        if self.model not in self._listed:
            log.warning("%s does not list the model %r%s. Going on: the first request decides", self.url, self.model, self._names_listed())
        return self._listed

    def _names_listed(self) -> str:
        if not self._listed:
            return "; it lists no model at all"
        near = difflib.get_close_matches(self.model, self._listed, n=1)
        more = f" and {len(self._listed) - MOST_NAMED} more" if len(self._listed) > MOST_NAMED else ""
        return f"; it lists {', '.join(self._listed[:MOST_NAMED])}{more}" + (f". Did you mean {near[0]}?" if near else "")

    def _try(self, send: Callable[[Any], Any], read: Callable[[Any], Answer]) -> Answer:
        """What `read` makes of the JSON that `send` brings; `read` just looks things up, and fails where they are missing."""
        left = self.retries
        while True:
            try:
                raw = send(self._client.with_options(max_retries=left))
            except self._faults as fault:
                raise self._verdict(fault) from None  # the package's own words may hold the key
            try:
                return read(json.loads(raw.text))
            except Refused:
                raise
            # no JSON, JSON of another shape, or nested deeper than Python can follow
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as fault:
                left -= raw.retries_taken + 1
                if left < 0:
                    said = f"answers what is no reply ({self._excerpt(raw.text)})"
                    raise Outage(self._message(said, "check that an OpenAI-compatible server answers at this url"), 200) from fault
            time.sleep(min(BACKOFF_S * 2 ** (self.retries - left - 1), LONGEST_WAIT_S))

    def _verdict(self, fault: Any) -> Outage | Refused:
        status = getattr(fault, "status_code", None)  # an error of the connection has none
        if status is None and isinstance(fault.__cause__, self._too_large):
            return Outage(self._message(f"answers with {fault.__cause__}", "check that an OpenAI-compatible server answers at this url"))
        if status is None and "Timeout" in type(fault).__name__:
            said = f"did not answer in full within {self.timeout_s:g} s"
            return Outage(self._message(said, "raise timeout_s, or lower concurrency" + self._past_proxy))
        if status is None:
            said = f"cannot be reached or hangs up ({self._excerpt(str(fault.__cause__ or fault))})"
            return Outage(self._message(said, "start the server, or correct the url" + self._past_proxy))
        if status in (401, 403) and self._key:
            remedy = f"the environment variable {self.key_env} is set, but not to a key that it accepts: put this server's key there"
            return Outage(self._message(f"answers {status} (what it says is not shown, since it may repeat the key)", remedy), status)
        said = f"answers {status} ({self._excerpt(fault.response.text)})"
        if status in (401, 403):
            remedy = f"the environment variable {self.key_env} is not set: put this server's key there"
            return Outage(self._message(said, remedy), status)
        kind = Refused if status in (400, 413, 422) or (status >= 500 and status not in GATEWAY) else Outage
        remedy = REMEDIES.get(status, "look into the server's log" if status >= 500 else "check url and account")
        if status == 400 and ("max_completion_tokens" in said or "temperature" in said):
            remedy += ". Settings that a server does not take are left out or renamed by extra={max_tokens: null, temperature: null, ...}"
        if status in (400, 404, 422) and self._listed and self.model not in self._listed:
            remedy += self._names_listed()
        return kind(self._message(said, remedy), status)

    def _message(self, said: str, remedy: str) -> str:
        return f"the model server {self.url} (model {self.model!r}, retries={self.retries}) {said}; {remedy}"

    def _excerpt(self, text: str) -> str:
        text = censored(" ".join(text[: 20 * EXCERPT].split()) or "nothing", self._key)  # some servers repeat a wrong key
        return text if len(text) <= EXCERPT else text[:EXCERPT] + "..."

    def _reply(self, body: Any) -> Reply:
        """What a chat's JSON says. A thinking model that is cut before it speaks says nothing, which is no fault.

        Raises Refused where the server gave the reply up, or holds no text that could be the model's turn.
        """
        choice, usage = body["choices"][0], body.get("usage")
        message, ending = choice["message"], choice.get("finish_reason")
        text, calls = _text(message.get("content")), _calls(message.get("tool_calls"))
        tokens = _count(usage.get("completion_tokens") if isinstance(usage, dict) else None)
        refusal = message.get("refusal")
        if str(ending).lower() in GIVEN_UP or (refusal and not text.strip()):
            words = self._excerpt(str(refusal or text))
            said = f"answers 200, but gave the reply up (finish_reason {ending!r}: {words})"
            raise Refused(self._message(said, "look at its filters, its limits and its log"), 200)
        stopped, field = str(ending).lower() not in CUT, "content"
        if not text.strip() and not calls:
            field = next((name for name in THOUGHTS if isinstance(message.get(name), str) and message[name].strip()), field)
            if field != "content":
                text = message[field] if stopped else f"<think>{message[field]}"  # cut within its thought: a draft is no answer
            elif stopped:
                said = f"answers 200 without any text, although it counts {tokens} sampled tokens (finish_reason {ending!r})"
                remedy = "if it has a reasoning parser or a tool parser, start it without (--reasoning-parser, --tool-call-parser)"
                raise Refused(self._message(said, remedy), 200)
        return Reply(replace_surrogates(text), stopped, tokens, calls, field)


def censored(text: str, key: str) -> str:
    """`text` with stars for the key and for every part of it of at least `PIECE` characters, whatever their case.

    The key is also found as JSON, URLs, HTML, base64 and hexadecimal numbers spell it.
    """
    if not key:
        return text
    raw = key.encode()
    forms = [key, quote(key, safe=""), quote_plus(key), html.escape(key), key.replace("/", "\\/"), json.dumps(key)[1:-1], raw.hex()]
    for lead in range(3):  # base64 takes three bytes at a time, so what stands before the key changes how it is spelt
        inside = base64.b64encode(b" " * lead + raw).decode().rstrip("=")[4 if lead else 0 :]
        forms += [inside, inside.replace("+", "-").replace("/", "_")]
    lower = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)  # `lower` changes the length of some texts
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
    """The text of a message: plain, or in parts. Raises TypeError for anything else."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part.get("type") == "text" and isinstance(part["text"], str))
    if not isinstance(content, str | None):
        raise TypeError(f"the text is a {type(content).__name__}")
    return content or ""


def _calls(calls: Any) -> tuple[tuple[str, str], ...]:
    """Name and arguments of every call in `tool_calls`; what is none is left out."""
    found = []
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            arguments = function.get("arguments")
            found.append((str(function.get("name")), arguments if isinstance(arguments, str) else json.dumps(arguments)))
    return tuple(found)


def _count(tokens: Any) -> int:
    """A number of tokens; 0 for one that is missing or that no reply can have."""
    return tokens if isinstance(tokens, int) and not isinstance(tokens, bool) and 0 <= tokens <= MOST_TOKENS else 0


def _names(body: Any) -> list[str]:
    return [str(entry["id"]) for entry in body["data"]]
