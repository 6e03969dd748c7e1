"""Architecture of the embedded policy: Qwen3-VL, about 2 M parameters."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from focus.model.dialect import read_dialect
from focus.model.policy_model import PolicyModel


def build_model(
    tokenizer: PreTrainedTokenizerFast,
    seed: int = 0,
    width: int = 128,
    layers: int = 4,
    vision_layers: int = 3,
    deepstack: Sequence[int] = (0, 1),
) -> PolicyModel:
    """The untrained base: Qwen3-VL's architecture, about 2 M parameters, tokens of 28 x 28 px.

    `deepstack` names the layers of the vision tower whose output joins the first text layers.
    """
    torch.manual_seed(seed)
    ids = tokenizer.get_vocab()
    config = Qwen3VLConfig(
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": width,
            "intermediate_size": 3 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": width // 32,
            "num_key_value_heads": width // 32,
            "head_dim": 32,
            "initializer_range": 0.06,
            "max_position_embeddings": 32768,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [6, 5, 5], "mrope_interleaved": True},
        },
        vision_config={
            "depth": vision_layers,
            "hidden_size": width,
            "intermediate_size": 3 * width,
            "num_heads": width // 32,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": width,
            "num_position_embeddings": 256,
            "deepstack_visual_indexes": list(deepstack),
            "initializer_range": 0.06,
        },
    )
    model = Qwen3VLForConditionalGeneration(config)
    processor = Qwen2VLImageProcessorPil(
        patch_size=14,
        merge_size=2,
        temporal_patch_size=2,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        size={"shortest_edge": 28 * 28, "longest_edge": 16384 * 28 * 28},
    )
    return PolicyModel(model, tokenizer, processor, read_dialect("tiny"))


@torch.no_grad()
def inherit(policy: PolicyModel, base: PolicyModel) -> None:
    """Give `policy` the weights of `base`, those of the vocabulary token by token.

    What `base` has beyond `policy` is left out; tokens that it does not know stay as they are.
    """
    own, known = policy.model.state_dict(), base.tokenizer.get_vocab()
    tokens = [(i, known[token]) for token, i in policy.tokenizer.get_vocab().items() if token in known]
    here, there = torch.tensor(tokens).T
    for name, values in base.model.state_dict().items():
        if "embed_tokens" in name or "lm_head" in name:
            own[name][here] = values[there]
        elif name in own:
            own[name].copy_(values)
