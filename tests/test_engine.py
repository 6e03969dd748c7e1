"""The cached rollout equals a full forward at every position, for both families, ragged rows and several crops."""

from dataclasses import replace

import pytest
import torch

from focus.boxes import Frame
from focus.checkpoint import Checkpoint, positions
from focus.data.scenes import DIFFICULTY, Scene
from focus.gap import look
from focus.policy import sampled_logprobs
from focus.prompts import call_text
from focus.rollout.engine import Completion, Sampling
from focus.rollout.kv import KVEngine, draw
from focus.rollout.loop import Rules, begin, play, reopen
from focus.rollout.trajectory import Trajectory


def steer(checkpoint: Checkpoint, boxes, calls: int):
    """A KV engine that samples a call with these boxes in its first `calls` turns, whatever the weights say."""

    class Engine(KVEngine):
        def _decode(self, conversations, hidden, sampling):
            turn = int(conversations[0].id.rsplit(" ", 1)[1])
            if turn >= calls:
                return super()._decode(conversations, hidden, sampling)
            scripts = [
                self.checkpoint.tokenizer.encode(call_text(boxes[(i + turn) % len(boxes)]), add_special_tokens=False)
                for i in range(len(conversations))
            ]
            return self._force(conversations, hidden, scripts)

        def _force(self, conversations, hidden, scripts):
            c = self.checkpoint
            place = torch.tensor([int(self._positions(conv)[:, -1].max()) for conv in conversations])
            logprobs = [[] for _ in scripts]
            banned = torch.tensor(c.banned_ids)
            for step in range(max(map(len, scripts))):
                scores = torch.log_softmax(c.head(hidden).float().index_fill(1, banned, float("-inf")), -1)
                for row, script in enumerate(scripts):
                    if step < len(script):
                        logprobs[row].append(float(scores[row, script[step]]))
                active = torch.tensor([step + 1 < len(script) for script in scripts])
                if not bool(active.any()):
                    break
                place = place + active
                fed = torch.tensor([s[step] if step + 1 < len(s) else c.pad_id for s in scripts])[:, None]
                hidden = self._forward(fed, place.expand(3, len(scripts))[:, :, None], active[:, None])[:, -1]
            self._rows = {conv.id: (row, len(conv.ids) + len(scripts[row]) - 1, len(conv.images)) for row, conv in enumerate(conversations)}
            return [Completion(tuple(s), tuple(lp), True) for s, lp in zip(scripts, logprobs, strict=True)]

    return Engine(checkpoint)


def opened(checkpoint: Checkpoint, questions: int = 2, siblings: int = 3) -> list[Trajectory]:
    trajectories = []
    for q in range(questions):
        scene = Scene(replace(DIFFICULTY[2], side_px=224 + 70 * q), "train", q)
        original = scene.open()
        view = look(original, 16 + 9 * q, checkpoint.token_px)
        trajectories += begin(checkpoint, scene.sample(), view, original, [100 * q + k for k in range(siblings)])
    return trajectories


def boxes_of(checkpoint: Checkpoint):
    small = checkpoint.dialect.frame is Frame.VIEW_PIXELS
    scale = 0.1 if small else 1.0
    return [tuple(v * scale for v in box) for box in ((100, 100, 400, 300), (500, 500, 990, 980), (0, 0, 90, 60), (700, 10, 930, 700))]


@pytest.mark.parametrize("crops", [0, 1, 3])
def test_the_cached_rollout_equals_a_full_forward_at_every_sampled_position(policy, crops):
    engine = steer(policy, boxes_of(policy), crops)
    rules = Rules(crops, 64, Sampling(1.0, 120 if crops == 0 else 60))
    played = play(policy, engine, opened(policy), rules)
    assert [len(t.crops) for t in played] == [crops] * len(played)
    with torch.no_grad():
        full = sampled_logprobs(policy, played, temperature=1.0)
    for t, logprob in zip(played, full, strict=True):
        apart = logprob - torch.tensor(t.sampler_logprobs)
        assert apart.abs().max() < 2e-5
        assert abs(float(apart.mean())) < 5e-6


def test_a_draw_depends_neither_on_its_neighbours_nor_on_their_number(policy):
    rules = Rules(1, 64, Sampling(1.0, 30))
    together = play(policy, KVEngine(policy), opened(policy), rules)
    alone = [play(policy, KVEngine(policy), [t], rules)[0] for t in opened(policy)]
    assert [t.ids for t in together] == [t.ids for t in alone]


def test_siblings_share_one_encoding_of_their_prompt(policy, monkeypatch):
    rows = []
    engine = KVEngine(policy)
    feed = engine._feed
    monkeypatch.setattr(engine, "_feed", lambda chunks, *rest: rows.append(len(chunks)) or feed(chunks, *rest))
    play(policy, engine, opened(policy, questions=2, siblings=5), Rules(0, 64, Sampling(1.0, 4)))
    assert rows == [2]


def test_a_later_turn_feeds_only_its_new_tokens(policy, monkeypatch):
    engine = steer(policy, boxes_of(policy), 1)
    lengths = []
    feed = engine._feed
    monkeypatch.setattr(engine, "_feed", lambda chunks, *rest: lengths.append([len(c) for c in chunks]) or feed(chunks, *rest))
    played = play(policy, engine, opened(policy, questions=1), Rules(1, 64, Sampling(1.0, 8)))
    observed = [len(t.turns[0].observation.ids) for t in played]
    assert lengths[1] == [n + 1 for n in observed]  # and the one sampled token that was not fed yet


def test_replayed_turns_keep_the_words_and_change_only_pixels(policy):
    engine = steer(policy, boxes_of(policy), 1)
    rules = Rules(1, 64, Sampling(1.0, 8))
    played = play(policy, engine, opened(policy, questions=1), rules)
    blank = [reopen(t, lambda crop, _: replace(crop, image=crop.image.point(lambda _: 128))) for t in played]
    again = play(policy, KVEngine(policy), blank, rules)
    for before, after in zip(played, again, strict=True):
        assert after.turns[0].ids == before.turns[0].ids
        assert after.turns[0].observation.ids == before.turns[0].observation.ids
        assert after.images[0] is before.images[0]
        assert set(after.images[1].getdata()) == {(128, 128, 128)}
    same = play(policy, KVEngine(policy), [reopen(t, lambda crop, _: crop) for t in played], rules)
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


def test_positions_equal_those_of_transformers_for_both_families(policy):
    played = play(policy, steer(policy, boxes_of(policy), 2), opened(policy), Rules(2, 64, Sampling(1.0, 8)))
    for t in played:
        pixels = policy.pack(t.images)
        ids = torch.tensor([t.ids])
        theirs, _ = policy.core.get_rope_index(ids, mm_token_type_ids=(ids == policy.image_pad_id).int(), image_grid_thw=pixels.grids)
        grids = [tuple(grid) for grid in pixels.grids.tolist()]
        assert torch.equal(theirs[:, 0], torch.from_numpy(positions(t.ids, grids, policy.image_pad_id, policy.merge)))


def test_placeholders_that_do_not_match_the_pixels_are_an_error(policy):
    pad = policy.image_pad_id
    with pytest.raises(ValueError, match="3 image placeholders stand for 4 visual tokens"):
        positions([1, pad, pad, pad, 1], [(1, 4, 4)], pad, policy.merge)
