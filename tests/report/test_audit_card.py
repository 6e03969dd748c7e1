"""The card of an audit: its schema, what is refused, and two cards on one page."""

import json

import pytest

from focus.report.audit_card import SCHEMA, Card, measured, read_card, schema_text
from focus.report.audit_page import differences, names_of, write_card, write_comparison
from focus.report.audit_picture import draw_card
from focus.report.provenance import call_of
from focus.report.verdict import CONDUCT_RULE, Conduct
from tests.support.json_schema import faults
from tests.support.outcomes import conducted


def card(name: str = "one", questions: str = "abc", **agent: object) -> Card:
    entries = [measured("together", conducted(0.8, 0.2, 1.0), 50), measured("together", conducted(0.9, 0.9, 0.4, view_tokens=16384), 50)]
    return Card(
        conduct=Conduct.WHEN_NEEDED,
        verdict="It looks when needed: <b>so</b>.",
        contradicted="Where its crop contradicts the view, <i>so</i>.",
        rule=CONDUCT_RULE,
        protocol={
            **{"version": 1, "views": [1024, 16384], "sets": {"scenes": 100}, "sides_px": [2048], "effect": 0.1, "power": 0.8},
            **{"questions": questions, "left_out": ["vstar: no files"], "changed": ["audit.samples=100"]},
        },
        agent={
            **{"name": name, "engine": "openai", "weights": name, "dialect": "deepeyes", "words": "own words", "prompts_hash": "0"},
            **{"notes": [], "temperature": 0.0, "max_crops": 5, "crop_tokens": 1024, "tokens_per_turn": 2048, "judge": None},
            **{"answered_alike": (8, 8), "first_call_forced": False},
            **agent,
        },
        together=entries,
        measured=entries,
        forms={"call": 0.5, "answer": 0.5},
        endings={"answered": 200},
        spent={"requests": 800, "prompt_tokens": 2_000_000, "sampled_tokens": 20_000, "seconds": 60.0},
        made={"date": "2026-11-29", "command": "focus.audit(agent)", "versions": {"focus": "0.1", "torch": "2.13"}},
    )


def test_the_published_schema_is_that_of_the_code_and_its_file_ships_with_the_package():
    assert SCHEMA.read_text() == schema_text(), "run: python -c 'from focus.report.audit_card import *; SCHEMA.write_text(schema_text())'"
    schema = json.loads(SCHEMA.read_text())
    assert schema["properties"]["schema"]["const"] == "focus.audit.card/1"
    assert (schema["$schema"], schema["$id"]) == ("https://json-schema.org/draft/2020-12/schema", "urn:focus:audit-card:1")


def test_a_card_fulfils_its_schema_and_one_that_is_changed_does_not():
    schema = json.loads(SCHEMA.read_text())

    def found(change) -> list[str]:
        content = json.loads(card().text())
        change(content)
        return list(faults(content, schema, schema))

    assert found(lambda content: None) == []
    assert found(lambda content: content.pop("schema")) == ["it lacks schema"]
    assert found(lambda content: content.update(schema="focus.audit.card/2")) == ["it.schema is not focus.audit.card/1"]
    assert found(lambda content: content.update(stars=5)) == ["it.stars is not allowed"]
    assert found(lambda content: content["agent"].pop("first_call_forced")) == ["it.agent lacks first_call_forced"]
    assert found(lambda content: content["agent"].update(max_crops=True)) == ["it.agent.max_crops is no integer"]
    assert found(lambda content: content["agent"].update(judge=5)) == ["it.agent.judge fits none of anyOf"]
    assert found(lambda content: content["together"][0]["accuracy"].update(own=[1, 2])) == ["it.together[0].accuracy.own has 2 items"]
    assert found(lambda content: content["together"][0]["accuracy"].update(own=[1, 2, "3"])) == [
        "it.together[0].accuracy.own[2] is no number"
    ]
    fault, kind = found(lambda content: content.update(conduct=None))
    assert fault.startswith("it.conduct is none of ['never crops', ") and "'no verdict'" in fault and kind == "it.conduct is no string"


