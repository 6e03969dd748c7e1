"""Fixtures of all rooms: random tiny policies of all families, made once."""

import gc
import os
import signal
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")

from tests.support import shapes

shapes.enforce()

import omegaconf._utils
import pytest
import torch
import yaml

from focus.model.policy_model import PolicyModel
from tests.support import probing
from tests.support.policies import FAMILIES, random_qwen2_5_vl, random_qwen3_5, random_qwen3_vl

torch.set_num_threads(1)
# Settings are composed a thousand times. A quarter of that would be Hydra's reading of YAML by a parser in Python
omegaconf._utils.yaml = SimpleNamespace(**vars(yaml) | {"SafeLoader": yaml.CSafeLoader})
# A shell starts a background job (make test &) with Ctrl-C ignored, and processes that tests interrupt would inherit that
signal.signal(signal.SIGINT, signal.default_int_handler)
seven = probing.seven  # a fixture of two rooms


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


@pytest.fixture(scope="session")
def qwen2_5_vl() -> PolicyModel:
    return random_qwen2_5_vl()


@pytest.fixture(scope="session")
def qwen3_vl() -> PolicyModel:
    policy = random_qwen3_vl()
    policy.model.eval()
    return policy


@pytest.fixture(scope="session")
def qwen3_5() -> PolicyModel:
    return random_qwen3_5()


@pytest.fixture(params=FAMILIES)
def policy(request) -> PolicyModel:
    """Every engine and update test runs on all families."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def random_policy(tmp_path_factory) -> Path:
    """A random policy as a folder, for whole runs."""
    folder = tmp_path_factory.mktemp("random") / "policy"
    random_qwen3_vl(seed=7).save(folder)
    return folder


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A random checkpoint of each family in the Hugging Face layout."""
    root = tmp_path_factory.mktemp("families")
    for name, made in FAMILIES.items():
        made(seed=6).save(root / name)
    return {name: root / name for name in FAMILIES}
