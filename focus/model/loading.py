"""Load a policy from a folder in the Hugging Face layout or from the hub, and refuse what cannot be
trained.
"""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HTTPError, StrictDataclassError
from peft import LoraConfig
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.utils import cached_file

from focus.data.boxes import Frame
from focus.model.dialect import Dialect, read_dialect
from focus.model.policy_model import PolicyModel
from focus.model.saving import DTYPES, FAMILIES, VIDEO_PROCESSOR

warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")  # PEFT asks for it

EMBEDDED = Path(__file__).parent / "embedded"
EMBEDDED_PAGES = Path(__file__).parent / "embedded_pages"
# the coordinates that each family was trained on
BOX_FRAMES = {"qwen2_5_vl": Frame.VIEW_PIXELS, "qwen3_vl": Frame.PER_MILLE, "qwen3_5": Frame.PER_MILLE}


def checkpoint_path(name: str) -> str | Path:
    """The folder or hub name of a policy; `embedded` and `embedded_pages` are those in the package."""
    return {"embedded": EMBEDDED, "embedded_pages": EMBEDDED_PAGES}.get(name, name)


def load_model(
    folder: str | Path, dialect: str, dtype: str = "float32", prompts: str | None = None, device: torch.device | None = None
) -> PolicyModel:
    """A policy from a folder or a hub name, on `device` (None: `own_gpu`, where there is one). `dialect` and `prompts` are those of
    `read_dialect`.

    `dtype` is explicit because transformers otherwise keeps the dtype of the file. Raises ValueError
    for a model that can't be trained, if possible before weights are read.
    """
    name = str(folder)
    if Path(name).is_absolute() or name.startswith(".") or Path(name).exists():
        _check_files(Path(name))
    try:
        _ask_hub(name)
        config = AutoConfig.from_pretrained(name)
        _check_family(name, config.model_type)
        tokenizer = AutoTokenizer.from_pretrained(name)
        image_processor = Qwen2VLImageProcessorPil.from_pretrained(name)  # for all families; the Auto class may need torchvision
        video = cached_file(
            name, VIDEO_PROCESSOR, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
        )
    except (OSError, HTTPError) as error:
        raise ValueError(
            f"policy.checkpoint is {name}, which is not a folder here, and can't be downloaded from the hub. Without a network, download "
            f"it elsewhere and set its folder: policy.checkpoint=/path/to/folder. The hub client's error: {error}"
        ) from error
    except (LookupError, TypeError, AttributeError, StrictDataclassError) as error:  # JSON, but of another form
        problem = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"config.json, the tokenizer or the image processor of {name} can't be used ({problem}); copy it again") from error
    chosen = read_dialect(dialect, prompts)
    _check_dialect(name, config.model_type, tokenizer, chosen)
    _check_parts(name, config, tokenizer, image_processor)
    device = device or own_gpu()
    try:
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            name,
            dtype=DTYPES[dtype],
            attn_implementation="sdpa",
            device_map={"": device} if device else None,  # tensor by tensor, without a copy of the model in the host's memory
            output_loading_info=True,
        )
    except (RuntimeError, SafetensorError) as error:  # other shapes, or a truncated file
        raise ValueError(f"the weights in {name} do not fit its config.json or are damaged ({error}); copy the folder again") from error
    model, loading = loaded
    if lacking := sorted(loading["missing_keys"]):
        raise ValueError(
            f"{name} lacks {len(lacking)} weights of the model in its config.json (first: {lacking[0]}); they would be random. "
            "Copy the folder again, or use the config.json that belongs to these weights"
        )
    return PolicyModel(model, tokenizer, image_processor, chosen, json.loads(Path(video).read_text()) if video else None)


def _ask_hub(name: str) -> None:
    """Ask the hub once for a model that is neither a folder nor kept here: without an answer its client would try for half a minute."""
    if not Path(name).exists() and not isinstance(try_to_load_from_cache(name, "config.json"), str):
        get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=10)


def _check_dialect(name: str, model_type: str, tokenizer: Any, chosen: Dialect) -> None:
    """Raises ValueError for a dialect whose frame is not the model's, or whose calls don't end in one of its tokens."""
    if chosen.frame is not BOX_FRAMES[model_type]:
        raise ValueError(
            f"{name} is a {model_type} model, which writes boxes in {BOX_FRAMES[model_type]}, but policy.dialect={chosen.name} "
            f"reads {chosen.frame}: every box would be wrong. Use policy.dialect={model_type}"
        )
    if chosen.course == "two_roles":
        raise ValueError(
            f"policy.dialect={chosen.name} answers in a second conversation, which only a served model has here. Serve {name} and use "
            "rollout=openai"
        )
    if chosen.call[1] not in tokenizer.get_vocab():
        raise ValueError(
            f"policy.dialect={chosen.name} closes a call with {chosen.call[1]}, which is not one token of {name}, so sampling could not "
            "stop there. Serve the model and use rollout=openai, or choose a dialect with another tag"
        )


