"""Offline resolution selection (E2): the rule, the searches, what they spend, and what an audit of the approximate one sees."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig

from experiments.speed.selection import certificate, least
from focus.build import load_policy, training_samples
from focus.config import CONF, validated
from focus.config.schema import CalibrateConfig
from focus.data.scenes import DIFFICULTY, Scenes
from focus.evaluation import selection_record
from focus.evaluation.answer_reading import ReadAnswer
from focus.evaluation.level_search import DROPPED_NATIVE, DROPPED_NEVER, SEARCHES, UNREADABLE, LevelRule
from focus.evaluation.selection import Tokens, choose, total_tokens
from focus.gap import Search, diverges, fit, ladder, levels_identity, majority, read_levels, select_level
from focus.grading.answers import canonical
from focus.rollout.engine import Completion, Sampling
from focus.rollout.kv import KVEngine
from focus.runs import calibrate
from focus.runtime import files
from focus.runtime.processes import outside_cause
from tests.support.policies import random_qwen3_vl
from tests.support.samples import sample

PROPERTY = settings(deadline=None, database=None)
EXACT = [Search.LADDER, Search.EXHAUSTIVE]
WIDTHS_PX = [448, 308, 224, 140, 112]  # of the views of a 448 px scene: 256, 128, 64, 32 and 16 tokens are 16, 11, 8, 5 and 4 squared

# ------------------------------------------------------------------------------------------------------------ the rule


def test_the_first_level_that_leaves_the_native_answer_is_chosen():
    assert select_level([["42"], ["42"], ["47"], ["42"], ["11"]]) == 2
    assert select_level([["42"], ["17"], ["42"]]) == 1


def test_a_vote_diverges_when_fewer_than_half_of_it_agree():
    native = ["42"] * 6 + ["47"] * 2
    assert select_level([native, ["42"] * 4 + ["x"] * 4, ["42"] * 3 + ["x"] * 5]) == 2


@pytest.mark.parametrize(
    ("native", "levels", "scorer", "found"),
    [
        ("B", ["B. red", "(B)", "red", "**B** (red)"], "letter", None),  # one option in other words
        ("B", ["B. red", "A"], "letter", 2),
        ("B", ["B. blue"], "letter", 1),  # letter and text disagree: that is no choice
        ("1200", ["1,200", "1200.0", "about 1 200 m"], "number", 3),  # the last holds two numbers
        ("12", ["12 people", "twelve", "There are twelve"], "number", None),  # the accepted answer is 12
        ("Red", ["red.", "The flag is red", "“red”"], "judge", None),  # the accepted answer is red
        ("blue", ["It is blue", "The flag is blue"], "judge", 2),  # wrong: only a light sentence is taken off
        ("5 km", ["five kilometers", "5 miles"], "judge", 2),
        ("STOP", ["“Stop”", "SHOP"], "exact", 2),
        ("Red", [None], "judge", 1),
    ],
)
def test_e2_compares_what_answers_mean_and_not_how_they_are_worded(native, levels, scorer, found):
    accepted = {"letter": ("A", "blue"), "number": ("12",), "judge": ("red",), "exact": ("go",)}[scorer]
    options = (("A", "blue"), ("B", "red")) if scorer == "letter" else ()
    assert select_level([[canonical(answer, accepted, scorer, options)] for answer in [native, *levels]]) == found


def test_a_majority_is_taken_over_meanings_and_a_tie_goes_to_the_first():
    meanings = [canonical(answer, ("red",), "exact") for answer in ("Red", "red", "RED", "blue", "blue")]
    assert majority(meanings) == "red" and majority(["b", "a", "a", "b"]) == "b"
    assert diverges(["blue"], meanings, 0.5) and not diverges(["red"], meanings, 0.5)


def test_the_ladder_halves_the_pixels_down_to_its_floor():
    assert ladder((448, 448), 28) == [256, 128, 64, 32, 16]
    assert ladder((3584, 3584), 28) == [16384, 8192, 4096, 2048, 1024, 512, 256, 128, 64, 32, 16]
    assert ladder((100, 100), 28, floor_tokens=4) == [16, 8, 4]


def test_the_ladder_of_a_strip_ends_where_its_shape_would_be_lost():
    assert ladder((2000, 100), 28) == [284, 142, 71, 35]  # 20 times longer than wide: 17 tokens can't hold it
    assert ladder((1200, 28), 28) == [43]
    assert all(fit((2000, 100), budget, 28) for budget in ladder((2000, 100), 28))


# ------------------------------------------------------------------------------------------ searches over known answers


def search(kind: Search, answers: str, enters: str = "ab") -> tuple[int | str, list[int]]:
    """What a search finds where level k answers with the k-th letter, and the levels it asked. `enters`: native answers let in."""
    asking = SEARCHES[kind](LevelRule(len(answers), 0.5, lambda native: native[0] in enters))
    asked = [next(asking)]
    while True:
        try:
            asked.append(asking.send([answers[asked[-1]]]))
        except StopIteration as found:
            return found.value, asked


patterns = st.text("ab", min_size=1, max_size=9)


def leaves_for_good(answers: str) -> bool:
    """Whether an answer that has left native stays away."""
    return answers[len(answers) - len(answers.lstrip(answers[0])) :].find(answers[0]) < 0


@pytest.mark.parametrize(
    ("answers", "found", "asked"),
    [
        ("abbbb", 1, [0, 1]),
        ("aaabb", 3, [0, 1, 2, 3]),
        ("aabab", 2, [0, 1, 2]),
        ("aaaaa", DROPPED_NEVER, [0, 1, 2, 3, 4]),
        ("baaaa", 1, [0, 1]),
        ("a", DROPPED_NEVER, [0]),
    ],
)
def test_the_ladder_stops_at_the_first_level_that_diverges(answers, found, asked):
    assert search(Search.LADDER, answers) == (found, asked)


@pytest.mark.parametrize(
    ("answers", "found", "asked"),
    [
        ("abbbb", 1, [0, 2, 1]),
        ("aabbb", 2, [0, 2, 1]),
        ("aaabb", 3, [0, 2, 3]),
        ("aaaab", 4, [0, 2, 3, 4]),
        ("aaaaa", DROPPED_NEVER, [0, 2, 3, 4]),
        ("ababb", 3, [0, 2, 3]),  # E2 says 1: level 2 came back to the native answer
        ("abaaa", DROPPED_NEVER, [0, 2, 3, 4]),  # E2 says 1
        ("aabab", 2, [0, 2, 1]),  # level 3 came back, but it was not asked
        ("a", DROPPED_NEVER, [0]),
    ],
)
def test_bisection_halves_the_levels_that_are_left(answers, found, asked):
    assert search(Search.BISECTION, answers) == (found, asked)


@pytest.mark.parametrize("kind", [Search.LADDER, Search.BISECTION])
def test_a_question_that_is_wrong_at_native_is_settled_by_native_alone(kind):
    assert search(kind, "aabbb", enters="b") == (DROPPED_NATIVE, [0])


def test_the_exhaustive_ladder_asks_every_level_of_every_question():
    assert search(Search.EXHAUSTIVE, "aabbb", enters="b") == (DROPPED_NATIVE, [0, 1, 2, 3, 4])
    assert search(Search.EXHAUSTIVE, "aabbb") == (2, [0, 1, 2, 3, 4])


@PROPERTY
@given(patterns, st.sampled_from(["ab", "b"]))
def test_the_ladder_chooses_as_the_exhaustive_one_and_asks_exactly_its_certificate(answers, enters):
    found, asked = search(Search.LADDER, answers, enters)
    assert found == search(Search.EXHAUSTIVE, answers, enters)[0]
    assert asked == list(certificate(found, len(answers)))


@PROPERTY
@given(st.text("ab", min_size=1, max_size=7), st.sampled_from(["ab", "b"]))
def test_every_level_of_a_certificate_is_needed(answers, enters):
    """Were one of its levels answered otherwise, E2 could say something else: a search that did not ask it can't know."""
    found, _ = search(Search.EXHAUSTIVE, answers, enters)
    for level in certificate(found, len(answers)):
        other = answers[:level] + ("a" if answers[level] == "b" else "b") + answers[level + 1 :]
        assert level == 0 or search(Search.EXHAUSTIVE, other, enters)[0] != found
    if found == DROPPED_NATIVE:
        assert search(Search.EXHAUSTIVE, "b" + answers[1:], enters)[0] != found


