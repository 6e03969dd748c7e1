"""One question about one picture: what the policy answers, where it looked, and what it answers with its crop replaced."""

import json
import re
import struct
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from PIL import ExifTags, Image

import focus
from focus import agent as agents
from focus.agent import Agent
from focus.config import CONF
from focus.config.policy_settings import setting_of_policy
from focus.data.scenes import DIFFICULTY, Scene
from focus.model.loading import EMBEDDED, load_model
from focus.model.prompts import CALL_OPEN
from focus.runs import ask
from tests.support.protocol import Server
from tests.support.runs import composed
from tests.support.scripted import Scripted, call


class SeesNoise(Scripted):
    """Crops the middle, then answers 12 if the crop has more than 1,000 colours (noise), else 34."""

    def says(self, request, sampling):
        if len(request.images) == 1:
            text = call(250, 250, 750, 750)
        else:
            text = f"<answer>{12 if request.images[1].getcolors(1000) is None else 34}</answer><|im_end|>"
        return Scripted(self.policy, text, text).says(request, sampling)


@pytest.fixture(scope="module")
def embedded():
    return load_model(EMBEDDED, "tiny")


@pytest.fixture
def scripted(monkeypatch, embedded):
    def use(engine):
        monkeypatch.setattr(agents, "load_evaluated", lambda cfg: (embedded, engine))

    return use


@pytest.fixture
def picture(tmp_path):
    Image.new("RGB", (448, 224), "white").save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_an_answer_has_the_turns_the_boxes_in_pixels_of_the_picture_and_the_crops(scripted, embedded, picture):
    scripted(Scripted(embedded, call(250, 500, 750, 1000), "<answer>34</answer><|im_end|>"))
    answer = focus.Agent.load("embedded", "view_tokens=8").ask(picture, "What is on the sign?")
    assert (answer.text, answer.status, answer.changed) == ("34", "answered", None)
    assert answer.turns == (call(250, 500, 750, 1000), "<answer>34</answer><|im_end|>")
    assert answer.boxes_px == ((112.0, 112.0, 336.0, 224.0),)
    assert answer.crops[0].size == (224, 112) and answer.view.size == (112, 56)  # 28 px a token: 4 x 2 tokens of the whole


def test_a_picture_in_memory_is_asked_about_as_its_file_is(scripted, embedded, picture):
    scripted(Scripted(embedded, "<answer>34</answer><|im_end|>"))
    agent = Agent.load()
    in_memory, of_file = agent.ask(Image.open(picture), "What?"), agent.ask(picture, "What?")
    assert in_memory.trajectory.ids == of_file.trajectory.ids
    assert in_memory.view.tobytes() == of_file.view.tobytes()


def test_a_served_agent_is_asked_by_its_url_in_its_own_dialect(picture):
    called = '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [112, 112, 336, 224]}}</tool_call>'
    with Server(lambda chat: (called if len(chat["messages"]) == 2 else "<answer>34</answer>", "stop", 4), models=("agent",)) as server:
        agent = Agent.load(server.url, "policy.checkpoint=agent", "policy.dialect=deepeyes")
        answer = agent.ask(picture, "What?", counterfactual="blank")
    assert (answer.text, answer.boxes_px, answer.changed) == ("34", ((112.0, 112.0, 336.0, 224.0),), False)


def test_an_agent_is_loaded_within_another_application_of_hydra(scripted, embedded):
    scripted(Scripted(embedded, "<answer>34</answer><|im_end|>"))
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        assert Agent.load("embedded", "view_tokens=9").view_tokens == 9
        assert compose("ask", ["image=a.png", "question=What?"]).question == "What?"  # it goes on


def test_a_policy_that_must_crop_first_begins_with_a_call(scripted, embedded, picture):
    scripted(Scripted(embedded, call(250, 500, 750, 1000).removeprefix(CALL_OPEN), "<answer>34</answer><|im_end|>"))
    answer = Agent.load().ask(picture, "What?", must_crop=True)
    assert (answer.text, answer.boxes_px) == ("34", ((112.0, 112.0, 336.0, 224.0),)) and answer.turns[0].startswith(CALL_OPEN)


