"""One ladder grades reward, calibration, probe and evaluation: rule, normal form, judge. And what training does with a judge that fails."""

import json
import math
import re
import threading
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from focus import build
from focus.config import validated
from focus.config.schema import TrainConfig
from focus.data.questions import Questions
from focus.data.sample import Sample, write_records
from focus.data.scenes import DIFFICULTY, Scenes
from focus.evaluation.answer_reading import JudgeReader, ReadAnswer, read_by_rule
from focus.evaluation.arms import Evaluator
from focus.evaluation.measure import measure
from focus.gap import Gap, Mode
from focus.grading.answers import Rung, decidable
from focus.grading.grader import Grader, check_decidable, count_decidable, decidable_sentence
from focus.grading.judge import Case, Judge, NoVerdict
from focus.model.policy_model import PolicyModel
from focus.report import survey
from focus.rewards import score
from focus.rollout.engine import Completion, Sampling
from focus.rollout.loop import RolloutLimits
from focus.runs import train
from focus.runtime.endpoint import Endpoint
from focus.training.probe_callback import ProbeCallback
from tests.support import protocol
from tests.support.policies import random_qwen3_vl
from tests.support.protocol import Server, candidate, knowing, reset, saying, status
from tests.support.ranks import in_ranks
from tests.support.runs import settings
from tests.support.trajectories import SAMPLE, says, stage1, trajectory, zooms
from tests.support.updates import Rows, module_of, trainer

SHIP = replace(SAMPLE, question="Where is the ship?", answers=("harbour",), scorer="judge")
OPEN = Case("Where is the ship?", ("harbour",), "in the port")


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch):
    protocol.hurry(monkeypatch)
    monkeypatch.delenv("TEST_KEY", raising=False)


def grader(server: Server, folder: Path, retries: int = 0, concurrency: int = 4) -> Grader:
    endpoint = Endpoint(server.url, "tiny", "TEST_KEY", timeout_s=600.0, retries=retries, concurrency=concurrency)
    return Grader(Judge(endpoint, folder / "verdicts.jsonl"))


# ---------------------------------------------------------------------------------------------------------- the ladder


def test_the_judge_is_asked_only_for_what_rule_and_normal_form_leave_open(tmp_path):
    cases = [
        Case("Which?", ("B",), "(b)", (("A", "red"), ("B", "blue")), "letter"),
        Case("Which?", ("B",), "A", (("A", "red"), ("B", "blue")), "letter"),
        Case("Where is the ship?", ("harbour",), "the harbour."),
        Case("Where is the ship?", ("harbour",), "The ship is in the harbour."),
        OPEN,
        Case("Where is the ship?", ("harbour",), "at sea"),
        Case("Where is the ship?", ("harbour",), None),
        Case("Where is the ship?", ("harbour",), "harbour or sea"),
    ]
    with Server(knowing("in the port")) as server:
        graded = grader(server, tmp_path)
        grades = graded.measure(cases)
        asked = {candidate(request) for request in server.chats}
    assert [grade.right for grade in grades][:3] == [1.0, 0.0, 1.0]
    assert [grade.right for grade in grades][4:] == [1.0, 0.0, 0.0, 0.0]
    assert [grade.rung for grade in grades][4:] == [Rung.JUDGE, Rung.JUDGE, Rung.RULE, Rung.JUDGE]
    assert {"in the port", "at sea"} <= asked and not asked & {"the harbour.", "(b)", "A", "harbour or sea"}
    assert graded.rungs.total() == len(cases)


def test_without_a_judge_an_open_answer_is_wrong_and_counted_as_open():
    graded = Grader()
    [grade] = graded.measure([OPEN])
    assert (grade.right, grade.rung) == (0.0, Rung.OPEN) and graded.rungs == {Rung.OPEN: 1}


def test_a_case_without_a_verdict_is_nan_for_a_reward_and_wrong_for_a_measurement(tmp_path):
    with Server(saying("yes"), [status(400)]) as server:
        rewarding = grader(server, tmp_path, concurrency=1)
        grades = rewarding.grade_all([OPEN, replace(OPEN, answer="at the pier")])
        assert math.isnan(grades[0].right) and grades[0].rung is Rung.OPEN and grades[1].right == 1.0
        server.faults.append(status(400))
        measuring = grader(server, tmp_path, concurrency=1)
        assert [grade.right for grade in measuring.measure([OPEN, replace(OPEN, answer="at the pier")])] == [0.0, 1.0]


