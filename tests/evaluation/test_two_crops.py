"""The arms `noise_first` and `noise_second`: noise in place of one of two crops. Is the second one used?"""

import json

import numpy as np
import pytest
from PIL import Image

from focus.config import problems_of
from focus.config.schema import ProbeConfig
from focus.data.boxes import Box, Frame, to_view
from focus.data.sample import ImageFile, Sample
from focus.evaluation.arms import Evaluator
from focus.evaluation.kept import About, Kept
from focus.evaluation.outcome import ONE_OF_TWO
from focus.evaluation.predictions import graded_rows, play_lines
from focus.gap import Gap, Mode
from focus.model.prompts import call_text
from focus.report.evaluation import summary
from focus.report.probe import probe_table
from focus.rollout.engine import Sampling
from focus.rollout.loop import RolloutLimits
from tests.support.probing import BLUE_INK, GROUND, NAN, RED, SIDE, TOKEN_PX, Drawn, Minded, asked_about, measured
from tests.support.reference import equal
from tests.support.runs import composed

FOUR: Box = (28.0, 28.0, 56.0, 56.0)  # red: it says 4
TWO: Box = (140.0, 140.0, 168.0, 168.0)  # blue: it says 2. The answer is 42
LIMITS = RolloutLimits(2, 64, Sampling(1.0, 60))
ARMS = ("noise", *ONE_OF_TWO)


class Reading(Minded):
    """A policy that looks at both places, or as its kind says, and answers 0 for a digit that it does not see."""

    def _says(self, kind, said, images):
        crops = images[1:]
        if len(crops) < {"at once": 0, "at once, wrong": 0, "one crop": 1}.get(kind, 2):
            return call_text(to_view((FOUR, TWO)[len(crops)], Frame.PER_MILLE, (112, 112), (SIDE, SIDE)))
        sees = [ink in {colour for _, colour in crop.getcolors(10**6)} for crop, ink in zip(crops, (RED, BLUE_INK), strict=False)]
        four, two = {
            "uses both": lambda: sees,
            "ignores the second": lambda: (sees[0], True),  # it knows the 2
            "ignores the first": lambda: (True, sees[1]),
            "either is enough": lambda: (any(sees), any(sees)),
            "one crop": lambda: (sees[0], True),
            "at once": lambda: (True, True),
            "at once, wrong": lambda: (False, False),
        }[kind]()
        return f"<answer>{4 * four}{2 * two}</answer><|im_end|>"


KINDS = ("uses both", "ignores the second", "ignores the first", "either is enough", "one crop", "at once")


def asked(number: int) -> Sample:
    image = Image.new("RGB", (SIDE, SIDE), GROUND)
    image.paste(RED, tuple(map(int, FOUR)))
    image.paste(BLUE_INK, tuple(map(int, TWO)))
    return asked_about(number, ((FOUR,), (TWO,)), Drawn(image))


@pytest.fixture(scope="module")
def outcome(qwen3_vl):
    return measured(qwen3_vl, Reading(qwen3_vl, KINDS), [asked(n) for n in range(6)], arms=ARMS, limits=LIMITS)[0]


@pytest.mark.parametrize(
    ("metric", "expected"),
    {
        "own": [1, 1, 1, 1, 1, 1],
        "noise": [0, 0, 0, 0, 0, 1],
        "noise_first": [0, 0, 1, 1, NAN, NAN],
        "noise_second": [0, 1, 0, 1, NAN, NAN],
        "D_noise": [1, 1, 1, 1, 1, 0],
        "D_first": [1, 1, 0, 0, NAN, NAN],
        "D_second": [1, 0, 1, 0, NAN, NAN],
        "called": [1, 1, 1, 1, 1, 0],
        "called_twice": [1, 1, 1, 1, 0, 0],
        "hit": [1, 1, 1, 1, 0.5, NAN],
    }.items(),
)
def test_what_six_policies_lose_with_either_crop_is_as_worked_by_hand(outcome, metric, expected):
    assert equal(outcome.of(metric), expected)


