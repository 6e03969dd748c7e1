"""Sweeps on a cluster: the job that Slurm would get, what pre-emption does to it, and what is told of a sweep half way."""

import csv
import errno
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from pytorch_lightning.plugins.environments import SLURMEnvironment

from focus import build, config
from focus.build import run_facts
from focus.config import CONF
from focus.config.schema import TrainConfig
from focus.config.validate import plain
from focus.data.questions import Questions
from focus.data.scenes import DIFFICULTY, Scenes
from focus.model import loading
from focus.report import run, sweep
from focus.runs import sweep as sweep_run
from focus.runs import train
from focus.runtime import files
from tests.support.ranks import Forked, forked
from tests.support.runs import SMALL, another_job, settings

POINTS = [*SMALL, "evaluation.samples=0", "report.trajectories=1", "seed=0,1", "hydra.sweep.subdir=${hydra:job.override_dirname}"]


def swept(folder: Path, policy: Path, launcher: str, *more: str, **environment: str) -> Forked:
    """A sweep of two seeds, started as people start it."""
    unnamed = [word.split("=")[0].lstrip("+") for word in (*SMALL, *POINTS, *more) if not word.startswith("seed")]
    excluded = f"hydra.job.config.override_dirname.exclude_keys=[{','.join({*unnamed, 'policy.checkpoint', 'hydra.sweep.dir'})}]"
    where = [f"hydra.sweep.dir={folder}", f"policy.checkpoint={policy}", f"hydra/launcher={launcher}", excluded]
    return forked("-m", "focus.train", "--multirun", *POINTS, *where, *more, **environment)


def task_of(point: Path) -> int:
    """The process that works on a point: it holds the point's lock, and has submitit's handlers long since."""
    for place in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if os.readlink(place) == str(point / "running.lock"):
                return int(place.parts[2])
    raise AssertionError(f"nobody works on {point}")


def preempt(folder: Path, point: str, running: Forked) -> None:
    """Warn the job of one point as Slurm does, as soon as it has a checkpoint: SIGTERM, which asks for nothing, then submitit's own."""
    until = time.monotonic() + 600
    while not list((folder / point / "checkpoints").glob("update-*.ckpt")):
        assert running.runs() and time.monotonic() < until, running.ended()
        time.sleep(0.02)
    task = task_of(folder / point)
    os.kill(task, signal.SIGTERM)
    os.kill(task, signal.SIGUSR2)


@pytest.mark.processes
def test_a_preempted_job_is_requeued_by_submitit_and_ends_as_if_nothing_had_happened(tmp_path, random_policy):
    more = "objective.updates=6"
    for seed in (0, 1):
        train.run(
            settings(tmp_path / f"straight{seed}", random_policy, "evaluation.samples=0", "report.trajectories=1", more, f"seed={seed}")
        )
    running = swept(tmp_path / "sweep", random_policy, "submitit_local", more, "hydra.launcher.timeout_min=5")
    preempt(tmp_path / "sweep", "seed=0", running)
    done = running.ended()
    logs = "".join(path.read_text() for path in (tmp_path / "sweep/.submitit").rglob("*_log.*"))
    assert "Requeued job" in logs and "Bypassing signal SIGTERM" in logs, f"{done} {logs[-3000:]}"
    assert done.returncode == 0, done
    for seed in (0, 1):
        point = tmp_path / f"sweep/seed={seed}"
        assert [json.loads(line)["update"] for line in (point / "history.jsonl").read_text().splitlines()] == [1, 2, 3, 4, 5, 6]
        assert [(p.folder, p.status) for p in sweep.points_of(tmp_path / "sweep") if p.values["seed"] == str(seed)] == [(point, "finished")]
        hashes = {loading.load_model(place / "policy", "tiny").weights_hash() for place in (point, tmp_path / f"straight{seed}")}
        assert len(hashes) == 1


# -------------------------------------------------------------------------------------------------- jobs and ranks beside each other


def columns(results: Path) -> list[list[str]]:
    """Run and status of every row, the header among them."""
    with results.open(newline="") as file:
        return [[row[0], row[3]] for row in csv.reader(file)]


