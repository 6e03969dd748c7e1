"""The audit: agents of known conduct, agents that misbehave, servers that fail, and what is written."""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir

import focus
from focus import config
from focus.config import CONF
from focus.config.schema import AuditConfig
from focus.data.scenes import Scenes, scene_spec
from focus.evaluation.kept import read_contents, table_files
from focus.report.audit_card import Card, read_card
from focus.rollout import data_urls
from focus.runs import audit, probe
from focus.runtime.endpoint import Outage
from tests.support.agents import SMALL_AUDIT, Agent, conducts, images, speaking, truths
from tests.support.protocol import Server, hurry
from tests.support.runs import settings

VIEWS, COUNT = (16, 64), 6


@pytest.fixture(scope="module")
def agents() -> dict[str, Agent]:
    return conducts(truths(Scenes(scene_spec(1, None, 224), "eval", COUNT), VIEWS))


@pytest.fixture(autouse=True)
def undrawn(monkeypatch) -> None:
    """The picture takes longer than an audit of six questions: one test draws it."""
    monkeypatch.setattr("focus.report.audit_page.draw_card", lambda card, path: None)


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
    if conduct == "never looks":
        said = (
            r"Undecided: at 16 tokens it made a crop in 0 % \[0, 39\] of .* What it would do with a crop shows an audit of a served model"
        )
        assert re.match(said, card.verdict) and card.verdict.endswith(" with rollout.force_first_crop=true.")
    if conduct.startswith("looks"):
        assert card.conduct == conduct and means(card, 16, "steps") == {"calls": 1, "hits": 1, "reads": 1, "uses": 1}


def test_the_card_says_what_was_asked_how_and_what_it_took(agents, tmp_path, monkeypatch):
    monkeypatch.undo()
    card = audited(agents["looks"], tmp_path, "audit.published=[vstar]")
    assert card.made["command"].startswith("focus.audit(agent, 'audit.made=[scenes]', 'audit.sides_px=[224]', ")
    assert card.made["command"].endswith(", 'audit.published=[vstar]', dialect='mini_o3', name='scripted')")
    assert "audit.made=[scenes]" in card.protocol.changed and "audit.letter_px=null" in card.protocol.changed
    assert card.protocol.left_out == ["vstar: no files in published/vstar"]
    assert card.protocol.sets == {"scenes": COUNT} and card.protocol.views == list(VIEWS)
    assert card.agent.name == "scripted" and card.agent.engine == "a Python function" and card.agent.words == "own words"
    assert card.agent.answered_alike == (2, 2)
    assert card.forms == {"call": 0.5, "answer": 0.5} and card.endings == {"answered": 12}
    assert card.spent.requests == 12 * 4  # own twice, noise and gt once
    page = (tmp_path / "card.html").read_text()
    assert "It looks: noise in place of its crops costs 100 points" in page and "http" not in page.replace("https://www.w3.org", "")
    assert (tmp_path / "card.png").read_bytes().startswith(b"\x89PNG")
    # for make lightbox: six questions in the arms own, noise and gt
    tables = {name: [read_contents(path) for path in paths] for name, paths in table_files(tmp_path).items()}
    assert {name: [(table.about.view, table.rows) for table in found] for name, found in tables.items()} == {
        "evaluation_scenes_16_tokens": [("scenes 16 tokens", 18)],
        "evaluation_scenes_64_tokens": [("scenes 64 tokens", 18)],
    }


def test_a_picture_is_encoded_once_for_all_arms_of_its_question(agents, tmp_path, monkeypatch):
    encode, encoded = data_urls.data_url, list[Any]()
    monkeypatch.setattr(data_urls, "data_url", lambda image: (encoded.append(image), encode(image))[1])
    audited(agents["looks"], tmp_path, "audit.repeated=0")
    # at each of two views: one for the check of the view; of each of six questions the view, and the crops of own, noise and gt
    assert len(encoded) == len({id(image) for image in encoded}) == 2 * (1 + 6 * 4)


def test_an_audit_that_is_done_asks_again_only_what_shows_that_its_agent_is_the_same(agents, tmp_path):
    asked: list[Any] = []

    def counting(messages: Sequence[Mapping[str, Any]]) -> str:
        asked.append(messages)
        return agents["looks"](messages)

    first = audited(counting, tmp_path)
    assert len(asked) == 12 * 3 + 2  # own twice, noise once; gt shows what own does. And two of them again: audit.repeated
    second = audited(counting, tmp_path)
    assert len(asked) == 12 * 3 + 2 + 2 and second.model_copy(update={"made": first.made}) == first


