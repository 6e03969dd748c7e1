"""Which settings matter for what: every key is in one list, and recorded results keep the hashes they were written with."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from focus.config.identity import LISTS, learned_settings, measurement_hash, refuse_other_run, settings_hash, under
from focus.config.messages import ConfigError
from focus.config.schema import SCHEMAS, keys_of

RECORDED = Path(__file__).parent / "records/settings.yaml"


@pytest.mark.parametrize("command", SCHEMAS)
def test_every_key_of_a_command_is_in_exactly_one_list(command):
    wrong = {key: count for key in keys_of(SCHEMAS[command]) if (count := sum(under(key, names) for names in LISTS)) != 1}
    assert wrong == {}


def test_every_name_in_a_list_is_a_key_or_a_section_of_some_command():
    known = {key for schema in SCHEMAS.values() for key in keys_of(schema)}
    assert [name for names in LISTS for name in names if not any(under(key, (name,)) for key in known)] == []


def recorded(**changes: object) -> dict:
    """The settings of a recorded run, some of them changed by their full keys (`__` for the dot)."""
    settings = OmegaConf.load(RECORDED)
    for key, value in changes.items():
        OmegaConf.update(settings, key.replace("__", "."), value)
    return OmegaConf.to_container(settings)


@pytest.mark.parametrize(
    ("changes", "point", "measured"),
    [
        ({}, "88dd294b7d0dbaa0", "b10d777331973b38"),
        ({"judge__url": "http://a/v1", "judge__model": "m"}, "78246eab92b81777", "b10d777331973b38"),
        (
            {"objective__learning_rate": 1.0, "rollout__temperature": 1.0},
            "d143c77cef7b346e",
            "b10d777331973b38",
        ),
        ({"trainer__precision": "bf16-mixed"}, "88dd294b7d0dbaa0", "736fac09748b0faa"),
    ],
    ids=["as it was", "with a judge", "with other updates", "in bfloat16"],
)
def test_a_recorded_run_keeps_its_hashes(changes, point, measured):
    """The hashes are those that the version before this module computed from the same settings."""
    settings = recorded(**changes)
    assert (settings_hash(settings), measurement_hash(settings)) == (point, measured)


def test_a_setting_that_is_gone_stays_in_the_identity_with_the_value_that_the_code_follows():
    """Recorded points keep their hashes, and a run that had another value is another run."""
    grounding = {"_target_": "focus.rewards.Grounding", "weight": 1.0, "omega": 0.5, "tau": 0.9}
    hashes = [
        settings_hash(recorded(reward__terms__grounding=term))
        for term in (grounding, grounding | {"crops": "last"}, grounding | {"crops": "best"})
    ]
    assert hashes[0] == hashes[1] != hashes[2]
    assert settings_hash(recorded(objective__mask_overturn=True)) != settings_hash(recorded())


def test_what_is_only_reported_or_placed_changes_no_hash():
    changes = {"name": "other", "threads": 7, "report__trajectories": 9, "trainer__devices": 4, "judge__timeout_s": 5.0}
    assert settings_hash(recorded(**changes)) == settings_hash(recorded())


@pytest.mark.parametrize(
    ("key", "value", "finished", "refused"),
    [
        ("objective.updates", 999, False, False),
        ("objective.updates", 999, True, True),
        ("rollout.questions_per_forward", 2, False, False),
        ("data.workers", 0, False, False),
        ("rollout.max_crops", 3, False, True),
        ("reward.terms.tool.weight", 0.5, False, True),
        ("evaluation.samples", 3, True, False),
    ],
)
def test_a_run_that_resumes_may_change_its_length_and_its_memory_alone(key, value, finished, refused):
    settings = recorded(**{key.replace(".", "__"): value})
    if refused:
        with pytest.raises(ConfigError, match=rf"other settings:\n  - {key}: .* then, {value} now"):
            refuse_other_run(settings, RECORDED, finished)
    else:
        refuse_other_run(settings, RECORDED, finished)


def test_where_a_sampler_runs_is_not_learned_but_its_dtype_is():
    vllm = {"mode": "served", "weights": "/dev/shm", "dtype": "bfloat16", "memory_share": 0.4}
    learned = learned_settings(recorded(rollout__vllm=vllm))
    assert {key: value for key, value in learned.items() if "vllm" in key} == {"rollout.vllm.dtype": "bfloat16"}