def test_a_card_is_written_and_read_back_with_page_and_picture(tmp_path):
    write_card(card(), tmp_path)
    assert read_card(tmp_path / "card.json") == card()
    page = (tmp_path / "card.html").read_text()
    assert "&lt;b&gt;so&lt;/b&gt;" in page and "&lt;i&gt;so&lt;/i&gt;" in page and "version 1, but for audit.samples=100" in page
    assert "8 of 8 got the same reply" in page and "vstar: no files" in page
    assert "60.0<small>" in page  # D_noise at 1,024 tokens: 80 - 20
    assert "<dd>focus 0.1, torch 2.13</dd>" in page and "{&#39;" not in page
    assert (tmp_path / "card.png").stat().st_size > 5000


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        "[1]",
        "half",
        json.dumps({"schema": "focus.audit.card/2"}),
    ],
)
def test_a_file_that_is_no_card_is_refused_with_its_name_and_the_first_fault(tmp_path, content):
    path = tmp_path / "card.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"card\.json is no card of version 1 of an audit \(.*give a card\.json that make audit wrote"):
        read_card(path)


def test_an_unknown_key_and_a_missing_file_are_refused(tmp_path):
    path = tmp_path / "card.json"
    path.write_text(json.dumps(json.loads(card().text()) | {"stars": 5}))
    with pytest.raises(ValueError, match="stars: Extra inputs"):
        read_card(path)
    with pytest.raises(ValueError, match="can't be read"):
        read_card(tmp_path / "none.json")


def test_two_cards_of_the_same_questions_stand_on_one_page_and_others_do_not(tmp_path):
    write_comparison([card("one"), card("two")], tmp_path / "both.html")
    page = (tmp_path / "both.html").read_text()
    assert "<h2>one</h2>" in page and "<h2>two</h2>" in page
    with pytest.raises(ValueError, match=r"don't compare: they differ in questions \(abc and other\) of the protocol"):
        write_comparison([card("one"), card("two", questions="other")], tmp_path / "both.html")


def test_two_cards_of_one_name_are_told_apart_by_the_first_thing_that_differs(tmp_path):
    free, forced, other = card(), card(first_call_forced=True), card(dialect="mini_o3", prompts_hash="1")
    assert differences([free, forced]) == [("first call", ["its own", "forced"])]
    assert names_of([free, forced]) == ["one (first call: its own)", "one (first call: forced)"]
    told = ["deepeyes, asked with own words, hash 0", "mini_o3, asked with own words, hash 1"]
    assert differences([free, other]) == [("dialect", told)] and names_of([free, other]) == [f"one (dialect: {each})" for each in told]
    later = free.model_copy(update={"made": {"date": "2026-11-30"}})
    assert differences([free, later]) == [("date", ["2026-11-29", "2026-11-30"])]
    assert names_of([free, free]) == ["one", "one"] and differences([free, free]) == []
    write_comparison([free, forced], tmp_path / "both.html")
    page = (tmp_path / "both.html").read_text()
    assert "<title>Audits of one (first call: its own) and one (first call: forced)</title>" in page
    assert '<th scope="row">first call</th><td>its own</td><td>forced</td>' in page


def test_a_card_without_measurements_of_some_arm_can_be_drawn(tmp_path):
    draw_card(card().model_copy(update={"conduct": Conduct.NONE, "together": []}), tmp_path / "card.png")
    assert (tmp_path / "card.png").is_file()


def test_the_call_that_made_a_card_is_told_and_holds_no_key():
    assert call_of("audit", None, ["audit.samples=8"], dialect="tiny") == "focus.audit(agent, 'audit.samples=8', dialect='tiny')"
    assert call_of("audit", "http://host/v1", [], name="x") == "focus.audit('http://host/v1', name='x')"
    secret = "https://host/v1?code=s3cret"
    said = call_of("audit", secret, ["rollout.endpoint.extra={x:s3cret}"], name="x")
    assert said == "focus.audit(agent, name='x')  # without settings that may hold a key"
