"""Real checkpoints in miniature: all families through every entry, adapters and frozen towers, and folders that are not whole."""

import hashlib
import json
import pickle
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from focus import build
from focus.config import ConfigError, validated
from focus.config.schema import TrainConfig
from focus.model import loading
from focus.runs import evaluate, probe, train
from focus.training.logprobs import sampled_logprobs
from focus.training.policy import FocusPolicy
from tests.support.policies import FAMILIES, random_qwen3_vl
from tests.support.runs import LORA, configured, settings
from tests.support.scripted import call_of, playing
from tests.support.updates import BLUE, logprobs, loss_and_gradients


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_exports_reloads_probes_and_evaluates(family, folders, tmp_path):
    train.run(configured(folders, family, tmp_path / "run", "objective.learning_rate=0.01"))
    trained = tmp_path / "run/policy"
    plain = AutoModelForImageTextToText.from_pretrained(trained, dtype=torch.float32)
    ours = loading.load_model(trained, family)
    assert plain.config.model_type == family
    for (name, a), (_, b) in zip(plain.state_dict().items(), ours.plain_state(), strict=True):
        assert torch.equal(a, b), name
    ids = torch.tensor([ours.tokenizer.encode("what is on the sign")])
    packed = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    assert torch.allclose(plain(**packed).logits, ours.unwrapped(**packed).logits, atol=1e-5)
    asked = [f"policy.checkpoint={trained}", "data.side_px=224", "threads=1", "evaluation.samples=2", "rollout.tokens_per_turn=8"]
    probe.run(settings(tmp_path / "probe", trained, *asked, f"policy.dialect={family}", "views=[16]", name="probe"))
    assert "own" in (tmp_path / "probe/probe.json").read_text()
    evaluated = settings(tmp_path / "evaluated", trained, *asked, f"policy.dialect={family}", "view.max_tokens=16", name="evaluate")
    evaluate.run(evaluated)
    lines = [json.loads(line) for line in (tmp_path / "evaluated/predictions.jsonl").read_text().splitlines()]
    assert len({line["id"] for line in lines}) == 2


def test_weights_that_are_read_onto_a_device_are_those_read_into_memory_and_no_hook_moves_inputs(folders, monkeypatch):
    """The device is the CPU here."""
    plain = loading.load_model(folders["qwen2_5_vl"], "qwen2_5_vl", "bfloat16")
    monkeypatch.setattr(loading, "own_gpu", lambda: torch.device("cpu"))
    placed = loading.load_model(folders["qwen2_5_vl"], "qwen2_5_vl", "bfloat16")
    for (name, a), (other, b) in zip(plain.unwrapped.state_dict().items(), placed.unwrapped.state_dict().items(), strict=True):
        assert name == other and a.dtype == b.dtype and torch.equal(a, b)
    assert not any(hasattr(module, "_hf_hook") for module in placed.unwrapped.modules())


def test_the_hash_of_weights_is_that_of_names_and_float32_values_in_the_order_of_names(folders):
    loaded = build.load_policy(configured(folders, "qwen3_vl", Path("x"), *LORA, "policy.dtype=bfloat16").policy)
    digest = hashlib.blake2b(digest_size=8)
    for name, value in sorted(loaded.plain_state()):
        digest.update(name.encode() + value.float().numpy().tobytes())
    assert loaded.weights_hash() == digest.hexdigest()


