"""The audit's arithmetic: how many questions, what they cost, the steps of a card, and the verdict."""

import json
import math
import re

import pytest
import yaml

from experiments.audit import calibrate, cost, policies
from focus.evaluation.audit import Cost, chain, expected_cost, forms, pooled, questions_needed, shown_tokens
from focus.model.dialect import dialect_names, read_dialect
from focus.model.prompts import Answer, Fault, Malformed
from focus.report.verdict import Conduct, conduct_sentence, contradicted_sentence, judge_conduct
from focus.rollout.trajectory import Action, Crop, Status, Turn
from focus.runtime.paths import CONF
from tests.support.outcomes import conducted, made
from tests.support.probing import asked_about, before

NAN = math.nan


@pytest.mark.parametrize(
    ("effect", "discordant", "power", "needed"),
    [
        # ((1.95996 sqrt(0.2) + 0.84162 sqrt(0.2 - 0.01)) / 0.1)^2 = ((0.87652 + 0.36685) / 0.1)^2 = 154.6
        (0.1, 0.2, 0.8, 155),
        # ((1.95996 sqrt(0.2) + 1.28155 sqrt(0.19)) / 0.1)^2 = ((0.87652 + 0.55861) / 0.1)^2 = 205.96
        (0.1, 0.2, 0.9, 206),
        # all that turns turns one way: ((1.95996 sqrt(0.05) + 0.84162 sqrt(0.0475)) / 0.05)^2 = ((0.43826 + 0.18343) / 0.05)^2 = 154.6
        (0.05, 0.05, 0.8, 155),
    ],
)
def test_the_sample_size_is_that_of_a_paired_test_with_this_power(effect, discordant, power, needed):
    assert questions_needed(effect, discordant, power, 0.05) == needed


def test_a_loss_larger_than_the_share_that_turns_is_refused():
    with pytest.raises(ValueError, match=r"audit\.effect is 0\.3 and audit\.discordant 0\.2"):
        questions_needed(0.3, 0.2, 0.8, 0.05)


def test_the_cost_counts_a_request_for_every_turn_and_the_images_that_it_shows():
    # own: 600 + 1000, then with a crop 600 + 1100; noise: 600 + 1100; tool_free: 600 + 1000
    one = expected_cost(10, ["own", "noise", "tool_free"], view_tokens=1000, crop_tokens=100, crops=1)
    assert one == Cost(40, 10 * (1600 + 1700 + 1700 + 1600), 40 * 200)
    # three crops: own asks four times, noise once with all three
    three = expected_cost(1, ["own", "noise"], view_tokens=1000, crop_tokens=100, crops=3)
    assert three == Cost(5, 1600 + 1700 + 1800 + 1900 + 1900, 1000)
    assert one + three == Cost(45, one.prompt_tokens + three.prompt_tokens, 9000)


@pytest.mark.parametrize(("questions", "requests", "millions"), [(48, 1296, 9.4), (156, 4212, 30.4), (500, 13500, 97.5)])
def test_the_cost_that_the_page_names_is_that_of_the_protocol(questions, requests, millions):
    arms = yaml.safe_load((CONF / "audit.yaml").read_text())["evaluation"]["arms"]
    protocol = yaml.safe_load((CONF / "audit/v1.yaml").read_text())
    # of 2,048 px a view has at most 73 x 73 = 5,329 tokens
    shown = [shown_tokens(view, protocol["sides_px"], 28) for view in protocol["views"]]
    assert shown == [1024, 4096, round((5329 + 2 * 16384) / 3)]
    cost = sum((expected_cost(questions, arms, view, 1024, 1) for view in shown), Cost(0, 0, 0))
    assert (cost.requests, round(cost.prompt_tokens / 1e6, 1)) == (requests, millions)
    page = (CONF.parent / "docs/audit.md").read_text()
    assert f"| {questions} | {requests:,} | {millions} M |" in page
    assert questions_needed(protocol["effect"], protocol["discordant"], protocol["power"], protocol["alpha"]) == 155  # 78 of each drawn set


