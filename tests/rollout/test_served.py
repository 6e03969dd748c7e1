"""Someone else's agent, asked over HTTP: the same loop, the same probe, in its own tool form."""

import json
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from PIL import Image

from focus.data.images.original import Decoded
from focus.data.sample import Sample
from focus.data.scenes import DIFFICULTY, Scene
from focus.evaluation.arms import Evaluator
from focus.evaluation.measure import measure
from focus.evaluation.outcome import ARMS, METRICS, Outcome
from focus.gap import Gap, Mode
from focus.model.dialect import read_dialect
from focus.model.loading import EMBEDDED, load_model
from focus.model.policy_model import PolicyModel
from focus.model.prompts import Fault, Malformed, call_body
from focus.rollout.engine import Completion, Request, Sampling
from focus.rollout.kv import KVEngine
from focus.rollout.loop import RolloutLimits, begin, play
from focus.rollout.served import OpenAIEngine, Served
from focus.rollout.trajectory import Status, Trajectory
from focus.runtime import endpoint as endpoints
from focus.runtime.endpoint import SEED_BITS, Endpoint
from tests.support.agents import image_of
from tests.support.protocol import Server, half_json, half_sent, reset, slow, status, without_choices
from tests.support.reference import equal
from tests.support.speaking import Speaking

SCENES = [Scene(DIFFICULTY[1], "eval", i).sample() for i in range(10)]
LIMITS = RolloutLimits(1, 64, Sampling(1.0, 40))


