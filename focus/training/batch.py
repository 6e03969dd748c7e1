"""Rollouts of an update on disk, with all that their pass through the network depends on: `focus.replay` reads them."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from focus.data.original import Decoded
from focus.data.sample import ImageFile, Sample
from focus.gap import View
from focus.model.prompts import CROP_CONTENT, Fault, Malformed
from focus.rollout.trajectory import Crop, Observation, Status, Trajectory, Turn
from focus.runtime import files

FILE = "batch.json"


@dataclass(frozen=True)
class Batch:
    """Rollouts, the advantage of each, the number of the update, and the sampled tokens of the whole of it, over all ranks."""

    update: int
    tokens: int
    advantages: list[float]
    rollouts: list[Trajectory]


def not_finite(batch: Batch, what: str, grad_norm: float, folder: Path) -> str:
    """Keep the rollouts that a loss or a gradient (`what`) came from that is no number, as far as they are known; returns what to say."""
    try:
        save(batch, folder)
        replay = f"They are kept: python -m focus.replay {folder}"
    except OSError as error:
        replay = f"They could not be kept in {folder} ({error})"
    names = list(dict.fromkeys(t.sample.id for t in batch.rollouts))
    some = ", ".join(names[:8]) + (f" and {len(names) - 8} more samples" if len(names) > 8 else "")
    return (
        f"the {what} of update {batch.update} is not finite (gradient norm {grad_norm}), in rollouts of {some}. Their rewards are finite, "
        "so it is the network's numbers that overflow. If weights grew too fast, lower objective.learning_rate; if it is half precision, "
        f"use trainer.precision=32-true or trainer.strategy.arithmetic=float32. The last checkpoint is from before this update. {replay}"
    )


def save(batch: Batch, folder: Path) -> None:
    """Write `batch.json` and every image that was shown, as PNG, into `folder`; what was there is removed. Raises OSError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with files.atomic_write(folder) as partial:
        partial.mkdir()
        _write(batch, partial)


def _write(batch: Batch, partial: Path) -> None:
    rollouts = []
    for number, (t, advantage) in enumerate(zip(batch.rollouts, batch.advantages, strict=True)):
        for place, image in enumerate(t.images):
            image.save(partial / f"{number}-{place}.png")
        turns = [
            {
                "ids": turn.ids,
                "sampler_logprobs": turn.sampler_logprobs,
                "text": turn.text,
                "box_px": turn.action.box_px if isinstance(turn.action, Crop) else None,
                "heard": turn.observation.ids if turn.observation else None,
                "crop_tokens": turn.observation.crop.tokens if turn.observation and turn.observation.crop else None,
            }
            for turn in t.turns
        ]
        s = t.sample
        rollouts.append(
            {
                "sample": {
                    "id": s.id,
                    "source": s.source,
                    "split": s.split,
                    "image": str(s.image.path) if isinstance(s.image, ImageFile) else None,
                    "width": s.width,
                    "height": s.height,
                    "question": s.question,
                    "answers": s.answers,
                },
                "group": t.group,
                "seed": t.seed,
                "advantage": advantage,
                "status": t.status,
                "prompt_ids": t.prompt_ids,
                "opening": t.prefill,
                "opening_ids": t.prefill_ids,
                "view_tokens": t.view.tokens,
                "turns": turns,
            }
        )
    (partial / FILE).write_text(files.json_text({"update": batch.update, "tokens": batch.tokens, "rollouts": rollouts}))


def load(folder: Path) -> Batch:
    """What `save` wrote; crops have no more of their original than what was shown. Raises ValueError where not all of it is there."""
    if not (folder / FILE).is_file():
        raise ValueError(f"{folder} holds no {FILE}; give the folder that a run named when its loss or gradient was not finite")
    try:
        kept = json.loads((folder / FILE).read_text())
    except ValueError as error:
        raise ValueError(f"{folder / FILE} can't be read ({error}); copy the whole folder again") from error
    rollouts = [_rollout(folder, number, row) for number, row in enumerate(kept["rollouts"])]
    return Batch(kept["update"], kept["tokens"], _numbers(row["advantage"] for row in kept["rollouts"]), rollouts)


def _numbers(values: Iterable[float | None]) -> list[float]:
    """Numbers read from JSON, whose null stands for NaN."""
    return [math.nan if value is None else value for value in values]


def _rollout(folder: Path, number: int, row: dict) -> Trajectory:
    place = 0

    def shown(tokens: int) -> View:
        nonlocal place
        with Image.open(folder / f"{number}-{place}.png") as image:
            image.load()
        place += 1
        return View(image, tokens, sample.size)

    kept = row["sample"]
    sample = Sample(**kept | {"image": ImageFile(Path(kept["image"] or "")), "answers": tuple(kept["answers"])})
    view = shown(row["view_tokens"])
    turns = []
    for turn in row["turns"]:
        crop = shown(turn["crop_tokens"]) if turn["crop_tokens"] is not None else None
        heard = Observation(tuple(turn["heard"]), crop, CROP_CONTENT if crop else "") if turn["heard"] is not None else None
        action = Crop(tuple(turn["box_px"]), tuple(turn["box_px"])) if turn["box_px"] else Malformed(Fault.NO_ACTION)
        turns.append(Turn(tuple(turn["ids"]), tuple(_numbers(turn["sampler_logprobs"])), turn["text"], action, heard))
    return Trajectory(
        sample=sample,
        source=Decoded(view.image),
        view=view,
        prompt_ids=tuple(row["prompt_ids"]),
        seed=row["seed"],
        prefill=row["opening"],
        prefill_ids=tuple(row["opening_ids"]),
        turns=tuple(turns),
        status=Status(row["status"]),
        group=row["group"],
    )