def test_two_points_that_end_together_leave_one_header_and_a_row_each(tmp_path, monkeypatch):
    """The second has opened the empty file when the first writes."""
    results, lock = tmp_path / "results.csv", run.fcntl.flock
    first, second = (run_facts(TrainConfig.model_validate(plain(settings(tmp_path / name, tmp_path)))) for name in ("a", "b"))

    def taking_turns(file, how):
        monkeypatch.setattr(run.fcntl, "flock", lock)
        run.write_row(results, first, "base", {})
        lock(file, how)

    monkeypatch.setattr(run.fcntl, "flock", taking_turns)
    run.write_row(results, second, "base", {})
    assert columns(results) == [["run", "status"], ["a", "finished"], ["b", "finished"]]


def test_results_where_files_can_not_be_locked_are_refused_before_anything_starts(tmp_path, random_policy, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(run.fcntl, "flock", flock)
    with pytest.raises(ValueError, match=r"results.csv can't be written and locked .*Function not implemented.*another file system"):
        train.run(settings(tmp_path / "run", random_policy, f"results={tmp_path / 'results.csv'}"))
    assert not (tmp_path / "run").exists()


def test_a_second_job_for_a_point_that_is_running_is_refused_and_leaves_no_row(tmp_path, random_policy, monkeypatch):
    """As when the terminal of a sweep was closed and the sweep is started again while its jobs run. However a job ends, its lock ends."""
    results, run = tmp_path / "results.csv", tmp_path / "run"
    cfg = settings(run, random_policy, f"results={results}")
    monkeypatch.setattr(train, "_run", lambda *_: (run / "went on").touch())
    with another_job(run) as other:
        with pytest.raises(ValueError, match=r"another job is working in .*run \(it holds .*running.lock\); wait for it, or end it first"):
            train.run(cfg)
        assert results.read_text() == "" and not (run / "went on").exists()
        other.kill()
        other.wait()
        train.run(cfg)
    assert (run / "went on").exists()


def test_what_other_ranks_may_be_reading_is_never_half_written(tmp_path, random_policy, monkeypatch):
    path, write, seen = tmp_path / "settings.yaml", Path.write_text, []
    path.write_text("before")

    def slowly(self, text):
        write(self, text[:2])
        seen.append(path.read_text())
        write(self, text)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", slowly)
        files.write_on_first_rank(path, "afterwards")
    assert seen == ["before"] and path.read_text() == "afterwards"

    published, publish = [], files.write_on_first_rank

    def stop(*_):
        raise InterruptedError

    monkeypatch.setattr(files, "write_on_first_rank", lambda path, text: (published.append(path.name), publish(path, text)))
    monkeypatch.setattr(train, "fit", stop)
    with pytest.raises(InterruptedError):
        train.run(settings(tmp_path / "run", random_policy))
    assert published == ["settings.yaml", "started_from.txt", "trained_on.txt", "trained_by.jsonl"]


# ------------------------------------------------------------------------------------------------------------- a Slurm of four scripts

SBATCH = """#!{python}
import os, re, subprocess, sys
from pathlib import Path
script = Path(sys.argv[-1])
text = script.read_text()
Path("{folder}/script.sh").write_text(text)
array = re.search(r"--array=(\\d+)-(\\d+)", text)
for index in range(int(array[1]), int(array[2]) + 1):
    tasks = re.search(r"--ntasks-per-node=(\\d+)", text)[1]
    job = dict(SLURM_ARRAY_JOB_ID="77", SLURM_ARRAY_TASK_ID=str(index), SLURM_JOB_ID=str(9000 + index), SLURM_JOB_NAME="train",
               SLURM_NTASKS=tasks, SLURM_NTASKS_PER_NODE=tasks, SLURM_JOB_NUM_NODES="1", SLURM_NODEID="0", SLURM_NODELIST="localhost")
    log = open(f"{folder}/job{{index}}.log", "w")
    subprocess.Popen(["bash", str(script)], env=os.environ | job, start_new_session=True, stdout=log, stderr=log)
print("Submitted batch job 77")
"""
SRUN = """#!{python}
import os, runpy, sys
sys.path.insert(0, os.getcwd())
import focus.runs.train  # once for all tasks, which are forked
from pytorch_lightning.utilities import rank_zero_only
words, tasks = sys.argv[1:], []
for rank in range(int(os.environ["SLURM_NTASKS"])):
    if pid := os.fork():
        tasks.append(pid)
        continue
    os.environ.update(SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank))
    rank_zero_only.rank = rank
    sys.argv = words[words.index("-m") + 1 :]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    sys.exit()
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in tasks))
"""
SACCT = "#!/bin/sh\necho 'JobID|State|NodeList'\n"


@pytest.fixture
def slurm(tmp_path) -> Path:
    """Commands of Slurm's names: an array job starts its tasks at once, on this machine."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("sacct", SACCT)):
        script = folder / name
        script.write_text(text.format(python=sys.executable, folder=folder) if name != "sacct" else text)
        script.chmod(0o755)
    return folder


@pytest.mark.processes
def test_slurm_gets_one_job_per_point_with_its_limits_and_a_task_for_every_device(slurm, tmp_path, random_policy):
    """The script is what sbatch got; its tasks run two ranks of each point, which Lightning finds by Slurm's variables."""
    devices = ["trainer.strategy=ddp", "trainer.devices=2", "rollout.questions_per_update=2"]
    path = f"{slurm}:{os.environ['PATH']}"
    done = swept(tmp_path / "sweep", random_policy, "slurm", *devices, "hydra.launcher.partition=gpu", PATH=path).ended()
    logs = "".join(path.read_text()[-2000:] for path in slurm.glob("job*.log"))
    assert done.returncode == 0, f"{done} {logs}"
    for seed in (0, 1):
        assert (tmp_path / f"sweep/seed={seed}/policy/config.json").is_file()
        assert len((tmp_path / f"sweep/seed={seed}/history.jsonl").read_text().splitlines()) == 2
    script = (slurm / "script.sh").read_text()
    for line in (
        "--array=0-1%2",
        "--nodes=1",
        "--ntasks-per-node=2",
        "--cpus-per-task=8",
        "--mem=16GB",
        "--partition=gpu",
        "--time=240",
        "--requeue",
        "--open-mode=append",
    ):
        assert f"#SBATCH {line}\n" in script, script
    assert re.search(r"^#SBATCH --signal=USR2@12\d$", script, flags=re.MULTILINE)
    assert "gpus" not in script and "\nexport SRUN_CPUS_PER_TASK=8\nexport SLURM_KILL_BAD_EXIT=1\n" in script
    assert "submitit.core._submit" in script.splitlines()[-1] and script.splitlines()[-1].startswith("srun ")


@pytest.mark.parametrize(
    ("trainer", "asked"), [(["trainer=cpu"], (1, 1, None)), (["trainer=fsdp", "trainer.devices=8", "trainer.num_nodes=2"], (2, 8, 8))]
)
def test_slurm_is_asked_for_what_the_trainer_uses(trainer, asked):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        launcher = compose("train", ["experiment=stage1", "hydra/launcher=slurm", *trainer], return_hydra_config=True).hydra.launcher
    assert (launcher.nodes, launcher.tasks_per_node, launcher.gpus_per_node) == asked


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["experiment=smoke", "hydra/launcher=slurm"], "hydra/launcher=slurm starts the points of a sweep; add --multirun"),
        (
            ["--multirun", "experiment=smoke", "seed=0,1", "hydra/launcher=slurm", "trainer=fsdp"],
            "trainer.devices is auto, but hydra/launcher=slurm asks",
        ),
        (
            ["--multirun", "experiment=smoke", "objective.updates=0,1"],
            "the first point of this sweep: .*objective.updates is 0; use",
        ),
        (["--multirun", "experiment=smoke", "seed=[0"], "seed is \\[0, which Hydra can.t read"),
        (
            ["--multirun", "experiment=smoke", "reward=stag1,stage2"],
            "the first point of this sweep: reward=stag1 names no file. Did you mean stage1",
        ),
        (["--multirun", "seed=0,1"], "the first point of this sweep: these settings can't work.*name.*Choose an experiment"),
    ],
)
def test_a_sweep_that_can_not_work_is_refused_before_any_point_is_started(words, said, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    with pytest.raises(SystemExit, match=f"(?s)^focus: {said}"):
        config.start(lambda: pytest.fail("it was started"), "train")


def test_a_sweep_whose_first_point_can_work_is_started_though_this_machine_has_no_gpu(monkeypatch):
    started = []
    monkeypatch.setattr(sys, "argv", ["train.py", "--multirun", "experiment=smoke", "objective.updates=3,9", "trainer=gpu"])
    config.start(lambda: started.append(1), "train")
    assert started == [1]


def test_lightning_does_not_requeue_where_slurm_runs_the_job(monkeypatch, tmp_path, random_policy):
    given = {}

    class Stop(Exception):
        pass

    def trainer(*_, **rest):
        given.update(rest)
        raise Stop

    monkeypatch.setattr(build, "instantiate", lambda node, **rest: trainer(**rest) if "plugins" in rest else instantiate(node, **rest))
    from hydra.utils import instantiate

    for there in (True, False):
        monkeypatch.setattr(SLURMEnvironment, "detect", staticmethod(lambda there=there: there))
        with pytest.raises(Stop):
            train.run(settings(tmp_path / str(there), random_policy, "evaluation.samples=0"))
        if there:
            [environment] = given["plugins"]
            assert isinstance(environment, SLURMEnvironment) and not environment.auto_requeue
        else:
            assert given["plugins"] is None


@pytest.mark.processes
def test_slurm_without_its_commands_is_refused_before_anything_is_queued():
    done = subprocess.run(
        [sys.executable, "-m", "focus.train", "--multirun", "experiment=gap_sweep", "hydra/launcher=slurm"],
        cwd=CONF.parent, capture_output=True, text=True, timeout=600, env=os.environ | {"PATH": "/nowhere"},
    )  # fmt: skip
    assert done.returncode == 1 and done.stderr == (
        "focus: hydra/launcher=slurm needs sbatch, which is not here; start it on a login node, or use hydra/launcher=local\n"
    )


# ------------------------------------------------------------------------------------------------------------------- what is told of it


@pytest.fixture(scope="module")
def half(tmp_path_factory, random_policy) -> Path:
    """A sweep of three gaps and two seeds, of which two points are done, one was interrupted, one crashed, and two have not begun."""
    folder = tmp_path_factory.mktemp("sweeps") / "gap"
    for tokens, seed, *more in ((64, 0), (16, 0), (16, 1, "evaluation.samples=0"), (64, 1, "evaluation.samples=0")):
        point = folder / f"gap.view_tokens={tokens},seed={seed}"
        more += [f"gap.view_tokens={tokens}", f"seed={seed}", "objective.updates=1", "evaluation.arms=[own,noise]"]
        cfg = settings(folder, random_policy, f"results={folder / 'results.csv'}", *more)
        cfg.output = str(point)
        with pytest.MonkeyPatch.context() as patched:
            if (tokens, seed) == (64, 1):
                patched.setattr(train, "fit", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError) if (tokens, seed) == (64, 1) else nullcontext():
                train.run(cfg)
    (folder / "gap.view_tokens=16,seed=1/policy/config.json").unlink()
    (folder / "gap.view_tokens=16,seed=0,objective.updates=9").mkdir()  # of another sweep into the same folder
    (folder / "gap.view_tokens=16,seed=0,objective.updates=9/settings.yaml").write_text("")
    record(folder, "seed: 'range(0,2)', gap.view_tokens: '16,64,256'", "[experiment=gap_sweep]")
    return folder


def record(folder: Path, swept: str, given: str) -> None:
    """What Hydra leaves of a sweep, as far as it is read."""
    job = "job: {config: {override_dirname: {exclude_keys: [experiment, results, threads, name]}}}"
    (folder / "multirun.yaml").write_text(f"hydra: {{sweeper: {{params: {{{swept}}}}}, overrides: {{task: {given}}}, {job}}}")


def report(folder: Path, *more: str) -> None:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        sweep_run.run(compose("sweep", [f"sweep={folder}", *more]))


@pytest.mark.parametrize("content", ["hydra: [", "[]", "hydra: {}"])
def test_a_damaged_record_of_a_sweep_is_named(tmp_path, content):
    (tmp_path / "multirun.yaml").write_text(content)
    with pytest.raises(ValueError, match=r"multirun\.yaml can't be read as settings \(.*\); copy it back"):
        report(tmp_path)


def test_a_sweep_half_way_is_told_point_by_point(half, capsys):
    report(half)
    said = capsys.readouterr().out
    assert "6 points: 2 finished, 2 missing, 1 unfinished, 1 crashed" in said
    with (half / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["seed"], row["gap.view_tokens"], row["status"]) for row in rows] == [
        ("0", "16", "finished"),
        ("0", "64", "finished"),
        ("0", "256", "missing"),
        ("1", "16", "1 of 1 updates"),
        ("1", "64", "0 of 1 updates, crashed: ZeroDivisionError: division by zero"),
        ("1", "256", "missing"),
    ]
    assert rows[1]["common own mean"] == rows[1]["own own mean"] != ""  # 64 tokens are the common view: measured once
    run = json.loads((half / "gap.view_tokens=16,seed=0/evaluation_trained_t1.json").read_text())["outcomes"]["own view"]["values"]["own"]
    assert float(rows[0]["own own mean"]) == pytest.approx(100 * sum(run) / len(run)) and rows[2]["own own mean"] == ""
    page = (half / "sweep.html").read_text()
    assert 'href="gap.view_tokens%3D16%2Cseed%3D0/report.html"' in page and "data:image/svg+xml;base64," in page
    assert (half / "sweep.png").stat().st_size > 5000


