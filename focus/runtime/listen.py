"""A port that is taken before anything expensive is loaded, and a server on it."""

import errno
import socket
from contextlib import suppress
from typing import Any

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens at an address; port 0 takes a free one. Raises ValueError where that can't be."""
    try:
        return _bound(host, port)
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]  # Python repeats the address
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            remedy = f"choose another port: port={_next_port(host, port)}"
        else:
            remedy = f"choose an address of this machine: host={LOOPBACK[0]}"
        raise ValueError(f"{host}:{port} can't be listened at ({reason}); {remedy}") from error


def _bound(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    return socket.create_server(address[:2], family=family, backlog=2048)


def _next_port(host: str, port: int) -> int:
    """The first port after this one that is free now; 0, which takes any, where there is none."""
    for other in range(port + 1, 65536):
        with suppress(OSError), _bound(host, other):
            return other
    return 0


def address_of(listener: socket.socket) -> str:
    """The URL at which a socket is reached, without a path."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(app: Any, listener: socket.socket) -> None:
    """Serve an application on a socket until ctrl-C or SIGTERM."""
    import uvicorn

    settings = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=1)
    uvicorn.Server(settings).run(sockets=[listener])
