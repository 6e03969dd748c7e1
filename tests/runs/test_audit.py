"""The audit: agents of known conduct, agents that misbehave, servers that fail, and what is written."""

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir

import focus
from focus.config import CONF
from focus.data.scenes import Scenes, scene_spec
from focus.evaluation.arms import Evaluator
from focus.evaluation.measure import measure
from focus.gap import Gap, Mode
from focus.report.audit_card import Card, read_card
from focus.rollout.engine import Sampling
from focus.rollout.kv import KVEngine
from focus.rollout.loop import RolloutLimits
from focus.runs import audit
from focus.runtime.endpoint import Outage
from tests.support.agents import SMALL_AUDIT, Agent, conducts, images, truths
from tests.support.protocol import Server, hurry
from tests.support.runs import settings

VIEWS, COUNT = (16, 64), 6


@pytest.fixture(scope="module")
def agents() -> dict[str, Agent]:
    return conducts(truths(Scenes(scene_spec(1, None, 224), "eval", COUNT), VIEWS))


@pytest.fixture(autouse=True)
def undrawn(monkeypatch) -> None:
    """The picture takes longer than an audit of six questions: one test draws it."""
    monkeypatch.setattr("focus.report.audit_card.draw_card", lambda card, path: None)


def audited(agent: Agent, folder: Path, *more: str) -> Card:
    return focus.audit(agent, *SMALL_AUDIT, *more, dialect="mini_o3", name="scripted", output=folder)


def means(card: Card, view: int, part: str) -> dict[str, float]:
    [entry] = [entry for entry in card.together if entry.view_tokens == view]
    return {name: interval[0] for name, interval in getattr(entry, part).items()}


COIN = round(5 / 6, 5)  # of the six questions, those that an agent without a crop knows


@pytest.mark.parametrize(
    ("conduct", "small", "large", "calls"),
    [
        ("looks", (1, 0), (1, 0), (1, 1)),
        ("never looks", (COIN, COIN), (COIN, COIN), (0, 0)),
        ("looks when needed", (1, 0), (1, 1), (1, 0)),
        ("crops for show", (COIN, COIN), (COIN, COIN), (1, 1)),
        ("guesses", (0, 0), (0, 0), (1, 1)),
    ],
)
def test_an_agent_of_known_conduct_gets_its_numbers(agents, tmp_path, conduct, small, large, calls):
    card = audited(agents[conduct], tmp_path)
    for view, (own, noise), called in zip(VIEWS, (small, large), calls, strict=True):
        accuracy, steps = means(card, view, "accuracy"), means(card, view, "steps")
        assert (accuracy["own"], accuracy["noise"], steps["calls"]) == (own, noise, called)
        assert means(card, view, "dependence") == {"D_noise": own - noise}
    assert card == read_card(tmp_path / "card.json")
    if conduct.startswith("looks"):
        assert card.conduct == conduct and means(card, 16, "steps") == {"calls": 1, "hits": 1, "reads": 1, "uses": 1}


def test_the_card_says_what_was_asked_how_and_what_it_took(agents, tmp_path, monkeypatch):
    monkeypatch.undo()
    card = audited(agents["looks"], tmp_path, "audit.published=[vstar]")
    assert card.protocol.left_out == ["vstar: no files in published/vstar"]
    assert card.protocol.sets == {"scenes": COUNT} and card.protocol.views == list(VIEWS)
    assert card.agent.name == "scripted" and card.agent.engine == "a Python function" and card.agent.words == "own words"
    assert card.agent.answered_alike == (2, 2)
    assert card.forms == {"call": 0.5, "answer": 0.5} and card.endings == {"answered": 12}
    assert card.spent.requests == 12 * 4  # own twice, noise and gt once
    page = (tmp_path / "card.html").read_text()
    assert "It looks: noise in place of its crops costs 100 points" in page and "http" not in page.replace("https://www.w3.org", "")
    assert (tmp_path / "card.png").read_bytes().startswith(b"\x89PNG")


def test_an_audit_that_is_done_asks_nothing_again(agents, tmp_path):
    first = audited(agents["looks"], tmp_path)
    asked: list[Any] = []

    def counting(messages: Sequence[Mapping[str, Any]]) -> str:
        asked.append(messages)
        return agents["looks"](messages)

    second = audited(counting, tmp_path)
    assert asked == [] and second.model_copy(update={"made": first.made}) == first


# -------------------------------------------------------------------------------------------------------- misbehaviour


def test_an_agent_that_calls_in_anothers_form_or_answers_in_prose_is_told_so(agents, tmp_path):
    prose = audited(lambda messages: "I believe it is a sign.", tmp_path / "prose")
    assert prose.forms == {"neither a call nor an answer": 1.0} and prose.endings == {"malformed": 12}
    other = audited(lambda messages: "<zoom>[0, 0, 20, 20]</zoom>", tmp_path / "other")
    assert other.forms == {"call of ergo": 1.0} and means(other, 16, "steps") == {"calls": 0.0}


def test_an_agent_that_answers_otherwise_the_second_time_is_told_so(agents, tmp_path):
    said: dict[str, int] = {}

    def moody(messages: Sequence[Mapping[str, Any]]) -> str:
        key = json.dumps(messages)
        said[key] = said.get(key, 0) + 1
        return agents["looks"](messages).replace("closer", "closer" * said[key]).replace("<answer>", "<answer>" + " " * said[key])

    assert audited(moody, tmp_path).agent.answered_alike == (2, 0)


