"""Load a policy from a folder in the Hugging Face layout or from the hub, and refuse what cannot be trained."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.utils import cached_file, is_flash_attn_2_available

from focus.data.boxes import Frame
from focus.model.policy_model import DTYPES, FAMILIES, VIDEO_PROCESSOR, PolicyModel
from focus.model.prompts import DIALECTS

EMBEDDED = Path(__file__).parent / "embedded"
SPEAKS = {"qwen2_5_vl": Frame.VIEW_PIXELS, "qwen3_vl": Frame.PER_MILLE}  # how each family was taught to name a place


def checkpoint_path(name: str) -> str | Path:
    """Where a policy lies that settings name: `embedded` is the one in the package."""
    return EMBEDDED if name == "embedded" else name


def load_model(folder: str | Path, dialect: str, dtype: str = "float32", attention: str = "auto") -> PolicyModel:
    """A policy from a folder or a hub name.

    `attention` is `auto` or a transformers name (`attention_backend`). `dtype` is explicit since transformers otherwise keeps the
    one of the file. Raises ValueError, before weights are read, for what cannot be trained.
    """
    name = str(folder)
    if Path(name).is_absolute() or name.startswith(".") or Path(name).exists():
        _check_files(Path(name))
    try:
        config = AutoConfig.from_pretrained(name)
        if config.model_type not in FAMILIES:
            raise ValueError(f"{name} is a {config.model_type!r} model; this version trains {', '.join(FAMILIES)}")
        tokenizer = AutoTokenizer.from_pretrained(name)
        image_processor = Qwen2VLImageProcessorPil.from_pretrained(name)  # of both families; the Auto class may ask for torchvision
        video = cached_file(
            name, VIDEO_PROCESSOR, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
        )
    except OSError as error:
        raise ValueError(
            f"policy.checkpoint is {name}, which is no folder here, and can't be fetched as a model of the hub either. Where there is no "
            f"network, download it elsewhere and give its folder: policy.checkpoint=/path/to/folder. The hub's client says: {error}"
        ) from error
    if DIALECTS[dialect].frame is not SPEAKS[config.model_type]:
        fitting = [d.name for d in DIALECTS.values() if d.frame is SPEAKS[config.model_type]]
        raise ValueError(
            f"{name} is a {config.model_type} model, which names places in {SPEAKS[config.model_type]}, but policy.dialect={dialect} "
            f"reads {DIALECTS[dialect].frame}: every box would be wrong. Use policy.dialect={' or '.join(fitting)}"
        )
    _check_parts(name, config, tokenizer, image_processor)
    try:
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            name, dtype=DTYPES[dtype], attn_implementation=attention_backend(attention, dtype), output_loading_info=True
        )
    except (RuntimeError, SafetensorError) as error:  # of another shape, or a file that was cut
        raise ValueError(f"the weights in {name} can't be read as those of its config.json ({error}); copy the folder again") from error
    model, loading = loaded
    if torch.cuda.is_available():  # measured before and after Lightning has it
        model.to(torch.device("cuda", int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", 0)))))
    if lacking := sorted(loading["missing_keys"]):
        raise ValueError(
            f"{name} lacks {len(lacking)} weights that its config.json names (first: {lacking[0]}); they would be random. "
            "Copy the folder again, or take the config.json that belongs to these weights"
        )
    return PolicyModel(model, tokenizer, image_processor, DIALECTS[dialect], json.loads(Path(video).read_text()) if video else None)


def lora_config(model: Any, rank: int, alpha: int, targets: Sequence[str] | None, train_vision: bool) -> LoraConfig:
    """Which linear layers of a model get adapters: those that `targets` names, in the text layers and, with `train_vision`, in the tower.

    None names all of them. The head gets none, nor does the embedding of patches, which is a convolution. Raises ValueError for a target
    that is no such layer, and where `train_vision` would adapt nothing in the tower.
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and name != "lm_head"]
    found = {name: {_last_part(name) for name in linear if (".visual." in name) is (name == "tower")} for name in ("text", "tower")}
    learning = found["text"] | (found["tower"] if train_vision else set())
    chosen = learning if targets is None else set(targets)
    if lost := sorted(chosen - learning):
        raise ValueError(
            f"policy.lora_targets names {', '.join(lost)}, no linear layer that learns here; there are {', '.join(sorted(learning))}"
        )
    if train_vision and not chosen & found["tower"]:
        raise ValueError(
            "policy.train_vision is true, but policy.lora_targets names no layer of the vision tower "
            f"({', '.join(sorted(found['tower']))}), so nothing of it would learn; add some, or set policy.train_vision=false"
        )
    closed = r".*\.patch_embed\..*" if train_vision else r".*\bvisual\..*"
    return LoraConfig(r=rank, lora_alpha=alpha, target_modules=sorted(chosen), exclude_modules=closed)


