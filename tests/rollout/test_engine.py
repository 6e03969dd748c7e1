"""The cached rollout equals a full forward at every position, for all families, ragged rows and several crops."""

from dataclasses import replace

import pytest
import torch

from focus.data.scenes import DIFFICULTY, Scene
from focus.gap import resize_to_budget
from focus.model import caches
from focus.model.caches import SuffixCache
from focus.model.positions import mrope_positions
from focus.rollout import kv
from focus.rollout.engine import Sampling
from focus.rollout.kv import KVEngine, draw
from focus.rollout.loop import RolloutLimits, begin, play, reopen, request_for
from focus.rollout.loop import with_prefill as force
from tests.support.reference import plain_logprobs, towers
from tests.support.scripted import boxes_of, forwards, opened, steer


@pytest.mark.parametrize("crops", [0, 1, 3])
def test_the_cached_rollout_equals_a_full_forward_at_every_sampled_position(policy, crops):
    engine = steer(policy, boxes_of(policy), crops)
    limits = RolloutLimits(crops, 64, Sampling(1.0, 120 if crops == 0 else 60))
    played = play(policy, engine, opened(policy), limits)
    assert [len(t.crops) for t in played] == [crops] * len(played)
    for t in played:
        with torch.no_grad():
            apart = plain_logprobs(policy, t) - torch.tensor(t.sampler_logprobs)
        assert apart.abs().max() < 2e-5
        assert abs(float(apart.mean())) < 5e-6


def test_a_draw_depends_neither_on_its_neighbours_nor_on_their_number(policy):
    limits = RolloutLimits(1, 64, Sampling(1.0, 30))
    together = play(policy, KVEngine(policy), opened(policy), limits)
    alone = [play(policy, KVEngine(policy), [t], limits)[0] for t in opened(policy)]
    assert [t.ids for t in together] == [t.ids for t in alone]


def test_siblings_share_one_encoding_of_their_prompt(policy, monkeypatch):
    asked = opened(policy, questions=2, siblings=5)
    tokens = forwards(policy, monkeypatch)
    play(policy, KVEngine(policy), asked, RolloutLimits(0, 64, Sampling(1.0, 4)))
    assert tokens[0] == len(asked[0].prompt_ids) - 1 + len(asked[5].prompt_ids) - 1
    assert tokens[1:] == [10] * 4  # the prompt's last token, then three of the four that were drawn; the fourth is never fed


def test_siblings_with_different_prefills_still_share_their_prompt(policy, monkeypatch):
    [plain] = opened(policy, questions=1, siblings=1)
    forced = force(policy, plain, "<tool_call>")
    alone = play(policy, KVEngine(policy), [forced], RolloutLimits(0, 64, Sampling(1.0, 4)))[0]
    tokens = forwards(policy, monkeypatch)
    _, beside = play(policy, KVEngine(policy), [plain, forced], RolloutLimits(0, 64, Sampling(1.0, 4)))
    assert tokens[:2] == [len(plain.prompt_ids) - 1, 2 + len(forced.prefill_ids)]
    assert beside.ids == alone.ids
    assert not any(beside.sampled_mask[: len(plain.prompt_ids) + len(forced.prefill_ids)])


def test_a_later_turn_feeds_only_its_new_tokens(policy, monkeypatch):
    engine = steer(policy, boxes_of(policy), 1)
    asked = opened(policy, questions=1)
    tokens = forwards(policy, monkeypatch)
    played = play(policy, engine, asked, RolloutLimits(1, 64, Sampling(1.0, 60)))
    observed = sum(len(t.turns[0].observation.ids) for t in played)
    assert observed + len(played) in tokens  # and of each row the one sampled token that was not fed yet


def test_finished_rows_leave_the_batch(policy, monkeypatch):
    scripts = ((0, 0, 9, 9), (0, 0, 9, 9), (0, 0, 9, 9), (100, 100, 1000, 1000))  # the last call is longer
    engine = steer(policy, scripts, 1)
    tokens = forwards(policy, monkeypatch)
    play(policy, engine, opened(policy, questions=1, siblings=4), RolloutLimits(0, 64, Sampling(1.0, 100)))
    assert tokens[2] == 4 and tokens[-1] == 1


def test_a_cache_that_grows_by_need_changes_no_bit(policy, monkeypatch):
    limits = RolloutLimits(1, 64, Sampling(1.0, 60))
    whole = play(policy, steer(policy, boxes_of(policy), 1), opened(policy), limits)
    grown = []
    reserve = SuffixCache.reserve
    monkeypatch.setattr(SuffixCache, "reserve", lambda rows, slots: grown.append(rows.keys[0].shape[2] < slots) or reserve(rows, slots))
    monkeypatch.setattr(caches, "SLOTS_ADDED", 3)
    by_need = play(policy, steer(policy, boxes_of(policy), 1), opened(policy), limits)
    assert sum(grown) > 10
    assert [t.ids for t in by_need] == [t.ids for t in whole]
    assert [t.sampler_logprobs for t in by_need] == [t.sampler_logprobs for t in whole]


