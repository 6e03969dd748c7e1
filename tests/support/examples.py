"""Trajectories with their rewards, as pages and pictures show them: one that is right after a crop, one that is malformed."""

import math

from focus.data.boxes import Box, Frame, to_view
from focus.data.scenes import DIFFICULTY, Scene
from focus.gap import cut, resize_to_budget
from focus.model.prompts import CROP_CONTENT, Answer, Fault, Malformed, answer_text, call_text
from focus.rewards import Example
from focus.rollout.trajectory import Action, Crop, Observation, Status, Trajectory, Turn

TOKEN_PX = 28


def opened(index: int = 3) -> Trajectory:
    sample = Scene(DIFFICULTY[4], "train", index).sample()
    original = sample.open()
    return Trajectory(sample=sample, source=original, view=resize_to_budget(original, 16, TOKEN_PX), prompt_ids=tuple(range(30)), seed=1)


def said(trajectory: Trajectory, text: str, action: Action, status: Status, observation: Observation | None = None) -> Trajectory:
    return trajectory.with_turn(Turn((1, 2, 3), (-0.1, -0.2, -0.3), text, action, observation), status)


def zoomed(trajectory: Trajectory, box_px: Box) -> Trajectory:
    size = trajectory.sample.size
    box_view = to_view(box_px, Frame.PER_MILLE, trajectory.view.size, size)
    crop = cut(trajectory.source, box_px, size, 64, TOKEN_PX)
    return said(trajectory, call_text(box_view), Crop(box_view, box_px), Status.OPEN, Observation((4, 5), crop, CROP_CONTENT))


def answered(trajectory: Trajectory, answer: str) -> Trajectory:
    return said(trajectory, answer_text(answer), Answer(answer), Status.ANSWERED)


def right(index: int = 3) -> Example:
    trajectory = zoomed(opened(index), (112.0, 112.0, 224.0, 224.0))
    return Example(answered(trajectory, trajectory.sample.answers[0]), {"accuracy": 1.0, "tool": 1.0}, 1.2, "update 7")


def wrong(text: str = "<script>alert(1)</script>") -> Example:
    trajectory = said(opened(5), text, Malformed(Fault.NO_ACTION), Status.MALFORMED)
    return Example(trajectory, {"accuracy": 0.0, "grounding": math.nan}, math.nan)
