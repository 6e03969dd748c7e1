"""Information gain (E9): worked by hand, equal to the naive way, on a schedule, asked of a frozen reader, and what does not pay."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from focus.model import loading
from focus.model.loading import EMBEDDED
from focus.model.policy_model import PolicyModel
from focus.model.prompts import ANSWER_OPEN, Answer, Fault, encode
from focus.rewards import InformationGain
from focus.rewards.terms import information_gain, total
from focus.rollout.engine import Request, Sampling
from focus.rollout.kv import KVEngine
from focus.rollout.loop import RolloutLimits, play, reopen, request_for
from focus.rollout.substitutes import elsewhere
from focus.rollout.trajectory import Status, Trajectory, Turn
from tests.support.policies import random_qwen2_5_vl, random_qwen3_vl
from tests.support.reference import plain_logprobs
from tests.support.scripted import boxes_of, call, forwards, opened, playing, steer
from tests.support.updates import Parity, module_of, questions, trainer, weights

LN = {p: math.log(p) for p in (0.1, 0.2, 0.4, 0.8, 0.9)}
BLUE = "<answer>blue</answer><|im_end|>"
ZOOM = call(100, 100, 400, 400)
LIMITS = RolloutLimits(2, 16, Sampling(1.0, 60))
DIGITS = list("0123456789")


# ------------------------------------------------------------------------------------------------------------ the equation


def test_the_gain_is_the_labels_probability_with_the_own_crop_minus_the_best_without_it():
    assert information_gain(LN[0.8], [LN[0.2], LN[0.4]]) == pytest.approx(0.4)  # 0.8 - 0.4
    assert information_gain(LN[0.8], [LN[0.2]]) == pytest.approx(0.6)


def test_a_crop_that_tells_less_than_the_best_of_the_others_earns_nothing_and_loses_nothing():
    assert information_gain(LN[0.2], [LN[0.4]]) == 0
    assert information_gain(LN[0.8], [LN[0.1], LN[0.9]]) == 0


def test_a_placebo_that_misleads_pays_nothing():
    """The mean over placebos paid loose crops for it: their placebos show another sign, and so does the loss of the answer."""
    assert information_gain(LN[0.9], [LN[0.8], LN[0.1]]) == pytest.approx(information_gain(LN[0.9], [LN[0.8]]))


nats = st.one_of(st.floats(-200, 0), st.just(-math.inf))


@given(own=nats, placebos=st.lists(nats, min_size=1, max_size=4))
def test_the_gain_lies_between_zero_and_one(own, placebos):
    assert 0 <= information_gain(own, placebos) <= 1


# ------------------------------------------------------------------------------------------------- weighing, the naive way


def ending(t: Trajectory, policy: PolicyModel, label: str) -> Trajectory:
    """This conversation, then `<answer>` that nobody sampled, then the label: the sequence built by hand."""
    words, ids = (tuple(encode(policy.tokenizer, text)) for text in (ANSWER_OPEN, label))
    if t.turns:
        last = t.turns[-1]
        told = replace(last.observation, ids=(*last.observation.ids, *words))
        t = replace(t, turns=(*t.turns[:-1], replace(last, observation=told)))
    else:
        t = replace(t, prefill_ids=(*t.prefill_ids, *words))
    return t.with_turn(Turn(ids, (0.0,) * len(ids), label, Answer(label)), Status.ANSWERED)


def naive(policy: PolicyModel, t: Trajectory, label: str) -> list[float]:
    """Log-probability of the label's tokens, by one plain forward of transformers over the whole sequence."""
    with torch.no_grad():
        return plain_logprobs(policy, ending(t, policy, label))[-len(encode(policy.tokenizer, label)) :].tolist()


def after(t: Trajectory, turns: int) -> Trajectory:
    """The conversation up to the observation of that many turns."""
    return replace(t, turns=t.turns[:turns], status=Status.OPEN)


def asked_of(policy: PolicyModel, t: Trajectory, turns: int, label: str) -> tuple[Request, int]:
    ids = encode(policy.tokenizer, label)
    return request_for(after(t, turns), turns - 1, [*encode(policy.tokenizer, ANSWER_OPEN), *ids]), len(ids)


