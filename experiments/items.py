"""Per-question results of policies, kept in a folder items/ of an experiment: one file for each policy."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from focus.model import loading
from focus.model.policy_model import PolicyModel
from focus.runtime.files import atomic_write

Measured = Callable[[str, PolicyModel, str], Mapping[str, Sequence[float]]]


def keep(items: Path, policies: Mapping[str, Path], measured: Measured) -> None:
    """Write `NAME.npz` for every policy that is there and not kept yet: a value for each question and metric, and its weights' hash.

    `measured` gets the name, the policy, and what opens its first turn: for the base a call, since greedily it makes none.
    """
    items.mkdir(exist_ok=True)
    for name, folder in policies.items():
        kept = items / f"{name}.npz"
        if kept.is_file() or not (folder / "config.json").is_file():
            continue
        policy = loading.load_model(folder, "tiny")
        values = measured(name, policy, policy.dialect.call[0] if name == "base" else "")
        with atomic_write(kept) as partial, partial.open("wb") as file:
            np.savez_compressed(file, weights=policy.weights_hash(), **{key: np.array(v, np.float16) for key, v in values.items()})
        print(f"{name}: {kept}", flush=True)
