"""The crop loop: the model speaks, the tool answers with a crop of the ORIGINAL, until there is an answer. E1.

Turn limit: `max_turns = max_crops + 1`; the answer turn counts.
"""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch

from focus.boxes import settle, to_original
from focus.checkpoint import Checkpoint
from focus.data.original import Original
from focus.data.sample import Sample
from focus.gap import View, cut
from focus.prompts import (
    CALL_OPEN,
    CROP_CONTENT,
    Answer,
    Call,
    Fault,
    Malformed,
    encode,
    error_content,
    observation_text,
    parse,
    question_text,
)
from focus.rollout.engine import Completion, Conversation, Engine, Sampling
from focus.rollout.trajectory import Action, Alter, Crop, Observation, Status, Trajectory, Turn

WORKERS = min(8, os.cpu_count() or 1)  # threads that cut crops


@dataclass(frozen=True)
class Rules:
    """What a conversation may cost. `crop_tokens` bounds one crop, in merged tokens."""

    max_crops: int
    crop_tokens: int
    sampling: Sampling

    @property
    def max_turns(self) -> int:
        return self.max_crops + 1


def seed_of(*parts: object) -> int:
    """A 63-bit seed, a pure function of its parts, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1


def begin(
    checkpoint: Checkpoint, sample: Sample, view: View, source: Original, seeds: Sequence[int], opening: str = ""
) -> list[Trajectory]:
    """Sibling conversations before their first turn, one for each seed; they share one prompt object."""
    text = question_text(checkpoint.dialect, sample.question, sample.options)
    prompt = tuple(encode(checkpoint.tokenizer, text, [view.tokens]))
    return [opened(checkpoint, Trajectory(sample, source, view, prompt, seed), opening) for seed in seeds]


def opened(checkpoint: Checkpoint, trajectory: Trajectory, opening: str) -> Trajectory:
    """A sibling into whose mouth `opening` is put: `<tool_call>` forces a crop, `<answer>` an answer without one."""
    return replace(trajectory, opening=opening, opening_ids=tuple(encode(checkpoint.tokenizer, opening)))


def play(checkpoint: Checkpoint, engine: Engine, trajectories: Sequence[Trajectory], rules: Rules) -> list[Trajectory]:
    """Continue every open trajectory until it ends; the order is kept.

    Trajectories that share a prompt object share its encoding. Crops are cut by worker threads: while others still speak, where
    processors are left over from the arithmetic, else when all have spoken.
    """
    done = list(trajectories)
    parents: dict[int, str] = {}
    ahead = checkpoint.model.device.type != "cpu" or torch.get_num_threads() < (os.cpu_count() or 1)
    with ThreadPoolExecutor(WORKERS) as workers, checkpoint.remembering():
        while live := [i for i, t in enumerate(done) if t.status is Status.OPEN]:
            asked = [_asked(i, done[i], parents.get(i)) for i in live]
            spoken: dict[int, _Spoken] = {}
            crops: dict[int, Future[View] | None] = {}
            for place, completion in engine.generate(asked, rules.sampling):
                i = live[place]
                spoken[i] = _listen(checkpoint, done[i], completion, rules)
                if ahead:
                    crops[i] = _cutting(workers, checkpoint, done[i], spoken[i].action, rules)
            for i in live:
                if i not in crops:
                    crops[i] = _cutting(workers, checkpoint, done[i], spoken[i].action, rules)
            for i, conversation in zip(live, asked, strict=True):
                crop = crops[i]
                done[i] = _heard(checkpoint, done[i], spoken[i], crop.result() if crop else None)
                parents[i] = conversation.id
    engine.forget()
    return done


def _asked(number: int, t: Trajectory, parent: str | None) -> Conversation:
    return Conversation(
        f"{number} turn {len(t.turns)}",
        parent,
        f"prompt {id(t.prompt_ids)}",
        len(t.prompt_ids),
        tuple(t.ids),
        tuple(t.images),
        seed_of(t.seed, len(t.turns)),
    )


def reopen(trajectory: Trajectory, alter: Alter) -> Trajectory:
    """The same conversation up to its last observation, its crops replaced: the model's own words stay, only pixels change.

    Crops that it may still ask for are replaced too.
    """
    turns = []
    for turn in trajectory.turns:
        if turn.observation is None:
            break
        crop = turn.observation.crop
        turns.append(replace(turn, observation=replace(turn.observation, crop=alter(crop, trajectory) if crop else None)))
    return replace(trajectory, turns=tuple(turns), status=Status.OPEN, alter=alter)


@dataclass(frozen=True)
class _Spoken:
    """A turn that was spoken and understood. `reply` is what the tool says, None if nothing."""

    completion: Completion
    text: str
    action: Action
    status: Status
    reply: str | None = None


def _heard(checkpoint: Checkpoint, trajectory: Trajectory, spoken: _Spoken, crop: View | None) -> Trajectory:
    """The trajectory with this turn and the tool's answer to it."""
    observation = None
    if spoken.reply is not None:
        text = observation_text(spoken.reply, closed=spoken.text.endswith("<|im_end|>"))
        observation = Observation(tuple(encode(checkpoint.tokenizer, text, [crop.tokens] if crop else [])), crop)
    turn = Turn(spoken.completion.ids, spoken.completion.logprobs, spoken.text, spoken.action, observation)
    return trajectory.then(turn, spoken.status)


def _listen(checkpoint: Checkpoint, trajectory: Trajectory, completion: Completion, rules: Rules) -> _Spoken:
    """Understand a turn. A box that does not touch the image is an invalid call and gets an error text, no crop."""
    opening = trajectory.opening if not trajectory.turns else ""
    text = opening + checkpoint.tokenizer.decode(completion.ids)
    last = len(trajectory.turns) + 1 >= rules.max_turns
    spoken = parse(text)
    if isinstance(spoken, Answer):
        return _Spoken(completion, text, spoken, Status.ANSWERED)
    if isinstance(spoken, Call):
        if last:
            return _Spoken(completion, text, Malformed(Fault.NO_CROPS_LEFT), Status.OUT_OF_TURNS)
        size = trajectory.sample.size
        place = to_original(spoken.box_view, checkpoint.dialect.frame, trajectory.view.size, size)
        box_px = settle(place, size, checkpoint.token_px)
        if box_px is None:
            return _Spoken(completion, text, Malformed(Fault.OUTSIDE), Status.OPEN, error_content(Fault.OUTSIDE))
        return _Spoken(completion, text, Crop(spoken.box_view, box_px), Status.OPEN, CROP_CONTENT)
    if not completion.stopped:
        return _Spoken(completion, text, spoken, Status.OUT_OF_TOKENS)
    if CALL_OPEN in text and not last:  # a call that can't be read is answered, so that the model may mend it
        return _Spoken(completion, text, spoken, Status.OPEN, error_content(spoken.fault))
    return _Spoken(completion, text, spoken, Status.MALFORMED)


def _cutting(workers: ThreadPoolExecutor, checkpoint: Checkpoint, t: Trajectory, action: Action, rules: Rules) -> Future[View] | None:
    return workers.submit(_zoom, checkpoint, t, action, rules) if isinstance(action, Crop) else None


def _zoom(checkpoint: Checkpoint, trajectory: Trajectory, asked: Crop, rules: Rules) -> View:
    crop = cut(trajectory.source, asked.box_px, trajectory.sample.size, rules.crop_tokens, checkpoint.token_px)
    if trajectory.alter:
        crop = trajectory.alter(crop, trajectory)
    checkpoint.prepare(crop.image)
    return crop
