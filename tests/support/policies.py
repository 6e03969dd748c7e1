"""Random tiny policies of all families."""

from copy import deepcopy
from functools import cache

import torch
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from focus.model.dialect import read_dialect
from focus.model.loading import EMBEDDED
from focus.model.policy_model import PolicyModel
from focus.pretraining.architecture import build_model


@cache
def build_tokenizer() -> PreTrainedTokenizerFast:
    """What the function of this name in focus builds in seconds (tests/model/test_transcripts.py compares them): the embedded policy's."""
    return AutoTokenizer.from_pretrained(EMBEDDED)


def _ids() -> dict[str, int]:
    tokens = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    return {name: build_tokenizer().convert_tokens_to_ids(token) for name, token in tokens.items()}


def random_qwen2_5_vl(seed: int = 0, tied: bool = False) -> PolicyModel:
    """Windowed vision attention, absolute boxes."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    config = Qwen2_5_VLConfig(
        **_ids(),
        tie_word_embeddings=tied,
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "initializer_range": 0.1,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10.0, "mrope_section": [4, 6, 6]},
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": 64,
            "window_size": 56,
            "fullatt_block_indexes": [1],
            "initializer_range": 0.1,
        },
    )
    processor = Qwen2VLImageProcessorPil(
        patch_size=14, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 28 * 28, "longest_edge": 16384 * 28 * 28}
    )
    return PolicyModel(Qwen2_5_VLForConditionalGeneration(config).eval(), tokenizer, processor, read_dialect("qwen2_5_vl"))


def random_qwen3_vl(seed: int = 0) -> PolicyModel:
    """The embedded policy's architecture with other weights, at half its width."""
    return build_model(build_tokenizer(), seed, width=64, layers=2, vision_layers=2)


def random_qwen3_5(seed: int = 0) -> PolicyModel:
    """Delta nets around a layer with attention, calls in XML."""
    torch.manual_seed(seed)
    tokenizer = deepcopy(build_tokenizer())
    tokenizer.add_tokens(["<function=", "<parameter=", "</parameter>", "</function>"])  # else a call has 90 tokens
    config = Qwen3_5Config(
        **_ids(),
        tie_word_embeddings=True,
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 32,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 16,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "tie_word_embeddings": True,
            "initializer_range": 0.1,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10.0,
                "mrope_section": [2, 1, 1],
                "mrope_interleaved": True,
                "partial_rotary_factor": 0.25,
            },
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": 64,
            "num_position_embeddings": 64,
            "initializer_range": 0.1,
        },
    )
    processor = Qwen2VLImageProcessorPil(
        patch_size=16, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 32 * 32, "longest_edge": 16384 * 32 * 32}
    )
    return PolicyModel(Qwen3_5ForConditionalGeneration(config).eval(), tokenizer, processor, read_dialect("qwen3_5"))


FAMILIES = {"qwen2_5_vl": random_qwen2_5_vl, "qwen3_vl": random_qwen3_vl, "qwen3_5": random_qwen3_5}