def test_the_turns_of_a_conversation_are_told_as_they_come_and_a_wish_to_stop_ends_it(scripted, embedded, picture):
    scripted(Scripted(embedded, call(250, 500, 750, 1000), "<answer>34</answer><|im_end|>"))
    agent, told, stop = Agent.load(), [], Event()
    answer = agent.ask(picture, "What?", on_turn=lambda t: told.append([turn.text for turn in t.turns]))
    assert told == [[], [answer.turns[0]], list(answer.turns)]
    stop.set()
    assert agent.ask(picture, "What?", stop=stop).status == "open"


def test_an_answer_is_taken_up_again_with_other_crops_and_without_a_crop(scripted, embedded, picture):
    class Prefilled(SeesNoise):
        def says(self, request, sampling):
            if request.trajectory.prefill:
                return Scripted(self.policy, "56</answer><|im_end|>").says(request, sampling)
            return super().says(request, sampling)

    scripted(Prefilled(embedded))
    agent = Agent.load()
    answer = agent.ask(picture, "What?", view_tokens=4)
    assert (answer.text, answer.trajectory.view.tokens) == ("34", 2)  # 2 x 1 tokens of 448 x 224 px
    assert agent.with_other_crops(answer, "noise").text == "12" and agent.with_other_crops(answer, "blank").text == "34"
    assert (agent.without_crops(answer).text, agent.without_crops(answer).crops) == ("56", ())


def test_the_counterfactual_says_what_the_policy_answers_with_its_crop_replaced(scripted, embedded, picture):
    scripted(SeesNoise(embedded))
    agent = Agent.load()
    noise, blank = (agent.ask(picture, "What?", counterfactual=name) for name in ("noise", "blank"))
    assert (noise.text, noise.counterfactual.text, noise.changed) == ("34", "12", True)
    assert (blank.text, blank.counterfactual.text, blank.changed) == ("34", "34", False)
    with pytest.raises(ValueError, match="counterfactual is 'gt'; choose one of noise, blank, mean_colour, elsewhere"):
        agent.ask(picture, "What?", counterfactual="gt")


def test_options_have_letters_and_an_answer_is_compared_by_its_option(scripted, embedded, picture):
    scripted(Scripted(embedded, "<answer>B</answer><|im_end|>"))
    answer = Agent.load().ask(picture, "What?", options=["red", "blue"])
    assert answer.trajectory.sample.options == (("A", "red"), ("B", "blue"))


def test_more_options_than_letters_are_refused(scripted, embedded, picture):
    scripted(Scripted(embedded, "<answer>B</answer><|im_end|>"))
    with pytest.raises(ValueError, match=r"27 options were given; a question has at most 26 \(A to Z\)"):
        Agent.load().ask(picture, "What?", options=["red"] * 27)


@pytest.mark.parametrize(
    ("question", "options", "said"),
    [
        ("What?", "red", "options is the text 'red'; give a list of texts"),
        (" ", (), "the question is empty; ask one"),
        ("What is <|image_pad|>?", (), "the question or an option contains '<|', which only prompts may contain"),
        ("What?", ("<image>", "blue"), "the question or an option contains '<image>'"),
    ],
)
def test_a_question_that_can_not_be_asked_is_refused(scripted, embedded, picture, question, options, said):
    scripted(Scripted(embedded, "<answer>B</answer><|im_end|>"))
    with pytest.raises(ValueError, match=re.escape(said)):
        Agent.load().ask(picture, question, options)


@pytest.mark.parametrize(
    ("policy", "overrides", "said"),
    [
        ("it's/not there", (), "policy.checkpoint is it's/not there, which is not a folder"),
        ("~/nowhere", (), "policy.checkpoint is {home}/nowhere, which is not a folder"),
        ("embedded", ("view_token=3",), "view_token is no setting. Did you mean view_tokens? There are: "),
        ("embedded", ("policy=nope", "seed=x"), "policy=nope names no file. There are: "),
        ("embedded", ("seed=x",), "seed is 'x'; write a whole number"),
        ("http://127.0.0.1:9/v1", ("policy.checkpoint=agent",), "policy.dialect is null; name the form of its calls: "),
    ],
)
def test_an_agent_that_can_not_be_is_a_value_error_with_what_to_do(policy, overrides, said):
    with pytest.raises(ValueError, match=re.escape(said.format(home=Path.home()))):
        Agent.load(policy, *overrides)


