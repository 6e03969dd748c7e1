"""Fixtures of all rooms: random tiny policies of all families, made once.

torch and focus are imported in the fixtures: the process that only hands out tests to others runs none of them.
"""

import gc
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")

from tests.support import shapes

shapes.enforce()

import pytest
import yaml

from tests.support import composition

if TYPE_CHECKING:
    from focus.evaluation.outcome import Outcome
    from focus.model.policy_model import PolicyModel

FAMILIES = ("qwen2_5_vl", "qwen3_vl", "qwen3_5")
# Settings are composed a thousand times
composition.remember()
yaml.SafeLoader = yaml.CSafeLoader  # the other one is a parser in Python
os.fsync = lambda _: None  # thousands of files are written, and waiting for the disk takes 10 ms each time
# A shell starts a background job (make test &) with Ctrl-C ignored, and processes that tests interrupt would inherit that
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with tests that start processes come first: they take longest, and two workers then end together."""
    long = {item.path for item in items if item.get_closest_marker("processes")}
    items.sort(key=lambda item: item.path not in long)


def pytest_collection_finish() -> None:
    """Runs collect garbage when they let a policy go: not among all that is imported by now, which takes half a second each time."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()


def random_policy_of(family: str, seed: int = 0) -> "PolicyModel":
    from tests.support import policies

    return policies.FAMILIES[family](seed=seed)


@pytest.fixture(scope="session")
def qwen2_5_vl() -> "PolicyModel":
    return random_policy_of("qwen2_5_vl")


@pytest.fixture(scope="session")
def qwen3_vl() -> "PolicyModel":
    policy = random_policy_of("qwen3_vl")
    policy.model.eval()
    return policy


@pytest.fixture(scope="session")
def qwen3_5() -> "PolicyModel":
    return random_policy_of("qwen3_5")


@pytest.fixture(params=FAMILIES)
def policy(request) -> "PolicyModel":
    """Every engine and update test runs on all families."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def random_policy(tmp_path_factory) -> Path:
    """A random policy as a folder, for whole runs."""
    folder = tmp_path_factory.mktemp("random") / "policy"
    random_policy_of("qwen3_vl", seed=7).save(folder)
    return folder


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A random checkpoint of each family in the Hugging Face layout."""
    root = tmp_path_factory.mktemp("families")
    for name in FAMILIES:
        random_policy_of(name, seed=6).save(root / name)
    return {name: root / name for name in FAMILIES}


@pytest.fixture(scope="module")
def seven(qwen3_vl) -> "Outcome":
    from tests.support import probing

    return probing.seven(qwen3_vl)