@pytest.mark.parametrize("more", [(), LORA], ids=["all weights", "adapters"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_that_is_interrupted_goes_on_as_if_it_had_not_been(family, more, folders, tmp_path, monkeypatch):
    lasting = ("evaluation.samples=0", "objective.updates=2", "report.trajectories=1", *more)
    train.run(configured(folders, family, tmp_path / "straight", *lasting))
    step = FocusPolicy.training_step

    def interrupted(self, questions, index):
        if self.updates_done == 1:
            raise KeyboardInterrupt
        step(self, questions, index)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(FocusPolicy, "training_step", interrupted)
        train.run(configured(folders, family, tmp_path / "resumed", *lasting))
    train.run(configured(folders, family, tmp_path / "resumed", *lasting))
    before, straight, resumed = (
        loading.load_model(place, family).weights_hash()
        for place in (folders[family], tmp_path / "straight/policy", tmp_path / "resumed/policy")
    )
    assert straight == resumed != before


@pytest.mark.parametrize("family", FAMILIES)
def test_recomputing_activations_really_computes_them_again_and_changes_no_gradient(family, folders):
    advantage, passed = [1.0, -2.0], []
    found = []
    for recompute in (False, True):
        loaded = build.load_policy(configured(folders, family, Path("x"), f"policy.activation_checkpointing={recompute}".lower()).policy)
        loaded.backbone.language_model.layers[0].input_layernorm.register_forward_hook(lambda *_, r=recompute: passed.append(("text", r)))
        loaded.backbone.visual.blocks[0].attn.register_forward_hook(lambda *_, r=recompute: passed.append(("vision", r)))
        played = [playing(loaded, call_of(loaded, (0, 0, 40, 40)), BLUE, index=1), playing(loaded, BLUE, index=2)]
        passed.clear()
        found.append(loss_and_gradients(loaded, sampled_logprobs(loaded, played, 1.0), advantage)[1])
        times = 2 if recompute else 1
        assert passed.count(("text", recompute)) == times and passed.count(("vision", recompute)) == times
        assert not any(module.training for module in loaded.unwrapped.modules() if isinstance(module, torch.nn.Dropout))
    straight, again = found
    assert straight.keys() == again.keys()
    assert all(torch.allclose(straight[name], again[name], atol=1e-6) for name in straight)


def test_adapters_are_float32_on_a_bfloat16_base_and_begin_without_effect_and_the_same_every_time(folders):
    cfg = configured(folders, "qwen2_5_vl", Path("x"), *LORA, "policy.dtype=bfloat16").policy
    first, second = build.load_policy(cfg), build.load_policy(cfg)
    kinds = {(name.split(".")[-3].startswith("lora_"), p.dtype) for name, p in first.model.named_parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True))
    assert first.weights_hash() == loading.load_model(folders["qwen2_5_vl"], "qwen2_5_vl", "bfloat16").weights_hash()


def test_merged_adapters_say_what_the_adapters_said(folders, tmp_path):
    loaded = build.load_policy(configured(folders, "qwen3_vl", Path("x"), *LORA).policy)
    for name, p in loaded.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.1)
    loaded.save(tmp_path / "merged", dtype="float32")
    assert torch.allclose(logprobs(loaded), logprobs(loading.load_model(tmp_path / "merged", "qwen3_vl")), atol=1e-5)


@pytest.mark.parametrize("trains", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_tower_that_learns_has_adapters_on_all_its_linear_layers_and_a_frozen_one_has_none(family, trains, folders):
    cfg = configured(folders, family, Path("x"), *LORA, f"policy.train_vision={trains}".lower()).policy
    loaded = build.load_policy(cfg)
    adapted = {name.split(".lora_")[0].split(".model.", 1)[1] for name, _ in loaded.model.named_parameters() if "lora_" in name}
    linear = {
        name.removesuffix(".base_layer").removeprefix("model.")
        for name, module in loaded.unwrapped.named_modules()
        if type(module) is torch.nn.Linear and "lora_" not in name and name != "lm_head"
    }
    tower, text = {n for n in linear if n.startswith("visual.")}, {n for n in linear if n.startswith("language_model.")}
    assert len(text) == (23 if family == "qwen3_5" else 14) and tower  # seven with attention, eight in a delta net
    assert {name.removeprefix("model.") for name in adapted} == (text | tower if trains else text)
    assert f"on {len(text)} layers of the text model and {len(tower) if trains else 0} of the vision tower" in loaded.adapted


def test_a_tower_that_should_learn_but_gets_no_adapter_is_refused(folders):
    words = (*LORA, "policy.lora_targets=[q_proj,v_proj]")
    with pytest.raises(ValueError, match=r"names no layer of the vision tower \(linear_fc1, linear_fc2, proj, qkv\).*train_vision=false"):
        build.load_policy(configured(folders, "qwen3_vl", Path("x"), *words).policy)
    frozen = build.load_policy(configured(folders, "qwen3_vl", Path("x"), *words, "policy.train_vision=false").policy)
    assert frozen.adapted.startswith("adapters: on 4 layers of the text model and 0 of the vision tower")


def test_a_token_that_also_stands_for_unknown_ones_still_stops():
    """Qwen's own tokenizers name <|endoftext|> as the unknown token."""
    policy = random_qwen3_vl()
    stops = policy.stop_ids
    policy.tokenizer.unk_token = "<|endoftext|>"
    assert policy.stop_ids == stops and policy.tokenizer.convert_tokens_to_ids("<|endoftext|>") in stops
    assert policy.ids_of(["<|not_there|>"]) == []


# ---------------------------------------------------------------------------------------------------- folders that are not whole


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def without(*names: str):
    return lambda folder: [(folder / name).unlink() for name in names]


def sharded(folder: Path) -> None:
    """Two shards, of which the second one is not there."""
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_file(state, folder / "model-00001-of-00002.safetensors", metadata={"format": "pt"})
    shards = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(state)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))