def test_another_function_under_the_same_name_does_not_go_on_with_the_replies_of_the_first(agents, tmp_path):
    audited(agents["looks"], tmp_path, "audit.views=[16]")
    with pytest.raises(ValueError, match=r"holds an audit with another policy \(then scripted \w+, now scripted \w+\); give"):
        audited(lambda messages: "<answer>red</answer>", tmp_path, "audit.views=[16]")


def test_a_server_that_answers_otherwise_than_before_under_the_same_name_is_refused(agents, tmp_path, monkeypatch, capsys):
    hurry(monkeypatch)
    with Server(speaking(agents["looks"])) as server:
        first = served(server, tmp_path, "audit.views=[16]", "audit.repeated=8")
    for conduct, unlike in (("guesses", 4), ("never looks", 5)):  # the one that guesses makes the same crops
        with Server(speaking(agents[conduct])) as server:
            said = (
                f"otherwise than its kept replies: of 8 requests that were sent again, {unlike} got another reply, and the same one twice"
            )
            with pytest.raises(ValueError, match=rf"{said}\. .*remove {tmp_path}, or give this one a folder of its own"):
                served(server, tmp_path, "audit.views=[16]", "audit.repeated=8")
    wavering = iter(range(100))
    with Server(speaking(lambda messages: agents["looks"](messages).replace("closer", f"closer {next(wavering)}"))) as server:
        again = served(server, tmp_path, "audit.views=[16]", "audit.repeated=8")
        assert (again.together, again.agent.answered_alike) == (first.together, (8, 4))
    assert "4 of 8 kept requests got another reply now" in capsys.readouterr().out


def test_a_server_that_lists_another_root_under_the_same_name_is_another_agent(agents, tmp_path, monkeypatch):
    hurry(monkeypatch)

    class Rooted(Server):
        """Says what it loaded, as vLLM does."""

        root = "/models/step-100"

        def answer(self, path: str, body: dict[str, Any] | None) -> tuple[int, Any]:
            listed = {"object": "list", "data": [{"id": "tiny", "root": self.root, "parent": None, "created": len(self.requests)}]}
            return (200, listed) if path == "/v1/models" else super().answer(path, body)

    with Rooted(speaking(agents["looks"])) as server:
        assert served(server, tmp_path, "audit.views=[16]").agent.weights == "tiny root=/models/step-100"
        served(server, tmp_path, "audit.views=[16]")
        server.root = "/models/step-200"
        with pytest.raises(ValueError, match=r"another policy \(then tiny root=/models/step-100, now tiny root=/models/step-200\)"):
            served(server, tmp_path, "audit.views=[16]")


def test_other_questions_in_the_same_folder_are_refused_before_the_cost_is_told(agents, tmp_path, monkeypatch, capsys):
    hurry(monkeypatch)
    with Server(speaking(agents["looks"])) as server:
        served(server, tmp_path, "audit.views=[16]")
        assert "With one crop a question: about 24 requests and" in capsys.readouterr().out
        with pytest.raises(ValueError, match=r"holds an audit with other questions, arms or first calls; give this one a folder"):
            served(server, tmp_path, "audit.views=[16]", "audit.samples=5")
        assert "requests" not in capsys.readouterr().out


def test_the_card_says_whose_answer_is_given_where_the_crop_contradicts_the_view(agents, tmp_path):
    arms = "evaluation.arms=[own,noise,conflict]"
    card = audited(agents["believes some crops"], tmp_path / "some", arms)
    # 5 of 6 answers are the crop's, where the coin is. Wilson: (5/6 + 1.9208/6 -+ 1.96 sqrt(5/216 + 3.8415/144)) / (1 + 3.8415/6)
    for entry in card.together:
        assert entry.conflict["conflict_crop"] == pytest.approx((0.83333, 0.4365, 0.96995), abs=2e-5)
        assert entry.conflict["conflict_whole"] == pytest.approx((0.16667, 0.03005, 0.5635), abs=2e-5)
        assert entry.conflict["conflict_neither"][0] == 0
        assert entry.dependence["D_noise"][0] == 0  # it knows every answer: D_noise says nothing of its belief
    assert card.contradicted == (
        "Where its crop contradicts the view, 83 % [44, 97] of its answers are the crop's and 17 % [3, 56] the view's, at 64 tokens "
        "(6 crops that hit)."
    )
    for conduct, said in (("looks", "conflict_crop"), ("guesses", "conflict_neither")):
        conflict = means(audited(agents[conduct], tmp_path / conduct, arms, "audit.views=[16]"), 16, "conflict")
        assert conflict == dict.fromkeys(("conflict_crop", "conflict_whole", "conflict_neither"), 0) | {said: 1}
    assert audited(agents["never looks"], tmp_path / "never", arms, "audit.views=[16]").contradicted is None


