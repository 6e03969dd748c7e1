"""A run on a live dashboard: one entry per output folder.

An entry has the run's settings, its curves, and some trajectories as pictures and texts.
"""

import math
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import numpy as np
import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from PIL import Image
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from focus.report.picture import draw_trajectory, draw_view
from focus.rewards import Example
from focus.rollout.trajectory import Trajectory
from focus.runtime import files
from focus.training.history import read_history

LONGEST_NAME = 128  # W&B's limit for the name of a run or a group


class FolderWandbLogger(WandbLogger):
    """One Weights & Biases run per folder, with all arguments of Lightning's WandbLogger.

    The id of the run is stored in `save_dir/wandb_id.txt`, so a resumed run continues its entry.
    Rows up to the last step that the entry has are not sent again.
    """

    def __init__(self, save_dir: str, **rest: Any) -> None:
        id_file = Path(save_dir) / "wandb_id.txt"
        if not id_file.is_file():
            files.write_on_first_rank(id_file, secrets.token_hex(4))
        super().__init__(save_dir=save_dir, id=id_file.read_text() if id_file.is_file() else None, resume="allow", **rest)
        self._wandb_init.pop("anonymous", None)  # Lightning always passes it, and W&B warns about it
        self.offline_before = sorted(Path(save_dir).glob(f"wandb/offline-run-*/run-{self._id}.wandb"))
        self._sent_before: int | None = None  # the last step that the server had at the start; -1 without a server

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send one row, unless the server has its step already."""
        if not files.is_first_rank():
            return
        if self._sent_before is None:
            self._sent_before = int(self.experiment.summary.get("trainer/global_step", -1))
        if step is None or step > self._sent_before:
            super().log_metrics(metrics, step)


def start_logger(section: Mapping[str, Any], settings: Mapping[str, Any]) -> Logger:
    """The logger that a section describes, started and with all settings of the run sent to it.

    A W&B run has the name of its output folder. Points of a sweep have the name of the sweep as
    their group. Raises ValueError if W&B can't be reached.
    """
    section = dict(section)
    if not section["_target_"].endswith("WandbLogger"):
        logger = instantiate(section)
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(shown_settings(settings))
        return logger
    import wandb

    if section.get("name") is None:
        section["name"] = Path(settings["output"]).name[:LONGEST_NAME]
    if section.get("group") is None and HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN:
        section["group"] = settings["name"][:LONGEST_NAME]
    try:
        logger = instantiate(section)
        _ = logger.experiment
    except wandb.errors.Error as error:
        raise ValueError(
            f"wandb can't start ({error}); WANDB_MODE=offline needs neither account nor network, logger=csv needs no wandb"
        ) from error
    logger.log_hyperparams(shown_settings(settings))
    return logger


@contextmanager
def closing(logger: Logger) -> Iterator[None]:
    """Close the run's entry after the block, also if the run crashes.

    The next run of this process then opens its own.
    """
    failed = 1
    try:
        yield
        failed = 0
    finally:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish(exit_code=failed)


def shown_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a dashboard may show.

    Left out are the section `logger`, passwords in the URLs of servers, and a server's `extra`,
    which may hold a key.
    """

    def shown(node: Any) -> Any:
        if isinstance(node, list):
            return [shown(item) for item in node]
        if not isinstance(node, dict):
            return node
        visible = {str(key): shown(value) for key, value in node.items() if not ("url" in node and key == "extra")}
        if isinstance(url := visible.get("url"), str):
            parts = urlsplit(url)
            visible["url"] = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        return visible

    return shown({key: value for key, value in settings.items() if key != "logger"})


class Replay(Callback):
    """Send the earlier rows again when a run resumes, to loggers that start a new file.

    The CSV file and an offline W&B run then hold all rows. The rows come from the run's history
    (`path`); the step of a row is its update minus 1. The earlier files of an offline W&B run are
    renamed to `*.before`. A run that was synced already is left alone.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero or not pl_module.updates_done:
            return
        rows: list[dict[str, Any]] = [row for row in read_history(self.path) if row["update"] <= pl_module.updates_done]
        for logger in trainer.loggers:
            if isinstance(logger, FolderWandbLogger):
                before = [path for path in logger.offline_before if path.is_file()]
                if any(path.with_name(path.name + ".synced").is_file() for path in before):
                    continue
                for path in before:
                    path.rename(path.with_name(path.name + ".before"))
            if isinstance(logger, FolderWandbLogger | CSVLogger):
                for row in rows:
                    logger.log_metrics(row, step=int(row["update"]) - 1)


class TrajectoryTable(pl.Callback):
    """Send some trajectories of every `every_updates`-th update to a logger.

    W&B gets a table, TensorBoard gets pictures, CSV gets none.
    The policy has `updates_done` (from 1) and `last_examples`. The trajectories are taken at equal
    distances, so they belong to different questions if the update has several. Only rank zero
    sends. Raises ValueError if a number is below 1.
    """

    def __init__(self, every_updates: int = 20, rows: int = 4) -> None:
        for name, value in (("every_updates", every_updates), ("rows", rows)):
            if value < 1:
                raise ValueError(f"{name} of TrajectoryTable is {value}; it must be at least 1. To send nothing, remove the callback.")
        self.every_updates, self.rows = every_updates, rows
        self._sent_update = 0

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: object, batch: object, batch_idx: int) -> None:
        update = int(pl_module.updates_done)
        if not trainer.is_global_zero or update % self.every_updates or update == self._sent_update:
            return
        self._sent_update = update
        examples = evenly_spaced(pl_module.last_examples, self.rows)
        if not examples:
            return
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                _send_table(logger, examples, update)
            elif isinstance(logger, TensorBoardLogger):
                for number, example in enumerate(examples):
                    picture = np.asarray(draw_trajectory(example))
                    logger.experiment.add_image(f"trajectories/{number}", picture, global_step=update, dataformats="HWC")


def evenly_spaced(examples: Sequence[Example], rows: int) -> list[Example]:
    """At most `rows` examples at equal distances, starting with the first."""
    return [examples[i * len(examples) // rows] for i in range(rows)] if len(examples) > rows else list(examples)


def _send_table(logger: WandbLogger, examples: Sequence[Example], update: int) -> None:
    import wandb  # an optional dependency, needed only where there is a WandbLogger

    names = list(dict.fromkeys(name for example in examples for name in example.terms))
    table: Any = wandb.Table(columns=["update", "question", "view", "crops", "text", "answer", "accepted", *names, "total"])
    for example in examples:
        trajectory = example.trajectory
        strip = _crop_strip(trajectory)
        table.add_data(
            update,
            trajectory.sample.question,
            wandb.Image(draw_view(trajectory)),
            wandb.Image(strip) if strip else None,
            "\n".join(turn.text for turn in trajectory.turns),
            trajectory.answer,
            " | ".join(trajectory.sample.answers),
            *(example.terms.get(name, math.nan) for name in names),
            example.total,
        )
    logger.log_metrics({"trajectories": table}, step=update)  # Lightning's type says numbers; W&B takes tables too


def _crop_strip(trajectory: Trajectory) -> Image.Image | None:
    """The delivered crops side by side at their own resolution; None if there is none."""
    crops = trajectory.images[1:]
    if not crops:
        return None
    gap = 4
    strip = Image.new("RGB", (sum(crop.width for crop in crops) + gap * (len(crops) - 1), max(crop.height for crop in crops)), "white")
    x = 0
    for crop in crops:
        strip.paste(crop, (x, 0))
        x += crop.width + gap
    return strip
