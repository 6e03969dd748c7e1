"""The client of a model server, against a server on this machine that breaks in every way that is known to happen."""

import base64
import gzip
import html
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import zlib
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from focus.runtime.endpoint import PIECE, Endpoint, Outage, Refused, Reply, censored
from tests.support import protocol
from tests.support.protocol import Server, status

ROOT = Path(__file__).parents[2]
HELLO = [{"role": "user", "content": "hello"}]
ASK = {"messages": HELLO, "temperature": 0.0, "max_tokens": 8}


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch):
    protocol.hurry(monkeypatch)
    monkeypatch.delenv("TEST_KEY", raising=False)


def endpoint(server: Server | str, **changes) -> Endpoint:
    url = server if isinstance(server, str) else server.url
    usual = {"model": "tiny", "key_env": "TEST_KEY", "timeout_s": 600.0, "retries": 2, "concurrency": 4}
    return Endpoint(url, **{**usual, **changes})


def hello(request) -> tuple[str, str, int]:
    return "hello yourself", "stop", 3


def echo(request) -> tuple[str, str, int]:
    return request["messages"][-1]["content"], "stop", 1


def said(text: str) -> dict:
    return {**ASK, "messages": [{"role": "user", "content": text}]}


def closed_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/v1"


def test_a_reply_has_its_text_its_end_and_its_tokens():
    with Server(hello) as server:
        assert endpoint(server).ask(**ASK) == Reply("hello yourself", stopped=True, tokens=3)
    with Server(lambda request: ("hello you", "length", 2)) as server:
        assert endpoint(server).ask(**ASK) == Reply("hello you", stopped=False, tokens=2)


