"""The check of a GPU (experiments/gpu) at toy size on a CPU: every section but those that train in processes of their own."""

import json
import sys

import pytest
import torch

from experiments.gpu import check, sections, table
from experiments.gpu.bench import TOY, Bench

REST = {name: section for name, section in sections.SECTIONS.items() if name not in ("smoke", "sharded")}


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Bench:
    return Bench(TOY, tmp_path_factory.mktemp("gpu_check"))


@pytest.fixture(scope="module")
def record(bench) -> dict:
    with torch.backends.mkldnn.flags(enabled=False):  # it compiles a bfloat16 kernel for every new shape, which takes twice as long
        return check.run(bench, REST)


def test_every_section_passes_at_toy_size_and_the_record_is_written(bench, record):
    assert {name: entry.get("error") for name, entry in record["sections"].items()} == dict.fromkeys(REST)
    assert json.loads((bench.output / "results.json").read_text()) == record


def test_every_claim_finds_its_numbers_in_the_record(record):
    written = table.table(record).splitlines()[2:]
    assert len(written) == len(table.CLAIMS)
    unfilled = [line for line in written if line.endswith(f"| {table.NOT_RUN} |")]
    assert [line.split(" | ")[2] for line in unfilled] == ["`smoke`", "`sharded`"]


def test_the_table_of_the_readme_is_that_of_its_record_and_says_not_run_without_one():
    assert (table.HERE / "README.md").read_text().endswith(table.table(table.recorded()))
    assert table.table(None).count(table.NOT_RUN) == len(table.CLAIMS)


def test_a_section_that_fails_keeps_what_it_found_and_the_next_one_runs(bench):
    def fails(_):
        yield "one", 1
        raise RuntimeError("no memory")

    written = []

    def reads(bench):
        written.append(json.loads((bench.output / "results.json").read_text()))
        yield "two", 2

    made = check.run(bench, {"fails": fails, "reads": reads})["sections"]
    assert made["fails"]["found"] == {"one": 1} and "RuntimeError: no memory" in made["fails"]["error"]
    assert made["reads"]["found"] == {"two": 2} and "error" not in made["reads"]
    assert written[0]["sections"] == {"fails": made["fails"]}
    assert "**failed**" in table.table({"sections": {"update": made["fails"]}})


def test_no_section_begins_after_the_last_start(bench):
    made = check.run(bench, {"versions": sections.versions}, last_start_s=-1)["sections"]
    assert made["versions"].keys() == {"not run"}


@pytest.mark.parametrize("section", ["equality", "sampler"])
def test_an_update_that_is_wrong_by_a_hundredth_fails_the_section_and_the_exit_status_says_so(section, tmp_path, monkeypatch):
    right = sections.sampled_logprobs
    monkeypatch.setattr(sections, "sampled_logprobs", lambda *given: [1.01 * each for each in right(*given)])
    monkeypatch.setattr(sys, "argv", ["check", section, "--tiny", "--output", str(tmp_path)])
    assert check.main() == 1
    assert "AssertionError" in json.loads((tmp_path / "results.json").read_text())["sections"][section]["error"]


def test_without_a_gpu_the_real_sizes_are_refused_and_so_is_a_section_that_is_not_there(monkeypatch, capsys):
    for words, expected in ((["check"], "PyTorch sees no GPU here"), (["check", "updates", "--tiny"], "no section is called updates")):
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            check.main()
        assert ended.value.code == 2 and expected in capsys.readouterr().err