class Narrow(KVEngine):
    """Draws with as many bits of the seed as the protocol carries."""

    def generate_turn(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[tuple[Request, Completion]]:
        return super().generate_turn([replace(c, seed=c.seed % 2**SEED_BITS) for c in requests], sampling)


@pytest.fixture(scope="module")
def embedded() -> PolicyModel:
    return load_model(EMBEDDED, "tiny")


@pytest.fixture(scope="module")
def direct(embedded) -> Outcome:
    return examined(embedded, Narrow(embedded))


def examined(model, engine, samples: Sequence[Sample] = SCENES, arms: Sequence[str] = ARMS) -> Outcome:
    gap = Gap(Mode.FIXED, 64, 28)
    return measure(Evaluator(model, engine, gap, LIMITS, 0, arms, len(samples)), samples, None)[0]


def served(server: Server, dialect: str = "tiny", timeout_s: float = 600.0, retries: int = 6, concurrency: int = 4):
    client = Endpoint(server.url, "tiny", "NO_KEY", timeout_s, retries, concurrency)
    return Served(client, read_dialect(dialect)), OpenAIEngine(client, read_dialect(dialect))


def same(one: Outcome, other: Outcome) -> list[str]:
    """Metrics that differ."""
    return [metric for metric in METRICS if not equal(one.values[metric], other.values[metric])]


def test_the_probe_of_a_served_policy_is_that_of_its_weights_in_every_arm_and_metric(embedded, direct):
    assert 0 < sum(direct.values["called"]) < len(SCENES)  # some call and some do not: both roads are compared
    with Server(Speaking(embedded)) as server:
        assert same(direct, examined(*served(server))) == []
        assert server.most_open > 1


def test_faults_of_the_network_and_the_server_change_nothing(embedded, direct, monkeypatch):
    monkeypatch.setattr(endpoints, "BACKOFF_S", 0.01)
    faults = [slow(600), reset, status(429, Retry_After="0"), status(500), half_sent, half_json, without_choices([])]
    with Server(Speaking(embedded), faults) as server:
        assert same(direct, examined(*served(server, timeout_s=4.0))) == []
        assert not server.faults


def test_a_refused_request_costs_its_question_and_the_first_of_its_kind_is_named(embedded, direct, caplog):
    with Server(Speaking(embedded), [status(400, "the prompt is 100 % too long")] * 2) as server, caplog.at_level(logging.WARNING):
        found = examined(*served(server, concurrency=1), arms=("own",))
    assert found.values["answered"][:2] == found.values["own"][:2] == [0.0, 0.0]
    assert equal(found.values["answered"][2:], direct.values["answered"][2:])
    assert caplog.text.count("answers 400") == caplog.text.count("100 % too long") == 1
    assert SCENES[0].id in caplog.text and SCENES[1].id not in caplog.text


# ------------------------------------------------------------------------------------------------------------- tool forms


def asked_of(script: Sequence[str], dialect: str, max_crops: int = 3, size: tuple[int, int] = (448, 448), tokens: int = 16):
    """One conversation about a plain image with an agent that says these turns; the conversation, and what the server was sent."""
    image = Image.new("RGB", size, "white")
    sample = Sample("a/b/c", "a", "b", None, *size, "What is it?", ("7",), options=(("A", "7"), ("B", "8")))  # type: ignore[arg-type]
    turns = iter(script)
    with Server(lambda request: (next(turns), "stop", 5)) as server:
        model, engine = served(server, dialect)
        view, source = Gap(Mode.FIXED, tokens, model.token_px).view_of(sample, Decoded(image))
        opened = begin(model, sample, view, source, [0])
        (played,) = play(model, engine, opened, RolloutLimits(max_crops, 64, Sampling(0.0, 100)))
        return played, server.chats


def told(message: dict) -> str:
    """A message as text, `IMAGE` in place of pixels."""
    return "".join(part.get("text", "IMAGE") for part in message["content"])


def crops_of(trajectory: Trajectory) -> list[tuple[float, ...]]:
    return [crop.box_px for crop in trajectory.crops]


def test_mini_o3_crops_a_crop_in_fractions_of_it():
    played, chats = asked_of(
        [
            '<think>There.</think><grounding>{"bbox_2d": [0.5, 0.5, 1.0, 1.0], "source": "original_image"}',
            '<grounding>{"bbox_2d": [0.0, 0.5, 0.5, 1.0], "source": "observation_1"}',
            "<think>It is 7.</think><answer>A</answer>",
        ],
        "mini_o3",
    )
    assert crops_of(played) == [(224, 224, 448, 448), (224, 336, 336, 448)]  # the lower left quarter of the lower right quarter
    assert played.answer == "A" and played.status is Status.ANSWERED
    assert told(chats[0]["messages"][1]) == "IMAGE\nWhat is it?\nA. 7\nB. 8\nAnswer with the letter of one option."
    assert told(chats[2]["messages"][5]) == (
        "This is observation_2:\nIMAGE\nReason between <think> and </think>. Then cut another part of any image you have seen, or write "
        "the final answer between <answer> and </answer>."
    )
    assert chats[0]["stop"] == ["</grounding>"]  # which the server leaves out of its reply; it stands in the turn all the same
    assert chats[1]["messages"][2]["content"].endswith('"original_image"}</grounding>')


def test_a_crop_of_an_image_that_was_never_shown_is_answered_with_the_error_reply_of_the_dialect():
    played, chats = asked_of(
        ['<grounding>{"bbox_2d": [0, 0, 1, 1], "source": "observation_4"}', "<answer>B</answer>"],
        "mini_o3",
    )
    assert played.turns[0].action == Malformed(Fault.OUTSIDE) and played.answer == "B"
    assert told(chats[1]["messages"][3]) == (
        "Error: the box is outside the image. No image.\nReason about this error between <think> and </think>. Then correct your call, or "
        "write the final answer between <answer> and </answer>."
    )


def test_observations_are_numbered_by_the_crops_that_were_shown():
    played, chats = asked_of(
        [
            "<grounding>{}",
            '<grounding>{"bbox_2d": [0, 0, 0.5, 0.5]}',
            '<grounding>{"bbox_2d": [0, 0, 0.5, 0.5], "source": "observation_1"}',
            "<answer>A</answer>",
        ],
        "mini_o3",
    )
    assert told(chats[2]["messages"][5]).startswith("This is observation_1:")
    assert crops_of(played) == [(0, 0, 224, 224), (0, 0, 112, 112)]


def test_a_server_that_refuses_everything_is_an_outage_and_no_wrong_answer():
    with Server(lambda request: ("", "stop", 0), [status(500)] * 99) as server, pytest.raises(ValueError, match="refused all 10 requests"):
        examined(*served(server, retries=0), arms=("own",))


def test_a_server_that_restarts_a_prefilled_turn_is_told_from_one_that_continues_it():
    with Server(lambda request: ("<answer>7</answer>", "stop", 3)) as server, pytest.raises(ValueError, match="starts the turn again"):
        examined(*served(server), samples=SCENES[:1], arms=("own", "tool_free"))


def test_an_agent_that_answers_without_tags_is_not_mute_in_the_probe():
    sample = Sample("a/b/c", "a", "b", SCENES[0].image, *SCENES[0].size, "What?", ("B", "8"), "letter", (("A", "7"), ("B", "8")))
    with Server(lambda request: ("It says 8, so\n\\boxed{B}", "stop", 3)) as server:
        found = examined(*served(server, "qwen3_vl_zoom"), samples=[sample], arms=("own",))
    assert found.values["own"] == [1.0]


def test_deepeyes_speaks_in_pixels_of_the_image_that_it_saw_and_is_reminded_of_its_tags():
    call = '<tool_call>\n{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [0, 0, 56, 56], "label": "it"}}\n'
    played, chats = asked_of([call, "<answer>A</answer>"], "deepeyes")
    assert played.view.size == (112, 112)  # 16 tokens of 28 px: one pixel of it is four of the original
    assert crops_of(played) == [(0, 0, 224, 224)]
    reminder = "Reason between <think> and </think>. Then either use the tool {}or write the final answer between <answer> and </answer>."
    assert told(chats[0]["messages"][1]) == (f"IMAGEWhat is it?\nA. 7\nB. 8\nAnswer with the letter of one option.\n{reminder.format('')}")
    assert told(chats[1]["messages"][3]) == (
        f"<tool_response>IMAGE\nThis is the part you asked for. {reminder.format('again ')}</tool_response>"
    )


def test_qwen3_vl_names_the_image_that_it_zooms_into_by_its_index():
    first = '<tool_call>\n{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [500, 0, 1000, 500], "label": "x", "img_idx": 0}}\n'
    second = '<tool_call>\n{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [0, 0, 500, 500], "label": "x", "img_idx": 1}}\n'
    played, _ = asked_of([first, second, "<answer>A</answer>"], "qwen3_vl_zoom", size=(640, 640))
    assert played.view.size == (128, 128)  # 16 tokens of 32 px
    assert crops_of(played) == [(320, 0, 640, 320), (320, 0, 480, 160)]


def test_what_the_server_sees_is_the_view_and_the_crop_to_the_pixel():
    image = Image.effect_noise((448, 448), 90).convert("RGB")
    sample = Sample("a/b/c", "a", "b", None, 448, 448, "What?", ("7",))  # type: ignore[arg-type]
    turns = iter(['<grounding>{"bbox_2d": [0, 0, 0.25, 0.25], "source": "original_image"}', "<answer>7</answer>"])
    with Server(lambda request: (next(turns), "stop", 5)) as server:
        model, engine = served(server, "mini_o3")
        view, source = Gap(Mode.FIXED, 16, 28).view_of(sample, Decoded(image))
        (played,) = play(model, engine, begin(model, sample, view, source, [0]), RolloutLimits(1, 64, Sampling(0.0, 100)))
        sent = [image_of(part) for m in server.chats[1]["messages"] if m["role"] == "user" for part in m["content"] if "image_url" in part]
    assert [each.tobytes() for each in sent] == [each.convert("RGB").tobytes() for each in played.images]
    assert sent[1].tobytes() == image.crop((0, 0, 112, 112)).tobytes()


def test_the_server_continues_a_prefilled_turn():
    with Server(lambda request: ("7</answer>", "stop", 3)) as server:
        found = examined(*served(server), samples=SCENES[:1], arms=("own", "tool_free"))
        forced = [chat for chat in server.chats if chat["messages"][-1]["role"] == "assistant"]
    assert [chat["messages"][-1]["content"] for chat in forced] == ["<answer>"]
    assert forced[0]["continue_final_message"] is True and forced[0]["add_generation_prompt"] is False
    assert found.values["tool_free"] == [float(SCENES[0].answers == ("7",))]


def test_an_agent_that_is_offered_no_tool_is_asked_in_plain_words_and_may_think():
    with Server(lambda request: ("<think>so</think><answer>7</answer>", "stop", 3)) as server:
        examined(*served(server, "deepeyes"), samples=SCENES[:1], arms=("own", "no_tool"))
        own, plain = sorted(server.chats, key=lambda chat: -len(chat["messages"][0]["content"]))
    assert "image_zoom_in_tool" in json.dumps(own["messages"]) and "tool" not in json.dumps(plain["messages"])
    assert plain["messages"][0]["content"] == "You answer questions about an image."
    assert told(plain["messages"][1]) == (
        f"IMAGE{SCENES[0].question}\nReason between <think> and </think>. Then write the final answer between <answer> and </answer>."
    )


def test_tokens_are_counted_by_the_server_and_a_turn_that_it_cut_is_out_of_tokens():
    sample = SCENES[0]
    with Server(lambda request: ("<think>and so on", "length", 100)) as server:
        model, engine = served(server)
        view, source = Gap(Mode.FIXED, 16, 28).view_of(sample, sample.open())
        (played,) = play(model, engine, begin(model, sample, view, source, [0]), RolloutLimits(1, 64, Sampling(0.0, 100)))
    assert played.status is Status.OUT_OF_TOKENS and sum(played.sampled_mask) == 100
    assert all(math.isnan(value) for value in played.sampler_logprobs)


def test_the_request_carries_what_only_some_servers_understand(embedded):
    extra = {"mm_processor_kwargs": {"min_pixels": 784}}
    with Server(lambda request: ("<answer>7</answer>", "stop", 3)) as server:
        model, _ = served(server)
        engine = OpenAIEngine(Endpoint(server.url, "tiny", "NO_KEY", 5.0, 0, 1, extra), model.dialect)
        examined(model, engine, samples=SCENES[:1], arms=("own",))
        assert server.chats[0]["mm_processor_kwargs"] == {"min_pixels": 784}


# ------------------------------------------------------------------------------------------------- servers that do otherwise


def answering(message: dict, finish: str = "stop", tokens: int = 5):
    """A fault that answers a chat with this message."""
    reply = {"choices": [{"message": message, "finish_reason": finish}], "usage": {"completion_tokens": tokens}}
    return lambda handler, _: handler.send(200, reply)


def played_with(server: Server, dialect: str, max_crops: int = 3) -> Trajectory:
    """One conversation about a plain image."""
    sample = Sample("a/b/c", "a", "b", None, 448, 448, "What is it?", ("7",), options=(("A", "7"), ("B", "8")))  # type: ignore[arg-type]
    model, engine = served(server, dialect)
    view, source = Gap(Mode.FIXED, 16, model.token_px).view_of(sample, Decoded(Image.new("RGB", (448, 448))))
    return play(model, engine, begin(model, sample, view, source, [0]), RolloutLimits(max_crops, 64, Sampling(0.0, 100)))[0]


@pytest.mark.parametrize(
    ("dialect", "name", "arguments"),
    [
        ("deepeyes", "image_zoom_in_tool", '{"bbox_2d": [0, 0, 56, 56], "label": "it"}'),
        ("qwen3_vl_zoom", "image_zoom_in_tool", '{"bbox_2d": [0, 0, 500, 500], "label": "it", "img_idx": 0}'),
        ("mini_o3", "anything", '{"bbox_2d": [0, 0, 0.5, 0.5], "source": "original_image"}'),
        ("qwen3_5", "image_zoom_in_tool", '{"bbox_2d": [0, 0, 500, 500]}'),
    ],
)
def test_a_call_that_the_server_removed_from_the_text_is_executed_and_sent_back_in_the_dialect(dialect, name, arguments, caplog):
    called = {"content": "Look.", "tool_calls": [{"function": {"name": name, "arguments": arguments}}]}
    faults = [answering(called, "tool_calls"), answering({"content": "<answer>A</answer>"})]
    with Server(lambda request: ("", "stop", 0), faults) as server:
        played = played_with(server, dialect)
        second = server.chats[1]["messages"][2]["content"]
    assert crops_of(played) == [(0, 0, 224, 224)] and played.answer == "A"
    assert second.startswith("Look." + read_dialect(dialect).call[0])
    assert call_body(read_dialect(dialect), name, arguments) in second
    assert caplog.text.count("start it without --tool-call-parser") == 1


def test_a_call_that_is_no_json_is_told_as_it_would_be_in_the_text():
    called = {"content": None, "tool_calls": [{"function": {"name": "image_zoom_in_tool", "arguments": '{"bbox_2d": [0, 0'}}]}
    with Server(lambda request: ("<answer>A</answer>", "stop", 3), [answering(called, "tool_calls")]) as server:
        played = played_with(server, "deepeyes")
    assert played.turns[0].action == Malformed(Fault.NOT_JSON) and played.answer == "A"


def test_an_answer_that_the_server_returned_as_a_thought_is_read_and_logged_once(caplog):
    thought = answering({"content": None, "reasoning_content": "I see it. <answer>A</answer>"})
    with Server(lambda request: ("", "stop", 0), [thought, thought]) as server:
        assert [played_with(server, "deepeyes").answer for _ in range(2)] == ["A", "A"]
    assert caplog.text.count("start it without --reasoning-parser") == 2  # once for each engine


def test_a_draft_in_a_thought_that_the_limit_cut_is_no_answer_and_no_call():
    call = '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [0, 0, 5, 5]}}</tool_call>'
    for text in ("Maybe <answer>B</answer>? But", f"I will write {call} and", "<think>Maybe <answer>B</answer>"):
        with Server(lambda request, text=text: (text, "length", 100)) as server:
            played = played_with(server, "qwen3_vl_zoom")
        assert (played.status, played.answer, played.crops) == (Status.OUT_OF_TOKENS, None, [])
    with Server(lambda request: ("<answer>B</answer> and so on", "length", 100)) as server:
        assert played_with(server, "qwen3_vl_zoom").answer == "B"


def test_half_of_a_surrogate_pair_in_a_turn_is_sent_back_as_a_replacement_character():
    call = '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [0, 0, 56, 56]}}'
    turns = iter(["I see \ud83d here. " + call, "<answer>A\udc00</answer>"])
    with Server(lambda request: (next(turns), "stop", 5)) as server:
        played = played_with(server, "deepeyes")
        assert server.chats[1]["messages"][2]["content"].startswith("I see \ufffd here. ")
    assert played.answer == "A\ufffd"


@pytest.mark.parametrize("text", ["<answer>7</answer>", "<think>so</think><tool_call>{}", "It is a 7."], ids=["answer", "call", "plain"])
def test_a_server_that_ignores_prefills_is_an_outage_of_those_arms(text):
    with Server(lambda request: (text, "stop", 3)) as server, pytest.raises(ValueError, match="remove tool_free and forced from"):
        examined(*served(server), samples=SCENES[:4], arms=("own", "tool_free"))


def test_one_restarted_turn_among_others_that_continue_is_refused_and_costs_its_question(caplog):
    turns = iter(["7</answer>", "<answer>7</answer>", "7</answer>"])

    def respond(request):
        return (next(turns) if request.get("continue_final_message") else "<answer>7</answer>"), "stop", 3

    with Server(respond) as server:
        found = examined(*served(server, concurrency=1), samples=[SCENES[0]] * 3, arms=("own", "tool_free"))
    right = float(SCENES[0].answers == ("7",))
    assert found.values["tool_free"] == [right, 0.0, right]
    assert caplog.text.count("starts the turn again") == 1


def counting(per_image: int, text: int = 400):
    """A server that counts a prompt: so many tokens for each image, and those of the text."""

    def fault(handler, _):
        messages = handler.server.requests[-1].body["messages"]
        images = sum(part["type"] == "image_url" for m in messages if m["role"] == "user" for part in m["content"])
        usage = {"prompt_tokens": text + images * per_image, "completion_tokens": 1}
        handler.send(200, {"choices": [{"message": {"content": "x"}, "finish_reason": "length"}], "usage": usage})

    return fault


@pytest.mark.parametrize(
    ("fault", "counted", "deviation"),
    [
        (counting(66), 66, 0.0),  # vision_start and vision_end stand around the 64
        (counting(16), 16, -0.625),  # 40 of 64 are missing, beside the 8 that may be separators
        (counting(0), 0, -0.875),  # the image is thrown away
        (counting(256), 256, 2.875),
        (counting(0, text=0), None, 0.0),  # it does not count
        (counting(0, text=9), None, 0.0),  # it makes its counts up
        (status(400, "no text alone"), None, 0.0),
    ],
)
def test_the_prompt_count_shows_that_a_server_resizes_the_view(fault, counted, deviation):
    with Server(lambda request: ("", "stop", 0), [fault, fault]) as server:
        model, engine = served(server, "qwen2_5_vl", concurrency=1)
        sample = SCENES[0]
        view, source = Gap(Mode.FIXED, 64, 28).view_of(sample, sample.open())
        found = engine.view_tokens(begin(model, sample, view, source, [0])[0])
        assert all(chat["max_tokens"] == 1 for chat in server.chats)
    assert (found.expected, found.counted) == (64, counted)
    assert found.deviation == pytest.approx(deviation)