# -------------------------------------------------------------------------------------------------------- misbehaviour


def test_an_agent_that_always_calls_runs_out_of_turns_and_has_nothing_to_lose(agents, tmp_path):
    call = '<grounding>{"bbox_2d": [0.1, 0.1, 0.9, 0.9], "source": "original_image"}</grounding>'
    card = audited(lambda messages: call, tmp_path, "audit.views=[16]", "evaluation.arms=[own,noise]", "rollout.max_crops=2")
    assert card.endings == {"out of turns": 6} and means(card, 16, "steps")["calls"] == 1
    # three calls in each conversation: the third one is one too many
    assert card.forms == {"call": 0.66667, "call: no crops are left, answer now": 0.33333} and card.spent.requests == 6 * (3 + 1)
    assert means(card, 16, "accuracy") == {"own": 0, "noise": 0} and means(card, 16, "dependence") == {"D_noise": 0}
    assert card.conduct == "undecided"  # none of six right may be up to 39 %


def test_an_agent_that_forgets_the_first_messages_is_right_in_no_arm_with_a_crop(agents, tmp_path):
    def forgetful(messages: Sequence[Mapping[str, Any]]) -> str:
        return agents["crops for show"]([messages[0], *messages[-1:]])

    card = audited(forgetful, tmp_path, "audit.views=[16]", "evaluation.arms=[own,noise,no_tool]")
    assert means(card, 16, "accuracy") == {"own": 0, "noise": 0, "no_tool": COIN} and means(card, 16, "steps")["calls"] == 1


def test_a_server_whose_context_ends_before_the_answer_is_said_to_have_cut_it(agents, tmp_path, monkeypatch):
    hurry(monkeypatch)

    def short(request: dict[str, Any]) -> tuple[str, str, int]:
        text, _, _ = speaking(agents["looks"])(request)
        return (text, "stop", 5) if len(images(request["messages"])) == 1 else ("<think>so it", "length", 3)

    with Server(short) as server:
        card = served(server, tmp_path, "audit.views=[16]", "audit.repeated=0", "evaluation.arms=[own,noise]")
    assert card.endings == {"out of tokens": 6} and means(card, 16, "accuracy") == {"own": 0, "noise": 0}


def test_a_server_that_refuses_a_second_image_gets_no_verdict(agents, tmp_path, monkeypatch):
    hurry(monkeypatch)

    class Narrow(Server):
        """Has room for one image."""

        def answer(self, path: str, body: dict[str, Any] | None) -> tuple[int, Any]:
            if body is not None and len(images(body["messages"])) > 1:
                return 400, {"error": {"message": "maximum context length is 2048 tokens"}}
            return super().answer(path, body)

    with Narrow(speaking(agents["looks"])) as server, pytest.raises(ValueError, match=r"No verdict: the server refused .* of a set"):
        served(server, tmp_path / "card", "audit.views=[16]", "audit.repeated=0", "evaluation.arms=[own,noise,no_tool]")
    assert read_card(tmp_path / "card/card.json").endings == {"refused": 6}


def test_an_agent_that_calls_in_anothers_form_or_answers_in_prose_is_told_so(agents, tmp_path):
    prose = audited(lambda messages: "I believe it is a sign.", tmp_path / "prose")
    assert prose.forms == {"neither a call nor an answer": 1.0} and prose.endings == {"malformed": 12}
    assert prose.verdict.endswith(" Of its turns 100 % were: neither a call nor an answer, in the form of policy.dialect=mini_o3.")
    other = audited(lambda messages: "<zoom>[0, 0, 20, 20]</zoom>", tmp_path / "other")
    assert other.forms == {"call of ergo": 1.0} and means(other, 16, "steps") == {"calls": 0.0}
    assert other.verdict.endswith(" Of its turns 100 % were: call of ergo: try policy.dialect=ergo.")