def test_a_prefill_in_parts_gives_the_same_rollouts(policy, monkeypatch):
    limits = RolloutLimits(1, 64, Sampling(1.0, 60))
    whole = play(policy, steer(policy, boxes_of(policy), 1), opened(policy), limits)
    monkeypatch.setattr(kv, "PREFILL_TOKENS", 60)
    tokens = forwards(policy, monkeypatch)
    in_parts = play(policy, steer(policy, boxes_of(policy), 1), opened(policy), limits)
    observed = [len(t.turns[0].observation.ids) + 1 for t in in_parts]  # with the one sampled token that was not fed yet
    assert sum(observed) not in tokens and sum(observed) > 2 * 60
    assert [t.ids for t in in_parts] == [t.ids for t in whole]
    for a, b in zip(in_parts, whole, strict=True):
        assert a.sampler_logprobs == pytest.approx(b.sampler_logprobs, abs=2e-5)


def test_without_gradient_an_image_passes_the_tower_once_for_all_arms(policy, monkeypatch):
    asked = opened(policy, questions=2)
    images = towers(policy, monkeypatch)
    with policy.image_cache(), torch.no_grad():
        play(policy, KVEngine(policy), asked, RolloutLimits(0, 64, Sampling(1.0, 2)))
        play(policy, KVEngine(policy), [force(policy, t, "<answer>") for t in asked], RolloutLimits(0, 64, Sampling(1.0, 2)))
    assert sum(images) == 2
    play(policy, KVEngine(policy), asked, RolloutLimits(0, 64, Sampling(1.0, 2)))
    assert sum(images) == 4  # outside nothing is remembered


def test_replayed_turns_keep_the_words_and_change_only_pixels(policy):
    engine = steer(policy, boxes_of(policy), 1)
    limits = RolloutLimits(1, 64, Sampling(1.0, 60))
    played = play(policy, engine, opened(policy, questions=1), limits)
    blank = [reopen(policy, t, lambda crop, *_: replace(crop, image=crop.image.point(lambda _: 128))) for t in played]
    again = play(policy, KVEngine(policy), blank, limits)
    for before, after in zip(played, again, strict=True):
        assert after.turns[0].ids == before.turns[0].ids
        assert after.turns[0].observation.ids == before.turns[0].observation.ids
        assert after.images[0] is before.images[0]
        assert set(after.images[1].getdata()) == {(128, 128, 128)}
    same = play(policy, KVEngine(policy), [reopen(policy, t, lambda crop, *_: crop) for t in played], limits)
    assert [t.ids for t in same] == [t.ids for t in played]


def test_vision_tokens_are_never_sampled_and_carry_no_probability():
    logits = torch.zeros(4, 10)
    logits[:, 3] = 50.0
    for noise in (0.0, 0.3, 0.999999):
        token, logprob = draw(logits, torch.tensor([3, 7]), 1.0, torch.full((4,), noise))
        assert not set(token.tolist()) & {3, 7}
        assert torch.allclose(logprob, torch.full((4,), -2.0794415))  # one of the eight that are left: -ln 8


def test_sampling_follows_the_softmax():
    logits = torch.log(torch.tensor([[0.1, 0.2, 0.3, 0.4]]))
    noise = (torch.arange(1000) + 0.5) / 1000
    token, _ = draw(logits.expand(1000, 4), torch.tensor([], dtype=torch.long), 1.0, noise)
    assert torch.bincount(token).tolist() == [100, 200, 300, 400]


def test_a_lower_temperature_sharpens_and_zero_takes_the_best():
    logits = torch.log(torch.tensor([[0.1, 0.9]]))
    _, half = draw(logits, torch.tensor([], dtype=torch.long), 0.5, torch.tensor([0.5]))
    assert torch.allclose(half.exp(), torch.tensor([0.81 / 0.82]))
    token, logprob = draw(logits, torch.tensor([], dtype=torch.long), 0.0, torch.tensor([0.05]))
    assert token.tolist() == [1] and torch.allclose(logprob.exp(), torch.tensor([0.9]))


def test_positions_equal_those_of_transformers_for_all_families(policy):
    played = play(policy, steer(policy, boxes_of(policy), 2), opened(policy), RolloutLimits(2, 64, Sampling(1.0, 60)))
    for t in played:
        pixels = policy.pack(t.images)
        ids = torch.tensor([t.ids])
        theirs, _ = policy.backbone.get_rope_index(ids, mm_token_type_ids=(ids == policy.image_pad_id).int(), image_grid_thw=pixels.grids)
        grids = [tuple(grid) for grid in pixels.grids.tolist()]
        assert torch.equal(theirs[:, 0], torch.from_numpy(mrope_positions(t.ids, grids, policy.image_pad_id, policy.merge)))


def test_placeholders_that_do_not_match_the_pixels_are_an_error(policy):
    pad = policy.image_pad_id
    with pytest.raises(ValueError, match="3 image placeholders for 4 visual tokens"):
        mrope_positions([1, pad, pad, pad, 1], [(1, 4, 4)], pad, policy.merge)


def test_questions_scored_one_by_one_without_clearing_the_cache_keep_their_own_logprobs(policy):
    """Each trajectory is freed before the next one exists, so that the next may get its memory address."""
    words = policy.tokenizer.encode("7", add_special_tokens=False)

    def scores(engine: KVEngine, clear: bool) -> list[float]:
        found = []
        for q in range(8):
            scene = Scene(replace(DIFFICULTY[2], side_px=224), "train", q)
            original = scene.open()
            [t] = begin(policy, scene.sample(), resize_to_budget(original, 16, policy.token_px), original, [q])
            found.append(engine.logprobs([request_for(t, -1, words)], [len(words)])[0][0])
            if clear:
                engine.clear_cache()
        return found

    alone = scores(KVEngine(policy), clear=True)
    assert len(set(alone)) == 8
    assert scores(KVEngine(policy), clear=False) == alone
