"""What a dashboard is told of a run: one entry for each output folder, whole after a resume, with its settings and without secrets."""

import csv
import json
import struct
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir

from focus.config import CONF
from focus.config.validate import plain
from focus.report.dashboard import FolderWandbLogger, closing, shown_settings, start_logger
from focus.runs import train
from focus.training.policy import FocusPolicy
from tests.support.runs import settings

BLOCK, HEAD, WHOLE, LAST = 32768, 7, 1, 4  # of the files of offline runs: blocks of records, which may be split over several


def offline_runs(folder: Path) -> list[dict]:
    """Every offline W&B run below a folder: id, name, group, settings by key, and the updates that it holds, in the order of sending."""
    from wandb.proto import wandb_internal_pb2

    found = []
    for path in sorted(folder.rglob("*.wandb")):
        data, at, part = path.read_bytes(), HEAD, b""
        run: dict = {"settings": {}, "updates": []}
        while at + HEAD <= len(data):
            if BLOCK - at % BLOCK < HEAD:
                at += BLOCK - at % BLOCK
                continue
            _, size, kind = struct.unpack("<IHB", data[at : at + HEAD])
            part += data[at + HEAD : at + HEAD + size]
            at += HEAD + size
            if kind in (WHOLE, LAST):
                record, part = wandb_internal_pb2.Record.FromString(part), b""
                if record.HasField("run"):
                    run |= {"id": record.run.run_id, "name": record.run.display_name, "group": record.run.run_group}
                for config in (record.run.config, record.config):
                    run["settings"] |= {item.key: json.loads(item.value_json) for item in config.update}
                for item in record.history.item:
                    if "update" in (item.key, *item.nested_key):
                        run["updates"].append(int(float(item.value_json)))
        found.append(run)
    return found


class Stopped(Exception):
    """A crash in the middle of a run."""


def crash_after(monkeypatch, update: int) -> None:
    watch = FocusPolicy._log_update

    def watching(self, *rest, **more):
        if self.updates_done > update:
            raise Stopped
        watch(self, *rest, **more)

    monkeypatch.setattr(FocusPolicy, "_log_update", watching)


@pytest.fixture
def quiet_wandb(tmp_path, monkeypatch):
    for key in ("CACHE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"WANDB_{key}_DIR", str(tmp_path / "of_wandb"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_CONSOLE", "off")


LONG = ("evaluation.samples=0", "report.trajectories=1", "objective.updates=4")


def test_each_folder_has_one_wandb_run_which_a_resumed_run_fills_and_a_crashed_one_leaves_closed(
    tmp_path, random_policy, monkeypatch, quiet_wandb
):
    import wandb

    words = (*LONG, "logger=wandb", "report.trajectories_every=1")
    with monkeypatch.context() as patched:
        crash_after(patched, 2)
        with pytest.raises(Stopped):
            train.run(settings(tmp_path / "point0", random_policy, *words))
    assert wandb.run is None  # the next point of this process opens its own
    train.run(settings(tmp_path / "point1", random_policy, *words, "seed=1"))
    train.run(settings(tmp_path / "point0", random_policy, *words))
    assert wandb.run is None
    first, second = offline_runs(tmp_path)
    assert [run["updates"] for run in (first, second)] == [[1, 2, 3, 4]] * 2
    assert [run["name"] for run in (first, second)] == ["point0", "point1"] and first["id"] != second["id"]
    assert first["id"] == (tmp_path / "point0/wandb_id.txt").read_text()
    assert [run["settings"]["seed"] for run in (first, second)] == [0, 1]
    assert second["settings"]["objective"]["updates"] == 4 and "logger" not in second["settings"]
    [superseded] = tmp_path.rglob("*.wandb.before")
    assert superseded.parent.parent.parent.name == "point0"


def test_the_csv_of_a_run_that_resumes_holds_every_update_once(tmp_path, random_policy, monkeypatch):
    train.run(settings(tmp_path / "straight", random_policy, *LONG))
    with monkeypatch.context() as patched:
        crash_after(patched, 2)
        with pytest.raises(Stopped):
            train.run(settings(tmp_path / "run", random_policy, *LONG))
    train.run(settings(tmp_path / "run", random_policy, *LONG))

    def rows(name):
        [path] = (tmp_path / name).rglob("metrics.csv")
        with path.open(newline="") as file:
            return [(row["step"], row["update"], row["reward/total"]) for row in csv.DictReader(file)]

    assert rows("run") == rows("straight") and [row[1] for row in rows("run")] == ["1.0", "2.0", "3.0", "4.0"]


def test_a_run_on_the_server_is_not_sent_what_it_holds(tmp_path, monkeypatch):
    sent: list[dict] = []
    run = SimpleNamespace(summary={"trainer/global_step": 3}, log=sent.append)
    monkeypatch.setattr(FolderWandbLogger, "experiment", run)
    logger = FolderWandbLogger(str(tmp_path))
    for step in range(6):
        logger.log_metrics({"update": step + 1.0}, step=step)
    assert [row["update"] for row in sent] == [5.0, 6.0]


@pytest.mark.parametrize("crashed", [False, True])
def test_a_run_is_closed_with_the_status_that_it_ended_with(tmp_path, monkeypatch, crashed):
    ended: list[int] = []
    monkeypatch.setattr(FolderWandbLogger, "experiment", SimpleNamespace(finish=lambda exit_code: ended.append(exit_code)))
    try:
        with closing(FolderWandbLogger(str(tmp_path))):
            if crashed:
                raise Stopped
    except Stopped:
        pass
    assert ended == [int(crashed)]


def test_no_key_and_no_password_of_a_server_reaches_a_dashboard(tmp_path):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = compose(
            "train",
            [
                "experiment=smoke",
                "rollout=vllm",
                f"output={tmp_path}",
                "rollout.endpoint.url='http://me:secret@host:8000/v1'",
                "+rollout.endpoint.extra={key: secret}",
                "+logger.api_key=secret",
            ],
        )
    shown = shown_settings(plain(cfg))
    assert "secret" not in json.dumps(shown) and shown["rollout"]["endpoint"]["url"] == "http://host:8000/v1"
    assert shown["rollout"]["endpoint"]["key_env"] and shown["objective"]["learning_rate"] == cfg.objective.learning_rate


def test_tensorboard_keeps_one_folder_for_all_starts_of_a_run(tmp_path):
    for _ in range(2):
        run = plain(settings(tmp_path, tmp_path, "logger=tensorboard"))
        logger = start_logger(run["logger"], run)
        logger.log_metrics({"update": 1.0}, step=0)
        logger.finalize("success")
    assert {path.parent.name for path in tmp_path.rglob("events.*")} == {"tensorboard"}