def wordless(folder: Path) -> None:
    text = json.loads((folder / "config.json").read_text())["text_config"]
    change(folder / "config.json", text_config=text | {"vocab_size": 100})


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def quantised(method: str):
    return lambda folder: change(folder / "config.json", quantization_config={"quant_method": method, "bits": 4})


def adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")


def test_a_policy_can_be_pickled(folders):
    loaded = loading.load_model(folders["qwen2_5_vl"], "qwen2_5_vl").model
    again = pickle.loads(pickle.dumps(loaded))
    patches = torch.rand(3, loaded.model.visual.patch_embed.proj.weight[0].numel())
    with torch.no_grad():
        once, other = (model.model.visual.patch_embed.proj(patches) for model in (loaded, again))
    assert torch.equal(once, other) and again.model.visual.patch_embed.proj.forward.args[0] is again.model.visual.patch_embed.proj


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (without("config.json"), r"lacks config\.json \(config\.json\); copy the whole folder again"),
        (without("preprocessor_config.json"), r"lacks an image processor \(preprocessor_config\.json or processor_config\.json\)"),
        (without("tokenizer.json"), r"lacks a tokenizer \(tokenizer\.json or vocab\.json\)"),
        (without("model.safetensors"), r"lacks weights \(model\.safetensors or model\.safetensors\.index\.json\)"),
        (without("tokenizer.json", "model.safetensors"), r"lacks a tokenizer .*, weights"),
        (sharded, r"lacks model-00002-of-00002\.safetensors, which model\.safetensors\.index\.json lists"),
        (truncated, r"do not fit its config\.json"),
        (
            lambda folder: (folder / "config.json").write_text('{"model_ty'),
            r"whose config\.json can't be read \(Unterminated string.*copy the whole",
        ),
        (
            lambda folder: (folder / "preprocessor_config.json").write_text(""),
            r"whose preprocessor_config\.json can't be read \(Expecting value",
        ),
        (
            lambda folder: (folder / "tokenizer_config.json").write_text("[]"),
            r"whose tokenizer_config\.json can't be read \(it is a list, not an obj",
        ),
        (
            lambda folder: (folder / "tokenizer.json").write_text("{}"),
            r"the tokenizer or the image processor of .* can't be used \(KeyError: ",
        ),
        (lambda folder: change(folder / "config.json", text_config=5), r"config\.json, the tokenizer .* can't be used \(.*text_config"),
        (lambda folder: change(folder / "config.json", model_type=None), r"is a None model; this version trains qwen2_5_vl"),
        (lambda folder: change(folder / "config.json", image_token_id=7), r"has <\|image_pad\|> at \d+, config\.json has image_token_id 7"),
        (
            lambda folder: change(folder / "preprocessor_config.json", patch_size=16),
            r"image processor has patch_size 16, config\.json patch_size 14",
        ),
        (wordless, r"its tokenizer has \d+ tokens, config\.json vocab_size 100"),
        (quantised("awq"), r"are quantised \(quantization_config of its config\.json: awq\), which can't be trained"),
        (quantised("fp8"), r"are quantised \(.*: fp8\)"),
        (adapter, r"holds an adapter beside weights \(adapter_config\.json\)\. Merge it into its base"),
        (lambda folder: [adapter(folder), (folder / "model.safetensors").unlink()], r"holds an adapter \(adapter_config\.json\)"),
        (lambda folder: change(folder / "tokenizer_config.json", pad_token=None), r"has no padding token; set pad_token .*endoftext"),
        (
            lambda folder: change(folder / "config.json", model_type="qwen2_vl"),
            r"'qwen2_vl' model; this version trains qwen2_5_vl, qwen3_vl, qwen3_5",
        ),
    ],
)
def test_a_folder_that_is_not_whole_is_refused_in_one_message_before_its_weights_are_used(damage, said, folders, tmp_path):
    broken = Path(shutil.copytree(folders["qwen2_5_vl"], tmp_path / "broken"))
    damage(broken)
    with pytest.raises(ValueError, match=said):
        loading.load_model(broken, "qwen2_5_vl")


