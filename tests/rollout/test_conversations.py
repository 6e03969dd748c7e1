"""Conversations that are played together: each goes on as soon as its own crop is cut, and each is what it would be alone."""

import threading
from dataclasses import replace

import pytest

from focus.model.loading import EMBEDDED, load_model
from focus.rollout.engine import Requests, Sampling
from focus.rollout.kv import KVEngine
from focus.rollout.loop import RolloutLimits, play, request_for
from tests.support.scripted import Scripted, call, opened

CALL, BLUE = call(0, 0, 50, 50), "<answer>blue</answer><|im_end|>"
LIMITS = RolloutLimits(1, 64, Sampling(1.0, 60))


class AsTheyCome(KVEngine):
    """Samples every turn alone, as soon as it is asked."""

    def generate(self, requests, sampling):
        for request in requests:
            yield from self.generate_turn([request], sampling)


def three(policy, alter):
    """Three conversations, with seeds 0, 1 and 2, whose crops `alter` replaces."""
    return [replace(t, alter=alter) for t in opened(policy, questions=1, siblings=3)]


def test_a_conversation_goes_on_while_the_crop_of_another_is_cut(qwen3_vl):
    others_ended = threading.Event()

    class Noting(Scripted):
        def generate(self, requests, sampling):
            for turn, each in enumerate(super().generate(requests, sampling)):
                if turn == 4:  # all but the second turn of the first conversation
                    others_ended.set()
                yield each

    def slow(crop, call, before):
        assert before.seed != 0 or others_ended.wait(60), "the others wait for this crop"
        return crop

    played = play(qwen3_vl, Noting(qwen3_vl, CALL, BLUE), three(qwen3_vl, slow), LIMITS)
    assert [t.answer for t in played] == ["blue"] * 3


def test_the_kv_engine_samples_a_turn_of_all_conversations_together_in_their_order(qwen3_vl):
    last_is_cut = threading.Event()
    batches = []

    class Noting(KVEngine):
        def generate_turn(self, requests, sampling):
            batches.append([request.conversation for request in requests])
            for request in requests:
                yield request, Scripted(self.policy, CALL, BLUE).says(request, sampling)

    def slow(crop, call, before):  # the crop of the first conversation is ready last
        if before.seed == 2:
            last_is_cut.set()
        assert before.seed != 0 or last_is_cut.wait(60)
        return crop

    play(qwen3_vl, Noting(qwen3_vl), three(qwen3_vl, slow), LIMITS)
    assert batches == [[0, 1, 2]] * 2


def test_conversations_are_the_same_whether_their_turns_are_sampled_together_or_as_they_come():
    policy = load_model(EMBEDDED, "tiny")
    together, apart = (play(policy, engine(policy), opened(policy), LIMITS) for engine in (KVEngine, AsTheyCome))
    assert [t.ids for t in together] == [t.ids for t in apart]
    assert sum(len(t.crops) for t in together) > 0


@pytest.mark.parametrize("engine", [KVEngine, AsTheyCome])
def test_a_crop_that_cannot_be_cut_ends_the_rollouts_with_its_error(engine):
    def broken(crop, call, before):
        raise ValueError("no such pixels")

    policy = load_model(EMBEDDED, "tiny")
    with pytest.raises(ValueError, match="no such pixels"):
        play(policy, engine(policy), three(policy, broken), LIMITS)


def test_a_thread_that_waits_for_a_request_gets_none_when_the_caller_stops(qwen3_vl):
    requests = Requests([request_for(t, -1) for t in opened(qwen3_vl, questions=1, siblings=1)])
    taken = []
    thread = threading.Thread(target=lambda: taken.extend(requests))
    thread.start()
    requests.close()
    thread.join(60)
    assert not thread.is_alive() and len(taken) == 1
