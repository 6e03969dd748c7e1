"""The recipe of the base policy: symmetric noise, a batch by its number alone."""

import math

import numpy as np
import pytest
import torch

from focus.data.pages import DIFFICULTY, Page
from focus.data.relations import DIFFICULTY as RELATION_DIFFICULTY
from focus.data.relations import Relation
from focus.model.loading import EMBEDDED, load_model
from focus.model.policy_model import PolicyModel
from focus.pretraining import architecture, pictures, transcripts
from focus.pretraining.tokenizer import build_tokenizer


def test_the_noise_of_taught_boxes_is_symmetric_in_centre_and_log_size():
    random = np.random.default_rng(0)
    boxes = np.array([transcripts._noisy((100, 200, 180, 260), random) for _ in range(20_000)])
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 - (140, 230)
    log_size = np.log((boxes[:, 2:] - boxes[:, :2]) / (80, 60))
    for values, spread in ((centre / (80, 60), transcripts.CENTRE_NOISE), (log_size, transcripts.SIZE_NOISE)):
        assert np.abs(values.mean(0)).max() < 4 * spread / math.sqrt(20_000)
        assert np.abs(values.std(0) - spread).max() < 0.02 * spread + 0.005


def test_a_batch_depends_on_its_number_alone_and_teaches_only_what_the_policy_says():
    policy = architecture.build_model(build_tokenizer())
    phases = (transcripts.Phase(10**6, direct=0.5, levels=(0.5, 0.5, 0, 0, 0)),)
    one, two = (transcripts.Transcripts(policy, [1], phases, rows=4, start=start) for start in (0, 7))
    first, again = one.batch(7), next(iter(two))
    assert torch.equal(first.ids, again.ids) and torch.equal(first.pixels.values, again.pixels.values)
    learned = first.labels >= 0
    assert torch.equal(first.labels[learned], first.ids[learned])
    assert not (first.ids[learned] == policy.image_pad_id).any()


def test_a_batch_of_pages_looks_at_the_asked_number_and_answers_with_it():
    policy = architecture.build_model(build_tokenizer(640, pages=True), deepstack=())
    phases = (transcripts.Phase(10**6, direct=0.0, levels=(1, 0, 0, 0, 0), tight=(1, 1), pages=1.0),)
    batch = transcripts.Transcripts(policy, [1], phases, rows=4).batch(3)
    assert batch.kind == "page crop@16"
    read = [policy.tokenizer.decode(ids[labels >= 0]) for ids, labels in zip(batch.ids, batch.labels, strict=True)]
    asked = {f"<answer>{target.text}</answer>" for target in pictures.page_picture(Page(DIFFICULTY[1], "train", 12)).targets}
    assert all(any(answer in text for answer in asked) for text in read)
    assert batch.evidence.any(-1).any(-1).all()
    assert (batch.named[:, 1:] >= 0).any()


def test_a_policy_that_continues_has_the_weights_of_its_start_and_those_of_the_vocabulary_token_by_token():
    old, new = build_tokenizer(), build_tokenizer(640, pages=True)
    base, policy = architecture.build_model(old, seed=1), architecture.build_model(new, seed=2, deepstack=())
    before = policy.model.get_input_embeddings().weight.clone()
    architecture.inherit(policy, base)
    ours, theirs = (each.model.get_input_embeddings().weight for each in (policy, base))
    for token, i in new.get_vocab().items():
        known = old.get_vocab().get(token)
        assert torch.equal(ours[i], before[i] if known is None else theirs[known])
    shared = {name for name, _ in policy.model.named_parameters()} - {"model.language_model.embed_tokens.weight", "lm_head.weight"}
    own, start = dict(policy.model.named_parameters()), dict(base.model.named_parameters())
    assert shared and all(torch.equal(own[name], start[name]) for name in shared)


