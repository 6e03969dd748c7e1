"""Sweeps on a cluster: the job that Slurm would get, what pre-emption does to it, and what is told of a sweep half way."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from pytorch_lightning.plugins.environments import SLURMEnvironment

from focus import checkpoint, sweep, train
from focus.config import CONF
from tests.test_run import SMALL, settings

POINTS = [*SMALL, "evaluation.samples=0", "report.trajectories=1", "seed=0,1", "hydra.sweep.subdir=${hydra:job.override_dirname}"]


def swept(folder: Path, policy: Path, launcher: str, *more: str, path: str | None = None, **how) -> subprocess.Popen:
    """A sweep of two seeds, started as people start it."""
    unnamed = [word.split("=")[0].lstrip("+") for word in (*SMALL, *POINTS, *more) if not word.startswith("seed")]
    excluded = f"hydra.job.config.override_dirname.exclude_keys=[{','.join({*unnamed, 'policy.checkpoint', 'hydra.sweep.dir'})}]"
    where = [f"hydra.sweep.dir={folder}", f"policy.checkpoint={policy}", f"hydra/launcher={launcher}", excluded]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PATH": f"{path}:{os.environ['PATH']}" if path else os.environ["PATH"]}
    command = [sys.executable, "-m", "focus.train", "--multirun", *POINTS, *where, *more]
    return subprocess.Popen(command, cwd=CONF.parent, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **how)


def tasks_of(folder: Path) -> list[int]:
    """Processes that run a pickled job of this sweep."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if "submitit.core._submit" in words and str(folder) in " ".join(words):
            found.append(int(place.name))
    return found


def preempt(folder: Path, point: str, running: subprocess.Popen) -> None:
    """Warn the job of one point as Slurm does, as soon as it has a checkpoint: SIGTERM, which asks for nothing, then submitit's own."""
    until = time.monotonic() + 120
    while not list((folder / point / "checkpoints").glob("update-*.ckpt")):
        assert running.poll() is None and time.monotonic() < until, running.communicate()[0][-3000:]
        time.sleep(0.02)
    for task in tasks_of(folder):
        os.kill(task, signal.SIGTERM)
        os.kill(task, signal.SIGUSR2)


def test_a_preempted_job_is_requeued_by_submitit_and_ends_as_if_nothing_had_happened(tmp_path, random_policy):
    more = "objective.updates=6"
    for seed in (0, 1):
        train.run(
            settings(tmp_path / f"straight{seed}", random_policy, "evaluation.samples=0", "report.trajectories=1", more, f"seed={seed}")
        )
    running = swept(tmp_path / "sweep", random_policy, "submitit_local", more, "hydra.launcher.timeout_min=5")
    preempt(tmp_path / "sweep", "seed=0", running)
    said, _ = running.communicate(timeout=240)
    logs = "".join(path.read_text() for path in (tmp_path / "sweep/.submitit").rglob("*_log.*"))
    assert "Requeued job" in logs and "Bypassing signal SIGTERM" in logs, said[-3000:] + logs[-3000:]
    assert running.returncode == 0, said[-3000:]
    for seed in (0, 1):
        point = tmp_path / f"sweep/seed={seed}"
        assert [json.loads(line)["update"] for line in (point / "history.jsonl").read_text().splitlines()] == [1, 2, 3, 4, 5, 6]
        hashes = {checkpoint.load(place / "policy", "tiny").weights_hash() for place in (point, tmp_path / f"straight{seed}")}
        assert len(hashes) == 1


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
import os, subprocess, sys
words = sys.argv[1:]
while words[0].startswith("-"):  # its own options, two of them with a value
    words = words[2 if words[0] in ("--output", "--error") else 1 :]
tasks = range(int(os.environ["SLURM_NTASKS"]))
ranks = [subprocess.Popen(words, env=os.environ | dict(SLURM_PROCID=str(n), SLURM_LOCALID=str(n))) for n in tasks]
sys.exit(max(rank.wait() for rank in ranks))
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


def test_slurm_gets_one_job_per_point_with_its_limits_and_a_task_for_every_device(slurm, tmp_path, random_policy):
    """The script is what sbatch got; its tasks run two ranks of each point, which Lightning finds by Slurm's variables."""
    devices = ["trainer.strategy=ddp", "trainer.devices=2", "hydra.launcher.tasks_per_node=2", "rollout.questions_per_update=2"]
    running = swept(tmp_path / "sweep", random_policy, "slurm", *devices, "hydra.launcher.partition=gpu", path=str(slurm))
    said, _ = running.communicate(timeout=240)
    logs = "".join(path.read_text()[-2000:] for path in slurm.glob("job*.log"))
    assert running.returncode == 0, said[-3000:] + logs
    for seed in (0, 1):
        assert (tmp_path / f"sweep/seed={seed}/policy/config.json").is_file()
        assert len((tmp_path / f"sweep/seed={seed}/history.jsonl").read_text().splitlines()) == 2
    script = (slurm / "script.sh").read_text()
    for line in (
        "--array=0-1%2",
        "--nodes=1",
        "--ntasks-per-node=2",
        "--gpus-per-node=1",
        "--cpus-per-task=8",
        "--mem=64GB",
        "--partition=gpu",
        "--time=240",
        "--signal=USR2@120",
        "--requeue",
        "--open-mode=append",
    ):
        assert f"#SBATCH {line}\n" in script, script
    assert "submitit.core._submit" in script.splitlines()[-1] and script.splitlines()[-1].startswith("srun ")


