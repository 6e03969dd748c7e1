"""Trajectories written by hand, without a policy, and annotated boxes."""

from dataclasses import replace

from PIL import Image

from focus.data.images.original import Decoded
from focus.data.sample import Sample
from focus.gap import View
from focus.model.prompts import CROP_CONTENT, Answer, call_text
from focus.rewards import Accuracy, Format, RewardCallback, Tool
from focus.rollout.trajectory import Crop, Observation, Status, Trajectory, Turn

IMAGE = Image.new("RGB", (448, 448))


SAMPLE = Sample(
    id="synthetic/train/0",
    source="synthetic",
    split="train",
    image=None,
    width=448,
    height=448,
    question="What is on the red sign?",
    answers=("42",),
)


PIXELS = View(Image.new("RGB", (56, 56)), 4, (56, 56))


def trajectory(*turns: Turn, status: Status = Status.ANSWERED, sample: Sample = SAMPLE) -> Trajectory:
    return Trajectory(
        sample=sample,
        source=Decoded(IMAGE),
        view=View(IMAGE.resize((112, 112)), 16, IMAGE.size),
        prompt_ids=(1, 2, 3),
        seed=0,
        turns=turns,
        status=status,
    )


def turn(action, text: str = "", observation: Observation | None = None) -> Turn:
    return Turn(ids=(5, 6), sampler_logprobs=(-0.1, -0.2), text=text, action=action, observation=observation)


def says(answer: str) -> Turn:
    return turn(Answer(answer), f"<answer>{answer}</answer>")


def zooms(box_px=(200.0, 200.0, 256.0, 256.0)) -> Turn:
    return turn(Crop(box_px, box_px), call_text(box_px), Observation((7, 8), PIXELS, CROP_CONTENT))


def stage1() -> list[RewardCallback]:
    return [Accuracy(weight=0.8), Format(weight=0.2), Tool(weight=1.2, gate="accuracy")]


B1, B2 = (400.0, 400.0, 500.0, 440.0), (360.0, 360.0, 560.0, 480.0)


CHAIN = (B1, B2)


ANNOTATED = replace(SAMPLE, width=1000, height=1000, boxes=(CHAIN,))