def test_a_function_is_not_asked_to_continue_a_turn_and_a_dialect_without_a_plain_prompt_not_to_do_without(agents, tmp_path):
    card = audited(agents["never looks"], tmp_path, "evaluation.arms=[own,noise,tool_free,no_tool]")
    assert card.protocol.left_out == ["the arm tool_free: a Python function begins its own turns"]
    assert means(card, 16, "accuracy")["no_tool"] == COIN


def served(server: Server, folder: Path, *more: str) -> Card:
    endpoint = (f"rollout.endpoint.url={server.url}", "rollout.endpoint.retries=0", "rollout.endpoint.concurrency=1")
    audit.run(settings(folder, Path("tiny"), "policy.dialect=mini_o3", *SMALL_AUDIT, *endpoint, *more, name="audit"))
    return read_card(folder / "card.json")


def speaking(agent: Agent):
    lock = threading.Lock()

    def respond(request: dict[str, Any]) -> tuple[str, str, int]:
        with lock:
            text = agent(request["messages"])
        for stop in request.get("stop") or ():
            text = text.removesuffix(stop)
        return text, "stop", 5

    return respond


def test_an_endpoint_that_dies_near_the_end_costs_only_what_was_not_answered(agents, tmp_path, monkeypatch, capsys):
    hurry(monkeypatch)
    with Server(speaking(agents["looks"])) as server:
        whole = served(server, tmp_path / "whole", "audit.repeated=0")
        needed = len(server.chats)
    healthy = int(0.9 * needed)

    class Dying(Server):
        """Answers 403 to every chat after the first `healthy`."""

        left = healthy

        def answer(self, path: str, body: dict[str, Any] | None) -> tuple[int, Any]:
            if body is not None:
                self.left -= 1
            return (403, {"error": "gone"}) if self.left < 0 else super().answer(path, body)

    with Dying(speaking(agents["looks"])) as server:
        with pytest.raises(Outage, match=r"requests\.jsonl keeps what was answered; the same command goes on from there"):
            served(server, tmp_path / "cut", "audit.repeated=0")
        server.left, before = needed, len(server.chats)
        resumed = served(server, tmp_path / "cut", "audit.repeated=0")
        assert len(server.chats) - before == needed - healthy
    assert (resumed.together, resumed.forms, resumed.conduct) == (whole.together, whole.forms, whole.conduct)
    assert "6 scenes at 2 views. With one crop a question: about 48 requests" in capsys.readouterr().out


def test_a_server_that_refuses_images_gets_no_verdict_and_a_card_that_says_why(agents, tmp_path, monkeypatch):
    hurry(monkeypatch)
    views = list(truths(Scenes(scene_spec(1, None, 224), "eval", 2), VIEWS))

    def picky(request: dict[str, Any]) -> tuple[str, str, int]:
        if images(request["messages"])[:1] in [[view] for view in views]:
            raise ValueError("no such image")  # answered 500: a refusal once retries are used up
        return speaking(agents["looks"])(request)

    with Server(picky) as server, pytest.raises(ValueError, match="No verdict: the server refused 33 % of the questions"):
        served(server, tmp_path / "card")
    assert read_card(tmp_path / "card/card.json").conduct is None
    with Server(speaking(agents["looks"])) as server:
        assert served(server, tmp_path / "card").conduct == "looks"  # the same command asks again what was refused, and nothing else
        assert 0 < len(server.chats) < 24


def test_a_server_that_restarts_a_prefilled_turn_is_not_measured_in_that_arm(agents, tmp_path, monkeypatch):
    hurry(monkeypatch)

    def restarting(request: dict[str, Any]) -> tuple[str, str, int]:
        return speaking(agents["looks"])(
            request | {"messages": request["messages"][: -1 if request.get("continue_final_message") else None]}
        )

    with Server(restarting) as server:
        card = served(server, tmp_path, "evaluation.arms=[own,noise,tool_free]", "audit.views=[16]", "audit.repeated=0")
    assert card.protocol.left_out == ["the arm tool_free: the server starts a turn again instead of continuing it"]


def test_a_server_that_is_not_there_is_one_message(tmp_path):
    with pytest.raises(ValueError, match="cannot be reached"):
        focus.audit("http://127.0.0.1:9/v1", *SMALL_AUDIT, dialect="mini_o3", name="x", output=tmp_path)
    with pytest.raises(ValueError, match="name is missing"):
        focus.audit("http://127.0.0.1:9/v1", dialect="mini_o3")


# ------------------------------------------------------------------------------------------------------------- weights


def test_the_card_of_weights_that_run_here_has_the_numbers_of_their_probe(tmp_path):
    from focus.model.loading import EMBEDDED, load_model

    quick = ("rollout=kv", "audit.views=[16]", "evaluation.arms=[own,noise]", "evaluation.temperature=1.0")
    cfg = settings(tmp_path, Path("embedded"), *SMALL_AUDIT, *quick, "audit.samples=2", "audit.published=[vstar]", name="audit")
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):  # as a command has
        audit.run(cfg)
    card, model = read_card(tmp_path / "card.json"), load_model(EMBEDDED, "tiny")
    limits = RolloutLimits(1, 64, Sampling(1.0, 40))
    evaluator = Evaluator(model, KVEngine(model), Gap(Mode.FIXED, 16, 28), limits, 0, ["own", "noise"], 3)
    outcome, _ = measure(evaluator, Scenes(scene_spec(1, None, 224), "eval", 2), None)
    assert means(card, 16, "accuracy") == {"own": round(outcome.mean("own"), 5), "noise": round(outcome.mean("noise"), 5)}
    assert means(card, 16, "steps")["calls"] == round(outcome.mean("called"), 5)
    assert card.agent.weights == model.weights_hash() and card.spent.requests == 0
    assert card.protocol.left_out == ["vstar: no files in published/vstar"]