def rolled(policy: PolicyModel, crops: int, siblings: int = 2, keep_all_turns: bool = True) -> tuple[KVEngine, list[Trajectory]]:
    """A real rollout of two questions, and the engine that still holds it."""
    engine = steer(policy, boxes_of(policy), crops)
    engine.keep_all_turns = keep_all_turns
    played = play(policy, engine, opened(policy, siblings=siblings), replace(LIMITS, max_crops=crops))
    assert [len(t.crops) for t in played] == [crops] * len(played)
    return engine, played


def test_weighed_labels_equal_a_full_forward_with_and_without_the_cache(policy):
    """Ragged labels, several children of one parent, children of the prompt, of the first and of the second turn side by side."""
    engine, played = rolled(policy, 2)
    labels = ("7", "42", "oyster 100")
    wanted = [(t, turns, label) for i, t in enumerate(played) for turns in (2, 0, 1) for label in labels[: 1 + i % 3]][::-1]
    lengths = {label: len(encode(policy.tokenizer, label)) for label in labels}
    assert len(set(lengths.values())) == 3
    expected = [naive(policy, after(t, turns), label) for t, turns, label in wanted]

    def weighed() -> list[list[float]]:
        asked = [asked_of(policy, *each) for each in wanted]
        return engine.logprobs([request for request, _ in asked], [tail for _, tail in asked])

    cached = weighed()
    again = weighed()  # to weigh leaves what is kept as it was
    engine.clear_cache()
    for found in (cached, again, weighed()):
        assert [len(each) for each in found] == [lengths[label] for _, _, label in wanted]
        apart = torch.tensor([a - b for each, right in zip(found, expected, strict=True) for a, b in zip(each, right, strict=True)])
        assert apart.abs().max() < 2e-5


def test_the_end_of_a_rollout_is_weighed_without_reading_the_rollout_again(policy, monkeypatch):
    engine, played = rolled(policy, 1)
    asked = [asked_of(policy, t, 1, "42") for t in played]
    tokens = forwards(policy, monkeypatch)
    engine.logprobs([request for request, _ in asked], [tail for _, tail in asked])
    # the observation, <answer> and the label; and the last token of the turn, which was sampled and never fed
    assert tokens == [sum(1 + len(t.turns[0].observation.ids) + len(encode(policy.tokenizer, f"{ANSWER_OPEN}42")) for t in played)]


def test_without_earlier_turns_in_memory_a_label_weighs_the_same(policy):
    """Only the last turn of what was played is held then: earlier ones are read again."""
    weighed = []
    for keeps in (True, False):
        engine, played = rolled(policy, 2, keep_all_turns=keeps)
        kept = [sum(turn.request_id in engine._cached for turn in t.turns) for t in played]
        assert kept == [3 if keeps else 1] * len(played)
        asked = [asked_of(policy, t, turns, "42") for t in played for turns in (0, 1, 2)]
        weighed.append(engine.logprobs([request for request, _ in asked], [tail for _, tail in asked]))
    for a, b in zip(*weighed, strict=True):
        assert a == pytest.approx(b, abs=2e-5)


@pytest.mark.parametrize(("weight", "reader", "keeps"), [(0.5, "policy", True), (0.5, None, False), (0.0, None, False)])
def test_only_a_gain_that_is_paid_and_read_by_the_policy_keeps_all_turns_in_memory(qwen3_vl, weight, reader, keeps):
    engine = KVEngine(qwen3_vl)
    InformationGain(weight, reader=reader).attach(qwen3_vl, engine, LIMITS)
    assert engine.keep_all_turns is keeps


