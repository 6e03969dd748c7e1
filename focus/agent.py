"""One policy that answers questions about pictures: `Agent.load("outputs/stage1/policy").ask("photo.jpg", "What does it say?")`."""

import os
import string
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event

import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

from focus import config
from focus.build import load_evaluated, rollout_limits
from focus.config.command_line import composed_settings, quoted, settings_of
from focus.config.schema import AgentConfig
from focus.data.boxes import Box
from focus.data.images.exif import PILLOW_ERRORS
from focus.data.images.header import BadImage
from focus.data.images.original import Decoded, Original, read
from focus.data.images.pixels import decode
from focus.data.sample import MARKUP, ImageFile, Sample
from focus.gap import Gap, Mode
from focus.grading.answers import canonical
from focus.model.prompts import ANSWER_OPEN
from focus.rollout.engine import Sampling
from focus.rollout.loop import begin, play, reopen, with_prefill
from focus.rollout.substitutes import SUBSTITUTES, nothing
from focus.rollout.trajectory import Status, Trajectory

OnTurn = Callable[[Trajectory], None]
COUNTERFACTUALS = ("noise", "blank", "mean_colour", "elsewhere")


@dataclass(frozen=True)
class Answer:
    """What a policy answered, and how it came to it."""

    trajectory: Trajectory
    counterfactual: "Answer | None" = None  # with the crops replaced; None: not asked for, or there was no crop

    @property
    def text(self) -> str | None:
        """The answer; None if the conversation ended without one (`status` says why)."""
        return self.trajectory.answer

    @property
    def status(self) -> str:
        """How the conversation ended: `answered`, `out of turns`, `malformed`, ..."""
        return self.trajectory.status.value

    @property
    def turns(self) -> tuple[str, ...]:
        """The text of every turn."""
        return tuple(turn.text for turn in self.trajectory.turns)

    @property
    def boxes_px(self) -> tuple[Box, ...]:
        """The box of every crop, in pixels of the picture."""
        return tuple(crop.box_px for crop in self.trajectory.crops)

    @property
    def crops(self) -> tuple[Image.Image, ...]:
        """The crops as the policy saw them."""
        return tuple(self.trajectory.images[1:])

    @property
    def view(self) -> Image.Image:
        """The whole picture as the policy saw it."""
        return self.trajectory.view.image

    @property
    def changed(self) -> bool | None:
        """Whether the answer with replaced crops means something else; None without one."""
        if self.counterfactual is None:
            return None
        options = self.trajectory.sample.options
        mine, other = (canonical(each.text, (), "letter" if options else "exact", options) for each in (self, self.counterfactual))
        return mine != other