@pytest.mark.parametrize(
    ("body", "reply"),
    [
        ({"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]}, Reply("x", True, 0)),  # no usage
        ({"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}], "usage": None}, Reply("x", True, 0)),
        ({"choices": [{"message": {"content": "x"}}], "usage": {"completion_tokens": None}}, Reply("x", True, 0)),
        ({"choices": [{"message": {"content": None}, "finish_reason": "length"}]}, Reply("", False, 0)),  # cut in its thoughts
        ({"choices": [{"message": {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}}]}, Reply("ab", True, 0)),
        ({"choices": [{"message": {"content": "x \ud83d y"}}]}, Reply("x \ufffd y", True, 0)),  # half a surrogate pair
        ({"choices": [{"message": {"content": "x"}}], "usage": {"completion_tokens": 10**10}}, Reply("x", True, 0)),
        ({"choices": [{"message": {"content": "x"}}], "usage": {"completion_tokens": -1}}, Reply("x", True, 0)),
    ],
)
def test_what_a_server_leaves_out_is_empty_or_zero(body, reply):
    with Server(hello, [protocol.body(body)]) as server:
        assert endpoint(server).ask(**ASK) == reply
        assert len(server.requests) == 1


def test_a_models_identity_is_its_name_and_what_the_server_says_it_was_loaded_from():
    entries = [{"id": "tiny", "root": "/models/7", "parent": "base", "created": 1}, {"id": "other", "root": "other"}, {"id": "third"}]
    with Server(hello, [protocol.body({"data": entries})] * 3) as server:
        for name, identity in (("tiny", "tiny root=/models/7 parent=base"), ("other", "other"), ("third", "third")):
            client = endpoint(server, model=name)
            assert client.identity == name  # nothing was asked yet
            assert client.models() == ["tiny", "other", "third"] and client.identity == identity


def test_a_request_carries_what_was_asked_and_nothing_else():
    with Server(hello) as server:
        endpoint(server).ask(**ASK)
        assert server.chats == [{"model": "tiny", "messages": HELLO, "temperature": 0.0, "max_tokens": 8}]


def test_seed_stop_and_extra_keys_are_sent_where_given():
    with Server(hello) as server:
        endpoint(server).ask(**ASK, seed=2**40 + 5, stop=("</tool_call>",), extra={"top_k": 20, "mm": {"max_pixels": 784}})
        assert server.chats[0]["seed"] == 5  # the low 31 bits
        assert server.chats[0]["stop"] == ["</tool_call>"]
        assert (server.chats[0]["top_k"], server.chats[0]["mm"]) == (20, {"max_pixels": 784})


def test_the_key_comes_from_the_named_variable_and_local_servers_need_none(monkeypatch):
    with Server(hello) as server:
        endpoint(server).ask(**ASK)
        monkeypatch.setenv("TEST_KEY", "sk-1234\n")  # as `echo` writes it into a file
        endpoint(server).ask(**ASK)
        assert [request.headers["authorization"] for request in server.requests] == ["Bearer none", "Bearer sk-1234"]


SLOW = protocol.slow(600)  # the server's end cuts it short
TRANSIENT = {
    "slow": (SLOW, Outage, "did not answer in full within 0.5 s; raise timeout_s, or lower concurrency"),
    "reset": (protocol.reset, Outage, "cannot be reached or hangs up .*reset by peer"),
    "408": (status(408), Outage, "answers 408"),
    "409": (status(409), Outage, "answers 409"),
    "429": (status(429), Outage, "answers 429 .*lower concurrency, raise retries"),
    "429 with Retry-After": (status(429, Retry_After="0.01"), Outage, "answers 429"),
    "500": (status(500, "out of memory"), Refused, "answers 500 .*out of memory.*; look into the server's log"),
    "503": (status(503), Outage, "answers 503"),
    "half sent": (protocol.half_sent, Outage, "hangs up .*without sending complete message body"),
    "half a JSON": (protocol.half_json, Outage, "sends a reply that can't be read .*check that an OpenAI-compatible server"),
    "nothing": (protocol.body(b""), Outage, r"sends a reply that can't be read \(an empty text\)"),
    "a page": (protocol.body(b"<html>log in</html>"), Outage, "<html>log in</html>"),
    "a text": (protocol.body("hello"), Outage, "reply that can't be read"),
    "a list": (protocol.body([1]), Outage, "reply that can't be read"),
    "choices null": (protocol.without_choices(None), Outage, "reply that can't be read"),
    "choices empty": (protocol.without_choices([]), Outage, "reply that can't be read"),
    "a choice of text": (protocol.without_choices(["yes"]), Outage, "reply that can't be read"),
    "a message of text": (protocol.without_choices([{"message": "yes"}]), Outage, "reply that can't be read"),
    "content of a number": (protocol.without_choices([{"message": {"content": 7}}]), Outage, "reply that can't be read"),
    "parts of no text": (protocol.without_choices([{"message": {"content": [{"type": "text", "text": 7}, "yes"]}}]), Outage, "t be read"),
    "a deep list": (protocol.body(b"[" * 100_000), Outage, "reply that can't be read"),
    "an error with 200": (protocol.body({"error": {"message": "provider gone"}}), Outage, "reply that can't be read .*provider gone"),
}


@pytest.mark.parametrize(("fault", "kind", "message"), TRANSIENT.values(), ids=TRANSIENT)
def test_a_transient_fault_is_tried_again_and_forgotten(fault, kind, message):
    with Server(hello, [fault, fault]) as server:
        assert endpoint(server, timeout_s=3.0 if fault is SLOW else 600.0).ask(**ASK).text == "hello yourself"
        assert len(server.requests) == 3


@pytest.mark.parametrize(("fault", "kind", "message"), TRANSIENT.values(), ids=TRANSIENT)
def test_a_fault_that_stays_is_told_after_all_retries(fault, kind, message):
    with Server(hello, [fault] * 9) as server:
        with pytest.raises(kind, match=message) as error:
            endpoint(server, timeout_s=0.5 if fault is SLOW else 600.0, retries=1).ask(**ASK)
        assert len(server.requests) == 2
        assert f"{server.url} (model 'tiny', retries=1)" in str(error.value)


@pytest.mark.parametrize(
    ("faults", "kind"),
    [
        ([protocol.half_json, status(500), protocol.half_json, protocol.half_json], Outage),
        ([status(500), protocol.half_json, status(500), status(500)], Refused),
        ([protocol.half_json, protocol.reset, status(429), status(429)], Outage),
    ],
)
def test_faults_of_different_kinds_share_one_number_of_retries(faults, kind):
    with Server(hello, faults) as server:
        with pytest.raises(kind):
            endpoint(server).ask(**ASK)
        assert len(server.requests) == 3
        assert len(server.faults) == 1


def test_without_retries_every_request_is_sent_once():
    for fault in (status(500), protocol.half_json):
        with Server(hello, [fault]) as server:
            with pytest.raises(ValueError):
                endpoint(server, retries=0).ask(**ASK)
            assert len(server.requests) == 1


@pytest.mark.parametrize("code", [400, 413, 422])
def test_a_request_that_does_not_fit_is_refused_at_once_with_the_servers_words(code):
    with Server(hello, [status(code, "at most 4096 tokens")]) as server:
        with pytest.raises(Refused, match=f"answers {code} .*at most 4096 tokens.*not sent again"):
            endpoint(server).ask(**ASK)
        assert len(server.requests) == 1


@pytest.mark.parametrize("code", [401, 403])
def test_a_missing_or_wrong_key_names_its_variable_and_never_the_key(code, monkeypatch):
    with Server(hello, [status(code, "wrong key: sk-1234")] * 2) as server:
        with pytest.raises(Outage, match="TEST_KEY is not set: put this server's key there"):
            endpoint(server).ask(**ASK)
        monkeypatch.setenv("TEST_KEY", "sk-1234")
        with pytest.raises(Outage, match=r"not shown.*does not accept the key in the environment variable TEST_KEY") as error:
            endpoint(server).ask(**ASK)
        assert "1234" not in str(error.value)
        assert "1234" not in "".join(traceback.format_exception(error.value))  # as a sweep prints it
        assert len(server.requests) == 2


def test_an_error_that_repeats_the_key_in_any_spelling_does_not_show_it(monkeypatch):
    key = "sk-proj/9+Zq_Wv8&Tm<4>é".replace("é", "=")
    monkeypatch.setenv("TEST_KEY", key)
    spelt = [
        key,
        key.upper(),
        "Bearer " + key,
        key[:9] + "****" + key[-9:],
        quote(key, safe=""),
        html.escape(key),
        json.dumps(key).replace("/", "\\/"),
        base64.b64encode(key.encode()).decode(),
        base64.b64encode(b"Bearer " + key.encode()).decode(),
        base64.urlsafe_b64encode(b"a:" + key.encode()).decode(),
        key.encode().hex(),
        " ".join([key] * 40),
    ]
    with Server(hello, [status(400, f"got {each} from you") for each in spelt]) as server:
        for each in spelt:
            with pytest.raises(Refused) as error:
                endpoint(server).ask(**ASK)
            told = str(error.value)
            assert "***" in told and "answers 400" in told
            assert not [i for i in range(10, len(each) - PIECE) if each[i : i + PIECE] in told]  # what stands before may be `Bearer `


def test_no_key_stars_nothing_and_a_short_key_only_itself():
    assert censored("all is well", "") == "all is well"
    assert censored("abc or ABC, YWJj", "abc") == "*** or ***, YWJj"


def test_a_key_that_no_header_can_carry_is_found_before_anything_is_sent(monkeypatch):
    monkeypatch.setenv("TEST_KEY", "sk-12\n34")
    with pytest.raises(ValueError, match="TEST_KEY contains characters that a header can't carry") as error:
        endpoint("http://127.0.0.1/v1")
    assert "sk-12" not in str(error.value)


def test_a_wrong_path_says_where_urls_end():
    with Server(hello) as server, pytest.raises(Outage, match=r"answers 404 .*usually ends in /v1"):
        endpoint(server.url.removesuffix("/v1")).ask(**ASK)


def test_a_payment_due_stops_the_run_not_one_question():
    with Server(hello, [status(402, "no credit")]) as server, pytest.raises(Outage, match=r"no credit.*check url and account"):
        endpoint(server).ask(**ASK)


def test_a_busy_server_is_given_the_time_it_asks_for():
    with Server(hello, [status(429, Retry_After="0.4")]) as server:
        begin = time.monotonic()
        assert endpoint(server).ask(**ASK).text == "hello yourself"
        assert time.monotonic() - begin >= 0.4


def test_a_server_that_asks_for_ten_minutes_is_out():
    with Server(hello, [status(429, Retry_After="600")]) as server:
        with pytest.raises(Outage, match="answers 429"):
            endpoint(server).ask(**ASK)
        assert len(server.requests) == 1


def message(**fields) -> dict:
    finish = fields.pop("finish", "stop")
    return {"choices": [{"message": fields, "finish_reason": finish}], "usage": {"completion_tokens": 12}}


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (message(content=""), "without any text, although it counts 12 sampled tokens .*--reasoning-parser, --tool-call-parser"),
        (message(content=None, tool_calls=[], finish="tool_calls"), "without any text"),
        (message(content="", finish="abort"), "gave the reply up .*'abort'"),
        (message(content="half", finish="error"), "gave the reply up .*'error': half"),
        (message(content=None, refusal="I can't help.", finish="content_filter"), "'content_filter': I can't help"),
        (message(content=None, refusal="I can't help."), "gave the reply up .*I can't help"),
    ],
)
def test_a_reply_with_status_200_that_holds_no_turn_is_a_refusal(body, told):
    with Server(hello, [protocol.body(body)]) as server, pytest.raises(Refused, match=told):
        endpoint(server).ask(**ASK)


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_a_text_that_the_server_took_for_a_thought_is_the_text(field):
    with Server(hello, [protocol.body(message(content=None, **{field: "so <answer>A</answer>"}))]) as server:
        assert endpoint(server).ask(**ASK) == Reply("so <answer>A</answer>", True, 12, (), field)
    cut = message(content=None, finish="length", **{field: "maybe <answer>A</answer>"})
    with Server(hello, [protocol.body(cut)]) as server:
        assert endpoint(server).ask(**ASK) == Reply("<think>maybe <answer>A</answer>", False, 12, (), field)
    with Server(hello, [protocol.body(message(content="B", **{field: "A?"}))]) as server:
        assert endpoint(server).ask(**ASK) == Reply("B", True, 12)


def test_tools_that_the_server_parsed_out_of_the_text_are_kept_as_they_were_written():
    called = [{"function": {"name": "zoom", "arguments": '{"a": 1}'}}, {"function": {"name": "zoom", "arguments": {"a": 2}}}, "odd"]
    with Server(hello, [protocol.body(message(content=None, tool_calls=called))]) as server:
        assert endpoint(server).ask(**ASK) == Reply("", True, 12, (("zoom", '{"a": 1}'), ("zoom", '{"a": 2}')))


def test_extra_overrides_what_a_request_holds_and_null_leaves_it_out():
    with Server(hello) as server:
        endpoint(server, extra={"max_tokens": None, "temperature": None, "max_completion_tokens": 9}).ask(**ASK, seed=3)
        assert server.chats == [{"model": "tiny", "messages": HELLO, "seed": 3, "max_completion_tokens": 9}]


def test_a_refusal_of_a_setting_says_how_to_leave_it_out():
    told = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    with Server(hello, [status(400, told)]) as server, pytest.raises(Refused, match=r"extra=\{max_tokens: null"):
        endpoint(server).ask(**ASK)


def drips(handler, reply):
    """Headers at once, then a byte of the body now and then: no single read is long."""
    handler.send(200, b"", {"Content-Length": "1000"})
    while not handler.server.closing.wait(0.05):
        handler.wfile.write(b" ")
        handler.wfile.flush()


def drips_headers(handler, reply):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while not handler.server.closing.wait(0.05):
        handler.wfile.write(b"a")
        handler.wfile.flush()


@pytest.mark.parametrize("fault", [drips, drips_headers])
def test_a_server_that_answers_byte_by_byte_is_given_up_when_its_time_is_over(fault):
    with Server(hello, [fault]) as server, pytest.raises(Outage, match=r"did not answer in full within 0\.5 s"):
        endpoint(server, timeout_s=0.5, retries=0).ask(**ASK)


def endless(handler, reply):
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    while not handler.server.closing.is_set():
        handler.wfile.write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")


def bomb(handler, reply):
    """64 MiB of spaces, packed into 64 KiB."""
    packer = zlib.compressobj(wbits=31)
    packed = b"".join(packer.compress(b" " * 2**20) for _ in range(64)) + packer.flush()
    handler.send(200, packed, {"Content-Encoding": "gzip"})


def bomb_of_an_error(handler, reply):
    handler.send(500, zlib.compress(b" " * 2**25), {"Content-Encoding": "deflate"})


@pytest.mark.parametrize("fault", [endless, bomb, bomb_of_an_error, protocol.body(b" " * 2**25)], ids=["endless", "bomb", "500", "32 MiB"])
def test_a_body_without_end_packed_or_not_is_given_up_at_its_greatest_size(fault):
    with Server(hello, [fault]) as server, pytest.raises(Outage, match=r"a body of more than 16 MiB.*check that an OpenAI-compatible"):
        endpoint(server, retries=0).ask(**ASK)


def test_a_packed_reply_is_read():
    packed = gzip.compress(json.dumps(message(content="hello")).encode())
    with Server(hello, [lambda handler, reply: handler.send(200, packed, {"Content-Encoding": "gzip"})]) as server:
        assert endpoint(server).ask(**ASK).text == "hello"


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"ALL_PROXY": "socks://127.0.0.1:7891/"}, "ALL_PROXY is socks://127.0.0.1:7891/: a proxy's address begins with http://"),
        ({"all_proxy": "socks5://me:secret@127.0.0.1:1"}, r"all_proxy is socks5://\*\*\*@127.0.0.1:1: a SOCKS proxy needs .*socksio"),
        ({"http_proxy": "http://proxy.example:80a"}, "http_proxy is http://proxy.example:80a: its port or address"),
        ({"SSL_CERT_FILE": "/nowhere/ca.pem"}, "certificates of SSL_CERT_FILE can't be read"),
    ],
)
def test_a_proxy_or_a_certificate_that_cannot_be_used_is_named_by_its_variable(variables, told, monkeypatch):
    monkeypatch.undo()  # certificates are read here
    without_proxies(monkeypatch, variables)
    with pytest.raises(ValueError, match=told):
        endpoint("http://127.0.0.1:9/v1")