@PROPERTY
@given(patterns)
def test_bisection_finds_e2_wherever_an_answer_leaves_native_for_good(answers):
    exact, (found, asked) = search(Search.LADDER, answers)[0], search(Search.BISECTION, answers)
    came_back = [k for k in asked if isinstance(exact, int) and k > exact and answers[k] == answers[0]]
    assert (found != exact) == bool(came_back)
    if leaves_for_good(answers):
        assert found == exact
    if found != exact:
        assert found == DROPPED_NEVER or found > exact  # never a sharper view than E2's
    assert len(asked) <= 2 + (len(answers) - 1).bit_length()


# ------------------------------------------------------------------------------------------------ searches over a policy


class ByLevel:
    """An engine that answers each question by the width of the view it is shown: `says[question]` holds a letter for each level."""

    def __init__(self, policy, says: dict[str, str]) -> None:
        self.policy, self.says = policy, says
        self.asked: list[list[int]] = []  # the levels of each round

    def generate(self, requests, sampling):
        self.asked.append([])
        for request in requests:
            level = WIDTHS_PX.index(request.images[0].width)
            self.asked[-1].append(level)
            prompt = self.policy.tokenizer.decode(list(request.ids))
            letter = next(letters[level] for question, letters in self.says.items() if question in prompt)
            ids = tuple(self.policy.tokenizer.encode(f"{letter}</answer><|im_end|>", add_special_tokens=False))
            yield request, Completion(ids, (-0.5,) * len(ids), stopped=True)

    def clear_cache(self) -> None:
        pass


