"""What keeps a run from collapsing or from breaking: truncated rollouts, a forced first crop, crops of one size, questions that can't
be graded, crashed points of a sweep, letters of another size."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from focus import build
from focus.build import gradable_samples
from focus.config import problems_of
from focus.config.schema import TrainConfig
from focus.config.validate import plain
from focus.data.boxes import settle
from focus.data.images.original import Decoded
from focus.data.scenes import DIFFICULTY, Scene, Scenes, scene_spec
from focus.gap import View
from focus.model.prompts import CALL_OPEN, encode
from focus.report.run import RunFacts, has_row, write_row
from focus.rewards import Accuracy, Grounding
from focus.rollout.engine import Sampling
from focus.rollout.loop import RolloutLimits
from focus.rollout.trajectory import Status, Trajectory
from focus.runs import train
from tests.support.policies import random_qwen3_vl
from tests.support.ranks import forked
from tests.support.runs import SMALL, settings
from tests.support.trajectories import ANNOTATED, B1, says, trajectory, zooms
from tests.support.updates import module_of, questions, trainer, weights

# ------------------------------------------------------------------------------------------- rollouts that ran out of room

ADVANTAGE = [1.0, -0.5, 2.0, -2.0, 0.3, 0.7, -1.2, 0.4]


def stepped(statuses: dict[int, Status], advantage: list[float] = ADVANTAGE):
    """One optimiser step on eight rollouts, their endings and advantages set by hand.

    Returns the weights, what the update logged, and the sampled tokens of every rollout that it was given."""
    module = module_of(random_qwen3_vl(seed=1))
    made, update = {}, module.update

    def by_hand(rolled, _):
        given = [replace(t, status=statuses.get(i, Status.ANSWERED)) for i, t in enumerate(rolled)]
        made.update(logged=update(given, torch.tensor(advantage)[:, None].expand(-1, 2)), tokens=[sum(t.sampled_mask) for t in given])
        return made["logged"]

    module.update = by_hand
    module._log_update = lambda *_, **__: None
    trainer().fit(module, questions(1, per_update=2))
    return weights(module), made["logged"], made["tokens"]


def test_a_truncated_rollout_stays_in_the_loss_the_gradient_and_the_denominator():
    cut, logged, tokens = stepped({1: Status.OUT_OF_TURNS, 6: Status.OUT_OF_TOKENS})
    whole, of_whole, _ = stepped({})
    assert logged["tokens/trained"] == sum(tokens)
    # on-policy every ratio is 1, so the loss is the mean advantage of the tokens
    assert logged["objective/loss"] == pytest.approx(-sum(a * n for a, n in zip(ADVANTAGE, tokens, strict=True)) / sum(tokens), rel=1e-5)
    assert logged["objective/grad_norm"] == of_whole["objective/grad_norm"]
    assert all(torch.equal(cut[name], whole[name]) for name in cut)


def test_an_update_without_an_advantage_is_no_step_and_breaks_nothing():
    module = module_of(random_qwen3_vl(seed=1))
    found, logged, tokens = stepped({}, [0.0] * 8)
    assert logged["objective/loss"] == 0 and logged["objective/grad_norm"] == 0
    assert logged["tokens/trained"] == sum(tokens)
    assert all(math.isfinite(value) for value in logged.values())
    assert all(torch.equal(before, found[name]) for name, before in weights(module).items())


# ------------------------------------------------------------------------------------------------------ a forced first crop


def rolled(force: bool) -> tuple[list[Trajectory], list[int]]:
    module = module_of(random_qwen3_vl(seed=1))
    module.limits = replace(module.limits, force_first_crop=force)
    module.trainer = trainer()
    [found] = module.roll_out(next(iter(questions(per_update=2).train_dataloader())))
    assert len(found) == 8
    return found, encode(module.policy.tokenizer, CALL_OPEN)


def test_with_a_forced_crop_every_first_turn_opens_with_a_call_that_carries_no_loss():
    found, opening = rolled(force=True)
    for t in found:
        start, spoken = len(t.prompt_ids), len(t.turns[0].ids)
        assert t.turns[0].text.startswith(CALL_OPEN)
        assert t.ids[start : start + len(opening) + spoken] == [*opening, *t.turns[0].ids]
        assert t.sampled_mask[: start + len(opening) + spoken] == [False] * (start + len(opening)) + [True] * spoken
        assert sum(t.sampled_mask) == sum(len(turn.ids) for turn in t.turns) == len(t.sampler_logprobs)


def test_without_it_every_token_after_the_prompt_is_the_policys_own():
    found, _ = rolled(force=False)
    for t in found:
        start, spoken = len(t.prompt_ids), len(t.turns[0].ids)
        assert t.prefill == "" and not t.turns[0].text.startswith(CALL_OPEN)
        assert t.ids[start : start + spoken] == list(t.turns[0].ids)
        assert t.sampled_mask[: start + spoken] == [False] * start + [True] * spoken


def test_an_update_on_forced_rollouts_has_a_gradient_for_their_sampled_tokens_alone():
    module = module_of(random_qwen3_vl(seed=1))
    module.limits = replace(module.limits, force_first_crop=True)
    seen = {}
    module._log_update = lambda found, _scores, _reward, update, **_: seen.update(update, sampled=[t.turns for t in found])
    trainer().fit(module, questions(1, per_update=2))
    assert seen["tokens/sampled"] == sum(len(turn.ids) for turns in seen["sampled"] for turn in turns)
    assert seen["objective/mismatch_max"] < 2e-5  # the trainer weighs them after the same opening as the sampler


# ------------------------------------------------------------------------------------------------------- crops of one size

SIZE, TOKEN_PX, BUDGET = (1200, 900), 28, 64
BLANK = Decoded(Image.new("RGB", SIZE))
SIGN = replace(trajectory().sample, width=SIZE[0], height=SIZE[1])
ASKING = replace(trajectory(sample=SIGN), source=BLANK)


def tokens_of(*box_px: float, fixed: bool, budget: int = BUDGET) -> int:
    settled = settle(box_px, SIZE, TOKEN_PX)
    view: View = RolloutLimits(1, budget, Sampling(1.0, 1), fixed_crops=fixed).cut(ASKING, settled, TOKEN_PX)
    assert view.tokens * TOKEN_PX**2 == view.size[0] * view.size[1]
    return view.tokens


def test_with_fixed_crops_a_small_and_a_large_box_cost_the_same():
    """56 x 56 px are 2 x 2 tokens, 112 x 112 are 4 x 4; both become 8 x 8."""
    assert [tokens_of(10, 10, 10 + side, 10 + side, fixed=True) for side in (28, 56, 112, 224, 800)] == [64] * 5


def test_without_them_tokens_grow_with_the_area_up_to_the_budget():
    assert [tokens_of(10, 10, 10 + side, 10 + side, fixed=False) for side in (28, 56, 112, 224, 800)] == [1, 4, 16, 64, 64]


def test_rules_have_no_fixed_crops_and_no_forced_one_unless_they_are_asked_for():
    limits = RolloutLimits(1, BUDGET, Sampling(1.0, 1))
    assert not limits.fixed_crops and not limits.force_first_crop


@st.composite
def boxes(draw, most_aspect: float = 1e9):
    width = draw(st.integers(1, SIZE[0]))
    low, high = max(1, math.ceil(width / most_aspect)), min(SIZE[1], math.floor(width * most_aspect))
    height = draw(st.integers(low, high))
    x, y = draw(st.integers(0, SIZE[0] - width)), draw(st.integers(0, SIZE[1] - height))
    return (float(x), float(y), float(x + width), float(y + height))


@effort(max_examples=60)
@given(box=boxes(), budget=st.sampled_from([1, 4, 16, 64, 100]))
def test_no_crop_ever_costs_more_than_the_budget(box, budget):
    assert 1 <= tokens_of(*box, fixed=True, budget=budget) <= budget
    assert 1 <= tokens_of(*box, fixed=False, budget=budget) <= budget


@effort(max_examples=60)
@given(box=boxes(most_aspect=3), budget=st.sampled_from([16, 64, 100]))
def test_a_fixed_crop_of_moderate_shape_costs_at_least_half_of_the_budget(box, budget):
    assert tokens_of(*box, fixed=True, budget=budget) >= budget / 2


def test_a_fixed_crop_shows_the_pixels_of_its_box_enlarged():
    image = Image.new("RGB", SIZE, "black")
    image.paste((200, 30, 30), (100, 100, 128, 156))
    t = replace(ASKING, source=Decoded(image))
    view = RolloutLimits(1, 32, Sampling(1.0, 1), fixed_crops=True).cut(t, (100.0, 100.0, 128.0, 156.0), TOKEN_PX)
    assert view.size == (4 * 28, 8 * 28)  # 1 x 2 tokens, four times as long on each side
    assert view.image.getcolors() == [(112 * 224, (200, 30, 30))]


# -------------------------------------------------------------------------------------------------- settings reach the limits


def test_the_settings_of_a_run_reach_the_rules_and_the_update(tmp_path):
    changed = ("rollout.fixed_crops=true", "rollout.force_first_crop=true", "objective.clip=0.3")
    cfg = TrainConfig.model_validate(plain(settings(tmp_path, tmp_path, *changed)))
    assert build.rollout_limits(cfg, 1.0).fixed_crops and build.rollout_limits(cfg, 1.0).force_first_crop
    assert build.build_policy(cfg, random_qwen3_vl(seed=1)).settings.clip == 0.3
    untouched = settings(tmp_path, tmp_path)
    assert not build.rollout_limits(untouched, 1.0).fixed_crops and not build.rollout_limits(untouched, 1.0).force_first_crop


# -------------------------------------------------------------------------------------------- questions without annotation

BARE = [replace(ANNOTATED, id=f"bare/{i}", boxes=()) for i in range(3)]
BOXED = [replace(ANNOTATED, id=f"boxed/{i}") for i in range(2)]


def test_a_reward_that_needs_boxes_and_questions_that_have_none_are_refused_with_term_id_and_remedy():
    with pytest.raises(ValueError) as refused:
        gradable_samples(BARE, [Accuracy(1.0), Grounding(0.5)])
    said = str(refused.value)
    assert "reward term grounding" in said and "none of the 3 training questions" in said and "first: bare/0" in said
    assert "annotate them, use data=scenes, or set reward.terms.grounding.weight=0" in said


def test_the_term_is_called_as_the_settings_call_it():
    tight = Grounding(0.5)
    tight.name = "tight"
    with pytest.raises(ValueError, match=r"reward term tight .* reward\.terms\.tight\.weight=0"):
        gradable_samples(BARE, [tight])


def test_some_questions_without_boxes_are_left_out_and_counted(capsys):
    kept = gradable_samples([BOXED[0], BARE[1], BARE[0], BOXED[1]], [Grounding(1.0)])
    assert [sample.id for sample in kept] == ["boxed/0", "boxed/1"]
    assert capsys.readouterr().out == "2 of 4 training questions have no boxes and are left out (first: bare/1)\n"


@pytest.mark.parametrize("rewards", [[Accuracy(1.0)], [Accuracy(1.0), Grounding(0.0)], []], ids=["no such term", "weight 0", "no term"])
@pytest.mark.parametrize("samples", [BARE, [*BOXED, *BARE]], ids=["all bare", "some bare"])
def test_no_question_is_left_out_for_a_reward_that_does_not_pay_for_boxes(samples, rewards, capsys):
    assert gradable_samples(samples, rewards) is samples
    assert capsys.readouterr().out == ""


def test_annotated_questions_and_scenes_are_kept_as_they_are(capsys):

    class Unseen(Scenes):
        def __getitem__(self, index):
            raise AssertionError("a scene was laid out to see whether it has boxes")

    scenes = Unseen(DIFFICULTY[1], "train", 10**9)
    assert gradable_samples(BOXED, [Grounding(1.0)]) is BOXED
    assert gradable_samples(scenes, [Grounding(1.0)]) is scenes
    assert capsys.readouterr().out == ""


def test_a_bare_question_is_not_graded_and_so_had_to_be_left_out():
    assert math.isnan(Grounding(1.0).score([trajectory(zooms(B1), says("42"), sample=BARE[0])])[0])


# ------------------------------------------------------------------------------------------------ crashed points of a sweep


def rows(results: Path) -> list[dict[str, str]]:
    with results.open() as file:
        return list(csv.DictReader(file))


def crash(error: BaseException):
    def fit(*_):
        raise error

    return fit


def test_a_crashed_point_leaves_a_row_and_is_run_again_and_a_finished_one_is_not(tmp_path, random_policy, monkeypatch, capsys):
    results = tmp_path / "results.csv"

    def point(name: str):
        return settings(tmp_path / name, random_policy, f"results={results}", "evaluation.samples=0")

    monkeypatch.setattr(train, "fit", crash(RuntimeError("out of memory, said the card")))
    with pytest.raises(RuntimeError, match="out of memory"):
        train.run(point("a"))
    [row] = rows(results)
    assert row["status"] == "crashed: RuntimeError: out of memory, said the card" and row["run"] == "a"
    assert {value for key, value in row.items() if key.startswith(("own ", "common "))} == {""}

    started = []

    def trained(cfg, *_):
        started.append(1)
        lines = [json.dumps({"update": update}) for update in range(1, cfg.objective.updates + 1)]
        (tmp_path / "a/history.jsonl").write_text("\n".join(lines))

    monkeypatch.setattr(train, "fit", trained)
    train.run(point("a"))
    assert started == [1]
    assert [row["status"].split(":")[0] for row in rows(results)] == ["crashed", "finished"]
    assert rows(results)[0]["settings"] == rows(results)[1]["settings"]

    monkeypatch.setattr(train, "fit", crash(AssertionError("a finished point was trained again")))
    train.run(point("b"))
    assert "this point is in" in capsys.readouterr().out
    assert len(rows(results)) == 2


def test_a_point_that_an_alarm_of_an_earlier_version_ended_stands_in_the_results(tmp_path):
    results, run = tmp_path / "results.csv", facts_of(tmp_path / "a", tmp_path)
    write_row(results, run, "base", {}, status="stopped by an alarm after 1 updates")
    assert has_row(results, run.point, "base")


@pytest.mark.parametrize("content", [b"seed,accuracy\n0,0.5\n", b"\x89PNG\xff\xfe", b"a\0b\n"])
def test_a_results_file_of_another_version_or_kind_is_refused_before_anything_starts(content, tmp_path, random_policy, monkeypatch):
    monkeypatch.setattr(build, "load_policy", crash(AssertionError("the policy was loaded first")))
    (tmp_path / "results.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"has other columns than this version writes; name another with results=FILE"):
        train.run(settings(tmp_path / "a", random_policy, f"results={tmp_path / 'results.csv'}"))
    assert (tmp_path / "results.csv").read_bytes() == content


def test_a_run_in_a_folder_that_started_from_another_policy_is_refused(tmp_path, random_policy):
    train.run(settings(tmp_path / "a", random_policy, "evaluation.samples=0"))
    random_qwen3_vl(seed=8).save(random_policy)
    try:
        with pytest.raises(ValueError, match=r"holds a run that started from another policy than .* is now; give this one another name"):
            train.run(settings(tmp_path / "a", random_policy, "evaluation.samples=0"))
    finally:
        random_qwen3_vl(seed=7).save(random_policy)


def facts_of(output: Path, policy: Path, *overrides: str) -> RunFacts:
    """What a results file says about the run with these settings."""
    return build.run_facts(TrainConfig.model_validate(plain(settings(output, policy, *overrides))))


def test_a_point_stands_in_the_results_only_if_it_finished_from_the_same_base(tmp_path):
    results, run = tmp_path / "results.csv", facts_of(tmp_path / "a", tmp_path)
    point = run.point
    assert not has_row(results, point, "base")
    write_row(results, run, "base", {}, status="crashed: RuntimeError: boom")
    assert not has_row(results, point, "base")
    write_row(results, run, "base", {})
    assert has_row(results, point, "base")
    assert not has_row(results, point, "another base")
    assert not has_row(results, facts_of(tmp_path / "a", tmp_path, "seed=1").point, "base")


@pytest.mark.parametrize("cut", [1, 2, 40, 140])
def test_a_row_that_a_kill_cut_is_no_finished_point_and_leaves_with_the_next_one(cut, tmp_path):
    """Also where the whole row is there but its end of line (`\\r\\n`): nobody can tell whether its last number is whole."""
    results, run = tmp_path / "results.csv", facts_of(tmp_path / "a", tmp_path)
    point = run.point
    write_row(results, run, "first", {})
    write_row(results, run, "base", {})
    results.write_bytes(results.read_bytes()[:-cut])
    assert not has_row(results, point, "base") and has_row(results, point, "first")
    write_row(results, run, "again", {})
    assert [(row["base"], row["status"]) for row in rows(results)] == [("first", "finished"), ("again", "finished")]


def test_a_message_of_several_lines_becomes_one_row_of_one_line(tmp_path, random_policy, monkeypatch):
    results = tmp_path / "results.csv"
    monkeypatch.setattr(train, "fit", crash(ValueError('two lines:\n  - "this", and that')))
    for seed in (0, 1):
        with pytest.raises(ValueError, match="two lines"):
            train.run(settings(tmp_path / f"seed{seed}", random_policy, f"results={results}", "evaluation.samples=0", f"seed={seed}"))
    found = rows(results)
    assert [row["status"] for row in found] == ['crashed: ValueError: two lines: - "this", and that'] * 2
    assert len(results.read_text().splitlines()) == 3
    assert [row["seed"] for row in found] == ["0", "1"]


def test_a_run_that_a_person_interrupts_has_not_crashed(tmp_path, random_policy, monkeypatch):
    results = tmp_path / "results.csv"
    monkeypatch.setattr(train, "fit", crash(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        train.run(settings(tmp_path / "a", random_policy, f"results={results}", "evaluation.samples=0"))
    assert results.read_text() == ""  # it was tried, and no row was written


def test_a_crash_outside_a_sweep_leaves_no_row(tmp_path, random_policy, monkeypatch):
    monkeypatch.setattr(train, "fit", crash(RuntimeError("boom")))
    with pytest.raises(RuntimeError, match="boom"):
        train.run(settings(tmp_path / "a", random_policy, "evaluation.samples=0"))
    assert not list(tmp_path.rglob("*.csv"))


# ------------------------------------------------------------------------------------------------- letters of another size


def test_letters_override_those_of_the_dial_and_nothing_else():
    assert scene_spec(3, [20, 24], 448) == replace(DIFFICULTY[3], letter_px=(20, 24), side_px=448)
    assert scene_spec(3, None, 900) == replace(DIFFICULTY[3], side_px=900)
    assert scene_spec(5, None, 448).letter_px == (9, 14)


def test_a_scene_is_drawn_with_the_letters_that_were_asked_for():
    signs = [sign for i in range(5) for sign in Scene(scene_spec(1, [20, 22], 448), "train", i).signs]
    assert all(20 <= sign.letter_px <= 22 for sign in signs)


@pytest.fixture(scope="module")
def composed():
    return settings(Path("run"), Path("policy"))


def changed(composed: DictConfig, **letters: list[int] | None) -> DictConfig:
    """These settings with other letters, by section."""
    return OmegaConf.merge(composed, {section: {"letter_px": value} for section, value in letters.items()})


def test_held_out_scenes_have_the_letters_of_the_training_unless_they_have_their_own(composed):
    def letters(**sections: list[int]):
        cfg = changed(composed, **sections)
        return build.training_samples(cfg.data).spec.letter_px, build.held_out_samples(cfg).spec.letter_px

    assert letters() == ((10, 16), (10, 16))
    assert letters(data=[20, 24]) == ((20, 24), (20, 24))
    assert letters(data=[20, 24], evaluation=[8, 9]) == ((20, 24), (8, 9))
    assert letters(evaluation=[8, 9]) == ((10, 16), (8, 9))


@pytest.mark.parametrize("section", ["data", "evaluation"])
@pytest.mark.parametrize("letters", [[13, 9], [9], [5, 9], [9, 11, 13]])
def test_letters_that_can_not_be_drawn_are_refused_with_the_key_and_the_remedy(composed, section, letters):
    found = problems_of(changed(composed, **{section: letters}), TrainConfig)
    assert found == [f"{section}.letter_px is {letters}; give [least, most] native pixels, from 6 up, or null"]


@pytest.mark.parametrize("letters", [[6, 6], [9, 13], None])
def test_letters_that_can_be_drawn_pass(composed, letters):
    assert problems_of(changed(composed, data=letters, evaluation=letters), TrainConfig) == []


@pytest.mark.processes
def test_a_point_that_fails_leaves_the_rest_of_a_sweep_to_run(tmp_path, random_policy):
    results = tmp_path / "results.csv"
    sweep = (*SMALL, "evaluation.samples=0", "objective.updates=1", f"results={results}", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    (tmp_path / "empty").mkdir()
    points = f"policy.checkpoint={tmp_path / 'empty'},{random_policy}"
    done = forked("-m", "focus.train", "--multirun", *sweep, points, "hydra.sweep.subdir=${hydra:job.num}").ended()
    assert done.returncode != 0 and "empty, which lacks" in done.stderr
    assert [row["status"].split(":")[0] for row in rows(results)] == ["crashed", "finished"]