def test_an_outage_ends_a_measurement_and_the_next_one_goes_on_from_the_verdicts_so_far(tmp_path):
    other = replace(OPEN, answer="at sea")
    with Server(knowing("in the port"), [None, status(401)]) as server:
        with pytest.raises(NoVerdict, match="TEST_KEY"):
            grader(server, tmp_path, concurrency=1).measure([OPEN, other])
        assert [grade.right for grade in grader(server, tmp_path).measure([OPEN, other])] == [1.0, 0.0]
        assert Counter(map(candidate, server.chats)) == {"in the port": 1, "at sea": 2}


# ------------------------------------------------------------------------------------------------------------ reward


def with_judge(graded: Grader):
    terms = stage1()
    terms[0].grader = graded
    return terms


def test_a_right_answer_in_other_words_earns_its_reward_and_its_tool_bonus(tmp_path):
    played = [trajectory(zooms(), says("in the port"), sample=SHIP), trajectory(zooms(), says("at sea"), sample=SHIP)]
    assert score(stage1(), played).total == [0.0, 0.0]
    with Server(knowing("in the port")) as server:
        assert score(with_judge(grader(server, tmp_path)), played).total == pytest.approx([2.0, 0.0])


def test_an_answer_without_a_verdict_has_no_reward_at_all(tmp_path):
    played = [trajectory(zooms(), says(answer), sample=SHIP) for answer in ("in the port", "harbour")]
    with Server(saying("yes"), [status(401)]) as server:
        scores = score(with_judge(grader(server, tmp_path)), played)
    assert math.isnan(scores.total[0]) and math.isnan(scores.raw["accuracy"][0]) and scores.total[1] == pytest.approx(2.0)
    assert scores.ungraded == 1


# ---------------------------------------------------------------------------------------------------------- training


@dataclass
class Speaking:
    """An engine: sibling k of a question gives the k-th of `answers(update)`, without a crop. `playing` is called before each batch."""

    policy: PolicyModel
    answers: object
    playing: object = field(default=lambda batch: None)
    updates: int = 0
    batches: int = 0

    def generate(self, requests, sampling):
        self.batches += 1
        self.playing(self.batches)
        said = self.answers(self.updates)
        for request in requests:
            opening = "" if request.trajectory.prefill else "<answer>"
            text = f"{opening}{said[request.conversation % len(said)]}</answer><|im_end|>"
            ids = tuple(self.policy.tokenizer.encode(text, add_special_tokens=False))
            yield request, Completion(ids, (-0.5,) * len(ids), stopped=True)

    shares_weights = False

    def clear_cache(self) -> None:
        pass

    def sleep(self) -> None:
        pass

    def sync_weights(self) -> None:  # once at the start, then after every update
        self.updates += 1


def ships(count: int) -> list[Sample]:
    """Questions that only a judge can grade, each another one."""
    scenes = Scenes(replace(DIFFICULTY[1], side_px=224), "train", count)
    return [replace(s, question=f"Where is ship {i}?", answers=("harbour",), scorer="judge") for i, s in enumerate(scenes)]


def training(graded: Grader, answers, questions: int = 2, updates: int = 1, max_ungraded: float = 1.0, playing=lambda batch: None):
    """A policy that trains on questions of which the judge decides the answers; returns it, its rows, and what starts it."""
    policy = random_qwen3_vl(seed=4)
    module = module_of(policy, questions_per_forward=1)
    graded.max_ungraded = max_ungraded
    module.engine, module.rewards = Speaking(policy, answers, playing), with_judge(graded)
    module.limits = replace(module.limits, sampling=Sampling(1.0, 40))
    rows = Rows()
    data = Questions(ships(questions), updates, questions, workers=0, seed=5)
    made = trainer(callbacks=[*module.rewards, rows], log_every_n_steps=1)
    return module, rows.rows, lambda: made.fit(module, data)


def test_every_distinct_answer_of_a_group_is_asked_about_once(tmp_path):
    answers = ["in the port", "at sea", "in the port", "harbour"]
    with Server(knowing("in the port")) as server:
        _, rows, start = training(grader(server, tmp_path), lambda update: answers)
        start()
        asked = Counter((request["messages"][-1]["content"].split("\n")[0], candidate(request)) for request in server.chats)
    assert asked == {(f"Question: Where is ship {i}?", answer): 1 for i in (0, 1) for answer in ("in the port", "at sea")}
    assert [row["reward/accuracy"] for row in rows] == [0.75]
    figures = {name: rows[0][name] for name in rows[0] if name.startswith(("judge/", "graded/"))}
    assert figures == {
        "graded/rule": 0.25, "graded/form": 0.0, "graded/judge": 0.75, "graded/open": 0.0,
        "judge/asked": 4, "judge/cached": 2, "judge/turned_away": 0, "judge/unclear": 0, "judge/silent": 0, "judge/refused": 0,
        "judge/unreached": 0, "judge/disagreements": 4,
    }  # fmt: skip