@pytest.mark.parametrize(
    ("agent", "said"),
    [
        (
            lambda messages: None,
            "the agent returned a NoneType; it returns the text of its turn (str). {folder}/requests.jsonl keeps what was",
        ),
        (
            lambda messages: {}["tokens"],
            "the agent raised KeyError: 'tokens'. {folder}/requests.jsonl keeps what was answered; the same call goes",
        ),
        (lambda: "", "the agent raised TypeError: "),
        (lambda messages: "", "a Python function refused all 2 requests. The last refusal: the agent returned an empty turn. "),
    ],
    ids=["nothing", "raises", "no messages", "empty"],
)
def test_an_agent_that_gives_no_turn_ends_the_audit_with_one_sentence(tmp_path, agent, said):
    with pytest.raises(ValueError, match="^" + re.escape(said.format(folder=tmp_path))):
        audited(agent, tmp_path, "audit.samples=2", "audit.views=[16]", "evaluation.arms=[own,noise]")


def test_an_agent_that_gives_no_turn_to_some_questions_gets_no_verdict(agents, tmp_path):
    first = next(iter(truths(Scenes(scene_spec(1, None, 224), "eval", 1), VIEWS)))
    silent = audited(lambda messages: "" if images(messages)[:1] == [first] else agents["looks"](messages), tmp_path, "audit.views=[16]")
    assert (
        silent.verdict.startswith("No verdict: the function returned an empty turn in 17 % of the questions")
        and silent.endings["refused"] == 1
    )


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
    assert read_card(tmp_path / "card/card.json").conduct == "no verdict"
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


def continuing(agent: Agent, first_call: Agent):
    """The agent on a server that continues a turn which was begun with a call, as `first_call` would."""

    def respond(request: dict[str, Any]) -> tuple[str, str, int]:
        *before, last = request["messages"]
        begun = request.get("continue_final_message") and last["content"] == "<grounding>"
        said = first_call(before).partition("<grounding>")[2] if begun else agent(request["messages"])
        return speaking(lambda messages: said)(request)

    return respond


def test_an_agent_that_never_calls_is_audited_with_its_first_call_put_into_its_mouth(agents, tmp_path, monkeypatch):
    hurry(monkeypatch)
    arms = ("audit.views=[16]", "audit.repeated=0", "evaluation.arms=[own,noise,no_tool]")
    with Server(continuing(agents["reads what it is shown"], agents["looks"])) as server:
        alone = served(server, tmp_path / "alone", *arms)
        forced = served(server, tmp_path / "forced", *arms, "rollout.force_first_crop=true")
    assert means(alone, 16, "steps") == {"calls": 0} and means(forced, 16, "steps") == {"calls": 1, "hits": 1, "reads": 1, "uses": 1}
    assert means(forced, 16, "accuracy") == {"own": 1, "noise": 0, "no_tool": 0} and forced.conduct == "looks"
    assert forced.verdict.startswith("Its first call was forced. It looks: ") and "force_first_crop" not in forced.verdict
    assert alone.verdict.endswith(" What it would do with a crop shows an audit with rollout.force_first_crop=true.")
    assert forced.agent.first_call_forced and not alone.agent.first_call_forced
    assert "Looks, its first call forced" in (tmp_path / "forced/card.html").read_text()


def test_a_call_is_forced_on_no_agent_that_begins_its_own_turns(agents, tmp_path, monkeypatch):
    hurry(monkeypatch)
    forced = ("rollout.force_first_crop=true", "audit.views=[16]")
    with pytest.raises(ValueError, match=r"begins the agent's first turn with a call, but a Python function begins its own turns; serve"):
        audited(agents["looks"], tmp_path / "function", *forced)
    restarting = speaking(lambda messages: agents["looks"](messages[:-1] if messages[-1]["role"] == "assistant" else messages))
    with Server(restarting) as server, pytest.raises(ValueError, match="the server starts a turn again instead of continuing it; serve"):
        served(server, tmp_path / "server", *forced)


