"""A sample whose image is made of noise, and a row of predictions."""

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from focus.data.images.original import Decoded
from focus.data.sample import Sample


@dataclass(frozen=True)
class Painted:
    """An image made of noise, different for each seed."""

    width: int
    height: int
    seed: int = 0

    def open(self) -> Decoded:
        pixels = np.random.default_rng(self.seed).integers(0, 256, (self.height, self.width, 3), dtype=np.uint8)
        return Decoded(Image.fromarray(pixels))


def sample(name: str = "a", **changes) -> Sample:
    good = Sample(
        id=f"synthetic/train/{name}",
        source="synthetic",
        split="train",
        image=Painted(64, 48),
        width=64,
        height=48,
        question="What is on the red sign?",
        answers=("42", "forty-two"),
        boxes=(((10, 10, 20, 20), (5, 5.5, 30, 30)),),
        group="g",
        meta={"category": "colour"},
    )
    return replace(good, **changes)


def prediction(
    question: str, right: float, arm: str = "own", repeat: int = 0, group: str = "", extracted: str | None = "A", **meta: object
) -> dict:
    """One answer as an evaluation writes it."""
    return {
        "id": question, "arm": arm, "repeat": repeat, "group": group or question, "right": right, "extracted": extracted, "split": "test",
        "status": "answered", "crops": 1, "visual_tokens": 20, "sampled_tokens": 8, "seconds": 0.5, "iou_recall": None,
        "iou_precision": None, "hit": None, "chance": None, "says": None, "graded_by": "rule", "broken": None, "meta": meta,
    }  # fmt: skip
