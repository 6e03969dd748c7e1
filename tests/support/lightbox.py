"""The lightbox over given folders, answered without a server or by one."""

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from fastapi import APIRouter
from fastapi.testclient import TestClient

from focus.lightbox.app import make_app
from focus.lightbox.images import Images
from focus.lightbox.places import Places

Room = Callable[[Places, Images], APIRouter]


def client_of(folders: Sequence[Path], *rooms: Room, token: str | None = None, base_url: str = "http://127.0.0.1:8899") -> TestClient:
    """A client of the page. A room is what makes its router of the folders and images: `look.router`."""
    places, images = Places(folders), Images()
    app = make_app(places, images, [room(places, images) for room in rooms], token)
    return TestClient(app, base_url=base_url, follow_redirects=False)


@contextmanager
def served(folders: Sequence[Path], *rooms: Room) -> Iterator[str]:
    """The same page from a server at a free port; yields its address."""
    places, images = Places(folders), Images()
    listener = socket.create_server(("127.0.0.1", 0))
    app = make_app(places, images, [room(places, images) for room in rooms])
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
