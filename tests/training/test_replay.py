"""A batch that was kept passes through the network as it did in the run."""

import math
from dataclasses import replace

import pytest
import torch

from focus.runs import replay, train
from focus.training.batch import Batch, load, save
from focus.training.logprobs import logprobs_and_entropy
from focus.training.policy import FocusPolicy
from tests.support.reference import Shape, made
from tests.support.runs import settings
from tests.support.scripted import call_of, playing

BLUE = "<answer>blue</answer><|im_end|>"
SHAPES = [((4, 4), 9, [[Shape(5)], [Shape(7, (2, 3)), Shape(4)]]), ((3, 5), 4, [[Shape(1)]])]


def test_kept_rollouts_have_the_log_probabilities_of_the_run_to_the_last_bit(policy, tmp_path):
    rollouts = [*made(policy, SHAPES), *(playing(policy, call_of(policy, box), BLUE) for box in ((0, 0, 20, 30), (-9, -9, -5, -5)))]
    save(Batch(7, 100, [(0.5, -1.0)] * len(rollouts), rollouts), tmp_path / "kept")
    again = load(tmp_path / "kept")
    assert (again.update, again.tokens, again.advantages) == (7, 100, [(0.5, -1.0)] * len(rollouts))
    assert [t.ids for t in again.rollouts] == [t.ids for t in rollouts]
    assert [(t.sample.id, t.group, t.seed, t.status, t.sampler_logprobs) for t in again.rollouts] == [
        (t.sample.id, t.group, t.seed, t.status, t.sampler_logprobs) for t in rollouts
    ]
    with torch.no_grad():
        assert torch.equal(
            torch.cat(logprobs_and_entropy(policy, again.rollouts, 1.0)[0]), torch.cat(logprobs_and_entropy(policy, rollouts, 1.0)[0])
        )


@pytest.mark.parametrize("checkpoints", [True, False])
def test_a_run_that_ends_in_nan_leaves_a_batch_that_a_replay_reproduces(checkpoints, tmp_path, random_policy, monkeypatch, capsys):
    """The second update meets a sampler that says NaN; the replay takes the weights of the first one's checkpoint, or of the base."""
    update = FocusPolicy.update

    def broken(self, trajectories, advantage):
        if self.updates_done == (1 if checkpoints else 0):
            turns = [(t, replace(t.turns[0], sampler_logprobs=(math.nan,) * len(t.turns[0].ids))) for t in trajectories]
            trajectories = [replace(t, turns=(turn, *t.turns[1:])) for t, turn in turns]
            advantage = torch.ones_like(advantage)
        return update(self, trajectories, advantage)

    monkeypatch.setattr(FocusPolicy, "update", broken)
    more = ("evaluation.samples=0", "rollout.sampler_ratio_cap=2.0", "report.checkpoint_every=1")
    with pytest.raises(ValueError, match=r"the loss of update . is not finite .* python -m focus.replay .*not_finite_0"):
        train.run(settings(tmp_path / "run", random_policy, *more))
    capsys.readouterr()
    assert replay.run(tmp_path / "run/not_finite_0")
    said = capsys.readouterr().out
    assert ("weights: " + (str(tmp_path / "run/checkpoints/update-step=1.ckpt") if checkpoints else str(random_policy))) in said
    assert "loss nan" in said and said.endswith("reproduced: not finite again\n")


def test_a_folder_without_a_batch_and_one_without_its_run_are_named(qwen3_vl, tmp_path):
    with pytest.raises(ValueError, match=r"holds no batch.json; give the folder that a run named"):
        replay.run(tmp_path)
    save(Batch(1, 1, [(1.0, 1.0)], [playing(qwen3_vl, BLUE)]), tmp_path / "kept")
    with pytest.raises(ValueError, match=r"settings.yaml does not exist; a replay needs the output folder of the run around kept"):
        replay.run(tmp_path / "kept")


def test_a_batch_file_that_was_cut_is_an_error_in_one_sentence(tmp_path):
    (tmp_path / "batch.json").write_text('{"update":')
    with pytest.raises(ValueError, match=r"can't be read \(JSONDecodeError: .*\); copy the whole folder again"):
        load(tmp_path)
    (tmp_path / "batch.json").write_text("{}")
    with pytest.raises(ValueError, match=r"can't be read \(KeyError: 'rollouts'\); copy the whole folder again"):
        load(tmp_path)


@pytest.mark.parametrize("content", ["[1, ", "", "objective: {}", "5", "[1]"])
def test_settings_that_are_none_are_an_error_in_one_sentence(qwen3_vl, tmp_path, content):
    save(Batch(1, 1, [(1.0, 1.0)], [playing(qwen3_vl, BLUE)]), tmp_path / "kept")
    (tmp_path / "settings.yaml").write_text(content)
    with pytest.raises(ValueError, match=r"settings\.yaml can't be read as settings \(.*\); copy it back$"):
        replay.run(tmp_path / "kept")
