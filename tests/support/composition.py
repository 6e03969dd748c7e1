"""Files of settings are read and merged once for each choice of files, not once for each composition: three quarters of its time."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.defaults_list import DefaultsList, Overrides
from omegaconf import DictConfig


def remember() -> None:
    """Have Hydra remember in this process which files a choice means, and what they say together. Values are set as ever."""
    list_files: Callable[..., DefaultsList] = config_loader_impl.create_defaults_list
    merge_files = ConfigLoaderImpl._compose_config_from_defaults_list
    listed: dict[Any, DefaultsList] = {}
    merged: dict[Any, DictConfig] = {}

    def list_once(repo, config_name, overrides_list, *how, **named) -> DefaultsList:
        choices = [each for each in overrides_list if repo.group_exists(each.key_or_group)]
        key = (_state(repo), config_name, *(each.input_line for each in choices), *how, *named.values())
        if key not in listed:
            listed[key] = list_files(repo, config_name, choices, *how, **named)
        return replace(listed[key], config_overrides=Overrides(repo, overrides_list).config_overrides)

    def merge_once(self, defaults, repo) -> DictConfig:
        key = (_state(repo), repr(defaults))
        if key not in merged:
            merged[key] = merge_files(self, defaults, repo)
        return deepcopy(merged[key])

    config_loader_impl.create_defaults_list = list_once
    ConfigLoaderImpl._compose_config_from_defaults_list = merge_once


def _state(repo) -> tuple[tuple[object, ...], ...]:
    """The folders that are searched, and when each of their files was written."""
    folders = [(source.path, source.scheme() == "file") for source in repo.get_sources()]
    return tuple((path, *(_written(Path(path)) if is_folder else ())) for path, is_folder in folders)


def _written(folder: Path) -> list[tuple[str, int]]:
    return [(str(path), path.stat().st_mtime_ns) for path in folder.rglob("*.yaml")]