def test_a_proxy_that_does_not_answer_is_named_and_how_to_go_past_it(monkeypatch):
    proxy = closed_port().removesuffix("/v1").replace("://", "://me:secret@")
    without_proxies(monkeypatch, {"http_proxy": proxy})
    with Server(hello) as server:
        with pytest.raises(Outage, match=r"through the proxy http://\*\*\*@127.* variable http_proxy; NO_PROXY=127.0.0.1 avoids"):
            endpoint(server, retries=0).ask(**ASK)
        monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.0/8,127.0.0.1,fe80::/10,[::1]")
        assert endpoint(server).ask(**ASK).text == "hello yourself"


def without_proxies(monkeypatch, variables):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_a_long_page_of_an_error_is_quoted_in_part():
    with Server(hello, [status(400, "x" * 10_000)]) as server, pytest.raises(Refused) as error:
        endpoint(server).ask(**ASK)
    assert len(str(error.value)) < 700


def test_a_port_where_nobody_listens_is_told_in_one_message():
    url = closed_port()
    for call in (lambda: endpoint(url).ask(**ASK), lambda: endpoint(url).models(), lambda: list(endpoint(url).ask_all([ASK] * 3))):
        with pytest.raises(Outage, match=r"cannot be reached or hangs up .*refused.*start the server, or correct the url") as error:
            call()
        assert url in str(error.value) and "\n" not in str(error.value)


