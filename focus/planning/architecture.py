"""Architecture and parameter counts of the models that a plan knows, without loading weights."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from transformers import AutoConfig, AutoModelForImageTextToText, PretrainedConfig, Qwen2_5_VLConfig, Qwen3_5Config, Qwen3VLConfig

from focus.config.schema import PolicyConfig
from focus.model.loading import checkpoint_path, lora_config
from focus.model.saving import FAMILIES


def _qwen2_5(width: int, inner: int, layers: int, heads: int, shared: int, words: int, tied: bool) -> Qwen2_5_VLConfig:
    text = {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
            "num_key_value_heads": shared, "vocab_size": words, "tie_word_embeddings": tied}  # fmt: skip
    vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": width, "patch_size": 14,
              "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31]}  # fmt: skip
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=tied)


def _qwen3(width: int, inner: int, tied: bool, vision: Mapping[str, Any]) -> Qwen3VLConfig:
    text = {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": 36, "num_attention_heads": 32, "head_dim": 128,
            "num_key_value_heads": 8, "vocab_size": 151936, "tie_word_embeddings": tied}  # fmt: skip
    return Qwen3VLConfig(text_config=text, vision_config={**vision, "out_hidden_size": width}, tie_word_embeddings=tied)


def _qwen3_5(width: int, inner: int, tied: bool, vision: Mapping[str, Any]) -> Qwen3_5Config:
    text = {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": 32, "num_attention_heads": 16, "head_dim": 256,
            "num_key_value_heads": 4, "linear_num_key_heads": 16, "linear_num_value_heads": 32, "linear_key_head_dim": 128,
            "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4, "vocab_size": 248320, "tie_word_embeddings": tied}  # fmt: skip
    return Qwen3_5Config(text_config=text, vision_config={**vision, "out_hidden_size": width}, tie_word_embeddings=tied)


def published_config(name: str) -> PretrainedConfig | None:
    """The architecture of a hub model, from the config.json of its public repository; None for another name."""
    small = {
        "depth": 24,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_heads": 16,
        "patch_size": 16,
        "num_position_embeddings": 2304,
    }
    large = small | {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304}
    known = {
        "Qwen/Qwen2.5-VL-3B-Instruct": lambda: _qwen2_5(2048, 11008, 36, 16, 2, 151936, True),
        "Qwen/Qwen2.5-VL-7B-Instruct": lambda: _qwen2_5(3584, 18944, 28, 28, 4, 152064, False),
        "Qwen/Qwen3-VL-4B-Instruct": lambda: _qwen3(2560, 9728, True, small | {"deepstack_visual_indexes": [5, 11, 17]}),
        "Qwen/Qwen3-VL-8B-Instruct": lambda: _qwen3(4096, 12288, False, large | {"deepstack_visual_indexes": [8, 16, 24]}),
        "Qwen/Qwen3.5-4B": lambda: _qwen3_5(2560, 9216, True, small),
        "Qwen/Qwen3.5-9B": lambda: _qwen3_5(4096, 12288, False, large),
    }
    return known[name]() if name in known else None


def architecture_of(checkpoint: str) -> PretrainedConfig:
    """The architecture from the folder's config.json, the hub's cache, or published facts. Raises ValueError if none has it."""
    folder = checkpoint_path(checkpoint)
    if not (Path(folder) / "config.json").is_file() and (known := published_config(checkpoint)):
        return known
    try:
        found = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"policy.checkpoint is {checkpoint}, whose architecture is not known: it is no folder with a config.json, not in the hub's "
            "cache, and none of the published ones. Give a folder: policy.checkpoint=FOLDER (its config.json is enough)"
        ) from error
    if found.model_type not in FAMILIES:
        raise ValueError(f"{checkpoint} is a {found.model_type!r} model; this version trains {', '.join(FAMILIES)}")
    return found


@dataclass(frozen=True)
class Parameters:
    """Parameter counts: total, vision tower, input embedding, one text layer, LoRA adapters."""

    total: int
    trainable: int
    visual: int
    visual_trainable: int
    embedding: int
    layer: int
    adapters: int


@cache
def _parameters(checkpoint: str, train_vision: bool, rank: int, targets: tuple[str, ...] | None) -> Parameters:
    with torch.device("meta"):
        model: Any = AutoModelForImageTextToText.from_config(architecture_of(checkpoint))
        if not train_vision:
            model.model.visual.requires_grad_(False)
        core = model.model
        before = sum(p.numel() for p in model.parameters())
        if rank:
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # PEFT reads it
            model = get_peft_model(model, lora_config(model, rank, 1, targets, train_vision))

    def count(module: torch.nn.Module, trainable: bool = False) -> int:
        return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)

    return Parameters(
        count(model), count(model, True), count(core.visual), count(core.visual, True),
        count(core.language_model.get_input_embeddings()), count(core.language_model.layers[0]), count(model) - before,
    )  # fmt: skip


def parameters_of(policy: PolicyConfig) -> Parameters:
    """Parameter counts of the policy as it is trained: with adapters, frozen parts frozen (see `build.load_policy`)."""
    targets = None if policy.lora_targets is None else tuple(policy.lora_targets)
    return _parameters(policy.checkpoint, bool(policy.train_vision), int(policy.lora_rank), targets)