def test_lightning_does_not_requeue_where_slurm_runs_the_job(monkeypatch, tmp_path, random_policy):
    given = {}

    class Stop(Exception):
        pass

    def trainer(*_, **rest):
        given.update(rest)
        raise Stop

    monkeypatch.setattr(train, "instantiate", lambda node, **rest: trainer(**rest) if "plugins" in rest else instantiate(node, **rest))
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


def test_slurm_without_its_commands_is_refused_before_anything_is_queued():
    done = subprocess.run(
        [sys.executable, "-m", "focus.train", "--multirun", "experiment=gap_sweep", "hydra/launcher=slurm"],
        cwd=CONF.parent, capture_output=True, text=True, timeout=60, env=os.environ | {"PATH": "/nowhere"},
    )  # fmt: skip
    assert done.returncode == 1 and done.stderr == (
        "focus: hydra/launcher=slurm needs sbatch, which is not here; start it on a login node, or use hydra/launcher=local\n"
    )


# ------------------------------------------------------------------------------------------------------------------- what is told of it


@pytest.fixture(scope="module")
def half(tmp_path_factory, random_policy) -> Path:
    """A sweep of three gaps and two seeds, of which one point is done, one was interrupted, one crashed, and three have not begun."""
    folder = tmp_path_factory.mktemp("sweeps") / "gap"
    for tokens, seed in ((16, 0), (64, 0)):
        more = [f"gap.view_tokens={tokens}", f"seed={seed}", "objective.updates=1", "evaluation.arms=[own,noise]"]
        train.run(settings(folder / "point", random_policy, *more))
        (folder / "point").rename(folder / f"gap.view_tokens={tokens},seed={seed}")
    for name in ("policy/config.json", "evaluation_trained_t1.json"):
        (folder / "gap.view_tokens=64,seed=0" / name).unlink()
    (folder / "multirun.yaml").write_text(
        "hydra: {sweeper: {params: {seed: 'range(0,2)', gap.view_tokens: '16,64,256'}}, overrides: {task: [experiment=gap_sweep]}}"
    )
    return folder


def report(folder: Path, *more: str) -> None:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        sweep.run(compose("sweep", [f"sweep={folder}", *more]))


def test_a_sweep_half_way_is_told_point_by_point(half, capsys):
    report(half)
    said = capsys.readouterr().out
    assert "6 points: 1 finished, 1 unfinished or stopped, 4 missing" in said
    with (half / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["seed"], row["gap.view_tokens"], row["status"]) for row in rows] == [
        ("0", "16", "finished"),
        ("0", "64", "1 of 1 updates"),
        ("0", "256", "missing"),
        *(("1", tokens, "missing") for tokens in ("16", "64", "256")),
    ]
    kept = json.loads((half / "gap.view_tokens=16,seed=0/evaluation_trained_t1.json").read_text())["outcomes"]["own view"]["values"]["own"]
    assert float(rows[0]["own own mean"]) == pytest.approx(100 * sum(kept) / len(kept)) and rows[2]["own own mean"] == ""
    page = (half / "sweep.html").read_text()
    assert 'href="gap.view_tokens=16,seed=0/report.html"' in page and "data:image/png;base64," in page
    assert (half / "sweep.png").stat().st_size > 5000


def test_what_is_given_on_the_command_line_takes_the_place_of_what_the_experiment_sweeps(half, tmp_path):
    (tmp_path / "multirun.yaml").write_text(
        "hydra: {sweeper: {params: {seed: 'range(0,5)'}}, overrides: {task: ['seed=7,8', gap.view_tokens=16]}}"
    )
    assert sweep.launched(tmp_path) == {"seed": ["7", "8"]}


def test_a_folder_without_a_sweep_and_a_metric_that_does_not_exist_are_refused(half, tmp_path):
    with pytest.raises(ValueError, match=r"holds no sweep \(no multirun.yaml\); sweeps of .*: gap"):
        report(half.parent / "nothing")
    with pytest.raises(ValueError, match="metrics names accuracy; there are own, gt, noise"):
        report(half, "metrics=[accuracy]")