def test_a_first_contact_without_a_connection_is_not_tried_again(monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waited"))
    with pytest.raises(Outage, match=r"cannot be reached or hangs up .*refused.*start the server, or correct the url"):
        endpoint(closed_port(), retries=5).models()


def test_a_host_that_does_not_answer_at_all_is_given_up_in_a_short_time(monkeypatch):
    waited = []

    def blocked(address, timeout, **rest):  # by a firewall
        if address[1] == 19:  # a request that an earlier test left behind may still try its own
            waited.append(timeout)
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", blocked)
    with pytest.raises(Outage, match=r"cannot be reached or hangs up \(timed out\); start the server, or correct the url"):
        endpoint("http://127.0.0.1:19/v1", retries=5).models()
    assert len(waited) == 1 and waited[0] <= 10


def test_the_served_models_are_listed():
    with Server(hello, models=["tiny", "large"]) as server:
        assert endpoint(server).models() == ["tiny", "large"]
        assert server.chats == []


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (status(404), "lists no models .*answers 404"),
        (status(403), "lists no models .*answers 403"),
        (status(405), "lists no models .*answers 405"),
        (status(501), "lists no models .*answers 501"),
        (protocol.body(b"<html>welcome</html>"), "lists no models .*a reply that can't be read"),
        (protocol.body(["tiny"]), "lists no models .*a reply that can't be read"),
        (protocol.body({"object": "list", "data": []}), "does not list the model 'tiny'; it lists no models"),
        (protocol.body({"data": [{"id": "base"}, {"id": "Tiny"}]}), "the model 'tiny'; it lists base, Tiny. Did you mean Tiny"),
    ],
)
def test_a_server_that_does_not_list_a_model_is_asked_for_it_all_the_same(answer, told, caplog):
    with Server(hello, [answer]) as server:
        client = endpoint(server, retries=0)
        client.models()
        assert re.search(told + ".*Continuing: the first request", caplog.text)
        assert client.ask(**ASK).text == "hello yourself"


