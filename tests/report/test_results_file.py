"""What a command says first, and the numbers that it leaves for other programs."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from focus.evaluation.outcome import METRICS, Outcome
from focus.report.headline import count_weights, device_text, headline, policy_text
from focus.report.results_file import measured_metrics, write_results
from focus.runtime import files


def outcome(own: list[float]) -> Outcome:
    made = Outcome(16, groups=[str(i) for i in range(len(own))])
    made.values = {metric: [math.nan] * len(own) for metric in METRICS} | {"own": own}
    return made


def test_results_hold_every_metric_with_interval_and_number_of_questions_and_how_they_were_made(tmp_path):
    metrics = {"trained": measured_metrics(outcome([1.0, 0.0, math.nan, 1.0]), 50)}
    write_results(tmp_path / "results.json", metrics, verdicts=("It looks: ...",), settings="abc", seconds=12.34)
    written = json.loads((tmp_path / "results.json").read_text(), parse_constant=lambda name: 1 / 0)
    own = written["metrics"]["trained"]["own"]
    assert (
        set(written["metrics"]["trained"]) == {"own"} and (own["mean"], own["n"]) == (0.66667, 3) and own["low"] < own["mean"] < own["high"]
    )
    assert (written["settings"], written["seconds"], written["verdicts"]) == ("abc", 12.3, ["It looks: ..."])
    assert written["versions"]["torch"] == torch.__version__ and written["commit"] and written["machine"]


def test_a_difference_is_paired_by_question():
    change = measured_metrics(outcome([1.0, 1.0, 0.0]), 50, before=outcome([0.0, 1.0, math.nan]))["own"]
    assert (change["mean"], change["n"]) == (0.5, 2)


def test_a_command_that_shows_the_same_numbers_again_does_not_change_the_file(tmp_path):
    path, metrics = tmp_path / "results.json", {"trained": measured_metrics(outcome([1.0, 0.0]), 50)}
    write_results(path, metrics, verdicts=(), settings="abc", seconds=400)
    written = path.read_text()
    write_results(path, metrics, verdicts=(), settings="abc", seconds=3)
    assert path.read_text() == written
    write_results(path, metrics, verdicts=(), settings="other", seconds=3)
    assert json.loads(path.read_text())["seconds"] == 3


def test_json_has_null_where_a_number_is_missing():
    assert files.json_text({"a": [math.nan, 1.0, math.inf], "b": ("x", None)}) == '{"a": [null, 1.0, null], "b": ["x", null]}'


def test_the_first_line_says_what_runs_on_what_and_where_it_writes():
    policy = policy_text("embedded", device_text({"accelerator": "cpu", "devices": 1}, 2))
    assert headline("stage1", policy, "view 16 of 256 tokens", "", "outputs/stage1") == (
        "stage1 | embedded, 2.7 M weights, CPU 2 threads | view 16 of 256 tokens | outputs/stage1"
    )


def test_devices_are_counted_over_processes_and_nodes():
    assert device_text({"accelerator": "cpu", "devices": 2, "num_nodes": 2}, 1) == "CPU 1 thread in each of 4 processes"
    assert device_text({"accelerator": "tpu", "devices": 8, "num_nodes": 2}, 1).startswith("8 x ")
    assert device_text({"accelerator": "gpu", "devices": [2, 3]}, 1).startswith("2 x ")


def test_weights_are_counted_from_the_headers_of_all_files(tmp_path):
    save_file({"a": torch.zeros(2, 3), "b": torch.zeros(4)}, tmp_path / "model-1.safetensors")
    save_file({"c": torch.zeros(5, dtype=torch.bfloat16)}, tmp_path / "model-2.safetensors")
    assert count_weights(tmp_path) == 15 and count_weights(tmp_path / "none") is None and count_weights(Path("org/model")) is None


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, (9).to_bytes(8, "little") + b"{broken, and more"])
def test_a_damaged_file_has_no_count_and_is_left_to_the_loading(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    (tmp_path / "preprocessor_config.json").write_text('{"patch_size": 14')
    assert count_weights(tmp_path) is None