def test_a_hub_name_without_a_network_says_how_to_give_a_folder():
    with pytest.raises(ValueError, match=r"not a folder here, and can't be downloaded .* set its folder: policy\.checkpoint="):
        loading.load_model("Qwen/Qwen2.5-VL-7B-Instruct", "qwen2_5_vl")


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch):
    asked = []

    def silent(url: str, timeout: float) -> None:
        asked.append(url)
        raise loading.HTTPError("no route")

    monkeypatch.setattr(loading, "get_hf_file_metadata", silent)
    monkeypatch.setattr(loading.AutoConfig, "from_pretrained", lambda name: pytest.fail("its client tries six times"))
    with pytest.raises(ValueError, match=r"can't be downloaded from the hub.*no route"):
        loading.load_model("nobody/nothing", "qwen2_5_vl")
    assert len(asked) == 1 and asked[0].endswith("/nobody/nothing/resolve/main/config.json")


def test_a_folder_that_does_not_exist_is_said_to_be_none():
    with pytest.raises(ValueError, match=r"/nowhere/policy, which is not a folder"):
        loading.load_model("/nowhere/policy", "qwen2_5_vl")


def test_targets_that_match_no_layer_are_refused_with_the_layers_that_there_are(folders):
    with pytest.raises(ValueError, match=r"lora_targets: no trainable linear layer is called query\. Available: down_proj, .*q_proj"):
        build.load_policy(configured(folders, "qwen3_vl", Path("x"), *LORA, "policy.lora_targets=[q_proj,query]").policy)


def test_a_name_that_the_embedding_of_patches_bears_too_is_adapted_where_it_is_a_linear_layer(folders):
    cfg = configured(folders, "qwen2_5_vl", Path("x"), *LORA, "policy.lora_targets=[proj]").policy
    adapted = {name for name, _ in build.load_policy(cfg).model.named_parameters() if "lora_" in name}
    assert adapted and all(".attn.proj." in name for name in adapted)


@pytest.mark.parametrize(
    ("trainer", "mixed"),
    [
        (("trainer=cpu",), False),
        (("trainer=gpu",), True),
        (("trainer=fsdp",), True),
        (("trainer=fsdp", "trainer.strategy.arithmetic=float32"), False),
    ],
)
def test_a_policy_is_measured_in_the_arithmetic_of_its_training(trainer, mixed, folders):
    with build.autocast_like_trainer(configured(folders, "qwen3_vl", Path("x"), *trainer).trainer):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype is (torch.bfloat16 if mixed else torch.float32)


@pytest.mark.parametrize(
    ("settings", "generation", "refused"),
    [
        (("trainer=gpu",), (7, 5), True),
        (("trainer=gpu",), (8, 0), False),
        (("trainer=gpu", "trainer.precision=32-true"), (7, 5), False),
        (("trainer=gpu", "trainer.precision=32-true", "policy.dtype=bfloat16", "policy.lora_rank=2"), (7, 5), True),
        (("trainer=cpu", "trainer.precision=bf16-mixed"), (7, 5), False),
    ],
)
def test_bfloat16_is_refused_on_a_gpu_without_the_kernel(settings, generation, refused, folders, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: generation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    problem = r"attention in bfloat16 needs .* this is a Tesla T4; use trainer\.precision=32-true policy\.dtype=float32"
    with pytest.raises(ConfigError, match=problem) if refused else nullcontext():
        validated(configured(folders, "qwen3_vl", Path("x"), *settings), TrainConfig)


@pytest.mark.parametrize("trainer", ["gpu", "ddp", "fsdp"])
def test_a_trainer_for_gpus_is_refused_where_there_is_none(trainer, folders, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"trainer\.accelerator is gpu, but PyTorch finds no GPU here .*; use trainer=cpu"):
        validated(configured(folders, "qwen3_vl", Path("x"), f"trainer={trainer}"), TrainConfig)


def test_a_trainer_of_the_cpu_beside_a_vllm_on_a_gpu_is_refused(folders, monkeypatch):
    """Weights are handed over in the memory of one device."""
    monkeypatch.setattr("focus.config.section_checks.find_spec", lambda name: name)
    validated(configured(folders, "qwen3_vl", Path("x"), "rollout=vllm", "trainer=cpu"), TrainConfig)  # vLLM is on the CPU too
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    served = "rollout.vllm.mode=served", "rollout.endpoint.url=http://gpu1:8000/v1"
    validated(configured(folders, "qwen3_vl", Path("x"), "rollout=vllm", "trainer=cpu", *served), TrainConfig)
    with pytest.raises(ConfigError, match=r"trainer\.accelerator is cpu; use trainer=gpu, or rollout=kv"):
        validated(configured(folders, "qwen3_vl", Path("x"), "rollout=vllm", "trainer=cpu"), TrainConfig)
