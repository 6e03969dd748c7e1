"""How a run ends and goes on: a training that was cut short, checkpoints that were cut, workers and numbers of them that change."""

import csv
import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed.checkpoint as dcp
from omegaconf import OmegaConf

from focus import config
from focus.config import CONF
from focus.model import loading
from focus.report.run import has_row
from focus.runs import train
from focus.runtime import files, processes
from focus.training import checkpoints
from focus.training.history import History, read_history
from focus.training.history import run_status as how_it_ended
from tests.support.ranks import forked
from tests.support.runs import settings

SHORT = ("evaluation.samples=0", "report.trajectories=1", "rollout.tokens_per_turn=6")


def history(run: Path) -> list[int]:
    path = run / "history.jsonl"
    return [json.loads(line)["update"] for line in path.read_text().splitlines()] if path.exists() else []


def weights(run: Path) -> str:
    return loading.load_model(run / "policy", "tiny").weights_hash()


@pytest.fixture(scope="module")
def straight(tmp_path_factory, random_policy) -> Path:
    """A run of four updates that nothing interrupted."""
    run = tmp_path_factory.mktemp("straight") / "run"
    train.run(settings(run, random_policy, *SHORT, "objective.updates=4", "data.workers=1"))
    return run


# ------------------------------------------------------------------------------------------------------------ a training cut short


@pytest.mark.parametrize("limit", ["max_steps=2", "limit_train_batches=2", "max_time='00:00:00:00'"])
def test_a_training_that_the_trainer_cut_short_is_not_exported_and_goes_on_when_started_again(limit, tmp_path, random_policy, straight):
    run, results, key = tmp_path / "run", tmp_path / "results.csv", limit.partition("=")[0]
    more = [*SHORT, "objective.updates=4", f"results={results}", "report.checkpoint_every=100"]
    done = 0 if key == "max_time" else 2
    for _ in range(2 if key == "max_steps" else 1):  # again with the same limit: no further update, and the same words
        with pytest.raises(train.Unfinished, match=rf"^not finished: {done} of 4 updates are made, then trainer.{key} ended the training"):
            train.run(settings(run, random_policy, *more, f"+trainer.{limit}"))
        assert not (run / "policy").exists() and history(run) == [*range(1, done + 1)]
    with results.open() as rows:
        assert [row["status"].split(":")[0] for row in csv.DictReader(rows)][-1] == "not finished"
    assert not has_row(results, *_named(results))
    train.run(settings(run, random_policy, *more))
    assert history(run) == [1, 2, 3, 4] and weights(run) == weights(straight)
    assert (run / "policy/README.md").read_text() == (straight / "policy/README.md").read_text()


def _named(results: Path) -> tuple[str, str]:
    with results.open() as rows:
        row = next(csv.DictReader(rows))
    return row["settings"], row["base"]


def test_a_run_that_has_made_more_updates_than_it_is_to_make_is_not_exported_with_them(tmp_path, random_policy):
    run = tmp_path / "run"
    with pytest.raises(train.Unfinished):
        train.run(settings(run, random_policy, *SHORT, "objective.updates=4", "+trainer.max_steps=2"))
    with pytest.raises(train.Unfinished, match=r"not exported: 2 updates are made already, but objective.updates is 1; raise it to 2"):
        train.run(settings(run, random_policy, *SHORT, "objective.updates=1"))
    assert not (run / "policy").exists()


# ------------------------------------------------------------------------------------------------------------------- checkpoints


def test_the_last_two_checkpoints_stay_and_nothing_passes_through_the_systems_temporary_folder(tmp_path, random_policy, monkeypatch):
    (tmp_path / "system").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "system"))
    seen, save = [], torch.save

    def watched(what, file):
        seen.append(Path(file.file.name))
        save(what, file)

    monkeypatch.setattr(torch, "save", watched)
    train.run(settings(tmp_path / "run", random_policy, *SHORT, "objective.updates=3"))
    kept = tmp_path / "run/checkpoints"
    assert sorted(path.name for path in kept.iterdir()) == ["update-step=2.ckpt", "update-step=3.ckpt"]
    assert seen == [kept / f"update-step={n}.ckpt.partial" for n in (1, 2, 3)]
    assert not list((tmp_path / "system").rglob("*.ckpt*"))


