"""Stage 2 without boxes: what the crop alone tells, the cost of its area, and what does not pay."""

import pytest

from focus.data.boxes import settle, to_view
from focus.data.scenes import DIFFICULTY, Scene
from focus.gap import Gap, Mode
from focus.model import loading
from focus.model.policy_model import PolicyModel
from focus.model.prompts import ANSWER_OPEN, call_text, encode
from focus.rewards import Accuracy, Area, CropOnly, InformationGain, Tool, score
from focus.rewards.terms import area_share
from focus.rollout.engine import Request, Sampling
from focus.rollout.kv import KVEngine
from focus.rollout.loop import RolloutLimits, begin, replay
from focus.rollout.trajectory import Crop, Trajectory
from tests.support.scripted import call, playing
from tests.support.trajectories import ANNOTATED, says, trajectory, zooms

BLUE = "<answer>blue</answer><|im_end|>"
LIMITS = RolloutLimits(2, 64, Sampling(1.0, 60))


class Weighs:
    """An engine that weighs every label alike and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def logprobs(self, requests, tails):
        self.asked += requests
        return [[-0.25] * tail for tail in tails]


def asked_of(policy: PolicyModel, *trajectories: Trajectory) -> tuple[list[float], list[Request]]:
    engine, term = Weighs(), CropOnly(1.0, reader="policy")
    term.attach(policy, engine, LIMITS)
    return term.score(trajectories), engine.asked


def test_the_label_is_weighed_after_the_crops_alone(qwen3_vl):
    t = playing(qwen3_vl, call(100, 100, 400, 400), call(2000, 2000, 3000, 3000), call(500, 500, 900, 900), BLUE, max_crops=3)
    assert len(t.crops) == 2
    [value], [asked] = asked_of(qwen3_vl, t)
    assert value == pytest.approx(0.7788, abs=1e-4)  # the mean of the logarithms is -0.25
    assert asked.images[0].size == t.view.size and asked.images[0].getcolors() == [(t.view.size[0] * t.view.size[1], (128, 128, 128))]
    assert [image.tobytes() for image in asked.images[1:]] == [image.tobytes() for image in t.images[1:]]
    first, _, last, _ = t.turns
    label = encode(qwen3_vl.tokenizer, ANSWER_OPEN + t.sample.answers[0])
    calls = [[*encode(qwen3_vl.tokenizer, call_text(turn.action.box_view)), *turn.observation.ids] for turn in (first, last)]
    assert list(asked.ids) == [*t.prompt_ids, *calls[0], *calls[1], *label]
    assert asked.parent is None and asked.prompt != f"prompt {t.group}"  # no cache of the real view is read


def test_words_about_the_view_pay_nothing(qwen3_vl):
    plain = playing(qwen3_vl, call(100, 100, 400, 400), BLUE)
    telling = playing(qwen3_vl, "The sign says 42. " + call(100, 100, 400, 400), BLUE)
    assert isinstance(telling.turns[0].action, Crop)
    (_, [a]), (_, [b]) = asked_of(qwen3_vl, plain), asked_of(qwen3_vl, telling)
    assert a.ids == b.ids


def test_without_a_delivered_crop_nothing_is_paid(qwen3_vl):
    values, asked = asked_of(qwen3_vl, *(playing(qwen3_vl, *script, BLUE) for script in ([], [call(2000, 2000, 3000, 3000)])))
    assert values == [0.0, 0.0] and asked == []


def test_the_area_of_all_crops_is_summed_over_the_image():
    assert area_share([(0.0, 0.0, 500.0, 200.0), (0.0, 0.0, 500.0, 200.0)], (1000, 1000)) == pytest.approx(0.2)
    image = (0.0, 0.0, 1000.0, 1000.0)
    assert Area(-1.0).score([trajectory(says("42"), sample=ANNOTATED), trajectory(zooms(image), zooms(image), sample=ANNOTATED)]) == [0, 2]


def test_of_right_answers_the_smaller_crop_earns_more_and_wrong_ones_pay_no_area():
    terms = [Accuracy(0.8), Tool(1.2, gate="accuracy"), Area(-1.0, gate="accuracy")]
    small, large = zooms((0.0, 0.0, 200.0, 200.0)), zooms((0.0, 0.0, 500.0, 500.0))
    played = [trajectory(crop, says(answer), sample=ANNOTATED) for crop in (small, large) for answer in ("42", "43")]
    assert score(terms, played).total == pytest.approx([1.96, 0.0, 1.75, 0.0])
    assert score(terms, [trajectory(says("42"), sample=ANNOTATED)]).total == pytest.approx([0.8])  # not to look earns less than to look


# ----------------------------------------------------------------------------------------- the embedded policy on two scenes


@pytest.fixture(scope="module")
def shown() -> tuple[PolicyModel, dict[str, list[Trajectory]]]:
    """The embedded policy, and calls that are put into its mouth: of the sign, of a corner without it, and of nearly the whole image."""
    policy = loading.load_model(loading.EMBEDDED, "tiny")
    gap, made = Gap(Mode.FIXED, 256, policy.token_px), {"sign": [], "corner": [], "image": []}
    for index in range(2):
        scene = Scene(DIFFICULTY[1], "eval", index)
        sample = scene.sample()
        view, source = gap.view_of(sample, scene.open())
        x = 0.0 if sample.boxes[0][-1][0] > 224 else 358.0
        boxes = {"sign": sample.boxes[0][1], "corner": (x, 358.0, x + 90, 448.0), "image": (0.0, 0.0, 437.0, 437.0)}
        for name, box in boxes.items():
            box_px = settle(box, sample.size, policy.token_px)
            ids = encode(policy.tokenizer, call_text(to_view(box_px, policy.dialect.frame, view.size, sample.size)))
            opened = begin(policy, sample, view, source, [0])
            made[name] += replay(policy, opened, {0: [(ids, [0.0] * len(ids))]}, LIMITS, policy.stop_ids)
    return policy, made


def paid(shown, term) -> dict[str, float]:
    policy, made = shown
    term.attach(policy, KVEngine(policy), LIMITS)
    return {name: sum(term.score(played)) / len(played) for name, played in made.items()}


def test_the_sign_tells_a_frozen_reader_the_answer_alone_and_a_corner_does_not(shown):
    values = paid(shown, CropOnly(1.0))
    assert values["sign"] > 0.7 and values["corner"] < 0.25


def test_the_information_gain_pays_neither_an_empty_corner_nor_nearly_the_whole_image_at_a_readable_view(shown):
    values = paid(shown, InformationGain(1.0))
    assert values["corner"] < 0.01 and values["image"] < max(0.02, values["sign"])
