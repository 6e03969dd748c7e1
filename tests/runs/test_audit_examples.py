"""The examples of docs/audit.md, with stand-ins for the other packages: a scripted agent is audited through each."""

import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

import focus
from focus.data.scenes import Scenes, scene_spec
from focus.model.dialect import read_dialect
from tests.support.agents import SMALL_AUDIT, conducts, data_url, speaking, truths
from tests.support.protocol import Server, hurry

PAGE = (Path(__file__).parents[2] / "docs/audit.md").read_text()
EXAMPLES = dict(re.findall(r"^### ([\w-]+)\n.*?^```python\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL))


def module(monkeypatch, name: str, **members: Any) -> None:
    """A stand-in for a package that is not installed, with its parents."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        monkeypatch.setitem(sys.modules, ".".join(parts[:end]), ModuleType(".".join(parts[:end])))
    vars(sys.modules[name]).update(members)


def lmms_eval(monkeypatch, agent) -> None:
    class Model:
        def __init__(self, pretrained: str) -> None:
            self.task_dict: Any = None

        def generate_until(self, requests):
            [request] = requests
            _, messages_of, _limits, document, task, split = request.arguments
            kinds = {"text": lambda part: part, "image": lambda part: {"type": "image_url", "image_url": {"url": part["url"]}}}
            told = messages_of(self.task_dict[task][split][document])
            shown = [m | {"content": [kinds[part["type"]](part) for part in m["content"]]} for m in told]
            return [agent([shown[0] | {"content": shown[0]["content"][0]["text"]}, *shown[1:]])]

    def instance(request_type, arguments, idx, metadata):
        return SimpleNamespace(arguments=arguments)

    module(monkeypatch, "lmms_eval.models", get_model=lambda name: Model)
    module(monkeypatch, "lmms_eval.api.instance", Instance=instance)
    sys.modules["lmms_eval.models"] = models = ModuleType("lmms_eval.models")  # its parent was made anew
    models.get_model = lambda name: Model  # type: ignore[attr-defined]


def vlmevalkit(monkeypatch, agent) -> None:
    class Model:
        def generate(self, message):
            assert all(set(part) == {"type", "value"} for part in message)
            parts = [
                {"type": "text", "text": part["value"]} if part["type"] == "text"
                else {"type": "image_url", "image_url": {"url": data_url(Image.open(part["value"]))}}
                for part in message
            ]  # fmt: skip
            turns = sum("<think>closer" in part["value"] for part in message if part["type"] == "text")
            system = {"role": "system", "content": parts[0]["text"]}
            return agent([system, {"role": "user", "content": parts[1:]}, *[{"role": "assistant", "content": "..."}] * turns])

    module(monkeypatch, "vlmeval.config", supported_VLM={"Qwen2.5-VL-7B-Instruct": Model})


def trl(monkeypatch, agent) -> None:
    class Processor:
        def apply_chat_template(self, told, add_generation_prompt):
            self.told = told
            return "the prompt"

        def __call__(self, text, images, return_tensors):
            given = iter(images)
            shown = [
                {"role": m["role"], "content": [
                    part if part["type"] == "text" else {"type": "image_url", "image_url": {"url": data_url(next(given))}}
                    for part in m["content"]]}
                for m in self.told
            ]  # fmt: skip
            first = shown[0] | {"content": shown[0]["content"][0]["text"]}
            self.said = agent([first, *shown[1:]])

            class Inputs(dict):
                def to(self, device):
                    return self

            return Inputs(input_ids=torch.zeros(1, 3, dtype=torch.long))

        def decode(self, ids, skip_special_tokens):
            assert ids.tolist() == [7, 8]  # what was sampled after the prompt
            return self.said

    model = SimpleNamespace(device="cpu", generate=lambda input_ids, **rest: torch.tensor([[0, 0, 0, 7, 8]]))
    monkeypatch.setattr("transformers.AutoProcessor.from_pretrained", lambda folder: Processor())
    monkeypatch.setattr("transformers.AutoModelForImageTextToText.from_pretrained", lambda folder, device_map: model)


@pytest.mark.parametrize(("name", "stand_in"), [("lmms-eval", lmms_eval), ("VLMEvalKit", vlmevalkit), ("TRL", trl)])
def test_the_example_of_the_page_audits_a_scripted_agent(monkeypatch, tmp_path, name, stand_in):
    known = truths(Scenes(scene_spec(1, None, 224), "eval", 2), [16])
    stand_in(monkeypatch, conducts(known)["looks"])
    found: dict[str, Any] = {}
    exec(compile(EXAMPLES[name], f"docs/audit.md, {name}", "exec"), found)
    quick = ("audit.samples=2", "audit.views=[16]", "evaluation.arms=[own,noise]")
    card = focus.audit(found["agent"], *SMALL_AUDIT, *quick, dialect="mini_o3", name="my-agent", output=tmp_path)
    [entry] = card.together
    assert (entry.accuracy["own"][0], entry.accuracy["noise"][0], entry.steps["calls"][0]) == (1, 0, 1)


def test_the_small_agent_of_the_page_crops_in_the_form_of_its_dialect(tmp_path):
    [example] = re.findall(r"^A small agent.*?^```python\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    found: dict[str, Any] = {}
    exec(compile(example, "docs/audit.md, a small agent", "exec"), found)
    quick = ("audit.samples=2", "audit.views=[16]", "evaluation.arms=[own,noise]")
    card = focus.audit(found["agent"], *SMALL_AUDIT, *quick, dialect="qwen3_vl_zoom", name="small", output=tmp_path)
    assert card.together[0].steps["calls"][0] == 1 and card.endings == {"answered": 2}


def test_the_example_of_verl_audits_a_scripted_agent_behind_a_server(monkeypatch, tmp_path):
    hurry(monkeypatch)
    known = truths(Scenes(scene_spec(1, None, 224), "eval", 2), [16])
    whole, asked = focus.audit, list[Any]()

    def small(url: str, dialect: str, name: str):
        asked.extend((url, read_dialect(dialect).name))
        quick = ("audit.samples=2", "audit.views=[16]", "evaluation.arms=[own,noise]", "audit.repeated=0")
        return whole(server.url, *SMALL_AUDIT, *quick, dialect="mini_o3", name=name, output=tmp_path)

    monkeypatch.setattr(focus, "audit", small, raising=False)
    with Server(speaking(conducts(known)["looks"]), models=["mine"]) as server:
        found: dict[str, Any] = {}
        exec(compile(EXAMPLES["verl"], "docs/audit.md, verl", "exec"), found)
    assert found["card"].together[0].accuracy["own"][0] == 1 and asked == ["http://localhost:8000/v1", "deepeyes"]


def test_the_page_of_the_probe_leads_to_every_example():
    probe = (Path(__file__).parents[2] / "docs/probe.md").read_text()
    assert {name: f"](audit.md#{name.lower()})" in probe for name in EXAMPLES} == dict.fromkeys(EXAMPLES, True)


def test_an_example_is_short_and_every_one_of_the_page_is_here():
    assert set(EXAMPLES) == {"lmms-eval", "VLMEvalKit", "TRL", "verl"}
    assert all(len([line for line in body.splitlines() if line.strip()]) <= 21 for body in EXAMPLES.values())
