"""A served agent, asked as any model is: the `openai` package gets the answer, and beside it what the policy looked at."""

import base64
import io
import json
import socket
import struct
import zlib
from contextlib import ExitStack, suppress
from http.client import HTTPConnection
from threading import Event
from urllib.parse import urlsplit

import openai
import pytest
from fastapi.testclient import TestClient
from hydra import compose, initialize_config_dir
from PIL import Image

from focus.build import build_evaluator, held_out_samples, load_evaluated
from focus.config import CONF, problems_of, validated
from focus.config.schema import EvaluateConfig, ServeConfig
from focus.evaluation.kept import About, Kept
from focus.evaluation.predictions import graded_rows, play_lines
from focus.gap import Gap, Mode
from focus.model.dialect import read_dialect
from focus.model.loading import EMBEDDED, load_model
from focus.rollout.served import OpenAIEngine, Served
from focus.runs import serve
from focus.runtime.endpoint import Endpoint
from focus.serving import slots
from focus.serving.app import Bounds
from tests.support.protocol import Server, hurry, reset, status
from tests.support.runs import composed
from tests.support.scripted import Scripted, call, steer
from tests.support.serving import about, agent_of, serving

MIDDLE, ANSWER = call(250, 500, 750, 1000), "<answer>34</answer><|im_end|>"
PICTURE = Image.new("RGB", (448, 224), "white")


class Waiting(Scripted):
    """Says a turn once the test lets it: `asked` is set when it begins, and `go` lets one turn go on."""

    def __init__(self, policy, *script):
        super().__init__(policy, *script)
        self.asked, self.go, self.turns = Event(), Event(), 0

    def says(self, request, sampling):
        self.turns += 1
        self.asked.set()
        assert self.go.wait(10)
        self.go.clear()
        return super().says(request, sampling)


@pytest.fixture(scope="module")
def embedded():
    return load_model(EMBEDDED, "tiny")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    hurry(monkeypatch)


