"""Write docs/settings.md from the comments of conf/. `python -m docs.generate`; a test holds the page against the files.

The comment above a key is its meaning. The first comment lines of a file describe the file: all of them where a list of
`defaults` follows, else the first one alone.
"""

import re
from pathlib import Path
from typing import NamedTuple

import yaml

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
PAGE = ROOT / "docs/settings.md"
GOES_ON = re.compile(r"(^|[.:,;(]|\b(a|and|by|for|in|of|on|or|than|the|to|with))$")  # ends a line whose sentence is not over, or closed
KEY = re.compile(r"( *)([A-Za-z_][\w@/.-]*):(?: |$)")
COMMANDS = (
    *("run", "train", "plan", "probe", "evaluate", "audit", "audit_compare", "agent", "ask", "inspect", "calibrate", "export", "questions"),
    *("sweep", "serve", "lightbox", "dashboard", "base"),
)
# The file of a group that holds all its keys; the other files of the group change some of them
WHOLE = {
    "policy": "tiny", "data": "scenes", "gap": "fixed", "rollout": "kv", "reward": "stage1",
    "evaluation": "scenes", "endpoint": "chat", "trainer": "cpu", "logger": "csv",
    "audit": "v1",
}  # fmt: skip
HEAD = """# Settings

Every setting with its default and meaning. This page is generated from the comments of `conf/`: change them
there, then run `python -m docs.generate`.

A setting is given as `key=value` (`make stage1 ARGS="seed=1 gap.view_tokens=36"`). A group is chosen by the name
of a file (`gap=off`, `trainer=fsdp`). `null` means none. [paper] marks values that the paper reports, [open]
values that it leaves open. The keys of `endpoint` are those of `judge` and `rollout.endpoint`.
"""


class Key(NamedTuple):
    """One line of a settings file: the full name, the value (None for a section) and the comment above it."""

    name: str
    value: object
    meaning: str
    section: bool


def main() -> None:
    PAGE.write_text(page())


def page() -> str:
    """The whole page."""
    files = [(CONF / f"{command}.yaml", "") for command in COMMANDS]
    files += [(CONF / group / f"{name}.yaml", f"{group}.") for group, name in WHOLE.items()]
    meanings = {f"{prefix}{key.name}": key.meaning for path, prefix in files[::-1] for key in read(path)[1] if key.meaning}
    parts = [HEAD, "## Commands\n"]
    parts += [f"### {_title(path.stem)}\n\n{_table(path, '', meanings)}" for path, prefix in files if not prefix]
    parts.append("## Groups\n")
    for path, prefix in files:
        if prefix:
            others = sorted(each for each in path.parent.glob("*.yaml") if each != path)
            parts.append(f"### {path.parent.name}\n\n{_table(path, prefix, meanings)}")
            parts += [_choices(path.parent.name, [path, *others]), *_more(path, prefix, others)] if others else []
    parts.append(f"## Recipes of `base`\n\n{_choices('recipe', sorted((CONF / 'recipe').glob('*.yaml')))}")
    parts.append(f"## Experiments\n\n{_choices('experiment', sorted((CONF / 'experiment').glob('*.yaml')))}")
    launchers = CONF / "hydra/launcher"
    parts.append(f"## Launchers of sweeps\n\n{_choices('hydra/launcher', sorted(launchers.glob('*.yaml')))}")
    parts.append(f"### slurm\n\n{_table(launchers / 'slurm.yaml', 'hydra.launcher.', {})}")
    return "\n".join(parts)


def _title(command: str) -> str:
    """A heading; run.yaml holds what two commands share."""
    return "`python -m focus.train` and `focus.plan`" if command == "run" else f"`python -m focus.{command}`"


def _table(path: Path, prefix: str, meanings: dict[str, str]) -> str:
    """The keys of a file. One without a comment of its own means what it means elsewhere."""
    about, keys, rest = read(path)
    rows = []
    for key in keys:
        name = f"{prefix}{key.name}"
        rows.append(f"| `{name}` | {'' if key.section else _code(key.value)} | {_cell(key.meaning or meanings.get(name, ''))} |")
    after = "\n```text\n" + "\n".join(rest) + "\n```\n" if rest else ""
    return f"{_cell(about)}\n\n| key | default | meaning |\n|---|---|---|\n" + "\n".join(rows) + f"\n{after}"


def _choices(group: str, paths: list[Path]) -> str:
    """The files of a group: their names and what their first comment says."""
    return f"| `{group}=` | |\n|---|---|\n" + "".join(f"| `{path.stem}` | {_cell(read(path)[0])} |\n" for path in paths)


def _more(whole: Path, prefix: str, others: list[Path]) -> list[str]:
    """The keys that only other files of a group have, each of the first file that explains it."""
    known = {key.name for key in read(whole)[1]}
    rows: dict[str, str] = {}
    for path in others:
        for key in read(path)[1]:
            if key.name not in known and key.meaning and key.name not in rows and not key.name.endswith("_target_"):
                value = "" if key.section else _code(key.value)
                rows[key.name] = f"| `{prefix}{key.name}` | `{path.parent.name}={path.stem}` | {value} | {_cell(key.meaning)} |\n"
    return ["| more keys | of | default | meaning |\n|---|---|---|---|\n" + "".join(rows.values())] if rows else []


def read(path: Path) -> tuple[str, list[Key], list[str]]:
    """What a settings file says about itself, its keys in order, without those of Hydra, and the comment lines below the last key.

    A section is a key if it has a comment.
    """
    lines = path.read_text().splitlines()
    content = yaml.safe_load("\n".join(lines)) or {}
    first = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    head = [said for line in lines[:first] if (said := line.removeprefix("#").strip()) != "@package _global_"]
    own = len(head) if lines[first].startswith(("defaults", "_target_")) else 1
    about, waiting = head[:own], [f"# {said}" for said in head[own:]]
    keys: list[Key] = []
    sections: list[tuple[int, str]] = []  # indentation and name of the sections that hold the line
    for line in lines[first:]:
        if line.strip().startswith("#"):
            waiting.append(line.strip())
        elif found := KEY.match(line):
            sections = [each for each in sections if each[0] < len(found[1])] + [(len(found[1]), found[2])]
            names = [name for _, name in sections]
            if names[0] not in ("defaults", "hydra"):
                value: object = content
                for name in names:
                    assert isinstance(value, dict)
                    value = value[name]
                section = isinstance(value, dict) and bool(value)
                if waiting or not section:
                    keys.append(Key(".".join(names), value, _joined([said.removeprefix("#").strip() for said in waiting]), section))
            waiting = []
        else:  # a blank line, or an item of a list
            waiting = []
    return _joined(about), keys, [said.removeprefix("#").removeprefix(" ") for said in waiting]


def _joined(lines: list[str]) -> str:
    """Comment lines as running text. A line that begins with a capital or a command begins a sentence, unless the last one goes on."""
    text = ""
    for line in lines:
        begins = (line[:1].isupper() or line.startswith("make ")) and not GOES_ON.search(text)
        text += (". " if begins else " " if text else "") + re.sub(r" {2,}", "; ", line)
    return text


def _plain(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_plain, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_plain(each)}" for key, each in value.items()) + "}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _code(value: object) -> str:
    return f"`{_plain(value)}`" if value != "" else '`""`'


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").strip()


if __name__ == "__main__":
    main()
