"""The lightbox over given folders, answered without a server or by one, and a run that keeps trajectories."""

import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from fastapi import APIRouter
from fastapi.testclient import TestClient

from focus.evaluation.kept import About, Kept
from focus.lightbox.app import make_app
from focus.lightbox.images import Images
from focus.lightbox.places import Places
from focus.rewards import examples, score
from tests.support.examples import answered, opened, zoomed
from tests.support.trajectories import stage1

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


MARKUP = "<img src=x onerror=alert(1)>"
BOX = (112.0, 112.0, 224.0, 224.0)


def keep_run(folder: Path) -> None:
    """A run with one update, one probe and a history.

    In the update a question has two rollouts: right after a crop, and wrong without one; the answer of
    the second is markup. In the probe the answer to noise is the policy's own.
    """
    begun = opened(3)
    played = [answered(zoomed(begun, BOX), begun.sample.answers[0]), answered(begun, MARKUP)]
    update = Kept(folder, About("update", 20, "", ""), mib=8)
    update.add_update(examples(played, score(stage1(), played)), [1.0, -1.0])
    update.write()
    looked = answered(zoomed(begun, BOX), "wrong")
    probe = Kept(folder, About("probe", 40, "", ""), mib=8)
    probe.add(probe.rows_of({"own": looked, "noise": looked}), {"own": "wrong", "noise": "wrong"}, {"own": 0.0, "noise": 0.0})
    probe.write()
    rows = [{"update": update, "reward/total": update / 10, "probe/own": None} for update in (1, 2)]
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"update": 3, "rew')