def test_a_picture_that_can_not_be_used_is_refused_before_a_policy_loads(picture, tmp_path, monkeypatch):
    monkeypatch.setattr(agents, "load_evaluated", lambda cfg: pytest.fail("a policy was loaded"))
    picture.write_bytes(picture.read_bytes()[:-100])
    cfg = composed(f"image={picture}", "question=What?", f"output={tmp_path / 'out'}", name="ask")
    with pytest.raises(ValueError, match=r"^the image none\.png does not exist; give the path of a picture$"):
        agents.opened("none.png")
    with pytest.raises(ValueError, match=r"the image .*photo\.png can't be used: .*truncated.*; give another one"):
        ask.run(cfg)


def test_a_photo_in_memory_that_lies_on_its_side_is_turned_whatever_else_its_exif_has(tmp_path):
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation], tags[ExifTags.Base.XResolution] = 6, (72, 1)
    block = tags.tobytes().replace(struct.pack(">HHI", 0x11A, 5, 1), struct.pack(">HHI", 0x11A, 2, 3))  # the resolution is a text
    Image.new("RGB", (96, 64)).save(tmp_path / "photo.jpg", exif=block)
    with Image.open(tmp_path / "photo.jpg") as photo:
        original, _ = agents.opened(photo)
        assert original.size == (64, 96) and photo.size == (96, 64)
    grey, _ = agents.opened(Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)))
    assert grey.reduced(grey.size).getextrema()[0] == (0, 255)  # as from a file, not clipped to black


def test_the_command_prints_the_turns_and_writes_the_picture_and_a_record(scripted, embedded, picture, tmp_path, capsys, monkeypatch):
    scripted(SeesNoise(embedded))
    cfg = composed(f"image={picture}", "question='Which one, really?'", "counterfactual=noise", name="ask")
    cfg.output = str(tmp_path / "out")
    ask.run(cfg)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("turn 1: <tool_call>") and lines[2] == "answer: 34"
    assert lines[3] == "with noise in its crops: 12 (the answer changes)"
    record = json.loads((tmp_path / "out/answer.json").read_text())
    assert record["question"] == "Which one, really?" and record["boxes_px"] == [[112.0, 56.0, 336.0, 168.0]]
    assert record["counterfactual"] == {"crops": "noise", "answer": "12", "changed": True}
    with Image.open(tmp_path / "out/answer.png") as drawn:
        assert drawn.width == 1000


def test_the_embedded_policy_answers_about_its_own_scenes(tmp_path):
    scene = Scene(DIFFICULTY[1], "eval", 0)
    original = scene.open()
    answer = Agent.load("embedded", "temperature=1.0").ask(original.reduced(original.size), scene.sample().question)
    assert answer.status == "answered" and answer.text.isdigit()


def test_a_policy_is_asked_with_the_settings_of_the_run_that_left_it(tmp_path):
    (tmp_path / "policy").mkdir()
    (tmp_path / "settings.yaml").write_text("policy: {dialect: qwen3_vl_zoom}\ngap: {view_tokens: 777}\n")
    left = str(tmp_path / "policy")
    assert setting_of_policy(left, "policy.dialect") == "qwen3_vl_zoom" and setting_of_policy(left, "gap.view_tokens") == 777


def test_a_policy_without_a_run_is_asked_as_its_family_is(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
    assert setting_of_policy(str(tmp_path), "policy.dialect") == "qwen2_5_vl"
    assert setting_of_policy(str(tmp_path), "rollout.crop_tokens") == 1024
    assert setting_of_policy("Qwen/Qwen2.5-VL-7B-Instruct", "policy.dialect") == "qwen2_5_vl"
    assert (setting_of_policy("embedded", "policy.dialect"), setting_of_policy("embedded", "gap.view_tokens")) == ("tiny", 16)
    assert setting_of_policy("somebody/model", "policy.dialect") is None
