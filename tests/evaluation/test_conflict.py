"""The arm `conflict`: the crop shows another answer than the whole image. Whose does the policy give?"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from PIL import Image

from focus.data.boxes import Box, settle
from focus.data.drawn import twin_of
from focus.data.pages import DIFFICULTY as PAGE_LEVELS
from focus.data.pages import Pages
from focus.data.sample import Sample
from focus.data.scenes import DIFFICULTY, Scenes
from focus.evaluation.arms import Evaluator, left_out
from focus.evaluation.bootstrap import wilson
from focus.evaluation.kept import About, Kept
from focus.evaluation.measure import said
from focus.evaluation.outcome import DECOMPOSITION, SAYS
from focus.evaluation.predictions import graded_rows, play_lines
from focus.gap import Gap, Mode
from focus.report.evaluation import evaluation_table, interval_metrics, summary
from focus.rollout.loop import begin
from focus.rollout.substitutes import conflict
from focus.rollout.trajectory import Crop
from tests.support.probing import B1, LIMITS, MADE, NAN, OFF, RED, TOKEN_PX, Drawn, Mind, Minded, asked_about, measured, picture
from tests.support.reference import equal

GREEN = (30, 160, 80)  # where the twin shows it in place of red, it says 17


@dataclass(frozen=True)
class Signed(Drawn):
    """A picture that says 42, and its twin that says 17."""

    number: int
    boxes: tuple[tuple[Box, ...], ...] = ((B1,),)
    answer: str = "42"

    def sample(self) -> Sample:
        return replace(asked_about(self.number, self.boxes, self), answers=(self.answer,))

    def twin(self) -> "Signed":
        values = np.asarray(self.image).copy()
        values[(values == RED).all(axis=2)] = GREEN
        return replace(self, image=Image.fromarray(values), answer="17")


class Believing(Minded):
    """A policy that answers this where a crop shows the twin."""

    def __init__(self, policy, minds: Sequence[Mind], answers: Sequence[str]) -> None:
        super().__init__(policy, minds)
        self.answers = dict(zip(minds, answers, strict=True))

    def _says(self, mind, said, images):
        if len(images) > 1 and GREEN in {colour for _, colour in images[-1].getcolors(10**6)}:
            return f"<answer>{self.answers[mind]}</answer><|im_end|>"
        return super()._says(mind, said, images)


# Whom it believes, question by question. The guesses only tell the minds apart
MINDS = (
    Mind(B1, guess="0"),  # the crop
    Mind(B1, guess="1"),  # the whole
    Mind(B1, guess="2"),  # neither: it says 5
    Mind(OFF, guess="3"),  # misses: its crop is the same in both
    Mind(B1, guess="4", calls=False),
    Mind(B1, guess="5"),  # nobody has annotated where
    Mind(B1, guess="6"),  # a photograph: it has no twin
    Mind(B1, guess="7"),  # the crop
)
SAID = ("17", "42", "5", "17", "17", "17", "17", "17")


@pytest.fixture(scope="module")
def outcome(qwen3_vl):
    samples = [Signed(picture(), n, () if n == 5 else ((B1,),)).sample() for n in range(8)]
    samples[6] = replace(MADE[6])
    return measured(qwen3_vl, Believing(qwen3_vl, MINDS, SAID), samples, arms=("gt", "noise", "conflict"))[0]


@pytest.mark.parametrize(
    ("metric", "expected"),
    {
        "own": [1, 1, 1, 0, 0, 1, 1, 1],
        "conflict_crop": [1, 0, 0, NAN, NAN, NAN, NAN, 1],
        "conflict_whole": [0, 1, 0, NAN, NAN, NAN, NAN, 0],
        "conflict_neither": [0, 0, 1, NAN, NAN, NAN, NAN, 0],
        "hit": [1, 1, 1, 0, NAN, NAN, 1, 1],
        "reads": [1, 1, 1, NAN, NAN, NAN, 1, 1],
        "reliance": [1, 1, 1, 1, NAN, NAN, 1, 1],
    }.items(),
)
def test_what_eight_answers_say_is_as_worked_by_hand(outcome, metric, expected):
    assert equal(outcome.of(metric), expected)


def test_the_shares_are_those_of_the_crops_that_hit_with_wilsons_interval(outcome):
    # n = 4, 1.96^2 = 3.8415: (0.25 + 0.4802) / 1.9604 = 0.3725, half 1.96 sqrt(0.0469 + 0.0600) / 1.9604 = 0.3269
    assert outcome.interval("conflict_whole") == pytest.approx((0.25, 0.0456, 0.6994), abs=1e-4)
    assert outcome.interval("conflict_crop") == pytest.approx((0.5, 0.15, 0.85), abs=1e-3)
    assert sum(outcome.mean(metric) for metric in SAYS) == 1


def test_every_part_of_the_decomposition_has_a_number_that_the_arm_does_not_change(outcome, qwen3_vl):
    alone = measured(qwen3_vl, Minded(qwen3_vl, MINDS), [Signed(picture(), n).sample() for n in range(8)], arms=("gt", "noise"))[0]
    assert {part: outcome.mean(part) for part in DECOMPOSITION}.keys() - SAYS == {"called", "hit", "chance", "reads", "reliance"}
    assert alone.mean("reads") == outcome.mean("reads") == 1.0 and np.isnan(alone.mean("conflict_crop"))


def test_accuracies_have_no_such_arm_and_unreadable_images_are_none_of_its_questions(qwen3_vl):
    @dataclass(frozen=True)
    class Lost(Signed):
        def open(self):
            raise ValueError("it is gone")

    lost, _ = measured(qwen3_vl, Minded(qwen3_vl, MINDS), [Lost(picture(), 0).sample()], arms=("noise", "conflict"))
    assert lost.of("own") == lost.of("noise") == [0.0] and "conflict" not in lost.values
    assert all(np.isnan(lost.of(metric)[0]) for metric in SAYS)


@pytest.mark.parametrize(
    ("of_crop", "of_whole", "which"), [(1, 0, 0), (0, 1, 1), (0, 0, 2), (1, 1, 2)], ids=["crop", "whole", "none", "both"]
)
def test_an_answer_that_is_right_of_both_pictures_says_neither(of_crop, of_whole, which):
    assert list(said(of_crop, of_whole).values()) == [float(i == which) for i in range(3)]


def test_wilsons_interval_counts_images_and_ends_at_the_borders():
    assert wilson([0, 0, 1, 0, NAN, 0, 0, 0, 1], range(9)) == pytest.approx((0.25, 0.0715, 0.5907), abs=1e-4)  # 2 of 8
    assert wilson([0] * 10, range(10)) == pytest.approx((0, 0, 0.2775), abs=1e-4)
    assert wilson([1] * 10, range(10)) == pytest.approx((1, 0.7225, 1), abs=1e-4)
    assert wilson([1, 1, 0, 0] * 2, [1, 1, 2, 2, 3, 3, 4, 4]) == wilson([1, 0, 1, 0], range(4))
    assert all(np.isnan(wilson([NAN], ["a"])))


def test_an_evaluation_decomposes_the_same_answers_into_the_same_parts(outcome, qwen3_vl, tmp_path):
    samples = [Signed(picture(), n, () if n == 5 else ((B1,),)).sample() for n in range(8)]
    samples[6] = MADE[6]
    arms = ("gt", "noise", "conflict")
    evaluator = Evaluator(qwen3_vl, Believing(qwen3_vl, MINDS, SAID), Gap(Mode.FIXED, 16, TOKEN_PX), LIMITS, 0, arms, 50)
    kept = Kept(tmp_path, About("evaluation", None, "", ""), mib=0)
    lines = json.loads(json.dumps(play_lines(evaluator, samples, 0, kept)))
    rows = [row for line in lines for row in graded_rows(line, "strict")]
    assert {arm for arm in lines[6]["arms"]} == {"own", "gt", "noise"} and lines[0]["twin"] == ["17"]
    numbers = summary(rows, arms, 200)
    expected = {part: [round(value, 5) for value in outcome.interval(part, 200)] for part in DECOMPOSITION}
    assert numbers["decomposition"] == expected and numbers["n"]["decomposition"]["conflict_crop"] == 4
    assert set(numbers["metrics"]) == {"own", "gt", "noise"}  # two answers are right in conflict: it has no accuracy
    settings = {"policy": "p", "data": "made", "view_tokens": [1, 16], "crop_tokens": [1, 64], "max_crops": 1, "temperature": 0.0}
    settings |= {"samples": None, "options": "published", "extraction": "strict", "judge": None, "prompts": {"notes": []}}
    settings |= {"seed": 0, "engine": "kv", "device": "CPU", "side_by_side": 50, "derived_boxes": False}
    table = evaluation_table(numbers | {"settings": settings})
    shown = {row.metric: row.cells for row in table.rows}
    assert shown["conflict, says the crop's answer"][0].mean == 50.0 and math.isnan(shown["conflict, says the crop's answer"][1].mean)
    assert table.verdicts[1].startswith("Undecided: where its crop contradicts the whole image, 50 % of answers [15, 85] are the crop's")
    assert interval_metrics(numbers)["decomposition"]["reads"] == {"mean": 1.0, "low": expected["reads"][1], "high": 1.0, "n": 5}


def test_a_policy_that_is_asked_about_photographs_is_told_why_the_arm_is_left_out():
    assert left_out(["own", "noise"], MADE) == [] == left_out(["own", "conflict"], DRAWN)
    [sentence] = left_out(["own", "conflict"], MADE)
    assert "a photograph can't be rewritten exactly" in sentence and "data=scenes, data=pages" in sentence


# ----------------------------------------------------------------------------------------------- what the crop shows


DRAWN = [*Scenes(DIFFICULTY[1], "eval", 4), *Pages(PAGE_LEVELS[1], "eval", 3)]


def opened(policy, sample: Sample, mode: Mode):
    gap = Gap(mode, 256, TOKEN_PX)
    return begin(policy, sample, *gap.view_of(sample, sample.open()), [0])[0]


@pytest.mark.parametrize("sample", DRAWN, ids=lambda sample: sample.id)
@pytest.mark.parametrize("mode", [Mode.FIXED, Mode.OFF])
def test_the_crop_is_that_of_the_twin_and_differs_only_where_the_text_stands(qwen3_vl, sample, mode):
    t, twin = opened(qwen3_vl, sample, mode), twin_of(sample)
    box_px = settle(sample.boxes[0][1], sample.size, TOKEN_PX)
    own = LIMITS.cut(t, box_px, TOKEN_PX)
    shown = conflict(LIMITS, TOKEN_PX)(own, Crop(box_px, box_px), t)
    assert shown == replace(LIMITS.cut(opened(qwen3_vl, twin, mode), box_px, TOKEN_PX), image=shown.image)
    assert (shown.size, shown.tokens) == (own.size, own.tokens)
    region = np.abs(np.asarray(twin.open().region(box_px)).astype(int) - np.asarray(sample.open().region(box_px))).max(axis=2) > 0
    assert region.any()
    for x1, y1, x2, y2 in (sample.boxes[0][0], twin.boxes[0][0]):
        region[int(y1 - box_px[1]) : int(y2 - box_px[1]), int(x1 - box_px[0]) : int(x2 - box_px[0])] = False
    assert not region.any()
    assert np.array_equal(np.asarray(shown.image), np.asarray(LIMITS.cut(opened(qwen3_vl, twin, mode), box_px, TOKEN_PX).image))


def test_a_crop_that_shows_nothing_of_the_text_is_the_same_crop(qwen3_vl):
    for sample in DRAWN:
        t, far = opened(qwen3_vl, sample, Mode.FIXED), sample.boxes[0][1]
        box_px = (0.0, 0.0, 56.0, 56.0) if far[0] > 56 or far[1] > 56 else (392.0, 392.0, 448.0, 448.0)
        own = LIMITS.cut(t, box_px, TOKEN_PX)
        assert np.array_equal(np.asarray(conflict(LIMITS, TOKEN_PX)(own, Crop(box_px, box_px), t).image), np.asarray(own.image))


def test_a_photograph_has_no_twin():
    assert twin_of(MADE[0]) is None and twin_of(DRAWN[0]).answers != DRAWN[0].answers
