"""The settings that belong to a policy, where a command leaves them open: `${of_policy:${policy.checkpoint},gap.view_tokens}`.

A run leaves its settings beside its policy (`settings.yaml` beside `policy/`). For another policy its
family decides: the file of conf/policy that names it, or the model type in its config.json.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from focus.runtime.paths import CONF

# The policies in the package, by what they read
EMBEDDED_POLICIES = {"scenes": "embedded", "pages": "embedded_pages"}
EMBEDDED = {
    "policy.dialect": "tiny",
    "gap.view_tokens": 16,
    "rollout.max_crops": 1,
    "rollout.crop_tokens": 64,
    "rollout.crop_min_tokens": 1,
    "rollout.tokens_per_turn": 40,
}
# The recipes of conf/experiment for the published sizes. Their view is the smaller one that the paper evaluates at
PUBLISHED = {
    "gap.view_tokens": 1024,
    "rollout.max_crops": 5,
    "rollout.crop_tokens": 1024,
    "rollout.crop_min_tokens": 4,
    "rollout.tokens_per_turn": 2048,
}
HUB_NAME = re.compile(r"\w[\w.-]*(/[\w.-]+)?", re.ASCII)
FAMILIES = ("qwen2_5_vl", "qwen3_vl", "qwen3_5")  # model types; the dialect of each has its name


def setting_of_policy(checkpoint: str, key: str) -> Any:
    """The value of a setting that fits a policy: of the run that left it, else of its family. None: unknown.

    Where no policy is, which its own check says, the value is that of the embedded one.
    """
    if not isinstance(checkpoint, str) or not checkpoint.strip() or os.path.isfile(checkpoint):
        return EMBEDDED[key]
    beside = Path(checkpoint).parent / "settings.yaml"
    if os.path.isdir(checkpoint) and beside.is_file():
        try:
            value: Any = yaml.safe_load(beside.read_text())
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise ValueError(f"{beside} can't be read ({' '.join(str(error).split())}); copy the folder of its run again") from error
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            return value
    if checkpoint in EMBEDDED_POLICIES.values():
        return EMBEDDED[key]
    return _dialect(checkpoint) if key == "policy.dialect" else PUBLISHED[key]


def _dialect(checkpoint: str) -> str | None:
    config = Path(checkpoint) / "config.json"
    if os.path.isfile(config):
        try:
            family = json.loads(config.read_text())["model_type"]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise ValueError(f"{config} is no model's configuration ({type(error).__name__}: {error}); copy the folder again") from error
        return family if family in FAMILIES else None
    if checkpoint.startswith("outputs/") or not HUB_NAME.fullmatch(checkpoint):  # no policy is there, which its own check says
        return "tiny"
    for path in sorted((CONF / "policy").glob("*.yaml")):
        policy = yaml.safe_load(path.read_text())
        if policy.get("checkpoint") == checkpoint:
            return str(policy["dialect"])
    return None


OmegaConf.register_new_resolver("of_policy", setting_of_policy, replace=True)
OmegaConf.register_new_resolver("embedded_for", lambda source: EMBEDDED_POLICIES.get(source, "embedded"), replace=True)
