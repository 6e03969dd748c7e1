"""The command of the probe: what it writes, what is left of an interruption, what it refuses."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from focus.config import ConfigError
from focus.data.sample import ImageFile, write_records
from focus.evaluation.measure import measure
from focus.evaluation.outcome import (
    ARMS,
    DIFFERENCES,
    decompose_tool_effect,
    load_outcomes,
    refuse_other_measurement,
    save_outcomes,
)
from focus.model.dialect import Texts, read_dialect
from focus.model.policy_model import PolicyModel
from focus.report.probe import probe_table
from focus.runs import probe
from tests.support.probing import (
    B1,
    MADE,
    MINDS,
    OFF,
    Minded,
    asked_about,
    measured,
)
from tests.support.runs import another_job, settings
from tests.support.scripted import Scripted, call

# ------------------------------------------------------------------------------------------------------- the entry point


SMALL = ("threads=1", "data.side_px=224", "evaluation.samples=3", "evaluation.resamples=20", "views=[16,64]")


@pytest.fixture
def scripted(qwen3_vl, monkeypatch) -> PolicyModel:
    """The entry point with a policy that calls, then answers 7."""
    engine = Scripted(qwen3_vl, call(0, 0, 500, 500), "<answer>7</answer><|im_end|>")
    monkeypatch.setattr(probe, "load_evaluated", lambda cfg: (qwen3_vl, engine))
    return qwen3_vl


def probing(folder: Path, *overrides: str):
    (folder / "policy").mkdir(exist_ok=True)  # the settings ask for a folder; the fixture `scripted` loads another policy
    return settings(folder / "probe", folder / "policy", *SMALL, *overrides, name="probe")


def counted(monkeypatch, stop_after: int = 99) -> list[int]:
    """Views that are measured from here on; ctrl-C comes after some of them."""
    views: list[int] = []

    def measuring(evaluator, samples, label, kept):
        if len(views) == stop_after:
            raise KeyboardInterrupt
        views.append(evaluator.gap.view_tokens)
        return measure(evaluator, samples, label, kept)

    monkeypatch.setattr(probe, "measure", measuring)
    return views


def test_the_entry_point_probes_a_saved_policy_in_all_arms_beside_its_checkpoint(qwen3_vl, tmp_path, capsys):
    qwen3_vl.save(tmp_path / "policy")
    probe.run(
        settings(
            Path("null"),
            tmp_path / "policy",
            *SMALL,
            "views=[16]",
            "evaluation.samples=2",
            "rollout.tokens_per_turn=6",
            name="probe",
        )
    )
    assert {path.name for path in (tmp_path / "probe").iterdir()} == {
        "probe.json",
        "probe.md",
        "probe.png",
        "report.html",
        "outcomes.json",
        "results.json",
        "shown.json",
        "trajectories",
    }
    kept = json.loads((tmp_path / "probe/outcomes.json").read_text())["outcomes"]["16"]
    assert not any(math.isnan(value) for arm in ARMS for value in kept["values"][arm])
    assert "crop dependence of" in capsys.readouterr().out


def test_a_probe_leaves_every_metric_with_its_interval_and_the_parts_of_gain_and_harm(scripted, tmp_path):
    probe.run(probing(tmp_path))
    record = json.loads((tmp_path / "probe/probe.json").read_text())
    assert record["weights"] == scripted.weights_hash() and record["checkpoint"] == str(tmp_path / "policy")
    assert set(record["views"]) == {"16", "64"}
    for view in record["views"].values():
        assert view["metrics"]["called"][::2] == [1.0, 1.0] and view["metrics"]["own"][:2] == [0.0, 0.0]
        assert view["metrics"]["area"][0] == 0.25  # the left upper quarter
        assert set(ARMS) | set(DIFFERENCES) - {"no_tool_effect", "D_first", "D_second"} <= set(view["metrics"]) and set(view["med"]) == {
            "gain",
            "harm",
        }
        assert view["broken"] == view["unannotated"] == []
    assert [record["views"][view]["metrics"]["visual_tokens"][0] for view in ("16", "64")] == [32.0, 80.0]
    table = (tmp_path / "probe/probe.md").read_text()
    assert "| 16 tokens | 64 tokens |" in table and "| accuracy, annotated crop | 0.0" in table
    with Image.open(tmp_path / "probe/probe.png") as image:
        assert image.format == "PNG"


def test_a_finished_probe_measures_nothing_and_shows_its_table_again(scripted, tmp_path, monkeypatch, capsys):
    probe.run(probing(tmp_path))
    capsys.readouterr()
    written = (tmp_path / "probe/probe.json").read_text()
    monkeypatch.setattr(probe, "measure", lambda *_: pytest.fail("a finished probe was measured again"))
    probe.run(probing(tmp_path))
    assert "crop rate" in capsys.readouterr().out
    assert (tmp_path / "probe/probe.json").read_text() == written


def test_a_second_start_while_a_probe_measures_is_refused_and_measures_nothing(scripted, tmp_path):
    with another_job(tmp_path / "probe"), pytest.raises(ValueError, match=r"another job is working in .*probe \(it holds .*running.lock\)"):
        probe.run(probing(tmp_path))
    assert [path.name for path in (tmp_path / "probe").iterdir()] == ["running.lock"]


def test_an_interrupted_probe_goes_on_with_the_next_view(scripted, tmp_path, monkeypatch):
    counted(monkeypatch, stop_after=1)
    with pytest.raises(KeyboardInterrupt):
        probe.run(probing(tmp_path))
    assert not (tmp_path / "probe/probe.json").exists()
    views = counted(monkeypatch)
    probe.run(probing(tmp_path))
    assert views == [64]
    page = (tmp_path / "probe/report.html").read_text()
    assert "16 tokens, wrong after a crop" in page and "64 tokens, wrong after a crop" in page  # of what was measured before, too
    assert page.count("<article ") == 6 and 'alt="the crop' in page
    assert set(json.loads((tmp_path / "probe/probe.json").read_text())["views"]) == {"16", "64"}


@pytest.mark.parametrize(
    ("other", "named"),
    [("seed=1", "other settings"), ("evaluation.samples=2", "other questions"), ("", r"another policy \(then \w+, now others\)")],
)
def test_another_probe_in_the_same_folder_is_refused_and_the_first_one_stays(scripted, tmp_path, monkeypatch, other, named):
    probe.run(probing(tmp_path))
    written = (tmp_path / "probe/outcomes.json").read_text()
    views = counted(monkeypatch)
    if not other:
        monkeypatch.setattr(PolicyModel, "weights_hash", lambda self: "others")
    with pytest.raises(ValueError, match=f"outcomes.json holds a probe with {named}; give this one a folder of its own"):
        probe.run(probing(tmp_path, *filter(None, [other])))
    assert views == [] and (tmp_path / "probe/outcomes.json").read_text() == written


def test_a_probe_of_an_earlier_version_which_did_not_know_its_questions_is_refused(tmp_path, seven):
    save_outcomes({"16": seven}, tmp_path / "outcomes.json", "weights settings")
    with pytest.raises(ValueError, match="holds a probe with another version of this package"):
        refuse_other_measurement(tmp_path / "outcomes.json", "weights settings questions", "a probe", "questions")


@pytest.mark.parametrize(
    ("identity", "named"),
    [
        ("weights settings questions", "another judge"),
        ("weights settings questions judge other", "another judge"),
        ("weights settings others judge grader", "other questions"),
        ("weights others questions judge grader", "other settings"),
    ],
)
def test_what_differs_from_a_probe_with_a_judge_is_named(tmp_path, seven, identity, named):
    save_outcomes({"16": seven}, tmp_path / "outcomes.json", "weights settings questions judge grader")
    with pytest.raises(ValueError, match=f"holds a probe with {named}; give"):
        refuse_other_measurement(tmp_path / "outcomes.json", identity, "a probe", "questions")


def test_other_questions_in_the_same_file_never_show_the_old_result(scripted, tmp_path):
    probe.run(probing(tmp_path, records(tmp_path, [((B1,),), ((B1,),), ((B1,),)])))
    others = records(tmp_path, [((OFF,),), ((B1,),)])
    with pytest.raises(ValueError, match="holds a probe with other questions"):
        probe.run(probing(tmp_path, others))
    probe.run(probing(tmp_path, others, f"output={tmp_path / 'second'}"))
    assert json.loads((tmp_path / "second/probe.json").read_text())["samples"] == 2


def records(folder: Path, boxes: Sequence[tuple]) -> str:
    """`evaluation.records=` a file of questions with these boxes."""
    return f"evaluation.records={write_records([asked_about(i, boxes=each) for i, each in enumerate(boxes)], folder / 'made')}"


def test_questions_without_any_box_are_refused_for_the_annotated_crop_and_one_is_named(scripted, tmp_path, monkeypatch):
    views = counted(monkeypatch)
    bare = records(tmp_path, [(), (), ()])
    with pytest.raises(
        ValueError, match=r"gt shows the annotated crop, but none of the 3 questions has a box \(first: made/0\).*leave gt out"
    ):
        probe.run(probing(tmp_path, bare))
    assert views == [] and not (tmp_path / "probe").exists()
    probe.run(probing(tmp_path, bare, "evaluation.arms=[own,noise,tool_free]"))
    metrics = json.loads((tmp_path / "probe/probe.json").read_text())["views"]["16"]["metrics"]
    assert {"own", "noise", "D_noise", "tool_free"} <= set(metrics) and not {"gt", "U_GT", "S", "coverage", "blank"} & set(metrics)
    table = (tmp_path / "probe/probe.md").read_text()
    assert "noise crop" in table and "annotated" not in table and "blank" not in table


def test_questions_of_which_some_have_no_box_are_played_and_counted(scripted, tmp_path, capsys):
    probe.run(probing(tmp_path, records(tmp_path, [((B1,),), (), ()])))
    assert "2 of 3 questions have no box and are left out of the arm gt (first: made/1)" in " ".join(capsys.readouterr().out.split())
    view = json.loads((tmp_path / "probe/probe.json").read_text())["views"]["16"]
    assert view["unannotated"] == ["made/1", "made/2"] and "gt" in view["metrics"]


def test_an_arm_that_does_not_exist_is_refused_before_a_policy_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(probe, "load_evaluated", lambda cfg: pytest.fail("loaded"))
    with pytest.raises(ValueError, match=r"evaluation\.arms\[1\] is 'nois'; choose own"):
        probe.run(probing(tmp_path, "evaluation.arms=[own,nois]"))


@pytest.mark.parametrize("views", ["[]", "[0]", "[16,-1]"])
def test_a_probe_without_a_view_or_with_one_of_nothing_is_refused(tmp_path, views):
    with pytest.raises(ConfigError, match=r"views is .*; name at least one budget, each of at least 1 token"):
        probe.run(probing(tmp_path, f"views={views}"))


# -------------------------------------------------------------------------- faults that are known; see the reasons given


def test_outcomes_stand_in_the_order_of_the_questions(qwen3_vl: PolicyModel, tmp_path):
    samples = [MADE[0], asked_about(1, image=ImageFile(tmp_path / "none.png")), MADE[2]]
    assert measured(qwen3_vl, Minded(qwen3_vl, MINDS), samples, arms=())[0].groups == ["image 0", "image 1", "image 2"]


def test_gain_minus_harm_is_what_the_tool_changes_also_where_an_image_cannot_be_read(qwen3_vl: PolicyModel, tmp_path):
    samples = [MADE[0], asked_about(1, image=ImageFile(tmp_path / "none.png"))]
    outcome, _ = measured(qwen3_vl, Minded(qwen3_vl, MINDS), samples, arms=("tool_free",))
    found = decompose_tool_effect(outcome)
    assert outcome.interval("tool_effect", 10)[0] == 0.5
    assert found["gain"]["total"] - found["harm"]["total"] == 0.5
    assert outcome.interval("gain", 10)[0] - outcome.interval("harm", 10)[0] == 0.5


def test_outcomes_of_a_version_that_knew_fewer_metrics_can_still_be_shown(seven, tmp_path):
    older = replace(seven, values={metric: values for metric, values in seven.values.items() if metric != "l1"})
    save_outcomes({"16": older}, tmp_path / "outcomes.json", "a")
    kept = load_outcomes(tmp_path / "outcomes.json", "a")
    assert not kept or probe_table("p", kept, 20, 1.0).rows  # measured anew, or shown without them


def test_a_probe_of_no_questions_is_refused_in_one_message(scripted, tmp_path):
    with pytest.raises(ValueError, match=r"evaluation\.samples"):
        probe.run(probing(tmp_path, "evaluation.samples=0"))


def test_nothing_is_said_about_an_arm_that_is_not_played(scripted, tmp_path, capsys):
    probe.run(probing(tmp_path, records(tmp_path, [((B1,),), (), ()]), "evaluation.arms=[own,noise]"))
    assert "arm gt" not in " ".join(capsys.readouterr().out.split())


def test_a_probe_says_whose_words_it_asked_in_and_other_prompts_are_another_probe(scripted, tmp_path, monkeypatch, capsys):
    texts = {key: getattr(read_dialect("qwen3_vl_zoom"), key) for key in Texts.model_fields}
    (tmp_path / "theirs.yaml").write_text(json.dumps(texts | {"before": "Q: "}))
    model, engine = probe.load_evaluated(None)
    asked = lambda cfg: (replace(model, dialect=read_dialect(cfg.policy.dialect, cfg.policy.prompts)), engine)  # noqa: E731
    monkeypatch.setattr(probe, "load_evaluated", asked)
    probe.run(probing(tmp_path, "policy.dialect=qwen3_vl_zoom"))
    digest = read_dialect("qwen3_vl_zoom").digest
    note = f"asked in own words (hash {digest}), not with the prompts of Qwen-Agent"
    assert note in " ".join(capsys.readouterr().out.split())
    record = json.loads((tmp_path / "probe/probe.json").read_text())
    assert record["dialect"] == "qwen3_vl_zoom" and (record["prompts"]["hash"], record["prompts"]["words"]) == (digest, "own words")
    assert note in (tmp_path / "probe/probe.md").read_text() and note in (tmp_path / "probe/report.html").read_text()
    with pytest.raises(ValueError, match="holds a probe with other settings"):
        probe.run(probing(tmp_path, "policy.dialect=qwen3_vl_zoom", f"policy.prompts={tmp_path / 'theirs.yaml'}"))


def test_another_dialect_is_another_probe(scripted, tmp_path, monkeypatch):
    probe.run(probing(tmp_path))
    model, engine = probe.load_evaluated(None)
    monkeypatch.setattr(probe, "load_evaluated", lambda cfg: (replace(model, dialect=read_dialect(cfg.policy.dialect)), engine))
    with pytest.raises(ValueError, match="holds a probe with other settings"):
        probe.run(probing(tmp_path, "policy.dialect=qwen3_vl"))