def test_the_judge_speaks_while_other_questions_still_play(tmp_path):
    """By the order of events: the second question begins only when the judge was asked about the first, and it answers only then."""
    events: list[str] = []
    asked, second = threading.Event(), threading.Event()

    def playing(batch: int) -> None:
        if batch == 2:
            assert asked.wait(600), "the judge was not asked while the second question was still to be played"
            second.set()
        events.append(f"question {batch} plays")

    def respond(request):
        asked.set()
        assert second.wait(600), "training waited for the verdict before it played on"
        events.append("a verdict")
        return "yes", "stop", 1

    with Server(respond) as server:
        _, rows, start = training(grader(server, tmp_path), lambda update: ["in the port"] * 4, playing=playing)
        start()
    assert events[0] == "question 1 plays" and sorted(events[1:]) == ["a verdict", "a verdict", "question 2 plays"]
    assert [row["reward/accuracy"] for row in rows] == [1.0]


def test_refusals_teach_nothing_and_are_counted_and_an_outage_ends_the_run_in_one_sentence(tmp_path):
    def answers(update: int) -> list[str]:
        return ["harbour", f"port {update}", "harbour", "at sea"]

    with Server(lambda request: ("no", "stop", 1)) as server:
        policy, rows, start = training(grader(server, tmp_path, concurrency=1), answers, updates=3, max_ungraded=0.2)
        update = policy.update

        def breaking(trajectories, advantage):
            """The second update begins with a refused answer; in the third the server is away."""
            if policy.updates_done == 0:
                server.faults.append(status(400))
            elif policy.updates_done == 1:
                server.faults.extend([reset] * 50)
                assert advantage[1].tolist() == [0.0, 0.0]
            return update(trajectories, advantage)

        policy.update = breaking
        with pytest.raises(ValueError, match="2 of 8 answers of update 3 have no verdict") as ended:
            start()
    assert [(row["reward/ungraded"], row["judge/refused"], row["judge/unreached"]) for row in rows] == [(0, 0, 0), (1, 1, 0)]
    said = str(ended.value)
    assert "judge.max_ungraded=0.2" in said and server.url in said
    assert "continues from its last checkpoint" in said


def test_a_group_whose_server_is_away_is_asked_about_again_with_the_next_group(tmp_path):
    """The first question meets a reset; by the second the server is back, and both are graded."""
    gone = threading.Event()

    def playing(batch: int) -> None:
        if batch == 2:
            assert gone.wait(600)

    graded: Grader

    def fault(handler, reply):
        reset(handler, reply)
        gone.set()

    with Server(saying("yes"), [fault]) as server:
        graded = grader(server, tmp_path, concurrency=1)
        policy, rows, start = training(graded, lambda update: ["in the port"] * 4, playing=playing)
        waited = graded.judge._changed

        def outage_is_known(batch: int) -> None:
            playing(batch)
            if batch == 2:
                with waited:
                    assert waited.wait_for(lambda: graded.judge.outage is not None, timeout=600)

        policy.engine.playing = outage_is_known
        start()
    assert [(row["reward/ungraded"], row["reward/accuracy"]) for row in rows] == [(0.0, 1.0)]


def test_a_probe_inside_training_that_meets_an_outage_is_left_out_and_the_training_goes_on(tmp_path, capsys):
    with Server(saying("yes"), [status(401)] * 50) as server:
        graded = grader(server, tmp_path, concurrency=1)
        policy, _, _ = training(graded, lambda update: ["harbour"] * 4)
        probe = ProbeCallback(ships(1), Gap(Mode.FIXED, 16, policy.policy.token_px), policy.limits, 1, 1, graded)
        policy.engine.answers = lambda update: ["in the port"] if policy.updates_done else ["harbour"] * 4
        made = trainer(callbacks=[*policy.rewards, probe, found := Rows()], log_every_n_steps=1)
        made.fit(policy, Questions(ships(2), 1, 2, workers=0, seed=5))
    assert math.isnan(found.rows[0]["probe/own"]) and found.rows[0]["reward/accuracy"] == 1.0
    assert "no probe at update 1: " in capsys.readouterr().out


