"""Rollouts of an update on disk, with everything that their pass through the network depends on. `focus.replay` reads them."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from focus.data.images.original import Decoded
from focus.data.sample import ImageFile, Sample
from focus.gap import View
from focus.model.prompts import CROP_CONTENT, Fault, Malformed
from focus.rollout.trajectory import Crop, Observation, Status, Trajectory, Turn
from focus.runtime import files

FILE = "batch.json"


@dataclass(frozen=True)
class Batch:
    """Some rollouts of an update."""

    update: int  # its number, from 1
    tokens: int  # sampled tokens of the whole update, over all ranks
    advantages: list[tuple[float, float]]  # of each rollout: of its first turn, and of those after it
    rollouts: list[Trajectory]


def not_finite_error(batch: Batch, quantity: str, grad_norm: float, folder: Path) -> ValueError:
    """Save the rollouts whose loss or gradient (`quantity`) is not finite, and return the error to raise."""
    try:
        save(batch, folder)
        saved = f"They are kept: python -m focus.replay {folder}"
    except OSError as error:
        saved = f"They could not be kept in {folder} ({error})"
    names = list(dict.fromkeys(t.sample.id for t in batch.rollouts))
    some = ", ".join(names[:8]) + (f" and {len(names) - 8} more samples" if len(names) > 8 else "")
    return ValueError(
        f"the {quantity} of update {batch.update} is not finite (gradient norm {grad_norm}), in rollouts of {some}. Their rewards are "
        "finite, so the network's numbers overflow. If weights grew too fast, lower objective.learning_rate; in half precision use "
        f"trainer.precision=32-true or trainer.strategy.arithmetic=float32. The last checkpoint is from before this update. {saved}"
    )


def save(batch: Batch, folder: Path) -> None:
    """Write `batch.json`, and every view and crop as PNG, into `folder`. An older folder is replaced. Raises OSError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with files.atomic_write(folder) as partial:
        partial.mkdir()
        _write(batch, partial)


def _write(batch: Batch, partial: Path) -> None:
    rollouts = []
    for number, (t, advantage) in enumerate(zip(batch.rollouts, batch.advantages, strict=True)):
        for index, image in enumerate(t.images):
            image.save(partial / f"{number}-{index}.png")
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
    """Read what `save` wrote. The original image is not in it, only the view and the crops. Raises ValueError for an incomplete folder."""
    if not (folder / FILE).is_file():
        raise ValueError(f"{folder} holds no {FILE}; give the folder that a run named when its loss or gradient was not finite")
    try:
        content = json.loads((folder / FILE).read_text())
        rollouts = [_rollout(folder, number, row) for number, row in enumerate(content["rollouts"])]
        return Batch(content["update"], content["tokens"], [_pair(row["advantage"]) for row in content["rollouts"]], rollouts)
    except (ValueError, LookupError, TypeError, OSError) as error:  # also an image that is gone
        raise ValueError(f"{folder} can't be read ({type(error).__name__}: {error}); copy the whole folder again") from error


def _numbers(values: Iterable[float | None]) -> list[float]:
    """Numbers read from JSON, whose null stands for NaN."""
    return [math.nan if value is None else value for value in values]


def _pair(value: list[float | None]) -> tuple[float, float]:
    first, later = _numbers(value)
    return first, later


def _rollout(folder: Path, number: int, row: dict) -> Trajectory:
    index = 0

    def next_image(tokens: int) -> View:
        nonlocal index
        with Image.open(folder / f"{number}-{index}.png") as image:
            image.load()
        index += 1
        return View(image, tokens, sample.size)

    fields = row["sample"]
    sample = Sample(**fields | {"image": ImageFile(Path(fields["image"] or "")), "answers": tuple(fields["answers"])})
    view = next_image(row["view_tokens"])
    turns = []
    for turn in row["turns"]:
        crop = next_image(turn["crop_tokens"]) if turn["crop_tokens"] is not None else None
        observation = Observation(tuple(turn["heard"]), crop, CROP_CONTENT if crop else "") if turn["heard"] is not None else None
        action = Crop(tuple(turn["box_px"]), tuple(turn["box_px"])) if turn["box_px"] else Malformed(Fault.NO_ACTION)
        turns.append(Turn(tuple(turn["ids"]), tuple(_numbers(turn["sampler_logprobs"])), turn["text"], action, observation))
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