def rule(*overrides: str):
    """The section `calibration` as it is composed."""
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose("calibrate", [f"calibration.{override}" for override in overrides]).calibration


def asking(policy, kind: Search, *letters: str, rules=(), engine=ByLevel):
    """Choices for one scene per pattern of letters, whose right answer is `a`, and the engine that gave the answers."""
    scenes = Scenes(DIFFICULTY[1], "eval", len(letters))
    samples = [replace(scenes[i], question=f"Sign {i}?", answers=("a",)) for i in range(len(letters))]
    answering = engine(policy, {s.question: pattern for s, pattern in zip(samples, letters, strict=True)})
    return choose(policy, answering, samples, kind, rule(*rules), 6, 0), answering


class Votes(ByLevel):
    """Votes of a level that are spelt differently: `says[question]` holds the texts of each level's votes."""

    def generate(self, requests, sampling):
        votes = {level: iter(texts) for level, texts in enumerate(next(iter(self.says.values())))}
        for request in requests:
            text = next(votes[WIDTHS_PX.index(request.images[0].width)])
            ids = tuple(self.policy.tokenizer.encode(f"{text}</answer><|im_end|>", add_special_tokens=False))
            yield request, Completion(ids, (-0.5,) * len(ids), stopped=True)


def test_votes_are_counted_by_meaning_where_a_question_enters_and_where_it_diverges(qwen3_vl):
    """Native is right in three spellings; two equal wrong votes are no majority. Level 1 keeps three of five, level 2 two."""
    says = [["A", "a", "A.", "b", "b"], ["a", "A", "a.", "c", "d"], ["a", "A", "b", "c", "d"]]
    scene = replace(Scenes(DIFFICULTY[1], "eval", 1)[0], answers=("a",))
    voted = rule("decoding=vote", "votes=5")
    (found,) = choose(qwen3_vl, Votes(qwen3_vl, {"": says}), [scene], Search.LADDER, voted, 6, 0)
    assert (found.outcome, found.view_tokens) == (2, 64)


def test_a_reading_of_ones_own_says_which_answers_are_the_same(qwen3_vl):
    """As a judge would: here `b` means what `a` means, so the question leaves native at `c` only. Native answers are read first."""
    scene = replace(Scenes(DIFFICULTY[1], "eval", 1)[0], answers=("a",))
    read_in_order = []

    def reading(said):
        read_in_order.extend(answer for _, answers in said for answer in answers)
        return [[ReadAnswer("c" if answer == "c" else "a or b", answer != "c") for answer in answers] for _, answers in said]

    engine = ByLevel(qwen3_vl, {"": "babca"})
    (found,) = choose(qwen3_vl, engine, [scene], Search.LADDER, rule(), 6, 0, reading)
    assert found.outcome == 3 and read_in_order == ["b", "a", "b", "c"]