@pytest.mark.parametrize("at", [0, 1000])
def test_a_crash_while_a_checkpoint_is_written_leaves_the_ones_before_and_the_run_ends_like_one_without_it(
    at, tmp_path, random_policy, straight, monkeypatch
):
    run, save, count = tmp_path / "run", torch.save, []

    class Crash(Exception):
        pass

    def half(what, file):
        count.append(1)
        if len(count) < 3:
            return save(what, file)
        file.write(b"x" * at)
        raise Crash

    cfg = settings(run, random_policy, *SHORT, "objective.updates=4")
    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(Crash):
        train.run(cfg)
    monkeypatch.undo()
    kept = run / "checkpoints"
    assert [path.name for path in checkpoints.all_checkpoints(kept)] == ["update-step=2.ckpt", "update-step=1.ckpt"]
    assert (kept / "update-step=3.ckpt.partial").stat().st_size == at
    train.run(cfg)
    assert weights(run) == weights(straight) and history(run) == [1, 2, 3, 4]
    assert sorted(path.name for path in kept.iterdir()) == ["update-step=3.ckpt", "update-step=4.ckpt"]


@pytest.mark.parametrize("share", [0.5, 0.0])
def test_a_cut_checkpoint_is_named_and_the_run_goes_on_from_the_one_before(share, tmp_path, random_policy, straight, capsys):
    run = tmp_path / "run"
    with pytest.raises(train.Unfinished):
        train.run(settings(run, random_policy, *SHORT, "objective.updates=4", "+trainer.max_steps=3"))
    last = run / "checkpoints/update-step=3.ckpt"
    last.write_bytes(last.read_bytes()[: int(share * last.stat().st_size)])
    train.run(settings(run, random_policy, *SHORT, "objective.updates=4"))
    said = capsys.readouterr().out
    assert f"focus: {last} can't be read" in said and "resumes from update-step=2.ckpt" in said
    assert history(run) == [1, 2, 3, 4] and weights(run) == weights(straight)


DISK = """
import os, resource, signal, sys, torch
from pathlib import Path
from focus.training import checkpoints
folder, how = Path(sys.argv[1]), sys.argv[2]
what = {"weights": torch.zeros(10**6)}
if how == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
else:
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    write, calls = checkpoints._Sink.write, []
    def interrupted(self, data):
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGALRM)
        return write(self, data)
    checkpoints._Sink.write = interrupted
try:
    checkpoints.AtomicFiles().save_checkpoint(what, folder / "update-step=1.ckpt")
except (OSError, KeyboardInterrupt) as error:
    print(type(error).__name__, getattr(error, "errno", ""))
"""


@pytest.mark.processes
@pytest.mark.parametrize(("how", "said"), [("full", f"OSError {errno.EFBIG}"), ("interrupted", "KeyboardInterrupt")])
def test_a_disk_that_fills_or_a_signal_within_a_write_is_an_error_and_no_abort(how, said, tmp_path):
    """In a process of its own: PyTorch's writer would end the process with SIGABRT after either."""
    (tmp_path / "disk.py").write_text(DISK)
    done = forked(str(tmp_path / "disk.py"), str(tmp_path), how).ended()
    assert (done.returncode, done.stdout.strip()) == (0, said), done.stderr[-2000:]
    assert not (tmp_path / "update-step=1.ckpt").exists()


def test_where_every_checkpoint_is_cut_the_run_says_so_and_touches_none(tmp_path):
    for step in (1, 2):
        (tmp_path / f"update-step={step}.ckpt").write_bytes(b"half")
    with pytest.raises(ValueError, match=r"no checkpoint in .* can be read \(update-step=2.ckpt: .*; update-step=1.ckpt: .*copy one back"):
        checkpoints.latest_readable(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["update-step=1.ckpt", "update-step=2.ckpt"]
    assert checkpoints.latest_readable(tmp_path / "none") is None


def test_a_file_inside_a_checkpoint_of_several_ranks_that_was_cut_is_found(tmp_path):
    folder = tmp_path / "update-step=1.ckpt"
    dcp.save({"a": torch.arange(1000.0)}, checkpoint_id=folder)
    assert checkpoints.damage(folder) == ""
    part = next(folder.glob("*.distcp"))
    part.write_bytes(part.read_bytes()[:100])
    assert checkpoints.damage(folder) == f"{part.name} is cut"
    (folder / ".metadata").write_bytes(b"")
    assert checkpoints.damage(folder) == "Ran out of input"


def test_damage_inside_a_checkpoint_of_the_right_length_is_told_with_its_name(tmp_path):
    io, path = checkpoints.AtomicFiles(), tmp_path / "update-step=1.ckpt"
    io.save_checkpoint({"weights": torch.zeros(1000)}, path)
    data = bytearray(path.read_bytes())
    data[600:700] = b"\xff" * 100
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"checkpoint .*update-step=1.ckpt can't be read .*the run resumes from the one before"):
        io.load_checkpoint(path, weights_only=True)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    path = tmp_path / "update-step=1.ckpt"
    torch.save({"weights": Evil()}, path)
    with pytest.raises(ValueError, match=r"update-step=1.ckpt can't be read"):
        checkpoints.AtomicFiles().load_checkpoint(path, weights_only=True)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)