def test_a_number_of_a_street_is_named_digit_by_digit_on_the_tokens_that_show_it():
    whole = (0.0, 0.0, 224.0, 224.0)
    lengths = set()
    for index in range(12):
        picture = transcripts._close("street", 1, index)
        ((text_px, text),) = picture.texts
        named = transcripts._names(picture, (224, 224), whole, 28)
        under = transcripts._tokens_under(text_px, (224, 224), whole, 28)
        assert under.any() and (named[under, 1:] == [*map(int, text), *[-100] * (4 - len(text))]).all()
        assert (named[~under, 1:] == -100).all()
        lengths.add(len(text))
    assert len(lengths) > 1


@pytest.fixture(scope="module")
def embedded() -> PolicyModel:
    return load_model(EMBEDDED, "tiny")


def relations(policy: PolicyModel, direct: float) -> transcripts.Batch:
    phases = (transcripts.Phase(10**6, direct=direct, levels=(1, 0, 0, 0, 0), tight=(1, 1), relations=1.0),)
    return transcripts.Transcripts(policy, [1], phases, rows=4).batch(3)


def test_a_transcript_of_a_relation_calls_for_each_sign_in_turn_and_then_says_both_texts(embedded):
    policy, batch = embedded, relations(embedded, direct=0.0)
    assert batch.kind == "relation crop@16" and batch.shown == [0, 1, 2, 0, 3, 4, 5, 6, 7, 5, 8, 9]  # a view, a crop, a crop
    for row, (ids, labels) in enumerate(zip(batch.ids, batch.labels, strict=True)):
        said = policy.tokenizer.decode(ids[labels >= 0])
        assert [said.count(tag) for tag in ("<tool_call>", "</tool_call>", "<answer>")] == [2, 2, 1]
        assert policy.tokenizer.decode(ids).count("<tool_response>") == 2
        picture = pictures.relation_picture(Relation(RELATION_DIFFICULTY[1], "train", 12 + row // 2))
        assert len(picture.targets) == 2
        assert said.split("</tool_call>")[2] in {f"<answer>{target.text}</answer><|im_end|>" for target in picture.targets}


def test_both_texts_of_a_relation_are_weighted_and_each_is_looked_for_in_its_own_crop(embedded):
    policy, batch = embedded, relations(embedded, direct=0.0)
    for ids, weights, evidence in zip(batch.ids, batch.weights, batch.evidence, strict=True):
        digits = (weights == transcripts.ANSWER_WEIGHT).nonzero()[:, 0].tolist()
        assert len(digits) == 4 and digits[2] == digits[1] + 2  # a space stands between
        images = (ids == policy.image_pad_id).nonzero()[:, 0]
        starts = [int(i) for i in images if int(ids[i - 1]) != policy.image_pad_id]
        assert len(starts) == 3
        for k, digit in enumerate(digits):
            looked = evidence[digit - 1].nonzero()[:, 0]  # it is predicted at the token before
            crop = starts[1 + k // 2]
            assert len(looked) and looked.min() >= crop and (k // 2 == 1 or looked.max() < starts[2])


def test_a_direct_transcript_of_a_relation_looks_for_both_texts_in_the_view(embedded):
    batch = relations(embedded, direct=1.0)
    assert batch.kind == "relation direct@16" and batch.shown == [0, 0, 1, 1]
    for weights, evidence in zip(batch.weights, batch.evidence, strict=True):
        first, *_, last = (weights == transcripts.ANSWER_WEIGHT).nonzero()[:, 0].tolist()
        places = [set(evidence[digit - 1].nonzero()[:, 0].tolist()) for digit in (first, last)]
        start = evidence[int((weights > 0).nonzero()[0]) - 1].nonzero()[:, 0].tolist()  # where the choice between formats falls
        assert all(places) and places[0].isdisjoint(places[1]) and places[0] | places[1] <= set(start)


def test_a_phase_draws_each_kind_of_image_with_its_share():
    made = transcripts.Transcripts.__new__(transcripts.Transcripts)
    phase, random = transcripts.Phase(1, pages=0.2, streets=0.3, relations=0.4), np.random.default_rng(0)
    drawn = [made._world(phase, random) for _ in range(4000)]
    shares = {world: drawn.count(world) / 4000 for world in ("page", "street", "relation", "scene")}
    assert all(abs(shares[world] - share) < 0.03 for world, share in {"page": 0.2, "street": 0.3, "relation": 0.4, "scene": 0.1}.items())
