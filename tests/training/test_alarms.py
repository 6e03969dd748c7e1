"""The alarms over a training run: when each rises and falls, what it says, that it ends a run, and that it survives a resume."""

import math
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from focus.training.alarms import ALARMS, CollapseAlarms
from focus.training.history import History, read_history
from tests.support.updates import module_of, questions, trainer

HEALTHY = {
    "crop/rate": 0.5,
    "group/zero_variance": 0.5,
    "group/all_right": 0.25,
    "group/all_wrong": 0.25,
    "ending/out_of_tokens": 0.0,
    "ending/out_of_turns": 0.0,
    "crop/area_p50": 0.1,
    "gain/tool_free": 0.5,
    "objective/mismatch_mean": 0.0,
}
LIMITS = {
    "window": 2, "crop_rate": 0.1, "zero_variance": 0.9, "equal_accuracy": 0.9, "truncated": 0.5, "area_drift": 2.0, "tool_free": 0.2,
    "mismatch": 0.05,
}  # fmt: skip
NEVER = {
    "crop_rate": 0.0, "zero_variance": 1.0, "equal_accuracy": 1.0, "truncated": 1.0, "area_drift": math.inf, "tool_free": 1.0,
    "mismatch": math.inf,
}  # fmt: skip

# Lightning's advice to loops that are not ours, as in focus.train
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{advice}")
    for advice in ("Using ModelCheckpoint with manual", "Checkpoint directory", ".*ended before the epoch ended")
]


class Replay(pl.LightningModule):
    """Logs a hand-made series, one entry per update, as the policy does; it learns nothing."""

    def __init__(self, series: Sequence[dict[str, float]]) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.series, self.updates_done = series, 0

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def training_step(self, batch, index):
        self.optimizers().step()
        self.updates_done += 1
        self.log_dict({**HEALTHY, **self.series[self.updates_done - 1], "update": float(self.updates_done)})

    def on_save_checkpoint(self, checkpoint):
        checkpoint["updates_done"] = self.updates_done

    def on_load_checkpoint(self, checkpoint):
        self.updates_done = checkpoint["updates_done"]


