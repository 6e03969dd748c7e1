"""The recipe of the base policy: symmetric noise, a batch by its number alone."""

import math

import numpy as np
import torch

from focus.data.pages import DIFFICULTY, Page
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
