"""Replies that are kept, and an agent that is a function."""

import json
from functools import partial

import pytest

from focus.runtime.chats import Called, KeptReplies, code_digest
from focus.runtime.endpoint import Endpoint, Outage, Refused, Reply
from tests.support.protocol import Server, hurry, status

HELLO = [{"role": "user", "content": "hello"}]
PLAIN = {"temperature": 0.0, "max_tokens": 10}


def counting(replies: list[str] | None = None):
    """An agent that says how often it was called, or these replies in turn."""
    said = []

    def agent(messages) -> str:
        said.append(messages)
        return replies[len(said) - 1] if replies else f"reply {len(said)}"

    return agent, said


def test_a_request_is_sent_once_and_its_reply_is_kept_in_a_file(tmp_path):
    agent, said = counting()
    kept = KeptReplies(Called(agent, "me"), tmp_path / "a/requests.jsonl")
    assert [kept.ask(HELLO, **PLAIN).text for _ in range(3)] == ["reply 1"] * 3
    assert kept.ask(HELLO, temperature=0.0, max_tokens=11).text == "reply 2"  # another request
    assert (len(said), kept.requests) == (2, 4)
    again = KeptReplies(Called(agent, "me"), tmp_path / "a/requests.jsonl")
    assert again.ask(HELLO, **PLAIN).text == "reply 1" and len(said) == 2
    assert KeptReplies(Called(agent, "another"), tmp_path / "a/requests.jsonl").ask(HELLO, **PLAIN).text == "reply 3"


def test_a_reply_comes_back_whole_with_its_counts_and_calls(tmp_path):
    class Counting(Called):
        def ask(self, messages, **settings) -> Reply:
            return Reply("x", False, 7, (("zoom", "{}"),), "reasoning", 1000)

    for _ in range(2):
        kept = KeptReplies(Counting(str, "me"), tmp_path / "requests.jsonl")
        assert kept.ask(HELLO) == Reply("x", False, 7, (("zoom", "{}"),), "reasoning", 1000)
        assert (kept.prompt_tokens_seen, kept.sampled_tokens) == (1000, 7)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("out of memory\n  in a kernel\n"), "the agent raised RuntimeError: out of memory in a kernel"),
        (AssertionError(), "the agent raised AssertionError"),
    ],
)
def test_what_a_function_raises_is_said_on_one_line(error, said):
    def agent(messages):
        raise error

    with pytest.raises(Outage) as outage:
        Called(agent, "me").ask(HELLO)
    assert str(outage.value) == said


def test_a_line_that_a_crash_has_cut_is_asked_again(tmp_path):
    path = tmp_path / "requests.jsonl"
    KeptReplies(Called(counting()[0], "me"), path).ask(HELLO, **PLAIN)
    path.write_text(path.read_text() + '["half a li')
    agent, said = counting(["new"])
    kept = KeptReplies(Called(agent, "me"), path)
    assert kept.ask(HELLO, **PLAIN).text == "reply 1" and kept.ask(HELLO).text == "new" and len(said) == 1
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_a_refusal_and_an_outage_are_not_kept(tmp_path, monkeypatch):
    hurry(monkeypatch)
    faults = [status(400, "too long"), status(403)]
    with Server(lambda request: ("hello", "stop", 3), faults) as server:
        kept = KeptReplies(Endpoint(server.url, "tiny", "NO_KEY", 5.0, 0, 1), tmp_path / "requests.jsonl")
        for error in (Refused, Outage):
            with pytest.raises(error):
                kept.ask(HELLO, **PLAIN)
        assert kept.ask(HELLO, **PLAIN).text == "hello"
        assert [reply.text for _, reply in kept.ask_all([{"messages": HELLO, **PLAIN}] * 3) if isinstance(reply, Reply)] == ["hello"] * 3
        assert len(server.chats) == 3


def test_requests_that_are_sent_again_get_their_reply_another_one_or_a_new_one_each_time(tmp_path):
    requests = [{"messages": HELLO, "max_tokens": number} for number in range(4)]
    # once each; then all four again; those with another text a third time: "B" comes again, "D" does not. The third one is refused twice
    agent, said = counting(["a", "b", "c", "d", "a", "B", " ", "D", "B", " ", "e"])
    kept = KeptReplies(Called(agent, "me"), tmp_path / "requests.jsonl")
    assert not kept.resumed and kept.again(requests, found=False) == (0, 0, 0)
    for request in requests:
        kept.ask(**request)
    assert kept.again(requests, found=False) == (4, 1, 2) and kept.again(requests, found=True) == (0, 0, 0) and len(said) == 11
    resumed = KeptReplies(Called(agent, "me"), tmp_path / "requests.jsonl")
    assert resumed.resumed and [resumed.ask(**request).text for request in requests] == ["a", "b", "c", "d"]


def test_an_agent_that_changed_under_its_old_name_gets_none_of_its_old_replies(tmp_path):
    kept = [KeptReplies(Called(agent, "me"), tmp_path / "requests.jsonl").ask(HELLO).text for agent in (lambda m: "old", lambda m: "new")]
    assert kept == ["old", "new"]


def test_the_hash_of_code_is_that_of_what_it_does_and_not_of_where_it_stands():
    def digests(*texts: str) -> set[str]:
        found: set[str] = set()
        for text in texts:
            names: dict = {}
            exec(compile(text, "agent.py", "exec"), names)
            found.add(code_digest(names["agent"]))
        return found

    same = "def agent(m):\n    return 'a' if m in {'x', 'y'} else [each for each in m]"
    assert len(digests(same, "# a comment\n\n" + same)) == 1
    assert len(digests(same, same.replace("'a'", "'b'"), same.replace("each for", "each.x for"), same.replace("'y'", "'z'"))) == 4

    class Agent:
        def __call__(self, m):
            return "a"

    def plain(self, m):
        return "a"

    assert code_digest(Agent()) == code_digest(partial(Agent().__call__, 1)) == code_digest(plain) and code_digest(str) == ""


def test_a_functions_turn_ends_with_its_call_and_an_empty_turn_costs_its_question():
    called = Called(lambda messages: "<tool_call>{}</tool_call> and more <zoom></zoom>", "me")
    assert called.ask(HELLO, stop=["</zoom>", "</tool_call>"]) == Reply("<tool_call>{}", True, 0)
    refused = [outcome for _, outcome in Called(lambda messages: " ", "me").ask_all([{"messages": HELLO}] * 2)]
    assert all(isinstance(each, Refused) for each in refused)
    assert Called(lambda messages: "a \ud83d", "me").ask(HELLO).text == "a \ufffd"  # half of a surrogate pair
    with pytest.raises(ValueError, match="returned a NoneType; it returns the text"):
        Called(lambda messages: None, "me").ask(HELLO)  # type: ignore[arg-type, return-value]