def test_one_crop_is_noise_and_the_other_stays_as_it_was(qwen3_vl):
    evaluator = Evaluator(qwen3_vl, Reading(qwen3_vl, KINDS), Gap(Mode.FIXED, 16, TOKEN_PX), LIMITS, 0, ARMS, 50)
    played = evaluator.play_arms([asked(0)]).trajectories["made/0"]
    shown = {arm: [np.asarray(image) for image in t.images[1:]] for arm, t in played.items()}
    for arm, expected in (("noise_first", ("noise", "own")), ("noise_second", ("own", "noise"))):
        assert len(shown[arm]) == 2
        assert all(np.array_equal(crop, shown[source][i]) for i, (crop, source) in enumerate(zip(shown[arm], expected, strict=True)))
    assert all((own != other).any() for own, other in zip(shown["own"], shown["noise"], strict=True))
    assert [t.ids[: len(t.prompt_ids)] for t in played.values()] == [list(played["own"].prompt_ids)] * 4


def test_without_these_arms_nothing_counts_second_crops(qwen3_vl):
    without = measured(qwen3_vl, Reading(qwen3_vl, KINDS), [asked(0)], arms=("noise",), limits=LIMITS)[0]
    assert all(equal(without.of(metric), [NAN]) for metric in ("noise_first", "noise_second", "D_first", "D_second", "called_twice"))


def test_an_image_that_cannot_be_read_has_no_second_crop(qwen3_vl, tmp_path):
    lost = asked_about(1, image=ImageFile(tmp_path / "none.png"))
    outcome = measured(qwen3_vl, Reading(qwen3_vl, KINDS), [asked(0), lost], arms=ARMS, limits=LIMITS)[0]
    assert outcome.of("own") == [1, 0] and outcome.of("called_twice") == [1, 0]
    assert equal(outcome.of("noise_second"), [0, NAN]) and equal(outcome.of("D_second"), [1, NAN])


def test_the_probe_prints_what_each_crop_is_worth_over_the_questions_with_two(outcome):
    rows = {row.metric: [cell.mean for cell in row.cells] for row in probe_table("a policy", {"16": outcome}, 20, 1.0).rows}
    assert rows["D_first, own - first crop noise"] == rows["D_second, own - second crop noise"] == [50.0]
    assert rows["crop rate, two or more"] == pytest.approx([400 / 6]) and rows["accuracy, second crop noise"] == [50.0]


def lines(policy, kinds, repeat: int, tmp_path):
    evaluator = Evaluator(policy, Reading(policy, kinds), Gap(Mode.FIXED, 16, TOKEN_PX), LIMITS, 0, ARMS, 50)
    kept = Kept(tmp_path, About("evaluation", None, "", ""), mib=0)
    return json.loads(json.dumps(play_lines(evaluator, [asked(n) for n in range(len(kinds))], repeat, kept)))


def test_an_evaluation_compares_the_same_questions(outcome, qwen3_vl, tmp_path):
    played = lines(qwen3_vl, KINDS, 0, tmp_path)
    assert [set(line["arms"]) for line in played[3:5]] == [{"own", *ARMS}, {"own", "noise"}]
    numbers = summary([row for line in played for row in graded_rows(line, "strict")], ARMS, 200)
    assert numbers["n"]["noise_second"]["right"] == 4 and numbers["metrics"]["noise_second"]["right"][0] == 0.5
    for name in ("D_noise", "D_first", "D_second"):
        assert numbers["differences"][name] == [round(value, 5) for value in outcome.interval(name, 200)]


def test_of_repeats_only_those_with_two_crops_are_compared(qwen3_vl, tmp_path):
    twice = lines(qwen3_vl, ("uses both",), 0, tmp_path), lines(qwen3_vl, ("at once, wrong",), 1, tmp_path)
    numbers = summary([row for [line] in twice for row in graded_rows(line, "strict")], ARMS, 20)
    assert numbers["metrics"]["own"]["right"][0] == 0.5 and numbers["differences"]["D_second"][0] == 1.0


def test_an_arm_of_two_crops_is_refused_where_a_conversation_may_have_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arms = "evaluation.arms=[noise,noise_second]"
    [problem] = problems_of(composed(arms, name="probe"), ProbeConfig)
    assert problem == (
        "evaluation.arms names noise_second, for which a conversation needs two crops, but rollout.max_crops is 1; set it to 2 or more, "
        "or leave the arm out"
    )
    assert problems_of(composed(arms, "rollout.max_crops=2", name="probe"), ProbeConfig) == []