def test_the_steps_from_a_question_to_evidence_are_as_worked_by_hand():
    outcome = made(
        {
            "called": [1, 1, 1, 1, 0, 1],
            "hit": [1, 1, 1, 0, NAN, NAN],  # the last question has no box
            "own": [1, 1, 0, 1, 1, 1],
            "noise": [0, 1, 0, 1, 1, 0],
        }
    )
    steps = {name: interval[0] for name, interval in chain(outcome, 20).items()}
    assert steps == {"calls": 5 / 6, "hits": 3 / 4, "reads": 2 / 3, "uses": 1 / 2}


def test_a_step_that_no_question_reaches_is_left_out():
    outcome = made({"called": [0, 0], "own": [1, 0], "noise": [1, 0]})
    assert list(chain(outcome, 20)) == ["calls"]


def test_measurements_at_one_view_are_pooled_question_by_question():
    one, two = made({"own": [1, 0], "called": [1, 1]}), made({"own": [1, 1], "called": [0, 0]})
    two.broken, two.seconds = ["a file"], 2.0
    together = pooled([one, two])
    assert together.values["own"] == [1, 0, 1, 1] and together.values["called"] == [1, 1, 0, 0]
    assert len(together.groups) == 4 and together.broken == ["a file"] and together.seconds == 2.0
    assert one.values["own"] == [1, 0]  # stays as it was


def said(*turns: tuple[str, Action]):
    t = before(asked_about(0))
    for text, action in turns:
        t = t.with_turn(Turn((), (), text, action), Status.OPEN)
    return t


def test_the_form_of_a_turn_is_its_own_call_an_answer_another_agents_call_or_its_fault():
    own = read_dialect("deepeyes")
    others = [read_dialect(name) for name in dialect_names()]
    t = said(
        ("<tool_call>...</tool_call>", Crop((0, 0, 1, 1), (0, 0, 1, 1))),
        ('<grounding>{"bbox_2d": [0, 0, 1, 1]}</grounding>', Malformed(Fault.NO_ACTION)),
        ("<zoom>[0, 0, 10, 10]</zoom>", Malformed(Fault.NO_ACTION)),
        ("The sign is red.", Malformed(Fault.NO_ACTION)),
        ("<tool_call>...</tool_call>", Malformed(Fault.OUTSIDE)),
        ("", Crop((0, 0, 1, 1), (0, 0, 1, 1))),  # the second box of one turn
        ("<answer>red</answer>", Answer("red")),
    )
    assert forms([t], own, others) == {
        "call": 1,
        "call of mini_o3": 1,
        "call of ergo": 1,
        "neither a call nor an answer": 1,
        "call: the box is outside the image": 1,
        "answer": 1,
    }


# ------------------------------------------------------------------------------------------------------------ verdict


@pytest.mark.parametrize(
    ("first", "last", "conduct", "sentence"),
    [
        ((0.8, 0.2, 1.0), (0.9, 0.5, 1.0), Conduct.LOOKS, "It looks: noise in place of its crops costs 60 points"),
        ((0.8, 0.2, 1.0), (0.9, 0.9, 0.1), Conduct.WHEN_NEEDED, "It looks when needed: .* 100 % there and in 10 % at 16,384"),
        (
            (0.4, 0.4, 0.0),
            (0.9, 0.9, 0.0),
            Conduct.NEVER,
            r"It never crops: at 1,024 tokens it made a crop in 0 % \[0, 4\] of the questions",
        ),
        ((0.5, 0.5, 1.0), (0.9, 0.9, 1.0), Conduct.FOR_SHOW, "It crops for show: noise in place of its crops costs 0 points"),
        ((0.02, 0.0, 1.0), (0.02, 0.0, 1.0), Conduct.GUESSES, r"It is right too rarely .* 2 % of 100 questions.* crop in 100 % \["),
        ((0.5, 0.46, 1.0), (0.9, 0.9, 1.0), Conduct.UNDECIDED, "Undecided: .* more questions may decide it"),
    ],
)
def test_the_conduct_is_that_of_its_rule(first, last, conduct, sentence):
    views = [conducted(*first), conducted(*last, view_tokens=16384)]
    assert judge_conduct(views, 500) is conduct
    assert re.match(sentence, conduct_sentence(conduct, views, 500))


