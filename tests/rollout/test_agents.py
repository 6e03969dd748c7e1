"""Every dialect that a served agent speaks, in a whole conversation that is written down in tests/rollout/agents/NAME.txt.

A file holds all messages in the order of sending, `<WxH>` for an image, and the turns that a scripted server says. A second conversation
(`== anew`) is sent without the first one.
"""

import re
from pathlib import Path

import pytest
from PIL import Image

from focus.data.boxes import Box
from focus.data.images.original import Decoded
from focus.data.sample import ImageFile, Sample
from focus.gap import Gap, Mode
from focus.grading.extraction import read_answer
from focus.model.dialect import DialectError, dialect_names, read_dialect
from focus.model.loading import EMBEDDED, load_model
from focus.model.prompts import Fault, Malformed
from focus.rollout.engine import Sampling
from focus.rollout.loop import RolloutLimits, begin, play, reopen
from focus.rollout.served import OpenAIEngine, Served
from focus.rollout.substitutes import blank
from focus.rollout.trajectory import Status, Trajectory
from focus.runtime.endpoint import Endpoint
from tests.support.agents import image_of
from tests.support.protocol import Server

AGENTS = Path(__file__).parent / "agents"
SIZE = (672, 448)
PART = re.compile(r"^== (\w+)\n", re.MULTILINE)


def script(name: str) -> list[str]:
    """What the agent says in its transcript, turn by turn, as a server returns it: without the text that stops a turn."""
    dialect = read_dialect(name)
    stop = "" if dialect.course == "two_roles" else dialect.call[1]
    parts = PART.split((AGENTS / f"{name}.txt").read_text())[1:]
    return [text.removesuffix("\n").removesuffix(stop) for role, text in zip(parts[::2], parts[1::2], strict=True) if role == "assistant"]


def transcript(chats: list[dict], says: list[str]) -> str:
    """The conversations of these requests with the replies that ended them."""
    parts: list[tuple[str, str]] = []
    for number, chat in enumerate(chats):
        messages, following = chat["messages"], chats[number + 1]["messages"] if number + 1 < len(chats) else []
        if following[: len(messages)] == messages:
            continue  # the next request holds it all
        parts += [("anew", "")] * bool(parts)
        parts += [(m["role"], m["content"] if isinstance(m["content"], str) else shown(m["content"])) for m in messages]
        parts.append(("assistant", says[number]))
    return "".join(f"== {role}\n" + f"{text}\n" * bool(text) for role, text in parts)


def shown(content: list[dict]) -> str:
    return "".join(part["text"] if "text" in part else "<{}x{}>".format(*image_of(part).size) for part in content)


def asked(name: str, says: list[str], prefill: str = "", tool: bool = True, altered: bool = False) -> tuple[Trajectory, list[dict]]:
    """One question about a plain image to an agent that says these turns; the conversation, and the requests."""
    image = Image.new("RGB", SIZE, "white")
    sample = Sample("a/b/c", "a", "b", ImageFile(Path()), *SIZE, "What is it?", ("7",), options=(("A", "7"), ("B", "8")))
    turns = iter(says)
    with Server(lambda request: (next(turns), "stop", 5)) as server:
        endpoint, dialect = Endpoint(server.url, "tiny", "NO_KEY", 600.0, 0, 1), read_dialect(name)
        model, engine, limits = Served(endpoint, dialect), OpenAIEngine(endpoint, dialect), RolloutLimits(5, 1024, Sampling(0.0, 100))
        view, source = Gap(Mode.FIXED, 24, dialect.token_px).view_of(sample, Decoded(image))
        [opened] = begin(model, sample, view, source, [0], prefill, tool)
        [played] = play(model, engine, [opened], limits)
        if altered:
            [played] = play(model, engine, [reopen(model, played, blank)], limits)
        return played, server.chats


def boxes(t: Trajectory) -> list[Box]:
    return [crop.box_px for crop in t.crops]


CROPS = {
    "adaptvision": [(224, 112, 448, 224)],
    "deepeyes": [(224, 112, 448, 224)],
    "ergo": [(224, 112, 448, 224)],
    "mini_o3": [(336, 224, 672, 448), (336, 224, 504, 336)],
    # a tenth of the image (67.2 and 44.8 px) more on every side; of the crop, a tenth of its own sides
    "p2r": [(0, 179, 203, 359), (268, 179, 472, 359)],
    "pixel_reasoner": [(268, 0, 672, 269), (227, 0, 511, 162)],
    "qwen2_5_vl": [(224, 112, 448, 224)],
    "qwen3_5": [(336, 0, 672, 224)],
    "qwen3_vl": [(336, 0, 672, 224)],
    "qwen3_vl_zoom": [(336, 0, 672, 224), (336, 0, 504, 112)],
    "sensenova_mars": [(336, 0, 672, 224)],
}


def test_every_dialect_of_a_served_agent_has_its_transcript():
    assert sorted(path.stem for path in AGENTS.glob("*.txt")) == sorted(CROPS) == [name for name in dialect_names() if name != "tiny"]


@pytest.mark.parametrize("name", CROPS)
def test_a_conversation_is_the_one_that_is_written_down(name):
    says = script(name)
    played, chats = asked(name, says)
    assert transcript(chats, says) == (AGENTS / f"{name}.txt").read_text()
    assert boxes(played) == CROPS[name]
    assert read_answer(played.turns[-1].text, played.answer, False, played.sample.options, "strict") == "A"
    assert played.status is Status.ANSWERED


