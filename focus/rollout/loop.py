"""The crop loop (E1).

In each turn the model samples a call or an answer; a call is answered with a crop of the ORIGINAL.

Turn limit: `max_turns = max_crops + 1`; the answer turn counts.
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from threading import Event

from PIL import Image

from focus.data.boxes import Box
from focus.data.images.original import Decoded, Original
from focus.data.sample import ImageFile, Sample
from focus.gap import View, cut
from focus.model.prompts import CROP_CONTENT, Fault, Malformed, asked_text, encode, error_content, observation_text, question_text
from focus.rollout.courses import read_turn
from focus.rollout.engine import Completion, Engine, Model, Request, Requests, Sampling
from focus.rollout.trajectory import Alter, Crop, Observation, Status, Trajectory, Turn

WORKERS = min(8, os.cpu_count() or 1)  # threads that cut crops


@dataclass(frozen=True)
class RolloutLimits:
    """The limits of one rollout.

    `crop_tokens` is the budget of one crop, in merged visual tokens; with `fixed_crops` every crop
    is resized to about that size. A crop of fewer than `crop_min_tokens` is enlarged.
    `force_first_crop` prefills the first turn of every training rollout with a call (MGPO).
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
        """The crop of a settled box (`boxes.settle`) of this trajectory's image."""
        budget = (self.crop_tokens, token_px, self.fixed_crops, self.crop_min_tokens)
        return cut(trajectory.source, box_px, trajectory.sample.size, *budget)


def seed_of(*parts: object) -> int:
    """A 63-bit seed, a pure function of its parts, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1


def begin(
    policy: Model, sample: Sample, view: View, source: Original, seeds: Sequence[int], prefill: str = "", tool: bool = True
) -> list[Trajectory]:
    """A group of trajectories without turns, one for each seed.

    `tool`: whether the prompt offers the tool.
    """
    dialect = policy.dialect if tool else policy.dialect.without_tool()
    prompt = tuple(encode(policy.tokenizer, question_text(dialect, sample.question, sample.options), [view.tokens]))
    trajectory = Trajectory(sample=sample, source=source, view=view, prompt_ids=prompt, seed=0, tool_offered=tool)
    first = with_prefill(policy, trajectory, prefill)
    return [replace(first, seed=seed) for seed in seeds]


def blank(policy: Model) -> Trajectory:
    """A placeholder of one visual and one sampled token.

    A rank without rollouts passes it forward, so that all ranks stay in step.
    """
    image = Image.new("RGB", (policy.token_px, policy.token_px))
    sample = Sample("blank", "", "", ImageFile(Path()), *image.size, question="", answers=())
    [trajectory] = begin(policy, sample, View(image, 1, image.size), Decoded(image), [0])
    [token] = encode(policy.tokenizer, "<|im_end|>")
    return trajectory.with_turn(Turn((token,), (0.0,), "", Malformed(Fault.NO_ACTION)), Status.MALFORMED)


def with_prefill(policy: Model, trajectory: Trajectory, prefill: str) -> Trajectory:
    """A copy whose first turn is prefilled: `<tool_call>` forces a crop, `<answer>` an answer
    without one.
    """
    return replace(trajectory, prefill=prefill, prefill_ids=tuple(encode(policy.tokenizer, prefill)))


def play(
    policy: Model,
    engine: Engine,
    trajectories: Sequence[Trajectory],
    limits: RolloutLimits,
    stop: Event | None = None,
    on_turn: Callable[[Trajectory], None] | None = None,
    keep_prompts: bool = False,
) -> list[Trajectory]:
    """Continue every open trajectory until it ends. Returns all trajectories in the same order.

    Worker threads parse completions and cut crops. A conversation's next request is ready as soon as
    its own crop is cut. The engine's cache is left filled for the caller, and cleared by the next
    `play` or by `clear_cache`. Once `stop` is set, it returns after the next completion. `on_turn` is
    called with a conversation after each of its turns, in a worker thread. `keep_prompts`: prompts that the engine has
    cached are not encoded again; the weights must be those of the last `play`.
    """
    if not keep_prompts:
        engine.clear_cache()
    rollouts = list(trajectories)

    def advance(request: Request, completion: Completion) -> Request | None:
        """Append the turn, and ask for the next one if the conversation goes on."""
        i = request.conversation
        t = rollouts[i] = _append_turn(policy, rollouts[i], completion, limits, request.id)
        if on_turn:
            on_turn(t)
        return request_for(t, len(t.turns) - 1, conversation=i) if t.status is Status.OPEN else None

    first = [request_for(t, len(t.turns) - 1, conversation=i) for i, t in enumerate(rollouts) if t.status is Status.OPEN]
    with ThreadPoolExecutor(WORKERS) as workers, policy.image_cache(), closing(Requests(first)) as requests:
        for request, completion in engine.generate(requests, limits.sampling):
            if stop and stop.is_set():
                break
            requests.add(workers.submit(advance, request, completion))
    return rollouts


SampledTurn = tuple[list[int], list[float]]  # ids, and the log-probability of each


def sampled_turns(trajectories: Sequence[Trajectory]) -> dict[int, list[SampledTurn]]:
    """What was sampled, by the trajectory's seed: with it `replay` makes the same trajectories again."""
    return {t.seed: [(list(turn.ids), list(turn.sampler_logprobs)) for turn in t.turns] for t in trajectories}