def test_a_probe_grades_by_the_ladder(qwen3_vl, tmp_path):
    engine = Speaking(qwen3_vl, lambda update: ["in the port"])
    limits = RolloutLimits(1, 64, Sampling(0.0, 40))
    with Server(knowing("in the port")) as server:
        for graded, expected in ((Grader(), 0.0), (grader(server, tmp_path), 1.0)):
            evaluator = Evaluator(qwen3_vl, engine, Gap(Mode.FIXED, 16, qwen3_vl.token_px), limits, 0, ("tool_free",), 2, grader=graded)
            outcome, _ = measure(evaluator, ships(2), None)
            assert outcome.values["own"] == outcome.values["tool_free"] == [expected] * 2
        assert len(server.chats) == 2  # one for each question: both arms say the same


# -------------------------------------------------------------------------------------------------------- calibration


def test_calibration_takes_answers_that_the_judge_finds_right_for_one_and_the_same(tmp_path):
    with Server(knowing("in the port", "by the pier")) as server:
        read = JudgeReader(grader(server, tmp_path))
        assert read_by_rule([(SHIP, ["in the port"])])[0][0].right is False
        [native], [later] = read([(SHIP, ["in the port"])]), read([(SHIP, ["by the pier", "at sea"])])
    truth = read_by_rule([(SHIP, ["harbour"])])[0][0]
    assert native == [truth] and later[0] == truth and later[1] != truth and not later[1].right


def test_calibration_asks_whether_an_answer_means_the_same_as_a_wrong_native_one(tmp_path):
    def respond(request):
        shown = request["messages"][-1]["content"]
        return ("yes" if "- on the sea\n" in shown and candidate(request) == "out at sea" else "no"), "stop", 1

    with Server(respond) as server:
        read = JudgeReader(grader(server, tmp_path))
        [[native]] = read([(SHIP, ["on the sea"])])
        [[same, other, right]] = read([(SHIP, ["out at sea", "in the air", "harbour"])])
    assert not native.right and same == native == ReadAnswer(native.meaning, False)
    assert other.meaning != native.meaning and right.right


# ------------------------------------------------------------------------------------------- questions that rules decide


def test_the_scenes_are_decided_by_rules_as_their_count_says():
    scenes = Scenes(DIFFICULTY[1], "train", 20)
    assert count_decidable(scenes) == sum(decidable(s.answers, s.scorer, s.options) for s in scenes) == 20


def test_the_share_that_rules_decide_is_said_and_a_training_without_a_judge_refuses_below_its_floor():
    assert decidable_sentence(20, 20, None) == "the rules alone can grade 20 of 20 questions (100.0%)"
    assert "right answers in other words count as wrong" in decidable_sentence(13, 20, None)
    assert "the judge big grades the open answers" in decidable_sentence(13, 20, "big")
    check_decidable(18, 20, 0.9)
    with pytest.raises(ValueError, match=r"13 of 20 questions \(65.0%\).*judge.url=.*judge.min_decidable=0.65, now 0.9"):
        check_decidable(13, 20, 0.9)
    check_decidable(13, 20, 0.65)


def judged(folder: Path, *overrides: str):
    """The settings of a run on records that only a judge can grade."""
    path = folder / "asked/records.jsonl"
    if not path.is_file():
        write_records(ships(2), folder / "asked")
    return settings(
        folder / "run",
        folder.parent,
        "data=records",
        f"data.records={path}",
        "data.side_px=224",
        f"evaluation.records={path}",
        "evaluation.samples=1",
        "evaluation.base=false",
        "evaluation.arms=[own]",
        "rollout.questions_per_update=1",
        "rollout.tokens_per_turn=40",
        "reward.terms.information_gain.every=0",
        *overrides,
    )