class Unreadable:
    """An image that opens and fails `after` so many views, or at once."""

    def __init__(self, image, after: int) -> None:
        self.image, self.left = image, after

    def open(self):
        if not self.left:
            raise ValueError("image gone.png does not exist")
        self.original = self.image.open()
        self.size = self.original.size
        return self

    def reduced(self, size):
        self.left -= 1
        if not self.left:
            raise ValueError("image cut.png cannot be decoded")
        return self.original.reduced(size)


def test_an_unreadable_image_costs_one_question_which_is_named(qwen3_vl):
    """The second is gone; the third opens, and can't be decoded at its second view."""
    scenes = Scenes(DIFFICULTY[1], "eval", 3)
    samples = [replace(scenes[i], question=f"Sign {i}?", answers=("a",)) for i in range(3)]
    samples[1] = replace(samples[1], image=Unreadable(samples[1].image, 0))
    samples[2] = replace(samples[2], image=Unreadable(samples[2].image, 2))
    engine = ByLevel(qwen3_vl, {s.question: "aabbb" for s in samples})
    choices = choose(qwen3_vl, engine, samples, Search.LADDER, rule(), 6, 0)
    assert [c.outcome for c in choices] == [2, UNREADABLE, UNREADABLE]
    assert [c.view_tokens for c in choices] == [64, None, None]
    assert [c.broken for c in choices] == [None, "image gone.png does not exist", "image cut.png cannot be decoded"]
    assert engine.asked == [[0, 0], [1], [2]]
    assert selection_record.summary([(c, None) for c in choices], Search.LADDER)["broken"] == {c.sample: c.broken for c in choices[1:]}


def test_coarse_levels_are_asked_only_for_questions_that_are_still_open(qwen3_vl):
    """The first leaves native at level 1, the second at level 2, the third never; the fourth is wrong at native."""
    choices, engine = asking(qwen3_vl, Search.LADDER, "abbbb", "aabbb", "aaaaa", "baaaa")
    assert [c.view_tokens for c in choices] == [128, 64, None, None]
    assert [c.label for c in choices] == ["128", "64", "never diverges", "wrong at native"]
    assert engine.asked == [[0, 0, 0, 0], [1, 1, 1], [2, 2], [3], [4]]


def test_each_round_of_a_bisection_asks_every_open_question_its_own_next_level(qwen3_vl):
    choices, engine = asking(qwen3_vl, Search.BISECTION, "abbbb", "aaabb", "aaaaa", "baaaa")
    assert [c.outcome for c in choices] == [1, 3, DROPPED_NEVER, DROPPED_NATIVE]
    assert engine.asked == [[0, 0, 0, 0], [2, 2, 2], [1, 3, 3], [4]]


def test_questions_that_never_diverge_get_the_coarsest_view_if_that_is_asked_for(qwen3_vl):
    choices, _ = asking(qwen3_vl, Search.LADDER, "aaaaa", rules=["never_diverges=floor"])
    assert (choices[0].outcome, choices[0].view_tokens) == (DROPPED_NEVER, 16)


# Beside its view a prompt here has TEXT tokens; what follows it has 4: <answer>, the letter, </answer> and <|im_end|>
TEXT = 37


def test_forward_tokens_are_those_of_every_prompt_that_was_asked_and_of_its_answer(qwen3_vl):
    (first, wrong), _ = asking(qwen3_vl, Search.LADDER, "aabbb", "baaaa")
    assert first.asked == {0: Tokens(256, TEXT + 4), 1: Tokens(121, TEXT + 4), 2: Tokens(64, TEXT + 4)}
    assert wrong.asked == {0: Tokens(256, TEXT + 4)}
    assert first.exhaustive == wrong.exhaustive == Tokens(256 + 121 + 64 + 25 + 16, 5 * (TEXT + 4))


def test_votes_share_one_prompt(qwen3_vl):
    (voted,), engine = asking(qwen3_vl, Search.LADDER, "abbbb", rules=["decoding=vote", "votes=8"])
    assert engine.asked == [[0] * 8, [1] * 8]
    assert voted.asked == {0: Tokens(256, TEXT + 8 * 4), 1: Tokens(121, TEXT + 8 * 4)}


PATTERNS = ["abbbb", "aabbb", "aaabb", "aaaab", "aaaaa", "baaaa", "bbbbb", "ababa", "aabaa", "abaaa"]


