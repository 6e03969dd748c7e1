"""Serve a policy: its crop loop is here, its arithmetic here or on a model server."""

import os

from omegaconf import DictConfig
from rich.console import Console

from focus import config
from focus.agent import Agent
from focus.config.schema import ServeConfig
from focus.runtime.listen import address_of, listening, serve
from focus.serving.app import Bounds, make_app


def run(composed: DictConfig) -> None:
    """Serve until ctrl-C or SIGTERM."""
    cfg = config.validated(composed, ServeConfig)
    console = Console(markup=False, highlight=False, soft_wrap=True)
    with listening(cfg.host, cfg.port) as listener:  # a port that is taken is refused before a policy is loaded
        agent, name = Agent(cfg), cfg.policy.checkpoint
        bounds = Bounds(int(cfg.max_request_mib * 2**20), cfg.max_question_chars)
        # A model server fills its batches from many conversations; an engine in this process plays one after the other
        slots = cfg.rollout.endpoint.concurrency if cfg.rollout.engine == "openai" and cfg.rollout.endpoint else 1
        console.print(f"{name}: views of at most {cfg.view_tokens:,} tokens, at most {cfg.rollout.max_crops} crops")
        console.print(f"serving at {address_of(listener)}/v1; ctrl-C ends it")
        serve(make_app(agent, name, slots, bounds, os.environ.get(cfg.key_env, "")), listener)
