"""Random policies with published architectures, made on the device: no network, no files of weights."""

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from focus.model.dialect import read_dialect
from focus.model.loading import EMBEDDED
from focus.model.policy_model import PolicyModel
from focus.model.saving import DTYPES
from focus.planning.architecture import published_config

SPECIAL = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}


@dataclass(frozen=True)
class Size:
    """What differs from a published architecture: keys of its text and vision configurations, where it has them."""

    text: dict[str, Any] = field(default_factory=dict)
    vision: dict[str, Any] = field(default_factory=dict)


WHOLE = Size()
SHALLOW = Size({"num_hidden_layers": 2, "vocab_size": 1024}, {"depth": 2})  # real widths and heads
TINY = Size(
    SHALLOW.text
    | {"hidden_size": 256, "intermediate_size": 128, "num_attention_heads": 2, "num_key_value_heads": 1}
    | {"linear_num_key_heads": 2, "linear_num_value_heads": 4},
    SHALLOW.vision | {"hidden_size": 64, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 256},
)


def random_policy(name: str, size: Size, device: torch.device, dtype: str) -> PolicyModel:
    """A published architecture (a name of `published_config`) with random weights. The tokenizer is the embedded policy's, whose words
    are fewer than the model's."""
    config, tokenizer = published_config(name), AutoTokenizer.from_pretrained(EMBEDDED)
    assert config is not None, name
    for key, token in SPECIAL.items():
        setattr(config, key, tokenizer.convert_tokens_to_ids(token))
    text, vision = config.get_text_config(), config.vision_config
    text.bos_token_id, text.eos_token_id = None, tokenizer.eos_token_id
    for part, changes in ((text, size.text), (vision, size.vision)):
        for key, value in changes.items():
            if hasattr(part, key):
                setattr(part, key, value)
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[-text.num_hidden_layers :]  # Qwen3.5: a delta net, then a layer with attention
    for key in ("fullatt_block_indexes", "deepstack_visual_indexes"):
        if any(index >= vision.depth for index in getattr(vision, key, ())):
            setattr(vision, key, [vision.depth - 1])
    torch.manual_seed(0)
    with device:
        model = AutoModelForImageTextToText.from_config(config, dtype=DTYPES[dtype])
    token_px = vision.patch_size * vision.spatial_merge_size
    processor = Qwen2VLImageProcessorPil(
        patch_size=vision.patch_size,
        merge_size=vision.spatial_merge_size,
        temporal_patch_size=vision.temporal_patch_size,
        size={"shortest_edge": token_px**2, "longest_edge": 16384 * token_px**2},
    )
    return PolicyModel(model.eval(), tokenizer, processor, read_dialect(config.model_type))