def _last_part(name: str) -> str:
    """The last word of a module's name, with the one before where it is a number: the same layer has it in every block."""
    parts = name.split(".")
    return ".".join(parts[-2:]) if parts[-1].isdigit() else parts[-1]


def attention_backend(attention: str, dtype: str) -> str | dict[str, str]:
    """What transformers is asked for: `auto` is flash-attention where it can run, else SDPA.

    Its kernels take no float32. The text layers ask it in an update alone, which computes in the trainer's arithmetic; a vision tower of
    float32 weights is also asked without a trainer, so it keeps to SDPA.
    """
    if attention != "auto":
        return attention
    if not (torch.cuda.is_available() and is_flash_attn_2_available()):
        return "sdpa"
    return {"text_config": "flash_attention_2", "vision_config": "flash_attention_2" if dtype == "bfloat16" else "sdpa"}


NEEDED = {  # of a folder in the Hugging Face layout: one of each of these
    "config.json": ("config.json",),
    "an image processor": ("preprocessor_config.json", "processor_config.json"),
    "a tokenizer": ("tokenizer.json", "vocab.json"),
    "weights": ("model.safetensors", "model.safetensors.index.json"),
}


def _check_files(folder: Path) -> None:
    """Raises ValueError, with all that is missing in one message, for a folder that is not whole."""
    if not folder.is_dir():
        raise ValueError(f"policy.checkpoint is {folder}, which is not a folder; give one in the Hugging Face layout, or a hub name")
    if (folder / "adapter_config.json").is_file():
        beside = " beside weights" if any((folder / file).is_file() for file in NEEDED["weights"]) else ""
        raise ValueError(
            f"policy.checkpoint is {folder}, which holds an adapter{beside} (adapter_config.json). Merge it into its base (peft: "
            "merge_and_unload, then save_pretrained), and name the folder of the result. policy.lora_rank adds new adapters to train"
        )
    missing = [f"{part} ({' or '.join(files)})" for part, files in NEEDED.items() if not any((folder / file).is_file() for file in files)]
    index = folder / "model.safetensors.index.json"
    if index.is_file() and not (folder / "model.safetensors").is_file():
        shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        missing += [f"{file}, which {index.name} names" for file in shards if not (folder / file).is_file()]
    if missing:
        raise ValueError(
            f"policy.checkpoint is {folder}, which lacks {', '.join(missing)}; copy the whole folder again "
            "(every run exports a whole one under its output folder as policy/)"
        )


def _check_parts(name: str, config: Any, tokenizer: Any, image_processor: Any) -> None:
    """Raises ValueError where tokenizer, image processor and config.json do not belong together."""
    if (quantised := getattr(config, "quantization_config", None)) is not None:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else getattr(quantised, "quant_method", None)
        raise ValueError(
            f"the weights in {name} are quantised ({method}, says quantization_config of its config.json), which can't be trained or "
            "exported here; name the folder or hub name of the model that they were made of"
        )
    if tokenizer.pad_token_id is None:
        raise ValueError(
            f"the tokenizer in {name} has no padding token; give it one of its own tokens that ends no turn (Qwen's: <|endoftext|>) as "
            "pad_token in its tokenizer_config.json"
        )
    problems = []
    for token, key in (("<|image_pad|>", "image_token_id"), ("<|vision_start|>", "vision_start_token_id"), ("<|im_end|>", None)):
        found = tokenizer.convert_tokens_to_ids(token)
        if found is None or tokenizer.convert_ids_to_tokens(found) != token:
            problems.append(f"its tokenizer does not know {token}")
        elif key and getattr(config, key) != found:
            problems.append(f"its tokenizer has {token} at {found}, config.json has {key} {getattr(config, key)}")
    words = config.get_text_config().vocab_size
    if len(tokenizer) > words:
        problems.append(f"its tokenizer has {len(tokenizer)} tokens, config.json vocab_size {words}")
    vision = config.vision_config
    for key, other in (("patch_size", "patch_size"), ("merge_size", "spatial_merge_size"), ("temporal_patch_size", "temporal_patch_size")):
        has, wants = getattr(image_processor, key, None), getattr(vision, other)
        if has != wants:
            problems.append(f"its image processor has {key} {has}, config.json {other} {wants}")
    if problems:
        raise ValueError(f"the parts of {name} do not belong together: {'; '.join(problems)}. Copy the folder again, from one model")
