"""The recipe of the base policy: symmetric noise, a batch by its number alone."""

import math

import numpy as np
import torch

from focus.data.scenes import DIFFICULTY
from focus.pretraining import architecture, transcripts
from tests.support.policies import build_tokenizer


def test_the_noise_of_taught_boxes_is_symmetric_in_centre_and_log_size():
    random = np.random.default_rng(0)
    boxes = np.array([transcripts._noisy((100, 200, 180, 260), random) for _ in range(20_000)])
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 - (140, 230)
    log_size = np.log((boxes[:, 2:] - boxes[:, :2]) / (80, 60))
    for values, spread in ((centre / (80, 60), transcripts.CENTRE_NOISE), (log_size, transcripts.SIZE_NOISE)):
        assert np.abs(values.mean(0)).max() < 4 * spread / math.sqrt(20_000)
        assert np.abs(values.std(0) - spread).max() < 0.02 * spread + 0.005


def test_a_batch_depends_on_its_number_alone_and_teaches_only_what_the_policy_says():
    checkpoint = architecture.build_model(build_tokenizer())
    phases = (transcripts.Phase(10**6, direct=0.5, levels=(0.5, 0.5, 0, 0, 0)),)
    one, two = (transcripts.Transcripts(checkpoint, (DIFFICULTY[1],), phases, rows=4, start=start) for start in (0, 7))
    first, again = one.batch(7), next(iter(two))
    assert torch.equal(first.ids, again.ids) and torch.equal(first.pixels.values, again.pixels.values)
    learned = first.labels >= 0
    assert torch.equal(first.labels[learned], first.ids[learned])
    assert not (first.ids[learned] == checkpoint.image_pad_id).any()