def own_gpu() -> torch.device | None:
    """The current GPU of this process, on which its policy is also used before and after a training; None where there is none."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else None


def lora_config(model: Any, rank: int, alpha: int, targets: Sequence[str] | None, train_vision: bool) -> LoraConfig:
    """The LoRA configuration: adapters on the linear layers called `targets` (None: on all linear
    layers).

    Adapters are put on the text layers and, with `train_vision`, on the vision tower, never on the
    head or the patch embedding, which is a convolution. Raises ValueError for a target that is not
    such a layer, and if `train_vision` would adapt no layer of the tower.
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and name != "lm_head"]
    text = {_layer_name(name) for name in linear if ".visual." not in name}
    tower = {_layer_name(name) for name in linear if ".visual." in name}
    available = text | (tower if train_vision else set())
    chosen = available if targets is None else set(targets)
    if unknown := sorted(chosen - available):
        raise ValueError(
            f"policy.lora_targets: no trainable linear layer is called {', '.join(unknown)}. Available: {', '.join(sorted(available))}"
        )
    if train_vision and not chosen & tower:
        raise ValueError(
            "policy.train_vision is true, but policy.lora_targets names no layer of the vision tower "
            f"({', '.join(sorted(tower))}), so the tower would not learn; add some, or set policy.train_vision=false"
        )
    excluded = r".*\.patch_embed\..*" if train_vision else r".*\bvisual\..*"
    return LoraConfig(r=rank, lora_alpha=alpha, target_modules=sorted(chosen), exclude_modules=excluded)


def _layer_name(name: str) -> str:
    """The last part of a module's name, or the last two if the last is a number.

    It is the same in every block.
    """
    parts = name.split(".")
    return ".".join(parts[-2:]) if parts[-1].isdigit() else parts[-1]


def _check_family(name: str, model_type: object) -> None:
    if model_type not in FAMILIES:
        raise ValueError(f"{name} is a {model_type!r} model; this version trains {', '.join(FAMILIES)}")


REQUIRED_FILES = {  # a folder in the Hugging Face layout has one file of each kind
    "config.json": ("config.json",),
    "an image processor": ("preprocessor_config.json", "processor_config.json"),
    "a tokenizer": ("tokenizer.json", "vocab.json"),
    "weights": ("model.safetensors", "model.safetensors.index.json"),
}


def _check_files(folder: Path) -> None:
    """Raises ValueError for an incomplete folder, with all that is missing in one message."""
    if not folder.is_dir():
        raise ValueError(f"policy.checkpoint is {folder}, which is not a folder; give one in the Hugging Face layout, or a hub name")
    if (folder / "adapter_config.json").is_file():
        beside = " beside weights" if any((folder / file).is_file() for file in REQUIRED_FILES["weights"]) else ""
        raise ValueError(
            f"policy.checkpoint is {folder}, which holds an adapter{beside} (adapter_config.json). Merge it into its base (peft: "
            "merge_and_unload, then save_pretrained), and set the folder of the result. policy.lora_rank adds new adapters to train"
        )
    read = {"tokenizer_config.json", "generation_config.json", VIDEO_PROCESSOR}.union(*REQUIRED_FILES.values())
    contents = {path.name: _json_of(path) for path in sorted(folder.glob("*.json")) if path.name in read}
    if "config.json" in contents:
        _check_family(str(folder), contents["config.json"].get("model_type"))
    missing = [
        f"{part} ({' or '.join(files)})" for part, files in REQUIRED_FILES.items() if not any((folder / file).is_file() for file in files)
    ]
    index = "model.safetensors.index.json"
    if index in contents and not (folder / "model.safetensors").is_file():
        shards = sorted(set(contents[index].get("weight_map", {}).values()))
        missing += [f"{file}, which {index} lists" for file in shards if not (folder / file).is_file()]
    if missing:
        raise ValueError(
            f"policy.checkpoint is {folder}, which lacks {', '.join(missing)}; copy the whole folder again "
            "(every run exports a whole one under its output folder as policy/)"
        )


def _json_of(path: Path) -> dict[str, Any]:
    """The content of a file of a policy. Raises ValueError if it is no JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
        problem = f"it is a {type(content).__name__}, not an object"
    except (OSError, ValueError, RecursionError) as error:
        problem = str(error)
    raise ValueError(f"policy.checkpoint is {path.parent}, whose {path.name} can't be read ({problem}); copy the whole folder again")


def _check_parts(name: str, config: Any, tokenizer: Any, image_processor: Any) -> None:
    """Raises ValueError if tokenizer, image processor and config.json do not belong together."""
    if (quantised := getattr(config, "quantization_config", None)) is not None:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else getattr(quantised, "quant_method", None)
        raise ValueError(
            f"the weights in {name} are quantised (quantization_config of its config.json: {method}), which can't be trained or exported "
            "here; set the folder or hub name of the model before quantisation"
        )
    if tokenizer.pad_token_id is None:
        raise ValueError(
            f"the tokenizer in {name} has no padding token; set pad_token in its tokenizer_config.json to one of its tokens that does not "
            "end a turn (Qwen: <|endoftext|>)"
        )
    problems = []
    for token, key in (("<|image_pad|>", "image_token_id"), ("<|vision_start|>", "vision_start_token_id"), ("<|im_end|>", None)):
        token_id = tokenizer.convert_tokens_to_ids(token)
        if token_id is None or tokenizer.convert_ids_to_tokens(token_id) != token:
            problems.append(f"its tokenizer does not know {token}")
        elif key and getattr(config, key) != token_id:
            problems.append(f"its tokenizer has {token} at {token_id}, config.json has {key} {getattr(config, key)}")
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
