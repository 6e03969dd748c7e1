"""Serve the lightbox until ctrl-C."""

import secrets
import socket
from pathlib import Path

from omegaconf import DictConfig

from focus import config
from focus.build import training_samples
from focus.config.schema import LightboxConfig
from focus.data.annotations.project import Project
from focus.data.sample import Records
from focus.lightbox import annotate, ask, look
from focus.lightbox.app import WEB, make_app
from focus.lightbox.images import Images
from focus.lightbox.places import Places
from focus.runtime.listen import LOOPBACK, listening, serve


def run(composed: DictConfig) -> None:
    """Listen, print the address of the page, and answer until ctrl-C. Raises ValueError if the port is in use."""
    cfg = config.validated(composed, LightboxConfig)
    places, images = Places([Path(folder) for folder in cfg.folders]), Images()
    is_local = cfg.host in LOOPBACK
    token = None if is_local else secrets.token_urlsafe(24)
    policy = annotate.Policy(cfg.annotate.checkpoint) if cfg.annotate.checkpoint else None
    rooms = [look.router(places), annotate.router(_questions(cfg), images, policy), ask.router(places, cfg.served)]
    app = make_app(places, images, rooms, token)
    with listening(cfg.host, cfg.port) as listener:
        shown = f"[{cfg.host}]" if ":" in cfg.host else socket.gethostname() if cfg.host in ("0.0.0.0", "::") else cfg.host
        port, key = listener.getsockname()[1], f"?token={token}" if token else ""
        print(f"The lightbox: http://{shown}:{port}/look{key} (ctrl-C ends it)", flush=True)
        if not (WEB / "node_modules").is_dir():
            print(f"Its viewers of large images and curves are not installed: run make env-lightbox, or npm ci in {WEB}", flush=True)
        serve(app, listener)


def _questions(cfg: LightboxConfig) -> Project | None:
    """The questions that the room Annotate shows; None if none were given."""
    if cfg.data.source == "records" and not cfg.data.records:
        return None
    samples = training_samples(cfg.data)
    assert isinstance(samples, Records)
    name = Path(cfg.data.records).stem if cfg.data.records else cfg.data.source
    output = Path(cfg.annotate.output or Path("outputs/annotations") / name)
    with config.writable(output):
        return Project(samples, output)
