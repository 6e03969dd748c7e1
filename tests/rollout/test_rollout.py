"""What the crop loop does with what a policy says."""

import pytest
from PIL import ImageChops

from focus.gap import Mode
from focus.model.policy_model import PolicyModel
from focus.model.prompts import Answer, Fault, Malformed
from focus.rollout.trajectory import Crop, Status
from tests.support.scripted import call, playing

BLUE = "<answer>blue</answer><|im_end|>"


@pytest.fixture(params=("qwen2_5_vl", "qwen3_vl"))
def policy(request) -> PolicyModel:
    """The families whose tokens are 28 px here and whose calls are JSON; Qwen3.5's calls are in tests/model/test_dialects.py."""
    return request.getfixturevalue(request.param)


def test_a_call_is_answered_with_a_crop_of_the_original_at_native_pixels(qwen3_vl: PolicyModel):
    t = playing(qwen3_vl, call(250, 500, 500, 750), BLUE)  # per mille of 448 px
    assert t.turns[0].action == Crop((250, 500, 500, 750), (112, 224, 224, 336))
    crop = t.turns[0].observation.crop
    assert crop.size == (112, 112) and crop.tokens == 16
    assert ImageChops.difference(crop.image, t.sample.open().region((112, 224, 224, 336))).getbbox() is None
    assert t.status is Status.ANSWERED and t.answer == "blue"


def test_an_absolute_box_is_in_pixels_of_the_view_that_the_model_saw(qwen2_5_vl: PolicyModel):
    t = playing(qwen2_5_vl, call(28, 56, 56, 84), BLUE)  # the view is 112 px of 448
    assert t.view.size == (112, 112)
    assert t.turns[0].action.box_px == (112, 224, 224, 336)


def test_a_crop_outside_the_image_is_an_invalid_call_not_a_wrong_answer(policy: PolicyModel):
    t = playing(policy, call(1100, 1100, 1200, 1200), BLUE)
    assert t.turns[0].action == Malformed(Fault.OUTSIDE)
    assert t.turns[0].observation.crop is None and t.crops == []
    assert t.answer == "blue"  # the conversation went on


@pytest.mark.parametrize(
    "bad, fault",
    [
        ("<tool_call>{</tool_call>", Fault.NOT_JSON),
        ('<tool_call>{"name":"image_zoom_in_tool","arguments":{"bbox_2d":[1,2,3]}}</tool_call>', Fault.NO_BOX),
        ('<tool_call>{"name":"rm","arguments":{}}</tool_call>', Fault.UNKNOWN_TOOL),
    ],
)
def test_a_malformed_call_gets_an_error_and_may_be_corrected(policy: PolicyModel, bad, fault):
    t = playing(policy, bad, call(0, 0, 50, 50), BLUE, max_crops=2)
    assert t.turns[0].action == Malformed(fault)
    assert str(fault) in policy.tokenizer.decode(t.turns[0].observation.ids)
    assert len(t.crops) == 1 and t.answer == "blue"


def test_words_without_an_action_end_the_conversation_as_malformed(policy: PolicyModel):
    t = playing(policy, "the sign is blue<|im_end|>")
    assert t.status is Status.MALFORMED and t.answer is None and len(t.turns) == 1


def test_a_turn_cut_by_the_token_limit_is_truncation_not_a_malformed_answer(policy: PolicyModel):
    t = playing(policy, "<answer>" + "blue " * 50, tokens_per_turn=10)
    assert t.status is Status.OUT_OF_TOKENS and t.answer is None


def test_the_answer_turn_counts_so_one_crop_means_two_turns(policy: PolicyModel):
    t = playing(policy, call(0, 0, 50, 50), call(0, 0, 60, 60), BLUE, max_crops=1)
    assert t.status is Status.OUT_OF_TURNS
    assert t.turns[1].action == Malformed(Fault.NO_CROPS_LEFT) and len(t.crops) == 1


