"""What comes out of a training: a folder that other programs read, in the dtype of the training, adapters beside it in PEFT's form."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoTokenizer

from focus import build
from focus.config.identity import export_dtype
from focus.config.validate import plain
from focus.model import loading, saving
from focus.model.policy_model import PolicyModel
from focus.runs import train
from focus.training.checkpoints import latest_checkpoint
from tests.support.policies import FAMILIES
from tests.support.runs import LORA, configured, settings
from tests.support.updates import module_of


@pytest.mark.parametrize("family", FAMILIES)
def test_an_export_names_its_rotary_positions_as_transformers_4_and_as_transformers_5_do(family, tmp_path):
    FAMILIES[family](seed=1).save(tmp_path / "policy")
    text = json.loads((tmp_path / "policy/config.json").read_text())["text_config"]
    theta, sections = {"qwen2_5_vl": (10.0, [4, 6, 6]), "qwen3_vl": (10000.0, [6, 5, 5]), "qwen3_5": (10.0, [2, 1, 1])}[family]
    assert text["rope_theta"] == text["rope_parameters"]["rope_theta"] == theta
    assert text["rope_scaling"]["mrope_section"] == text["rope_parameters"]["mrope_section"] == sections
    assert "rope_theta" not in text["rope_scaling"] and text["rope_scaling"].get("mrope_interleaved", False) is (family != "qwen2_5_vl")
    again = loading.load_model(tmp_path / "policy", family)
    assert again.unwrapped.config.text_config.rope_parameters["rope_theta"] == theta
    again.save(tmp_path / "again")  # stage 2 starts from such a folder
    first, second = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("policy", "again"))
    assert first == second


def test_who_may_read_the_folder_of_an_export_may_read_its_weights(qwen3_vl: PolicyModel, tmp_path):
    qwen3_vl.save(tmp_path / "policy")
    modes = {path.name: path.stat().st_mode for path in (tmp_path / "policy").iterdir()}
    assert len(set(modes.values())) == 1, modes


def test_the_tokenizer_of_an_export_has_a_class_that_transformers_4_knows_and_speaks_as_before(qwen3_vl: PolicyModel, tmp_path):
    qwen3_vl.save(tmp_path / "policy")
    assert json.loads((tmp_path / "policy/tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    tokenizer, text = AutoTokenizer.from_pretrained(tmp_path / "policy"), "<|im_start|>what is on the 42nd sign<|image_pad|><|im_end|>"
    assert tokenizer.encode(text) == qwen3_vl.tokenizer.encode(text) and tokenizer.decode(tokenizer.encode(text)) == text


def test_a_video_processor_of_the_base_is_carried_on_and_none_is_made_up(tmp_path):
    FAMILIES["qwen3_vl"](seed=1).save(tmp_path / "base")
    loading.load_model(tmp_path / "base", "tiny").save(tmp_path / "without")
    assert not (tmp_path / "without" / saving.VIDEO_PROCESSOR).exists()
    settings = {"video_processor_type": "Qwen3VLVideoProcessor", "fps": 2, "size": {"longest_edge": 25165824}}
    (tmp_path / "base" / saving.VIDEO_PROCESSOR).write_text(json.dumps(settings))
    loading.load_model(tmp_path / "base", "tiny").save(tmp_path / "with")
    assert json.loads((tmp_path / "with" / saving.VIDEO_PROCESSOR).read_text()) == settings


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_lie_beside_the_merged_weights_as_peft_loads_them(folders, tmp_path, dtype):
    loaded = build.load_policy(configured(folders, "qwen3_vl", Path("x"), *LORA).policy)
    for name, p in loaded.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.1)
    loaded.save(tmp_path / "policy", dtype)
    base = AutoModelForImageTextToText.from_pretrained(folders["qwen3_vl"], dtype=torch.float32)
    assert {path.name for path in (tmp_path / "policy/adapter").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    adapted = PeftModel.from_pretrained(base, str(tmp_path / "policy/adapter"))
    ids = torch.tensor([loaded.tokenizer.encode("what is on the sign")])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    assert torch.allclose(adapted(**inputs).logits, loaded.unwrapped(**inputs).logits, atol=1e-5)
    assert not [name for name in load_file(tmp_path / "policy/model.safetensors") if "lora" in name]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "float32"),
        (("policy.dtype=bfloat16", "policy.lora_rank=4"), "bfloat16"),
        (("trainer.precision=bf16-mixed",), "bfloat16"),
        (("trainer.strategy={_target_: focus.runtime.strategies.FullyShardedStrategy, arithmetic: bfloat16}",), "bfloat16"),
        (("trainer.strategy={_target_: focus.runtime.strategies.FullyShardedStrategy, arithmetic: float32}",), "float32"),
        (("trainer.precision=bf16-mixed", "policy.export_dtype=float32"), "float32"),
        (("policy.export_dtype=bfloat16",), "bfloat16"),
    ],
)
def test_an_export_has_the_dtype_that_the_policy_was_sampled_in(words, expected, tmp_path):
    assert export_dtype(plain(settings(tmp_path, tmp_path, *words))) == expected


def test_steps_below_the_resolution_of_bfloat16_survive_the_export_of_a_run(tmp_path, random_policy):
    """At 1e-6 a step is lost on every weight above 2^-10.9: nearly all of them."""
    cfg = settings(tmp_path / "run", random_policy, "evaluation.samples=0", "objective.learning_rate=1e-6", "objective.warmup_updates=0")
    train.run(cfg)
    kept = torch.load(next((tmp_path / "run/checkpoints").glob("*.ckpt")), weights_only=False)["state_dict"]
    exported = load_file(tmp_path / "run/policy/model.safetensors")
    before = loading.load_model(random_policy, "tiny").model.state_dict()
    moved = [not torch.equal(kept[f"model.{name}"], before[name]) for name in before]
    assert all(torch.equal(exported[name], kept[f"model.{name}"]) for name in before) and sum(moved) > len(moved) / 2
    assert json.loads((tmp_path / "run/policy/config.json").read_text())["dtype"] == "float32"


# ------------------------------------------------------------------------------------------------------ what a checkpoint holds


@pytest.mark.parametrize(
    ("words", "stored"),
    [
        (("policy.lora_rank=2", "policy.train_vision=false", "policy.dtype=bfloat16"), "lora_"),
        (("policy.train_vision=false",), ""),
        ((), ""),
    ],
    ids=["adapters", "frozen tower", "all weights"],
)
def test_a_checkpoint_holds_what_learns_and_nothing_that_is_frozen(words, stored, tmp_path, random_policy):
    cfg = settings(tmp_path / "run", random_policy, "evaluation.samples=0", "objective.updates=1", *words)
    train.run(cfg)
    state = torch.load(latest_checkpoint(tmp_path / "run/checkpoints"), weights_only=False)
    learns = {f"model.{name}" for name, p in build.load_policy(cfg.policy).model.named_parameters() if p.requires_grad}
    assert set(state["state_dict"]) == learns and all(stored in name for name in learns)
    assert len(state["optimizer_states"][0]["state"]) == len(learns)


def test_a_checkpoint_without_a_weight_that_learns_is_refused_and_one_that_holds_frozen_ones_is_taken(qwen3_vl: PolicyModel):
    for p in qwen3_vl.backbone.visual.parameters():
        p.requires_grad_(False)
    try:
        module = module_of(qwen3_vl)
        whole = {f"model.{name}": value.clone() for name, value in qwen3_vl.model.state_dict().items()}
        learned = module.state_dict()
        assert learned and not [name for name in learned if ".visual." in name] and set(learned) < set(whole)
        module.load_state_dict(learned)
        module.load_state_dict(whole)  # as earlier versions wrote it
        name = sorted(learned)[0]
        with pytest.raises(RuntimeError, match="lacks 1 trainable weights .*" + name.replace(".", r"\.")):
            module.load_state_dict({key: value for key, value in learned.items() if key != name})
        with pytest.raises(RuntimeError, match=r"holds 1 that this policy does not have .*other"):
            module.load_state_dict(learned | {"model.other": torch.zeros(1)})
    finally:
        qwen3_vl.model.requires_grad_(True)
