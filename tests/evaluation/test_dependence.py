"""The probe (E10): what stands in for a crop, what stays when it does, what is measured, and what is left of an interruption."""

import copy
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from focus.config import ConfigError
from focus.data.boxes import Box, Frame, area, intersection, settle, to_view
from focus.data.images.original import Decoded
from focus.data.sample import ImageFile, Sample, write_records
from focus.data.scenes import DIFFICULTY, Scenes
from focus.evaluation.arms import Evaluator
from focus.evaluation.measure import measure
from focus.evaluation.outcome import (
    ARMS,
    DIFFERENCES,
    METRICS,
    Outcome,
    decompose_tool_effect,
    load_outcomes,
    refuse_other_probe,
    save_outcomes,
)
from focus.gap import Gap, Mode, View, cut
from focus.model.dialect import Texts, read_dialect
from focus.model.policy_model import PolicyModel
from focus.model.prompts import ANSWER_OPEN, CALL_OPEN, UNAVAILABLE, Fault, Malformed, call_text
from focus.report import probe as report
from focus.report.probe import draw_probe, probe_table
from focus.rollout.engine import Completion, Sampling
from focus.rollout.kv import KVEngine
from focus.rollout.loop import RolloutLimits, play, reopen
from focus.rollout.substitutes import GREY, SUBSTITUTES, additive, annotated, blank, elsewhere, mean_colour, noise, nothing
from focus.rollout.trajectory import Crop, Status, Trajectory
from focus.runs import probe
from focus.training.probe_callback import ProbeCallback
from tests.support.reference import equal, plain_logprobs
from tests.support.runs import another_job, settings
from tests.support.scripted import Scripted, call, playing
from tests.support.updates import policy_of, questions, trainer

NAN = math.nan
TOKEN_PX = 28
BLUE = "<answer>blue</answer><|im_end|>"
OUTSIDE = call(1100, 1100, 1200, 1200)
LIMITS = RolloutLimits(1, 64, Sampling(1.0, 60))
SIDE = 224  # of hand-made images: 28 px are 125 per mille, so a box of whole tokens can be spoken exactly
RED, BLUE_INK, GROUND = (200, 40, 60), (50, 60, 210), (90, 90, 90)  # no value at an end, where noise is clipped
B1: Box = (28.0, 28.0, 56.0, 56.0)  # left half red, right half blue
OFF: Box = (140.0, 140.0, 168.0, 168.0)  # shows nothing but ground


@dataclass(frozen=True)
class Drawn:
    """An image that a test has made."""

    image: Image.Image

    def open(self) -> Decoded:
        return Decoded(self.image)


