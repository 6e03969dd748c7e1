"""A chat-completions server on this machine that answers what a test says, and breaks as a test says."""

import json
import os
import re
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Respond = Callable[[dict[str, Any]], tuple[str, str, int]]  # the request's JSON -> text, finish_reason, completion_tokens


@dataclass(frozen=True)
class Request:
    """One HTTP request as it came in, names of headers in lower case; `body` is None for a GET."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any] | None


class Handler(BaseHTTPRequestHandler):
    """One connection. A `Fault` gets it with a function that makes the reply which would have been sent."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body leave in one piece: no delayed acknowledgement in between
    server: "Server"

    def do_GET(self) -> None:
        self.serve(None)

    def do_POST(self) -> None:
        self.serve(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def serve(self, body: dict[str, Any] | None) -> None:
        fault = self.server.open(Request(self.path, {name.lower(): value for name, value in self.headers.items()}, body))
        try:
            if fault is not None:
                fault(self, lambda: self.server.answer(self.path, body)[1])
            else:
                self.send(*self.server.answer(self.path, body))
        except OSError:  # the client has hung up
            self.close_connection = True
        finally:
            self.server.close_one()

    def send(self, status: int, payload: Any, headers: dict[str, str] | None = None) -> None:
        text = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(text)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:
        pass


Fault = Callable[[Handler, Callable[[], Any]], None]


class Server(ThreadingHTTPServer):
    """`with Server(respond) as server:` serves `models` at `server.url` until the block ends.

    Each of `faults` spoils one request, whatever it asks for, in the order of arrival. `respond` is called by several threads at once;
    one that cannot bear that holds a lock of its own. What it raises is answered as 500 with the exception's text.
    `requests` are all that came; `most_open` is the greatest number that was being answered at once.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, respond: Respond, faults: Iterable[Fault] = (), models: Iterable[str] = ("tiny",), port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.respond, self.faults, self.models = respond, deque(faults), tuple(models)
        self.requests: list[Request] = []
        self.most_open = self._open = 0
        self.closing = threading.Event()
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @property
    def chats(self) -> list[dict[str, Any]]:
        """The bodies of the chat requests, in the order of arrival."""
        return [request.body for request in self.requests if request.body is not None]

    def __enter__(self) -> "Server":
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()
        # Threads of open connections outlive the test: one that held the last tensors of a policy would abort the interpreter at its end
        del self.respond

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a socket that a test closed

    def open(self, request: Request) -> Fault | None:
        with self._lock:
            self.requests.append(request)
            self._open += 1
            self.most_open = max(self.most_open, self._open)
            return self.faults.popleft() if self.faults else None

    def close_one(self) -> None:
        with self._lock:
            self._open -= 1

    def answer(self, path: str, body: dict[str, Any] | None) -> tuple[int, Any]:
        if path == "/v1/models":
            return 200, {"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]}
        if path != "/v1/chat/completions" or body is None:
            return 404, {"error": {"message": f"no such path: {path}"}}
        if body["model"] not in self.models:
            return 404, {"error": {"message": f"The model `{body['model']}` does not exist."}}
        try:
            text, finish_reason, tokens = self.respond(body)
        except Exception as error:
            return 500, {"error": {"message": f"respond failed: {error!r}"}}
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
        usage = {"prompt_tokens": 0, "completion_tokens": tokens, "total_tokens": tokens}
        return 200, {"id": "chat-1", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice], "usage": usage}


def hurry(monkeypatch: Any) -> None:
    """Back-offs, the package's own and ours, begin at 10 ms, no proxy stands in between, and a client is made without certificates.

    There is no TLS here, and reading certificates takes most of the 50 ms in which a client is made.
    """
    import openai._base_client

    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr("focus.runtime.endpoint.BACKOFF_S", 0.01)
    monkeypatch.setattr("ssl.SSLContext.load_default_certs", lambda *_: None)
    monkeypatch.setattr("ssl.SSLContext.load_verify_locations", lambda *_, **__: None)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def slow(seconds: float) -> Fault:
    """The right answer, late."""

    def fault(handler: Handler, reply: Callable[[], Any]) -> None:
        handler.server.closing.wait(seconds)
        handler.send(200, reply())

    return fault


def status(code: int, message: str = "as the test says", **headers: str) -> Fault:
    """An error in place of the answer. A header's name is written with underscores: `Retry_After="1"`."""

    def fault(handler: Handler, reply: Callable[[], Any]) -> None:
        handler.send(code, {"error": {"message": message}}, {name.replace("_", "-"): value for name, value in headers.items()})

    return fault


def body(payload: Any) -> Fault:
    """Status 200 with `payload`: bytes as they are, everything else as JSON."""

    def fault(handler: Handler, reply: Callable[[], Any]) -> None:
        handler.send(200, payload)

    return fault


def without_choices(choices: list | None = None) -> Fault:
    """The answer with its choices taken out: null, or an empty list."""

    def fault(handler: Handler, reply: Callable[[], Any]) -> None:
        handler.send(200, {**reply(), "choices": choices})

    return fault


def reset(handler: Handler, reply: Callable[[], Any]) -> None:
    """The connection is reset (RST) before a byte of the answer."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(handler.connection.detach())  # `close` alone would wait for the files that were made of it
    handler.close_connection = True


def half_sent(handler: Handler, reply: Callable[[], Any]) -> None:
    """The headers announce the whole answer; half of it comes, then the connection ends."""
    text = json.dumps(reply()).encode()
    handler.send(200, text[: len(text) // 2], {"Content-Length": str(len(text))})
    handler.close_connection = True


def half_json(handler: Handler, reply: Callable[[], Any]) -> None:
    """Half of the answer, announced as if it were all."""
    text = json.dumps(reply()).encode()
    handler.send(200, text[: len(text) // 2])


FENCED = re.compile(r"^(#{8}[0-9a-f]{16})\n(.*)\n\1$", re.DOTALL | re.MULTILINE)


def saying(*replies: str):
    """A judge that gives these replies in turn, and the last one for ever."""
    left = list(replies)

    def respond(request):
        return (left.pop(0) if len(left) > 1 else left[0]), "stop", 1

    return respond


def knowing(*right: str):
    """A judge that says yes to these candidates, and no to all others."""

    def respond(request):
        return ("yes" if candidate(request) in right else "no"), "stop", 1

    return respond


def candidate(request) -> str:
    """What stands between the fences of the prompt."""
    return FENCED.search(request["messages"][-1]["content"])[2]