def fit(path, series, checkpoint=None, **limits) -> list[dict[str, float]]:
    """A run of Lightning's own trainer over the series; the history that it leaves."""
    kept = ModelCheckpoint(path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    callbacks = [CollapseAlarms(**{**LIMITS, **limits}), History(path / "history.jsonl"), kept]
    run = trainer(callbacks=callbacks, enable_checkpointing=True, default_root_dir=path)
    run.fit(Replay(series), DataLoader(range(len(series))), ckpt_path=checkpoint)
    return read_history(path / "history.jsonl")


def update(alarms: CollapseAlarms, change: dict[str, float], **more) -> SimpleNamespace:
    """One update without a trainer: what it set and what was logged."""
    seen = SimpleNamespace(
        logged_metrics={name: torch.tensor(value) for name, value in {**HEALTHY, **change}.items()},
        is_global_zero=True,
        strategy=SimpleNamespace(reduce_boolean_decision=lambda decision, all: decision),
        should_stop=False,
        updates_done=1,
    )
    vars(seen).update(more)
    seen.log_dict = lambda values: setattr(seen, "alarms", values)
    alarms.on_train_batch_end(seen, seen, None, None, 0)
    return seen


def standing(series: Sequence[dict[str, float]], **limits) -> list[str]:
    """The names of the alarms that stand after each update."""
    alarms = CollapseAlarms(**{**LIMITS, **limits})
    logged = [update(alarms, change).alarms for change in series]
    assert all(values.keys() == {f"alarm/{name}" for name in ALARMS} and set(values.values()) <= {0.0, 1.0} for values in logged)
    return [" ".join(name.removeprefix("alarm/") for name, value in values.items() if value) for values in logged]


def each(metric: str, *values: float) -> list[dict[str, float]]:
    return [{metric: value} for value in values]


def said(capsys) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_a_crop_rate_that_falls_below_its_limit_is_an_alarm_and_one_at_the_limit_is_not():
    # means of two: 0.3, 0.1, 0.05, 0.25
    assert standing(each("crop/rate", 0.5, 0.1, 0.1, 0.0, 0.5)) == ["", "", "", "crop_rate", ""]


def test_too_many_groups_without_variance_are_an_alarm():
    # means of two: 0.9, 0.95, 0.75
    assert standing(each("group/zero_variance", 0.9, 0.9, 1.0, 0.5)) == ["", "", "zero_variance", ""]


def test_too_many_groups_without_a_difference_in_accuracy_are_an_alarm():
    series = [{"group/all_right": a, "group/all_wrong": b} for a, b in ((0.5, 0.25), (1.0, 0.0), (0.0, 1.0), (0.25, 0.25))]
    assert standing(series) == ["", "", "equal_accuracy", ""]  # means of two: 0.875, 1.0, 0.75


def test_without_a_term_of_that_name_accuracy_is_not_watched():
    assert standing([{"group/all_right": math.nan, "group/all_wrong": math.nan}] * 3) == ["", "", ""]


def test_conversations_out_of_tokens_and_out_of_turns_count_together():
    series = [{"ending/out_of_tokens": a, "ending/out_of_turns": b} for a, b in ((0.4, 0.1), (0.2, 0.3), (0.3, 0.3), (0.0, 0.0))]
    assert standing(series) == ["", "", "truncated", ""]  # means of two: 0.5, 0.55, 0.3


def test_crops_that_grow_or_shrink_by_more_than_the_factor_are_an_alarm():
    # the first window's mean is 0.2; then 0.3, 0.4 (the factor itself), 0.5, 0.3, 0.1 (the factor itself), 0.075
    areas = each("crop/area_p50", 0.1, 0.3, 0.3, 0.5, 0.5, 0.1, 0.1, 0.05)
    assert standing(areas) == ["", "", "", "", "area_drift", "", "", "area_drift"]


def test_tool_free_answers_that_get_much_worse_than_at_the_start_are_an_alarm():
    # the first window's mean is 0.5; then 0.4, 0.3 (the limit itself), 0.2, 0.6
    assert standing(each("gain/tool_free", 0.6, 0.4, 0.4, 0.2, 0.2, 1.0)) == ["", "", "", "", "tool_free", ""]


def test_tool_free_answers_are_watched_only_in_runs_that_log_them():
    alarms = CollapseAlarms(**{**LIMITS, "window": 1})
    seen = SimpleNamespace(logged_metrics={k: torch.tensor(v) for k, v in HEALTHY.items() if k != "gain/tool_free"}, is_global_zero=True)
    seen.log_dict = lambda values: setattr(seen, "alarms", values)
    alarms.on_train_batch_end(seen, seen, None, None, 0)
    assert seen.alarms == {f"alarm/{name}": 0.0 for name in ALARMS if name != "tool_free"}


def test_a_sampler_that_draws_from_other_weights_is_an_alarm():
    # means of two: 0.025, 0.05 (the limit itself), 0.06, 0.035
    assert standing(each("objective/mismatch_mean", 0.0, 0.05, 0.05, 0.07, 0.0)) == ["", "", "", "mismatch", ""]


def test_several_alarms_stand_side_by_side():
    assert standing([{"crop/rate": 0.0, "group/zero_variance": 1.0}] * 2) == ["", "crop_rate zero_variance"]


def test_no_alarm_before_the_window_is_full():
    assert standing(each("crop/rate", *[0.0] * 5), window=4) == ["", "", "", "crop_rate", "crop_rate"]


def test_what_was_not_measured_is_left_out_of_the_mean_but_fills_the_window():
    # means of what was measured: 0.15, 0.05; a NaN taken for zero would raise the first
    assert standing(each("crop/rate", 0.15, math.nan, 0.05)) == ["", "", "crop_rate"]


def test_a_window_with_nothing_measured_raises_no_alarm():
    assert standing(each("crop/rate", 0.0, 0.0, math.nan, math.nan)) == ["", "crop_rate", "crop_rate", ""]


def test_the_first_area_is_that_of_the_first_full_window_with_a_crop_in_it():
    # nothing, then 0.1; means then 0.1, 0.25
    assert standing(each("crop/area_p50", math.nan, math.nan, 0.1, math.nan, 0.25, 0.25)) == ["", "", "", "", "area_drift", "area_drift"]


def test_at_their_ends_the_limits_are_off_whatever_float32_makes_of_thirds():
    worst = {
        "objective/mismatch_mean": 9.0,
        "crop/rate": 0.0,
        "group/zero_variance": 1.0,
        "group/all_right": 1 / 3,
        "group/all_wrong": 2 / 3,
        "ending/out_of_tokens": 1 / 3,
        "ending/out_of_turns": 2 / 3,
        "gain/tool_free": 0.0,
    }
    assert float(torch.tensor(1 / 3)) + float(torch.tensor(2 / 3)) > 1.0
    assert standing([{**worst, "gain/tool_free": 1.0}, {**worst, "crop/area_p50": 1.0}], window=1, **NEVER) == ["", ""]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("crop_rate", {"crop/rate": 0.05}, "crop/rate over 2 updates is 0.05, outside 0.1 to 1"),
        ("zero_variance", {"group/zero_variance": 0.95}, "group/zero_variance over 2 updates is 0.95, outside 0 to 0.9"),
        (
            "equal_accuracy",
            {"group/all_right": 0.5, "group/all_wrong": 0.45},
            "group/all_right + group/all_wrong over 2 updates is 0.95, outside 0 to 0.9",
        ),
        (
            "truncated",
            {"ending/out_of_tokens": 0.5, "ending/out_of_turns": 0.25},
            "ending/out_of_tokens + ending/out_of_turns over 2 updates is 0.75, outside 0 to 0.5",
        ),
        ("area_drift", {"crop/area_p50": 0.29}, "crop/area_p50 over 2 updates is 0.29, outside 0.05 to 0.2"),
        ("tool_free", {"gain/tool_free": 0.25}, "gain/tool_free over 2 updates is 0.25, outside 0.3 to 1"),
        ("mismatch", {"objective/mismatch_mean": 0.08}, "objective/mismatch_mean over 2 updates is 0.08, outside 0 to 0.05"),
    ],
)
def test_an_alarm_is_said_once_and_again_only_after_it_fell(name, change, message, capsys):
    alarms, told = CollapseAlarms(**LIMITS), []
    for moment in ({}, {}, change, change, change, {}, {}, change, change):
        update(alarms, moment, updates_done=7)
        told.append(said(capsys))
    once = f"alarm/{name} at update 7: the mean of {message}. {ALARMS[name][1]}"
    assert told == ["", "", "", once, "", "", "", "", once]