def test_what_must_not_be_sampled_is_never_likely_and_takes_no_probability_from_a_label():
    policy = random_qwen3_vl(seed=1)
    policy.model.lm_head.bias = torch.nn.Parameter(torch.zeros(len(policy.tokenizer)))
    [t] = opened(policy, questions=1, siblings=1)
    asked, tail = asked_of(policy, t, 0, "42")
    [before] = KVEngine(policy).logprobs([asked], [tail])
    with torch.no_grad():
        policy.model.lm_head.bias[policy.banned_ids] = 20.0
    [banned_are_likely] = KVEngine(policy).logprobs([asked], [tail])
    assert banned_are_likely == pytest.approx(before, abs=1e-5)
    with torch.no_grad():
        policy.model.lm_head.bias[policy.stop_ids] = 20.0  # tokens that may be sampled do take it
    [stops_are_likely] = KVEngine(policy).logprobs([asked], [tail])
    assert max(stops_are_likely) < -10
    [[value]] = KVEngine(policy).logprobs([request_for(t, -1, policy.ids_of(["<|vision_start|>"]))], [1])
    assert value == -math.inf


def test_nothing_to_weigh_is_nothing():
    assert KVEngine(random_qwen3_vl(seed=1)).logprobs([], []) == []


# ----------------------------------------------------------------------------------------------- a label after a real rollout


@pytest.fixture(scope="module", params=[random_qwen2_5_vl, random_qwen3_vl])
def heeding(request) -> PolicyModel:
    """A random policy whose images move what it says and that likes to say digits: its gains are not all 0."""
    made = request.param()
    made.model.eval()
    ids = made.tokenizer.convert_tokens_to_ids(DIGITS)
    with torch.no_grad():
        made.model.lm_head.weight[ids] *= 2
        made.model.lm_head.bias = torch.nn.Parameter(torch.zeros(len(made.tokenizer)))
        made.model.lm_head.bias[ids] = 8.0
        for parameter in made.backbone.visual.parameters():
            parameter *= 4
    return made


def term(policy: PolicyModel, engine, weight: float = 1.0, limits: RolloutLimits = LIMITS, reader="policy", **settings) -> InformationGain:
    """Read by the policy itself, so that an engine that is told what to weigh is asked for everything."""
    made = InformationGain(weight, reader=reader, **settings)
    made.attach(policy, engine, limits)
    return made


def said(policy: PolicyModel, *script: str, max_crops: int = 1) -> Trajectory:
    """A scripted conversation under the limits by which placebos are cut."""
    return playing(policy, *script, max_crops=max_crops, crop_tokens=LIMITS.crop_tokens)


def by_hand(policy: PolicyModel, t: Trajectory, placebos: int) -> list[float]:
    """The label's probability with the own crop, before any crop and with every placebo, from a plain forward of its own each time."""

    def likely(history: Trajectory) -> float:
        values = naive(policy, history, t.sample.answers[0])
        return math.exp(sum(values) / len(values))

    own = likely(after(t, max(n for n, turn in enumerate(t.turns, start=1) if turn.observation)))
    alters = [elsewhere(LIMITS, policy.token_px, draw, avoid_targets=False) for draw in range(placebos)]
    others = [likely(replace(t, prefill="", prefill_ids=(), turns=())), *(likely(reopen(policy, t, alter)) for alter in alters)]
    return [own, *others]


def margin(own: float, *others: float) -> float:
    return max(0.0, own - max(others))


def without_a_crop(t: Trajectory) -> Trajectory:
    return replace(t, turns=(Turn((5, 6), (-0.1, -0.2), BLUE, Answer("blue")),), status=Status.ANSWERED)


@pytest.mark.parametrize(("crops", "placebos"), [(1, 2), (2, 1)])
def test_the_score_equals_the_gain_by_plain_forwards_with_and_without_the_cache(heeding, crops, placebos):
    engine, played = rolled(heeding, crops)
    likely = [by_hand(heeding, t, placebos) for t in played]
    gain = term(heeding, engine, placebos=placebos)
    own, others = gain._mean_logprobs([gain._own(t) for t in played]), gain._counterfactuals(played)
    found = [[math.exp(value) for value in (a, *b)] for a, b in zip(own, others, strict=True)]
    assert max(abs(values[0] - values[-1]) for values in likely) > 1e-3  # what the crop shows moves what is said
    for a, b in zip(found, likely, strict=True):
        assert a == pytest.approx(b, abs=5e-6)
    trajectories = [played[0], without_a_crop(played[0]), *played[1:]]
    expected = [margin(*likely[0]), 0.0, *(margin(*values) for values in likely[1:])]
    assert gain.score(trajectories) == pytest.approx(expected, abs=5e-6)
    engine.clear_cache()
    assert gain.score(trajectories) == pytest.approx(expected, abs=5e-6)
    assert gain.score(trajectories[::-1])[::-1] == pytest.approx(expected, abs=5e-6)