def test_a_run_goes_on_from_its_last_update_whatever_the_clock_says(tmp_path):
    """A job that ended while it removed its older checkpoint leaves a folder that was changed later."""
    for number in (10, 9):
        (tmp_path / f"update-step={number}.ckpt").mkdir()
    assert [path.name for path in checkpoints.all_checkpoints(tmp_path)] == ["update-step=10.ckpt", "update-step=9.ckpt"]


# ------------------------------------------------------------------------------------------------------------------- data workers


def test_the_number_of_data_workers_may_change_when_a_run_goes_on_and_moves_no_weight(tmp_path, random_policy, straight):
    run = tmp_path / "run"
    for workers, more in ((2, "+trainer.max_steps=1"), (0, "+trainer.max_steps=3"), (1, "threads=1")):
        cfg = settings(run, random_policy, *SHORT, "objective.updates=4", f"data.workers={workers}", more)
        if more.startswith("+"):
            with pytest.raises(train.Unfinished):
                train.run(cfg)
        else:
            train.run(cfg)
    assert history(run) == [1, 2, 3, 4] and weights(run) == weights(straight)


def test_a_data_worker_that_dies_is_one_sentence_and_the_run_goes_on_without_workers(tmp_path, random_policy, straight):
    """The killer is a callback of the settings."""
    run, killer = tmp_path / "run", "+trainer.callbacks=[{_target_: tests.support.updates.EndsWorker}]"
    cfg = settings(run, random_policy, *SHORT, "objective.updates=4", "data.workers=1", killer, "+trainer.enable_progress_bar=false")
    with pytest.raises(SystemExit, match=r"^focus: a process that reads questions was ended from outside .*data.workers=0"):
        config.guarded(train.run, cfg)
    assert len(history(run)) < 4
    train.run(settings(run, random_policy, *SHORT, "objective.updates=4", "data.workers=0"))
    assert history(run) == [1, 2, 3, 4] and weights(run) == weights(straight)


class Warned(pl.Callback):
    """Slurm's warning in the middle of the second update, 100 s before the end of the job."""

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, index: int) -> None:
        if pl_module.updates_done == 1:
            os.kill(os.getpid(), signal.SIGUSR2)


def test_a_warned_job_saves_its_update_before_it_is_requeued(tmp_path, random_policy, monkeypatch):
    """submitit's handler ends the process, as the one here does."""
    run, ended = tmp_path / "run", signal.signal(signal.SIGUSR2, lambda *_: sys.exit("requeued"))
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 100))
    warned = "+trainer.callbacks=[{_target_: tests.training.test_resume.Warned}]"
    with pytest.raises(SystemExit, match="requeued"):
        train.run(settings(run, random_policy, *SHORT, "objective.updates=4", "report.checkpoint_every=100", warned))
    signal.signal(signal.SIGUSR2, ended)
    assert history(run) == [1, 2] and [path.name for path in (run / "checkpoints").iterdir()] == ["update-step=2.ckpt"]


def test_slow_updates_are_saved_by_the_clock(tmp_path, random_policy):
    run = tmp_path / "run"
    train.run(settings(run, random_policy, *SHORT, "objective.updates=1", "report.checkpoint_every=100", "report.checkpoint_minutes=0"))
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["update-step=1.ckpt"]


def test_a_callback_of_the_settings_is_called_and_the_bar_can_be_switched_off(tmp_path, random_policy, capfd):
    monitor = "+trainer.callbacks=[{_target_: pytorch_lightning.callbacks.LearningRateMonitor}]"
    train.run(settings(tmp_path / "run", random_policy, *SHORT, "objective.updates=1", monitor, "+trainer.enable_progress_bar=false"))
    [log] = (tmp_path / "run/csv").rglob("metrics.csv")
    assert "lr-AdamW" in log.read_text().splitlines()[0]
    assert "Epoch" not in capfd.readouterr().out


# ------------------------------------------------------------------------------------------------------------------------- ends


@pytest.fixture
def signals():
    """Handlers are put back."""
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGCHLD)}
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


@pytest.mark.parametrize("keeps", [True, False])
def test_sigterm_ends_with_its_status_and_a_sentence_in_any_phase(signals, capsys, tmp_path, keeps):
    def run(_):
        with config.alone(tmp_path / "run") if keeps else nullcontext():  # a server keeps nothing that could be resumed
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)

    with pytest.raises(SystemExit) as ended:
        config.guarded(run, OmegaConf.create())
    assert ended.value.code == 143
    assert capsys.readouterr().err == f"focus: ended by SIGTERM{'; run the same command again to resume' * keeps}\n"


def test_a_job_of_submitit_keeps_the_handlers_that_requeue_it(signals, monkeypatch):
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    processes.end_on_sigterm()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