def test_the_ladder_chooses_as_the_exhaustive_one_for_exactly_the_least_that_an_exact_search_can_spend(qwen3_vl):
    walked, every = (asking(qwen3_vl, kind, *PATTERNS)[0] for kind in EXACT)
    assert [c.outcome for c in walked] == [c.outcome for c in every]
    assert [c.view_tokens for c in walked] == [c.view_tokens for c in every]
    assert [total_tokens(c.asked.values()) for c in walked] == [least(c) for c in every]
    assert [c.exhaustive for c in walked] == [total_tokens(c.asked.values()) for c in every]  # all answers are equally long here


class Closed(ByLevel):
    """The policy's own first two tokens, closed as an answer: a random policy hardly ever closes one itself."""

    def __init__(self, policy, says: dict[str, str]) -> None:
        super().__init__(policy, says)
        self.engine = KVEngine(policy)

    def generate(self, requests, sampling):
        close = tuple(self.policy.tokenizer.encode("</answer><|im_end|>", add_special_tokens=False))
        for request, own in self.engine.generate(requests, Sampling(sampling.temperature, 2)):
            yield request, Completion(own.ids + close, own.logprobs + (-0.5,) * len(close), stopped=True)

    def clear_cache(self) -> None:
        self.engine.clear_cache()


@pytest.mark.parametrize("decoding", ["greedy", "vote"])
def test_a_real_policy_gets_the_same_choices_from_the_ladder_and_the_exhaustive_one(qwen3_vl, decoding):
    rules = ["require_correct_at_native=false", f"decoding={decoding}", "votes=4", "vote_temperature=0.1"]
    walked, every = (asking(qwen3_vl, kind, *["-"] * 12, rules=rules, engine=Closed)[0] for kind in EXACT)
    assert [(c.outcome, c.view_tokens) for c in walked] == [(c.outcome, c.view_tokens) for c in every]
    assert len({c.outcome for c in every}) > 1
    assert [total_tokens(c.asked.values()) for c in walked] == [least(c) for c in every]


# ---------------------------------------------------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def random_policy(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("random") / "policy"
    random_qwen3_vl(seed=7).save(folder)
    return folder


def composed_for(output: Path, policy: Path, *overrides: str) -> DictConfig:
    small = ("data.scenes=6", "questions_per_forward=2", "tokens_per_turn=6", "threads=1", "calibration.require_correct_at_native=false")
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose("calibrate", [*small, f"output={output}", f"policy.checkpoint={policy}", *overrides])


def run(output: Path, policy: Path, *overrides: str) -> dict:
    """Calibrate six scenes, two side by side, right or not; returns what is kept beside the table."""
    calibrate.run(composed_for(output, policy, *overrides))
    return json.loads((output / "levels.json").read_text())


@pytest.fixture
def answers(monkeypatch):
    """Let every question of a run be answered by one pattern of letters."""

    def answered(letters: str) -> None:
        monkeypatch.setattr(calibrate, "KVEngine", lambda policy: ByLevel(policy, {"": letters}))

    return answered


def test_a_run_says_and_keeps_what_it_spent_and_what_all_levels_would_have(tmp_path, random_policy, answers, capsys):
    answers("aabbb")
    record = run(tmp_path / "ladder", random_policy)
    assert record["identity"] == levels_identity(tmp_path / "ladder/levels.parquet")
    assert record["spent"]["visual"] == 6 * (256 + 121 + 64) and record["exhaustive"]["visual"] == 6 * 482
    assert record["exhaustive"]["text"] * 3 == record["spent"]["text"] * 5  # three levels of five, the same words each time
    assert record["ratio"] == sum(record["spent"].values()) / sum(record["exhaustive"].values())
    assert record["outcomes"] == {"2": 6} and "audit" not in record
    said = capsys.readouterr().out
    assert f"forward tokens, ladder: {sum(record['spent'].values()):,}" in said and f"ratio {record['ratio']:.3f}" in said


def test_every_search_writes_the_same_table_where_answers_leave_native_for_good(tmp_path, random_policy, answers):
    answers("aaabb")
    ratios = {kind: run(tmp_path / kind, random_policy, f"calibration.search={kind}")["ratio"] for kind in Search}
    tables = [read_levels(tmp_path / kind / "levels.parquet") for kind in Search]
    assert tables[0] == tables[1] == tables[2] and set(tables[0].values()) == {32}
    assert ratios["exhaustive"] == 1 > ratios["ladder"] > ratios["bisection"]