def replay(
    policy: Model,
    opened: Sequence[Trajectory],
    sampled: Mapping[int, Sequence[SampledTurn]],
    limits: RolloutLimits,
    stop_ids: Sequence[int],
) -> list[Trajectory]:
    """The trajectories that ended with these `sampled_turns`; crops are cut again. Those without are left out."""

    def turns(t: Trajectory) -> Trajectory:
        for ids, logprobs in sampled[t.seed]:
            completion = Completion(tuple(ids), tuple(logprobs), stopped=ids[-1] in stop_ids)
            t = _append_turn(policy, t, completion, limits, request_id="")
        return t

    with ThreadPoolExecutor(WORKERS) as workers:
        return list(workers.map(turns, [t for t in opened if t.seed in sampled]))


_numbers = count()  # request ids are unique in a process, so that an engine never confuses two


def request_for(t: Trajectory, cached_turn: int, appended: Sequence[int] = (), conversation: int = 0) -> Request:
    """The request to continue a trajectory, or to score `appended` at its end (`Engine.logprobs`).

    `cached_turn` is the last turn that the engine may have cached, without its observation; -1:
    none.
    """
    return Request(
        id=f"{next(_numbers)} turn {len(t.turns)}",
        parent=t.turns[cached_turn].request_id if cached_turn >= 0 else None,
        prompt=f"prompt {t.group}",
        prompt_tokens=len(t.prompt_ids),
        ids=(*t.ids, *appended),
        images=tuple(t.images),
        seed=seed_of(t.seed, len(t.turns)),
        trajectory=t,
        conversation=conversation,
    )


def reopen(policy: Model, trajectory: Trajectory, alter: Alter) -> Trajectory:
    """The trajectory up to its last observation, with every crop replaced by `alter`, ready to be
    continued.

    Sampled turns stay as they are; only pixels change. Later crops are replaced too.
    """
    altered = replace(trajectory, turns=(), status=Status.OPEN, alter=alter)
    for turn in trajectory.turns:
        if turn.observation is None:
            break
        if turn.observation.crop and isinstance(turn.action, Crop):
            substitute = alter(turn.observation.crop, turn.action, altered)
            turn = replace(turn, observation=_tool_observation(policy, altered, turn.text, substitute))
        altered = altered.with_turn(turn, Status.OPEN)
    return altered


def _tool_observation(policy: Model, before: Trajectory, turn_text: str, crop: View | None, error: str | None = None) -> Observation:
    """The tool's reply to a call: the crop, or an error if there is none."""
    content = CROP_CONTENT if crop else error or error_content()
    asked = asked_text(before.sample.question, before.sample.options)
    text = observation_text(policy.dialect, content, len(before.crops), closed=turn_text.endswith("<|im_end|>"), asked=asked)
    return Observation(tuple(encode(policy.tokenizer, text, [crop.tokens] if crop else [])), crop, content)


def _append_turn(policy: Model, t: Trajectory, completion: Completion, limits: RolloutLimits, request_id: str) -> Trajectory:
    """The trajectory with this turn and, after a call, the tool's observation. Cuts the crop.

    A turn that lists several boxes is appended as one turn a box; the first has what was sampled.
    """
    ids, logprobs = completion.ids, completion.logprobs
    for read in read_turn(policy, t, completion, limits.max_crops):
        observation = None
        if isinstance(read.action, Crop):
            observation = _tool_observation(policy, t, read.text, _make_crop(policy, t, read.action, limits))
        elif read.error is not None:
            observation = _tool_observation(policy, t, read.text, None, read.error)
        t = t.with_turn(Turn(ids, logprobs, read.text, read.action, observation, request_id), read.status)
        ids, logprobs = (), ()
    return t


def _make_crop(policy: Model, trajectory: Trajectory, call: Crop, limits: RolloutLimits) -> View | None:
    crop: View | None = limits.cut(trajectory, call.box_px, policy.token_px)
    if crop and trajectory.alter:
        crop = trajectory.alter(crop, call, trajectory)
    return crop
