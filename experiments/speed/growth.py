"""How the seconds and the memory of a training step grow. `python -m experiments.speed.growth` writes growth.json.

One axis at a time, from one middle: 4 questions x 8 rollouts, one crop each, a view of 64 tokens, an original of 896 px. Every point is a
process of its own, so its peak memory is its own. A step is the trainer's: rollout, reward and update of the embedded policy, one thread.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from rich.progress import track

from experiments.speed.timing import REPEATS, spread, write
from focus.build import build_policy, load_policy, training_samples
from focus.config import CONF
from focus.data.questions import Questions
from focus.data.sample import read_records
from focus.data.scenes import DIFFICULTY, Scene
from focus.rewards import RewardCallback
from tests.support.scripted import steer

MIDDLE = {"questions": 4, "rollouts": 8, "visual": 64, "crops": 1, "side_px": 896, "ranks": 1}
AXES: dict[str, tuple[int, ...]] = {  # beside the middle itself
    "rollouts": (4, 16),
    "visual": (16, 256),
    "crops": (0, 2),
    "side_px": (448, 1792),
    "ranks": (2,),
}
RECORDS = (1_000, 100_000)
BOXES = ((100.0, 100.0, 300.0, 300.0), (500.0, 500.0, 800.0, 700.0), (600.0, 100.0, 900.0, 300.0))


class Drawn(RewardCallback):
    """By chance, so that every rollout teaches."""

    name = "drawn"

    def score(self, trajectories: Any) -> list[float]:
        return np.random.default_rng(len(trajectories)).random(len(trajectories)).tolist()


class Clock(pl.Callback):
    """Seconds of every training step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.began = time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        self.seconds.append(time.perf_counter() - self.began)


def step(point: dict[str, int]) -> None:
    """Train a few steps at this point and print what they took; every rollout makes exactly `crops` crops."""
    torch.set_num_threads(1)
    changes = [
        f"data.side_px={point['side_px']}",
        f"gap.view_tokens={point['visual']}",
        f"rollout.rollouts_per_question={point['rollouts']}",
        f"rollout.max_crops={point['crops']}",
    ]
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = compose("train", ["experiment=stage1", "output=unused", *changes])
    policy = build_policy(cfg, load_policy(cfg.policy))
    policy.engine, policy.rewards = steer(policy.policy, BOXES, point["crops"]), [Drawn(1.0)]
    clock = Clock()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=point["ranks"],
        strategy="ddp" if point["ranks"] > 1 else "auto",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[clock],
    )
    trainer.fit(policy, Questions(training_samples(cfg.data), 1 + REPEATS, point["questions"], 0, 0))
    if trainer.global_rank == 0:
        crops = sum(len(example.trajectory.crops) for example in policy.last_examples)
        print(json.dumps(point | {"step_s": spread(clock.seconds[1:]), "crops_made": crops, "peak_memory_mib": _peak_mib()}))


def read(records: int) -> None:
    """Read a data set of so many records, open a hundred of them, and print what it took."""
    with tempfile.TemporaryDirectory() as scratch:
        sample = Scene(DIFFICULTY[1], "train", 0).sample()
        sample.open().reduced(sample.size).save(Path(scratch) / "image.png")
        record = {"schema": 1, "source": "growth", "split": "train", "image": "image.png", "width": sample.width, "height": sample.height}
        with (Path(scratch) / "records.jsonl").open("w") as out:
            for i in range(records):
                out.write(json.dumps(record | {"id": str(i), "question": sample.question, "answers": list(sample.answers)}) + "\n")
        before = _peak_mib()
        began = time.perf_counter()
        samples, _ = read_records(Path(scratch) / "records.jsonl")
        seconds = time.perf_counter() - began
        for i in range(0, records, records // 100):
            samples[i].open()
        print(json.dumps({"records": records, "read_s": round(seconds, 3), "memory_mib": _peak_mib() - before}))


def _peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    if len(sys.argv) > 1:
        job = json.loads(sys.argv[1])
        read(job["records"]) if "records" in job else step(job)
        return
    jobs = [("records", {"records": n}) for n in RECORDS]
    jobs += [("middle", MIDDLE)]
    jobs += [(axis, MIDDLE | {axis: value}) for axis, values in AXES.items() for value in values]
    rows: dict[str, list[dict[str, Any]]] = {}
    for axis, job in track(jobs, "growth"):
        command = [sys.executable, "-m", "experiments.speed.growth", json.dumps(job)]
        printed = subprocess.run(command, capture_output=True, text=True)
        if printed.returncode:
            raise SystemExit(f"{axis} {job}: {printed.stderr[-2000:]}")
        [line] = [line for line in printed.stdout.splitlines() if line.startswith("{")]
        rows.setdefault(axis, []).append(json.loads(line))
        write("growth", rows)  # as they come: an interruption costs one point


if __name__ == "__main__":
    main()