def test_the_log_of_a_calibration_killed_right_after_its_table_is_removed_by_the_next_start(tmp_path, random_policy, answers):
    answers("aabbb")
    log = tmp_path / f"levels-{run(tmp_path, random_policy)['identity']}.jsonl"
    log.touch()
    run(tmp_path, random_policy)
    assert not log.exists()


def test_an_audit_counts_names_and_keeps_the_mismatches_of_a_bisection(tmp_path, random_policy, answers, capsys):
    answers("ababb")  # E2 says level 1; bisection finds 3
    record = run(tmp_path / "run", random_policy, "calibration.search=bisection", "calibration.audit=4")
    audit = record["audit"]
    assert (audit["questions"], audit["groups"], audit["mismatches"]) == (4, 4, 4)
    assert audit["share"] == pytest.approx([1.0, 4 / (4 + 3.8415), 1.0], abs=1e-4)  # Wilson's interval of 4 of 4
    assert [(each["bisection"], each["exact"]) for each in audit["differ"]] == [(3, 1)] * 4
    assert record["spent"]["visual"] == 6 * (256 + 64 + 25)  # the audit's own cost stands apart
    assert audit["spent"]["visual"] == 4 * (256 + 121)
    assert set(read_levels(tmp_path / "run/levels.parquet").values()) == {32}  # the table is the bisection's
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "audit: 4 of 4 questions have another level with the exact walk" in said
        and f"{audit['differ'][0]['sample']}: bisection 3, exact 1" in said
    )


def test_an_audit_without_mismatches_says_how_many_there_may_be(tmp_path, random_policy, answers, capsys):
    answers("abbbb")
    audit = run(tmp_path / "run", random_policy, "calibration.search=bisection", "calibration.audit=100")["audit"]
    assert (audit["questions"], audit["mismatches"], audit["differ"]) == (6, 0, [])
    said = " ".join(capsys.readouterr().out.split())
    assert "0 of 6 questions have another level with the exact walk: 0.0 % [0.0, 39.0]" in said  # Wilson's: 3.84 / (6 + 3.84)


def test_a_bisection_that_nobody_audited_says_so(tmp_path, random_policy, answers, capsys):
    answers("abbbb")
    record = run(tmp_path / "run", random_policy, "calibration.search=bisection", "calibration.audit=0")
    assert record["audit"] == "not audited" and "was not audited" in capsys.readouterr().out