def test_a_call_that_failed_before_the_crop_stays_part_of_both_conversations(heeding):
    t = said(heeding, call(9000, 9000, 9999, 9999), call(10, 10, 60, 60), BLUE, max_crops=2)
    assert [turn.observation is not None for turn in t.turns] == [True, True, False] and len(t.crops) == 1
    assert term(heeding, KVEngine(heeding)).score([t]) == pytest.approx([margin(*by_hand(heeding, t, 1))], abs=5e-6)


# ------------------------------------------------------------------------------------------- what is asked, by a told engine


class Told:
    """An engine that weighs as it is told: `value` gives the log-probability of every token of a conversation's end."""

    def __init__(self, value: Callable[[Request], float | Sequence[float]]) -> None:
        self.value, self.asked = value, []

    def logprobs(self, requests, tails):
        self.asked += requests
        values = [self.value(request) for request in requests]
        return [[value] * tail if isinstance(value, float) else list(value) for value, tail in zip(values, tails, strict=True)]

    def clear_cache(self) -> None:
        pass

    def sync_weights(self) -> None:
        pass


def pixels(images) -> list[bytes]:
    return [image.tobytes() for image in images]


def sees(t: Trajectory, own: float, *others: float) -> Told:
    """`own` for a conversation that shows this trajectory's very pixels, for all others the next of `others`, over and over."""
    turn = 0

    def value(request: Request) -> float:
        nonlocal turn
        if pixels(request.images) == pixels(t.images):
            return own
        turn += 1
        return others[(turn - 1) % len(others)]

    return Told(value)


class Silent:
    """An engine that must not be asked for anything."""

    def logprobs(self, requests, tails):
        assert not any(len(request.images) > 1 for request in requests), "a label was weighed after a crop that is none"
        return [[0.0] * tail for tail in tails]


def test_one_rollout_by_hand(qwen3_vl):
    t = said(qwen3_vl, ZOOM, BLUE)
    assert term(qwen3_vl, sees(t, LN[0.8], LN[0.1], LN[0.2], LN[0.4]), placebos=2).score([t]) == pytest.approx([0.4])
    assert term(qwen3_vl, sees(t, LN[0.8], LN[0.4], LN[0.2]), placebos=1).score([t]) == pytest.approx([0.4])  # the view alone is best
    assert term(qwen3_vl, sees(t, LN[0.8], LN[0.2])).score([t]) == pytest.approx([0.6])


def test_a_label_of_several_tokens_counts_by_the_mean_of_its_logarithms(qwen3_vl):
    """Otherwise a long label would earn less than a short one."""
    t = said(qwen3_vl, ZOOM, BLUE)
    assert len(encode(qwen3_vl.tokenizer, t.sample.answers[0])) == 2
    engine = Told(lambda c: (LN[0.9], LN[0.4]) if pixels(c.images) == pixels(t.images) else (LN[0.1], LN[0.4]))
    assert term(qwen3_vl, engine).score([t]) == pytest.approx([0.6 - 0.2])  # roots of 0.36 and of 0.04


def test_only_the_label_is_weighed_after_the_own_turns_and_the_opening_of_an_answer(qwen3_vl):
    t = said(qwen3_vl, ZOOM, BLUE)
    engine = Told(lambda c: 0.0)
    term(qwen3_vl, engine).score([t])
    own, before, placebo, tool_free = engine.asked
    said_and_seen = [*t.prompt_ids, *t.turns[0].ids, *t.turns[0].observation.ids]
    assert list(own.ids) == [
        *said_and_seen,
        *encode(qwen3_vl.tokenizer, ANSWER_OPEN + t.sample.answers[0]),
    ]  # the policy's own answer is gone
    assert placebo.ids == own.ids
    assert list(before.ids) == list(tool_free.ids) == [*t.prompt_ids, *encode(qwen3_vl.tokenizer, ANSWER_OPEN + t.sample.answers[0])]