class Agent:
    """A policy with its engine, in this process or on a server."""

    def __init__(self, cfg: AgentConfig) -> None:
        torch.set_num_threads(cfg.threads)
        self.model, self.engine = load_evaluated(cfg)
        self.limits = rollout_limits(cfg, cfg.temperature)
        self.view_tokens, self.seed = cfg.view_tokens, cfg.seed

    @classmethod
    def load(cls, policy: str | Path = "embedded", *overrides: str) -> "Agent":
        """A policy by its folder, its hub name, `embedded`, or the URL of the server that has it.

        `overrides` are settings of conf/agent.yaml, as on the command line: `"view_tokens=1024"`. A
        server needs the name of its model and its dialect: `"policy.checkpoint=NAME"`,
        `"policy.dialect=deepeyes"`. Raises ValueError for settings that can't work.
        """
        if str(policy).startswith(("http://", "https://")):
            chosen = ["rollout=openai", f"rollout.endpoint.url={quoted(str(policy))}"]
        else:
            chosen = [f"policy.checkpoint={quoted(os.path.expanduser(policy))}"]
        with _own_hydra():
            composed = settings_of(composed_settings("agent", [*chosen, *overrides], AgentConfig))
        return cls(config.validated(composed, AgentConfig, here=False))

    def ask(
        self,
        image: str | Path | Image.Image | Original,
        question: str,
        options: Sequence[str] = (),
        counterfactual: str | None = None,
        *,
        view_tokens: int | None = None,
        sampling: Sampling | None = None,
        seed: int | None = None,
        must_crop: bool = False,
        on_turn: OnTurn | None = None,
        stop: Event | None = None,
    ) -> Answer:
        """The policy's answer to a question about a picture (a file, or a PIL image, which is turned upright).

        `options` are the choices of a multiple-choice question. `counterfactual` (`noise`, `blank`,
        `mean_colour`, `elsewhere`) asks again with the pixels of every crop replaced: an answer that
        stays the same did not depend on them. `view_tokens`, `sampling` and `seed` stand in for the
        agent's own. `must_crop` begins its first turn with a call, as the arm `forced` of the probe does.
        `on_turn` is called with the conversation when it begins and after each of its
        turns, from other threads. Once `stop` is set, the conversation ends with its next turn, and is `open`.

        Raises ValueError for an image that can't be read or shown, for another counterfactual, for
        more than 26 options, and for an empty question or one with markup of prompts.
        """
        if counterfactual not in (None, *COUNTERFACTUALS):
            raise ValueError(f"counterfactual is {counterfactual!r}; choose one of {', '.join(COUNTERFACTUALS)}")
        if len(options) > len(string.ascii_uppercase):
            raise ValueError(f"{len(options)} options were given; a question has at most {len(string.ascii_uppercase)} (A to Z)")
        if isinstance(options, str):
            raise ValueError(f"options is the text {options!r}; give a list of texts, one for each option")
        if not question.strip():
            raise ValueError("the question is empty; ask one")
        if marks := [mark for mark in MARKUP if any(mark in text for text in (question, *options))]:
            raise ValueError(f"the question or an option contains {marks[0]!r}, which only prompts may contain; leave it out")
        original, path = opened(image)
        sample = Sample(
            id=path.name,
            source="asked",
            split="asked",
            image=ImageFile(path),
            width=original.size[0],
            height=original.size[1],
            question=question,
            answers=(),
            options=tuple(zip(string.ascii_uppercase, options, strict=False)),
        )
        gap = Gap(Mode.FIXED, view_tokens or self.view_tokens, self.model.token_px)
        with self.model.image_cache():
            [opening] = begin(self.model, sample, *gap.view_of(sample, original), [self.seed if seed is None else seed])
            if must_crop:
                opening = with_prefill(self.model, opening, self.model.dialect.call[0])
            answer = self._played(opening, sampling, on_turn, stop)
            if counterfactual is None or not answer.crops:
                return answer
            return replace(answer, counterfactual=self.with_other_crops(answer, counterfactual, sampling))

    def with_other_crops(
        self,
        answer: Answer,
        counterfactual: str,
        sampling: Sampling | None = None,
        on_turn: OnTurn | None = None,
        stop: Event | None = None,
    ) -> Answer:
        """The same conversation with the pixels of every crop replaced, from its last crop on."""
        alter = SUBSTITUTES[counterfactual](self.limits, self.model.token_px, 0.0)
        return self._played(reopen(self.model, answer.trajectory, alter), sampling, on_turn, stop)

    def without_crops(
        self, answer: Answer, sampling: Sampling | None = None, on_turn: OnTurn | None = None, stop: Event | None = None
    ) -> Answer:
        """The same question answered at once, from the view alone: the arm `tool_free` of the probe.

        Raises ValueError where a server does not continue a turn that is begun.
        """
        opening = replace(answer.trajectory, turns=(), status=Status.OPEN, alter=nothing)
        return self._played(with_prefill(self.model, opening, ANSWER_OPEN), sampling, on_turn, stop)

    def _played(self, opening: Trajectory, sampling: Sampling | None, on_turn: OnTurn | None, stop: Event | None) -> Answer:
        limits = replace(self.limits, sampling=sampling) if sampling else self.limits
        if on_turn:
            on_turn(opening)
        return Answer(play(self.model, self.engine, [opening], limits, stop, on_turn)[0])


@contextmanager
def _own_hydra() -> Iterator[None]:
    """Hydra knows one application at a time. One that runs already, such as a command of focus, is put aside within the block."""
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(config.CONF)):
            yield
    finally:
        GlobalHydra.instance().hydra = running


def opened(image: str | Path | Image.Image | Original) -> tuple[Original, Path]:
    """The original, and its file; an empty path for an image in memory. Raises ValueError for one that can't be used."""
    if isinstance(image, str | Path) and not os.path.exists(image):
        raise ValueError(f"the image {image} does not exist; give the path of a picture")
    try:
        if isinstance(image, Image.Image):
            return Decoded(decode(image.copy())), Path()
        if isinstance(image, str | Path):
            return read(Path(image)), Path(image)
        return image, Path()
    except PILLOW_ERRORS as error:
        name = "in memory" if isinstance(image, Image.Image) else image
        reason = error.reason if isinstance(error, BadImage) else error
        raise ValueError(f"the image {name} can't be used: {reason}; give another one") from error