@pytest.mark.processes
def test_a_process_that_waits_where_python_can_not_interrupt_it_ends_on_sigterm_too():
    """Like a rank in a rendezvous or a collective, whose other rank is gone. Here a lock of the C library is taken twice."""
    stuck = (
        "import ctypes; from focus.runtime import processes; processes.ENDS_WITHIN_S = 0.1; processes.end_on_sigterm(); "
        "lock = ctypes.create_string_buffer(64); "
        "take = ctypes.CDLL(None).pthread_mutex_lock; take(lock); print('waits', flush=True); take(lock)"
    )
    running = subprocess.Popen([sys.executable, "-c", stuck], cwd=CONF.parent, stdout=subprocess.PIPE, text=True)
    assert running.stdout.readline() == "waits\n"
    slept = 0
    while slept < 20:  # it sleeps where it waits, not between two steps of Python
        slept = slept + 1 if Path(f"/proc/{running.pid}/stat").read_text().rpartition(")")[2].split()[0] == "S" else 0
        time.sleep(0.02)
    running.terminate()
    assert running.wait(600) == 143


@pytest.mark.processes
def test_what_belongs_to_a_killed_process_ends_too():
    """Like a rank that Lightning started (LOCAL_RANK), whose first rank is killed alone."""
    child = (
        "import time; from focus.runtime.processes import end_with_parent; end_with_parent(); print('works', flush=True); time.sleep(600)"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    running = subprocess.Popen(
        [sys.executable, "-c", parent], cwd=CONF.parent, env=os.environ | {"LOCAL_RANK": "1"}, stdout=subprocess.PIPE, text=True
    )
    assert running.stdout.readline() == "works\n"
    running.kill()
    assert running.stdout.read() == ""  # comes when the child, which holds the other end, has ended


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize(
    "place", ["focus.training.checkpoints.torch.save", "focus.training.history.History.on_train_batch_end", "focus.runs.train.report_run"]
)
def test_a_disk_that_is_full_or_read_only_is_one_sentence_and_the_run_goes_on_afterwards(
    place, code, tmp_path, random_policy, straight, monkeypatch
):
    def full(*_, **__):
        raise OSError(code, os.strerror(code), "some/file")

    cfg = settings(tmp_path / "run", random_policy, *SHORT, "objective.updates=4")
    monkeypatch.setattr(place, full)
    with pytest.raises(SystemExit, match=rf"^focus: a file can't be read or written \(\[Errno {code}\].*run the same command again"):
        config.guarded(train.run, cfg)
    if code == errno.ENOSPC:
        monkeypatch.undo()
        train.run(cfg)
        assert weights(tmp_path / "run") == weights(straight) and history(tmp_path / "run") == [1, 2, 3, 4]


# ---------------------------------------------------------------------------------------------------------------------- history


def test_a_history_that_is_rewritten_on_resume_is_never_half(tmp_path, monkeypatch):
    path = tmp_path / "history.jsonl"
    path.write_text("".join(f'{{"update": {n}.0}}\n' for n in (1, 2, 3)))
    monkeypatch.setattr(files, "replace_atomically", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        History(path).on_train_start(SimpleNamespace(is_global_zero=True), SimpleNamespace(updates_done=2))
    assert [row["update"] for row in read_history(path)] == [1, 2, 3]


def test_what_a_history_lacks_is_told_on_resume_and_the_rest_is_kept(tmp_path, capsys):
    path = tmp_path / "history.jsonl"
    path.write_text('{"update": 1.0}\n{"update": 2.\n{"update": 3.0}\n{"upda')
    History(path).on_train_start(SimpleNamespace(is_global_zero=True), SimpleNamespace(updates_done=3))
    assert path.read_text() == '{"update": 1.0}\n{"update": 3.0}\n'
    assert capsys.readouterr().out == f"focus: {path} lacks 1 of the 3 finished updates (2); curves lack them too\n"


ALARM = {"update": 2.0, "alarm/truncated": 1.0, "alarm/mismatch": 0.0}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"update": 1.0}, {"update": 4.0}], "finished"),  # rows in the middle were lost
        ([], "finished"),  # the whole history was
        ([{"update": 1.0}, ALARM], "stopped by an alarm after 2 updates"),
        ([ALARM, {"update": 4.0, "alarm/truncated": 0.0}], "finished"),
        ([{"update": 1.0, "alarm/truncated": 0.0}], "1 of 4 updates"),  # of an earlier version, which exported what was cut short
    ],
)
def test_a_run_is_said_to_be_stopped_by_an_alarm_only_where_one_stood_at_its_end(rows, said):
    assert how_it_ended(rows, 4) == said


def test_settings_that_were_lost_are_said_when_a_run_resumes(tmp_path, random_policy):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"holds a run whose settings.yaml can't be read \(FileNotFoundError\), .*copy the file back"):
        train.run(settings(run, random_policy))