def test_with_two_crops_the_own_conversation_keeps_both_and_every_placebo_replaces_both(qwen3_vl):
    t = said(qwen3_vl, call(100, 100, 400, 400), call(500, 600, 800, 900), BLUE, max_crops=2)
    engine = Told(lambda c: 0.0)
    term(qwen3_vl, engine, placebos=2).score([t])
    own, _, first, second, _ = engine.asked
    assert pixels(own.images) == pixels(t.images) and len(own.images) == 3
    for placebo in (first, second):
        assert placebo.images[0] is t.images[0]
        for shown, crop in zip(placebo.images[1:], t.images[1:], strict=True):
            assert shown.size == crop.size and shown.tobytes() != crop.tobytes()
    assert pixels(first.images)[1:] != pixels(second.images)[1:]  # two draws are two places


# ------------------------------------------------------------------------------------------------------------ the schedule


def at(gain: InformationGain, updates_done: int) -> InformationGain:
    gain.on_train_batch_start(None, SimpleNamespace(updates_done=updates_done), None, 0)
    return gain


def test_without_a_weight_it_is_computed_every_so_many_updates_and_is_not_a_number_between(qwen3_vl):
    t = said(qwen3_vl, ZOOM, BLUE)
    gain = term(qwen3_vl, sees(t, LN[0.8], LN[0.2]), weight=0.0, every=2)
    assert gain.score([t]) == pytest.approx([0.6])  # before any training
    seen = [at(gain, updates).score([t])[0] for updates in range(5)]
    assert seen[::2] == pytest.approx([0.6] * 3) and all(map(math.isnan, seen[1::2]))


def test_without_a_weight_and_a_schedule_it_is_never_computed(qwen3_vl):
    t = said(qwen3_vl, ZOOM, BLUE)
    gain = term(qwen3_vl, Silent(), weight=0.0, every=0)
    assert all(math.isnan(gain.score([t, t])[1]) for _ in [None, *(at(gain, updates) for updates in range(3))])


@pytest.mark.parametrize("every", [0, 20])
def test_with_a_weight_it_is_computed_always(qwen3_vl, every):
    t = said(qwen3_vl, ZOOM, BLUE)
    gain = term(qwen3_vl, sees(t, LN[0.8], LN[0.2]), weight=0.5, every=every)
    assert [at(gain, updates).score([t])[0] for updates in range(3)] == pytest.approx([0.6] * 3)


def test_a_term_that_only_looks_may_be_no_number_and_one_that_pays_may_not():
    raw = {"accuracy": 1.0, "information_gain": math.nan}
    assert total(raw, {"accuracy": 0.8, "information_gain": 0.0}, {}) == pytest.approx(0.8)
    assert math.isnan(total(raw, {"accuracy": 0.8, "information_gain": 0.1}, {}))


def test_in_training_a_term_that_only_looks_follows_its_schedule_and_leaves_the_reward_alone():
    module = module_of(random_qwen3_vl(seed=1))
    module.engine = steer(module.policy, boxes_of(module.policy), 1)
    module.limits = replace(LIMITS, max_crops=1)
    gain = term(module.policy, module.engine, weight=0.0, every=2)
    module.rewards, seen = [Parity(1.0), gain], []
    module._log_update = lambda trajectories, scores, *_, **__: seen.append(scores)
    trainer(callbacks=[gain]).fit(module, questions(3, per_update=1))
    assert [any(map(math.isnan, scores.raw["information_gain"])) for scores in seen] == [False, True, False]
    assert all(scores.total == scores.raw["parity"] for scores in seen)


# ---------------------------------------------------------------------------------------------------------- a frozen reader


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("reader") / "policy"
    random_qwen3_vl(seed=9).save(place)
    return place