def test_without_crops_the_first_turn_must_answer(policy: PolicyModel):
    assert playing(policy, call(0, 0, 50, 50), max_crops=0).status is Status.OUT_OF_TURNS
    assert playing(policy, BLUE, max_crops=0).status is Status.ANSWERED


def test_several_crops_are_delivered_one_after_the_other(policy: PolicyModel):
    t = playing(policy, call(0, 0, 50, 50), call(10, 10, 80, 80), call(20, 20, 90, 90), BLUE, max_crops=3)
    assert len(t.crops) == 3 and t.status is Status.ANSWERED and len(t.images) == 4


def test_observation_and_prompt_tokens_are_never_trainable(policy: PolicyModel):
    t = playing(policy, call(0, 0, 50, 50), call(10, 10, 80, 80), BLUE, max_crops=2)
    assert sum(t.sampled_mask) == sum(len(turn.ids) for turn in t.turns) == len(t.sampler_logprobs)
    assert len(t.sampled_mask) == len(t.ids)
    sampled = [i for i, m in zip(t.ids, t.sampled_mask, strict=True) if m]
    assert sampled == [i for turn in t.turns for i in turn.ids]
    assert policy.image_pad_id not in sampled
    assert not any(t.sampled_mask[: len(t.prompt_ids)])


def test_placeholders_equal_features_in_every_conversation(policy: PolicyModel):
    t = playing(policy, call(0, 0, 50, 50), call(10, 10, 80, 80), BLUE, max_crops=2)
    assert t.ids.count(policy.image_pad_id) == t.visual_tokens == int(policy.pack(t.images).grids.prod(1).sum()) // 4


def test_a_crop_costs_tokens_by_its_area_up_to_its_budget(qwen3_vl: PolicyModel):
    tokens = [playing(qwen3_vl, call(0, 0, side, side), BLUE).turns[0].observation.crop.tokens for side in (50, 125, 250, 500, 1000)]
    assert tokens == [1, 4, 16, 64, 64]  # 28, 56, 112, 224 and 448 px; the last one is cut to the budget


def test_without_a_gap_the_view_is_as_sharp_as_what_crops_are_cut_from(policy: PolicyModel):
    t = playing(policy, call(0, 0, 10, 10), BLUE, gap=Mode.OFF, view_tokens=16384)
    assert t.view.size == t.source.size == (448, 448)
    small = playing(policy, call(0, 0, 10, 10), BLUE, gap=Mode.OFF, view_tokens=64)
    assert small.view.size == small.source.size == (224, 224)  # a model that takes less than the original crops from what it takes


def test_with_a_gap_crops_come_from_the_original(policy: PolicyModel):
    t = playing(policy, call(0, 0, 10, 10), BLUE, view_tokens=16)
    assert t.view.size == (112, 112) and t.source.size == (448, 448)


def test_a_stop_that_the_model_wrote_is_not_written_twice(policy: PolicyModel):
    end = policy.tokenizer.convert_tokens_to_ids("<|im_end|>")
    at_call = playing(policy, call(0, 0, 50, 50), BLUE)
    after_end = playing(policy, call(0, 0, 50, 50) + "<|im_end|>", BLUE)
    assert at_call.turns[0].observation.ids[0] == end
    assert after_end.turns[0].observation.ids[0] != end
    assert at_call.ids == after_end.ids


def test_an_answer_and_a_call_in_one_turn_is_neither(policy: PolicyModel):
    t = playing(policy, "<answer>7</answer>" + call(0, 0, 50, 50), BLUE)
    assert t.turns[0].action == Malformed(Fault.CALL_AND_ANSWER) and t.crops == []
    assert t.answer == "blue"


def test_the_last_action_is_the_answer(policy: PolicyModel):
    t = playing(policy, call(0, 0, 50, 50), BLUE)
    assert t.turns[-1].action == Answer("blue")
