"""What a job of a cluster is asked for: memory and times that follow from the plan, and numbers that take their place."""

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from focus.config import CONF
from focus.planning.hardware import GIB

SEVEN_B = 8_292_166_656


def asked(*words: str, name: str = "train"):
    """Memory (GB), minutes and seconds of warning that Slurm is asked for."""
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        launcher = compose(name, ["hydra/launcher=slurm", *words], return_hydra_config=True).hydra.launcher
    return launcher.mem_gb, launcher.timeout_min, launcher.signal_delay_s


def test_the_memory_of_a_7b_run_holds_its_checkpoint_and_no_copy_of_the_weights_for_each_process():
    """A quarter more than 8 processes of 3 GiB with 288 images of 24.9 MB, and weights with two moments in float32."""
    gb = 1.25 * (8 * (3 * GIB + 288 * 24.88e6) + 12 * SEVEN_B) / 1e9
    memory, minutes, warning = asked("experiment=stage1_7b", "trainer.devices=8")
    assert memory == pytest.approx(gb, rel=0.02) and memory < 1.25 * 8 * 4 * SEVEN_B / 1e9
    assert minutes == 240 and warning == 3600  # every view has 16,384 tokens where no table is
    _, minutes, _ = asked("experiment=stage1_7b", "trainer.devices=8", "objective.tokens_per_forward=16384")
    assert minutes > 240  # prompts pass once for every rollout


def test_a_small_run_asks_for_the_least():
    memory, minutes, warning = asked("experiment=smoke")
    assert (memory, minutes) == (16, 240) and 120 < warning < 130


def test_a_policy_that_is_only_measured_asks_for_its_weights():
    """1.25 x (3 GiB and 8.29 G weights of 4 bytes)."""
    assert asked("policy=qwen2_5_vl_7b", name="probe") == (46, 240, 120)


def test_a_number_takes_the_place_of_the_plan_and_nothing_is_planned(monkeypatch):
    monkeypatch.setattr("focus.planning.job.make_plan", lambda _: pytest.fail("it was planned"))
    numbers = [f"hydra.launcher.{key}={value}" for key, value in (("mem_gb", 200), ("timeout_min", 1440), ("signal_delay_s", 600))]
    assert asked("experiment=stage1_7b", "trainer.devices=8", *numbers) == (200, 1440, 600)


def test_where_the_points_of_a_sweep_are_several_experiments_numbers_are_asked_for():
    with pytest.raises(OmegaConfBaseException, match=r"none or several experiments are chosen; give numbers: hydra\.launcher\.mem_gb=64"):
        asked()


@pytest.mark.parametrize(("trainer", "gpus"), [("gpu", 1), ("fsdp", 8), ("cpu", None)])
def test_a_task_of_ray_asks_for_the_gpus_of_its_trainer(trainer, gpus):
    settings = OmegaConf.load(CONF / "trainer/cpu.yaml")
    given = OmegaConf.merge(settings, {"accelerator": "cpu" if trainer == "cpu" else "gpu", "devices": gpus or 1})
    root = OmegaConf.create({"trainer": given, "hydra": {"launcher": OmegaConf.load(CONF / "hydra/launcher/ray_tasks.yaml")}})
    assert root.hydra.launcher.ray.remote.num_gpus == gpus