def test_views_that_do_not_grow_are_refused_because_the_verdict_rests_on_the_first(tmp_path):
    with pytest.raises(ValueError, match=r"audit\.views is \[64, 16, 16\]; write them from the smallest to the largest: \[16, 64\]"):
        focus.audit(lambda messages: "", "audit.views=[64,16,16]", dialect="mini_o3", output=tmp_path)


def test_a_server_that_is_not_there_is_one_message(tmp_path):
    with pytest.raises(ValueError, match="cannot be reached"):
        focus.audit("http://127.0.0.1:9/v1", *SMALL_AUDIT, dialect="mini_o3", name="x", output=tmp_path)
    with pytest.raises(ValueError, match="name is missing"):
        focus.audit("http://127.0.0.1:9/v1", dialect="mini_o3")


def test_what_is_no_agent_is_refused():
    with pytest.raises(ValueError, match="agent is 42; give a function"):
        focus.audit(42, dialect="mini_o3", name="x")


def test_a_card_without_a_named_folder_lies_under_the_name_of_its_agent(monkeypatch):
    folders = []
    monkeypatch.setattr(audit, "_audited", lambda cfg, called, folder, console, call: folders.append(str(folder)))
    monkeypatch.setattr(config, "alone", lambda folder: nullcontext())
    focus.audit(lambda messages: "", *SMALL_AUDIT, dialect="mini_o3", name="mine")
    focus.audit(lambda messages: "", *SMALL_AUDIT, "output=outputs/other", dialect="mini_o3", name="mine")
    assert folders == ["outputs/audit/mine", "outputs/other"]


# ------------------------------------------------------------------------------------------------------------- weights


def test_the_card_of_weights_that_run_here_has_the_numbers_of_their_probe(tmp_path, monkeypatch, capsys):
    """The same arms, scenes and views by the command `probe`: every number of the card that a probe has is the same."""
    monkeypatch.setattr("focus.runs.probe.draw_probe", lambda *_: None)
    quick = ("rollout=kv", "threads=1", "evaluation.arms=[own,noise,gt,conflict,tool_free]", "evaluation.temperature=1.0")
    shown = ("evaluation.resamples=50", "evaluation.samples=6", "views=[64]", "data.side_px=224", "pictures=1", "kept_mib=0")
    probe.run(settings(tmp_path / "probe", Path("embedded"), *quick, *shown, name="probe"))
    arms = (*SMALL_AUDIT, *quick, "audit.views=[64]", "audit.published=[vstar]")
    cfg = settings(tmp_path / "audit", Path("embedded"), *arms, name="audit")
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):  # as a command has
        audit.run(cfg)
    assert "6 scenes at 1 view. With one crop a question: about 36 turns and" in capsys.readouterr().out  # nobody is sent requests
    card, recorded = read_card(tmp_path / "audit/card.json"), json.loads((tmp_path / "probe/probe.json").read_text())
    for entry in card.together:
        of_probe = recorded["views"][str(entry.view_tokens)]["metrics"]
        numbers = entry.accuracy | entry.dependence | entry.conflict
        assert {name: list(interval) for name, interval in numbers.items()} == {name: of_probe[name] for name in numbers}
        assert {"own", "noise", "gt", "tool_free", "D_noise"} <= set(numbers)
        steps = {"calls": "called", "hits": "hit", "reads": "reads"}
        assert {step: entry.steps[step][0] for step in steps} == {step: of_probe[name][0] for step, name in steps.items()}
    assert card.together[0].conflict  # some crop hit
    assert card.agent.weights == recorded["weights"] and card.spent.requests == 0
    assert card.protocol.left_out == ["vstar: no files in published/vstar"]
    assert "audit.samples=6" in card.protocol.changed and "audit.sides_px=[224]" in card.protocol.changed


def test_the_card_of_weights_that_run_here_lies_beside_them_and_that_of_a_served_agent_under_outputs(tmp_path):
    (tmp_path / "run/policy").mkdir(parents=True)

    def output(*engine: str) -> Path:
        cfg = settings(tmp_path, tmp_path / "run/policy", *engine, "output=null", name="audit")
        return audit.output_of(config.validated(cfg, AuditConfig, here=False))

    assert output("rollout=kv") == tmp_path / "run/audit"
    assert output("rollout=kv", "rollout.force_first_crop=true") == tmp_path / "run/audit_forced"
    assert output("policy.dialect=deepeyes") == Path("outputs/audit/policy")
