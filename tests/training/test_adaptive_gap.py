"""The gap that follows the policy's success: the rule by hand, what an update sees, and a resumed run."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
from pytorch_lightning.callbacks import ModelCheckpoint

from focus.config import problems_of
from focus.config.schema import TrainConfig
from focus.data.images.original import Decoded
from focus.gap import Gap, Mode, adapted
from focus.training.adaptive_gap import AdaptGap
from focus.training.policy import FocusPolicy
from tests.support.policies import random_qwen3_vl
from tests.support.runs import composed
from tests.support.trajectories import IMAGE, SAMPLE
from tests.support.updates import Rows, module_of, questions, trainer, weights

RULE = {"sharper_below": 0.3, "coarser_from": 0.6, "least": 16, "most": 256}

# Lightning's advice to loops that are not ours, as in focus.train
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{advice}")
    for advice in ("Using ModelCheckpoint with manual", "Checkpoint directory", ".*ended before")
]


@pytest.mark.parametrize(
    ("tokens", "success", "following"),
    [(256, 0.8, 128), (256, 0.6, 128), (128, 0.59, 128), (128, 0.3, 128), (128, 0.29, 256), (256, 0.0, 256), (16, 1.0, 16), (20, 1.0, 16)],
)
def test_success_makes_the_view_a_level_coarser_and_failure_a_level_sharper_within_the_limits(tokens, success, following):
    assert adapted(tokens, success, **RULE) == following


def played(values, window: int = 2) -> list[int]:
    """The budget of every update whose accuracies are these, and the one after."""
    gap = AdaptGap(start_tokens=256, window=window, sharper_below=0.3, coarser_from=0.6)
    module = FocusPolicy.__new__(FocusPolicy)
    super(FocusPolicy, module).__init__()
    module.gap, logged = Gap(Mode.ADAPTIVE, 16, 28), []
    module.log_dict = lambda row: logged.append(row["gap/view_tokens"])
    gap.on_train_start(None, module)
    for value in values:
        gap.on_train_batch_end(SimpleNamespace(logged_metrics={"reward/accuracy": value}), module)
    return [*logged, module.gap.now]


def test_every_window_decides_once_on_its_mean():
    # means of two: 0.6, 0.7, 0.45, 0.2
    assert played([0.4, 0.8, 0.7, 0.7, 0.9, 0.0, 0.2, 0.2]) == [256, 256, 128, 128, 64, 64, 64, 64, 128]


def test_what_was_not_graded_is_left_out_and_a_window_without_a_grade_changes_nothing():
    assert played([math.nan, 0.9, math.nan, math.nan]) == [256, 256, 128, 128, 128]


def test_all_questions_of_an_update_are_seen_at_the_budget_of_now():
    gap, original = replace(Gap(Mode.ADAPTIVE, 16, 28), now=64), Decoded(IMAGE)
    view, source = gap.view_of(SAMPLE, original)
    assert gap.keeps(SAMPLE) and view.tokens == 64 and source is original


class _Scripted(Rows):
    """Gives each update the accuracy of a script, before the gap looks at it."""

    def on_train_batch_end(self, trainer, module, *_):
        module.log_dict({"reward/accuracy": (0.9, 0.9, 0.1, 0.9)[module.updates_done - 1]})


def fit(path, checkpoint=None):
    module, rows = module_of(random_qwen3_vl(seed=1)), Rows()
    module.gap = Gap(Mode.ADAPTIVE, 4, module.policy.token_px, now=64)
    gap = AdaptGap(start_tokens=64, window=1, sharper_below=0.3, coarser_from=0.6)
    kept = ModelCheckpoint(path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    run = trainer(callbacks=[_Scripted(), gap, rows, kept], enable_checkpointing=True, default_root_dir=path)
    run.fit(module, questions(4, per_update=1), ckpt_path=checkpoint)
    return [row["gap/view_tokens"] for row in rows.rows], module.gap, weights(module)


def test_a_resumed_run_goes_on_with_the_level_of_the_uninterrupted_one_and_ends_with_its_weights(tmp_path):
    levels, gap, learned = fit(tmp_path)
    assert levels == [64, 32, 16, 32] and gap.now == 16
    again, resumed, weights_again = fit(tmp_path, str(tmp_path / "step=2.ckpt"))
    assert again == [16, 32] and resumed == gap
    assert all((learned[name] == value).all() for name, value in weights_again.items())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["gap.mode=adaptive"], "gap.mode is adaptive but gap.adaptive is null; choose the whole group: gap=adaptive"),
        (["gap=adaptive", "gap.adaptive.sharper_below=0.6"], "sharper_below is 0.6 and coarser_from 0.6; the first must be smaller"),
        (["gap=adaptive", "gap.adaptive.start_tokens=16"], "gap.adaptive.start_tokens is 16 and gap.view_tokens, the coarsest view, 16"),
        (["gap=adaptive", "gap.adaptive.window=120"], "gap.adaptive.window is 120 and objective.updates 120"),
        (["gap=adaptive", "rollout.overlap=true"], "gap.mode is adaptive and rollout.overlap is true"),
        (["gap=adaptive", "~reward.terms.accuracy", "reward.terms.tool.gate=null"], "reward.terms has no term accuracy to follow"),
    ],
)
def test_an_adaptive_gap_that_can_not_adapt_is_refused(changes, said):
    [problem] = problems_of(composed("experiment=stage1", *changes), TrainConfig)
    assert said in problem
