"""The commands of README, CONTRIBUTING, docs/ and experiments/ work: dash and bash read them alike, their target or module exists,
and their settings compose and pass the checks that a run begins with. Nothing is trained.

Checked are `sh` blocks and commands in running text. A block that a bare checkout can't run has a comment above it:
`<!-- not run: why -->`.
"""

import os
import re
import shlex
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from focus.config import CONF, SCHEMAS, problems_of
from focus.config.command_line import readable

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "experiments").rglob("README.md"))]
BLOCK = re.compile(r"^(?:<!-- (not run: \S.*?) -->\n)?```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
IN_TEXT = re.compile(r"(?<!`)`((?:make|python -m) [^`\n]+)`")
SHELLS = [path for path in (shutil.which("dash"), shutil.which("bash")) if path]
# What a block may call. Only `make` and `python` are followed; blocks with others need a reason
PROGRAMS = ("make", "python", "python3", "pip", "hf", "vllm", "curl")
UNHYDRATED = ("replay",)  # modules of focus that take no settings
# What a reader lacks who has no data, no server and no GPU
LACKING = (
    r"data\.root is \S+, where the files of",
    r"data\.mix names \w+, whose files are expected",
    r"data\.annotations is \S+, which does not exist",
    r"gap\.mode is calibrated but gap\.table \(\S+\) does not exist",
    r"evaluation\.records is \S+, which does not exist",
    r"policy\.checkpoint is outputs/\S+, where no policy lies yet",
    r"rollout\.engine is vllm, which is not installed here",
    r"policy\.prompts is deepeyes\.json: it can't be read",
    r"data\.records is questions\.jsonl, which does not exist",
    r"image is photo\.jpg, which does not exist",
    r"folders names /data/photos, which is no folder",
    r"folder is (pictures, which is no folder|''; name a folder)",
    r"data\.records is outputs/(questions/pictures|questions/scenes|annotations/questions)/records\.jsonl, which does not exist",
    r"data\.records is (/data/my set/records|annotated)\.jsonl, which does not exist",
)

Words = list[str]


def blocks() -> list[tuple[str, str, str]]:
    """Page, reason not to be run (or empty), and content of every `sh` block."""
    found = []
    for path in PAGES:
        text = re.sub(r"^```(?!sh\b)\w+\n.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
        found += [(str(path.relative_to(ROOT)), reason, body) for reason, body in BLOCK.findall(text)]
        assert text.count("```sh\n") == len(BLOCK.findall(text)), path
    return found


def in_text() -> list[tuple[str, str, str]]:
    """The same of commands in running text and tables. One with three dots or <name> is the form of a command."""
    found = []
    for path in PAGES:
        text = re.sub(r"^```\w*\n.*?^```$|^#[^\n]*$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)  # headings name commands
        bodies = [body for body in IN_TEXT.findall(text) if not set("<*") & {*body} and "..." not in body]
        found += [(str(path.relative_to(ROOT)), "not run: in running text", body) for body in bodies]
    return found


def words_of(scripts: list[str], shell: str) -> list[list[Words]]:
    """The words of every command of every script, as this shell reads them. No command is run: each is a function that writes its words."""
    functions = "".join(f'{name}() {{ record {name} "$@"; }}\n' for name in PROGRAMS)
    text = "record() { printf '%s\\037' \"$@\"; printf '\\n'; }\n" + functions
    for script in scripts:
        text += f"printf '\\036\\n'\n{script.replace('.venv/bin/', '')}\n"
    posix = ["--posix"] if shell.endswith("bash") else []  # as it is where it is called sh
    said = subprocess.run([shell, *posix, "-eu"], input=text, capture_output=True, text=True, timeout=600)
    assert said.returncode == 0, said.stderr
    return [[line.split("\x1f")[:-1] for line in part.splitlines() if line] for part in said.stdout.split("\x1e\n")[1:]]


def alike(scripts: list[str]) -> list[list[Words]]:
    """The words of every command of every script, which have to be the same in all shells."""
    first, *others = ([*words_of(scripts, shell)] for shell in SHELLS)
    for other in others:
        for script, one, two in zip(scripts, first, other, strict=True):
            assert one == two, f"{SHELLS} read this differently: {script}"
    return first


def recipe(words: Words) -> str:
    """What `make` would have its shell run: the lines that start a module. Raises where make refuses its words."""
    environment = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKEOVERRIDES", "MAKELEVEL"}}
    said = subprocess.run([*words, "-n"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert said.returncode == 0, f"{shlex.join(words)}: {said.stderr}"
    lines = said.stdout.replace("\\\n", " ").splitlines()
    return "\n".join(line for line in lines if re.search(r"python -m (?!venv|pytest|pip)", line))


def commands() -> list[tuple[str, str, Words]]:
    """Page, reason and words of every `python` command that a page has, those that make runs included."""
    found = [*blocks(), *in_text()]
    followed: list[tuple[str, str, str]] = []
    direct: list[tuple[str, str, Words]] = []
    for (page, reason, _), lines in zip(found, alike([body for *_, body in found]), strict=True):
        for words in lines:
            if words[0] == "make":
                followed.append((page, reason, recipe(words)))
            elif words[0].startswith("python"):
                direct.append((page, reason, words))
    for (page, reason, _), lines in zip(followed, alike([body for *_, body in followed]), strict=True):
        direct += [(page, reason, words) for words in lines]
    return direct


@pytest.fixture(scope="module")
def reader(tmp_path_factory) -> Path:
    """A folder as a reader's is who followed the pages: what earlier commands made, and the files that docs/extend.md has one write."""
    folder = tmp_path_factory.mktemp("reader")
    for name in ("outputs/scenes/records.jsonl", "outputs/scenes_eval/records.jsonl", "outputs/stage1/policy/config.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('{"model_type": "qwen3_vl"}\n')
    extend = (ROOT / "docs/extend.md").read_text()
    for head, body in re.findall(r"^```(?:python|yaml)\n# ([\w/.]+)\n(.*?)^```$", extend, flags=re.MULTILINE | re.DOTALL):
        (folder / head).parent.mkdir(parents=True, exist_ok=True)
        (folder / head).write_text(body)
    return folder


def problems(words: Words, reader: Path) -> list[str]:
    """What is wrong with the settings of `python -m focus.<command> ...`. A sweep is checked at its first point."""
    command = words[2].removeprefix("focus.")
    overrides = []
    for word in (word for word in words[3:] if not word.startswith("-")):
        [parsed] = OverridesParser.create().parse_overrides([readable(word, "--multirun" in words)])
        first = next(parsed.sweep_string_iterator()) if parsed.is_sweep_override() else None
        overrides.append(parsed.input_line if first is None else f"{parsed.get_key_element()}={first}")
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        composed = compose(command, [*overrides, f"hydra.searchpath=[file://{reader}/conf]"], return_hydra_config=True)
    cfg = OmegaConf.masked_copy(composed, [key for key in map(str, composed) if key != "hydra"])
    if "output" in cfg:
        cfg.output = "outputs/x"
    return problems_of(cfg, SCHEMAS[command])


def test_every_page_has_commands_that_are_checked():
    found = blocks()
    names = ("quickstart", "probe", "train-7b", "data", "extend")
    pages = {"README.md", "CONTRIBUTING.md", *(f"docs/{name}.md" for name in names), "experiments/paper/README.md"}
    assert {page for page, *_ in found} >= pages
    assert len(found) > 30 and len(in_text()) > 20


def test_a_block_that_calls_other_programs_than_make_and_python_says_why_it_is_not_run():
    for page, reason, body in blocks():
        called = set(re.findall(r"(?:^|[|&;]\s*)(?:[A-Z_]+=\S+\s+)*([\w./-]+)", body.replace("\\\n", " "), flags=re.MULTILINE))
        assert reason or all(Path(name).name in ("make", "python") for name in called), (page, body)


def test_the_settings_of_every_command_compose_and_nothing_is_wrong_with_them_but_what_the_page_says(reader, monkeypatch):
    monkeypatch.chdir(reader)
    monkeypatch.syspath_prepend(str(reader))
    monkeypatch.setenv("FOCUS_JUDGE_URL", "http://localhost:8000/v1")
    checked: dict[tuple[str, ...], list[str]] = {}
    for page, reason, words in commands():
        if reason and words[1:] == ["-"]:  # a script in the page itself
            continue
        assert words[1] == "-m", (page, words)
        module = words[2]
        if not module.startswith("focus.") or module.removeprefix("focus.") in UNHYDRATED:
            assert module in ("venv", "pytest") or find_spec(module), (page, words)
            continue
        if tuple(words) not in checked:
            checked[tuple(words)] = problems(words, reader)
        found = [each for each in checked[tuple(words)] if not (reason and any(re.match(lacking, each) for lacking in LACKING))]
        assert not found, f"{page}: {shlex.join(words)}: {found}"
    assert len(checked) > 50


def test_a_word_in_braces_without_quotes_would_be_two_words_to_bash():
    [bash] = [shell for shell in SHELLS if shell.endswith("bash")]
    word = "python +reward.terms.mine={_target_:a.B,weight:0.5}"
    assert len(words_of([word], bash)[0][0]) == 3
    assert words_of([f"python '{word.split()[1]}'"], bash) == [[["python", word.split()[1]]]]
