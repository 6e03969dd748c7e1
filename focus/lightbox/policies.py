"""The policies that the room Try may ask: the embedded ones, those in the given folders, and servers that the command line names."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from fastapi import HTTPException

from focus.agent import Agent
from focus.config.command_line import quoted
from focus.config.policy_settings import EMBEDDED_POLICIES, PUBLISHED, setting_of_policy
from focus.config.schema import ServedPolicyConfig
from focus.lightbox.places import Places

LOADED_AT_ONCE = 2
# A given folder is a policy, or holds runs or sweeps
IN_FOLDERS = ("config.json", "policy/config.json", "*/policy/config.json", "*/*/policy/config.json")


@dataclass(frozen=True)
class Choice:
    """A policy to ask: the name that the page shows, what `Agent.load` takes, and the visual tokens of its own view."""

    name: str
    policy: str
    overrides: tuple[str, ...]
    view_tokens: int


class Policies:
    """The choices by their names. The last LOADED_AT_ONCE that were asked stay in memory."""

    def __init__(self, places: Places, served: Sequence[ServedPolicyConfig]) -> None:
        self.places, self.served = places, served
        self._load = lru_cache(LOADED_AT_ONCE)(lambda choice: Agent.load(choice.policy, *choice.overrides))

    def choices(self) -> dict[str, Choice]:
        """All policies that there are now. A folder whose settings can't be read is left out."""
        found = [Choice(name, name, (), setting_of_policy(name, "gap.view_tokens")) for name in EMBEDDED_POLICIES.values()]
        for folder in self.places.folders:
            for config in sorted(path for pattern in IN_FOLDERS for path in folder.glob(pattern)):
                try:
                    view = setting_of_policy(str(config.parent), "gap.view_tokens")
                except ValueError:  # of a run that is half deleted
                    continue
                if self.places.name(config.parent) and any(config.parent.glob("*.safetensors")):
                    found.append(Choice(_shown(config.parent), str(config.parent), (), view))
        for each in self.served:
            words = (f"policy.checkpoint={quoted(each.model)}", f"policy.dialect={quoted(each.dialect)}")
            found.append(Choice(f"{each.model} at {each.url}", each.url, words, PUBLISHED["gap.view_tokens"]))
        return {choice.name: choice for choice in found}

    def agent(self, name: str) -> Agent:
        """The agent of a choice, loaded where it is not. Raises HTTPException 404 for another name, ValueError where it can't be loaded."""
        choice = self.choices().get(name)
        if choice is None:
            raise HTTPException(404, f"there is no policy {name[:200]} (any more); load the page again")
        return self._load(choice)


def _shown(folder: Path) -> str:
    """A folder as one would write it on the command line: from where the server was started, if it lies there."""
    return str(folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder)
