"""The crop loop: the model speaks, the tool answers with a crop of the ORIGINAL, until there is an answer. E1.

Turn limit: `max_turns = max_crops + 1`; the answer turn counts.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from PIL import Image

from focus.boxes import settle, to_original
from focus.checkpoint import Checkpoint
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
from focus.rollout.trajectory import Action, Crop, Observation, Status, Trajectory, Turn

Alter = Callable[[View, Trajectory], View]  # replaces the pixels of a delivered crop, keeping their size


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
    checkpoint: Checkpoint, sample: Sample, view: View, source: Image.Image, seeds: Sequence[int], opening: str = ""
) -> list[Trajectory]:
    """Sibling conversations before their first turn, one for each seed; they share one prompt.

    `opening` is put into the model's mouth: `<tool_call>` forces a crop, `<answer>` an answer without one.
    """
    text = question_text(checkpoint.dialect, sample.question, sample.options) + opening
    prompt = tuple(encode(checkpoint.tokenizer, text, [view.tokens]))
    return [Trajectory(sample, source, view, prompt, seed, opening) for seed in seeds]


def play(
    checkpoint: Checkpoint, engine: Engine, trajectories: Sequence[Trajectory], rules: Rules, alter: Alter | None = None
) -> list[Trajectory]:
    """Continue every open trajectory until it ends; the order is kept.

    Trajectories that share a prompt object share its encoding. With `alter`, every crop delivered from here on has its pixels
    replaced; ids and boxes stay.
    """
    done = list(trajectories)
    names = {i: f"reopened {i}" if t.turns else f"prompt {id(t.prompt_ids)}" for i, t in enumerate(done)}
    while live := [i for i, t in enumerate(done) if t.status is Status.OPEN]:
        asked = [
            Conversation(
                f"{i} turn {len(done[i].turns)}",
                names[i],
                tuple(done[i].ids),
                tuple(done[i].images),
                seed_of(done[i].seed, len(done[i].turns)),
            )
            for i in live
        ]
        for i, conversation, completion in zip(live, asked, engine.generate(asked, rules.sampling), strict=True):
            done[i] = _advance(checkpoint, done[i], completion, rules, alter)
            names[i] = conversation.id
    engine.forget()
    return done


def reopen(trajectory: Trajectory, alter: Alter) -> Trajectory:
    """The same conversation up to its last observation, its crops replaced: the model's own words stay, only pixels change."""
    turns = []
    for turn in trajectory.turns:
        if turn.observation is None:
            break
        crop = turn.observation.crop
        turns.append(replace(turn, observation=replace(turn.observation, crop=alter(crop, trajectory) if crop else None)))
    return replace(trajectory, turns=tuple(turns), status=Status.OPEN)


def _advance(checkpoint: Checkpoint, trajectory: Trajectory, completion: Completion, rules: Rules, alter: Alter | None) -> Trajectory:
    opening = trajectory.opening if not trajectory.turns else ""
    text = opening + checkpoint.tokenizer.decode(completion.ids)
    last = len(trajectory.turns) + 1 >= rules.max_turns
    action: Action
    observation, status = None, Status.OPEN
    spoken = parse(text)
    if isinstance(spoken, Answer):
        action, status = spoken, Status.ANSWERED
    elif isinstance(spoken, Call) and not last:
        action, observation = _zoom(checkpoint, trajectory, spoken, rules, closed=_closed(text), alter=alter)
    elif isinstance(spoken, Call):
        action, status = Malformed(Fault.NO_CROPS_LEFT), Status.OUT_OF_TURNS
    else:
        action, status = spoken, Status.MALFORMED
        if not completion.stopped:
            status = Status.OUT_OF_TOKENS
        elif CALL_OPEN in text and not last:  # a call that can't be read is answered, so that the model may mend it
            observation = _say(checkpoint, error_content(spoken.fault), closed=_closed(text))
            status = Status.OPEN
    return trajectory.then(Turn(completion.ids, completion.logprobs, text, action, observation), status)


def _closed(text: str) -> bool:
    return text.endswith("<|im_end|>")


def _say(checkpoint: Checkpoint, content: str, closed: bool, crop: View | None = None) -> Observation:
    text = observation_text(content, closed)
    return Observation(tuple(encode(checkpoint.tokenizer, text, [crop.tokens] if crop else [])), crop)


def _zoom(
    checkpoint: Checkpoint, trajectory: Trajectory, call: Call, rules: Rules, closed: bool, alter: Alter | None
) -> tuple[Action, Observation]:
    """Execute a call. A box that does not touch the image is an invalid call and gets an error text, no crop."""
    size = trajectory.sample.size
    box_px = settle(to_original(call.box_view, checkpoint.dialect.frame, trajectory.view.size, size), size, checkpoint.token_px)
    if box_px is None:
        return Malformed(Fault.OUTSIDE), _say(checkpoint, error_content(Fault.OUTSIDE), closed)
    crop = cut(trajectory.source, box_px, size, rules.crop_tokens, checkpoint.token_px)
    if alter:
        crop = alter(crop, trajectory)
    return Crop(call.box_view, box_px), _say(checkpoint, CROP_CONTENT, closed, crop)
