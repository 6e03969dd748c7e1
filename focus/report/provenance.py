"""How a result was made: command, commit, versions, machine."""

import datetime
import json
import os
import platform
import re
import shlex
import subprocess
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from hydra.core.hydra_config import HydraConfig

from focus.config import CONF, SECRET
from focus.runtime import files

UNKNOWN = "unknown"
# Settings that may hold a key: extra fields of a request, and the arguments of a logger
UNSHOWN = re.compile(r"[+~]*(logger(\.|=\{)|(judge|rollout(\.endpoint)?)(\.extra|=\{)|[^=]*\burl=.*[?@])", re.DOTALL)


@dataclass(frozen=True)
class Start:
    """One start of a command: the command line, the commit of the code, the versions of packages.

    `command` is None if the run was started from Python.
    """

    command: str | None
    commit: str
    versions: Mapping[str, str]


def this_start() -> Start:
    """The start of this process."""
    return Start(_command(), _commit(), {"focus": _version(), "torch": torch.__version__, "transformers": transformers.__version__})


def machine() -> str:
    """The machine this process runs on, in words."""
    cores = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    if not torch.cuda.is_available():
        return cores
    return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}, {cores}"


def how_made(seconds: float, call: str | None = None) -> dict[str, Any]:
    """How a result is made: date, command, commit, versions, machine and wall-clock seconds. `call`: what was called from Python."""
    start = this_start()
    made = {"date": datetime.date.today().isoformat(), "command": call or start.command, "commit": start.commit}
    return made | {"versions": dict(start.versions), "machine": machine(), "seconds": round(seconds, 1)}


def facts_text(made: Mapping[str, Any]) -> str:
    """`how_made` in one line, without the command. A file of an older version has no date."""
    commit = re.sub(r"\b([0-9a-f]{9})[0-9a-f]{31}\b", r"\1", made["commit"])
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    return " | ".join([*filter(None, [made.get("date")]), f"commit {commit}", versions, made["machine"], f"{made['seconds']:,.0f} s"])


def remember_start(path: Path) -> None:
    """Add the start of this process to the file, unless an equal one is there.

    A run may resume with other code than it began with; its card then names both.
    """
    if not files.is_first_rank():
        return
    start = this_start()
    earlier = starts(path)
    if start not in earlier:
        files.write_on_first_rank(path, "".join(files.json_text(vars(row)) + "\n" for row in (*earlier, start)))


def starts(path: Path) -> list[Start]:
    """The starts that `remember_start` wrote; other lines are skipped."""
    rows = []
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
            command, commit, versions = row["command"], row["commit"], row["versions"].items()
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            continue
        versions = {str(name): str(version) for name, version in versions}
        rows.append(Start(None if command is None else str(command), str(commit), versions))
    return rows


def _command() -> str | None:
    """The command line of this run or point of a sweep; None for a start from Python."""
    if not HydraConfig.initialized():
        return None
    hydra = HydraConfig.get()
    return command_of(hydra.overrides.task, hydra.job.config_name or "train")


def command_of(overrides: Sequence[str], name: str = "train") -> str:
    """The command with these overrides, ready for a shell.

    Overrides that may hold a key are left out; a comment says so.
    """
    words, left_out = _without_keys(overrides)
    return shlex.join(["python", "-m", f"focus.{name}", *words]) + left_out


def call_of(function: str, url: str | None, overrides: Sequence[str], **named: str) -> str:
    """The call of `focus.FUNCTION` from Python, of an agent at a url or one that is a function (None). What may hold a key is left out."""
    words, left_out = _without_keys(overrides)
    first = repr(url) if url and not _may_hold_a_key(f"url={url}") else "agent"
    return f"focus.{function}({', '.join([first, *map(repr, words), *(f'{key}={value!r}' for key, value in named.items())])}){left_out}"


def _without_keys(overrides: Sequence[str]) -> tuple[list[str], str]:
    """The overrides that hold no key, and a comment if there are others."""
    words = [word for word in overrides if not _may_hold_a_key(word)]
    return words, "" if len(words) == len(overrides) else "  # without settings that may hold a key"


def _may_hold_a_key(override: str) -> bool:
    return bool(UNSHOWN.match(override)) or any(SECRET.fullmatch(word) for word in re.findall(r"[A-Za-z_-]+", override))


def _commit() -> str:
    """The commit of the checkout with this code; `unknown` outside a checkout.

    `with changes` is added if code or settings differ from the commit.
    """
    root = CONF.parent
    try:
        top, head = _git("rev-parse", "--show-toplevel", "HEAD").split("\n")
        if Path(top).resolve() != root.resolve():  # a repository around an installed package
            return UNKNOWN
        return head + (" with changes" if _git("status", "--porcelain", "--", "focus", "conf") else "")
    except (OSError, ValueError, subprocess.SubprocessError):  # no git, no checkout, no commit yet, or a checkout of another user
        return UNKNOWN


def _git(*words: str) -> str:
    command = ["git", "-C", str(CONF.parent), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.rstrip("\n")


def _version() -> str:
    project = CONF.parent / "pyproject.toml"
    return tomllib.loads(project.read_text())["project"]["version"] if project.is_file() else UNKNOWN
