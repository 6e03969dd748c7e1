"""The lightbox over given folders, answered without a server."""

from collections.abc import Callable, Sequence
from pathlib import Path

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