@pytest.mark.parametrize("answer", [None, status(400, "no such model")], ids=["404", "400"])
def test_a_misspelt_model_fails_at_the_first_chat_with_the_list(answer):
    with Server(hello, models=["tiny", "large"]) as server:
        client = endpoint(server, model="tinny")
        client.models()
        server.faults.extend([answer] if answer else [])
        with pytest.raises((Outage, Refused), match=r"it lists tiny, large\. Did you mean tiny\?"):
            client.ask(**ASK)


def test_the_list_of_models_is_tried_again_like_everything_else():
    with Server(hello, [status(503), protocol.body(b"starting"), status(401)]) as server:
        endpoint_ = endpoint(server)
        with pytest.raises(Outage, match="TEST_KEY"):
            endpoint_.models()
        assert endpoint_.models() == ["tiny"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"url": "localhost:8000"}, "url .* is 'localhost:8000'; write it in full"),
        ({"url": "http://localhost:80a/v1"}, "url .* is 'http://localhost:80a/v1': Port could not be cast"),
        ({"url": "http://me:secret@localhost/v1"}, "^(?!.*secret).* contains a name or a password"),
        ({"timeout_s": 0}, "timeout_s is 0"),
        ({"retries": -1}, "retries is -1"),
        ({"concurrency": 0}, "concurrency is 0"),
    ],
)
def test_settings_that_cannot_work_are_found_when_the_client_is_made(changes, message):
    with pytest.raises(ValueError, match=message):
        endpoint(changes.pop("url", "http://127.0.0.1/v1"), **changes)


