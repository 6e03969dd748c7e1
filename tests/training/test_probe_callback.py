"""The probe inside training."""

import copy
import math
from dataclasses import replace

import pytest
import pytorch_lightning as pl

from focus.gap import Gap, Mode
from focus.model.policy_model import PolicyModel
from focus.training.probe_callback import ProbeCallback
from tests.support.probing import (
    BLUE,
    MADE,
    MINDS,
    Minded,
)
from tests.support.scripted import call, playing
from tests.support.updates import module_of, questions, trainer


class Logged(pl.Callback):
    """What is logged after every update."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer, *_):
        self.rows.append({name: float(value) for name, value in trainer.logged_metrics.items() if name.startswith("probe/")})


def training(policy: PolicyModel, every: int, updates: int = 3) -> list[dict[str, float]]:
    policy = copy.deepcopy(policy)  # the original is shared with other tests and stays as it is
    module = module_of(policy)
    module.engine = Minded(policy, MINDS)
    module.roll_out = lambda _: [[playing(policy, call(0, 0, 50, 50), BLUE) for _ in range(4)]]
    logged = Logged()
    callbacks = [ProbeCallback(MADE, Gap(Mode.FIXED, 16, policy.token_px), module.limits, every, 3), logged]
    trainer(callbacks=callbacks).fit(module, questions(updates, per_update=1))
    return logged.rows


def test_the_probe_speaks_every_n_updates_and_is_not_a_number_between(qwen3_vl: PolicyModel):
    rows = training(qwen3_vl, every=2)
    assert len(rows) == 3
    assert [math.isnan(row["probe/own"]) for row in rows] == [True, False, True]
    assert all(map(math.isnan, (*rows[0].values(), *rows[2].values())))
    expected = {"own": 4 / 7, "D_noise": 2 / 7, "U_GT": 3 / 6, "tool_free": 3 / 7, "called": 6 / 7, "agrees": 3 / 7}
    expected |= {"hit": 2 / 5, "chance": 13 / 197**2, "reads": 1.0, "reliance": 4 / 5}  # of those annotated
    expected |= dict.fromkeys(("conflict_crop", "conflict_whole", "conflict_neither"), math.nan)  # their images have no twin
    assert rows[1] == pytest.approx({f"probe/{name}": value for name, value in expected.items()}, nan_ok=True)


def test_the_probe_plays_by_its_own_rules_and_not_by_those_of_the_rollouts(qwen3_vl: PolicyModel):
    module = module_of(qwen3_vl)
    heard = []
    module.engine = Minded(qwen3_vl, MINDS)
    generate = module.engine.generate
    module.engine.generate = lambda asked, sampling: heard.append(sampling) or generate(asked, sampling)
    greedy = replace(module.limits, sampling=replace(module.limits.sampling, temperature=0.0))
    probe_ = ProbeCallback(MADE, Gap(Mode.FIXED, 16, qwen3_vl.token_px), greedy, 1, 3)
    module.log_dict = lambda values: None
    probe_.on_train_batch_end(None, module)
    assert heard and {sampling.temperature for sampling in heard} == {0.0} != {module.limits.sampling.temperature}


def test_a_probe_of_every_0_updates_is_off(qwen3_vl: PolicyModel):
    assert training(qwen3_vl, every=0, updates=1) == [{}]