def test_a_reader_is_asked_in_place_of_the_policy_and_does_not_move_with_it(folder):
    policy = random_qwen3_vl(seed=1)
    policy.model.eval()
    engine, played = rolled(policy, 1)
    read = term(policy, engine, reader=str(folder))
    own = term(policy, engine, reader="policy")
    reader = loading.load_model(folder, "tiny")
    weighed = [naive(reader, after(t, 1), t.sample.answers[0]) for t in played]
    values, before = (each._mean_logprobs([each._own(t) for t in played]) for each in (read, own))
    assert values == pytest.approx([sum(each) / len(each) for each in weighed], abs=2e-5)
    assert max(abs(a - b) for a, b in zip(values, before, strict=True)) > 0.1
    gains = read.score(played)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter *= 1.5
    engine.clear_cache()
    assert read.score(played) == gains
    assert read._mean_logprobs([read._own(t) for t in played]) == values
    assert max(abs(a - b) for a, b in zip(own._mean_logprobs([own._own(t) for t in played]), before, strict=True)) > 0.1


@pytest.mark.parametrize(("weight", "moves"), [(1.0, False), (0.0, True)])
def test_unless_told_otherwise_a_paid_gain_is_read_by_the_policy_of_the_start_and_one_that_is_only_logged_by_that_of_now(weight, moves):
    """A policy that is paid for what its crop adds could otherwise predict worse without the crop."""
    policy = random_qwen3_vl(seed=1)
    policy.model.eval()
    t = said(policy, ZOOM, BLUE)
    gain = term(policy, KVEngine(policy), weight=weight, reader=None)

    def likely() -> list[float]:
        gain._engine.clear_cache()
        return [*gain._mean_logprobs([gain._own(t)]), *gain._counterfactuals([t])[0]]

    before = likely()
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter *= 1.5
    assert (max(abs(a - b) for a, b in zip(likely(), before, strict=True)) > 0.1) is moves


def test_frozen_weights_are_shared_with_the_reader_and_none_of_the_others():
    policy = random_qwen3_vl(seed=1)
    policy.backbone.visual.requires_grad_(False)
    reader = term(policy, KVEngine(policy), reader="start")._reader
    shared = {id(p) for p in policy.model.parameters()} & {id(p) for p in reader.model.parameters()}
    assert shared == {id(p) for p in policy.backbone.visual.parameters()}
    assert not any(p.requires_grad for p in reader.model.parameters()) and policy.unwrapped.lm_head.weight.requires_grad


def test_a_paid_gain_logs_how_likely_the_policy_of_now_gives_the_label_before_any_crop(qwen3_vl, folder):
    """The product over the label's tokens: how often an answer sampled at temperature 1 begins so. Once a question, cropped or not."""
    t, other = said(qwen3_vl, ZOOM, BLUE), said(qwen3_vl, BLUE)
    engine = Told(lambda c: (LN[0.9], LN[0.4]))
    gain = term(qwen3_vl, engine, reader=str(folder))
    assert math.isnan(gain.metrics()["gain/tool_free"])
    gain.score([t, without_a_crop(t), other])
    assert [list(c.images) for c in engine.asked] == [[t.view.image], [other.view.image]]
    assert gain.metrics() == {"gain/tool_free": pytest.approx(0.36)}
    assert math.isnan(at(gain, 1).metrics()["gain/tool_free"])  # the next update begins anew
    assert term(qwen3_vl, engine, weight=0.0).metrics() == {}


def test_a_reader_learns_nothing_while_the_policy_does(folder):
    module = module_of(random_qwen3_vl(seed=1))
    module.engine = steer(module.policy, boxes_of(module.policy), 1)
    module.limits = replace(LIMITS, max_crops=1)
    gain = term(module.policy, module.engine, reader=str(folder))
    module.rewards = [Parity(1.0), gain]
    module._log_update = lambda *_, **__: None
    reader, hashed, before = gain._reader.model, gain._reader.weights_hash(), weights(module)
    trainer(callbacks=[gain]).fit(module, questions(1, per_update=1))
    assert any(not torch.equal(a, b) for a, b in zip(before.values(), weights(module).values(), strict=True))
    assert gain._reader.weights_hash() == hashed
    assert all(parameter.grad is None for parameter in reader.parameters())
    assert not {id(parameter) for parameter in module.parameters()} & {id(parameter) for parameter in reader.parameters()}


