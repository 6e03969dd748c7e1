"""Write embedded scenes to disk as records, in the layout that any other data set uses.

`make scenes`.
"""

from pathlib import Path

from omegaconf import DictConfig
from rich.progress import track

from focus import config
from focus.config.schema import ExportConfig
from focus.data.sample import write_records
from focus.data.scenes import Scenes, scene_spec


def run(composed: DictConfig) -> None:
    """Write the scenes that the settings name, and print the command that trains on them."""
    cfg = config.validated(composed, ExportConfig)
    scenes = Scenes(scene_spec(cfg.difficulty, cfg.letter_px, cfg.side_px), cfg.split, cfg.scenes, cfg.first)
    with config.alone(cfg.output):
        records = write_records(track(scenes, description="scenes"), Path(cfg.output))
    print(f'records: {records}\ntrain on them: make stage1 ARGS="data=records data.records={records} evaluation.samples=0"')