def test_an_interrupted_bisection_goes_on_with_its_audit(tmp_path, random_policy, answers, monkeypatch):
    answers("ababb")
    overrides = ("calibration.search=bisection", "calibration.audit=3", "seed=1")
    straight = run(tmp_path / "straight", random_policy, *overrides)
    choosing, asked = calibrate.choose, []

    def interrupted(policy, engine, samples, kind, *rest):
        if len(asked) == 3:
            raise KeyboardInterrupt
        asked.append(kind)
        return choosing(policy, engine, samples, kind, *rest)

    monkeypatch.setattr(calibrate, "choose", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", random_policy, *overrides)
    assert not (tmp_path / "stopped/levels.parquet").exists()
    monkeypatch.setattr(calibrate, "choose", choosing)
    assert run(tmp_path / "stopped", random_policy, *overrides) == straight
    assert not list((tmp_path / "stopped").glob("*.jsonl"))


def test_what_an_interrupted_calibration_kept_is_read_back_as_it_was(qwen3_vl, tmp_path):
    first, second = asking(qwen3_vl, Search.BISECTION, "aabbb", "baaaa")[0]
    (exact,), _ = asking(qwen3_vl, Search.LADDER, "aabbb")
    (tmp_path / "kept.jsonl").write_text(selection_record.to_json_line((first, exact)) + selection_record.to_json_line((second, None)))
    assert selection_record.read_choices(tmp_path / "kept.jsonl") == {first.sample: (first, exact), second.sample: (second, None)}


def test_a_line_that_a_full_disk_has_cut_is_asked_again(tmp_path, random_policy, answers, monkeypatch):
    answers("aabbb")
    straight = run(tmp_path / "straight", random_policy)
    choosing = calibrate.choose

    def full(policy, engine, samples, *rest):
        if samples[0].id.endswith("4"):
            raise OSError(28, "No space left on device")
        return choosing(policy, engine, samples, *rest)

    monkeypatch.setattr(calibrate, "choose", full)
    with pytest.raises(OSError) as met:
        run(tmp_path / "cut", random_policy)
    assert "No space left on device). When that is mended, run the same command again" in outside_cause(met.value)
    [kept] = (tmp_path / "cut").glob("*.jsonl")
    assert kept.read_bytes().count(b"\n") == 4
    kept.write_bytes(kept.read_bytes()[:-40])
    monkeypatch.setattr(calibrate, "choose", choosing)
    assert run(tmp_path / "cut", random_policy) == straight
    assert read_levels(tmp_path / "cut/levels.parquet") == read_levels(tmp_path / "straight/levels.parquet")


def test_a_second_calibration_in_one_folder_is_refused(tmp_path, random_policy, answers, monkeypatch):
    answers("aabbb")
    monkeypatch.setattr(files.fcntl, "lockf", lambda *_: (_ for _ in ()).throw(BlockingIOError()))
    with pytest.raises(ValueError, match=f"another job is working in {tmp_path / 'busy'}"):
        run(tmp_path / "busy", random_policy)
    assert not list((tmp_path / "busy").glob("levels*"))


def test_a_run_names_what_it_could_not_read(tmp_path, random_policy, answers, monkeypatch, capsys):
    answers("aabbb")
    reading = calibrate.training_samples

    def one_gone(cfg):
        samples = list(reading(cfg))
        return [replace(samples[0], image=Unreadable(samples[0].image, 0)), *samples[1:]]

    monkeypatch.setattr(calibrate, "training_samples", one_gone)
    record = run(tmp_path / "run", random_policy)
    [(name, why)] = record["broken"].items()
    assert record["outcomes"] == {"2": 5, UNREADABLE: 1} and name not in read_levels(tmp_path / "run/levels.parquet")
    said = " ".join(capsys.readouterr().out.split())
    assert f"dropped: {UNREADABLE} 1 questions {name}: {why}" in said and why == "image gone.png does not exist"


def test_the_seed_draws_which_questions_are_audited(tmp_path, random_policy, answers):
    answers("ababb")
    overrides = ("calibration.search=bisection", "calibration.audit=2")
    drawn = [run(tmp_path / f"{seed}", random_policy, *overrides, f"seed={seed}")["audit"]["differ"] for seed in (0, 1, 2)]
    assert all(len(each) == 2 for each in drawn)
    assert len({tuple(row["sample"] for row in each) for each in drawn}) > 1


def test_another_search_is_another_calibration(tmp_path, random_policy, answers):
    answers("ababb")
    identities = [run(tmp_path / "run", random_policy, *more)["identity"] for more in ((), ("calibration.search=bisection",))]
    assert identities[0] != identities[1]
    cfg = composed_for(tmp_path, random_policy)
    samples, policy = training_samples(cfg.data), load_policy(cfg.policy)
    asked = validated(cfg, CalibrateConfig)
    other = asked.model_copy(update={"policy": asked.policy.model_copy(update={"dialect": "qwen3_vl_zoom"})})  # another prompt
    assert calibrate.identity(other, policy, samples) != calibrate.identity(asked, policy, samples)
    assert set(read_levels(tmp_path / "run/levels.parquet").values()) == {32}


def test_the_agreement_with_the_critical_views_is_counted_in_levels():
    """The policy answers in 64 tokens where the reader no longer does (coarser), in the same view, and not even in a sharper one."""

    def asked(name: str, tokens: int | None):
        return sample(name, meta={} if tokens is None else {"critical_view": {"tokens": tokens, "token_px": 28}})

    samples = [asked("same", 64), asked("coarser", 64), asked("sharper", 16), asked("dropped", 64), asked("none", None)]
    levels = {f"synthetic/train/{name}": tokens for name, tokens in {"same": 64, "coarser": 32, "sharper": 128, "none": 64}.items()}
    assert calibrate.agreement(levels, samples, 28) == {"critical": 4, "both": 3, "same": 1, "near": 2, "coarser": 1}
    assert calibrate.agreement(levels, [asked("none", None)], 28) is None