def picture(evidence: Sequence[Box] = (B1,), side: int = SIDE) -> Image.Image:
    image = Image.new("RGB", (side, side), GROUND)
    for x1, y1, x2, y2 in evidence:
        image.paste(RED, (int(x1), int(y1), int(x1 + x2) // 2, int(y2)))
        image.paste(BLUE_INK, (int(x1 + x2) // 2, int(y1), int(x2), int(y2)))
    return image


def asked_about(number: int, boxes: tuple[tuple[Box, ...], ...] = ((B1,),), image: object = None, side: int = SIDE) -> Sample:
    return Sample(
        id=f"made/{number}",
        source="made",
        split="eval",
        image=image or Drawn(picture(side=side)),
        width=side,
        height=side,
        question=f"What is on sign {number}?",
        answers=("42",),
        boxes=boxes,
        group=f"image {number}",
    )


def before(sample: Sample, seed: int = 0, source: Image.Image | None = None) -> Trajectory:
    """A conversation of which nothing has been spoken yet."""
    view = View(Image.new("RGB", (112, 112)), 16, sample.size)
    return Trajectory(sample=sample, source=Decoded(source or Image.new("RGB", sample.size)), view=view, prompt_ids=(1, 2, 3), seed=seed)


def view_of(values: np.ndarray, tokens: int = 6) -> View:
    return View(Image.fromarray(values.astype(np.uint8)), tokens, (448, 448))


def pixels(view: View) -> np.ndarray:
    return np.asarray(view.image)


def random_crop(seed: int = 0) -> View:
    """84 x 56 px: 3 x 2 tokens."""
    return view_of(np.random.default_rng(seed).integers(0, 256, (56, 84, 3)))


ASKED = Crop((0, 0, 84, 56), (0.0, 0.0, 84.0, 56.0))
IN_PLACE = {"noise": noise, "blank": blank, "mean_colour": mean_colour, "additive": additive(64.0)}


# ------------------------------------------------------------------------------------------------- what stands in for a crop


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


# ------------------------------------------------------------------------------------------------------- the annotated crop


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


# ------------------------------------------------------------------------------------------------------- from another place


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


# --------------------------------------------------------------------------------------------------------- what stays: words


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


# --------------------------------------------------------------------------------------------------------- what is measured


@dataclass(frozen=True)
class Mind:
    """How a policy treats one question. It reads 42 off a crop that shows both red and blue."""

    box_px: Box
    guess: str = "7"  # without any crop
    blind: str = "8"  # after a crop that does not show it; empty: it says nothing that could be read
    calls: bool = True


class Minded:
    """An engine that has a mind for every question number, and looks at the last image it is shown."""

    def __init__(self, checkpoint: PolicyModel, minds: Sequence[Mind]) -> None:
        self.policy, self.minds = checkpoint, minds

    def generate(self, requests, sampling):
        decode = self.policy.tokenizer.decode
        for c in requests:
            number = int(decode(c.ids[: c.prompt_tokens]).split("on sign ")[1].split("?")[0])
            text = self._says(self.minds[number], decode(c.ids[c.prompt_tokens :]), c.images)
            ids = tuple(self.policy.tokenizer.encode(text, add_special_tokens=False))
            yield c, Completion(ids, (-0.5,) * len(ids), True)

    def _says(self, mind: Mind, said: str, images: Sequence[Image.Image]) -> str:
        if said == ANSWER_OPEN or (not said and not mind.calls):
            return f"{ANSWER_OPEN}{mind.guess}</answer><|im_end|>".removeprefix(said)
        if said in ("", CALL_OPEN):
            box_view = to_view(mind.box_px, Frame.PER_MILLE, (112, 112), (SIDE, SIDE))
            return call_text(box_view).removeprefix(said)
        seen = {colour for _, colour in images[-1].getcolors(10**6)} if len(images) > 1 else set()
        answer = "42" if {RED, BLUE_INK} <= seen else mind.blind
        return f"{ANSWER_OPEN}{answer}</answer><|im_end|>" if answer else "what a sign<|im_end|>"

    def clear_cache(self) -> None:
        pass

    def sync_weights(self) -> None:
        pass


def measured(
    checkpoint: PolicyModel,
    engine,
    samples: Sequence[Sample],
    arms: Sequence[str] = ARMS,
    per_forward: int = 50,
    limits: RolloutLimits = LIMITS,
    sigma: float = 64.0,
) -> tuple[Outcome, list[Trajectory]]:
    gap = Gap(Mode.FIXED, 16, checkpoint.token_px)
    return measure(Evaluator(checkpoint, engine, gap, limits, 0, arms, per_forward, sigma), samples, None)


# Seven questions by hand, all with the answer 42
MINDS = (
    Mind(B1),  # 0 looks and reads
    Mind(OFF, guess="8"),  # 1 looks past it, and would have said the same before
    Mind(B1, guess="42", blind="42"),  # 2 knows it anyway
    Mind(OFF, guess="42"),  # 3 knows it, looks past it and is talked out of it
    Mind(OFF, guess="42", calls=False),  # 4 answers at once; forced to look, it is wrong
    Mind(B1),  # 5 looks and reads, but nobody has annotated where
    Mind(OFF, blind=""),  # 6 says nothing that could be read, unless it sees it
)
MADE = [asked_about(n, boxes=() if n == 5 else ((B1,),)) for n in range(7)]
BLINDED = [0, 0, 1, 0, 1, 0, 0]
BY_HAND = {
    "own": [1, 0, 1, 0, 1, 1, 0],
    "gt": [1, 1, 1, 1, 1, NAN, 1],
    **dict.fromkeys(("noise", "blank", "mean_colour", "elsewhere", "additive", "format_only"), BLINDED),
    "tool_free": [0, 0, 1, 1, 1, 0, 0],
    "forced": [1, 0, 1, 0, 0, 1, 0],
    "called": [1, 1, 1, 1, 0, 1, 1],
    "answered": [1, 1, 1, 1, 1, 1, 0],
    "agrees": [0, 1, 1, 0, 1, 0, 0],
    "gain": [1, 0, 0, 0, 0, 1, 0],
    "harm": [0, 0, 0, 1, 0, 0, 0],
    "coverage": [1, 0, 1, 0, NAN, NAN, 0],
    "iou": [1, 0, 1, 0, NAN, NAN, 0],
    "l1": [1, 0.5, 1, 0.5, NAN, NAN, 0.5],  # 112 of 224 px away on all four sides
    "area": [1 / 64, 1 / 64, 1 / 64, 1 / 64, NAN, 1 / 64, 1 / 64],
    "visual_tokens": [17, 17, 17, 17, 16, 17, 17],
}


@pytest.fixture(scope="module")
def seven(qwen3_vl) -> Outcome:
    return measured(qwen3_vl, Minded(qwen3_vl, MINDS), MADE)[0]


@pytest.mark.parametrize("metric", BY_HAND)
def test_every_metric_of_seven_questions_is_as_worked_by_hand(seven, metric):
    assert equal(seven.of(metric), BY_HAND[metric]), seven.of(metric)


def test_the_differences_are_those_of_the_questions_worked_by_hand(seven):
    assert equal(seven.of("D_noise"), [1, 0, 0, 0, 0, 1, 0])
    assert equal(seven.of("U_GT"), [0, 1, 0, 1, 0, NAN, 1])
    assert equal(seven.of("S"), [1, 1, 0, 1, 0, NAN, 1])
    played = [name for name, arms in DIFFERENCES.items() if "no_tool" not in arms]
    means = {name: seven.interval(name, 10)[0] for name in ("own", "gt", *played, "gain", "harm", "agrees")}
    share = dict.fromkeys((name for name in DIFFERENCES if name.startswith("D_")), 2 / 7)
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
    outcome, shown = measured(policy, engine, samples, arms=tuple(SUBSTITUTES))
    assert all(t.crops for t in shown)
    expected = [float(sample.answers[0] == right) for sample in samples]
    assert expected[0] == 1 and 0 in expected
    assert all(outcome.of(arm) == expected for arm in ("own", *SUBSTITUTES))
    assert all(outcome.of(name) == [0.0] * 4 for name, arms in DIFFERENCES.items() if not {"tool_free", "no_tool"} & set(arms))


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
    assert together.interval("own", 200) == (0.5, 0.5, 0.5)


# ------------------------------------------------------------------------------------------------------- MED: gain and harm


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


# -------------------------------------------------------------------------------------------------------- what is kept of it


def test_outcomes_are_kept_with_their_gaps_and_only_for_whom_they_were_measured(seven, tmp_path):
    path = tmp_path / "outcomes.json"
    assert load_outcomes(path, "a") == {}
    save_outcomes({"16": seven}, path, "a")
    again = load_outcomes(path, "a")["16"]
    assert all(equal(again.of(metric), seven.of(metric)) for metric in METRICS)
    assert (again.groups, again.unannotated, again.view_tokens) == (seven.groups, seven.unannotated, 16)
    assert load_outcomes(path, "b") == {} and set(load_outcomes(path)) == {"16"}
    assert [file.name for file in tmp_path.iterdir()] == ["outcomes.json"]


# ------------------------------------------------------------------------------------------------------ the table and figure


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
    shown = {metric for metric in (*METRICS, *DIFFERENCES) if metric in {row[2] for row in report.ROWS}}
    assert set(ARMS) <= shown and len(rows) == len(shown - {"answered"}) + 8
    assert rows["accuracy, forced crop"] == pytest.approx([300 / 7, NAN], nan_ok=True)
    assert rows["accuracy, tool-free"] == pytest.approx([300 / 7, 40.0])
    assert rows["MED gain: policy"] == pytest.approx([100.0, 400 / 6])
    assert rows["MED harm: quality"] == pytest.approx([50.0, 100 / 3])


def test_the_table_says_how_many_questions_were_asked_and_what_could_not_be_read():
    outcome = made({"own": [1, 0]})
    assert probe_table("p", {"16": outcome}, 20, 0.5).notes == (
        "2 held-out questions, 95 % intervals from a bootstrap over images; temperature 0.5",
    )
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
    assert [len(each) for each in drawn[1]] == [len(ARMS), 7]
    with Image.open(tmp_path / "all.png") as image:
        assert min(image.size) > 300


# ---------------------------------------------------------------------------------------------------- the probe in training


class Logged(pl.Callback):
    """What is logged after every update."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer, *_):
        self.rows.append({name: float(value) for name, value in trainer.logged_metrics.items() if name.startswith("probe/")})


def training(checkpoint: PolicyModel, every: int, updates: int = 3) -> list[dict[str, float]]:
    checkpoint = copy.deepcopy(checkpoint)  # the original is shared with other tests and stays as it is
    policy = policy_of(checkpoint)
    policy.engine = Minded(checkpoint, MINDS)
    policy.roll_out = lambda _: [[playing(checkpoint, call(0, 0, 50, 50), BLUE) for _ in range(4)]]
    logged = Logged()
    callbacks = [ProbeCallback(MADE, Gap(Mode.FIXED, 16, checkpoint.token_px), policy.limits, every, 3), logged]
    trainer(callbacks=callbacks).fit(policy, questions(updates, per_update=1))
    return logged.rows


def test_the_probe_speaks_every_n_updates_and_is_not_a_number_between(qwen3_vl: PolicyModel):
    rows = training(qwen3_vl, every=2)
    assert len(rows) == 3
    assert [set(map(math.isnan, row.values())) for row in rows] == [{True}, {False}, {True}]
    expected = {"own": 4 / 7, "D_noise": 2 / 7, "U_GT": 3 / 6, "tool_free": 3 / 7, "called": 6 / 7, "agrees": 3 / 7}
    assert rows[1] == pytest.approx({f"probe/{name}": value for name, value in expected.items()})


def test_the_probe_plays_by_its_own_rules_and_not_by_those_of_the_rollouts(qwen3_vl: PolicyModel):
    policy = policy_of(qwen3_vl)
    heard = []
    policy.engine = Minded(qwen3_vl, MINDS)
    generate = policy.engine.generate
    policy.engine.generate = lambda asked, sampling: heard.append(sampling) or generate(asked, sampling)
    greedy = replace(policy.limits, sampling=replace(policy.limits.sampling, temperature=0.0))
    probe_ = ProbeCallback(MADE, Gap(Mode.FIXED, 16, qwen3_vl.token_px), greedy, 1, 3)
    policy.log_dict = lambda values: None
    probe_.on_train_batch_end(None, policy)
    assert heard and {sampling.temperature for sampling in heard} == {0.0} != {policy.limits.sampling.temperature}


def test_a_probe_of_every_0_updates_is_off(qwen3_vl: PolicyModel):
    assert training(qwen3_vl, every=0, updates=1) == [{}]


# ---------------------------------------------------------------------------------------------------------- the entry point

SMALL = ("threads=1", "data.side_px=224", "evaluation.samples=3", "evaluation.resamples=20", "views=[16,64]")


@pytest.fixture
def scripted(qwen3_vl, monkeypatch) -> PolicyModel:
    """The entry point with a policy that calls, then answers 7."""
    engine = Scripted(qwen3_vl, call(0, 0, 500, 500), "<answer>7</answer><|im_end|>")
    monkeypatch.setattr(probe, "load_evaluated", lambda cfg: (qwen3_vl, engine))
    return qwen3_vl


def probing(folder: Path, *overrides: str):
    return settings(folder / "probe", folder / "policy", *SMALL, *overrides, name="probe")


def counted(monkeypatch, stop_after: int = 99) -> list[int]:
    """Views that are measured from here on; ctrl-C comes after some of them."""
    views: list[int] = []

    def measuring(evaluator, samples, label):
        if len(views) == stop_after:
            raise KeyboardInterrupt
        views.append(evaluator.gap.view_tokens)
        return measure(evaluator, samples, label)

    monkeypatch.setattr(probe, "measure", measuring)
    return views


def test_the_entry_point_probes_a_saved_policy_in_all_arms_beside_its_checkpoint(qwen3_vl, tmp_path, capsys):
    qwen3_vl.save(tmp_path / "policy")
    probe.run(
        settings(
            Path("null"),
            tmp_path / "policy",
            *SMALL,
            "views=[16]",
            "evaluation.samples=2",
            "rollout.tokens_per_turn=6",
            name="probe",
        )
    )
    assert {path.name for path in (tmp_path / "probe").iterdir()} == {
        "probe.json",
        "probe.md",
        "probe.png",
        "report.html",
        "outcomes.json",
        "results.json",
        "shown.json",
    }
    kept = json.loads((tmp_path / "probe/outcomes.json").read_text())["outcomes"]["16"]
    assert not any(math.isnan(value) for arm in ARMS for value in kept["values"][arm])
    assert "crop dependence of" in capsys.readouterr().out


def test_a_probe_leaves_every_metric_with_its_interval_and_the_parts_of_gain_and_harm(scripted, tmp_path):
    probe.run(probing(tmp_path))
    record = json.loads((tmp_path / "probe/probe.json").read_text())
    assert record["weights"] == scripted.weights_hash() and record["checkpoint"] == str(tmp_path / "policy")
    assert set(record["views"]) == {"16", "64"}
    for view in record["views"].values():
        assert view["metrics"]["called"] == [1.0, 1.0, 1.0] and view["metrics"]["own"] == [0.0, 0.0, 0.0]
        assert view["metrics"]["area"][0] == 0.25  # the left upper quarter
        assert set(ARMS) | set(DIFFERENCES) - {"no_tool_effect"} <= set(view["metrics"]) and set(view["med"]) == {"gain", "harm"}
        assert view["broken"] == view["unannotated"] == []
    assert [record["views"][view]["metrics"]["visual_tokens"][0] for view in ("16", "64")] == [32.0, 80.0]
    table = (tmp_path / "probe/probe.md").read_text()
    assert "| 16 tokens | 64 tokens |" in table and "| accuracy, annotated crop | 0.0" in table
    with Image.open(tmp_path / "probe/probe.png") as image:
        assert image.format == "PNG"


def test_a_finished_probe_measures_nothing_and_shows_its_table_again(scripted, tmp_path, monkeypatch, capsys):
    probe.run(probing(tmp_path))
    capsys.readouterr()
    written = (tmp_path / "probe/probe.json").read_text()
    monkeypatch.setattr(probe, "measure", lambda *_: pytest.fail("a finished probe was measured again"))
    probe.run(probing(tmp_path))
    assert "crop rate" in capsys.readouterr().out
    assert (tmp_path / "probe/probe.json").read_text() == written


def test_a_second_start_while_a_probe_measures_is_refused_and_measures_nothing(scripted, tmp_path):
    with another_job(tmp_path / "probe"), pytest.raises(ValueError, match=r"another job is working in .*probe \(it holds .*running.lock\)"):
        probe.run(probing(tmp_path))
    assert [path.name for path in (tmp_path / "probe").iterdir()] == ["running.lock"]


def test_an_interrupted_probe_goes_on_with_the_next_view(scripted, tmp_path, monkeypatch):
    counted(monkeypatch, stop_after=1)
    with pytest.raises(KeyboardInterrupt):
        probe.run(probing(tmp_path))
    assert not (tmp_path / "probe/probe.json").exists()
    views = counted(monkeypatch)
    probe.run(probing(tmp_path))
    assert views == [64]
    page = (tmp_path / "probe/report.html").read_text()
    assert "16 tokens, wrong after a crop" in page and "64 tokens, wrong after a crop" in page  # of what was measured before, too
    assert page.count("<article>") == 6 and 'alt="the crop' in page
    assert set(json.loads((tmp_path / "probe/probe.json").read_text())["views"]) == {"16", "64"}


@pytest.mark.parametrize(
    ("other", "named"), [("seed=1", "other settings"), ("evaluation.samples=2", "other questions"), ("", "another policy")]
)
def test_another_probe_in_the_same_folder_is_refused_and_the_first_one_stays(scripted, tmp_path, monkeypatch, other, named):
    probe.run(probing(tmp_path))
    written = (tmp_path / "probe/outcomes.json").read_text()
    views = counted(monkeypatch)
    if not other:
        monkeypatch.setattr(PolicyModel, "weights_hash", lambda self: "others")
    with pytest.raises(ValueError, match=f"outcomes.json holds a probe with {named}; give this one a folder of its own"):
        probe.run(probing(tmp_path, *filter(None, [other])))
    assert views == [] and (tmp_path / "probe/outcomes.json").read_text() == written


def test_a_probe_of_an_earlier_version_which_did_not_know_its_questions_is_refused(tmp_path, seven):
    save_outcomes({"16": seven}, tmp_path / "outcomes.json", "weights settings")
    with pytest.raises(ValueError, match="holds a probe with another version of this package"):
        refuse_other_probe(tmp_path / "outcomes.json", "weights settings questions")


@pytest.mark.parametrize(
    ("identity", "named"),
    [
        ("weights settings questions", "another judge"),
        ("weights settings questions judge other", "another judge"),
        ("weights settings others judge grader", "other questions"),
        ("weights others questions judge grader", "other settings"),
    ],
)
def test_what_differs_from_a_probe_with_a_judge_is_named(tmp_path, seven, identity, named):
    save_outcomes({"16": seven}, tmp_path / "outcomes.json", "weights settings questions judge grader")
    with pytest.raises(ValueError, match=f"holds a probe with {named}; give"):
        refuse_other_probe(tmp_path / "outcomes.json", identity)


def test_other_questions_in_the_same_file_never_show_the_old_result(scripted, tmp_path):
    probe.run(probing(tmp_path, records(tmp_path, [((B1,),), ((B1,),), ((B1,),)])))
    others = records(tmp_path, [((OFF,),), ((B1,),)])
    with pytest.raises(ValueError, match="holds a probe with other questions"):
        probe.run(probing(tmp_path, others))
    probe.run(probing(tmp_path, others, f"output={tmp_path / 'second'}"))
    assert json.loads((tmp_path / "second/probe.json").read_text())["samples"] == 2


def records(folder: Path, boxes: Sequence[tuple]) -> str:
    """`evaluation.records=` a file of questions with these boxes."""
    return f"evaluation.records={write_records([asked_about(i, boxes=each) for i, each in enumerate(boxes)], folder / 'made')}"


def test_questions_without_any_box_are_refused_for_the_annotated_crop_and_one_is_named(scripted, tmp_path, monkeypatch):
    views = counted(monkeypatch)
    bare = records(tmp_path, [(), (), ()])
    with pytest.raises(
        ValueError, match=r"gt shows the annotated crop, but none of the 3 questions has a box \(first: made/0\).*leave gt out"
    ):
        probe.run(probing(tmp_path, bare))
    assert views == [] and not (tmp_path / "probe").exists()
    probe.run(probing(tmp_path, bare, "evaluation.arms=[own,noise,tool_free]"))
    metrics = json.loads((tmp_path / "probe/probe.json").read_text())["views"]["16"]["metrics"]
    assert {"own", "noise", "D_noise", "tool_free"} <= set(metrics) and not {"gt", "U_GT", "S", "coverage", "blank"} & set(metrics)
    table = (tmp_path / "probe/probe.md").read_text()
    assert "noise crop" in table and "annotated" not in table and "blank" not in table


def test_questions_of_which_some_have_no_box_are_played_and_counted(scripted, tmp_path, capsys):
    probe.run(probing(tmp_path, records(tmp_path, [((B1,),), (), ()])))
    assert "2 of 3 questions have no box and are left out of the arm gt (first: made/1)" in " ".join(capsys.readouterr().out.split())
    view = json.loads((tmp_path / "probe/probe.json").read_text())["views"]["16"]
    assert view["unannotated"] == ["made/1", "made/2"] and "gt" in view["metrics"]


def test_an_arm_that_does_not_exist_is_refused_before_a_policy_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(probe, "load_evaluated", lambda cfg: pytest.fail("loaded"))
    with pytest.raises(ValueError, match="names nois; there are own"):
        probe.run(probing(tmp_path, "evaluation.arms=[own,nois]"))


@pytest.mark.parametrize("views", ["[]", "[0]", "[16,-1]"])
def test_a_probe_without_a_view_or_with_one_of_nothing_is_refused(tmp_path, views):
    with pytest.raises(ConfigError, match=r"views is .*; name at least one budget, each of at least 1 token"):
        probe.run(probing(tmp_path, f"views={views}"))


# -------------------------------------------------------------------------------- faults that are known; see the reasons given


def test_outcomes_stand_in_the_order_of_the_questions(qwen3_vl: PolicyModel, tmp_path):
    samples = [MADE[0], asked_about(1, image=ImageFile(tmp_path / "none.png")), MADE[2]]
    assert measured(qwen3_vl, Minded(qwen3_vl, MINDS), samples, arms=())[0].groups == ["image 0", "image 1", "image 2"]


def test_gain_minus_harm_is_what_the_tool_changes_also_where_an_image_cannot_be_read(qwen3_vl: PolicyModel, tmp_path):
    samples = [MADE[0], asked_about(1, image=ImageFile(tmp_path / "none.png"))]
    outcome, _ = measured(qwen3_vl, Minded(qwen3_vl, MINDS), samples, arms=("tool_free",))
    found = decompose_tool_effect(outcome)
    assert outcome.interval("tool_effect", 10)[0] == 0.5
    assert found["gain"]["total"] - found["harm"]["total"] == 0.5
    assert outcome.interval("gain", 10)[0] - outcome.interval("harm", 10)[0] == 0.5


def test_outcomes_of_a_version_that_knew_fewer_metrics_can_still_be_shown(seven, tmp_path):
    older = replace(seven, values={metric: values for metric, values in seven.values.items() if metric != "l1"})
    save_outcomes({"16": older}, tmp_path / "outcomes.json", "a")
    kept = load_outcomes(tmp_path / "outcomes.json", "a")
    assert not kept or probe_table("p", kept, 20, 1.0).rows  # measured anew, or shown without them


def test_a_probe_of_no_questions_is_refused_in_one_message(scripted, tmp_path):
    with pytest.raises(ValueError, match=r"evaluation\.samples"):
        probe.run(probing(tmp_path, "evaluation.samples=0"))


def test_a_figure_of_few_resamples_can_be_drawn(tmp_path):
    draw_probe({"16": made({"own": [1, 0, 1]})}, tmp_path / "probe.png", 1)


def test_nothing_is_said_about_an_arm_that_is_not_played(scripted, tmp_path, capsys):
    probe.run(probing(tmp_path, records(tmp_path, [((B1,),), (), ()]), "evaluation.arms=[own,noise]"))
    assert "arm gt" not in " ".join(capsys.readouterr().out.split())


def test_a_probe_says_whose_words_it_asked_in_and_other_prompts_are_another_probe(scripted, tmp_path, monkeypatch, capsys):
    texts = {key: getattr(read_dialect("qwen3_vl_zoom"), key) for key in Texts.model_fields}
    (tmp_path / "theirs.yaml").write_text(json.dumps(texts | {"before": "Q: "}))
    model, engine = probe.load_evaluated(None)
    asked = lambda cfg: (replace(model, dialect=read_dialect(cfg.policy.dialect, cfg.policy.prompts)), engine)  # noqa: E731
    monkeypatch.setattr(probe, "load_evaluated", asked)
    probe.run(probing(tmp_path, "policy.dialect=qwen3_vl_zoom"))
    digest = read_dialect("qwen3_vl_zoom").digest
    note = f"asked in own words (hash {digest}), not with the prompts of Qwen-Agent"
    assert note in " ".join(capsys.readouterr().out.split())
    record = json.loads((tmp_path / "probe/probe.json").read_text())
    assert record["dialect"] == "qwen3_vl_zoom" and (record["prompts"]["hash"], record["prompts"]["words"]) == (digest, "own words")
    assert note in (tmp_path / "probe/probe.md").read_text() and note in (tmp_path / "probe/report.html").read_text()
    with pytest.raises(ValueError, match="holds a probe with other settings"):
        probe.run(probing(tmp_path, "policy.dialect=qwen3_vl_zoom", f"policy.prompts={tmp_path / 'theirs.yaml'}"))


def test_another_dialect_is_another_probe(scripted, tmp_path, monkeypatch):
    probe.run(probing(tmp_path))
    model, engine = probe.load_evaluated(None)
    monkeypatch.setattr(probe, "load_evaluated", lambda cfg: (replace(model, dialect=read_dialect(cfg.policy.dialect)), engine))
    with pytest.raises(ValueError, match="holds a probe with other settings"):
        probe.run(probing(tmp_path, "policy.dialect=qwen3_vl"))
