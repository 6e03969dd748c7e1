"""Shapes that annotations state are enforced while tests run."""

import pytest
import torch
from beartype.roar import BeartypeCallHintViolation

from focus.model.attention import Ragged
from focus.rollout.kv import draw
from focus.training.objective import group_advantage


def test_an_array_of_another_shape_or_type_than_stated_is_refused_by_its_name():
    logits, banned, noise = torch.zeros(2, 5), torch.tensor([1]), torch.zeros(2)
    draw(logits, banned, 1.0, noise)
    with pytest.raises(BeartypeCallHintViolation, match="parameter noise"):
        draw(logits, banned, 1.0, torch.zeros(3))
    with pytest.raises(BeartypeCallHintViolation, match="parameter banned"):
        draw(logits, banned.float(), 1.0, noise)


def test_methods_are_checked_too():
    with pytest.raises(BeartypeCallHintViolation, match="parameter packed"):
        Ragged([1, 2], torch.device("cpu")).pad(torch.zeros(3, 4))
    with pytest.raises(BeartypeCallHintViolation):
        group_advantage(torch.zeros(4))
