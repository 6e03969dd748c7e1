"""Substitutes for a crop (E10): their pixels, the annotated crop, a crop from elsewhere, and what stays."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from focus.data.boxes import Box, Frame, area, intersection, settle
from focus.data.sample import Sample
from focus.gap import Mode, View, cut
from focus.model.policy_model import PolicyModel
from focus.model.prompts import UNAVAILABLE, Fault, Malformed
from focus.rollout.engine import Completion, Sampling
from focus.rollout.kv import KVEngine
from focus.rollout.loop import RolloutLimits, play, reopen
from focus.rollout.substitutes import GREY, additive, annotated, blank, elsewhere, mean_colour, noise, nothing
from focus.rollout.trajectory import Crop, Status, Trajectory
from tests.support.probing import ASKED, B1, BLUE, IN_PLACE, LIMITS, OUTSIDE, TOKEN_PX, asked_about, before, pixels, random_crop, view_of
from tests.support.reference import plain_logprobs
from tests.support.scripted import Scripted, call, playing

# --------------------------------------------------------------------------------------------- what stands in for a crop


@pytest.mark.parametrize("name", IN_PLACE)
def test_a_substitute_of_pixels_keeps_the_size_and_the_token_count_and_is_fixed_by_the_seed(name):
    crop, alter = random_crop(), IN_PLACE[name]
    shown = alter(crop, ASKED, before(asked_about(1)))
    assert (shown.size, shown.tokens, shown.original_size) == ((84, 56), 6, (448, 448))
    assert shown.image.mode == "RGB" and (pixels(shown) != pixels(crop)).any()
    assert (pixels(shown) == pixels(alter(crop, ASKED, before(asked_about(1))))).all()


@pytest.mark.parametrize("name", ["noise", "additive"])
def test_random_pixels_differ_between_seeds_and_between_the_crops_of_one_conversation(name, qwen3_vl: PolicyModel):
    spoken = playing(qwen3_vl, call(0, 0, 400, 400), BLUE)
    first = replace(spoken, turns=())
    second = replace(spoken, turns=spoken.turns[:1])
    shown = [pixels(IN_PLACE[name](random_crop(), ASKED, t)) for t in (first, second, replace(first, seed=1))]
    assert all((shown[i] != shown[j]).any() for i, j in ((0, 1), (0, 2), (1, 2)))


def test_noise_is_uniform_over_all_256_values_and_keeps_nothing_of_the_crop():
    large = view_of(np.zeros((560, 560, 3)))
    made = pixels(noise(large, ASKED, before(asked_about(1))))
    counts = np.bincount(made.ravel(), minlength=256)  # 940,800 values: 3,675 of each, standard deviation 61
    assert abs(counts - 3675).max() < 6 * 61
    assert abs(float(np.corrcoef(made[:, :, 0].ravel(), made[:, :, 1].ravel())[0, 1])) < 0.01
    other = pixels(noise(view_of(np.full((560, 560, 3), 255)), ASKED, before(asked_about(1))))
    assert (made == other).all()


def test_a_blank_crop_is_mid_grey_everywhere():
    assert GREY == 128
    assert (pixels(blank(random_crop(), ASKED, before(asked_about(1)))) == 128).all()


def test_the_mean_colour_of_a_crop_of_two_colours_is_their_weighted_mean():
    # a quarter (200, 0, 10), three quarters (100, 40, 50): 125, 30, 40
    values = np.full((56, 84, 3), (100, 40, 50))
    values[:, :21] = (200, 0, 10)
    assert set(map(tuple, pixels(mean_colour(view_of(values), ASKED, before(asked_about(1)))).reshape(-1, 3).tolist())) == {(125, 30, 40)}


def test_additive_noise_of_sigma_0_changes_nothing():
    crop = random_crop()
    assert (pixels(additive(0.0)(crop, ASKED, before(asked_about(1)))) == pixels(crop)).all()


def test_additive_noise_has_the_asked_deviation_no_bias_and_is_clipped_rather_than_wrapped():
    t = before(asked_about(1))
    middle = pixels(additive(10.0)(view_of(np.full((280, 280, 3), 128)), ASKED, t)).astype(float) - 128
    assert middle.std() == pytest.approx(10.0, abs=0.2) and abs(middle.mean()) < 0.2
    white = pixels(additive(10.0)(view_of(np.full((280, 280, 3), 255)), ASKED, t))
    assert white.min() > 190 and (white == 255).mean() > 0.4


def test_a_call_without_its_use_shows_no_image_and_no_visual_tokens_only_that_the_tool_is_unavailable(policy: PolicyModel):
    t = playing(policy, call(0, 0, 50, 50), BLUE)
    again = reopen(policy, t, nothing)
    observed = again.turns[0].observation
    said = policy.tokenizer.decode(observed.ids)
    assert observed.crop is None and policy.image_pad_id not in observed.ids
    assert "Error: the tool is unavailable. No image." in said
    assert again.visual_tokens == t.view.tokens and again.images == [t.view.image]
    assert again.turns[0].ids == t.turns[0].ids


# ---------------------------------------------------------------------------------------------------- the annotated crop


def coloured(side: int = 448) -> Image.Image:
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (side, side, 3), dtype=np.uint8))


def same(a: Image.Image, b: Image.Image) -> bool:
    return a.size == b.size and bool((np.asarray(a) == np.asarray(b)).all())


@pytest.mark.parametrize("box_px", [(0.0, 0.0, 448.0, 448.0), (300.0, 300.0, 330.0, 340.0)])
def test_the_annotated_crop_shows_b1_grown_to_the_least_side_whatever_was_asked(box_px):
    image = coloured()
    small = (100.0, 100.0, 110.0, 106.0)  # 10 x 6 px: 9 px to the left and right, 11 above and below
    sample = asked_about(1, boxes=((small, (50.0, 50.0, 200.0, 200.0)),), side=448)
    t = before(sample, source=image)
    asked = Crop(box_px, box_px)
    delivered = cut(t.source, box_px, sample.size, 64, TOKEN_PX)
    shown = annotated(LIMITS, TOKEN_PX)(delivered, asked, t)
    assert settle(small, sample.size, TOKEN_PX) == (91, 89, 119, 117)
    assert same(shown.image, image.crop((91, 89, 119, 117))) and shown.tokens == 1


def test_a_large_annotated_box_is_cut_and_sized_like_any_other_crop():
    image, target = coloured(), (10.0, 20.0, 310.0, 380.0)
    sample = asked_about(1, boxes=((target,),), side=448)
    t = before(sample, source=image)
    for limits in (LIMITS, replace(LIMITS, crop_tokens=16), replace(LIMITS, fixed_crops=True)):
        expected = cut(t.source, target, sample.size, limits.crop_tokens, TOKEN_PX, limits.fixed_crops)
        shown = annotated(limits, TOKEN_PX)(random_crop(), ASKED, t)
        assert same(shown.image, expected.image) and shown.tokens == expected.tokens


def test_the_nth_crop_shows_the_nth_target_and_then_the_first_again(qwen3_vl: PolicyModel):
    targets = ((0.0, 0.0, 56.0, 28.0), (112.0, 112.0, 140.0, 168.0))
    t = playing(qwen3_vl, call(0, 0, 500, 500), OUTSIDE, call(0, 0, 600, 600), call(0, 0, 700, 700), BLUE, max_crops=4)
    t = replace(t, sample=replace(t.sample, boxes=tuple((box,) for box in targets)))
    shown = [crop for turn in reopen(qwen3_vl, t, annotated(LIMITS, TOKEN_PX)).turns if (crop := turn.observation.crop)]
    expected = [t.source.region(targets[i]) for i in (0, 1, 0)]  # the call that got an error counts for none
    assert all(same(view.image, region) for view, region in zip(shown, expected, strict=True))


def test_with_the_gap_off_the_annotated_crop_is_cut_from_the_view(qwen3_vl: PolicyModel):
    t = playing(qwen3_vl, call(0, 0, 500, 500), BLUE, gap=Mode.OFF)  # the view: 112 of 448 px
    t = replace(t, sample=replace(t.sample, boxes=(((112.0, 112.0, 224.0, 336.0),),)))
    [turn] = reopen(qwen3_vl, t, annotated(LIMITS, TOKEN_PX)).turns
    assert same(turn.observation.crop.image, t.view.image.crop((28, 28, 56, 84)))


def test_an_annotated_crop_of_another_size_is_replayed_with_as_many_placeholders_as_features(policy: PolicyModel):
    small = policy.dialect.frame is Frame.VIEW_PIXELS
    t = playing(policy, call(0, 0, 100, 100) if small else call(0, 0, 900, 900), BLUE)
    alter = annotated(LIMITS, policy.token_px)
    again = reopen(policy, t, alter)
    own, other = t.turns[0].observation.crop, again.turns[0].observation.crop
    assert own.tokens > other.tokens > 0  # 64 against those of a sign's text
    [played] = play(policy, KVEngine(policy), [again], RolloutLimits(1, 64, Sampling(1.0, 5)))
    assert played.ids.count(policy.image_pad_id) == sum(len(f.tokens) for f in policy.encode_images(played.images)) == 16 + other.tokens
    with torch.no_grad():
        assert torch.allclose(
            plain_logprobs(policy, played)[len(t.turns[0].ids) :], torch.tensor(played.turns[1].sampler_logprobs), atol=2e-5
        )


# ---------------------------------------------------------------------------------------------------- from another place


@dataclass(frozen=True)
class Noted(RolloutLimits):
    """Rules that note which box is cut."""

    cuts: list[Box] = field(default_factory=list)

    def cut(self, trajectory: Trajectory, box_px: Box, token_px: int) -> View:
        self.cuts.append(box_px)
        return random_crop()


def moved(box_px: Box, sample: Sample, seed: int = 0, draw: int = 0) -> Box:
    """Where `elsewhere` cuts for this box."""
    limits = Noted(1, 64, Sampling(1.0, 10))
    elsewhere(limits, TOKEN_PX, draw)(random_crop(), Crop(box_px, box_px), before(sample, seed))
    return limits.cuts[0]


def box_within(side: int, least: int, most: int) -> st.SearchStrategy[Box]:
    def placed(size: tuple[int, int]) -> st.SearchStrategy[Box]:
        w, h = size
        corner = st.tuples(st.integers(0, side - w), st.integers(0, side - h))
        return corner.map(lambda at: (float(at[0]), float(at[1]), float(at[0] + w), float(at[1] + h)))

    return st.tuples(st.integers(least, most), st.integers(least, most)).flatmap(placed)


@given(box_px=box_within(448, 28, 448), target=box_within(448, 4, 448), seed=st.integers(0, 2**62))
@hypothesis_settings(max_examples=60, deadline=None)
def test_a_crop_from_elsewhere_has_the_asked_size_and_lies_on_whole_pixels_of_the_image(box_px, target, seed):
    place = moved(box_px, asked_about(1, boxes=((target,),), side=448), seed)
    assert (place[2] - place[0], place[3] - place[1]) == (box_px[2] - box_px[0], box_px[3] - box_px[1])
    assert intersection(place, (0.0, 0.0, 448.0, 448.0)) == place
    assert all(value == int(value) for value in place)


# Room: of all places at most 167^2 / 365^2 = 21 % meet the asked box and 153^2 / 365^2 = 18 % each target; all 64 tries meet with 1e-16
@given(box_px=box_within(448, 28, 84), targets=st.lists(box_within(448, 4, 70), min_size=0, max_size=2), seed=st.integers(0, 2**62))
@hypothesis_settings(max_examples=100, deadline=None)
def test_a_crop_from_elsewhere_shows_neither_the_asked_box_nor_any_b1_where_there_is_room(box_px, targets, seed):
    place = moved(box_px, asked_about(1, boxes=tuple((target,) for target in targets), side=448), seed)
    assert [area(intersection(place, box)) for box in (box_px, *targets)] == [0.0] * (1 + len(targets))


def test_where_there_is_no_room_a_crop_from_elsewhere_shows_as_little_as_it_can():
    # 300 of 448 px: any two overlap in at least 152 x 152 px; in a far corner, that is a quarter of the box
    box_px = (0.0, 0.0, 300.0, 300.0)
    place = moved(box_px, asked_about(1, boxes=(), side=448))
    assert area(intersection(place, box_px)) / area(box_px) < 0.4


def test_a_box_as_large_as_the_image_has_no_elsewhere_and_stays():
    assert moved((0.0, 0.0, 448.0, 448.0), asked_about(1, side=448)) == (0.0, 0.0, 448.0, 448.0)


def test_elsewhere_is_fixed_by_the_seed_and_another_place_for_another_seed_or_draw():
    sample = asked_about(1, side=448)
    places = [moved(B1, sample, seed, draw) for seed, draw in ((0, 0), (1, 0), (0, 1))]
    assert len(set(places)) == 3
    assert moved(B1, sample) == places[0]


def test_a_crop_from_elsewhere_is_cut_from_the_original_and_sized_like_the_one_that_was_asked_for():
    image = coloured()
    box_px, sample = (28.0, 56.0, 140.0, 112.0), asked_about(1, side=448)
    place = moved(box_px, sample, seed=5)
    shown = elsewhere(LIMITS, TOKEN_PX)(random_crop(), Crop(box_px, box_px), before(sample, 5, image))
    assert same(shown.image, image.crop(tuple(map(int, place)))) and shown.size == (112, 56) and shown.tokens == 8


# ----------------------------------------------------------------------------------------------------- what stays: words


class Spelled(Scripted):
    """Speaks like `Scripted`, but letter by letter: ids that no tokenizer would write."""

    def generate(self, requests, sampling):
        for request, completion in super().generate(requests, sampling):
            text = self.policy.tokenizer.decode(completion.ids)
            ids = tuple(id for letter in text for id in self.policy.tokenizer.encode(letter, add_special_tokens=False))
            yield request, Completion(ids, (-0.5,) * len(ids), completion.stopped)


def test_the_policys_words_stay_id_for_id_and_only_the_crop_changes(policy: PolicyModel):
    plain = replace(playing(policy, call(0, 0, 50, 50), BLUE), turns=(), status=Status.OPEN)
    [t] = play(policy, Spelled(policy, call(0, 0, 50, 50), BLUE), [plain], LIMITS)
    assert len(t.crops) == 1 and list(t.turns[0].ids) != policy.tokenizer.encode(t.turns[0].text, add_special_tokens=False)
    again = reopen(policy, t, noise)
    assert again.status is Status.OPEN and len(again.turns) == 1  # the answer is to be given anew
    assert again.ids == t.ids[: len(again.ids)] and again.sampled_mask == t.sampled_mask[: len(again.ids)]
    assert again.turns[0].sampler_logprobs == t.turns[0].sampler_logprobs and again.turns[0].action == t.turns[0].action
    assert again.images[0] is t.images[0] and not same(again.images[1], t.images[1])
    assert (again.seed, again.prompt_ids) == (t.seed, t.prompt_ids)


def test_crops_that_a_replayed_policy_still_asks_for_are_replaced_too(policy: PolicyModel):
    """It answered after one crop; shown noise, it asks for a second one."""
    t = playing(policy, call(0, 0, 50, 50), BLUE, max_crops=2)
    limits = replace(LIMITS, max_crops=2)
    for alter, grey in ((blank, True), (noise, False)):
        [again] = play(policy, Scripted(policy, "", call(10, 10, 80, 80), BLUE), [reopen(policy, t, alter)], limits)
        assert len(again.crops) == 2 and again.answer == "blue"
        assert again.turns[0].ids == t.turns[0].ids
        assert [set(image.getdata()) == {(128, 128, 128)} for image in again.images] == [False, grey, grey]
        unaltered = again.source.region(again.crops[1].box_px)
        assert not same(again.images[2], unaltered.resize(again.images[2].size))
    [told] = play(policy, Scripted(policy, "", call(10, 10, 80, 80), BLUE), [reopen(policy, t, nothing)], limits)
    assert told.images == [t.view.image]
    assert [UNAVAILABLE in policy.tokenizer.decode(turn.observation.ids) for turn in told.turns[:2]] == [True, True]


def test_an_observation_that_was_an_error_stays(policy: PolicyModel):
    t = playing(policy, OUTSIDE, call(0, 0, 50, 50), BLUE, max_crops=2)
    assert t.turns[0].action == Malformed(Fault.OUTSIDE) and len(t.crops) == 1
    again = reopen(policy, t, nothing)
    assert again.turns[0] == t.turns[0]
    assert UNAVAILABLE not in policy.tokenizer.decode(again.turns[0].observation.ids)
    assert again.turns[1].observation.ids != t.turns[1].observation.ids


def test_a_last_turn_that_got_no_observation_is_spoken_anew_with_the_noise_it_had(policy: PolicyModel):
    t = playing(policy, call(0, 0, 50, 50), call(0, 0, 60, 60), max_crops=1)
    assert t.status is Status.OUT_OF_TURNS
    again = reopen(policy, t, blank)
    assert len(again.turns) == 1
    heard = []

    class Listening(Scripted):
        def generate(self, requests, sampling):
            for request, completion in super().generate(requests, sampling):
                heard.append(request.seed)
                yield request, completion

    play(policy, Listening(policy, call(0, 0, 50, 50), BLUE), [replace(t, turns=(), status=Status.OPEN)], LIMITS)
    play(policy, Listening(policy, "", BLUE), [again], LIMITS)
    assert heard[2] == heard[1] != heard[0]  # the second turn of both
