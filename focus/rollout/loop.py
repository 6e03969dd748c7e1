"""The crop loop: the model speaks, the tool answers with a crop of the ORIGINAL, until there is an answer. E1.

Turn limit: `max_turns = max_crops + 1`; the answer turn counts.
"""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from PIL import Image

from focus.data.boxes import Box, settle, to_original
from focus.data.original import Decoded, Original
from focus.data.sample import ImageFile, Sample
from focus.gap import View, cut
from focus.model.prompts import (
    CROP_CONTENT,
    Answer,
    Call,
    Fault,
    Malformed,
    Model,
    encode,
    error_content,
    observation_text,
    parse,
    question_text,
)
from focus.rollout.engine import Completion, Engine, Request, Sampling
from focus.rollout.trajectory import Action, Alter, Crop, Observation, Status, Trajectory, Turn

WORKERS = min(8, os.cpu_count() or 1)  # threads that cut crops


@dataclass(frozen=True)
class RolloutLimits:
    """What a conversation may cost. `crop_tokens` bounds one crop, in merged tokens; with `fixed_crops` every crop has about that size.

    A crop of less than `crop_min_tokens` is enlarged. `force_first_crop` opens every training rollout with a call (MGPO).
    """

    max_crops: int
    crop_tokens: int
    sampling: Sampling
    fixed_crops: bool = False
    force_first_crop: bool = False
    crop_min_tokens: int = 1

    @property
    def max_turns(self) -> int:
        return self.max_crops + 1

    def cut(self, trajectory: Trajectory, box_px: Box, token_px: int) -> View:
        """What the tool delivers for a settled box of this conversation's image."""
        budget = (self.crop_tokens, token_px, self.fixed_crops, self.crop_min_tokens)
        return cut(trajectory.source, box_px, trajectory.sample.size, *budget)


def seed_of(*parts: object) -> int:
    """A 63-bit seed, a pure function of its parts, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1


def begin(
    policy: Model, sample: Sample, view: View, source: Original, seeds: Sequence[int], opening: str = "", tool: bool = True
) -> list[Trajectory]:
    """Sibling conversations before their first turn, one for each seed; they share one prompt and are one group. `tool`: is it offered?"""
    dialect = policy.dialect if tool else policy.dialect.without_tool()
    prompt = tuple(encode(policy.tokenizer, question_text(dialect, sample.question, sample.options), [view.tokens]))
    first = with_prefill(policy, Trajectory(sample=sample, source=source, view=view, prompt_ids=prompt, seed=0, tool_offered=tool), opening)
    return [replace(first, seed=seed) for seed in seeds]


def blank(policy: Model) -> Trajectory:
    """A rollout without content, of one visual and one sampled token: what a rank without rollouts passes while others pass theirs."""
    image = Image.new("RGB", (policy.token_px, policy.token_px))
    sample = Sample("blank", "", "", ImageFile(Path()), *image.size, question="", answers=())
    [asked] = begin(policy, sample, View(image, 1, image.size), Decoded(image), [0])
    [token] = encode(policy.tokenizer, "<|im_end|>")
    return asked.with_turn(Turn((token,), (0.0,), "", Malformed(Fault.NO_ACTION)), Status.MALFORMED)


def with_prefill(policy: Model, trajectory: Trajectory, prefill: str) -> Trajectory:
    """A sibling into whose mouth `opening` is put: `<tool_call>` forces a crop, `<answer>` an answer without one."""
    return replace(trajectory, prefill=prefill, prefill_ids=tuple(encode(policy.tokenizer, prefill)))


def play(policy: Model, engine: Engine, trajectories: Sequence[Trajectory], limits: RolloutLimits) -> list[Trajectory]:
    """Continue every open trajectory until it ends; the order is kept.

    Trajectories of one group share the encoding of their prompt. Crops are cut by worker threads: while others still speak, where
    processors are left over from the arithmetic, else when all have spoken. The engine keeps what it computed until the next `play`,
    or until it is told to forget.
    """
    engine.clear_cache()
    done = list(trajectories)
    ahead = policy.has_idle_processors
    with ThreadPoolExecutor(WORKERS) as workers, policy.image_cache():
        while live := [i for i, t in enumerate(done) if t.status is Status.OPEN]:
            asked = [request_for(done[i], len(done[i].turns) - 1) for i in live]
            spoken: dict[int, _ParsedTurn] = {}
            crops: dict[int, Future[View | None] | None] = {}
            for place, completion in engine.generate(asked, limits.sampling):
                i = live[place]
                spoken[i] = _parse_turn(policy, done[i], completion, limits)
                if ahead:
                    crops[i] = _submit_crop(workers, policy, done[i], spoken[i].action, limits)
            for i in live:
                if i not in crops:
                    crops[i] = _submit_crop(workers, policy, done[i], spoken[i].action, limits)
            for i, conversation in zip(live, asked, strict=True):
                crop = crops[i]
                done[i] = _append_turn(policy, done[i], spoken[i], crop.result() if crop else None, conversation.id)
    return done


_numbers = count()  # no two conversations of a process have one name, so an engine never takes one for another


def request_for(t: Trajectory, kept_turn: int, words: Sequence[int] = ()) -> Request:
    """What an engine is asked to continue, or to weigh with `words` at its end.

    Up to `kept_turn` (-1: none) it is what the engine has read already, observation of that turn excluded.
    """
    return Request(
        f"{next(_numbers)} turn {len(t.turns)}",
        t.turns[kept_turn].request_id if kept_turn >= 0 else None,
        f"prompt {t.group}",
        len(t.prompt_ids),
        (*t.ids, *words),
        tuple(t.images),
        seed_of(t.seed, len(t.turns)),
        t,
    )


def reopen(policy: Model, trajectory: Trajectory, alter: Alter) -> Trajectory:
    """The same conversation up to its last observation, its crops replaced: the model's own words stay, only pixels change.

    Crops that it may still ask for are replaced too.
    """
    again = replace(trajectory, turns=(), status=Status.OPEN, alter=alter)
    for turn in trajectory.turns:
        if turn.observation is None:
            break
        if turn.observation.crop and isinstance(turn.action, Crop):
            turn = replace(turn, observation=_tool_observation(policy, again, turn.text, alter(turn.observation.crop, turn.action, again)))
        again = again.with_turn(turn, Status.OPEN)
    return again


def _tool_observation(policy: Model, before: Trajectory, said: str, crop: View | None, error: str | None = None) -> Observation:
    """The tool's answer to a call: the crop, or else the error."""
    content = CROP_CONTENT if crop else error or error_content()
    text = observation_text(policy.dialect, content, len(before.crops), closed=said.endswith("<|im_end|>"))
    return Observation(tuple(encode(policy.tokenizer, text, [crop.tokens] if crop else [])), crop, content)