def test_a_call_of_a_tool_that_the_prompt_offers_and_focus_lacks_is_answered_and_costs_a_turn():
    played, chats = asked(
        "sensenova_mars",
        [
            '<tool_call>\n{"name": "text_search_tool", "arguments": {"query": "what is it"}}\n',
            '<tool_call>\n{"name": "rotate", "arguments": {}}\n',
            "<answer>A</answer>",
        ],
    )
    assert shown(chats[1]["messages"][-1]["content"]) == "<tool_response>\nError: the tool is unavailable. No image.\n</tool_response>"
    assert shown(chats[2]["messages"][-1]["content"]) == "<tool_response>\nError: there is no such tool. No image.\n</tool_response>"
    assert [turn.action for turn in played.turns[:2]] == [Malformed(Fault.UNKNOWN_TOOL)] * 2 and played.answer == "A"


def test_an_agent_of_one_crop_gets_no_second_one():
    call = '<tool_call>{"name": "request_local_region", "arguments": {"bbox_2d": [56, 28, 112, 56]}}'
    played, _ = asked("adaptvision", [call, call])
    assert len(played.crops) == 1 and played.status is Status.OUT_OF_TURNS


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        ("<think>all of it</think> The whole image.", "neither a call nor an answer"),
        ("<zoom>the sign", "the call is not JSON"),
        ("<zoom>[1, 2, 3]", "bbox_2d must be four finite numbers"),
        ("<zoom>[400, 400, 500, 500]", "the box is outside the image"),
    ],
)
def test_the_second_turn_of_two_is_asked_whatever_the_first_one_said(first, reason):
    played, chats = asked("ergo", [first, "<answer>B</answer>"])
    assert not played.crops and played.answer == "B"
    said = shown(chats[1]["messages"][-1]["content"])
    assert said.startswith(
        f"Error: {reason}. No image.\nWhat is it?\nA. 7\nB. 8\nAnswer with the letter of one option.\nAnswer from the image."
    )


def test_in_two_turns_a_first_turn_that_answers_is_taken_at_its_word_and_a_second_zoom_has_no_answer():
    assert asked("ergo", ["<answer>B</answer>"])[0].answer == "B"
    played, _ = asked("ergo", ["<zoom>[56, 28, 112, 56]", "<zoom>[56, 28, 112, 56]"])
    assert played.status is Status.OUT_OF_TURNS and len(played.crops) == 1


@pytest.mark.parametrize(
    "first", ["[]", "I see no evidence.", '[{"bbox_2d": [1, 2], "label": "x"}]', "[{", '[{"bbox_2d": [2000, 0, 3000, 10]}]']
)
def test_without_a_box_the_second_role_is_asked_about_the_view_as_in_the_arm_without_a_tool(first):
    played, chats = asked("p2r", [first, "<answer>B</answer>"])
    _, plain = asked("p2r", ["<answer>B</answer>"], tool=False)
    assert chats[1]["messages"] == plain[0]["messages"] and not played.crops and played.answer == "B"
    _, forced = asked("p2r", ["B</answer>"], prefill="<answer>")
    assert forced[0]["messages"] == [*plain[0]["messages"], {"role": "assistant", "content": "<answer>"}]


def test_the_second_role_sees_three_crops_at_most_and_their_boxes_on_the_view_also_where_the_crops_are_replaced():
    listed = "```json\n[" + ", ".join(f'{{"bbox_2d": [{x}, 0, {x + 100}, 100], "label": "x"}}' for x in (0, 200, 400, 600)) + "]\n```"
    played, chats = asked("p2r", [listed, "<answer>A</answer>"])
    assert len(played.crops) == 3 and [turn.text for turn in played.turns] == [listed, "", "", "<answer>A</answer>"]
    assert sum(len(turn.ids) for turn in played.turns) == 10  # what the server counted, once for each request
    first = [image_of(part) for part in chats[1]["messages"][1]["content"] if part["type"] == "image_url"]
    assert [first[0].getpixel((x, 0)) for x in (10, 50, 90, 130)] == [(255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 255)]
    altered, chats = asked("p2r", [listed, "<answer>A</answer>", "<answer>B</answer>"], altered=True)
    second = [image_of(part) for part in chats[2]["messages"][1]["content"] if part["type"] == "image_url"]
    assert second[0].tobytes() == first[0].tobytes()
    assert all(crop.getcolors() == [(crop.width * crop.height, (128, 128, 128))] for crop in second[1:]) and len(second) == 4
    assert altered.answer == "B"


def test_an_answer_in_a_box_ends_with_the_brace_that_closes_it():
    assert asked("pixel_reasoner", [r"So \boxed{3}? No: \boxed{\text{A}}"])[0].answer == r"\text{A}"
    assert asked("pixel_reasoner", [r"\boxed{"])[0].turns[0].action == Malformed(Fault.UNCLOSED)
    assert asked("pixel_reasoner", ["A}"], prefill=r"\boxed{")[0].answer == "A"


@pytest.mark.parametrize("name", ["thyme", "deepeyes_v2", "pyvision"])
def test_an_agent_whose_tool_is_a_python_sandbox_is_refused_with_a_sentence(name):
    with pytest.raises(DialectError, match="Python sandbox: it runs code that the model writes, and focus runs none"):
        read_dialect(name)


def test_weights_that_run_here_have_no_second_conversation():
    with pytest.raises(ValueError, match=r"policy\.dialect=p2r answers in a second conversation.*rollout=openai"):
        load_model(EMBEDDED, "p2r")
