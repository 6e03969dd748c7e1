"""`make serve` within a test: an agent on a free port of this machine, until the block ends."""

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import pytest
import uvicorn
from PIL import Image

from focus import agent as agents
from focus.agent import Agent
from focus.rollout.engine import Engine, Model
from focus.runtime.listen import address_of, listening
from focus.serving.app import Bounds, make_app

BOUNDS = Bounds(body_bytes=2**20, question_chars=1000)


def agent_of(model: Model, engine: Engine, *overrides: str) -> Agent:
    """An agent of this model and engine, with the settings of the embedded policy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agents, "load_evaluated", lambda cfg: (model, engine))
        return Agent.load("embedded", "threads=1", *overrides)


@contextmanager
def serving(agent: Agent, name: str = "embedded", slots: int = 1, bounds: Bounds = BOUNDS, key: str = "") -> Iterator[str]:
    """The URL of a server, up to /v1."""
    with listening("127.0.0.1", 0) as listener:
        settings = uvicorn.Config(make_app(agent, name, slots, bounds, key), log_level="critical", timeout_graceful_shutdown=1)
        server = uvicorn.Server(settings)
        thread = Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield f"{address_of(listener)}/v1"
        finally:
            server.should_exit = True
            thread.join()


def data_url(image: Image.Image | bytes) -> str:
    """An image, or the bytes of a file, as a data URL."""
    if isinstance(image, Image.Image):
        file = io.BytesIO()
        image.save(file, "PNG")
        image = file.getvalue()
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


def about(image: Image.Image | bytes, question: str = "What is on the sign?") -> list[dict[str, Any]]:
    """The messages of a question about a picture."""
    parts = [{"type": "image_url", "image_url": {"url": data_url(image)}}, {"type": "text", "text": question}]
    return [{"role": "user", "content": parts}]