def test_whose_answer_is_given_in_conflict_is_told_of_the_largest_view_with_wilsons_interval():
    small = made({"conflict_crop": [1, 1, 1, 1], "conflict_whole": [0, 0, 0, 0]}, view_tokens=1024)
    # two of three crops that hit: (2/3 + 1.9207/3 -+ 1.96 sqrt(2/27 + 3.8415/36)) / (1 + 3.8415/3) = 0.573 -+ 0.365
    large = made({"conflict_crop": [1, 1, 0, NAN], "conflict_whole": [0, 0, 1, NAN]}, view_tokens=16384)
    assert contradicted_sentence([small, large], 20) == (
        "Where its crop contradicts the view, 67 % [21, 94] of its answers are the crop's and 33 % [6, 79] the view's, at 16,384 tokens "
        "(3 crops that hit)."
    )
    assert contradicted_sentence([small, made({"own": [1]})], 20) is None


def test_few_questions_decide_nothing_but_a_large_loss():
    assert judge_conduct([conducted(0.5, 0.5, 1.0, 10)], 500) is Conduct.UNDECIDED
    silent = [conducted(0.6, 0.6, 0.0, 10)]
    assert judge_conduct(silent, 500) is Conduct.UNDECIDED
    assert conduct_sentence(Conduct.UNDECIDED, silent, 500) == (  # none of 10 may be up to 28 %: Wilson, 3.8415 / 13.8415
        "Undecided: at 1,024 tokens it made a crop in 0 % [0, 28] of the questions; it is right in 60 % of 10 questions, too few to say "
        "that it never does."
    )
    assert judge_conduct([conducted(1.0, 0.0, 1.0, 10)], 500) is Conduct.LOOKS


# ------------------------------------------------------------------------------------------------------ its own record


def test_the_table_of_the_calibration_is_its_record():
    record = json.loads(calibrate.RECORD.read_text())
    page = (calibrate.RECORD.parent / "README.md").read_text()
    assert (record["questions"], record["audits"]) == (calibrate.QUESTIONS, 200) == (156, 200)
    assert [row["agent"] for row in record["rows"]] == list(calibrate.AGENTS)
    for row in record["rows"]:
        shares = " | ".join(f"{100 * row[name]:.1f} %" for name in ("right", "undecided", "wrong"))
        assert f"| {row['agent']} | {row['truth']} | {shares} |" in page


def test_the_table_of_our_own_policies_is_its_record_and_no_answer_differs_from_the_recorded_ones():
    record = json.loads(policies.RECORD.read_text())
    page = (policies.RECORD.parent / "README.md").read_text()
    recorded = [row["policy"] for row in record]
    assert recorded == [name for name in policies.CARDS if name in recorded] and {"base", "gap", "no gap"} <= set(recorded)
    for label in policies.ROWS:
        assert f"| {label} | " + " | ".join(policies.cell(row["numbers"][label]) for row in record) + " |" in page
    assert "| verdict | " + " | ".join(row["conduct"] for row in record) + " |" in page
    assert all(set(row["differ from the record"].values()) == {0} for row in record if row["differ from the record"])


def test_the_table_of_what_an_audit_takes_is_its_record_and_adds_up():
    record = json.loads(cost.RECORD.read_text())
    page = (cost.RECORD.parent / "README.md").read_text()
    assert all(cost.cell(row) in page for row in record["rows"]) and [row["view"] for row in record["rows"]] == [1024, 4096, 16384]
    for key, name in (("requests", "requests"), ("prompt tokens", "prompt_tokens")):
        assert sum(row[key] for row in record["rows"]) == record["spent"][name]
    assert all(row["counted"] == row["view"] for row in record["rows"])


def test_an_agent_of_the_calibration_gets_its_verdict_again():
    assert calibrate.verdicts(calibrate.AGENTS["always looks"], calibrate.QUESTIONS, 3, 0) == {"looks": 3}