def test_no_more_requests_are_open_at_once_than_allowed_and_no_fewer():
    three = threading.Barrier(3)

    def respond(request):
        three.wait(600)  # breaks unless three are open at once
        return "hello", "stop", 1

    with Server(respond) as server:
        replies = list(endpoint(server, concurrency=3).ask_all([ASK] * 12))
        assert sorted(index for index, _ in replies) == list(range(12))
        assert all(reply == Reply("hello", True, 1) for _, reply in replies)
        assert server.most_open == 3


def test_replies_come_as_they_are_answered_beside_the_index_of_their_request():
    second = threading.Event()

    def respond(request):
        text = request["messages"][0]["content"]
        if text == "first":
            second.wait(600)
        return text, "stop", 1

    with Server(respond) as server:
        seen = []
        for index, reply in endpoint(server, concurrency=2).ask_all([said("first"), said("second")]):
            seen.append((index, reply.text))
            second.set()
    assert seen == [(1, "second"), (0, "first")]


@settings(deadline=None, database=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.sampled_from(["a", "b", "fails"]), max_size=10), concurrency=st.integers(1, 5))
def test_any_concurrency_brings_what_one_request_at_a_time_brings(texts, concurrency):
    def respond(request):
        text = request["messages"][0]["content"]
        if text == "fails":
            raise RuntimeError("cannot say that")
        return text * 2, "stop", 1

    with Server(respond) as server:
        got = dict(endpoint(server, retries=0, concurrency=concurrency).ask_all([said(text) for text in texts]))
    assert [str(got[i].text) if isinstance(got[i], Reply) else "refused" for i in range(len(texts))] == [
        "refused" if text == "fails" else text * 2 for text in texts
    ]


