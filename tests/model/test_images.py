"""Images on their way through the vision tower."""

import numpy as np
import pytest
import torch
from PIL import Image

from focus.model import policy_model
from tests.support.policies import FAMILIES
from tests.support.reference import towers


def pictures(policy, *sizes: tuple[int, int]) -> list[Image.Image]:
    """Random pictures of these widths and heights in visual tokens."""
    random = np.random.default_rng(0)
    side = policy.token_px
    return [Image.fromarray(random.integers(0, 256, (side * height, side * width, 3), dtype=np.uint8)) for width, height in sizes]


def test_patches_equal_the_image_processors_bit_for_bit(policy):
    images = pictures(policy, (3, 2), (1, 1), (2, 5))
    images += [images[0].convert("L"), images[0].convert("RGBA")]
    packed = policy.pack(images)
    expected = policy.image_processor(images, do_resize=False, return_tensors="pt")
    assert torch.equal(packed.values, expected["pixel_values"]) and packed.values.dtype == torch.float32
    assert torch.equal(packed.grids, expected["image_grid_thw"])


def test_without_gradient_images_pass_the_tower_in_parts_that_change_nothing(policy, monkeypatch):
    images = pictures(policy, (3, 2), (2, 2), (1, 1), (4, 4), (2, 1))  # 6, 4, 1, 16 and 2 tokens
    with torch.no_grad():
        whole = policy.encode_images(images)
    passes = towers(policy, monkeypatch)
    monkeypatch.setattr(policy_model, "TOWER_TOKENS", 11)
    with torch.no_grad():
        parts = policy.encode_images(images)
    assert passes == [3, 1, 1]  # an image that is larger than a part passes alone
    for a, b in zip(whole, parts, strict=True):
        assert torch.allclose(a.tokens, b.tokens, atol=1e-6)
        assert all(torch.allclose(x, y, atol=1e-6) for x, y in zip(a.deep, b.deep, strict=True))
    passes.clear()
    policy.encode_images(images)
    assert passes == [5]  # with gradient at once


@pytest.mark.parametrize("family", FAMILIES)
def test_an_update_keeps_the_features_that_it_uses_and_none_of_a_tower_that_learns(family, monkeypatch):
    policy = FAMILIES[family]()
    one, two = pictures(policy, (2, 2), (1, 3))
    passes = towers(policy, monkeypatch)

    def passed_again(learns: bool) -> list[int]:
        """Images that pass after the release of what does not belong to `one`."""
        policy.backbone.visual.requires_grad_(learns)
        with policy.image_cache(), torch.no_grad():
            policy.encode_images([one, two])
            policy.release_features([one])
            passes.clear()
            policy.encode_images([one, two])
        return list(passes)

    assert passed_again(learns=False) == [1]
    assert passed_again(learns=True) == [2]
