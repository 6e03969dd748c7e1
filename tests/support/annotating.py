"""A project of questions to annotate: images of 2000 x 1000 px, one of them broken."""

import json
from pathlib import Path

from PIL import Image

from focus.data.annotations.project import Project
from focus.data.sample import Limits, read_records

B1, B2, B3 = (400.0, 300.0, 500.0, 340.0), (360.0, 260.0, 600.0, 400.0), (200.0, 100.0, 1000.0, 700.0)


def record(name: str, image: str = "a.png", **more) -> dict:
    """A canonical record about an image of 2000 x 1000 px."""
    return {
        "schema": 1,
        "id": f"mine/train/{name}",
        "source": "mine",
        "split": "train",
        "image": image,
        "width": 2000,
        "height": 1000,
        "question": "Which number is on the blue door?",
        "answers": ["27"],
        "scorer": "number",
        **more,
    }


def project_of(folder: Path, *records: dict) -> Project:
    """A project in `folder` with these records, the images a.png and b.png, and broken.png, which has no bytes."""
    questions = folder / "questions"
    questions.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (2000, 1000), "steelblue").save(questions / name)
    (questions / "broken.png").write_bytes(b"")
    (questions / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in records))
    return Project(read_records(questions / "questions.jsonl", limits=Limits(200_000))[0], folder / "out")