def test_what_is_given_on_the_command_line_takes_the_place_of_what_the_experiment_sweeps(tmp_path):
    record(tmp_path, "seed: 'range(0,5)', gap.view_tokens: '16,64'", "['seed=7,8', gap.view_tokens=16, threads=2]")
    assert sweep.launched(tmp_path) == [({"seed": str(n)}, f"gap.view_tokens=16,seed={n}") for n in (7, 8)]


def test_points_that_an_earlier_command_left_in_the_folder_belong_to_the_sweep(tmp_path):
    """One command for each seed: Hydra's record knows the last one alone."""
    record(tmp_path, "seed: 'range(0,5)', gap: 'fixed,off'", "['seed=1']")
    for name in ("gap=fixed,seed=0", "gap=off,seed=1", "gap=off", "lr=1,seed=0"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "settings.yaml").touch()
    assert sweep.launched(tmp_path) == [
        ({"seed": seed, "gap": gap}, f"gap={gap},seed={seed}") for seed, gap in (("0", "fixed"), ("1", "fixed"), ("1", "off"))
    ]


def test_a_swept_list_or_path_is_found_where_hydra_puts_it(tmp_path):
    record(tmp_path, "", "['data.letter_px=[6,12],[12,24]', +policy.checkpoint=a/b]")
    assert [name for _, name in sweep.launched(tmp_path)] == [f"+policy.checkpoint=a/b,data.letter_px={px}" for px in ("[6,12]", "[12,24]")]