def client(url: str, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(api_key=key, base_url=url, max_retries=0, timeout=20)


def post(url: str, body: bytes, **headers: str) -> tuple[int, dict]:
    """Status and JSON of a request that no client would send."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=20)
    fields = {"Content-Type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    connection.request("POST", "/v1/chat/completions", body, fields)
    answer = connection.getresponse()
    read = answer.status, json.loads(answer.read())
    connection.close()
    return read


def test_a_reply_has_the_answer_and_beside_it_every_turn_box_and_crop(embedded):
    with serving(agent_of(embedded, Scripted(embedded, MIDDLE, ANSWER), "view_tokens=8")) as url:
        asked = client(url)
        assert [model.id for model in asked.models.list()] == ["embedded"]
        reply = asked.chat.completions.create(model="embedded", messages=about(PICTURE))
        bare = asked.chat.completions.create(model="embedded", messages=about(PICTURE), extra_body={"crops": False})
    [choice] = reply.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", "34", "stop")
    first, second = reply.focus["turns"]
    assert first["text"] == MIDDLE and second == {"text": "<answer>34</answer>"}
    assert first["box_px"] == [112, 112, 336, 224]  # 250 to 750 of 448 px, 500 to 1000 of 224 px
    crop = Image.open(io.BytesIO(base64.b64decode(first["crop"]["url"].partition(",")[2])))
    assert crop.size == (224, 112) and (first["crop"]["width"], first["crop"]["height"], first["crop"]["tokens"]) == (224, 112, 32)
    assert reply.focus["view"] == {"width": 112, "height": 56, "tokens": 8} and reply.focus["visual_tokens"] == 8 + 32
    assert (reply.focus["status"], reply.focus["width"], reply.focus["height"], reply.focus["left_out"]) == ("answered", 448, 224, [])
    assert reply.usage.completion_tokens == reply.focus["sampled_tokens"] and reply.usage.prompt_tokens > 8 + 32
    assert "url" not in bare.focus["turns"][0]["crop"] and bare.id != reply.id


def test_a_stream_tells_a_turn_when_it_is_over_and_the_answer_last(embedded):
    engine = Waiting(embedded, MIDDLE, ANSWER)
    with serving(agent_of(embedded, engine)) as url:
        options = {"stream": True, "stream_options": {"include_usage": True}}
        stream = client(url).chat.completions.create(model="embedded", messages=about(PICTURE), **options)
        opening = next(stream)  # while the first turn is waiting
        assert opening.focus["view"] == {"width": 140, "height": 56, "tokens": 10} and opening.choices[0].delta.role == "assistant"
        engine.go.set()
        assert next(stream).focus["turn"]["box_px"] == [112, 112, 336, 224]  # while the second turn is waiting
        engine.go.set()
        second, answer, ending, usage = stream
    assert second.focus["turn"] == {"text": "<answer>34</answer>"}
    assert answer.choices[0].delta.content == "34" and ending.choices[0].finish_reason == "stop"
    assert ending.focus["status"] == "answered" and usage.choices == [] and usage.usage.completion_tokens > 0


@pytest.mark.parametrize(
    ("script", "limit", "ending", "text"),
    [
        (["It says 34.<|im_end|>"], 40, "stop", "It says 34."),
        (["<answer>34 and more</answer><|im_end|>"], 2, "length", "<answer>3"),
        ([MIDDLE, MIDDLE], 40, "length", ""),
    ],
)
def test_without_an_answer_a_reply_has_the_last_turn_unless_that_asks_for_one_more_crop(embedded, script, limit, ending, text):
    with serving(agent_of(embedded, Scripted(embedded, *script))) as url:
        reply = client(url).chat.completions.create(model="embedded", messages=about(PICTURE), max_tokens=limit)
    assert (reply.choices[0].finish_reason, reply.choices[0].message.content) == (ending, text)


def test_what_an_agent_is_not_told_is_named_in_the_reply(embedded):
    first = about(PICTURE)
    later = [
        {"role": "system", "content": "Be brief."},
        *first,
        {"role": "assistant", "content": "34"},
        {"role": "user", "content": "And?"},
    ]
    with serving(agent_of(embedded, Scripted(embedded, ANSWER))) as url:
        reply = client(url).chat.completions.create(model="embedded", messages=later)
    assert reply.focus["left_out"] == ["system messages", "earlier turns"] and reply.focus["width"] == 448


def png_header(width: int, height: int) -> bytes:
    """The beginning of a PNG that says it has this size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = struct.pack(">I", 200_000) + b"IDAT" + bytes(200_000)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + pixels


def picture_at(url: str) -> list:
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What?"}]}]


REFUSED = [
    ({"model": "gpt"}, 404, "there is no model 'gpt' here, only embedded"),
    ({"messages": about(b"")}, 400, "the picture can't be used: it has no bytes"),
    (
        {"messages": about(b"GIF89a")},
        400,
        "its header is none of JPEG, PNG, WEBP, TIFF, BMP, GIF, or is damaged",
    ),
    ({"messages": about(png_header(20_000, 10_000))}, 400, "it has 20000x10000 px, and at most 67,108,864 pixels are taken here"),
    ({"messages": about(PICTURE, "a" * 100_000)}, 400, "the question has 100,000 characters, and may have 1,000; shorten it"),
    ({"messages": about(PICTURE, " ")}, 400, "the question is empty; ask one"),
    ({"messages": about(PICTURE, "<|image_pad|>")}, 400, "contains '<|', which only prompts may contain"),
    ({"messages": [{"role": "user", "content": "Hello"}]}, 400, "no message holds a picture; send one as a part of type image_url"),
    ({"messages": [*about(PICTURE), {"role": "assistant", "content": "3"}]}, 400, "the last message is of role assistant"),
    ({"messages": picture_at("http://localhost/photo.png")}, 400, "begins with 'http://localhost/pho'; send its bytes"),
    ({"messages": picture_at("data:image/png;base64,&&&&")}, 400, "the data URL of the picture is no base64"),
    ({"messages": [{"role": "user", "content": about(PICTURE)[0]["content"] * 2}]}, 400, "the message holds 2 pictures"),
    ({"messages": []}, 400, "messages: List should have at least 1 item"),
    ({"temperature": 3}, 400, "temperature: Input should be less than or equal to 2"),
    ({"n": 2}, 400, "n is given, which an agent does not offer; leave it out"),
    ({"tools": [{"type": "function"}]}, 400, "tools is given, which an agent does not offer"),
]


def test_what_can_not_be_asked_is_refused_in_one_sentence_in_the_form_of_the_protocol(embedded):
    with serving(agent_of(embedded, Scripted(embedded, ANSWER))) as url:
        asked = client(url)
        for given, code, said in REFUSED:
            with pytest.raises(openai.APIStatusError) as refusal:
                asked.chat.completions.create(**({"model": "embedded", "messages": about(PICTURE)} | given))
            assert refusal.value.status_code == code and said in refusal.value.body["message"], refusal.value
            assert set(refusal.value.body) == {"message", "type", "param", "code"} and "\n" not in refusal.value.body["message"]
        with pytest.raises(openai.NotFoundError, match="POST /v1/embeddings is not offered"):
            asked.embeddings.create(model="embedded", input="a")
        body = json.dumps({"model": "embedded", "messages": about(PICTURE)}).encode()
        assert post(url, b"{")[0] == 400 and post(url, body, Content_Type="text/plain")[0] == 415
        answered, error = post(url, bytes(2**20 + 1))
        assert answered == 413 and error["error"]["message"] == "the request has more than 1 MiB; send a smaller picture"
        answered, error = post(url, body, Host="evil.example")
        assert answered == 403 and "this server is not called 'evil.example'" in error["error"]["message"]
        assert post(url, body)[0] == 200  # it goes on


def test_a_server_with_a_key_answers_those_who_send_it_whatever_they_call_it(embedded):
    with serving(agent_of(embedded, Scripted(embedded, ANSWER)), key="secret") as url:
        with pytest.raises(openai.AuthenticationError, match="the key is missing or wrong"):
            client(url, "other").models.list()
        assert client(url, "secret").models.list().data[0].id == "embedded"
        body = json.dumps({"model": "embedded", "messages": about(PICTURE)}).encode()
        assert post(url, body)[0] == 401 and post(url, body, Authorization="Bearer secret", Host="box.example")[0] == 200


def test_a_client_that_goes_away_frees_its_slot_after_the_turn_that_is_being_sampled(embedded):
    engine = Waiting(embedded, MIDDLE, ANSWER)
    with serving(agent_of(embedded, engine)) as url:
        connection = HTTPConnection(urlsplit(url).netloc)
        body = json.dumps({"model": "embedded", "messages": about(PICTURE)})
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        assert engine.asked.wait(10)
        connection.close()
        engine.asked.clear()
        client(url).models.list()  # by now the server has seen the end of the connection
        engine.go.set()  # the first turn of the client that is gone; it would have a second one
        stream = client(url).chat.completions.create(model="embedded", messages=about(PICTURE), stream=True)
        assert "view" in next(stream).focus and engine.asked.wait(10)
        engine.go.set()
        assert "box_px" in next(stream).focus["turn"] and engine.turns in (2, 3)
        engine.go.set()
        assert [chunk.choices[0].delta.content for chunk in stream][1] == "34" and engine.turns == 3


def test_more_questions_than_may_wait_are_sent_away(embedded, monkeypatch):
    monkeypatch.setattr(slots, "MOST_WAITING", 0)
    with serving(agent_of(embedded, Scripted(embedded, ANSWER))) as url, pytest.raises(openai.RateLimitError, match="too many questions"):
        client(url).chat.completions.create(model="embedded", messages=about(PICTURE))


def test_a_fault_of_the_program_is_told_to_the_log_alone(embedded, caplog):
    class Broken(Scripted):
        def says(self, request, sampling):
            raise RuntimeError("a secret path")

    with serving(agent_of(embedded, Broken(embedded, ANSWER))) as url, pytest.raises(openai.InternalServerError) as error:
        client(url).chat.completions.create(model="embedded", messages=about(PICTURE))
    assert "a secret path" not in str(error.value) and "a secret path" in caplog.text


def upstream(server: Server, retries: int = 0):
    endpoint, dialect = Endpoint(server.url, "tiny", "NO_KEY", 20, retries, 4), read_dialect("deepeyes")
    return agent_of(Served(endpoint, dialect), OpenAIEngine(endpoint, dialect), "rollout.max_crops=2")


def test_a_model_server_that_dies_in_the_middle_of_a_conversation_is_one_sentence(embedded):
    look = '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [0, 0, 56, 56]}}</tool_call>'
    with Server(lambda request: (look, "stop", 9)) as model, serving(upstream(model), slots=4) as url:
        asked = client(url)
        model.faults.extend([lambda handler, reply: handler.send(200, reply()), reset])
        stream = asked.chat.completions.create(model="embedded", messages=about(PICTURE), stream=True)
        assert "view" in next(stream).focus and next(stream).focus["turn"]["crop"]["tokens"] > 0
        with pytest.raises(openai.APIError, match=r"cannot be reached or hangs up .*; start the server, or correct the url"):
            next(stream)
        model.faults.append(reset)
        with pytest.raises(openai.APIStatusError, match="cannot be reached or hangs up") as lost:
            asked.chat.completions.create(model="embedded", messages=about(PICTURE))
        model.faults.append(status(400, "too long"))
        with pytest.raises(openai.UnprocessableEntityError, match="the model server refused a turn of this conversation"):
            asked.chat.completions.create(model="embedded", messages=about(PICTURE))
        reply = asked.chat.completions.create(model="embedded", messages=about(PICTURE))  # it is back
    assert lost.value.status_code == 502 and "\n" not in lost.value.body["message"]
    assert (reply.focus["status"], reply.choices[0].finish_reason, reply.usage) == ("out of turns", "length", None)


def evaluated(cfg, model, engine, folder) -> list[tuple]:
    """Question, answer as it was read, grade and crops of every row of an evaluation."""
    evaluator = build_evaluator(cfg, model, engine, Gap(Mode.FIXED, cfg.view.max_tokens, model.token_px))
    kept = Kept(folder, About("evaluation", None, "", ""), mib=0)
    rows = [row for line in play_lines(evaluator, held_out_samples(cfg), 0, kept) for row in graded_rows(line, cfg.extraction)]
    return [(row["id"], row["extracted"], row["right"], row["crops"]) for row in rows]


def test_evaluated_through_its_server_as_a_plain_model_a_policy_gives_the_answers_that_it_gives_here(embedded, tmp_path):
    common = ("policy.checkpoint=embedded", "evaluation.samples=3", "evaluation.arms=[own]", "threads=1")
    cropping = steer(embedded, [(250, 250, 750, 750)], calls=1)  # greedy, the base never crops by itself
    direct = validated(composed(*common, "view.max_tokens=256", name="evaluate"), EvaluateConfig)
    here = evaluated(direct, embedded, cropping, tmp_path)
    with serving(agent_of(embedded, cropping, "view_tokens=256"), bounds=Bounds(2**24, 1000)) as url:
        words = ("rollout=openai", f"rollout.endpoint.url={url}", "policy.dialect=qwen2_5_vl", "rollout.max_crops=0")
        plain = validated(composed(*common, *words, "view.max_tokens=16384", name="evaluate"), EvaluateConfig)
        there = evaluated(plain, *load_evaluated(plain), tmp_path)
    assert [row[:3] for row in here] == [row[:3] for row in there]  # so the accuracy is the same, too
    assert {row[3] for row in here} == {1} and {row[3] for row in there} == {0}  # whose crops they are
    assert len({row[1] for row in here}) > 1 and any(row[2] for row in here)


def settings(*overrides: str):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose("serve", list(overrides))


def test_a_port_that_is_taken_is_one_sentence_before_a_policy_is_loaded(monkeypatch):
    monkeypatch.setattr(serve, "Agent", lambda cfg: pytest.fail("a policy was loaded"))
    with ExitStack() as stack, socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with suppress(OSError):  # another process may have it
            stack.enter_context(socket.create_server(("127.0.0.1", port + 1)))
        with pytest.raises(ValueError, match=rf"^127.0.0.1:{port} can't be listened at \(Address already in use\); choose another") as said:
            serve.run(settings(f"port={port}"))
        free = int(str(said.value).rpartition("port=")[2])
        assert free > port + 1
        socket.create_server(("127.0.0.1", free)).close()


def test_a_host_that_is_no_address_of_this_machine_is_not_answered_with_another_port():
    with pytest.raises(ValueError, match=r"can't be listened at .*; choose an address of this machine: host=127.0.0.1$"):
        serve.run(settings("host=192.0.2.1", "key_env=HOME"))


def test_the_command_serves_a_policy_by_the_name_of_its_checkpoint_and_says_where(embedded, monkeypatch, capsys):
    monkeypatch.setenv("FOCUS_KEY", "secret")
    monkeypatch.setattr(serve, "Agent", lambda cfg: agent_of(embedded, Scripted(embedded, ANSWER)))
    served = []

    def once(app, listener):
        with TestClient(app) as page:
            served.append((page.get("/v1/models", headers={"Authorization": "Bearer secret"}).json(), listener.getsockname()[1]))

    monkeypatch.setattr(serve, "serve", once)
    serve.run(settings("port=0"))
    [(models, port)] = served
    assert models["data"][0]["id"] == "embedded" and f"serving at http://127.0.0.1:{port}/v1;" in capsys.readouterr().out


def test_other_machines_are_served_with_a_key_alone(monkeypatch):
    monkeypatch.delenv("FOCUS_KEY", raising=False)
    assert "holds no key that they must send; set it, or use host=127.0.0.1" in problems_of(settings("host=0.0.0.0"), ServeConfig)[0]
    monkeypatch.setenv("FOCUS_KEY", "secret")
    assert problems_of(settings("host=0.0.0.0"), ServeConfig) == []
