"""The HTTP connection to a model server: through the environment's proxy, within limits of time and
size.

httpx limits each read of a reply. So a server that sends a byte now and then blocks its client for
ever, and an endless body fills the memory. Here a request has one deadline, from connecting to the
last byte, and a body has a largest size, packed and unpacked.
"""

import math
import os
import re
import socket
import threading
import time
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

import httpcore2
import httpx2

# Bytes of one body; the longest replies in use, token ids with log-probabilities, have 2 MiB
LARGEST_REPLY = 16 * 2**20
MOST_REDIRECTS = 3
CONNECT_S = 10.0  # Longest wait for a connection: a firewall may let nothing through, and nothing back
NO_CONNECTION = (httpx2.ConnectError, httpx2.ConnectTimeout)


class TooLarge(httpx2.ReadError):
    """A body of more than `LARGEST_REPLY` bytes."""


class _Clock(threading.local):
    """The deadline of this thread's request, by `time.monotonic`."""

    deadline = math.inf

    def left(self, timeout: float | None) -> float:
        """Seconds until the deadline, at most `timeout`. Raises httpcore2.ReadTimeout after it."""
        left = min(self.deadline - time.monotonic(), math.inf if timeout is None else timeout)
        if left <= 0:
            raise httpcore2.ReadTimeout("the time for this request is over")
        return left


class _TimedStream(httpcore2.NetworkStream):
    def __init__(self, inner: httpcore2.NetworkStream, clock: _Clock) -> None:
        self.inner, self.clock = inner, clock

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self.inner.read(max_bytes, self.clock.left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.inner.write(buffer, self.clock.left(timeout))

    def close(self) -> None:
        self.inner.close()

    def start_tls(self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None) -> httpcore2.NetworkStream:
        return _TimedStream(self.inner.start_tls(ssl_context, server_hostname, self.clock.left(timeout)), self.clock)

    def get_extra_info(self, info: str) -> Any:
        return self.inner.get_extra_info(info)


class _TimedBackend(httpcore2.NetworkBackend):
    def __init__(self, inner: httpcore2.NetworkBackend, clock: _Clock) -> None:
        self.inner, self.clock = inner, clock

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        stream = self.inner.connect_tcp(host, port, self.clock.left(timeout), local_address, socket_options)
        return _TimedStream(stream, self.clock)

    def sleep(self, seconds: float) -> None:
        self.inner.sleep(seconds)


class Bounded(httpx2.BaseTransport):
    """A transport with `seconds` per request and at most `LARGEST_REPLY` bytes per body.

    Raises httpx's time-outs, and `TooLarge`.
    """

    def __init__(self, inner: httpx2.HTTPTransport, seconds: float) -> None:
        self.inner, self.seconds, self.clock = inner, seconds, _Clock()
        pool = inner._pool
        pool._network_backend = _TimedBackend(pool._network_backend, self.clock)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        self.clock.deadline = time.monotonic() + self.seconds
        try:
            response = self.inner.handle_request(request)
            body = bytearray()
            try:
                for piece in response.iter_bytes():  # unpacked at most 1 MiB at a time
                    body += piece
                    if len(body) > LARGEST_REPLY:
                        raise TooLarge(f"a body of more than {LARGEST_REPLY // 2**20} MiB", request=request)
            finally:
                response.close()
        finally:
            self.clock.deadline = math.inf
        packed = ("content-encoding", "content-length", "transfer-encoding")
        headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in packed]
        return httpx2.Response(response.status_code, headers=headers, content=bytes(body), request=request)

    def close(self) -> None:
        self.inner.close()


def limits_of_time(seconds: float) -> httpx2.Timeout:
    """Time limits for a request of `seconds` in all."""
    return httpx2.Timeout(seconds, connect=min(seconds, CONNECT_S))


def unreachable(url: str) -> str | None:
    """Why no connection to the server at `url` can be made; None if one can, or if a proxy is in between."""
    address = urlsplit(url)
    if proxy_of(url):
        return None
    try:
        socket.create_connection((address.hostname, address.port or (443 if address.scheme == "https" else 80)), CONNECT_S).close()
    except OSError as error:
        return str(error)
    return None


def client(url: str, seconds: float, connections: int) -> httpx2.Client:
    """A client for the server at `url`; a request may take `seconds` in all.

    Raises ValueError, with the environment variable, if the environment's proxy or certificates
    can't be used.
    """
    try:
        certificates = httpx2.create_ssl_context()
    except (OSError, ValueError) as error:
        variables = " and ".join(name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name))
        raise ValueError(
            f"the certificates of {variables or 'this system'} can't be read ({error}); correct or unset the environment variable"
        ) from None
    proxy = proxy_of(url)
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=connections)
    try:
        inner = httpx2.HTTPTransport(verify=certificates, proxy=proxy[1] if proxy else None, limits=limits, trust_env=False)
    except (ValueError, ImportError, httpx2.InvalidURL) as error:
        assert proxy is not None, error
        reason = "its port or address can't be read"
        if isinstance(error, ImportError):
            reason = "a SOCKS proxy needs the package socksio: pip install socksio"
        elif "scheme" in str(error):
            reason = "a proxy's address begins with http://, https://, socks5:// or socks5h://"
        raise ValueError(
            f"the environment variable {proxy[0]} is {without_password(proxy[1])}: {reason}. Correct or unset it, or avoid the proxy: "
            f"NO_PROXY={urlsplit(url).hostname}"
        ) from None
    return httpx2.Client(transport=Bounded(inner, seconds), follow_redirects=True, max_redirects=MOST_REDIRECTS, trust_env=False)


def proxy_of(url: str) -> tuple[str, str] | None:
    """The environment variable with the proxy for `url`, and its value; None without a proxy."""
    parts = urlsplit(url)
    proxies = getproxies_environment()
    kind = next((kind for kind in (parts.scheme, "all") if proxies.get(kind)), None)
    if kind is None or proxy_bypass(parts.hostname or ""):
        return None
    value = proxies[kind]
    name = next(name for name in os.environ if name.lower() == f"{kind}_proxy" and os.environ[name] == value)
    return name, value if "://" in value else f"http://{value}"


def without_password(url: str) -> str:
    """A URL that may be shown: user name and password become stars."""
    return re.sub(r"//[^/?#]*@", "//***@", url)