def test_one_refused_request_costs_one_question():
    with Server(echo, [status(400)]) as server:
        got = dict(endpoint(server, concurrency=1).ask_all([said("a"), said("b"), said("c")]))
    assert isinstance(got[0], Refused)
    assert (got[1].text, got[2].text) == ("b", "c")


def test_no_request_is_sent_for_no_question():
    with Server(hello) as server:
        assert list(endpoint(server).ask_all([])) == []
        assert server.requests == []


def test_an_outage_ends_all_and_what_was_not_sent_is_not_sent():
    with Server(hello, [status(401)] * 50) as server:
        with pytest.raises(Outage):
            list(endpoint(server, concurrency=2).ask_all([ASK] * 50))
        time.sleep(0.2)
        assert len(server.requests) <= 2


def test_a_mistake_in_a_request_is_raised_where_it_was_made():
    with Server(hello) as server, pytest.raises(TypeError, match="temprature"):
        list(endpoint(server).ask_all([{"messages": HELLO, "temprature": 0.0, "max_tokens": 8}]))


def test_a_reader_who_leaves_early_ends_the_asking():
    left = threading.Event()

    def respond(request):
        if request["messages"][0]["content"] != "first":
            left.wait(600)
        return "hello", "stop", 1

    with Server(respond) as server:
        replies = endpoint(server, concurrency=2).ask_all([said("first")] + [said("later")] * 50)
        assert next(replies)[0] == 0
        replies.close()
        left.set()
        time.sleep(0.2)
        assert len(server.requests) <= 3  # the first, and the two that may be open when the reader leaves


INTERRUPTED = """
import sys
from focus.runtime.endpoint import Endpoint
assert "openai" not in sys.modules, "a second of imports for those who ask no server"
ask = {"messages": [], "temperature": 0.0, "max_tokens": 8}
try:
    list(Endpoint(sys.argv[1], "tiny", "TEST_KEY", 600.0, 5, 2).ask_all([ask] * 9))
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.processes
def test_ctrl_c_ends_the_process_without_waiting_for_answers():
    with Server(hello, [protocol.slow(600)] * 9) as server:
        child = subprocess.Popen([sys.executable, "-c", INTERRUPTED, server.url], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        until = time.monotonic() + 600
        while len(server.requests) < 2 and child.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        begin = time.monotonic()
        os.kill(child.pid, signal.SIGINT)
        assert child.communicate(timeout=600)[0] == "interrupted\n"
        assert time.monotonic() - begin < 300  # the answers are 600 s away
        assert len(server.requests) == 2