def test_a_reader_with_other_tokens_is_refused(tmp_path):
    folder = tmp_path / "reader"
    other = random_qwen3_vl(seed=9)
    other.tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    other.tokenizer.add_tokens(["zebra"])
    other.unwrapped.resize_token_embeddings(len(other.tokenizer))
    other.save(folder)
    with pytest.raises(ValueError, match=r"the reader .*reader has other tokens or another patch size than the policy; choose one of its"):
        term(random_qwen3_vl(seed=1), Silent(), reader=str(folder))


def test_a_reader_with_another_patch_size_is_refused(tmp_path):
    folder = tmp_path / "reader"
    other = random_qwen3_vl(seed=9)
    projection = other.backbone.visual.patch_embed.proj
    other.backbone.visual.patch_embed.proj = torch.nn.Conv3d(3, projection.out_channels, (2, 16, 16), (2, 16, 16))
    other.unwrapped.config.vision_config.patch_size = other.image_processor.patch_size = 16
    other.save(folder)
    with pytest.raises(ValueError, match="has other tokens or another patch size"):
        term(random_qwen3_vl(seed=1), Silent(), reader=str(folder))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"placebos": -1}, r"placebos=-1 .* whole numbers, 0 or more"),
        ({"every": -1}, r"every=-1; both are whole numbers, 0 or more"),
    ],
)
def test_settings_that_mean_nothing_are_refused_with_what_is_allowed(settings, message):
    with pytest.raises(ValueError, match=message):
        InformationGain(1.0, **settings)


# --------------------------------------------------------------------------------------------------------- what does not pay


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        pytest.param([BLUE], None, id="no call"),
        pytest.param([ZOOM + ZOOM, BLUE], Fault.REPEATED, id="the same call twice in one turn"),
        pytest.param(["<tool_call>look closer</tool_call>", BLUE], Fault.NOT_JSON, id="a malformed call"),
        pytest.param([call(2000, 2000, 3000, 3000), BLUE], Fault.OUTSIDE, id="a call beside the image"),
        pytest.param(["<answer>blue</answer>" + ZOOM, BLUE], Fault.CALL_AND_ANSWER, id="a call after the answer"),
        pytest.param(["<answer>blue</answer><|im_end|>", ZOOM], None, id="a call in a turn that no longer comes"),
    ],
)
def test_a_call_that_delivers_no_crop_earns_nothing_and_no_one_is_asked(qwen3_vl, script, fault):
    t = said(qwen3_vl, *script)
    assert getattr(t.turns[0].action, "fault", None) is fault and not t.crops
    assert term(qwen3_vl, Silent()).score([t]) == [0.0]


def test_a_crop_that_misses_earns_nothing_though_its_placebo_shows_the_answer(qwen3_vl):
    t = said(qwen3_vl, ZOOM, BLUE)
    assert term(qwen3_vl, sees(t, LN[0.2], LN[0.2], LN[0.9])).score([t]) == [0.0]


def test_placebos_avoid_the_own_crop_alone_so_that_an_annotation_changes_nothing(qwen3_vl):
    t = said(qwen3_vl, ZOOM, BLUE)
    bare = replace(t, sample=replace(t.sample, boxes=()))
    for draw in range(3):
        alter = elsewhere(LIMITS, qwen3_vl.token_px, draw, avoid_targets=False)
        shown, unannotated = (reopen(qwen3_vl, each, alter).images[1] for each in (t, bare))
        assert shown.tobytes() == unannotated.tobytes() != t.images[1].tobytes()