def test_a_run_says_how_many_questions_rules_decide_refuses_without_a_judge_and_resumes_without_asking_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    random_qwen3_vl(seed=7).save(tmp_path / "policy")
    answers = ["in the port", "at sea", "harbour", "on land"]
    monkeypatch.setattr(build, "build_engine", lambda cfg, loaded: Speaking(loaded, lambda update: answers))
    policy = f"policy.checkpoint={tmp_path / 'policy'}"
    with pytest.raises(ValueError, match=r"rules alone can grade 0 of 2 questions.*judge.url=.*judge.min_decidable=0, now 0.9"):
        train.run(judged(tmp_path, policy))
    with Server(knowing("in the port"), models=("big",)) as server:
        judge = (policy, f"judge.url={server.url}", "judge.model=big")
        train.run(judged(tmp_path, *judge, "objective.updates=2"))
        first = len(server.chats)
        said = " ".join(capsys.readouterr().out.split())
        assert "the rules alone can grade 0 of 2 questions (0.0%); the judge big grades the open answers" in said
        history = [json.loads(line) for line in (tmp_path / "run/history.jsonl").read_text().splitlines()]
        assert [row["reward/accuracy"] for row in history] == [0.5, 0.5] and first == 6
        train.run(judged(tmp_path, *judge, "objective.updates=2"))  # shows the result again
        with pytest.raises(ValueError, match=r"judge.model: big then, huge now"):
            train.run(judged(tmp_path, policy, f"judge.url={server.url}", "judge.model=huge", "objective.updates=2"))
        assert len(server.chats) == first
    # the server is gone, a finished run still shows its result, from the verdicts that are kept
    train.run(judged(tmp_path, *judge, "objective.updates=2"))
    [kept] = (tmp_path / "outputs/judge").iterdir()
    assert kept.name == "big.jsonl" and len(kept.read_text().splitlines()) == first


def test_make_inspect_counts_the_questions_that_rules_decide(tmp_path):
    contents = survey.survey([*ships(2), *Scenes(DIFFICULTY[1], "train", 3)])
    assert (contents.questions, contents.decidable) == (5, 3)


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["judge.model=big"], r"judge.model is big but judge.url is null"),
        (["judge.url=http://x/v1"], r"judge.model names no model"),
        (["judge.url=x", "judge.model=big"], r"judge.url is 'x'"),
        (["judge.max_ungraded=1.5"], r"judge.max_ungraded is 1.5; it is a share in \[0, 1\]"),
        (["judge.min_decidable=-1"], r"judge.min_decidable is -1"),
    ],
)
def test_judges_that_can_not_work_are_refused_before_anything_starts(overrides, problem, tmp_path, random_policy):
    with pytest.raises(ValueError, match=problem):
        validated(settings(tmp_path, random_policy, *overrides), TrainConfig)


# --------------------------------------------------------------------------------------------------------- two ranks

WORKER = """
import sys
from pathlib import Path
import pytorch_lightning as pl
from focus.data.questions import Questions
from focus.runtime.endpoint import Endpoint
from focus.grading.grader import Grader
from focus.grading.judge import Judge
from tests.grading.test_grading import ships, training
from tests.support.updates import trainer
url, folder = sys.argv[1:]
judge = Judge(Endpoint(url, "tiny", "TEST_KEY", timeout_s=600.0, retries=0, concurrency=2), Path(folder) / "verdicts.jsonl")
answers = lambda update: ["harbour", f"port {update}", "at sea", f"pier {update}"]
policy, rows, _ = training(Grader(judge), answers, max_ungraded=0.4)
made = trainer(devices=2, strategy="ddp", callbacks=policy.rewards, log_every_n_steps=1)
try:
    made.fit(policy, Questions(ships(4), 3, 2, workers=0, seed=5))
except ValueError as error:
    print(f"rank {policy.global_rank}: {error}", flush=True)
    sys.exit(3)
"""


@pytest.mark.processes
def test_two_ranks_share_a_cache_and_end_together_where_the_judge_fails_for_one(tmp_path):
    """Each rank has one question of each update. The server refuses whoever asks about ship 1 from the second time on."""
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    seen: Counter[str] = Counter()
    lock = threading.Lock()

    def respond(request):
        with lock:
            seen[candidate(request)] += 1
        if re.match(r"port [23]|pier [23]", candidate(request)):
            raise RuntimeError("as the test says")  # a 500: this request is refused, for both ranks
        return "no", "stop", 1

    with Server(respond) as server:
        done = in_ranks(2, str(script), server.url, str(tmp_path))
    said = re.findall(r"rank (\d): (\d) of 8 answers of update (\d) have no verdict", done.stdout + done.stderr)
    assert {(ungraded, update) for _, ungraded, update in said} == {("4", "2")}, done.stderr[-3000:]
    assert done.returncode != 0
    rows = [json.loads(line) for line in (tmp_path / "verdicts.jsonl").read_text().splitlines()]
    assert len(rows) == len({row["key"] for row in rows}) and {row["verdict"] for row in rows} == {"no"}
