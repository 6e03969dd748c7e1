"""A policy that says what it is told, so that tests can hold the loop to its word."""

import json
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace

import torch

from focus.data.boxes import Box, Frame
from focus.data.scenes import DIFFICULTY, Scene
from focus.gap import Gap, Mode, resize_to_budget
from focus.model.policy_model import PolicyModel
from focus.model.prompts import CALL_CLOSE, CALL_OPEN, TOOL, call_body, call_text
from focus.rollout.engine import Completion, Engine, Request, Requests, Sampling
from focus.rollout.kv import KVEngine
from focus.rollout.loop import RolloutLimits, begin, play
from focus.rollout.trajectory import Trajectory


class Scripted:
    """An engine: turn n of every conversation is the n-th text. A text longer than the token limit is cut, not stopped."""

    def __init__(self, policy: PolicyModel, *script: str) -> None:
        self.policy, self.script = policy, [in_dialect(policy, text) for text in script]

    def generate(self, requests, sampling):
        for request in requests:
            yield request, self.says(request, sampling)

    def says(self, request: Request, sampling: Sampling) -> Completion:
        text = self.script[int(request.id.rsplit(" ", 1)[1])]
        ids = tuple(self.policy.tokenizer.encode(text, add_special_tokens=False))
        cut = ids[: sampling.tokens_per_turn]
        return Completion(cut, (-0.5,) * len(cut), stopped=cut == ids)

    shares_weights = False

    def clear_cache(self) -> None:
        pass

    def sleep(self) -> None:
        pass

    def sync_weights(self) -> None:
        pass


def completions(engine: Engine, asked: Sequence[Request], sampling: Sampling) -> list[Completion]:
    """One turn of every request, without a conversation around it."""
    requests = Requests([replace(request, conversation=i) for i, request in enumerate(asked)])
    ended: Future[Request | None] = Future()
    ended.set_result(None)
    found = {}
    for request, completion in engine.generate(requests, sampling):
        found[request.conversation] = completion
        requests.add(ended)
    return [found[i] for i in range(len(asked))]


def call(*box_view: float) -> str:
    """A call as the policy would write it."""
    x1, y1, x2, y2 = box_view
    box: Box = (x1, y1, x2, y2)
    return call_text(box)


def playing(
    policy: PolicyModel,
    *script: str,
    max_crops: int = 1,
    tokens_per_turn: int = 100,
    crop_tokens: int = 64,
    index: int = 0,
    gap: Mode = Mode.FIXED,
    view_tokens: int = 16,
    difficulty: int = 1,
) -> Trajectory:
    """One scripted conversation about an embedded scene of 448 x 448 px."""
    scene = Scene(DIFFICULTY[difficulty], "train", index)
    sample = scene.sample()
    view, source = Gap(gap, view_tokens, policy.token_px).view_of(sample, scene.open())
    opened = begin(policy, sample, view, source, [0])
    return play(policy, Scripted(policy, *script), opened, RolloutLimits(max_crops, crop_tokens, Sampling(1.0, tokens_per_turn)))[0]


def call_of(policy: PolicyModel, box_view: Box) -> str:
    """A call in the form of the policy's dialect."""
    opening, closing = policy.dialect.call
    if policy.dialect.call_format == "json":
        return call_text(box_view)
    return opening + call_body(policy.dialect, TOOL, json.dumps({"bbox_2d": [round(value) for value in box_view]})) + closing


def in_dialect(policy: PolicyModel, text: str) -> str:
    """A turn with `call`, in the form of the policy's dialect."""
    if policy.dialect.call_format == "json" or not (text.startswith(CALL_OPEN + "{") and text.endswith("}" + CALL_CLOSE)):
        return text
    try:
        x1, y1, x2, y2 = json.loads(text.removeprefix(CALL_OPEN).removesuffix(CALL_CLOSE))["arguments"]["bbox_2d"]
    except (ValueError, KeyError):  # a call that is wrong by intent
        return text
    return call_of(policy, (x1, y1, x2, y2))


def steer(policy: PolicyModel, boxes, calls: int):
    """A KV engine that samples a call with these boxes in its first `calls` turns, whatever the weights say."""

    class Engine(KVEngine):
        def _decode(self, requests, rows, hidden, sampling):
            self.turn = int(requests[0].id.rsplit(" ", 1)[1])
            self.scripts = [
                self.policy.tokenizer.encode(call_of(self.policy, boxes[(i + self.turn) % len(boxes)]), add_special_tokens=False)
                for i in range(len(requests))
            ]
            return super()._decode(requests, rows, hidden, sampling)

        def _draw(self, hidden, banned, noise, temperature, request_of, step):
            if self.turn >= calls:
                return super()._draw(hidden, banned, noise, temperature, request_of, step)
            scripts = [self.scripts[i] for i in request_of.tolist()]
            token = torch.tensor([script[min(step, len(script) - 1)] for script in scripts], device=hidden.device)
            scores = torch.log_softmax(self.policy.head(hidden).float().index_fill(1, banned, float("-inf")), -1)
            return token, scores.gather(1, token[:, None])[:, 0]

    return Engine(policy)


def opened(policy: PolicyModel, questions: int = 2, siblings: int = 3) -> list[Trajectory]:
    trajectories = []
    for q in range(questions):
        scene = Scene(replace(DIFFICULTY[2], side_px=224 + 70 * q), "train", q)
        original = scene.open()
        view = resize_to_budget(original, 16 + 9 * q, policy.token_px)
        trajectories += begin(policy, scene.sample(), view, original, [100 * q + k for k in range(siblings)])
    return trajectories


def boxes_of(policy: PolicyModel):
    small = policy.dialect.frame is Frame.VIEW_PIXELS
    scale = 0.1 if small else 1.0
    return [tuple(v * scale for v in box) for box in ((100, 100, 400, 300), (500, 500, 990, 980), (0, 0, 90, 60), (700, 10, 930, 700))]


def forwards(policy: PolicyModel, monkeypatch) -> list[int]:
    """Tokens of every forward from here on."""
    tokens: list[int] = []
    hidden = policy.hidden
    monkeypatch.setattr(policy, "hidden", lambda ids, *rest: tokens.append(len(ids)) or hidden(ids, *rest))
    return tokens