@pytest.mark.parametrize("placebos", [1, 2])
def test_a_crop_of_the_whole_image_is_its_own_placebo_and_earns_nothing(qwen3_vl, placebos):
    t = said(qwen3_vl, call(0, 0, 1000, 1000), BLUE)
    assert t.crops[0].box_px == (0, 0, *t.sample.size)
    engine = sees(t, LN[0.8], LN[0.1])
    assert term(qwen3_vl, engine, placebos=placebos).score([t]) == [0.0]
    assert len(engine.asked) == 3 + placebos  # own, before any crop, and that again for the log


def test_a_crop_of_the_whole_image_earns_nothing_from_a_real_policy(heeding):
    width, height = said(heeding, BLUE).view.size
    box = (0, 0, 1000, 1000) if heeding.dialect.name != "qwen2_5_vl" else (0, 0, width, height)
    t = said(heeding, call(*box), BLUE)
    assert t.crops[0].box_px == (0, 0, *t.sample.size)
    assert term(heeding, KVEngine(heeding), placebos=2).score([t]) == pytest.approx([0.0], abs=1e-5)


def test_the_same_crop_again_is_not_paid_again(qwen3_vl):
    once, twice = said(qwen3_vl, ZOOM, BLUE), said(qwen3_vl, ZOOM, ZOOM, BLUE, max_crops=2)
    assert len(twice.crops) == 2 and twice.crops[0] == twice.crops[1]
    assert [term(qwen3_vl, sees(t, LN[0.8], LN[0.2])).score([t])[0] for t in (once, twice)] == pytest.approx([0.6, 0.6])


def test_a_wrong_answer_after_a_telling_crop_earns_as_much_as_a_right_one(qwen3_vl):
    """The policy's own answer is not read: a term that pays it twice would be the accuracy again."""
    wrong = said(qwen3_vl, ZOOM, BLUE)
    right = said(qwen3_vl, ZOOM, f"<answer>{wrong.sample.answers[0]}</answer><|im_end|>")
    assert [term(qwen3_vl, sees(t, LN[0.8], LN[0.2])).score([t])[0] for t in (wrong, right)] == pytest.approx([0.6, 0.6])


@pytest.mark.parametrize("crops", [1, 2])
def test_without_placebos_a_crop_is_compared_with_the_answer_before_any_crop(heeding, crops):
    engine, played = rolled(heeding, crops)
    before = [sum(each) / len(each) for each in (naive(heeding, after(t, 0), t.sample.answers[0]) for t in played)]
    gain = term(heeding, engine, placebos=0)
    expected = [margin(*by_hand(heeding, t, 0)) for t in played]
    for _ in range(2):
        assert [value for [value] in gain._counterfactuals(played)] == pytest.approx(before, abs=5e-5)
        assert gain.score(played) == pytest.approx(expected, abs=5e-6)
        assert gain.score(played[::-1])[::-1] == pytest.approx(expected, abs=5e-6)
        engine.clear_cache()


def test_without_placebos_siblings_share_one_counterfactual_that_shows_the_view_alone(qwen3_vl):
    _, played = rolled(qwen3_vl, 1)
    engine = Told(lambda c: -1.0)
    term(qwen3_vl, engine, placebos=0).score([*played, without_a_crop(played[0])])
    before = engine.asked[len(played) : len(played) + 2]
    words = encode(qwen3_vl.tokenizer, ANSWER_OPEN)
    assert [list(c.ids) for c in before] == [[*t.prompt_ids, *words, *encode(qwen3_vl.tokenizer, t.sample.answers[0])] for t in played[::2]]
    assert [c.images for c in before] == [(t.view.image,) for t in played[::2]]


def test_a_reader_never_takes_a_question_for_an_earlier_one(folder):
    """A later question may stand where an earlier one stood in memory."""
    policy = random_qwen3_vl(seed=1)
    gain = term(policy, KVEngine(policy), reader=str(folder))
    for index in range(8):
        t = playing(policy, ZOOM, BLUE, index=index, crop_tokens=LIMITS.crop_tokens)
        found = gain._mean_logprobs([gain._own(t)])
        gain.score([t])
        assert found == pytest.approx([np.mean(naive(gain._reader, after(t, 1), t.sample.answers[0]))], abs=2e-5)
        del t