def test_only_rank_zero_speaks(capsys):
    update(CollapseAlarms(**{**LIMITS, "window": 1}), {"crop/rate": 0.0}, is_global_zero=False)
    assert said(capsys) == ""
    update(CollapseAlarms(**{**LIMITS, "window": 1}), {"crop/rate": 0.0})
    assert said(capsys).startswith("alarm/crop_rate")


def test_every_update_of_a_run_has_its_alarms_in_the_history(tmp_path):
    rows = fit(tmp_path, each("crop/rate", 0.5, 0.0, 0.0, 0.5))
    assert [row["alarm/crop_rate"] for row in rows] == [0.0, 0.0, 1.0, 0.0]
    assert all(row[f"alarm/{name}"] == 0.0 for row in rows for name in ("zero_variance", "truncated", "area_drift", "mismatch"))


def test_an_alarm_does_not_end_the_run(tmp_path):
    series = each("crop/rate", 0.5, 0.0, 0.0, 0.5, 0.5)
    assert [row["update"] for row in fit(tmp_path, series)] == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_resumed_run_raises_what_the_uninterrupted_one_does(tmp_path, capsys):
    # of two: nothing is learned from 2 on; no crops from 4 on; from 5 on crops three times as large as in the first window, and
    # tool-free answers much worse
    crops, areas, answers = (0.5, 0.1, 0.1, 0.0, 0.0), (0.1, 0.1, 0.1, 0.3, 0.3), (0.5, 0.5, 0.5, 0.5, 0.0)
    series = [
        {"group/zero_variance": 1.0, "crop/rate": c, "crop/area_p50": a, "gain/tool_free": t}
        for c, a, t in zip(crops, areas, answers, strict=True)
    ]
    whole = fit(tmp_path, series)
    assert [sum(row[f"alarm/{name}"] for name in ALARMS) for row in whole] == [0.0, 1.0, 1.0, 2.0, 4.0]
    told = said(capsys)
    for done in (1, 2, 3, 4):
        assert fit(tmp_path, series, str(tmp_path / f"step={done}.ckpt")) == whole
        again = said(capsys)
        assert told.endswith(again) and again.count("alarm/") == (4, 3, 3, 2)[done - 1]


def test_a_shorter_window_after_a_resume_keeps_the_latest_updates():
    before = CollapseAlarms(**{**LIMITS, "window": 3})
    for value in (0.5, 0.0, 0.0):
        update(before, {"crop/rate": value})
    after = CollapseAlarms(**LIMITS)
    after.load_state_dict(before.state_dict())
    assert update(after, {"crop/rate": 0.1}).alarms["alarm/crop_rate"] == 1.0  # (0.0 + 0.1) / 2


def test_the_policy_logs_all_that_the_alarms_watch(qwen3_vl):
    run = trainer(callbacks=[CollapseAlarms(**LIMITS)])
    run.fit(module_of(qwen3_vl), questions(updates=1, per_update=1))
    assert {f"alarm/{name}" for name in ALARMS if name != "tool_free"} <= run.logged_metrics.keys()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("window", 0, "window of CollapseAlarms is 0; it must be a whole number of updates, at least 1"),
        ("window", 2.5, "window of CollapseAlarms is 2.5"),
        ("crop_rate", -0.1, r"crop_rate of CollapseAlarms is -0.1; it must be a share in \[0, 1\]. To switch it off write 0"),
        ("zero_variance", 1.1, "zero_variance of CollapseAlarms is 1.1; .* write 1"),
        ("truncated", math.nan, "truncated of CollapseAlarms is nan; .* write 1"),
        ("area_drift", 1.0, "area_drift of CollapseAlarms is 1.0; it must be a factor above 1"),
        ("area_drift", math.nan, "area_drift of CollapseAlarms is nan"),
        ("tool_free", 0.0, r"tool_free of CollapseAlarms is 0.0; it must be a fall in \(0, 1\]. To switch it off write 1"),
        ("mismatch", 0.0, "mismatch of CollapseAlarms is 0.0; it must be above 0 nats. To switch it off write 1e9"),
    ],
)
def test_an_argument_out_of_range_is_refused_by_name(name, value, message):
    with pytest.raises(ValueError, match=message):
        CollapseAlarms(**{**LIMITS, name: value})
