"""A port that is taken before anything expensive is loaded, and a server on it."""

import socket
from typing import Any

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens at an address; port 0 takes a free one. Raises ValueError where that can't be."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]  # Python repeats the address
        raise ValueError(f"{host}:{port} can't be listened at ({reason}); choose another port: port={port + 1}") from error


def address_of(listener: socket.socket) -> str:
    """The URL at which a socket is reached, without a path."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(app: Any, listener: socket.socket) -> None:
    """Serve an application on a socket until ctrl-C or SIGTERM."""
    import uvicorn

    settings = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=1)
    uvicorn.Server(settings).run(sockets=[listener])
