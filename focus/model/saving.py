"""Write a policy as a folder in the Hugging Face layout, and compute its weights as a plain
transformers model has them.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import PreTrainedModel

from focus.runtime.distributed import all_gather, full_tensor
from focus.runtime.files import atomic_write

VIDEO_PROCESSOR = "video_preprocessor_config.json"
# supported model types and their processor classes
FAMILIES = {"qwen2_5_vl": "Qwen2_5_VLProcessor", "qwen3_vl": "Qwen3VLProcessor", "qwen3_5": "Qwen3VLProcessor"}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def unwrap(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """The transformers model inside PEFT's wrapper, if there is one."""
    plain = model.get_base_model() if isinstance(model, PeftModel) else model
    assert isinstance(plain, PreTrainedModel)
    return plain


@torch.no_grad()
def plain_state(model: PreTrainedModel | PeftModel, by_name: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Yields (name, weight) of the plain transformers model: unsharded, adapters merged. `by_name`: sorted.

    All ranks iterate together where weights are sharded.
    """
    plain = unwrap(model)
    adapted: dict[str, Any] = {name: module for name, module in plain.named_modules() if isinstance(module, LoraLayer)}
    state = {name.replace(".base_layer.", "."): (name, value) for name, value in plain.state_dict().items() if ".lora_" not in name}
    for plain_name in sorted(state) if by_name else state:
        name, value = state[plain_name]
        value = full_tensor(value)
        if (layer := adapted.get(name.removesuffix(".base_layer.weight"))) is not None:
            for key in layer.active_adapters:
                value = value + layer.scaling[key] * (full_tensor(layer.lora_B[key].weight) @ full_tensor(layer.lora_A[key].weight))
        yield plain_name, value


def save(
    folder: Path,
    model: PreTrainedModel | PeftModel,
    tokenizer: Any,
    image_processor: Any,
    video_processor: Mapping[str, Any] | None,
    dtype: str,
    writes: bool,
) -> None:
    """Write the Hugging Face layout that transformers (from 4.57 on) and vLLM load.

    The folder appears whole or not at all.

    Adapters are merged in float32. They are also written unmerged to `adapter/`, for PEFT to load
    onto the base. All ranks call this together. One with `writes` writes; the others wait for it.
    """
    state = {name: value.to("cpu", DTYPES[dtype]) for name, value in plain_state(model) if writes}
    adapters = {}
    if isinstance(model, PeftModel):
        adapters = {name: full_tensor(value).cpu() for name, value in model.state_dict().items() if ".lora_" in name}
    if writes:
        with atomic_write(folder) as partial:
            _write_model(partial, unwrap(model), state, dtype)
            _write_processors(partial, unwrap(model).config.model_type, tokenizer, image_processor, video_processor)
            if adapters:
                assert isinstance(model, PeftModel)
                model.save_pretrained(str(partial / "adapter"), state_dict=adapters, save_embedding_layers=False)
                (partial / "adapter/README.md").unlink(missing_ok=True)  # PEFT's empty model card; the policy has its own
            for weights in partial.rglob("*.safetensors"):  # the library makes them readable only by their owner
                weights.chmod((partial / "config.json").stat().st_mode)
    all_gather(None)


def _write_model(folder: Path, model: PreTrainedModel, state: dict[str, Tensor], dtype: str) -> None:
    vars(model)["should_save_on_this_rank"] = lambda is_main_process: True  # transformers lets the first rank alone write
    try:
        model.save_pretrained(folder, state_dict=state)
    finally:
        del vars(model)["should_save_on_this_rank"]
    config = json.loads((folder / "config.json").read_text())
    for part in (config, *(config[key] for key in ("text_config", "vision_config"))):
        part["dtype"] = dtype
    rope = dict(config["text_config"]["rope_parameters"])  # transformers 4, and software based on it, reads the two keys below instead
    config["text_config"] |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}
    _write_json(folder / "config.json", config)


def _write_processors(
    folder: Path, model_type: str, tokenizer: Any, image_processor: Any, video_processor: Mapping[str, Any] | None
) -> None:
    tokenizer.save_pretrained(folder)
    tokenizer_config = json.loads((folder / "tokenizer_config.json").read_text())
    if tokenizer_config["tokenizer_class"] == "TokenizersBackend":  # the same class, under the name that transformers 4 knows too
        _write_json(folder / "tokenizer_config.json", tokenizer_config | {"tokenizer_class": "PreTrainedTokenizerFast"})
    image_processor.save_pretrained(folder)
    processor = folder / "preprocessor_config.json"
    _write_json(processor, json.loads(processor.read_text()) | {"processor_class": FAMILIES[model_type]})
    if video_processor is not None:
        _write_json(folder / VIDEO_PROCESSOR, video_processor)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
