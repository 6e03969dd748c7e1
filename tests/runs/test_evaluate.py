"""A number that one can trust: what is in the denominator, in which order options stood, how answers were read, what resumes."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as property_of
from hypothesis import strategies as st

from focus.data.options import shuffled
from focus.data.sample import Sample
from focus.evaluation.kept import read_listed, table_files
from focus.evaluation.predictions import Predictions, graded_rows
from focus.grading.answers import grade
from focus.model.dialect import Texts, read_dialect
from focus.report.evaluation import MAIN, METRICS, evaluation_table, summary
from focus.report.paper import beside_the_paper
from focus.report.table import cell_text, markdown_table
from focus.rollout.trajectory import Status
from focus.runs import evaluate, train
from tests.support.protocol import Server, hurry, status
from tests.support.published import write_hrbench4k, write_treebench, write_visualprobe, write_vstar
from tests.support.runs import another_job, settings
from tests.support.samples import prediction
from tests.support.scripted import Scripted, call

ABCD = (("A", "rubber"), ("B", "cotton"), ("C", "kevlar"), ("D", "leather"))


def choice(options=ABCD, answer: str = "C", source: str = "vstar", **meta: object) -> Sample:
    return Sample("vstar/test/1", source, "test", None, 100, 80, "What?", (answer, dict(options)[answer]), "letter", options, meta=meta)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------ the order of options


@property_of(deadline=None, database=None)
@given(st.integers(0, 2**63 - 1), st.sampled_from("ABCD"))
def test_a_shuffled_question_asks_the_same_and_its_answer_is_the_same_text(seed, answer):
    before, after = choice(answer=answer), shuffled(choice(answer=answer), seed)
    assert [key for key, _ in after.options] == list("ABCD")
    assert sorted(text for _, text in after.options) == sorted(text for _, text in before.options)
    assert dict(after.options)[after.answers[0]] == dict(before.options)[answer] == after.answers[1]
    published = after.meta["published_keys"]
    assert published[after.answers[0]] == answer
    assert all(dict(after.options)[key] == dict(before.options)[published[key]] for key in "ABCD")


def test_the_answer_stands_at_every_letter_equally_often():
    letters = [shuffled(choice(answer="A"), seed).answers[0] for seed in range(2000)]
    assert all(430 < letters.count(letter) < 570 for letter in "ABCD")  # 500 +- 3 standard deviations


def test_the_rotations_of_hr_bench_stay_as_published():
    assert shuffled(choice(cycle_category="2"), 1) == choice(cycle_category="2")


def test_the_last_option_of_mme_realworld_stays_last():
    options = (*ABCD, ("E", "The image does not feature the object"))
    orders = {shuffled(choice(options, source="mme_rw_lite"), seed).options for seed in range(50)}
    assert len(orders) > 10 and all(order[-1] == options[-1] for order in orders)


@pytest.mark.parametrize("text", ["both A and B", "All of the above", "none of the above", "Option A", "(A) and (C)", "either A or B"])
def test_options_that_speak_of_each_other_stay_as_published(text):
    options = (*ABCD[:3], ("D", text))
    assert all(shuffled(choice(options), seed).options == options for seed in range(10))


@pytest.mark.parametrize(
    "text", ["a man and a woman", "A dog", "B", "vitamin A", "to the left of the tree", "Above the car", "The dog is above the cat"]
)
def test_an_option_that_only_sounds_like_it_moves(text):
    options = (*ABCD[:3], ("D", text))
    assert len({shuffled(choice(options), seed).options for seed in range(20)}) > 5


def test_an_open_question_has_nothing_to_shuffle():
    sample = replace(choice(), options=(), scorer="exact")
    assert shuffled(sample, 3) == sample


# ------------------------------------------------------------------------------------------------------- what counts as said


def played(text: str, status: Status, answer: str | None = None, **changes: object) -> dict:
    """One line of what was played, with one arm that said `text`."""
    sample = choice()
    said = {
        "status": status,
        "answer": answer,
        "opening": "",
        "turns": [{"text": text, "tokens": 1}],
        "visual_tokens": 9,
        "sampled_tokens": 1,
    }
    line = {
        "id": "a", "repeat": 0, "source": "vstar", "split": "test", "group": "a", "question": "What?", "options": dict(sample.options),
        "published_keys": {}, "accepted": list(sample.answers), "scorer": "letter", "boxes": [], "meta": {}, "broken": None, "seconds": 1.0,
        "arms": {"own": said},
    }  # fmt: skip
    return line | changes


def read(text: str, status: Status, mode: str, answer: str | None = None, **changes: object) -> str | None:
    return graded_rows(played(text, status, answer, **changes), mode)[0]["extracted"]


@pytest.mark.parametrize(
    ("text", "status", "answer", "mode", "expected"),
    [
        ("<think>hm</think><answer>C</answer><|im_end|>", Status.ANSWERED, "C", "strict", "C"),
        ("It is kevlar, so\n\\boxed{C}", Status.MALFORMED, None, "strict", "C"),  # no tag, but an answer all the same
        ("C", Status.MALFORMED, None, "strict", "C"),
        ("A man holds it", Status.MALFORMED, None, "strict", None),
        ("<think>it may be\nC", Status.OUT_OF_TOKENS, None, "strict", None),  # cut: nothing was put forward
        ("C", Status.OUT_OF_TOKENS, None, "lmms", "C"),  # the published rules read what there is
        ("<answer>C", Status.MALFORMED, None, "strict", None),  # never closed
        ("Answer: B", Status.MALFORMED, None, "mme", "A"),  # a published hole: the first capital is that of the word
        ("", Status.REFUSED, None, "strict", None),
    ],
)
def test_an_answer_is_read_from_the_last_turn(text, status, answer, mode, expected):
    assert read(text, status, mode, answer) == expected


@pytest.mark.parametrize("mode", ["strict", "lmms", "vlmevalkit", "mme"])
def test_every_rule_reads_the_tag_where_there_is_one(mode):
    assert read("<think>A man, or B?</think><answer>C</answer><|im_end|>", Status.ANSWERED, mode, "C") == "C"


@pytest.mark.parametrize("mode", ["strict", "lmms", "vlmevalkit", "mme"])
def test_a_conversation_that_ends_in_a_call_answers_nothing_in_any_mode(mode):
    assert read("A. B. <tool_call>{}</tool_call>", Status.OUT_OF_TURNS, mode) is None


def test_an_open_answer_is_what_stands_in_the_tag():
    line = {"options": {}, "scorer": "exact", "accepted": ["kevlar"]}
    assert read("<answer> Kevlar. </answer>", Status.ANSWERED, "strict", "Kevlar.", **line) == "Kevlar."
    assert graded_rows(played("<answer> Kevlar. </answer>", Status.ANSWERED, "Kevlar.", **line), "strict")[0]["right"] == 1.0


@pytest.mark.parametrize(
    ("question", "accepted", "scorer", "answer", "right"),
    [
        ("How many people are there?", "3", "number", "three people", 1.0),
        ("Is the car red?", "yes", "exact", "Yes, the car is blue", 0.0),
    ],
)
def test_an_evaluation_reads_an_answer_beside_its_question_as_the_reward_does(question, accepted, scorer, answer, right):
    line = {"options": {}, "scorer": scorer, "accepted": [accepted], "question": question}
    said = graded_rows(played(f"<answer>{answer}</answer>", Status.ANSWERED, answer, **line), "strict")[0]
    assert said["right"] == right == grade(answer, (accepted,), scorer, (), question)


def test_a_question_whose_image_can_not_be_read_is_a_wrong_row_in_every_arm():
    rows = graded_rows(played("", Status.OPEN, arms={"own": None, "tool_free": None}, broken="it is cut"), "strict")
    assert [(row["right"], row["extracted"], row["status"]) for row in rows] == [(0.0, None, "broken")] * 2


def test_every_target_and_every_crop_finds_its_best_partner():
    turns = [{"text": "", "tokens": 1, "box_px": box} for box in ((0, 0, 10, 10), (0, 0, 10, 5))]
    said = played("", Status.OUT_OF_TURNS)["arms"]["own"] | {"turns": turns}
    boxes = [[[0, 0, 10, 10], [0, 0, 20, 20]], [[50, 50, 60, 60], [40, 40, 70, 70]]]  # two targets; of a chain the smallest counts
    row = graded_rows(played("", Status.OUT_OF_TURNS, boxes=boxes, arms={"own": said}), "strict")[0]
    assert row["iou_recall"] == pytest.approx((1.0 + 0.0) / 2) and row["iou_precision"] == pytest.approx((1.0 + 0.5) / 2)


# ---------------------------------------------------------------------------------------------------------------- averages


SETTINGS = {
    "policy": "p", "weights": "w", "data": "hrbench4k", "view_tokens": [1, 1024], "crop_tokens": [1, 256], "max_crops": 5,
    "temperature": 0.0, "options": "shuffled", "seed": 0, "samples": None, "side_by_side": 16, "derived_boxes": 0, "tokens_per_turn": 40,
    "dialect": "tiny", "extraction": "strict", "judge": None, "engine": "kv", "device": "CPU",
    "prompts": {"hash": "a", "words": "dialect", "notes": []},
}  # fmt: skip


def test_rotations_are_averaged_as_published_and_all_four_right_is_an_extra():
    rights = {"one": (1, 1, 1, 1), "two": (1, 0, 1, 0)}  # two questions, four rotations each
    rows = [
        prediction(f"{name}/{cycle}", right, group=name, category="single" if name == "one" else "cross", cycle_category=str(cycle))
        for name, each in rights.items()
        for cycle, right in enumerate(each)
    ]
    found = summary(rows, ("own",), 50)
    assert found["questions"] == 8 and found["images"] == 2
    assert found["metrics"]["own"]["right"][0] == 0.75
    assert {cycle: part["own"][0] for cycle, part in found["by"]["cycle_category"].items()} == {"0": 1.0, "1": 0.5, "2": 1.0, "3": 0.5}
    assert found["unweighted"]["cycle_category"]["own"] == 0.75
    assert {name: part["own"][0] for name, part in found["by"]["category"].items()} == {"single": 1.0, "cross": 0.5}
    assert found["strict_circular"]["own"][0] == 0.5


def test_what_can_not_be_read_is_wrong_and_stays_in_the_denominator():
    rows = [prediction("a", 1.0), prediction("b", 0.0, extracted=None), prediction("c", 1.0), prediction("d", 0.0, extracted=None)]
    metrics = summary(rows, ("own",), 50)["metrics"]["own"]
    assert metrics["right"][0] == 0.5 and metrics["unparsed"][0] == 0.5


def test_repeats_of_a_question_are_averaged_first_and_its_interval_is_that_of_questions():
    rows = [prediction(q, right, repeat=r) for q, rights in (("a", (1, 0)), ("b", (1, 1)), ("c", (0, 0))) for r, right in enumerate(rights)]
    found = summary(rows, ("own",), 200)
    assert found["repeats"] == 2 and found["metrics"]["own"]["right"][0] == 0.5
    once = summary([prediction("a", 0.5), prediction("b", 1.0), prediction("c", 0.0)], ("own",), 200)
    assert found["metrics"]["own"]["right"] == once["metrics"]["own"]["right"]


def test_unweighted_means_count_every_category_once():
    rows = [prediction(name, 1.0, category="x") for name in "abc"] + [prediction("d", 0.0, category="y")]
    found = summary(rows, ("own",), 50)
    assert found["metrics"]["own"]["right"][0] == 0.75 and found["unweighted"]["category"]["own"] == 0.5


def test_arms_are_compared_question_by_question():
    rows = [prediction(q, own) for q, own in (("a", 1.0), ("b", 1.0), ("c", 0.0))]
    rows += [prediction(q, without, arm="tool_free") for q, without in (("a", 1.0), ("b", 0.0), ("c", 0.0))]
    assert summary(rows, ("own", "tool_free"), 50)["differences"]["tool_effect"][0] == pytest.approx(1 / 3, abs=1e-5)


def test_the_paper_stands_beside_what_was_measured_and_what_was_not_run_says_so(tmp_path):
    rows = [prediction("a", 1.0), prediction("b", 0.0), *(prediction(q, 0.0, arm="noise") for q in "ab")]
    found = summary(rows, ("own", "noise"), 50) | {"settings": SETTINGS}
    other = summary([prediction("a", 1.0)], ("own",), 50) | {"settings": SETTINGS | {"data": "vstar"}}
    strange = summary([prediction("a", 0.0)], ("own",), 50) | {"settings": SETTINGS | {"data": "hrbench8k", "weights": "another policy"}}
    prompts = {"prompts": {"hash": "b", "words": "own words", "notes": []}}
    reworded = summary([prediction("a", 0.0)], ("own",), 50) | {"settings": SETTINGS | {"data": "vstar"} | prompts}
    for name, each in (("vstar", other), ("hrbench8k", strange), ("vstar_reworded", reworded)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "evaluation.json").write_text(json.dumps(each))
    tables = {table.title.partition(":")[0]: table for table in beside_the_paper(found, tmp_path)}
    assert set(tables) == {f"Table {n}" for n in range(1, 7)}
    ours = {name: [cell_text(table.rows[-1], cell) for cell in table.rows[-1].cells] for name, table in tables.items()}
    assert [cell.partition(" [")[0] for cell in ours["Table 2"]] == ["not run", "50.0", "100.0"]
    assert ours["Table 5"][0] == "not run" and ours["Table 5"][1].startswith("50.0")
    assert "72.1 % | 75.3 % | 80.6 %" in markdown_table(tables["Table 2"])


def test_the_table_says_what_the_number_depends_on():
    text = markdown_table(evaluation_table(summary([prediction("a", 1.0)], ("own",), 5) | {"settings": SETTINGS}))
    facts = ("1 to 1024 visual tokens", "up to 5 crops of 1 to 256", "an order drawn by seed 0", "rule strict", "a lower bound")
    assert all(fact in text for fact in facts)


# ------------------------------------------------------------------------------------------------------------- whole entry

SMALL = ("threads=1", "evaluation.resamples=20", "view.max_tokens=16", "evaluation.questions_per_forward=2", "pictures=2")


@pytest.fixture
def scripted(qwen3_vl, monkeypatch):
    """A policy that crops, then answers A."""
    engine = Scripted(qwen3_vl, call(0, 0, 500, 500), "<answer>A</answer><|im_end|>")
    monkeypatch.setattr(evaluate, "load_evaluated", lambda cfg: (qwen3_vl, engine))
    return engine


def evaluating(folder: Path, source: str, *overrides: str):
    places = (f"data={source}", f"data.root={folder / 'published'}", f"data.cache_dir={folder / 'data' / source}")
    return settings(folder / "out", Path("embedded"), *SMALL, *places, *overrides, name="evaluate")


def predictions(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "out/predictions.jsonl").read_text().splitlines()]


def kept_rows(folder: Path) -> list[dict]:
    """What the room Look lists of the evaluation."""
    [[table]] = table_files(folder / "out").values()
    return read_listed(table).to_pylist()


def numbers(folder: Path) -> dict:
    return json.loads((folder / "out/evaluation.json").read_text(), parse_constant=lambda name: pytest.fail(name))


def test_an_evaluation_leaves_numbers_tables_predictions_and_a_page(scripted, tmp_path, capsys):
    write_vstar(tmp_path / "published")
    evaluate.run(evaluating(tmp_path, "vstar"))
    rows, found = predictions(tmp_path), numbers(tmp_path)
    assert {row["arm"] for row in rows} == {"own", "tool_free", "format_only"}
    own = [row for row in rows if row["arm"] == "own"]
    assert len(own) == found["questions"] == len({row["id"] for row in own})
    for row in own:
        assert row["extracted"] == "A" and row["right"] == (row["answer"] == "A")
        assert row["options"][row["answer"]] == row["accepted"][1]
        assert row["prediction"].startswith("<answer>A") and len(row["turns"]) == 2 and row["crops"] == 1
    page = (tmp_path / "out/report.html").read_text()
    assert "wrong" in page and "Curves" not in page
    assert [(row["id"], row["arm"], row["answer"], row["right"]) for row in kept_rows(tmp_path)] == [
        (row["id"], row["arm"], row["extracted"], row["right"]) for row in rows
    ]
    assert "Table 6" in (tmp_path / "out/evaluation.md").read_text()
    terminal, text = capsys.readouterr().out, (tmp_path / "out/evaluation.md").read_text()
    assert "1 to 16 visual tokens" in " ".join(terminal.split())
    rows = {metric: label for metric, (label, *_) in METRICS.items() if f"| {label} |" in text}
    shown = [metric for metric, label in rows.items() if re.search(f"^{re.escape(label)} ", terminal, flags=re.MULTILINE)]
    assert shown == [metric for metric in rows if metric in MAIN] and 3 < len(shown) < len(rows)
    assert "tool_effect: " in text and "tool_effect: " in page and "tool_effect" not in terminal
    right = sum(row["right"] for row in own) / len(own)
    sentence = f"Right in {100 * right:.0f} % of {len(own)} questions ["
    assert sentence in terminal and sentence in text and sentence in json.loads((tmp_path / "out/results.json").read_text())["verdicts"][0]


def test_the_published_order_is_a_switch_and_the_predictions_name_published_keys(scripted, tmp_path):
    write_vstar(tmp_path / "published")
    evaluate.run(evaluating(tmp_path, "vstar", "options=published"))
    as_published = {row["id"]: row for row in predictions(tmp_path)}
    (tmp_path / "out/played.jsonl").unlink()
    evaluate.run(evaluating(tmp_path, "vstar", "seed=5"))
    for row in predictions(tmp_path):
        assert row["published_answer"] == as_published[row["id"]]["answer"]
        published = as_published[row["id"]]["options"]
        assert row["options"][row["extracted"]] == published[row["published_extracted"]]


def test_an_interrupted_evaluation_goes_on_and_ends_like_one_that_was_not(scripted, tmp_path, monkeypatch):
    write_hrbench4k(tmp_path / "published")
    bound = "kept_mib=0.0003"  # room for one question: a second start does not begin to count again
    evaluate.run(evaluating(tmp_path, "hrbench4k", bound))
    whole = [row | {"seconds": None} for row in predictions(tmp_path)]
    table, kept = numbers(tmp_path)["by"], kept_rows(tmp_path)
    assert [row["pictures"] for row in kept] == [True] * 3 + [False] * 7 * 3
    lines = (tmp_path / "out/played.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "out/played.jsonl").write_text("".join(lines[:4]) + lines[4][:40])  # a kill in the middle of a line
    asked: list[str] = []
    says = Scripted.says
    monkeypatch.setattr(Scripted, "says", lambda self, c, s: asked.append(c.trajectory.sample.id) or says(self, c, s))
    evaluate.run(evaluating(tmp_path, "hrbench4k", bound))
    assert [row | {"seconds": None} for row in predictions(tmp_path)] == whole and numbers(tmp_path)["by"] == table
    assert kept_rows(tmp_path) == kept
    assert len(set(asked)) == 4  # of eight
    asked.clear()
    evaluate.run(evaluating(tmp_path, "hrbench4k", bound))
    assert not asked  # a finished one only shows its result


def test_a_second_start_while_an_evaluation_plays_is_refused_and_plays_nothing(scripted, tmp_path):
    write_vstar(tmp_path / "published")
    with another_job(tmp_path / "out"), pytest.raises(ValueError, match=r"another job is working in .*out \(it holds .*running.lock\)"):
        evaluate.run(evaluating(tmp_path, "vstar"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["running.lock"]
    evaluate.run(evaluating(tmp_path, "vstar"))


def test_another_evaluation_in_the_same_folder_is_refused(scripted, tmp_path):
    write_vstar(tmp_path / "published")
    evaluate.run(evaluating(tmp_path, "vstar"))
    with pytest.raises(ValueError, match=r"holds an evaluation of another policy, .*output=FOLDER"):
        evaluate.run(evaluating(tmp_path, "vstar", "view.max_tokens=32"))
    with pytest.raises(ValueError, match="holds an evaluation of another policy, of other questions or with other settings"):
        evaluate.run(evaluating(tmp_path, "vstar", "options=published"))


def test_one_broken_image_costs_one_question(scripted, tmp_path):
    write_hrbench4k(tmp_path / "published")
    evaluate.run(evaluating(tmp_path, "hrbench4k", "evaluation.samples=1"))
    blob = next(path for path in (tmp_path / "data/hrbench4k").iterdir() if path.suffix in (".jpg", ".png"))
    blob.write_bytes(blob.read_bytes()[:60])
    (tmp_path / "out/played.jsonl").unlink()
    evaluate.run(evaluating(tmp_path, "hrbench4k"))
    found, broken = numbers(tmp_path), {row["id"] for row in predictions(tmp_path) if row["broken"]}
    assert found["questions"] == 8 and 1 <= len(broken) < 8 and len(found["broken"]) == len(broken)
    assert all(row["right"] == 0.0 and row["extracted"] is None for row in predictions(tmp_path) if row["id"] in broken)


def test_several_answers_to_each_question_are_averaged(scripted, tmp_path):
    write_visualprobe(tmp_path / "published")
    evaluate.run(evaluating(tmp_path, "visualprobe", "repeats=2", "evaluation.temperature=1.0", "evaluation.arms=[own]"))
    found = numbers(tmp_path)
    assert found["repeats"] == 2 and len(predictions(tmp_path)) == 2 * found["questions"]
    assert set(found["by"]["split"]) == {"easy", "medium", "hard"}


def test_boxes_are_compared_both_ways(scripted, tmp_path):
    write_treebench(tmp_path / "published")
    evaluate.run(evaluating(tmp_path, "treebench"))
    graded = [row for row in predictions(tmp_path) if row["iou_recall"] is not None]
    assert graded and all(row["arm"] == "own" and 0 <= row["iou_recall"] <= 1 for row in graded)
    assert {"iou_recall", "iou_precision"} <= set(numbers(tmp_path)["metrics"]["own"])


def test_a_judge_grades_free_answers_and_its_disagreements_with_the_rule_are_kept(qwen3_vl, tmp_path, monkeypatch):
    write_visualprobe(tmp_path / "published")
    monkeypatch.chdir(tmp_path)
    engine = Scripted(qwen3_vl, call(0, 0, 500, 500), "<answer>something else</answer><|im_end|>")
    monkeypatch.setattr(evaluate, "load_evaluated", lambda cfg: (qwen3_vl, engine))
    with Server(lambda request: ("yes", "stop", 1), models=("big",)) as server:
        evaluate.run(evaluating(tmp_path, "visualprobe", f"judge.url={server.url}", "judge.model=big", "evaluation.arms=[own]"))
        found = numbers(tmp_path)
        first = found["judge"]
        evaluate.run(evaluating(tmp_path, "visualprobe", f"judge.url={server.url}", "judge.model=big", "evaluation.arms=[own]"))
    again = numbers(tmp_path)["judge"]
    assert (again["asked"], again["cached"]) == (0, first["asked"] + first["cached"]) and again["disagreements"] == first["disagreements"]
    assert found["metrics"]["own"]["right"][0] == 1.0 and set(found["graded_by"]) == {"judge"}
    log = [json.loads(line) for line in (tmp_path / "out/judge_disagreements.jsonl").read_text().splitlines()]
    assert found["judge"]["disagreements"] == len(log) > 0 and found["settings"]["judge"] == "big"


def test_a_served_agent_is_evaluated_like_a_policy_that_is_here(tmp_path):
    write_vstar(tmp_path / "published")
    opened = lambda request: "" if request.get("continue_final_message") else "<answer>"  # noqa: E731
    with Server(lambda request: (f"{opened(request)}B</answer>", "stop", 4), models=("org/agent",)) as server:
        endpoint = ("rollout=openai", f"rollout.endpoint.url={server.url}", "rollout.endpoint.retries=0", "policy.checkpoint=org/agent")
        evaluate.run(evaluating(tmp_path, "vstar", *endpoint, "policy.dialect=mini_o3"))
        assert server.chats[0]["model"] == "org/agent"
    found = numbers(tmp_path)
    assert found["settings"]["engine"] == "openai" and found["metrics"]["own"]["called"][0] == 0.0


def test_a_result_says_whose_words_an_agent_was_asked_in_and_two_prompts_are_never_mixed(tmp_path, capsys):
    write_vstar(tmp_path / "published")
    texts = {key: getattr(read_dialect("mini_o3"), key) for key in Texts.model_fields}
    own, theirs = tmp_path / "own", tmp_path / "theirs.json"
    theirs.write_text(json.dumps(texts | {"system": "You may look."}))
    with Server(lambda request: ("<answer>B</answer>", "stop", 4), models=("agent",)) as server:
        asking = at(server, "evaluation.arms=[own]")
        evaluate.run(evaluating(tmp_path, "vstar", *asking))
        terminal = " ".join(capsys.readouterr().out.split())
        (tmp_path / "out").rename(own)
        evaluate.run(evaluating(tmp_path, "vstar", *asking, f"policy.prompts={theirs}"))
        assert {chat["messages"][0]["content"] for chat in server.chats[-2:]} == {"You may look."}
        theirs.write_text(json.dumps(texts))
        with pytest.raises(ValueError, match="holds an evaluation of another policy"):  # another text in the same file
            evaluate.run(evaluating(tmp_path, "vstar", *asking, f"policy.prompts={theirs}"))
    dialect = read_dialect("mini_o3")
    before = json.loads((own / "evaluation.json").read_text())["settings"]["prompts"]
    after = numbers(tmp_path)["settings"]["prompts"]
    assert (before["hash"], before["words"]) == (dialect.digest, "own words")
    assert after["words"] == str(theirs) and after["hash"] not in (before["hash"], read_dialect("mini_o3", str(theirs)).digest)
    note = f"asked in own words (hash {dialect.digest}), not with the prompts of Mini-o3"
    assert note in terminal
    for name in ("evaluation.md", "report.html"):
        assert note in (own / name).read_text()
        assert f"asked with the prompts of {theirs} (hash {after['hash']})" in (tmp_path / "out" / name).read_text()


SERVED = ("rollout=openai", "rollout.endpoint.retries=0", "policy.checkpoint=agent", "policy.dialect=mini_o3")


def at(server: Server, *overrides: str) -> tuple[str, ...]:
    return (*SERVED, f"rollout.endpoint.url={server.url}", *overrides)


def counts(per_token: float):
    """A server that counts a prompt: 400 tokens of text, and for each image this part of its own tokens. It answers B."""

    def serve(handler, _):
        messages = handler.server.requests[-1].body["messages"]
        parts = [part for message in messages if isinstance(message["content"], list) for part in message["content"]]
        tokens = sum(16 * per_token for part in parts if part["type"] == "image_url")
        usage = {"prompt_tokens": 400 + int(tokens), "completion_tokens": 3}
        handler.send(200, {"choices": [{"message": {"content": "<answer>B</answer>"}, "finish_reason": "stop"}], "usage": usage})

    return serve


def test_a_server_that_shrinks_the_view_is_refused_unless_the_settings_allow_it_and_the_page_says_it(tmp_path, caplog, monkeypatch):
    hurry(monkeypatch)
    write_vstar(tmp_path / "published")
    with Server(lambda request: ("", "stop", 0), models=("agent",)) as server:
        server.faults.extend([lambda handler, reply: handler.send(200, reply()), *[counts(0.25)] * 99])
        more = ("evaluation.arms=[own]", "view.max_tokens=40", "view.min_tokens=30")
        with pytest.raises(ValueError, match=r"shrinks the view: 3\d visual tokens were sent, and it counts 4\. .*view_deviation=null"):
            evaluate.run(evaluating(tmp_path, "vstar", *at(server), *more, "served.view_deviation=0.1"))
        server.faults.appendleft(lambda handler, reply: handler.send(200, reply()))
        evaluate.run(evaluating(tmp_path, "vstar", *at(server), *more, "served.view_deviation=null"))
    assert "shrinks the view" in caplog.text
    assert numbers(tmp_path)["settings"]["view_seen"]["counted"] == 4
    assert "the server counts 4 tokens for a view" in (tmp_path / "out/report.html").read_text()


def test_a_share_of_refusals_above_the_stated_one_ends_with_an_error_after_everything_is_written(tmp_path, monkeypatch):
    hurry(monkeypatch)
    write_vstar(tmp_path / "published")
    asked = iter(range(1000))

    def respond(request):
        if next(asked) > 2:  # two of the view, and the first question
            raise RuntimeError("out of memory")
        return "<answer>B</answer>", "stop", 3

    with Server(respond, models=("agent",)) as server, pytest.raises(ValueError, match=r"refused \d\d% of the questions of the arm own"):
        evaluate.run(evaluating(tmp_path, "vstar", *at(server, "rollout.endpoint.concurrency=1", "evaluation.arms=[own]")))
    found = numbers(tmp_path)
    assert found["refusals"]["own"] == pytest.approx(found["metrics"]["own"]["refused"][0], abs=1e-4)
    assert "its numbers are not this model" in (tmp_path / "out/evaluation.md").read_text()


def test_an_arm_that_a_server_refuses_has_no_numbers_and_the_others_have(tmp_path, monkeypatch):
    hurry(monkeypatch)
    write_vstar(tmp_path / "published")

    def respond(request):
        if request.get("continue_final_message"):
            raise RuntimeError("no prefix here")
        return "<answer>B</answer>", "stop", 3

    with Server(respond, models=("agent",)) as server, pytest.raises(ValueError, match="100% of the questions of the arm tool_free"):
        evaluate.run(evaluating(tmp_path, "vstar", *at(server, "evaluation.arms=[own,tool_free]")))
    found = numbers(tmp_path)
    assert set(found["metrics"]) == {"own"} and found["refusals"] == {"tool_free": 1.0} and not found["differences"]


def test_an_endpoint_that_is_not_there_is_one_message(tmp_path):
    write_vstar(tmp_path / "published")
    nobody = ("rollout=openai", "rollout.endpoint.url=http://127.0.0.1:9/v1", "rollout.endpoint.retries=0")
    nobody = (*nobody, "policy.checkpoint=a", "policy.dialect=mini_o3")
    with pytest.raises(ValueError, match=r"http://127.0.0.1:9/v1 .*start the server, or correct the url"):
        evaluate.run(evaluating(tmp_path, "vstar", *nobody))


def test_a_served_agent_is_asked_in_a_dialect_and_at_a_budget_that_somebody_named(tmp_path):
    write_vstar(tmp_path / "published")
    with pytest.raises(ValueError) as refused:
        evaluate.run(evaluating(tmp_path, "vstar", "rollout=openai", "policy.checkpoint=org/agent"))
    problem = "policy.dialect is tiny, which only the embedded policies speak; org/agent needs one of adaptvision, deepeyes, ergo, mini_o3"
    assert problem in str(refused.value)
    with pytest.raises(ValueError, match=r"view.max_tokens is null; name the most visual tokens"):
        evaluate.run(evaluating(tmp_path, "vstar", "rollout=openai", "policy.dialect=deepeyes", "view.max_tokens=null"))


def test_a_server_that_dies_in_the_middle_ends_the_run_and_another_goes_on(tmp_path, monkeypatch):
    hurry(monkeypatch)
    write_vstar(tmp_path / "published")
    settled = ("rollout=openai", "policy.checkpoint=agent", "policy.dialect=mini_o3", "rollout.endpoint.retries=0", "evaluation.arms=[own]")
    answer = lambda request: ("<answer>B</answer>", "stop", 4)  # noqa: E731
    with Server(answer, models=("agent",)) as server:
        server.faults.extend([lambda handler, reply: handler.send(200, server.answer("/v1/models", None)[1]), *[status(503)] * 9])
        with pytest.raises(ValueError, match="answers 503"):
            evaluate.run(evaluating(tmp_path, "vstar", *settled, f"rollout.endpoint.url={server.url}"))
    with Server(answer, models=("agent",)) as server:  # on another port
        evaluate.run(evaluating(tmp_path, "vstar", *settled, f"rollout.endpoint.url={server.url}", "rollout.endpoint.timeout_s=9"))
    assert {row["status"] for row in predictions(tmp_path)} == {"answered"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("options=sorted", "options is 'sorted'; choose shuffled or published"),
        ("extraction=lax", "extraction is 'lax'; choose strict, lmms, vlmevalkit or mme"),
        ("view.min_tokens=64", "view.min_tokens is 64 and view.max_tokens 16"),
        ("repeats=0", "repeats is 0"),
        ("repeats=4", "all answers to a question would be equal"),
        ("evaluation.samples=0", "evaluation.samples is 0"),
        ("rollout.engine=vllm2", "rollout.engine is 'vllm2'"),
        ("rollout.crop_min_tokens=100", "rollout.crop_min_tokens is 100"),
        ("evaluation.arms=[own,no_tool]", "policy.dialect=tiny has no prompt without the tool"),
        ("judge.url=localhost", "judge.url is 'localhost'; write it in full"),
        ("judge.url=http://localhost:1/v1", "judge.model names no model"),
        ("judge={url:'http://me:secret@h/v1',model:m}", "judge.url holds a name or a password"),
        ("judge={url:'http://h/v1',model:m,key_env:sk-secret}", "judge.key_env names no environment variable"),
        ("++judge={url:'http://h/v1',model:m,extra:{api_key:secret}}", "judge.extra holds api_key"),
        ("served.refused=2", "served.refused is 2"),
        ("served.view_deviation=-1", "served.view_deviation is -1"),
    ],
)
def test_settings_that_can_not_work_are_named_before_anything_is_loaded(tmp_path, override, message, monkeypatch):
    write_vstar(tmp_path / "published")
    monkeypatch.setattr(evaluate, "load_evaluated", lambda cfg: pytest.fail("loaded"))
    with pytest.raises(ValueError) as refused:
        evaluate.run(evaluating(tmp_path, "vstar", override))
    assert message in str(refused.value) and "secret" not in str(refused.value)


def test_a_served_model_is_not_trained(tmp_path):
    with pytest.raises(ValueError, match="a served model can be evaluated and probed, not trained"):
        train.run(settings(tmp_path, Path("embedded"), "rollout=openai"))


def test_what_was_played_keeps_its_whole_lines_when_its_end_is_torn(tmp_path):
    path = tmp_path / "played.jsonl"
    Predictions(path, "me").add([{"id": "a", "repeat": 0}])
    with path.open("a") as lines:
        lines.write('{"id": "b", "rep')
    again = Predictions(path, "me")
    assert again.done == {("a", 0)} and [line["id"] for line in again.lines()] == ["a"]


def test_a_file_that_something_else_wrote_is_left_as_it_is(tmp_path):
    path = tmp_path / "played.jsonl"
    path.write_text('{"a": 1}\n{"b": 2}')
    with pytest.raises(ValueError, match=r"played.jsonl holds an evaluation of another policy.*output=FOLDER"):
        Predictions(path, "me")
    assert path.read_text() == '{"a": 1}\n{"b": 2}'


def test_fewer_repeats_and_fewer_questions_show_only_those(scripted, tmp_path):
    write_visualprobe(tmp_path / "published")
    sampled = ("evaluation.temperature=1.0", "evaluation.arms=[own]")
    evaluate.run(evaluating(tmp_path, "visualprobe", "repeats=3", *sampled))
    evaluate.run(evaluating(tmp_path, "visualprobe", "repeats=1", *sampled))
    assert numbers(tmp_path)["repeats"] == 1


def test_another_rule_of_reading_is_a_matter_of_seconds(scripted, tmp_path, monkeypatch):
    write_vstar(tmp_path / "published")
    evaluate.run(evaluating(tmp_path, "vstar"))
    monkeypatch.setattr(Scripted, "generate", lambda *_: pytest.fail("asked again"))
    evaluate.run(evaluating(tmp_path, "vstar", "extraction=lmms"))
    assert numbers(tmp_path)["settings"]["extraction"] == "lmms"


def test_arms_that_do_not_apply_to_a_category_leave_a_hole_and_no_crash(scripted, tmp_path):
    write_treebench(tmp_path / "published")  # one of its rows has no box
    evaluate.run(evaluating(tmp_path, "treebench", "evaluation.arms=[own,gt,gt]"))
    parts = numbers(tmp_path)["by"]["category"].values()
    assert all("own" in part for part in parts) and not all("gt" in part for part in parts)
    assert "n/a" in (tmp_path / "out/evaluation.md").read_text()


def test_a_folder_beside_it_that_something_else_wrote_is_passed_over(scripted, tmp_path):
    write_vstar(tmp_path / "published")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/evaluation.json").write_text("{}")
    evaluate.run(evaluating(tmp_path, "vstar", "evaluation.samples=2"))
    assert "first 2 questions" in (tmp_path / "out/evaluation.md").read_text()


def test_views_and_crops_grow_to_the_least_that_is_asked_for(scripted, tmp_path):
    write_vstar(tmp_path / "published")
    evaluate.run(evaluating(tmp_path, "vstar", "view.min_tokens=30", "view.max_tokens=40", "rollout.crop_min_tokens=20"))
    own = [row for row in predictions(tmp_path) if row["arm"] == "own"]
    free = [row for row in predictions(tmp_path) if row["arm"] == "tool_free"]
    assert all(30 <= row["visual_tokens"] <= 40 for row in free)
    assert all(50 <= row["visual_tokens"] <= 40 + 64 for row in own)
    assert math.isclose(numbers(tmp_path)["settings"]["view_tokens"][0], 30)


def test_a_call_in_the_turn_of_a_replayed_conversation_is_shown_as_it_was(scripted, tmp_path):
    write_vstar(tmp_path / "published")
    evaluate.run(evaluating(tmp_path, "vstar"))
    page = (tmp_path / "out/report.html").read_text()
    assert "image_zoom_in_tool" in page and 'alt="the crop' in page


@pytest.mark.parametrize(
    ("checkpoint", "folder"),
    [("outputs/stage1/policy", "stage1"), ("org/model", "model"), ("..", "policy"), ("../..", "policy"), ("a/..", "a"), ("/", "policy")],
)
def test_the_folder_of_an_evaluation_stays_below_the_outputs(checkpoint, folder):
    assert evaluate._policy_name(checkpoint) == folder
