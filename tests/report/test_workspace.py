"""The saved views of a W&B project: what their charts read is what runs write."""

import json

import pytest
import wandb
from hydra import compose, initialize_config_dir

from focus.config import CONF
from focus.report.glossary import meanings
from focus.report.workspace import AGAINST, STAGE1, STAGE2, SWEPT, views
from focus.runs import dashboard


def composed(name: str, *overrides: str):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose(name, list(overrides))


def charts(view) -> list[dict]:
    spec = json.loads(view._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))
    return [panel for section in spec["section"]["panelBankConfig"]["sections"] for panel in section["panels"]]


def test_every_curve_of_a_view_has_a_meaning_in_the_metrics_page():
    curves = {key for charts in (*STAGE1.values(), *STAGE2.values(), {"": AGAINST.values()}) for keys in charts.values() for key in keys}
    assert curves - meanings().keys() == set()


def test_a_sweep_is_drawn_against_settings_that_a_run_has():
    known = composed("train", "experiment=smoke")
    for key in SWEPT.values():
        section, _, name = key.rpartition(".")
        assert name in (known[section] if section else known), key


def test_a_view_holds_its_charts_as_the_server_reads_them():
    one, two, sweeps = views("me", "focus")
    reward = charts(one)[0]
    assert reward["viewType"] == "Run History Line Plot" and reward["config"]["metrics"] == ["reward/total"]
    assert charts(two)[0]["config"]["metrics"] == ["reward/grounding"]
    assert charts(sweeps)[1]["config"] == {
        "chartTitle": "Dependence: accuracy own - noise",
        "xAxis": "config:gap.value.view_tokens",
        "yAxis": "summary:probe/D_noise",
    }


def test_the_command_saves_three_views(monkeypatch, capsys):
    saved = []
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr("wandb_workspaces.workspaces.Workspace.save", lambda view: saved.append((view.entity, view.project, view.name)))
    monkeypatch.setattr("wandb_workspaces.workspaces.Workspace.url", "the page of the view")
    dashboard.run(composed("dashboard", "project=me/mine"))
    assert saved == [("me", "mine", f"focus: {name}") for name in ("stage 1", "stage 2", "sweeps")]
    assert "focus: sweeps: the page of the view" in capsys.readouterr().out


def test_without_an_account_or_a_server_one_sentence_says_what_to_do(monkeypatch):
    def refuse(view):
        raise wandb.errors.UsageError("No API key configured.")

    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(ValueError, match="saved on the server"):
        dashboard.run(composed("dashboard", "project=me/mine"))
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setattr("wandb_workspaces.workspaces.Workspace.save", refuse)
    with pytest.raises(ValueError, match=r"me/mine \(No API key configured\.\); wandb login"):
        dashboard.run(composed("dashboard", "project=me/mine"))


@pytest.mark.parametrize("project", ["focus", "a/b/c", "'me/my runs'", "/focus"])
def test_a_project_without_its_entity_is_refused(project):
    with pytest.raises(ValueError, match="ENTITY/PROJECT"):
        dashboard.run(composed("dashboard", f"project={project}"))