@dataclass(frozen=True)
class _ParsedTurn:
    """A turn that was spoken and understood. `error` is what the tool says instead of a crop."""

    completion: Completion
    text: str
    action: Action
    status: Status
    error: str | None = None


def _append_turn(policy: Model, trajectory: Trajectory, spoken: _ParsedTurn, crop: View | None, conversation: str) -> Trajectory:
    """The trajectory with this turn and the tool's answer to it."""
    called = isinstance(spoken.action, Crop) or spoken.error is not None
    observation = _tool_observation(policy, trajectory, spoken.text, crop, spoken.error) if called else None
    turn = Turn(spoken.completion.ids, spoken.completion.logprobs, spoken.text, spoken.action, observation, conversation)
    return trajectory.with_turn(turn, spoken.status)


def _parse_turn(policy: Model, trajectory: Trajectory, completion: Completion, limits: RolloutLimits) -> _ParsedTurn:
    """Understand a turn. A box that does not touch the image is an invalid call and gets an error text, no crop."""
    opening = trajectory.prefill if not trajectory.turns else ""
    text = opening + (policy.tokenizer.decode(completion.ids) if completion.text is None else completion.text)
    last = len(trajectory.turns) + 1 >= limits.max_turns
    spoken = parse(text, policy.dialect)
    if completion.refused:
        return _ParsedTurn(completion, text, Malformed(Fault.NO_ACTION), Status.REFUSED)
    if isinstance(spoken, Answer):
        return _ParsedTurn(completion, text, spoken, Status.ANSWERED)
    if isinstance(spoken, Call):
        if last:
            return _ParsedTurn(completion, text, Malformed(Fault.NO_CROPS_LEFT), Status.OUT_OF_TURNS)
        box_px = _resolve_box(policy, trajectory, spoken)
        if box_px is None:
            return _ParsedTurn(completion, text, Malformed(Fault.OUTSIDE), Status.OPEN, error_content(Fault.OUTSIDE))
        return _ParsedTurn(completion, text, Crop(spoken.box_view, box_px), Status.OPEN)
    if not completion.stopped:
        return _ParsedTurn(completion, text, spoken, Status.OUT_OF_TOKENS)
    if policy.dialect.call[0] in text and not last:  # a call that can't be read is answered, so that the model may mend it
        return _ParsedTurn(completion, text, spoken, Status.OPEN, error_content(spoken.fault))
    return _ParsedTurn(completion, text, spoken, Status.MALFORMED)


def _resolve_box(policy: Model, t: Trajectory, call: Call) -> Box | None:
    """The pixels of the original that a call asks for; None where it means none, or an image that was never shown."""
    if not 0 <= call.source < len(t.shown):
        return None
    (left, top, right, bottom), size = t.shown[call.source]
    x1, y1, x2, y2 = to_original(call.box_view, policy.dialect.frame, size, (right - left, bottom - top))
    return settle((left + x1, top + y1, left + x2, top + y2), t.sample.size, policy.token_px)


def _submit_crop(
    workers: ThreadPoolExecutor, policy: Model, t: Trajectory, action: Action, limits: RolloutLimits
) -> Future[View | None] | None:
    return workers.submit(_make_crop, policy, t, action, limits) if isinstance(action, Crop) else None


def _make_crop(policy: Model, trajectory: Trajectory, asked: Crop, limits: RolloutLimits) -> View | None:
    crop: View | None = limits.cut(trajectory, asked.box_px, policy.token_px)
    if crop and trajectory.alter:
        crop = trajectory.alter(crop, asked, trajectory)
    if crop:
        policy.prepare(crop.image)
    return crop