def test_a_folder_without_a_sweep_and_a_metric_that_does_not_exist_are_refused(half, tmp_path):
    with pytest.raises(ValueError, match=r"holds no sweep \(no multirun.yaml\); sweeps of .*: gap"):
        report(half.parent / "nothing")
    record(tmp_path, "", "[seed=3]")
    with pytest.raises(ValueError, match=r"holds one point and no sweep; its page is .*report.html"):
        report(tmp_path)
    with pytest.raises(ValueError, match="metrics names accuracy; there are own, gt, noise"):
        report(half, "metrics=[accuracy]")


def test_workers_that_draw_questions_leave_a_clusters_signals_to_their_process():
    """A worker that inherited the handler of pre-emption would requeue the job a second time."""
    data = Questions(Scenes(replace(DIFFICULTY[1], side_px=224), "train", 4), 2, 2, workers=1, seed=0)
    asked: list[int] = []
    before = {each: signal.signal(each, lambda number, _: asked.append(number)) for each in (signal.SIGTERM, signal.SIGUSR2)}
    try:
        questions = iter(data.train_dataloader())
        next(questions)
        [worker] = multiprocessing.active_children()
        os.kill(worker.pid, signal.SIGUSR2)
        assert len(next(questions)) == 2 and worker.is_alive() and not asked
        del questions
        worker.join(timeout=600)
        assert worker.exitcode == 0
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
