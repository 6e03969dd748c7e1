"""What the probe measures (E10), by hand: metrics of every question, gain and harm, tables and figures."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from focus.data.sample import ImageFile
from focus.data.scenes import DIFFICULTY, Scenes
from focus.evaluation.bootstrap import bootstrap
from focus.evaluation.outcome import (
    ARMS,
    DIFFERENCES,
    GIVEN,
    METRICS,
    SAYS,
    Outcome,
    decompose_tool_effect,
    load_outcomes,
    save_outcomes,
)
from focus.model.policy_model import PolicyModel
from focus.report import probe as report
from focus.report.probe import draw_probe, probe_table
from focus.rollout.engine import Sampling
from focus.rollout.kv import KVEngine
from focus.rollout.loop import RolloutLimits
from focus.rollout.substitutes import SUBSTITUTES
from tests.support.probing import BLUE, BY_HAND, LIMITS, MADE, MINDS, NAN, OFF, SIDE, Drawn, Mind, Minded, asked_about, measured
from tests.support.reference import equal
from tests.support.scripted import Scripted, call

# ------------------------------------------------------------------------------------------------------ what is measured


@pytest.mark.parametrize("metric", BY_HAND)
def test_every_metric_of_seven_questions_is_as_worked_by_hand(seven, metric):
    assert equal(seven.of(metric), BY_HAND[metric]), seven.of(metric)


def test_the_differences_are_those_of_the_questions_worked_by_hand(seven):
    assert equal(seven.of("D_noise"), [1, 0, 0, 0, 0, 1, 0])
    assert equal(seven.of("U_GT"), [0, 1, 0, 1, 0, NAN, 1])
    assert equal(seven.of("S"), [1, 1, 0, 1, 0, NAN, 1])
    played = [name for name, arms in DIFFERENCES.items() if set(arms) <= set(ARMS)]
    means = {name: seven.interval(name, 10)[0] for name in ("own", "gt", *played, "gain", "harm", "agrees")}
    share = dict.fromkeys((name for name in played if name.startswith("D_")), 2 / 7)
    share |= {"own": 4 / 7, "gt": 1.0, "U_GT": 3 / 6, "S": 4 / 6, "tool_effect": 1 / 7, "gain": 2 / 7, "harm": 1 / 7, "agrees": 3 / 7}
    assert means == pytest.approx(share)


def test_what_better_boxes_give_and_what_looking_gives_add_up_for_every_question(seven):
    assert equal(seven.of("S"), [d + u for d, u in zip(seven.of("D_noise"), seven.of("U_GT"), strict=True)])
    assert equal(seven.of("tool_effect"), [g - h for g, h in zip(seven.of("gain"), seven.of("harm"), strict=True)])


def test_every_metric_has_a_value_for_every_question_and_its_image_is_kept_beside_it(seven):
    assert {metric: len(values) for metric, values in seven.values.items()} == dict.fromkeys(METRICS, 7)
    assert seven.groups == [f"image {n}" for n in range(7)] and not seven.broken and seven.view_tokens == 16


def test_a_question_without_boxes_is_named_and_has_no_annotated_crop(seven):
    assert seven.unannotated == ["made/5"]
    assert [math.isnan(seven.of(metric)[5]) for metric in ("gt", "U_GT", "S", "coverage", "iou", "l1")] == [True] * 6
    assert not math.isnan(seven.of("area")[5])


def test_how_many_questions_are_played_side_by_side_changes_nothing(seven, qwen3_vl):
    two = measured(qwen3_vl, Minded(qwen3_vl, MINDS), MADE, per_forward=2)[0]
    assert all(equal(two.of(metric), seven.of(metric)) for metric in METRICS)
    assert (two.groups, two.unannotated) == (seven.groups, seven.unannotated)


def test_an_arm_that_is_not_played_has_no_values_and_changes_none_of_the_others(seven, qwen3_vl):
    few, shown = measured(qwen3_vl, Minded(qwen3_vl, MINDS), MADE, arms=("noise",))
    for metric in METRICS:
        absent = metric in {*ARMS, "agrees", "gain", "harm"} - {"own", "noise"}
        assert equal(few.of(metric), [NAN] * 7 if absent else seven.of(metric)), metric
    assert [t.sample.id for t in shown] == [sample.id for sample in MADE]
    assert few.of("sampled_tokens") == [sum(t.sampled_mask) for t in shown]


def test_a_policy_whose_answer_depends_on_nothing_has_equal_accuracy_in_every_arm(policy: PolicyModel):
    samples = Scenes(DIFFICULTY[1], "eval", 4)
    right = samples[0].answers[0]
    engine = Scripted(policy, call(0, 0, 60, 60), f"<answer>{right}</answer><|im_end|>")
    replaced = SUBSTITUTES.keys() & set(ARMS)  # of conflict and of one crop of two: test_conflict.py, test_two_crops.py
    outcome, shown = measured(policy, engine, samples, arms=tuple(replaced))
    assert all(t.crops for t in shown)
    expected = [float(sample.answers[0] == right) for sample in samples]
    assert expected[0] == 1 and 0 in expected
    assert all(outcome.of(arm) == expected for arm in ("own", *replaced))
    assert all(outcome.of(name) == [0.0] * 4 for name, arms in DIFFERENCES.items() if set(arms) <= {"own", *replaced})


def test_additive_noise_of_sigma_0_is_the_policys_own_crop_and_that_of_sigma_64_is_not(qwen3_vl: PolicyModel):
    engine = Minded(qwen3_vl, MINDS)
    silent, loud = (measured(qwen3_vl, engine, MADE, arms=("additive",), sigma=sigma)[0] for sigma in (0.0, 64.0))
    assert silent.of("D_additive") == [0.0] * 7
    assert loud.of("D_additive") == [1, 0, 0, 0, 0, 1, 0]


def test_a_forced_answer_is_compared_with_the_final_one_as_answers_are_compared(qwen3_vl: PolicyModel):
    minds = (Mind(OFF, guess="The Blue.", blind="blue"), Mind(OFF, guess=" ", blind=""), Mind(OFF, guess="blue", blind="green"))
    outcome, _ = measured(qwen3_vl, Minded(qwen3_vl, minds), MADE[:3], arms=("tool_free",))
    assert outcome.of("agrees") == [1, 0, 0]  # that neither answers at all is no agreement


def test_every_arm_draws_with_the_noise_of_its_question_and_turn(qwen3_vl: PolicyModel):
    heard: dict[str, list[int]] = {"0": [], "1": []}

    class Listening(Scripted):
        def generate(self, requests, sampling):
            for c, completion in super().generate(requests, sampling):
                heard[c.id.rsplit(" ", 1)[1]].append(c.seed)
                yield c, completion

    # forced to answer it speaks of a call instead, is told so, and answers in its second turn like all others
    measured(qwen3_vl, Listening(qwen3_vl, call(0, 0, 500, 500), BLUE), MADE[:3])
    first, second = (Counter(heard[turn]) for turn in ("0", "1"))
    assert sorted(first.values()) == [3] * 3  # own, tool_free, forced: of the substitutes the first turn is replayed
    assert sorted(second.values()) == [len(ARMS)] * 3 and not first.keys() & second.keys()


def test_what_a_sampling_policy_says_does_not_depend_on_the_questions_beside_it(policy: PolicyModel):
    limits = RolloutLimits(1, 64, Sampling(1.0, 8))
    samples = Scenes(replace(DIFFICULTY[1], side_px=SIDE), "eval", 2)
    together, alone = (measured(policy, KVEngine(policy), samples, ("noise", "forced"), per, limits)[1] for per in (2, 1))
    assert [t.ids for t in together] == [t.ids for t in alone]
    assert len({t.seed for t in together}) == 2


def test_an_image_that_cannot_be_read_is_wrong_in_every_played_arm_and_stays_in_the_denominator(qwen3_vl: PolicyModel, tmp_path):
    (tmp_path / "cut.png").write_bytes(b"\x89PNG")
    lost = asked_about(1, image=ImageFile(tmp_path / "cut.png"))
    bare = replace(asked_about(2, image=ImageFile(tmp_path / "none.png")), boxes=())
    strip = replace(asked_about(3, image=Drawn(Image.new("RGB", (5600, 28)))), width=5600, height=28)  # no view of 16 tokens holds it
    samples = [MADE[0], lost, bare, strip]
    outcome, shown = measured(qwen3_vl, Minded(qwen3_vl, MINDS), samples, arms=("gt", "noise", "tool_free"), per_forward=1)
    assert outcome.groups == ["image 0", "image 1", "image 2", "image 3"]
    assert outcome.of("own") == [1, 0, 0, 0] and outcome.interval("own", 10)[0] == 0.25
    assert outcome.of("noise") == outcome.of("tool_free") == [0.0] * 4
    assert equal(outcome.of("gt"), [1, 0, NAN, 0])
    assert equal(outcome.of("blank"), [NAN] * 4) and equal(outcome.of("area"), [1 / 64, NAN, NAN, NAN])
    assert {len(values) for values in outcome.values.values()} == {4}
    assert [t.sample.id for t in shown] == ["made/0"] and outcome.unannotated == ["made/2"]
    for message, words in zip(outcome.broken, ("cut.png", "none.png", "5600x28"), strict=True):
        assert words in message


def test_an_arm_that_does_not_exist_is_refused_with_the_list_of_those_that_do(qwen3_vl: PolicyModel):
    with pytest.raises(ValueError, match=r"evaluation\.arms names nois, gtt; there are own, gt, noise, .*tool_free, forced"):
        measured(qwen3_vl, Minded(qwen3_vl, MINDS), MADE, arms=("own", "nois", "gtt"))


def test_coverage_iou_and_distance_to_several_targets_are_means_over_the_targets_and_of_the_last_crop(qwen3_vl: PolicyModel):
    # asked for last: the left quarter of the top 28 px. One target is its left half; the other lies half in it, and its B2 further out
    targets = (((0.0, 0.0, 28.0, 28.0),), ((28.0, 0.0, 84.0, 28.0), (28.0, 0.0, 112.0, 28.0)))
    script = (call(500, 500, 1000, 1000), call(0, 0, 250, 125), BLUE)
    sample = asked_about(1, boxes=targets)
    outcome, _ = measured(qwen3_vl, Scripted(qwen3_vl, *script), [sample], arms=(), limits=replace(LIMITS, max_crops=2))
    assert outcome.of("coverage") == pytest.approx([(1 + 1 / 2) / 2])
    assert outcome.of("iou") == pytest.approx([(1 / 2 + 1 / 3) / 2])
    assert outcome.of("l1") == pytest.approx([(31 / 32 + 15 / 16) / 2])
    assert outcome.of("area") == [1 / 32]


def test_intervals_are_resampled_by_image():
    outcome = made({"own": [1.0, 1.0, 0.0, 0.0]})
    assert outcome.interval("own", 200) == (0.5, 0.0, 1.0)
    together = replace(outcome, groups=["one"] * 4)
    one = 3.8415 / 4.8415  # one image was seen, and up to that share of all may differ from it
    assert together.interval("own", 200) == pytest.approx((0.5, 0.5 - one / 2, 0.5 + one / 2), abs=1e-4)


@pytest.mark.parametrize(
    ("values", "interval"),
    [
        ({"own": [0] * 10}, (0, 0, 0.2775)),  # Wilson's interval of 0 of 10, as its formula and tables have it
        ({"own": [1] * 10}, (1, 0.7225, 1)),
        ({"own": [1]}, (1, 0.2065, 1)),
        ({"own": [1, 1, math.nan]}, (1, 0.3424, 1)),  # a question to which the metric does not apply is none
        ({"own": [0.5] * 4}, (0.5, 0.2551, 0.7449)),  # 3.8415 / 7.8415 of all may differ, by a half either way
        ({"coverage": [1] * 10}, (1, 0.7225, 1)),
        ({"visual_tokens": [16] * 10}, (16, 16, 16)),  # no share
    ],
)
def test_where_all_images_agree_the_interval_of_a_share_is_wilsons(values, interval):
    [metric] = values
    for resamples in (1, 200):
        assert made(values).interval(metric, resamples) == pytest.approx(interval, abs=1e-4)


def test_where_no_answer_changes_a_difference_may_still_be_one():
    outcome = made({"own": [1] * 10, "noise": [1] * 10, "tool_free": [0] * 10})
    assert outcome.interval("D_noise") == pytest.approx((0, -0.2775, 0.2775), abs=1e-4)
    assert outcome.interval("tool_effect") == pytest.approx((1, 1 - 2 * 0.2775, 1), abs=1e-4)
    assert outcome.interval("own", before=made({"own": [0] * 10})) == pytest.approx((1, 1 - 2 * 0.2775, 1), abs=1e-4)
    change = outcome.interval("D_noise", before=outcome)  # of a difference in [-1, 1] by at most 2
    assert change == pytest.approx((0, -2 * 0.2775, 2 * 0.2775), abs=1e-4)


def test_shares_with_a_spread_keep_their_bootstrap():
    values, groups = [1.0] * 7 + [0.0] * 3, range(10)
    assert bootstrap(values, groups, 500, bounds=(0.0, 1.0)) == bootstrap(values, groups, 500)


# ---------------------------------------------------------------------------------------------------- MED: gain and harm


def made(columns: dict[str, Sequence[float]], view_tokens: int = 16) -> Outcome:
    """An outcome with these columns; all others do not apply."""
    n = len(next(iter(columns.values())))
    values = {metric: list(map(float, columns.get(metric, [NAN] * n))) for metric in METRICS}
    return Outcome(view_tokens, [f"image {i}" for i in range(n)], values)


def of_rows(rows: Sequence[tuple[float, float, float]], view_tokens: int = 16) -> Outcome:
    """`rows`: right without the tool, right with it, called it."""
    without, own, called = zip(*rows, strict=True)
    gain = [o * (1 - w) for w, o, _ in rows]
    harm = [(1 - o) * w for w, o, _ in rows]
    return made({"tool_free": without, "own": own, "called": called, "gain": gain, "harm": harm}, view_tokens)


# Six wrong without the tool: of four that call three become right, of two that don't one does. Four right: of three that call one errs
TEN = [(0, 1, 1)] * 3 + [(0, 0, 1)] + [(0, 1, 0)] + [(0, 0, 0)] + [(1, 0, 1)] + [(1, 1, 1)] * 2 + [(1, 1, 0)]


def test_gain_and_harm_of_ten_questions_are_decomposed_as_by_hand():
    found = decompose_tool_effect(of_rows(TEN))
    assert found["gain"] == pytest.approx({"total": 0.4, "mass": 0.6, "policy": 4 / 6, "quality": 3 / 4, "schema": 0.1})
    assert found["harm"] == pytest.approx({"total": 0.1, "mass": 0.4, "policy": 3 / 4, "quality": 1 / 3, "schema": 0.0})
    assert found["gain"]["total"] - found["harm"]["total"] == pytest.approx(0.7 - 0.4)


bit = st.integers(0, 1)


@given(st.lists(st.tuples(bit, bit, bit), min_size=1, max_size=30))
@hypothesis_settings(max_examples=60, deadline=None)
def test_the_factors_multiply_to_the_total_and_gain_minus_harm_is_what_the_tool_changes(rows):
    outcome = of_rows(rows)
    found = decompose_tool_effect(outcome)
    for name, part in found.items():
        factors = [part[factor] for factor in ("mass", "policy", "quality")]
        product = 0.0 if any(map(math.isnan, factors)) else math.prod(factors)  # a factor without a question: nobody there
        assert product + part["schema"] == pytest.approx(part["total"])
        assert part["total"] == pytest.approx(outcome.interval(name, 1)[0])
    assert found["gain"]["total"] - found["harm"]["total"] == pytest.approx(outcome.interval("tool_effect", 1)[0])


def test_the_parts_of_the_hand_worked_questions_are_those_of_the_measurement(seven):
    # wrong without: 0, 1, 5, 6, all call, two become right. Right: 2, 3 call and one errs; 4 answers at once
    found = decompose_tool_effect(seven)
    assert found["gain"] == pytest.approx({"total": 2 / 7, "mass": 4 / 7, "policy": 1.0, "quality": 2 / 4, "schema": 0.0})
    assert found["harm"] == pytest.approx({"total": 1 / 7, "mass": 3 / 7, "policy": 2 / 3, "quality": 1 / 2, "schema": 0.0})


def test_without_a_question_a_factor_is_not_a_number_rather_than_zero():
    gain = decompose_tool_effect(of_rows([(0, 0, 0), (1, 1, 1)]))["gain"]
    assert math.isnan(gain["quality"]) and gain["policy"] == 0 and gain["total"] == 0
    assert all(math.isnan(value) for value in decompose_tool_effect(made({"own": [1.0, 0.0], "called": [1.0, 1.0]}))["harm"].values())


# ---------------------------------------------------------------------------------------------------- what is kept of it


def test_outcomes_are_kept_with_their_gaps_and_only_for_whom_they_were_measured(seven, tmp_path):
    path = tmp_path / "outcomes.json"
    assert load_outcomes(path, "a") == {}
    save_outcomes({"16": seven}, path, "a")
    again = load_outcomes(path, "a")["16"]
    assert all(equal(again.of(metric), seven.of(metric)) for metric in METRICS)
    assert (again.groups, again.unannotated, again.view_tokens) == (seven.groups, seven.unannotated, 16)
    assert load_outcomes(path, "b") == {} and set(load_outcomes(path)) == {"16"}
    assert [file.name for file in tmp_path.iterdir()] == ["outcomes.json"]
    path.write_text(path.read_text()[:100])
    with pytest.raises(ValueError, match=r"outcomes\.json is damaged \(.*\); copy it back, or remove it"):
        load_outcomes(path, "a")


# -------------------------------------------------------------------------------------------------- the table and figure


def labels(outcomes: dict[str, Outcome]) -> dict[str, list[float]]:
    return {row.metric: [cell.mean for cell in row.cells] for row in probe_table("a policy", outcomes, 20, 1.0).rows}


def test_the_table_has_no_row_for_an_arm_that_was_not_played():
    rows = labels({"16": made({"own": [1, 0], "noise": [0, 0], "called": [1, 1]})})
    assert rows == {
        "accuracy, own crop": [50.0],
        "accuracy, noise crop": [0.0],
        "D_noise, own - noise": [50.0],
        "crop rate": [100.0],
    }


def test_the_table_shows_every_arm_that_was_played_in_a_column_for_every_view(seven):
    rows = labels({"16": seven, "64": of_rows(TEN, 64)})
    shown = {metric for metric in (*METRICS, *DIFFERENCES, *GIVEN) if metric in {row[2] for row in report.TABLE}}
    of_two = {"noise_first", "noise_second", "D_first", "D_second", "called_twice"}  # nobody made two crops
    assert set(ARMS) <= shown and len(rows) == len(shown - {"answered", *SAYS, *of_two}) + 8
    assert rows["accuracy, forced crop"] == pytest.approx([300 / 7, NAN], nan_ok=True)
    assert rows["accuracy, tool-free"] == pytest.approx([300 / 7, 40.0])
    assert rows["MED gain: policy"] == pytest.approx([100.0, 400 / 6])
    assert rows["MED harm: quality"] == pytest.approx([50.0, 100 / 3])


def test_the_table_says_how_many_questions_were_asked_and_what_could_not_be_read():
    outcome = made({"own": [1, 0]})
    assert probe_table("p", {"16": outcome}, 20, 0.5).notes == ("2 held-out questions, 95 % intervals over images; temperature 0.5",)
    notes = probe_table("p", {"16": replace(outcome, broken=["image x.png does not exist"])}, 20, 0.5).notes
    assert notes[1] == "1 questions could not be read and count as wrong: image x.png does not exist"


def test_the_figure_shows_only_arms_that_were_played(seven, tmp_path, monkeypatch):
    drawn = []

    class Kept(Figure):
        def savefig(self, *args, **rest):
            drawn.append([[label.get_text() for label in axis.get_yticklabels()] for axis in self.axes])
            super().savefig(*args, **rest)

    monkeypatch.setattr(report, "Figure", Kept)
    draw_probe({"16": made({"own": [1, 0], "noise": [0, 0], "called": [1, 1]})}, tmp_path / "few.png", 20)
    draw_probe({"16": seven, "64": of_rows(TEN, 64)}, tmp_path / "all.png", 20)
    assert drawn[0] == [["own crop", "noise crop"], ["D_noise, own - noise", "crop rate"]]
    assert [len(each) for each in drawn[1]] == [len(ARMS), 6 + 5]  # nobody played conflict
    with Image.open(tmp_path / "all.png") as image:
        assert min(image.size) > 300


def test_a_figure_of_few_resamples_can_be_drawn(tmp_path):
    draw_probe({"16": made({"own": [1, 0, 1]})}, tmp_path / "probe.png", 1)
